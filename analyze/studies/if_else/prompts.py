"""What the study looks at: prompts that end before `` else``, of real texts and of a grammar, and ordinary text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.analyze.network.forward import forward_pass
from headway.analyze.studies.loading import LoadedModel
from headway.data.conditionals import ELSE, IF, concatenate, find_prompts, generate_prompts, random_windows, replace_if
from headway.data.corpus import read_corpus
from headway.data.task import Batch
from headway.data.text import Text
from headway.data.tokenizer import format_token, one_token
from headway.models.convert import Model

# Stands in the place of `` if`` where there is to be no condition: "x = a, b".
INSTEAD = ","
# Of a language model's corpus; a run has files of its own that are held out.
HELD_OUT = 0.1


@dataclass(frozen=True)
class Prompts:
    """Prompts before `` else``, those of real texts first; END is their last position, IF that of `` if``.

    Args:
        batch: All of them.
        n_found: How many are of real texts; the others are pairs of the grammar, a normal one and its anomalous twin.
        ordinary: As many windows of the same texts, which end anywhere.
        tokenizer: What spells them.
    """

    batch: Batch
    n_found: int
    ordinary: Batch
    tokenizer: Any

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Any, seed: int, pairs: int, length: int) -> "Prompts":
        """Those of some texts, and ``pairs`` pairs of the grammar."""
        real = find_prompts(texts, tokenizer, length)
        batch = concatenate([real, generate_prompts(tokenizer, seed, 2 * pairs, length)])
        return cls(
            batch, len(real.inputs), random_windows(texts, tokenizer, seed, len(batch.inputs), length), tokenizer
        )

    @property
    def real(self) -> "Prompts":
        """Those of real texts alone."""
        return self._some(slice(self.n_found), self.n_found)

    @property
    def generated(self) -> "Prompts":
        """Those of the grammar alone."""
        return self._some(slice(self.n_found, None), 0)

    def _some(self, which: slice, n_found: int) -> "Prompts":
        batch, ordinary = (
            Batch(
                each.inputs[which],
                each.targets[which],
                each.mask[which],
                {name: values[which] for name, values in each.info.items()},
            )
            for each in (self.batch, self.ordinary)
        )
        return Prompts(batch, n_found, ordinary, self.tokenizer)

    @property
    def end(self) -> int:
        """The last position, the same of all."""
        return self.batch.inputs.shape[1] - 1

    @property
    def at_if(self) -> tuple[Int[Tensor, "prompt"], Int[Tensor, "prompt"]]:
        """Index of IF in what is [prompt, pos, ...]."""
        return torch.arange(len(self.batch.inputs)), self.batch.info["if_position"]

    @property
    def anomalous(self) -> Bool[Tensor, "prompt"]:
        """Which end in ``)``."""
        return self.batch.info["anomalous"]

    @property
    def made(self) -> Bool[Tensor, "prompt"]:
        """Which are of the grammar."""
        return torch.arange(len(self.batch.inputs)) >= self.n_found

    @property
    def kinds(self) -> dict[str, Bool[Tensor, "prompt"]]:
        """The prompts of each kind that there is."""
        every = {
            f"{origin}, {kind}": made & anomalous
            for origin, made in (("generated", self.made), ("real", ~self.made))
            for kind, anomalous in (("normal", ~self.anomalous), ("anomalous", self.anomalous))
        }
        return {name: which for name, which in every.items() if which.any()}

    @cached_property
    def without_if(self) -> Batch:
        """The same prompts with a comma in the place of `` if``."""
        return replace_if(self.batch, one_token(self.tokenizer, INSTEAD))

    @property
    def if_token(self) -> int:
        """`` if``."""
        return one_token(self.tokenizer, IF)

    @property
    def else_token(self) -> int:
        """`` else``."""
        return one_token(self.tokenizer, ELSE)

    def label(self, token: int) -> str:
        """A token in quotes."""
        return format_token(self.tokenizer, token)


def texts_of(network: LoadedModel, corpus: str) -> Sequence[str]:
    """Texts that the network has not been trained on: a run's own, or for a language model some of a corpus.

    Raises:
        ValueError: a corpus that is not there.
    """
    if network.task is None:
        return read_corpus(corpus).split(HELD_OUT)[1]
    assert isinstance(network.task, Text)
    return network.task.held_out_texts()


def at_end(model: Model, batch: Batch) -> Float[Tensor, "prompt d_vocab_out"]:
    """The logits at END."""
    return forward_pass(model, batch).output[:, -1]


def raised(logits: Float[Tensor, "prompt d_vocab_out"], token: int) -> Float[Tensor, "prompt"]:
    """The logit of a token over the mean of all logits."""
    return logits[:, token] - logits.mean(-1)


def ranks(logits: Float[Tensor, "prompt d_vocab_out"], token: int) -> Int[Tensor, "prompt"]:
    """The place of a token among the likeliest, from 1; after all that are as likely."""
    return (logits >= logits[:, [token]]).sum(-1)
