"""What the heads' weights say about pairs of tokens: what promotes `` else``, what looks for `` if``, and how alike."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.measures.attribution import as_read, unembedding
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.interventions import heads_except
from headway.analyze.network.requirements import needs_plain_scores
from headway.analyze.network.vocabulary import Top, VocabularyCircuit, shared_entries
from headway.analyze.network.weights import bias, weight
from headway.analyze.studies.if_else.prompts import Prompts
from headway.analyze.studies.result import Figure, Section, table
from headway.analyze.tools.skip_trigrams import SkipTrigram, skip_trigrams
from headway.analyze.tools.subspaces import subspace_overlap
from headway.data.conditionals import ELSE
from headway.data.tokenizer import one_token
from headway.models.config import Head
from headway.models.convert import Model

CLOSING = ")"
# What is held to be known of Python: positive controls of the measure, and of the network.
CONTROLS = (("(", ")"), ("from", " import"), (" for", " in"))
# So many tokens, skip trigrams or heads are shown.
TOKENS, TRIGRAMS, HEADS = 10, 8, 8
# So many entries of every circuit are compared with those of others, and of so few tokens all.
LARGEST = 1000

Pair = tuple[str, str]


class Place(NamedTuple):
    """Where an entry stands in its circuit."""

    value: float
    row_percentile: float
    row_rank: int
    column_percentile: float
    column_rank: int
    softmax: float

    @property
    def least(self) -> float:
        """The smaller of its two percentiles."""
        return min(self.row_percentile, self.column_percentile)


def place(circuit: VocabularyCircuit, row: int, column: int) -> Place:
    """Where one entry stands."""
    at, there = torch.tensor([row]), torch.tensor([column])
    flipped = circuit.T
    return Place(
        (circuit.A[row] @ circuit.B[:, column]).item(),
        circuit.percentiles(at, there).item(),
        int(circuit.ranks(at, there)),
        flipped.percentiles(there, at).item(),
        int(flipped.ranks(there, at)),
        circuit.softmax(at, there).item(),
    )


@dataclass(frozen=True)
class TokenCircuits:
    """The circuits of each head between tokens, as the network would use them if a position held its token alone.

    A token is what LayerNorm makes of its embedding, with the scale of that embedding itself: rows of keys and inputs
    can be compared with each other. Positions, and what earlier layers write, are left out. ``ov`` is in logits, over
    the mean logit, with the scale of ln_final that the prompts have on average at END; ``qk`` is the attention score
    with b_Q in it, over the mean of all keys. ln_final is never applied to what one head writes.
    """

    model: Model
    scale: float

    @classmethod
    def of(cls, model: Model, prompts: Prompts) -> "TokenCircuits":
        """Those of a network; a ValueError if its attention scores are no such products."""
        needs_plain_scores("if-else", model)
        scales = forward_pass(model, prompts.batch).activations.get("ln_final.hook_scale")
        return cls(model, 1.0 if scales is None else scales[:, prompts.end].mean().item())

    def ov(self, head: Head) -> VocabularyCircuit:
        """[input token, output token]: what it adds to logits when it attends to the input alone."""
        return VocabularyCircuit(
            self._tokens(head) @ weight(self.model, "W_V")[head], weight(self.model, "W_O")[head] @ self._logits
        )

    def qk(self, head: Head) -> VocabularyCircuit:
        """[query token, key token]: the attention score."""
        x = self._tokens(head)
        queries = x @ weight(self.model, "W_Q")[head] + bias(self.model, "b_Q")[head]
        keys = x @ weight(self.model, "W_K")[head]
        return VocabularyCircuit(queries, (keys - keys.mean(0)).mT / self.model.cfg.d_head**0.5)

    @cached_property
    def _logits(self) -> Float[Tensor, "d_model d_vocab_out"]:
        U = unembedding(self.model)
        return (U - U.mean(-1, keepdim=True)) / self.scale

    def _tokens(self, head: Head) -> Float[Tensor, "d_vocab d_model"]:
        return as_read(self.model, head.layer, weight(self.model, "W_E"))


def layer_norm(model: Model, prompts: Prompts) -> Section:
    """The scales that LayerNorm divides by, and what was done about them."""
    cache = forward_pass(model, prompts.batch).activations
    scales = {
        f"{name}, {where}": values[:, chosen].flatten()
        for name in sorted(each.removesuffix(".hook_scale") for each in cache if each.endswith("hook_scale"))
        for where, chosen, values in (
            ("all positions", slice(None), cache[f"{name}.hook_scale"]),
            ("END", slice(prompts.end, None), cache[f"{name}.hook_scale"]),
        )
    }
    if scales:
        W_E = weight(model, "W_E")
        centred = W_E if str(model.cfg.normalization_type).startswith("RMS") else W_E - W_E.mean(-1, keepdim=True)
        scales["embeddings alone, all tokens"] = (centred.square().mean(-1) + model.cfg.eps).sqrt()
    return Section(
        "LayerNorm",
        "Its weights are folded into a copy wherever that leaves the function as it is; what it divides by cannot be. "
        "Attributions and scores of prompts use the scale of each position as it was. Circuits between tokens use that "
        "of each token's embedding alone, and of ln_final the mean at END; ln_final is never applied to one head's "
        "output, whose own mean and scale it does not have." + ("" if scales else " This network has no LayerNorm."),
        (
            Figure(
                "What it divides by",
                table(
                    "point",
                    scales,
                    mean=[each.mean().item() for each in scales.values()],
                    spread=[each.std().item() / each.mean().item() for each in scales.values()],
                    least=[each.min().item() for each in scales.values()],
                    most=[each.max().item() for each in scales.values()],
                ),
                "table",
                "spread: the standard deviation as a share of the mean.",
            ),
        ),
    )


def ov_section(circuits: TokenCircuits, prompts: Prompts, heads: Sequence[Head]) -> Section:
    """Whether `` if`` promotes `` else`` in each head, what else does, and what else `` if`` promotes."""
    row, column = prompts.if_token, prompts.else_token
    every = {head: circuits.ov(head) for head in heads}
    columns = {head: each.T.top(torch.tensor([column]), TOKENS) for head, each in every.items()}
    rows = {head: each.top(torch.tensor([row]), TOKENS) for head, each in every.items()}
    return Section(
        "OV: from if to else",
        "What each head would add to logits, over the mean logit, if it attended to one token alone. The row of ' if' "
        "is all that it promotes, the column of ' else' all that promotes it. "
        f"Heads are in the order of what they add to ' else' on the generated prompts{_strongest(circuits, heads)}.",
        (
            _places(every, row, column, "output tokens"),
            _tops("What promotes ' else'", columns, prompts, "The largest of its column, with the logit they add."),
            _tops("What ' if' promotes", rows, prompts, "The largest of its row, with the logit that it adds."),
        ),
    )


def qk_section(circuits: TokenCircuits, prompts: Prompts, heads: Sequence[Head]) -> Section:
    """Whether ``)`` looks for `` if`` in each head, what else it looks for, and what else looks for `` if``."""
    row, column = one_token(prompts.tokenizer, CLOSING), prompts.if_token
    every = {head: circuits.qk(head) for head in heads}
    rows = {head: each.top(torch.tensor([row]), TOKENS) for head, each in every.items()}
    columns = {head: each.T.top(torch.tensor([column]), TOKENS) for head, each in every.items()}
    return Section(
        "QK: from closing brackets to if",
        "The attention score of a query token with a key token, over the mean of all keys of that query, without "
        "positions. The row of ')' is all that it looks for, the column of ' if' all that looks for it.",
        (
            _places(every, row, column, "keys"),
            _tops("What ')' looks for", rows, prompts, "The largest of its row, with their scores."),
            _tops("What looks for ' if'", columns, prompts, "The largest of its column, with their scores."),
        ),
    )


def _strongest(circuits: TokenCircuits, heads: Sequence[Head]) -> str:
    every = len(heads_except(circuits.model))
    return "" if len(heads) == every else f"; the {len(heads)} of {every} that add or take most are shown"


def _places(circuits: Mapping[Head, VocabularyCircuit], row: int, column: int, of_what: str) -> Figure:
    places = [place(circuit, row, column) for circuit in circuits.values()]
    columns = {name: [getattr(each, name) for each in places] for name in Place._fields}
    n_rows, n_columns = next(iter(circuits.values())).shape
    return Figure(
        "Where the entry stands",
        table("head", map(str, circuits), **columns),
        "table",
        f"Ranks are of {n_columns} in the row and {n_rows} in the column, 1 the largest; percentiles are the share of "
        f"the others that is smaller. softmax: over the {of_what} of the row; chance is {1 / n_columns:.2g}.",
    )


def _tops(title: str, tops: Mapping[Head, Top], prompts: Prompts, note: str) -> Figure:
    columns = {}
    for head, (values, tokens) in tops.items():
        found = zip(tokens[0].tolist(), values[0].tolist(), strict=True)
        columns[str(head)] = [f"{prompts.label(token)} {value:.2f}" for token, value in found]
    ranks = range(1, 1 + max(map(len, columns.values())))
    return Figure(title, table("rank", ranks, **columns), "table", note)


def pairs_section(circuits: TokenCircuits, prompts: Prompts, pairs: Sequence[Pair]) -> Section:
    """Other pairs of tokens in the OV circuits: the controls that this tokenizer has, and those that were asked for."""
    asked = {_arrow(pair): tuple(one_token(prompts.tokenizer, each) for each in pair) for pair in pairs}
    tokens = controls(prompts.tokenizer) | asked
    split = [_arrow(pair) for pair in CONTROLS if _arrow(pair) not in tokens]
    heads = heads_except(circuits.model)
    of_heads = [[place(circuit, *each) for each in tokens.values()] for circuit in map(circuits.ov, heads)]
    found = dict(zip(tokens, zip(*of_heads, strict=True), strict=True))
    # Which head does most for a pair is read off the smaller percentile; of equals the one that adds more.
    best = {pair: max(range(len(heads)), key=lambda i: (each[i].least, each[i].value)) for pair, each in found.items()}
    named = list(found)
    columns = {name: [getattr(found[pair][i], name) for pair, i in best.items()] for name in Place._fields}
    cfg = circuits.model.cfg
    grid = torch.tensor([[each.row_percentile for each in places] for places in found.values()])
    left_out = f" Left out, since the tokenizer splits them: {', '.join(split)}." if split else ""
    return Section(
        "OV: other pairs",
        "The same for pairs of tokens of which the first is known to promote the second, as a control, and for any "
        f"others that were asked for.{left_out}",
        (
            Figure(
                "The best head for each",
                table("pair", named, head=[str(heads[i]) for i in best.values()], **columns),
                "table",
                "The head in which the smaller of the two percentiles is largest.",
            ),
            Figure(
                "Percentile within the row",
                xr.Dataset(
                    {"row_percentile": (("pair", *HEAD), grid.view(-1, cfg.n_layers, cfg.n_heads).numpy())},
                    {"pair": named},
                ),
                "maps",
                "The share of output tokens that the first of the pair promotes less than the second.",
            ),
        ),
    )


def _arrow(pair: Pair) -> str:
    return f"{pair[0]!r} → {pair[1]!r}"


def trigrams_section(circuits: TokenCircuits, prompts: Prompts, heads: Sequence[Head]) -> Section:
    """The skip trigrams of the strongest heads: best of all, and best of those that say `` else``."""
    figures = []
    for head in heads:
        qk, ov = circuits.qk(head), circuits.ov(head)
        for what, chosen in (("the best of all", {}), (f"those that say {ELSE!r}", {"output": prompts.else_token})):
            best = skip_trigrams(qk, ov, TRIGRAMS, **chosen)
            if best:
                figures.append(_trigrams(f"{head}: {what}", best, prompts))
    return Section(
        "Skip trigrams",
        "What a head does with three tokens, 'key … query → output': from the query it looks for the key, and raises "
        "the output. The pivot table of all three is never built; these are its largest entries, exactly.",
        tuple(figures),
    )


def _trigrams(title: str, best: Sequence[SkipTrigram], prompts: Prompts) -> Figure:
    names = ("key", "query", "output")
    columns = {name: [prompts.label(getattr(each, name)) for each in best] for name in names}
    numbers = {name: [getattr(each, name) for each in best] for name in ("score", "raised", "worth")}
    return Figure(
        title,
        table("rank", range(1, 1 + len(best)), **columns, **numbers),
        "table",
        "score: attention score over the mean of all keys; raised: logit over the mean logit; worth: their product.",
    )


def distinct_section(circuits: TokenCircuits, heads: Sequence[Head]) -> Section:
    """How much the circuits of heads have in common: their largest entries, and the directions they read and write."""
    model = circuits.model
    names = [str(head) for head in heads]
    largest = min(LARGEST, model.cfg.d_vocab)
    entries = {
        "OV": shared_entries([circuits.ov(head) for head in heads], largest),
        "QK": shared_entries([circuits.qk(head) for head in heads], largest),
    }
    spaces = {
        "read by values": [weight(model, "W_V")[head] for head in heads],
        "written": [weight(model, "W_O")[head].mT for head in heads],
        "read by queries": [weight(model, "W_Q")[head] for head in heads],
        "read by keys": [weight(model, "W_K")[head] for head in heads],
    }
    overlaps = {name: subspace_overlap(each) for name, each in spaces.items()}
    pairs = ("head", "other_head")
    n_tokens, chance = model.cfg.d_vocab, model.cfg.d_head / model.cfg.d_model
    return Section(
        "How distinct the heads are",
        "1 on the diagonal, where a head is compared with itself.",
        tuple(
            Figure(
                title,
                xr.Dataset(
                    {"share": (("circuit", *pairs), torch.stack(list(each.values())).numpy())},
                    {"circuit": list(each), "head": names, "other_head": names},
                ),
                "maps",
                note,
            )
            for title, each, note in (
                (
                    "Largest entries in common",
                    entries,
                    f"Of the {largest} largest entries of either circuit, those that are in both; by chance "
                    f"{largest / (2 * n_tokens**2 - largest):.1g}.",
                ),
                (
                    "Subspaces in common",
                    overlaps,
                    f"The mean squared cosine of the angles between what they read, or write; by chance {chance:.2g}.",
                ),
            )
        ),
    )


def most_alike(circuits: TokenCircuits, heads: Sequence[Head]) -> float:
    """The largest share of largest OV entries that two heads have in common; NaN of one head."""
    if len(heads) < 2:
        return float("nan")
    shared = shared_entries([circuits.ov(head) for head in heads], min(LARGEST, circuits.model.cfg.d_vocab))
    return shared.fill_diagonal_(0).max().item()


class Places(NamedTuple):
    """Where a head has the entries that the claims are about.

    Args:
        ov: [`` if``, `` else``] in OV.
        qk: [``)``, `` if``] in QK.
        control: The smaller percentile of that control in OV of which it is largest.
    """

    ov: Place
    qk: Place
    control: float

    @property
    def both(self) -> float:
        """The smallest percentile of OV and QK."""
        return min(self.ov.least, self.qk.least)


def places_of(circuits: TokenCircuits, prompts: Prompts) -> dict[Head, Places]:
    """Those of every head."""
    closing = one_token(prompts.tokenizer, CLOSING)
    known = controls(prompts.tokenizer).values()
    found = {}
    for head in heads_except(circuits.model):
        ov, qk = circuits.ov(head), circuits.qk(head)
        found[head] = Places(
            place(ov, prompts.if_token, prompts.else_token),
            place(qk, closing, prompts.if_token),
            max(place(ov, *pair).least for pair in known),
        )
    return found


def controls(tokenizer: Any) -> dict[str, tuple[int, int]]:
    """The controls whose tokens this tokenizer does not split; ``(`` and ``)`` are bytes, so that one is there."""
    found = {}
    for pair in CONTROLS:
        # What is split has no entry of its own.
        with suppress(ValueError):
            found[_arrow(pair)] = one_token(tokenizer, pair[0]), one_token(tokenizer, pair[1])
    return found
