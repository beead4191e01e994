"""The claims of the study of if and else, and what is measured at every checkpoint."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from headway.analyze.network.axes import HEAD
from headway.analyze.studies.if_else import anomalies, subcircuits, token_circuits
from headway.analyze.studies.if_else.anomalies import else_attributions
from headway.analyze.studies.if_else.attributions import (
    added_by_heads,
    by_source_part,
    heads_by_contribution,
    share_from_if,
)
from headway.analyze.studies.if_else.behaviour import TOP
from headway.analyze.studies.if_else.prompts import Prompts, at_end, ranks
from headway.analyze.studies.if_else.scores import attention_to_if
from headway.analyze.studies.if_else.subcircuits import Kept
from headway.analyze.studies.if_else.token_circuits import TokenCircuits
from headway.analyze.studies.result import Claim, Claims
from headway.analyze.tools.anomaly_scores import Separation
from headway.models.convert import Model

# The smallest decrease of the log probability of `` else`` without `` if``, in nats.
FALLS = 1.0
# The probability that any head of an untrained network has the percentile.
BY_CHANCE = 0.01


def claims(model: Model, prompts: Prompts, untrained: Sequence[Separation]) -> Claims:
    """Return the claims on the circuit, with the numbers that decide them for a network, on generated prompts.

    ``untrained`` is the separation by untrained networks, the same at each checkpoint. A number is NaN if the heads
    raise the logit by less than LEAST, or if a premise of its claim fails.
    """
    circuits, order = TokenCircuits.of(model, prompts), heads_by_contribution(model, prompts)
    token, normal = prompts.else_token, ~prompts.anomalous
    logits = at_end(model, prompts.batch)
    likely, without = (each.log_softmax(-1)[:, token] for each in (logits, at_end(model, prompts.without_if)))
    found = token_circuits.ranked_entries(circuits, prompts).values()
    # Percentiles of a random head are uniform; the bound is corrected for the number of heads.
    high = 1 - BY_CHANCE / len(order)
    places = by_source_part(else_attributions(model, prompts), prompts)
    few = subcircuits.top_quarter(order)
    back = subcircuits.logit_shares(
        model,
        prompts,
        {
            "few": Kept(few),
            "if alone": Kept(order, subcircuits.IF_ALONE),
            "tokens alone": Kept(order, subcircuits.TOKENS_ALONE),
        },
    )
    attributions = anomalies.mahalanobis_separation(
        anomalies.attribution_features(model, prompts)[anomalies.ATTRIBUTIONS], prompts
    )
    predicts = Claim(
        "The network predicts else",
        f"share of normal prompts with ' else' among the top {TOP} tokens",
        (ranks(logits, token)[normal] <= TOP).float().mean().item(),
        0.5,
    )
    maps = Claim(
        "The OV circuit of a head maps if to else",
        "entry [' if', ' else'] of OV: the smaller of its percentiles in row and column, best head",
        max(each.ov.least for each in found),
        high,
    )
    from_if = Claim(
        "The contribution of heads comes from if",
        "direct attribution: share from IF of the contribution of heads to ' else', normal prompts",
        share_from_if(places, normal),
        0.5,
    )
    separate = Claim(
        "Attributions separate anomalous prompts from normal ones",
        "AUROC of the Mahalanobis distance, lower end of the interval",
        attributions.low,
        0.9,
    )
    return (
        predicts,
        Claim(
            "It predicts else because of if",
            "mean decrease of the log probability of ' else' with a comma in place of ' if', in nats",
            (likely - without).mean().item(),
            FALLS,
        ).given(predicts),
        maps,
        Claim(
            "The OV circuit of a head has a known pair of Python",
            f"the same for the best control ({', '.join(token_circuits.controls(prompts.tokenizer))})",
            max(each.control for each in found),
            1 - BY_CHANCE / len(order) / len(token_circuits.CONTROLS),
        ),
        Claim(
            "The QK circuit of a head attends from a closing bracket to if",
            "entry [')', ' if'] of QK: the smaller of its percentiles in row and column, best head",
            max(each.qk.least for each in found),
            high,
        ),
        Claim(
            "One head has both circuits",
            "the smallest of these four percentiles, best head",
            max(each.both for each in found),
            0.99,
        ),
        from_if,
        Claim(
            "It also does after a closing bracket",
            "the same share, anomalous prompts",
            share_from_if(places, prompts.anomalous),
            0.5,
        ).given(from_if),
        Claim(
            "A few heads are sufficient",
            "share of the logit of ' else' with the top quarter of heads and the direct path alone",
            back["few"] if len(few) < len(order) else np.nan,
            0.9,
        ).given(predicts),
        Claim(
            "The value at if is sufficient",
            "share of the logit with all other values of all heads replaced by their mean",
            back["if alone"],
            0.9,
        ).given(predicts),
        Claim(
            "Tokens are sufficient to attend to it",
            "share of the logit with positions left out of the scores from END (one layer only)",
            # Later layers also read positions through earlier heads.
            back["tokens alone"] if model.cfg.n_layers == 1 else np.nan,
            0.9,
        ).given(predicts, from_if),
        Claim(
            "No two heads have the same circuit",
            f"largest overlap of the largest OV entries between two of the top {token_circuits.HEADS} heads",
            token_circuits.largest_overlap(circuits, order[: token_circuits.HEADS]),
            0.5,
            below=True,
        ).given(maps),
        separate,
        Claim(
            "They separate them better than controls",
            "that end minus the largest upper end of log p(' else'), position of ' if' and, for a run, untrained "
            "networks",
            anomalies.above_controls(attributions, model, prompts, untrained),
            0.0,
        ).given(separate),
    )


def measured(model: Model, prompts: Prompts) -> xr.Dataset:
    """Measures at one checkpoint."""
    which, token = ~prompts.anomalous, prompts.else_token
    logits = at_end(model, prompts.batch)
    attention = attention_to_if(model, prompts)
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    found = token_circuits.ranked_entries(TokenCircuits.of(model, prompts), prompts).values()
    ov, qk = np.array([(each.ov.least, each.qk.least) for each in found]).T.reshape(2, *shape)
    added = np.array(list(added_by_heads(model, prompts).values())).reshape(shape)
    return xr.Dataset(
        {
            "log_probability_of_else": ((), logits.log_softmax(-1)[which, token].mean().item()),
            "adds_to_else": (HEAD, added),
            "attention_to_if": (HEAD, attention[:, :, which].mean(-1).numpy()),
            "attention_to_if_anomalous": (HEAD, attention[:, :, prompts.anomalous].mean(-1).numpy()),
            "ov_percentile": (HEAD, ov),
            "qk_percentile": (HEAD, qk),
        }
    )
