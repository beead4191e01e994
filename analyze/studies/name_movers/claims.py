"""The claims of the study of name movers, and what is measured at every checkpoint."""

import numpy as np
import xarray as xr

from headway.analyze.studies.heads import listed
from headway.analyze.studies.name_movers.fixed import fixed, key_vectors, query_vectors
from headway.analyze.studies.name_movers.options import PLACES
from headway.analyze.studies.name_movers.paths import looks_of, looks_with
from headway.analyze.studies.name_movers.sentences import (
    Chosen,
    Sentences,
    added_by_heads,
    attention_from_end,
    has_mlp,
    lead_of_io,
    logits_at_end,
)
from headway.analyze.studies.result import Claim, Claims
from headway.analyze.tools.copying import copying_score
from headway.models.convert import Model

# It takes back what the strongest name mover says if it takes off more than this share of it.
TAKES_BACK = 0.1


def claims(model: Model, sentences: Sentences, chosen: Chosen) -> Claims:
    """What name movers and a negative head would have to do, each statement with the number that decides it.

    Those about the head hold the head, and the name movers, that were chosen; a claim without a number (no name mover,
    none before the head) does not hold.
    """
    head, difference = chosen.head, lead_of_io(model, sentences)
    says, looks = added_by_heads(model, sentences), attention_from_end(model, sentences)
    copies, negative = (copying_score(model, sentences.names, sign=sign) for sign in (1, -1))
    mover = chosen.movers[0] if chosen.movers else None
    total = difference.mean().item()
    by_movers = sum(says.values[each].item() for each in chosen.movers)
    keys, queries = (fixed(model, sentences, chosen, side) for side in ("keys", "queries"))
    query = {name: keys.scores(each) for name, each in query_vectors(model, sentences, chosen).items()}
    key = {name: queries.scores(each) for name, each in key_vectors(model, sentences, chosen).items()}
    mine, other = ("IO", "S") if chosen.place == "io" else ("S", "IO")
    layer_0 = "with MLP 0" if has_mlp(model) else "without MLP 0"
    found, left = (key[f"effective embedding of {name} {layer_0}"] for name in (mine, other))
    here = looks_of(model, sentences, chosen)[chosen.place]
    patched = np.nan
    if chosen.earlier:
        patched = looks_with(model, sentences, chosen, chosen.earlier, "q")[chosen.place]
    W_U = query[f"W_U[{mine}]"]
    return (
        Claim(
            "It says the name that comes once",
            "share of sentences in which the logit of IO is above that of S",
            (difference > 0).float().mean().item(),
            0.9,
        ),
        Claim(
            "A head attends from the end to that name",
            "attention from END to IO, best head",
            looks["io"].max().item(),
            0.5,
        ),
        Claim(
            "Name movers say it",
            f"what {listed(chosen.movers)} add to logit(IO) - logit(S), of the whole",
            by_movers / total if mover is not None and total > 0 else np.nan,
            0.5,
        ),
        Claim(
            "They copy the names that they attend to",
            "copying score of the strongest name mover; names among the 5 largest logits",
            copies.values[mover].item() if mover is not None else np.nan,
            0.5,
        ),
        Claim(
            f"{head} takes some of it back",
            "what it takes from logit(IO) - logit(S), of what the strongest name mover adds",
            -says.values[head].item() / says.values[mover].item() if mover is not None else np.nan,
            TAKES_BACK,
        ),
        Claim(
            f"It suppresses the names that {head} attends to",
            "copying score with its output turned round",
            negative.values[head].item(),
            0.5,
        ),
        Claim(
            f"{head} attends to {chosen.there}",
            f"its attention from END to {chosen.there}",
            here,
            0.5,
        ),
        Claim(
            f"The unembedding of {mine} makes it look there, more than what the query really reads",
            f"score with W_U[{mine}] on the query side over the real score, mean",
            (W_U - query["real"]).mean().item(),
            0.0,
        ),
        Claim(
            "And that of other tokens does not",
            f"share of sentences in which W_U[{mine}] gives a larger score than W_U of a random token",
            (query["W_U[random]"] < W_U).float().mean().item(),
            0.9,
        ),
        Claim(
            f"What layer 0 makes of {mine} is what it finds",
            f"share of sentences in which the effective embedding of {mine} gives a larger score than that of {other}",
            (found > left).float().mean().item(),
            0.9,
        ),
        Claim(
            "Its queries read what name movers write",
            f"share of its attention to {chosen.there} that is lost when they come from sentences with other names",
            1 - patched / here,
            0.5,
        ),
    )


def measured(model: Model, sentences: Sentences) -> xr.Dataset:
    """Every measure of heads at one step."""
    logits, info = logits_at_end(model, sentences.batch), sentences.batch.info
    looks = attention_from_end(model, sentences)
    return xr.Dataset(
        {
            "logit_difference": ((), lead_of_io(model, sentences).mean().item()),
            "accuracy_at_end": ((), (logits.argmax(-1) == info["io_token"]).float().mean().item()),
            "logit_io_minus_s": added_by_heads(model, sentences),
            **{f"attention_to_{place}": looks[place] for place in PLACES},
            "copying": copying_score(model, sentences.names).drop_attrs(),
            "negative_copying": copying_score(model, sentences.names, sign=-1).drop_attrs(),
        }
    )
