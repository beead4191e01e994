"""Replacements: what stands in for the output of a node that is not kept."""

from typing import Literal, get_args

from jaxtyping import Bool, Float
from torch import Tensor

from headway.analyze.network.interventions import check_one_of, mean_activation
from headway.analyze.network.requirements import DoesNotApplyError
from headway.data.seeds import generator
from headway.data.task import Batch

Replacement = Literal["twin", "resample", "position_mean", "mean", "zero"]


def check_replacement(kind: str) -> None:
    """Refuse a word that names no replacement."""
    check_one_of("replacement", kind, get_args(Replacement))


def default_replacement(batch: Batch) -> Replacement:
    """Return ``twin`` for a batch whose task draws twins, and ``position_mean`` for any other."""
    return "position_mean" if _twin(batch, 0) is None else "twin"


def other_sequences(batch: Batch, kind: Replacement, seed: int = 0) -> Batch:
    """Return the batch on which replacing activations are computed: of ``twin`` and ``resample``, other sequences.

    Raises:
        DoesNotApplyError: ``twin`` where the task draws none, ``resample`` of a single sequence.
        ValueError: a replacement that does not exist.
    """
    check_replacement(kind)
    if kind == "twin":
        twin = _twin(batch, seed)
        if twin is None:
            name = "a batch without a task" if batch.task is None else type(batch.task).__name__
            raise DoesNotApplyError(
                f"replacement: 'twin' does not apply: {name} draws no twins (sequences from which the answer cannot be "
                "told); take position_mean"
            )
        return twin
    if kind == "resample":
        if len(batch.inputs) < 2:
            raise DoesNotApplyError("replacement: 'resample' needs other sequences; this batch has 1")
        return batch.shifted()
    return batch


def replaced(
    value: Float[Tensor, "batch pos *rest"],
    kind: Replacement,
    attention_mask: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch pos *rest"]:
    """Return what stands in for an activation, from its value on ``other_sequences``; means leave out padding."""
    if kind == "zero":
        return value.new_zeros(()).expand_as(value)
    if kind == "mean":
        return mean_activation(value, "1 1", attention_mask)
    if kind == "position_mean":
        return mean_activation(value, "1 pos", attention_mask)
    return value


def _twin(batch: Batch, seed: int) -> Batch | None:
    if batch.task is None:
        return None
    # Twins are drawn where the task draws everything, and go to where the batch is.
    twin = batch.task.twin(batch.to("cpu"), generator("twin", seed))
    return None if twin is None else twin.to(batch.inputs.device)
