"""Text: predicting the next token of source code, or of any other text, in the tokens of a BPE of its own."""

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
from headway.data.prepared import LARGEST, Part, Prepared, Windows, text_folder
from headway.data.seeds import generator
from headway.data.task import Batch, Task
from headway.data.tokenizer import SMALLEST, read_tokenizer, said


@dataclass(frozen=True)
class Text(Task):
    """Windows of text files: BOS, and then some consecutive tokens of one file.

    Position 0 holds BOS and is asked for the first token t_1 of the window, position q holds t_q and is asked for
    t_(q+1). A window lies within one file and begins anywhere in it, all windows alike, so that long files weigh more
    and files shorter than a window are left out. Training batches come from some files, and evaluation batches from
    others. ``info`` holds the number of the window's file, as ``file``.

    Reading the corpus, its BPE and its tokens are prepared once and kept in the user's cache directory (the environment
    variable ``HEADWAY_CACHE`` names another), under a hash of the texts and of these settings.

    Args:
        corpus: stdlib, package:NAME, dataset:NAME, a folder, or a pattern of file names; see ``read_corpus``
        n_tokens: how many tokens the BPE has, all bytes and BOS among them
        length: number of predictions in a window
        held_out: share of the text, whole files, that is kept from training
        corpus_hash: the texts that these must be; a run writes it down. null: whatever is there
        tokenizer_hash: the BPE that this must be; a run writes it down. null: whatever comes out

    Raises:
        ValueError: if a field is out of range; when it is drawn from, if there is no such corpus, it is not that of the
            hash, is too small for so many tokens, or has no file as long as a window.

    Example:
        >>> task = Text(corpus="package:headway", n_tokens=300, length=7)
        >>> task.d_vocab, task.n_ctx
        (300, 7)
    """

    bos_token: ClassVar[int | None] = 0

    corpus: str = "stdlib"
    n_tokens: int = 4096
    length: int = 128
    held_out: float = 0.1
    corpus_hash: str | None = None
    tokenizer_hash: str | None = None  # pyright: ignore[reportIncompatibleMethodOverride]

    def __post_init__(self) -> None:
        """Refuse what no text can be cut into."""
        for name, valid, rule in (
            ("n_tokens", SMALLEST <= self.n_tokens <= LARGEST, f"from {SMALLEST}, BOS and all bytes, to {LARGEST}"),
            ("length", self.length >= 2, "at least 2"),
            ("held_out", 0 < self.held_out < 1, "a share, above 0 and below 1"),
        ):
            if not valid:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be {rule}")

    @property
    def d_vocab(self) -> int:
        """The tokens of the BPE."""
        return self.n_tokens

    @property
    def n_ctx(self) -> int:
        """Length of the inputs, BOS and all tokens of a window but the last."""
        return self.length

    def settled(self) -> "Text":
        """The same task with its hashes; the text is prepared, and has windows to train on and windows to hold out."""
        prepared, _ = self.prepared, self._windows
        return replace(self, corpus_hash=prepared.corpus_hash, tokenizer_hash=prepared.tokenizer_hash)

    @property
    def tokenizer_json(self) -> bytes:
        """The BPE."""
        return self.prepared.tokenizer_json

    @cached_property
    def prepared(self) -> Prepared:
        """The tokens of the corpus; read from the cache, or prepared and put there.

        Raises:
            ValueError: a corpus that is not there, is not that of ``corpus_hash``, or does not support ``n_tokens``.
        """
        if self.corpus_hash is not None:
            there = Prepared.kept(self.corpus_hash, self.n_tokens, self.held_out)
            if there is not None:
                return self._checked(there)
        corpus = read_corpus(self.corpus)
        if self.corpus_hash not in (None, corpus.hash):
            raise ValueError(
                f"corpus_hash: {self.corpus_hash[:12]}… is not that of {self.corpus!r}, which has changed since (it is "
                f"{corpus.hash[:12]}…), and its tokens are no longer in {text_folder()}; null takes it as it is"
            )
        return self._checked(Prepared.of(corpus, self.n_tokens, self.held_out))

    def _checked(self, prepared: Prepared) -> Prepared:
        if self.tokenizer_hash not in (None, prepared.tokenizer_hash):
            raise ValueError(
                f"tokenizer_hash: {self.tokenizer_hash[:12]}… is not that of the BPE that comes out of {self.corpus!r} "
                f"here ({prepared.tokenizer_hash[:12]}…); null takes it as it is"
            )
        return prepared

    @cached_property
    def _windows(self) -> dict[Part, Windows]:
        """Those of each part; a ValueError if one has none."""
        windows = {part: Windows(self.prepared.files(part), self.length) for part in get_args(Part)}
        for part, some in windows.items():
            if not len(some):
                which = "to train on" if part == "train" else "kept from training"
                longest = some.files.lengths.max()
                raise ValueError(
                    f"length: {self.length} is longer than every file {which}; the longest has {longest} tokens"
                )
        return windows

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` windows of the files that are trained on."""
        return self._drawn("train", generator, batch_size)

    def evaluation_batch(self, seed: int, batch_size: int) -> Batch:
        """The fixed batch on which a run is scored: windows of the files that are kept from training."""
        return self._drawn("held_out", generator("evaluation", seed), batch_size)._replace(task=self)

    def _drawn(self, part: Part, generator: torch.Generator, batch_size: int) -> Batch:
        windows = self._windows[part]
        return self._batch_of(windows, torch.randint(len(windows), (batch_size,), generator=generator))

    def held_out_batches(self, batch_size: int) -> Iterator[Batch]:
        """The files that are kept from training as windows one after another; what does not fill one is left out."""
        windows = self._windows["held_out"]
        for some in windows.one_after_another().split(batch_size):
            yield self._batch_of(windows, some)._replace(task=self)

    def held_out_texts(self) -> list[str]:
        """The files that are kept from training, as text."""
        files, tokenizer = self._windows["held_out"].files, read_tokenizer(self.tokenizer_json)
        ends = np.cumsum(files.lengths)[:-1]
        spelled = np.split(files.tokens, ends)
        return [str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False)) for tokens in spelled]

    def _batch_of(self, windows: Windows, numbers: Int[Tensor, "batch"]) -> Batch:
        file, targets = windows(numbers)
        return Batch(
            inputs=F.pad(targets[:, :-1], (1, 0), value=0),
            targets=targets,
            mask=torch.ones_like(targets, dtype=torch.bool),
            info={"file": file},
        )

    def baselines(self) -> dict[str, float]:
        """Cross-entropies in nats, of the windows that ``held_out_batches`` gives.

        - ``chance``: ln(n_tokens), every token alike.
        - ``unigram``: by how often a token occurs in the files trained on, each once more than it does.
        - ``bigram``: by the token before, of which a window's first has none. ``P(b | a) = (c(a, b) + t(a) P(b)) /
          (c(a) + t(a))``, with counts c of the files trained on, t(a) the number of different tokens seen after a, and
          P(b) the unigram (Witten & Bell 1991).
        """
        files, windows = self._windows["train"].files, self._windows["held_out"]
        targets = windows(windows.one_after_another())[1].numpy()
        counts = np.bincount(files.tokens, minlength=self.n_tokens)
        unigram = (counts + 1) / (counts.sum() + self.n_tokens)
        pairs, times = np.unique(files.pairs(self.n_tokens), return_counts=True)
        followed = np.bincount(pairs // self.n_tokens, weights=times, minlength=self.n_tokens)
        followers = np.bincount(pairs // self.n_tokens, minlength=self.n_tokens)
        a, b = targets[:, :-1], targets[:, 1:]
        wanted = a * self.n_tokens + b
        place = np.searchsorted(pairs, wanted).clip(max=len(pairs) - 1)
        seen = np.where(pairs[place] == wanted, times[place], 0)
        # After a token that nothing ever followed there is only the unigram.
        weight = np.where(followed[a] > 0, followers[a], 1)
        bigram = (seen + weight * unigram[b]) / (followed[a] + weight)
        nats = -np.log(unigram[targets])
        return {
            "chance": math.log(self.n_tokens),
            "unigram": float(nats.mean()),
            "bigram": float((nats[:, 0].sum() - np.log(bigram).sum()) / nats.size),
        }

    def labels(self, batch: Batch) -> list[list[str]]:
        """The string of each token; a line break is ``\\n``."""
        return [[self._strings[token] for token in row] for row in batch.inputs.tolist()]

    @cached_property
    def _strings(self) -> list[str]:
        tokenizer = read_tokenizer(self.tokenizer_json)
        return ["BOS", *(said(tokenizer, token)[1:-1] for token in range(1, self.n_tokens))]
