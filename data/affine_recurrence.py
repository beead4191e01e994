"""Affine recurrences of vectors: the coefficients must be read off the sequence itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import einops
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headway.data.seeds import generator as stream
from headway.data.task import Batch, Task


@dataclass(frozen=True)
class AffineRecurrence(Task):
    """Vectors that follow an affine recurrence, drawn anew for each sequence (arXiv 2410.17438).

    a_j = d + sum_i c_i a_(j-compl+i), i = 0..compl-1, with scalars c_i ~ U(c_min, c_max) and vectors
    d ~ U(d_min, d_max)^d_vector, a_0..a_(compl-1) ~ U(a_min, a_max)^d_vector, independent. Then x_j = a_j cap / max_k
    ‖a_k‖, cap ~ U(cap_min, cap_max), follows the same recurrence with d scaled alike. Position q holds x_q and is asked
    for x_(q+1). ``info`` holds ``c`` [batch, compl] and the scaled ``d`` [batch, d_vector].

    These are the data of Bhargav & Gu. A training batch has one length, uniform in length_min..length_max; the
    evaluation batch has length_max.

    Args:
        d_vector: length of a vector
        compl: order of the recurrence, how many vectors the next one depends on
        length_min: fewest vectors in a sequence, the last answer included
        length_max: most vectors in a sequence, the last answer included
        c_min: least coefficient c
        c_max: greatest coefficient c
        d_min: least entry of the constant d
        d_max: greatest entry of the constant d
        a_min: least entry of an initial vector
        a_max: greatest entry of an initial vector
        cap_min: least value of a sequence's largest norm
        cap_max: greatest value of a sequence's largest norm
        shared_start: whether all initial vectors of a sequence are equal, as in the paper's notebook

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> batch = AffineRecurrence(d_vector=3, length_min=5, length_max=5).batch(seed=0, index=0, batch_size=2)
        >>> batch.inputs.shape
        torch.Size([2, 4, 3])
        >>> bool(torch.allclose(batch.targets, batch.info["d"][:, None] + batch.info["c"][:, None] * batch.inputs))
        True
    """

    input_type: ClassVar[Literal["tokens", "vectors"]] = "vectors"

    d_vector: int = 40
    compl: int = 1
    length_min: int = 4
    length_max: int = 29
    c_min: float = -2.0
    c_max: float = 2.0
    d_min: float = -2.0
    d_max: float = 2.0
    a_min: float = -3.0
    a_max: float = 3.0
    cap_min: float = 1.0
    cap_max: float = 2.0
    shared_start: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn, or never has a determined answer."""
        ranges = {name: (getattr(self, f"{name}_min"), getattr(self, f"{name}_max")) for name in ("c", "d", "a", "cap")}
        first, most = self.first_determined, math.inf if self.shared_start else self.d_vector
        for name, valid, rule in (
            ("d_vector", self.d_vector >= 1, "at least 1"),
            (
                "compl",
                1 <= self.compl <= most,
                f"at least 1, and at most d_vector = {self.d_vector} unless shared_start",
            ),
            (
                "length_min",
                self.length_min >= first + 2,
                f"at least {first + 2}: position {first} is the first determined",
            ),
            ("length_max", self.length_max >= self.length_min, f"at least length_min = {self.length_min}"),
            *((f"{name}_min", math.isfinite(low), "finite") for name, (low, _) in ranges.items()),
            *(
                (f"{name}_max", low <= high < math.inf, f"finite, at least {name}_min = {low}")
                for name, (low, high) in ranges.items()
            ),
            ("cap_min", self.cap_min > 0, "greater than 0"),
            ("a_max", any(ranges["a"] + ranges["d"]), "other than 0 while a_min = d_min = d_max = 0"),
        ):
            if not valid:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be {rule}")
        c, d, a = (max(abs(low), abs(high)) for low, high in (ranges["c"], ranges["d"], ranges["a"]))
        # ‖a_j‖ stays below (a + length_max d) sqrt(d_vector) growth^length_max, and its square must fit in float64.
        growth = max(1 + 1e-9, self.compl * c)
        digits = 150 - math.log10((a + self.length_max * d) * math.sqrt(self.d_vector))
        longest = int(digits / math.log10(growth))
        if self.length_max > longest:
            raise ValueError(
                f"length_max: {self.length_max} is not valid; it must be at most {longest}: "
                f"vectors may grow {growth:.3g}-fold a step, past 1e150"
            )

    @property
    def d_vocab(self) -> int:
        """Length of a vector."""
        return self.d_vector

    @property
    def n_ctx(self) -> int:
        """Length of the longest inputs x_0..x_(length_max-2)."""
        return self.length_max - 1

    @property
    def first_determined(self) -> int:
        """First position whose answer follows from what was seen.

        Position q has seen q - compl + 1 transitions. One gives d, and one more gives all c when the initial vectors
        are independent: compl + 1. When they are equal, all differences are multiples of one vector, and each
        transition after the first gives one coefficient: 2 compl.
        """
        return 2 * self.compl if self.shared_start else self.compl + 1

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` sequences of one length, which is drawn first."""
        length = torch.randint(self.length_min, self.length_max + 1, (), generator=generator)
        return self._sample(generator, batch_size, int(length))

    def evaluation_batch(self, seed: int, batch_size: int) -> Batch:
        """The fixed batch on which a run is scored, of length_max, so that every position is in it."""
        return self._sample(stream("evaluation", seed), batch_size, self.length_max)._replace(task=self)

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
        """``determined``: positions from ``first_determined`` on."""
        pos = torch.arange(batch.inputs.shape[1], device=batch.inputs.device)
        return {"determined": einops.repeat(pos >= self.first_determined, "pos -> batch pos", batch=len(batch.inputs))}

    def baselines(self) -> dict[str, float]:
        """Mean squared errors; the first four are estimates from a fixed sample, good to about 1 %.

        - ``predict_zero``, ``repeat_last``: all positions, the mean over the lengths, each length with equal weight.
        - ``predict_zero_longest``, ``repeat_last_longest``: the same at length_max, as in the evaluation batch.
        - ``least_squares``: on the part ``determined``, for ``least_squares_oracle``: 0 up to rounding.

        Example:
            >>> sorted(AffineRecurrence(d_vector=3, length_max=5).baselines())[:2]
            ['least_squares', 'predict_zero']
        """
        return {**_estimated_baselines(self), "least_squares": 0.0}

    def _recurrence(
        self, generator: torch.Generator, batch_size: int, length: int
    ) -> tuple[Float[Tensor, "pos batch d_vocab"], Float[Tensor, "batch compl"], Float[Tensor, "batch d_vocab"]]:
        """The vectors a_j before scaling, c, and d, in float64: a_j may grow far beyond a_0."""

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

        c = uniform(self.c_min, self.c_max, batch_size, self.compl)
        d = uniform(self.d_min, self.d_max, batch_size, self.d_vector)
        a = torch.empty(length, batch_size, self.d_vector, dtype=torch.float64)
        starts = 1 if self.shared_start else self.compl
        a[: self.compl] = uniform(self.a_min, self.a_max, starts, batch_size, self.d_vector)
        factors = einops.rearrange(c, "batch compl -> compl batch 1")
        for j in range(self.compl, length):
            a[j] = (factors * a[j - self.compl : j]).sum(0) + d
        return a, c, d

    def _sample(self, generator: torch.Generator, batch_size: int, length: int) -> Batch:
        a, c, d = self._recurrence(generator, batch_size, length)
        cap = self.cap_min + (self.cap_max - self.cap_min) * torch.rand(batch_size, generator=generator).double()
        scale = einops.rearrange(cap / a.norm(dim=-1).amax(0), "batch -> batch 1")
        x = einops.rearrange(a * scale, "pos batch d_vocab -> batch pos d_vocab").float()
        mask = torch.ones(batch_size, length - 1, dtype=torch.bool)
        return Batch(x[:, :-1], x[:, 1:], mask, {"c": c.float(), "d": (d * scale).float()})


@lru_cache(maxsize=16)
def _estimated_baselines(task: AffineRecurrence) -> dict[str, float]:
    """Baselines that need no coefficients. The first n vectors of a long sequence serve as a sequence of length n."""
    generator = stream("baseline", 0)
    chunks, size = 700, 24  # small enough for one thread: waiting for others costs seconds on a busy machine
    lengths = torch.arange(2, task.length_max + 1)
    cap_squared = (task.cap_min**2 + task.cap_min * task.cap_max + task.cap_max**2) / 3
    totals = {"predict_zero": torch.zeros(len(lengths)).double(), "repeat_last": torch.zeros(len(lengths)).double()}
    for _ in range(chunks):
        a, _, _ = task._recurrence(generator, size, task.length_max)
        largest = a.square().sum(-1).cummax(0).values[1:]
        for name, error in (("predict_zero", a[1:]), ("repeat_last", a[1:] - a[:-1])):
            totals[name] += (error.square().sum(-1).cumsum(0) / largest).mean(-1)
    losses = {}
    for name, total in totals.items():
        by_length = cap_squared * total / chunks / (lengths - 1) / task.d_vector
        losses[name] = by_length[lengths >= task.length_min].mean().item()
        losses[f"{name}_longest"] = by_length[-1].item()
    return losses


def least_squares_oracle(inputs: Float[Tensor, "batch pos d_vocab"], compl: int) -> Float[Tensor, "batch pos d_vocab"]:
    """The next vector at each position, from c and d fitted by least squares to the transitions seen so far.

    c and d minimise sum_j ‖x_j - d - sum_i c_i x_(j-compl+i)‖² over compl <= j <= q, in float64; where many c do, the
    smallest. Before the first transition the prediction is zero, and at it the last vector (c = 0).

    Raises:
        ValueError: if ``compl`` is less than 1.

    Example:
        >>> x = torch.tensor([[[1.0, 0.0], [3.0, 1.0], [7.0, 3.0], [15.0, 7.0]]])  # x_j = 2 x_(j-1) + (1, 1)
        >>> least_squares_oracle(x, compl=1)[0].round(decimals=3).tolist()
        [[0.0, 0.0], [3.0, 1.0], [15.0, 7.0], [31.0, 15.0]]
    """
    if compl < 1:
        raise ValueError(f"compl: {compl} is not valid; it must be at least 1")
    x = inputs.double()
    predictions = torch.zeros_like(x)
    for q in range(compl, x.shape[1]):
        before = x[:, : q + 1].unfold(1, compl, 1)  # [batch, transition, d_vocab, compl]; the last has no answer yet
        answers = x[:, compl : q + 1]
        # d takes up the means, so c is fitted to what is left.
        mean_before, mean_answer = before[:, :-1].mean(1), answers.mean(1)
        design = einops.rearrange(before[:, :-1] - mean_before[:, None], "b j d_vocab compl -> b (j d_vocab) compl")
        rest = einops.rearrange(answers - mean_answer[:, None], "b j d_vocab -> b (j d_vocab) 1")
        # Directions below the rounding of the inputs say nothing about c. QR first: the SVD is then of a small matrix.
        basis, small = torch.linalg.qr(design)
        c = torch.linalg.pinv(small, rtol=torch.finfo(inputs.dtype).eps) @ (basis.mT @ rest)
        predictions[:, q] = mean_answer + ((before[:, -1] - mean_before) @ c).squeeze(-1)
    return predictions.to(inputs.dtype)
