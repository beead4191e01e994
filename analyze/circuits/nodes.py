"""Node patching: forward passes in which some nodes are kept whole, and the others replaced for all that read them.

Nodes have no edges here. So this applies to networks whose edges cannot be separated, such as language models with
parallel blocks or norms after attention, and to those that have too many.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from headway.analyze.circuits.controls import matched_nodes
from headway.analyze.circuits.graph import EMBED, POS_EMBED
from headway.analyze.circuits.kept import Kept, Pass, Patching
from headway.analyze.circuits.replacement import Replacement, replaced
from headway.analyze.network.forward import Activations, Hook, forward_pass
from headway.analyze.network.interventions import output_with, replacement_hook
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model


class NodePatching(Patching):
    """A network on a batch, of which any set of nodes can be kept while the others are replaced whole.

    The nodes are the embedding, the positions where they are added to the residual stream, each head (its ``hook_z``)
    and each MLP (its ``hook_mlp_out``). With all nodes kept the output is that of the network; with none, and sequences
    in place of means, that of the network on the other sequences. Replacing a node is replacing every edge out of it.

    Args:
        model: The network; a TransformerBridge too.
        batch: Sequences of a task.
        part: The part of the task whose loss is the behaviour; all positions in the mask if None.
        replacement: What stands in; ``twin`` where the task draws one if None, else ``position_mean``.
        seed: Seed of the twins.

    Raises:
        DoesNotApplyError: a task without twins, a single sequence to resample.
        ValueError: a part or replacement that does not exist, a batch without a task or that the network cannot read.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> patching = NodePatching(*composing_pair("k"), part="repeats")
        >>> round(patching.loss([]), 1), abs(round(patching.loss(["embed", "L0H0", "L1H1"]), 1))
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
        super().__init__(model, batch, part, replacement, seed)
        activations = forward_pass(model, self.other).activations
        self._points, self.places = _points_of(model, activations)
        self.nodes, self.names = tuple(self._points), list(self._points)
        self.edges_from = {node: [number] for number, node in enumerate(self.nodes)}
        self._replaced = {
            point: replaced(activations[point], self.replacement, self.other.attention_mask)
            for point in dict.fromkeys(self._points.values())
        }
        # Losses by the nodes that are kept: several orders, and single effects, ask for the same ones.
        self._sums: dict[bytes, np.ndarray] = {}
        everything = np.ones(len(self.nodes), dtype=bool)
        self.clean, self.none = Pass(everything), Pass(~everything)

    def loss(self, nodes: Iterable[str]) -> float:
        """Return the mean loss of the behaviour with only these nodes kept."""
        wanted = set(nodes)
        if unknown := wanted.difference(self.nodes):
            raise ValueError(f"node: {min(unknown)} does not exist in this network; it has {', '.join(self.nodes)}")
        kept = np.array([node in wanted for node in self.nodes])
        return float(self.sums(Pass(kept)).sum() / self.counts.sum())

    def run(self, kept: Kept, base: Pass, whole: bool = False) -> Pass:
        """Return the pass with these nodes kept; it is computed when its loss is asked for."""
        return Pass(kept)

    def sums(self, run: Pass) -> Float[np.ndarray, "batch"]:
        """Return the loss of each sequence, summed over the positions of the behaviour."""
        key = run.kept.tobytes()
        if key not in self._sums:
            self._sums[key] = self.summed(output_with(self.model, self.batch, self._hooks(run.kept)))
        return self._sums[key]

    def edges_of(self, node: str) -> list[int]:
        """Return the number of a node, alone."""
        return self.edges_from[node]

    def edges_between(self, node: str, among: Iterable[str]) -> Kept:
        """Return the node alone, which all others read."""
        between = np.zeros(len(self.nodes), dtype=bool)
        between[self.edges_from[node]] = True
        return between

    def control(self, circuit: Kept, draws: np.random.Generator) -> Kept:
        """Return a random set of nodes with as many heads and as many MLPs in every layer."""
        return matched_nodes(self.places, circuit, draws)

    def _hooks(self, kept: Kept) -> list[Hook]:
        heads: dict[str, list[int]] = {}
        hooks: list[Hook] = []
        for number in np.flatnonzero(~kept):
            node = self.nodes[number]
            point = self._points[node]
            if node.startswith("L"):
                heads.setdefault(point, []).append(Head.named(node).head)
            else:
                hooks.append(replacement_hook(point, self._replaced[point]))
        hooks += [
            replacement_hook(point, self._replaced[point], (slice(None), slice(None), which))
            for point, which in heads.items()
        ]
        return hooks


def _points_of(model: Model, activations: Activations) -> tuple[dict[str, str], list[int]]:
    """Return the hook point of each node in the order in which they compute, and the place that it shares with others.

    Hook points that a network has and never fires, such as that of positions which its attention rotates, are no nodes.
    """
    points, places = {EMBED: "hook_embed"}, [0]
    if "hook_pos_embed" in activations:
        points[POS_EMBED] = "hook_pos_embed"
        places.append(-1)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            points[str(Head(layer, head))] = f"blocks.{layer}.attn.hook_z"
            places.append(2 * layer + 1)
        if f"blocks.{layer}.hook_mlp_out" in activations:
            points[f"MLP{layer}"] = f"blocks.{layer}.hook_mlp_out"
            places.append(2 * layer + 2)
    return points, places
