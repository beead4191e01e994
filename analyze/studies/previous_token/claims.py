"""The claims of the study of the previous token."""

import einops
import numpy as np
import torch

from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.attention import attention_entropy
from headway.analyze.measures.attention import previous_token as previous_token_score
from headway.analyze.measures.attribution import attribute_outputs
from headway.analyze.measures.loss import accuracy, loss, mean_loss
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.interventions import Kind
from headway.analyze.studies.heads import mean_where, way_from_chance
from headway.analyze.studies.previous_token.sequences import after_first, position_target, task_of, with_another_first
from headway.analyze.studies.result import Claim, Claims
from headway.analyze.tools.probe import Samples, linear_probe
from headway.data.task import Batch
from headway.models.convert import Model

# If the loss is above this share of chance, shares of what the network knows are not measured.
MOST_LOSS = 0.5


def claims(model: Model, batch: Batch) -> Claims:
    """Return the claims on how the position is derived, with the numbers that decide them for a network.

    "Share lost" is (loss - clean) / (loss at chance - clean), where chance is the baseline ``bos_known`` of the task.
    It is NaN if the clean loss is above half of chance. A number is also NaN if the network has no MLP or no second
    layer, or if a premise of its claim fails.
    """
    last = model.cfg.n_layers - 1
    way = way_from_chance(previous_token_score(model, batch), "previous_token")
    best = int(way.isel(layer=-1).values.argmax())
    chance, clean = task_of(batch).baselines()["bos_known"], loss(model, batch).loss.item()
    # Relative to the baseline of the task, not to the loss with all heads replaced: no necessity of heads.
    known = chance - clean if clean < MOST_LOSS * chance else np.nan
    log_share = forward_pass(model, batch).patterns[0, :, :, 1:, 0].log()
    where = torch.arange(2.0, 1 + batch.inputs.shape[1]).log().expand_as(log_share[:, 0])
    fits = [
        torch.corrcoef(torch.stack([where.flatten(), log_share[:, head].flatten()]))[0, 1].item() ** 2
        for head in range(log_share.shape[1])
    ]
    half = len(batch.inputs) // 2
    ends = (batch.first(half), after_first(batch, half))
    read = linear_probe(*(_after_layer_0(model, each) for each in ends)).r_squared

    def lost(point: str, kind: Kind) -> float:
        """Return the share lost when an activation is replaced; NaN if it does not exist."""
        if point not in model.hook_dict or (model.cfg.attn_only and "mlp" in point) or model.cfg.n_layers < 2:
            return np.nan
        return (ablated_loss(model, batch, point, kind).loss.item() - clean) / known

    changed = with_another_first(batch)
    without_bos = mean_loss(forward_pass(model, changed).output, changed).item()
    added = mean_where(attribute_outputs(model, batch, over_mean=True), batch.mask)
    mlp = f"{last}_mlp_out"
    attends = Claim(
        f"The attention of L{last} is needed",
        f"share lost with the mean output of the attention of L{last}",
        lost(f"blocks.{last}.hook_attn_out", "mean"),
        0.5,
    )
    determines = Claim(
        "The output of layer 0 determines the position",
        "R² of a linear probe of the position on held-out sequences",
        read if model.cfg.n_layers > 1 else np.nan,
        0.9,
    )
    carries = Claim(
        "The attention of layer 0 carries the position",
        "share lost without the position in its output",
        lost("blocks.0.hook_attn_out", "without_position"),
        0.5,
    )
    return (
        Claim("The network predicts the previous token", "accuracy", accuracy(model, batch).accuracy.item(), 0.9),
        Claim(
            f"The last layer (L{last}) has a previous-token head",
            f"previous_token of L{last}H{best}, from chance (0) to all attention (1)",
            way.isel(layer=-1).max().item(),
            0.5,
        ),
        Claim(
            f"A head of L{last} attends to the current and the previous token only",
            f"sum of attention to these two, best head of L{last}",
            _current_and_before(model, batch),
            0.8,
        ),
        Claim(
            f"The MLP of L{last} writes the right logit, not attention itself",
            "direct attribution: its share of the right logit minus the mean logit",
            (added.sel(component=mlp) / added.sum()).item() if mlp in added.component.values and known > 0 else np.nan,
            0.5,
        ),
        Claim(
            "The last layer attends by position, independent of tokens",
            f"share lost with the mean attention pattern of L{last}",
            lost(f"blocks.{last}.attn.hook_pattern", "position_mean"),
            0.1,
            below=True,
        ).given(attends),
        Claim(
            "The attention of layer 0 is uniform",
            "smallest attention_entropy of its heads; 1 is uniform",
            attention_entropy(model, batch).attention_entropy.isel(layer=0).min().item(),
            0.9,
        ),
        Claim(
            "Attention to BOS in layer 0 determines the position",
            "R² of its logarithm with the logarithm of the position, best head of L0",
            float(np.nanmax(fits)) if np.isfinite(fits).any() and task_of(batch).bos else np.nan,
            0.9,
        ),
        determines,
        carries,
        Claim(
            "The attention of layer 0 carries nothing else that is needed",
            "share lost with only the position in its output",
            lost("blocks.0.hook_attn_out", "position_mean"),
            0.1,
            below=True,
        ).given(carries),
        Claim(
            "The MLP of layer 0 passes the position on",
            "share lost without the position in its output",
            lost("blocks.0.hook_mlp_out", "without_position"),
            0.5,
        ).given(carries),
        Claim(
            "The position is derived from BOS",
            "share lost with another token in place of BOS",
            (without_bos - clean) / known if task_of(batch).bos else np.nan,
            0.5,
        ).given(determines),
    )


def _current_and_before(model: Model, batch: Batch) -> float:
    """Return the attention of the last layer to positions q - 1 and q together, of the best head."""
    patterns = forward_pass(model, batch).patterns[-1]
    here, before = patterns.diagonal(dim1=-2, dim2=-1)[..., 1:], patterns.diagonal(-1, dim1=-2, dim2=-1)
    return einops.reduce(here + before, "batch head q -> head", "mean").max().item()


def _after_layer_0(model: Model, batch: Batch) -> Samples:
    """Return the output of layer 0 at each unmasked position, and the position."""
    activations = forward_pass(model, batch).activations["blocks.0.hook_resid_post"]
    return Samples(activations[batch.mask], position_target(batch)[batch.mask])
