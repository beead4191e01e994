"""Conjectured equations of the layers, fitted to some sequences and tested on others, each beside a control.

A layer is said to add an offset b, a multiple m of the previous vector, or a multiple of what its attention averages.
Vectors and what a layer adds are read in the coordinates of the embedding: a vector x stands at ``x W_E``.
"""

from dataclasses import dataclass

import einops
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headway.analyze.network.forward import forward_pass
from headway.analyze.network.weights import weight
from headway.analyze.studies.affine_recurrence.sequences import n_vectors
from headway.analyze.studies.result import Figure, Section, table
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.models.convert import Model

Vectors = Float[Tensor, "batch pos d_vector"]


@dataclass(frozen=True)
class Equation:
    """An equation for what a layer adds, with its fit.

    Args:
        says: The equation.
        slope: The fitted multiple; NaN for an offset alone.
        explained: Share that the equation explains on held-out sequences: for an offset of the mean square, for a
            multiple of the variance beside the offset.
        control: The same of the control.
        against: The control, in words.
    """

    says: str
    slope: float
    explained: float
    control: float
    against: str

    @property
    def share(self) -> float:
        """Share explained, from the control, or nothing if the control explains less (0), to everything (1)."""
        least = max(self.control, 0.0)
        return (self.explained - least) / (1 - least) if least < 1 else np.nan


def offset_of_layer_0(model: Model, batch: Batch) -> Equation:
    """Fit ``δ = b`` to what layer 0 adds; the control has the sign of each sequence flipped at random."""
    added = _added(model, batch, 0)[:, 1:]
    signs = torch.randint(2, (len(added), 1, 1), generator=generator("null", 0)).to(added) * 2 - 1
    return Equation(
        "L0 adds b", np.nan, _offset_share(added), _offset_share(signs * added), "the signs of sequences at random"
    )


def previous_vector_of_layer_0(model: Model, batch: Batch) -> Equation:
    """Fit ``δ_i = m a_(i-1) + b`` to what layer 0 adds; the control has the vectors of another sequence."""
    added, before = _added(model, batch, 0)[:, 1:], batch.inputs[:, :-1]
    slope, explained = _fit(before, added)
    control = _fit(_of_others(before), added)[1]
    return Equation("L0 adds m a_(i-1) + b", slope, explained, control, "the vectors of another sequence")


def attended_vectors(model: Model, batch: Batch, layer: int) -> Equation:
    """Fit ``δ_i = -c Σ_j A_ij a_j + b`` to what a layer adds; the control has uniform attention.

    A is the mean attention of the heads of the layer, and a_j stands for the residual stream that the layer reads.
    """
    shown = forward_pass(model, batch)
    added, stream = _added(model, batch, layer), _in_vectors(model, shown.activations[_pre(layer)])
    attention = einops.reduce(shown.patterns[layer], "batch head q k -> batch q k", "mean").to(stream)
    uniform = torch.ones_like(attention).tril()
    (slope, explained), (_, control) = (
        _fit((each / each.sum(-1, keepdim=True)) @ stream, added) for each in (attention, uniform)
    )
    return Equation(f"L{layer} adds -c Σ_j A_ij a_j + b", -slope, explained, control, "uniform attention")


def equations_section(model: Model, batch: Batch, layer: int) -> Section:
    """Fits of the conjectured equations, beside their controls."""
    fits = [offset_of_layer_0(model, batch), previous_vector_of_layer_0(model, batch)]
    if layer:
        fits.append(attended_vectors(model, batch, layer))
    return Section(
        "Conjectured equations",
        "What a layer (heads and MLP) adds to a vector a_i, in the coordinates of the embedding, fitted to half of the "
        f"{len(batch.inputs)} sequences of {n_vectors(batch)} vectors, and evaluated on the other half. b is one "
        "vector, m and c are one number each.",
        (
            Figure(
                "Fits",
                table(
                    "equation",
                    [each.says for each in fits],
                    multiple=[each.slope for each in fits],
                    explained=[each.explained for each in fits],
                    control=[each.control for each in fits],
                    share=[each.share for each in fits],
                    against=[each.against for each in fits],
                ),
                "table",
                "multiple: m or c. explained: R² beside the offset; of the offset alone, its share of the mean square. "
                "control: the same fit with the values in the last column. share: from the control (0) to 1.",
            ),
        ),
    )


def _pre(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_pre"


def _added(model: Model, batch: Batch, layer: int) -> Vectors:
    activations = forward_pass(model, batch).activations
    return _in_vectors(model, activations[f"blocks.{layer}.hook_resid_post"] - activations[_pre(layer)])


def _in_vectors(model: Model, stream: Float[Tensor, "batch pos d_model"]) -> Vectors:
    """Return the coordinates in the embedding, which leave out what is orthogonal to it."""
    return stream.double() @ torch.linalg.pinv(weight(model, "W_E").double())


def _of_others(vectors: Vectors) -> Vectors:
    """Return the vectors of the sequence before; both halves keep their own sequences."""
    return torch.cat([half.roll(1, 0) for half in _halves(vectors)])


def _halves(vectors: Vectors) -> list[Float[Tensor, "_ pos d_vector"]]:
    """Return the sequences to fit to, and those to evaluate on."""
    half = len(vectors) // 2
    return [vectors[:half], vectors[half:]]


def _fit(x: Vectors, y: Vectors) -> tuple[float, float]:
    """Return the m of ``y = m x + b``, and R² on the held-out half; NaN if x or y does not vary."""
    (x, x_held), (y, y_held) = (_halves(each.double()) for each in (x, y))
    (x_mean, y_mean) = (einops.reduce(each, "batch pos entry -> entry", "mean") for each in (x, y))
    slope = ((x - x_mean) * (y - y_mean)).sum() / (x - x_mean).square().sum()
    left = (y_held - y_mean - slope * (x_held - x_mean)).square().sum()
    return slope.item(), (1 - left / (y_held - y_mean).square().sum()).item()


def _offset_share(y: Vectors) -> float:
    y, y_held = _halves(y)
    left = y_held - einops.reduce(y, "batch pos entry -> entry", "mean")
    return (1 - left.square().sum() / y_held.square().sum()).item()
