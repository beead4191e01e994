"""Scores of attention patterns on an evaluation batch.

``A[q, k]`` is the attention pattern, query first. Means pool all qualifying queries of the batch, also those outside
its mask; every score lies in [0, 1]. Each score comes with its chance, ``<name>_chance``: the same score of uniform
attention over the visible keys. Patterns do not show what a head reads at the keys it attends to, nor that anything
uses it: ablate the head for that.
"""

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, TypeVar

import einops
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from headway.analyze.measures.variety import varied_sequences
from headway.analyze.network.forward import Patterns, forward_pass
from headway.analyze.network.requirements import DoesNotApplyError, needs_positions, needs_tokens
from headway.data.task import Batch
from headway.models.convert import Model

# A class for each token; tokens of one class count as equal.
TokenClasses = Int[Tensor, "d_vocab"]

T = TypeVar("T")
_of_batches: MutableMapping[Tensor, dict[Any, Any]] = WeakTensorKeyDictionary()

# Number of sequences of the evaluation batch whose patterns are stored.
STORED_SEQUENCES = 4


def uniform_pattern(model: Model, batch: Batch) -> Float[Tensor, "1 batch 1 query key"]:
    """Return uniform attention over the visible keys, from which the chance of each score is computed."""
    sequences, pos = batch.inputs.shape[:2]
    visible = torch.ones(pos, pos, device=batch.inputs.device)
    if model.cfg.attention_dir == "causal":
        visible = visible.tril()
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
    return _score("previous_token", model, batch, _mean_subdiagonal)


def current_token(model: Model, batch: Batch) -> xr.Dataset:
    """Mean attention to the current position: mean over q >= 1 of ``A[q, q]``.

    In [0, 1]. Null: fresh initialisations. It does not show what the head reads there, nor that anything uses it.
    """
    return _score("current_token", model, batch, lambda A: _mean(torch.diagonal(A, dim1=-2, dim2=-1)[..., 1:]))


def first_token(model: Model, batch: Batch) -> xr.Dataset:
    """Mean attention to position 0, the usual attention sink: mean over q >= 1 of ``A[q, 0]``.

    In [0, 1]. Null: fresh initialisations. Attention sinks: Xiao et al. 2023. It does not show whether the head rests
    there or reads the first token.
    """
    return _score("first_token", model, batch, lambda A: _mean(A[..., 1:, 0]))


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
    return _score("duplicate_token", model, batch, lambda A: _mean_match(A, matches), same)


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
    return _score("prefix_matching", model, batch, lambda A: _mean_match(A, matches), same)


def induction_stripe(model: Model, batch: Batch) -> xr.Dataset:
    """Induction stripe on a repeated segment: mean over q = S+1..2S of ``A[q, q-S+1]``.

    On sequences ``[BOS, r_1..r_S, r_1..r_S]``, r without repeats; exactly S entries, in [0, 1]. On such a batch it
    equals prefix_matching. Null: fresh initialisations. Olsson et al. 2022. It does not show that the head matches
    tokens: the distance is constant, so a head that attends a constant distance back scores as high.

    Raises:
        DoesNotApplyError: inputs that are vectors, or sequences that are not BOS and one segment twice.
    """
    needs_tokens("induction_stripe", batch)
    first, second = batch.inputs[:, 1:].tensor_split(2, dim=1)
    S = first.shape[1]
    repeats = batch.inputs.shape[1] > 1 and first.shape == second.shape and torch.equal(first, second)
    if not repeats or any(row.unique().numel() < S for row in first):
        raise DoesNotApplyError(
            "induction_stripe needs sequences of BOS and one segment of distinct tokens twice, and nothing else; "
            "take prefix_matching, which works on any tokens"
        )
    return _score(
        "induction_stripe", model, batch, lambda A: _mean(torch.diagonal(A, 1 - S, dim1=-2, dim2=-1)[..., -S:])
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
    keys = torch.log((uniform_pattern(model, batch)[0, 0, 0, 1:] > 0).sum(-1).float())
    return _score("attention_entropy", model, batch, lambda A: _mean(torch.special.entr(A[..., 1:, :]).sum(-1) / keys))


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


def _of_sequences(what: str, model: Model, batch: Batch, same: TokenClasses | None, make: Callable[[], T]) -> T:
    """Return what follows from the sequences alone: a run scores the same ones at each checkpoint."""
    if same is not None:
        return make()
    made = _of_batches.setdefault(batch.inputs, {})
    bos_token = None if batch.task is None else batch.task.bos_token
    # torch counts the changes of a tensor in place.
    key = (what, model.cfg.attention_dir, bos_token, batch.inputs._version)
    if key not in made:
        made[key] = make()
    return made[key]


def _matches(
    name: str, model: Model, batch: Batch, same: TokenClasses | None, shift: int
) -> Bool[Tensor, "batch query key"]:
    """Return the keys ``shift`` positions after a copy of the query's token: ``x[k - shift] == x[q]``.

    The query's own token is not a copy. Only visible keys match.
    """
    needs_tokens(name, batch)
    return _of_sequences(f"matches {shift}", model, batch, same, lambda: _find_matches(name, model, batch, same, shift))


def _find_matches(
    name: str, model: Model, batch: Batch, same: TokenClasses | None, shift: int
) -> Bool[Tensor, "batch query key"]:
    tokens: Int[Tensor, "batch pos"] = batch.inputs
    if same is not None and (same.is_floating_point() or same.shape != (model.cfg.d_vocab,)):
        raise ValueError(f"same: it has the shape {tuple(same.shape)}; it must be {model.cfg.d_vocab} classes")
    classes = tokens if same is None else same.to(tokens.device)[tokens]
    if batch.task is not None and batch.task.bos_token is not None:
        classes = classes.masked_fill(tokens == batch.task.bos_token, -1)
    copies = classes.roll(shift, dims=1)
    copies[:, :shift] = -1
    matches = (classes[:, :, None] == copies[:, None, :]) & (classes >= 0)[:, :, None]
    q = torch.arange(tokens.shape[1], device=tokens.device)
    matches = matches & (q[None, :] != q[:, None] + shift)
    if model.cfg.attention_dir == "causal":
        matches = matches & (q[None, :] <= q[:, None])
    if not matches.any():
        raise DoesNotApplyError(f"{name} needs a token that repeats within a sequence; no token of this batch does")
    return matches


def _score(
    name: str,
    model: Model,
    batch: Batch,
    score: Callable[[Patterns], Float[Tensor, "layer head"]],
    same: TokenClasses | None = None,
) -> xr.Dataset:
    needs_positions(name, batch, 2)
    chance = _of_sequences(name, model, batch, same, lambda: score(uniform_pattern(model, batch)))
    return xr.Dataset(
        {
            name: (("layer", "head"), score(forward_pass(model, batch).patterns).cpu().numpy()),
            f"{name}_chance": ((), chance.cpu().numpy().squeeze()),
        }
    )


def _mean(values: Float[Tensor, "layer batch head query"]) -> Float[Tensor, "layer head"]:
    return einops.reduce(values, "layer batch head query -> layer head", "mean")


def _mean_subdiagonal(A: Patterns) -> Float[Tensor, "layer head"]:
    return _mean(torch.diagonal(A, offset=-1, dim1=-2, dim2=-1))


def _mean_match(A: Patterns, matches: Bool[Tensor, "batch query key"]) -> Float[Tensor, "layer head"]:
    matched = einops.einsum(A, matches.to(A.dtype), "layer batch head query key, batch query key -> layer head")
    return matched / matches.any(-1).sum()
