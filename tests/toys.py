"""Small tasks and recipes for tests; a task of one's own is found here by its import path."""

import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

from headway.analyze import LIVE
from headway.analyze.circuits.graph import Graph
from headway.analyze.measures import scoring
from headway.analyze.measures.loss import loss
from headway.analyze.measures.nulls import Null, beside_null
from headway.analyze.network.axes import HEAD, PAIR
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.report.circuit_page import NUMBERS, OVER_STEPS
from headway.checkpoints import Recipe, Run
from headway.checkpoints.recipe import TrainerConfig
from headway.checkpoints.schedule import Schedule
from headway.checkpoints.scores import score_file, write_scores
from headway.data.affine_recurrence import AffineRecurrence
from headway.data.finite import FiniteTask
from headway.data.previous_token import PreviousToken
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch, Task
from headway.models import handmade
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer
from headway.models.optim import OptimConfig

Train = Callable[[Recipe, Path], Run]
"""The type of the fixture ``trained``."""

TOKENS = Recipe(
    task=RepeatedTokens(n_tokens=13, length=11, period_min=2, period_max=5),
    model=ModelConfig(n_layers=2, d_model=19, n_ctx=11, d_head=5, n_heads=3, d_vocab=14, attn_only=True),
    optim=OptimConfig(lr=0.01, warmup_steps=3, decay="cosine"),
    schedule=Schedule(log=3, linear=2, at=(5,)),
    trainer=TrainerConfig(accelerator="cpu"),  # equal to the last bit is what one kind of hardware gives
    steps=17,
    batch_size=7,
    eval_batch_size=23,
)
NO_POSITIONS = replace(
    TOKENS,
    task=PreviousToken(n_tokens=13, length=11),
    model=replace(TOKENS.model, attn_only=False, d_mlp=29, positional_embedding_type="none"),
)
VECTORS = replace(
    TOKENS,
    task=AffineRecurrence(d_vector=7, length_max=12),
    model=ModelConfig(n_layers=2, d_model=19, n_ctx=11, d_head=5, n_heads=3, d_vocab=7, input_type="vectors"),
)


@dataclass(frozen=True)
class Counting(Task):
    """Count upwards, modulo ``modulus``."""

    modulus: int = 7

    @property
    def d_vocab(self) -> int:
        return self.modulus

    @property
    def n_ctx(self) -> int:
        return 5

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        tokens = (torch.randint(self.modulus, (batch_size, 1), generator=generator) + torch.arange(6)) % self.modulus
        return Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(batch_size, 5, dtype=torch.bool))

    def baselines(self) -> dict[str, float]:
        return {"oracle": 0.0}


@dataclass(frozen=True)
class Powers(Counting):
    """As many numbers as there are tokens: the powers of the token so far, as a share of the modulus."""

    outputs_are_inputs: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleMethodOverride]

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        batch = super().sample(generator, batch_size)
        return batch._replace(targets=(batch.inputs[..., None] / self.modulus) ** torch.arange(1, self.modulus + 1))


@dataclass(frozen=True)
class HoldsZero(Task):
    """A classifier of padded sequences: whether one holds a 0, read at its first position, or at its last."""

    n_tokens: int = 3
    length: int = 5
    at_end: bool = False

    @property
    def attention_dir(self) -> Literal["causal", "bidirectional"] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return None if self.at_end else "bidirectional"

    @property
    def d_vocab(self) -> int:
        return self.n_tokens + 1  # and the padding

    @property
    def d_vocab_out(self) -> int:
        return 2

    @property
    def n_ctx(self) -> int:
        return self.length

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        pos = torch.arange(self.length)
        lengths = torch.randint(2, self.length + 1, (batch_size, 1), generator=generator)
        real = pos < lengths
        tokens = torch.randint(self.n_tokens, (batch_size, self.length), generator=generator)
        tokens = tokens.masked_fill(~real, self.n_tokens)
        read = pos == (lengths - 1 if self.at_end else 0 * lengths)
        targets = (tokens == 0).any(1, keepdim=True).long().where(read, -100)
        return Batch(tokens, targets, read, attention_mask=real)

    def baselines(self) -> dict[str, float]:
        return {"chance": math.log(2)}


PADDED = replace(
    TOKENS,
    task=HoldsZero(n_tokens=11, length=7, at_end=True),
    model=ModelConfig(
        n_layers=2, d_model=19, n_ctx=7, d_head=6, n_heads=3, d_vocab=12, d_vocab_out=2, d_mlp=29, biases=False,
        positional_embedding_type="rotary", normalization_type="RMS", initializer_range=0.3,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Padding(HoldsZero):
    """A task whose padding is wrong in the first sequence of its batches."""

    fault: str = "everywhere"

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        batch = super().sample(generator, batch_size)
        real, mask = batch.real.clone(), batch.mask.clone()
        mask[0], real[0] = False, False
        real[0, -1] = self.fault == "first"
        real[0, 0] = self.fault == "counts"
        mask[0, 1] = self.fault == "counts"
        return batch._replace(mask=mask, attention_mask=real)


@dataclass(frozen=True)
class Numbers(Task):
    """Two numbers from tokens: the mean and the range of those so far."""

    d_vocab: ClassVar[int] = 7  # pyright: ignore[reportIncompatibleMethodOverride]
    d_vocab_out: ClassVar[int] = 2  # pyright: ignore[reportIncompatibleMethodOverride]
    n_ctx: ClassVar[int] = 5  # pyright: ignore[reportIncompatibleMethodOverride]

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        tokens = torch.randint(7, (batch_size, 5), generator=generator)
        mean = tokens.cumsum(1) / torch.arange(1, 6)
        spread = tokens.cummax(1).values - tokens.cummin(1).values
        targets = torch.stack([mean, spread.float()], dim=-1) / 7
        return Batch(tokens, targets, torch.ones_like(tokens, dtype=torch.bool))

    def baselines(self) -> dict[str, float]:
        return {"oracle": 0.0}


@dataclass(frozen=True)
class Signs(Task):
    """Classes from vectors: which entry of each vector is the largest; there are more classes than entries."""

    input_type: ClassVar[Literal["tokens", "vectors"]] = "vectors"
    d_vocab: ClassVar[int] = 3  # pyright: ignore[reportIncompatibleMethodOverride]
    d_vocab_out: ClassVar[int] = 5  # pyright: ignore[reportIncompatibleMethodOverride]
    n_ctx: ClassVar[int] = 4  # pyright: ignore[reportIncompatibleMethodOverride]

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        vectors = torch.randn(batch_size, 4, 3, generator=generator)
        return Batch(vectors, vectors.argmax(-1), torch.ones(batch_size, 4, dtype=torch.bool))

    def baselines(self) -> dict[str, float]:
        return {"chance": math.log(3)}


@dataclass(frozen=True)
class Adding(FiniteTask):
    """Addition modulo ``modulus``: two numbers and "=", at which the sum is read; all pairs are the task."""

    modulus: int = 5

    @property
    def d_vocab(self) -> int:
        return self.modulus + 1  # and "="

    @property
    def d_vocab_out(self) -> int:
        return self.modulus

    @property
    def n_ctx(self) -> int:
        return 3

    def sequences(self) -> Batch:
        pairs = torch.cartesian_prod(*[torch.arange(self.modulus)] * 2)
        inputs = F.pad(pairs, (0, 1), value=self.modulus)
        read = (torch.arange(3) == 2).expand(len(pairs), 3)
        return Batch(inputs, (pairs.sum(1, keepdim=True) % self.modulus).where(read, -100), read)

    def baselines(self) -> dict[str, float]:
        return {"chance": math.log(self.modulus)}


@dataclass(frozen=True)
class Killing(RepeatedTokens):
    """Kills its process at one batch, once: where it has left a file it goes on."""

    dies_at: int = 0
    mark: str = ""

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        if index == self.dies_at and seed == 3 and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(seed, index, batch_size)


@dataclass(frozen=True)
class NoFields(Task):
    """A task without a single field."""

    d_vocab: ClassVar[int] = 5  # pyright: ignore[reportIncompatibleMethodOverride]
    n_ctx: ClassVar[int] = 5  # pyright: ignore[reportIncompatibleMethodOverride]

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        return Counting(modulus=5).sample(generator, batch_size)

    def baselines(self) -> dict[str, float]:
        return {"oracle": 0.0}


@dataclass(frozen=True)
class Boundless(Counting):
    """A task whose targets are no tokens of its own."""

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        batch = super().sample(generator, batch_size)
        return batch._replace(targets=batch.targets + self.modulus)


@dataclass(frozen=True)
class CountsNothing(Counting):
    """A task of which no position counts."""

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        batch = super().sample(generator, batch_size)
        return batch._replace(mask=torch.zeros_like(batch.mask))


@dataclass(frozen=True)
class CountsNothingLater(Counting):
    """A task of which no position counts in batch ``index`` of the run with this seed; -1 stands for every run."""

    seed: int = -1
    index: int = 0

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        batch = super().batch(seed, index, batch_size)
        counts = index != self.index or self.seed not in (seed, -1)
        return batch._replace(mask=torch.full_like(batch.mask, counts))


@dataclass(frozen=True)
class TurnsNaN(Counting):
    """A task whose loss is no number as soon as the network has got anywhere."""

    def loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        loss = super().loss(output, batch)
        return torch.where(loss.mean() < 1.9, torch.nan, loss)


@dataclass(frozen=True)
class Spoilt(Counting):
    """A task whose loss is no number in batch ``index`` of the run with this seed; -1 stands for every run."""

    seed: int = 0
    index: int = 0

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        batch = super().batch(seed, index, batch_size)
        spoilt = index == self.index and self.seed in (seed, -1)
        return batch._replace(info={"spoilt": torch.full((batch_size, 1), spoilt)})

    def loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        loss = super().loss(output, batch)
        return loss * torch.where(batch.info["spoilt"], torch.nan, 1.0) if "spoilt" in batch.info else loss


@dataclass(frozen=True)
class Draws(Counting):
    """A task whose loss draws numbers."""

    def loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        loss = super().loss(output, batch)
        return loss + torch.rand_like(loss)


@dataclass(frozen=True)
class Spikes(Counting):
    """A task whose loss is a million times as large in one batch of three."""

    def loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        return super().loss(output, batch) * (1e6 if batch.inputs[0, 0] % 3 == 0 else 1.0)


def embedding_norm(model: HookedTransformer, batch: Batch) -> xr.DataArray:
    """The length of each token's embedding."""
    return xr.DataArray(model.W_E.detach().norm(dim=-1).numpy(), dims="token")


def made_up_run(folder: Path, layers: int, heads: int, kept: int, length: int = 16, d_head: int = 2) -> Run:
    """A run that nobody trained: scores of a random network, a little moved at each of ``kept`` steps; no weights."""
    task = RepeatedTokens(n_tokens=61, length=length, period_min=2, period_max=5)
    model = ModelConfig(
        n_layers=layers, d_model=heads * d_head, n_ctx=length, d_head=d_head, n_heads=heads, d_vocab=62, attn_only=True,
        initializer_range=0.5,
    )  # fmt: skip
    run = Run.create(folder, replace(TOKENS, task=task, model=model, steps=kept - 1, schedule=Schedule()))
    network, batch = HookedTransformer(model), run.batch()
    draws = np.random.default_rng(0)
    for measure in LIVE:
        try:
            scores = measure(network, batch)
        except DoesNotApplyError:
            continue
        if measure.fresh_null:
            null = Null(np.full((1, 1), 0.1), np.full((1, 1), 0.02))
            scores = scores.merge(beside_null(measure.name, scores[measure.name], null), compat="override")
        for step in range(kept):
            moved = scores.map(lambda values: values * draws.uniform(0.7, 1.0, values.shape).astype("float32"))
            write_scores(score_file(run.path, step, measure.name), moved)
    return run


def untrained_run(path: Path, recipe: Recipe, steps: Sequence[int] = (0, 1)) -> Run:
    """A run that nobody trained: another random network at each step, with its loss."""
    run = Run.create(path, recipe)
    for step in steps:
        torch.manual_seed(step)
        run.keep(step, HookedTransformer(recipe.model))
    scoring.measure(run, [loss])
    return run


# The steps at which the run below knows a part of induction, all of it, and still all of it.
PARTLY, WHOLE, LAST = 5, 7, 11


def handmade_run(path: Path) -> Run:
    """A run that knows nothing at step 0, is unsure at step 5, and has an induction circuit at steps 7 and 11."""
    model, _ = handmade.composing_pair("k")
    recipe = Recipe(
        task=handmade.TASK, model=model.cfg, optim=OptimConfig(), schedule=Schedule(log=0, linear=0), steps=LAST,
        batch_size=2, eval_batch_size=29,
    )  # fmt: skip
    run = Run.create(path, recipe)
    run.keep(0, HookedTransformer(model.cfg))
    partly, _ = handmade.composing_pair("k")
    with torch.no_grad():
        partly.blocks[1].attn.W_O.mul_(0.1)
    run.keep(PARTLY, partly)
    run.keep(WHOLE, model)
    run.keep(LAST, model)
    return run


def made_up_circuit(run: Run, step: int, inside: list[str], reach: list[str], stands_in: tuple[str, str]) -> xr.Dataset:
    """Write a circuit of ``repeats`` that nobody found; ``stands_in`` names a node and the one that can replace it."""
    graph = Graph(ModelConfig(**run.config["model"]))
    nodes, edges = list(graph.nodes[:-1]), [str(edge) for edge in graph.edges]
    draws = np.random.default_rng(step)
    sources = {name.partition("->")[0] for name in inside}
    scores = xr.Dataset(coords={"node": nodes, "other": nodes, "edge": edges})
    axes = {"effect": ("node",), "second_effect": ("node",), "cost": ("edge",), "edge_effect": ("edge",),
            "node_cost": ("node",)}  # fmt: skip
    for name in (*NUMBERS, "reach_necessity", "second_known", "second_faithfulness", *axes):
        value = draws.uniform(0.2, 0.8, [scores.sizes[axis] for axis in axes.get(name, ())])
        for ending, moved in (("", 0.0), ("_low", -0.1), ("_high", 0.1)):
            scores[name + ending] = (axes.get(name, ()), value + moved)
    scores["in_circuit"] = ("edge", np.isin(edges, inside))
    scores["in_reach"] = ("edge", np.isin(edges, inside + reach))
    scores["node_in_circuit"] = ("node", np.isin(nodes, list(sources)))
    scores["stand_in"] = (("node", "other"), np.zeros((len(nodes), len(nodes)), bool))
    scores["stand_in"].loc[stands_in] = True
    scores["control_faithfulness"] = ("control", draws.uniform(0, 0.2, 7))
    scores["p"] = ((), 1 / 8)
    scores["known"].attrs |= {
        "part": "repeats", "replacement": "twin", "seed": 0, "sequences": 13, "second": "position_mean", "step": step,
    }  # fmt: skip
    scores["node_in_circuit"].attrs["names"] = {"L0H1": ["previous-token head", "previous_token", 0.75]}
    write_scores(run.circuit_file(step, "repeats", "twin"), scores, checksum=True)
    return scores


def made_up_over_steps(run: Run, of: int, steps: list[int] | None = None) -> xr.Dataset:
    """Write what a circuit carries at every checkpoint; too little is known at the first one for shares of it."""
    draws, steps = np.random.default_rng(of), steps or run.steps
    scores = xr.Dataset(coords={"step": steps})
    for name in OVER_STEPS:
        value = draws.uniform(0.2, 0.8, len(steps))
        value[0] = value[0] if name == "known" else np.nan
        for ending, moved in (("", 0.0), ("_low", -0.1), ("_high", 0.1)):
            scores[name + ending] = ("step", value + moved)
    scores["known"].attrs |= {"part": "repeats", "replacement": "twin", "step": of}
    write_scores(run.circuit_file(None, "repeats", "twin"), scores)
    return scores


# Checkpoints at which log4(1 + step) is 0 to 5: half-way between two of them is 4 ** 0.5 times as far.
LOG4 = [0, 3, 15, 63, 255, 1023]


def run_of_ways(
    folder: Path, ways: dict[str, list[float]], steps: list[int] = LOG4, heads: tuple[int, int] = (0, 0), seed: int = 0
) -> Run:
    """A run that nobody trained, whose scores have come so far at each of ``steps``.

    ``behaviour`` is the loss on repeats, from 4 to 0; attention scores and ``k_composition`` are those of the heads
    ``L0Hi`` and ``L1Hj`` with ``heads`` (i, j), from a null of .1 to 1 and to a ceiling of .5; no other head does
    anything.
    """
    run = Run.create(folder, replace(TOKENS, steps=steps[-1], seed=seed))
    n = TOKENS.model.n_heads
    for place, step in enumerate(steps):
        for name, each in ways.items():
            at = each[place]
            if name == "behaviour":
                values = {"loss": 3.0 - 2.0 * at, "loss_first": 3.0, "loss_repeats": 4.0 * (1 - at)}
                scores = xr.Dataset({key: ((), value, {"of": "loss"}) for key, value in values.items()})
                scores["loss"].attrs["behaviour"] = {"part": "repeats", "chance": 4.0, "floor": 0.0}
                write_scores(score_file(run.path, step, "loss"), scores)
                continue
            ceiling, pair = (0.5, True) if name == "k_composition" else (1.0, False)
            whose = {"prefix_matching": (1, heads[1])}.get(name, (0, heads[0]))
            axes = PAIR if pair else HEAD
            values = np.full((2, n) * (2 if pair else 1), 0.1)
            values[(0, heads[0], 1, heads[1]) if pair else whose] += at * (ceiling - 0.1)
            scores = xr.Dataset({name: (axes, values), f"{name}_z": (axes, (values - 0.1) / 0.01)})
            for ending, value in {"null": 0.1, "null_std": 0.01, "low": 0.05, "high": 0.15, "chance": 0.1}.items():
                scores[f"{name}_{ending}"] = ((), value)
            if pair:
                scores[f"{name}_ceiling"] = (axes, np.full(values.shape, ceiling))
            write_scores(score_file(run.path, step, name), scores)
    return run
