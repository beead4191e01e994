"""Linear regression in context: the weights must be inferred from pairs of a vector and a number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import einops
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from headway.data.seeds import generator as stream
from headway.data.task import Batch, Behaviour, Task

# Sequences behind the baselines (fewer where each is compared with a whole pool), and how many are in memory at once.
SAMPLE, SAMPLE_OF_POOL, CHUNK, MOST_NUMBERS = 20_000, 4_000, 2_000, 2**22
MOST_TASKS = 1024


@dataclass(frozen=True)
class LinearRegression(Task):
    """Pairs of a vector and a number, its linear function; the answer at a vector is its number.

    y_k = w · x_k + e_k with x_k ~ N(0, 1)^dimension, e_k ~ N(0, noise_variance) and, for each sequence, w ~ N(0,
    1)^dimension; with ``n_tasks``, w is one of so many fixed vectors, drawn from ``task_seed``. The inputs are (0,
    x_0), (y_0, 0), (0, x_1), (y_1, 0), ..: position 2k holds x_k and has the target y_k, and only even positions
    count. The task follows Raventós et al. 2023, arXiv 2306.15063. ``info`` holds ``w`` [batch, dimension].

    Args:
        dimension: dimension of a vector x
        n_pairs: number of pairs in a sequence
        noise_variance: variance of the noise e
        n_tasks: number of vectors w in a fixed pool; null draws a new one for each sequence
        task_seed: seed of the fixed pool

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> task = LinearRegression(dimension=3, n_pairs=5)
        >>> batch = task.batch(seed=0, index=0, batch_size=2)
        >>> batch.inputs.shape, batch.targets.shape
        (torch.Size([2, 10, 4]), torch.Size([2, 10, 1]))
        >>> bool((batch.inputs[:, 1::2, 0] == batch.targets[:, ::2, 0]).all())
        True
    """

    input_type: ClassVar[Literal["tokens", "vectors"]] = "vectors"
    attention_dir: ClassVar = "causal"
    behaviour: ClassVar[Behaviour] = Behaviour(None, "zero", "best")

    dimension: int = 4
    n_pairs: int = 16
    noise_variance: float = 0.125
    n_tasks: int | None = None
    task_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse fields from which nothing can be drawn."""
        for name, valid, rule in (
            ("dimension", self.dimension >= 1, "at least 1"),
            ("n_pairs", self.n_pairs >= 2, "at least 2"),
            ("noise_variance", 0 < self.noise_variance < math.inf, "finite and above 0"),
            ("n_tasks", self.n_tasks is None or 1 <= self.n_tasks <= MOST_TASKS, f"null, or 1 to {MOST_TASKS}"),
            ("task_seed", 0 <= self.task_seed < 2**32, f"a whole number from 0 to {2**32 - 1}"),
        ):
            if not valid:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be {rule}")

    @property
    def d_vocab(self) -> int:
        """Length of an input vector: y and x."""
        return self.dimension + 1

    @property
    def d_vocab_out(self) -> int:
        """One number is predicted."""
        return 1

    @property
    def n_ctx(self) -> int:
        """Number of positions: two for each pair."""
        return 2 * self.n_pairs

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` sequences, each with its own w or one of the pool."""
        if self.n_tasks is None:
            w = torch.randn(batch_size, self.dimension, generator=generator)
        else:
            w = self.pool[torch.randint(self.n_tasks, (batch_size,), generator=generator)]
        x = torch.randn(batch_size, self.n_pairs, self.dimension, generator=generator)
        noise = self.noise_variance**0.5 * torch.randn(batch_size, self.n_pairs, generator=generator)
        y = einops.einsum(x, w, "batch k d, batch d -> batch k") + noise
        targets = einops.repeat(y, "batch k -> batch (k two) 1", two=2)
        mask = (torch.arange(self.n_ctx) % 2 == 0).repeat(batch_size, 1)
        return Batch(interleaved(x, y), targets, mask, {"w": w})

    @property
    def pool(self) -> Float[Tensor, "task dimension"]:
        """The vectors w of the fixed pool.

        Raises:
            ValueError: every sequence has a w of its own.
        """
        if self.n_tasks is None:
            raise ValueError("n_tasks: None is not valid; a fixed pool needs a number of tasks")
        return torch.randn(self.n_tasks, self.dimension, generator=stream("pool", self.task_seed))

    def predictors(self, batch: Batch) -> dict[str, Float[Tensor, "batch pos 1"]]:
        """Return predictions of y_k, each given x_k and the pairs before it; 0 at odd positions.

        - ``zero``: 0.
        - ``ridge``: x_k · (XᵀX + noise_variance I)⁻¹ Xᵀy, the mean under the posterior of a w from N(0, I).
        - ``pool``, with a fixed pool: the mean of x_k · w under the posterior of w in the pool (discrete MMSE).

        Example:
            >>> task = LinearRegression(dimension=3, n_pairs=5)
            >>> {name: tuple(output.shape) for name, output in task.predictors(task.batch(0, 0, batch_size=2)).items()}
            {'zero': (2, 10, 1), 'ridge': (2, 10, 1)}
        """
        x, y = batch.inputs[:, ::2, 1:].double(), batch.inputs[:, 1::2, 0].double()
        found = {"zero": torch.zeros_like(y), "ridge": ridge(x, y, self.noise_variance)}
        if self.n_tasks is not None:
            found["pool"] = discrete(x, y, self.noise_variance, self.pool.to(x))
        return {name: F.pad(each[..., None], (0, 1)).flatten(1)[..., None].float() for name, each in found.items()}

    def twin(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return sequences whose numbers are noise alone, as with w = 0; the vectors stay.

        Example:
            >>> task = LinearRegression(dimension=3, n_pairs=5)
            >>> batch = task.batch(seed=0, index=0, batch_size=2)
            >>> twin = task.twin(batch, torch.Generator().manual_seed(0))
            >>> bool((twin.inputs[:, ::2] == batch.inputs[:, ::2]).all())
            True
        """
        noise = self.noise_variance**0.5 * torch.randn(batch.inputs[:, 1::2, 0].shape, generator=generator)
        return batch._replace(inputs=interleaved(batch.inputs[:, ::2, 1:], noise.to(batch.inputs)))

    def baselines(self) -> dict[str, float]:
        """Return the means of ``baselines_by_position`` over the positions that count, and ``best``.

        ``best`` is the lowest that a network can reach: ``ridge``, or ``pool`` with a fixed pool.

        Example:
            >>> for name, error in LinearRegression().baselines().items():
            ...     print(name, round(error, 1))
            zero 4.1
            ridge 0.9
            noise 0.1
            best 0.9
        """
        means = {name: errors.nanmean().item() for name, errors in self.baselines_by_position().items()}
        return {**means, "best": means["ridge" if self.n_tasks is None else "pool"]}

    def baselines_by_position(self) -> dict[str, Float[Tensor, " pos"]]:
        """Return the squared error of each predictor at each position, and ``noise``, of one that knows w.

        They are estimates from 20,000 sequences (4,000 with a fixed pool), in which a prediction is compared with w · x
        and the variance of the noise is added: the standard error of their mean over positions is .6 % (1.5 % with a
        pool). They are NaN at odd positions.
        """
        return {name: errors.clone() for name, errors in _estimated(self).items()}


def interleaved(
    x: Float[Tensor, "batch pair dimension"], y: Float[Tensor, "batch pair"]
) -> Float[Tensor, "batch pos d_vocab"]:
    """Return the input vectors (0, x_0), (y_0, 0), (0, x_1), (y_1, 0), and so on.

    Example:
        >>> interleaved(torch.tensor([[[2.0, 3.0]]]), torch.tensor([[5.0]])).tolist()
        [[[0.0, 2.0, 3.0], [5.0, 0.0, 0.0]]]
    """
    vectors, numbers = F.pad(x, (1, 0)), F.pad(y[..., None], (0, x.shape[-1]))
    return torch.stack((vectors, numbers), 2).flatten(1, 2)


def ridge(
    x: Float[Tensor, "batch pair dimension"], y: Float[Tensor, "batch pair"], noise_variance: float
) -> Float[Tensor, "batch pair"]:
    """Return the prediction of each y given the pairs before it, under the prior w ~ N(0, I).

    Example:
        >>> ridge(torch.tensor([[[1.0], [1.0]]]), torch.tensor([[3.0, 0.0]]), noise_variance=0.5).tolist()
        [[0.0, 2.0]]
    """
    # Sums over the pairs before each one.
    products = F.pad((x[..., None] * x[..., None, :]).cumsum(1)[:, :-1], (0, 0, 0, 0, 1, 0))
    answers = F.pad((x * y[..., None]).cumsum(1)[:, :-1], (0, 0, 1, 0))
    prior = noise_variance * torch.eye(x.shape[-1]).to(x)
    w = torch.linalg.solve(products + prior, answers[..., None])[..., 0]
    return (w * x).sum(-1)


def discrete(
    x: Float[Tensor, "batch pair dimension"],
    y: Float[Tensor, "batch pair"],
    noise_variance: float,
    pool: Float[Tensor, "task dimension"],
) -> Float[Tensor, "batch pair"]:
    """Return the prediction of each y given the pairs before it, under a prior that is uniform over a pool of w.

    Example:
        >>> pool = torch.tensor([[-1.0], [1.0]])
        >>> discrete(torch.tensor([[[1.0], [1.0]]]), torch.tensor([[9.0, 0.0]]), 0.5, pool).tolist()
        [[0.0, 1.0]]
    """
    expected = x @ pool.T
    errors = (expected - y[..., None]) ** 2 / (2 * noise_variance)
    posterior = F.pad(-errors.cumsum(1)[:, :-1], (0, 0, 1, 0)).softmax(-1)
    return (posterior * expected).sum(-1)


@lru_cache(maxsize=16)
def _estimated(task: LinearRegression) -> dict[str, Float[Tensor, " pos"]]:
    generator, totals = stream("baseline", 0), dict[str, Tensor]()
    chunks, size = SAMPLE // CHUNK, CHUNK
    if task.n_tasks is not None:
        size = max(1, min(CHUNK, MOST_NUMBERS // (task.n_pairs * task.n_tasks)))
        chunks = -(-SAMPLE_OF_POOL // size)
    for _ in range(chunks):
        batch = task.sample(generator, size)
        clean = einops.einsum(batch.inputs[..., 1:], batch.info["w"], "batch pos d, batch d -> batch pos")
        outputs = {**task.predictors(batch), "noise": clean[..., None]}
        for name, output in outputs.items():
            errors = ((output[..., 0] - clean) ** 2).double().mean(0) + task.noise_variance
            totals[name] = totals.get(name, 0) + errors / chunks
    for total in totals.values():
        total[1::2] = math.nan
    return totals
