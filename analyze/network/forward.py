"""One forward pass over the evaluation batch, shared by everything that looks at it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from headway.analyze.network.requirements import NotNumbersError, check_batch
from headway.data.task import Batch
from headway.models.convert import Model, evaluating

Patterns = Float[Tensor, "layer batch head query key"]
Activations = dict[str, Tensor]
# A hook point's name, and what is called with its activation and gives another back.
Hook = tuple[str, Callable[..., Tensor | None]]


@dataclass(frozen=True)
class ForwardPass:
    """What one forward pass shows: the output, and activations by their hook names."""

    output: Float[Tensor, "batch pos d_vocab_out"]
    activations: Activations

    @cached_property
    def patterns(self) -> Patterns:
        """The attention pattern of every head."""
        layers = sum(name.endswith("hook_pattern") for name in self.activations)
        return torch.stack([self.activations[f"blocks.{layer}.attn.hook_pattern"] for layer in range(layers)])


class _CachedPass(NamedTuple):
    """A result with what it is of, which is known by its identity and so must not be thrown away meanwhile."""

    model: Model
    inputs: Tensor
    result: ForwardPass


_cached_passes: ContextVar[dict[tuple[int, int], _CachedPass] | None] = ContextVar("cached_passes", default=None)

# Patterns, and what attribution takes apart: all that writes to the residual stream, what reads it, and the scales.
_CACHED_POINTS = (
    "hook_pattern",
    "hook_embed", "hook_pos_embed", "attn.hook_v", "hook_z", "hook_attn_out", "hook_mlp_out",
    "hook_resid_pre", "hook_resid_post", "ln1.hook_normalized", "ln1.hook_scale", "ln_final.hook_scale",
    "hook_attn_scores",
)  # fmt: skip


@contextmanager
def shared_forward_pass() -> Iterator[None]:
    """Inside, one forward pass of one model over one batch serves all measures; neither may change meanwhile."""
    token = _cached_passes.set({})
    try:
        yield
    finally:
        _cached_passes.reset(token)


@contextmanager
def hooked_forward_pass(model: Model, hooks: Sequence[Hook]) -> Iterator[None]:
    """Inside, what is seen of this network is seen with these hooks: every measure can be taken of a changed network.

    Example:
        >>> from headway.analyze.measures.attention import previous_token
        >>> from headway.models.handmade import previous_token_head
        >>> model, batch = previous_token_head()
        >>> with hooked_forward_pass(model, [("hook_pos_embed", to_zero)]):
        ...     ablated = previous_token(model, batch)
        >>> bool(ablated.previous_token < 0.5)
        True
    """
    token = _cached_passes.set(None)
    try:
        with model.hooks(fwd_hooks=list(hooks)):
            yield
    finally:
        _cached_passes.reset(token)


def to_zero(activation: Tensor, hook: object) -> Tensor:
    """A hook that puts zero in the place of an activation."""
    return torch.zeros_like(activation)


def in_forward_pass(point: str) -> bool:
    """Whether an activation is among those of ``forward_pass``, by its hook name."""
    return point.endswith(_CACHED_POINTS)


def forward_pass(model: Model, batch: Batch) -> ForwardPass:
    """One forward pass over every sequence of the batch.

    Raises:
        ValueError: a batch that the network cannot read, or an output that is not all numbers.
    """
    cached = _cached_passes.get()
    key = (id(model), id(batch.inputs))
    if cached is not None and key in cached:
        return cached[key].result
    result = ForwardPass(*_run(model, batch))
    if cached is not None:
        cached[key] = _CachedPass(model, batch.inputs, result)
    return result


def _run(model: Model, batch: Batch) -> tuple[Tensor, Activations]:
    check_batch(model, batch)
    with torch.no_grad(), evaluating(model):
        output, cache = model.run_with_cache(
            batch.inputs, return_cache_object=False, names_filter=lambda name: name.endswith(_CACHED_POINTS)
        )
    if not output.isfinite().all():
        raise NotNumbersError("output on this batch")
    if output.itemsize < 4:
        # What half precision has computed is measured in float32.
        return output.float(), {name: value.float() for name, value in cache.items()}
    return output, cache
