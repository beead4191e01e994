"""Sequences in which something comes again: a network's own, two copies of one length, and copies in synonyms."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from headway.analyze.network.vocabulary import similar_pairs
from headway.analyze.studies.loading import LoadedModel
from headway.data.renamed import Renamed
from headway.data.repeated_synonyms import RepeatedSynonyms
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch, Task


@dataclass(frozen=True)
class Sequences:
    """Sequences in which something repeats, and which token stands for which in the copy: itself, or its synonym."""

    batch: Batch
    synonyms: Int[Tensor, "d_vocab"]

    @property
    def same(self) -> Int[Tensor, "d_vocab"]:
        """A class for each token, the same for synonyms."""
        return torch.minimum(torch.arange(len(self.synonyms)), self.synonyms)

    @property
    def paired(self) -> Int[Tensor, "token"]:
        """The tokens that the sequences can hold: those with a synonym, or all if every token is its own."""
        own = torch.arange(len(self.synonyms))
        return own if torch.equal(own, self.synonyms) else own[own != self.synonyms]


class Repeats(NamedTuple):
    """A task in which something comes again, which token stands for which in a copy, and where synonyms are from."""

    task: Task
    synonyms: Int[Tensor, "d_vocab"]
    told: str = ""

    def sequences(self, seed: int, count: int) -> Sequences:
        """Some of them, to evaluate on."""
        return Sequences(self.task.evaluation_batch(seed, count), self.synonyms)

    @property
    def inner(self) -> RepeatedTokens | RepeatedSynonyms:
        """The task in its own tokens."""
        task = self.task.task if isinstance(self.task, Renamed) else self.task
        assert isinstance(task, RepeatedTokens | RepeatedSynonyms)
        return task


def own_repeats(network: LoadedModel) -> Repeats:
    """What a run was trained on; for a language model random tokens of its vocabulary that come again.

    Those come again after 10 to 50 tokens, in 100, or in proportion where it reads fewer.

    Raises:
        ValueError: a tokenizer without a token to begin with.
    """
    cfg, task, own = network.model.cfg, network.task, torch.arange(network.model.cfg.d_vocab)
    if isinstance(task, RepeatedSynonyms):
        own[: task.d_vocab] = task.synonyms
        return Repeats(task, own, "The synonyms are those the network was trained on.")
    if task is not None:
        return Repeats(task, own)
    tokenizer, length = network.tokenizer, min(100, cfg.n_ctx)
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if bos is None:
        raise ValueError(f"model: {network.name!r} has neither a BOS token nor an EOS token to begin with")
    special = {bos, *tokenizer.all_special_ids}
    # Some networks have more embeddings than there are tokens.
    others = [token for token in range(len(tokenizer)) if token not in special]
    repeated = RepeatedTokens(len(others), length, max(2, length // 10), length // 2, late_start=0.0)
    return Repeats(Renamed(repeated, (bos, *others)), own)


def two_copies(repeats: Repeats) -> Repeats:
    """The same with one length for all sequences, which are a segment and its copy and nothing else."""
    inner = repeats.inner
    S = max(2, min(inner.period_max, inner.length // 2))
    sizes: dict[str, int] = {"length": 2 * S, "period_min": S, "period_max": S}
    fixed = replace(inner, **sizes, late_start=0.0)
    task = replace(repeats.task, task=fixed) if isinstance(repeats.task, Renamed) else fixed
    return repeats._replace(task=task)


def in_synonyms(network: LoadedModel, repeats: Repeats, file: str | None = None) -> Repeats | None:
    """The same in synonyms: the task's own, those of a file, or tokens that are embedded alike; None for too few.

    Raises:
        ValueError: a file that cannot be read, or that holds what cannot be used; see ``study``.
    """
    inner = repeats.inner
    if isinstance(inner, RepeatedSynonyms):
        if file is not None:
            raise ValueError(f"pairs: {file!r} is not valid for a run of RepeatedSynonyms, which has its own")
        return repeats
    known = repeats.task.tokens if isinstance(repeats.task, Renamed) else tuple(range(inner.d_vocab))
    if file is None:
        pairs = similar_pairs(network.model, torch.tensor(known[1:]))[: 10 * inner.length]
        told = f"Synonyms are the {len(pairs)} pairs of tokens that are each other's nearest by embedding."
    else:
        pairs, told = _read_pairs(network, file, set(known[1:]))
    if len(pairs) < 2:
        return None
    # No pair may stand twice, so that few pairs make short sequences.
    low = min(max(2, inner.period_min), (len(pairs) + 2) // 2)
    length = min(inner.length, len(pairs) + low)
    task = RepeatedSynonyms(len(pairs), length, low, max(low, min(inner.period_max, length // 2)), inner.late_start)
    synonyms = torch.arange(network.model.cfg.d_vocab)
    first, second = torch.tensor(pairs).unbind(1)
    synonyms[first], synonyms[second] = second, first
    return Repeats(Renamed(task, (known[0], *first.tolist(), *second.tolist())), synonyms, told)


def _read_pairs(network: LoadedModel, file: str, known: set[int]) -> tuple[list[tuple[int, int]], str]:
    """The pairs of a file, each token in the first pair that has it; and what was left out."""
    try:
        lines = Path(file).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"pairs: {file} cannot be read ({error})") from None
    pairs: list[tuple[int, int]] = []
    used: set[int] = set()
    split, again = [], 0
    for number, line in enumerate(lines, 1):
        words = [word.strip() for word in line.split(",")]
        if words == [""]:
            continue
        if len(words) != 2 or not all(words):
            raise ValueError(f"pairs: line {number} of {file} is {line!r}; it must be two tokens with a comma between")
        found = [_token_of(network, word, known, f"pairs: line {number} of {file}") for word in words]
        split += [f"{word} ({said})" for word, said in zip(words, found, strict=True) if isinstance(said, str)]
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
        raise ValueError(f"pairs: {file} has {len(pairs)} pairs that can be used; there must be at least 2{because}")
    told = f"Synonyms are {len(pairs)} pairs of {Path(file).name}"
    told += f", of which {again} were left out because a token stands in another" if again else ""
    told += f", and {len(split)} words that the tokenizer splits, such as {split[0]}" if split else ""
    return pairs, f"{told}."


def _token_of(network: LoadedModel, word: str, known: set[int], where: str) -> int | str:
    """The token of a word, as it stands behind a space; for a run its number. What it is split into if it is."""
    if network.task is not None:
        if not word.isdecimal() or int(word) not in known:
            raise ValueError(f"{where} has {word!r}; tokens of this run are {min(known)} to {max(known)}")
        return int(word)
    tokens = network.tokenizer.encode(f" {word}", add_special_tokens=False)
    return tokens[0] if len(tokens) == 1 else "+".join(network.tokenizer.convert_ids_to_tokens(tokens))
