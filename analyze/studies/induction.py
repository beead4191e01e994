"""How a network finds what followed a token before: the story of ARENA's notebook on induction circuits.

A head of an early layer writes into each position which token stood before it; the keys of a later head read that, its
queries the current token, so that it attends to what followed that token before, and copies it. The claims at the end
ask whether this network does so, whether that is all it needs, and whether it also does it fuzzily: after a synonym.
"""

from collections.abc import Callable, Sequence
from itertools import product

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from headway.analyze.measures.ablation import ablated_loss, ablation
from headway.analyze.measures.attention import current_token, first_token, prefix_matching
from headway.analyze.measures.attention import previous_token as previous_token_score
from headway.analyze.measures.attribution import attribute_inputs, attribute_outputs, attribute_scores
from headway.analyze.measures.composition import k_composition, q_composition, v_composition
from headway.analyze.measures.loss import accuracy, loss
from headway.analyze.measures.positions import position_attention, position_pattern
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass, hooked_forward_pass, shared_forward_pass, to_zero
from headway.analyze.network.interventions import Kind, heads_except, through_paths
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.network.vocabulary import VocabularyCircuit
from headway.analyze.studies.circuit import (
    Circuit,
    Known,
    Network,
    Thresholds,
    best_of,
    better_than_chance,
    composition_share,
    find_circuit,
    heads_above,
    listed,
    lost_through,
    match_shares,
    mean_where,
    of_pair,
    parts_of,
    position_share,
    says_share,
    share_of,
    way_from_chance,
    without_positions,
)
from headway.analyze.studies.copies import Sequences, in_synonyms, own_repeats, two_copies
from headway.analyze.studies.loading import LoadedModel, folded_model
from headway.analyze.studies.result import Claim, Claims, Figure, Section, StudyResult, table
from headway.analyze.studies.runner import over_steps
from headway.checkpoints.run import Run
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model

NAME = "induction"
# Of so many tokens, and so many positions, a picture is drawn.
SHOWN_TOKENS, SHOWN_POSITIONS = 100, 100
# Numbers in the scores of all pairs of components: 400 MB.
MOST_SCORES = 10**8
# With more heads than this, each is replaced by its mean alone: a forward pass for each is enough.
MANY_HEADS = 64
# Multiplications in the OV circuits of all heads; beyond that only those of the circuit's heads are asked.
MOST_OV = 10**11


def study(
    run: Run | TransformerBridge,
    others: Sequence[Run] = (),
    at: int | None = None,
    sequences: int = 64,
    current_above: float = 0.3,
    previous_above: float = 0.35,
    first_above: float = 0.7,
    induction_above: float = 0.5,
    pairs: str | None = None,
    progress: bool = False,
) -> StudyResult:
    """Study a network that predicts repeated tokens.

    Args:
        run: A run of the task RepeatedTokens or RepeatedSynonyms, or a language model.
        others: Further runs of them, whose fuzzy induction stands beside, each at its last step.
        at: The kept step to look at; the last one if not given.
        sequences: How many sequences each number is taken over.
        current_above: Attention to its own position above which a head is called a current-token head.
        previous_above: Attention to the position before above which a head is called a previous-token head.
        first_above: Attention to position 0 above which a head is called a first-token head.
        induction_above: Attention to what followed the current token above which a head is called an induction head.
        pairs: A file of tokens that mean the same, two in a line with a comma between them; those that the network
            embeds alike if not given.

    Raises:
        ValueError: a run of another task, a step that was not kept, a file of pairs that cannot be read.
    """
    repeats = own_repeats(run)
    for each in others:
        own_repeats(each)
    if sequences < 2:
        raise ValueError(f"sequences: {sequences} is not valid; it must be at least 2")
    thresholds = {"current": current_above, "previous": previous_above, "first": first_above}
    for name, value in {**thresholds, "induction": induction_above}.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}_above: {value} is not valid; attention is from 0 to 1")
    subject = LoadedModel.of(run, at)
    network = Network(subject.model, subject.folded)
    meant = in_synonyms(subject, repeats, pairs)
    seed = run.recipe.eval_seed if isinstance(run, Run) else 0
    main, copies = (each.sequences(seed, sequences) for each in (repeats, two_copies(repeats)))
    fuzzy = None if meant is None else meant.sequences(seed, sequences)
    limits = Thresholds(previous_above, induction_above)
    with shared_forward_pass():
        circuit = find_circuit(network.model, main, limits)
        sections = [
            _heads(network.model, main, {**thresholds, "induction": induction_above}),
            _predictions(subject, main, copies),
            _activations(subject, copies),
            _attribution(network.model, main, copies),
            _ablation(network.model, main, circuit),
            _copying(subject, main, circuit),
        ]
        if circuit is not None:
            sections += [
                *_positions(network, main, circuit),
                _inputs(subject, copies, circuit),
                _composition(subject, main, circuit),
                _paths(network.model, main, circuit),
            ]
        if meant is not None and fuzzy is not None:
            sections.append(_fuzzy(subject, main, fuzzy, meant.told, others, limits))
        ends = claims(network, main, fuzzy, limits)
    if isinstance(run, Run) and subject.step is not None:
        step = subject.step

        def at_step(each: int) -> Network:
            return Network(run.model(each), folded_model(run, each))

        figures = over_steps(
            run,
            step,
            lambda each: claims(at_step(each), main, fuzzy, limits),
            progress,
            lambda each: _measured(at_step(each), main),
        )
        sections.append(Section("How it formed", "The claims and the measures at each kept step up to this.", figures))
    return StudyResult(NAME, subject.name, subject.step, tuple(sections), ends)


def _heads(model: Model, sequences: Sequences, thresholds: dict[str, float]) -> Section:
    """Which heads look at their own position, the one before, the first, and what followed the current token."""
    batch = sequences.batch
    measured = {
        "current": current_token(model, batch),
        "previous": previous_token_score(model, batch),
        "first": first_token(model, batch),
        "induction": prefix_matching(model, batch, sequences.same),
    }
    names = {"current": "current_token", "previous": "previous_token", "first": "first_token"}
    names["induction"] = "prefix_matching"
    scores = {names[kind]: each[names[kind]] for kind, each in measured.items()}
    found = {kind: heads_above(scores[names[kind]].values, above) for kind, above in thresholds.items()}
    chosen = sorted({head for heads in found.values() for head in heads})
    figures = [
        Figure(
            "Detectors",
            table(
                "heads that look at",
                ["their own position", "the position before", "position 0", "what followed the current token"],
                measure=list(names.values()),
                above=list(thresholds.values()),
                chance=[measured[kind][f"{name}_chance"].item() for kind, name in names.items()],
                most=[scores[name].max().item() for name in names.values()],
                heads=[listed(heads) for heads in found.values()],
            ),
            "table",
            "A head is named if its score is above the threshold; chance is attention to all alike.",
        ),
        Figure("Scores of all heads", xr.Dataset({name: (HEAD, each.values) for name, each in scores.items()}), "maps"),
    ]
    if chosen:
        of_each = {name: [each.values[head] for head in chosen] for name, each in scores.items()}
        figures.insert(1, Figure("Scores of these heads", table("head", map(str, chosen), **of_each), "table"))
    return Section("Heads", "Means over all queries of the sequences.", tuple(figures))


def _predictions(subject: LoadedModel, sequences: Sequences, copies: Sequences) -> Section:
    """The loss on what is new and on what repeats, by position, and what is predicted right."""
    model, batch = subject.model, copies.batch
    losses, right = loss(model, sequences.batch), accuracy(model, sequences.batch)
    assert sequences.batch.task is not None
    baselines = {f"baseline: {n.replace('_', ' ')}": v for n, v in sequences.batch.task.baselines().items()}
    parts = ["first", "repeats"]
    S = batch.inputs.shape[1] // 2
    by_position = loss(model, batch).loss_by_position.values
    halves = np.stack([by_position[:S], by_position[S : 2 * S]])
    output, tokens = forward_pass(model, batch).output[0], subject.tokens(batch)[0]
    following, predicted = batch.targets[0], output.argmax(-1)
    probability = output.softmax(-1).gather(-1, following[:, None])[:, 0]
    hits = predicted == following
    return Section(
        "Predictions",
        "Tokens that are new cannot be told; those that repeat can. The copies in these sequences begin anywhere and "
        f"have any length that the task draws; the sequences of one length have {S} tokens and then the same again.",
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
                "Nats. first: no such token stands before; repeats: from the second token of a copy on.",
            ),
            Figure(
                "Loss by position, first and second copy",
                xr.Dataset({"loss": (("copy", "pos"), halves)}, {"copy": ["first", "second"]}),
                "lines",
                "One line a copy, by the position within it; the first token of the second copy is new.",
            ),
            Figure(
                "What is predicted in the second copy",
                table(
                    "pos",
                    range(S, 2 * S),
                    token=tokens[S:],
                    next=[subject.token(token) for token in following[S:].tolist()],
                    predicted=[subject.token(token) for token in predicted[S:].tolist()],
                    right=hits[S:].tolist(),
                    probability=probability[S:].numpy(),
                ),
                "table",
                f"The first sequence. {int(hits[:S].sum())} of {S} are right in its first copy, "
                f"{int(hits[S:].sum())} of {S} in the second; the probability is that of the next token.",
            ),
        ),
    )


def _activations(subject: LoadedModel, copies: Sequences) -> Section:
    """Where each head looks, token by token, and how much it moves."""
    shown, tokens = forward_pass(subject.model, copies.batch), _labelled(subject, copies.batch)
    z = torch.stack(
        [shown.activations[f"blocks.{layer}.attn.hook_z"][0] for layer in range(subject.model.cfg.n_layers)]
    )
    lengths = einops.rearrange(z.norm(dim=-1), "layer pos head -> layer head pos").numpy()
    patterns = xr.Dataset(
        {"attention": ((*HEAD, "query", "key"), shown.patterns[:, 0].numpy())}, {"query": tokens, "key": tokens}
    )
    return Section(
        "Activations",
        "The first sequence of two equal copies.",
        (
            Figure("Where each head looks", patterns, "maps"),
            Figure(
                "What each head reads, in length",
                xr.Dataset({"z": ((*HEAD, "token"), lengths)}, {"token": tokens}),
                "lines",
                "The length of hook_z at each token.",
            ),
        ),
    )


def _attribution(model: Model, sequences: Sequences, copies: Sequences) -> Section:
    """What the direct path and each head add to the right logit, on new tokens and on repeats."""
    terms = attribute_outputs(model, sequences.batch, over_mean=True)
    columns = {part: mean_where(terms, where) for part, where in parts_of(sequences.batch).items()}
    by_position = attribute_outputs(model, copies.batch, over_mean=True).mean("batch")
    return Section(
        "Direct attribution",
        "What each component adds to the logit of the right token over the mean of all logits, with the scale of the "
        "last LayerNorm; embed is the direct path. The components add up to it, which is checked at every position.",
        (
            Figure(
                "By component",
                xr.Dataset({**columns, "difference": columns["repeats"] - columns["first"]}),
                "table",
                "Means over the tokens that are new, and over those that repeat.",
            ),
            Figure(
                "By component and position",
                xr.Dataset({"logit_over_the_mean": by_position}),
                "maps",
                "On two equal copies; the second begins in the middle.",
            ),
        ),
    )


def _ablation(model: Model, sequences: Sequences, circuit: Circuit | None) -> Section:
    """What is lost without each head, without the circuit, and with nothing but the circuit."""
    batch = sequences.batch
    kinds: tuple[Kind, ...] = ("mean", "zero") if len(heads_except(model)) <= MANY_HEADS else ("mean",)
    each = {kind: ablation(model, batch, kind).ablation_repeats.values for kind in kinds}
    figures = [
        Figure(
            "Change in loss on repeats without each head",
            xr.Dataset({"change": (("kind", *HEAD), np.stack(list(each.values())))}, {"kind": list(each)}),
            "maps",
            f"Replaced by its {' or by '.join(kinds)} over the batch; nats.",
        )
    ]
    if circuit is not None:
        known = Known.of(model, batch)
        without = {
            "nothing": [],
            f"the best previous-token head {circuit.previous}": [circuit.previous],
            f"previous-token heads {listed(circuit.previous_heads)}": circuit.previous_heads,
            f"the best induction head {circuit.induction}": [circuit.induction],
            f"induction heads {listed(circuit.induction_heads)}": circuit.induction_heads,
            "both": circuit.heads,
            "all but both": heads_except(model, circuit.heads),
            "all but the best two": heads_except(model, (circuit.previous, circuit.induction)),
            "all heads": heads_except(model),
        }
        left = [ablated_loss(model, batch, heads) for heads in without.values()]
        figures.append(
            Figure(
                "Loss without the circuit, and with nothing else",
                table(
                    "without",
                    without,
                    heads=[len(heads) for heads in without.values()],
                    loss_first=[each.loss_first.item() for each in left],
                    loss_repeats=[each.loss_repeats.item() for each in left],
                    lost=[known.lost(each.loss_repeats.item()) for each in left],
                ),
                "table",
                "Heads are replaced together by their means. lost: the share of what repeats tell through attention, "
                "(loss - clean) / (loss without all heads - clean); the circuit is necessary if all is lost without "
                "it, and sufficient if nothing is lost without all others.",
            )
        )
    return Section("Ablation", "", tuple(figures))


def _copying(subject: LoadedModel, sequences: Sequences, circuit: Circuit | None) -> Section:
    """The full OV circuit: which tokens a head, or a set of heads, says when it looks at one."""
    model = subject.folded
    heads = heads_except(model)
    work = len(heads) * model.cfg.d_vocab**2 * model.cfg.d_head
    if work > MOST_OV:
        heads = [] if circuit is None else sorted(circuit.heads)
    sets: dict[str, Sequence[Head]] = {str(head): [head] for head in heads}
    if circuit is not None and len(circuit.induction_heads) > 1:
        sets[f"{listed(circuit.induction_heads)} together"] = circuit.induction_heads
    if work <= MOST_OV:
        last = model.cfg.n_layers - 1
        sets[f"all of L{last} together"] = [Head(last, head) for head in range(model.cfg.n_heads)]
    top = {k: [says_share(model, sequences, some, k) for some in sets.values()] for k in (1, 5)}
    best = circuit.induction if circuit is not None else Head(0, 0)
    tokens = _some(sequences)
    entries = VocabularyCircuit.ov(model, best).rows(tokens)[:, tokens]
    names = [subject.token(token) for token in tokens.tolist()]
    return Section(
        "OV circuit",
        "W_E W_OV W_U, [input token, output token], with LayerNorm's weights folded and its scales left out.",
        (
            Figure(
                "Tokens that are copied",
                table("heads", sets, top1=top[1], top5=top[5]),
                "table",
                "The share of tokens whose own logit (or that of their synonym, where copies are synonyms) is the "
                f"largest, or among the five largest, of what the heads would write; chance is "
                f"{1 / model.cfg.d_vocab_out:.2g} and {5 / model.cfg.d_vocab_out:.2g}.",
            ),
            Figure(
                f"OV circuit of {best}",
                xr.Dataset({"logit": (("input", "output"), entries.numpy())}, {"input": names, "output": names}),
                "maps",
                f"{len(tokens)} tokens." if len(tokens) < model.cfg.d_vocab else "",
            ),
        ),
    )


def _positions(network: Network, sequences: Sequences, circuit: Circuit) -> list[Section]:
    """Whether the previous-token head finds its token by position, and what is left without positions."""
    model, batch = network.model, sequences.batch
    text = "What heads would look at if positions were all there is, and what they look at without them."
    try:
        by_head = position_pattern(network.folded, batch)
        pattern = position_attention(network.folded, circuit.previous)[:SHOWN_POSITIONS, :SHOWN_POSITIONS]
    except DoesNotApplyError as reason:
        return [Section("Positions", f"{reason}.", ())]
    before = prefix_matching(model, batch, sequences.same).prefix_matching
    with hooked_forward_pass(model, [("hook_pos_embed", to_zero)]):
        after = prefix_matching(model, batch, sequences.same).prefix_matching
        lost = loss(model, batch)
    clean = loss(model, batch)
    scores = np.stack([before.values, after.values])
    real = way_from_chance(previous_token_score(model, batch), "previous_token", circuit.previous)
    by_weights = way_from_chance(by_head, "position_pattern", circuit.previous)
    figures = (
        Figure(
            f"How far {circuit.previous} looks at the position before",
            table(
                "by",
                ["all it reads", "positions and biases", "positions, LayerNorm's scale left out"],
                way=[real, position_share(model, batch, circuit.previous), by_weights],
            ),
            "table",
            "From chance (0) to nothing else (1). Without the scale, weights say what a head is drawn to and not how "
            "sharply.",
        ),
        Figure(
            "Attention to the position before, from positions alone",
            xr.Dataset({"position_pattern": (HEAD, by_head.position_pattern.values)}),
            "maps",
            f"softmax(W_pos W_QK W_pos.T / sqrt(d_head)), its mean sub-diagonal; chance is "
            f"{by_head.position_pattern_chance.item():.2g}.",
        ),
        Figure(
            f"Pattern of {circuit.previous} from positions alone",
            xr.Dataset({"attention": (("query", "key"), pattern.float().numpy())}),
            "maps",
            f"Its mean sub-diagonal is {by_head.position_pattern.values[circuit.previous]:.3g}."
            + (f" The first {SHOWN_POSITIONS} positions." if model.cfg.n_ctx > SHOWN_POSITIONS else ""),
        ),
        Figure(
            "Prefix matching with and without positions",
            xr.Dataset({"prefix_matching": (("positions", *HEAD), scores)}, {"positions": ["as they are", "zero"]}),
            "maps",
            "hook_pos_embed replaced by zero.",
        ),
        Figure(
            "Without positions, in numbers",
            table(
                "positions",
                ["as they are", "zero"],
                most_prefix_matching=[before.max().item(), after.max().item()],
                of_the_circuit=[before.values[circuit.induction], after.values[circuit.induction]],
                loss_first=[clean.loss_first.item(), lost.loss_first.item()],
                loss_repeats=[clean.loss_repeats.item(), lost.loss_repeats.item()],
            ),
            "table",
            "of_the_circuit: the best induction head.",
        ),
    )
    return [Section("Positions", text, figures)]


def _inputs(subject: LoadedModel, copies: Sequences, circuit: Circuit) -> Section:
    """What the induction head's queries and keys are made of, and which parts find each other."""
    model = subject.model
    try:
        parts = attribute_inputs(model, copies.batch.first(1), circuit.induction).isel(batch=0)
    except DoesNotApplyError as reason:
        return Section("Queries and keys", f"{reason}.", ())
    tokens, length = _labelled(subject, copies.batch), copies.batch.inputs.shape[1]
    fitting = MOST_SCORES // (parts.sizes["component"] ** 2 * length**2)
    scores = attribute_scores(model, copies.batch.first(max(1, min(4, fitting))), circuit.induction)
    spread = scores.std(("batch", "query", "key"))
    size = (parts**2).sum("d_head") ** 0.5
    composed = scores.isel(batch=0).sel(query_component="embed", key_component=str(circuit.previous))
    best = spread.stack(pair=("query_component", "key_component"))
    best = best.isel(pair=np.argsort(-best.values)[:10])
    means = size.mean("pos")
    return Section(
        "Queries and keys",
        f"The inputs of {circuit.induction}, split into what each component of the network writes. All terms add up to "
        "the score, which is checked.",
        (
            Figure(
                "Lengths of the components of queries and keys",
                xr.Dataset({"length": (size.dims, size.values)}, {**size.coords, "pos": tokens}).drop_vars(
                    "batch", errors="ignore"
                ),
                "maps",
                "At each token of the first sequence.",
            ),
            Figure(
                "Lengths, in the mean",
                table(
                    "component",
                    means.component.values,
                    query=means.sel(input="q").values,
                    key=means.sel(input="k").values,
                ),
                "table",
            ),
            Figure(
                f"Scores between the embedding and {circuit.previous}",
                xr.Dataset({"score": (("query", "key"), composed.values)}, {"query": tokens, "key": tokens}),
                "maps",
                "What (embed, the previous-token head) adds to the score, divided by sqrt(d_head) as scores are.",
            ),
            Figure(
                "Which parts find each other",
                xr.Dataset({"spread": (spread.dims, spread.values)}, dict(spread.coords)),
                "maps",
                "Standard deviation, over all visible queries and keys, of what each pair adds to the score.",
            ),
            Figure(
                "The pairs of components that matter most",
                table(
                    "query, key",
                    [f"{q}, {k}" for q, k in best.pair.values],
                    spread=best.values,
                ),
                "table",
            ),
        ),
    )


def _composition(subject: LoadedModel, sequences: Sequences, circuit: Circuit) -> Section:
    """Through which heads queries, keys and values read, in the weights."""
    model, h1, h2 = subject.folded, circuit.previous, circuit.induction
    tokens = _some(sequences)
    try:
        whole = VocabularyCircuit.k_composition(model, h1, h2)
        kinds = {"q": q_composition, "k": k_composition, "v": v_composition}
        scored = {kind: measured(model, sequences.batch) for kind, measured in kinds.items()}
    except DoesNotApplyError as reason:
        return Section("K-composition", f"{reason}.", ())
    names = [subject.token(token) for token in tokens.tolist()]
    pairs = list(product(circuit.previous_heads, circuit.induction_heads))
    pairs = [(a, b) for a, b in pairs if a.layer < b.layer]
    every = {
        kind: _flat(each[f"{kind}_composition"]).dropna("writes", how="all").dropna("reads", how="all")
        for kind, each in scored.items()
    }
    here = {kind: each.sel(of_pair(h1, h2)) for kind, each in scored.items()}
    strongest = _strongest(scored["k"])
    tops = [match_shares(model, sequences, a, b) for a, b in pairs]
    return Section(
        "K-composition",
        f"How {h2} reads what {h1} writes. W_E W_QK W_OV.T W_E.T says which key token, written by {h1} one position "
        f"later, a query token looks for. LayerNorm's weights are folded, its scales left out.",
        (
            Figure(
                f"K-composition circuit of {h1} and {h2}",
                xr.Dataset(
                    {"score": (("query", "key"), whole.rows(tokens)[:, tokens].numpy())},
                    {"query": names, "key": names},
                ),
                "maps",
                f"{len(tokens)} tokens." if len(tokens) < model.cfg.d_vocab else "",
            ),
            Figure(
                "Tokens that find themselves",
                table(
                    "pair",
                    [f"{a} → {b}" for a, b in pairs],
                    best_key=[key for key, _ in tops],
                    best_query=[query for _, query in tops],
                ),
                "table",
                "The share of tokens that are the best key of themselves as query, and the best query of themselves as "
                "key (of their synonym, where copies are synonyms).",
            ),
            Figure(
                f"Composition of {h1} and {h2}, beside the null",
                table(
                    "composition",
                    kinds,
                    score=[here[kind][f"{kind}_composition"].item() for kind in kinds],
                    null=[here[kind][f"{kind}_composition_null"].item() for kind in kinds],
                    null_std=[here[kind][f"{kind}_composition_null_std"].item() for kind in kinds],
                    z=[here[kind][f"{kind}_composition_z"].item() for kind in kinds],
                    ceiling=[here[kind][f"{kind}_composition_ceiling"].item() for kind in kinds],
                ),
                "table",
                "null: the same singular values, turned at random. The strongest K-composition of all pairs is that "
                f"of {strongest}.",
            ),
            Figure(
                "Composition of all pairs",
                xr.Dataset({f"{kind}_composition": each for kind, each in every.items()}),
                "maps",
                "Rows write, columns read.",
            ),
        ),
    )


def _strongest(scores: xr.Dataset) -> str:
    """The pair of heads with the largest K-composition beyond its null."""
    z = scores.k_composition_z.values
    if not np.isfinite(z).any():
        return "no pair"
    l1, h1, l2, h2 = map(int, np.unravel_index(np.nanargmax(z), z.shape))
    return f"{Head(l1, h1)} and {Head(l2, h2)}"


def _paths(model: Model, sequences: Sequences, circuit: Circuit) -> Section:
    """What is lost when later heads read, at one input, what the previous-token heads write on other sequences."""
    batch = sequences.batch
    senders = {
        f"{circuit.previous} → {circuit.induction}": ((circuit.previous,), (circuit.induction,)),
        str(circuit): (circuit.previous_heads, circuit.induction_heads),
    }
    rows, losses, attention = [], [], []
    try:
        for (name, (a, b)), input in product(senders.items(), ("q", "k", "v")):
            with hooked_forward_pass(model, through_paths(model, batch, a, b, input)):
                losses.append(loss(model, batch).loss_repeats.item())
                score = prefix_matching(model, batch, sequences.same).prefix_matching
            rows.append(f"{name}, {input}")
            attention.append(score.values[circuit.induction])
    except DoesNotApplyError as reason:
        return Section("Path patching", f"{reason}.", ())
    known = Known.of(model, batch)
    whole = prefix_matching(model, batch, sequences.same).prefix_matching.values[circuit.induction]
    return Section(
        "Path patching",
        "The later heads read, at one of their inputs, what the earlier ones write on other sequences; all other "
        "readers see them as they are.",
        (
            Figure(
                "Loss on repeats with a path from other sequences",
                table(
                    "path, input",
                    ["as it is", *rows],
                    loss_repeats=[known.clean, *losses],
                    lost=[known.lost(each) for each in (known.clean, *losses)],
                    prefix_matching=[whole, *attention],
                ),
                "table",
                f"lost: the share of what repeats tell. prefix_matching is that of {circuit.induction}.",
            ),
        ),
    )


def _fuzzy(
    subject: LoadedModel,
    main: Sequences,
    fuzzy: Sequences,
    told: str,
    others: Sequence[Run],
    limits: Thresholds,
) -> Section:
    """Every quantity of induction under the equivalence of synonyms, beside equality, and beside other networks."""
    count = len(fuzzy.batch.inputs)
    networks = {f"{subject.name}, synonyms": (Network(subject.model, subject.folded), fuzzy)}
    if not torch.equal(main.synonyms, fuzzy.synonyms):
        networks = {f"{subject.name}, equal": (Network(subject.model, subject.folded), main)} | networks
    for run in others:
        other = LoadedModel.of(run)
        meant = in_synonyms(other, own_repeats(run))
        if meant is not None:
            both = Network(other.model, other.folded)
            networks[f"{other.name}, synonyms"] = (both, meant.sequences(run.recipe.eval_seed, count))
    found = {name: _quantities(network, of_them, limits) for name, (network, of_them) in networks.items()}
    circuits = {name: find_circuit(network.model, of_them, limits) for name, (network, of_them) in networks.items()}
    told += " The heads: " + "; ".join(f"{each} ({name})" for name, each in circuits.items() if each) + "."
    repeats = parts_of(fuzzy.batch)["repeats"][0]
    following, tokens = fuzzy.batch.targets[0], subject.tokens(fuzzy.batch)[0]
    predicted = forward_pass(subject.model, fuzzy.batch).output[0].argmax(-1)
    where = repeats.nonzero().flatten().tolist()
    return Section(
        "Fuzzy induction",
        f"After [A] [B] … [A*], is it [B*]? Sequences of random tokens that are followed by their synonyms. {told} "
        "Attention is to what followed the synonym of the current token, what is said right is the synonym of what "
        "stands there, and tokens match that are synonyms.",
        (
            Figure(
                "Induction, and fuzzy induction",
                xr.Dataset(
                    {"value": (("of repeats", "network"), np.array([list(row.values()) for row in found.values()]).T)},
                    {"of repeats": list(next(iter(found.values()))), "network": list(found)},
                ),
                "table",
                "equal: sequences whose copies are equal. lost without: the share of what repeats tell that is lost "
                "without the previous-token and induction heads; but: without all others; keys: with the keys of the "
                "induction heads reading what previous-token heads write on other sequences. – where a network knows "
                "nothing that could be lost.",
            ),
            Figure(
                "A sequence with synonyms",
                table(
                    "pos",
                    where,
                    token=[tokens[q] for q in where],
                    next=[subject.token(token) for token in following[where].tolist()],
                    predicted=[subject.token(token) for token in predicted[where].tolist()],
                    right=(predicted == following)[where].tolist(),
                ),
                "table",
                "The synonyms that can be told, of the first sequence.",
            ),
        ),
    )


def _quantities(network: Network, sequences: Sequences, limits: Thresholds) -> dict[str, float]:
    """The numbers of induction, on sequences whose copies are equal or synonyms."""
    model, batch = network.model, sequences.batch
    losses = loss(model, batch)
    after = prefix_matching(model, batch, sequences.same)
    numbers = {
        "loss on new tokens": losses.loss_first.item(),
        "loss on repeats": losses.loss_repeats.item(),
        "accuracy on repeats": accuracy(model, batch).accuracy_repeats.item(),
        "previous_token, best head": previous_token_score(model, batch).previous_token.max().item(),
        "prefix_matching, best head": after.prefix_matching.max().item(),
        "chance of that": after.prefix_matching_chance.item(),
    }
    circuit = find_circuit(model, sequences, limits)
    rest = dict.fromkeys(("says", "finds", "logit", "without", "but", "keys"), np.nan)
    if circuit is not None:
        known = Known.of(model, batch)
        logit = mean_where(attribute_outputs(model, batch, over_mean=True), parts_of(batch)["repeats"])
        but = heads_except(model, circuit.heads)
        rest = {
            "says": says_share(network.folded, sequences, circuit.induction_heads, 1),
            "finds": match_shares(network.folded, sequences, circuit.previous, circuit.induction)[0],
            "logit": share_of(logit, circuit.induction_heads),
            "without": known.lost(ablated_loss(model, batch, circuit.heads).loss_repeats.item()),
            "but": known.lost(ablated_loss(model, batch, but).loss_repeats.item()),
            "keys": lost_through(model, batch, circuit, "k", known),
        }
    names = {
        "says": "tokens that the induction heads say most (OV)",
        "finds": "tokens that are their own best key (K-composition)",
        "logit": "share of the right logit that induction heads add",
        "without": "lost without the circuit",
        "but": "lost without all others",
        "keys": "lost with keys from other sequences",
    }
    return numbers | {names[key]: value for key, value in rest.items()}


def _measured(network: Network, sequences: Sequences) -> xr.Dataset:
    """Every measure of heads and pairs of heads at one step."""
    model, batch = network.model, sequences.batch
    losses, right = loss(model, batch), accuracy(model, batch)
    parts = [part for part in parts_of(batch)]
    found = {
        "loss": xr.DataArray([losses[f"loss_{part}"].item() for part in parts], {"part": parts}),
        "accuracy": xr.DataArray([right[f"accuracy_{part}"].item() for part in parts], {"part": parts}),
        "previous_token": previous_token_score(model, batch).previous_token,
        "current_token": current_token(model, batch).current_token,
        "first_token": first_token(model, batch).first_token,
        "prefix_matching": prefix_matching(model, batch, sequences.same).prefix_matching,
        "ablation_repeats": ablation(model, batch).ablation_repeats,
        "ov_top1": _by_head(model, lambda head: says_share(network.folded, sequences, [head], 1)),
    }
    terms = mean_where(attribute_outputs(model, batch, over_mean=True), parts_of(batch)["repeats"])
    found["logit_on_repeats"] = terms
    for name, measured in {
        "position_pattern": lambda: position_pattern(network.folded, batch).position_pattern,
        "k_composition": lambda: _reading(k_composition(network.folded, batch).k_composition),
        "k_composition_top1": lambda: _by_pair(model, lambda a, b: match_shares(network.folded, sequences, a, b)[0]),
    }.items():
        try:
            found[name] = measured()
        except DoesNotApplyError:
            continue
    return xr.Dataset({name: each.drop_attrs() for name, each in found.items()})


def claims(network: Network, sequences: Sequences, fuzzy: Sequences | None, limits: Thresholds) -> Claims:
    """What an induction circuit would have to do, each statement with the number that decides it in this network.

    What is lost is a share of what repeats tell: (loss on repeats - clean) / (loss on repeats with the means of all
    heads - clean); it is NaN where that is next to nothing. So is what a network does not have, a second layer or a
    table of positions.
    """
    model, batch = network.model, sequences.batch
    circuit = find_circuit(model, sequences, limits)
    found = dict.fromkeys(
        ("looks_before", "looks_after", "copies", "by_position", "composes", "matches", "says", "keys", "without",
         "but", "no_positions"),
        np.nan,
    )  # fmt: skip
    previous = previous_token_score(model, batch)
    after = prefix_matching(model, batch, sequences.same)
    pair = "a previous-token head and an induction head"
    if circuit is not None:
        pair, known = f"{circuit.previous} and {circuit.induction}", Known.of(model, batch)
        found |= {
            "looks_before": way_from_chance(previous, "previous_token", circuit.previous),
            "looks_after": way_from_chance(after, "prefix_matching", circuit.induction),
            "copies": says_share(network.folded, sequences, circuit.induction_heads, 1),
            "by_position": position_share(model, batch, circuit.previous),
            "composes": composition_share(network.folded, batch, circuit),
            "matches": match_shares(network.folded, sequences, circuit.previous, circuit.induction)[0],
            "says": share_of(
                mean_where(attribute_outputs(model, batch, over_mean=True), parts_of(batch)["repeats"]),
                circuit.induction_heads,
            ),
            "keys": lost_through(model, batch, circuit, "k", known),
            "without": known.lost(ablated_loss(model, batch, circuit.heads).loss_repeats.item()),
            "but": known.lost(ablated_loss(model, batch, heads_except(model, circuit.heads)).loss_repeats.item()),
            "no_positions": without_positions(model, sequences, circuit),
        }
    fuzzily = {"looks": np.nan, "says": np.nan}
    if fuzzy is not None:
        of_it = prefix_matching(model, fuzzy.batch, fuzzy.same)
        best = best_of(of_it.prefix_matching.values)
        fuzzily = {
            "looks": way_from_chance(of_it, "prefix_matching", best),
            "says": better_than_chance(model, fuzzy.batch),
        }
    heads = "heads" if circuit is None else f"{circuit}"
    return (
        Claim(
            "It predicts what repeats",
            "1 - loss on repeats / loss of knowing nothing",
            better_than_chance(model, batch),
            0.5,
        ),
        Claim(
            "A head looks at the token before",
            "previous_token of the best head that another layer follows, from chance (0) to nothing else (1)",
            found["looks_before"],
            0.5,
        ),
        Claim(
            "It finds that token by position",
            "the same by what positions and biases alone add to its queries and keys, with LayerNorm's scale as it is",
            found["by_position"],
            0.5,
        ),
        Claim(
            "A later head looks at what followed the current token before",
            "prefix_matching of the best head of a later layer, from chance (0) to nothing else (1)",
            found["looks_after"],
            0.5,
        ),
        Claim(
            "Its keys read what the first head writes",
            f"K-composition of {pair}, from a random pair (0) to all that their singular values allow (1)",
            found["composes"],
            0.5,
        ),
        Claim(
            "So that a token finds where it was written",
            f"share of tokens whose best key is their own, in the K-composition circuit of {pair}",
            found["matches"],
            0.5,
        ),
        Claim(
            "What it looks at it says",
            "share of tokens whose logit the OV circuit of the induction heads, together, raises most",
            found["copies"],
            0.5,
        ),
        Claim(
            "The right token is said by these heads directly",
            "their share of its logit over the mean of all, on repeats",
            found["says"],
            0.5,
        ),
        Claim(
            "They need those keys",
            "what is lost if the keys of the induction heads read what previous-token heads write on other sequences",
            found["keys"],
            0.5,
        ),
        Claim("The circuit is necessary", f"what is lost without {heads}, of what repeats tell", found["without"], 0.9),
        Claim(
            "The circuit is sufficient",
            f"what is lost without all heads but {heads}, of what repeats tell",
            found["but"],
            0.1,
            below=True,
        ),
        Claim(
            "Without positions there is no induction",
            "prefix_matching of the best induction head with positions zero, from chance (0) to nothing else (1)",
            found["no_positions"],
            0.1,
            below=True,
        ),
        Claim(
            "A head looks at what followed a synonym of the current token",
            "prefix_matching under synonyms, best head, from chance (0) to nothing else (1)",
            fuzzily["looks"],
            0.5,
        ),
        Claim(
            "It predicts the synonyms of what followed",
            "1 - loss on the synonyms / loss of knowing nothing",
            fuzzily["says"],
            0.5,
        ),
    )


def _flat(scores: xr.DataArray) -> xr.DataArray:
    """[writes, reads], with the heads of all layers in one row."""
    layers, heads = scores.sizes["from_layer"], scores.sizes["from_head"]
    names = [str(Head(*each)) for each in product(range(layers), range(heads))]
    flat = einops.rearrange(scores.values, "l1 h1 l2 h2 -> (l1 h1) (l2 h2)")
    return xr.DataArray(flat, dims=("writes", "reads"), coords={"writes": names, "reads": names})


def _reading(scores: xr.DataArray) -> xr.DataArray:
    """[pair], those that can have a score."""
    flat = _flat(scores).stack(pair=("writes", "reads")).dropna("pair")
    return xr.DataArray(flat.values, {"pair": [f"{a} → {b}" for a, b in flat.pair.values]})


def _by_head(model: Model, score: Callable[[Head], float]) -> xr.DataArray:
    values = [score(head) for head in heads_except(model)]
    return xr.DataArray(np.reshape(values, (model.cfg.n_layers, -1)), dims=HEAD)


def _by_pair(model: Model, score: Callable[[Head, Head], float]) -> xr.DataArray:
    heads = heads_except(model)
    pairs = [(a, b) for a, b in product(heads, heads) if a.layer < b.layer]
    if not pairs:
        raise DoesNotApplyError("pairs of heads need two layers")
    return xr.DataArray([score(*pair) for pair in pairs], {"pair": [f"{a} → {b}" for a, b in pairs]})


def _labelled(subject: LoadedModel, batch: Batch) -> list[str]:
    return [f"{q}: {token}" for q, token in enumerate(subject.tokens(batch)[0])]


def _some(sequences: Sequences) -> Int[Tensor, "token"]:
    """Some of the tokens that the sequences can hold, evenly."""
    tokens = sequences.paired
    return tokens[torch.linspace(0, len(tokens) - 1, min(len(tokens), SHOWN_TOKENS)).long()]
