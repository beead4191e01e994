"""Corpora as tokens on disk: tokenized once, cached in the user's cache directory, read through a memory map."""

import hashlib
import json
import os
import shutil
import sys
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
from headway.data.parts import NotWrittenError, make_part_folder, remove_parts
from headway.data.tokenizer import encode_texts, train_bpe

# Version of the cached files; files of another version are never read.
FORMAT = 1
# Tokens are stored in 16 bits.
MAX_TOKENS = 1 << 16
Part = Literal["train", "held_out"]
# Texts that are tokenized between two updates of the progress bar.
CHUNK_SIZE = 64


@dataclass(frozen=True)
class Files:
    """The tokens of all files, concatenated, and the number of tokens of each file."""

    tokens: np.ndarray
    lengths: np.ndarray

    def pairs(self, n_tokens: int) -> np.ndarray:
        """Return each pair of neighbouring tokens a, b within a file as one number, ``a * n_tokens + b``.

        Example:
            >>> Files(np.array([1, 2, 3, 4]), np.array([2, 2])).pairs(10).tolist()
            [12, 34]
        """
        a, b = self.tokens[:-1].astype(np.int64), self.tokens[1:]
        return np.delete(a * n_tokens + b, np.cumsum(self.lengths)[:-1] - 1)


@dataclass(frozen=True)
class Windows:
    """All windows of ``length`` consecutive tokens within a file, by their number.

    Example:
        >>> windows = Windows(Files(np.array([1, 2, 3, 4, 5]), np.array([3, 2])), length=2)
        >>> windows(torch.arange(len(windows)))[1].tolist()
        [[1, 2], [2, 3], [4, 5]]
    """

    files: Files
    length: int

    @cached_property
    def _ends(self) -> np.ndarray:
        """Number of windows in each file and the files before it."""
        return np.cumsum(np.maximum(self.files.lengths.astype(np.int64) - self.length + 1, 0))

    @cached_property
    def _offsets(self) -> np.ndarray:
        """First token of a window in ``files.tokens`` minus the number of the window: one constant for each file."""
        return (np.cumsum(self.files.lengths) - self.files.lengths) - np.concatenate([[0], self._ends[:-1]])

    def __len__(self) -> int:
        return int(self._ends.max(initial=0))

    def __call__(self, numbers: Int[Tensor, "batch"]) -> tuple[Int[Tensor, "batch"], Int[Tensor, "batch pos"]]:
        """Return the file index and the tokens of windows."""
        file = np.searchsorted(self._ends, numbers.numpy(), side="right")
        start = numbers.numpy() + self._offsets[file]
        tokens = self.files.tokens[start[:, None] + np.arange(self.length)]
        return torch.from_numpy(file), torch.from_numpy(tokens.astype(np.int64))

    def non_overlapping(self) -> Int[Tensor, "window"]:
        """Return the numbers of windows that do not overlap, from the start of each file."""
        first = np.concatenate([[0], self._ends])
        starts = [np.arange(first[i], first[i + 1], self.length) for i in range(len(self._ends))]
        return torch.from_numpy(np.concatenate(starts))


@dataclass(frozen=True)
class TokenizedCorpus:
    """A corpus as tokens: a folder with the BPE, the tokens of the training and held-out files, and metadata.

    The folder is written under a temporary name and then renamed, so that it is always complete.
    """

    folder: Path
    metadata: dict[str, object]

    @classmethod
    def cached(cls, corpus_hash: str, n_tokens: int, held_out: float) -> "TokenizedCorpus | None":
        """Return the cached tokens of these texts and settings; None if they are missing or damaged."""
        folder = _folder(corpus_hash, n_tokens, held_out)
        try:
            metadata = json.loads((folder / "found.json").read_text(encoding="utf-8"))
            whole = metadata["hashes"] == {name: _hash(folder / name) for name in _FILE_NAMES}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(folder, metadata) if whole else None

    @classmethod
    def from_corpus(cls, corpus: Corpus, n_tokens: int, held_out: float) -> "TokenizedCorpus":
        """Return a corpus as tokens, from the cache if possible; the BPE is trained on the training texts.

        Raises:
            ValueError: the texts do not support ``n_tokens`` tokens.
        """
        cached = cls.cached(corpus.hash, n_tokens, held_out)
        if cached is not None:
            return cached
        folder = _folder(corpus.hash, n_tokens, held_out)
        train, held_out_texts = corpus.split(held_out)
        _log(f"{corpus.name}: training a BPE of {n_tokens:,} tokens on {len(train)} texts")
        bpe = train_bpe(train, n_tokens)
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_parts(folder.parent, shared=True)
        part = make_part_folder(folder)
        counts = {}
        try:
            bpe.save(str(part / "tokenizer.json"))
            for name, texts in zip(get_args(Part), (train, held_out_texts), strict=True):
                files = _encode(bpe, texts, f"{corpus.name}: tokenizing {name}")
                np.save(part / f"{name}.npy", files.tokens)
                np.save(part / f"{name}_lengths.npy", files.lengths)
                counts[name] = {"files": len(files.lengths), "tokens": len(files.tokens)}
            hashes = {name: _hash(part / name) for name in _FILE_NAMES}
            metadata = {"corpus": corpus.name, "corpus_hash": corpus.hash, "skipped": corpus.skipped, **counts}
            (part / "found.json").write_text(json.dumps({**metadata, "hashes": hashes}, indent=2), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(part, folder)
        except Exception as error:  # the tokenizer's library raises no other kind when it cannot write
            # Another process may have written the same folder in the meantime.
            if cls.cached(corpus.hash, n_tokens, held_out) is None:
                number = error.errno if isinstance(error, OSError) else None
                raise NotWrittenError(number, f"{folder.parent} cannot be written ({error})") from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
        tokenized = cls.cached(corpus.hash, n_tokens, held_out)
        assert tokenized is not None
        skipped = ", ".join(f"{count} {why}" for why, count in corpus.skipped.items() if count) or "none"
        _log(f"{corpus.name}: {counts['train']['tokens']:,} training tokens; skipped: {skipped}")
        return tokenized

    @property
    def corpus_hash(self) -> str:
        """SHA-256 hash of the texts."""
        return str(self.metadata["corpus_hash"])

    @property
    def tokenizer_hash(self) -> str:
        """SHA-256 hash of the BPE's file."""
        return _hash(self.folder / "tokenizer.json")

    @property
    def tokenizer_json(self) -> bytes:
        """The BPE's file, tokenizer.json."""
        return (self.folder / "tokenizer.json").read_bytes()

    def files(self, part: Part) -> Files:
        """Return the tokens of one part, memory-mapped."""
        tokens = np.load(self.folder / f"{part}.npy", mmap_mode="r")
        return Files(tokens, np.load(self.folder / f"{part}_lengths.npy"))


_FILE_NAMES = ("tokenizer.json", *(f"{part}{kind}.npy" for part in get_args(Part) for kind in ("", "_lengths")))


def text_folder() -> Path:
    """Return the cache folder of tokenized corpora."""
    return cache_folder() / "text"


def _folder(corpus_hash: str, n_tokens: int, held_out: float) -> Path:
    settings = json.dumps([FORMAT, corpus_hash, n_tokens, held_out])
    return text_folder() / hashlib.sha256(settings.encode()).hexdigest()[:32]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encode(bpe: Tokenizer, texts: Sequence[str], label: str) -> Files:
    token_lists: list[np.ndarray] = []
    for first in tqdm(range(0, len(texts), CHUNK_SIZE), desc=label, unit=f"{CHUNK_SIZE} texts", disable=None):
        chunk = encode_texts(bpe, texts[first : first + CHUNK_SIZE])
        token_lists += [np.array(tokens, dtype=np.uint16) for tokens in chunk]
    return Files(np.concatenate(token_lists), np.array([len(tokens) for tokens in token_lists]))


def _log(text: str) -> None:
    """Print a progress message to stderr, as progress bars do."""
    tqdm.write(text, file=sys.stderr)
