"""Whether prompts that end in ``)`` can be told from others: by attributions, by activations, by what is said."""

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
SAID = "log probability of ' else'"
AT_IF = "where ' if' stands"
UNTRAINED = [f"attributions, untrained network {number}" for number in range(1, 6)]
NONE = Separation(*[float("nan")] * 5)
Features = Float[Tensor, "prompt feature"]


class Halves(NamedTuple):
    """Prompts to fit to, and prompts to try: no twin, and no neighbour in a text, of the one is in the other."""

    fit: Bool[Tensor, "prompt"]
    tried: Bool[Tensor, "prompt"]


def to_else(model: Model, prompts: Prompts) -> xr.DataArray:
    """What each head adds to the logit of `` else`` over the mean logit at END, from where: [head, prompt, source]."""
    ends = torch.full((len(prompts.batch.inputs),), prompts.end)
    return attribute_sources(model, prompts.batch, ends, over_mean=True).rename(batch="prompt")


def features(model: Model, prompts: Prompts) -> dict[str, Features]:
    """What a prompt may be judged by: a vector for each."""
    shown = forward_pass(model, prompts.batch)
    layers = range(model.cfg.n_layers)
    scores = torch.stack([shown.activations[f"blocks.{layer}.attn.hook_attn_scores"] for layer in layers])
    over_mean = scores[:, :, :, prompts.end] - scores[:, :, :, prompts.end].mean(-1, keepdim=True)
    last = prompts.batch.inputs[:, prompts.end]
    return {
        ATTRIBUTIONS: of_attributions(model, prompts),
        "attention scores (QK)": einops.rearrange(over_mean, "layer prompt head key -> prompt (layer head key)"),
        "residual stream": shown.activations[f"blocks.{layers[-1]}.hook_resid_post"][:, prompts.end],
        "all logits": at_end(model, prompts.batch),
        "embedding of the last token": weight(model, "W_E")[last],
    } | controls(model, prompts)


def controls(model: Model, prompts: Prompts) -> dict[str, Features]:
    """What tells prompts apart without any account of what the network has learned to do.

    How likely it holds `` else``, and where `` if`` stands, which is further back where a bracket has to be closed.
    """
    at_if = F.one_hot(prompts.batch.info["if_position"], prompts.end + 1).float()
    return {SAID: of_what_is_said(model, prompts), AT_IF: at_if}


def untrained(model: Model, prompts: Prompts) -> dict[str, Separation]:
    """What the attributions of networks tell apart such as training begins with; none for a language model."""
    if not isinstance(model, HookedTransformer):
        return {}
    fresh = {name: HookedTransformer(model.cfg, seed=seed).eval() for seed, name in enumerate(UNTRAINED)}
    return {name: mahalanobis_separation(of_attributions(each, prompts), prompts) for name, each in fresh.items()}


def of_attributions(model: Model, prompts: Prompts) -> Features:
    """A prompt's attributions to `` else``, every head and source one after another."""
    values = torch.from_numpy(to_else(model, prompts).values)
    return einops.rearrange(values, "head prompt source -> prompt (head source)")


def of_what_is_said(model: Model, prompts: Prompts) -> Features:
    """How likely the network holds `` else``, alone."""
    return at_end(model, prompts.batch).log_softmax(-1)[:, [prompts.else_token]]


def mahalanobis_separation(x: Features, prompts: Prompts) -> Separation:
    """By how far they are from normal prompts, half of which say what normal is.

    NaN where those are too few, or too much alike, to say how normal ones vary.
    """
    fit, tried = _split(prompts)
    try:
        distances = mahalanobis(x[fit], x[tried])
    except ValueError:
        return NONE
    return separation(distances, prompts.anomalous[tried])


def above_controls(found: Separation, model: Model, prompts: Prompts, untrained: Iterable[Separation]) -> float:
    """By how much the interval of a judgement lies above those of all controls, each in its better direction."""
    others = [*(mahalanobis_separation(x, prompts) for x in controls(model, prompts).values()), *untrained]
    ends = [max(each.high, 1 - each.low) for each in others if each is not NONE]
    return found.low - max(ends, default=float("nan"))


def probe_separation(x: Features, prompts: Prompts) -> Separation:
    """By a classifier that was shown both kinds, on the other half of them."""
    halves, anomalous = _halves(prompts), prompts.anomalous
    return separation(logistic_probe(x[halves.fit], anomalous[halves.fit], x[halves.tried]), anomalous[halves.tried])


def _split(prompts: Prompts) -> Halves:
    """For what is fitted to normal prompts alone."""
    fit, tried = _halves(prompts)
    return Halves(fit & ~prompts.anomalous, tried)


def _halves(prompts: Prompts) -> Halves:
    """The prompts of every other text, those with anomalous ones first; of the grammar, every other pair."""
    text = prompts.batch.info["text"].unique(return_inverse=True)[1]
    with_anomalous = torch.zeros(int(text.max()) + 1, dtype=torch.bool)
    with_anomalous[text[prompts.anomalous]] = True
    place = (~with_anomalous).byte().argsort(stable=True).argsort()[text]
    return Halves(place % 2 == 0, place % 2 == 1)


def _enough(prompts: Prompts) -> bool:
    """One of each kind to fit to and one to try, and two normal ones to say how they vary."""
    if not len(prompts.anomalous):
        return False
    kinds = (prompts.anomalous, ~prompts.anomalous)
    least = min(int((half & kind).sum()) for half in _halves(prompts) for kind in kinds)
    return least >= 1 and int(_split(prompts).fit.sum()) >= 2


def _sizes(prompts: Prompts, which: Bool[Tensor, "prompt"]) -> tuple[int, int]:
    """How many normal and anomalous ones."""
    return int((which & ~prompts.anomalous).sum()), int((which & prompts.anomalous).sum())


def section(model: Model, prompts: Prompts) -> Section:
    """The area under the ROC curve of everything that a prompt may be judged by."""
    rows: dict[str, Separation] = {}
    sizes: list[tuple[int, int]] = []
    for origin, some in {"generated": prompts.generated, "real": prompts.real}.items():
        if not _enough(some):
            continue
        every = features(model, some)
        judged = {name: mahalanobis_separation(x, some) for name, x in every.items()} | untrained(model, some)
        rows |= {f"{origin}: {name}": each for name, each in judged.items()}
        sizes += [_sizes(some, _split(some).tried)] * len(judged)
        for name in (ATTRIBUTIONS, "residual stream"):
            rows[f"{origin}: probe of the {name.partition(' (')[0]}"] = probe_separation(every[name], some)
            sizes.append(_sizes(some, _halves(some).tried))
    columns = {name: [getattr(each, name) for each in rows.values()] for name in Separation._fields}
    return Section(
        "Normal and anomalous prompts",
        "Anomalous prompts end in ')'. Half of the prompts say what is normal, and the others are judged by their "
        "Mahalanobis distance from that; no anomalous one is seen before. The probe, a logistic regression, has seen "
        "both kinds and is the ceiling. The last token is what defines the kinds, so that whatever holds it can tell "
        "them apart without any mechanism: its embedding alone stands beside the others. So do where ' if' stands, "
        "which is further back before a bracket, and untrained networks. No real text has prompts in both halves; "
        "those of one text are alike, so that intervals, which take prompts for independent, are too narrow."
        + ("" if _enough(prompts.real) else " Of real texts there are too few of both kinds."),
        (
            Figure(
                "Area under the ROC curve",
                table(
                    "judged by",
                    rows,
                    normal=[normal for normal, _ in sizes],
                    anomalous=[anomalous for _, anomalous in sizes],
                    **columns,
                ),
                "table",
                "The probability that an anomalous prompt is judged more anomalous than a normal one; normal and "
                "anomalous are how many were judged. low to high is 95 % of a bootstrap over prompts, null_low to "
                "null_high 95 % with shuffled labels. –: normal ones are too few, or too much "
                "alike, to say how they vary.",
            ),
        ),
    )
