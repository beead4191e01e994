"""Generation: a causal network of tokens continues sequences, greedily or by sampling."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.utilities import sample_logits

from headway.models.arguments import checked_input
from headway.models.config import ModelConfig
from headway.models.strings import StringConversions


class Sampling(NamedTuple):
    """The way in which the next token is chosen, with TransformerLens's names and meanings."""

    do_sample: bool = True
    top_k: int | None = None
    top_p: float | None = None
    temperature: float = 1.0
    freq_penalty: float = 0.0

    def check(self) -> None:
        """Refuse values out of range, and those that have no effect."""
        if not self.do_sample:
            for name in ("top_k", "top_p", "temperature", "freq_penalty"):
                if getattr(self, name) != Sampling._field_defaults[name]:
                    raise ValueError(f"{name}: {getattr(self, name)} is not valid with do_sample=False; leave it out")
        if self.top_k is not None and self.top_p is not None:
            raise ValueError(f"top_p: {self.top_p} is not valid with top_k; give one of them")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: {self.top_k} is not valid; it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p} is not valid; it must be above 0 and at most 1")
        for name in ("temperature", "freq_penalty"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be 0 or more")

    def next_tokens(self, logits: Tensor, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch"]:
        """Return the next token of each sequence, from its last logits ``[batch, d_vocab]``."""
        temperature = self.temperature if self.do_sample else 0.0
        return sample_logits(logits.float(), self.top_k, self.top_p, temperature, self.freq_penalty, tokens=tokens)


def check_generates(cfg: ModelConfig) -> None:
    """Refuse a network whose outputs are not the next tokens of its inputs."""
    for holds, what in (
        (cfg.input_type == "tokens", "takes vectors"),
        (cfg.attention_dir == "causal", "is bidirectional"),
        (cfg.d_vocab == cfg.d_vocab_out, f"has {cfg.d_vocab} inputs and {cfg.d_vocab_out} outputs"),
    ):
        if not holds:
            raise ValueError(f"generate: it needs a causal network that predicts its own tokens; this one {what}")


@torch.no_grad()
def continued(
    model: Callable[..., Any],
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"] | None,
    max_new_tokens: int,
    sampling: Sampling,
    eos_token_id: int | None,
) -> Int[Tensor, "batch longer"]:
    """Return the sequences with up to ``max_new_tokens`` more; one that has ended repeats ``eos_token_id``."""
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    for _ in range(max_new_tokens):
        new = sampling.next_tokens(model(tokens, attention_mask=mask)[:, -1], tokens)
        if eos_token_id is not None:
            new = new.masked_fill(ended, eos_token_id)
            ended = ended | (new == eos_token_id)
        tokens = torch.cat([tokens, new[:, None]], dim=1)
        mask = None if mask is None else torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if ended.all():
            break
    return tokens


class Generation(StringConversions):
    """The method of a HookedTransformer that continues strings and tokens."""

    __call__: Callable[..., Any]

    def generate(
        self,
        input: str | list[str] | Int[Tensor, "batch pos"] = "",
        max_new_tokens: int = 10,
        stop_at_eos: bool | None = None,
        eos_token_id: int | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        freq_penalty: float = 0.0,
        use_past_kv_cache: bool = False,
        prepend_bos: bool | None = True,
        padding_side: Literal["left"] | None = None,
        return_type: Literal["input", "str", "tokens"] = "input",
        verbose: bool = False,
    ) -> Any:
        """Continue sequences by sampling from torch's global generator, or greedily with ``do_sample=False``.

        Args:
            input: Tokens, a string, or a list of strings, which are padded on the left.
            max_new_tokens: Number of tokens to add at most.
            stop_at_eos: Stop a sequence at the end token; None means if there is one.
            eos_token_id: The end token; by default that of the tokenizer.
            do_sample: Sample, or take the most likely token.
            top_k: Sample among this many most likely tokens.
            top_p: Sample among the most likely tokens that have this probability together.
            temperature: Divide the logits by this; 0 takes the most likely token.
            freq_penalty: Subtract this from a token's logit for each time that it has occurred.
            use_past_kv_cache: Must be False: each step runs the whole network, and keys and values are not kept.
            prepend_bos: Start strings with the tokenizer's BOS token.
            padding_side: Must be left, so that new tokens follow each string.
            return_type: ``"tokens"`` ``[batch, pos]``, ``"str"``, or ``"input"``: the type of the input.
            verbose: Must be False: there is no progress bar.

        Raises:
            ValueError: an argument is not valid, the network does not predict its own tokens, or n_ctx is too small.

        Example:
            >>> from headway.models.handmade import previous_token_head
            >>> model, batch = previous_token_head()
            >>> model.generate(batch.inputs[:1, :3], max_new_tokens=2, do_sample=False).shape
            torch.Size([1, 5])
        """
        check_generates(self.cfg)
        sampling = Sampling(do_sample, top_k, top_p, temperature, freq_penalty)
        sampling.check()
        strings = isinstance(input, str | list)
        for name, value, valid in (
            ("use_past_kv_cache", use_past_kv_cache, (False,)),
            ("padding_side", padding_side, ("left", None)),
            ("return_type", return_type, ("input", "str", "tokens")),
            ("verbose", verbose, (False,)),
        ):
            if value not in valid:
                raise ValueError(f"{name}: {value!r} is not one of {', '.join(map(repr, valid))}")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: {max_new_tokens} is not valid; it must be at least 1")
        if strings:
            tokens, mask = self._tokens_and_padding(input, prepend_bos, "left")
        else:
            tokens, mask = checked_input(self.cfg, input, self.cfg.dtype), None
        longest = tokens.shape[1] + max_new_tokens
        if tokens.numel() == 0:
            raise ValueError("input: it has no token to continue; give one, or a tokenizer that has a BOS token")
        if longest > self.cfg.n_ctx:
            raise ValueError(
                f"max_new_tokens: {max_new_tokens} is not valid after {tokens.shape[1]} positions; "
                f"n_ctx allows {self.cfg.n_ctx} together"
            )
        eos = getattr(self.tokenizer, "eos_token_id", None) if eos_token_id is None else eos_token_id
        if stop_at_eos and eos is None:
            raise ValueError("stop_at_eos: True is not valid without an end token; give eos_token_id")
        found = continued(self, tokens, mask, max_new_tokens, sampling, None if stop_at_eos is False else eos)
        if return_type == "tokens" or (return_type == "input" and not strings):
            return found
        texts = [self._needs_tokenizer().decode(row, skip_special_tokens=True) for row in found]
        return texts[0] if isinstance(input, str) else texts
