"""What a head does with three tokens, "key … query → output": from a query it looks for a key, and raises an output.

A head of a one-layer network is a table of such skip trigrams, [query, key, output] (Elhage et al. 2021), whose
entries are products of one from its QK circuit and one from its OV circuit. At 48,262 tokens it has 10^14 entries. The
largest are found without it: of one key they come from the largest of a column and the largest of a row.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headway.analyze.network.vocabulary import BLOCK, VocabularyCircuit


class SkipTrigram(NamedTuple):
    """Three tokens, "key … query → output", and how far the head attends and raises beyond its average."""

    query: int
    key: int
    output: int
    score: float
    raised: float

    @property
    def worth(self) -> float:
        """``score * raised``: what it is ranked by."""
        return self.score * self.raised


def skip_trigrams(
    qk: VocabularyCircuit,
    ov: VocabularyCircuit,
    k: int,
    *,
    query: int | None = None,
    key: int | None = None,
    output: int | None = None,
) -> list[SkipTrigram]:
    """The k skip trigrams of a head that are worth most, largest first; of equal ones any.

    The worth of "key … query → output" is ``score * raised``: ``score`` is the entry [query, key] of the QK circuit
    over the mean of all keys of that query, ``raised`` the entry [key, output] of the OV circuit over the mean of all
    outputs of that key, each 0 where it is below. So neither an offset that all keys share, which no softmax sees, nor
    one that all logits share counts. Only those worth more than 0 are given, which may be fewer than k. With ``query``,
    ``key`` or ``output`` it is a pivot table: the best of those with that token, over the same means.

    More than 0, in the unit of the circuits' product; ``VocabularyCircuit.qk`` is the attention score times
    sqrt(d_head), so that worths of heads of another d_head are in another unit. Null: the same of a fresh
    initialisation, which has best entries too. It does not say that the tokens occur together, that the head attends so
    far beside the other keys of a text, what positions add to the score, or that nothing else writes against it; and
    factored as it is, a head that does "a … b → c" and "a … d → e" cannot but do "a … b → e" (Elhage et al. 2021). In
    networks of several layers tokens are not all that it reads.

    Args:
        qk: Rows are query tokens, columns key tokens.
        ov: Rows are key tokens, columns output tokens.
        k: How many.
        query: Only those with this query token.
        key: Only those with this key token.
        output: Only those with this output token.

    Raises:
        ValueError: a k below 1, a token that does not exist, or circuits of different keys.

    Example:
        >>> from headway.models.config import Head
        >>> from headway.models.handmade import copying_head
        >>> ov = VocabularyCircuit.ov(copying_head()[0], Head(0, 0))  # raises each token that it sees
        >>> asks, offers = torch.eye(13)[:, [4]], torch.eye(13)[[7]]
        >>> qk = VocabularyCircuit(asks, 26 * offers)  # from token 4 it attends to token 7
        >>> [(found.query, found.key, found.output) for found in skip_trigrams(qk, ov, k=3)]
        [(4, 7, 7)]
        >>> skip_trigrams(qk, ov, k=3, output=5)
        []
    """
    if k < 1:
        raise ValueError(f"k: {k} is not valid; it must be at least 1")
    if qk.shape[1] != ov.shape[0]:
        raise ValueError(f"ov: it has {ov.shape[0]} rows; they must be the {qk.shape[1]} key tokens of qk")
    queries, keys = _token_slice("query", query, qk.shape[0]), _token_slice("key", key, ov.shape[0])
    outputs = _token_slice("output", output, ov.shape[1])
    qk, ov = _over_mean(qk), _over_mean(ov)
    qk = VocabularyCircuit(qk.A[queries], qk.B[:, keys])
    ov = VocabularyCircuit(ov.A[keys], ov.B[:, outputs])
    best = _best(qk, ov, k)
    places = best.query + queries.start, best.key + keys.start, best.output + outputs.start
    numbers = (each.tolist() for each in (*places, best.score, best.raised))
    found = [SkipTrigram(*each) for each in zip(*numbers, strict=True)]
    # Products in float64 may differ in order from those in float32.
    return sorted(found, key=lambda each: each.worth, reverse=True)


class _Best(NamedTuple):
    """Entries of the table, one at each place."""

    query: Int[Tensor, "entry"]
    key: Int[Tensor, "entry"]
    output: Int[Tensor, "entry"]
    score: Float[Tensor, "entry"]
    raised: Float[Tensor, "entry"]

    def largest(self, k: int) -> "_Best":
        worth = self.score * self.raised
        places = worth.topk(min(k, len(worth))).indices
        return _Best(*(each[places] for each in self))


def _best(qk: VocabularyCircuit, ov: VocabularyCircuit, k: int) -> _Best:
    """The k largest products that are more than 0."""
    bound = _largest_of_columns(qk) * _largest_of_columns(ov.T)
    keys = bound.argsort(descending=True)
    at_query, at_output = _pairs(k, qk.shape[0], ov.shape[1], bound.device)
    none = keys[:0]
    best = _Best(none, none, none, qk.A.new_empty(0), ov.A.new_empty(0))
    least = 0.0
    for some in keys.split(max(1, BLOCK**2 // max(qk.shape[0], ov.shape[1], len(at_query)))):
        # Keys that cannot reach what is kept are left out, and those after them reach less.
        some = some[bound[some] > least]
        if not len(some):
            break
        score, query = qk.T.top(some, int(at_query.max()) + 1)
        raised, output = ov.top(some, int(at_output.max()) + 1)
        new = _Best(
            query[:, at_query].flatten(),
            some.repeat_interleave(len(at_query)),
            output[:, at_output].flatten(),
            score[:, at_query].flatten().clamp(min=0),
            raised[:, at_output].flatten().clamp(min=0),
        ).largest(k)
        best = _Best(*(torch.cat(each) for each in zip(best, new, strict=True))).largest(k)
        if len(best.score) == k:
            least = (best.score[-1] * best.raised[-1]).item()
    positive = best.score * best.raised > 0
    return _Best(*(each[positive] for each in best))


def _pairs(k: int, n_queries: int, n_outputs: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which places, from 0, of two falling sequences can have one of the k largest products.

    The product of the i-th and the j-th, from 1, is reached by i j - 1 others: i j <= k, some k ln k of them.
    """
    first = torch.arange(min(k, n_queries), device=device)
    lengths = (k // (first + 1)).clamp(max=n_outputs)
    at_query = first.repeat_interleave(lengths)
    starts = lengths.cumsum(0) - lengths
    return at_query, torch.arange(len(at_query), device=device) - starts[at_query]


def _over_mean(circuit: VocabularyCircuit) -> VocabularyCircuit:
    """The circuit less the mean of each row, taken off its factor; what all columns share becomes exactly 0."""
    mean = circuit.B.mean(1, keepdim=True, dtype=torch.float64)
    return VocabularyCircuit(circuit.A, circuit.B - mean.to(circuit.B))


def _largest_of_columns(circuit: VocabularyCircuit) -> Float[Tensor, "column"]:
    """The largest entry of each column, or 0 where that is below."""
    largest = circuit.A.new_zeros(circuit.shape[1])
    for _, columns, values in circuit.blocks():
        largest[columns] = torch.maximum(largest[columns], values.amax(0))
    return largest


def _token_slice(name: str, token: int | None, length: int) -> slice:
    """The place of one token, or all."""
    if token is None:
        return slice(0, length)
    if not 0 <= token < length:
        raise ValueError(f"{name}: {token} does not exist; tokens are 0 to {length - 1}")
    return slice(token, token + 1)
