"""Skip trigrams of a head, "key … query → output": the query attends to the key, which raises the output's logit.

A head of a one-layer network is a table of skip trigrams, [query, key, output] (Elhage et al. 2021). Each entry is the
product of an entry of the QK circuit and an entry of the OV circuit. With 48,262 tokens the table has 10^14 entries.
The largest are found without it: for one key they combine the largest entries of a QK column and of an OV row.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headway.analyze.network.vocabulary import BLOCK, VocabularyCircuit


class SkipTrigram(NamedTuple):
    """Three tokens, "key … query → output", with attention score and output logit relative to their means."""

    query: int
    key: int
    output: int
    score: float
    raised: float

    @property
    def worth(self) -> float:
        """Return ``score * raised``, by which skip trigrams are ranked."""
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
    """Return the k skip trigrams of a head that are worth most, in decreasing order; ties are broken arbitrarily.

    The worth of "key … query → output" is ``score * raised``: ``score`` is the entry [query, key] of the QK circuit
    minus the mean over all keys of that query, ``raised`` the entry [key, output] of the OV circuit minus the mean over
    all outputs of that key; negative values become 0. So an offset common to all keys, which softmax ignores, or to all
    logits has no effect. Only skip trigrams worth more than 0 are returned, which may be fewer than k. ``query``,
    ``key`` and ``output`` restrict the search to that token, with the same means.

    Range: above 0, in the unit of the circuits' product. ``VocabularyCircuit.qk`` is the attention score times
    sqrt(d_head), so worths are comparable only between heads of equal d_head. Null: the skip trigrams of a fresh
    initialisation, which also has largest entries. The worth does not show that the tokens occur together, how much
    attention the key gets among other keys of a text, what positions add to the score, or whether other components
    cancel the effect. Because the table is a product, a head that implements "a … b → c" and "a … d → e" also
    implements "a … b → e" (Elhage et al. 2021). In networks of several layers heads also read other inputs than tokens.

    Args:
        qk: The QK circuit; rows: query tokens, columns: key tokens.
        ov: The OV circuit; rows: key tokens, columns: output tokens.
        k: Number of skip trigrams.
        query: Only skip trigrams with this query token.
        key: Only skip trigrams with this key token.
        output: Only skip trigrams with this output token.

    Raises:
        ValueError: a k below 1, a token that does not exist, or circuits with different key tokens.

    Example:
        >>> from headway.models.config import Head
        >>> from headway.models.handmade import copying_head
        >>> ov = VocabularyCircuit.ov(copying_head()[0], Head(0, 0))  # raises the logit of the attended token
        >>> asks, offers = torch.eye(13)[:, [4]], torch.eye(13)[[7]]
        >>> qk = VocabularyCircuit(asks, 26 * offers)  # token 4 attends to token 7
        >>> [(found.query, found.key, found.output) for found in skip_trigrams(qk, ov, k=3)]
        [(4, 7, 7)]
        >>> skip_trigrams(qk, ov, k=3, output=5)
        []
    """
    if k < 1:
        raise ValueError(f"k: {k} is not valid; it must be at least 1")
    if qk.shape[1] != ov.shape[0]:
        raise ValueError(f"ov: it has {ov.shape[0]} rows; it must have {qk.shape[1]}, one per key token of qk")
    queries, keys = _token_slice("query", query, qk.shape[0]), _token_slice("key", key, ov.shape[0])
    outputs = _token_slice("output", output, ov.shape[1])
    qk, ov = _over_mean(qk), _over_mean(ov)
    qk = VocabularyCircuit(qk.A[queries], qk.B[:, keys])
    ov = VocabularyCircuit(ov.A[keys], ov.B[:, outputs])
    best = _best(qk, ov, k)
    places = best.query + queries.start, best.key + keys.start, best.output + outputs.start
    numbers = (each.tolist() for each in (*places, best.score, best.raised))
    found = [SkipTrigram(*each) for each in zip(*numbers, strict=True)]
    # The order of products in float64 may differ from that in float32.
    return sorted(found, key=lambda each: each.worth, reverse=True)


class _Best(NamedTuple):
    """Entries of the table, as columns."""

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
    """Return the k largest products that are above 0."""
    bound = _largest_of_columns(qk) * _largest_of_columns(ov.T)
    keys = bound.argsort(descending=True)
    at_query, at_output = _pairs(k, qk.shape[0], ov.shape[1], bound.device)
    none = keys[:0]
    best = _Best(none, none, none, qk.A.new_empty(0), ov.A.new_empty(0))
    least = 0.0
    for some in keys.split(max(1, BLOCK**2 // max(qk.shape[0], ov.shape[1], len(at_query)))):
        # Keys are sorted by their upper bound: once one cannot reach the k-th best entry, no later one can.
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
    """Return the index pairs (from 0) of two decreasing sequences whose product can be among the k largest.

    Counted from 1, the product of entries i and j has i j - 1 others at least as large, so i j <= k. There are about
    k ln k such pairs.
    """
    first = torch.arange(min(k, n_queries), device=device)
    lengths = (k // (first + 1)).clamp(max=n_outputs)
    at_query = first.repeat_interleave(lengths)
    starts = lengths.cumsum(0) - lengths
    return at_query, torch.arange(len(at_query), device=device) - starts[at_query]


def _over_mean(circuit: VocabularyCircuit) -> VocabularyCircuit:
    """Subtract the mean of each row, in the factor B; what is common to all columns becomes exactly 0."""
    mean = circuit.B.mean(1, keepdim=True, dtype=torch.float64)
    return VocabularyCircuit(circuit.A, circuit.B - mean.to(circuit.B))


def _largest_of_columns(circuit: VocabularyCircuit) -> Float[Tensor, "column"]:
    """Return the largest entry of each column, or 0 if all are negative."""
    largest = circuit.A.new_zeros(circuit.shape[1])
    for _, columns, values in circuit.blocks():
        largest[columns] = torch.maximum(largest[columns], values.amax(0))
    return largest


def _token_slice(name: str, token: int | None, length: int) -> slice:
    """Return the slice of one token, or of all tokens if it is None."""
    if token is None:
        return slice(0, length)
    if not 0 <= token < length:
        raise ValueError(f"{name}: token {token} does not exist; tokens are 0 to {length - 1}")
    return slice(token, token + 1)
