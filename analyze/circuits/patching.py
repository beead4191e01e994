"""Exact edge patching: forward passes in which each input reads some nodes from this run, and the others replaced.

A forward pass differs from another one only behind the edges that differ. So each is computed from an earlier one: only
the inputs whose sum changes are projected again, and only nodes with such an input compute again. Inputs that read the
same sum share it, and its LayerNorm.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headway.analyze.circuits.controls import matched_circuit
from headway.analyze.circuits.graph import EMBED, OUTPUT, POS_EMBED, Edge, Graph, Input
from headway.analyze.circuits.kept import Kept, Pass, Patching
from headway.analyze.circuits.replacement import Replacement, replaced
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.network.structure import Structure
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model, evaluating
from headway.models.hooked_transformer import HookedTransformer

# Neurons whose numbers fit into the cache of one core.
IN_CACHE = 2**17


# Which edge moves an input, as its source, and whether it is kept now and was kept before.
_Move = tuple[int, bool, bool]


class _Slot(NamedTuple):
    """One input of a node, and the edges that lead to it: the number of each edge, and that of its source."""

    number: int
    input: Input
    edges: tuple[tuple[int, int], ...]


class _Shared:
    """Sums that several inputs of one pass read, and the LayerNorm of such a sum in each layer.

    Sums are told apart by identity. So a pass must hold them for as long as it computes.
    """

    def __init__(self):
        self.sums: dict[tuple[int, tuple[_Move, ...]], Tensor] = {}
        self._normalized: dict[tuple[int, int], Tensor] = {}

    def normalized(self, layer: int, norm: Callable[[Tensor], Tensor], residual: Tensor) -> Tensor:
        """Return the LayerNorm before the attention of a layer of what its inputs read."""
        key = layer, id(residual)
        if key not in self._normalized:
            self._normalized[key] = norm(residual)
        return self._normalized[key]


@dataclass(frozen=True)
class EdgePass(Pass):
    """One forward pass with some edges kept; ``whole`` if also nodes that do not reach the output were computed.

    ``writes`` holds what each node adds to the residual stream, ``residual`` the sum that each input reads, and
    ``projected`` the query, key or value of each input of a head.
    """

    whole: bool
    writes: Sequence[Tensor]
    residual: Sequence[Tensor | None]
    projected: Sequence[Tensor | None]
    output: Float[Tensor, "batch pos d_vocab_out"]

    def has_output_of(self, other: Pass) -> bool:
        """Return whether the output is that of the other pass, because the edges that differ lead nowhere."""
        return isinstance(other, EdgePass) and self.output is other.output


class EdgePatching(Patching):
    """A network on a batch, of which any set of edges can be kept while the others carry replaced activations.

    Each node reads the sum of its kept sources from the run itself and of its other sources from the replaced run; its
    LayerNorm is applied to that sum. Biases b_O stay in place. With all edges kept the output is that of the network;
    with none, and sequences in place of means, that of the network on the other sequences.

    Args:
        model: The network.
        batch: Sequences of a task.
        part: The part of the task whose loss is the behaviour; all positions in the mask if None.
        replacement: What stands in; ``twin`` where the task draws one if None, else ``position_mean``.
        seed: Seed of the twins.

    Raises:
        DoesNotApplyError: a TransformerBridge, a task without twins, a single sequence to resample.
        ValueError: a part or replacement that does not exist, a batch without a task or that the network cannot read.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> patching = EdgePatching(*composing_pair("k"), part="repeats")
        >>> circuit = ["embed->L0H0.v", "embed->L1H1.q", "L0H0->L1H1.k", "embed->L1H1.v", "L1H1->output"]
        >>> round(patching.loss([]), 1), abs(round(patching.loss(circuit), 1))
        (9.1, 0.0)
    """

    def __init__(
        self,
        model: Model,
        batch: Batch,
        part: str | None = None,
        replacement: Replacement | None = None,
        seed: int = 0,
    ):
        if not isinstance(model, HookedTransformer):
            raise DoesNotApplyError(
                f"circuit: edges are separated in a HookedTransformer only; this is a TransformerBridge"
                f"{_why_not_separate(model)}; find_nodes (headway circuit --nodes) searches its nodes without edges"
            )
        super().__init__(model, batch, part, replacement, seed)
        self.model: HookedTransformer
        self.graph, self._structure = Graph(model.cfg), Structure(model.cfg)
        self.nodes, self.names = self.graph.nodes[:-1], list(map(str, self.graph.edges))
        self.edges_from = {node: [] for node in self.nodes}
        for number, edge in enumerate(self.graph.edges):
            self.edges_from[edge.source].append(number)
        self._numbers = {node: number for number, node in enumerate(self.graph.nodes)}
        self._slots = self._list_slots()
        # A twin is as long as its sequence, so all passes hide the same keys.
        self._attention_mask = batch.attention_mask
        with torch.no_grad(), evaluating(model):
            self.clean = self._clean_pass(batch)
            writes = self.clean.writes if self.other is batch else self._clean_pass(self.other).writes
            self._replaced = [replaced(each, self.replacement, self.other.attention_mask) for each in writes]
        self.none = self.run(np.zeros(len(self.graph.edges), dtype=bool), self.clean, whole=True)

    def kept(self, edges: Iterable[Edge | str]) -> Kept:
        """Return edges as one entry for each edge of the graph, True for these."""
        kept = np.zeros(len(self.graph.edges), dtype=bool)
        kept[[self.graph.index[edge] for edge in self.graph.check_edges(edges)]] = True
        return kept

    def loss(self, edges: Iterable[Edge | str]) -> float:
        """Return the mean loss of the behaviour with only these edges kept."""
        return float(self.sums(self.run(self.kept(edges), self.none)).sum() / self.counts.sum())

    def sums(self, run: EdgePass) -> Float[np.ndarray, "batch"]:
        """Return the loss of each sequence, summed over the positions of the behaviour."""
        return self.summed(run.output)

    @torch.no_grad()
    def run(self, kept: Kept, base: EdgePass, whole: bool = False) -> EdgePass:
        """Run the network with these edges kept, computing only what differs from an earlier pass.

        Nodes from which no kept edge leads to the output are left as they were, unless ``whole``.

        Args:
            kept: True for the edges that are kept.
            base: The earlier pass; unless it is whole, it must keep every edge that is kept now.
            whole: Compute every node.
        """
        assert base.whole or not (kept & ~base.kept).any()
        reached = np.ones(len(self.graph.nodes), dtype=bool) if whole else self.reaching_output(kept)
        writes, residual, projected = list(base.writes), list(base.residual), list(base.projected)
        changes: dict[int, Tensor] = {}
        shared = _Shared()
        output = base.output
        for node in range(len(self.graph.nodes)):
            if not reached[node]:
                continue
            changed = False
            for slot in self._slots[node]:
                moved = self._moved(slot, kept, base, writes, changes, shared)
                if moved is None:
                    continue
                changed = True
                residual[slot.number] = moved
                if slot.input != "in":
                    projected[slot.number] = self._project(node, slot, moved, kept, writes, shared)
            if not changed:
                continue
            if self.graph.nodes[node] == OUTPUT:
                output = self._output(residual[self._slots[node][0].number])
            else:
                writes[node] = self._write(node, residual, projected)
                changes[node] = writes[node] - base.writes[node]
        return EdgePass(kept, whole, writes, residual, projected, output)

    def reaching_output(self, kept: Kept) -> Bool[np.ndarray, "node"]:
        """Return the nodes from which kept edges lead to the output."""
        reached = np.zeros(len(self.graph.nodes), dtype=bool)
        reached[-1] = True
        for node in reversed(range(len(self.graph.nodes))):
            if reached[node]:
                for slot in self._slots[node]:
                    for edge, source in slot.edges:
                        if kept[edge]:
                            reached[source] = True
        return reached

    def edges_of(self, node: str) -> list[int]:
        """Return the numbers of the edges into and out of a node."""
        return [number for number, edge in enumerate(self.graph.edges) if node in (edge.source, edge.target)]

    def edges_between(self, node: str, among: Iterable[str]) -> Kept:
        """Return the edges between a node and some nodes, the embedding and positions, and the output."""
        known = {EMBED, POS_EMBED, OUTPUT, *among}
        between = np.zeros(len(self.graph.edges), dtype=bool)
        for number in self.edges_of(node):
            edge = self.graph.edges[number]
            between[number] = (edge.target if edge.source == node else edge.source) in known
        return between

    def control(self, circuit: Kept, draws: np.random.Generator) -> Kept:
        """Return a random circuit with as many nodes in every layer, and edges between every two layers."""
        return matched_circuit(self.graph, circuit, draws)

    def _list_slots(self) -> list[list[_Slot]]:
        slots, number = [], 0
        for node in self.graph.nodes:
            of_node = []
            for input in self.graph.inputs(node):
                edges = tuple(
                    (place, self._numbers[edge.source])
                    for place, edge in enumerate(self.graph.edges)
                    if edge.target == node and edge.input == input
                )
                of_node.append(_Slot(number, input, edges))
                number += 1
            slots.append(of_node)
        return slots

    def _moved(
        self,
        slot: _Slot,
        kept: Kept,
        base: EdgePass,
        writes: Sequence[Tensor],
        changes: Mapping[int, Tensor],
        shared: _Shared,
    ) -> Tensor | None:
        """Return the sum that an input reads, if an edge to it carries something else than in the earlier pass."""
        moves = tuple(
            (source, bool(kept[edge]), bool(base.kept[edge]))
            for edge, source in slot.edges
            if (kept[edge] != base.kept[edge]) or (kept[edge] and source in changes)
        )
        if not moves:
            return None
        before = base.residual[slot.number]
        assert before is not None
        key = id(before), moves
        if key not in shared.sums:
            total = before
            for source, now, then in moves:
                if self._after_norm(source):
                    continue
                if total is before:
                    total = before.clone()
                if now and then:
                    total += changes[source]
                elif now:
                    total += writes[source]
                    total -= self._replaced[source]
                else:
                    total += self._replaced[source]
                    total -= base.writes[source]
            shared.sums[key] = total
        return shared.sums[key]

    def _after_norm(self, source: int) -> bool:
        """Return whether what a node writes is added behind the LayerNorm, as shortformer positions are."""
        return self._structure.positions_after_norm and source == self._numbers.get(POS_EMBED, -1)

    def _project(
        self, node: int, slot: _Slot, residual: Tensor, kept: Kept, writes: Sequence[Tensor], shared: _Shared
    ) -> Tensor:
        """Return the query, key or value of a head."""
        head = Head.named(self.graph.nodes[node])
        block = self.model.blocks[head.layer]
        x = shared.normalized(head.layer, block.ln1, residual)
        for edge, source in slot.edges:
            if self._after_norm(source):
                x = x + (writes[source] if kept[edge] else self._replaced[source])
        W, b = (getattr(block.attn, f"{name}_{slot.input.upper()}")[head.head] for name in ("W", "b"))
        return x @ W + b

    def _write(self, node: int, residual: Sequence[Tensor | None], projected: Sequence[Tensor | None]) -> Tensor:
        """Return what a head or MLP adds to the residual stream; b_O belongs to no head."""
        name, slots = self.graph.nodes[node], self._slots[node]
        if name.startswith("MLP"):
            return self._mlp(int(name.removeprefix("MLP")), residual[slots[0].number])
        head = Head.named(name)
        attn = self.model.blocks[head.layer].attn
        q, k, v = (projected[slot.number] for slot in slots)
        z = attn.of_head(head.head, q, k, v, self._attention_mask)  # pyright: ignore[reportArgumentType]
        return z @ attn.W_O[head.head]

    def _mlp(self, layer: int, residual: Tensor | None) -> Tensor:
        """Return what an MLP adds to the residual stream, computed for a few sequences at a time.

        All neurons of many sequences do not fit into the cache, and their memory is fetched anew in each pass.
        """
        block = self.model.blocks[layer]
        x = block.ln2(residual)
        together = max(1, IN_CACHE // (x.shape[1] * self.model.cfg.d_mlp))
        return torch.cat([block.mlp(some) for some in x.split(together)])

    def _output(self, residual: Tensor | None) -> Tensor:
        normalized = self.model.ln_final(residual) if self._structure.normalizes else residual
        return self.model.unembed(normalized)

    def _clean_pass(self, batch: Batch) -> EdgePass:
        """Run the network as it is, on any batch, node by node."""
        model = self.model
        kept = np.ones(len(self.graph.edges), dtype=bool)
        embedded = model.embed(batch.inputs)
        writes: list[Tensor] = []
        residual: list[Tensor | None] = []
        projected: list[Tensor | None] = []
        shared = _Shared()
        for node, name in enumerate(self.graph.nodes[:-1]):
            if name == EMBED:
                writes.append(embedded)
            elif name == POS_EMBED:
                writes.append(model.pos_embed(*embedded.shape[:2], batch.attention_mask))
            else:
                self._read(node, writes, residual, projected, kept, shared)
                writes.append(self._write(node, residual, projected))
        self._read(len(writes), writes, residual, projected, kept, shared)
        return EdgePass(kept, True, writes, residual, projected, self._output(residual[-1]))

    def _read(
        self,
        node: int,
        writes: Sequence[Tensor],
        residual: list[Tensor | None],
        projected: list[Tensor | None],
        kept: Kept,
        shared: _Shared,
    ) -> None:
        """Add the inputs of one node to those of the nodes before it, with every edge kept."""
        layers = self._layers_before(node)
        for slot in self._slots[node]:
            sources = [source for _, source in slot.edges if not self._after_norm(source)]
            key = layers, tuple((source, True, True) for source in sources)
            if key not in shared.sums:
                biases = [block.attn.b_O for block in self.model.blocks[:layers]]
                shared.sums[key] = torch.stack([writes[source] for source in sources]).sum(0) + sum(biases)
            total = shared.sums[key]
            residual.append(total)
            projected.append(None if slot.input == "in" else self._project(node, slot, total, kept, writes, shared))

    def _layers_before(self, node: int) -> int:
        """Return the number of layers whose attention has written to the residual stream that a node reads."""
        return self.graph.places[self.graph.nodes[node]] // 2


def _why_not_separate(model: Model) -> str:
    """Return what else keeps the edges of a bridge from being separated, as the end of a sentence."""
    found = {
        "parallel blocks": getattr(model.cfg, "parallel_attn_mlp", False),
        "norms after attention": any(getattr(block, "ln1_post", None) is not None for block in model.blocks),
        "positions inside its attention": Structure(model.cfg).positions_in_scores is not None,
    }
    return " with " + " and ".join(name for name, holds in found.items() if holds) if any(found.values()) else ""
