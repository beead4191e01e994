"""MEASURES: the list of all measures.

A measure is a function ``(model, batch) -> xarray.Dataset`` with one entry here. The variable named after the function
is the score. A score with a null comes with ``<name>_null``, ``_null_std`` and ``_z``, and with ``_low`` and ``_high``,
the band that contains all heads or pairs of the null at once with probability 99 %.

The list names functions without importing them, so that listing measures and drawing stored scores start at once.
"""

from headway.analyze.measures.descriptions import LOSS, SHARE_OF_KNOWN
from headway.analyze.measures.measure import FRESH, Measure
from headway.analyze.measures.scales import LOG_ODDS

_PACKAGE = __name__
_SHARE = "[0, 1]"
_ATTENTION = "share of attention"
_TOKENS = "share of tokens"
_LOGITS = "share of the logits' variance"
_RATIO, _RANDOM_HEADS = "[-1, 1]", "random heads between the network's own embeddings"
_TO_CEILING, _ROTATION = "[0, ceiling]", "random relative rotation, closed form"

MEASURES = (
    Measure(f"{_PACKAGE}.loss:loss", range="0 or more", null="the task's baselines", units=LOSS),
    Measure(f"{_PACKAGE}.loss:accuracy", range=_SHARE, null="the task's baselines", units="share of positions"),
    Measure(f"{_PACKAGE}.loss:training_loss", range="0 or more", null="the task's baselines", units=LOSS),
    Measure(
        f"{_PACKAGE}.loss:training_accuracy", range=_SHARE, null="the task's baselines", units="share of positions"
    ),
    Measure(f"{_PACKAGE}.loss:in_context", range="any", null="0", units=LOSS),
    Measure(f"{_PACKAGE}.attention:attention", range=_SHARE, units=_ATTENTION),
    Measure(f"{_PACKAGE}.attention:previous_token", range=_SHARE, null=FRESH, scale=LOG_ODDS, units=_ATTENTION),
    Measure(f"{_PACKAGE}.attention:current_token", range=_SHARE, null=FRESH, scale=LOG_ODDS, units=_ATTENTION),
    Measure(f"{_PACKAGE}.attention:first_token", range=_SHARE, null=FRESH, scale=LOG_ODDS, units=_ATTENTION),
    Measure(f"{_PACKAGE}.attention:duplicate_token", range=_SHARE, null=FRESH, scale=LOG_ODDS, units=_ATTENTION),
    Measure(f"{_PACKAGE}.attention:prefix_matching", range=_SHARE, null=FRESH, scale=LOG_ODDS, units=_ATTENTION),
    Measure(
        f"{_PACKAGE}.attention:induction_stripe", range=_SHARE, null=FRESH, scale=LOG_ODDS, live=False, units=_ATTENTION
    ),
    Measure(
        f"{_PACKAGE}.attention:fixed_offset", range=_SHARE, null=FRESH, scale=LOG_ODDS, live=False, units=_ATTENTION
    ),
    Measure(f"{_PACKAGE}.attention:mirror", range=_SHARE, null=FRESH, scale=LOG_ODDS, live=False, units=_ATTENTION),
    Measure(f"{_PACKAGE}.attention:attention_entropy", range=_SHARE, null=FRESH, scale=LOG_ODDS, live=False),
    Measure(f"{_PACKAGE}.eigenvalues:ov_eigenvalue", range=_RATIO, null=_RANDOM_HEADS),
    Measure(f"{_PACKAGE}.eigenvalues:ov_eigenvalue_residual", range=_RATIO, null="random heads", live=False),
    Measure(f"{_PACKAGE}.eigenvalues:qk_eigenvalue", range=_RATIO, null=_RANDOM_HEADS),
    Measure(f"{_PACKAGE}.eigenvalues:qk_eigenvalue_residual", range=_RATIO, null="random heads", live=False),
    Measure(f"{_PACKAGE}.eigenvalues:induction_eigenvalue", range=_RATIO, null=_RANDOM_HEADS, live=False),
    Measure(f"{_PACKAGE}.composition:q_composition", range=_TO_CEILING, null=_ROTATION),
    Measure(f"{_PACKAGE}.composition:k_composition", range=_TO_CEILING, null=_ROTATION),
    Measure(f"{_PACKAGE}.composition:v_composition", range=_TO_CEILING, null=_ROTATION),
    Measure(f"{_PACKAGE}.ranks:rank_95", range="1 to d_head", null=FRESH, live=False, units="directions"),
    Measure(f"{_PACKAGE}.ranks:rank_entropy", range="1 to d_head", null=FRESH, live=False, units="directions"),
    Measure(f"{_PACKAGE}.ranks:rank_stable", range="1 to d_head", null=FRESH, live=False, units="directions"),
    Measure(f"{_PACKAGE}.vocabulary:ov_top1", range=_SHARE, null=FRESH, live=False, units=_TOKENS),
    Measure(f"{_PACKAGE}.vocabulary:ov_topk", range=_SHARE, null=FRESH, live=False, units=_TOKENS),
    Measure(f"{_PACKAGE}.vocabulary:token_pair_rank", range=_SHARE, null="uniform, mean .5", live=False),
    Measure(f"{_PACKAGE}.vocabulary:k_composition_top1", range=_SHARE, null=FRESH, live=False, units=_TOKENS),
    Measure(
        f"{_PACKAGE}.positions:position_pattern", range=_SHARE, null=FRESH, scale=LOG_ODDS, live=False, units=_ATTENTION
    ),
    Measure(f"{_PACKAGE}.geometry:linearity", range=_SHARE, null="1 / (n - 1), random circuits", live=False),
    Measure(
        f"{_PACKAGE}.geometry:outside_embedding",
        range=_SHARE,
        null="sqrt((d_model - d_in) / d_model), random vectors",
        live=False,
    ),
    Measure(f"{_PACKAGE}.attribution:direct_attribution", range="any", units="logits, or shares of the target"),
    Measure(f"{_PACKAGE}.attribution:qk_attribution", range="0 or more", live=False, units="attention scores"),
    Measure(f"{_PACKAGE}.effect:effect", range="any", null="0, no effect", units=SHARE_OF_KNOWN),
    Measure(f"{_PACKAGE}.ablation:ablation", range="any", null="0, no effect", live=False, units=LOSS),
    Measure(f"{_PACKAGE}.ablation:path_patch", range="any", null="0, no effect", live=False, units=LOSS),
    Measure(f"{_PACKAGE}.surgery:qk_identity_surgery", range="any", null="0, no effect", live=False, units=LOSS),
    Measure(f"{_PACKAGE}.surgery:ov_identity_surgery", range="any", null="0, no effect", live=False, units=LOSS),
    Measure(f"{_PACKAGE}.predictors:predictor_distance", range="0 or more", null="0, the predictor itself", units=LOSS),
    Measure(f"{_PACKAGE}.fourier:frequency_share", range=_SHARE, null="2 / (p² (p - 1)), random logits", units=_LOGITS),
    Measure(f"{_PACKAGE}.fourier:key_frequencies", range="0 to (p - 1) / 2", null="0", units="frequencies"),
    Measure(f"{_PACKAGE}.fourier:excluded_loss", range="0 or more", null="ln p, nothing known by heart", units=LOSS),
    Measure(f"{_PACKAGE}.fourier:restricted_loss", range="0 or more", null="ln p, no key frequency", units=LOSS),
)
LIVE = tuple(each for each in MEASURES if each.live)

__all__ = ["LIVE", "MEASURES", "Measure"]
