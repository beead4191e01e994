"""Programs that Tracr compiled: our class computes them, and the circuits that their labels state are found."""

import math
import re
from collections import defaultdict
from functools import cache

import pytest
import torch
from tracr_programs import (
    FIXTURES,
    PROGRAMS,
    Program,
    Reads,
    Use,
    auroc,
    heads_of,
    telling_edges,
    used_edges,
    used_nodes,
)
from tracr_table import CIRCUITS, COLUMNS, batch_of, documented, row

from headway.analyze.circuits.find import find_circuit
from headway.analyze.circuits.replacement import Replacement
from headway.data.task import masked_mean

program = cache(Program.load)
every_program = pytest.mark.parametrize("name", PROGRAMS)


def variables(name: str, directions: torch.Tensor) -> set[str]:
    """The variables of a program to which directions of its residual stream belong."""
    labels = program(name).labels
    return {labels[place].split(":")[0] for place in directions.nonzero().flatten().tolist() if place < len(labels)}


def without_numbers(variables: set[str]) -> set[str]:
    """Variables without the numbers that Tracr appends to their names."""
    return {re.sub(r"_[0-9]+(?=$|_selector_width)", "", variable) for variable in variables}


# What Tracr computes


def test_there_are_twenty_programs_in_small_files() -> None:
    files = [path.stat().st_size for path in FIXTURES.glob("*.safetensors")]
    assert len(files) >= 20
    assert max(files) < 100_000
    assert sum(files) < 1_500_000


@every_program
@torch.no_grad()
def test_our_class_computes_what_tracr_computes(name: str) -> None:
    compiled, tensors = program(name).compiled, program(name).tensors
    output = compiled(tensors["inputs"].long())
    # The largest numbers are lengths up to 5, and 2e-6 is four units in the last place there.
    torch.testing.assert_close(output, tensors["outputs"], atol=2e-6, rtol=0)
    # Distractors change no bit.
    assert torch.equal(program(name).model(tensors["inputs"].long()), output)
    if program(name).categorical:
        counts = tensors["targets"] >= 0
        assert counts.any()
        assert torch.equal(output.argmax(-1)[counts], tensors["targets"].long()[counts])
        assert torch.equal(tensors["decoded"][counts], tensors["targets"][counts])
    else:
        counts = ~tensors["targets"].isnan()
        torch.testing.assert_close(output[..., 0][counts], tensors["targets"][counts], atol=2e-6, rtol=0)


@every_program
def test_a_task_draws_each_sequence_once_and_the_network_answers_it(name: str) -> None:
    model, task = program(name).model, program(name).task
    batch = task.evaluation_batch(seed=0, batch_size=31)
    assert len(batch.inputs.unique(dim=0)) == 31
    assert not batch.mask[:, 0].any()  # BOS
    padding = batch.inputs == program(name).tokens.index("compiler_pad")
    assert not (batch.mask & padding).any()
    assert padding.any() == ("length" in name or "reverse" in name or "dyck" in name)
    with torch.no_grad():
        assert masked_mean(task.loss(model(batch.inputs), batch), batch.mask) < 1e-3


# What the labels state


@every_program
def test_every_variable_is_written_by_one_node(name: str) -> None:
    model = program(name).compiled
    writers = defaultdict(set)
    for node, directions in Reads.of(model).writes.items():
        for variable in variables(name, directions):
            writers[variable].add(node)
    assert writers.pop("tokens") == {"embed"}
    assert writers.pop("indices") == {"pos_embed"}
    assert writers.pop("one") == {"embed"}
    for variable, nodes in writers.items():
        # To count, a head attends to BOS, and the MLP of its layer takes away what the head writes at BOS.
        assert len(nodes) == 1 + variable.endswith("_selector_width_attn_output")


@every_program
def test_the_used_heads_are_those_that_tracr_compiled(name: str) -> None:
    model = program(name).compiled
    compiled = {str(head) for head in heads_of(model) if model.W_O[head].any()}
    mlps = {f"MLP{layer}" for layer, block in enumerate(model.blocks) if block.mlp.W_out.any()}
    assert used_nodes(model) == compiled | mlps


@every_program
def test_no_distractor_is_used(name: str) -> None:
    compiled, model = program(name).compiled, program(name).model
    used = used_edges(compiled)
    with_distractors = used_edges(model)
    assert len(with_distractors) == len(used)
    # The variables that pass from node to node are the same ones; only the numbers of heads differ.
    passed = sorted(sorted(variables(name, directions)) for directions in used.values())
    assert sorted(sorted(variables(name, directions)) for directions in with_distractors.values()) == passed
    heads = set(map(str, heads_of(model)))
    assert 0 < len(used_nodes(model) & heads) < len(heads)
    assert not model.W_U[-1].any()


def test_distractors_look_like_used_heads() -> None:
    model = program("reverse_5").model
    _, cache = model.run_with_cache(batch_of(program("reverse_5")).inputs)
    heads = list(heads_of(model))
    used = [head for head in heads if str(head) in used_nodes(model)]
    kinds = defaultdict(int)
    for head in set(heads).difference(used):
        looks_used = any(
            head.layer == other.layer
            and torch.equal(cache["pattern", head.layer][:, head.head], cache["pattern", other.layer][:, other.head])
            for other in used
        )
        kinds[looks_used, bool(model.W_O[head].any())] += 1
        assert not model.W_O[head][:, : len(program("reverse_5").labels)].any()
    # In the two layers with a used head: a copy of it that writes nothing, one that writes, and a random head.
    assert kinds[True, False] == kinds[True, True] == 2
    assert kinds[False, True] >= 2


def test_reverse_is_the_circuit_of_its_program() -> None:
    """A head and an MLP count the tokens; two MLPs compute length - indices - 1; a head takes the token from there."""
    used = used_edges(program("reverse_5").compiled)
    edges = {edge: without_numbers(variables("reverse_5", directions)) for edge, directions in used.items()}
    from_embed = {edge: edges.pop(edge) for edge in list(edges) if edge.source == "embed"}
    assert edges == {
        Use("L0H0", "MLP0", "in"): {"length_selector_width_attn_output"},
        Use("MLP0", "MLP1", "in"): {"length"},
        Use("pos_embed", "MLP1", "in"): {"indices"},
        Use("MLP1", "MLP2", "in"): {"opp_idx"},
        Use("MLP2", "L3H0", "q"): {"opp_idx-1"},
        Use("pos_embed", "L3H0", "k"): {"indices"},
        Use("L3H0", "output", "in"): {"reverse"},
    }
    assert from_embed[Use("embed", "L3H0", "v")] == {"tokens"}


def test_an_edge_that_carries_the_same_in_every_sequence_tells_nothing() -> None:
    # Each query of count asks for the letter a, whatever its own token is; each query of hist asks for its token.
    for name, told in (("count_a_5", False), ("hist_5", True)):
        model = program(name).compiled
        assert Use("embed", "L0H0", "q") in used_edges(model)
        telling = telling_edges(model, batch_of(program(name)))
        assert (Use("embed", "L0H0", "q") in telling) == told
        assert {Use("embed", "L0H0", "k"), Use("L0H0", "MLP0", "in"), Use("MLP0", "output", "in")} <= telling
    model = program("frac_prevs_5").compiled
    from_positions = {edge for edge in used_edges(model) if edge.source == "pos_embed"}
    assert {edge.input for edge in from_positions} == {"q", "k"}
    assert not from_positions & telling_edges(model, batch_of(program("frac_prevs_5")))


# Found circuits


def test_auroc_counts_ties_half() -> None:
    scores = {"a": 3.0, "b": 2.0, "c": 2.0, "d": 1.0}
    assert auroc(scores, {"a"}) == 1
    assert auroc(scores, {"d"}) == 0
    assert auroc(scores, {"b"}) == pytest.approx((0 + 0.5 + 1) / 3)
    assert auroc(scores | {"a": math.nan}, {"a"}) == 0


@pytest.mark.parametrize("name", ["count_a_5", "detect_ab_5", "frac_prevs_5", "sort_unique_5"])
@pytest.mark.parametrize("replacement", CIRCUITS)
def test_the_edges_that_are_found_are_those_that_the_labels_state(name: str, replacement: Replacement) -> None:
    model, batch = program(name).model, batch_of(program(name))
    found = find_circuit(model, batch, replacement=replacement, n_controls=1, n_orders=1)
    assert set(map(str, found.edges)) == set(map(str, telling_edges(model, batch)))


@pytest.mark.parametrize("name", ["count_a_5", "hist_7", "length_5"])
def test_the_table_of_the_documentation_is_made_again(name: str) -> None:
    (line,) = (line for line in documented() if f"| {name} |" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")] == row(name)


def test_every_found_circuit_tells_used_heads_from_others() -> None:
    assert len(documented()) == len(PROGRAMS)
    for line in documented():
        cells = dict(zip(COLUMNS, [cell.strip() for cell in line.strip("|").split("|")], strict=True))
        for column in COLUMNS:
            if column.startswith("circuit"):
                assert cells[column] == "1.00", line
