"""Predictions of the network: perplexity on text, and the probability of `` else``."""

import numpy as np

from headway.analyze.studies.if_else.prompts import Prompts, at_end, over_mean_logit, ranks
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section, table
from headway.analyze.tools.perplexity import held_out_loss
from headway.data.text import Text
from headway.models.convert import Model

# Number of prompts that are shown.
SHOWN = 6
# Rank up to which `` else`` counts as predicted.
TOP = 10


def behaviour_section(network: LoadedModel, prompts: Prompts) -> Section:
    """Perplexity on text, and the probability of `` else`` with and without `` if``."""
    model, batch = network.folded, prompts.batch
    logits = {"with if": at_end(model, batch), "without if": at_end(model, prompts.without_if)}
    token = prompts.else_token
    likely = {name: each.log_softmax(-1)[:, token] for name, each in logits.items()}
    places = ranks(logits["with if"], token)
    kinds = prompts.kinds
    best = logits["with if"].argmax(-1)
    few = [int(which.nonzero()[i]) for which in kinds.values() for i in range(min(2, int(which.sum())))][:SHOWN]
    figures = [
        Figure(
            "Probability of ' else'",
            table(
                "prompts",
                kinds,
                count=[int(which.sum()) for which in kinds.values()],
                probability=[likely["with if"][which].exp().mean().item() for which in kinds.values()],
                median_rank=[places[which].float().median().item() for which in kinds.values()],
                among_10=[(places[which] <= TOP).float().mean().item() for which in kinds.values()],
                logit=[over_mean_logit(logits["with if"], token)[which].mean().item() for which in kinds.values()],
                without_if=[likely["without if"][which].exp().mean().item() for which in kinds.values()],
                nats_lost=[(likely["with if"] - likely["without if"])[which].mean().item() for which in kinds.values()],
            ),
            "table",
            "logit: minus the mean logit. without if: the probability with a comma in place of ' if'. nats lost: the "
            "mean decrease of the log probability with the comma.",
        ),
        Figure(
            "Examples",
            table(
                "prompt",
                [repr(prompts.tokenizer.decode(batch.inputs[i, 1:], clean_up_tokenization_spaces=False)) for i in few],
                kind=[name for i in few for name, which in kinds.items() if which[i]],
                top_token=[prompts.label(int(best[i])) for i in few],
                probability_of_else=[likely["with if"][i].exp().item() for i in few],
                rank_of_else=[int(places[i]) for i in few],
            ),
            "table",
        ),
    ]
    if isinstance(network.task, Text):
        figures.insert(0, _perplexity(model, network.task))
    return Section(
        "Behaviour",
        "Prompts end before ' else' in a conditional expression: from real texts"
        + (", held out from training, " if isinstance(network.task, Text) else " ")
        + "and from a grammar, in pairs of a normal prompt and an anomalous one, which ends in ')'.",
        tuple(figures),
    )


def _perplexity(model: Model, task: Text) -> Figure:
    nats = {"this network": held_out_loss(model, task), **task.baselines()}
    return Figure(
        "Perplexity on held-out text",
        table("predictor", nats, perplexity=np.exp(list(nats.values())), loss=list(nats.values())),
        "table",
        f"Consecutive windows of {task.length} tokens. unigram, bigram: predictions from the frequencies of tokens, "
        "and of pairs of tokens, in the training text.",
    )
