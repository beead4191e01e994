"""The tokenizer in the page: a byte-level BPE as numbers, for ``assets/tokenizer.js`` to read what a person types."""

import hashlib
import json
from typing import Any

import xarray as xr

from headway.checkpoints import Run
from headway.checkpoints.run import TOKENIZER

# Settings of a tokenizer file with which tokenizer.js cuts and merges; others have no effect on the tokens of a text.
_CUT = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_MERGED = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "byte_fallback": False,
    "ignore_merges": False,
}


def tokenizer_in_page(run: Run, inputs: xr.DataArray, d_vocab: int) -> dict[str, Any] | None:
    """Return the tokenizer of a run; None if it has none, or one that tokenizer.js does not compute.

    ``pieces``: the string of each token in characters that stand for bytes, empty for a special token; ``merges``: the
    tokens of each pair and of the pair merged, the first merged first; ``start``: the special token with which all
    sequences begin, in a list, or no token.
    """
    try:
        written = (run.path / TOKENIZER).read_bytes()
        if run.config["task"].get("tokenizer_hash") not in (None, hashlib.sha256(written).hexdigest()):
            return None
        return _as_numbers(json.loads(written), inputs, d_vocab)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError):
        # People then type the numbers of tokens.
        return None


def _as_numbers(file: dict[str, Any], inputs: xr.DataArray, d_vocab: int) -> dict[str, Any] | None:
    from headway.data.tokenizer import bytes_of_characters  # which needs the library of tokenizers

    model, special = file["model"], {each["id"] for each in file["added_tokens"]}
    known = file["normalizer"] is None and _has(file["pre_tokenizer"], _CUT) and _has(model, _MERGED)
    tokens: dict[str, int] = model["vocab"]
    if not known or not bytes_of_characters().keys() <= tokens.keys() or max(tokens.values()) >= d_vocab:
        return None
    pieces = [""] * d_vocab
    for piece, token in tokens.items():
        pieces[token] = "" if token in special else piece
    # Older files have the two parts of a merge in one string.
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    first = inputs.values[:, 0]
    starts = (first == first[0]).all() and int(first[0]) in special
    return {
        "pieces": pieces,
        "merges": [[tokens[left], tokens[right], tokens[left + right]] for left, right in pairs],
        "start": [int(first[0])] if starts else [],
    }


def _has(settings: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(settings.get(name, value) == value for name, value in wanted.items())
