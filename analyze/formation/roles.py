"""Roles of heads: what each head attends to, at each checkpoint."""

import numpy as np
import xarray as xr

from headway.analyze.formation.dates import outside

# What a head can attend to, by the measure that scores it.
ROLES = {
    "previous_token": "previous token",
    "prefix_matching": "prefix matching",
    "duplicate_token": "duplicate token",
    "current_token": "current token",
    "first_token": "attention sink",
    "fixed_offset": "fixed offset",
    "mirror": "mirror",
}


def roles(scores: xr.Dataset) -> xr.Dataset:
    """Role of each head at each step: ``role`` [step, layer, head], one of ROLES or "", and ``role_share``.

    ``role`` is the attention score furthest on the way from chance to all attention, among those above their null
    band; ``role_share`` is how far, ``(score - chance) / (1 - chance)``, NaN for no role. A head may have several
    roles, of which this is one. A role says neither what the head reads there nor whether anything uses it.

    Raises:
        ValueError: scores without any of the measures in ROLES.
    """
    measured = [name for name in ROLES if f"{name}_high" in scores]
    if not measured:
        raise ValueError(f"roles: none of {', '.join(ROLES)} has been measured")
    axes = ("step", "layer", "head")
    shares = []
    for name in measured:
        chance = scores.variables[f"{name}_chance"]
        share = ((scores.variables[name] - chance) / (1 - chance)).transpose(*axes).values
        above = outside(scores, name).transpose(*axes).values == 1
        shares.append(np.where(above & (share > 0), share, np.nan))
    stacked = np.stack(shares)
    share = np.fmax.reduce(stacked)
    names = np.array(measured)[np.where(np.isnan(stacked), -1, stacked).argmax(0)]
    like = scores[measured[0]].transpose(*axes).drop_attrs()
    role = np.where(np.isnan(share), "", names)
    return xr.Dataset({"role": (axes, role), "role_share": (axes, share)}, like.coords)
