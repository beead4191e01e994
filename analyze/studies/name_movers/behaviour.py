"""Which name the network says, and which heads say it."""

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
    lead_of_io,
    logits_at_end,
)
from headway.analyze.studies.result import Figure, Section, table
from headway.analyze.tools.copying import copying_score
from headway.models.convert import Model

# So many heads have a row of their own at either end.
ROWS = 10


def behaviour_section(network: LoadedModel, sentences: Sentences) -> Section:
    """Which name is said, in both orders, and where other names stand in the place of these."""
    model, batch, info = network.folded, sentences.batch, sentences.batch.info
    # By whether other names stand in the place of these.
    logits = {False: logits_at_end(model, batch), True: logits_at_end(model, sentences.corrupted)}
    leads = {corrupted: lead_of_io(model, sentences, corrupted) for corrupted in logits}
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
        "Sentences with two names, one of which (S) comes again; the answer at their last word (END) is the other, IO.",
        (
            Figure(
                "Which name is said",
                table("sentences of", rows, **columns),
                "table",
                "logit difference: of IO and S at END. With other names in the sentence nothing tells IO from S.",
            ),
            Figure(
                "Some sentences",
                table(
                    "sentence",
                    [gap.join(text[i][1 : int(info["end"][i]) + 1]) for i in few],
                    io=[network.token(int(info["io_token"][i])) for i in few],
                    said=[network.token(int(best[i])) for i in few],
                    probability=[logits[False][i].softmax(-1)[info["io_token"][i]].item() for i in few],
                ),
                "table",
                "The probability is that of IO.",
            ),
        ),
    )


def finding_section(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """Name movers and negative ones: what heads add to the right name, where they look, and what they copy."""
    says, looks = added_by_heads(model, sentences), attention_from_end(model, sentences)
    copies = {sign: copying_score(model, sentences.names, sign=sign) for sign in (1, -1)}
    scores = {
        "logit_io_minus_s": says,
        "attention_to_io": looks["io"],
        "attention_to_s1": looks["s1"],
        "attention_to_s2": looks["s2"],
        "copying": copies[1],
        "negative_copying": copies[-1],
    }
    order = np.argsort(-says.values, axis=None).tolist()
    ends = [*order[:ROWS], *order[-ROWS:]] if len(order) > 2 * ROWS else order
    heads = [head_at(i, model) for i in ends]
    logits = {name: added_to_name(model, sentences, f"{name}_token").mean("batch") for name in ("io", "s")}
    components = added_to_difference(model, sentences).mean("batch")
    apart = {name: [each.sel(component=str(head)).item() for head in heads] for name, each in logits.items()}
    others = [name for name in components.component.values if not str(name).startswith("L")]
    return Section(
        "Finding the heads",
        f"Name movers: {listed(chosen.movers)}. The head that is explained below: {chosen.head}. A name mover attends "
        "from END to IO more than to S1 and says it; a negative one takes some of that away.",
        (
            Figure(
                "Heads by what they add to the right name",
                table(
                    "head",
                    map(str, heads),
                    logit_io=apart["io"],
                    logit_s=apart["s"],
                    **{name: [values.values[head] for head in heads] for name, values in scores.items()},
                ),
                "table",
                "logit_io, logit_s: direct attribution at END over the mean of all logits. copying: share of the names "
                "that are among the 5 largest logits of what the head makes of them, through what layer 0 makes of "
                f"them; chance is {5 / model.cfg.d_vocab_out:.2g}. negative: with the head's output turned round.",
            ),
            Figure("All heads", xr.Dataset({name: (HEAD, each.values) for name, each in scores.items()}), "maps"),
            Figure(
                "What else adds to the right name",
                table("component", others, logit_io_minus_s=components.sel(component=others).values),
                "table",
                "All components, with the heads, add up to the logit difference, which is checked.",
            ),
        ),
    )
