"""The tokens of a corpus on disk: prepared once, kept in the user's cache directory, read through a memory map."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

from headway.data.cache import cache_folder
from headway.data.corpus import Corpus
from headway.data.tokenizer import spelled, train_bpe

# Of what stands in the cache; one of another number is never read as one of this.
FORMAT = 1
# Tokens are kept as 16 bits.
LARGEST = 1 << 16
Part = Literal["train", "held_out"]
# Files that are spelled between two moves of the progress bar.
AT_ONCE = 64


@dataclass(frozen=True)
class Files:
    """The tokens of some files, one after another."""

    tokens: np.ndarray
    lengths: np.ndarray

    def pairs(self, n_tokens: int) -> np.ndarray:
        """The neighbours a, b within every file, each pair as one number: ``a * n_tokens + b``.

        Example:
            >>> Files(np.array([1, 2, 3, 4]), np.array([2, 2])).pairs(10).tolist()
            [12, 34]
        """
        a, b = self.tokens[:-1].astype(np.int64), self.tokens[1:]
        return np.delete(a * n_tokens + b, np.cumsum(self.lengths)[:-1] - 1)


@dataclass(frozen=True)
class Windows:
    """Every stretch of ``length`` tokens within a file, by its number.

    Example:
        >>> windows = Windows(Files(np.array([1, 2, 3, 4, 5]), np.array([3, 2])), length=2)
        >>> windows(torch.arange(len(windows)))[1].tolist()
        [[1, 2], [2, 3], [4, 5]]
    """

    files: Files
    length: int

    @cached_property
    def _ends(self) -> np.ndarray:
        """How many windows there are in each file and in those before it."""
        return np.cumsum(np.maximum(self.files.lengths.astype(np.int64) - self.length + 1, 0))

    @cached_property
    def _shifts(self) -> np.ndarray:
        """Where a window begins among the tokens of all files, less its number: the same for all of a file."""
        return (np.cumsum(self.files.lengths) - self.files.lengths) - np.concatenate([[0], self._ends[:-1]])

    def __len__(self) -> int:
        return int(self._ends.max(initial=0))

    def __call__(self, numbers: Int[Tensor, "batch"]) -> tuple[Int[Tensor, "batch"], Int[Tensor, "batch pos"]]:
        """The file, and the tokens, of some windows."""
        file = np.searchsorted(self._ends, numbers.numpy(), side="right")
        start = numbers.numpy() + self._shifts[file]
        tokens = self.files.tokens[start[:, None] + np.arange(self.length)]
        return torch.from_numpy(file), torch.from_numpy(tokens.astype(np.int64))

    def one_after_another(self) -> Int[Tensor, "window"]:
        """Those that do not overlap, from the start of each file."""
        first = np.concatenate([[0], self._ends])
        every = [np.arange(first[i], first[i + 1], self.length) for i in range(len(self._ends))]
        return torch.from_numpy(np.concatenate(every))


@dataclass(frozen=True)
class Prepared:
    """A corpus as tokens: a folder that holds the BPE, two files of tokens, and what was found.

    It is written under another name and then renamed, so that what is there is whole.
    """

    folder: Path
    found: dict[str, object]

    @classmethod
    def kept(cls, corpus_hash: str, n_tokens: int, held_out: float) -> "Prepared | None":
        """What there is in the cache of these texts and settings; None if it is not there, or damaged."""
        folder = _folder(corpus_hash, n_tokens, held_out)
        try:
            found = json.loads((folder / "found.json").read_text())
            whole = found["hashes"] == {name: _hash(folder / name) for name in _NAMES}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(folder, found) if whole else None

    @classmethod
    def of(cls, corpus: Corpus, n_tokens: int, held_out: float) -> "Prepared":
        """These texts as tokens, from the cache if they are there; a BPE is trained on those to train on.

        Raises:
            ValueError: texts that do not support so many tokens.
        """
        there = cls.kept(corpus.hash, n_tokens, held_out)
        if there is not None:
            return there
        folder = _folder(corpus.hash, n_tokens, held_out)
        train, apart = corpus.split(held_out)
        _say(f"{corpus.name}: training a BPE of {n_tokens:,} tokens on {len(train)} texts")
        bpe = train_bpe(train, n_tokens)
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        counts = {}
        try:
            bpe.save(str(part / "tokenizer.json"))
            for name, texts in zip(get_args(Part), (train, apart), strict=True):
                files = _tokens(bpe, texts, f"{corpus.name}: {name}")
                np.save(part / f"{name}.npy", files.tokens)
                np.save(part / f"{name}_lengths.npy", files.lengths)
                counts[name] = {"files": len(files.lengths), "tokens": len(files.tokens)}
            hashes = {name: _hash(part / name) for name in _NAMES}
            found = {"corpus": corpus.name, "corpus_hash": corpus.hash, "skipped": corpus.skipped, **counts}
            (part / "found.json").write_text(json.dumps({**found, "hashes": hashes}, indent=2))
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(part, folder)
        except OSError:
            # Somebody else may have prepared the same meanwhile.
            if cls.kept(corpus.hash, n_tokens, held_out) is None:
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        prepared = cls.kept(corpus.hash, n_tokens, held_out)
        assert prepared is not None
        left_out = ", ".join(f"{count} {why}" for why, count in corpus.skipped.items() if count) or "no file"
        _say(f"{corpus.name}: {counts['train']['tokens']:,} tokens to train on; left out: {left_out}")
        return prepared

    @property
    def corpus_hash(self) -> str:
        """That of the texts."""
        return str(self.found["corpus_hash"])

    @property
    def tokenizer_hash(self) -> str:
        """That of the BPE's file."""
        return _hash(self.folder / "tokenizer.json")

    @property
    def tokenizer_json(self) -> bytes:
        """The BPE's file."""
        return (self.folder / "tokenizer.json").read_bytes()

    def files(self, part: Part) -> Files:
        """The tokens of one part, as they lie on disk."""
        tokens = np.load(self.folder / f"{part}.npy", mmap_mode="r")
        return Files(tokens, np.load(self.folder / f"{part}_lengths.npy"))


_NAMES = ("tokenizer.json", *(f"{part}{kind}.npy" for part in get_args(Part) for kind in ("", "_lengths")))


def text_folder() -> Path:
    """Where prepared texts are kept."""
    return cache_folder() / "text"


def _folder(corpus_hash: str, n_tokens: int, held_out: float) -> Path:
    settings = json.dumps([FORMAT, corpus_hash, n_tokens, held_out])
    return text_folder() / hashlib.sha256(settings.encode()).hexdigest()[:32]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tokens(bpe: Tokenizer, texts: Sequence[str], said: str) -> Files:
    spelling: list[np.ndarray] = []
    for first in tqdm(range(0, len(texts), AT_ONCE), desc=said, unit=f"{AT_ONCE} texts", disable=None):
        spelling += [np.array(tokens, dtype=np.uint16) for tokens in spelled(bpe, texts[first : first + AT_ONCE])]
    return Files(np.concatenate(spelling), np.array([len(tokens) for tokens in spelling]))


def _say(text: str) -> None:
    """Progress goes where progress bars go."""
    tqdm.write(text, file=sys.stderr)
