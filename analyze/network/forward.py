"""One forward pass over the evaluation batch, shared by all measures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from headway.analyze.network.requirements import NotNumbersError, check_batch, no_attention_weights
from headway.analyze.network.structure import Structure
from headway.data.task import Batch
from headway.models.convert import Model, evaluating
from headway.models.hooked_transformer import HookedTransformer

Patterns = Float[Tensor, "layer batch head query key"]
Activations = dict[str, Tensor]
T = TypeVar("T")
# The name of a hook point, and a function from its activation to a new one (or to None, which changes nothing).
Hook = tuple[str, Callable[..., Tensor | None]]


@dataclass(frozen=True)
class ForwardPass:
    """Output of one forward pass, and activations by hook name."""

    output: Float[Tensor, "batch pos d_vocab_out"]
    activations: Activations

    @cached_property
    def patterns(self) -> Patterns:
        """Attention patterns of all heads."""
        layers = sum(name.endswith("hook_pattern") for name in self.activations)
        if layers == 0:
            raise no_attention_weights()
        return torch.stack([self.activations[f"blocks.{layer}.attn.hook_pattern"] for layer in range(layers)])


class _Cached(NamedTuple):
    """A result with what it is the result of, kept alive because the cache identifies all of them by ``id``."""

    model: Model
    of: object
    result: Any


_cache: ContextVar[dict[tuple[int, int, int, int], _Cached] | None] = ContextVar("cache", default=None)

# Patterns, and what attribution splits: everything that writes to the residual stream, its readers, and the scales.
_CACHED_POINTS = (
    "hook_pattern",
    "hook_embed", "hook_pos_embed", "attn.hook_v", "hook_z", "hook_attn_out", "hook_mlp_out",
    "hook_resid_pre", "hook_resid_post", "ln1.hook_normalized", "ln1.hook_scale", "ln_final.hook_scale",
    "hook_attn_scores",
)  # fmt: skip


@contextmanager
def shared_forward_pass() -> Iterator[None]:
    """Share one forward pass per model and batch, and what is ``shared``, among all measures in this context.

    A network whose weights are changed in place has another forward pass; sequences may not change.
    """
    token = _cache.set({})
    try:
        yield
    finally:
        _cache.reset(token)


@contextmanager
def hooked_forward_pass(model: Model, hooks: Sequence[Hook]) -> Iterator[None]:
    """Apply hooks to every forward pass of the network in this context, so that measures score the ablated one.

    Example:
        >>> from headway.analyze.measures.attention import previous_token
        >>> from headway.models.handmade import previous_token_head
        >>> model, batch = previous_token_head()
        >>> with hooked_forward_pass(model, [("hook_pos_embed", to_zero)]):
        ...     ablated = previous_token(model, batch)
        >>> bool(ablated.previous_token < 0.5)
        True
    """
    token = _cache.set(None)
    try:
        with model.hooks(fwd_hooks=list(hooks)):
            yield
    finally:
        _cache.reset(token)


def to_zero(activation: Tensor, hook: object) -> Tensor:
    """Return zeros in place of an activation (a hook for zero ablation)."""
    return torch.zeros_like(activation)


def in_forward_pass(point: str) -> bool:
    """Return True if ``forward_pass`` keeps the activation at this hook point."""
    return point.endswith(_CACHED_POINTS)


def forward_pass(model: Model, batch: Batch) -> ForwardPass:
    """Run the network on every sequence of the batch and return its output and activations.

    Raises:
        ValueError: a batch that the network cannot read, or an output with NaN or infinite entries.
    """
    return shared(model, batch.inputs, lambda: ForwardPass(*_run(model, batch)), batch.attention_mask)


def shared(model: Model, of: object, make: Callable[[], T], beside: object = None) -> T:
    """Return what ``make`` returns of a network and one or two objects, or its result of earlier in this context.

    Example:
        >>> from headway.models.handmade import uniform_head
        >>> model, batch = uniform_head()
        >>> with shared_forward_pass():
        ...     first, second = (shared(model, "a list", list) for _ in range(2))
        >>> first is second
        True
    """
    cached = _cache.get()
    if cached is None:
        return make()
    # torch counts the changes of a tensor in place.
    key = (id(model), sum(weight._version for weight in model.parameters()), id(of), id(beside))
    if key not in cached:
        cached[key] = _Cached(model, (of, beside), make())
    return cached[key].result


def with_positions(model: Model, normalized: Tensor, activations: Activations) -> Tensor:
    """Return the input of queries and keys of a layer, from the residual stream after its ln1.

    The position embeddings of this forward pass are added if the network adds them behind ln1.
    """
    if not Structure(model.cfg).positions_after_norm:
        return normalized
    return normalized + activations["hook_pos_embed"]


def output_from(
    model: HookedTransformer,
    layer: int,
    residual: Tensor,
    activations: Activations,
    padding: Mapping[str, Tensor],
    times: int = 1,
) -> Tensor:
    """Return the output of a network whose residual stream is replaced before a layer.

    Args:
        model: The network.
        layer: The first layer that runs.
        residual: Residual streams ``[batch, pos, d_model]``, or ``times`` as many one after another.
        activations: Activations of the forward pass whose positions are kept.
        padding: ``Batch.padding`` of its sequences.
        times: Number of residual streams for each sequence.
    """
    positions = None
    if Structure(model.cfg).positions_after_norm:
        positions = activations["hook_pos_embed"].to(residual).repeat(times, 1, 1)
    hidden = {name: mask.repeat(times, 1) for name, mask in padding.items()}
    return model(residual, start_at_layer=layer, shortformer_pos_embed=positions, **hidden)


def _run(model: Model, batch: Batch) -> tuple[Tensor, Activations]:
    check_batch(model, batch)
    with torch.no_grad(), evaluating(model):
        output, cache = model.run_with_cache(
            batch.inputs,
            return_cache_object=False,
            names_filter=lambda name: name.endswith(_CACHED_POINTS),
            **batch.padding,
        )
    if not output.isfinite().all():
        raise NotNumbersError("output on this batch")
    if output.itemsize < 4:
        # Measures compute in float32, also on activations in half precision.
        return output.float(), {name: value.float() for name, value in cache.items()}
    return output, cache
