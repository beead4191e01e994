"""Weights of the circuit: copying, positions, queries and keys, composition."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from headway.analyze.measures.attention import prefix_matching
from headway.analyze.measures.attention import previous_token as previous_token_score
from headway.analyze.measures.attribution import attribute_inputs, attribute_scores
from headway.analyze.measures.composition import k_composition, q_composition, v_composition
from headway.analyze.measures.loss import loss
from headway.analyze.measures.positions import position_attention, position_pattern
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import hooked_forward_pass, to_zero
from headway.analyze.network.interventions import heads_except
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.network.vocabulary import VocabularyCircuit
from headway.analyze.studies.heads import listed, way_from_chance, writes_by_reads
from headway.analyze.studies.induction.circuit import Circuit, copying_share, matching_shares, of_pair, position_share
from headway.analyze.studies.induction.sequences import Sequences
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section, table
from headway.models.config import Head

# The largest number of tokens, and of positions, in a heatmap.
SHOWN_TOKENS, SHOWN_POSITIONS = 100, 100
# Numbers in the scores of all pairs of components: 400 MB.
MOST_SCORES = 10**8
# Multiplications in the OV circuits of all heads; with more, only the heads of the circuit are measured.
MOST_OV = 10**11


def copying_section(network: LoadedModel, sequences: Sequences, circuit: Circuit | None) -> Section:
    """The full OV circuit: which tokens a head, or a set of heads, copies."""
    model = network.folded
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
    top = {k: [copying_share(model, sequences, some, k) for some in sets.values()] for k in (1, 5)}
    best = circuit.induction if circuit is not None else Head(0, 0)
    tokens = _some(sequences)
    entries = VocabularyCircuit.ov(model, best).rows(tokens)[:, tokens]
    names = [network.token(token) for token in tokens.tolist()]
    return Section(
        "OV circuit",
        "W_E W_OV W_U [input token, output token], with the weights of LayerNorm folded and its scales left out.",
        (
            Figure(
                "Share of tokens that are copied",
                table("heads", sets, top1=top[1], top5=top[5]),
                "table",
                "Share of tokens whose own logit (or that of their synonym) is the largest (top1), or among the five "
                f"largest (top5), of what the heads write for them; chance is {1 / model.cfg.d_vocab_out:.2g} and "
                f"{5 / model.cfg.d_vocab_out:.2g}.",
            ),
            Figure(
                f"OV circuit of {best}",
                xr.Dataset({"logit": (("input", "output"), entries.numpy())}, {"input": names, "output": names}),
                "maps",
                f"{len(tokens)} tokens." if len(tokens) < model.cfg.d_vocab else "",
            ),
        ),
    )


def positions_sections(network: LoadedModel, sequences: Sequences, circuit: Circuit) -> list[Section]:
    """Attention of the previous-token head from positions alone, and induction without positions."""
    model, batch = network.model, sequences.batch
    text = "Attention from positional embeddings alone, and attention without them."
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
    real = way_from_chance(previous_token_score(model, batch), "previous_token").values[circuit.previous].item()
    by_weights = way_from_chance(by_head, "position_pattern").values[circuit.previous].item()
    figures = (
        Figure(
            f"Attention of {circuit.previous} to the previous position",
            table(
                "by",
                ["all inputs", "positions and biases", "positions, scale of LayerNorm left out"],
                way=[real, position_share(model, batch, circuit.previous), by_weights],
            ),
            "table",
            "From chance (0) to all attention (1). Without the scale, weights show what a head prefers, not how "
            "sharply.",
        ),
        Figure(
            "Attention to the previous position, from positions alone",
            xr.Dataset({"position_pattern": (HEAD, by_head.position_pattern.values)}),
            "maps",
            f"Mean sub-diagonal of softmax(W_pos W_QK W_pos.T / sqrt(d_head)); chance is "
            f"{by_head.position_pattern_chance.item():.2g}.",
        ),
        Figure(
            f"Attention pattern of {circuit.previous} from positions alone",
            xr.Dataset({"attention": (("query", "key"), pattern.float().numpy())}),
            "maps",
            f"Its mean sub-diagonal is {by_head.position_pattern.values[circuit.previous]:.3g}."
            + (f" The first {SHOWN_POSITIONS} positions." if model.cfg.n_ctx > SHOWN_POSITIONS else ""),
        ),
        Figure(
            "Prefix matching with and without positional embeddings",
            xr.Dataset({"prefix_matching": (("positions", *HEAD), scores)}, {"positions": ["unchanged", "zero"]}),
            "maps",
            "hook_pos_embed replaced by zero.",
        ),
        Figure(
            "Prefix matching and loss with and without positional embeddings",
            table(
                "positions",
                ["unchanged", "zero"],
                most_prefix_matching=[before.max().item(), after.max().item()],
                of_the_circuit=[before.values[circuit.induction], after.values[circuit.induction]],
                loss_first=[clean.loss_first.item(), lost.loss_first.item()],
                loss_repeats=[clean.loss_repeats.item(), lost.loss_repeats.item()],
            ),
            "table",
            "of_the_circuit: prefix_matching of the best induction head.",
        ),
    )
    return [Section("Positions", text, figures)]


def inputs_section(network: LoadedModel, copies: Sequences, circuit: Circuit) -> Section:
    """Queries and keys of the induction head, split by component, and the scores between components."""
    model = network.model
    try:
        parts = attribute_inputs(model, copies.batch.first(1), circuit.induction).isel(batch=0)
    except DoesNotApplyError as reason:
        return Section("Queries and keys", f"{reason}.", ())
    tokens, length = network.labels(copies.batch), copies.batch.inputs.shape[1]
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
        f"The queries and keys of {circuit.induction}, split by the component that writes them. The terms add up to "
        "the attention score, which is checked.",
        (
            Figure(
                "Norms of the components of queries and keys",
                xr.Dataset({"length": (size.dims, size.values)}, {**size.coords, "pos": tokens}).drop_vars(
                    "batch", errors="ignore"
                ),
                "maps",
                "At each token of the first sequence.",
            ),
            Figure(
                "Mean norms",
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
                "Contribution of the pair (embed, previous-token head) to the attention score.",
            ),
            Figure(
                "Pairs of components in the score",
                xr.Dataset({"spread": (spread.dims, spread.values)}, dict(spread.coords)),
                "maps",
                "Standard deviation, over all visible queries and keys, of the contribution of each pair to the score.",
            ),
            Figure(
                "The largest pairs of components",
                table("query, key", [f"{q}, {k}" for q, k in best.pair.values], spread=best.values),
                "table",
            ),
        ),
    )


def composition_section(network: LoadedModel, sequences: Sequences, circuit: Circuit) -> Section:
    """Q-, K- and V-composition of the pair and of all pairs, and the K-composition circuit."""
    model, h1, h2 = network.folded, circuit.previous, circuit.induction
    tokens = _some(sequences)
    try:
        whole = VocabularyCircuit.k_composition(model, h1, h2)
        kinds = {"q": q_composition, "k": k_composition, "v": v_composition}
        scored = {kind: measured(model, sequences.batch) for kind, measured in kinds.items()}
    except DoesNotApplyError as reason:
        return Section("K-composition", f"{reason}.", ())
    names = [network.token(token) for token in tokens.tolist()]
    pairs = list(product(circuit.previous_heads, circuit.induction_heads))
    pairs = [(a, b) for a, b in pairs if a.layer < b.layer]
    every = {
        kind: writes_by_reads(each[f"{kind}_composition"]).dropna("writes", how="all").dropna("reads", how="all")
        for kind, each in scored.items()
    }
    here = {kind: each.sel(of_pair(h1, h2)) for kind, each in scored.items()}
    strongest = _strongest(scored["k"])
    tops = [matching_shares(model, sequences, a, b) for a, b in pairs]
    return Section(
        "K-composition",
        f"How {h2} reads what {h1} writes. W_E W_QK W_OV.T W_E.T [query token, key token] scores a key token that "
        f"{h1} has written one position later. The weights of LayerNorm are folded, its scales left out.",
        (
            Figure(
                f"K-composition circuit of {h1} and {h2}",
                xr.Dataset(
                    {"score": (("query", "key"), whole.rows(tokens)[:, tokens].numpy())}, {"query": names, "key": names}
                ),
                "maps",
                f"{len(tokens)} tokens." if len(tokens) < model.cfg.d_vocab else "",
            ),
            Figure(
                "Share of tokens that match themselves",
                table(
                    "pair",
                    [f"{a} → {b}" for a, b in pairs],
                    best_key=[key for key, _ in tops],
                    best_query=[query for _, query in tops],
                ),
                "table",
                "Share of tokens whose best key, or best query, is the token itself (or its synonym).",
            ),
            Figure(
                f"Composition of {h1} and {h2} beside the null",
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
                "null: the same singular values, rotated at random. The pair with the largest z of K-composition: "
                f"{strongest}.",
            ),
            Figure(
                "Composition of all pairs",
                xr.Dataset({f"{kind}_composition": each for kind, each in every.items()}),
                "maps",
                "Rows: heads that write; columns: heads that read.",
            ),
        ),
    )


def _strongest(scores: xr.Dataset) -> str:
    """Return the pair of heads with the largest z of K-composition."""
    z = scores.k_composition_z.values
    if not np.isfinite(z).any():
        return "no pair"
    l1, h1, l2, h2 = map(int, np.unravel_index(np.nanargmax(z), z.shape))
    return f"{Head(l1, h1)} and {Head(l2, h2)}"


def _some(sequences: Sequences) -> Int[Tensor, "token"]:
    """Return tokens of the sequences, evenly spaced."""
    tokens = sequences.paired
    return tokens[torch.linspace(0, len(tokens) - 1, min(len(tokens), SHOWN_TOKENS)).long()]
