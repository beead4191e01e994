"""Heads and their names, and the shapes of weights."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_networks import network

from headway.models.config import Head

# Those of a name, and others that Python reads or takes for digits.
DIGITS = "0173٣０²"


@given(layer=st.integers(0, 10**9), head=st.integers(0, 10**9))
def test_a_head_comes_back_from_its_name(layer: int, head: int):
    assert Head.named(str(Head(layer, head))) == Head(layer, head)


def test_names_tell_heads_apart():
    every = [Head(layer, head) for layer, head in product(range(23), range(13))]
    assert len({str(head) for head in every}) == len(every)
    assert [Head.named(str(head)) for head in every] == every


@pytest.mark.parametrize(
    "name",
    ["", "L0", "H7", "L0H", "LH", "L-1H0", "L0H-1", "l0h7", "L0.H7", "L0H7 ", " L0H7", "L0H7\n", "H0L7", "0.7",
     "L1H2H3", "L01H7", "L0H07", "L٣H0", "L²H0", "L0H1.0", "L+1H0", "(0, 7)"],
)  # fmt: skip
def test_what_no_head_is_called_is_refused(name: str):
    with pytest.raises(ValueError, match=r"^head: .* is not valid; it must be a name such as L0H7$") as error:
        Head.named(name)
    assert repr(name) in str(error.value)
    assert "\n" not in str(error.value)


@given(
    name=st.builds("L{}H{}".format, st.text(DIGITS, max_size=3), st.text(DIGITS, max_size=3))
    | st.text(f"LH-+_. \n{DIGITS}", max_size=7)
)
def test_every_name_is_that_of_its_head_or_refused(name: str):
    try:
        head = Head.named(name)
    except ValueError:
        return
    assert str(head) == name
    assert min(head) >= 0


@pytest.mark.parametrize("norm", ["LN", "LNPre", None])
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"attn_only": True},
        {"act_fn": "solu_ln"},
        {"positional_embedding_type": "none"},
        {"positional_embedding_type": "shortformer"},
        {"input_type": "vectors"},
    ],
    ids=str,
)
def test_the_shapes_of_weights_are_those_of_the_network(norm: str | None, kind: dict[str, Any]):
    model = network(**kind, normalization_type=norm)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    assert dict(model.cfg.weight_shapes()) == shapes
