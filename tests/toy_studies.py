"""A study that asks next to nothing, runs that nobody trained, and a result with every kind of figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from torch.utils.tensorboard import SummaryWriter

from headway.analyze.measures.loss import loss
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Claim, Claims, Figure, Section, StudyResult, table
from headway.analyze.studies.runner import Findings
from headway.analyze.studies.study import Study, check_at_least
from headway.checkpoints import Recipe, Run
from headway.models.hooked_transformer import HookedTransformer

MARKUP = "</script><b>bold"


@dataclass(frozen=True)
class Options:
    """Options of the toy study.

    Args:
        sequences: How many sequences the loss is taken over.
        words: Words that are shown.
    """

    sequences: int = 3
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_at_least("sequences", self.sequences, 2)


def study(network: LoadedModel, options: Options, others: Sequence[Run] = ()) -> Findings:
    """The size of the embedding and, of a run, the loss on a few sequences."""
    names = [network.name, *(str(run.path) for run in others)]
    shown = Figure("Names", table("run", names, length=[len(name) for name in names]), "table")

    def claims(each: LoadedModel) -> Claims:
        task = each.task
        nats = np.nan if task is None else loss(each.model, task.evaluation_batch(0, options.sequences)).loss.item()
        return (Claim("It knows something", "loss", nats, 2.6, below=True),)

    def measured(each: LoadedModel) -> xr.Dataset:
        return xr.Dataset({"length_of_embeddings": ("token", each.model.W_E.detach().norm(dim=-1).numpy())})

    return Findings([Section("Runs", " ".join(options.words), (shown,))], claims, measured)


TOY = Study(
    "toy",
    "How long is the name of a run?",
    "toy_studies:study",
    "toy_studies:Options",
    ("headway.data.repeated_tokens:RepeatedTokens",),
    takes_models=True,
    takes_runs=True,
)


def untrained_run(folder: Path, recipe: Recipe, steps: Sequence[int] = (0,), updates: int = 0) -> Run:
    """A run that nobody trained: another network at each step, and a made-up loss of each update."""
    run = Run.create(folder, recipe)
    (run.path / "environment.json").write_text("{}")
    for step in steps:
        run.keep(step, HookedTransformer(recipe.model, seed=step))
    if updates:
        with SummaryWriter(str(run.path)) as writer:
            for update in range(1, updates + 1):
                numbers = {"loss/train": 3 / update, "optimiser/gradient_norm": 1 / update, "optimiser/lr": 0.01}
                for tag, number in numbers.items():
                    writer.add_scalar(tag, number, update)
    return run


STEPS = [0, 1, 10, 100, 1000, 4000]


def made_up_study(run: str = "runs/made-up", step: int = 4) -> StudyResult:
    """Two sections and four claims: one that holds, one that does not, one that is close and one without a number."""
    return StudyResult("made_up", run, step, (_whole(), _parts()), CLAIMS)


CLAIMS = (
    Claim("A head looks at the vector before its own", "previous_token of L0H3", number=0.93, bound=0.5),
    Claim(
        MARKUP, "what is left of the loss without L1H2, beside what is left with it", number=0.8, bound=0.1, below=True
    ),
    Claim("It is just enough", "share of the variance", number=0.50004, bound=0.5),
    Claim("It generalises", "slope beyond the lengths trained on", number=float("nan"), bound=0.1),
)


def _whole() -> Section:
    draws = np.random.default_rng(0)
    loss = np.array([3.0, 2.5, 1.0, np.nan, 0.01, 0.001])
    back = np.array([np.nan, 0.01, np.nan, 1.0, -2.5, 3.0])
    two = xr.Dataset(
        {
            "loss": (("part", "step"), np.stack([loss, back]), {"long_name": f"Loss, {MARKUP}"}),
            "grows_by": (("part", "step"), np.stack([np.arange(6) - 2.0, 5.0 - np.arange(6)])),
        },
        {"step": STEPS, "part": ["first", MARKUP]},
    )
    heads = xr.Dataset(
        {"score": (("layer", "head", "position"), np.cumsum(draws.normal(size=(5, 4, 31)), -1))},
        {"layer": range(5), "head": range(4)},
    )
    bars = xr.Dataset(
        {"share": ("component", [0.1, 0.5, 0.3, 0.05, 0.2])},
        {"component": ["embed", "pos_embed", "L0 mlp, the long one", MARKUP, "L1H0"]},
    )
    return Section(
        "Lines",
        "What these lines are of.\n\nA second paragraph.",
        (
            Figure("Two panels", two, "lines", "Both axes are logarithmic.", "xy"),
            Figure("Many lines", heads, "lines", "One line a head."),
            Figure("Categories", bars, "lines"),
        ),
    )


def _parts() -> Section:
    draws = np.random.default_rng(1)
    attention = np.tril(draws.uniform(size=(2, 3, 7, 7)))
    attention[1, 2, 5, 3] = 2.0
    attention[0, 0, 0, 1] = np.nan
    maps = xr.Dataset(
        {
            "attention": (("layer", "head", "query", "key"), attention, {"long_name": "Attention"}),
            "signed": (("row", "column"), np.linspace(-1, 0.5, 33).reshape(3, 11)),
        },
        {"key": ["a", "b", MARKUP, "a", "the", "long-word", "g"], "layer": [0, 1], "head": [0, 1, 2]},
    )
    large = xr.Dataset({"large": (("row", "column"), np.add.outer(np.arange(300.0), np.arange(200.0)))})
    cells = table(
        "part",
        ["first", MARKUP, "third"],
        loss=[0.123456, np.nan, 1234567.0],
        holds=[True, False, True],
        said=["as it is", MARKUP, "–"],
    )
    cells["steps"] = (("part", "head"), np.arange(12).reshape(3, 4) * 1000, {"long_name": "Steps taken"})
    return Section(
        "Maps and tables",
        "What these are of.",
        (
            Figure("Small maps", maps, "maps", "Where each head looks."),
            Figure("A large map", large, "maps"),
            Figure("A table", cells, "table", "Numbers and words."),
        ),
    )
