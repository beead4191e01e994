"""Strings and tokens: what a HookedTransformer converts with its tokenizer."""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from headway.data.tokenizer import token_string
from headway.models.arguments import integer_tokens
from headway.models.config import ModelConfig


class StringConversions:
    """The methods of a HookedTransformer that need its tokenizer."""

    cfg: ModelConfig
    tokenizer: Any

    def set_tokenizer(self, tokenizer: Any) -> None:
        """Set the Hugging Face tokenizer that converts strings."""
        self.tokenizer = tokenizer

    def _needs_tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise ValueError(
                "tokenizer: None is not valid for strings; call model.set_tokenizer(...) with a Hugging Face tokenizer"
            )
        return self.tokenizer

    def to_tokens(
        self,
        input: str | list[str],
        prepend_bos: bool | None = True,
        padding_side: Literal["left", "right"] | None = None,
        move_to_device: bool = True,
        truncate: bool = True,
    ) -> Int[Tensor, "batch pos"]:
        """Convert strings to tokens, padded to the longest and (with ``truncate``) cut at n_ctx.

        Args:
            input: A string or a list of strings.
            prepend_bos: Start each with the tokenizer's BOS token; None means True.
            padding_side: ``"right"`` (None means this), so that positions mean the same in each row, or ``"left"``.
            move_to_device: Put the tokens where the network is.
            truncate: Cut each row at n_ctx.

        Raises:
            ValueError: no tokenizer, no string, or strings of different lengths and no padding token.
        """
        rows = self._rows_of_tokens(input, prepend_bos, truncate)
        if padding_side not in ("left", "right", None):
            raise ValueError(f"padding_side: {padding_side!r} is not one of left, right")
        length, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        if any(len(row) < length for row in rows) and pad is None:
            raise ValueError("input: strings of different lengths need padding; set tokenizer.pad_token")
        paddings = [[pad] * (length - len(row)) for row in rows]
        left = padding_side == "left"
        padded = [padding + row if left else row + padding for row, padding in zip(rows, paddings, strict=True)]
        return torch.tensor(padded, dtype=torch.long, device=self.cfg.device if move_to_device else None)

    def _rows_of_tokens(
        self, input: str | list[str], prepend_bos: bool | None = True, truncate: bool = True
    ) -> list[list[int]]:
        tokenizer = self._needs_tokenizer()
        texts = [input] if isinstance(input, str) else list(input)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"input: {input!r} is not valid; it must be a string or a list of at least one string")
        bos = [tokenizer.bos_token_id] if prepend_bos is not False and tokenizer.bos_token_id is not None else []
        rows = [bos + tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return [row[: self.cfg.n_ctx] for row in rows] if truncate else rows

    def _tokens_and_padding(
        self, input: str | list[str], prepend_bos: bool | None, padding_side: Literal["left", "right"] = "right"
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"] | None]:
        """Return the tokens of strings, and a mask that is False at padding, or None if there is none."""
        tokens = self.to_tokens(input, prepend_bos, padding_side)
        lengths = torch.tensor([len(row) for row in self._rows_of_tokens(input, prepend_bos)], device=tokens.device)
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        real = real.flip(1) if padding_side == "left" else real
        return tokens, None if real.all() else real

    def to_string(self, tokens: Int[Tensor, "..."] | np.ndarray | list) -> str | list[str]:
        """Convert tokens to a string, or a batch of tokens to a list of strings."""
        if isinstance(tokens, list) and any(isinstance(row, list | np.ndarray | Tensor) and len(row) for row in tokens):
            return [str(self.to_string(row)) for row in tokens]
        found = integer_tokens(tokens)
        decode = self._needs_tokenizer().decode
        if found.ndim > 2:
            raise ValueError(f"tokens: the shape {tuple(found.shape)} is not valid; it must be [pos] or [batch, pos]")
        return [decode(row) for row in found] if found.ndim == 2 else decode(found)

    def to_str_tokens(
        self, input: str | Int[Tensor, "..."] | np.ndarray | list, prepend_bos: bool | None = True
    ) -> list[str] | list[list[str]]:
        r"""Split a string or one sequence of tokens into token strings; for a list of inputs, return a list of lists.

        A token that is only a part of a character is shown by its bytes, such as ``\xe6``.
        """
        if isinstance(input, list) and not all(isinstance(item, int) for item in input):
            return [self.to_str_tokens(item, prepend_bos) for item in input]  # pyright: ignore[reportReturnType]
        tokens = self.to_tokens(input, prepend_bos)[0] if isinstance(input, str) else integer_tokens(input)
        if tokens.ndim == 2 and len(tokens) == 1:
            tokens = tokens[0]
        if tokens.ndim > 1:
            raise ValueError(
                f"input: tokens of shape {tuple(tokens.shape)} are not valid; give one sequence, or a list of them"
            )
        return [token_string(self._needs_tokenizer(), token) for token in tokens.flatten().tolist()]

    def to_single_token(self, string: str) -> int:
        """Return the token of ``string``; raise a ValueError if it is not exactly one token."""
        tokens = self.to_tokens(string, prepend_bos=False)
        if tokens.numel() != 1:
            raise ValueError(f"string: {string!r} is {tokens.numel()} tokens; it must be one")
        return int(tokens)

    def get_token_position(
        self,
        single_token: str | int,
        input: str | Int[Tensor, "..."],
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = True,
    ) -> int:
        """Return the first or last position of a token in a string or one sequence of tokens.

        Raises:
            ValueError: the token does not occur, or the mode is neither first nor last.
        """
        if mode not in ("first", "last"):
            raise ValueError(f"mode: {mode!r} is not one of first, last")
        tokens = self.to_tokens(input, prepend_bos)[0] if isinstance(input, str) else integer_tokens(input)
        if tokens.ndim == 2 and len(tokens) == 1:
            tokens = tokens[0]
        token = self.to_single_token(single_token) if isinstance(single_token, str) else int(single_token)
        found = (tokens == token).nonzero().flatten().tolist()
        if tokens.ndim != 1 or not found:
            raise ValueError(f"single_token: {single_token!r} does not occur; input must be one sequence that has it")
        return found[0] if mode == "first" else found[-1]

    def to_single_str_token(self, int_token: int) -> str:
        """Return the string of one token."""
        return token_string(self._needs_tokenizer(), int_token)
