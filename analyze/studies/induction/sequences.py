"""Sequences with repeats: those of the task, two equal copies, and copies in synonyms."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from headway.analyze.network.vocabulary import similar_pairs
from headway.analyze.studies.loading import LoadedModel
from headway.checkpoints.files import read_small
from headway.data.renamed import Renamed
from headway.data.repeated_synonyms import RepeatedSynonyms
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch, Task
from headway.models.config import ModelConfig


@dataclass(frozen=True)
class Sequences:
    """Sequences with repeats, and the token that each token becomes in a copy: itself, or its synonym."""

    batch: Batch
    synonyms: Int[Tensor, "d_vocab"]

    @property
    def same(self) -> Int[Tensor, "d_vocab"]:
        """A class for each token; synonyms have the same class."""
        return torch.minimum(torch.arange(len(self.synonyms)), self.synonyms)

    @property
    def paired(self) -> Int[Tensor, "token"]:
        """The tokens of the sequences: those with a synonym, or all if copies are equal."""
        own = torch.arange(len(self.synonyms))
        return own if torch.equal(own, self.synonyms) else own[own != self.synonyms]


class Repeats(NamedTuple):
    """A task with repeats, the token that each token becomes in a copy, and the source of synonyms as text."""

    task: Task
    synonyms: Int[Tensor, "d_vocab"]
    source: str = ""

    def sequences(self, seed: int, count: int) -> Sequences:
        """Draw evaluation sequences."""
        return Sequences(self.task.evaluation_batch(seed, count), self.synonyms)

    @property
    def inner(self) -> RepeatedTokens | RepeatedSynonyms:
        """The task before its tokens are renamed."""
        task = self.task.task if isinstance(self.task, Renamed) else self.task
        assert isinstance(task, RepeatedTokens | RepeatedSynonyms)
        return task


def own_repeats(network: LoadedModel) -> Repeats:
    """Return the task of a run; for a language model, random tokens of its vocabulary that repeat.

    They repeat after 10 to 50 tokens, in sequences of 100; in proportion for a shorter context.

    Raises:
        ValueError: a tokenizer without BOS and EOS.
    """
    cfg, task, own = network.model.cfg, network.task, torch.arange(network.model.cfg.d_vocab)
    if isinstance(task, RepeatedSynonyms):
        own[: task.d_vocab] = task.synonyms
        return Repeats(task, own, "Synonyms are those of the task.")
    if task is not None:
        return Repeats(task, own)
    tokenizer, length = network.tokenizer, min(100, cfg.n_ctx)
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if bos is None:
        raise ValueError(f"model: {network.name!r} has a tokenizer without BOS and EOS token; the study needs one")
    special = {bos, *tokenizer.all_special_ids}
    # Some networks have more embeddings than there are tokens.
    others = [token for token in range(len(tokenizer)) if token not in special]
    repeated = RepeatedTokens(len(others), length, max(2, length // 10), length // 2, late_start=0.0)
    return Repeats(Renamed(repeated, (bos, *others)), own)


def task_for(cfg: ModelConfig) -> Task:
    """Return repeated tokens for a network of which no task is known: token 0 is BOS, as in runs of Headway."""
    length = min(100, cfg.n_ctx, cfg.d_vocab - 1)
    return RepeatedTokens(cfg.d_vocab - 1, length, max(2, length // 10), length // 2, late_start=0.0)


def two_copies(repeats: Repeats) -> Repeats:
    """Return the task with sequences of two equal copies: a segment and its repeat, all of one length."""
    inner = repeats.inner
    S = max(2, min(inner.period_max, inner.length // 2))
    sizes: dict[str, int] = {"length": 2 * S, "period_min": S, "period_max": S}
    fixed = replace(inner, **sizes, late_start=0.0)
    task = replace(repeats.task, task=fixed) if isinstance(repeats.task, Renamed) else fixed
    return repeats._replace(task=task)


def in_synonyms(network: LoadedModel, repeats: Repeats, file: str | None = None) -> Repeats | None:
    """Return the task with synonyms: its own, those of a file, or tokens with similar embeddings; None for too few.

    Raises:
        ValueError: a file that cannot be read, or with fewer than 2 valid pairs.
    """
    inner = repeats.inner
    if isinstance(inner, RepeatedSynonyms):
        if file is not None:
            raise ValueError(f"pairs: {file!r} is not valid for a run of RepeatedSynonyms, which has its own synonyms")
        return repeats
    known = repeats.task.tokens if isinstance(repeats.task, Renamed) else tuple(range(inner.d_vocab))
    if file is None:
        pairs = similar_pairs(network.model, torch.tensor(known[1:]))[: 10 * inner.length]
        source = f"Synonyms are the {len(pairs)} pairs of tokens that are mutual nearest neighbours by embedding."
    else:
        pairs, source = _read_pairs(network, file, set(known[1:]))
    if len(pairs) < 2:
        return None
    # A segment has each pair at most once, so that few pairs make short sequences.
    low = min(max(2, inner.period_min), (len(pairs) + 2) // 2)
    length = min(inner.length, len(pairs) + low)
    task = RepeatedSynonyms(len(pairs), length, low, max(low, min(inner.period_max, length // 2)), inner.late_start)
    synonyms = torch.arange(network.model.cfg.d_vocab)
    first, second = torch.tensor(pairs).unbind(1)
    synonyms[first], synonyms[second] = second, first
    return Repeats(Renamed(task, (known[0], *first.tolist(), *second.tolist())), synonyms, source)


def _read_pairs(network: LoadedModel, file: str, known: set[int]) -> tuple[list[tuple[int, int]], str]:
    """Read the pairs of a file, each token in the first pair that has it; the text says what is left out."""
    try:
        lines = read_small(Path(file).expanduser()).decode().splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"pairs: {file!r} cannot be read ({error})") from None
    pairs: list[tuple[int, int]] = []
    used: set[int] = set()
    split, again = [], 0
    for number, line in enumerate(lines, 1):
        words = [word.strip() for word in line.split(",")]
        if words == [""]:
            continue
        if len(words) != 2 or not all(words):
            raise ValueError(f"pairs: line {number} of {file} is {line!r}; it must be two tokens separated by a comma")
        found = [_token_of(network, word, known, f"pairs: line {number} of {file}") for word in words]
        split += [f"{word} ({pieces})" for word, pieces in zip(words, found, strict=True) if isinstance(pieces, str)]
        tokens = [each for each in found if isinstance(each, int)]
        if len(tokens) < 2:
            continue
        if tokens[0] == tokens[1] or used & set(tokens):
            again += 1
            continue
        used |= set(tokens)
        pairs.append((tokens[0], tokens[1]))
    if len(pairs) < 2:
        because = f"; the tokenizer splits {split[0]}" if split else ""
        raise ValueError(f"pairs: {file} has {len(pairs)} valid pairs; give at least 2{because}")
    source = f"Synonyms are {len(pairs)} pairs of {Path(file).name}"
    source += f", of which {again} are left out because a token is in an earlier pair" if again else ""
    source += f", and {len(split)} words that the tokenizer splits, such as {split[0]}" if split else ""
    return pairs, f"{source}."


def _token_of(network: LoadedModel, word: str, known: set[int], where: str) -> int | str:
    """Return the token of a word after a space, for a run of a number; if the tokenizer splits it, its pieces."""
    if network.task is not None:
        if not word.isdecimal() or int(word) not in known:
            raise ValueError(f"{where} has {word!r}; tokens of this run are {min(known)} to {max(known)}")
        return int(word)
    tokens = network.tokenizer.encode(f" {word}", add_special_tokens=False)
    return tokens[0] if len(tokens) == 1 else "+".join(network.tokenizer.convert_ids_to_tokens(tokens))
