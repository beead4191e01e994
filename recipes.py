"""Named recipes of runs, as data only."""

from headway.checkpoints.recipe import Recipe
from headway.data.affine_recurrence import AffineRecurrence
from headway.data.indirect_object import IndirectObject
from headway.data.previous_token import PreviousToken
from headway.data.repeated_synonyms import RepeatedSynonyms
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.text import Text
from headway.models.config import ModelConfig
from headway.models.optim import OptimConfig

RECIPES = {
    # Two attention-only layers learn induction in about 500 steps; one layer cannot (--model.n_layers 1).
    "induction": Recipe(
        task=RepeatedTokens(),
        model=ModelConfig(n_layers=2, d_model=64, n_ctx=48, d_head=16, n_heads=4, d_vocab=65, attn_only=True),
        optim=OptimConfig(lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=100, max_grad_norm=1.0),
        steps=1500,
        batch_size=64,
    ),
    # Induction after a synonym (fuzzy induction), the comparison for networks trained on exact repeats.
    "fuzzy-induction": Recipe(
        task=RepeatedSynonyms(),
        model=ModelConfig(n_layers=2, d_model=128, n_ctx=48, d_head=16, n_heads=8, d_vocab=201, attn_only=True),
        optim=OptimConfig(lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=100, max_grad_norm=1.0),
        steps=1500,
        batch_size=64,
    ),
    # Three layers predict the right name after about 1,000 steps; one layer cannot (--model.n_layers 1).
    "indirect-object": Recipe(
        task=IndirectObject(),
        model=ModelConfig(n_layers=3, d_model=64, n_ctx=23, d_head=16, n_heads=4, d_vocab=223),
        optim=OptimConfig(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=100, max_grad_norm=1.0),
        steps=2000,
        batch_size=64,
    ),
    # Without position embeddings a causal network must infer positions (TransformerLens's No Position Experiment).
    "previous-token": Recipe(
        task=PreviousToken(),
        model=ModelConfig(
            n_layers=2,
            d_model=64,
            n_ctx=50,
            d_head=64,
            n_heads=1,
            d_vocab=300,
            d_mlp=256,
            act_fn="relu",
            positional_embedding_type="none",
            initializer_range=0.1,
        ),
        optim=OptimConfig(lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, warmup_steps=100, max_grad_norm=1.0),
        steps=4000,
        batch_size=256,
    ),
    # Source code. With one layer each head is a table of skip trigrams; with two layers induction can form.
    "text": Recipe(
        task=Text(),
        model=ModelConfig(n_layers=1, d_model=256, n_ctx=128, d_head=32, n_heads=8, d_vocab=4096, attn_only=True),
        optim=OptimConfig(
            lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=100, decay="cosine", max_grad_norm=1.0
        ),
        steps=2000,
        batch_size=32,
        eval_batch_size=32,
    ),
    # Bhargav & Gu, arXiv 2410.17438, who train for 100,000 steps.
    "affine-recurrence": Recipe(
        task=AffineRecurrence(),
        model=ModelConfig(
            n_layers=3,
            d_model=128,
            n_ctx=32,
            d_head=64,
            n_heads=8,
            d_vocab=40,
            d_mlp=3072,
            act_fn="gelu_new",
            initializer_range=0.04,
            input_type="vectors",
        ),
        optim=OptimConfig(lr=1e-4, weight_decay=0.01, max_grad_norm=None),
        steps=10_000,
        batch_size=16,
    ),
}
