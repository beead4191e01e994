"""Benchmarks for ``make bench``: the cost of a training step, a run and its measures, relative to a baseline.

Every number, except those of pages and of the search for circuits, is the ratio of two calls that alternate in one
process or in pairs of processes, as the median and quartiles over the rounds: machines are noisy, and absolute times
hold for one machine only.
``make bench ONLY=step`` runs one part; PARTS lists all.
"""

import contextlib
import io
import itertools
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.training import TrainConfig
from transformer_lens.tools.training import train as transformer_lens_train

from headway.analyze import LIVE, MEASURES, Measure
from headway.analyze.circuits.duration import MOST_SEQUENCES
from headway.analyze.circuits.of_run import circuit_at, resolve
from headway.analyze.measures.callback import MeasureWhileTraining
from headway.checkpoints import Recipe
from headway.checkpoints.callback import KeepCheckpoints
from headway.data.previous_token import PreviousToken
from headway.data.stacked_batches import stacked
from headway.data.task import Batch, masked_mean
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer
from headway.models.stacked_module import StackedModule, clip_each
from headway.recipes import RECIPES
from headway.train import train, training_module

INDUCTION, AFFINE = RECIPES["induction"], RECIPES["affine-recurrence"]
# Widths d_model; d_head is a quarter of each, as in the recipe.
WIDTHS = (64, 32, 128)


class BareBlock(nn.Module):
    """Attention in plain PyTorch: two Linear layers and the fused kernel."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.heads, self.width = (cfg.n_heads, cfg.d_head), cfg.n_heads * cfg.d_head
        self.norm = nn.LayerNorm(cfg.d_model)
        self.qkv = nn.Linear(cfg.d_model, 3 * self.width)
        self.out = nn.Linear(self.width, cfg.d_model)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, self.heads).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(z.transpose(1, 2).flatten(2))


class Bare(nn.Module):
    """Attention-only transformer of the same sizes as Headway's, without hook points."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.embed = nn.Embedding(cfg.d_vocab, cfg.d_model)
        self.pos = nn.Parameter(0.02 * torch.randn(cfg.n_ctx, cfg.d_model))
        self.blocks = nn.Sequential(*(BareBlock(cfg) for _ in range(cfg.n_layers)))
        self.norm = nn.LayerNorm(cfg.d_model)
        self.unembed = nn.Linear(cfg.d_model, cfg.d_vocab_out)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.unembed(self.norm(self.blocks(self.embed(tokens) + self.pos[: tokens.shape[1]])))


def induction(width: int) -> Recipe:
    """Return the induction recipe with another width."""
    given = {**INDUCTION.model.as_given(), "d_model": width, "d_head": width // INDUCTION.model.n_heads}
    return replace(INDUCTION, model=ModelConfig(**given))


def step_of(model: nn.Module, loss: Callable[[], Tensor], recipe: Recipe) -> Callable[[], None]:
    """Return a function that makes one update, with the recipe's optimiser and clipping."""
    parameters = list(model.parameters())
    optimizer = recipe.optim.build(parameters, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.optim.max_grad_norm or torch.inf)
        optimizer.step()

    return step


def our_loss(model: Callable[[Tensor], Tensor], recipe: Recipe, batch: Batch) -> Callable[[], Tensor]:
    """Return a function that computes the loss as the training module does."""
    return lambda: masked_mean(recipe.task.loss(model(batch.inputs), batch), batch.mask)


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Return the mean wall time of one call over ``times`` calls."""
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times


def alternate(name: str, goal: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> None:
    """Print the time ratio of two calls that alternate; each of them is first in every second round."""
    for warm_up in (ours, theirs):
        warm_up()
    pairs = []
    for index in range(rounds):
        a, b = (ours, theirs) if index % 2 else (theirs, ours)
        first, second = seconds(a), seconds(b)
        pairs.append((first, second) if index % 2 else (second, first))
    beside = f"{1e3 * statistics.median(time for _, time in pairs):.1f} ms"
    show(name, goal, [ours / theirs for ours, theirs in pairs], beside)


def show(name: str, goal: str, ratios: list[float], beside: str) -> None:
    """Print one row of the table."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    print(f"{name:66} {middle:6.3f}  ({low:.3f} to {high:.3f}; goal {goal}; 1 = {beside})", flush=True)


def step() -> None:
    """Compare the training step with that of a bare transformer, and the compiled step with the eager one."""
    for width in WIDTHS:
        recipe = induction(width)
        batch = recipe.task.batch(0, 0, recipe.batch_size)
        ours, bare = HookedTransformer(recipe.model), Bare(recipe.model)

        def bare_loss(bare: Bare = bare, batch: Batch = batch) -> Tensor:
            return F.cross_entropy(bare(batch.inputs).flatten(0, 1), batch.targets.flatten())

        step = step_of(ours, our_loss(ours, recipe, batch), recipe)
        alternate(f"step / bare PyTorch, d_model {width}", "1.05", step, step_of(bare, bare_loss, recipe), 200)
        compiled = HookedTransformer(recipe.model)
        fast = step_of(compiled, our_loss(torch.compile(compiled.forward), recipe, batch), recipe)
        alternate(f"step with --compile / step, d_model {width}", "-", fast, step, 60)


def bridge() -> None:
    """Compare TransformerLens's native bridge in its own loop with Headway's step, which generates its batches."""
    steps, sizes = 20, ("n_layers", "d_model", "n_ctx", "d_head", "n_heads", "d_vocab", "attn_only")

    def compare(recipe: Recipe) -> None:
        given = {name: getattr(recipe.model, name) for name in sizes}
        theirs = TransformerBridge.boot_native(  # pyright: ignore[reportAttributeAccessIssue]
            TransformerBridgeConfig(**given, act_fn="relu", normalization_type="LN", device="cpu")
        )
        rows = [{"tokens": row} for row in recipe.task.batch(0, 0, steps * recipe.batch_size).inputs]
        config = TrainConfig(
            num_epochs=1, batch_size=recipe.batch_size, optimizer_name="AdamW", weight_decay=0.01, max_grad_norm=1.0,
            warmup_steps=100, print_every=None, device="cpu",
        )  # fmt: skip

        def their_steps() -> None:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                transformer_lens_train(theirs, config, rows)  # pyright: ignore[reportArgumentType]

        ours = HookedTransformer(recipe.model)
        drawn = (recipe.task.batch(0, index, recipe.batch_size) for index in itertools.count())
        step = step_of(ours, lambda: our_loss(ours, recipe, next(drawn))(), recipe)

        def our_steps() -> None:
            for _ in range(steps):
                step()

        name = f"TransformerLens's bridge and loop / ours, d_model {recipe.model.d_model}"
        alternate(name, ">= 1.5", their_steps, our_steps, 12)

    for width in WIDTHS:
        compare(induction(width))


def timed_run(recipe: Recipe, measures: Sequence[Measure]) -> None:
    """Train a whole run, with progress bar, TensorBoard and checkpoints, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(**vars(recipe), out=Path(folder) / "run", measures=measures)


def bare_loop(recipe: Recipe) -> None:
    """Train the recipe's network on its batches with nothing around."""
    model = HookedTransformer(recipe.model, seed=recipe.seed)
    parameters = list(model.parameters())
    optimizer = recipe.optim.build(parameters, fused=True)
    for index in range(recipe.steps):
        optimizer.param_groups[0]["lr"] = recipe.optim.lr * recipe.optim.factor(index, recipe.steps)
        optimizer.zero_grad()
        our_loss(model, recipe, recipe.task.batch(recipe.seed, index, recipe.batch_size))().backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.optim.max_grad_norm or torch.inf)
        optimizer.step()


class Plain(L.LightningModule):
    """The same updates by Lightning, one in each of its steps, without log and checkpoints."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe = recipe
        self.model = HookedTransformer(recipe.model, seed=recipe.seed)

    def train_dataloader(self) -> list[int]:
        """Return the numbers of the batches."""
        return list(range(self.recipe.steps))

    def training_step(self, index: int, batch_idx: int) -> Tensor:
        """Return the loss."""
        batch = self.recipe.task.batch(self.recipe.seed, index, self.recipe.batch_size)
        return our_loss(self.model, self.recipe, batch)()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the recipe's optimiser."""
        return self.recipe.optim.build(self.model.parameters(), fused=True)


def lightning_loop(recipe: Recipe, bar: bool) -> None:
    """Train by Lightning and nothing else, with or without its progress bar."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = L.Trainer(
            accelerator="cpu", max_steps=recipe.steps, logger=False, enable_checkpointing=False,
            enable_model_summary=False, enable_progress_bar=bar, gradient_clip_val=recipe.optim.max_grad_norm,
        )  # fmt: skip
        trainer.fit(Plain(recipe))


def whole() -> None:
    """Compare ``train`` without measures with a bare loop over the same network and batches."""
    recipe = replace(INDUCTION, steps=1000)
    name = "train without measures / bare loop, 1,000 steps"
    alternate(name, "1.10", lambda: timed_run(recipe, ()), lambda: bare_loop(recipe), 4)


def tiny() -> None:
    """Compare ``train`` on the smallest useful network, and Lightning by itself, with a bare loop."""
    sizes = ModelConfig(n_layers=1, d_model=32, n_ctx=4, d_head=8, n_heads=4, d_vocab=13, attn_only=True)
    recipe = replace(INDUCTION, task=PreviousToken(n_tokens=12, length=4), model=sizes, steps=1500)
    for name, goal, ours in (
        ("Lightning alone", "-", lambda: lightning_loop(recipe, bar=False)),
        ("Lightning alone with its bar", "-", lambda: lightning_loop(recipe, bar=True)),
        ("train without measures", "1.3", lambda: timed_run(recipe, ())),
        ("train", "1.5", lambda: timed_run(recipe, LIVE)),
    ):
        alternate(f"{name} / bare loop, 1 layer, 4 positions", goal, ours, lambda: bare_loop(recipe), 5)


def measures() -> None:
    """Compare the time of live measures, all measures and checkpoints with the rest of the default run."""

    def share(name: str, goal: str, callback: type[L.Callback], measures: Sequence[Measure], runs: int) -> None:
        spent: list[float] = []
        shares, rest = [], []
        plain = callback.at_checkpoint  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(callback, "at_checkpoint", lambda *args: spent.append(seconds(lambda: plain(*args))))
            for _ in range(runs):
                spent.clear()
                rest.append(seconds(lambda: timed_run(INDUCTION, measures)) - sum(spent))
                shares.append(sum(spent) / rest[-1])
        show(f"{name} at {len(spent)} steps / the rest of the run", goal, shares, f"{statistics.median(rest):.0f} s")

    share("live measures", ".05", MeasureWhileTraining, LIVE, 3)
    share("effect", ".02", MeasureWhileTraining, [each for each in LIVE if each.name == "effect"], 3)
    share("all measures", ".10", MeasureWhileTraining, MEASURES, 2)
    share("checkpoints", "-", KeepCheckpoints, LIVE, 2)


def affine() -> None:
    """Compare the float32 rate of the affine recipe at batch 64 with the machine's peak rate in a matrix product."""
    recipe = replace(AFFINE, batch_size=64)
    batch = recipe.task.evaluation_batch(0, 64)
    model = HookedTransformer(recipe.model)
    cfg, (rows, pos) = model.cfg, batch.mask.shape
    matrices = sum(weight.numel() for name, weight in model.named_parameters() if "W_" in name and "pos" not in name)
    # Two products for each query and visible key; on average half of all keys are visible.
    attention = 2 * cfg.n_layers * cfg.n_heads * cfg.d_head * (pos + 1)
    operations = 3 * rows * pos * (2 * matrices + attention)
    update = step_of(model, our_loss(model, recipe, batch), recipe)
    x = torch.randn(2048, 2048)
    peaks, rates = [], []
    for _ in range(12):
        peaks.append(max(2 * 2048**3 / seconds(lambda: x @ x) for _ in range(3)))
        rates.append(operations / seconds(update) / peaks[-1])
    beside = f"{statistics.median(peaks) / 1e9:.0f} GFLOP/s"
    show("affine-recurrence at batch 64, float32 rate / matrix product's", ">= .6", rates, beside)


def circuit() -> None:
    """Time the search for the circuit of the default run with 100 random ones, in seconds a checkpoint on one core."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run = train(**vars(replace(INDUCTION, steps=500)), out=Path(folder) / "run", measures=())
        asked = resolve(run, None, None, MOST_SEQUENCES)
        torch.set_num_threads(1)
        times = [seconds(lambda: circuit_at(run, run.steps[-1], *asked)) for _ in range(5)]
        torch.set_num_threads(threads)
    show("search for a circuit, induction at step 500, one core", "5", times, "1 s")


def threads() -> None:
    """Compare two parallel runs of one thread each with two successive runs of two threads each, by total time."""

    def start(name: str, steps: int, threads: int, out: str) -> subprocess.Popen:
        options = ["--steps", str(steps), "--schedule.log", "0", "--schedule.linear", "0", "--out", out]
        command = [sys.executable, "-m", "headway", "train", name, *options, "--trainer.threads", str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def compare(name: str, steps: int) -> None:
        def side_by_side() -> None:
            with tempfile.TemporaryDirectory() as folder:
                for process in [start(name, steps, 1, f"{folder}/{index}") for index in range(2)]:
                    process.wait()

        def in_turn() -> None:
            with tempfile.TemporaryDirectory() as folder:
                for index in range(2):
                    start(name, steps, 2, f"{folder}/{index}").wait()

        alternate(f"two runs of {name}, side by side / in turn, 2 threads", "-", side_by_side, in_turn, 2)

    compare("induction", 300)
    compare("affine-recurrence", 50)


def together() -> None:
    """Compare an update of a stack of members with the updates of its members, one after another, on this machine."""

    def compare(recipe: Recipe, count: int, rounds: int) -> None:
        members = [training_module(replace(recipe, seed=seed)) for seed in range(count)]
        batches = [recipe.task.batch(seed, 0, recipe.batch_size) for seed in range(count)]
        stack, batch = StackedModule(members), stacked(batches)
        weights = list(stack.stack.values())
        optimizer = recipe.optim.build(weights, fused=True)
        steps = [
            step_of(member.model, our_loss(member.model, recipe, batch), recipe)
            for member, batch in zip(members, batches, strict=True)
        ]

        def update() -> None:
            optimizer.zero_grad()
            stack.losses_of(batch).sum().backward()
            clip_each([weight.grad for weight in weights if weight.grad is not None], recipe.optim.max_grad_norm)
            optimizer.step()

        def updates() -> None:
            for step in steps:
                step()

        alternate(
            f"update of {count} together / {count} updates, {type(recipe.task).__name__}", "-", update, updates, rounds
        )

    for count in (4, 16, 64):
        compare(INDUCTION, count, 12)
    compare(replace(AFFINE, batch_size=64), 4, 3)


PARTS = {part.__name__: part for part in (step, bridge, whole, tiny, measures, affine, circuit, threads, together)}


def main(names: list[str]) -> None:
    """Print the whole table, or the parts that ``names`` lists."""
    from bench_report import PARTS as PAGES  # these modules import this one
    from bench_size import PARTS as SIZES
    from bench_start import PARTS as STARTS

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    parts = PARTS | SIZES | STARTS | PAGES
    for name in names or parts:
        parts[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
