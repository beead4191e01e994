"""The name that the network predicts, and the heads that contribute to it."""

import numpy as np
import torch
import xarray as xr

from headway.analyze.network.axes import HEAD
from headway.analyze.studies.heads import listed
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.name_movers.sentences import (
    Chosen,
    Sentences,
    added_by_heads,
    added_to_difference,
    added_to_name,
    attention_from_end,
    head_at,
    io_minus_s,
    logits_at_end,
)
from headway.analyze.studies.result import Figure, Section, table
from headway.analyze.tools.copying import copying_score
from headway.models.convert import Model

# Number of heads at either end of the table.
ROWS = 10


def behaviour_section(network: LoadedModel, sentences: Sentences) -> Section:
    """Logit difference and accuracy, for both orders of names, and with three other names."""
    model, batch, info = network.folded, sentences.batch, sentences.batch.info
    # False: the sentences; True: corrupted, with three other names.
    logits = {False: logits_at_end(model, batch), True: logits_at_end(model, sentences.corrupted)}
    leads = {corrupted: io_minus_s(model, sentences, corrupted) for corrupted in logits}
    every = torch.ones(len(batch.inputs), dtype=torch.bool)
    rows = {
        "all": (False, every),
        "IO first (ABBA)": (False, info["order"] == 0),
        "S first (BABA)": (False, info["order"] == 1),
        "corrupted: three other names": (True, every),
    }
    found = [
        (logits[corrupted][some], leads[corrupted][some], info["io_token"][some]) for corrupted, some in rows.values()
    ]
    columns = {
        "sentences": [len(lead) for _, lead, _ in found],
        "logit_difference": [lead.mean().item() for _, lead, _ in found],
        "spread": [lead.std().item() for _, lead, _ in found],
        "io_above_s": [(lead > 0).float().mean().item() for _, lead, _ in found],
        "io_above_all": [(each.argmax(-1) == io).float().mean().item() for each, _, io in found],
        "probability_of_io": [each.softmax(-1).gather(1, io[:, None]).mean().item() for each, _, io in found],
    }
    text, few = network.tokens(batch), range(min(6, len(batch.inputs)))
    best = logits[False].argmax(-1)
    gap = "" if network.task is None else " "
    return Section(
        "Behaviour",
        "Sentences with two names, of which one (S) occurs twice; the answer at the last word (END) is the other one "
        "(IO).",
        (
            Figure(
                "Logit difference and accuracy",
                table("sentences of", rows, **columns),
                "table",
                "logit difference: logit(IO) - logit(S) at END. In corrupted sentences, nothing distinguishes IO from "
                "S.",
            ),
            Figure(
                "Examples",
                table(
                    "sentence",
                    [gap.join(text[i][1 : int(info["end"][i]) + 1]) for i in few],
                    io=[network.token(int(info["io_token"][i])) for i in few],
                    predicted=[network.token(int(best[i])) for i in few],
                    probability=[logits[False][i].softmax(-1)[info["io_token"][i]].item() for i in few],
                ),
                "table",
                "probability: of IO.",
            ),
        ),
    )


def finding_section(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """Name movers and negative name movers: direct attribution, attention from END, and copying scores."""
    added, attention = added_by_heads(model, sentences), attention_from_end(model, sentences)
    copies = {sign: copying_score(model, sentences.names, sign=sign) for sign in (1, -1)}
    scores = {
        "logit_io_minus_s": added,
        "attention_to_io": attention["io"],
        "attention_to_s1": attention["s1"],
        "attention_to_s2": attention["s2"],
        "copying": copies[1],
        "negative_copying": copies[-1],
    }
    order = np.argsort(-added.values, axis=None).tolist()
    ends = [*order[:ROWS], *order[-ROWS:]] if len(order) > 2 * ROWS else order
    heads = [head_at(i, model) for i in ends]
    logits = {name: added_to_name(model, sentences, f"{name}_token").mean("batch") for name in ("io", "s")}
    components = added_to_difference(model, sentences).mean("batch")
    by_name = {name: [each.sel(component=str(head)).item() for head in heads] for name, each in logits.items()}
    others = [name for name in components.component.values if not str(name).startswith("L")]
    return Section(
        "Name movers",
        f"Name movers: {listed(chosen.movers)}. The head that is explained below: {chosen.head}. A name mover attends "
        "from END to IO more than to S1 and raises its logit; a negative name mover lowers it.",
        (
            Figure(
                "Heads by their contribution to the logit difference",
                table(
                    "head",
                    map(str, heads),
                    logit_io=by_name["io"],
                    logit_s=by_name["s"],
                    **{name: [values.values[head] for head in heads] for name, values in scores.items()},
                ),
                "table",
                "logit_io, logit_s: direct attribution at END, minus the mean logit. copying: share of names that are "
                "among the top 5 of the logits that the head writes for their effective embedding (after layer 0); "
                f"chance is {5 / model.cfg.d_vocab_out:.2g}. negative copying: with the output of the head negated.",
            ),
            Figure("All heads", xr.Dataset({name: (HEAD, each.values) for name, each in scores.items()}), "maps"),
            Figure(
                "Contributions of other components",
                table("component", others, logit_io_minus_s=components.sel(component=others).values),
                "table",
                "All components, with the heads, add up to the logit difference, which is checked.",
            ),
        ),
    )
