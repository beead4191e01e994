"""Loss of a network on all held-out text."""

import numpy as np
from tqdm import tqdm

from headway.analyze.measures.loss import mean_loss
from headway.analyze.network.interventions import output_with
from headway.data.text import Text
from headway.models.convert import Model

# Windows per forward pass.
AT_ONCE = 32


def held_out_loss(model: Model, task: Text, progress: bool = False) -> float:
    """Return the loss on all held-out text, over the same windows as the task's baselines.

    The unit is nats per token; the perplexity is its exponential. Windows do not overlap, so each token is predicted
    once, from the tokens before it in its window. The evaluation batch of a run has only a few windows, and windows of
    one file are alike, so the perplexity on that batch may be off by a third.

    Example:
        >>> import torch
        >>> from headway.models.config import ModelConfig
        >>> from headway.models.hooked_transformer import HookedTransformer
        >>> task = Text(corpus="package:email", n_tokens=300, length=7)
        >>> cfg = ModelConfig(n_layers=1, d_model=5, n_ctx=7, d_head=3, n_heads=2, d_vocab=300)
        >>> model = HookedTransformer(cfg)
        >>> _ = torch.nn.init.zeros_(model.unembed.W_U)  # all tokens are equally likely
        >>> round(held_out_loss(model, task) - task.baselines()["chance"], 5)
        0.0
    """
    losses, sizes = [], []
    batches = task.held_out_batches(AT_ONCE)
    for batch in tqdm(batches, desc="held-out text", unit=f"{AT_ONCE} windows", disable=None if progress else True):
        losses.append(mean_loss(output_with(model, batch, []), batch).item())
        sizes.append(len(batch.inputs))
    return float(np.average(losses, weights=sizes))
