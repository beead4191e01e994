"""Training of the run: losses, gradients and spikes, beside other runs and the published one."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from headway.analyze.measures.loss import loss
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.published import PublishedRun
from headway.analyze.studies.result import Figure, Section, table
from headway.analyze.tools.spikes import Spike, loss_spikes
from headway.checkpoints.run import Run
from headway.data.previous_token import PreviousToken

# Losses of single batches of the published run, by step.
PUBLISHED = PublishedRun(
    {0: 6.00, 400: 4.11, 700: 0.65, 1000: 0.077, 3000: 0.0078, 3900: 0.0032},
    PreviousToken(),
    {"n_layers": 2, "n_heads": 1, "d_model": 64, "d_head": 64, "d_mlp": 256, "positional_embedding_type": "none"},
    batch_size=256,
    lr=1e-4,
)
# Points of a training curve; each is the largest of some consecutive updates.
POINTS = 400
# Spikes of a run in the table.
SPIKES = 8


def training_section(network: LoadedModel, run: Run, others: Sequence[Run]) -> Section:
    """Loss and gradient norm of every update, loss spikes, and the loss by position."""
    runs, step = runs_by_name((run, *others)), network.step or 0
    training = {name: each.training for name, each in runs.items()}
    name = next(iter(runs))
    training[name] = training[name].sel(step=slice(None, step))
    longest = max((len(each.step) for each in training.values()), default=0)
    drawn = {name: _largest(each, max(1, longest // POINTS)) for name, each in training.items() if len(each.step)}
    spikes = {name: loss_spikes(each) for name, each in training.items()}
    figures = [] if not PUBLISHED.is_like(run.recipe) else [_beside_published(training[name])]
    if drawn:
        curves = xr.concat(drawn.values(), dim=xr.Variable("run", list(drawn)), join="outer")
        figures.append(
            Figure(
                "Loss and gradient norm",
                curves[["loss", "gradient_norm"]],
                "lines",
                f"Maximum of every {max(1, longest // POINTS)} consecutive updates, which keeps spikes; gradient norm "
                "before clipping.",
                "y",
            )
        )
    # How an imported run was trained is not known.
    trained = {name: each for name, each in runs.items() if each.imported is None}
    if trained:
        figures.append(
            Figure(
                "Comparison of runs",
                _settings(trained, {name: training[name] for name in trained}, spikes),
                "table",
                "spike: a loss above 1.5 times the median of the 50 updates before it, and by more than 6 deviations. "
                "last loss: median of the last 50 updates.",
            )
        )
    if any(spikes.values()):
        figures.append(_spike_table(runs, spikes))
    kept = [each for each in run.steps if each <= step]
    per_token = np.array([loss(run.model(each), run.batch()).loss_by_position.values for each in kept])
    figures.append(
        Figure(
            "Loss by position over training",
            xr.Dataset({"loss": (("pos", "step"), per_token.T)}, {"step": kept}),
            "lines",
            "In nats, on the evaluation batch; one line per position. Position 0 has no previous token.",
            "x",
        )
    )
    return Section("Training", "Cross-entropy of each training batch before its update, in nats.", tuple(figures))


def _beside_published(training: xr.Dataset) -> Figure:
    """Table of training losses beside the published ones: single batches, and medians of 100."""
    losses = training.loss
    known = [each for each in PUBLISHED.losses if each + 1 in losses.step.values]
    median = losses.rolling(step=100, min_periods=1, center=True).median()
    return Figure(
        "Comparison with the published run",
        table(
            "step",
            known,
            published=[PUBLISHED.losses[each] for each in known],
            this_run=[losses.sel(step=each + 1).item() for each in known],
            median_around=[median.sel(step=each + 1).item() for each in known],
        ),
        "table",
        "Single batches; median around: of the 100 updates around the step. The warm-up of the published run probably "
        "overshoots its learning rate.",
    )


def _largest(training: xr.Dataset, together: int) -> xr.Dataset:
    """Return the maximum of every ``together`` consecutive updates."""
    return training.coarsen(step=together, boundary="pad", coord_func="min").max()


def _settings(runs: dict[str, Run], training: dict[str, xr.Dataset], spikes: dict[str, list[Spike]]) -> xr.Dataset:
    recipes = [run.recipe for run in runs.values()]
    common = min(len(each.step) for each in training.values())
    return table(
        "run",
        runs,
        updates=[len(each.step) for each in training.values()],
        lr=[recipe.optim.lr for recipe in recipes],
        clipped_at=[np.nan if recipe.optim.max_grad_norm is None else recipe.optim.max_grad_norm for recipe in recipes],
        batch=[recipe.batch_size for recipe in recipes],
        positions=[recipe.model.positional_embedding_type for recipe in recipes],
        spikes=[len(spikes[name]) for name in runs],
        **{f"in_the_first_{common}": [sum(spike.step <= common for spike in spikes[name]) for name in runs]},
        updates_in_spikes=[sum(spike.last - spike.step + 1 for spike in spikes[name]) for name in runs],
        largest_spike=[max((spike.size for spike in spikes[name]), default=np.nan) for name in runs],
        largest_gradient=[each.gradient_norm.max().item() if len(each.step) else np.nan for each in training.values()],
        last_loss=[each.loss[-50:].median().item() if len(each.step) else np.nan for each in training.values()],
    )


def _spike_table(runs: dict[str, Run], spikes: dict[str, list[Spike]]) -> Figure:
    """Table of the largest spikes of each run, and of the checkpoints around them."""
    rows = [
        (
            name,
            spike,
            max(kept for kept in runs[name].steps if kept < spike.step),
            min((kept for kept in runs[name].steps if kept >= spike.step), default=None),
        )
        for name, found in spikes.items()
        for spike in sorted(sorted(found, key=lambda spike: -spike.size)[:SPIKES])
    ]

    def loss_at(name: str, kept: int | None) -> float:
        return np.nan if kept is None else loss(runs[name].model(kept), runs[name].batch()).loss.item()

    return Figure(
        "Spikes",
        table(
            "spike",
            [f"{name}, updates {spike.step} to {spike.last}" for name, spike, *_ in rows],
            loss_before=[spike.before for _, spike, *_ in rows],
            peak=[spike.peak for _, spike, *_ in rows],
            size=[spike.size for _, spike, *_ in rows],
            gradient_norm=[spike.gradient_norm for _, spike, *_ in rows],
            checkpoint_before=[kept for *_, kept, _ in rows],
            loss_at_checkpoint_before=[loss_at(name, kept) for name, _, kept, _ in rows],
            checkpoint_after=[np.nan if kept is None else kept for *_, kept in rows],
            loss_at_checkpoint_after=[loss_at(name, kept) for name, *_, kept in rows],
        ),
        "table",
        f"The {SPIKES} largest spikes of each run. Stopping before a spike means going back to the last checkpoint "
        "before it. Both losses of checkpoints are on the evaluation batch.",
    )


def runs_by_name(runs: Sequence[Run]) -> dict[str, Run]:
    """Return runs by the names of their directories, or by their paths if names are equal."""
    names = [run.path.name for run in runs]
    return dict(zip(names if len(set(names)) == len(names) else [str(run.path) for run in runs], runs, strict=True))
