"""Attention of the head when paths from earlier heads are patched."""

from collections.abc import Sequence

import torch

from headway.analyze.network.forward import forward_pass, hooked_forward_pass
from headway.analyze.network.interventions import Input, heads_except, through_paths
from headway.analyze.studies.heads import listed
from headway.analyze.studies.name_movers.sentences import Chosen, Sentences, attention_from_end, chance_at_end
from headway.analyze.studies.result import Figure, Section, table
from headway.models.config import Head
from headway.models.convert import Model


def paths_section(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """Attention of the head when it reads, at one input, earlier heads on sentences with other names."""
    earlier = [head for head in heads_except(model) if head.layer < chosen.head.layer]
    cases: dict[str, tuple[Sequence[Head], Input]] = {}
    for input in ("q", "k"):
        if chosen.earlier:
            cases[f"{listed(chosen.earlier)} → {chosen.head}, {input}"] = (chosen.earlier, input)
        if earlier:
            cases[f"all earlier heads → {chosen.head}, {input}"] = (earlier, input)
    rows = {"none": attention_of_head(model, sentences, chosen)}
    for name, (senders, input) in cases.items():
        rows[name] = attention_with_paths(model, sentences, chosen, senders, input)
    none = "" if chosen.earlier else " No name mover is in an earlier layer."
    return Section(
        "Path patching",
        f"{chosen.head} reads, at one input (q or k), the output of earlier heads on the same sentences with three "
        f"other names; everything else is unchanged.{none}",
        (
            Figure(
                f"Attention of {chosen.head} from END",
                table(
                    "path, input",
                    rows,
                    **{f"to_{place}": [row[place] for row in rows.values()] for place in ("io", "s1", "s2", "bos")},
                    score=[row["score"] for row in rows.values()],
                ),
                "table",
                f"Means over the sentences. score: from END to {chosen.there}. Chance of attention: "
                f"{chance_at_end(sentences):.2g}.",
            ),
        ),
    )


def attention_of_head(model: Model, sentences: Sentences, chosen: Chosen) -> dict[str, float]:
    """Return the attention of the head from END, and its score."""
    attention = {place: each.values[chosen.head].item() for place, each in attention_from_end(model, sentences).items()}
    scores = forward_pass(model, sentences.batch).activations[f"blocks.{chosen.head.layer}.attn.hook_attn_scores"]
    row = sentences.at(scores[:, chosen.head.head], "end")
    info = sentences.batch.info
    return attention | {"score": row[torch.arange(len(row)), info[chosen.place]].mean().item()}


def attention_with_paths(
    model: Model, sentences: Sentences, chosen: Chosen, senders: Sequence[Head], input: Input
) -> dict[str, float]:
    """Return the same when the head reads other heads on corrupted sentences at one input."""
    hooks = through_paths(model, sentences.batch, senders, [chosen.head], input, sentences.corrupted)
    with hooked_forward_pass(model, hooks):
        return attention_of_head(model, sentences, chosen)
