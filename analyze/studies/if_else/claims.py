"""The claims of the study of if and else, and what is measured at every checkpoint."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from headway.analyze.network.axes import HEAD
from headway.analyze.studies.if_else import anomalies, subcircuits, token_circuits
from headway.analyze.studies.if_else.anomalies import to_else
from headway.analyze.studies.if_else.attributions import added_by_heads, by_place, most_first, share_from_if
from headway.analyze.studies.if_else.behaviour import LIKELIEST
from headway.analyze.studies.if_else.prompts import Prompts, at_end, ranks
from headway.analyze.studies.if_else.scores import attention_to_if
from headway.analyze.studies.if_else.subcircuits import Kept
from headway.analyze.studies.if_else.token_circuits import TokenCircuits
from headway.analyze.studies.result import Claim, Claims
from headway.analyze.tools.anomaly_scores import Separation
from headway.models.convert import Model

# Nats that the probability of `` else`` falls by without `` if``, for that to be its reason.
FALLS = 1.0
# Chance for any head of a network to have the two entries where it is said to have them.
BY_CHANCE = 0.01


def claims(model: Model, prompts: Prompts, untrained: Sequence[Separation]) -> Claims:
    """What the circuit would have to do, each statement with the number that decides it; on generated prompts.

    ``untrained`` is what networks that know nothing tell separation, the same at each step.
    """
    circuits, order = TokenCircuits.of(model, prompts), most_first(model, prompts)
    token, normal = prompts.else_token, ~prompts.anomalous
    logits = at_end(model, prompts.batch)
    likely, without = (each.log_softmax(-1)[:, token] for each in (logits, at_end(model, prompts.without_if)))
    found = token_circuits.places_of(circuits, prompts).values()
    # Percentiles of one head are uniform by chance; so many heads have so many chances.
    high = 1 - BY_CHANCE / len(order)
    places = by_place(to_else(model, prompts), prompts)
    few = subcircuits.few_of(order)
    back = subcircuits.shares_back(
        model,
        prompts,
        {
            "few": Kept(few),
            "if alone": Kept(order, subcircuits.IF_ALONE),
            "tokens alone": Kept(order, subcircuits.TOKENS_ALONE),
        },
    )
    attributions = anomalies.mahalanobis_separation(anomalies.of_attributions(model, prompts), prompts)
    return (
        Claim(
            "It expects else",
            f"share of normal prompts in which ' else' is among the {LIKELIEST} likeliest tokens",
            (ranks(logits, token)[normal] <= LIKELIEST).float().mean().item(),
            0.5,
        ),
        Claim(
            "Because of if",
            "nats by which its log probability falls with a comma in the place of ' if', mean of all prompts",
            (likely - without).mean().item(),
            FALLS,
        ),
        Claim(
            "A head's OV circuit promotes else from if",
            "OV of ' if' and ' else': the smaller percentile, of row and column, in the best head",
            max(each.ov.least for each in found),
            high,
        ),
        Claim(
            "What Python is known to promote is found",
            f"the same of the best control ({', '.join(token_circuits.controls(prompts.tokenizer))})",
            max(each.control for each in found),
            1 - BY_CHANCE / len(order) / len(token_circuits.CONTROLS),
        ),
        Claim(
            "A head's QK circuit looks from a closing bracket for if",
            "QK of ')' and ' if': the smaller percentile, of row and column, in the best head",
            max(each.qk.least for each in found),
            high,
        ),
        Claim(
            "One head does both",
            "the smallest of its four percentiles, in the best head",
            max(each.both for each in found),
            0.99,
        ),
        Claim(
            "Heads take it from if",
            "share of what they add to ' else' that comes from IF, normal prompts",
            share_from_if(places, normal),
            0.5,
        ),
        Claim(
            "After a closing bracket too",
            "the same share, anomalous prompts",
            share_from_if(places, prompts.anomalous),
            0.5,
        ),
        Claim(
            "A few heads suffice",
            "share of the logit of ' else' that the quarter of heads that adds most brings back, with the direct path",
            back["few"] if len(few) < len(order) else np.nan,
            0.9,
        ),
        Claim(
            "What they read at if suffices",
            "share that all heads bring back if of all values they read only that of IF",
            back["if alone"],
            0.9,
        ),
        Claim(
            "Tokens suffice to find it",
            "share that all heads bring back if positions are taken out of the scores from END; in one layer",
            # Later layers read what earlier heads know of positions.
            back["tokens alone"] if model.cfg.n_layers == 1 else np.nan,
            0.9,
        ),
        Claim(
            "No two heads have the same circuit",
            f"largest share of largest OV entries that two of the {token_circuits.HEADS} that add most have in common",
            token_circuits.most_alike(circuits, order[: token_circuits.HEADS]),
            0.5,
            below=True,
        ),
        Claim(
            "Attributions tell anomalous prompts from normal ones",
            "lower end of the interval of the area under the ROC curve, Mahalanobis distance",
            attributions.low,
            0.9,
        ),
        Claim(
            "And better than what knows nothing of it",
            "that end less the largest upper end of log p(' else'), where ' if' stands, of a run untrained networks",
            anomalies.above_controls(attributions, model, prompts, untrained),
            0.0,
        ),
    )


def measured(model: Model, prompts: Prompts) -> xr.Dataset:
    """Every measure at one step."""
    which, token = ~prompts.anomalous, prompts.else_token
    logits = at_end(model, prompts.batch)
    looks = attention_to_if(model, prompts)
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    found = token_circuits.places_of(TokenCircuits.of(model, prompts), prompts).values()
    ov, qk = np.array([(each.ov.least, each.qk.least) for each in found]).T.reshape(2, *shape)
    added = np.array(list(added_by_heads(model, prompts).values())).reshape(shape)
    return xr.Dataset(
        {
            "log_probability_of_else": ((), logits.log_softmax(-1)[which, token].mean().item()),
            "adds_to_else": (HEAD, added),
            "attention_to_if": (HEAD, looks[:, :, which].mean(-1).numpy()),
            "attention_to_if_anomalous": (HEAD, looks[:, :, prompts.anomalous].mean(-1).numpy()),
            "ov_percentile": (HEAD, ov),
            "qk_percentile": (HEAD, qk),
        }
    )
