"""OV and QK circuits of heads between tokens: entries of `` if``, `` else`` and ``)``, skip trigrams, overlaps."""

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
from headway.analyze.network.structure import Structure
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
# Pairs of Python: positive controls.
CONTROLS = (("(", ")"), ("from", " import"), (" for", " in"))
# Numbers of tokens, skip trigrams and heads that are shown.
TOKENS, TRIGRAMS, HEADS = 10, 8, 8
# The number of largest entries of circuits that are compared; at most d_vocab.
LARGEST = 1000

Pair = tuple[str, str]


class RankedEntry(NamedTuple):
    """An entry of a circuit, with its percentiles and ranks in row and column."""

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


def rank_entry(circuit: VocabularyCircuit, row: int, column: int) -> RankedEntry:
    """Rank one entry of a circuit."""
    at, there = torch.tensor([row]), torch.tensor([column])
    flipped = circuit.T
    return RankedEntry(
        (circuit.A[row] @ circuit.B[:, column]).item(),
        circuit.percentiles(at, there).item(),
        int(circuit.ranks(at, there)),
        flipped.percentiles(there, at).item(),
        int(flipped.ranks(there, at)),
        circuit.softmax(at, there).item(),
    )


@dataclass(frozen=True)
class TokenCircuits:
    """OV and QK circuits of heads between tokens, from token embeddings alone.

    Embeddings are normalized, each at its own scale. Positions and outputs of earlier layers are left out. ``ov`` is in
    logits minus the mean logit, at the mean scale of ln_final at END of the prompts; ``qk`` is the attention score with
    b_Q, minus the mean of all keys. ln_final is never applied to the output of one head.
    """

    model: Model
    scale: float

    @classmethod
    def of(cls, model: Model, prompts: Prompts) -> "TokenCircuits":
        """Take the circuits of a network; raise a ValueError if its attention scores are not ``x W_QK y``."""
        needs_plain_scores("if-else", model)
        scales = forward_pass(model, prompts.batch).activations.get("ln_final.hook_scale")
        return cls(model, 1.0 if scales is None else scales[:, prompts.end].mean().item())

    def ov(self, head: Head) -> VocabularyCircuit:
        """Return [input token, output token]: the contribution to logits when the head attends to the input alone."""
        return VocabularyCircuit(
            self._tokens(head) @ weight(self.model, "W_V")[head], weight(self.model, "W_O")[head] @ self._logits
        )

    def qk(self, head: Head) -> VocabularyCircuit:
        """Return [query token, key token]: the attention score."""
        x = self._tokens(head)
        queries = x @ weight(self.model, "W_Q")[head] + bias(self.model, "b_Q")[head]
        keys = x @ weight(self.model, "W_K")[head]
        return VocabularyCircuit(queries, (keys - keys.mean(0)).mT / Structure(self.model.cfg).score_divisor)

    @cached_property
    def _logits(self) -> Float[Tensor, "d_model d_vocab_out"]:
        U = unembedding(self.model)
        return (U - U.mean(-1, keepdim=True)) / self.scale

    def _tokens(self, head: Head) -> Float[Tensor, "d_vocab d_model"]:
        return as_read(self.model, head.layer, weight(self.model, "W_E"))


def layer_norm(model: Model, prompts: Prompts) -> Section:
    """Scales of LayerNorm, and how they are handled."""
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
        centred = W_E - W_E.mean(-1, keepdim=True) if Structure(model.cfg).centres else W_E
        scales["embeddings alone, all tokens"] = (centred.square().mean(-1) + model.cfg.eps).sqrt()
    return Section(
        "LayerNorm",
        "Weights of LayerNorm are folded where possible; scales cannot be. Attributions and scores of prompts use the "
        "actual scale at each position. Circuits between tokens use the scale of each embedding alone, and the mean "
        "scale of ln_final at END; ln_final is never applied to the output of one head."
        + ("" if scales else " This network has no LayerNorm."),
        (
            Figure(
                "Scales",
                table(
                    "point",
                    scales,
                    mean=[each.mean().item() for each in scales.values()],
                    spread=[each.std().item() / each.mean().item() for each in scales.values()],
                    least=[each.min().item() for each in scales.values()],
                    most=[each.max().item() for each in scales.values()],
                ),
                "table",
                "spread: standard deviation over mean.",
            ),
        ),
    )


def ov_section(circuits: TokenCircuits, prompts: Prompts, heads: Sequence[Head]) -> Section:
    """The entry [`` if``, `` else``] of the OV circuits, and the largest entries of its row and column."""
    row, column = prompts.if_token, prompts.else_token
    every = {head: circuits.ov(head) for head in heads}
    columns = {head: each.T.top(torch.tensor([column]), TOKENS) for head, each in every.items()}
    rows = {head: each.top(torch.tensor([row]), TOKENS) for head, each in every.items()}
    return Section(
        "OV: from if to else",
        "Contribution of a head to logits, minus the mean logit, if it attends to one token alone. The row of ' if' "
        "has the tokens that it promotes, the column of ' else' the tokens that promote it. Heads are sorted by their "
        f"contribution to ' else' on the generated prompts{_strongest(circuits, heads)}.",
        (
            _places(every, row, column, "output tokens"),
            _tops("Tokens that promote ' else'", columns, prompts, "Largest entries of its column, with their logits."),
            _tops("Tokens that ' if' promotes", rows, prompts, "Largest entries of its row, with their logits."),
        ),
    )


def qk_section(circuits: TokenCircuits, prompts: Prompts, heads: Sequence[Head]) -> Section:
    """The entry [``)``, `` if``] of the QK circuits, and the largest entries of its row and column."""
    row, column = one_token(prompts.tokenizer, CLOSING), prompts.if_token
    every = {head: circuits.qk(head) for head in heads}
    rows = {head: each.top(torch.tensor([row]), TOKENS) for head, each in every.items()}
    columns = {head: each.T.top(torch.tensor([column]), TOKENS) for head, each in every.items()}
    return Section(
        "QK: from closing bracket to if",
        "Attention score of a query token with a key token, minus the mean of all keys, without positions. The row of "
        "')' has the keys that it attends to, the column of ' if' the queries that attend to it.",
        (
            _places(every, row, column, "keys"),
            _tops("Keys of ')'", rows, prompts, "Largest entries of its row, with their scores."),
            _tops("Queries of ' if'", columns, prompts, "Largest entries of its column, with their scores."),
        ),
    )


def _strongest(circuits: TokenCircuits, heads: Sequence[Head]) -> str:
    every = len(heads_except(circuits.model))
    return (
        ""
        if len(heads) == every
        else f"; the {len(heads)} of {every} heads with the largest absolute contribution are shown"
    )


def _places(circuits: Mapping[Head, VocabularyCircuit], row: int, column: int, of_what: str) -> Figure:
    places = [rank_entry(circuit, row, column) for circuit in circuits.values()]
    columns = {name: [getattr(each, name) for each in places] for name in RankedEntry._fields}
    n_rows, n_columns = next(iter(circuits.values())).shape
    return Figure(
        "Rank of the entry",
        table("head", map(str, circuits), **columns),
        "table",
        f"rank: of {n_columns} in the row and {n_rows} in the column, 1 is the largest. percentile: share of the other "
        f"entries that are smaller. softmax: over the {of_what} of the row; chance is {1 / n_columns:.2g}.",
    )


def _tops(title: str, tops: Mapping[Head, Top], prompts: Prompts, note: str) -> Figure:
    columns = {}
    for head, (values, tokens) in tops.items():
        found = zip(tokens[0].tolist(), values[0].tolist(), strict=True)
        columns[str(head)] = [f"{prompts.label(token)} {value:.2f}" for token, value in found]
    ranks = range(1, 1 + max(map(len, columns.values())))
    return Figure(title, table("rank", ranks, **columns), "table", note)


def pairs_section(circuits: TokenCircuits, prompts: Prompts, pairs: Sequence[Pair]) -> Section:
    """Entries of other pairs of tokens in the OV circuits: controls, and the pairs of the option."""
    asked = {_arrow(pair): tuple(one_token(prompts.tokenizer, each) for each in pair) for pair in pairs}
    tokens = controls(prompts.tokenizer) | asked
    split = [_arrow(pair) for pair in CONTROLS if _arrow(pair) not in tokens]
    heads = heads_except(circuits.model)
    of_heads = [[rank_entry(circuit, *each) for each in tokens.values()] for circuit in map(circuits.ov, heads)]
    found = dict(zip(tokens, zip(*of_heads, strict=True), strict=True))
    # The best head has the largest smaller percentile; of equal ones, the larger logit.
    best = {pair: max(range(len(heads)), key=lambda i: (each[i].least, each[i].value)) for pair, each in found.items()}
    named = list(found)
    columns = {name: [getattr(found[pair][i], name) for pair, i in best.items()] for name in RankedEntry._fields}
    cfg = circuits.model.cfg
    grid = torch.tensor([[each.row_percentile for each in places] for places in found.values()])
    left_out = f" Left out, because the tokenizer splits them: {', '.join(split)}." if split else ""
    return Section(
        "OV: other pairs",
        f"The same for known pairs of Python, as positive controls, and for the pairs of the option --pair.{left_out}",
        (
            Figure(
                "Best head of each pair",
                table("pair", named, head=[str(heads[i]) for i in best.values()], **columns),
                "table",
                "The head with the largest smaller percentile of row and column.",
            ),
            Figure(
                "Percentile within the row",
                xr.Dataset(
                    {"row_percentile": (("pair", *HEAD), grid.view(-1, cfg.n_layers, cfg.n_heads).numpy())},
                    {"pair": named},
                ),
                "maps",
                "Share of output tokens that the first token of the pair promotes less than the second.",
            ),
        ),
    )


def _arrow(pair: Pair) -> str:
    return f"{pair[0]!r} → {pair[1]!r}"


def trigrams_section(circuits: TokenCircuits, prompts: Prompts, heads: Sequence[Head]) -> Section:
    """Skip trigrams of the strongest heads: the largest of all, and the largest that end in `` else``."""
    figures = []
    for head in heads:
        qk, ov = circuits.qk(head), circuits.ov(head)
        for what, chosen in (
            ("the largest", {}),
            (f"the largest that end in {ELSE!r}", {"output": prompts.else_token}),
        ):
            best = skip_trigrams(qk, ov, TRIGRAMS, **chosen)
            if best:
                figures.append(_trigrams(f"{head}: {what}", best, prompts))
    return Section(
        "Skip trigrams",
        "A skip trigram is 'key … query → output': the head attends from the query to the key, and raises the output. "
        "These are exactly the largest of all; the table of all three tokens is never built.",
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
        "score: attention score minus the mean of all keys; raised: logit minus the mean logit; worth: their product.",
    )


def distinct_section(circuits: TokenCircuits, heads: Sequence[Head]) -> Section:
    """Overlap of the circuits of heads: of their largest entries, and of the subspaces that they read and write."""
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
        "Overlap of heads",
        "The diagonal, a head with itself, is 1.",
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
                    "Overlap of the largest entries",
                    entries,
                    f"Share of the {largest} largest entries of either circuit that are in both; chance is "
                    f"{largest / (2 * n_tokens**2 - largest):.1g}.",
                ),
                (
                    "Overlap of subspaces",
                    overlaps,
                    f"Mean squared cosine of the angles between the subspaces; chance is {chance:.2g}.",
                ),
            )
        ),
    )


def largest_overlap(circuits: TokenCircuits, heads: Sequence[Head]) -> float:
    """Return the largest overlap of the largest OV entries of two heads; NaN for one head."""
    if len(heads) < 2:
        return float("nan")
    shared = shared_entries([circuits.ov(head) for head in heads], min(LARGEST, circuits.model.cfg.d_vocab))
    return shared.fill_diagonal_(0).max().item()


class RankedEntries(NamedTuple):
    """The entries of a head that the claims use.

    Args:
        ov: [`` if``, `` else``] in OV.
        qk: [``)``, `` if``] in QK.
        control: The smaller percentile of the best control in OV.
    """

    ov: RankedEntry
    qk: RankedEntry
    control: float

    @property
    def both(self) -> float:
        """The smallest percentile of both entries."""
        return min(self.ov.least, self.qk.least)


def ranked_entries(circuits: TokenCircuits, prompts: Prompts) -> dict[Head, RankedEntries]:
    """Rank the entries of every head."""
    closing = one_token(prompts.tokenizer, CLOSING)
    known = controls(prompts.tokenizer).values()
    found = {}
    for head in heads_except(circuits.model):
        ov, qk = circuits.ov(head), circuits.qk(head)
        found[head] = RankedEntries(
            rank_entry(ov, prompts.if_token, prompts.else_token),
            rank_entry(qk, closing, prompts.if_token),
            max(rank_entry(ov, *pair).least for pair in known),
        )
    return found


def controls(tokenizer: Any) -> dict[str, tuple[int, int]]:
    """Return the controls of single tokens; ``(`` and ``)`` are single bytes, so that there is at least one."""
    found = {}
    for pair in CONTROLS:
        # A pair with a split token has no entry.
        with suppress(ValueError):
            found[_arrow(pair)] = one_token(tokenizer, pair[0]), one_token(tokenizer, pair[1])
    return found
