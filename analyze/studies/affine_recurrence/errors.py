"""Prediction errors: after each layer, by position, by length and by coefficient."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from headway.analyze.network.forward import forward_pass
from headway.analyze.studies.affine_recurrence.sequences import n_vectors, sequences_of, task_of
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section, table
from headway.analyze.tools.lens import lens, residual_outputs
from headway.data.affine_recurrence import least_squares_oracle
from headway.data.task import Batch
from headway.models.convert import Model

# Coefficients whose error is shown, unless sequences grow too large.
COEFFICIENTS = np.linspace(-4, 4, 81).round(1).tolist()


def predictions_section(model: Model, batch: Batch, c: float) -> Section:
    """Predictions of one entry, and the error of the logit lens after each layer."""
    read = residual_outputs(model, batch)
    names = ["actual", "predicted", *(f"after L{layer}" for layer in range(model.cfg.n_layers - 1))]
    values = torch.stack([batch.targets, read[-1], *read[1:-1]])[:, 0, :, 0]
    lens_loss = lens(model, batch)
    return Section(
        "Predictions",
        f"Sequences of {n_vectors(batch)} vectors with c = {c:g}. Logit lens: the residual stream after each "
        "layer goes through ln_final and the unembedding.",
        (
            Figure(
                "One entry of one sequence",
                xr.Dataset({"value": (("line", "pos"), values.numpy())}, {"line": names}),
                "lines",
                "Entry 0 of the first sequence; the value at a position is that of the next vector (actual) or its "
                "prediction.",
            ),
            Figure(
                "Error after each layer",
                lens_loss[["lens", "lens_determined"]],
                "table",
                "Mean squared error of the logit lens; embed: before layer 0.",
            ),
            Figure("Error after each layer, by position", lens_loss[["lens_by_position"]], "lines", "", "y"),
        ),
    )


def errors_section(network: LoadedModel, sequences: int) -> Section:
    """Mean squared error by position and by length, beside baselines."""
    task = task_of(network)
    lengths = range(max(task.length_min, task.first_determined + 2), task.length_max + 1)
    compared = [_compared(network.folded, sequences_of(network, sequences, length)) for length in lengths]
    by_length = _beside_baselines(compared)
    names = list(by_length)
    by_position = np.array([compared[-1].errors[name] for name in names])
    return Section(
        "Errors",
        "Baselines: a least-squares fit of c and d to the earlier vectors; predicting zero; repeating the last "
        f"vector. From position {task.first_determined} on the answer is determined, and the error of least squares "
        "is rounding.",
        (
            Figure(
                "By position",
                xr.Dataset({"error": (("line", "pos"), by_position)}, {"line": names}),
                "lines",
                f"Sequences of {task.length_max} vectors.",
                "y",
            ),
            Figure(
                "By length of the sequence",
                table("length", lengths, **by_length),
                "table",
                "length: number of vectors in a sequence. Mean squared error where the answer is determined.",
            ),
        ),
    )


def coefficients_section(network: LoadedModel, sequences: int, length: int) -> Section:
    """Error as a function of c, inside and outside of the range in training, and for recurrences of other orders."""
    task = task_of(network)
    batches: dict[float, Batch] = {}
    for c in COEFFICIENTS:
        try:
            batches[c] = sequences_of(network, sequences, length, c=c)
        except ValueError:
            continue  # vectors grow too large
    cs = list(batches)
    by_c = _beside_baselines([_compared(network.folded, each) for each in batches.values()])
    others = {}
    for order in sorted({1, 2, 3, task.compl}):
        try:
            other = replace(task, compl=order, length_min=task.length_max)
        except ValueError:
            continue  # sequences, or vectors, are too short for this order
        batch = other.evaluation_batch(network.eval_seed, sequences)
        others[f"{order}"] = _compared(network.folded, batch)
    by_order = _beside_baselines(list(others.values()))
    return Section(
        "Other coefficients",
        f"In training, c is from {task.c_min:g} to {task.c_max:g}, and the order is {task.compl}.",
        (
            Figure(
                "Error as a function of c",
                xr.Dataset({"error": (("line", "c"), np.array(list(by_c.values())))}, {"line": list(by_c), "c": cs}),
                "lines",
                f"Mean squared error where the answer is determined, on sequences of {length} vectors."
                + (" All coefficients of a sequence have this value." if task.compl > 1 else ""),
                "y",
            ),
            Figure(
                "Recurrences of other orders",
                table("order", others, **by_order),
                "table",
                f"Mean squared error where the answer is determined, on sequences of {task.length_max} vectors.",
            ),
        ),
    )


class Compared(NamedTuple):
    """Mean squared errors by position, of a network and of baselines, and the first determined position."""

    errors: dict[str, np.ndarray]
    determined: int


def _compared(model: Model, batch: Batch) -> Compared:
    task = task_of(batch)
    predictions = {
        "network": forward_pass(model, batch).output,
        "least squares": least_squares_oracle(batch.inputs, task.compl),
        "predict zero": torch.zeros_like(batch.targets),
        "repeat last": batch.inputs,
    }
    errors = {name: task.loss(each, batch).mean(0).numpy() for name, each in predictions.items()}
    return Compared(errors, task.first_determined)


def _beside_baselines(compared: list[Compared]) -> dict[str, list[float]]:
    """Return mean errors where the answer is determined, by predictor."""
    return {
        name: [each.errors[name][each.determined :].mean().item() for each in compared] for name in compared[0].errors
    }
