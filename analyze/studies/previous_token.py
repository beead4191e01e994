"""How a network without positions finds the token before: the story of TransformerLens's No Position Experiment.

A causal network can derive where it is: what stands at position 0 is always BOS, so a head that looks at everything
alike gives BOS a share of 1 / (q + 1). The claims at the end ask whether this run does it in that way: whether layer
0's attention carries the position, its MLP hands it on, and the last layer finds the token before by position alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.attention import attention_entropy, uniform_pattern
from headway.analyze.measures.attention import previous_token as previous_token_score
from headway.analyze.measures.attribution import attribute_outputs, qk_attribution, reads, score_given_keys
from headway.analyze.measures.loss import accuracy, loss, mean_loss
from headway.analyze.measures.nulls import untrained
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass, shared_forward_pass
from headway.analyze.network.interventions import ATTENTION, Entries, Kind, heads_except
from headway.analyze.network.vocabulary import VocabularyCircuit
from headway.analyze.network.weights import ov, weight
from headway.analyze.studies.loading import folded_model
from headway.analyze.studies.result import Claim, Claims, Figure, Section, StudyResult, table
from headway.analyze.studies.runner import over_steps
from headway.analyze.tools.probe import Samples, linear_probe, probe_activation
from headway.analyze.tools.spikes import Spike, loss_spikes
from headway.checkpoints.run import Run
from headway.data.previous_token import PreviousToken
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model, evaluating

NAME = "previous-token"
# Single-batch losses of the published run, by step.
PUBLISHED = {0: 6.00, 400: 4.11, 700: 0.65, 1000: 0.077, 3000: 0.0078, 3900: 0.0032}
# So many points of a training curve are drawn: the largest of the updates that fall together.
POINTS = 400
# Of so many spikes of a run, and of so many neurons of a layer, each has a row of its own.
SPIKES, NEURONS = 8, 12


def study(
    run: Run,
    others: Sequence[Run] = (),
    at: int | None = None,
    sequences: int = 64,
    top: int = 5,
    progress: bool = False,
) -> StudyResult:
    """Study a run that predicts the token before.

    Args:
        run: A run of the task PreviousToken.
        others: Further runs of it, whose training is put beside: other learning rates, clipping, batches, positions.
        at: The kept step to look at; the last one if not given.
        sequences: How many sequences each number is taken over; probes are tried on as many others.
        top: How many keys are shown of those that a query looks for.
        progress: Show a bar while going through the kept steps.

    Raises:
        ValueError: a run of another task, a step that was not kept, too few sequences for a probe.
    """
    paths = [each.path.resolve() for each in (run, *others)]
    for each, path in zip((run, *others), paths, strict=True):
        _task(each)
        if paths.count(path) > 1:
            raise ValueError(f"run: {each.path} is given twice")
    step = run.check_step(at)
    for name, value, least in (("sequences", sequences, 2), ("top", top, 2)):
        if value < least:
            raise ValueError(f"{name}: {value} is not valid; it must be at least {least}")
    features = max(run.recipe.model.d_model, 0 if run.recipe.model.attn_only else run.recipe.model.d_mlp)
    samples, half = (count * (_task(run).length - 1) for count in (sequences, sequences // 2))
    if samples < features + 2 or half < run.recipe.model.d_model + 2:
        raise ValueError(
            f"sequences: {sequences} is not valid; its {samples} positions are too few for {features} features"
        )
    model, batch = run.model(step), _task(run).evaluation_batch(run.recipe.eval_seed, sequences)
    held_out = _task(run).evaluation_batch(run.recipe.eval_seed + 1, sequences)
    fresh = untrained(run.recipe.model)
    with shared_forward_pass():
        sections = (
            _training(run, others, step),
            _activations(model, batch),
            _attention(model, fresh, batch),
            _position(model, fresh, batch, held_out),
            _attribution(model, batch),
            _logits(model, batch),
            _vocabulary(run, step, batch),
            _neurons(run, step, batch),
            _keys(folded_model(run, step), batch, min(top, run.recipe.model.d_vocab, batch.inputs.shape[1] - 1)),
            _ablation(model, batch),
            _without_bos(run, step, batch, others),
        )
        ends = claims(model, batch)
    formed = Section(
        "How it formed",
        "The claims at each kept step up to this one.",
        over_steps(run, step, lambda each: claims(run.model(each), batch), progress),
    )
    return StudyResult(NAME, str(run.path), step, (*sections, formed), ends)


def _training(run: Run, others: Sequence[Run], step: int) -> Section:
    """Loss and gradient norm of every update, the spikes in them, and the loss at each position."""
    runs = _named((run, *others))
    training = {name: each.training for name, each in runs.items()}
    name = next(iter(runs))
    training[name] = training[name].sel(step=slice(None, step))
    longest = max((len(each.step) for each in training.values()), default=0)
    drawn = {name: _largest(each, max(1, longest // POINTS)) for name, each in training.items() if len(each.step)}
    spikes = {name: loss_spikes(each) for name, each in training.items()}
    figures = [] if not _is_published(run) else [_beside_published(training[name])]
    if drawn:
        curves = xr.concat(drawn.values(), dim=xr.Variable("run", list(drawn)), join="outer")
        figures.append(
            Figure(
                "Loss and gradient norm",
                curves[["loss", "gradient_norm"]],
                "lines",
                f"Of each {max(1, longest // POINTS)} updates that follow each other the largest, so that no spike "
                "is lost; the gradient before clipping.",
                "y",
            )
        )
    figures.append(
        Figure(
            "Runs beside each other",
            _settings(runs, training, spikes),
            "table",
            "A spike: a loss above 1.5 times the median of the 50 updates before it, and by more than 6 deviations. "
            "The last loss is the median of the last 50 updates.",
        )
    )
    if any(spikes.values()):
        figures.append(_spike_table(runs, spikes))
    kept = [each for each in run.steps if each <= step]
    per_token = np.array([loss(run.model(each), run.batch()).loss_by_position.values for each in kept])
    figures.append(
        Figure(
            "Loss by position, over training",
            xr.Dataset({"loss": (("pos", "step"), per_token.T)}, {"step": kept}),
            "lines",
            "Nats, on the evaluation batch; one line a position. Position 0 has no token before it.",
            "x",
        )
    )
    return Section("Training", "Cross-entropy of each batch before its update, in nats.", tuple(figures))


def _beside_published(training: xr.Dataset) -> Figure:
    """The training loss where the published one is known: single batches, and the median of 100."""
    losses = training.loss
    known = [each for each in PUBLISHED if each + 1 in losses.step.values]
    median = losses.rolling(step=100, min_periods=1, center=True).median()
    return Figure(
        "Beside the published run",
        table(
            "step",
            known,
            published=[PUBLISHED[each] for each in known],
            this_run=[losses.sel(step=each + 1).item() for each in known],
            median_around=[median.sel(step=each + 1).item() for each in known],
        ),
        "table",
        "Single batches; the last column is the median of the 100 updates around. The published run was probably "
        "made with a warm-up that overshoots its learning rate.",
    )


def _is_published(run: Run) -> bool:
    """Whether the run has the sizes and the data of the published one."""
    model, recipe = run.recipe.model, run.recipe
    sizes = (
        model.n_layers,
        model.n_heads,
        model.d_model,
        model.d_head,
        model.d_mlp,
        recipe.batch_size,
        recipe.optim.lr,
    )
    none = model.positional_embedding_type == "none"
    return none and sizes == (2, 1, 64, 64, 256, 256, 1e-4) and run.task == PreviousToken()


def _largest(training: xr.Dataset, together: int) -> xr.Dataset:
    """The largest numbers of each so many updates."""
    return training.coarsen(step=together, boundary="pad", coord_func="min").max()


def _settings(runs: dict[str, Run], training: dict[str, xr.Dataset], spikes: dict[str, list[Spike]]) -> xr.Dataset:
    recipes = [run.recipe for run in runs.values()]
    common = min(len(each.step) for each in training.values())
    return table(
        "run",
        runs,
        updates=[len(each.step) for each in training.values()],
        lr=[recipe.optim.lr for recipe in recipes],
        clipped_at=[np.nan if recipe.optim.max_grad_norm is None else recipe.optim.max_grad_norm for recipe in recipes],
        batch=[recipe.batch_size for recipe in recipes],
        positions=[recipe.model.positional_embedding_type for recipe in recipes],
        spikes=[len(spikes[name]) for name in runs],
        **{f"in_the_first_{common}": [sum(spike.step <= common for spike in spikes[name]) for name in runs]},
        updates_in_spikes=[sum(spike.last - spike.step + 1 for spike in spikes[name]) for name in runs],
        largest_spike=[max((spike.size for spike in spikes[name]), default=np.nan) for name in runs],
        largest_gradient=[each.gradient_norm.max().item() if len(each.step) else np.nan for each in training.values()],
        last_loss=[each.loss[-50:].median().item() if len(each.step) else np.nan for each in training.values()],
    )


def _spike_table(runs: dict[str, Run], spikes: dict[str, list[Spike]]) -> Figure:
    """The largest spikes of each run, and what one has who stops before each."""
    rows = [
        (
            name,
            spike,
            max(kept for kept in runs[name].steps if kept < spike.step),
            min((kept for kept in runs[name].steps if kept >= spike.step), default=None),
        )
        for name, found in spikes.items()
        for spike in sorted(sorted(found, key=lambda spike: -spike.size)[:SPIKES])
    ]

    def there(name: str, kept: int | None) -> float:
        return np.nan if kept is None else loss(runs[name].model(kept), runs[name].batch()).loss.item()

    return Figure(
        "Spikes",
        table(
            "spike",
            [f"{name}, updates {spike.step} to {spike.last}" for name, spike, *_ in rows],
            loss_before=[spike.before for _, spike, *_ in rows],
            peak=[spike.peak for _, spike, *_ in rows],
            size=[spike.size for _, spike, *_ in rows],
            gradient_norm=[spike.gradient_norm for _, spike, *_ in rows],
            last_kept_step_before=[kept for *_, kept, _ in rows],
            its_loss=[there(name, kept) for name, _, kept, _ in rows],
            first_kept_step_after=[np.nan if kept is None else kept for *_, kept in rows],
            and_its_loss=[there(name, kept) for name, *_, kept in rows],
        ),
        "table",
        f"The {SPIKES} largest of each run. Stopping before a spike is going back to the last kept step before it, "
        "which loses what was learnt since; beside it the first kept step from the spike on. Both losses are of the "
        "evaluation batch.",
    )


def _activations(model: Model, batch: Batch) -> Section:
    """How much each head moves at each token, and where it looks."""
    shown = forward_pass(model, batch)
    assert batch.task is not None
    tokens = [f"{q}: {token}" for q, token in enumerate(batch.task.labels(batch)[0])]
    z = torch.stack([shown.activations[f"blocks.{layer}.attn.hook_z"][0] for layer in range(model.cfg.n_layers)])
    lengths = einops.rearrange(z.norm(dim=-1), "layer pos head -> layer head pos")
    patterns = xr.Dataset(
        {"attention": (("layer", "head", "query", "key"), shown.patterns[:, 0].numpy())},
        {"query": tokens, "key": tokens},
    )
    return Section(
        "Activations",
        "The first sequence of the evaluation batch; its tokens are named by position and number.",
        (
            Figure(
                "What each head reads, in length",
                xr.Dataset({"z": ((*HEAD, "token"), lengths.numpy())}, {"token": tokens}),
                "lines",
                "The length of hook_z at each token.",
            ),
            Figure("Where each head looks", patterns, "maps"),
        ),
    )


def _attention(model: Model, fresh: Model, batch: Batch) -> Section:
    """Attention averaged over the batch, and the share of position 0, where BOS stands."""
    by_network = {"trained": _mean_pattern(model, batch), "untrained": _mean_pattern(fresh, batch)}
    shares = torch.stack([pattern[..., 0] for pattern in by_network.values()])
    uniform = uniform_pattern(model, batch)[0, 0, 0, :, 0]
    trained = xr.Dataset({"attention": (("layer", "head", "query", "key"), by_network["trained"].numpy())})
    return Section(
        "Attention",
        "Averaged over the batch: what is left depends on positions alone.",
        (
            Figure("Mean pattern", trained, "maps"),
            Figure(
                "Share of position 0, by row",
                xr.Dataset(
                    {
                        "share": (("network", *HEAD, "query"), shares.numpy()),
                        "alike": ("query", uniform.cpu().numpy(), {"long_name": "all tokens alike: 1 / (q + 1)"}),
                    },
                    {"network": list(by_network)},
                ),
                "lines",
                "Position 0 is where BOS stands, if there is one.",
                "y",
            ),
        ),
    )


def _position(model: Model, fresh: Model, batch: Batch, held_out: Batch) -> Section:
    """How well the position can be read off attention, and off what layer 0 writes, by linear regression."""
    points = {
        "token embedding": "hook_embed",
        "after layer 0's attention": "blocks.0.attn.hook_z",
        **({} if model.cfg.attn_only else {"MLP 0's neurons": "blocks.0.mlp.hook_post"}),
        "after layer 0": "blocks.0.hook_resid_post",
    }
    rows: dict[str, list[float]] = {}
    networks = (model, fresh)
    for name, read in {"share of position 0 in L0": _share, "1 / that share": _one_over_share}.items():
        rows[name] = [
            linear_probe(*(Samples(read(network, each), _positions(each)) for each in (batch, held_out))).r_squared
            for network in networks
        ]
    for name, point in points.items():
        rows[name] = [
            probe_activation(network, batch, held_out, point, _position_target).r_squared for network in networks
        ]
    return Section(
        "Reading the position",
        "R² of a linear regression of the position, tried on other sequences than it was fitted to. Without BOS or "
        "positions, causal attention alone makes a mean over more tokens the later it is taken.",
        (
            Figure(
                "R² of the position",
                table(
                    "read from", rows, trained=[r[0] for r in rows.values()], untrained=[r[1] for r in rows.values()]
                ),
                "table",
            ),
        ),
    )


def _attribution(model: Model, batch: Batch) -> Section:
    """What each part adds to the logit of the right token."""
    plain, over_mean = (attribute_outputs(model, batch, over_mean=over) for over in (False, True))
    means = {"logit": _counted(plain, batch), "logit over the mean": _counted(over_mean, batch)}
    by_position = over_mean.where(_counts(batch)).mean("batch")
    return Section(
        "Direct attribution",
        "What each component adds to the right token's logit directly, and to that logit over the mean of all logits.",
        (
            Figure("By component", xr.Dataset(means), "table"),
            Figure("By component and position", xr.Dataset({"logit_over_the_mean": by_position}), "maps"),
        ),
    )


def _logits(model: Model, batch: Batch) -> Section:
    """Logits with and without their mean over the vocabulary, which no probability depends on."""
    output = forward_pass(model, batch).output
    right = output.gather(-1, batch.targets[..., None])[..., 0]
    lines = {
        "the right token": right,
        "mean over the vocabulary": output.mean(-1),
        "the right token over the mean": right - output.mean(-1),
    }
    counted = torch.where(batch.mask, 1.0, torch.nan)
    values = np.stack([(each * counted).mean(0).numpy() for each in lines.values()])
    probability = output.softmax(-1).gather(-1, batch.targets[..., None])[..., 0] * counted
    figure = Figure(
        "Logits by position",
        xr.Dataset(
            {"logit": (("line", "pos"), values), "probability": ("pos", probability.mean(0).numpy())},
            {"line": list(lines)},
        ),
        "lines",
        "Means over the batch; the probability of the right token depends on differences alone.",
    )
    return Section("Logits", "Adding a number to all logits changes nothing.", (figure,))


def _vocabulary(run: Run, step: int, batch: Batch) -> Section:
    """The unembedding with LayerNorm folded in, and the maps between tokens."""
    model, folded = run.model(step), folded_model(run, step)
    spectra = torch.stack([torch.linalg.svdvals(weight(each, "W_U")) for each in (model, folded)])
    heads, every = heads_except(model), torch.arange(len(weight(folded, "W_E")))
    maps = torch.stack([VocabularyCircuit.qk(folded, head).rows(every) for head in heads]) / model.cfg.d_head**0.5
    scores = einops.rearrange(maps, "(layer head) query key -> layer head query key", layer=model.cfg.n_layers)
    return Section(
        "Tokens",
        "With LayerNorm's weights folded into what reads them; its scale is left out. The token alone: what earlier "
        "layers add, such as a position, is not in it.",
        (
            Figure("Folded W_U", xr.Dataset({"W_U": (("d_model", "token"), weight(folded, "W_U").numpy())}), "maps"),
            Figure(
                "Singular values of W_U",
                xr.Dataset({"singular_value": (("W_U", "number"), spectra.numpy())}, {"W_U": ["as it is", "folded"]}),
                "lines",
            ),
            Figure(
                "QK map of each head",
                xr.Dataset({"score": ((*HEAD, "query_token", "key_token"), scores.numpy())}),
                "maps",
                "W_E W_Q W_K.T W_E.T / sqrt(d_head); token 0 is BOS.",
            ),
            Figure(
                "QK map in numbers",
                table(
                    "head",
                    map(str, heads),
                    with_itself=maps.diagonal(dim1=-2, dim2=-1).mean(-1),
                    with_bos=maps[..., 0].mean(-1),
                    mean=maps.mean((-1, -2)),
                    spread=maps.std((-1, -2)),
                ),
                "table",
                "Mean score of a token with itself and with BOS, and mean and standard deviation of all.",
            ),
        ),
    )


def _neurons(run: Run, step: int, batch: Batch) -> Section:
    """From tokens through OV into neurons, what neurons do by position, and which of them matter."""
    model, folded = run.model(step), folded_model(run, step)
    if model.cfg.attn_only:
        return Section("Neurons", "This network has none.", ())
    W_E, W_in = weight(folded, "W_E"), torch.stack([block.mlp.W_in.detach() for block in folded.blocks])
    circuits = ov(folded)
    W_OV = einops.rearrange(circuits.A @ circuits.B, "(layer head) a b -> layer head a b", layer=model.cfg.n_layers)
    into = einops.einsum(W_E, W_OV, W_in, "token a, layer head a b, layer b neuron -> layer head token neuron")
    cache = _cached(model, batch)
    fired = torch.stack([cache[f"blocks.{layer}.mlp.hook_post"] for layer in range(model.cfg.n_layers)])
    by_position = einops.reduce(fired, "layer batch pos neuron -> layer pos neuron", "mean")
    clean = loss(model, batch).loss.item()
    points = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]
    effect = np.array(
        [
            [
                ablated_loss(model, batch, Entries(point, [neuron])).loss.item() - clean
                for neuron in range(W_in.shape[-1])
            ]
            for point in points
        ]
    )
    order = (-effect).argsort(axis=-1)
    kept = sorted({0, *np.unique(np.geomspace(1, W_in.shape[-1], 16).round().astype(int)).tolist()})
    keeping = np.array(
        [
            [ablated_loss(model, batch, Entries(point, ranked[many:].tolist())).loss.item() for many in kept]
            for point, ranked in zip(points, order, strict=True)
        ]
    )
    pos = torch.arange(by_position.shape[1]).float()[1:]
    figures = [
        Figure(
            "Tokens into neurons",
            xr.Dataset({"into": ((*HEAD, "token", "neuron"), into.numpy())}),
            "maps",
            "W_E W_OV W_in: what attention to a token alone adds before the activation; token 0 is BOS.",
        ),
        Figure(
            "Neurons by position",
            xr.Dataset({"activation": (("layer", "pos", "neuron"), by_position.numpy())}),
            "maps",
            "Means over the batch.",
        ),
        Figure(
            "Which neurons matter",
            xr.Dataset({"change": (("layer", "rank"), -np.sort(-effect, axis=-1))}),
            "lines",
            "Change in loss when one neuron is replaced by its mean, largest first. Most change nothing.",
        ),
        Figure(
            "Keeping the most important ones",
            xr.Dataset({"loss": (("layer", "kept"), keeping)}, {"kept": kept}),
            "lines",
            "Loss when so many neurons of a layer are kept, in that order, and all others are their means.",
            "xy",
        ),
    ]
    for layer, ranked in enumerate(order):
        first = ranked[:NEURONS].tolist()
        along = torch.corrcoef(torch.cat([pos[None], by_position[layer, 1:, first].T]))[0, 1:]
        bos = into[layer, :, 0].sum(0)[first]
        rest = into[layer, :, 1:].mean(1).sum(0)[first]
        figures.append(
            Figure(
                f"Neurons of L{layer} that matter most",
                table(
                    "neuron",
                    first,
                    change_in_loss=effect[layer, first],
                    with_position=along.tolist(),
                    from_bos=bos.tolist(),
                    from_others=rest.tolist(),
                ),
                "table",
                "with_position: correlation of the mean activation with the position. from_bos, from_others: what "
                "OV of this layer's heads carries in from BOS, and from other tokens in the mean.",
            )
        )
    return Section("Neurons", "Which of them matter, and for what.", tuple(figures))


def _keys(model: Model, batch: Batch, top: int) -> Section:
    """Which keys a query looks for, among all tokens and among those of a sequence, alone and together."""
    few = batch.first(1)
    row = few.inputs[0]
    figures = []
    queries = row[1 : top + 1]
    for head in heads_except(model):
        best = VocabularyCircuit.qk(model, head).top(queries, top)
        found = {
            "key": (("query", "rank"), best.columns.numpy()),
            "score": (("query", "rank"), best.values.numpy() / model.cfg.d_head**0.5),
        }
        names = {"query": [f"token {token}" for token in queries.tolist()], "rank": range(1, top + 1)}
        figures += [
            Figure(
                f"Keys that {head} looks for, by token",
                xr.Dataset(found, names),
                "table",
                "The largest entries in the row of W_E W_Q W_K.T W_E.T / sqrt(d_head), LayerNorm folded and its "
                "scales left out: what the token alone looks for.",
            ),
            _combinations(model, few, head, top),
        ]
    terms = qk_attribution(model, batch)
    figures.append(
        Figure(
            "Which parts find each other",
            xr.Dataset({"spread": terms.qk_attribution}),
            "maps",
            "Spread, over all query and key positions, of what each pair of components adds to the attention score.",
        )
    )
    return Section(
        "Keys and combinations of keys",
        "A score is linear in the key, so that of several keys is the sum; attention is not, since keys compete.",
        tuple(figures),
    )


def _combinations(model: Model, few: Batch, head: Head, top: int) -> Figure:
    """The best keys of the last query of one sequence, and the best pairs of them, from the head's real scores."""
    query = few.inputs.shape[1] - 1
    keys = list(range(query + 1))
    whole = score_given_keys(model, few, head, keys)
    scores = whole(reads(model, few, head.layer))[0, query]
    names = [f"{k}: {token}" for k, token in enumerate(few.inputs[0].tolist())]
    # Equal tokens are one key to what reads tokens alone; the one with the largest score stands for them.
    first = {few.inputs[0, key].item(): key for key in sorted(keys, key=lambda key: scores[key].item())}
    keys = sorted(first.values())
    summed = {some: scores[list(some)].sum().item() for size in (1, 2) for some in combinations(keys, size)}
    rows = [
        some
        for size in (1, 2)
        for some in sorted((some for some in summed if len(some) == size), key=lambda some: -summed[some])[:top]
    ]
    pattern = scores.softmax(-1)
    return Figure(
        f"Combinations of keys for {head} at position {query}",
        table(
            "keys",
            [" + ".join(names[key] for key in each) for each in rows],
            score=[summed[each] for each in rows],
            attention=[pattern[list(each)].sum().item() for each in rows],
        ),
        "table",
        "The best single keys and the best pairs of the first sequence (position: token; of equal tokens the best), "
        "with the sum of their scores and of the attention they get.",
    )


def _ablation(model: Model, batch: Batch) -> Section:
    """The loss when each activation is replaced by its mean, over everything and at each position."""
    clean = loss(model, batch).loss.item()
    points = [
        point
        for point, value in _cached(model, batch).items()
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
        "Mean ablation of everything",
        f"The loss is {clean:.3g} as it is. The mean over sequences and positions takes everything away; the mean at "
        "each position leaves the position; without its position, the rest. Attention scores and patterns are "
        "replaced by their mean at each query and key.",
        (
            Figure(
                "Loss without each activation",
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


def _without_bos(run: Run, step: int, batch: Batch, others: Sequence[Run]) -> Section:
    """What a network does on sequences that do not begin with BOS, and what others were trained with."""
    model = run.model(step)
    variants = {"as it was trained": batch, "position 0 is cut off": _cut(batch)}
    if _task(run).bos:
        variants["position 0 holds another token"] = _with_another_first(batch)
    else:
        variants["position 0 holds BOS"] = replace(_task(run), bos=True).evaluation_batch(
            run.recipe.eval_seed, len(batch.inputs)
        )
    losses = [mean_loss(forward_pass(model, each).output, each).item() for each in variants.values()]
    figures = [Figure("On other sequences", table("sequences", variants, loss=losses), "table", "Nats.")]
    if others:
        runs = _named((run, *others))
        at = {name: each.check_step(step if each is run else None) for name, each in runs.items()}
        trained = {name: (each.recipe, each.model(at[name]), each.batch()) for name, each in runs.items()}
        before = [
            previous_token_score(each, of).previous_token.isel(layer=-1).max().item()
            for _, each, of in trained.values()
        ]
        figures.append(
            Figure(
                "Trained with and without positions and BOS",
                table(
                    "run",
                    trained,
                    positions=[recipe.model.positional_embedding_type for recipe, _, _ in trained.values()],
                    bos=[_task(each).bos for each in runs.values()],
                    step=list(at.values()),
                    loss=[loss(each, of).loss.item() for _, each, of in trained.values()],
                    previous_token=before,
                ),
                "table",
                "This run at this step, others at their last, on batches of their own; previous_token is the best "
                "of the last layer.",
            )
        )
    return Section("Without BOS, and with positions", "", tuple(figures))


def claims(model: Model, batch: Batch) -> Claims:
    """How the position is derived, each statement with the number that decides it in this network.

    What is lost is a share of what the network knows: (loss - clean) / (knowing nothing - clean); 1 is all of it. It is
    NaN where the network knows less than half of what there is to know. So is what a network does not have (an MLP, a
    second layer); a claim without a number does not hold.
    """
    last = model.cfg.n_layers - 1
    scores = previous_token_score(model, batch)
    way = (scores.previous_token - scores.previous_token_chance) / (1 - scores.previous_token_chance)
    best = int(way.isel(layer=-1).values.argmax())
    nothing = _knowing_nothing(batch)
    clean = loss(model, batch).loss.item()
    log_share = forward_pass(model, batch).patterns[0, :, :, 1:, 0].log()
    where = torch.arange(2.0, 1 + batch.inputs.shape[1]).log().expand_as(log_share[:, 0])
    fits = [
        torch.corrcoef(torch.stack([where.flatten(), log_share[:, head].flatten()]))[0, 1].item() ** 2
        for head in range(log_share.shape[1])
    ]
    half = len(batch.inputs) // 2
    ends = (batch.first(half), _rest(batch, half))
    read = linear_probe(*(Samples(_after_layer_0(model, each), _positions(each)) for each in ends)).r_squared

    known = nothing - clean if clean < 0.5 * nothing else np.nan

    def lost(point: str, kind: Kind) -> float:
        """The share of what the network knows that is lost when an activation is replaced; NaN if it knows little."""
        if point not in model.hook_dict or (model.cfg.attn_only and "mlp" in point) or model.cfg.n_layers < 2:
            return np.nan
        return (ablated_loss(model, batch, point, kind).loss.item() - clean) / known

    blind = _with_another_first(batch)
    bosless = mean_loss(forward_pass(model, blind).output, blind).item()
    said = _counted(attribute_outputs(model, batch, over_mean=True), batch)
    mlp = f"{last}_mlp_out"
    return (
        Claim("It says the token before", "accuracy", accuracy(model, batch).accuracy.item(), 0.9),
        Claim(
            f"A head of the last layer (L{last}) looks at the token before",
            f"previous_token of L{last}H{best}, from chance (0) to nothing else (1)",
            way.isel(layer=-1).max().item(),
            0.5,
        ),
        Claim(
            f"The heads of L{last} look at the current token and the one before, and hardly at others",
            f"attention to these two, best head of L{last}",
            _current_and_before(model, batch),
            0.8,
        ),
        Claim(
            f"The MLP of L{last} says the token, not attention itself",
            "its share of the right token's logit over the mean of all",
            (said.sel(component=mlp) / said.sum()).item() if mlp in said.component.values and known > 0 else np.nan,
            0.5,
        ),
        Claim(
            "The last layer looks by position, whatever the tokens are",
            f"what is lost with L{last}'s mean pattern",
            lost(f"blocks.{last}.attn.hook_pattern", "position_mean"),
            0.1,
            below=True,
        ),
        Claim(
            "Layer 0 looks at all tokens alike",
            "least attention_entropy of its heads; 1 is uniform",
            attention_entropy(model, batch).attention_entropy.isel(layer=0).min().item(),
            0.9,
        ),
        Claim(
            "So the share of position 0 says which position it is",
            "R² of its logarithm with the logarithm of the position, best head of L0; there must be a BOS",
            float(np.nanmax(fits)) if np.isfinite(fits).any() and _task_of(batch).bos else np.nan,
            0.9,
        ),
        Claim(
            "What layer 0 leaves behind tells the position",
            "R² of a linear regression on other sequences",
            read if model.cfg.n_layers > 1 else np.nan,
            0.9,
        ),
        Claim(
            "Layer 0's attention carries the position",
            "what is lost without the position in it",
            lost("blocks.0.hook_attn_out", "without_position"),
            0.5,
        ),
        Claim(
            "Layer 0's attention is needed for nothing else",
            "what is lost with the position alone in it",
            lost("blocks.0.hook_attn_out", "position_mean"),
            0.1,
            below=True,
        ),
        Claim(
            "Layer 0's MLP hands the position on",
            "what is lost without the position in it",
            lost("blocks.0.hook_mlp_out", "without_position"),
            0.5,
        ),
        Claim(
            "It needs BOS to know where it is",
            "what is lost with another token in its place",
            (bosless - clean) / known if _task_of(batch).bos else np.nan,
            0.5,
        ),
    )


def _current_and_before(model: Model, batch: Batch) -> float:
    """Attention of the last layer to positions q - 1 and q, of the head that has most."""
    patterns = forward_pass(model, batch).patterns[-1]
    here, before = patterns.diagonal(dim1=-2, dim2=-1)[..., 1:], patterns.diagonal(-1, dim1=-2, dim2=-1)
    return einops.reduce(here + before, "batch head q -> head", "mean").max().item()


def _knowing_nothing(batch: Batch) -> float:
    return _task_of(batch).baselines()["bos_known"]


def _task_of(batch: Batch) -> PreviousToken:
    assert isinstance(batch.task, PreviousToken)
    return batch.task


def _task(run: Run) -> PreviousToken:
    task = run.task
    if not isinstance(task, PreviousToken):
        raise ValueError(f"run: {run.path} is of the task {type(task).__name__}; {NAME} needs PreviousToken")
    return task


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the names of their directories, or by their whole paths if those are the same."""
    names = [run.path.name for run in runs]
    return dict(zip(names if len(set(names)) == len(names) else [str(run.path) for run in runs], runs, strict=True))


def _cached(model: Model, batch: Batch) -> dict[str, Tensor]:
    """Every activation."""
    with torch.no_grad(), evaluating(model):
        return model.run_with_cache(batch.inputs, return_cache_object=False)[1]


def _mean_pattern(model: Model, batch: Batch) -> Float[Tensor, "layer head query key"]:
    return einops.reduce(forward_pass(model, batch).patterns, "layer batch head q k -> layer head q k", "mean")


def _share(model: Model, batch: Batch) -> Float[Tensor, "sample head"]:
    return einops.rearrange(forward_pass(model, batch).patterns[0, :, :, :, 0], "batch head q -> batch q head")[
        batch.mask
    ]


def _one_over_share(model: Model, batch: Batch) -> Float[Tensor, "sample head"]:
    return 1 / _share(model, batch).clamp(min=1e-6)


def _after_layer_0(model: Model, batch: Batch) -> Float[Tensor, "sample d_model"]:
    return forward_pass(model, batch).activations["blocks.0.hook_resid_post"][batch.mask]


def _positions(batch: Batch) -> Float[Tensor, "sample 1"]:
    return _position_target(batch)[batch.mask]


def _position_target(batch: Batch) -> Float[Tensor, "batch pos 1"]:
    rows, length = batch.inputs.shape
    return einops.repeat(torch.arange(float(length)), "pos -> batch pos 1", batch=rows)


def _counted(terms: xr.DataArray, batch: Batch) -> xr.DataArray:
    """The mean over the positions that count."""
    return terms.where(_counts(batch)).mean(("batch", "pos"))


def _counts(batch: Batch) -> xr.DataArray:
    return xr.DataArray(batch.mask.numpy(), dims=("batch", "pos"))


def _rest(batch: Batch, count: int) -> Batch:
    return batch._replace(inputs=batch.inputs[count:], targets=batch.targets[count:], mask=batch.mask[count:], info={})


def _with_another_first(batch: Batch) -> Batch:
    """The same sequences with another's first drawn token in the place of BOS."""
    inputs, targets = batch.inputs.clone(), batch.targets.clone()
    inputs[:, 0] = targets[:, 1] = batch.inputs.roll(1, 0)[:, 1]
    return batch._replace(inputs=inputs, targets=targets)


def _cut(batch: Batch) -> Batch:
    """The sequences without position 0; what then stands first has nothing before it."""
    mask = batch.mask[:, 1:].clone()
    mask[:, 0] = False
    return batch._replace(inputs=batch.inputs[:, 1:], targets=batch.targets[:, 1:], mask=mask)
