"""One forward pass over the evaluation batch, shared by everything that looks at it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from headway.analyze.applies import NotNumbersError, check_batch
from headway.data.task import Batch
from headway.models.convert import Model, evaluating

Patterns = Float[Tensor, "layer batch head query key"]
Activations = dict[str, Tensor]


class Seen(NamedTuple):
    """What one forward pass shows."""

    output: Float[Tensor, "batch pos d_vocab_out"]
    patterns: Patterns


class _Remembered(NamedTuple):
    """A result with what it is of, which is known by its identity and so must not be thrown away meanwhile."""

    model: Model
    inputs: Tensor
    shown: Seen | Activations


_remembered: ContextVar[dict[tuple, _Remembered] | None] = ContextVar("remembered", default=None)


@contextmanager
def seen_once() -> Iterator[None]:
    """Inside, one forward pass of one model over one batch serves all measures; neither may change meanwhile."""
    token = _remembered.set({})
    try:
        yield
    finally:
        _remembered.reset(token)


def seen(model: Model, batch: Batch) -> Seen:
    """The output, and the attention pattern of every head, on every sequence of the batch.

    Raises:
        ValueError: a batch that the network cannot read, or an output that is not all numbers.
    """
    remembered = _remembered.get()
    key = ("seen", id(model), id(batch.inputs))
    if remembered is not None and key in remembered:
        return remembered[key].shown  # pyright: ignore[reportReturnType]
    output, cache = _run(model, batch, ("hook_pattern",))
    patterns = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(model.cfg.n_layers)])
    shown = Seen(output, patterns)
    if remembered is not None:
        remembered[key] = _Remembered(model, batch.inputs, shown)
    return shown


# What attribution takes apart: everything that writes to the residual stream, what reads it, and the scales.
_TAKEN_APART = (
    "hook_embed", "hook_pos_embed", "hook_z", "hook_attn_out", "hook_mlp_out", "hook_resid_pre", "hook_resid_post",
    "ln1.hook_normalized", "ln1.hook_scale", "ln_final.hook_scale", "hook_attn_scores",
)  # fmt: skip


def activations(model: Model, batch: Batch) -> Activations:
    """The activations that attribution takes apart, by their hook names."""
    remembered = _remembered.get()
    key = ("activations", id(model), id(batch.inputs))
    if remembered is not None and key in remembered:
        return remembered[key].shown  # pyright: ignore[reportReturnType]
    output, cache = _run(model, batch, _TAKEN_APART)
    cache["output"] = output
    if remembered is not None:
        remembered[key] = _Remembered(model, batch.inputs, cache)
    return cache


def _run(model: Model, batch: Batch, endings: tuple[str, ...]) -> tuple[Tensor, Activations]:
    check_batch(model, batch)
    with torch.no_grad(), evaluating(model):
        output, cache = model.run_with_cache(
            batch.inputs, return_cache_object=False, names_filter=lambda name: name.endswith(endings)
        )
    if not output.isfinite().all():
        raise NotNumbersError("output on this batch")
    if output.itemsize < 4:
        # What half precision has computed is measured in float32.
        return output.float(), {name: value.float() for name, value in cache.items()}
    return output, cache
