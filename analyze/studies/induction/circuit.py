"""The heads of an induction circuit, and the numbers that say whether they are one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from headway.analyze.circuits.faithfulness import Known
from headway.analyze.formation.roles import MAINLY
from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.attention import prefix_matching, uniform_pattern
from headway.analyze.measures.attention import previous_token as previous_token_score
from headway.analyze.measures.attribution import attribute_inputs, attribute_outputs
from headway.analyze.measures.composition import k_composition
from headway.analyze.measures.loss import loss
from headway.analyze.network.forward import hooked_forward_pass, to_zero
from headway.analyze.network.interventions import Input, heads_except, through_paths
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.network.vocabulary import VocabularyCircuit
from headway.analyze.studies.heads import heads_above, listed, mean_where, way_from_chance
from headway.analyze.studies.induction.options import Options
from headway.analyze.studies.induction.sequences import Sequences
from headway.analyze.studies.loading import LoadedModel
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model


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


def find_circuit(model: Model, sequences: Sequences, options: Options) -> Circuit | None:
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
    looks_before = {previous, *heads_above(before, options.previous_above)}
    looks_after = {induction, *heads_above(after, options.induction_above)} - {previous}
    first, last = min(head.layer for head in looks_before), max(head.layer for head in looks_after)
    return Circuit(
        previous,
        induction,
        tuple(sorted(head for head in looks_before - looks_after if head.layer < last)),
        tuple(sorted(head for head in looks_after if head.layer > first)),
    )


@dataclass(frozen=True)
class CircuitNumbers:
    """The numbers that say whether a network's circuit is an induction circuit; NaN where there is none to ask.

    Args:
        looks_before: previous_token of its best previous-token head, from chance (0) to nothing else (1).
        looks_after: prefix_matching of its best induction head, likewise.
        by_position: The first of these by what positions and biases alone add to queries and keys.
        composes: K-composition of the two, from a random pair (0) to all that their singular values allow (1).
        matches: Share of tokens that are the best key of themselves in the K-composition of the two.
        copies: Share of tokens that the OV circuit of the induction heads raises most.
        adds: What the induction heads add to the right logit over the mean of all on repeats, of all components.
        through_keys: What is lost if the keys of the induction heads read other sequences.
        without: What is lost without the circuit: its necessity.
        alone: What is lost without all heads but the circuit: one minus its faithfulness.
        no_positions: The second of these with positions zero.
    """

    looks_before: float = np.nan
    looks_after: float = np.nan
    by_position: float = np.nan
    composes: float = np.nan
    matches: float = np.nan
    copies: float = np.nan
    adds: float = np.nan
    through_keys: float = np.nan
    without: float = np.nan
    alone: float = np.nan
    no_positions: float = np.nan

    @classmethod
    def of(cls, network: LoadedModel, sequences: Sequences, circuit: Circuit | None) -> "CircuitNumbers":
        """The numbers of a circuit on some sequences."""
        if circuit is None:
            return cls()
        model, folded, batch = network.model, network.folded, sequences.batch
        known = Known.of(model, batch, part="repeats")
        previous = way_from_chance(previous_token_score(model, batch), "previous_token")
        logit = mean_where(attribute_outputs(model, batch, over_mean=True), parts_of(batch)["repeats"])
        without, alone = (
            ablated_loss(model, batch, heads).loss_repeats.item()
            for heads in (circuit.heads, heads_except(model, circuit.heads))
        )
        return cls(
            looks_before=previous.values[circuit.previous].item(),
            looks_after=_looks_after(model, sequences, circuit.induction),
            by_position=position_share(model, batch, circuit.previous),
            composes=composition_share(folded, batch, circuit),
            matches=match_shares(folded, sequences, circuit.previous, circuit.induction)[0],
            copies=says_share(folded, sequences, circuit.induction_heads, 1),
            adds=share_of(logit, circuit.induction_heads),
            through_keys=lost_through(model, batch, circuit, "k", known),
            without=known.necessity(without),
            alone=1 - known.faithfulness(alone),
            no_positions=without_positions(model, sequences, circuit),
        )


def better_than_chance(model: Model, batch: Batch) -> float:
    """0 for the loss on repeats of one who knows nothing, 1 for none."""
    assert batch.task is not None
    return 1 - loss(model, batch).loss_repeats.item() / batch.task.baselines()["chance"]


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


def lost_through(model: Model, batch: Batch, circuit: Circuit, input: Input, known: Known) -> float:
    """What is lost if the induction heads read there what previous-token heads write on other sequences."""
    try:
        hooks = through_paths(model, batch, circuit.previous_heads, circuit.induction_heads, input)
    except DoesNotApplyError:
        return np.nan
    with hooked_forward_pass(model, hooks):
        patched = loss(model, batch).loss_repeats.item()
    return known.necessity(patched)


def without_positions(model: Model, sequences: Sequences, circuit: Circuit) -> float:
    """How far the induction head is from chance when positions are zero; NaN if it is none, or there are none."""
    there = _looks_after(model, sequences, circuit.induction)
    if there < MAINLY or model.cfg.positional_embedding_type not in ("standard", "shortformer"):
        return np.nan
    with hooked_forward_pass(model, [("hook_pos_embed", to_zero)]):
        return _looks_after(model, sequences, circuit.induction)


def _looks_after(model: Model, sequences: Sequences, head: Head) -> float:
    scores = prefix_matching(model, sequences.batch, sequences.same)
    return way_from_chance(scores, "prefix_matching").values[head].item()


def share_of(terms: xr.DataArray, heads: Sequence[Head]) -> float:
    """Of the sum over all components, what these heads add."""
    return (terms.sel(component=[str(head) for head in heads]).sum() / terms.sum()).item()


def parts_of(batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
    """The parts of a batch by its task: what is new, and what repeats."""
    assert batch.task is not None
    return batch.task.parts(batch)


def of_pair(h1: Head, h2: Head) -> dict[str, int]:
    """Where scores of pairs of heads have this pair."""
    return {"from_layer": h1.layer, "from_head": h1.head, "to_layer": h2.layer, "to_head": h2.head}
