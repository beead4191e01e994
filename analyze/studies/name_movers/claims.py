"""The claims of the study of name movers, and what is measured at every checkpoint."""

import numpy as np
import xarray as xr

from headway.analyze.studies.heads import listed
from headway.analyze.studies.name_movers.fixed import fixed, key_vectors, query_vectors
from headway.analyze.studies.name_movers.options import PLACES
from headway.analyze.studies.name_movers.paths import attention_of_head, attention_with_paths
from headway.analyze.studies.name_movers.sentences import (
    WORTH,
    Chosen,
    Sentences,
    added_by_heads,
    attention_from_end,
    has_mlp,
    io_minus_s,
    logits_at_end,
    toward_io,
)
from headway.analyze.studies.result import Claim, Claims
from headway.analyze.tools.copying import copying_score
from headway.models.convert import Model

# The smallest share of what the strongest name mover adds that a negative name mover subtracts.
SUBTRACTS = 0.1


def claims(model: Model, sentences: Sentences, chosen: Chosen) -> Claims:
    """Return the claims on name movers and a negative name mover, with the numbers that decide them for a network.

    The head and the name movers are the chosen ones. A number is NaN without a name mover (before the head), or if a
    premise of its claim fails; then the claim does not hold.
    """
    head, difference = chosen.head, io_minus_s(model, sentences)
    added, attention = added_by_heads(model, sentences), attention_from_end(model, sentences)
    copies, negative = (copying_score(model, sentences.names, sign=sign) for sign in (1, -1))
    mover = chosen.movers[0] if chosen.movers else None
    total = difference.mean().item()
    by_movers = sum(added.values[each].item() for each in chosen.movers)
    keys, queries = (fixed(model, sentences, chosen, side) for side in ("keys", "queries"))
    query = {name: keys.scores(each) for name, each in query_vectors(model, sentences, chosen).items()}
    key = {name: queries.scores(each) for name, each in key_vectors(model, sentences, chosen).items()}
    mine, other = ("IO", "S") if chosen.place == "io" else ("S", "IO")
    layer_0 = "with MLP 0" if has_mlp(model) else "without MLP 0"
    found, left = (key[f"effective embedding of {name} {layer_0}"] for name in (mine, other))
    here = attention_of_head(model, sentences, chosen)[chosen.place]
    patched = np.nan
    if chosen.earlier:
        patched = attention_with_paths(model, sentences, chosen, chosen.earlier, "q")[chosen.place]
    W_U = query[f"W_U[{mine}]"]
    toward = toward_io(attention, sentences)
    moves = added.values[mover].item() / total if mover is not None and toward.values[mover] and total > 0 else np.nan
    predicts = Claim(
        "The network predicts the name that occurs once",
        "share of sentences in which the logit of IO is above that of S",
        (difference > 0).float().mean().item(),
        0.9,
    )
    has_mover = Claim(
        "A head moves the name",
        "share of logit(IO) - logit(S) from the strongest name mover, if it attends to IO more than to S1 and chance",
        moves,
        WORTH,
    )
    looks = Claim(
        f"{head} attends to IO more than to S1 and chance",
        "1 if it does, else 0",
        float(toward.values[head]),
        0.5,
    )
    attends = Claim(f"{head} attends to {chosen.there}", f"attention from END to {chosen.there}", here, 0.5)
    return (
        predicts,
        Claim(
            "A head attends from the end of the sentence to that name",
            "attention from END to IO, best head",
            attention["io"].max().item(),
            0.5,
        ),
        Claim(
            "Name movers write the logit difference directly",
            f"direct attribution: share of logit(IO) - logit(S) from {listed(chosen.movers)}",
            by_movers / total if mover is not None and total > 0 else np.nan,
            0.5,
        ).given(predicts, has_mover),
        Claim(
            "They copy names",
            "copying score of the strongest name mover: share of names among its top 5 logits",
            copies.values[mover].item() if mover is not None else np.nan,
            0.5,
        ).given(has_mover),
        Claim(
            f"{head} is a negative name mover",
            "direct attribution: what it subtracts from logit(IO) - logit(S), relative to the strongest name mover",
            -added.values[head].item() / added.values[mover].item() if mover is not None else np.nan,
            SUBTRACTS,
        ).given(has_mover, looks),
        Claim(
            f"{head} suppresses names", "copying score with its output negated", negative.values[head].item(), 0.5
        ).given(attends),
        attends,
        Claim(
            f"The unembedding of {mine} on the query side raises its score above the actual one",
            f"mean of the score with W_U[{mine}] on the query side minus the actual score",
            (W_U - query["real"]).mean().item(),
            0.0,
        ).given(attends),
        Claim(
            "The unembedding of other tokens gives it a lower score",
            f"share of sentences in which W_U[{mine}] gives a larger score than W_U of a random token",
            (query["W_U[random]"] < W_U).float().mean().item(),
            0.9,
        ).given(attends),
        Claim(
            "The unembedding of other names gives it a lower score",
            f"share of sentences in which W_U[{mine}] gives a larger score than W_U of a random name that is not in "
            "the sentence",
            (query["W_U[other name]"] < W_U).float().mean().item(),
            0.9,
        ).given(attends),
        Claim(
            f"Its keys read the effective embedding of {mine}",
            f"share of sentences in which the effective embedding of {mine} gives a larger score than that of {other}",
            (found > left).float().mean().item(),
            0.9,
        ).given(attends),
        Claim(
            "Its queries read the name movers",
            f"share of its attention to {chosen.there} that is lost if its queries read name movers on corrupted "
            "sentences",
            1 - patched / here,
            0.5,
        ).given(has_mover, attends),
    )


def measured(model: Model, sentences: Sentences) -> xr.Dataset:
    """Measures of heads at one checkpoint."""
    logits, info = logits_at_end(model, sentences.batch), sentences.batch.info
    attention = attention_from_end(model, sentences)
    return xr.Dataset(
        {
            "logit_difference": ((), io_minus_s(model, sentences).mean().item()),
            "accuracy_at_end": ((), (logits.argmax(-1) == info["io_token"]).float().mean().item()),
            "logit_io_minus_s": added_by_heads(model, sentences),
            **{f"attention_to_{place}": attention[place] for place in PLACES},
            "copying": copying_score(model, sentences.names).drop_attrs(),
            "negative_copying": copying_score(model, sentences.names, sign=-1).drop_attrs(),
        }
    )
