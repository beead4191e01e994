"""What heads attend to: scores of attention patterns on an evaluation batch.

``A[q, k]`` is the attention pattern, query first. Means pool all qualifying queries of the batch; every score lies in
[0, 1]. Beside each score stands its chance, ``<name>_chance``: the same score of uniform attention over the keys that
a query may see.
"""

from collections.abc import Callable, Iterable

import einops
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.analyze.network.forward import Patterns, forward_pass
from headway.analyze.network.requirements import DoesNotApplyError, needs_positions, needs_tokens
from headway.data.task import Batch
from headway.models.convert import Model

# A number for each token; tokens of one number count as equal.
TokenClasses = Int[Tensor, "d_vocab"]

# How many sequences of the evaluation batch have their patterns kept.
STORED_SEQUENCES = 4


def uniform_pattern(model: Model, batch: Batch) -> Float[Tensor, "1 batch 1 query key"]:
    """Chance: every query attends equally to all the keys it may see."""
    sequences, pos = batch.inputs.shape[:2]
    visible = torch.ones(pos, pos, device=batch.inputs.device)
    if model.cfg.attention_dir == "causal":
        visible = visible.tril()
    return (visible / visible.sum(-1, keepdim=True)).expand(1, sequences, 1, -1, -1)


def attention(model: Model, batch: Batch) -> xr.Dataset:
    """Attention patterns of the first sequences of the batch: ``attention`` [layer, head, batch, query, key].

    Example:
        >>> from headway.models.handmade import previous_token_head
        >>> model, batch = previous_token_head()
        >>> attention(model, batch).attention.sel(layer=0, head=0, batch=0, query=3).argmax("key").item()
        2
    """
    patterns = einops.rearrange(
        forward_pass(model, batch).patterns[:, :STORED_SEQUENCES],
        "layer batch head query key -> layer head batch query key",
    )
    return xr.Dataset({"attention": (("layer", "head", "batch", "query", "key"), patterns.cpu().numpy())})


def previous_token(model: Model, batch: Batch) -> xr.Dataset:
    """How much a head attends to the position before: mean over q >= 1 of ``A[q, q-1]``, in [0, 1].

    It says where a head looks, not what it reads there or whether anything uses it. Null: fresh initialisations.

    Example:
        >>> from headway.models.handmade import previous_token_head
        >>> round(previous_token(*previous_token_head()).previous_token.item(), 3)
        1.0
    """
    return _score("previous_token", model, batch, _mean_subdiagonal)


def current_token(model: Model, batch: Batch) -> xr.Dataset:
    """How much a head attends to its own position: mean over q >= 1 of ``A[q, q]``, in [0, 1].

    Null: fresh initialisations.
    """
    return _score("current_token", model, batch, lambda A: _mean(torch.diagonal(A, dim1=-2, dim2=-1)[..., 1:]))


def first_token(model: Model, batch: Batch) -> xr.Dataset:
    """How much a head attends to position 0, where heads rest: mean over q >= 1 of ``A[q, 0]``, in [0, 1].

    Null: fresh initialisations.
    """
    return _score("first_token", model, batch, lambda A: _mean(A[..., 1:, 0]))


def duplicate_token(model: Model, batch: Batch, same: TokenClasses | None = None) -> xr.Dataset:
    """How much a head attends to earlier copies of the current token.

    Mean over q with an earlier equal token of the summed ``A[q, k]``, ``k < q``, ``x[k] == x[q]``; in [0, 1]. The BOS
    token matches nothing; a bidirectional network's later copies count too. Wang et al. 2022, "Interpretability in the
    wild". Null: fresh initialisations.

    Args:
        model: The network.
        batch: Tokens, some of which stand more than once in a sequence.
        same: Tokens of one class count as equal (``token_classes``); by default each is equal to itself alone.

    Raises:
        DoesNotApplyError: inputs that are vectors, or a batch in which no token repeats.

    Example:
        >>> from headway.models.handmade import duplicate_token_head
        >>> round(duplicate_token(*duplicate_token_head()).duplicate_token.item(), 3)
        1.0
    """
    matches = _matches("duplicate_token", model, batch, same, shift=0)
    return _score("duplicate_token", model, batch, lambda A: _mean_match(A, matches))


def prefix_matching(model: Model, batch: Batch, same: TokenClasses | None = None) -> xr.Dataset:
    """How much a head attends to what followed earlier copies of the current token: what an induction head does.

    Mean over q with an earlier match of the summed ``A[q, k]``, ``1 <= k <= q``, ``x[k-1] == x[q]``; in [0, 1]. The BOS
    token matches nothing; a bidirectional network's later matches count too. Olsson et al. 2022, "In-context learning
    and induction heads", definition of the prefix matching score. A head that attends a constant distance back scores
    on sequences of that one period: use random periods. With ``same`` it is fuzzy induction: what followed tokens of
    the current token's class. Null: fresh initialisations.

    Args:
        model: The network.
        batch: Tokens, some of which stand more than once in a sequence.
        same: Tokens of one class count as equal (``token_classes``); by default each is equal to itself alone.

    Raises:
        DoesNotApplyError: inputs that are vectors, or a batch in which no token repeats.
    """
    matches = _matches("prefix_matching", model, batch, same, shift=1)
    return _score("prefix_matching", model, batch, lambda A: _mean_match(A, matches))


def induction_stripe(model: Model, batch: Batch) -> xr.Dataset:
    """The stripe of an induction head on one segment twice, ``[BOS, r_1..r_S, r_1..r_S]``, r without repeats.

    Mean over q = S+1..2S of ``A[q, q-S+1]``, exactly S entries; in [0, 1]. On such a batch it is prefix_matching;
    as the distance is always the same, a head that counts positions scores as well. Null: fresh initialisations.

    Raises:
        DoesNotApplyError: inputs that are vectors, or sequences that are not one segment twice after BOS.
    """
    needs_tokens("induction_stripe", batch)
    first, second = batch.inputs[:, 1:].tensor_split(2, dim=1)
    S = first.shape[1]
    repeats = batch.inputs.shape[1] > 1 and first.shape == second.shape and torch.equal(first, second)
    if not repeats or any(row.unique().numel() < S for row in first):
        raise DoesNotApplyError(
            "induction_stripe needs sequences that are BOS and one segment of distinct tokens twice, nothing else; "
            "prefix_matching works on any tokens"
        )
    return _score(
        "induction_stripe", model, batch, lambda A: _mean(torch.diagonal(A, 1 - S, dim1=-2, dim2=-1)[..., -S:])
    )


def attention_entropy(model: Model, batch: Batch) -> xr.Dataset:
    """How widely a head looks: mean over q >= 1 of ``H(A[q]) / ln(number of visible keys)``, in [0, 1].

    0 is one key, 1 all visible keys alike (``0 ln 0 = 0``). Null: fresh initialisations, which lie close to 1.

    Example:
        >>> from headway.models.handmade import uniform_head
        >>> attention_entropy(*uniform_head()).attention_entropy.item()
        1.0
    """
    keys = torch.log((uniform_pattern(model, batch)[0, 0, 0, 1:] > 0).sum(-1).float())
    return _score("attention_entropy", model, batch, lambda A: _mean(torch.special.entr(A[..., 1:, :]).sum(-1) / keys))


def token_classes(pairs: Iterable[tuple[int, int]], d_vocab: int) -> TokenClasses:
    """A class for each token, so that the two tokens of every pair, and of chains of pairs, share theirs.

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


def _matches(
    name: str, model: Model, batch: Batch, same: TokenClasses | None, shift: int
) -> Bool[Tensor, "batch query key"]:
    """Keys that stand ``shift`` positions after a copy of the query's token: ``x[k - shift] == x[q]``.

    The query's own token is no copy. Keys are those that the network lets the query see.
    """
    needs_tokens(name, batch)
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
        raise DoesNotApplyError(f"{name} needs a token that repeats; no token of this batch does")
    return matches


def _score(
    name: str,
    model: Model,
    batch: Batch,
    score: Callable[[Patterns], Float[Tensor, "layer head"]],
) -> xr.Dataset:
    needs_positions(name, batch, 2)
    chance = score(uniform_pattern(model, batch))
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
