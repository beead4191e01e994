"""How well the network predicts text, and how much it expects `` else``."""

import numpy as np

from headway.analyze.studies.if_else.prompts import Prompts, at_end, raised, ranks
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section, table
from headway.analyze.tools.perplexity import held_out_loss
from headway.data.text import Text
from headway.models.convert import Model

# So many prompts are shown.
SHOWN = 6
# `` else`` is expected if it is among so many.
LIKELIEST = 10


def behaviour_section(network: LoadedModel, prompts: Prompts) -> Section:
    """How well it predicts text, and how much it expects `` else``, with `` if`` and without."""
    model, batch = network.folded, prompts.batch
    said = {"as they are": at_end(model, batch), "without if": at_end(model, prompts.without_if)}
    token = prompts.else_token
    likely = {name: logits.log_softmax(-1)[:, token] for name, logits in said.items()}
    places = ranks(said["as they are"], token)
    kinds = prompts.kinds
    best = said["as they are"].argmax(-1)
    few = [int(which.nonzero()[i]) for which in kinds.values() for i in range(min(2, int(which.sum())))][:SHOWN]
    figures = [
        Figure(
            "How much it expects ' else'",
            table(
                "prompts",
                kinds,
                count=[int(which.sum()) for which in kinds.values()],
                probability=[likely["as they are"][which].exp().mean().item() for which in kinds.values()],
                median_rank=[places[which].float().median().item() for which in kinds.values()],
                among_10=[(places[which] <= LIKELIEST).float().mean().item() for which in kinds.values()],
                logit=[raised(said["as they are"], token)[which].mean().item() for which in kinds.values()],
                without_if=[likely["without if"][which].exp().mean().item() for which in kinds.values()],
                nats_lost=[
                    (likely["as they are"] - likely["without if"])[which].mean().item() for which in kinds.values()
                ],
            ),
            "table",
            "logit: over the mean logit. without if: the probability with a comma in the place of ' if'; nats lost: "
            "how much the log probability falls by it, mean.",
        ),
        Figure(
            "Some prompts",
            table(
                "prompt",
                [repr(prompts.tokenizer.decode(batch.inputs[i, 1:], clean_up_tokenization_spaces=False)) for i in few],
                kind=[name for i in few for name, which in kinds.items() if which[i]],
                likeliest=[prompts.label(int(best[i])) for i in few],
                probability_of_else=[likely["as they are"][i].exp().item() for i in few],
                rank_of_else=[int(places[i]) for i in few],
            ),
            "table",
        ),
    ]
    if isinstance(network.task, Text):
        figures.insert(0, _perplexity(model, network.task))
    return Section(
        "Behaviour",
        "Prompts are what stands before ' else' in a conditional expression: of real texts"
        + (", held out from training, " if isinstance(network.task, Text) else " ")
        + "and of a grammar, in pairs of which the second, the anomalous one, ends in ')'.",
        tuple(figures),
    )


def _perplexity(model: Model, task: Text) -> Figure:
    nats = {"this network": held_out_loss(model, task), **task.baselines()}
    return Figure(
        "Perplexity on all text held out",
        table("predictor", nats, perplexity=np.exp(list(nats.values())), loss=list(nats.values())),
        "table",
        f"Windows of {task.length} tokens, one after another. unigram, bigram: of how often tokens, and pairs of them, "
        "occur in what was trained on.",
    )
