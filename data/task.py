"""The interface of a task: it samples batches, defines the loss, and gives baselines to compare with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import einops
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.data.seeds import generator

# The target of a position that does not count, as in torch.
IGNORED = -100


class Batch(NamedTuple):
    """Input sequences, the target at each position, and the positions that count.

    Args:
        inputs: Tokens ``[batch, pos]`` or vectors ``[batch, pos, d_vocab]``.
        targets: ``targets[b, q]`` is the target at position q: a token or class ``[batch, pos]``, or numbers ``[batch,
            pos, d_vocab_out]``. They need not be of the kind of the inputs. Where ``mask`` is False a target can be
            anything, such as -100.
        mask: True where the loss counts.
        info: What the task knows about each sequence (its period, its coefficients).
        task: The task that drew the batch, or None for a batch made by hand.
        attention_mask: True at the positions of a sequence, False at the padding after its end; None if all sequences
            are as long as the inputs. No query attends to padding, and no measure counts it.
    """

    inputs: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_vocab"]
    targets: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_vocab_out"]
    mask: Bool[Tensor, "batch pos"]
    info: Mapping[str, Tensor] = {}
    task: Task | None = None
    attention_mask: Bool[Tensor, "batch pos"] | None = None

    @property
    def padding(self) -> dict[str, Any]:
        """The keyword arguments that hide the padding from a network: ``model(batch.inputs, **batch.padding)``."""
        return {} if self.attention_mask is None else {"attention_mask": self.attention_mask}

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """True at every position that is not padding."""
        if self.attention_mask is not None:
            return self.attention_mask
        return torch.ones(self.inputs.shape[:2], dtype=torch.bool, device=self.inputs.device)

    @property
    def outputs_are_inputs(self) -> bool:
        """True if output i stands for input i, as far as is known: both are of one kind, and the task agrees."""
        of_one_kind = self.inputs.is_floating_point() == self.targets.is_floating_point()
        return of_one_kind and (self.task is None or self.task.outputs_are_inputs)

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch with its tensors on ``device``."""
        return self._replace(
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            mask=self.mask.to(device),
            info={name: value.to(device) for name, value in self.info.items()},
            attention_mask=None if self.attention_mask is None else self.attention_mask.to(device),
        )

    def first(self, count: int) -> Batch:
        """Return the first ``count`` sequences, or all if there are fewer."""
        return self.at(slice(count))

    def at(self, sequences: list[int] | slice | Int[Tensor, " chosen"]) -> Batch:
        """Return the sequences of these numbers."""
        return self._replace(
            inputs=self.inputs[sequences],
            targets=self.targets[sequences],
            mask=self.mask[sequences],
            info={name: value[sequences] for name, value in self.info.items()},
            attention_mask=None if self.attention_mask is None else self.attention_mask[sequences],
        )

    def shifted(self) -> Batch:
        """Return the inputs of the previous sequence in each: other sequences, of which the targets tell nothing.

        Where the previous sequence has ended and this one has not, its own inputs stay.
        """
        other = self.inputs.roll(1, 0)
        if self.attention_mask is not None:
            ended = ~self.attention_mask.roll(1, 0)
            other = torch.where(ended.view(*ended.shape, *[1] * (other.ndim - 2)), self.inputs, other)
        return self._replace(inputs=other)


class Counts(NamedTuple):
    """Numbers of different sequences of a task: those to train on, and those held out."""

    training: int
    held_out: int


class Behaviour(NamedTuple):
    """The number that shows what a task is about: the loss on a part, and the baselines between which it lies.

    ``part`` is a name among ``Task.parts``; None stands for all positions that count. ``chance`` and ``floor`` are
    names among ``Task.baselines``: the loss on this part of a network that does not know the answer, and of one that
    does; None where the task knows no such loss.
    """

    part: str | None = None
    chance: str | None = None
    floor: str | None = None


@dataclass(frozen=True)
class Task(ABC):
    """A distribution over sequences, with the loss that a network is trained on.

    The fields of a subclass are its configuration and are written to the run's config.yaml. A subclass defines
    ``d_vocab``, ``n_ctx``, ``sample`` and ``baselines``. What else a task may say:

    - ``input_type`` if its inputs are vectors, and ``d_vocab_out`` if there are not as many outputs as inputs;
      ``outputs_are_inputs`` is False if there are, but output i does not stand for input i. Integer targets are tokens
      or classes, scored by cross-entropy; floating-point targets are numbers, scored by squared error. Inputs and
      targets may be of different kinds.
    - Where the answer is read: the ``mask`` of its batches. A classifier counts one position of each sequence.
    - ``attention_dir`` if attention must have one direction: ``causal`` where a later input tells the target, as with
      the next token, and ``bidirectional`` where the target depends on what follows.
    - Sequences of different lengths: they are padded at the end, and the ``attention_mask`` of the batch is False
      there.
    - Sequences that training never sees: ``sample_held_out`` draws them, and a run is scored on them; ``sample`` draws
      the others, and the loss on these is the score ``training_loss``. A task whose sequences can be listed inherits
      from ``headway.data.finite.FiniteTask``, which splits them.
    - ``behaviour`` and ``twin`` tell the search for circuits which loss shows that the task is solved, and what hides
      the answer.

    Example:
        A custom task, counting upwards modulo 7:

        >>> @dataclass(frozen=True)
        ... class Counting(Task):
        ...     d_vocab, n_ctx = 7, 5
        ...     def sample(self, generator, batch_size):
        ...         start = torch.randint(7, (batch_size, 1), generator=generator)
        ...         tokens = (start + torch.arange(6)) % 7
        ...         return Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(batch_size, 5, dtype=torch.bool))
        ...     def baselines(self):
        ...         return {"chance": math.log(7)}
        >>> Counting().batch(seed=0, index=3, batch_size=2).inputs.shape
        torch.Size([2, 5])

        A classifier: whether the tokens before the padding hold a 0, read at position 0.

        >>> @dataclass(frozen=True)
        ... class HoldsZero(Task):
        ...     attention_dir = "bidirectional"
        ...     d_vocab, d_vocab_out, n_ctx = 4, 2, 5  # token 3 is the padding
        ...     def sample(self, generator, batch_size):
        ...         length = torch.randint(1, 6, (batch_size, 1), generator=generator)
        ...         real = torch.arange(5) < length
        ...         tokens = torch.randint(3, (batch_size, 5), generator=generator).masked_fill(~real, 3)
        ...         read = torch.arange(5).expand(batch_size, 5) == 0
        ...         targets = (tokens == 0).any(1, keepdim=True).long().where(read, -100)
        ...         return Batch(tokens, targets, read, attention_mask=real)
        ...     def baselines(self):
        ...         return {"chance": math.log(2)}
        >>> HoldsZero().evaluation_batch(seed=0, batch_size=2).targets[0].tolist()[1:]
        [-100, -100, -100, -100]
    """

    input_type: ClassVar[Literal["tokens", "vectors"]] = "tokens"
    attention_dir: ClassVar[Literal["causal", "bidirectional"] | None] = None
    bos_token: ClassVar[int | None] = None
    behaviour: ClassVar[Behaviour] = Behaviour()
    options_added_later: ClassVar[tuple[str, ...]] = ()
    """Fields that the config.yaml of an older run may lack; it lacks no other."""

    @property
    @abstractmethod
    def d_vocab(self) -> int:
        """Number of tokens, or dimension of a vector: the smallest d_vocab that a network needs."""

    @property
    def d_vocab_out(self) -> int:
        """Number of classes, or of numbers in a target: the smallest d_vocab_out that a network needs."""
        return self.d_vocab

    @property
    def outputs_are_inputs(self) -> bool:
        """True if output i stands for input i, as where tokens are predicted; False if outputs have their own meaning.

        By default it is True where there are as many of both: a task with as many classes or numbers as tokens sets it
        to False, so that no measure takes them for tokens.
        """
        return self.d_vocab_out == self.d_vocab

    @property
    @abstractmethod
    def n_ctx(self) -> int:
        """Length of the longest input sequence: the smallest n_ctx that a network needs."""

    @abstractmethod
    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw a batch to train on, with ``generator`` as the only source of randomness."""

    def sample_held_out(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw a batch of sequences that training never sees.

        By default these are other draws of ``sample``: a task without end rarely draws a sequence twice.
        """
        return self.sample(generator, batch_size)

    @property
    def holds_out(self) -> bool:
        """True if the task keeps some sequences from training: ``sample`` and ``sample_held_out`` share none."""
        return type(self).sample_held_out is not Task.sample_held_out

    @property
    def n_sequences(self) -> Counts | None:
        """The numbers of sequences to train on and held out, if they can be counted: no batch can be larger."""
        return None

    @abstractmethod
    def baselines(self) -> dict[str, float]:
        """Return losses to compare with, by name: chance, floors, oracles. They have the units of ``loss``."""

    @property
    def tokenizer_json(self) -> bytes | None:
        """The tokenizer file, which a run saves; None if the tokens of this task stand for no strings."""
        return None

    @property
    def tokenizer_hash(self) -> str | None:
        """SHA-256 hash of the tokenizer file; None if there is none."""
        return None

    @property
    def outside_files(self) -> str | None:
        """The files that this task would read besides those of its run, in words; None if it reads none of the user's.

        A run from somebody else reads it only if the user says so.
        """
        return None

    def resolved(self) -> Task:
        """Return the same task with every field set that its batches depend on, as config.yaml holds it.

        Raises:
            ValueError: data that the task needs are missing.
        """
        return self

    def labels(self, batch: Batch) -> list[list[str]]:
        """Return axis labels for plots: one string for each position of each sequence."""
        if self.input_type == "vectors":
            return [[f"x{q}" for q in range(batch.inputs.shape[1])] for _ in batch.inputs]
        return [["BOS" if token == self.bos_token else str(token) for token in row] for row in batch.inputs.tolist()]

    def descriptions(self, batch: Batch) -> list[str]:
        """Return a few words on each sequence, for someone who looks at it: what it was drawn with; here none."""
        return [""] * len(batch.inputs)

    def loss(self, output: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> Float[Tensor, "batch pos"]:
        """Return the loss at each position: cross-entropy in nats for tokens, mean squared error for vectors.

        Where ``mask`` is False it has no meaning: no target is read there.
        """
        if batch.targets.is_floating_point():
            # A target of NaN that does not count would otherwise spoil the gradient.
            errors = (output - batch.targets).where(batch.mask[..., None], 0)
            return einops.reduce(errors**2, "batch pos d_vocab_out -> batch pos", "mean")
        # One row for each prediction, because a softmax over an axis that is not the last is slow.
        targets = batch.targets.where(batch.mask, IGNORED).flatten().long()
        return F.cross_entropy(output.flatten(0, 1), targets, reduction="none", ignore_index=IGNORED).view_as(
            batch.targets
        )

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
        """Return named sets of positions whose loss is reported separately, such as first occurrences and repeats."""
        return {}

    def predictors(self, batch: Batch) -> dict[str, Float[Tensor, "batch pos d_vocab_out"]]:
        """Return the output of known predictors on a batch, by name: log-probabilities for tokens, or vectors.

        A predictor is a strategy with an exact formula, such as the posterior mean given the sequence so far. Its
        output takes the place of a network's: ``loss(predictors(batch)[name], batch)`` is its loss.
        """
        return {}

    def twin(self, batch: Batch, generator: torch.Generator) -> Batch | None:
        """Return sequences of this task from which the targets of ``batch`` cannot be told; None if there are none.

        Only ``inputs`` differ from those of ``batch``. A twin leaves a network ignorant, so that its loss is about that
        of chance, or less: a sequence that has another answer would mislead it, and so would one of a kind that it has
        never met. None means that every sequence tells its answer, or that the task does not know a twin.

        Example:
            >>> from headway.data.repeated_tokens import RepeatedTokens
            >>> task = RepeatedTokens(n_tokens=7, length=6, period_min=3, period_max=3, late_start=0.0)
            >>> twin = task.twin(task.batch(seed=0, index=0, batch_size=1), torch.Generator().manual_seed(0))
            >>> len(set(twin.inputs[0].tolist()))  # nothing repeats
            6
        """
        return None

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """Return training batch number ``index``, which depends only on (seed, index)."""
        return self._batch(self.sample, generator("data", seed, index), batch_size)

    def training_batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """Return training batch number ``index``, and refuse one of which no position counts: it has no mean loss."""
        batch = self.batch(seed, index, batch_size)
        if not batch.mask.any():
            raise ValueError(f"task: no position of batch {index} counts; its mask must be True somewhere")
        return batch

    def evaluation_batch(self, seed: int, batch_size: int) -> Batch:
        """Return the fixed batch on which a run is scored; it is unrelated to every training batch."""
        return self._batch(self.sample_held_out, generator("evaluation", seed), batch_size)

    def seen_batch(self, seed: int, batch_size: int) -> Batch:
        """Return a fixed batch of sequences to train on; its loss is a score beside that of the evaluation batch."""
        return self._batch(self.sample, generator("training", seed), batch_size)

    def _batch(
        self, sample: Callable[[torch.Generator, int], Batch], generator: torch.Generator, batch_size: int
    ) -> Batch:
        batch = sample(generator, batch_size)
        if not isinstance(batch, Batch):
            name = f"{type(self).__name__}.{getattr(sample, '__name__', 'sample')}"
            raise TypeError(f"{name} returned a {type(batch).__name__}; it must return a Batch")
        return batch._replace(task=self)


def masked_mean(loss: Float[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Return the mean of ``loss`` over the positions where ``mask`` is True; NaN if there are none.

    Example:
        >>> masked_mean(torch.tensor([[1.0, 3.0]]), torch.tensor([[True, False]])).item()
        1.0
    """
    return loss.where(mask, 0).sum() / mask.sum()


def check_positions(batch: Batch, name: str = "batch") -> None:
    """Refuse a mask or padding that does not fit the inputs.

    Args:
        batch: Sequences.
        name: The argument that an error names.

    Raises:
        ValueError: a mask of another shape or dtype, padding that is not at the end, a sequence that is padding
            everywhere, a position that counts and is padding.

    Example:
        >>> tokens, mask = torch.tensor([[1, 2, 0]]), torch.tensor([[True, True, False]])
        >>> check_positions(Batch(tokens, tokens, mask, attention_mask=mask.flip(1)))
        Traceback (most recent call last):
        ValueError: batch: its sequence 0 has padding before its end; its attention_mask must be True first, then False
    """
    shape, real = batch.inputs.shape[:2], batch.attention_mask
    for which, mask in {"mask": batch.mask, "attention_mask": batch.real}.items():
        if mask.dtype != torch.bool:
            raise ValueError(f"{name}: its {which} is {mask.dtype}; it must be torch.bool")
        if mask.shape != shape:
            raise ValueError(
                f"{name}: its {which} has the shape {tuple(mask.shape)}; it must have that of the inputs, "
                f"{tuple(shape)}"
            )
    if real is None:
        return
    for found, what in (
        (~real.any(1), "is padding everywhere; its attention_mask must be True somewhere"),
        (
            (real[:, 1:] & ~real[:, :-1]).any(1),
            "has padding before its end; its attention_mask must be True first, then False",
        ),
        ((batch.mask & ~real).any(1), "counts a position that is padding; its mask must be False there"),
    ):
        if found.any():
            raise ValueError(f"{name}: its sequence {int(found.nonzero()[0])} {what}")
