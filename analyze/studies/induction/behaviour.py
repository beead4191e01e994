"""Predictions of the network, attention of its heads, and their direct effect on the right logit."""

import numpy as np
import xarray as xr

from headway.analyze.measures.attention import current_token, first_token, prefix_matching
from headway.analyze.measures.attention import previous_token as previous_token_score
from headway.analyze.measures.attribution import attribute_outputs
from headway.analyze.measures.loss import accuracy, loss
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass
from headway.analyze.studies.figures import lengths_of_first, patterns_of_first, predictions_of_first
from headway.analyze.studies.heads import heads_above, listed, mean_where
from headway.analyze.studies.induction.circuit import parts_of
from headway.analyze.studies.induction.options import Options
from headway.analyze.studies.induction.sequences import Sequences
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section, table
from headway.models.convert import Model


def heads_section(model: Model, sequences: Sequences, options: Options) -> Section:
    """Attention of heads to the current position, the previous one, position 0, and what followed the current token."""
    batch, thresholds = sequences.batch, options.thresholds
    measured = {
        "current": current_token(model, batch),
        "previous": previous_token_score(model, batch),
        "first": first_token(model, batch),
        "induction": prefix_matching(model, batch, sequences.same),
    }
    names = dict(zip(measured, ("current_token", "previous_token", "first_token", "prefix_matching"), strict=True))
    scores = {names[kind]: each[names[kind]] for kind, each in measured.items()}
    found = {kind: heads_above(scores[names[kind]].values, above) for kind, above in thresholds.items()}
    chosen = sorted({head for heads in found.values() for head in heads})
    figures = [
        Figure(
            "Kinds of heads",
            table(
                "heads that attend to",
                ["the current position", "the previous position", "position 0", "what followed the current token"],
                measure=list(names.values()),
                above=list(thresholds.values()),
                chance=[measured[kind][f"{name}_chance"].item() for kind, name in names.items()],
                most=[scores[name].max().item() for name in names.values()],
                heads=[listed(heads) for heads in found.values()],
            ),
            "table",
            "A head is listed if its score is above the threshold. chance: uniform attention.",
        ),
        Figure("Scores of all heads", xr.Dataset({name: (HEAD, each.values) for name, each in scores.items()}), "maps"),
    ]
    if chosen:
        of_each = {name: [each.values[head] for head in chosen] for name, each in scores.items()}
        figures.insert(1, Figure("Scores of these heads", table("head", map(str, chosen), **of_each), "table"))
    return Section("Heads", "Attention scores: means over all queries of the sequences.", tuple(figures))


def predictions_section(network: LoadedModel, sequences: Sequences, copies: Sequences) -> Section:
    """Loss and accuracy on new and on repeated tokens, by position, and predictions."""
    model, batch = network.model, copies.batch
    losses, right = loss(model, sequences.batch), accuracy(model, sequences.batch)
    assert sequences.batch.task is not None
    baselines = {f"baseline: {n.replace('_', ' ')}": v for n, v in sequences.batch.task.baselines().items()}
    parts = ["first", "repeats"]
    S = batch.inputs.shape[1] // 2
    by_position = loss(model, batch).loss_by_position.values
    halves = np.stack([by_position[:S], by_position[S : 2 * S]])
    hits = forward_pass(model, batch).output[0].argmax(-1) == batch.targets[0]
    return Section(
        "Predictions",
        "New tokens are random; repeated tokens can be predicted. Copies start at any position and have any period "
        f"that the task draws; the sequences with two equal copies have {S} tokens, repeated once.",
        (
            Figure(
                "Loss and accuracy",
                table(
                    "tokens",
                    [*parts, *baselines],
                    loss=[*(losses[f"loss_{part}"].item() for part in parts), *baselines.values()],
                    accuracy=[*(right[f"accuracy_{part}"].item() for part in parts), *[np.nan] * len(baselines)],
                ),
                "table",
                "In nats. first: tokens of the first copy; repeats: from the second token of a later copy on.",
            ),
            Figure(
                "Loss by position, first and second copy",
                xr.Dataset({"loss": (("copy", "pos"), halves)}, {"copy": ["first", "second"]}),
                "lines",
                "By the position within the copy; the first token of the second copy cannot be predicted.",
            ),
            predictions_of_first(
                "Predictions in the second copy",
                network,
                batch,
                range(S, 2 * S),
                f"The first sequence: {int(hits[:S].sum())} of {S} predictions are right in its first copy, "
                f"{int(hits[S:].sum())} of {S} in the second. probability: of the next token.",
                probability=True,
            ),
        ),
    )


def activations_section(network: LoadedModel, copies: Sequences) -> Section:
    """Attention patterns of one sequence, and norms of hook_z."""
    figures = (patterns_of_first(network, copies.batch), lengths_of_first(network, copies.batch))
    return Section("Activations", "The first sequence of two equal copies.", figures)


def attribution_section(model: Model, sequences: Sequences, copies: Sequences) -> Section:
    """Contribution of each component to the right logit, on new tokens and on repeats."""
    terms = attribute_outputs(model, sequences.batch, over_mean=True)
    columns = {part: mean_where(terms, where) for part, where in parts_of(sequences.batch).items()}
    by_position = attribute_outputs(model, copies.batch, over_mean=True).mean("batch")
    return Section(
        "Direct attribution",
        "What each component adds to the logit of the right token minus the mean logit, at the scale of the last "
        "LayerNorm; embed is the direct path. The contributions add up to the logit, which is checked at every "
        "position.",
        (
            Figure(
                "By component",
                xr.Dataset({**columns, "difference": columns["repeats"] - columns["first"]}),
                "table",
                "Means over new tokens (first) and over repeated tokens (repeats).",
            ),
            Figure(
                "By component and position",
                xr.Dataset({"logit_over_the_mean": by_position}),
                "maps",
                "Sequences of two equal copies; the second starts in the middle.",
            ),
        ),
    )
