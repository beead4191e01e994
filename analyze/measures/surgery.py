"""Identity surgery: the loss when a head can only match similar vectors, or only copy.

The W_QK of a head is replaced by a projector of the same rank, so that it can only attend to keys similar to its query,
or its W_OV is, so that it can only copy. A loss that stays the same shows that the head needs nothing else. Hooks
compute the outputs of the new weights; the network itself is not changed.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import einops
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.measures.ablation import SEQUENCES
from headway.analyze.measures.loss import by_part, mean_loss, task_loss
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import Hook, forward_pass
from headway.analyze.network.interventions import check_one_of, heads_except, output_with
from headway.analyze.network.requirements import DoesNotApplyError, check_head, needs_plain_scores
from headway.analyze.network.structure import Structure
from headway.analyze.network.weights import bias, weight
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model

Experiment = Literal["random", "trained"]
Sign = Literal["+", "-"]


def qk_identity_surgery(model: Model, batch: Batch, sequences: int = SEQUENCES) -> xr.Dataset:
    """Effect of reducing W_QK to a projector: change in loss with ``W_K := pinv(W_Q).T``, one head at a time.

    ``W_Q W_K.T`` is then the projector on the column space of W_Q, of trace d_head, so that the head attends to keys
    similar to its query. ``qk_identity_surgery`` [experiment, layer, head] is the loss after surgery,
    ``qk_identity_surgery_after`` [experiment, layer, head], minus the clean loss, ``qk_identity_surgery_clean``; any
    number, in nats or squared error. ``trained`` keeps the head's W_Q; ``random`` first replaces it by a normal one,
    always the same, to test whether any subspace will do. Biases stay. The loss is over the first ``sequences`` of the
    batch. No null: 0 is no effect. After Bhargav & Gu 2024 (arXiv 2410.17438). It does not show whether a head without
    effect matches similar vectors or is not needed at all: compare ``ablation``.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary, relative positions; grouped heads).
        ValueError: a batch without a task.

    Example:
        >>> from headway.models.handmade import duplicate_token_head
        >>> model, batch = duplicate_token_head()
        >>> qk_identity_surgery(model, batch).sizes["experiment"]
        2
    """
    return _of_each_head(
        "qk_identity_surgery", model, batch.first(sequences), "experiment", get_args(Experiment), _qk_hooks
    )


def ov_identity_surgery(model: Model, batch: Batch, sequences: int = SEQUENCES) -> xr.Dataset:
    """Effect of reducing W_OV to a projector: change in loss with ``W_O := ±pinv(W_V)``, one head at a time.

    ``W_V W_O`` is then plus or minus the projector on the column space of W_V, so that the head copies or anti-copies.
    ``ov_identity_surgery`` [sign, layer, head] is the loss after surgery, ``ov_identity_surgery_after`` [sign, layer,
    head], minus the clean loss, ``ov_identity_surgery_clean``; any number, in nats or squared error. Biases stay. The
    loss is over the first ``sequences`` of the batch. No null: 0 is no effect. After Bhargav & Gu 2024 (arXiv
    2410.17438). It does not show whether a head without effect copies or is not needed at all: compare ``ablation``.

    Raises:
        DoesNotApplyError: attention outputs that are not the sum of ``z W_O`` over heads.
        ValueError: a batch without a task.

    Example:
        >>> from headway.models.handmade import copying_head
        >>> change = ov_identity_surgery(*copying_head()).ov_identity_surgery.squeeze()  # W_OV is a projector already
        >>> change.round(5).sel(sign="+").item(), (change.sel(sign="-") != 0).item()
        (0.0, True)
    """
    return _of_each_head("ov_identity_surgery", model, batch.first(sequences), "sign", get_args(Sign), _ov_hooks)


def qk_identity_loss(
    model: Model, batch: Batch, heads: Iterable[Head], experiment: Experiment = "trained"
) -> xr.Dataset:
    """Return the loss after ``qk_identity_surgery`` on several heads together, as the variables of ``loss``.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary, relative positions; grouped heads).
        ValueError: a head that does not exist, an unknown experiment, a batch without a task.
    """
    check_one_of("experiment", experiment, get_args(Experiment))
    return by_part("loss", task_loss(output_with(model, batch, _qk_hooks(model, heads, experiment)), batch), batch)


def ov_identity_loss(model: Model, batch: Batch, heads: Iterable[Head], sign: Sign = "+") -> xr.Dataset:
    """Return the loss after ``ov_identity_surgery`` on several heads together, as the variables of ``loss``.

    Raises:
        DoesNotApplyError: attention outputs that are not the sum of ``z W_O`` over heads.
        ValueError: a head that does not exist, an unknown sign, a batch without a task.
    """
    check_one_of("sign", sign, get_args(Sign))
    return by_part("loss", task_loss(output_with(model, batch, _ov_hooks(model, heads, sign)), batch), batch)


def _of_each_head(
    name: str, model: Model, batch: Batch, axis: str, variants: Sequence[str], hooks: Callable[..., list[Hook]]
) -> xr.Dataset:
    clean = mean_loss(forward_pass(model, batch).output, batch)
    after = clean.new_empty(len(variants), model.cfg.n_layers, model.cfg.n_heads)
    for i, variant in enumerate(variants):
        for head in heads_except(model):
            after[i, *head] = mean_loss(output_with(model, batch, hooks(model, [head], variant)), batch)
    scores = {
        name: ((axis, *HEAD), (after - clean).cpu().numpy()),
        f"{name}_after": ((axis, *HEAD), after.cpu().numpy()),
        f"{name}_clean": ((), clean.cpu().numpy()),
    }
    return xr.Dataset(scores, coords={axis: list(variants)})


def _qk_hooks(model: Model, heads: Iterable[Head], experiment: str) -> list[Hook]:
    needs_plain_scores("qk_identity_surgery", model)
    W_Q, W_K, b_Q, b_K = weight(model, "W_Q"), weight(model, "W_K"), bias(model, "b_Q"), bias(model, "b_K")
    drawn = torch.randn(W_Q.shape, generator=generator("null", 0)).to(W_Q)
    hooks = []
    for layer, chosen in _by_layer(model, heads):
        block = f"blocks.{layer}"
        new_Q, new_K = W_Q[layer].clone(), W_K[layer].clone()
        if experiment == "random":
            new_Q[chosen] = drawn[layer, chosen]
        new_K[chosen] = torch.linalg.pinv(new_Q[chosen]).mT
        reader = _Reader(model, layer)
        queries = reader.replaced(W_Q[layer], new_Q, b_Q[layer])
        keys = reader.replaced(W_K[layer], new_K, b_K[layer])
        if Structure(model.cfg).positions_after_norm:
            hooks.append(("hook_pos_embed", reader.record_positions))
        hooks += [
            (f"{block}.hook_resid_pre", reader.record),
            (f"{block}.attn.hook_q", queries),
            (f"{block}.attn.hook_k", keys),
        ]
    return hooks


def _ov_hooks(model: Model, heads: Iterable[Head], sign: str) -> list[Hook]:
    W_V, W_O, b_O = weight(model, "W_V"), weight(model, "W_O"), bias(model, "b_O")
    hooks = []
    for layer, chosen in _by_layer(model, heads):
        block = f"blocks.{layer}"
        new_O = W_O[layer].clone()
        new_O[chosen] = torch.linalg.pinv(W_V[layer, chosen]) * (1 if sign == "+" else -1)
        writer = _Writer(W_O[layer], new_O, b_O[layer])
        hooks += [(f"{block}.attn.hook_z", writer.record), (f"{block}.hook_attn_out", writer.replaced)]
    return hooks


class _Reader:
    """Input of a layer's queries and keys in the current forward pass, and its projection by other weights."""

    def __init__(self, model: Model, layer: int):
        self.norm = model.blocks[layer].ln1
        self.positions: Tensor | None = None

    def record_positions(self, positions: Float[Tensor, "batch pos d_model"], hook: Any) -> None:
        """Remember shortformer positions, and change nothing (a hook)."""
        self.positions = positions

    def record(self, resid_pre: Float[Tensor, "batch pos d_model"], hook: Any) -> None:
        """Remember the activation, and change nothing (a hook)."""
        self.x = self.norm(resid_pre)
        if self.positions is not None:
            self.x = self.x + self.positions

    def replaced(
        self,
        old: Float[Tensor, "head d_model d_head"],
        new: Float[Tensor, "head d_model d_head"],
        b: Float[Tensor, "head d_head"],
    ) -> Callable[..., Tensor]:
        """Return a hook that replaces queries or keys ``x old + b`` by ``x new + b``."""

        def projected(W: Float[Tensor, "head d_model d_head"]) -> Float[Tensor, "batch pos head d_head"]:
            by_head = "batch pos d_model, head d_model d_head -> batch pos head d_head"
            return einops.einsum(self.x, W.to(self.x), by_head) + b.to(self.x)

        def hook(computed: Float[Tensor, "batch pos head d_head"], hook: Any) -> Float[Tensor, "batch pos head d_head"]:
            _check_formula("qk_identity_surgery needs queries and keys ln1(x) W + b", computed, projected(old))
            return projected(new)

        return hook


class _Writer:
    """Output of a layer's heads in the current forward pass, with another W_O."""

    def __init__(
        self,
        old: Float[Tensor, "head d_head d_model"],
        new: Float[Tensor, "head d_head d_model"],
        b: Float[Tensor, "d_model"],
    ):
        self.old, self.new, self.b = old, new, b

    def record(self, z: Float[Tensor, "batch pos head d_head"], hook: Any) -> None:
        """Remember the activation, and change nothing (a hook)."""
        self.z = z

    def replaced(self, computed: Float[Tensor, "batch pos d_model"], hook: Any) -> Float[Tensor, "batch pos d_model"]:
        """Replace the attention output ``z old + b`` by ``z new + b`` (a hook)."""
        _check_formula("ov_identity_surgery needs attention outputs z W_O + b_O", computed, self.written(self.old))
        return self.written(self.new)

    def written(self, W_O: Float[Tensor, "head d_head d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Return the attention output with these weights."""
        summed = "batch pos head d_head, head d_head d_model -> batch pos d_model"
        return einops.einsum(self.z, W_O.to(self.z), summed) + self.b.to(self.z)


def _by_layer(model: Model, heads: Iterable[Head]) -> list[tuple[int, list[int]]]:
    """Return each layer that contains some of these heads, with their numbers."""
    chosen = {check_head(model, head) for head in heads}
    layers = sorted({head.layer for head in chosen})
    return [(layer, [head.head for head in sorted(chosen) if head.layer == layer]) for layer in layers]


def _check_formula(needed: str, computed: Tensor, expected: Tensor) -> None:
    """Refuse a network that does not compute the formula in which weights are replaced."""
    rounding = torch.finfo(computed.dtype).eps ** 0.5 * expected.abs().max()
    if (computed - expected).abs().max() > rounding:
        raise DoesNotApplyError(f"{needed}; this network has others")
