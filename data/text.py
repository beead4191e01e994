"""Text: next-token prediction on source code or any other text, with a BPE trained on it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from headway.data.corpus import read_corpus
from headway.data.task import Batch, Behaviour, Task
from headway.data.tokenized_corpus import MAX_TOKENS, Part, TokenizedCorpus, Windows, text_folder
from headway.data.tokenizer import MIN_TOKENS, format_token, read_tokenizer


@dataclass(frozen=True)
class Text(Task):
    """Windows of text files: BOS, followed by consecutive tokens of one file.

    The input at position 0 is BOS and its target is the first token t_1 of the window; the input at position q is t_q
    and its target is t_(q+1). A window lies within one file and may begin anywhere in it. All windows are equally
    likely, so long files weigh more, and files shorter than a window are left out. Training batches and evaluation
    batches come from different files. ``info`` holds the index of the window's file as ``file``.

    The BPE is trained and the corpus is tokenized once. Both are cached in the user's cache directory (or in the one
    that the environment variable ``HEADWAY_CACHE`` names), under a hash of the texts and of these settings.

    Args:
        corpus: stdlib, package:NAME, dataset:NAME, a folder, or a file pattern; see ``read_corpus``
        n_tokens: number of tokens of the BPE, including BOS and all bytes
        length: number of predictions in a window
        held_out: share of the text, in whole files, that is held out from training
        corpus_hash: required hash of the texts, which a run records; null accepts any texts
        tokenizer_hash: required hash of the BPE, which a run records; null accepts any BPE

    Raises:
        ValueError: if a field is out of range; when batches are drawn, if the corpus does not exist, does not match its
            hash, is too small for ``n_tokens``, or has no file as long as a window.

    Example:
        >>> task = Text(corpus="package:headway", n_tokens=300, length=7)
        >>> task.d_vocab, task.n_ctx
        (300, 7)
    """

    attention_dir: ClassVar = "causal"
    bos_token: ClassVar[int | None] = 0
    behaviour: ClassVar[Behaviour] = Behaviour(None, "chance", None)

    corpus: str = "stdlib"
    n_tokens: int = 4096
    length: int = 128
    held_out: float = 0.1
    corpus_hash: str | None = None
    tokenizer_hash: str | None = None  # pyright: ignore[reportIncompatibleMethodOverride]

    def __post_init__(self) -> None:
        """Refuse fields from which no window can be cut."""
        for name, valid, rule in (
            (
                "n_tokens",
                MIN_TOKENS <= self.n_tokens <= MAX_TOKENS,
                f"from {MIN_TOKENS}, for BOS and all bytes, to {MAX_TOKENS}",
            ),
            ("length", self.length >= 2, "at least 2"),
            ("held_out", 0 < self.held_out < 1, "a share, above 0 and below 1"),
        ):
            if not valid:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be {rule}")

    @property
    def d_vocab(self) -> int:
        """Number of tokens of the BPE."""
        return self.n_tokens

    @property
    def n_ctx(self) -> int:
        """Length of the inputs: BOS and all tokens of a window except the last."""
        return self.length

    def resolved(self) -> "Text":
        """Return the same task with its hashes set, after its corpus is tokenized and cut into windows."""
        tokenized, _ = self.tokenized_corpus, self._windows
        return replace(self, corpus_hash=tokenized.corpus_hash, tokenizer_hash=tokenized.tokenizer_hash)

    @property
    def outside_files(self) -> str | None:
        """The corpus; None for the standard library, and for texts of which this machine has these very tokens."""
        known = self.corpus_hash and TokenizedCorpus.cached(self.corpus_hash, self.n_tokens, self.held_out)
        return None if known or self.corpus == "stdlib" else f"the corpus {self.corpus!r}"

    @property
    def tokenizer_json(self) -> bytes:
        """The file of the BPE."""
        return self.tokenized_corpus.tokenizer_json

    @cached_property
    def tokenized_corpus(self) -> TokenizedCorpus:
        """The corpus as tokens, from the cache if possible.

        Raises:
            ValueError: the corpus does not exist, does not match ``corpus_hash``, or does not support ``n_tokens``.
        """
        if self.corpus_hash is not None:
            cached = TokenizedCorpus.cached(self.corpus_hash, self.n_tokens, self.held_out)
            if cached is not None:
                return self._checked(cached)
        corpus = read_corpus(self.corpus)
        if self.corpus_hash not in (None, corpus.hash):
            raise ValueError(
                f"corpus_hash: {self.corpus_hash[:12]}… is not the hash of {self.corpus!r}, which has changed "
                f"(it has {corpus.hash[:12]}…), and its old tokens are not in {text_folder()}; null accepts any texts"
            )
        return self._checked(TokenizedCorpus.from_corpus(corpus, self.n_tokens, self.held_out))

    def _checked(self, tokenized: TokenizedCorpus) -> TokenizedCorpus:
        if self.tokenizer_hash not in (None, tokenized.tokenizer_hash):
            raise ValueError(
                f"tokenizer_hash: {self.tokenizer_hash[:12]}… is not the hash of the BPE trained on {self.corpus!r}, "
                f"which is {tokenized.tokenizer_hash[:12]}…; null accepts any BPE"
            )
        return tokenized

    @cached_property
    def _windows(self) -> dict[Part, Windows]:
        """Windows of each part; a ValueError if a part has none."""
        windows = {part: Windows(self.tokenized_corpus.files(part), self.length) for part in get_args(Part)}
        for part, part_windows in windows.items():
            if not len(part_windows):
                which = "training" if part == "train" else "held-out"
                longest = part_windows.files.lengths.max()
                raise ValueError(
                    f"length: {self.length} is longer than every {which} file; the longest has {longest} tokens"
                )
        return windows

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` windows of the training files."""
        return self._draw("train", generator, batch_size)

    def sample_held_out(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` windows of the held-out files."""
        return self._draw("held_out", generator, batch_size)

    def _draw(self, part: Part, generator: torch.Generator, batch_size: int) -> Batch:
        windows = self._windows[part]
        return self._batch_of(windows, torch.randint(len(windows), (batch_size,), generator=generator))

    def held_out_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the held-out files as windows that do not overlap; an incomplete window is dropped."""
        windows = self._windows["held_out"]
        for numbers in windows.non_overlapping().split(batch_size):
            yield self._batch_of(windows, numbers)._replace(task=self)

    def held_out_texts(self) -> list[str]:
        """Return the held-out files as text."""
        files, tokenizer = self._windows["held_out"].files, read_tokenizer(self.tokenizer_json)
        ends = np.cumsum(files.lengths)[:-1]
        token_lists = np.split(files.tokens, ends)
        return [str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False)) for tokens in token_lists]

    def _batch_of(self, windows: Windows, numbers: Int[Tensor, "batch"]) -> Batch:
        file, targets = windows(numbers)
        return Batch(
            inputs=F.pad(targets[:, :-1], (1, 0), value=0),
            targets=targets,
            mask=torch.ones_like(targets, dtype=torch.bool),
            info={"file": file},
        )

    def baselines(self) -> dict[str, float]:
        """Return cross-entropies in nats on the windows of ``held_out_batches``.

        - ``chance``: ln(n_tokens), a uniform guess.
        - ``unigram``: from the counts of each token in the training files, plus one.
        - ``bigram``: from the previous token; the first token of a window has none and takes the unigram. ``P(b | a) =
          (c(a, b) + t(a) P(b)) / (c(a) + t(a))``, with counts c in the training files, t(a) the number of distinct
          tokens that follow a, and P(b) the unigram (Witten & Bell 1991).
        """
        files, windows = self._windows["train"].files, self._windows["held_out"]
        targets = windows(windows.non_overlapping())[1].numpy()
        counts = np.bincount(files.tokens, minlength=self.n_tokens)
        unigram = (counts + 1) / (counts.sum() + self.n_tokens)
        pairs, times = np.unique(files.pairs(self.n_tokens), return_counts=True)
        followed = np.bincount(pairs // self.n_tokens, weights=times, minlength=self.n_tokens)
        followers = np.bincount(pairs // self.n_tokens, minlength=self.n_tokens)
        a, b = targets[:, :-1], targets[:, 1:]
        wanted = a * self.n_tokens + b
        index = np.searchsorted(pairs, wanted).clip(max=len(pairs) - 1)
        count = np.where(pairs[index] == wanted, times[index], 0)
        # After a token that nothing follows in training, the unigram is used.
        weight = np.where(followed[a] > 0, followers[a], 1)
        bigram = (count + weight * unigram[b]) / (followed[a] + weight)
        nats = -np.log(unigram[targets])
        return {
            "chance": math.log(self.n_tokens),
            "unigram": float(nats.mean()),
            "bigram": float((nats[:, 0].sum() - np.log(bigram).sum()) / nats.size),
        }

    def labels(self, batch: Batch) -> list[list[str]]:
        """Return the string of each token; a line break is ``\\n``."""
        return [[self._strings[token] for token in row] for row in batch.inputs.tolist()]

    @cached_property
    def _strings(self) -> list[str]:
        tokenizer = read_tokenizer(self.tokenizer_json)
        return ["BOS", *(format_token(tokenizer, token)[1:-1] for token in range(1, self.n_tokens))]
