"""Detection of prompts that end in ``)``: from attributions, activations, and predictions."""

from collections.abc import Iterable
from typing import NamedTuple

import einops
import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from headway.analyze.measures.attribution import attribute_sources
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.weights import weight
from headway.analyze.studies.if_else.prompts import Prompts, at_end
from headway.analyze.studies.result import Figure, Section, table
from headway.analyze.tools.anomaly_scores import Separation, logistic_probe, mahalanobis, separation
from headway.models.convert import Model
from headway.models.hooked_transformer import HookedTransformer

ATTRIBUTIONS = "attributions (OV × attention)"
ELSE_PROBABILITY = "log probability of ' else'"
AT_IF = "position of ' if'"
# The last token defines the kinds of prompts, so what comes from it separates them without any mechanism.
EARLIER = "attributions without the last token"
N_UNTRAINED = 5
NONE = Separation(*[float("nan")] * 5)
Features = Float[Tensor, "prompt feature"]


class Halves(NamedTuple):
    """Masks of prompts to fit and to test on; twins, and prompts of one text, are in the same half."""

    fit: Bool[Tensor, "prompt"]
    tried: Bool[Tensor, "prompt"]


def else_attributions(model: Model, prompts: Prompts) -> xr.DataArray:
    """Return contributions to the logit of `` else`` minus the mean logit at END: [head, prompt, source]."""
    ends = torch.full((len(prompts.batch.inputs),), prompts.end)
    return attribute_sources(model, prompts.batch, ends, over_mean=True).rename(batch="prompt")


def features(model: Model, prompts: Prompts) -> dict[str, Features]:
    """Return all features: a vector for each prompt."""
    shown = forward_pass(model, prompts.batch)
    layers = range(model.cfg.n_layers)
    scores = torch.stack([shown.activations[f"blocks.{layer}.attn.hook_attn_scores"] for layer in layers])
    over_mean = scores[:, :, :, prompts.end] - scores[:, :, :, prompts.end].mean(-1, keepdim=True)
    last = prompts.batch.inputs[:, prompts.end]
    return {
        **attribution_features(model, prompts),
        "attention scores (QK)": einops.rearrange(over_mean, "layer prompt head key -> prompt (layer head key)"),
        "residual stream": shown.activations[f"blocks.{layers[-1]}.hook_resid_post"][:, prompts.end],
        "all logits": at_end(model, prompts.batch),
        "embedding of the last token": weight(model, "W_E")[last],
    } | controls(model, prompts)


def controls(model: Model, prompts: Prompts) -> dict[str, Features]:
    """Return features that need no mechanism of the network.

    The log probability of `` else``, and the position of `` if``, which is further back before a bracket.
    """
    at_if = F.one_hot(prompts.batch.info["if_position"], prompts.end + 1).float()
    return {ELSE_PROBABILITY: else_log_probability(model, prompts), AT_IF: at_if}


def untrained(model: Model, prompts: Prompts) -> list[dict[str, Separation]]:
    """Return the separations by attributions of each untrained network; none for a language model."""
    if not isinstance(model, HookedTransformer):
        return []
    fresh = [HookedTransformer(model.cfg, seed=seed).eval() for seed in range(N_UNTRAINED)]
    return [
        {name: mahalanobis_separation(x, prompts) for name, x in attribution_features(each, prompts).items()}
        for each in fresh
    ]


def attribution_features(model: Model, prompts: Prompts) -> dict[str, Features]:
    """Return the attributions to `` else`` of every head and source, and of every source before the last token."""
    values = torch.from_numpy(else_attributions(model, prompts).values)
    return {
        name: einops.rearrange(some, "head prompt source -> prompt (head source)")
        for name, some in {ATTRIBUTIONS: values, EARLIER: values[:, :, : prompts.end]}.items()
    }


def else_log_probability(model: Model, prompts: Prompts) -> Features:
    """Return the log probability of `` else`` as a feature."""
    return at_end(model, prompts.batch).log_softmax(-1)[:, [prompts.else_token]]


def mahalanobis_separation(x: Features, prompts: Prompts) -> Separation:
    """Return the separation by Mahalanobis distance from normal prompts; it is fitted on half of the prompts.

    NaN if normal prompts are too few, or too similar, to fit a covariance.
    """
    fit, tried = _split(prompts)
    try:
        distances = mahalanobis(x[fit], x[tried])
    except ValueError:
        return NONE
    return separation(distances, prompts.anomalous[tried])


def above_controls(found: Separation, model: Model, prompts: Prompts, untrained: Iterable[Separation]) -> float:
    """Return the lower end of an interval minus the largest upper end of all controls, in either direction."""
    others = [*(mahalanobis_separation(x, prompts) for x in controls(model, prompts).values()), *untrained]
    ends = [max(each.high, 1 - each.low) for each in others if each is not NONE]
    return found.low - max(ends, default=float("nan"))


def probe_separation(x: Features, prompts: Prompts) -> Separation:
    """Return the separation by a logistic regression that is fitted to both kinds, on the other half."""
    halves, anomalous = _halves(prompts), prompts.anomalous
    return separation(logistic_probe(x[halves.fit], anomalous[halves.fit], x[halves.tried]), anomalous[halves.tried])


def _split(prompts: Prompts) -> Halves:
    """Return halves to fit on normal prompts alone."""
    fit, tried = _halves(prompts)
    return Halves(fit & ~prompts.anomalous, tried)


def _halves(prompts: Prompts) -> Halves:
    """Split prompts by text, texts with anomalous prompts first; generated prompts by pair."""
    text = prompts.batch.info["text"].unique(return_inverse=True)[1]
    with_anomalous = torch.zeros(int(text.max()) + 1, dtype=torch.bool)
    with_anomalous[text[prompts.anomalous]] = True
    place = (~with_anomalous).byte().argsort(stable=True).argsort()[text]
    return Halves(place % 2 == 0, place % 2 == 1)


def _enough(prompts: Prompts) -> bool:
    """Return whether both halves have both kinds, and two normal prompts to fit a covariance."""
    if not len(prompts.anomalous):
        return False
    kinds = (prompts.anomalous, ~prompts.anomalous)
    least = min(int((half & kind).sum()) for half in _halves(prompts) for kind in kinds)
    return least >= 1 and int(_split(prompts).fit.sum()) >= 2


def _sizes(prompts: Prompts, which: Bool[Tensor, "prompt"]) -> tuple[int, int]:
    """Return the numbers of normal and of anomalous prompts."""
    return int((which & ~prompts.anomalous).sum()), int((which & prompts.anomalous).sum())


def section(model: Model, prompts: Prompts) -> Section:
    """Area under the ROC curve of all features."""
    rows: dict[str, Separation] = {}
    sizes: list[tuple[int, int]] = []
    for origin, some in {"generated": prompts.generated, "real": prompts.real}.items():
        if not _enough(some):
            continue
        every = features(model, some)
        judged = {name: mahalanobis_separation(x, some) for name, x in every.items()}
        for number, of_one in enumerate(untrained(model, some), 1):
            judged |= {f"{name}, untrained network {number}": each for name, each in of_one.items()}
        rows |= {f"{origin}: {name}": each for name, each in judged.items()}
        sizes += [_sizes(some, _split(some).tried)] * len(judged)
        for name in (ATTRIBUTIONS, "residual stream"):
            rows[f"{origin}: probe of the {name.partition(' (')[0]}"] = probe_separation(every[name], some)
            sizes.append(_sizes(some, _halves(some).tried))
    columns = {name: [getattr(each, name) for each in rows.values()] for name in Separation._fields}
    return Section(
        "Normal and anomalous prompts",
        "Anomalous prompts end in ')'. A Mahalanobis distance is fitted to the normal prompts of one half, and scores "
        "the prompts of the other half. The probe, a logistic regression that is fitted to both kinds, is the "
        "ceiling. The last token defines the kinds, so that features with the last token separate them without any "
        "mechanism; controls are its embedding, the position of ' if', which is further back before a bracket, and "
        "untrained networks. What comes from the tokens before the last one has rows of its own. Prompts of one text "
        "are similar and are in one half; intervals assume independent prompts and are "
        "too narrow." + ("" if _enough(prompts.real) else " There are too few real prompts of both kinds."),
        (
            Figure(
                "Area under the ROC curve",
                table(
                    "feature",
                    rows,
                    normal=[normal for normal, _ in sizes],
                    anomalous=[anomalous for _, anomalous in sizes],
                    **columns,
                ),
                "table",
                "auroc: the probability that an anomalous prompt has a larger score than a normal one. normal, "
                "anomalous: numbers of prompts that are scored. low to high: 95 % of a bootstrap over prompts; "
                "null_low to null_high: 95 % with shuffled labels. –: normal prompts are too few, or too similar.",
            ),
        ),
    )
