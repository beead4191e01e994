"""How does a network without positional embeddings find the previous token?

After the No Position Experiment of TransformerLens. A causal network can derive the position: BOS is always at
position 0, so a head with uniform attention attends to it with weight 1 / (q + 1). The claims test whether this network
does so: whether the attention of layer 0 carries the position, its MLP passes it on, and the last layer attends to the
previous token by position alone.
"""

from collections.abc import Sequence

from headway.analyze.measures.nulls import untrained
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.previous_token.causes import ablation_section, without_bos_section
from headway.analyze.studies.previous_token.claims import claims
from headway.analyze.studies.previous_token.neurons import neurons_section
from headway.analyze.studies.previous_token.options import Options
from headway.analyze.studies.previous_token.outputs import attribution_section, logits_section
from headway.analyze.studies.previous_token.positions import activations_section, attention_section, position_section
from headway.analyze.studies.previous_token.sequences import task_of
from headway.analyze.studies.previous_token.training import training_section
from headway.analyze.studies.previous_token.weights import keys_section, vocabulary_section
from headway.analyze.studies.runner import Findings
from headway.checkpoints.run import Run


def study(network: LoadedModel, options: Options, others: Sequence[Run] = ()) -> Findings:
    """Study a network that predicts the previous token.

    ``others`` are further runs to compare training with: other learning rates, clipping, batches, positions.

    Raises:
        ValueError: too few sequences for a probe.
    """
    run, model, count = network.run, network.model, options.sequences
    assert run is not None
    task, cfg = task_of(run), run.recipe.model
    features = max(cfg.d_model, 0 if cfg.attn_only else cfg.d_mlp)
    samples, half = (some * (task.length - 1) for some in (count, count // 2))
    if samples < features + 2 or half < cfg.d_model + 2:
        raise ValueError(
            f"sequences: {count} is not valid; {samples} positions are too few for a probe of {features} features"
        )
    batch, held_out = (task.evaluation_batch(network.eval_seed + draw, count) for draw in (0, 1))
    fresh = untrained(cfg)
    sections = (
        training_section(network, run, others),
        activations_section(network, batch),
        attention_section(model, fresh, batch),
        position_section(model, fresh, batch, held_out),
        attribution_section(model, batch),
        logits_section(model, batch),
        vocabulary_section(network),
        neurons_section(network, batch),
        keys_section(network.folded, batch, min(options.top, cfg.d_vocab, batch.inputs.shape[1] - 1)),
        ablation_section(model, batch),
        without_bos_section(network, run, batch, others),
    )
    return Findings(sections, claims=lambda each: claims(each.model, batch))
