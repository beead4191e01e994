"""The heads of an induction circuit, and the numbers that say whether they are one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from headway.analyze.formation.roles import MAINLY
from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.attention import prefix_matching, uniform_pattern
from headway.analyze.measures.attention import previous_token as previous_token_score
from headway.analyze.measures.attribution import attribute_inputs
from headway.analyze.measures.composition import k_composition
from headway.analyze.measures.loss import loss
from headway.analyze.network.forward import hooked_forward_pass, to_zero
from headway.analyze.network.interventions import Input, heads_except, through_paths
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.network.vocabulary import VocabularyCircuit
from headway.analyze.studies.copies import Sequences
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model

# A network that has learnt less than this share of what repeats tell is not asked what it needs for it.
KNOWS = 0.1


class Network(NamedTuple):
    """A network as it computes, and with LayerNorm folded into the weights that are read."""

    model: Model
    folded: Model


@dataclass(frozen=True)
class Thresholds:
    """Above which score a head is called what the score says."""

    previous: float = 0.35
    induction: float = 0.5


@dataclass(frozen=True)
class Circuit:
    """The heads that look at the token before, and those that look at what followed; the best two of them."""

    previous: Head
    induction: Head
    previous_heads: tuple[Head, ...]
    induction_heads: tuple[Head, ...]

    @property
    def heads(self) -> tuple[Head, ...]:
        """All of them."""
        return self.previous_heads + self.induction_heads

    def __str__(self) -> str:
        return f"{listed(self.previous_heads)} → {listed(self.induction_heads)}"


def find_circuit(model: Model, sequences: Sequences, limits: Thresholds) -> Circuit | None:
    """The heads above the thresholds, and the best two: a previous-token head, and an induction head in a later layer.

    Where no head is above its threshold, the best one is taken. None in a network of one layer.
    """
    if model.cfg.n_layers < 2:
        return None
    before = previous_token_score(model, sequences.batch).previous_token.values
    after = prefix_matching(model, sequences.batch, sequences.same).prefix_matching.values
    # The best head that looks at the token before may have no induction head behind it, and another one have.
    pairs = [(a, b) for a, b in product(heads_except(model), repeat=2) if a.layer < b.layer]
    previous, induction = max(pairs, key=lambda pair: before[pair[0]] * after[pair[1]])
    looks_before = {previous, *heads_above(before, limits.previous)}
    looks_after = {induction, *heads_above(after, limits.induction)} - {previous}
    first, last = min(head.layer for head in looks_before), max(head.layer for head in looks_after)
    return Circuit(
        previous,
        induction,
        tuple(sorted(head for head in looks_before - looks_after if head.layer < last)),
        tuple(sorted(head for head in looks_after if head.layer > first)),
    )


def best_of(scores: Float[np.ndarray, "layer head"]) -> Head:
    """The head with the largest score."""
    layer, head = np.unravel_index(scores.argmax(), scores.shape)
    return Head(int(layer), int(head))


def heads_above(scores: Float[np.ndarray, "layer head"], threshold: float) -> list[Head]:
    """The heads whose score is above a threshold."""
    return [Head(int(layer), int(head)) for layer, head in np.argwhere(scores > threshold)]


def better_than_chance(model: Model, batch: Batch) -> float:
    """0 for the loss on repeats of one who knows nothing, 1 for none."""
    assert batch.task is not None
    return 1 - loss(model, batch).loss_repeats.item() / batch.task.baselines()["chance"]


def way_from_chance(scores: xr.Dataset, name: str, head: Head) -> float:
    """From chance, 0, to all attention, 1."""
    chance = scores[f"{name}_chance"].item()
    return (scores[name].values[head].item() - chance) / (1 - chance)


def position_share(model: Model, batch: Batch, head: Head) -> float:
    """How far a head is from chance to looking at the token before, by positions and biases alone; NaN without any.

    Its queries and keys are what positions and biases add to them, with the scale of LayerNorm as it is.
    """
    try:
        parts = attribute_inputs(model, batch, head)
    except DoesNotApplyError:
        return np.nan
    if "pos_embed" not in parts.component.values:
        return np.nan
    q, k = torch.from_numpy(parts.sel(component=["pos_embed", "constant"]).sum("component").values)
    scores = einops.einsum(q, k, "batch query d_head, batch key d_head -> batch query key") / math.sqrt(q.shape[-1])
    uniform = uniform_pattern(model, batch)[0, :, 0]
    pattern = scores.masked_fill(uniform == 0, -torch.inf).softmax(-1)
    found, chance = (each.diagonal(-1, dim1=-2, dim2=-1).mean().item() for each in (pattern, uniform))
    return (found - chance) / (1 - chance)


def composition_share(folded: Model, batch: Batch, circuit: Circuit) -> float:
    """K-composition of the best two, from a random pair, 0, to all that their singular values allow, 1."""
    try:
        scores = k_composition(folded, batch).sel(of_pair(circuit.previous, circuit.induction))
    except DoesNotApplyError:
        return np.nan
    null = scores.k_composition_null
    return ((scores.k_composition - null) / (scores.k_composition_ceiling - null)).item()


def match_shares(folded: Model, sequences: Sequences, h1: Head, h2: Head) -> tuple[float, float]:
    """The share of tokens that are the best key of themselves, and the best query; of their synonyms."""
    if h1.layer >= h2.layer:
        return np.nan, np.nan
    try:
        circuit = VocabularyCircuit.k_composition(folded, h1, h2)
    except DoesNotApplyError:
        return np.nan, np.nan
    found = (each.renamed(sequences.synonyms).hits(1)[sequences.paired] for each in (circuit, circuit.T))
    key, query = (hits.float().mean().item() for hits in found)
    return key, query


def says_share(folded: Model, sequences: Sequences, heads: Sequence[Head], k: int) -> float:
    """The share of tokens whose own logit, or their synonym's, is among the k largest that these heads write."""
    circuit = VocabularyCircuit.ov(folded, heads).renamed(sequences.synonyms)
    return circuit.hits(min(k, folded.cfg.d_vocab))[sequences.paired].float().mean().item()


@dataclass(frozen=True)
class Known:
    """What repeats tell a network through attention: its loss on them, and that with the means of all heads."""

    clean: float
    nothing: float

    @classmethod
    def of(cls, model: Model, batch: Batch) -> "Known":
        """Of a network on these sequences."""
        nothing = ablated_loss(model, batch, heads_except(model))
        return cls(loss(model, batch).loss_repeats.item(), nothing.loss_repeats.item())

    def lost(self, loss_repeats: float) -> float:
        """The share of it that is lost at this loss on repeats; NaN if it is next to nothing."""
        if self.nothing - self.clean < KNOWS * self.nothing:
            return np.nan
        # Two ways to the same loss differ in their last bits.
        return round((loss_repeats - self.clean) / (self.nothing - self.clean), 6)


def lost_through(model: Model, batch: Batch, circuit: Circuit, input: Input, known: Known) -> float:
    """What is lost if the induction heads read there what previous-token heads write on other sequences."""
    try:
        hooks = through_paths(model, batch, circuit.previous_heads, circuit.induction_heads, input)
    except DoesNotApplyError:
        return np.nan
    with hooked_forward_pass(model, hooks):
        patched = loss(model, batch).loss_repeats.item()
    return known.lost(patched)


def without_positions(model: Model, sequences: Sequences, circuit: Circuit) -> float:
    """How far the induction head is from chance when positions are zero; NaN if it is none, or there are none."""
    there = way_from_chance(
        prefix_matching(model, sequences.batch, sequences.same), "prefix_matching", circuit.induction
    )
    if there < MAINLY or model.cfg.positional_embedding_type not in ("standard", "shortformer"):
        return np.nan
    with hooked_forward_pass(model, [("hook_pos_embed", to_zero)]):
        return way_from_chance(
            prefix_matching(model, sequences.batch, sequences.same), "prefix_matching", circuit.induction
        )


def share_of(terms: xr.DataArray, heads: Sequence[Head]) -> float:
    """Of the sum over all components, what these heads add."""
    return (terms.sel(component=[str(head) for head in heads]).sum() / terms.sum()).item()


def parts_of(batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
    """The parts of a batch by its task: what is new, and what repeats."""
    assert batch.task is not None
    return batch.task.parts(batch)


def mean_where(terms: xr.DataArray, where: Bool[Tensor, "batch pos"]) -> xr.DataArray:
    """The mean over some positions of all sequences."""
    return terms.where(xr.DataArray(where.numpy(), dims=("batch", "pos"))).mean(("batch", "pos"))


def of_pair(h1: Head, h2: Head) -> dict[str, int]:
    """Where scores of pairs of heads have this pair."""
    return {"from_layer": h1.layer, "from_head": h1.head, "to_layer": h2.layer, "to_head": h2.head}


def listed(heads: Sequence[Head]) -> str:
    """Heads as text, or none."""
    return ", ".join(map(str, heads)) or "none"
