"""Tables of claims, each with a network in which it must hold and one in which it must fail."""

from collections.abc import Callable, Sequence

import numpy as np

from headway.analyze.studies.result import Claim, Claims

# The words that tell a claim from the others, a network that it holds of, and one that it does not hold of.
Cases = Sequence[tuple[str, Callable, Callable]]


def the_one(claims: Claims, says: str) -> Claim:
    """The claim that says so."""
    found = [claim for claim in claims if says in claim.says]
    assert len(found) == 1, [claim.says for claim in claims]
    return found[0]


def check_case(holds: Claims, fails: Claims, says: str) -> None:
    """The claim holds in the one and fails in the other, by a number; there it may name other heads."""
    claim = the_one(holds, says)
    assert claim.holds, claim
    claim = fails[holds.index(claim)]
    assert not claim.holds, claim
    assert np.isfinite(claim.number), claim


def check_all_are_tested(claims: Claims, cases: Cases) -> None:
    """The table has each claim once."""
    assert {the_one(claims, says).says for says, _, _ in cases} == {claim.says for claim in claims}
