"""Tokenizers: a byte-level BPE trained on a corpus, and strings and tokens of any Hugging Face tokenizer."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Token 0, which begins every sequence; in a text, these characters are encoded like any others.
BOS = "<|bos|>"
# Every byte is a token, so that any text can be encoded.
MIN_TOKENS = 1 + len(pre_tokenizers.ByteLevel.alphabet())


def train_bpe(texts: Iterable[str], n_tokens: int) -> Tokenizer:
    """Train a byte-level BPE of ``n_tokens`` tokens, including BOS and all bytes; the same texts give the same BPE.

    The space before a word belongs to the word, as in GPT-2: `` if`` is one token if it is frequent.

    Raises:
        ValueError: ``n_tokens`` is too small for BOS and all bytes, or the texts have too few pairs to merge.

    Example:
        >>> bpe = train_bpe(["x = a if b else c"] * 2, n_tokens=267)
        >>> bpe.decode(bpe.encode(" if it rains").ids)
        ' if it rains'
    """
    if n_tokens < MIN_TOKENS:
        raise ValueError(f"n_tokens: {n_tokens} is not valid; it must be at least {MIN_TOKENS}, for BOS and every byte")
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
        raise ValueError(f"n_tokens: {n_tokens} is too large for this text; it must be at most {bpe.get_vocab_size()}")
    return bpe


def encode_texts(bpe: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each text, without BOS; in a text, the characters of ``BOS`` are encoded as characters."""
    bpe.encode_special_tokens = True
    return [each.ids for each in bpe.encode_batch_fast(list(texts), add_special_tokens=False)]


def read_tokenizer(file: bytes, bos: str | None = BOS) -> "PreTrainedTokenizerFast":
    """Read a saved BPE as a Hugging Face tokenizer; see ``wrapped``."""
    return wrapped(Tokenizer.from_buffer(file), bos)


def wrapped(bpe: Tokenizer, bos: str | None = BOS) -> "PreTrainedTokenizerFast":
    """Return a BPE as a Hugging Face tokenizer, which HookedTransformer needs to accept strings."""
    from transformers import PreTrainedTokenizerFast

    special = {} if bos is None else {"bos_token": bos, "eos_token": bos, "pad_token": bos}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, split_special_tokens=True, **special)


def one_token(tokenizer: Any, string: str) -> int:
    """Return the token of a string that is one token.

    Raises:
        ValueError: the tokenizer splits the string; the message gives the pieces.

    Example:
        >>> tokenizer = wrapped(train_bpe(["x = a if b else c"] * 2, n_tokens=267))
        >>> format_token(tokenizer, one_token(tokenizer, " if"))
        "' if'"
        >>> one_token(tokenizer, "ab")
        Traceback (most recent call last):
        ValueError: token: 'ab' is not one token of this tokenizer; it is split into 'a', 'b'
    """
    check_utf8("token", string)
    tokens = tokenizer.encode(string, add_special_tokens=False)
    if len(tokens) != 1 or tokens[0] == getattr(tokenizer, "unk_token_id", None):
        pieces = ", ".join(format_token(tokenizer, token) for token in tokens) or "nothing"
        raise ValueError(f"token: {string!r} is not one token of this tokenizer; it is split into {pieces}")
    return tokens[0]


def check_utf8(name: str, string: str) -> None:
    """Refuse a string that no tokenizer reads: one with bytes of a command line that are not UTF-8."""
    try:
        string.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: {string!r} is not valid; it must be UTF-8") from None


def bos_token_id(tokenizer: Any) -> int:
    """Return the token that begins a sequence: BOS, or EOS if there is no BOS.

    GPT-2 and similar models were trained with EOS between texts.

    Raises:
        ValueError: the tokenizer has neither.
    """
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if bos is None:
        raise ValueError(
            f"tokenizer: {type(tokenizer).__name__} is not valid; it must have a bos_token_id or an eos_token_id"
        )
    return bos


def token_string(tokenizer: Any, token: int) -> str:
    r"""Return a token's string; a token that is only a part of a character is shown by its bytes, such as ``\xe6``.

    Example:
        >>> bpe = wrapped(train_bpe(["a b"], n_tokens=257))
        >>> print(token_string(bpe, bpe("a")["input_ids"][0]), *(token_string(bpe, t) for t in bpe("é")["input_ids"]))
        a \xc3 \xa9
    """
    string = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    if "\ufffd" not in string:
        return string
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):  # a byte of SentencePiece
        return f"\\x{piece[3:5].lower()}"
    alphabet = bytes_of_characters()
    if not all(character in alphabet for character in piece):
        return string
    return bytes(alphabet[character] for character in piece).decode(errors="backslashreplace")


@cache
def bytes_of_characters() -> dict[str, int]:
    """Return the byte for which each character of a byte-level vocabulary stands; printable ones are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def format_token(tokenizer: Any, token: int) -> str:
    """Return a token's string in quotes, so that a space or a line break at its ends is visible.

    Example:
        >>> format_token(wrapped(train_bpe(["a b"], n_tokens=257)), 0)
        "'<|bos|>'"
    """
    string = token_string(tokenizer, token)
    # Bytes are written as they are: quoting them again would double their backslashes.
    decoded = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return repr(string) if string == decoded else f"'{string}'"
