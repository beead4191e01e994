"""Generation: a causal network of tokens continues sequences, greedily or by sampling."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.utilities import sample_logits

from headway.models.config import ModelConfig


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
