"""Draw the figures of docs/results.md from a folder of the runs listed there: ``python docs/figures.py RUNS``."""

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch

from headway.checkpoints import Run

FIGURES = Path(__file__).parent / "figures"
# Losses of single batches by step, from arXiv 2410.17438 and from TransformerLens's No Position Experiment.
PUBLISHED_AFFINE = {500: 0.0069, 1000: 0.0048, 2500: 0.0018, 10_000: 5.4e-4}
PUBLISHED_PREVIOUS = {400: 4.11, 700: 0.65, 1000: 0.077, 3000: 0.0078, 3900: 0.0032}


def running_median(values: np.ndarray, width: int = 100) -> np.ndarray:
    """Return the median of each value and the values before it, ``width`` in all."""
    return np.array([np.median(values[max(0, end - width) : end]) for end in range(1, len(values) + 1)])


def induction(runs: Path) -> None:
    """Draw the loss on repeats and the best previous-token and induction head by step, for the run and two controls."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    titles = ("loss on repeats (nats)", "best previous_token, layer 0", "best prefix_matching, last layer")
    for kind, color, label in (
        ("induction", "C0", "two layers"),
        ("one-layer", "C1", "one layer"),
        ("fixed-period", "C2", "one layer, period always 11"),
    ):
        for seed, path in enumerate(sorted(runs.glob(f"{kind}-?"))):
            scores = Run(path).scores
            shown = (
                scores.loss_repeats,
                scores.previous_token.sel(layer=0).max("head"),
                scores.prefix_matching.isel(layer=-1).max("head"),
            )
            for panel, title, values in zip(axes, titles, shown, strict=True):
                panel.plot(1 + scores.step, values, color=color, lw=1, label=None if seed else label)
                panel.set(xscale="log", xlabel="1 + step", title=title)
    axes[0].legend(frameon=False)
    figure.savefig(FIGURES / "induction.png")


def previous_token(runs: Path) -> None:
    """Draw the training loss by step, with the baselines of the task and the published values."""
    figure, panel = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for seed, path in enumerate(sorted(runs.glob("previous-token-?"))):
        training = Run(path).training
        panel.plot(
            training.step,
            running_median(training.loss.values),
            color="C0",
            lw=1,
            label=None if seed else "running median, three seeds",
        )
    panel.plot(*zip(*PUBLISHED_PREVIOUS.items(), strict=True), "k.", label="published, single batches")
    marks = {"knowing nothing": "chance", "BOS known": "bos_known", "some earlier token": "some_earlier_token"}
    baselines = Run(next(runs.glob("previous-token-?"))).task.baselines()
    for text, name in marks.items():
        panel.axhline(baselines[name], color="0.7", lw=0.8, zorder=0)
        if name != "bos_known":
            panel.text(4000, baselines[name], text, ha="right", va="bottom", color="0.4", fontsize=8)
    panel.set(yscale="log", xlabel="step", title="previous token without positions: loss (nats)")
    panel.legend(frameon=False, loc="lower left")
    figure.savefig(FIGURES / "previous-token.png")


def affine(runs: Path) -> None:
    """Draw the training loss, the loss where the answer is determined, and the published values."""
    figure, panel = plt.subplots(figsize=(6, 3.4), layout="constrained")
    run = Run(runs / "affine-recurrence-0")
    training = run.training
    panel.plot(training.step, training.loss, color="C0", alpha=0.15, lw=0.5)
    panel.plot(
        training.step, running_median(training.loss.values), color="C0", lw=1, label="training loss, running median"
    )
    checkpoints = [step for step in run.steps if step >= 20]
    determined = [np.median(determined_losses(run, step)) for step in checkpoints]
    panel.plot(checkpoints, determined, "C1.-", lw=1, label="where the answer is determined")
    panel.plot(*zip(*PUBLISHED_AFFINE.items(), strict=True), "k.", label="published, single batches")
    panel.set(xscale="log", yscale="log", xlabel="step", title="affine recurrences: mean squared error")
    panel.legend(frameon=False, loc="lower left")
    figure.savefig(FIGURES / "affine-recurrence.png")


def determined_losses(run: Run, step: int, batches: int = 60) -> list[float]:
    """Return losses of single batches, drawn as in training, over the positions where the answer is determined."""
    model, losses = run.model(step), []
    for index in range(batches):
        batch = run.task.batch(run.recipe.seed + 1, index, run.recipe.batch_size)
        with torch.no_grad():
            loss = run.task.loss(model(batch.inputs), batch)
        losses.append(loss[run.task.parts(batch)["determined"]].mean().item())
    return losses


if __name__ == "__main__":
    mpl.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "savefig.dpi": 110}
    FIGURES.mkdir(exist_ok=True)
    for draw in (induction, previous_token, affine):
        draw(Path(sys.argv[1]))
