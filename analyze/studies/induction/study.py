"""Which heads find what followed a token before, and copy it? Asked of any network, as ARENA's notebook asks it of one.

A head of an early layer writes into each position which token stood before it; the keys of a later head read that, its
queries the current token, so that it attends to what followed that token before, and copies it. The claims at the end
ask whether this network does so, whether that is all it needs, and whether it also does it fuzzily: after a synonym.
"""

from collections.abc import Sequence

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
    """What is found in a network that predicts repeated tokens, or their synonyms.

    ``others`` are further runs, whose fuzzy induction stands beside, each at its last step.

    Raises:
        ValueError: a file of pairs that cannot be read, a tokenizer without a token to begin with.
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
        ]
    if synonyms is not None and fuzzy is not None:
        sections.append(fuzzy_section(network, main, fuzzy, synonyms.told, others, options))
    return Findings(
        sections,
        claims=lambda each: claims(each, main, fuzzy, options),
        measured=lambda each: measured(each, main),
        formed="The claims and the measures at each kept step up to this.",
    )
