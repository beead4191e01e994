"""What formed, when, and why. MEASURES is the list of everything that can be scored.

A measure is a function ``(model, batch) -> xarray.Dataset`` with one entry here. Its variable of the function's own
name is the score. Beside it, where a null says what nothing-has-formed looks like, stand ``<name>_null``, ``_null_std``
and ``_z``, and ``_low`` and ``_high``, between which the whole family of heads or pairs lies in 99 % of cases.
"""

from headway.analyze.ablation import ablation, path_patch
from headway.analyze.applies import DoesNotApplyError
from headway.analyze.attention import (
    attention,
    attention_entropy,
    current_token,
    duplicate_token,
    first_token,
    induction_stripe,
    prefix_matching,
    previous_token,
)
from headway.analyze.attribution import direct_attribution, qk_attribution
from headway.analyze.circuits import (
    induction_eigenvalue,
    k_composition,
    ov_eigenvalue,
    ov_eigenvalue_residual,
    q_composition,
    qk_eigenvalue,
    qk_eigenvalue_residual,
    rank_95,
    rank_entropy,
    rank_stable,
    v_composition,
)
from headway.analyze.geometry import linearity, outside_embedding
from headway.analyze.loss import accuracy, in_context, loss
from headway.analyze.measure import FRESH, Measure, measure
from headway.analyze.nulls import LOG_ODDS
from headway.analyze.positions import position_pattern
from headway.analyze.surgery import ov_identity_surgery, qk_identity_surgery
from headway.analyze.vocabulary import k_composition_top1, ov_top1, ov_topk, token_pair_rank

_SHARE = "[0, 1]"
_LOSS = "nats, or squared error"
_RATIO, _BETWEEN = "[-1, 1]", "random heads between the network's own embeddings"
_TO_CEILING, _ROTATION = "[0, ceiling]", "random relative rotation, closed form"

MEASURES = (
    Measure(loss, range=_LOSS, null="the task's baselines"),
    Measure(accuracy, range=_SHARE, null="the task's baselines"),
    Measure(in_context, range=_LOSS, null="0"),
    Measure(attention, range=_SHARE),
    Measure(previous_token, range=_SHARE, null=FRESH, scale=LOG_ODDS),
    Measure(current_token, range=_SHARE, null=FRESH, scale=LOG_ODDS),
    Measure(first_token, range=_SHARE, null=FRESH, scale=LOG_ODDS),
    Measure(duplicate_token, range=_SHARE, null=FRESH, scale=LOG_ODDS),
    Measure(prefix_matching, range=_SHARE, null=FRESH, scale=LOG_ODDS),
    Measure(induction_stripe, range=_SHARE, null=FRESH, scale=LOG_ODDS, live=False),
    Measure(attention_entropy, range=_SHARE, null=FRESH, scale=LOG_ODDS, live=False),
    Measure(ov_eigenvalue, range=_RATIO, null=_BETWEEN),
    Measure(ov_eigenvalue_residual, range=_RATIO, null="random heads", live=False),
    Measure(qk_eigenvalue, range=_RATIO, null=_BETWEEN),
    Measure(qk_eigenvalue_residual, range=_RATIO, null="random heads", live=False),
    Measure(induction_eigenvalue, range=_RATIO, null=_BETWEEN, live=False),
    Measure(q_composition, range=_TO_CEILING, null=_ROTATION),
    Measure(k_composition, range=_TO_CEILING, null=_ROTATION),
    Measure(v_composition, range=_TO_CEILING, null=_ROTATION),
    Measure(rank_95, range="1 to d_head", null=FRESH, live=False),
    Measure(rank_entropy, range="1 to d_head", null=FRESH, live=False),
    Measure(rank_stable, range="1 to d_head", null=FRESH, live=False),
    Measure(ov_top1, range=_SHARE, null=FRESH, live=False),
    Measure(ov_topk, range=_SHARE, null=FRESH, live=False),
    Measure(token_pair_rank, range=_SHARE, null="uniform, mean .5", live=False),
    Measure(k_composition_top1, range=_SHARE, null=FRESH, live=False),
    Measure(position_pattern, range=_SHARE, null=FRESH, scale=LOG_ODDS, live=False),
    Measure(linearity, range=_SHARE, null="1 / (n - 1), random circuits", live=False),
    Measure(outside_embedding, range=_SHARE, null="sqrt((d_model - d_in) / d_model), random vectors", live=False),
    Measure(direct_attribution, range="logits, or shares of the target"),
    Measure(qk_attribution, range="attention scores, 0 or more", live=False),
    Measure(ablation, range=_LOSS, null="0, nothing needs it", live=False),
    Measure(path_patch, range=_LOSS, null="0, nothing depends on it", live=False),
    Measure(qk_identity_surgery, range=_LOSS, null="0, it does nothing else", live=False),
    Measure(ov_identity_surgery, range=_LOSS, null="0, it does nothing else", live=False),
)
LIVE = tuple(each for each in MEASURES if each.live)

__all__ = ["LIVE", "MEASURES", "DoesNotApplyError", "Measure", "measure"]
