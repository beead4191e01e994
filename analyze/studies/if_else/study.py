"""Why does a network predict `` else`` after ``a if b``? After the notebook on a one-layer language model.

A head attends from the end of the condition back to `` if`` (its QK circuit) and raises the logit of `` else`` (its OV
circuit). Both circuits are tables between tokens that the weights determine. Prompts show whether the network predicts
`` else`` for this reason, and for the same reason after a closing bracket.
"""

from headway.analyze.studies.found_circuit import searched_nodes_section
from headway.analyze.studies.if_else import anomalies, subcircuits, token_circuits
from headway.analyze.studies.if_else.attributions import added_by_heads, attributions_section
from headway.analyze.studies.if_else.behaviour import behaviour_section
from headway.analyze.studies.if_else.claims import claims, measured
from headway.analyze.studies.if_else.options import Options
from headway.analyze.studies.if_else.prompts import Prompts, texts_of
from headway.analyze.studies.if_else.scores import directions_section, positions_section
from headway.analyze.studies.if_else.token_circuits import TokenCircuits
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.runner import Findings
from headway.data.tokenizer import one_token

# Number of heads whose skip trigrams are shown.
TRIGRAM_HEADS = 3


def study(network: LoadedModel, options: Options) -> Findings:
    """Study the prediction of ``else`` in ``a if b else c``.

    Raises:
        ValueError: prompts longer than the context, a token that the tokenizer splits, a corpus that does not exist.
    """
    texts = texts_of(network, options.corpus)
    model, tokenizer, length = network.folded, network.tokenizer, options.length
    if length > model.cfg.n_ctx:
        raise ValueError(f"length: {length} is not valid; the context of {network.name} is {model.cfg.n_ctx} tokens")
    pairs = [(source, destination) for source, destination in options.pair]
    for string in (string for each in pairs for string in each):
        one_token(tokenizer, string)
    prompts = Prompts.of(texts, tokenizer, network.eval_seed, options.sequences, length)
    generated = prompts.generated
    added = added_by_heads(model, generated)
    order = sorted(added, key=lambda head: -added[head])
    shown = sorted(added, key=lambda head: -abs(added[head]))[: token_circuits.HEADS]
    circuits = TokenCircuits.of(model, generated)
    sections = (
        behaviour_section(network, prompts),
        token_circuits.layer_norm(model, prompts),
        token_circuits.ov_section(circuits, prompts, shown),
        token_circuits.pairs_section(circuits, prompts, pairs),
        token_circuits.qk_section(circuits, prompts, shown),
        positions_section(model, generated, shown),
        attributions_section(model, prompts, shown),
        subcircuits.section(model, generated, order),
        searched_nodes_section(model, generated.of_else(model), subcircuits.top_quarter(order)),
        token_circuits.distinct_section(circuits, shown),
        token_circuits.trigrams_section(circuits, prompts, order[:TRIGRAM_HEADS]),
        directions_section(model, generated, order),
        anomalies.section(model, prompts),
    )
    untrained = [each[anomalies.ATTRIBUTIONS] for each in anomalies.untrained(model, generated)]
    return Findings(
        sections,
        claims=lambda each: claims(each.folded, generated, untrained),
        measured=lambda each: measured(each.folded, generated),
        formed="The claims and the measures at each checkpoint up to this one.",
    )
