"""Direct attribution of the logit of `` else``: by component, by head and by source position."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from headway.analyze.measures.attribution import attribute_outputs
from headway.analyze.network.interventions import heads_except
from headway.analyze.studies.if_else import subcircuits
from headway.analyze.studies.if_else.anomalies import else_attributions
from headway.analyze.studies.if_else.prompts import Prompts
from headway.analyze.studies.if_else.scores import key_margins
from headway.analyze.studies.result import Figure, Section, table
from headway.models.config import Head
from headway.models.convert import Model

# Components in the table.
ROWS = 12


def attributions_section(model: Model, prompts: Prompts, heads: Sequence[Head]) -> Section:
    """Contributions to the logit of `` else``, by component, and of heads by source position."""
    kinds = prompts.kinds
    batch = prompts.batch
    wanted = batch._replace(targets=torch.full_like(batch.targets, prompts.else_token))
    terms = attribute_outputs(model, wanted, over_mean=True).isel(pos=prompts.end)
    order = np.argsort(-np.abs(terms.values[:, prompts.made.numpy()].mean(1)))[:ROWS]
    by_source = else_attributions(model, prompts)
    places = by_source_part(by_source, prompts)
    distances = list(range(-prompts.end, 1))
    named = [str(head) for head in heads]
    mean = {kind: by_source.sel(head=named).values[:, which.numpy()].mean(1) for kind, which in kinds.items()}
    return Section(
        "Attributions",
        "The logit of ' else' minus the mean logit is the sum of the contributions of all components. The "
        "contribution of a head is the sum over source positions of attention times the contribution of the value "
        "there.",
        (
            Figure(
                "By component",
                table(
                    "component",
                    terms.component.values[order],
                    **{kind: terms.values[order][:, which.numpy()].mean(1) for kind, which in kinds.items()},
                ),
                "table",
                "Largest first; all components add up to the logit, which is checked.",
            ),
            Figure(
                "By source position",
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
                "All heads together; the first five columns add up to their contribution. from if: the share of IF.",
            ),
            Figure(
                "By head and distance",
                xr.Dataset(
                    {"adds": (("prompts", "head", "source"), np.stack(list(mean.values())))},
                    {"prompts": list(mean), "head": named, "source": distances},
                ),
                "maps",
                "Means over the prompts; ' if' is at different distances. source: distance from END (0); the first is "
                "BOS.",
            ),
            key_margins(model, prompts, heads),
        ),
    )


def added_by_heads(model: Model, prompts: Prompts) -> dict[Head, float]:
    """Return the mean contribution of each head to the logit of `` else`` minus the mean logit at END."""
    added = else_attributions(model, prompts).sum("source").mean("prompt").values
    return dict(zip(heads_except(model), added.tolist(), strict=True))


def heads_by_contribution(model: Model, prompts: Prompts) -> list[Head]:
    """Return all heads, sorted by their contribution to the logit of `` else``."""
    added = added_by_heads(model, prompts)
    return sorted(added, key=lambda head: -added[head])


def by_source_part(by_source: xr.DataArray, prompts: Prompts) -> dict[str, torch.Tensor]:
    """Return the contributions [prompt] of all heads from BOS, before IF, IF, between IF and END, and END."""
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
    """Return the share from IF of the contribution of all heads; NaN if that is below LEAST."""
    whole = sum(values[which].mean().item() for values in places.values())
    return places["if"][which].mean().item() / whole if whole >= subcircuits.LEAST else np.nan
