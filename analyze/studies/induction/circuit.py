"""The heads of an induction circuit, and the numbers that decide whether they form one."""

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
from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.attention import prefix_matching, uniform_pattern
from headway.analyze.measures.attention import previous_token as previous_token_score
from headway.analyze.measures.attribution import attribute_inputs, attribute_outputs
from headway.analyze.measures.composition import k_composition
from headway.analyze.measures.head_names import MAINLY
from headway.analyze.measures.loss import loss
from headway.analyze.network.forward import hooked_forward_pass, to_zero
from headway.analyze.network.interventions import Input, heads_except, through_paths
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.network.structure import Structure
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
    """Previous-token heads and induction heads, and the best pair of them."""

    previous: Head
    induction: Head
    previous_heads: tuple[Head, ...]
    induction_heads: tuple[Head, ...]

    @property
    def heads(self) -> tuple[Head, ...]:
        """All heads of the circuit."""
        return self.previous_heads + self.induction_heads

    def __str__(self) -> str:
        return f"{listed(self.previous_heads)} → {listed(self.induction_heads)}"


def find_circuit(model: Model, sequences: Sequences, options: Options) -> Circuit | None:
    """Return the heads above the thresholds, and the best pair: a previous-token head and a later induction head.

    The best pair has the largest product of previous_token and prefix_matching; it is in the circuit even if below the
    thresholds. None for a network with one layer.
    """
    if model.cfg.n_layers < 2:
        return None
    before = previous_token_score(model, sequences.batch).previous_token.values
    after = prefix_matching(model, sequences.batch, sequences.same).prefix_matching.values
    # The best previous-token head may have no induction head in a later layer.
    pairs = [(a, b) for a, b in product(heads_except(model), repeat=2) if a.layer < b.layer]
    previous, induction = max(pairs, key=lambda pair: before[pair[0]] * after[pair[1]])
    previous_heads = {previous, *heads_above(before, options.previous_above)}
    induction_heads = {induction, *heads_above(after, options.induction_above)} - {previous}
    first, last = min(head.layer for head in previous_heads), max(head.layer for head in induction_heads)
    return Circuit(
        previous,
        induction,
        tuple(sorted(head for head in previous_heads - induction_heads if head.layer < last)),
        tuple(sorted(head for head in induction_heads if head.layer > first)),
    )


@dataclass(frozen=True)
class CircuitNumbers:
    """The numbers that decide whether a circuit is an induction circuit; NaN without a circuit.

    Args:
        previous_token: Score of the best previous-token head, from chance (0) to all attention (1).
        prefix_matching: Score of the best induction head, likewise.
        by_position: previous_token from positions and biases alone in queries and keys.
        k_composition: Of the best pair, from a random pair (0) to the ceiling (1).
        token_matching: Share of tokens that are their own best key in the K-composition circuit of the pair.
        copying: Share of tokens whose own logit is the largest in the OV circuit of the induction heads.
        direct_attribution: Share of the right logit on repeats that the induction heads write directly.
        through_keys: Share that is lost if the keys of the induction heads read other sequences.
        without: Necessity of the circuit.
        alone: One minus the faithfulness of the circuit.
        no_positions: prefix_matching with positional embeddings zero.
    """

    previous_token: float = np.nan
    prefix_matching: float = np.nan
    by_position: float = np.nan
    k_composition: float = np.nan
    token_matching: float = np.nan
    copying: float = np.nan
    direct_attribution: float = np.nan
    through_keys: float = np.nan
    without: float = np.nan
    alone: float = np.nan
    no_positions: float = np.nan

    @classmethod
    def of(cls, network: LoadedModel, sequences: Sequences, circuit: Circuit | None) -> "CircuitNumbers":
        """Measure the numbers of a circuit on some sequences."""
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
            previous_token=previous.values[circuit.previous].item(),
            prefix_matching=_prefix_matching(model, sequences, circuit.induction),
            by_position=position_share(model, batch, circuit.previous),
            k_composition=composition_share(folded, batch, circuit),
            token_matching=matching_shares(folded, sequences, circuit.previous, circuit.induction)[0],
            copying=copying_share(folded, sequences, circuit.induction_heads, 1),
            direct_attribution=share_of(logit, circuit.induction_heads),
            through_keys=lost_through(model, batch, circuit, "k", known),
            without=known.necessity(without),
            alone=1 - known.faithfulness(alone),
            no_positions=without_positions(model, sequences, circuit),
        )


def better_than_chance(model: Model, batch: Batch) -> float:
    """Return ``1 - loss on repeats / loss at chance``."""
    assert batch.task is not None
    return 1 - loss(model, batch).loss_repeats.item() / batch.task.baselines()["chance"]


def position_share(model: Model, batch: Batch, head: Head) -> float:
    """Return previous_token of a head from chance (0) to 1, from positions and biases alone; NaN without positions.

    Queries and keys are the contributions of positions and biases, at the actual scale of LayerNorm.
    """
    try:
        parts = attribute_inputs(model, batch, head)
    except DoesNotApplyError:
        return np.nan
    if "pos_embed" not in parts.component.values:
        return np.nan
    q, k = torch.from_numpy(parts.sel(component=["pos_embed", "constant"]).sum("component").values)
    scores = (
        einops.einsum(q, k, "batch query d_head, batch key d_head -> batch query key")
        / Structure(model.cfg).score_divisor
    )
    uniform = uniform_pattern(model, batch)[0, :, 0]
    pattern = scores.masked_fill(uniform == 0, -torch.inf).softmax(-1)
    found, chance = (each.diagonal(-1, dim1=-2, dim2=-1).mean().item() for each in (pattern, uniform))
    return (found - chance) / (1 - chance)


def composition_share(folded: Model, batch: Batch, circuit: Circuit) -> float:
    """Return K-composition of the best pair, from a random pair (0) to the ceiling (1)."""
    try:
        scores = k_composition(folded, batch).sel(of_pair(circuit.previous, circuit.induction))
    except DoesNotApplyError:
        return np.nan
    null = scores.k_composition_null
    return ((scores.k_composition - null) / (scores.k_composition_ceiling - null)).item()


def matching_shares(folded: Model, sequences: Sequences, h1: Head, h2: Head) -> tuple[float, float]:
    """Return the shares of tokens whose best key, and best query, is the token itself or its synonym."""
    if h1.layer >= h2.layer:
        return np.nan, np.nan
    try:
        circuit = VocabularyCircuit.k_composition(folded, h1, h2)
    except DoesNotApplyError:
        return np.nan, np.nan
    found = (each.renamed(sequences.synonyms).hits(1)[sequences.paired] for each in (circuit, circuit.T))
    key, query = (hits.float().mean().item() for hits in found)
    return key, query


def copying_share(folded: Model, sequences: Sequences, heads: Sequence[Head], k: int) -> float:
    """Return the share of tokens whose own logit, or that of their synonym, is among the top k of these heads."""
    circuit = VocabularyCircuit.ov(folded, heads).renamed(sequences.synonyms)
    return circuit.hits(min(k, folded.cfg.d_vocab))[sequences.paired].float().mean().item()


def lost_through(model: Model, batch: Batch, circuit: Circuit, input: Input, known: Known) -> float:
    """Return the share that is lost if induction heads read previous-token heads on other sequences at one input."""
    try:
        hooks = through_paths(model, batch, circuit.previous_heads, circuit.induction_heads, input)
    except DoesNotApplyError:
        return np.nan
    with hooked_forward_pass(model, hooks):
        patched = loss(model, batch).loss_repeats.item()
    return known.necessity(patched)


def without_positions(model: Model, sequences: Sequences, circuit: Circuit) -> float:
    """Return prefix_matching of the induction head without positions; NaN without positions or induction head."""
    there = _prefix_matching(model, sequences, circuit.induction)
    if there < MAINLY or Structure(model.cfg).position_point is None:
        return np.nan
    with hooked_forward_pass(model, [("hook_pos_embed", to_zero)]):
        return _prefix_matching(model, sequences, circuit.induction)


def _prefix_matching(model: Model, sequences: Sequences, head: Head) -> float:
    scores = prefix_matching(model, sequences.batch, sequences.same)
    return way_from_chance(scores, "prefix_matching").values[head].item()


def share_of(terms: xr.DataArray, heads: Sequence[Head]) -> float:
    """Return the share of the sum over all components that these heads contribute."""
    return (terms.sel(component=[str(head) for head in heads]).sum() / terms.sum()).item()


def parts_of(batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
    """Return the parts of the batch: ``first`` (new tokens) and ``repeats``."""
    assert batch.task is not None
    return batch.task.parts(batch)


def of_pair(h1: Head, h2: Head) -> dict[str, int]:
    """Return the index of a pair in scores of pairs of heads."""
    return {"from_layer": h1.layer, "from_head": h1.head, "to_layer": h2.layer, "to_head": h2.head}
