"""Why does a head attend from the end of a sentence to a name? After McDougall's notebook on fixed keys and queries.

"Mary and John went … John gave a drink to": a name mover attends from the last word (END) to the name that occurs once
(IO) and raises its logit; a negative name mover attends there too and lowers it. With the keys fixed, the attention
score is affine in the residual vector of the query; with the queries fixed, in that of the key. So other vectors can
replace them: the unembedding of IO or the output of a name mover for the query, the embedding of a token or its
effective embedding (after layer 0) for the key.
"""

from dataclasses import replace

from headway.analyze.network.requirements import check_head
from headway.analyze.studies.found_circuit import found_circuit_section
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.name_movers.behaviour import behaviour_section, finding_section
from headway.analyze.studies.name_movers.claims import claims, measured
from headway.analyze.studies.name_movers.components import components_section
from headway.analyze.studies.name_movers.fixed import (
    keys_fixed_section,
    queries_fixed_section,
    two_heads_section,
)
from headway.analyze.studies.name_movers.options import Options
from headway.analyze.studies.name_movers.paths import paths_section
from headway.analyze.studies.name_movers.sentences import Sentences, choose
from headway.analyze.studies.runner import Findings
from headway.data.indirect_object import IndirectObject, in_tokens
from headway.models.config import Head

# Number of sentences whose scores are split by component.
SPLIT = 64


def study(network: LoadedModel, options: Options) -> Findings:
    """Study the heads that attend from the end of a sentence to its names.

    Raises:
        ValueError: a head that does not exist or that is given twice, a tokenizer that splits a name, a context shorter
            than the sentences.
    """
    model, task = network.folded, network.task
    if task is not None and options.names is not None:
        raise ValueError(
            f"names: {', '.join(options.names)} is not valid for a run; the task of a run has its own names"
        )
    head, beside = (
        None if name is None else check_head(model, Head.named(name, option), option)
        for option, name in (("head", options.head), ("beside", options.beside))
    )
    task = in_tokens(network.tokenizer, names=options.names) if task is None else task
    assert isinstance(task, IndirectObject)
    if model.cfg.n_ctx < task.n_ctx:
        raise ValueError(
            f"run: {network.name} has a context of {model.cfg.n_ctx} tokens; the sentences have {task.n_ctx}"
        )
    sentences = Sentences.of(task, network.eval_seed, options.sequences)
    chosen = choose(model, sentences, head, options.to)
    if beside == chosen.head:
        raise ValueError(f"beside: {beside} is not valid; it must be another head than the one that is explained")
    sections = (
        behaviour_section(network, sentences),
        finding_section(model, sentences, chosen),
        keys_fixed_section(model, sentences, chosen),
        queries_fixed_section(model, sentences, chosen),
        *([] if beside is None else [two_heads_section(model, sentences, chosen, replace(chosen, head=beside))]),
        components_section(model, sentences.first(SPLIT), chosen),
        paths_section(model, sentences, chosen),
        found_circuit_section(network, tuple(dict.fromkeys((*chosen.movers, chosen.head)))),
    )
    return Findings(
        sections,
        claims=lambda each: claims(each.folded, sentences, chosen),
        measured=lambda each: measured(each.folded, sentences),
        formed="The claims and the measures at each checkpoint up to this one, with the heads chosen at this one.",
    )
