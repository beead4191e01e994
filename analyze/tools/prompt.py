"""A prompt in a network: next-token probabilities, attention, and logit attributions at each position."""

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
from headway.data.tokenizer import bos_token_id, check_utf8, format_token, one_token
from headway.models.convert import Model
from headway.models.hooked_transformer import HookedTransformer


class Next(NamedTuple):
    """A candidate for the next token."""

    token: str
    probability: float


@dataclass(frozen=True)
class PromptResult:
    """Predictions, attention and attributions of a network on a prompt, position by position; position 0 is BOS.

    Args:
        tokens: BOS and the tokens of the prompt.
        probabilities: Probability of each next token.
        attention: [head, pos, source], the attention of each head to each source position.
        position: The selected position.
        explained: The token at each position whose logit is attributed: the next token of the prompt, and after the
            last position the most likely one; at ``position`` the token that was asked for, if any.
        outputs: [component, pos], ``attribute_outputs`` over the mean logit; None if it does not apply.
        sources: [head, pos, source], ``attribute_sources`` over the mean logit; None if it does not apply.
        left_out: The reason why attributions, or those by source, are missing; otherwise empty.
        tokenizer: The tokenizer.
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
        """Return the token at each position, in quotes."""
        return [format_token(self.tokenizer, token) for token in self.tokens.tolist()]

    def label(self, token: int) -> str:
        """Return a token, in quotes."""
        return format_token(self.tokenizer, token)

    def probability(self, position: int, token: int) -> float:
        """Return the probability that this token follows a position."""
        return self.probabilities[position, token].item()

    def rank(self, position: int, token: int) -> int:
        """Return the rank of this token after a position: 1 is the most likely."""
        return 1 + int((self.probabilities[position] > self.probabilities[position, token]).sum())

    def likeliest(self, position: int, top: int) -> list[Next]:
        """Return the ``top`` most likely tokens after a position, in order of decreasing probability."""
        found = self.probabilities[position].topk(min(top, self.probabilities.shape[-1]))
        return [Next(self.label(int(token)), float(value)) for value, token in zip(*found, strict=True)]


def prompt_tokens(model: Model, string: str) -> Int[Tensor, "pos"]:
    """Return the tokens of a prompt, after BOS.

    Raises:
        ValueError: a network without a tokenizer, a prompt that is empty or not UTF-8, more tokens than n_ctx.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError("model: it has no tokenizer, so it cannot read text; give a network that was trained on text")
    if not string:
        raise ValueError("string: '' is not valid; it must have at least one token")
    check_utf8("string", string)
    tokens = torch.tensor([bos_token_id(tokenizer), *tokenizer.encode(string, add_special_tokens=False)])
    if len(tokens) > model.cfg.n_ctx:
        raise ValueError(
            f"string: it has {len(tokens)} tokens with BOS; it must have at most n_ctx = {model.cfg.n_ctx}"
        )
    return tokens


def run_prompt(model: Model, string: str, position: int | None = None, token: str | None = None) -> PromptResult:
    """Run a network that has a tokenizer on a prompt, and attribute the logit of each next token.

    The prompt is tokenized and put after BOS (after EOS if there is no BOS, as in GPT-2's training). The attributed
    logit is that of the next token of the prompt, over the mean logit; after the last position it is that of the most
    likely token. Attribution is direct: effects on a logit through later layers are not included.

    Args:
        model: The network.
        string: The prompt.
        position: The selected position, where 0 is BOS; the last one if None.
        token: The token to attribute at that position instead: a string that is one token.

    Raises:
        ValueError: a network without a tokenizer, a prompt that is empty or not UTF-8, more tokens than n_ctx, a
            position that does not exist, or a string that is not one token.

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
    tokens, tokenizer = prompt_tokens(model, string), model.tokenizer
    if isinstance(model, HookedTransformer) and model.cfg.d_vocab_out != model.cfg.d_vocab:
        raise ValueError(
            f"model: its {model.cfg.d_vocab_out} outputs are not its {model.cfg.d_vocab} tokens; give a network that "
            "predicts text"
        )
    position = len(tokens) - 1 if position is None else position
    if not 0 <= position < len(tokens):
        raise ValueError(f"position: {position} does not exist; this string has positions 0 (BOS) to {len(tokens) - 1}")
    chosen = None if token is None else one_token(tokenizer, token)
    inputs = tokens[None].to(model.W_E.device)
    with shared_forward_pass():
        looked = forward_pass(model, Batch(inputs, inputs, torch.ones_like(inputs, dtype=torch.bool)))
        logits = looked.output[0].cpu()
        explained = torch.cat([tokens[1:], logits[-1:].argmax(-1)])
        if chosen is not None:
            explained[position] = chosen
        # The inputs are the same tensor, so one forward pass is shared by all of these.
        batch = Batch(inputs, explained[None].to(inputs.device), torch.ones_like(inputs, dtype=torch.bool))
        outputs = sources = None
        left_out = ""
        try:
            outputs = attribute_outputs(model, batch, over_mean=True).isel(batch=0)
            sources = attribute_sources(model, batch, over_mean=True).isel(batch=0)
        except (
            ValueError
        ) as error:  # predictions and attention are available even if the logits are not a sum over components
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
