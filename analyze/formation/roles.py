"""Roles of heads: what each attends to, at each checkpoint."""

import numpy as np
import xarray as xr

from headway.analyze.formation.dates import outside

# What a head can attend to, by the measure that says so.
ROLES = {
    "previous_token": "the token before",
    "prefix_matching": "what followed the current token before",
    "duplicate_token": "earlier copies of the current token",
    "current_token": "its own position",
    "first_token": "position 0, where heads rest",
}
# A head that is further than this on the way from chance to attending to one thing alone does mainly that.
MAINLY = 0.5


def roles(scores: xr.Dataset) -> xr.Dataset:
    """What each head attends to at each step: ``role`` [step, layer, head], one of ROLES, "" for none; ``role_share``.

    Of the attention scores that are above their band, the one furthest on the way from chance to all attention,
    ``(score - chance) / (1 - chance)``, which is ``role_share``; NaN for none. A head may do more than one thing, and
    what it attends to says neither what it reads there nor whether anything uses it.

    Raises:
        ValueError: scores without any of the measures in ROLES.
    """
    measured = [name for name in ROLES if f"{name}_high" in scores]
    if not measured:
        raise ValueError(f"roles: none of {', '.join(ROLES)} has been measured")
    shares = []
    for name in measured:
        chance = scores[f"{name}_chance"]
        share = (scores[name] - chance) / (1 - chance)
        shares.append(share.where((outside(scores, name) == 1) & (share > 0)))
    stacked = xr.concat(shares, dim="role").transpose("role", "step", "layer", "head")
    best = stacked.fillna(-1).argmax("role")
    share = stacked.max("role")
    names = np.array(measured)[best.values]
    return xr.Dataset({"role": (share.dims, np.where(share.notnull(), names, "")), "role_share": share})
