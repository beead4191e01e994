"""Which heads form an induction circuit, and does it also work after a synonym? After ARENA's notebook on circuits.

A previous-token head writes into each position which token precedes it. The keys of an induction head in a later layer
read this (K-composition), its queries read the current token, so that it attends to what followed that token earlier,
and it copies what it attends to. The claims test whether this network does so, whether the circuit is necessary and
sufficient, and whether it also works after a synonym (fuzzy induction).
"""

from collections.abc import Sequence

from headway.analyze.studies.found_circuit import found_circuit_section
from headway.analyze.studies.induction.behaviour import (
    activations_section,
    attribution_section,
    heads_section,
    predictions_section,
)
from headway.analyze.studies.induction.causes import ablation_section, paths_section
from headway.analyze.studies.induction.circuit import find_circuit
from headway.analyze.studies.induction.claims import claims, measured
from headway.analyze.studies.induction.options import Options
from headway.analyze.studies.induction.sequences import in_synonyms, own_repeats, two_copies
from headway.analyze.studies.induction.synonyms import fuzzy_section
from headway.analyze.studies.induction.weights import (
    composition_section,
    copying_section,
    inputs_section,
    positions_sections,
)
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.runner import Findings
from headway.checkpoints.run import Run


def study(network: LoadedModel, options: Options, others: Sequence[Run] = ()) -> Findings:
    """Study a network that predicts repeated tokens, or their synonyms.

    ``others`` are further runs whose fuzzy induction is compared, each at its last checkpoint.

    Raises:
        ValueError: a file of pairs that cannot be read, a tokenizer without BOS and EOS.
    """
    repeats = own_repeats(network)
    synonyms = in_synonyms(network, repeats, options.pairs)
    main, copies = (each.sequences(network.eval_seed, options.sequences) for each in (repeats, two_copies(repeats)))
    fuzzy = None if synonyms is None else synonyms.sequences(network.eval_seed, options.sequences)
    circuit = find_circuit(network.model, main, options)
    sections = [
        heads_section(network.model, main, options),
        predictions_section(network, main, copies),
        activations_section(network, copies),
        attribution_section(network.model, main, copies),
        ablation_section(network.model, main, circuit),
        copying_section(network, main, circuit),
    ]
    if circuit is not None:
        sections += [
            *positions_sections(network, main, circuit),
            inputs_section(network, copies, circuit),
            composition_section(network, main, circuit),
            paths_section(network.model, main, circuit),
            found_circuit_section(network, circuit.heads),
        ]
    if synonyms is not None and fuzzy is not None:
        sections.append(fuzzy_section(network, main, fuzzy, synonyms.source, others, options))
    return Findings(
        sections,
        claims=lambda each: claims(each, main, fuzzy, options),
        measured=lambda each: measured(each, main),
        formed="The claims and the measures at each checkpoint up to this one.",
    )
