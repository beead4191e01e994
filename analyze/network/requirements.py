"""Requirements of measures on a network and a batch, and the errors they raise.

A measure that has no meaning for a network or a batch raises DoesNotApplyError, and scoring goes on without it. A
wrong argument, or a weight that is NaN or infinite, is a plain ValueError.
"""

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import einops
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headway.analyze.network.structure import Structure
from headway.data.task import Batch, check_positions
from headway.models.bridge_versions import norm_follows_attention
from headway.models.config import Head
from headway.models.convert import Model, evaluating, input_type, is_bridge

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class DoesNotApplyError(ValueError):
    """The measure has no meaning for this network or batch."""


class NotNumbersError(ValueError):
    """The weights or outputs of the network are NaN or infinite."""

    def __init__(self, what: str):
        super().__init__(f"model: its {what} is NaN or infinite; training diverged, or a file is damaged")


def needs_tokens(measure: str, batch: Batch) -> None:
    """Refuse a batch of vectors."""
    if batch.inputs.is_floating_point():
        raise DoesNotApplyError(f"{measure} needs tokens; this batch has vectors")


def needs_vectors(measure: str, batch: Batch) -> None:
    """Refuse a batch of tokens."""
    if not batch.inputs.is_floating_point():
        raise DoesNotApplyError(f"{measure} needs vectors; this batch has tokens")


def needs_positions(measure: str, batch: Batch, least: int) -> None:
    """Refuse sequences of fewer than ``least`` positions."""
    length = batch.inputs.shape[1]
    if length < least:
        raise DoesNotApplyError(f"{measure} needs sequences of at least {least} positions; these have {length}")


def needs_layers(measure: str, model: Model) -> None:
    """Refuse a network with one layer, in which no head reads another."""
    if model.cfg.n_layers < 2:
        raise DoesNotApplyError(f"{measure} needs heads in an earlier and a later layer; this network has 1 layer")


def needs_same_outputs(measure: str, model: Model, batch: Batch) -> None:
    """Refuse a network whose outputs do not stand for its inputs: it has other numbers of them, or other meanings."""
    if model.cfg.d_vocab != model.cfg.d_vocab_out:
        raise DoesNotApplyError(
            f"{measure} needs as many outputs as inputs; this network has {model.cfg.d_vocab} and "
            f"{model.cfg.d_vocab_out}"
        )
    if not batch.outputs_are_inputs:
        raise DoesNotApplyError(f"{measure} needs outputs that stand for the inputs; those of this task do not")


def needs_direct_writes(measure: str, model: Model) -> None:
    """Refuse a network whose heads do not add ``z W_O`` to the residual stream."""
    for block in model.blocks:
        beside = {"linear_attn", "mamba", "mixer", "ssm"} & dict(block.named_children()).keys()
        for holds, what in (
            (norm_follows_attention(block), "a norm follows attention"),
            (getattr(block, "residual_contribution_scale", 1.0) != 1.0, "a number scales the output of attention"),
            (bool(beside), "another module mixes positions beside attention"),
        ):
            if holds:
                raise DoesNotApplyError(
                    f"{measure} needs heads that add z W_O to the residual stream; in this network {what}"
                )


def needs_own_inputs(measure: str, model: Model) -> None:
    """Refuse a network whose heads have no queries, keys and values of their own: several share a key head."""
    cfg, n_heads = model.cfg, model.cfg.n_heads
    of_layers = getattr(cfg, "per_layer_num_key_value_heads", None) or ()
    shared = next((n for n in (getattr(cfg, "n_key_value_heads", None), *of_layers) if n not in (None, n_heads)), None)
    if shared is not None:
        raise DoesNotApplyError(
            f"{measure} needs a query, key and value input for each head; this network has {n_heads} query heads over "
            f"{shared} key heads"
        )


def no_attention_weights() -> DoesNotApplyError:
    """Return the error for a bridge whose attention kernel exposes neither scores nor patterns."""
    return DoesNotApplyError(
        "model: its attention exposes no scores and no patterns; load it with attn_implementation='eager'"
    )


def needs_plain_scores(measure: str, model: Model) -> None:
    """Refuse networks whose attention scores are not ``x W_Q W_K.T y / sqrt(d_head)``, or whose keys are shared.

    ``Structure.why_scores_are_not_plain`` gives the reasons.
    """
    _refuse_scores(measure, model, Structure(model.cfg).why_scores_are_not_plain())


def needs_content_scores(measure: str, model: Model) -> None:
    """Refuse networks whose attention scores lack the term ``x W_Q W_K.T y / sqrt(d_head)``, or whose keys are shared.

    With relative positions the scores have another term, of queries alone, beside the one that these weights make.
    """
    _refuse_scores(measure, model, Structure(model.cfg).why_content_is_not_plain())


def _refuse_scores(measure: str, model: Model, what: str | None) -> None:
    if what is not None:
        raise DoesNotApplyError(
            f"{measure} needs attention scores x W_Q W_K.T y / sqrt(d_head), with positions in the residual stream "
            f"or none; this network has {what}"
        )
    if is_bridge(model) and not _scores_are_plain_of(model):
        raise DoesNotApplyError(
            f"{measure} needs attention scores x W_Q W_K.T y / sqrt(d_head) of every earlier key; this network has "
            "others (another scale, or a window)"
        )


# Remembered for each bridge, because the check takes a forward pass.
_plain_scores: "WeakKeyDictionary[TransformerBridge, bool]" = WeakKeyDictionary()


def _scores_are_plain_of(bridge: "TransformerBridge") -> bool:
    if bridge not in _plain_scores:
        _plain_scores[bridge] = _scores_are_plain(bridge)
    return _plain_scores[bridge]


def _scores_are_plain(bridge: "TransformerBridge") -> bool:
    """Compare the scores of a few tokens with their queries and keys, which a bridge's configuration cannot settle."""
    config = bridge.original_model.config
    if any(getattr(config, window, None) for window in ("window_size", "sliding_window")):
        return False
    tokens = torch.arange(min(bridge.cfg.n_ctx, 8), device=bridge.cfg.device)[None] % bridge.cfg.d_vocab
    endings = ("attn.hook_q", "attn.hook_k", "attn.hook_attn_scores")
    with torch.no_grad(), evaluating(bridge):
        _, cache = bridge.run_with_cache(
            tokens, return_cache_object=False, names_filter=lambda name: name.endswith(endings)
        )
    if not all(f"blocks.{layer}.{endings[-1]}" in cache for layer in range(bridge.cfg.n_layers)):
        raise no_attention_weights()
    for layer in range(bridge.cfg.n_layers):
        q, k, scores = (cache[f"blocks.{layer}.{ending}"] for ending in endings)
        plain = einops.einsum(q, k, "batch query head d, batch key head d -> batch head query key")
        plain = plain / Structure(bridge.cfg).score_divisor
        visible = torch.ones_like(scores[0, 0], dtype=torch.bool)
        if bridge.cfg.attention_dir == "causal":
            visible = visible.tril()
        if not torch.allclose(plain[..., visible], scores[..., visible], rtol=1e-3, atol=1e-3):
            return False
    return True


def check_layer(model: Model, layer: int) -> None:
    """Refuse a layer that does not exist."""
    if not 0 <= layer < model.cfg.n_layers:
        raise ValueError(f"layer: {layer} does not exist; this network has layers 0 to {model.cfg.n_layers - 1}")


def check_head(model: Model, head: Head, option: str = "head") -> Head:
    """Return the head (a pair of integers will do), and refuse one that does not exist, by the name of the option."""
    head = Head(*head)
    if not (0 <= head.layer < model.cfg.n_layers and 0 <= head.head < model.cfg.n_heads):
        last = Head(model.cfg.n_layers - 1, model.cfg.n_heads - 1)
        raise ValueError(f"{option}: {head} does not exist; this network has L0H0 to {last}")
    return head


def check_batch(model: Model, batch: Batch) -> None:
    """Refuse inputs that are not sequences of the network's input type."""
    kind = "vectors" if batch.inputs.is_floating_point() else "tokens"
    if kind != input_type(model):
        raise ValueError(f"batch: it has {kind}; this network takes {input_type(model)}")
    shape = tuple(batch.inputs.shape)
    if len(shape) != (3 if kind == "vectors" else 2) or 0 in shape:
        raise ValueError(f"batch: its inputs have the shape {shape}; they must be sequences of {kind}")
    if batch.mask.dtype != torch.bool:
        raise ValueError(f"batch: its mask is {batch.mask.dtype}; it must be torch.bool")
    if batch.attention_mask is not None:
        check_positions(batch)


def check_targets(output: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> None:
    """Refuse targets that the output cannot hold where they count, and a batch whose mask is False everywhere."""
    outputs, targets = output.shape[-1], batch.targets
    for name, shape in (("mask", batch.mask.shape), ("targets", targets.shape[:2])):
        if shape != output.shape[:2]:
            raise ValueError(
                f"batch: its {name} has the shape {tuple(shape)}; it must have that of the inputs, "
                f"{tuple(output.shape[:2])}"
            )
    if targets.is_floating_point() and targets.shape[-1] != outputs:
        raise ValueError(f"batch: its targets have {targets.shape[-1]} entries; this network outputs {outputs}")
    if not batch.mask.any():
        raise DoesNotApplyError(
            "loss: the mask of this batch is False everywhere; it must be True at one position at least"
        )
    counted = targets[batch.mask]
    if not targets.is_floating_point() and not 0 <= counted.min() <= counted.max() < outputs:
        raise ValueError(
            f"batch: its targets are {counted.min()} to {counted.max()}; this network outputs 0 to {outputs - 1}"
        )


def readable_targets(batch: Batch, outputs: int) -> Int[Tensor, "batch pos"]:
    """Return targets that are tokens or classes, with 0 for those that are none: where they do not count they may be.

    Example:
        >>> targets = torch.tensor([[-100, 3]])
        >>> readable_targets(Batch(targets, targets, targets > 0), outputs=5).tolist()
        [[0, 3]]
    """
    return batch.targets.where((batch.targets >= 0) & (batch.targets < outputs), 0)
