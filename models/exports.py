"""Configurations and weights of our networks as TransformerLens has them: HookedTransformer of 3.9, native bridges.

What the other class cannot compute is refused with the reason. What it says in another way, such as absent biases as
zeros, is listed in notes.
"""

import math
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import einops
import torch
from torch import Tensor

from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer

# Options that TransformerLens's classes have under the same names.
_SAME = (
    "n_layers", "d_model", "n_ctx", "d_head", "n_heads", "d_vocab", "d_vocab_out", "d_mlp", "act_fn", "attn_only",
    "attention_dir", "normalization_type", "eps",
)  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """A network as another class has it.

    Args:
        config: What its configuration is made of: plain values.
        weights: Its state dict.
        notes: Sentences on what is said in another way.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def for_hooked_transformer(model: HookedTransformer) -> Exported:
    """Return a network as TransformerLens 3.9's HookedTransformer, which has the same logits.

    Raises:
        ValueError: that class cannot compute it.

    Example:
        >>> cfg = ModelConfig(n_layers=1, d_model=5, n_ctx=7, d_head=3, n_heads=2, d_vocab=11, biases=False)
        >>> exported = for_hooked_transformer(HookedTransformer(cfg))
        >>> exported.weights["blocks.0.attn.b_Q"].shape, exported.notes
        (torch.Size([2, 3]), ('Biases that this network does not have are 0.',))
    """
    cfg = model.cfg
    _check_positions_and_inputs(cfg, "TransformerLens's HookedTransformer", ("standard", "shortformer", "rotary"))
    config, weights, notes = _config(cfg), *_whole(model)
    config |= {"use_attn_scale": cfg.use_attn_scale, "init_weights": False, "default_prepend_bos": False}
    if cfg.attn_scale != -1:
        config["attn_scale"] = cfg.attn_scale
    # Buffers that its state dict has; it makes masks of any length itself.
    for layer, block in enumerate(model.blocks):
        attn = f"blocks.{layer}.attn"
        weights |= {f"{attn}.mask": torch.empty(0, 0, dtype=torch.bool), f"{attn}.IGNORE": torch.tensor(-torch.inf)}
        if cfg.positional_embedding_type == "rotary":
            tables = block.attn.rotary.tables(torch.float32)
            weights |= {f"{attn}.rotary_{name}": table.repeat(1, 2) for name, table in tables.items()}
    return Exported(config, weights, notes)


def for_bridge(model: HookedTransformer) -> Exported:
    """Return a network as a TransformerBridge of ``boot_native`` of TransformerLens 4, which has the same logits.

    Raises:
        ValueError: that architecture cannot compute it.
    """
    cfg, its = model.cfg, "TransformerLens's native architecture"
    _check_positions_and_inputs(cfg, its, ("standard", "rotary"))
    if cfg.rotary_base != int(cfg.rotary_base) and cfg.positional_embedding_type == "rotary":
        raise ValueError(f"to: bridge is not valid; {its} has an integer rotary_base, and not {cfg.rotary_base}")
    config, (weights, notes) = _config(cfg), _whole(model)
    config["architecture"] = "TransformerLensNative"
    if cfg.score_divisor == 1:
        # It takes no scale of 1.
        notes = (*notes, "Queries are sqrt(d_head) times as long, because this architecture divides scores by that.")
        for layer in range(cfg.n_layers):
            for name in ("W_Q", "b_Q"):
                weights[f"blocks.{layer}.attn.{name}"] *= math.sqrt(cfg.d_head)
    elif cfg.attn_scale != -1:
        config["attn_scale"] = cfg.attn_scale
    if cfg.positional_embedding_type == "rotary":
        config["rotary_base"] = int(cfg.rotary_base)
        notes = (*notes, "Entries of queries and keys stand in pairs, as this architecture turns them.")
        for layer in range(cfg.n_layers):
            for name in ("W_Q", "W_K", "b_Q", "b_K"):
                weight = weights[f"blocks.{layer}.attn.{name}"]
                weights[f"blocks.{layer}.attn.{name}"] = weight[..., _in_pairs(cfg)]
    if cfg.act_fn == "solu_ln" and cfg.normalization_type != "LN" and not cfg.attn_only:
        notes = (*notes, "The LayerNorm of the MLP has the weight 1 and the bias 0.")
        for layer in range(cfg.n_layers):
            weights[f"blocks.{layer}.mlp.ln.w"] = torch.ones(cfg.d_mlp)
            weights[f"blocks.{layer}.mlp.ln.b"] = torch.zeros(cfg.d_mlp)
    native = [_native(name, weight) for name, weight in weights.items()]
    return Exported(config, {name: weight.contiguous() for name, weight in native}, notes)


def _check_positions_and_inputs(cfg: ModelConfig, its: str, positions: tuple[str, ...]) -> None:
    kind = cfg.positional_embedding_type
    if cfg.input_type == "vectors":
        raise ValueError(f"to: is not valid for this network, which takes vectors; {its} takes tokens")
    if kind not in (*positions, "none"):
        raise ValueError(
            f"to: is not valid for this network; {its} has no {kind} positions, but {', '.join(positions)}"
        )


def _config(cfg: ModelConfig) -> dict[str, Any]:
    config = {name: getattr(cfg, name) for name in _SAME}
    kind = cfg.positional_embedding_type
    config["positional_embedding_type"] = "standard" if kind == "none" else kind
    if kind == "rotary":
        whole = cfg.rotary_base == int(cfg.rotary_base)
        config |= {
            "rotary_dim": cfg.rotary_dim or cfg.d_head,
            "rotary_base": int(cfg.rotary_base) if whole else cfg.rotary_base,
            "rotary_adjacent_pairs": False,
        }
    return config


def _whole(model: HookedTransformer) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights of a network with all that TransformerLens's classes have: biases, W_U, and W_pos."""
    cfg, notes = model.cfg, []
    weights = {name: value.detach().float().cpu().clone() for name, value in model.state_dict().items()}
    if not cfg.biases:
        notes.append("Biases that this network does not have are 0.")
        biases = {name: value for name, value in model.named_buffers() if name.rpartition(".")[2].startswith("b_")}
        weights |= {name: torch.zeros(value.shape) for name, value in biases.items()}
    if cfg.tie_word_embeddings:
        notes.append("The unembedding is a copy of the embedding, to which it is tied here.")
        weights["unembed.W_U"] = weights["embed.W_E"].T.contiguous()
    if cfg.positional_embedding_type == "none":
        notes.append("Position embeddings, which this network does not have, are 0.")
        weights["pos_embed.W_pos"] = torch.zeros(cfg.n_ctx, cfg.d_model)
    return weights, tuple(notes)


def _in_pairs(cfg: ModelConfig) -> list[int]:
    """The entries of a query in an order in which those that turn together are neighbours."""
    dim = cfg.rotary_dim or cfg.d_head
    pairs = [entry for i in range(dim // 2) for entry in (i, i + dim // 2)]
    return [*pairs, *range(dim, cfg.d_head)]


def _native(name: str, weight: Tensor) -> tuple[str, Tensor]:
    """Return the name and the layout of a weight in the state dict of a bridge.

    Its unembedding has no bias that is trained, and a buffer of that name.

    Example:
        >>> name, weight = _native("blocks.0.attn.W_Q", torch.zeros(3, 11, 5))
        >>> name, weight.shape
        ('blocks.0.attn.q.weight', torch.Size([15, 11]))
    """
    place, _, kind = name.rpartition(".")
    match kind:
        case "W_E" | "W_pos":
            return f"{place}.weight", weight
        case "W_U":
            return f"{place}.weight", weight.T
        case "b_U":
            return f"{place}.bias", weight
        case "W_Q" | "W_K" | "W_V":
            joined = einops.rearrange(weight, "head d_model d_head -> (head d_head) d_model")
            return f"{place}.{kind[-1].lower()}.weight", joined
        case "b_Q" | "b_K" | "b_V":
            return f"{place}.{kind[-1].lower()}.bias", weight.flatten()
        case "W_O":
            return f"{place}.o.weight", einops.rearrange(weight, "head d_head d_model -> d_model (head d_head)")
        case "b_O":
            return f"{place}.o.bias", weight
        case "W_in" | "W_out":
            return f"{place}.{kind[2:]}.weight", weight.T
        case "b_in" | "b_out":
            return f"{place}.{kind[2:]}.bias", weight
    return f"{place}.{'weight' if kind == 'w' else 'bias'}", weight


def check_bridge(model: HookedTransformer, exported: Exported) -> None:
    """Build the bridge of an export, and refuse it if its logits are not those of the network.

    Raises:
        ValueError: the TransformerLens that is installed cannot build it, or its logits are others.
    """
    from transformer_lens.model_bridge import TransformerBridge

    installed = version("transformer_lens")
    # Version 3 has fewer activation functions.
    needed = "; install transformer_lens 4" if installed.startswith("3.") else ""
    try:
        bridge = TransformerBridge.boot_native(dict(exported.config))  # pyright: ignore[reportAttributeAccessIssue]
        bridge.load_state_dict(exported.weights)
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"to: bridge is not valid; transformer_lens {installed} cannot express the network ({said}){needed}"
        ) from None
    length = model.cfg.n_ctx
    tokens = torch.arange(2 * length).reshape(2, length) % model.cfg.d_vocab
    with torch.no_grad():
        theirs, ours = bridge.eval()(tokens), model.eval()(tokens)
    furthest = float((theirs - ours).abs().max())
    if furthest > 1e-4 * max(1.0, float(ours.abs().max())):
        raise ValueError(
            f"to: bridge is not valid; in transformer_lens {installed} its logits would differ by up to {furthest:.2g}"
        )
