"""find_circuit: the edges that carry a behaviour, without a template of what they should look like."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from headway.analyze.circuits.circuit import Circuit, described
from headway.analyze.circuits.elimination import Limits, eliminate, generator_seed, mean_loss, orders
from headway.analyze.circuits.evaluation import shares, sums_of, with_intervals
from headway.analyze.circuits.graph import EMBED, POS_EMBED
from headway.analyze.circuits.intervals import paired_bootstrap
from headway.analyze.circuits.kept import Kept, Patching, chance_of, without
from headway.analyze.circuits.nodes import NodePatching
from headway.analyze.circuits.patching import EdgePatching
from headway.analyze.circuits.replacement import Replacement
from headway.analyze.measures.descriptions import LEAST_KNOWN, loss_units
from headway.analyze.network.requirements import DoesNotApplyError
from headway.data.task import Batch
from headway.models.convert import Model, evaluating

# An edge leaves if that costs at most this share of what is known, ...
LEAST = 0.01
# ... and the rest loses at most this share of it.
TOLERANCE = 0.05
# A node stands in for another if it keeps at least this share of what the other one's loss costs.
STANDS_IN = 0.5
# A replacement misleads if the loss with everything replaced exceeds that at chance by more than this share of it.
MISLED = 0.1
# Circuits of growing size, as shares of all edges: those of the Mechanistic Interpretability Benchmark.
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


AXES = {
    "effect": ("node",),
    "node_cost": ("node",),
    "edge_effect": ("edge",),
    "cost": ("edge",),
    "control_faithfulness": ("control",),
    "faithfulness_by_size": ("size",),
}


class NothingToExplainError(DoesNotApplyError):
    """Replacing everything costs so little that the network knows nothing of the behaviour."""


def find_circuit(
    model: Model,
    batch: Batch,
    part: str | None = None,
    replacement: Replacement | None = None,
    *,
    seed: int = 0,
    n_orders: int = 3,
    n_controls: int = 100,
    advance: Callable[[int], None] = lambda count: None,
) -> Circuit:
    """Find the edges that carry a behaviour, by removing edges one at a time as long as the rest suffices.

    Every edge is patched exactly, in one forward pass per circuit. Edges leave in several orders; of the circuits that
    remain, the smallest one is reported (the most faithful one of equal size). No signature of heads is looked at.

    The Dataset ``scores`` holds, with ``L`` the mean loss of the behaviour and ``known = L(all replaced) - L(clean)``:

    - ``clean``, ``all_replaced``, ``known``: in units of the loss. ``chance``: the loss of a network that does not know
      the answer, where the task gives one for this part. ``misleads``: ``all_replaced`` exceeds ``chance`` by more than
      a tenth, with its whole interval: what is known is then counted from a loss that is worse than a guess.
    - ``in_circuit`` [edge], ``node_in_circuit`` [node]; ``in_order`` [order, edge]: the circuit of each order, and
      ``overlap``: the mean share of edges that two of them have in common (intersection over union).
    - ``effect`` [node], ``edge_effect`` [edge]: ``(L(this replaced) - L(clean)) / known``, one at a time.
    - ``faithfulness``: ``(L(all replaced) - L(only the circuit kept)) / known``. ``necessity``:
      ``(L(circuit replaced) - L(clean)) / known``. ``cost`` [edge], ``node_cost`` [node]: the loss of faithfulness when
      an edge or node is removed from the circuit. ``minimality``: the smallest ``cost`` of an edge of the circuit; its
      interval is that of the cost of this one edge, which the attribute ``edge`` names.
    - ``stand_in`` [node, other]: the other node, outside the circuit, keeps at least half of what the loss of the
      node costs when it takes its place. ``in_reach`` [edge]: edges of the circuit, and those through which nodes
      stand in; ``reach_faithfulness``, ``reach_necessity``: of all of these together.
    - ``faithfulness_by_size`` [size]: of the edges that left last, as shares of all edges; ``cpr`` is the area under
      it, ``cmd`` that of ``|1 - faithfulness|`` (Mueller et al. 2025, the Mechanistic Interpretability Benchmark).
    - ``control_faithfulness`` [control]: of random circuits with as many nodes in each layer and edges between every
      two layers; ``p``: ``(1 + number at least as faithful) / (1 + number drawn)``.
    - ``edge_importance`` [edge], ``node_importance`` [node], in [0, 1]: to rank by. Edges of the circuit come first,
      then those of other orders and through which others stand in, then the rest, those that left last before others.
    - ``..._low``, ``..._high``: 95 % intervals, by a paired bootstrap over sequences.

    Args:
        model: A HookedTransformer.
        batch: Sequences of a task; 64 are plenty.
        part: The part of the task whose loss is the behaviour; all positions in the mask if None.
        replacement: What stands in for what is not kept: ``twin`` (the default where the task draws one),
            ``position_mean`` (the default elsewhere), ``resample``, ``mean``, ``zero``.
        seed: Seed of twins, orders, controls and resamples.
        n_orders: Number of orders in which edges are removed.
        n_controls: Number of random circuits.
        advance: Called with the number of forward passes that are done, for a progress bar.

    Raises:
        NothingToExplainError: what the network knows is less than a tenth of the loss with everything replaced.
        DoesNotApplyError: a TransformerBridge, a task without twins, a single sequence.
        ValueError: a part or replacement that does not exist, a batch without a task.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> found = find_circuit(*composing_pair("k"), part="repeats", n_controls=19)
        >>> print(*found.edges)
        embed->L0H0.v embed->L1H1.q L0H0->L1H1.k embed->L1H1.v L1H1->output
    """
    return search(EdgePatching, model, batch, part, replacement, seed, n_orders, n_controls, advance)


def find_nodes(
    model: Model,
    batch: Batch,
    part: str | None = None,
    replacement: Replacement | None = None,
    *,
    seed: int = 0,
    n_orders: int = 3,
    n_controls: int = 100,
    advance: Callable[[int], None] = lambda count: None,
) -> Circuit:
    """Find the nodes that carry a behaviour, by removing nodes one at a time as long as the rest suffices.

    A node is kept or replaced whole, for all that read it. So this applies to any network, also to a TransformerBridge,
    and takes much less time than the edges of a large one; it does not say who reads what. The nodes are the embedding,
    the positions, heads and MLPs, as ``NodePatching`` lists them.

    The Dataset ``scores`` is that of ``find_circuit``, with an axis ``edge`` of no entries, and with
    ``node_in_order`` [order, node] and ``node_in_reach`` [node] in place of ``in_order`` and ``in_reach``;
    ``control_faithfulness`` is that of random sets of nodes with as many heads and MLPs in each layer. The arguments
    and errors are those of ``find_circuit``.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> find_nodes(*composing_pair("k"), part="repeats", n_controls=19).nodes
        ['embed', 'L0H0', 'L1H1']
    """
    return search(NodePatching, model, batch, part, replacement, seed, n_orders, n_controls, advance)


def search(
    patched: type[Patching],
    model: Model,
    batch: Batch,
    part: str | None,
    replacement: Replacement | None,
    seed: int,
    n_orders: int,
    n_controls: int,
    advance: Callable[[int], None],
) -> Circuit:
    """Find a circuit of edges or of nodes, whatever ``patched`` replaces; see ``find_circuit`` and ``find_nodes``."""
    for name, value, least in (("n_orders", n_orders, 1), ("n_controls", n_controls, 1)):
        if value < least:
            raise ValueError(f"{name}: {value} is not valid; it must be {least} or more")
    with torch.no_grad(), evaluating(model):
        patching = begin(patched, model, batch, part, replacement, seed)
        return Circuit(_Search(patching, seed, advance, *_clean_and_known(patching)).result(n_orders, n_controls))


def begin(
    patched: type[Patching],
    model: Model,
    batch: Batch,
    part: str | None,
    replacement: Replacement | None,
    seed: int = 0,
) -> Patching:
    """Return the network on the batch with what is replaced, if there is something to search for.

    Raises:
        NothingToExplainError: what the network knows is less than a tenth of the loss with everything replaced.
        DoesNotApplyError: a single sequence, and what ``patched`` does not apply to.
    """
    if len(batch.inputs) < 2:
        raise DoesNotApplyError("circuit: needs at least 2 sequences, for its intervals; this batch has 1")
    patching = patched(model, batch, part, replacement, seed)
    clean, known = _clean_and_known(patching)
    if not known >= LEAST_KNOWN * (clean + known):
        of = "" if patching.part is None else f" on {patching.part}"
        raise NothingToExplainError(
            f"circuit: nothing to explain: the loss{of} is {clean:.4g}, and {clean + known:.4g} with everything "
            f"replaced ({patching.replacement}); less than a tenth of it is known"
        )
    return patching


def _clean_and_known(patching: Patching) -> tuple[float, float]:
    clean = mean_loss(patching, patching.clean)
    return clean, mean_loss(patching, patching.none) - clean


def passes_needed(n_units: int, n_orders: int, n_controls: int) -> int:
    """Return how often a search among edges or nodes advances; it makes more forward passes than these."""
    return (1 + n_orders) * n_units + n_controls


@dataclass(frozen=True)
class _Search:
    patching: Patching
    seed: int
    advance: Callable[[int], None]
    clean: float
    known: float

    def result(self, n_orders: int, n_controls: int) -> xr.Dataset:
        patching, nodes = self.patching, self.patching.nodes
        n_edges = len(patching.clean.kept)
        edge_sums = np.stack([self.sums_replacing([edge]) for edge in range(n_edges)])
        counts = patching.counts.sum()
        effects = (edge_sums.sum(-1) / counts - self.clean) / self.known
        limits = Limits(LEAST * self.known, self.clean + TOLERANCE * self.known)
        eliminations = [
            eliminate(patching, patching.clean, order, limits, self.advance)
            for order in orders(effects, n_orders, self.seed)
        ]
        left = np.stack([each.left.kept for each in eliminations])
        sizes, losses = left.sum(1), [mean_loss(patching, each.left) for each in eliminations]
        best = min(range(len(eliminations)), key=lambda place: (sizes[place], losses[place]))
        circuit = left[best]
        reach, stand_in = self.stand_ins(circuit)
        members, in_circuit = np.flatnonzero(circuit), _nodes_of(patching, circuit)
        sums = sums_of(patching, circuit, reach)
        # An edge or node outside the circuit can be removed from it at no cost.
        alone, node_alone = (np.repeat(sums["kept"][None], each, 0) for each in (n_edges, len(nodes)))
        for edge in members:
            alone[edge] = self.sums_of(without(circuit, [int(edge)]))
        for node in np.flatnonzero(in_circuit):
            node_alone[node] = self.sums_of(without(circuit, patching.edges_from[nodes[node]]))
        ranks = _ranks(circuit, left, reach, eliminations[best].removed, cost=alone.sum(1))
        by_size = [self.sums_of(_largest(ranks, round(size * n_edges))) for size in SIZES]
        draws = np.random.default_rng(generator_seed(self.seed + 1))
        controls = np.stack([self.sums_of(patching.control(circuit, draws), 1) for _ in range(n_controls)])
        sums |= {
            "edges": edge_sums,
            "controls": controls,
            "sizes": np.stack(by_size),
            "alone": alone,
            "node_alone": node_alone,
        }
        least = members[np.argmin(alone[members].sum(1))] if len(members) else None
        found = paired_bootstrap(lambda mean: _numbers(mean, sums, least), patching.counts, self.seed)
        scores = self.dataset(found, circuit, in_circuit, left, reach, stand_in, ranks)
        scores["minimality"].attrs["edge"] = "" if least is None else patching.names[least]
        return scores

    def sums_of(self, kept: Kept, tried: int = 0) -> Float[np.ndarray, "batch"]:
        """Return the sums of losses with only some edges kept."""
        self.advance(tried)
        return self.patching.sums(self.patching.run(kept, self.patching.none))

    def sums_replacing(self, edges: list[int]) -> Float[np.ndarray, "batch"]:
        """Return the sums of losses with some edges replaced."""
        self.advance(1)
        everything = np.ones_like(self.patching.clean.kept)
        return self.patching.sums(self.patching.run(without(everything, edges), self.patching.clean))

    def loss_of(self, kept: Kept) -> float:
        """Return the mean loss with only some edges kept."""
        return float(self.sums_of(kept).sum() / self.patching.counts.sum())

    def stand_ins(self, circuit: Kept) -> tuple[Kept, np.ndarray]:
        """Return the circuit with the edges through which other nodes stand in, and which stand in for which."""
        patching, nodes = self.patching, self.patching.nodes
        in_circuit = _nodes_of(patching, circuit)
        table = np.zeros((len(nodes), len(nodes)), dtype=bool)
        reach, kept_loss = circuit.copy(), self.loss_of(circuit)
        for place, node in enumerate(nodes):
            if not in_circuit[place] or node in (EMBED, POS_EMBED):
                continue
            rest = without(circuit, patching.edges_of(node))
            lost = self.loss_of(rest) - kept_loss
            if lost < LEAST * self.known:
                continue
            for other_place, other in enumerate(nodes):
                if in_circuit[other_place] or other in (EMBED, POS_EMBED):
                    continue
                among = [each for inside, each in zip(in_circuit, nodes, strict=True) if inside and each != node]
                through = patching.edges_between(other, among)
                # What fed the lost node alone may feed the other one.
                start = patching.run(rest | through, patching.none, whole=True)
                most = kept_loss + (1 - STANDS_IN) * lost
                if mean_loss(patching, start) <= most:
                    table[place, other_place] = True
                    limits = Limits(LEAST * self.known, most)
                    reach |= eliminate(patching, start, np.flatnonzero(through).tolist()[::-1], limits).left.kept
        return reach, table

    def dataset(
        self,
        found: dict[str, Any],
        circuit: Kept,
        in_circuit: np.ndarray,
        left: np.ndarray,
        reach: Kept,
        stand_in: np.ndarray,
        importance: np.ndarray,
    ) -> xr.Dataset:
        """Return everything as one Dataset."""
        patching, nodes = self.patching, list(self.patching.nodes)
        variables: dict[Any, Any] = dict(with_intervals(found, AXES).variables)
        controls, value = found["control_faithfulness"].value, found["faithfulness"].value
        of_nodes = [max((importance[edge] for edge in patching.edges_from[node]), default=0.0) for node in nodes]
        both, either = (left[:, None] & left).sum(-1), (left[:, None] | left).sum(-1).clip(1)
        pairs = np.triu_indices(len(left), 1)
        chance = chance_of(patching.batch, patching.part)
        variables |= {
            "in_circuit": (("edge",), circuit),
            "node_in_circuit": (("node",), in_circuit),
            "in_reach": (("edge",), reach),
            "in_order": (("order", "edge"), left),
            "overlap": ((), (both / either)[pairs].mean() if len(left) > 1 else np.nan),
            "stand_in": (("node", "other"), stand_in),
            "edge_importance": (("edge",), importance),
            "node_importance": (("node",), np.array(of_nodes)),
            "p": ((), (1 + (controls >= value).sum()) / (1 + len(controls))),
            "chance": ((), chance),
            "misleads": ((), bool(found["all_replaced"].low > (1 + MISLED) * chance)),
        }
        labels = {"node": nodes, "other": nodes, "edge": patching.names, "size": list(SIZES)}
        asked = {"part": patching.part or "", "replacement": patching.replacement, "seed": self.seed}
        scores = xr.Dataset(variables, coords=labels)
        scores["known"].attrs |= {**asked, "sequences": len(patching.counts)}
        whole = scores if isinstance(patching, EdgePatching) else _without_edges(scores)
        return described(whole, loss_units(patching.batch))


def _without_edges(scores: xr.Dataset) -> xr.Dataset:
    """Return the numbers of a search among nodes, whose axis ``edge`` holds nodes, with an empty axis ``edge``."""
    of_nodes = {
        "node_in_order": (("order", "node"), scores.in_order.values),
        "node_in_reach": (("node",), scores.in_reach.values),
    }
    return scores.assign(of_nodes).isel(edge=[])


def _numbers(
    mean: Callable[[np.ndarray], np.ndarray], sums: dict[str, np.ndarray], least: int | None
) -> dict[str, np.ndarray]:
    """Return every number with an interval, from the losses of each sequence; ``least`` is the least important edge.

    The least important edge is the same in all resamples: the smallest cost of each resample would be that of another
    edge each time, and lie below the smallest cost of the whole sample.
    """
    loss = {name: mean(each) for name, each in sums.items()}
    found = shares(loss)
    none, known, kept = found["all_replaced"][:, None], found["known"][:, None], loss["kept"][:, None]
    cost = (loss["alone"] - kept) / known
    by_size = (none - loss["sizes"]) / known
    # A circuit of no edges carries nothing.
    curve, sizes = np.pad(by_size, ((0, 0), (1, 0))), (0.0, *SIZES)
    return found | {
        "cost": cost,
        "node_cost": (loss["node_alone"] - kept) / known,
        "minimality": np.full(len(cost), np.nan) if least is None else cost[:, least],
        "edge_effect": (loss["edges"] - found["clean"][:, None]) / known,
        "faithfulness_by_size": by_size,
        "cpr": np.trapezoid(curve, sizes, axis=1),
        "cmd": np.trapezoid(np.abs(1 - curve), sizes, axis=1),
        "control_faithfulness": (none - loss["controls"]) / known,
    }


def _ranks(
    circuit: Kept, left: np.ndarray, reach: Kept, removed: tuple[int, ...], cost: Float[np.ndarray, "edge"]
) -> Float[np.ndarray, "edge"]:
    """Return the importance of each edge, in [0, 1]; no two are alike."""
    when = np.full(len(circuit), len(removed))
    when[list(removed)] = np.arange(len(removed))
    # Of several keys the last one decides first.
    order = np.lexsort((np.arange(len(circuit)), when, cost, left.mean(0), reach, circuit))
    importance = np.empty(len(circuit))
    importance[order] = (1 + np.arange(len(circuit))) / len(circuit)
    return importance


def _largest(ranks: np.ndarray, count: int) -> Kept:
    chosen = np.zeros(len(ranks), dtype=bool)
    chosen[np.argsort(ranks)[len(ranks) - count :]] = True
    return chosen


def _nodes_of(patching: Patching, circuit: Kept) -> np.ndarray:
    """Return which nodes, without the output, are the source of an edge of a circuit."""
    return np.array([circuit[patching.edges_from[node]].any() for node in patching.nodes])
