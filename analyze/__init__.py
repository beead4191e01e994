"""What formed, when, and why. MEASURES is the list of everything that can be scored.

A measure is a function ``(model, batch) -> xarray.Dataset`` with one line here. Its variable of the function's own name
is the score; ``<name>_null``, ``<name>_null_std`` and ``<name>_z`` beside it say what nothing-has-formed looks like.
"""

from headway.analyze.attention import (
    DoesNotApplyError,
    attention,
    current_token,
    first_token,
    prefix_matching,
    previous_token,
)
from headway.analyze.circuits import k_composition, ov_eigenvalue, ov_eigenvalue_residual, q_composition, v_composition
from headway.analyze.loss import loss
from headway.analyze.measure import Measure, measure

MEASURES = (
    Measure(loss),
    Measure(attention),
    Measure(previous_token, fresh_null=True),
    Measure(current_token, fresh_null=True),
    Measure(first_token, fresh_null=True),
    Measure(prefix_matching, fresh_null=True),
    Measure(ov_eigenvalue),
    Measure(ov_eigenvalue_residual),
    Measure(q_composition),
    Measure(k_composition),
    Measure(v_composition),
)

__all__ = ["MEASURES", "DoesNotApplyError", "Measure", "measure"]
