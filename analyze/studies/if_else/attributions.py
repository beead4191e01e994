"""From which tokens, through which heads, the logit of `` else`` comes."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from headway.analyze.measures.attribution import attribute_outputs
from headway.analyze.network.interventions import heads_except
from headway.analyze.studies.if_else import subcircuits
from headway.analyze.studies.if_else.anomalies import to_else
from headway.analyze.studies.if_else.prompts import Prompts
from headway.analyze.studies.if_else.scores import key_margins
from headway.analyze.studies.result import Figure, Section, table
from headway.models.config import Head
from headway.models.convert import Model

# So many components have a row of their own.
ROWS = 12


def attributions_section(model: Model, prompts: Prompts, heads: Sequence[Head]) -> Section:
    """From which tokens, through which heads, the logit of `` else`` comes."""
    kinds = prompts.kinds
    batch = prompts.batch
    wanted = batch._replace(targets=torch.full_like(batch.targets, prompts.else_token))
    terms = attribute_outputs(model, wanted, over_mean=True).isel(pos=prompts.end)
    order = np.argsort(-np.abs(terms.values[:, prompts.made.numpy()].mean(1)))[:ROWS]
    by_source = to_else(model, prompts)
    places = by_place(by_source, prompts)
    distances = list(range(-prompts.end, 1))
    named = [str(head) for head in heads]
    mean = {kind: by_source.sel(head=named).values[:, which.numpy()].mean(1) for kind, which in kinds.items()}
    return Section(
        "Attributions",
        "The logit of ' else' over the mean logit is a sum: of what each component adds, and for heads of what they "
        "carry over from each position, attention times what its value says about ' else'.",
        (
            Figure(
                "What each component adds",
                table(
                    "component",
                    terms.component.values[order],
                    **{kind: terms.values[order][:, which.numpy()].mean(1) for kind, which in kinds.items()},
                ),
                "table",
                "Largest first; all of them add up to the logit, which is checked.",
            ),
            Figure(
                "Where heads take it from",
                table(
                    "prompts",
                    kinds,
                    **{
                        place: [values[which].mean().item() for which in kinds.values()]
                        for place, values in places.items()
                    },
                    from_if=[share_from_if(places, which) for which in kinds.values()],
                ),
                "table",
                "Of all heads together; the first five add up to what they add. from if: the share of IF.",
            ),
            Figure(
                "By head and distance",
                xr.Dataset(
                    {"adds": (("prompts", "head", "source"), np.stack(list(mean.values())))},
                    {"prompts": list(mean), "head": named, "source": distances},
                ),
                "maps",
                "Means over the prompts, whose ' if' stands at different distances. source: 0 is END, the first BOS.",
            ),
            key_margins(model, prompts, heads),
        ),
    )


def added_by_heads(model: Model, prompts: Prompts) -> dict[Head, float]:
    """What each head adds to the logit of `` else`` at END, over the mean logit; mean over the prompts."""
    added = to_else(model, prompts).sum("source").mean("prompt").values
    return dict(zip(heads_except(model), added.tolist(), strict=True))


def most_first(model: Model, prompts: Prompts) -> list[Head]:
    """All heads, those first that add most to the logit of `` else``."""
    added = added_by_heads(model, prompts)
    return sorted(added, key=lambda head: -added[head])


def by_place(by_source: xr.DataArray, prompts: Prompts) -> dict[str, torch.Tensor]:
    """What all heads together carry over from BOS, before IF, IF, between IF and END, and END: [prompt] each."""
    values = torch.from_numpy(by_source.sum("head").values)
    at, position = prompts.batch.info["if_position"][:, None], torch.arange(values.shape[1])
    where = {
        "BOS": position == 0,
        "before_if": (position > 0) & (position < at),
        "if": position == at,
        "condition": (position > at) & (position < prompts.end),
        "END": position == prompts.end,
    }
    return {name: values.where(which, 0).sum(1) for name, which in where.items()}


def share_from_if(places: dict[str, torch.Tensor], which: torch.Tensor) -> float:
    """The share that comes from IF of what the heads add to these prompts; NaN if they add next to nothing."""
    whole = sum(values[which].mean().item() for values in places.values())
    return places["if"][which].mean().item() / whole if whole >= subcircuits.LEAST else np.nan
