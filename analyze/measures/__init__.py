"""MEASURES: everything that can be scored.

A measure is a function ``(model, batch) -> xarray.Dataset`` with one entry here. Its variable of the function's own
name is the score. Beside it, where there is a null, stand ``<name>_null``, ``_null_std`` and ``_z``, and ``_low`` and
``_high``, the band that holds the whole family of heads or pairs in 99 % of cases.

The list names functions and imports none of them, so that listing measures and drawing stored scores start at once.
"""

from headway.analyze.measures.descriptions import LOSS
from headway.analyze.measures.measure import FRESH, Measure
from headway.analyze.measures.scales import LOG_ODDS

_HERE = __name__
_SHARE = "[0, 1]"
_ATTENTION = "share of attention"
_TOKENS = "share of tokens"
_RATIO, _BETWEEN = "[-1, 1]", "random heads between the network's own embeddings"
_TO_CEILING, _ROTATION = "[0, ceiling]", "random relative rotation, closed form"

MEASURES = (
    Measure(f"{_HERE}.loss:loss", range="0 or more", null="the task's baselines", units=LOSS),
    Measure(f"{_HERE}.loss:accuracy", range=_SHARE, null="the task's baselines", units="share of positions"),
    Measure(f"{_HERE}.loss:in_context", range="any", null="0", units=LOSS),
    Measure(f"{_HERE}.attention:attention", range=_SHARE, units=_ATTENTION),
    Measure(f"{_HERE}.attention:previous_token", range=_SHARE, null=FRESH, scale=LOG_ODDS, units=_ATTENTION),
    Measure(f"{_HERE}.attention:current_token", range=_SHARE, null=FRESH, scale=LOG_ODDS, units=_ATTENTION),
    Measure(f"{_HERE}.attention:first_token", range=_SHARE, null=FRESH, scale=LOG_ODDS, units=_ATTENTION),
    Measure(f"{_HERE}.attention:duplicate_token", range=_SHARE, null=FRESH, scale=LOG_ODDS, units=_ATTENTION),
    Measure(f"{_HERE}.attention:prefix_matching", range=_SHARE, null=FRESH, scale=LOG_ODDS, units=_ATTENTION),
    Measure(
        f"{_HERE}.attention:induction_stripe", range=_SHARE, null=FRESH, scale=LOG_ODDS, live=False, units=_ATTENTION
    ),
    Measure(f"{_HERE}.attention:attention_entropy", range=_SHARE, null=FRESH, scale=LOG_ODDS, live=False),
    Measure(f"{_HERE}.eigenvalues:ov_eigenvalue", range=_RATIO, null=_BETWEEN),
    Measure(f"{_HERE}.eigenvalues:ov_eigenvalue_residual", range=_RATIO, null="random heads", live=False),
    Measure(f"{_HERE}.eigenvalues:qk_eigenvalue", range=_RATIO, null=_BETWEEN),
    Measure(f"{_HERE}.eigenvalues:qk_eigenvalue_residual", range=_RATIO, null="random heads", live=False),
    Measure(f"{_HERE}.eigenvalues:induction_eigenvalue", range=_RATIO, null=_BETWEEN, live=False),
    Measure(f"{_HERE}.composition:q_composition", range=_TO_CEILING, null=_ROTATION),
    Measure(f"{_HERE}.composition:k_composition", range=_TO_CEILING, null=_ROTATION),
    Measure(f"{_HERE}.composition:v_composition", range=_TO_CEILING, null=_ROTATION),
    Measure(f"{_HERE}.ranks:rank_95", range="1 to d_head", null=FRESH, live=False, units="directions"),
    Measure(f"{_HERE}.ranks:rank_entropy", range="1 to d_head", null=FRESH, live=False, units="directions"),
    Measure(f"{_HERE}.ranks:rank_stable", range="1 to d_head", null=FRESH, live=False, units="directions"),
    Measure(f"{_HERE}.vocabulary:ov_top1", range=_SHARE, null=FRESH, live=False, units=_TOKENS),
    Measure(f"{_HERE}.vocabulary:ov_topk", range=_SHARE, null=FRESH, live=False, units=_TOKENS),
    Measure(f"{_HERE}.vocabulary:token_pair_rank", range=_SHARE, null="uniform, mean .5", live=False),
    Measure(f"{_HERE}.vocabulary:k_composition_top1", range=_SHARE, null=FRESH, live=False, units=_TOKENS),
    Measure(
        f"{_HERE}.positions:position_pattern", range=_SHARE, null=FRESH, scale=LOG_ODDS, live=False, units=_ATTENTION
    ),
    Measure(f"{_HERE}.geometry:linearity", range=_SHARE, null="1 / (n - 1), random circuits", live=False),
    Measure(
        f"{_HERE}.geometry:outside_embedding",
        range=_SHARE,
        null="sqrt((d_model - d_in) / d_model), random vectors",
        live=False,
    ),
    Measure(f"{_HERE}.attribution:direct_attribution", range="any", units="logits, or shares of the target"),
    Measure(f"{_HERE}.attribution:qk_attribution", range="0 or more", live=False, units="attention scores"),
    Measure(f"{_HERE}.ablation:ablation", range="any", null="0, nothing needs it", live=False, units=LOSS),
    Measure(f"{_HERE}.ablation:path_patch", range="any", null="0, nothing depends on it", live=False, units=LOSS),
    Measure(
        f"{_HERE}.surgery:qk_identity_surgery", range="any", null="0, it does nothing else", live=False, units=LOSS
    ),
    Measure(
        f"{_HERE}.surgery:ov_identity_surgery", range="any", null="0, it does nothing else", live=False, units=LOSS
    ),
)
LIVE = tuple(each for each in MEASURES if each.live)

__all__ = ["LIVE", "MEASURES", "Measure"]
