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

# A network whose loss is above this share of that of knowing nothing is not asked where it has what it knows.
LEARNT = 0.5


def claims(model: Model, batch: Batch) -> Claims:
    """How the position is derived, each statement with the number that decides it in this network.

    What is lost is a share of what the network knows: (loss - clean) / (knowing nothing - clean); 1 is all of it. It is
    NaN where the network knows less than half of what there is to know. So is what a network does not have (an MLP, a
    second layer); a claim without a number does not hold.
    """
    last = model.cfg.n_layers - 1
    way = way_from_chance(previous_token_score(model, batch), "previous_token")
    best = int(way.isel(layer=-1).values.argmax())
    nothing, clean = task_of(batch).baselines()["bos_known"], loss(model, batch).loss.item()
    # Of the loss of knowing nothing, and not of that with all replaced: this is no necessity of heads.
    known = nothing - clean if clean < LEARNT * nothing else np.nan
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
        """The share of what the network knows that is lost when an activation is replaced; NaN if it knows little."""
        if point not in model.hook_dict or (model.cfg.attn_only and "mlp" in point) or model.cfg.n_layers < 2:
            return np.nan
        return (ablated_loss(model, batch, point, kind).loss.item() - clean) / known

    blind = with_another_first(batch)
    bosless = mean_loss(forward_pass(model, blind).output, blind).item()
    said = mean_where(attribute_outputs(model, batch, over_mean=True), batch.mask)
    mlp = f"{last}_mlp_out"
    return (
        Claim("It says the token before", "accuracy", accuracy(model, batch).accuracy.item(), 0.9),
        Claim(
            f"A head of the last layer (L{last}) looks at the token before",
            f"previous_token of L{last}H{best}, from chance (0) to nothing else (1)",
            way.isel(layer=-1).max().item(),
            0.5,
        ),
        Claim(
            f"The heads of L{last} look at the current token and the one before, and hardly at others",
            f"attention to these two, best head of L{last}",
            _current_and_before(model, batch),
            0.8,
        ),
        Claim(
            f"The MLP of L{last} says the token, not attention itself",
            "its share of the right token's logit over the mean of all",
            (said.sel(component=mlp) / said.sum()).item() if mlp in said.component.values and known > 0 else np.nan,
            0.5,
        ),
        Claim(
            "The last layer looks by position, whatever the tokens are",
            f"what is lost with L{last}'s mean pattern",
            lost(f"blocks.{last}.attn.hook_pattern", "position_mean"),
            0.1,
            below=True,
        ),
        Claim(
            "Layer 0 looks at all tokens alike",
            "least attention_entropy of its heads; 1 is uniform",
            attention_entropy(model, batch).attention_entropy.isel(layer=0).min().item(),
            0.9,
        ),
        Claim(
            "So the share of position 0 says which position it is",
            "R² of its logarithm with the logarithm of the position, best head of L0; there must be a BOS",
            float(np.nanmax(fits)) if np.isfinite(fits).any() and task_of(batch).bos else np.nan,
            0.9,
        ),
        Claim(
            "What layer 0 leaves behind tells the position",
            "R² of a linear regression on other sequences",
            read if model.cfg.n_layers > 1 else np.nan,
            0.9,
        ),
        Claim(
            "Layer 0's attention carries the position",
            "what is lost without the position in it",
            lost("blocks.0.hook_attn_out", "without_position"),
            0.5,
        ),
        Claim(
            "Layer 0's attention is needed for nothing else",
            "what is lost with the position alone in it",
            lost("blocks.0.hook_attn_out", "position_mean"),
            0.1,
            below=True,
        ),
        Claim(
            "Layer 0's MLP hands the position on",
            "what is lost without the position in it",
            lost("blocks.0.hook_mlp_out", "without_position"),
            0.5,
        ),
        Claim(
            "It needs BOS to know where it is",
            "what is lost with another token in its place",
            (bosless - clean) / known if task_of(batch).bos else np.nan,
            0.5,
        ),
    )


def _current_and_before(model: Model, batch: Batch) -> float:
    """Attention of the last layer to positions q - 1 and q, of the head that has most."""
    patterns = forward_pass(model, batch).patterns[-1]
    here, before = patterns.diagonal(dim1=-2, dim2=-1)[..., 1:], patterns.diagonal(-1, dim1=-2, dim2=-1)
    return einops.reduce(here + before, "batch head q -> head", "mean").max().item()


def _after_layer_0(model: Model, batch: Batch) -> Samples:
    """What layer 0 leaves behind at each position that counts, and the position."""
    activations = forward_pass(model, batch).activations["blocks.0.hook_resid_post"]
    return Samples(activations[batch.mask], position_target(batch)[batch.mask])
