"""What the scores from END are made of: tokens and positions, and the few directions that carry them."""

import math
from collections.abc import Sequence

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.measures.attribution import as_read, attribute_inputs, reads
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.weights import bias, weight
from headway.analyze.studies.if_else.prompts import Prompts
from headway.analyze.studies.result import Figure, Section, table
from headway.analyze.tools.directions import Directions, principal_directions, shares_of_variance, through_directions
from headway.models.config import Head
from headway.models.convert import Model

# What a query and a key are the sum of; anything else that is written before a head is "other".
PARTS = {"embed": "token", "pos_embed": "position", "constant": "constant"}
# So many heads have their directions shown, and so many directions, with so many tokens at their ends.
HEADS, SHOWN, TOKENS = 2, 6, 5


def score_parts(model: Model, prompts: Prompts, head: Head) -> xr.DataArray:
    """A head's scores from END, split by what query and key are made of: [query_part, key_part, prompt, key].

    The parts are ``token`` (embeddings), ``position``, ``constant`` (b_Q, b_K and what LayerNorm adds) and, in networks
    of several layers, ``other`` (what earlier ones write); each with the scale that LayerNorm has there. Over both they
    add up to the score.
    """
    inputs = attribute_inputs(model, prompts.batch, head)
    named = [PARTS.get(str(name), "other") for name in inputs.component.values]
    # Of every head the same ones, so that heads can stand beside each other.
    present = [part for part in PARTS.values() if part in named] + (["other"] if model.cfg.n_layers > 1 else [])
    values = torch.from_numpy(inputs.values)
    parts = torch.stack([values[:, [i for i, name in enumerate(named) if name == part]].sum(1) for part in present])
    q, k = parts[:, 0, :, prompts.end], parts[:, 1]
    scores = einops.einsum(q, k, "i prompt d_head, j prompt key d_head -> i j prompt key") / math.sqrt(model.cfg.d_head)
    axes = ("query_part", "key_part", "prompt", "key")
    return xr.DataArray(scores.numpy(), {"query_part": present, "key_part": present}, axes)


def patterns_from_parts(parts: xr.DataArray) -> dict[str, Float[Tensor, "prompt key"]]:
    """Attention from END as it is, with tokens alone, and with positions alone in the scores.

    What neither side owes to positions is tokens alone, what neither owes to tokens positions alone; what one side owes
    to the one and the other side to the other is in neither.
    """
    names = parts.query_part.values
    kept = {
        "as it is": np.ones(len(names), dtype=bool),
        "tokens alone": names != "position",
        "positions alone": np.isin(names, ["position", "constant"]),
    }
    chosen = {name: parts.isel(query_part=which, key_part=which) for name, which in kept.items()}
    return {
        name: torch.from_numpy(some.sum(["query_part", "key_part"]).values).softmax(-1) for name, some in chosen.items()
    }


def positions_section(model: Model, prompts: Prompts, heads: Sequence[Head]) -> Section:
    """How positions enter the scores from END: how much each pair of parts moves, and attention without the others."""
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
            "What moves the scores",
            table("head", split, **moves),
            "table",
            "Query part → key part: the standard deviation over the keys of a prompt, mean over prompts. What is the "
            "same for all keys moves no attention.",
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
            "Of the generated prompts. tokens alone, positions alone: the other left out of query and key.",
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
                "Over the mean of all keys; mean over the prompts.",
            )
        )
    return Section(
        "Positions in QK",
        "The score from END is a sum over what its query and each key are made of: the token, the position, and "
        "constants, with the scale of LayerNorm as it is.",
        tuple(figures),
    )


def _position_score(parts: xr.DataArray) -> Float[Tensor, "key"]:
    """The mean score of positions with positions at each key, over the mean of the keys."""
    mean = torch.from_numpy(parts.sel(query_part="position", key_part="position").mean("prompt").values)
    return mean - mean.mean()


def query_and_keys(
    model: Model, prompts: Prompts, head: Head
) -> tuple[Float[Tensor, "prompt d_head"], Float[Tensor, "prompt key d_head"]]:
    """The head's query at END and its keys, biases in them; the keys over sqrt(d_head), so that products are scores."""
    x = reads(model, prompts.batch, head.layer)
    q = x[:, prompts.end] @ weight(model, "W_Q")[head] + bias(model, "b_Q")[head]
    k = x @ weight(model, "W_K")[head] + bias(model, "b_K")[head]
    return q, k / math.sqrt(model.cfg.d_head)


def directions_section(model: Model, prompts: Prompts, heads: Sequence[Head]) -> Section:
    """The principal components of queries and keys of the strongest heads, and what attends to IF through each."""
    figures = [
        figure
        for head in heads[:HEADS]
        for figure in (_query_directions(model, prompts, head), _key_directions(model, prompts, head))
    ]
    return Section(
        "Directions",
        "How far the score of IF is above the mean of the prompt's keys, split by principal components: of the queries "
        "at END, and of all keys of the prompts. How few of them hold the reason for attending?",
        tuple(figures),
    )


def margin_terms(model: Model, prompts: Prompts, head: Head) -> tuple[Directions, Float[Tensor, "term prompt"]]:
    """The principal components of the queries at END, and the score of IF over the mean key through each.

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
        "The mean query is what all prompts have in common, and the tokens are those whose query lies furthest along.",
    )


def _key_directions(model: Model, prompts: Prompts, head: Head) -> Figure:
    q, k = query_and_keys(model, prompts, head)
    found = principal_directions(einops.rearrange(k, "prompt key d_head -> (prompt key) d_head"))
    # The mean is that of all keys; what IF has over the keys of its own prompt holds none of it.
    terms = through_directions(found, k[prompts.at_if], q) - through_directions(found, k.mean(1), q)
    x = as_read(model, head.layer, weight(model, "W_E"))
    keys = x @ weight(model, "W_K")[head] + bias(model, "b_K")[head]
    return _directions(
        f"Keys of {head}",
        found,
        terms,
        keys / math.sqrt(model.cfg.d_head),
        prompts,
        "The mean key moves nothing, and the tokens are those whose key lies furthest along.",
    )


def _directions(
    title: str, found: Directions, terms: Tensor, tokens: Float[Tensor, "d_vocab d_head"], prompts: Prompts, note: str
) -> Figure:
    """A row for the mean, for each of the first directions, and for all others together."""
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
        f"variance: the share of theirs along it. margin: the score of IF over the mean key, {means.sum():.2f} in all; "
        f"of_its_variance: how much of what differs between prompts. {note}",
    )


def key_margins(model: Model, prompts: Prompts, heads: Sequence[Head]) -> Figure:
    """The score of IF over the mean key, by what query and key are made of."""
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
        "Through QK: what makes END look at IF",
        table("head, prompts", rows, **columns, all=sums),
        "table",
        "The score of IF over the mean of the prompt's keys, by query part → key part; the columns add up to it.",
    )


def attention_to_if(model: Model, prompts: Prompts) -> Float[Tensor, "layer head prompt"]:
    """Attention of every head from END to IF."""
    patterns = forward_pass(model, prompts.batch).patterns[:, :, :, prompts.end]
    which, where = prompts.at_if
    return einops.rearrange(patterns[:, which, :, where], "prompt layer head -> layer head prompt")
