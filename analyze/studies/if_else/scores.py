"""Attention scores from END, split into tokens and positions, and into principal components."""

from collections.abc import Sequence

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.measures.attribution import as_read, attribute_inputs, reads
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.structure import Structure
from headway.analyze.network.weights import bias, weight
from headway.analyze.studies.if_else.prompts import Prompts
from headway.analyze.studies.result import Figure, Section, table
from headway.analyze.tools.directions import Directions, principal_directions, shares_of_variance, through_directions
from headway.models.config import Head
from headway.models.convert import Model

# Parts of queries and keys by component; all other components are "other".
PARTS = {"embed": "token", "pos_embed": "position", "constant": "constant"}
# Heads with figures of directions, directions in a figure, and tokens at each end of a direction.
HEADS, SHOWN, TOKENS = 2, 6, 5


def score_parts(model: Model, prompts: Prompts, head: Head) -> xr.DataArray:
    """Return the scores of a head from END, by parts of query and key: [query_part, key_part, prompt, key].

    The parts are ``token`` (embeddings), ``position``, ``constant`` (b_Q, b_K and the bias of LayerNorm) and, with
    several layers, ``other`` (outputs of earlier layers), at the actual scale of LayerNorm. They add up to the score.
    """
    inputs = attribute_inputs(model, prompts.batch, head)
    named = [PARTS.get(str(name), "other") for name in inputs.component.values]
    # The same parts for every head, so that heads can be compared.
    present = [part for part in PARTS.values() if part in named] + (["other"] if model.cfg.n_layers > 1 else [])
    values = torch.from_numpy(inputs.values)
    parts = torch.stack([values[:, [i for i, name in enumerate(named) if name == part]].sum(1) for part in present])
    q, k = parts[:, 0, :, prompts.end], parts[:, 1]
    scores = (
        einops.einsum(q, k, "i prompt d_head, j prompt key d_head -> i j prompt key")
        / Structure(model.cfg).score_divisor
    )
    axes = ("query_part", "key_part", "prompt", "key")
    return xr.DataArray(scores.numpy(), {"query_part": present, "key_part": present}, axes)


def patterns_from_parts(parts: xr.DataArray) -> dict[str, Float[Tensor, "prompt key"]]:
    """Return attention from END: actual, with tokens alone, and with positions alone in the scores.

    Tokens alone leaves positions out of queries and keys, positions alone leaves everything but positions and constants
    out of both.
    """
    names = parts.query_part.values
    kept = {
        "actual": np.ones(len(names), dtype=bool),
        "tokens alone": names != "position",
        "positions alone": np.isin(names, ["position", "constant"]),
    }
    chosen = {name: parts.isel(query_part=which, key_part=which) for name, which in kept.items()}
    return {
        name: torch.from_numpy(some.sum(["query_part", "key_part"]).values).softmax(-1) for name, some in chosen.items()
    }


def positions_section(model: Model, prompts: Prompts, heads: Sequence[Head]) -> Section:
    """Parts of the scores from END: the spread of each pair of parts, and attention from tokens or positions alone."""
    split = {str(head): score_parts(model, prompts, head) for head in heads}
    spread = {name: parts.std("key").mean("prompt") for name, parts in split.items()}
    first = next(iter(spread.values()))
    pairs = [(q, k) for q in first.query_part.values for k in first.key_part.values if k != "constant"]
    moves = {f"{q} → {k}": [each.sel(query_part=q, key_part=k).item() for each in spread.values()] for q, k in pairs}
    attention = {name: patterns_from_parts(parts) for name, parts in split.items()}
    kinds = {
        f"{kind.removeprefix('generated, ')}: {how}": (which, how)
        for kind, which in prompts.kinds.items()
        for how in attention[str(heads[0])]
    }
    figures = [
        Figure(
            "Spread of the parts of the scores",
            table("head", split, **moves),
            "table",
            "Query part → key part: standard deviation over the keys of a prompt, mean over prompts. A part that is "
            "equal for all keys does not change attention.",
        ),
        Figure(
            "Attention from END to IF",
            table(
                "head",
                split,
                **{
                    name: [each[how][prompts.at_if][which].mean().item() for each in attention.values()]
                    for name, (which, how) in kinds.items()
                },
            ),
            "table",
            "Generated prompts. tokens alone, positions alone: the other is left out of queries and keys.",
        ),
    ]
    if "position" in first.query_part:
        far = torch.arange(prompts.end, -1, -1)
        by_distance = torch.stack([_position_score(parts) for parts in split.values()])
        figures.append(
            Figure(
                "Scores of positions with positions, by distance from END",
                xr.Dataset(
                    {"score": (("head", "distance"), by_distance.flip(1).numpy())},
                    {"head": list(split), "distance": far.flip(0)},
                ),
                "lines",
                "Minus the mean of all keys; mean over the prompts.",
            )
        )
    return Section(
        "Positions in QK",
        "The score from END is a sum over the parts of query and key: token, position, and constants, at the actual "
        "scale of LayerNorm.",
        tuple(figures),
    )


def _position_score(parts: xr.DataArray) -> Float[Tensor, "key"]:
    """Return the mean score of positions with positions at each key, minus the mean of the keys."""
    mean = torch.from_numpy(parts.sel(query_part="position", key_part="position").mean("prompt").values)
    return mean - mean.mean()


def query_and_keys(
    model: Model, prompts: Prompts, head: Head
) -> tuple[Float[Tensor, "prompt d_head"], Float[Tensor, "prompt key d_head"]]:
    """Return the query at END and the keys of a head, with biases; keys are divided by sqrt(d_head)."""
    x = reads(model, prompts.batch, head.layer)
    q = x[:, prompts.end] @ weight(model, "W_Q")[head] + bias(model, "b_Q")[head]
    k = x @ weight(model, "W_K")[head] + bias(model, "b_K")[head]
    return q, k / Structure(model.cfg).score_divisor


def directions_section(model: Model, prompts: Prompts, heads: Sequence[Head]) -> Section:
    """Principal components of queries and keys of the strongest heads, and the score of IF through each."""
    figures = [
        figure
        for head in heads[:HEADS]
        for figure in (_query_directions(model, prompts, head), _key_directions(model, prompts, head))
    ]
    return Section(
        "Directions",
        "The score of IF minus the mean of the keys of its prompt, split by principal components: of the queries at "
        "END, and of all keys of the prompts. Few components may carry most of it.",
        tuple(figures),
    )


def margin_terms(model: Model, prompts: Prompts, head: Head) -> tuple[Directions, Float[Tensor, "term prompt"]]:
    """Return the principal components of the queries at END, and the score of IF minus the mean key through each.

    The first term is that of the mean query; see ``through_directions``.
    """
    q, k = query_and_keys(model, prompts, head)
    found = principal_directions(q)
    return found, through_directions(found, q, k[prompts.at_if] - k.mean(1))


def _query_directions(model: Model, prompts: Prompts, head: Head) -> Figure:
    found, terms = margin_terms(model, prompts, head)
    x = as_read(model, head.layer, weight(model, "W_E"))
    return _directions(
        f"Queries of {head}",
        found,
        terms,
        x @ weight(model, "W_Q")[head] + bias(model, "b_Q")[head],
        prompts,
        "mean: the mean query of all prompts. most, least: tokens whose query is furthest along the direction.",
    )


def _key_directions(model: Model, prompts: Prompts, head: Head) -> Figure:
    q, k = query_and_keys(model, prompts, head)
    found = principal_directions(einops.rearrange(k, "prompt key d_head -> (prompt key) d_head"))
    # The mean of all keys cancels in the difference of IF and the keys of its prompt.
    terms = through_directions(found, k[prompts.at_if], q) - through_directions(found, k.mean(1), q)
    x = as_read(model, head.layer, weight(model, "W_E"))
    keys = x @ weight(model, "W_K")[head] + bias(model, "b_K")[head]
    return _directions(
        f"Keys of {head}",
        found,
        terms,
        keys / Structure(model.cfg).score_divisor,
        prompts,
        "most, least: tokens whose key is furthest along the direction.",
    )


def _directions(
    title: str, found: Directions, terms: Tensor, tokens: Float[Tensor, "d_vocab d_head"], prompts: Prompts, note: str
) -> Figure:
    """Table of the mean, the first directions, and all other directions together."""
    shares, variance = shares_of_variance(terms), found.variance
    few = min(SHOWN, len(variance))
    along = (tokens - found.mean) @ found.axes.T
    ends = [
        [
            "  ".join(prompts.label(token) for token in (sign * along[:, i]).topk(TOKENS).indices.tolist())
            for sign in (1, -1)
        ]
        for i in range(few)
    ]
    means = terms.mean(1)
    return Figure(
        title,
        table(
            "direction",
            ["mean", *range(1, 1 + few), "others"],
            variance=[float("nan"), *variance[:few].tolist(), variance[few:].sum().item()],
            margin=[*means[: 1 + few].tolist(), means[1 + few :].sum().item()],
            of_its_variance=[*shares[: 1 + few].tolist(), shares[1 + few :].sum().item()],
            most=["", *(most for most, _ in ends), ""],
            least=["", *(least for _, least in ends), ""],
        ),
        "table",
        f"variance: share of the variance along the direction. margin: the score of IF minus the mean key, "
        f"{means.sum():.2f} in all. of its variance: share of the variance of the margin over prompts. {note}",
    )


def key_margins(model: Model, prompts: Prompts, heads: Sequence[Head]) -> Figure:
    """Table of the score of IF minus the mean key, by parts of query and key."""
    rows, columns = [], {}
    for head in heads:
        parts = score_parts(model, prompts, head)
        over_mean = torch.from_numpy((parts - parts.mean("key")).values)
        margins = over_mean[:, :, *prompts.at_if]
        pairs = [
            (i, j) for i in range(len(margins)) for j in range(len(margins)) if parts.key_part.values[j] != "constant"
        ]
        for kind, which in prompts.kinds.items():
            rows.append(f"{head}, {kind}")
            for i, j in pairs:
                name = f"{parts.query_part.values[i]} → {parts.key_part.values[j]}"
                columns.setdefault(name, []).append(margins[i, j, which].mean().item())
    sums = [sum(column[i] for column in columns.values()) for i in range(len(rows))]
    return Figure(
        "Score from END to IF, by parts of query and key",
        table("head, prompts", rows, **columns, all=sums),
        "table",
        "Query part → key part: the score of IF minus the mean of the keys of its prompt; the columns add up to all.",
    )


def attention_to_if(model: Model, prompts: Prompts) -> Float[Tensor, "layer head prompt"]:
    """Return the attention of every head from END to IF."""
    patterns = forward_pass(model, prompts.batch).patterns[:, :, :, prompts.end]
    which, where = prompts.at_if
    return einops.rearrange(patterns[:, which, :, where], "prompt layer head -> layer head prompt")
