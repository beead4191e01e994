"""The graph of a network: nodes that write to the residual stream, and edges to the inputs that read it."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from headway.analyze.network.structure import Structure
from headway.models.config import Head, ModelConfig

EMBED, POS_EMBED, OUTPUT = "embed", "pos_embed", "output"
Input = Literal["q", "k", "v", "in"]
HEAD_INPUTS: tuple[Input, ...] = ("q", "k", "v")
ONE_INPUT: tuple[Input, ...] = ("in",)


class Edge(NamedTuple):
    """A path from what one node writes to one input of a later node, without other nodes between them.

    The inputs of a head are q, k and v; an MLP and the output have one input, ``in``, which names leave out.

    Example:
        >>> print(Edge("L0H3", "L1H0", "k"), Edge("L1H0", "output", "in"))
        L0H3->L1H0.k L1H0->output
        >>> Edge.named("L0H3->L1H0.k")
        Edge(source='L0H3', target='L1H0', input='k')
    """

    source: str
    target: str
    input: Input

    def __str__(self) -> str:
        return f"{self.source}->{self.target}" + ("" if self.input == "in" else f".{self.input}")

    @classmethod
    def named(cls, name: str) -> "Edge":
        """Return the edge of this name; raise a ValueError for any other string."""
        source, arrow, rest = name.partition("->")
        target, dot, input = rest.partition(".")
        if not (source and arrow and target) or (dot and input not in HEAD_INPUTS):
            raise ValueError(f"edge: {name!r} is not valid; it must be a name such as L0H3->L1H0.k")
        return cls(source, target, input or "in")  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Graph:
    """Nodes of a network in the order in which they compute, and every edge between them.

    The nodes are the embedding, the positions, for each layer its heads and then its MLP, and the output. The
    sources of an input are the nodes that have written to the residual stream by then; with shortformer positions the
    positions are a source of queries and keys alone. Rotary and relative ones act inside attention and are no node.

    Args:
        cfg: Configuration of the network.

    Example:
        >>> graph = Graph(ModelConfig(n_layers=2, d_model=8, n_ctx=5, d_head=4, n_heads=2, d_vocab=13, attn_only=True))
        >>> graph.nodes
        ('embed', 'pos_embed', 'L0H0', 'L0H1', 'L1H0', 'L1H1', 'output')
        >>> len(graph.edges)  # 2 heads with 3 inputs of 2 sources, 2 with 3 of 4, and an output with 6
        42
    """

    cfg: ModelConfig

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes; those of a layer stand together, and its MLP after its heads."""
        positions = [POS_EMBED] if Structure(self.cfg).position_point else []
        return (EMBED, *positions, *(node for layer in range(self.cfg.n_layers) for node in self.layer(layer)), OUTPUT)

    def layer(self, layer: int) -> list[str]:
        """Return the nodes of one layer."""
        heads = [str(Head(layer, head)) for head in range(self.cfg.n_heads)]
        return heads if self.cfg.attn_only else [*heads, f"MLP{layer}"]

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each node stands in the order of computing: heads of one layer share a place."""
        places: dict[str, int] = dict.fromkeys((EMBED, POS_EMBED), 0)
        for layer in range(self.cfg.n_layers):
            for node in self.layer(layer):
                places[node] = 2 * layer + (2 if node.startswith("MLP") else 1)
        return {**{node: places[node] for node in self.nodes[:-1]}, OUTPUT: 2 * self.cfg.n_layers + 1}

    def inputs(self, node: str) -> tuple[Input, ...]:
        """Return the inputs of a node; the embedding and the positions have none."""
        if node in (EMBED, POS_EMBED):
            return ()
        return HEAD_INPUTS if node.startswith("L") else ONE_INPUT

    def reads(self, node: str, input: Input, source: str) -> bool:
        """Return whether an edge leads from the source to this input."""
        if source == POS_EMBED and Structure(self.cfg).positions_after_norm:
            return input in ("q", "k")
        return self.places[source] < self.places[node]

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge, in the order of its target, input and source."""
        return tuple(
            Edge(source, node, input)
            for node in self.nodes
            for input in self.inputs(node)
            for source in self.nodes[:-1]
            if self.reads(node, input, source)
        )

    @cached_property
    def index(self) -> dict[Edge, int]:
        """The place of each edge in ``edges``."""
        return {edge: place for place, edge in enumerate(self.edges)}

    def check_edges(self, edges: Iterable[Edge | str]) -> list[Edge]:
        """Return edges, of which some may be given by name; raise a ValueError for one that this network lacks."""
        found = [Edge.named(each) if isinstance(each, str) else Edge(*each) for each in edges]
        for edge in found:
            if edge not in self.index:
                raise ValueError(f"edge: {edge} does not exist in this network; its nodes are {', '.join(self.nodes)}")
        return found
