"""A prompt run through a network: next tokens at each position, attention, and what adds to a logit from where."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import einops
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from headway.analyze.measures.attribution import attribute_outputs, attribute_sources
from headway.analyze.network.forward import forward_pass, shared_forward_pass
from headway.analyze.network.interventions import heads_except
from headway.data.task import Batch
from headway.data.tokenizer import begins_with, one_token, said
from headway.models.convert import Model


class Next(NamedTuple):
    """A token that may come next."""

    token: str
    probability: float


@dataclass(frozen=True)
class PromptResult:
    """The predictions of a network on a prompt, position by position; position 0 is BOS.

    Args:
        tokens: BOS and the tokens of the prompt.
        probabilities: The probability of each token to come next.
        attention: [head, pos, source], the weight that each head gives to each source.
        position: The position in question.
        explained: The token whose logit is split at each position: the next one, and after the last position the
            likeliest; at ``position`` another one, if the caller names it.
        outputs: [component, pos], ``attribute_outputs`` over the mean logit; None where it does not hold.
        sources: [head, pos, source], ``attribute_sources`` over the mean logit; None where it does not hold.
        left_out: Why there are no attributions, or none by source; empty where there are.
        tokenizer: Decodes the tokens.
    """

    tokens: Int[Tensor, "pos"]
    probabilities: Float[Tensor, "pos d_vocab"]
    attention: xr.DataArray
    position: int
    explained: Int[Tensor, "pos"]
    outputs: xr.DataArray | None
    sources: xr.DataArray | None
    left_out: str
    tokenizer: Any

    @property
    def labels(self) -> list[str]:
        """The token at each position, in quotes."""
        return [said(self.tokenizer, token) for token in self.tokens.tolist()]

    def label(self, token: int) -> str:
        """A token, in quotes."""
        return said(self.tokenizer, token)

    def probability(self, position: int, token: int) -> float:
        """The probability of this token after a position."""
        return self.probabilities[position, token].item()

    def rank(self, position: int, token: int) -> int:
        """1 for the likeliest token after a position, 2 for the one after it, …"""
        return 1 + int((self.probabilities[position] > self.probabilities[position, token]).sum())

    def likeliest(self, position: int, top: int) -> list[Next]:
        """The ``top`` likeliest tokens after a position, the likeliest first."""
        found = self.probabilities[position].topk(min(top, self.probabilities.shape[-1]))
        return [Next(self.label(int(token)), float(value)) for value, token in zip(*found, strict=True)]


def run_prompt(model: Model, string: str, position: int | None = None, token: str | None = None) -> PromptResult:
    """Run a prompt through a network that has a tokenizer.

    The tokens of the prompt follow BOS (EOS where there is no BOS, as in GPT-2's training texts). The logit of the next
    token over the mean logit is split by component and source; after the last position, that of the likeliest token.
    Attribution is direct: effects through later layers are not in it.

    Args:
        model: The network.
        string: The prompt.
        position: The position in question, from 0, which is BOS; the last one if None.
        token: The token whose logit is split there instead: a string that is one token.

    Raises:
        ValueError: a network without a tokenizer, an empty string, one of more tokens than n_ctx, a position that does
            not exist, a token that is none.

    Example:
        >>> from headway.data.tokenizer import train_bpe, wrapped
        >>> from headway.models.config import ModelConfig
        >>> from headway.models.hooked_transformer import HookedTransformer
        >>> tokenizer = wrapped(train_bpe(["x = a if b else c"] * 2, n_tokens=267))
        >>> cfg = ModelConfig(n_layers=1, d_model=11, n_ctx=7, d_head=5, n_heads=3, d_vocab=267)
        >>> found = run_prompt(HookedTransformer(cfg, tokenizer), "a if b")
        >>> found.labels
        ["'<|bos|>'", "'a'", "' if'", "' b'"]
        >>> found.label(int(found.explained[1])), found.position
        ("' if'", 3)
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError("model: it has no tokenizer, so it takes no prompt; its tokens stand for no text")
    if not string:
        raise ValueError("string: '' is not valid; it must have at least one token")
    tokens = torch.tensor([begins_with(tokenizer), *tokenizer.encode(string, add_special_tokens=False)])
    if len(tokens) > model.cfg.n_ctx:
        raise ValueError(
            f"string: it has {len(tokens)} tokens, BOS included; this network reads {model.cfg.n_ctx} at most"
        )
    position = len(tokens) - 1 if position is None else position
    if not 0 <= position < len(tokens):
        raise ValueError(f"position: {position} does not exist; this string has 0, which is BOS, to {len(tokens) - 1}")
    chosen = None if token is None else one_token(tokenizer, token)
    inputs = tokens[None].to(model.W_E.device)
    with shared_forward_pass():
        looked = forward_pass(model, Batch(inputs, inputs, torch.ones_like(inputs, dtype=torch.bool)))
        logits = looked.output[0].cpu()
        explained = torch.cat([tokens[1:], logits[-1:].argmax(-1)])
        if chosen is not None:
            explained[position] = chosen
        # The same inputs, which are known by their identity: one forward pass serves it all.
        batch = Batch(inputs, explained[None].to(inputs.device), torch.ones_like(inputs, dtype=torch.bool))
        outputs = sources = None
        left_out = ""
        try:
            outputs = attribute_outputs(model, batch, over_mean=True).isel(batch=0)
            sources = attribute_sources(model, batch, over_mean=True).isel(batch=0)
        except ValueError as error:  # an architecture whose outputs are no such sums can still be looked at
            left_out = str(error)
    heads = [str(head) for head in heads_except(model)]
    patterns = einops.rearrange(looked.patterns[:, 0], "layer head query key -> (layer head) query key")
    return PromptResult(
        tokens=tokens,
        probabilities=logits.softmax(-1),
        attention=xr.DataArray(patterns.cpu().numpy(), dims=("head", "pos", "source"), coords={"head": heads}),
        position=position,
        explained=explained,
        outputs=outputs,
        sources=sources,
        left_out=left_out,
        tokenizer=tokenizer,
    )
