"""Affine recurrences of vectors: the coefficients must be inferred from the sequence itself."""

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
from headway.data.task import Batch, Behaviour, Task


@dataclass(frozen=True)
class AffineRecurrence(Task):
    """Vectors that follow an affine recurrence, a new one in each sequence (arXiv 2410.17438).

    a_j = d + sum_i c_i a_(j-compl+i), i = 0..compl-1, with scalars c_i ~ U(c_min, c_max) and vectors
    d ~ U(d_min, d_max)^d_vector, a_0..a_(compl-1) ~ U(a_min, a_max)^d_vector, independent. Then x_j = a_j cap / max_k
    ‖a_k‖, cap ~ U(cap_min, cap_max), follows the same recurrence with d scaled by the same factor. The input at
    position q is x_q and its target is x_(q+1). ``info`` holds ``c`` [batch, compl] and the scaled ``d`` [batch,
    d_vector].

    These are the data of Bhargav & Gu. All sequences of a training batch have one length, uniform in
    length_min..length_max; the evaluation batch has length_max.

    Args:
        d_vector: dimension of a vector
        compl: order of the recurrence: number of previous vectors that determine the next one
        length_min: minimum number of vectors in a sequence, including the last target
        length_max: maximum number of vectors in a sequence, including the last target
        c_min: lower bound of the coefficients c
        c_max: upper bound of the coefficients c
        d_min: lower bound of the entries of the constant d
        d_max: upper bound of the entries of the constant d
        a_min: lower bound of the entries of the initial vectors
        a_max: upper bound of the entries of the initial vectors
        cap_min: lower bound of the largest norm in a sequence
        cap_max: upper bound of the largest norm in a sequence
        shared_start: make all initial vectors of a sequence equal, as in the paper's notebook

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
    attention_dir: ClassVar = "causal"
    behaviour: ClassVar[Behaviour] = Behaviour("determined", "predict_zero_determined", "least_squares")

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
        """Refuse fields from which nothing can be drawn, or whose targets are never determined."""
        ranges = {name: (getattr(self, f"{name}_min"), getattr(self, f"{name}_max")) for name in ("c", "d", "a", "cap")}
        first, most = self.first_determined, math.inf if self.shared_start else self.d_vector
        for name, valid, rule in (
            ("d_vector", self.d_vector >= 1, "at least 1"),
            (
                "compl",
                1 <= self.compl <= most,
                f"at least 1, and at most d_vector = {self.d_vector} unless shared_start is true",
            ),
            (
                "length_min",
                self.length_min >= first + 2,
                f"at least {first + 2}: position {first} is the first whose target is determined",
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
                f"vectors may grow by a factor of {growth:.3g} per step, beyond 1e150"
            )

    @property
    def d_vocab(self) -> int:
        """Dimension of a vector."""
        return self.d_vector

    @property
    def n_ctx(self) -> int:
        """Length of the longest input sequence, x_0..x_(length_max-2)."""
        return self.length_max - 1

    @property
    def first_determined(self) -> int:
        """First position whose target follows from the vectors so far.

        There are q - compl + 1 transitions up to position q. When the initial vectors are independent, one transition
        gives d and one more gives all c: compl + 1. When they are equal, all differences are multiples of one vector,
        and each transition after the first gives one coefficient: 2 compl.
        """
        return 2 * self.compl if self.shared_start else self.compl + 1

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw a length, and then ``batch_size`` sequences of that length."""
        length = torch.randint(self.length_min, self.length_max + 1, (), generator=generator)
        return self._sample(generator, batch_size, int(length))

    def evaluation_batch(self, seed: int, batch_size: int) -> Batch:
        """Return the fixed batch on which a run is scored; its length is length_max, so every position occurs."""
        return self._sample(stream("evaluation", seed), batch_size, self.length_max)._replace(task=self)

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
        """Return ``determined``: the positions from ``first_determined`` on."""
        pos = torch.arange(batch.inputs.shape[1], device=batch.inputs.device)
        return {"determined": einops.repeat(pos >= self.first_determined, "pos -> batch pos", batch=len(batch.inputs))}

    def baselines(self) -> dict[str, float]:
        """Return mean squared errors; all but the last are estimates from a fixed sample, accurate to about 1 %.

        - ``predict_zero``, ``repeat_last``: over all positions, averaged over the lengths with equal weight.
        - ``predict_zero_longest``, ``repeat_last_longest``: the same at length_max, as in the evaluation batch.
        - ``predict_zero_determined``: on the part ``determined`` at length_max.
        - ``least_squares``: ``least_squares_oracle`` on the part ``determined``: 0 up to rounding.

        Example:
            >>> sorted(AffineRecurrence(d_vector=3, length_max=5).baselines())[:2]
            ['least_squares', 'predict_zero']
        """
        return {**_estimated_baselines(self), "least_squares": 0.0}

    def twin(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return vectors of zero, as sequences begin that grow fast: the best prediction from them is zero.

        Vectors of other directions mislead a network: it predicts a combination of them, which is further from the
        target than zero is. ``generator`` is not used.

        Example:
            >>> task = AffineRecurrence(d_vector=3, length_min=5, length_max=5)
            >>> batch = task.batch(seed=0, index=0, batch_size=2)
            >>> bool(task.twin(batch, torch.Generator()).inputs.any())
            False
        """
        return batch._replace(inputs=torch.zeros_like(batch.inputs))

    def _recurrence(
        self, generator: torch.Generator, batch_size: int, length: int
    ) -> tuple[Float[Tensor, "pos batch d_vocab"], Float[Tensor, "batch compl"], Float[Tensor, "batch d_vocab"]]:
        """Draw the vectors a_j before scaling, c, and d, in float64 because a_j may grow far beyond a_0."""

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
    """Estimate the baselines that need no coefficients.

    The first n vectors of a long sequence serve as a sequence of length n.
    """
    generator = stream("baseline", 0)
    chunks, size = 700, 24  # one chunk fits one thread: waiting for other threads takes seconds on a busy machine
    lengths = torch.arange(2, task.length_max + 1)
    cap_squared = (task.cap_min**2 + task.cap_min * task.cap_max + task.cap_max**2) / 3
    totals = {"predict_zero": torch.zeros(len(lengths)).double(), "repeat_last": torch.zeros(len(lengths)).double()}
    determined = 0.0
    for _ in range(chunks):
        a, _, _ = task._recurrence(generator, size, task.length_max)
        largest = a.square().sum(-1).cummax(0).values[1:]
        for name, error in (("predict_zero", a[1:]), ("repeat_last", a[1:] - a[:-1])):
            totals[name] += (error.square().sum(-1).cumsum(0) / largest).mean(-1)
        determined += (a[1 + task.first_determined :].square().sum((0, -1)) / largest[-1]).mean().item()
    losses = {}
    for name, total in totals.items():
        by_length = cap_squared * total / chunks / (lengths - 1) / task.d_vector
        losses[name] = by_length[lengths >= task.length_min].mean().item()
        losses[f"{name}_longest"] = by_length[-1].item()
    count = task.length_max - 1 - task.first_determined
    losses["predict_zero_determined"] = cap_squared * determined / chunks / count / task.d_vector
    return losses


def least_squares_oracle(inputs: Float[Tensor, "batch pos d_vocab"], compl: int) -> Float[Tensor, "batch pos d_vocab"]:
    """Predict the next vector at each position, with c and d fitted by least squares to the transitions so far.

    c and d minimise sum_j ‖x_j - d - sum_i c_i x_(j-compl+i)‖² over compl <= j <= q, in float64; if several c do, the
    one with the smallest norm is used. The prediction is zero before the first transition, and the last vector (c = 0)
    at the first transition.

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
        # [batch, transition, d_vocab, compl]; the last transition has no next vector yet
        before = x[:, : q + 1].unfold(1, compl, 1)
        answers = x[:, compl : q + 1]
        # d absorbs the means, so c is fitted to the centred vectors.
        mean_before, mean_answer = before[:, :-1].mean(1), answers.mean(1)
        design = einops.rearrange(before[:, :-1] - mean_before[:, None], "b j d_vocab compl -> b (j d_vocab) compl")
        rest = einops.rearrange(answers - mean_answer[:, None], "b j d_vocab -> b (j d_vocab) 1")
        # Directions below the rounding error of the inputs say nothing about c. QR comes first to make the SVD small.
        basis, small = torch.linalg.qr(design)
        c = torch.linalg.pinv(small, rtol=torch.finfo(inputs.dtype).eps) @ (basis.mT @ rest)
        predictions[:, q] = mean_answer + ((before[:, -1] - mean_before) @ c).squeeze(-1)
    return predictions.to(inputs.dtype)
