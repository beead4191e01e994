"""How a network predicts an affine recurrence: the story of Bhargav & Gu (arXiv 2410.17438), asked of any run.

Their reading, which the claims at the end hold against the numbers of this run: layer 0 adds a multiple of the vector
before to each vector; layer 1 looks for the second vector, and writes beside the embedding, where it steers the
attention of layer 2; layer 2 looks for vectors that are like the current one, and takes them away.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import einops
import numpy as np
import torch
import xarray as xr
from torch import Tensor

from headway.analyze.measures.ablation import ablated_loss, ablation
from headway.analyze.measures.attention import previous_token
from headway.analyze.measures.attribution import direct_attribution
from headway.analyze.measures.composition import k_composition, q_composition, v_composition
from headway.analyze.measures.eigenvalues import (
    ov_eigenvalue,
    ov_eigenvalue_residual,
    qk_eigenvalue,
    qk_eigenvalue_residual,
)
from headway.analyze.measures.geometry import linearity, outside_embedding
from headway.analyze.measures.loss import by_part, loss, task_loss
from headway.analyze.measures.nulls import untrained
from headway.analyze.measures.ranks import rank_95, rank_entropy, rank_stable
from headway.analyze.measures.surgery import (
    ov_identity_loss,
    ov_identity_surgery,
    qk_identity_loss,
    qk_identity_surgery,
)
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass, shared_forward_pass
from headway.analyze.network.interventions import heads_except, output_with
from headway.analyze.network.requirements import DoesNotApplyError, check_head
from headway.analyze.network.weights import ov, qk, weight
from headway.analyze.studies.runner import over_steps
from headway.analyze.studies.story import Claim, Claims, Figure, Section, Story, by_layer, table
from headway.analyze.studies.subject import simplified
from headway.analyze.tools.lens import lens, residual_outputs
from headway.analyze.tools.probe import ProbeResult, Samples, linear_probe, mlp_probe, samples
from headway.analyze.tools.similar_vector import similar_vector
from headway.checkpoints.run import Run
from headway.data.affine_recurrence import AffineRecurrence, least_squares_oracle
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model, evaluating

NAME = "affine-recurrence"
# Single-batch training losses of the published run, by step.
PUBLISHED = {0: 0.196, 500: 0.0069, 1000: 0.0048, 2500: 0.0018, 10_000: 5.4e-4}
# An entry of W_OV is large above this.
LARGE = 0.05


def study(
    run: Run,
    at: int | None = None,
    c: float = -1.5,
    length: int = 14,
    heads: tuple[str, ...] = (),
    sequences: int = 64,
    probe_sequences: int = 4096,
    progress: bool = False,
) -> Story:
    """Study a run that predicts affine recurrences.

    Weights are processed (LayerNorm folded, what is written centred), which changes no output.

    Args:
        run: A run of the task AffineRecurrence.
        at: The kept step to look at; the last one if not given.
        c: The coefficient of the sequences whose attention is shown.
        length: How many vectors a sequence has where one length is looked at; the task's longest, if that is shorter.
        heads: The heads that are replaced by identities together, such as L2H0; those of the last layer if not given.
        sequences: How many sequences each number is taken over.
        probe_sequences: How many sequences probes are trained on; half as many are held out.
        progress: Show a bar while going through the kept steps.

    Raises:
        ValueError: a run of another task, a step that was not kept, a head that does not exist, a length that leaves no
            answer determined, too few sequences for a probe.
    """
    task = _task(run)
    step = run.check_step(at)
    model = simplified(run, step)
    chosen = _heads(model, heads)
    length = min(length, task.length_max)
    features = model.cfg.d_model
    for name, value, least, why in (
        ("length", length, task.first_determined + 2, "for an answer to be determined"),
        ("sequences", sequences, 2, "for a mean"),
        ("probe_sequences", probe_sequences, features + 2, f"more samples than the {features} features of a probe"),
    ):
        if value < least:
            raise ValueError(f"{name}: {value} is not valid; it must be at least {least}, {why}")
    try:
        of_one_c = _sequences(run, sequences, length, c=c)
    except ValueError:
        raise ValueError(f"c: {c:g} is not valid; sequences of {length} vectors grow too large") from None
    longest = _sequences(run, sequences, task.length_max)
    batch = _sequences(run, sequences, length)
    with shared_forward_pass():
        sections = (
            _training(run, step),
            _predictions(model, of_one_c, c),
            _errors(run, model, sequences),
            _attention(model, of_one_c, batch, c),
            _attribution(model, batch),
            _ablation(model, batch),
            _circuits(model, batch),
            _geometry(model, batch),
            _eigenvalues(model, batch),
            _surgery(model, batch, chosen),
            _composition(model, batch),
            _probes(run, model, length, probe_sequences),
            _coefficients(run, model, sequences, length),
        )
        ends = claims(model, longest)
    formed = Section(
        "How it formed",
        f"The claims at each kept step up to this one, on sequences of {task.length_max} vectors.",
        over_steps(run, step, lambda each: claims(simplified(run, each), longest), progress),
    )
    return Story(NAME, str(run.path), step, (*sections, formed), ends)


def _training(run: Run, step: int) -> Section:
    """The loss of each update's batch, at all positions, and the evaluation loss where the answer is determined."""
    training = run.training.loss.sel(step=slice(None, step))
    steps = training.step.values
    # Before the first update there is nothing to take a median of.
    median = training.rolling(step=min(100, len(steps)), min_periods=1).median() if len(steps) else training
    shown = np.unique(np.geomspace(1, max(step, 1), 200).round().astype(int))
    shown = np.intersect1d(np.union1d(shown, [max(each, 1) for each in PUBLISHED]), steps)
    curves = {
        "single batches": training.sel(step=shown).values,
        "median of the last 100": median.sel(step=shown).values,
    }
    if _is_published(run):
        published = {max(each, 1): value for each, value in PUBLISHED.items()}
        curves["published, single batches"] = np.array([published.get(each, np.nan) for each in shown.tolist()])
    lines = xr.DataArray(
        list(curves.values()),
        coords={"line": list(curves), "step": shown},
        dims=("line", "step"),
        attrs={"long_name": "training loss, all positions"},
    )
    figures = [Figure("Loss of the training batches", xr.Dataset({"loss": lines}), "lines", "", "xy")]
    if _is_published(run):
        known = [each for each in PUBLISHED if each + 1 in steps]
        kept = {each: min((k for k in run.steps if k <= step), key=lambda k: abs(k - each)) for each in known}
        near = {each: k for each, k in kept.items() if abs(k - each) <= 0.1 * each}
        figures.append(
            Figure(
                "Beside the published run",
                table(
                    "step",
                    known,
                    published=[PUBLISHED[each] for each in known],
                    all_positions=[median.sel(step=each + 1).item() for each in known],
                    kept_step=[near.get(each, np.nan) for each in known],
                    where_determined=[
                        loss(run.model(near[each]), run.batch()).loss_determined.item() if each in near else np.nan
                        for each in known
                    ],
                ),
                "table",
                "Published: single batches. All positions: the median of the last 100 training batches. Where "
                "determined: the evaluation batch, at the nearest kept step.",
            )
        )
    return Section("Training", "The mean squared error of each batch before its update.", tuple(figures))


def _predictions(model: Model, batch: Batch, c: float) -> Section:
    """One entry of one sequence, and how well the residual stream predicts after each layer."""
    read = residual_outputs(model, batch)
    names = ["actual", "predicted", *(f"after L{layer}" for layer in range(model.cfg.n_layers - 1))]
    values = torch.stack([batch.targets, read[-1], *read[1:-1]])[:, 0, :, 0]
    lens_loss = lens(model, batch)
    return Section(
        "Predictions",
        f"Sequences of {_length(batch)} vectors with c = {c:g}. The residual stream after each layer is read as if "
        "it were the last (ln_final, then the unembedding), beside the vectors that follow.",
        (
            Figure(
                "One entry of one sequence",
                xr.Dataset({"value": (("line", "pos"), values.numpy())}, {"line": names}),
                "lines",
                "Entry 0 of the first sequence; the value at a position is that of the next vector.",
            ),
            Figure(
                "Error after each layer",
                lens_loss[["lens", "lens_determined"]],
                "table",
                "Mean squared error of what is read; embed is before layer 0.",
            ),
            Figure("Error after each layer, by position", lens_loss[["lens_by_position"]], "lines", "", "y"),
        ),
    )


def _errors(run: Run, model: Model, sequences: int) -> Section:
    """Mean squared error by position and by length, beside what needs no learning."""
    task = _task(run)
    lengths = range(max(task.length_min, task.first_determined + 2), task.length_max + 1)
    compared = [_compared(model, _sequences(run, sequences, length)) for length in lengths]
    by_length = _beside_baselines(compared)
    names = list(by_length)
    by_position = np.array([compared[-1].errors[name] for name in names])
    return Section(
        "Errors",
        "Beside the least-squares oracle, which fits c and d to what was seen, and two that learn nothing. From "
        f"position {task.first_determined} on the answer is determined, and the oracle's error is rounding.",
        (
            Figure(
                "By position",
                xr.Dataset({"error": (("line", "pos"), by_position)}, {"line": names}),
                "lines",
                f"Sequences of {task.length_max} vectors.",
                "y",
            ),
            Figure(
                "By length of the sequence",
                table("length", lengths, **by_length),
                "table",
                "How many vectors a sequence has; mean squared error where the answer is determined.",
            ),
        ),
    )


def _attention(model: Model, of_one_c: Batch, batch: Batch, c: float) -> Section:
    """The pattern of every head on sequences of one coefficient, and what heads look for in any."""
    patterns = einops.reduce(forward_pass(model, of_one_c).patterns, "layer batch head q k -> layer head q k", "mean")
    second = einops.reduce(
        forward_pass(model, batch).patterns[:, :, :, 2:, 1], "layer batch head q -> layer head", "mean"
    )
    figures = [
        Figure(
            f"Mean pattern of every head, c = {c:g}",
            xr.Dataset({"attention": (("layer", "head", "query", "key"), patterns.numpy())}),
            "maps",
            f"Sequences of {_length(of_one_c)} vectors. Where c is negative every other difference points the same "
            "way, and a head that looks for vectors like the current one has a checkerboard.",
        )
    ]
    if c < 0 and of_one_c.info["c"].shape[1] == 1:
        pos = torch.arange(_length(batch) - 1)
        back = pos[:, None] - pos
        earlier, alike = back > 0, (back > 0) & (back % 2 == 0)
        share = ((patterns * alike).sum(-1) / (patterns * earlier).sum(-1))[..., 2:].mean(-1)
        chance = (alike.sum(-1) / earlier.sum(-1))[2:].mean()
        figures.append(
            Figure(
                f"Checkerboard, c = {c:g}",
                by_layer(share=xr.DataArray(share.numpy(), dims=HEAD)),
                "table",
                "Share of the attention to earlier vectors that is on those 2, 4, ... back, over queries from 2 on; "
                f"{chance:.3f} is chance.",
            )
        )
    for title, scores, note in (
        ("Attention to the vector before", previous_token(model, batch).previous_token, "previous_token."),
        ("Attention to the second vector", xr.DataArray(second.numpy(), dims=HEAD), "Over queries from 2 on."),
        (
            "Attention to similar vectors",
            similar_vector(model, batch).similar_vector,
            "From no preference (0) to the most similar earlier vector only (1); below 0 it goes to unlike ones.",
        ),
    ):
        figures.append(Figure(title, by_layer(score=scores), "table", f"{note} Any c, {_length(batch)} vectors."))
    return Section("Attention", "What each head looks at.", tuple(figures))


def _attribution(model: Model, batch: Batch) -> Section:
    """Shares of the target vector that each component adds to the prediction directly."""
    shares = direct_attribution(model, batch)
    return Section(
        "Direct attribution",
        "What each component adds to the prediction along the target, as a share of the target; together they are 1 "
        "for a perfect prediction. Heads stand without biases, each b_O apart, an MLP with its b_out; the scale is "
        "that of the whole stream.",
        (
            Figure(
                "By component",
                shares[["direct_attribution", "direct_attribution_determined"]],
                "table",
                "Over all positions, and where the answer is determined.",
            ),
            Figure("By component and position", shares[["direct_attribution_by_position"]], "maps"),
        ),
    )


def _ablation(model: Model, batch: Batch) -> Section:
    """The loss without each layer's attention, each MLP, and each head's OV."""
    clean = loss(model, batch).loss_determined.item()
    parts: dict[str, str | list[Head]] = {}
    for layer in range(model.cfg.n_layers):
        parts[f"heads of L{layer}"] = [Head(layer, head) for head in range(model.cfg.n_heads)]
        if not model.cfg.attn_only:
            parts[f"MLP of L{layer}"] = f"blocks.{layer}.hook_mlp_out"
    kinds = ("zero", "mean")
    layers = {
        kind: [ablated_loss(model, batch, what, kind).loss_determined.item() for what in parts.values()]
        for kind in kinds
    }
    figures = [
        Figure("Without a layer's heads, or its MLP", table("without", parts, **layers), "table"),
        *(
            Figure(
                f"Without one head, {kind}",
                by_layer(error=clean + ablation(model, batch, kind).ablation_determined),
                "table",
                "What the head's OV writes is replaced.",
            )
            for kind in kinds
        ),
    ]
    if model.cfg.n_layers > 2:
        figures += _patterns_without_layer_1(model, batch)
    return Section(
        "Ablation",
        f"Mean squared error where the answer is determined, of {_length(batch)} vectors; {clean:.2g} with "
        "everything in place. Zero: nothing in its place (value biases, which are folded into b_O, stay). Mean: its "
        "mean over all sequences and positions. Later attention is computed anew.",
        tuple(figures),
    )


def _patterns_without_layer_1(model: Model, batch: Batch) -> list[Figure]:
    """What later heads look at when the heads of layer 1 write nothing but their mean."""
    before = forward_pass(model, batch).patterns[2:]
    z = forward_pass(model, batch).activations["blocks.1.attn.hook_z"]
    mean = einops.reduce(z, "batch pos head d_head -> 1 1 head d_head", "mean").expand_as(z)
    with torch.no_grad(), evaluating(model), model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", lambda z, hook: mean)]):
        cache = model.run_with_cache(batch.inputs, return_cache_object=False)[1]
    after = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(2, model.cfg.n_layers)])
    moved = (
        einops.reduce((after - before).abs() / 2, "layer batch head q k -> layer head", "sum")
        / before[0, :, 0, :, 0].numel()
    )
    names = [f"L{layer}" for layer in range(2, model.cfg.n_layers)]
    averaged = einops.reduce(after, "layer batch head q k -> layer head q k", "mean")
    return [
        Figure(
            "Mean patterns without layer 1's heads",
            xr.Dataset(
                {"attention": (("layer", "head", "query", "key"), averaged.numpy())},
                {"layer": range(2, 2 + len(names))},
            ),
            "maps",
        ),
        Figure(
            "How much attention moves without layer 1's heads",
            xr.Dataset(
                {"moved": (HEAD, moved.numpy())}, {"layer": names, "head": [f"H{i}" for i in range(moved.shape[1])]}
            ),
            "table",
            "Mean over queries of the attention that goes elsewhere, from 0 to 1.",
        ),
    ]


def _circuits(model: Model, batch: Batch) -> Section:
    """OV matrices, the entries that are large, and how many directions they have."""
    W_OV = einops.einsum(weight(model, "W_V"), weight(model, "W_O"), "l h a d, l h d b -> l h a b")
    W_QK = einops.einsum(weight(model, "W_Q"), weight(model, "W_K"), "l h a d, l h b d -> l h a b")
    through = weight(model, "W_E") @ W_OV @ weight(model, "W_U")
    large = einops.reduce((W_OV.abs() > LARGE).float(), "layer head a b -> layer head", "mean")
    spectra = {
        name: einops.rearrange(circuit.singular_values(), "(layer head) s -> layer head s", head=W_OV.shape[1])
        for name, circuit in (("OV", ov(model)), ("QK", qk(model)))
    }
    ranks = {
        f"{rank.__name__}_{circuit}": rank(model, batch)[rank.__name__].sel(circuit=circuit).mean("head")
        for rank in (rank_95, rank_entropy, rank_stable)
        for circuit in ("OV", "QK")
    }
    return Section(
        "OV and QK circuits",
        "W_OV and W_QK are d_model by d_model; W_E W_OV W_U is what OV does from an input vector to an output.",
        (
            Figure("W_OV", xr.Dataset({"W_OV": ((*HEAD, "from", "to"), W_OV.numpy())}), "maps"),
            Figure("W_QK", xr.Dataset({"W_QK": ((*HEAD, "query", "key"), W_QK.numpy())}), "maps"),
            Figure("W_E W_OV W_U", xr.Dataset({"circuit": ((*HEAD, "input", "output"), through.numpy())}), "maps"),
            Figure(
                "Share of large entries",
                by_layer(share=xr.DataArray(large.numpy(), dims=HEAD)),
                "table",
                f"Entries of W_OV that are larger than {LARGE} in size.",
            ),
            Figure(
                "Singular values",
                xr.Dataset({name: ((*HEAD, "number"), values.numpy()) for name, values in spectra.items()}),
                "lines",
                "One line a head, largest first.",
            ),
            Figure(
                "Effective ranks",
                by_layer(**ranks),
                "table",
                "Means over the heads of a layer. rank_95: how many singular values hold 95 % of the sum of squares; "
                "rank_entropy: exp of the entropy of their shares; rank_stable: sum of squares over the largest.",
            ),
        ),
    )


def _geometry(model: Model, batch: Batch) -> Section:
    """Whether layers copy vectors, and where they write."""
    figures, reasons = [], []
    try:
        lines = linearity(model, batch)
        copied = {
            f"{said} ({inputs})": lines[name].sel(inputs=inputs)
            for inputs in ("data", "isotropic")
            for said, name in (("R²", "linearity"), ("slope", "linearity_slope"), ("intercept", "linearity_intercept"))
        }
        figures.append(
            Figure(
                "Linearity of each layer's summed OV",
                by_layer(**copied),
                "table",
                "Entries of x W_E W_OV W_U against those of x, all heads of the layer together; a random circuit's "
                f"R² is {lines.linearity_null:.3g} in the mean.",
            )
        )
    except DoesNotApplyError as reason:
        reasons.append(str(reason))
    try:
        outside = outside_embedding(model, batch)
        figures.append(
            Figure(
                "Outside of the embedding",
                by_layer(outside_embedding=outside.outside_embedding),
                "table",
                "Share of what a layer writes, heads and MLP, in length, that is orthogonal to the embeddings of all "
                f"vectors; for a random direction it is {outside.outside_embedding_null:.3g}.",
            )
        )
    except DoesNotApplyError as reason:
        reasons.append(str(reason))
    return Section("Copying, and where it is written", " ".join(reasons), tuple(figures))


def _eigenvalues(model: Model, batch: Batch) -> Section:
    """OV and QK, between inputs and outputs and within the residual stream."""
    figures = []
    for measure in (ov_eigenvalue, ov_eigenvalue_residual, qk_eigenvalue, qk_eigenvalue_residual):
        scores, name = measure(model, batch), measure.__name__
        spread = scores[f"{name}_null_std"].max().item()
        figures.append(Figure(name, by_layer(score=scores[name]), "table", f"Null: 0 ± {spread:.2g}."))
    return Section(
        "Eigenvalue scores",
        "Sum of the eigenvalues over the sum of their sizes: 1 copies, or looks for its like; -1 takes away, or looks "
        "for its opposite. Through the embeddings, and within the residual stream, which are different numbers.",
        tuple(figures),
    )


def _surgery(model: Model, batch: Batch, chosen: list[Head]) -> Section:
    """Chosen heads with a QK, or an OV, that is a projector."""
    clean = loss(model, batch).loss_determined.item()
    errors = {
        "as it is": clean,
        "QK, trained W_Q": qk_identity_loss(model, batch, chosen, "trained").loss_determined.item(),
        "QK, random W_Q": qk_identity_loss(model, batch, chosen, "random").loss_determined.item(),
        "OV, plus": ov_identity_loss(model, batch, chosen, "+").loss_determined.item(),
        "OV, minus": ov_identity_loss(model, batch, chosen, "-").loss_determined.item(),
        "uniform attention": _with_uniform_attention(model, batch, chosen),
        "mean in their place": ablated_loss(model, batch, chosen, "mean").loss_determined.item(),
    }
    times = [after / clean for after in errors.values()]
    queries = qk_identity_surgery(model, batch, len(batch.inputs)).qk_identity_surgery_after
    values = ov_identity_surgery(model, batch, len(batch.inputs)).ov_identity_surgery_after
    one_by_one = {
        "QK, trained W_Q": queries.sel(experiment="trained"),
        "QK, random W_Q": queries.sel(experiment="random"),
        "OV, plus": values.sel(sign="+"),
        "OV, minus": values.sel(sign="-"),
    }
    return Section(
        "Identity surgery",
        "W_K := pinv(W_Q).T leaves a head only looking for what is like its query; W_O := ±pinv(W_V) leaves it only "
        "copying, or taking away. Random: after W_Q has been drawn anew. The projector's scores are small, so what "
        "costs as much as uniform attention says that the heads only average; what costs as much as their mean, "
        "that they are not needed.",
        (
            Figure(
                f"{', '.join(map(str, chosen))} together",
                table("surgery", errors, error=list(errors.values()), times=times),
                "table",
                "Mean squared error where the answer is determined, and how many times that without surgery.",
            ),
            *(
                Figure(f"One head at a time: {name}", by_layer(error=after), "table", "Error at all positions.")
                for name, after in one_by_one.items()
            ),
        ),
    )


def _composition(model: Model, batch: Batch) -> Section:
    """Q-, K- and V-composition of all pairs, beside random rotations."""
    if model.cfg.n_layers < 2:
        return Section("Composition", "A network of one layer has no pairs of heads.", ())
    names = [str(head) for head in heads_except(model)]
    maps, rows = {}, {}
    for kind, measure in {"Q": q_composition, "K": k_composition, "V": v_composition}.items():
        scores, name = measure(model, batch), measure.__name__
        z = scores[f"{name}_z"]
        square = einops.rearrange(z.values, "layer head later reader -> (layer head) (later reader)")
        maps[name] = (("writes", "reads"), square, {"long_name": f"{kind}-composition: z"})
        for layer, later in zip(*np.triu_indices(model.cfg.n_layers, 1), strict=True):
            here = scores.sel(from_layer=layer, to_layer=later)
            rows[f"{kind}, L{layer} to L{later}"] = (
                here[name].mean().item(),
                here[name].max().item(),
                here[f"{name}_null"].mean().item(),
                here[f"{name}_z"].mean().item(),
                (here[name] / here[f"{name}_ceiling"]).mean().item(),
                (here[name] > here[f"{name}_high"]).mean().item(),
            )
    columns = ("mean", "largest", "null", "mean z", "mean of ceiling", "above the band")
    return Section(
        "Composition",
        "How much the queries, keys and values of later heads read what earlier heads write: the length of the product "
        "over the product of the lengths. Null: the same factors, rotated at random.",
        (
            Figure("Every pair", xr.Dataset(maps, {"writes": names, "reads": names}), "maps"),
            Figure(
                "Layer by layer",
                table("layers", rows, **dict(zip(columns, zip(*rows.values(), strict=True), strict=True))),
                "table",
                "The last column is the share of pairs above the 99 % band of all pairs.",
            ),
        ),
    )


def _probes(run: Run, model: Model, length: int, sequences: int) -> Section:
    """What a probe reads of d and of c at each depth, beside the same probe on a network that was not trained."""
    train, held_out = (
        _sequences(run, count, length, draw=draw) for draw, count in ((1, sequences), (2, max(2, sequences // 2)))
    )
    networks = {"trained": model, "untrained": untrained(run.recipe.model)}
    depths = {"embed": "blocks.0.hook_resid_pre"}
    depths |= {f"after L{layer}": f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)}
    probes = {"linear": linear_probe, "mlp": mlp_probe}
    found: dict[str, list[ProbeResult]] = {
        f"{target}, {kind}, {name}": [] for target in ("d", "c") for kind in probes for name in networks
    }
    for name, network in networks.items():
        for point in depths.values():
            there = [samples(network, batch, point, partial(_told, "d"), _last).x for batch in (train, held_out)]
            for target in ("d", "c"):
                known = [_told(target, batch)[_last(batch)] for batch in (train, held_out)]
                for kind, probe in probes.items():
                    found[f"{target}, {kind}, {name}"].append(probe(*map(Samples, there, known)))
    # [probe, depth, number]
    numbers = np.array([list(each) for each in found.values()])
    shown = {
        "train_error": "Error on the training sequences",
        "held_out_error": "Error on the others",
        "r_squared": "R²",
    }
    return Section(
        "Probes",
        f"A linear and a small MLP probe for the constants d and the coefficient c, at the last position of {length} "
        f"vectors: trained on {sequences} sequences, and tried on {len(held_out.inputs)} others. What they read of "
        "an untrained network was not computed by training.",
        tuple(
            Figure(
                said,
                xr.Dataset(
                    {name: (("probe", "depth"), numbers[..., ProbeResult._fields.index(name)])},
                    {"probe": list(found), "depth": list(depths)},
                ),
                "table",
                "On the sequences that it was not trained on." if name == "r_squared" else "Mean squared error.",
            )
            for name, said in shown.items()
        ),
    )


def _coefficients(run: Run, model: Model, sequences: int, length: int) -> Section:
    """The loss as a function of c, in and outside of the trained range, and recurrences of higher order."""
    task = _task(run)
    batches: dict[float, Batch] = {}
    for c in np.linspace(-4, 4, 81).round(1).tolist():
        try:
            batches[c] = _sequences(run, sequences, length, c=c)
        except ValueError:
            continue  # they would grow too large
    cs = list(batches)
    by_c = _beside_baselines([_compared(model, each) for each in batches.values()])
    others = {}
    for order in sorted({1, 2, 3, task.compl}):
        try:
            other = replace(task, compl=order, length_min=task.length_max)
        except ValueError:
            continue  # a sequence too short, or vectors, for this order to be determined
        batch = other.evaluation_batch(run.recipe.eval_seed, sequences)
        others[f"{order}"] = _compared(model, batch)
    by_order = _beside_baselines(list(others.values()))
    return Section(
        "Other coefficients",
        f"It was trained on c from {task.c_min:g} to {task.c_max:g}, and on order {task.compl}.",
        (
            Figure(
                "Error as a function of c",
                xr.Dataset({"error": (("line", "c"), np.array(list(by_c.values())))}, {"line": list(by_c), "c": cs}),
                "lines",
                f"Mean squared error where the answer is determined, of {length} vectors."
                + (" All coefficients of a sequence have this value." if task.compl > 1 else ""),
                "y",
            ),
            Figure(
                "Recurrences of other orders",
                table("order", others, **by_order),
                "table",
                f"Mean squared error where the answer is determined, of {task.length_max} vectors.",
            ),
        ),
    )


def claims(model: Model, batch: Batch) -> Claims:
    """What the paper says of each layer, each statement with the number that decides it in this network.

    Which layer looks for similar vectors is not taken from the paper, where it is the last: it is the one after the
    first whose heads do so most. A number that a network does not have (the second layer of one) is NaN, and its claim
    does not hold.
    """
    layers = model.cfg.n_layers
    before = previous_token(model, batch)
    way = (before.previous_token - before.previous_token_chance) / (1 - before.previous_token_chance)
    copied = _copied_by_layer_0(model, batch)
    second, where = _second_vector(model, batch)
    try:
        outside = outside_embedding(model, batch)
        nothing = outside.outside_embedding_null.item()
        beside = (outside.outside_embedding[1].item() - nothing) / (1 - nothing) if layers > 1 else np.nan
    except DoesNotApplyError:
        beside = np.nan
    similar = similar_vector(model, batch).similar_vector.median("head")
    reader = min(1, layers - 1) + int(similar.fillna(-np.inf).values[min(1, layers - 1) :].argmax())
    copying = ov_eigenvalue_residual(model, batch).ov_eigenvalue_residual[reader].median().item()
    clean = loss(model, batch).loss_determined.item()
    chosen = [Head(reader, head) for head in range(model.cfg.n_heads)]
    projected = qk_identity_loss(model, batch, chosen, "trained").loss_determined.item()
    uniform = _with_uniform_attention(model, batch, chosen)
    shares = [_share_above(measure, model, batch, reader) for measure in (q_composition, k_composition, v_composition)]
    pairs = f"share of the pairs L{reader - 1} to L{reader} above the 99 % band" if reader else "there is none"
    return (
        Claim(
            "Layer 0 has a head that looks at the vector before",
            f"previous_token of L0H{int(way.sel(layer=0).values.argmax())}, from chance (0) to nothing else (1)",
            way.sel(layer=0).max().item(),
            0.5,
        ),
        Claim(
            "What layer 0's heads add of a vector is a multiple of it",
            "R² of its summed OV on isotropic vectors, linearity",
            copied,
            0.5,
        ),
        Claim(
            "Layer 1 has a head that looks at the second vector",
            f"attention to vector 1 of {where}, from chance (0) to nothing else (1)",
            second,
            0.5,
        ),
        Claim(
            "Layer 1 writes outside of the embedding",
            "outside_embedding of L1, heads and MLP, from a random direction (0) to all outside (1)",
            beside,
            0.5,
        ),
        Claim(
            "A later layer looks for vectors like the current one",
            f"median similar_vector of the heads of L{reader}, from no preference (0) to the most similar only (1)",
            similar[reader].item(),
            0.5,
        ),
        Claim(
            "The heads of that layer take away what they look at",
            f"median ov_eigenvalue_residual of L{reader}",
            copying,
            -0.5,
            below=True,
        ),
        Claim(
            "Looking for its like is all that their queries and keys do",
            f"share of what L{reader}'s attention gains over uniform attention that is lost when each W_QK is a "
            "projector (trained W_Q): (error - clean) / (error with uniform attention - clean)",
            (projected - clean) / (uniform - clean) if uniform > 1.1 * clean else np.nan,
            0.5,
            below=True,
        ),
        *(
            Claim(f"The layer before it sets its attention: {kind}-composition", pairs, share, 0.5)
            for kind, share in zip("QK", shares, strict=False)
        ),
        Claim(
            "That is by queries or keys, not by values",
            f"{pairs}: the larger of Q- and K- less that of V-composition",
            max(shares[:2]) - shares[2],
            0.25,
        ),
    )


def _copied_by_layer_0(model: Model, batch: Batch) -> float:
    try:
        return linearity(model, batch).linearity.sel(inputs="isotropic", layer=0).item()
    except DoesNotApplyError:
        return np.nan


def _second_vector(model: Model, batch: Batch) -> tuple[float, str]:
    """How far the head of layer 1 that attends most to position 1 is from chance, and which it is."""
    length = batch.inputs.shape[1]
    if model.cfg.n_layers < 2 or length < 3:
        return np.nan, "none"
    to_second = forward_pass(model, batch).patterns[1, :, :, 2:, 1]
    scores = einops.reduce(to_second, "batch head query -> head", "mean")
    chance = (1 / torch.arange(3, length + 1)).mean()
    way = (scores - chance) / (1 - chance)
    return way.max().item(), str(Head(1, int(way.argmax())))


def _share_above(measure: Any, model: Model, batch: Batch, reader: int) -> float:
    """The share of the pairs from the layer before to ``reader`` whose composition is above the band of all pairs."""
    if reader == 0:
        return np.nan
    scores = measure(model, batch).sel(from_layer=reader - 1, to_layer=reader)
    name = measure.__name__
    return (scores[name] > scores[f"{name}_high"]).mean().item()


class Compared(NamedTuple):
    """Mean squared errors by position, of a network and of what needs none; and from where the answer is determined."""

    errors: dict[str, np.ndarray]
    determined: int


def _compared(model: Model, batch: Batch) -> Compared:
    task = batch.task
    assert isinstance(task, AffineRecurrence)
    predictions = {
        "network": forward_pass(model, batch).output,
        "least squares": least_squares_oracle(batch.inputs, task.compl),
        "predict zero": torch.zeros_like(batch.targets),
        "repeat last": batch.inputs,
    }
    errors = {name: task.loss(each, batch).mean(0).numpy() for name, each in predictions.items()}
    return Compared(errors, task.first_determined)


def _beside_baselines(compared: list[Compared]) -> dict[str, list[float]]:
    """Means where the answer is determined, by who predicts."""
    return {
        name: [each.errors[name][each.determined :].mean().item() for each in compared] for name in compared[0].errors
    }


def _task(run: Run) -> AffineRecurrence:
    task = run.task
    if not isinstance(task, AffineRecurrence):
        raise ValueError(f"run: {run.path} is of the task {type(task).__name__}; {NAME} needs AffineRecurrence")
    return task


def _heads(model: Model, names: Sequence[str]) -> list[Head]:
    """The heads that are named, or those of the last layer."""
    if not names:
        return [Head(model.cfg.n_layers - 1, head) for head in range(model.cfg.n_heads)]
    return [check_head(model, Head.named(name)) for name in dict.fromkeys(names)]


def _sequences(run: Run, count: int, length: int, c: float | None = None, draw: int = 0) -> Batch:
    """Sequences of one length, and if asked for of one coefficient; another ``draw`` gives others."""
    bounds = {} if c is None else {"c_min": float(c), "c_max": float(c)}
    task = replace(_task(run), length_min=length, length_max=length, **bounds)
    return task.evaluation_batch(run.recipe.eval_seed + draw, count)


def _told(name: str, batch: Batch) -> Tensor:
    """What the task knows of each sequence, at each of its positions."""
    return einops.repeat(batch.info[name], "batch entry -> batch pos entry", pos=batch.inputs.shape[1])


def _last(batch: Batch) -> Tensor:
    """The position that has seen most; one of each sequence, since more of the same would tell a probe little."""
    where = torch.zeros_like(batch.mask)
    where[:, -1] = True
    return where


def _length(batch: Batch) -> int:
    """How many vectors a sequence has, with the last, which is not read."""
    return batch.inputs.shape[1] + 1


def _with_uniform_attention(model: Model, batch: Batch, heads: Sequence[Head]) -> float:
    """The error where the answer is determined when some heads attend to all they see alike."""
    by_layer = {head.layer: [each.head for each in heads if each.layer == head.layer] for head in heads}

    def flat(scores: Tensor, hook: Any) -> Tensor:
        some = by_layer[hook.layer()]
        alike = scores.clone()
        alike[:, some] = torch.where(scores[:, some].isfinite(), 0.0, scores[:, some])
        return alike

    hooks = [(f"blocks.{layer}.attn.hook_attn_scores", flat) for layer in by_layer]
    return by_part("loss", task_loss(output_with(model, batch, hooks), batch), batch).loss_determined.item()


def _is_published(run: Run) -> bool:
    """Whether the run has the sizes and the data of the published one."""
    model = run.recipe.model
    sizes = (model.n_layers, model.n_heads, model.d_model, model.d_head, model.d_mlp)
    return sizes == (3, 8, 128, 64, 3072) and run.task == AffineRecurrence() and run.recipe.batch_size == 16
