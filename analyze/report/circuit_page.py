"""The data from which the page draws the circuits of a run."""

from typing import Any

import numpy as np
import xarray as xr

from headway.analyze.measures.head_names import spans
from headway.analyze.report.circuit_lines import misleading
from headway.analyze.report.found_circuits import FoundCircuits, edges_shown, node_roles, signatures_of
from headway.analyze.report.packed import Packed

# Numbers of a whole circuit, each with the two ends of its interval.
NUMBERS = (
    "clean", "all_replaced", "known", "faithfulness", "necessity", "minimality", "reach_faithfulness", "cpr", "cmd",
)  # fmt: skip
OVER_STEPS = ("known", "faithfulness", "necessity")
ENDS = ("", "_low", "_high")


def circuits_data(circuits: FoundCircuits, packed: Packed) -> dict[str, Any]:
    """Return what the page's scripts are given of one behaviour under one replacement.

    Arrays have the number and the ends of its interval first: [3, node], [3, edge], [3, step].
    """
    over = circuits.over
    return {
        "behaviour": circuits.behaviour,
        "part": circuits.part,
        "replacement": circuits.replacement,
        "ofNodes": circuits.nodes,
        "damaged": list(circuits.damaged.values()),
        "found": [_found(step, circuit, packed) for step, circuit in circuits.found.items()],
        "over": None if over is None else {
            "of": over.known.attrs.get("step"),
            "steps": over.step.values.tolist(),
            **{name: _with_ends(over, name, packed) for name in OVER_STEPS},
        },
    }  # fmt: skip


def _found(step: int, circuit: xr.Dataset, packed: Packed) -> dict[str, Any]:
    asked, shown = circuit.known.attrs, edges_shown(circuit)
    places = [at for at, _, _ in shown]
    controls = circuit.control_faithfulness.values
    names = signatures_of(circuit)
    of_edges = circuit.isel(edge=places)
    return {
        "step": step,
        "second": asked.get("second"),
        "sequences": asked.get("sequences"),
        "edgesInAll": circuit.sizes["edge"],
        "nodes": [
            {"name": name, "role": str(role), "kind": role.kind, "signature": _signature(names.get(name))}
            for name, role in node_roles(circuit).items()
        ],
        "edges": [[*edge, inside] for _, edge, inside in shown],
        "cost": _with_ends(of_edges, "cost", packed),
        "edgeEffect": _with_ends(of_edges, "edge_effect", packed),
        "effect": _with_ends(circuit, "effect", packed),
        "secondEffect": _with_ends(circuit, "second_effect", packed) if "second_effect" in circuit else None,
        **_groups(circuit, packed),
        "numbers": {name: [_number(circuit[name + end]) for end in ENDS] for name in NUMBERS},
        "secondFaithfulness": _second(circuit),
        "controls": {"drawn": len(controls), "least": _number(controls.min()), "most": _number(controls.max())},
        "p": _number(circuit.p),
        "leastEdge": circuit.minimality.attrs.get("edge", ""),
        "misleads": misleading(circuit),
    }  # fmt: skip


def _groups(circuit: xr.Dataset, packed: Packed) -> dict[str, Any]:
    """Return parts that are alike, and their effects together; nothing of a circuit that was not judged so."""
    if "group_effect" not in circuit or not circuit.sizes["group"]:
        return {}
    return {
        "groups": [spans(label.split()) for label in circuit.group.values.tolist()],
        "groupEffect": _with_ends(circuit, "group_effect", packed),
        "secondGroupEffect": _with_ends(circuit, "second_group_effect", packed),
    }


def _second(circuit: xr.Dataset) -> list[float | None] | None:
    """Faithfulness under the second replacement."""
    if "second_faithfulness" not in circuit:
        return None
    return [_number(circuit[f"second_faithfulness{end}"]) for end in ENDS]


def _with_ends(scores: xr.Dataset, name: str, packed: Packed) -> dict[str, Any]:
    return packed.add(np.stack([scores[name + end].values for end in ENDS]))


def _number(value: Any) -> float | None:
    """A number in six digits; None for NaN, which JSON does not have."""
    value = float(value)
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _signature(found: tuple[str, str, float] | None) -> list[Any] | None:
    return None if found is None else [found[0], found[1], _number(found[2])]
