"""Circuits over the vocabulary, [d_vocab, d_vocab], computed block by block and never stored whole."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import einops
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.analyze.network.axes import HEAD
from headway.analyze.network.interventions import heads_except
from headway.analyze.network.requirements import (
    check_head,
    needs_content_scores,
    needs_direct_writes,
)
from headway.analyze.network.weights import layer_norm, weight
from headway.models.config import Head
from headway.models.convert import Model

# Rows and columns of a block, 4 MiB: a block stays in the processor's cache, so that reading it costs almost nothing
# next to computing it, and a matrix product of this size runs at full speed.
BLOCK = 1024
Circuit = Literal["OV", "QK"]
# One head, or a set of heads.
Heads = Head | Sequence[Head]
# Weights by name. Each read copies and checks the weight, so callers that need many circuits cache it.
ReadWeight = Callable[[str], Tensor]


def similar_pairs(model: Model, tokens: Int[Tensor, "token"]) -> list[tuple[int, int]]:
    """Return pairs of tokens that are each other's nearest neighbours in embedding cosine, the nearest pairs first.

    The mean embedding of these tokens is subtracted first. Such pairs are embedded alike; they need not mean the same.

    Raises:
        ValueError: a token that does not exist, or fewer than two of them.

    Example:
        >>> from headway.models.handmade import copying_head
        >>> model, _ = copying_head()
        >>> with torch.no_grad():
        ...     model.W_E[5] = model.W_E[3] + 0.1 * model.W_E[2]
        >>> similar_pairs(model, torch.arange(1, 13))[0]
        (3, 5)
    """
    W_E = weight(model, "W_E")
    check_tokens(tokens, len(W_E))
    if len(tokens) < 2:
        raise ValueError(f"tokens: {len(tokens)} given; there must be at least 2")
    directions = torch.nn.functional.normalize(W_E[tokens] - W_E[tokens].mean(0), dim=-1)
    circuit = VocabularyCircuit(directions, directions.mT)
    index = torch.arange(len(tokens), device=W_E.device)
    best = circuit.top(index, 2)
    # A token is nearest to itself, unless another token has exactly the same embedding.
    itself = best.columns[:, 0] == index
    nearest = torch.where(itself, best.columns[:, 1], best.columns[:, 0])
    cosine = torch.where(itself, best.values[:, 1], best.values[:, 0])
    mutual = (nearest[nearest] == index) & (index < nearest)
    first = index[mutual][cosine[mutual].argsort(descending=True)]
    return list(zip(tokens[first].tolist(), tokens[nearest[first]].tolist(), strict=True))


class Entry(NamedTuple):
    """One entry of a vocabulary circuit."""

    row: int
    column: int
    value: float


class Top(NamedTuple):
    """The largest entries of some rows, and their columns."""

    values: Float[Tensor, "token k"]
    columns: Int[Tensor, "token k"]


def best_entries(model: Model, k: int, circuit: Circuit = "OV", *, heads: Heads) -> list[Entry]:
    """Return the k largest entries of a set of heads' circuit, largest first; arguments as in ``token_pair_rank``.

    Example:
        >>> from headway.models.handmade import low_rank_head
        >>> model, _ = low_rank_head()  # copies token 0 three times, token 1 twice
        >>> best_entries(model, 2, heads=[Head(0, 0)])
        [Entry(row=0, column=0, value=3.0), Entry(row=1, column=1, value=2.0)]
    """
    if circuit == "QK":
        needs_content_scores("best_entries", model)
    else:
        needs_direct_writes("best_entries", model)
    return circuit_of(partial(weight, model), circuit, set_of_heads(model, heads)).best(k)


@dataclass(frozen=True)
class VocabularyCircuit:
    """A low-rank matrix ``A @ B`` over the vocabulary, computed only in rows or blocks.

    ``ov``, ``qk`` and ``k_composition`` build the circuits of a network; any two factors will do. Rows are input or
    query tokens, columns are output or key tokens; ``T`` swaps them.

    Example:
        >>> from headway.models.handmade import copying_head
        >>> circuit = VocabularyCircuit.ov(copying_head()[0], [Head(0, 0)])
        >>> circuit.top(torch.tensor([3, 5]), k=1).columns.tolist()  # it raises the logit of the token it reads
        [[3], [5]]
        >>> circuit.hits(k=1).all().item()
        True
    """

    A: Float[Tensor, "row rank"]
    B: Float[Tensor, "rank column"]

    @classmethod
    def ov(cls, model: Model, heads: Heads) -> "VocabularyCircuit":
        """Return ``W_E W_OV W_U`` [input token, output token], with W_OV summed over a set of heads."""
        needs_direct_writes("an OV circuit", model)
        return ov_circuit(partial(weight, model), set_of_heads(model, heads))

    @classmethod
    def qk(cls, model: Model, head: Head) -> "VocabularyCircuit":
        """Return ``W_E W_QK W_E.T`` [query token, key token]: the attention score times sqrt(d_head)."""
        needs_content_scores("a QK circuit", model)
        return qk_circuit(partial(weight, model), check_head(model, head))

    @classmethod
    def k_composition(cls, model: Model, h1: Head, h2: Head) -> "VocabularyCircuit":
        """Return ``W_E W_QK(h2) W_OV(h1).T W_E.T`` [query token, key token]: K-composition by token."""
        needs_content_scores("K-composition", model)
        needs_direct_writes("K-composition", model)
        h1, h2 = check_head(model, h1), check_head(model, h2)
        if h1.layer >= h2.layer:
            raise ValueError(f"h1: {h1} is not valid; it must be in an earlier layer than {h2}")
        return k_composition_circuit(partial(weight, model), h1, h2)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.A.shape[0], self.B.shape[1]

    @property
    def T(self) -> "VocabularyCircuit":
        """The transposed circuit, to apply methods for rows to columns."""
        return VocabularyCircuit(self.B.mT, self.A.mT)

    def renamed(self, columns: Int[Tensor, "column"]) -> "VocabularyCircuit":
        """Return the circuit with its columns permuted: its entry [row, i] is [row, columns[i]] of this one.

        With ``columns`` the synonym of each token, methods about a token and itself are about it and its synonym.
        """
        check_tokens(columns, self.shape[1])
        return VocabularyCircuit(self.A, self.B[:, columns])

    def rows(self, tokens: Int[Tensor, "token"]) -> Float[Tensor, "token column"]:
        """Return the complete rows of some tokens; raise ValueError for a token that does not exist."""
        check_tokens(tokens, self.shape[0])
        return self.A[tokens] @ self.B

    def blocks(self) -> Iterator[tuple[slice, slice, Float[Tensor, "some_rows some_columns"]]]:
        """Yield each block once, with its rows and columns; among blocks of the same rows the diagonal one comes first.

        Each block overwrites the previous one.
        """
        n_rows, n_columns = self.shape
        buffer = self.A.new_empty(min(BLOCK, n_rows) * min(BLOCK, n_columns))
        all_columns = spans(n_columns, BLOCK)
        for rows in spans(n_rows, BLOCK):
            for columns in sorted(all_columns, key=lambda columns: columns != rows):
                A, B = self.A[rows], self.B[:, columns]
                size = (A.shape[0], B.shape[1])
                yield rows, columns, torch.mm(A, B, out=buffer[: size[0] * size[1]].view(size))

    def hits(self, k: int) -> Bool[Tensor, "row"]:
        """Return, for each token, True if its own entry is among the k largest of its row (ties are no hits).

        That is: fewer than k *other* entries are as large as its own. The own entry comes from the same block as the
        others, since the same product computed elsewhere differs in its last bits.

        Raises:
            ValueError: a k that is not in 1..d_vocab, or columns that are not the rows.
        """
        n_rows, n_columns = self.shape
        if n_rows != n_columns:
            raise ValueError(f"circuit: it has {n_rows} rows and {n_columns} columns; they must be the same tokens")
        check_k(k, n_columns)
        own = self.A.new_empty(n_rows, 1)
        reached = self.A.new_zeros(n_rows)
        for rows, columns, values in self.blocks():
            if rows == columns:
                own[rows, 0] = values.diagonal()
            # Floats in place: several times as fast as counting booleans, and exact up to 2^24.
            reached[rows] += values.ge_(own[rows]).sum(1)
        return reached - 1 < k

    def percentiles(self, rows: Int[Tensor, "pair"], columns: Int[Tensor, "pair"]) -> Float[Tensor, "pair"]:
        """Return percentiles of entries in their rows: the share of other entries that are smaller, ties counted half.

        Raises:
            ValueError: a token that does not exist.
        """
        # 1 for a larger entry, -1 for a smaller one, 0 for itself and its equals.
        signs = self._in_rows(rows, columns, lambda values, own: values.sub_(own).sign_().sum(1))
        return (1 - signs / (self.shape[1] - 1)) / 2

    def ranks(self, rows: Int[Tensor, "pair"], columns: Int[Tensor, "pair"]) -> Int[Tensor, "pair"]:
        """Return ranks of entries within their rows: 1 + the number of other entries that are larger.

        Rank 1 is the largest entry; equal entries share the best of their ranks. Null: uniform over the row.

        Raises:
            ValueError: a token that does not exist.

        Example:
            >>> circuit = VocabularyCircuit(torch.ones(1, 1), torch.tensor([[5.0, 7.0, 5.0, 1.0]]))
            >>> circuit.ranks(torch.zeros(4, dtype=torch.long), torch.arange(4)).tolist()
            [2, 1, 2, 4]
        """
        return 1 + self._in_rows(rows, columns, lambda values, own: values.gt_(own).sum(1)).long()

    def softmax(self, rows: Int[Tensor, "pair"], columns: Int[Tensor, "pair"]) -> Float[Tensor, "pair"]:
        """Return the softmax over a row at one of its columns: ``exp(value) / sum exp(row)``.

        In [0, 1]; the columns of a row add up to 1. For an OV circuit it is the prediction from the head's output
        alone; for a QK circuit, divided by sqrt(d_head) first, it is the attention if every token were a key. No
        network computes either: it adds other outputs and attends to few keys. Null: 1/d_vocab, for equal entries.

        Raises:
            ValueError: a token that does not exist.

        Example:
            >>> circuit = VocabularyCircuit(torch.ones(1, 1), torch.tensor([[2.0, 2.0, 2.0, -1000.0]]))
            >>> circuit.softmax(torch.tensor([0, 0]), torch.tensor([1, 3])).allclose(torch.tensor([1 / 3, 0]))
            True
        """

        def share(values: Tensor, own: Tensor) -> Tensor:
            largest = values.amax(1, keepdim=True)
            return (own - largest).exp_()[:, 0] / values.sub_(largest).exp_().sum(1)

        return self._in_rows(rows, columns, share)

    def top(self, tokens: Int[Tensor, "token"], k: int) -> Top:
        """Return the k largest entries of each of some rows, largest first; the order of ties is arbitrary.

        Raises:
            ValueError: a token that does not exist, or a k larger than the row.
        """
        n_rows, n_columns = self.shape
        check_tokens(tokens, n_rows)
        check_k(k, n_columns)
        strips = [(self.A[tokens[some]] @ self.B).topk(k) for some in self._strips(len(tokens))]
        return Top(*(torch.cat(parts) for parts in zip(*strips, strict=True)))

    def best(self, k: int) -> list[Entry]:
        """Return the k largest entries of the whole circuit, largest first; the order of ties is arbitrary.

        Raises:
            ValueError: a k larger than the number of entries.
        """
        n_rows, n_columns = self.shape
        check_k(k, n_rows * n_columns)
        kept = self.A.new_empty(0)
        indices = torch.empty(0, dtype=torch.long, device=self.A.device)
        for rows, columns, values in self.blocks():
            # Most blocks hold nothing larger than the entries kept so far.
            if len(kept) == k and values.max() <= kept[-1]:
                continue
            new, at = values.flatten().topk(min(k, values.numel()))
            row, column = rows.start + at // values.shape[1], columns.start + at % values.shape[1]
            kept, order = torch.cat([kept, new]).topk(min(k, len(kept) + len(new)))
            indices = torch.cat([indices, row * n_columns + column])[order]
        found = zip(indices.tolist(), kept.tolist(), strict=True)
        return [Entry(index // n_columns, index % n_columns, value) for index, value in found]

    def _in_rows(
        self,
        rows: Int[Tensor, "pair"],
        columns: Int[Tensor, "pair"],
        number: Callable[[Tensor, Tensor], Tensor],
    ) -> Float[Tensor, "pair"]:
        """Return ``number(row, own)`` of each entry: the values of its row [pair, column], its own value [pair, 1]."""
        n_rows, n_columns = self.shape
        check_tokens(rows, n_rows)
        check_tokens(columns, n_columns)
        found = self.A.new_empty(len(rows))
        for some in self._strips(len(rows)):
            values = self.A[rows[some]] @ self.B
            found[some] = number(values, values.gather(1, columns[some, None])).to(found)
        return found

    def _strips(self, length: int) -> list[slice]:
        """Split ``range(length)`` into slices whose complete rows take as much memory as a block."""
        return spans(length, max(1, BLOCK**2 // self.shape[1]))


def shared_entries(circuits: Sequence[VocabularyCircuit], k: int) -> Float[Tensor, "circuit circuit"]:
    """Return the Jaccard overlap of the k largest entries of each two circuits: shared entries over all of them.

    In [0, 1]. Ties with the k-th largest entry are broken arbitrarily, which can lower the overlap of circuits with
    many ties. Scale does not matter: a circuit and a multiple of it overlap fully. Null: about ``k / (2 n - k)`` for
    random entries, n the number of entries. It does not show that the entries are used.

    Raises:
        ValueError: circuits of different shapes, or a k larger than the number of entries.

    Example:
        >>> from headway.models.handmade import low_rank_head
        >>> circuit = VocabularyCircuit.ov(low_rank_head()[0], [Head(0, 0)])  # copies token 0 three times, 1 twice
        >>> swapped = torch.arange(13)
        >>> swapped[[1, 2]] = swapped[[2, 1]]
        >>> pair = [circuit, circuit.renamed(swapped)]
        >>> shared_entries(pair, k=1)[0, 1].item(), round(shared_entries(pair, k=2)[0, 1].item(), 3)
        (1.0, 0.333)
    """
    for i, circuit in enumerate(circuits):
        if circuit.shape != circuits[0].shape:
            raise ValueError(f"circuits: {i} has the shape {circuit.shape}; it must be that of 0, {circuits[0].shape}")
    positions = [{(entry.row, entry.column) for entry in circuit.best(k)} for circuit in circuits]
    return torch.tensor([[len(one & other) / len(one | other) for other in positions] for one in positions])


def ov_circuit(read: ReadWeight, heads: Sequence[Head]) -> VocabularyCircuit:
    """Return ``W_E W_OV W_U`` of a set of heads, [input token, output token]."""
    W_V, W_O = (torch.stack([read(name)[head] for head in heads]) for name in ("W_V", "W_O"))
    W_V = einops.rearrange(W_V, "head d_model d_head -> d_model (head d_head)")
    W_O = einops.rearrange(W_O, "head d_head d_model -> (head d_head) d_model")
    W_E, W_U = read("W_E"), read("W_U")
    d_model, rank = W_V.shape
    return VocabularyCircuit(W_E @ W_V, W_O @ W_U) if rank <= d_model else VocabularyCircuit(W_E, W_V @ W_O @ W_U)


def qk_circuit(read: ReadWeight, head: Head) -> VocabularyCircuit:
    """Return ``W_E W_QK W_E.T`` of a head, [query token, key token]."""
    W_E, W_Q, W_K = read("W_E"), read("W_Q")[head], read("W_K")[head]
    return VocabularyCircuit(W_E @ W_Q, (W_E @ W_K).mT)


def k_composition_circuit(read: ReadWeight, h1: Head, h2: Head) -> VocabularyCircuit:
    """Return ``W_E W_QK(h2) W_OV(h1).T W_E.T``, [query token, key token]."""
    W_E, W_V, W_O, W_Q, W_K = read("W_E"), read("W_V")[h1], read("W_O")[h1], read("W_Q")[h2], read("W_K")[h2]
    return VocabularyCircuit(W_E @ W_Q, (W_E @ W_V @ (W_O @ W_K)).mT)


def circuit_of(read: ReadWeight, circuit: Circuit, heads: Sequence[Head]) -> VocabularyCircuit:
    """Return the OV circuit of a set of heads, or the QK circuit of one head."""
    if circuit == "OV":
        return ov_circuit(read, heads)
    if circuit != "QK":
        raise ValueError(f"circuit: {circuit!r} is not one of OV, QK")
    if len(heads) > 1:
        raise ValueError(
            f"heads: {', '.join(map(str, heads))} are {len(heads)}; give one head, since QK circuits do not add up"
        )
    return qk_circuit(read, heads[0])


def by_head(
    model: Model,
    heads: Heads | None,
    score: Callable[[Sequence[Head]], Tensor],
    names: Mapping[str, Sequence[str]] | None = None,
) -> xr.DataArray:
    """Return a score of each head alone, [layer, head, *names], or of one set of heads, [*names]."""
    names = names or {}
    if heads is None:
        scores = torch.stack([score([head]) for head in heads_except(model)]).unflatten(0, (model.cfg.n_layers, -1))
    else:
        scores = score(set_of_heads(model, heads))
    dims = (*HEAD, *names) if heads is None else tuple(names)
    return xr.DataArray(scores.cpu().numpy(), dims=dims, coords=names, attrs=layer_norm(model))


def set_of_heads(model: Model, heads: Heads) -> list[Head]:
    """Return the heads as a list, and refuse an empty set, a head named twice, and one that does not exist."""
    checked = [check_head(model, head) for head in ([heads] if isinstance(heads, Head) else heads)]
    if not checked or len(set(checked)) < len(checked):
        raise ValueError(
            f"heads: [{', '.join(map(str, checked))}] is not valid; give at least one head, and each head once"
        )
    return checked


def spans(length: int, step: int) -> list[slice]:
    """Split ``range(length)`` into slices of ``step``."""
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def check_k(k: int, most: int) -> None:
    """Refuse a k outside 1 to ``most``."""
    if not 1 <= k <= most:
        raise ValueError(f"k: {k} is not valid; it must be 1 to {most}")


def check_tokens(tokens: Int[Tensor, "token"], n_tokens: int) -> None:
    """Refuse tokens that do not exist."""
    wrong = tokens[(tokens < 0) | (tokens >= n_tokens)].tolist()
    if wrong:
        raise ValueError(f"tokens: {wrong[0]} does not exist; these are 0 to {n_tokens - 1}")
