"""Mean ablation of every activation, and sequences without BOS."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.attention import previous_token as previous_token_score
from headway.analyze.measures.loss import loss, mean_loss
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.interventions import ATTENTION
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.previous_token.sequences import (
    every_activation,
    task_of,
    with_another_first,
    without_first,
)
from headway.analyze.studies.previous_token.training import runs_by_name
from headway.analyze.studies.result import Figure, Section, table
from headway.checkpoints.run import Run
from headway.data.task import Batch
from headway.models.convert import Model


def ablation_section(model: Model, batch: Batch) -> Section:
    """Loss when an activation is replaced by its mean over all, by its mean at each position, or loses its position."""
    clean = loss(model, batch).loss.item()
    points = [
        point
        for point, value in every_activation(model, batch).items()
        if point.endswith(ATTENTION) or value.shape[1:2] == batch.inputs.shape[1:2]
    ]
    mean, by_position = (
        [ablated_loss(model, batch, point, kind).loss.item() for point in points] for kind in ("mean", "position_mean")
    )
    without_position = [
        np.nan if point.endswith(ATTENTION) else ablated_loss(model, batch, point, "without_position").loss.item()
        for point in points
    ]
    return Section(
        "Mean ablation of every activation",
        f"The clean loss is {clean:.3g}. mean: over sequences and positions, which removes everything; mean at each "
        "position: keeps the position only; without its position: removes the position only. Attention scores and "
        "patterns are replaced by their mean at each query and key.",
        (
            Figure(
                "Loss when an activation is replaced",
                table(
                    "hook point",
                    points,
                    mean=mean,
                    mean_at_each_position=by_position,
                    without_its_position=without_position,
                ),
                "table",
            ),
        ),
    )


def without_bos_section(network: LoadedModel, run: Run, batch: Batch, others: Sequence[Run]) -> Section:
    """Loss on sequences that do not start with BOS, and comparison with other runs."""
    model = network.model
    variants = {"as in training": batch, "position 0 removed": without_first(batch)}
    if task_of(run).bos:
        variants["another token at position 0"] = with_another_first(batch)
    else:
        variants["BOS at position 0"] = replace(task_of(run), bos=True).evaluation_batch(
            run.recipe.eval_seed, len(batch.inputs)
        )
    losses = [mean_loss(forward_pass(model, each).output, each).item() for each in variants.values()]
    figures = [Figure("Loss on changed sequences", table("sequences", variants, loss=losses), "table", "In nats.")]
    if others:
        runs, networks = (run, *others), (network, *map(LoadedModel.of, others))
        batches = [each.batch() for each in runs]
        on_its_own = [(each.model, own) for each, own in zip(networks, batches, strict=True)]
        figures.append(
            Figure(
                "Runs with and without positional embeddings and BOS",
                table(
                    "run",
                    runs_by_name(runs),
                    positions=[each.recipe.model.positional_embedding_type for each in runs],
                    bos=[task_of(each).bos for each in runs],
                    step=[each.step for each in networks],
                    loss=[loss(*each).loss.item() for each in on_its_own],
                    previous_token=[
                        previous_token_score(*each).previous_token.isel(layer=-1).max().item() for each in on_its_own
                    ],
                ),
                "table",
                "This run at this checkpoint, the others at their last one, each on its own evaluation batch. "
                "previous_token: the best head of the last layer.",
            )
        )
    return Section("Without BOS, and with positional embeddings", "", tuple(figures))
