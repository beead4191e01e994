"""Weight processing that preserves the function: fold LayerNorm, centre writing weights, fold value biases."""

from collections.abc import Mapping
from dataclasses import replace

import torch
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
    """Return a processed copy of a HookedTransformer's weights; ``fold_ln`` removes the weights of its LayerNorms.

    Raises:
        ValueError: an option would change the function: ln1 is folded when shortformer positions are added after it,
            or the unembedding of a network that predicts vectors is centred.
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
        _for_transformer_lens(cfg),
        fold_ln=False,
        center_writing_weights=center_writing_weights and cfg.normalization_type in ("LN", "LNPre"),
        center_unembed=center_unembed,
        fold_value_biases=fold_value_biases,
        refactor_factored_attn_matrices=refactor_factored_attn_matrices,
    )
    if shortformer:
        # ProcessWeights also centres W_pos, but shortformer positions are added after the LayerNorm.
        processed["pos_embed.W_pos"] = weights["pos_embed.W_pos"]
    return processed


def with_own_weights(weights: Mapping[str, Tensor], cfg: ModelConfig) -> tuple[dict[str, Tensor], ModelConfig]:
    """Return the weights and the configuration of a network that computes the same with biases, and without ties.

    Folding a LayerNorm gives a network biases, and the unembedding that reads it is no longer the embedding.
    """
    whole = replace(cfg, biases=True, tie_word_embeddings=False)
    found = dict(weights)
    if cfg.tie_word_embeddings:
        found["unembed.W_U"] = found["embed.W_E"].T
    for name, shape in whole.weight_shapes():
        if name.rpartition(".")[2].startswith("b_") and not cfg.biases:
            found.setdefault(name, found["embed.W_E"].new_zeros(shape))
    return found, whole


def _for_transformer_lens(cfg: ModelConfig) -> ModelConfig:
    """Return a configuration from which ProcessWeights finds the weights of this network.

    It recognises a transposed W_U by d_vocab, where it should use d_vocab_out, and it looks for a W_pos unless it knows
    that there is none.
    """
    positions = cfg.positional_embedding_type if cfg.has_W_pos else "none"
    return replace(cfg, d_vocab=cfg.d_vocab_out, positional_embedding_type=positions)


def fold_layer_norms(weights: dict[str, Tensor], cfg: ModelConfig) -> None:
    """Fold each LayerNorm into the weights that read it, and centre these over the axis that the LayerNorm centres.

    ProcessWeights guesses this axis from the sizes, takes the wrong one when d_mlp or d_vocab_out equals d_model, and
    expects a LayerNorm in the MLP for every activation named solu.
    """
    readers = {"ln_final": ["unembed.{}_U"]}
    for block in (f"blocks.{layer}" for layer in range(cfg.n_layers)):
        readers[f"{block}.ln1"] = [f"{block}.attn.{{}}_{x}" for x in "QKV"]
        if not cfg.attn_only:
            readers[f"{block}.ln2"] = [f"{block}.mlp.{{}}_in"]
            if cfg.act_fn == "solu_ln" and cfg.normalization_type == "LN":
                readers[f"{block}.mlp.ln"] = [f"{block}.mlp.{{}}_out"]
    for ln, names in readers.items():
        scale = weights.pop(f"{ln}.w")
        shift = weights.pop(f"{ln}.b", torch.zeros_like(scale))
        for W, b in ((name.format("W"), name.format("b")) for name in names):
            weights[b] = weights[b] + shift @ weights[W]
            folded = scale[:, None] * weights[W]
            weights[W] = folded - folded.mean(-2, keepdim=True) if cfg.normalization_type == "LN" else folded
