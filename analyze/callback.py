"""Scoring a network while it trains: at each kept step the measures run, are stored, and are shown in TensorBoard."""

from collections.abc import Sequence

import einops
import lightning as L
import numpy as np
import torch
import xarray as xr
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from headway.analyze.applies import NotNumbersError
from headway.analyze.circuits import HEAD, PAIR
from headway.analyze.measure import Measure, Nulls, measure_step
from headway.checkpoints.callback import AtKeptSteps
from headway.checkpoints.run import Run
from headway.models.config import Head
from headway.models.lightning_module import DivergedError, TrainingModule


class MeasureWhileTraining(AtKeptSteps):
    """Runs ``measures`` on the run's evaluation batch at each kept step."""

    def __init__(self, run: Run, steps: list[int], measures: Sequence[Measure]):
        super().__init__(run, steps)
        self.measures = list(measures)
        self.batch = run.batch()
        self.nulls = Nulls(run, self.measures, self.batch)

    def at_kept_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Score, store, show. What does not apply at the first step is not asked again."""
        batch = self.batch.to(module.device)
        try:
            measured = measure_step(self.run, step, module.model, batch, self.measures, self.nulls)
        except NotNumbersError as error:
            raise DivergedError(f"diverged by step {step}: {error}") from None
        self.measures = [each for each in self.measures if each.name not in measured.inapplicable]
        if isinstance(trainer.logger, TensorBoardLogger):
            for name, scores in measured.scores.items():
                show(trainer.logger.experiment, name, scores, step)


def show(writer: SummaryWriter, name: str, scores: xr.Dataset, step: int) -> None:
    """Write a measure's scores to TensorBoard: numbers and scores of heads as scalars, patterns and pairs as images."""
    for variable, array in scores.data_vars.items():
        values, dims = array.values, array.dims
        if dims == () and not str(variable).endswith(("_chance", "_null", "_clean")):
            writer.add_scalar(f"{name}/{variable}", values.item(), step)
        elif dims == HEAD and variable == name:
            for layer, head in np.argwhere(~np.isnan(values)):
                writer.add_scalar(f"heads/{name}/{Head(layer, head)}", values[layer, head], step)
        elif dims == PAIR and variable == f"{name}_z":
            flat = einops.rearrange(torch.tensor(values), "l1 h1 l2 h2 -> (l1 h1) (l2 h2)")
            writer.add_image(f"circuits/{variable}", picture(flat / 10, zoom=4), step, dataformats="HW")
        elif dims == ("layer", "head", "batch", "query", "key"):
            every_head = einops.rearrange(
                torch.nn.functional.pad(torch.tensor(values[:, :, 0]), (1, 1, 1, 1), value=0.5),
                "layer head query key -> (layer query) (head key)",
            )
            writer.add_image(f"{variable}/first_sequence", picture(every_head, zoom=2), step, dataformats="HW")


def picture(values: torch.Tensor, zoom: int) -> torch.Tensor:
    """Numbers in [0, 1] as grey, white for 0 and black for 1, each a square of ``zoom`` pixels; NaN is white."""
    shade = 1 - values.nan_to_num(0).clamp(0, 1)
    return einops.repeat(shade, "row column -> (row z1) (column z2)", z1=zoom, z2=zoom)
