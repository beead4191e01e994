"""Simpler weights for the same function: LayerNorm folded away, writing weights centred, value biases gathered."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from headway.models.config import ModelConfig


def process_weights(
    state_dict: Mapping[str, Tensor],
    cfg: ModelConfig,
    fold_ln: bool,
    center_writing_weights: bool,
    center_unembed: bool,
    fold_value_biases: bool,
    refactor_factored_attn_matrices: bool,
) -> dict[str, Tensor]:
    """A processed copy of a HookedTransformer's weights; with ``fold_ln`` those of its LayerNorms are gone.

    Raises:
        ValueError: what would change the function: folding ln1 when shortformer positions are added after it, or
            centring the unembedding of a network that puts out vectors.
    """
    # It takes 2 s to import.
    from transformer_lens.weight_processing import ProcessWeights

    shortformer = cfg.positional_embedding_type == "shortformer"
    if fold_ln and shortformer:
        raise ValueError(
            "fold_ln: True is not valid with shortformer positions; they are added after ln1, "
            "so folding it would change the function"
        )
    if center_unembed and cfg.input_type == "vectors":
        raise ValueError("center_unembed: True is not valid for vectors; it would change the output")
    weights = {name: value.detach().clone() for name, value in state_dict.items()}
    if fold_ln:
        fold_layer_norms(weights, cfg)
    processed = ProcessWeights.process_weights(
        dict(weights),
        # ProcessWeights tells W_U from its transpose by d_vocab where d_vocab_out is meant.
        replace(cfg, d_vocab=cfg.d_vocab_out),
        fold_ln=False,
        center_writing_weights=center_writing_weights and cfg.normalization_type is not None,
        center_unembed=center_unembed,
        fold_value_biases=fold_value_biases,
        refactor_factored_attn_matrices=refactor_factored_attn_matrices,
    )
    if shortformer:
        # It centres W_pos as well, which no LayerNorm would undo: shortformer positions come after it.
        processed["pos_embed.W_pos"] = weights["pos_embed.W_pos"]
    return processed


def fold_layer_norms(weights: dict[str, Tensor], cfg: ModelConfig) -> None:
    """Fold the weights of each LayerNorm into what reads it, and centre that over what the LayerNorm centres.

    ProcessWeights guesses from the sizes which axis it has to fold over, takes the wrong one when d_mlp or d_vocab_out
    equals d_model, and wants a LayerNorm of every activation named solu.
    """
    readers = {"ln_final": ["unembed.{}_U"]}
    for block in (f"blocks.{layer}" for layer in range(cfg.n_layers)):
        readers[f"{block}.ln1"] = [f"{block}.attn.{{}}_{x}" for x in "QKV"]
        if not cfg.attn_only:
            readers[f"{block}.ln2"] = [f"{block}.mlp.{{}}_in"]
            if cfg.act_fn == "solu_ln":
                readers[f"{block}.mlp.ln"] = [f"{block}.mlp.{{}}_out"]
    for ln, names in readers.items():
        scale, shift = weights.pop(f"{ln}.w"), weights.pop(f"{ln}.b")
        for W, b in ((name.format("W"), name.format("b")) for name in names):
            weights[b] = weights[b] + shift @ weights[W]
            folded = scale[:, None] * weights[W]
            weights[W] = folded - folded.mean(-2, keepdim=True)
