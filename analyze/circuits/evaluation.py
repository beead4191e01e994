"""The numbers of a given circuit: what it carries alone, what is lost without it, and the effect of each node."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from headway.analyze.circuits.groups import label
from headway.analyze.circuits.intervals import Interval, paired_bootstrap
from headway.analyze.circuits.kept import Kept, Patching, without
from headway.analyze.measures.descriptions import LEAST_KNOWN

Losses = Mapping[str, np.ndarray]
# Numbers that are shares of what is known.
SHARES = ("faithfulness", "necessity", "reach_faithfulness", "reach_necessity", "effect")


def evaluate(patching: Patching, circuit: Kept, reach: Kept, seed: int = 0) -> xr.Dataset:
    """Return ``clean``, ``all_replaced``, ``known``, SHARES and their intervals of a circuit; see ``find_circuit``.

    The shares are NaN where less than a tenth of the loss with everything replaced is known.

    Args:
        patching: A network on a batch.
        circuit: The edges of the circuit.
        reach: The same with the edges through which other nodes stand in.
        seed: Seed of the resamples.
    """
    return with_intervals(numbers(patching, circuit, reach, seed), {"effect": ("node",)}).assign_coords(
        node=list(patching.nodes)
    )


def numbers(patching: Patching, circuit: Kept, reach: Kept, seed: int = 0) -> dict[str, Interval]:
    """Return the numbers of ``evaluate`` by name, each with its interval."""
    sums = sums_of(patching, circuit, reach)
    # Where nothing is known, a share of it is no number, and left out below.
    with np.errstate(divide="ignore", invalid="ignore"):
        found = paired_bootstrap(
            lambda mean: shares({name: mean(each) for name, each in sums.items()}), patching.counts, seed
        )
    if not found["known"].value >= LEAST_KNOWN * found["all_replaced"].value:
        nothing = {name: np.full_like(found[name].value, np.nan) for name in SHARES}
        found |= {name: Interval(each, each, each) for name, each in nothing.items()}
    return found


def evaluate_together(patching: Patching, groups: Sequence[Sequence[str]], seed: int = 0) -> xr.Dataset:
    """Return the effects of several nodes that are replaced together, with their intervals.

    - ``group_effect`` [group]: ``(L(these replaced) - L(clean)) / known``.
    - ``marginal_effect`` [group, node]: ``(L(these replaced) - L(the others of these replaced)) / known``: what the
      replacement of a node adds where the others of its group are replaced. NaN for nodes outside of the group.

    All are NaN where less than a tenth of the loss with everything replaced is known. Groups are labelled by their
    nodes, as ``groups.label`` does.
    """
    nodes = list(patching.nodes)
    clean, none = patching.sums(patching.clean), patching.sums(patching.none)
    together = np.empty((len(groups), len(clean)))
    others = np.full((len(groups), len(nodes), len(clean)), np.nan)
    for place, group in enumerate(groups):
        together[place] = _sums_without(patching, group)
        for node in group:
            rest = [other for other in group if other != node]
            others[place, nodes.index(node)] = _sums_without(patching, rest)

    def effects(mean: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
        loss, known, replaced = mean(clean)[:, None], mean(none) - mean(clean), mean(together)
        return {
            "group_effect": (replaced - loss) / known[:, None],
            "marginal_effect": (replaced[:, :, None] - mean(others)) / known[:, None, None],
        }

    with np.errstate(divide="ignore", invalid="ignore"):
        found = paired_bootstrap(effects, patching.counts, seed)
    if not none.sum() - clean.sum() >= LEAST_KNOWN * none.sum():
        nothing = {name: np.full_like(each.value, np.nan) for name, each in found.items()}
        found = {name: Interval(each, each, each) for name, each in nothing.items()}
    axes = {"group_effect": ("group",), "marginal_effect": ("group", "node")}
    return with_intervals(found, axes).assign_coords(group=list(map(label, groups)), node=nodes)


def _sums_without(patching: Patching, nodes: Sequence[str]) -> np.ndarray:
    """Return the losses of each sequence with some nodes replaced."""
    everything = np.ones(len(patching.names), dtype=bool)
    kept = without(everything, [edge for node in nodes for edge in patching.edges_from[node]])
    return patching.sums(patching.run(kept, patching.clean))


def sums_of(patching: Patching, circuit: Kept, reach: Kept) -> dict[str, np.ndarray]:
    """Return the losses of each sequence from which ``shares`` are made, summed over its positions."""
    everything = np.ones_like(circuit)
    nodes = [without(everything, patching.edges_from[node]) for node in patching.nodes]
    passes = {"kept": circuit, "without": ~circuit, "reach": reach, "without_reach": ~reach}
    return {
        "clean": patching.sums(patching.clean),
        "none": patching.sums(patching.none),
        **{name: patching.sums(patching.run(kept, patching.none)) for name, kept in passes.items()},
        "nodes": np.stack([patching.sums(patching.run(kept, patching.clean)) for kept in nodes]),
    }


def shares(loss: Losses) -> dict[str, np.ndarray]:
    """Return the numbers of a circuit from mean losses, each of which has one entry a resample."""
    clean, none = loss["clean"], loss["none"]
    known = none - clean
    return {
        "clean": clean,
        "all_replaced": none,
        "known": known,
        "faithfulness": (none - loss["kept"]) / known,
        "necessity": (loss["without"] - clean) / known,
        "reach_faithfulness": (none - loss["reach"]) / known,
        "reach_necessity": (loss["without_reach"] - clean) / known,
        "effect": (loss["nodes"] - clean[:, None]) / known[:, None],
    }


def with_intervals(found: Mapping[str, Interval], axes: Mapping[str, tuple[str, ...]]) -> xr.Dataset:
    """Return each number with the two ends of its interval, ``<name>_low`` and ``<name>_high``."""
    variables = {}
    for name, interval in found.items():
        for ending, values in (("", interval.value), ("_low", interval.low), ("_high", interval.high)):
            variables[name + ending] = (axes.get(name, ()), values)
    return xr.Dataset(variables)
