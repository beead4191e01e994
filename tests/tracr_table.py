"""The table of docs/results.md: how well a measure, or a found circuit, tells used heads of compiled programs.

``python tests/tracr_table.py`` prints the table, and with ``--check`` compares it with the one in docs/results.md. Each
number is the probability that a head that the program uses scores above one that it does not (AUROC): .5 is a guess.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tracr_programs import PROGRAMS, Program, auroc, heads_of, telling_edges, used_edges, used_nodes

from headway.analyze.circuits.find import find_circuit
from headway.analyze.circuits.replacement import Replacement
from headway.analyze.measures.ablation import ablation, path_patch
from headway.analyze.measures.attention import (
    current_token,
    duplicate_token,
    first_token,
    prefix_matching,
    previous_token,
)
from headway.analyze.measures.attribution import direct_attribution
from headway.analyze.measures.composition import k_composition, q_composition, v_composition
from headway.analyze.measures.eigenvalues import ov_eigenvalue_residual, qk_eigenvalue_residual
from headway.analyze.network.requirements import DoesNotApplyError
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.hooked_transformer import HookedTransformer

RESULTS = Path(__file__).parent.parent / "docs" / "results.md"
SEQUENCES, SEED = 48, 0
Scores = dict[str, float]


def of_heads(scores: xr.DataArray) -> Scores:
    """Scores [layer, head] by the name of the head, without what rounding leaves of nothing."""
    return {
        str(Head(layer, head)): round(scores.sel(layer=layer, head=head).item(), 6)
        for layer in range(scores.sizes["layer"])
        for head in range(scores.sizes["head"])
    }


def strongest(pairs: xr.DataArray) -> Scores:
    """The strongest score of a head in any pair with another, before or after it."""
    others = [dim for dim in pairs.dims if dim not in ("from_layer", "from_head", "to_layer", "to_head")]
    pairs = pairs.max(others)
    sends = pairs.max(["to_layer", "to_head"]).rename(from_layer="layer", from_head="head")
    receives = pairs.max(["from_layer", "from_head"]).rename(to_layer="layer", to_head="head")
    return of_heads(xr.apply_ufunc(np.fmax, sends, receives))


def composition(model: HookedTransformer, batch: Batch) -> Scores:
    """The strongest Q-, K- or V-composition of a head."""
    pairs = [
        measure(model, batch)[measure.__name__].expand_dims("kind")
        for measure in (q_composition, k_composition, v_composition)
    ]
    return strongest(xr.concat(pairs, "kind"))


def attribution(model: HookedTransformer, batch: Batch) -> Scores:
    """The direct contribution of each head."""
    found = direct_attribution(model, batch).direct_attribution
    return {str(head): round(found.sel(component=str(head)).item(), 6) for head in heads_of(model)}


def _measure(
    measure: Callable[[HookedTransformer, Batch], xr.Dataset], model: HookedTransformer, batch: Batch
) -> Scores:
    return of_heads(measure(model, batch)[measure.__name__])


def _effect(kind: str, model: HookedTransformer, batch: Batch) -> Scores:
    return of_heads(ablation(model, batch, kind).ablation)  # pyright: ignore[reportArgumentType]


MEASURES: dict[str, Callable[[HookedTransformer, Batch], Scores]] = {
    **{
        measure.__name__: partial(_measure, measure)
        for measure in (
            previous_token,
            current_token,
            first_token,
            duplicate_token,
            prefix_matching,
            ov_eigenvalue_residual,
            qk_eigenvalue_residual,
        )
    },
    "composition": composition,
    "direct_attribution": attribution,
    "path_patch": lambda model, batch: strongest(path_patch(model, batch).path_patch),
    **{f"ablation, {kind}": partial(_effect, kind) for kind in ("zero", "mean", "position_mean", "resample")},
}
CIRCUITS: tuple[Replacement, ...] = ("position_mean", "resample")
COLUMNS = (
    "program",
    "heads",
    *MEASURES,
    *(f"circuit, {kind}" for kind in CIRCUITS),
    *(f"its edges, {kind}" for kind in CIRCUITS),
)


def batch_of(program: Program) -> Batch:
    """The sequences on which a program is taken apart, none of them twice."""
    return program.task.evaluation_batch(SEED, min(SEQUENCES, len(program.tensors["inputs"])))


def measured(program: Program, batch: Batch, name: str) -> float:
    """The AUROC of a measure over the heads of a program, NaN where the measure does not apply."""
    try:
        return auroc(MEASURES[name](program.model, batch), used_nodes(program.model))
    except DoesNotApplyError:
        return float("nan")


def circuit(program: Program, batch: Batch, replacement: Replacement) -> tuple[float, float]:
    """The AUROC over heads, and over the edges that can be told, of the circuit that is found."""
    found = find_circuit(program.model, batch, replacement=replacement, seed=SEED, n_controls=1).scores
    heads = {str(head): found.node_importance.sel(node=str(head)).item() for head in heads_of(program.model)}
    edges = dict(zip(found.edge.values.tolist(), found.edge_importance.values.tolist(), strict=True))
    told = {str(edge) for edge in telling_edges(program.model, batch)}
    # A used edge through which nothing about the sequence passes is neither found rightly nor wrongly.
    for edge in {str(edge) for edge in used_edges(program.model)} - told:
        del edges[edge]
    return auroc(heads, used_nodes(program.model)), auroc(edges, told)


def row(name: str) -> list[str]:
    """One row of the table."""
    program = Program.load(name)
    batch = batch_of(program)
    heads = [str(head) for head in heads_of(program.model)]
    used = used_nodes(program.model).intersection(heads)
    found = [circuit(program, batch, kind) for kind in CIRCUITS]
    scores = [measured(program, batch, measure) for measure in MEASURES]
    scores += [each[place] for place in (0, 1) for each in found]
    return [name, f"{len(used)} of {len(heads)}", *map(number, scores)]


def number(value: float) -> str:
    """A number of the table: 1.00 (only if it is 1), .75, - for what does not apply."""
    if np.isnan(value):
        return "-"
    return "1.00" if value == 1 else f"{min(value, 0.99):.2f}".removeprefix("0")


def lines(names: Iterable[str]) -> Iterator[str]:
    """The lines of the table."""
    yield _line(COLUMNS)
    yield _line(["---"] * len(COLUMNS))
    for name in names:
        yield _line(row(name))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def documented() -> list[str]:
    """The lines of the table in docs/results.md."""
    return [line for line in RESULTS.read_text().splitlines() if line.split("|")[1:2] in [[f" {n} "] for n in PROGRAMS]]


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = []
    for line in lines(PROGRAMS):
        print(line, flush=True)
        made.append(line)
    if "--check" in sys.argv and made[2:] != documented():
        sys.exit("docs/results.md holds another table")
