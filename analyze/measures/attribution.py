"""Attribution: outputs and attention scores as sums of contributions of the network's components.

The residual stream is a sum over components: the embedding, the positions, each head (without biases), each b_O, each
MLP (with its b_out). Its readers are linear, except for the scale that a LayerNorm divides by, and this scale is taken
from the forward pass. So an output or a score is a sum of one term per component and one constant, and every function
here checks that its terms add up to the value that the network computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import einops
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.analyze.measures.attention import STORED_SEQUENCES
from headway.analyze.network.forward import Activations, forward_pass, with_positions
from headway.analyze.network.interventions import heads_except
from headway.analyze.network.requirements import (
    DoesNotApplyError,
    check_head,
    check_layer,
    check_targets,
    needs_direct_writes,
    needs_plain_scores,
    needs_positions,
    readable_targets,
)
from headway.analyze.network.structure import Structure
from headway.analyze.network.weights import bias, weight
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model, evaluating

# Tolerance for sums of terms, relative to the largest number in them.
ROUNDING = 1e-4


def direct_attribution(model: Model, batch: Batch) -> xr.Dataset:
    """Direct contribution of each component to the target's logit, or along the target vector.

    ``direct_attribution`` [component] is the mean over the positions in the mask, with
    ``direct_attribution_by_position`` [component, pos] and ``direct_attribution_<part>`` [component] for each part of
    the task: means of ``attribute_outputs``, which gives the formula. Any number; no null, but the components add up to
    the mean logit. For vectors the weight of a target is its squared norm, so that the components add up to ``sum
    <output, target> / sum <target, target>`` and targets near zero do not dominate. Elhage et al. 2021 and Wang et al.
    2022 (direct logit attribution). It does not show contributions through later layers.

    Raises:
        ValueError: terms that do not add up, in a network whose residual stream is not a plain sum.
    """
    names, each = _output_terms(model, batch)
    weights = (batch.targets**2).sum(-1) if batch.targets.is_floating_point() else torch.ones_like(each[0])
    weights = weights.where(batch.mask, 0)  # a target that does not count can be NaN
    each = each.nan_to_num(0)  # NaN where the target is zero, which has weight 0

    def mean(weights: Float[Tensor, "batch pos"], over: str) -> Float[Tensor, "component *pos"]:
        share = einops.reduce(each * weights, f"component batch pos -> {over}", "sum")
        return share / einops.reduce(weights, f"batch pos -> {over.removeprefix('component')}", "sum")

    scores = {
        "direct_attribution": (("component",), mean(weights, "component")),
        "direct_attribution_by_position": (("component", "pos"), mean(weights, "component pos")),
    }
    for part, mask in (batch.task.parts(batch) if batch.task is not None else {}).items():
        scores[f"direct_attribution_{part}"] = (("component",), mean(weights * mask, "component"))
    return xr.Dataset(
        {name: (axes, values.cpu().numpy()) for name, (axes, values) in scores.items()}, coords={"component": names}
    )


def attribute_outputs(model: Model, batch: Batch, over_mean: bool = False) -> xr.DataArray:
    """Return the direct contribution of each component to each output, in its units: [component, batch, pos].

    The vector of a component is centred (a LayerNorm subtracts the mean), divided by the scale of ln_final in this
    forward pass, and multiplied by ``ln_final.w * W_U[:, target]``; ``constant`` is ``b_U + ln_final.b @ W_U`` and is
    not divided. For tokens the sum over components is the target's logit. For vectors the output is a prediction, and
    each term is ``<term, target> / <target, target>``: the sum is 1 for a perfect prediction, NaN where the target is
    zero.

    Args:
        model: The network.
        batch: Inputs, and the targets whose outputs are split.
        over_mean: For tokens, subtract from each term its mean over the vocabulary, which leaves the contribution to
            the target's logit relative to the other logits.

    Raises:
        DoesNotApplyError: ``over_mean`` for vectors.
        ValueError: terms that do not add up; the message names the first component that breaks the sum.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> terms = attribute_outputs(*composing_pair("k")).sel(batch=0, pos=16)  # a repeat: L1H1 copies its token
        >>> str(terms.idxmax().item())
        'L1H1'
    """
    names, terms = _output_terms(model, batch, over_mean)
    return xr.DataArray(terms.cpu().numpy(), dims=("component", "batch", "pos"), coords={"component": names})


def attribute_sources(
    model: Model, batch: Batch, positions: Int[Tensor, "batch"] | None = None, over_mean: bool = False
) -> xr.DataArray:
    """Return the direct contribution of each head to an output by source position: [head, batch, source].

    ``pattern[q, k] * (v_k @ W_O · reader_q)`` for the position q of each sequence: v_k is the head's value at source k,
    with b_V, and reader_q is the vector by which ``attribute_outputs`` multiplies a component at q. In units of the
    output; the sum over sources is the head's term in ``attribute_outputs``, and a masked source contributes 0. It does
    not show which component wrote the value, nor why the head attends to the source; a source with much attention
    contributes nothing if its value is orthogonal to the reader.

    Args:
        model: The network.
        batch: Inputs, and the targets whose outputs are split.
        positions: The position in each sequence whose output is split; None takes all: [head, batch, pos, source].
        over_mean: As in ``attribute_outputs``.

    Raises:
        DoesNotApplyError: heads with shared values; ``over_mean`` for vectors.
        ValueError: a position that does not exist; terms that do not add up to those of the heads.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> model, batch = composing_pair("k")
        >>> positions = torch.full((len(batch.inputs),), 16)
        >>> taken = attribute_sources(model, batch, positions).sel(head="L1H1", batch=0)
        >>> bool(batch.inputs[0, taken.values.argmax()] == batch.targets[0, 16])  # the token that L1H1 copies
        True
    """
    needs_direct_writes("attribute_sources", model)
    shared = getattr(model.cfg, "n_key_value_heads", None)
    if shared not in (None, model.cfg.n_heads):
        raise DoesNotApplyError(
            f"attribute_sources needs a value of its own for each head; this network has {model.cfg.n_heads} query "
            f"heads over {shared} value heads"
        )
    index = _position_index(batch, positions)
    cache, W_O = forward_pass(model, batch).activations, weight(model, "W_O")
    reader = _read_output(model, batch, over_mean).reader[index]
    terms, expected = [], []
    for layer in range(model.cfg.n_layers):
        block = f"blocks.{layer}.attn"
        of_values = einops.einsum(W_O[layer], reader, "head d_head d_model, batch q d_model -> batch q head d_head")
        v, z = cache[f"{block}.hook_v"], cache[f"{block}.hook_z"][index]
        output_of_value = einops.einsum(v, of_values, "batch k head d_head, batch q head d_head -> head batch q k")
        pattern = cache[f"{block}.hook_pattern"][index[0], :, index[1]]
        terms.append(einops.rearrange(pattern, "batch q head k -> head batch q k") * output_of_value)
        expected.append(einops.einsum(z, of_values, "batch q head d_head, batch q head d_head -> head batch q"))
    by_source = torch.cat(terms)
    if not _adds_up(model, einops.rearrange(by_source, "head batch q k -> k head batch q"), torch.cat(expected)):
        raise DoesNotApplyError(
            "attribute_sources: the terms do not add up to those of the heads, whose outputs are not sums of values"
        )
    heads = [str(head) for head in heads_except(model)]
    split = xr.DataArray(by_source.cpu().numpy(), dims=("head", "batch", "pos", "source"), coords={"head": heads})
    return split if positions is None else split.isel(pos=0)


def _position_index(
    batch: Batch, positions: Int[Tensor, "batch"] | None
) -> tuple[Int[Tensor, "batch 1"], Int[Tensor, "batch query"]]:
    """Return the index of one position in each sequence, or of all positions."""
    (sequences, length), device = batch.inputs.shape[:2], batch.inputs.device
    each = torch.arange(sequences, device=device)[:, None]
    if positions is None:
        return each, torch.arange(length, device=device).expand(sequences, length)
    if positions.shape != (sequences,):
        raise ValueError(f"positions: {len(positions)} given; there must be {sequences}, one for each sequence")
    for position in positions.tolist():
        if not 0 <= position < length:
            raise ValueError(f"positions: {position} does not exist; this batch has 0 to {length - 1}")
    return each, positions.to(device)[:, None]


def _output_terms(
    model: Model, batch: Batch, over_mean: bool = False
) -> tuple[list[str], Float[Tensor, "component batch pos"]]:
    needs_direct_writes("direct_attribution", model)
    read = _read_output(model, batch, over_mean)
    cache, n_layers = forward_pass(model, batch).activations, model.cfg.n_layers
    written = _component_outputs(model, cache, n_layers)
    products = [
        einops.einsum(term.vectors, read.reader, "batch pos d_model, batch pos d_model -> batch pos")
        for term in written
    ]
    terms = torch.stack([*products, read.constant])
    if not _adds_up(model, terms, read.total):
        raise DoesNotApplyError(
            f"direct_attribution: the terms do not add up to the output; {_first_gap(model, cache, n_layers)}"
        )
    return [*(term.component for term in written), "constant"], terms


class _Output(NamedTuple):
    """One output at each position as an affine function of the residual stream: total = resid · reader + constant."""

    reader: Float[Tensor, "batch pos d_model"]
    constant: Float[Tensor, "batch pos"]
    total: Float[Tensor, "batch pos"]


def _read_output(model: Model, batch: Batch, over_mean: bool) -> _Output:
    result = forward_pass(model, batch)
    output, cache = result.output, result.activations
    W_U, b_U = weight(model, "W_U"), bias(model, "b_U")
    check_targets(output, batch)
    targets = batch.targets
    if targets.is_floating_point():
        if over_mean:
            raise DoesNotApplyError("over_mean needs tokens; the targets of this batch are vectors")
        square = einops.einsum(targets, targets, "batch pos d, batch pos d -> batch pos")
        columns = targets / square.where(square > 0, torch.nan)[..., None]
        to_output = einops.einsum(columns, W_U, "batch pos d_vocab, d_model d_vocab -> batch pos d_model")
        constant, total = columns @ b_U, einops.reduce(columns * output, "batch pos d_vocab -> batch pos", "sum")
    else:
        if over_mean:
            W_U, b_U = W_U - W_U.mean(-1, keepdim=True), b_U - b_U.mean()
            output = output - output.mean(-1, keepdim=True)
        targets = readable_targets(batch, output.shape[-1])
        to_output = einops.rearrange(W_U, "d_model d_vocab -> d_vocab d_model")[targets]
        constant, total = b_U[targets], output.gather(-1, targets[..., None])[..., 0]
    norm = _Reader.of(model, getattr(model, "ln_final", None))
    scale = cache["ln_final.hook_scale"] if norm.normalizes else 1.0
    return _Output(norm.through(to_output) / scale, constant + to_output @ norm.shift, total)


def qk_attribution(model: Model, batch: Batch) -> xr.Dataset:
    """Spread of the contribution of each pair of components to a head's attention score.

    ``qk_attribution`` [layer, head, query_component, key_component]: the standard deviation of ``attribute_scores``,
    which gives the formula, over all visible (query, key) of the first 4 sequences; a term that is the same everywhere
    moves no attention. 0 or more, in units of attention scores; NaN for components that a layer does not read. No null,
    but the terms add up to the score. In an induction head the largest pair is (embed, the previous-token head). It
    does not show the sign of a contribution, nor whether it changes the softmax.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary, relative positions; grouped heads).
        ValueError: terms that do not add up to the attention scores.
    """
    needs_plain_scores("qk_attribution", model)
    needs_positions("qk_attribution", batch, 2)
    few = batch.first(STORED_SEQUENCES)
    spreads, read_by, names = [], [], []
    for layer in range(model.cfg.n_layers):
        of_heads = []
        for head in range(model.cfg.n_heads):
            names, scores, visible = _score_terms(model, few, Head(layer, head))
            visible = visible & few.real[:, :, None]
            of_heads.append(scores[:, :, visible].std(-1))
        spreads.append(torch.stack(of_heads))
        read_by.append(names)
    spread = torch.full((len(spreads), *spreads[-1].shape), torch.nan)
    for layer, of_layer in enumerate(spreads):
        at = torch.tensor([names.index(name) for name in read_by[layer]])
        spread[layer, :, at[:, None], at[None, :]] = of_layer.float().cpu()
    axes = ("layer", "head", "query_component", "key_component")
    labels = {"query_component": names, "key_component": names}
    return xr.Dataset({"qk_attribution": (axes, spread.numpy())}, coords=labels)


def attribute_scores(model: Model, batch: Batch, head: Head) -> xr.DataArray:
    """Return the contribution of each pair of components to a head's scores: [query_component, key_component, ...].

    The other axes are batch, query, key. ``score[i, j] = q_i · k_j / sqrt(d_head)``, with q_i the vector of a
    component, centred, divided by the scale of ln1 in this forward pass and multiplied by ``ln1.w * W_Q``; the
    ``constant`` of a query is ``b_Q + ln1.b @ W_Q`` and is not divided; keys likewise. Shortformer positions enter
    after ln1 and are not divided. The sum over both components is the score before the softmax; masked keys are NaN.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary, relative positions; grouped heads).
        ValueError: a head that does not exist, terms that do not add up; the message names the first gap.
    """
    names, scores, visible = _score_terms(model, batch, head)
    return xr.DataArray(
        scores.where(visible, torch.nan).cpu().numpy(),
        dims=("query_component", "key_component", "batch", "query", "key"),
        coords={"query_component": names, "key_component": names},
    )


def attribute_inputs(model: Model, batch: Batch, head: Head) -> xr.DataArray:
    """Return the contribution of each component to a head's queries and keys: [input, component, batch, pos, d_head].

    The input is q or k. These are the q_i and k_j of ``attribute_scores``; over components they add up to the query and
    the key.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary, relative positions; grouped heads).
        ValueError: a head that does not exist.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> parts = attribute_inputs(*composing_pair("k"), Head(1, 1)).sel(batch=0, pos=3)
        >>> lengths = (parts**2).sum("d_head")
        >>> lengths.idxmax("component").values.tolist()  # queries read the token, keys the previous-token head
        ['embed', 'L0H0']
    """
    names, q, k = _split_inputs(model, batch, check_head(model, head))
    return xr.DataArray(
        torch.stack([q, k]).cpu().numpy(),
        dims=("input", "component", "batch", "pos", "d_head"),
        coords={"input": ["q", "k"], "component": names},
    )


def _score_terms(
    model: Model, batch: Batch, head: Head
) -> tuple[list[str], Float[Tensor, "i j batch query key"], Bool[Tensor, "batch query key"]]:
    head = check_head(model, head)
    names, q, k = _split_inputs(model, batch, head)
    cache, block = forward_pass(model, batch).activations, f"blocks.{head.layer}"
    scores = einops.einsum(q, k, "i batch query d_head, j batch key d_head -> i j batch query key")
    scores = scores / Structure(model.cfg).score_divisor
    total = cache[f"{block}.attn.hook_attn_scores"][:, head.head]
    visible = _visible(total)
    if not _adds_up(model, scores[:, :, visible].flatten(0, 1), total[visible]):
        raise DoesNotApplyError(
            f"qk_attribution: the terms do not add up to the scores of {head}; {_first_gap(model, cache, head.layer)}"
        )
    return names, scores, visible


def _split_inputs(
    model: Model, batch: Batch, head: Head
) -> tuple[list[str], Float[Tensor, "component batch pos d_head"], Float[Tensor, "component batch pos d_head"]]:
    """Return the components, and their contributions to the head's queries and to its keys."""
    needs_plain_scores("attribute_scores", model)
    cache = forward_pass(model, batch).activations
    block = f"blocks.{head.layer}"
    reader = _Reader.of(model, model.blocks[head.layer].ln1)
    scale = cache[f"{block}.ln1.hook_scale"] if reader.normalizes else torch.ones(1, device=batch.inputs.device)
    if scale.ndim > 3:  # one scale per head, because heads have separate inputs
        scale = scale[:, :, head.head]
    written, structure = _component_outputs(model, cache, head.layer), Structure(model.cfg)
    sides = []
    for side in "QK":
        W, b = weight(model, f"W_{side}")[head.layer, head.head], bias(model, f"b_{side}")[head.layer, head.head]
        read = reader.through(W.T).T
        parts = {term.component: term.vectors / scale @ read for term in written}
        if structure.positions_after_norm:
            parts["pos_embed"] = cache["hook_pos_embed"] @ W
        parts["constant"] = (b + reader.shift @ W).expand_as(parts["embed"])
        sides.append(parts)
    q, k = (torch.stack(list(parts.values())) for parts in sides)
    return list(sides[0]), q, k


@dataclass(frozen=True)
class AffineScore:
    """A head's attention score as an affine function of one side, with the other side fixed: ``x @ map + bias``.

    x is the input of the head after LayerNorm: ``normalized * w + b`` of ln1.
    """

    map: Float[Tensor, "batch fixed d_model"]
    bias: Float[Tensor, "batch fixed"]

    def at(self, index: Int[Tensor, "batch"]) -> "AffineScore":
        """Return the score at one fixed position per sequence, given by its index among the fixed positions."""
        sequences = torch.arange(len(index), device=index.device)
        return AffineScore(self.map[sequences, index][:, None], self.bias[sequences, index][:, None])

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos fixed"]:
        """Return the scores of vectors on the free side."""
        return (
            einops.einsum(x, self.map, "batch pos d_model, batch fixed d_model -> batch pos fixed") + self.bias[:, None]
        )


def score_given_keys(model: Model, batch: Batch, head: Head, keys: Sequence[int]) -> AffineScore:
    """Return a head's score as a function of the query's input vector, with the keys at some positions fixed.

    The map is ``W_Q k / sqrt(d_head)``, the bias ``b_Q · k / sqrt(d_head)``, with k the head's key at each position of
    ``keys`` in this forward pass. The scores of several keys add up to the score of their sum.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary, relative positions; grouped heads).
        ValueError: a head or position that does not exist; a formula that does not reproduce the head's scores.

    Example:
        >>> from headway.models.handmade import previous_token_head
        >>> model, batch = previous_token_head()
        >>> score = score_given_keys(model, batch, Head(0, 0), keys=[4])
        >>> score(reads(model, batch, layer=0))[0, :, 0].argmax().item()  # position 5 attends to position 4
        5
    """
    return _affine("Q", "K", model, batch, head, keys)


def score_given_queries(model: Model, batch: Batch, head: Head, queries: Sequence[int]) -> AffineScore:
    """Return a head's score as a function of the key's input vector, with the queries at some positions fixed.

    The map is ``W_K q / sqrt(d_head)``, the bias ``b_K · q / sqrt(d_head)``: the mirror image of ``score_given_keys``.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary, relative positions; grouped heads).
        ValueError: a head or position that does not exist; a formula that does not reproduce the head's scores.
    """
    return _affine("K", "Q", model, batch, head, queries)


def reads(model: Model, batch: Batch, layer: int) -> Float[Tensor, "batch pos d_model"]:
    """Return the input of a layer's queries and keys: ln1 of the residual stream, plus any shortformer positions."""
    check_layer(model, layer)
    cache = forward_pass(model, batch).activations
    norm = _input_norm(model, layer)
    name = f"blocks.{layer}.ln1.hook_normalized"
    x = cache[name] if name in cache else cache[f"blocks.{layer}.hook_resid_pre"]
    w, b = getattr(norm, "w", None), getattr(norm, "b", None)
    x = x if w is None else x * w.detach().to(x.dtype)
    x = x if b is None else x + b.detach().to(x.dtype)
    return with_positions(model, x, cache)


def _input_norm(model: Model, layer: int) -> Any:
    """Return ln1 of a layer; refuse a network whose heads read the residual stream as it is and are normed after it."""
    norm = getattr(model.blocks[layer], "ln1", None)
    if norm is None:
        raise DoesNotApplyError("attribution needs a norm before attention; in this network norms only follow it")
    return norm


def as_read(model: Model, layer: int, vectors: Float[Tensor, "*some d_model"]) -> Float[Tensor, "*some d_model"]:
    """Return ln1 of vectors, normalised by their own scale, as a layer's heads would read them.

    Use it to pass residual streams of your own to ``score_given_keys`` and ``score_given_queries``; it adds no
    shortformer positions.

    Example:
        >>> from headway.models.config import ModelConfig
        >>> from headway.models.hooked_transformer import HookedTransformer
        >>> model = HookedTransformer(ModelConfig(n_layers=1, d_model=5, n_ctx=7, d_head=3, n_heads=2, d_vocab=11))
        >>> round((as_read(model, 0, 9 * torch.eye(5)) ** 2).mean().item(), 3)
        1.0
    """
    check_layer(model, layer)
    with torch.no_grad(), evaluating(model):
        flat = vectors.reshape(1, -1, vectors.shape[-1]).to(model.W_O.dtype)
        return _input_norm(model, layer)(flat).to(vectors.dtype).reshape(vectors.shape)


def as_scaled(
    model: Model, batch: Batch, layer: int, vector: Float[Tensor, "d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """Return the contribution of a vector in the residual stream to the input of a layer's heads, at each position.

    The vector is centred, divided by the scale of ln1 at the position in this forward pass, and multiplied by ln1.w.
    """
    check_layer(model, layer)
    reader = _Reader.of(model, _input_norm(model, layer))
    scale = forward_pass(model, batch).activations[f"blocks.{layer}.ln1.hook_scale"] if reader.normalizes else 1.0
    centred = vector - vector.mean() if reader.centres else vector
    return (centred * reader.w).expand(*batch.inputs.shape, -1) / scale


def unembedding(model: Model) -> Float[Tensor, "d_model d_vocab_out"]:
    """Return W_U with the weights of ln_final folded in, and centred over d_model if ln_final centres.

    A vector times this matrix, divided by the scale of ln_final, gives logits without biases.

    Example:
        >>> from headway.models.handmade import copying_head
        >>> model, _ = copying_head()  # no LayerNorm
        >>> bool((unembedding(model) == model.W_U).all())
        True
    """
    reader = _Reader.of(model, getattr(model, "ln_final", None))
    return reader.through(weight(model, "W_U").T).T


def _affine(free: str, fixed: str, model: Model, batch: Batch, head: Head, positions: Sequence[int]) -> AffineScore:
    name = "score_given_keys" if free == "Q" else "score_given_queries"
    needs_plain_scores(name, model)
    head = check_head(model, head)
    length = batch.inputs.shape[1]
    if not len(positions):
        raise ValueError("position: none is given; give at least one")
    for position in positions:
        if not 0 <= position < length:
            raise ValueError(f"position: {position} does not exist; this batch has 0 to {length - 1}")
    x = reads(model, batch, head.layer)
    weights = {side: weight(model, f"W_{side}")[head.layer, head.head] for side in "QK"}
    biases = {side: bias(model, f"b_{side}")[head.layer, head.head] for side in "QK"}
    vectors = (x[:, list(positions)] @ weights[fixed] + biases[fixed]) / Structure(model.cfg).score_divisor
    score = AffineScore(vectors @ weights[free].T, vectors @ biases[free])
    total = forward_pass(model, batch).activations[f"blocks.{head.layer}.attn.hook_attn_scores"][:, head.head]
    real = total[:, :, list(positions)] if free == "Q" else total[:, list(positions)].mT
    visible = _visible(real)
    if not _adds_up(model, score(x)[visible][None], real[visible]):
        raise ValueError(
            f"{name}: the formula does not reproduce the scores of {head} on this batch; the network computes others"
        )
    return score


@dataclass(frozen=True)
class _Reader:
    """The LayerNorm between the residual stream and its reader: ``(x - mean x) / scale * w + b``, or the identity."""

    normalizes: bool
    centres: bool
    w: Tensor
    shift: Float[Tensor, "d_model"]

    @classmethod
    def of(cls, model: Model, norm: torch.nn.Module | None) -> "_Reader":
        structure, W_E = Structure(model.cfg), weight(model, "W_E")
        w, b = (getattr(norm, name, None) if structure.normalizes else None for name in ("w", "b"))
        return cls(
            normalizes=structure.normalizes,
            centres=structure.centres,
            w=W_E.new_ones(model.cfg.d_model) if w is None else w.detach().to(W_E.dtype),
            shift=W_E.new_zeros(model.cfg.d_model) if b is None else b.detach().to(W_E.dtype),
        )

    def through(self, directions: Float[Tensor, "*some d_model"]) -> Float[Tensor, "*some d_model"]:
        """Return directions to multiply the residual stream by; centring them is the same as centring the stream."""
        weighted = directions * self.w
        return weighted - weighted.mean(-1, keepdim=True) if self.centres else weighted


class _Term(NamedTuple):
    """Output of one component to the residual stream; the embedding and the positions have layer -1."""

    component: str
    layer: int
    vectors: Float[Tensor, "batch pos d_model"]


def _component_outputs(model: Model, cache: Activations, before: int) -> list[_Term]:
    """Return the outputs of all components before block ``before``, in the order of the network."""
    W_O, b_O = weight(model, "W_O"), bias(model, "b_O")
    embed = cache["hook_embed"]
    terms = [_Term("embed", -1, embed)]
    if "hook_pos_embed" in cache and not Structure(model.cfg).positions_after_norm:
        terms.append(_Term("pos_embed", -1, cache["hook_pos_embed"]))
    for layer in range(before):
        z = cache[f"blocks.{layer}.attn.hook_z"]
        results = einops.einsum(z, W_O[layer], "batch pos head d_head, head d_head d_model -> head batch pos d_model")
        terms += [_Term(str(Head(layer, head)), layer, result) for head, result in enumerate(results)]
        terms.append(_Term(f"{layer}_b_O", layer, b_O[layer].expand_as(embed)))
        if f"blocks.{layer}.hook_mlp_out" in cache:
            terms.append(_Term(f"{layer}_mlp_out", layer, cache[f"blocks.{layer}.hook_mlp_out"]))
    return terms


def _visible(scores: Float[Tensor, "batch query key"]) -> Bool[Tensor, "batch query key"]:
    """Return True where a key is visible: masked scores are -inf, or near the lowest number of their type."""
    return scores > torch.finfo(scores.dtype).min / 2


def _adds_up(model: Model, terms: Float[Tensor, "term *some"], expected: Float[Tensor, "*some"]) -> bool:
    """Return True if the terms add up to ``expected`` up to rounding, wherever that is not NaN.

    The tolerance is relative to the largest number, be it a term or a sum, because large terms may cancel.
    """
    defined = ~expected.isnan()
    if not defined.any():
        return True
    terms, expected = terms[:, defined], expected[defined]
    largest = max(1.0, expected.abs().max().item(), terms.abs().max().item())
    rounding = max(ROUNDING, 8 * torch.finfo(model.W_U.dtype).eps)  # larger in half precision
    return bool(((terms.sum(0) - expected).abs() <= rounding * largest).all())


def _first_gap(model: Model, cache: Activations, before: int) -> str:
    """Name the first layer at which the components do not add up to the residual stream, for an error message."""
    written = _component_outputs(model, cache, before)
    for layer in range(-1, before):
        last = layer + 1 == model.cfg.n_layers
        point = f"blocks.{layer}.hook_resid_post" if last else f"blocks.{layer + 1}.hook_resid_pre"
        terms = [term for term in written if term.layer <= layer]
        if not _adds_up(model, torch.stack([term.vectors for term in terms]), cache[point]):
            names = ", ".join(term.component for term in terms if term.layer == layer)
            return f"{names} and earlier components do not add up to {point}"
    return "they add up to the residual stream, so its reader is not a plain LayerNorm and matrix"
