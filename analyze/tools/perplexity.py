"""How well a network predicts text that it was not trained on, beside counting how often tokens occur."""

import numpy as np
from tqdm import tqdm

from headway.analyze.measures.loss import mean_loss
from headway.analyze.network.interventions import output_with
from headway.data.text import Text
from headway.models.convert import Model

# Windows that are predicted at once.
AT_ONCE = 32


def held_out_loss(model: Model, task: Text, progress: bool = False) -> float:
    """The loss on all text that is held out, on the same windows as the task's baselines.

    In nats a token; e to that power is the perplexity. Windows do not overlap, so that each token is predicted once,
    from those before it in its window. The windows that a run is scored on at each step are few, and those of one file
    are alike: their perplexity may be a third off.

    Example:
        >>> import torch
        >>> from headway.models.config import ModelConfig
        >>> from headway.models.hooked_transformer import HookedTransformer
        >>> task = Text(corpus="package:headway", n_tokens=300, length=7)
        >>> cfg = ModelConfig(n_layers=1, d_model=5, n_ctx=7, d_head=3, n_heads=2, d_vocab=300)
        >>> model = HookedTransformer(cfg)
        >>> _ = torch.nn.init.zeros_(model.unembed.W_U)  # every token alike
        >>> round(held_out_loss(model, task) - task.baselines()["chance"], 5)
        0.0
    """
    losses, sizes = [], []
    batches = task.held_out_batches(AT_ONCE)
    for batch in tqdm(batches, desc="text held out", unit=f"{AT_ONCE} windows", disable=None if progress else True):
        losses.append(mean_loss(output_with(model, batch, []), batch).item())
        sizes.append(len(batch.inputs))
    return float(np.average(losses, weights=sizes))
