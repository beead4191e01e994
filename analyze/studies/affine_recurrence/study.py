"""How does a network predict an affine recurrence? A test of the account of Bhargav & Gu (arXiv 2410.17438).

Their account: layer 0 adds a multiple of the previous vector to each vector. Layer 1 attends to the second vector, and
writes outside of the embedding, which the queries and keys of layer 2 read. Layer 2 attends to vectors similar to the
current one, and subtracts them. Weights are processed (LayerNorm folded, writing weights centred), which changes no
output.
"""

from headway.analyze.network.requirements import check_head
from headway.analyze.studies.affine_recurrence.attention import attention_section, attribution_section
from headway.analyze.studies.affine_recurrence.causes import ablation_section, surgery_section
from headway.analyze.studies.affine_recurrence.claims import claims, reads_similar
from headway.analyze.studies.affine_recurrence.equations import equations_section
from headway.analyze.studies.affine_recurrence.errors import coefficients_section, errors_section, predictions_section
from headway.analyze.studies.affine_recurrence.options import Options
from headway.analyze.studies.affine_recurrence.probes import outside_section, probes_section
from headway.analyze.studies.affine_recurrence.sequences import sequences_of, task_of
from headway.analyze.studies.affine_recurrence.training import training_section
from headway.analyze.studies.affine_recurrence.weights import (
    circuits_section,
    composition_section,
    eigenvalues_section,
    geometry_section,
)
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.runner import Findings
from headway.analyze.studies.study import check_at_least
from headway.models.config import Head


def study(network: LoadedModel, options: Options) -> Findings:
    """Study a network that predicts affine recurrences.

    Raises:
        ValueError: a head that does not exist, a length too short for a determined answer, a coefficient whose
            sequences grow too large, too few sequences for a probe.
    """
    model, task, count, c = network.folded, task_of(network), options.sequences, options.c
    heads = [check_head(model, Head.named(name, "heads"), "heads") for name in dict.fromkeys(options.heads)]
    last, width = model.cfg.n_layers - 1, model.cfg.d_model
    heads = heads or [Head(last, head) for head in range(model.cfg.n_heads)]
    length = min(options.length, task.length_max)
    check_at_least("length", length, task.first_determined + 2, "for an answer to be determined")
    why = f"more samples than the {width} features of a probe"
    check_at_least("probe_sequences", options.probe_sequences, width + 2, why)
    try:
        of_one_c = sequences_of(network, count, length, c=c)
    except ValueError:
        raise ValueError(f"c: {c:g} is not valid; sequences of {length} vectors grow too large") from None
    longest, batch = (sequences_of(network, count, each) for each in (task.length_max, length))
    # How an imported run was trained is not known.
    trained = network.run is not None and network.run.imported is None
    sections = (
        *([training_section(network)] if trained else []),
        predictions_section(model, of_one_c, c),
        errors_section(network, count),
        attention_section(model, of_one_c, batch, c),
        attribution_section(model, batch),
        ablation_section(model, batch),
        circuits_section(model, batch),
        geometry_section(model, batch),
        equations_section(model, batch, reads_similar(model, batch)),
        eigenvalues_section(model, batch),
        surgery_section(model, batch, heads),
        composition_section(model, batch),
        probes_section(network, length, options.probe_sequences),
        outside_section(network, length, options.probe_sequences),
        coefficients_section(network, count, length),
    )
    return Findings(
        sections,
        claims=lambda each: claims(each.folded, longest),
        formed=f"The claims at each checkpoint up to this one, on sequences of {task.length_max} vectors.",
    )
