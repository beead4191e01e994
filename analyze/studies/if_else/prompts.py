"""Prompts that end before `` else``, from real texts and from a grammar, and windows of ordinary text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.analyze.network.forward import forward_pass
from headway.analyze.studies.if_else.options import Options
from headway.analyze.studies.loading import LoadedModel
from headway.data.conditionals import ELSE, IF, concatenate, find_prompts, generate_prompts, random_windows, replace_if
from headway.data.corpus import read_corpus
from headway.data.task import Batch, Task
from headway.data.text import Text
from headway.data.tokenizer import format_token, one_token
from headway.models.convert import Model

# Replaces `` if``, so that there is no condition: "x = a, b".
INSTEAD = ","
# Share of a corpus that is used for a language model; a run uses its own held-out files.
HELD_OUT = 0.1


@dataclass(frozen=True)
class ElseAtEnd(Task):
    """The prediction of `` else`` at the end of prompts. Their twins have another token in place of `` if``."""

    tokens: int
    length: int
    instead: int

    @property
    def d_vocab(self) -> int:
        """The number of tokens."""
        return self.tokens

    @property
    def n_ctx(self) -> int:
        """The length of every prompt."""
        return self.length

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Refuse to draw: the prompts of a study are given."""
        raise ValueError("task: the prompts of a study are not drawn by its task")

    def baselines(self) -> dict[str, float]:
        """The loss of a network that knows nothing."""
        return {"chance": log(self.tokens)}

    def twin(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The same prompts without a condition."""
        return batch._replace(inputs=replace_if(batch, self.instead).inputs)


@dataclass(frozen=True)
class Prompts:
    """Prompts that end before `` else``, real ones first. END is the last position, IF the position of `` if``.

    Args:
        batch: All prompts.
        n_found: Number of real prompts; the others are pairs from a grammar, a normal prompt and its anomalous twin.
        ordinary: As many windows of the same texts, which end anywhere.
        tokenizer: The tokenizer.
    """

    batch: Batch
    n_found: int
    ordinary: Batch
    tokenizer: Any

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Any, seed: int, pairs: int, length: int) -> "Prompts":
        """Find the prompts of some texts, and generate ``pairs`` pairs from the grammar."""
        real = find_prompts(texts, tokenizer, length)
        batch = concatenate([real, generate_prompts(tokenizer, seed, 2 * pairs, length)])
        return cls(
            batch, len(real.inputs), random_windows(texts, tokenizer, seed, len(batch.inputs), length), tokenizer
        )

    @property
    def real(self) -> "Prompts":
        """The prompts from real texts."""
        return self._some(slice(self.n_found), self.n_found)

    @property
    def generated(self) -> "Prompts":
        """The prompts from the grammar."""
        return self._some(slice(self.n_found, None), 0)

    def _some(self, which: slice, n_found: int) -> "Prompts":
        return Prompts(self.batch.at(which), n_found, self.ordinary.at(which), self.tokenizer)

    @property
    def end(self) -> int:
        """The last position, the same for all prompts."""
        return self.batch.inputs.shape[1] - 1

    @property
    def at_if(self) -> tuple[Int[Tensor, "prompt"], Int[Tensor, "prompt"]]:
        """The index of IF in values [prompt, pos, ...]."""
        return torch.arange(len(self.batch.inputs)), self.batch.info["if_position"]

    @property
    def anomalous(self) -> Bool[Tensor, "prompt"]:
        """A mask of the prompts that end in ``)``."""
        return self.batch.info["anomalous"]

    @property
    def made(self) -> Bool[Tensor, "prompt"]:
        """A mask of the generated prompts."""
        return torch.arange(len(self.batch.inputs)) >= self.n_found

    @property
    def kinds(self) -> dict[str, Bool[Tensor, "prompt"]]:
        """Masks of the prompts of each kind that exists."""
        every = {
            f"{origin}, {kind}": made & anomalous
            for origin, made in (("generated", self.made), ("real", ~self.made))
            for kind, anomalous in (("normal", ~self.anomalous), ("anomalous", self.anomalous))
        }
        return {name: which for name, which in every.items() if which.any()}

    @cached_property
    def without_if(self) -> Batch:
        """The same prompts with a comma in place of `` if``."""
        return replace_if(self.batch, one_token(self.tokenizer, INSTEAD))

    def of_else(self, model: Model) -> Batch:
        """The same prompts as a batch of the task to predict `` else`` at END."""
        task = ElseAtEnd(model.cfg.d_vocab, self.end + 1, one_token(self.tokenizer, INSTEAD))
        mask = torch.zeros_like(self.batch.mask)
        mask[:, self.end] = True
        targets = torch.full_like(self.batch.targets, self.else_token)
        return self.batch._replace(targets=targets, mask=mask, task=task)

    @property
    def if_token(self) -> int:
        """The token `` if``."""
        return one_token(self.tokenizer, IF)

    @property
    def else_token(self) -> int:
        """The token `` else``."""
        return one_token(self.tokenizer, ELSE)

    def label(self, token: int) -> str:
        """Return a token as text in quotes."""
        return format_token(self.tokenizer, token)


def texts_of(network: LoadedModel, corpus: str) -> Sequence[str]:
    """Return the held-out texts of a run; for a language model, a part of a corpus.

    Raises:
        ValueError: a corpus that does not exist, or one beside a run, which has its own.
    """
    if network.task is None:
        return read_corpus(corpus).split(HELD_OUT)[1]
    assert isinstance(network.task, Text)
    if corpus != Options.corpus:
        raise ValueError(f"corpus: {corpus!r} is not valid for a run, which has its own")
    return network.task.held_out_texts()


def at_end(model: Model, batch: Batch) -> Float[Tensor, "prompt d_vocab_out"]:
    """Return the logits at END."""
    return forward_pass(model, batch).output[:, -1]


def over_mean_logit(logits: Float[Tensor, "prompt d_vocab_out"], token: int) -> Float[Tensor, "prompt"]:
    """Return the logit of a token minus the mean logit."""
    return logits[:, token] - logits.mean(-1)


def ranks(logits: Float[Tensor, "prompt d_vocab_out"], token: int) -> Int[Tensor, "prompt"]:
    """Return the rank of a token by its logit, from 1; ties count as larger."""
    return (logits >= logits[:, [token]]).sum(-1)
