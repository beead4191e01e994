"""Strings and tokens: a byte-level BPE of one's own corpus, and what any Hugging Face tokenizer calls its tokens."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Begins every sequence, and is token 0; a text that holds these characters is spelled like any other.
BOS = "<|bos|>"
# Every byte is a token, so that any text can be spelled.
SMALLEST = 1 + len(pre_tokenizers.ByteLevel.alphabet())


def train_bpe(texts: Iterable[str], n_tokens: int) -> Tokenizer:
    """A byte-level BPE of ``n_tokens`` tokens, BOS and all bytes among them; the same texts give the same one.

    A word takes its space along, as in GPT-2: `` if`` is one token if it is frequent.

    Raises:
        ValueError: more tokens than these texts have pairs to merge for, or fewer than the bytes.

    Example:
        >>> bpe = train_bpe(["x = a if b else c"] * 2, n_tokens=267)
        >>> bpe.decode(bpe.encode(" if it rains").ids)
        ' if it rains'
    """
    if n_tokens < SMALLEST:
        raise ValueError(f"n_tokens: {n_tokens} is not valid; it must be at least {SMALLEST}, BOS and every byte")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() < n_tokens:
        raise ValueError(f"n_tokens: {n_tokens} is too large for this text; it supports {bpe.get_vocab_size()} at most")
    return bpe


def spelled(bpe: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, without BOS; the characters of ``BOS`` within it are spelled as characters."""
    bpe.encode_special_tokens = True
    return [each.ids for each in bpe.encode_batch_fast(list(texts), add_special_tokens=False)]


def read_tokenizer(file: bytes) -> "PreTrainedTokenizerFast":
    """What a file that a BPE of ours was saved to spells; see ``wrapped``."""
    return wrapped(Tokenizer.from_buffer(file))


def wrapped(bpe: Tokenizer) -> "PreTrainedTokenizerFast":
    """A BPE of ours as a Hugging Face tokenizer, which is what a HookedTransformer takes strings through."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=BOS, pad_token=BOS, split_special_tokens=True
    )


def one_token(tokenizer: Any, string: str) -> int:
    """The token that is this string.

    Raises:
        ValueError: a string that the tokenizer splits, with what into.

    Example:
        >>> tokenizer = wrapped(train_bpe(["x = a if b else c"] * 2, n_tokens=267))
        >>> said(tokenizer, one_token(tokenizer, " if"))
        "' if'"
        >>> one_token(tokenizer, "ab")
        Traceback (most recent call last):
        ValueError: token: 'ab' is not one token of this tokenizer; it is split into 'a', 'b'
    """
    tokens = tokenizer.encode(string, add_special_tokens=False)
    if len(tokens) != 1 or tokens[0] == getattr(tokenizer, "unk_token_id", None):
        pieces = ", ".join(said(tokenizer, token) for token in tokens) or "nothing"
        raise ValueError(f"token: {string!r} is not one token of this tokenizer; it is split into {pieces}")
    return tokens[0]


def begins_with(tokenizer: Any) -> int:
    """The token that a sequence begins with: BOS, or without one EOS, which GPT-2 and its kin have seen between texts.

    Raises:
        ValueError: a tokenizer that has neither.
    """
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if bos is None:
        raise ValueError(
            f"tokenizer: {type(tokenizer).__name__} is not valid; it must have a bos_token_id or an eos_token_id"
        )
    return bos


def said(tokenizer: Any, token: int) -> str:
    """A token in quotes, so that a space or a line break at its ends can be seen.

    Example:
        >>> said(wrapped(train_bpe(["a b"], n_tokens=257)), 0)
        "'<|bos|>'"
    """
    return repr(tokenizer.decode([token], clean_up_tokenization_spaces=False))
