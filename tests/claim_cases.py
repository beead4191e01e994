"""Tables of claims, each with a network in which it must hold and one in which it must fail."""

from collections.abc import Callable, Sequence

import numpy as np

from headway.analyze.studies.result import Claim, Claims

# The words that tell a claim from the others, a network that it holds of, and one that it does not hold of.
Cases = Sequence[tuple[str, Callable, Callable]]
# The words that tell a claim with premises from the others, and a network of which a premise does not hold.
Premises = Sequence[tuple[str, Callable]]


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


def check_premise(found: Claims, says: str) -> None:
    """Without its premise a claim is neither true nor false, although it has a number."""
    (named,) = {claim.says for claim in found if says in claim.says}
    claim = the_one(found, named)
    assert np.isnan(claim.number), claim
    assert not claim.holds


def check_all_premises_are_tested(claims: Claims, premises: Premises) -> None:
    """The table has each claim that names a premise, once."""
    having = [claim.says for claim in claims if "not measured unless: " in claim.measured]
    assert sorted(the_one(claims, says).says for says, _ in premises) == sorted(having)


def check_all_are_tested(claims: Claims, cases: Cases) -> None:
    """The table has each claim once."""
    assert {the_one(claims, says).says for says, _, _ in cases} == {claim.says for claim in claims}
