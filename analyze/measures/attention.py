"""Scores of attention patterns on an evaluation batch.

``A[q, k]`` is the attention pattern, query first. Means pool all qualifying queries of the batch from position 1 on,
also those outside its mask, because later layers may read them. Where the task reads at most one position of each
sequence (a classifier), the last layer's means pool that position alone, which may be position 0 of a bidirectional
network, and the earlier layers' means pool every position; ``pooled_queries`` says which. Padding is never pooled. The
attribute ``queries`` of a score says what was pooled. Every score lies in [0, 1]; it is NaN in a layer without
qualifying queries. Each score comes with its chance, ``<name>_chance``: the same score of uniform attention over the
visible keys. Patterns do not show what a head reads at the keys it attends to, nor that anything uses it: ablate the
head for that.
"""

from collections.abc import Callable, Iterable, MutableMapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import einops
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from headway.analyze.measures.descriptions import EVERY_QUERY
from headway.analyze.measures.variety import varied_sequences
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.requirements import DoesNotApplyError, check_batch, needs_positions, needs_tokens
from headway.data.task import Batch
from headway.models.convert import Model

# A class for each token; tokens of one class count as equal.
TokenClasses = Int[Tensor, "d_vocab"]

T = TypeVar("T")
_of_batches: MutableMapping[Tensor, dict[Any, Any]] = WeakTensorKeyDictionary()

# Patterns, or uniform attention, which is the same in all layers and heads.
_Attention = Float[Tensor, "#layer batch head query key"]
# The queries of each layer that are pooled; None for all from position 1 on.
_Pooled = Bool[Tensor, "#layer batch query"] | None

# Number of sequences of the evaluation batch whose patterns are stored.
STORED_SEQUENCES = 4


class Queries(NamedTuple):
    """The queries that a score pools, in words too; ``mask`` is None for all from position 1 on in every layer."""

    mask: _Pooled
    said: str


def pooled_queries(model: Model, batch: Batch) -> Queries:
    """Return the queries that attention scores pool: those that something reads, and at which a head has a choice.

    Every position may be read by a later layer; after the last layer only positions in the mask are read. The
    difference counts for a task that reads at most one position of each sequence, such as a classifier: a score of the
    last layer would else be a mean over many queries that nothing reads.

    Example:
        >>> from headway.models.handmade import previous_token_head
        >>> pooled_queries(*previous_token_head()).said
        'every position from 1 on'
    """
    sees_others = torch.arange(batch.inputs.shape[1], device=batch.mask.device) >= 1
    first = EVERY_QUERY
    # Attention needs no mask, so that it may be that of other sequences.
    if batch.mask.shape != batch.inputs.shape[:2] or batch.mask.sum(1).max() != 1:
        if batch.attention_mask is None:
            return Queries(None, first)
        return Queries((batch.real & sees_others).expand(model.cfg.n_layers, -1, -1), f"{first}, without padding")
    if model.cfg.attention_dir != "causal":
        sees_others, first = batch.real.sum(1, keepdim=True) > 1, "every position"
    padding = "" if batch.attention_mask is None else ", without padding"
    mask = (batch.real & sees_others).repeat(model.cfg.n_layers, 1, 1)
    mask[-1] = batch.mask & sees_others
    earlier = f"; in earlier layers {first}{padding}" if model.cfg.n_layers > 1 else ""
    return Queries(mask, f"in the last layer the position that the task reads{earlier}")


def uniform_pattern(model: Model, batch: Batch) -> Float[Tensor, "1 batch 1 query key"]:
    """Return uniform attention over the visible keys, from which the chance of each score is computed."""
    sequences, pos = batch.inputs.shape[:2]
    visible = torch.ones(pos, pos, device=batch.inputs.device)
    if model.cfg.attention_dir == "causal":
        visible = visible.tril()
    if batch.attention_mask is not None:
        visible = (visible * batch.attention_mask[:, None])[None, :, None]
        return visible / visible.sum(-1, keepdim=True)
    return (visible / visible.sum(-1, keepdim=True)).expand(1, sequences, 1, -1, -1)


def attention(model: Model, batch: Batch) -> xr.Dataset:
    """Attention patterns of a few sequences of the batch.

    ``attention`` [layer, head, batch, query, key]: ``A[q, k]`` of 4 sequences that differ much from each other, the
    first of the batch among them (``varied_sequences``), in [0, 1]; each row adds up to 1. No null. It does not show
    what a head reads at the keys it attends to, nor that anything uses it.

    Example:
        >>> from headway.models.handmade import previous_token_head
        >>> model, batch = previous_token_head()
        >>> attention(model, batch).attention.sel(layer=0, head=0, batch=0, query=3).argmax("key").item()
        2
    """
    patterns = einops.rearrange(
        forward_pass(model, batch).patterns[:, varied_sequences(batch, STORED_SEQUENCES)],
        "layer batch head query key -> layer head batch query key",
    )
    return xr.Dataset({"attention": (("layer", "head", "batch", "query", "key"), patterns.cpu().numpy())})


def previous_token(model: Model, batch: Batch) -> xr.Dataset:
    """Mean attention to the previous position: mean over q >= 1 of ``A[q, q-1]``.

    In [0, 1]; 1 is a perfect previous-token head. Null: fresh initialisations. Elhage et al. 2021. It does not show
    what the head reads there, nor that a later head uses it.

    Example:
        >>> from headway.models.handmade import previous_token_head
        >>> round(previous_token(*previous_token_head()).previous_token.item(), 3)
        1.0
    """
    return _score("previous_token", model, batch, lambda A, queries: _mean(torch.diagonal(A, -1, -2, -1), 1, queries))


def current_token(model: Model, batch: Batch) -> xr.Dataset:
    """Mean attention to the current position: mean over q >= 1 of ``A[q, q]``.

    In [0, 1]. Null: fresh initialisations. It does not show what the head reads there, nor that anything uses it.
    """
    return _score(
        "current_token", model, batch, lambda A, queries: _mean(torch.diagonal(A, dim1=-2, dim2=-1), 0, queries)
    )


def first_token(model: Model, batch: Batch) -> xr.Dataset:
    """Mean attention to position 0, the usual attention sink: mean over q >= 1 of ``A[q, 0]``.

    In [0, 1]. Null: fresh initialisations. Attention sinks: Xiao et al. 2023. It does not show whether the head rests
    there or reads the first token.
    """
    return _score("first_token", model, batch, lambda A, queries: _mean(A[..., 0], 0, queries))


def duplicate_token(model: Model, batch: Batch, same: TokenClasses | None = None) -> xr.Dataset:
    """Mean attention to earlier copies of the current token.

    Mean over q with an earlier equal token of the summed ``A[q, k]``, ``k < q``, ``x[k] == x[q]``; in [0, 1]. The BOS
    token matches nothing; in a bidirectional network later copies count too. Null: fresh initialisations. Wang et al.
    2022, "Interpretability in the wild". It does not show that the head moves the position of the copy, nor that
    anything uses it.

    Args:
        model: The network.
        batch: Sequences of tokens in which some token repeats.
        same: Classes of tokens that count as equal (``token_classes``); by default each token equals only itself.

    Raises:
        DoesNotApplyError: inputs that are vectors, or a batch in which no token repeats.

    Example:
        >>> from headway.models.handmade import duplicate_token_head
        >>> round(duplicate_token(*duplicate_token_head()).duplicate_token.item(), 3)
        1.0
    """
    matches = _matches("duplicate_token", model, batch, same, shift=0)
    return _score("duplicate_token", model, batch, lambda A, queries: _mean_match(A, matches, queries), same)


def prefix_matching(model: Model, batch: Batch, same: TokenClasses | None = None) -> xr.Dataset:
    """Prefix matching score of induction heads: mean attention to tokens that followed copies of the current token.

    Mean over q with an earlier match of the summed ``A[q, k]``, ``1 <= k <= q``, ``x[k-1] == x[q]``; in [0, 1]. The BOS
    token matches nothing; in a bidirectional network later matches count too. Null: fresh initialisations. Olsson et
    al. 2022, "In-context learning and induction heads". With ``same`` it scores fuzzy induction: attention to tokens
    that followed tokens of the current token's class. It does not show that the head copies the token it attends to. A
    head that attends a constant distance back scores high on sequences of that period: use random periods.

    Args:
        model: The network.
        batch: Sequences of tokens in which some token repeats.
        same: Classes of tokens that count as equal (``token_classes``); by default each token equals only itself.

    Raises:
        DoesNotApplyError: inputs that are vectors, or a batch in which no token repeats.
    """
    matches = _matches("prefix_matching", model, batch, same, shift=1)
    return _score("prefix_matching", model, batch, lambda A, queries: _mean_match(A, matches, queries), same)


def induction_stripe(model: Model, batch: Batch) -> xr.Dataset:
    """Induction stripe on a repeated segment: mean over q = S+1..2S of ``A[q, q-S+1]``.

    On sequences ``[BOS, r_1..r_S, r_1..r_S]``, r without repeats; exactly S entries, in [0, 1]. On such a batch it
    equals prefix_matching. Null: fresh initialisations. Olsson et al. 2022. It does not show that the head matches
    tokens: the distance is constant, so a head that attends a constant distance back scores as high.

    Raises:
        DoesNotApplyError: inputs that are vectors, or sequences that are not BOS and one segment twice.
    """
    needs_tokens("induction_stripe", batch)
    check_batch(model, batch)
    length = int(batch.real.sum(1).max())
    first, second = batch.inputs[:, 1:length].tensor_split(2, dim=1)
    S = first.shape[1]
    repeats = (
        length > 1 and bool(batch.real[:, :length].all()) and first.shape == second.shape and torch.equal(first, second)
    )
    if not repeats or any(row.unique().numel() < S for row in first):
        raise DoesNotApplyError(
            "induction_stripe needs sequences of BOS and one segment of distinct tokens twice, and nothing else; "
            "take prefix_matching, which works on any tokens"
        )
    return _score(
        "induction_stripe",
        model,
        batch,
        lambda A, queries: _mean(torch.diagonal(A[..., :length, :length], 1 - S, -2, -1)[..., -S:], 1, None),
    )


def attention_entropy(model: Model, batch: Batch) -> xr.Dataset:
    """Normalised entropy of attention: mean over q >= 1 of ``H(A[q]) / ln(number of visible keys)``.

    In [0, 1]: 0 is attention to one key, 1 is uniform attention (``0 ln 0 = 0``). Null: fresh initialisations, which
    lie close to 1. It does not show which keys a head attends to.

    Example:
        >>> from headway.models.handmade import uniform_head
        >>> attention_entropy(*uniform_head()).attention_entropy.item()
        1.0
    """
    visible = uniform_pattern(model, batch)[0]
    keys = torch.log(((visible[:1] if batch.attention_mask is None else visible) > 0).sum(-1).float())

    def entropy(A: _Attention, queries: _Pooled) -> Float[Tensor, "layer head"]:
        first = 1 if queries is None else 0
        return _mean(torch.special.entr(A[..., first:, :]).sum(-1) / keys[..., first:], first, queries)

    return _score("attention_entropy", model, batch, entropy)


def fixed_offset(model: Model, batch: Batch) -> xr.Dataset:
    """Mean attention to the key at a fixed distance other than 0 and 1, at the distance that suits the head best.

    ``fixed_offset`` [layer, head]: the maximum over distances d of the mean of ``A[q, q - d]`` over the queries that
    have this key; d is one that at least half of the queries have, and neither 0 nor 1, which ``current_token`` and
    ``previous_token`` score. In [0, 1]. ``fixed_offset_best`` is this d; it is below 0 for later keys of a
    bidirectional network. Null: fresh initialisations, each with its own best distance; the chance is the maximum of
    uniform attention too. It does not show that the head would keep the distance on longer sequences, nor, on sequences
    with a period, that it goes by positions and not by tokens.

    Raises:
        DoesNotApplyError: sequences so short that half of the queries have no such key.

    Example:
        >>> from headway.models.handmade import offset_head
        >>> found = fixed_offset(*offset_head(3))
        >>> round(found.fixed_offset.item(), 3), found.fixed_offset_best.item()
        (1.0, 3)
    """

    def best(A: _Attention, queries: _Pooled) -> Float[Tensor, "layer head"]:
        found = _by_offset(model, batch, A, queries)[1].amax(0)
        return found.where(found >= 0, torch.nan)

    scores = _score("fixed_offset", model, batch, best)
    offsets, by_offset = _by_offset(
        model, batch, forward_pass(model, batch).patterns, pooled_queries(model, batch).mask
    )
    scores["fixed_offset_best"] = (("layer", "head"), offsets[by_offset.argmax(0).cpu()].numpy())
    return scores


def mirror(model: Model, batch: Batch) -> xr.Dataset:
    """Mean attention to the position that is as far from the end as the query is from the start.

    Mean of ``A[q, n - 1 - q]``, n the length of the sequence without padding, over the queries that see this key and
    are not in the middle. In [0, 1]. Null: fresh initialisations. Heads of networks that check palindromes or reverse
    a sequence do this. It does not show that the head would find the mirror in sequences of other lengths, nor what it
    reads there.

    Example:
        >>> from headway.models.handmade import mirror_head
        >>> round(mirror(*mirror_head()).mirror.item(), 3)
        1.0
    """
    check_batch(model, batch)
    length, pos = batch.real.sum(1, keepdim=True), torch.arange(batch.inputs.shape[1], device=batch.mask.device)
    other = length - 1 - pos
    there = batch.real & (other != pos) & ((other < pos) | (model.cfg.attention_dir != "causal"))
    if not there.any():
        raise DoesNotApplyError("mirror needs sequences of at least 2 positions")
    keys = other.clamp(min=0)

    def score(A: _Attention, queries: _Pooled) -> Float[Tensor, "layer head"]:
        where = keys[None, :, None, :, None].expand(*A.shape[:4], 1)
        pooled = (there & (pos >= 1))[None] if queries is None else there & queries
        return _mean(A.gather(-1, where)[..., 0], 0, pooled)

    return _score("mirror", model, batch, score)


def token_classes(pairs: Iterable[tuple[int, int]], d_vocab: int) -> TokenClasses:
    """Return a class for each token, shared by the two tokens of every pair and by tokens that pairs connect.

    Raises:
        ValueError: a token that does not exist.

    Example:
        >>> token_classes([(1, 3), (3, 4)], d_vocab=5).tolist()
        [0, 1, 2, 1, 1]
    """
    classes = torch.arange(d_vocab)
    for pair in pairs:
        for token in pair:
            if not 0 <= token < d_vocab:
                raise ValueError(
                    f"pairs: {tuple(pair)} holds a token that does not exist; tokens are 0 to {d_vocab - 1}"
                )
        low, high = sorted(classes[list(pair)].tolist())
        classes[classes == high] = low
    return classes


def _of_sequences(
    what: str,
    model: Model,
    batch: Batch,
    same: TokenClasses | None,
    make: Callable[[], T],
    beside: tuple[Tensor | None, ...] = (),
) -> T:
    """Return what follows from the sequences, and masks ``beside`` them: a run scores the same at each checkpoint."""
    if same is not None:
        return make()
    made = _of_batches.setdefault(batch.inputs, {})
    bos_token = None if batch.task is None else batch.task.bos_token
    # torch counts the changes of a tensor in place.
    versions = [(id(tensor), tensor._version) for tensor in beside if tensor is not None]
    key = (what, model.cfg.attention_dir, model.cfg.n_layers, bos_token, batch.inputs._version, *versions)
    if key not in made:
        # The masks are kept alive, because they are identified by ``id``.
        made[key] = (make(), beside)
    return made[key][0]


def _matches(
    name: str, model: Model, batch: Batch, same: TokenClasses | None, shift: int
) -> Bool[Tensor, "batch query key"]:
    """Return the keys ``shift`` positions after a copy of the query's token: ``x[k - shift] == x[q]``.

    The query's own token is not a copy. Only visible keys match.
    """
    needs_tokens(name, batch)
    check_batch(model, batch)
    find = partial(_find_matches, name, model, batch, same, shift)
    return _of_sequences(f"matches {shift}", model, batch, same, find, (batch.attention_mask,))


def _find_matches(
    name: str, model: Model, batch: Batch, same: TokenClasses | None, shift: int
) -> Bool[Tensor, "batch query key"]:
    tokens: Int[Tensor, "batch pos"] = batch.inputs
    if same is not None and (same.is_floating_point() or same.shape != (model.cfg.d_vocab,)):
        raise ValueError(f"same: it has the shape {tuple(same.shape)}; it must be {model.cfg.d_vocab} classes")
    classes = tokens if same is None else same.to(tokens.device)[tokens]
    if batch.task is not None and batch.task.bos_token is not None:
        classes = classes.masked_fill(tokens == batch.task.bos_token, -1)
    if batch.attention_mask is not None:
        classes = classes.masked_fill(~batch.attention_mask, -1)
    copies = classes.roll(shift, dims=1)
    copies[:, :shift] = -1
    matches = (classes[:, :, None] == copies[:, None, :]) & (classes >= 0)[:, :, None]
    q = torch.arange(tokens.shape[1], device=tokens.device)
    matches = matches & (q[None, :] != q[:, None] + shift)
    if model.cfg.attention_dir == "causal":
        matches = matches & (q[None, :] <= q[:, None])
    matches = matches & batch.real[:, None]
    if not matches.any():
        raise DoesNotApplyError(f"{name} needs a token that repeats within a sequence; no token of this batch does")
    return matches


def _score(
    name: str,
    model: Model,
    batch: Batch,
    score: Callable[[_Attention, _Pooled], Float[Tensor, "layer head"]],
    same: TokenClasses | None = None,
) -> xr.Dataset:
    needs_positions(name, batch, 2)
    check_batch(model, batch)
    queries = pooled_queries(model, batch)
    masks = () if queries.mask is None else (batch.mask, batch.attention_mask)
    chance = _of_sequences(name, model, batch, same, lambda: score(uniform_pattern(model, batch), queries.mask), masks)
    if chance.isnan().all():
        raise DoesNotApplyError(f"{name} has no query in this batch; it pools {queries.said}")
    scores = score(forward_pass(model, batch).patterns, queries.mask)
    # Layers that pool different queries have chances of their own.
    same_in_all = queries.mask is None or bool((queries.mask == queries.mask[:1]).all())
    of_chance = ((), chance[0, 0].cpu().numpy()) if same_in_all else (("layer",), chance[:, 0].cpu().numpy())
    said = {"queries": queries.said}
    return xr.Dataset({name: (("layer", "head"), scores.cpu().numpy(), said), f"{name}_chance": of_chance})


def _mean(values: Float[Tensor, "#layer batch head some"], first: int, queries: _Pooled) -> Float[Tensor, "layer head"]:
    """Return the mean of values of the queries from position ``first`` on, over those that are pooled."""
    if queries is None:
        return einops.reduce(values[..., 1 - first :], "layer batch head query -> layer head", "mean")
    pooled = queries[:, :, None, first:]
    total = values.where(pooled, 0).sum((1, 3))
    return total / pooled.sum((1, 3))


def _by_offset(
    model: Model, batch: Batch, A: _Attention, queries: _Pooled
) -> tuple[Int[Tensor, "offset"], Float[Tensor, "offset layer head"]]:
    """Return distances, query minus key, and the mean attention at each; -inf at one that few queries have."""
    length, causal = A.shape[-1], model.cfg.attention_dir == "causal"
    every = torch.arange(length, device=A.device) >= 1
    pooled = every.expand(1, len(batch.inputs), -1) if queries is None else queries
    total, offsets, means = pooled.sum((1, 2)), [], []
    for offset in [*range(0 if causal else 1 - length, 0), *range(2, length)]:
        query, key, count = max(offset, 0), max(-offset, 0), length - abs(offset)
        there = pooled[:, :, query : query + count] & batch.real[None, :, key : key + count]
        has = there.sum((1, 2))
        enough = (has > 0) & (2 * has >= total)
        if enough.any():
            mean = _mean(torch.diagonal(A, -offset, -2, -1), 0, there)
            offsets.append(offset)
            means.append(mean.where(enough[:, None], -torch.inf))
    if not means:
        raise DoesNotApplyError("fixed_offset needs a distance, other than 0 and 1, that half of the queries have")
    return torch.tensor(offsets), torch.stack(means)


def _mean_match(
    A: _Attention, matches: Bool[Tensor, "batch query key"], queries: _Pooled
) -> Float[Tensor, "layer head"]:
    if queries is None:
        matched = einops.einsum(A, matches.to(A.dtype), "layer batch head query key, batch query key -> layer head")
        return matched / matches.any(-1).sum()
    attended = einops.einsum(
        A, matches.to(A.dtype), "layer batch head query key, batch query key -> layer batch head query"
    )
    return _mean(attended, 0, queries & matches.any(-1))
