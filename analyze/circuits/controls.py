"""Random circuits of the same size and shape: the control of a circuit that was found."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from headway.analyze.circuits.graph import EMBED, OUTPUT, POS_EMBED, Edge, Graph
from headway.analyze.circuits.kept import Kept


def matched_circuit(graph: Graph, kept: Kept, draws: np.random.Generator) -> Kept:
    """Return a random circuit with as many nodes in every layer, and as many edges between every two layers.

    A layer's heads and its MLP count apart. The embedding and the positions are there if the circuit has them: a
    network that is told nothing is no control. The nodes are drawn first, and then the edges between them.

    Example:
        >>> from headway.models.config import ModelConfig
        >>> cfg = ModelConfig(n_layers=2, d_model=8, n_ctx=5, d_head=4, n_heads=3, d_vocab=13, attn_only=True)
        >>> graph, kept = Graph(cfg), np.zeros(71, dtype=bool)
        >>> for edge in graph.check_edges(["embed->L0H1.v", "L0H1->L1H0.k", "L1H0->output"]):
        ...     kept[graph.index[edge]] = True
        >>> drawn = matched_circuit(graph, kept, np.random.default_rng(0))
        >>> print(*(graph.edges[edge] for edge in np.flatnonzero(drawn)))
        embed->L0H2.v L0H2->L1H2.k L1H2->output
    """
    edges = [graph.edges[edge] for edge in np.flatnonzero(kept)]
    used = {edge.source for edge in edges} | {edge.target for edge in edges}
    at_place = defaultdict(list)
    for node in graph.nodes:
        at_place[_place(graph, node)].append(node)
    chosen = {OUTPUT}
    for nodes in at_place.values():
        count = len(used.intersection(nodes))
        chosen |= {nodes[place] for place in draws.permutation(len(nodes))[:count]}
    wanted, candidates = defaultdict(int), defaultdict(list)
    for edge in edges:
        wanted[_kind(graph, edge)] += 1
    for number, edge in enumerate(graph.edges):
        if edge.source in chosen and edge.target in chosen:
            candidates[_kind(graph, edge)].append(number)
    drawn = np.zeros(len(graph.edges), dtype=bool)
    for kind, count in wanted.items():
        drawn[draws.permutation(candidates[kind])[:count]] = True
    return drawn


def _place(graph: Graph, node: str) -> int | str:
    """Return what a node is drawn among: the heads of its layer, the MLP, or itself."""
    return node if node in (EMBED, POS_EMBED) else graph.places[node]


def _kind(graph: Graph, edge: Edge) -> tuple[int | str, int]:
    """Return what an edge is drawn among: those between two layers."""
    return _place(graph, edge.source), graph.places[edge.target]


def matched_nodes(places: Sequence[int], kept: Kept, draws: np.random.Generator) -> Kept:
    """Return a random set of nodes with as many nodes at every place.

    Args:
        places: What each node is drawn among: heads of one layer share a place, the embedding and the positions have
            one each.
        kept: The nodes of a circuit.
        draws: The source of randomness.

    Example:
        >>> kept = np.array([True, False, True, False, False, True])
        >>> matched_nodes([0, 1, 1, 1, 2, 2], kept, np.random.default_rng(0)).astype(int).tolist()
        [1, 0, 0, 1, 0, 1]
    """
    at, drawn = np.array(places), np.zeros(len(kept), dtype=bool)
    for place in dict.fromkeys(places):
        there = np.flatnonzero(at == place)
        drawn[draws.permutation(there)[: kept[there].sum()]] = True
    return drawn
