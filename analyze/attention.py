"""What heads attend to: scores of attention patterns on an evaluation batch.

``A[q, k]`` is the attention pattern, query first. Means pool all qualifying queries of the batch; every score lies in
[0, 1]. Beside each score stands its chance, ``<name>_chance``: the same score of uniform attention over the keys that
a query may see.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import einops
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.data.task import Batch
from headway.models.hooked_transformer import HookedTransformer

Patterns = Float[Tensor, "layer batch head query key"]

# How many sequences of the evaluation batch have their patterns kept.
SHOWN = 4


class Seen(NamedTuple):
    """What one forward pass over the evaluation batch shows."""

    output: Float[Tensor, "batch pos d_vocab_out"]
    patterns: Patterns


_remembered: ContextVar[dict[tuple[int, int], Seen] | None] = ContextVar("remembered", default=None)


class DoesNotApplyError(ValueError):
    """A measure was asked of a network or a batch for which it has no meaning."""


@contextmanager
def seen_once() -> Iterator[None]:
    """Inside, one forward pass of one model over one batch serves all measures; neither may change meanwhile."""
    token = _remembered.set({})
    try:
        yield
    finally:
        _remembered.reset(token)


def seen(model: HookedTransformer, batch: Batch) -> Seen:
    """The output, and the attention pattern of every head, on every sequence of the batch."""
    remembered = _remembered.get()
    key = (id(model), id(batch.inputs))
    if remembered is not None and key in remembered:
        return remembered[key]
    with torch.no_grad():
        output, cache = model.run_with_cache(batch.inputs, names_filter=lambda name: name.endswith("hook_pattern"))
    shown = Seen(output, torch.stack([cache["pattern", layer] for layer in range(model.cfg.n_layers)]))
    if remembered is not None:
        remembered[key] = shown
    return shown


def uniform_pattern(model: HookedTransformer, batch: Batch) -> Float[Tensor, "1 batch 1 query key"]:
    """Chance: every query attends equally to all the keys it may see."""
    sequences, pos = batch.inputs.shape[:2]
    visible = torch.ones(pos, pos, device=batch.inputs.device)
    if model.cfg.attention_dir == "causal":
        visible = visible.tril()
    return (visible / visible.sum(-1, keepdim=True)).expand(1, sequences, 1, -1, -1)


def attention(model: HookedTransformer, batch: Batch) -> xr.Dataset:
    """Attention patterns of the first sequences of the batch: ``attention`` [layer, head, batch, query, key].

    Example:
        >>> from headway.models.handmade import previous_token_head
        >>> model, batch = previous_token_head()
        >>> attention(model, batch).attention.sel(layer=0, head=0, batch=0, query=3).argmax("key").item()
        2
    """
    shown = einops.rearrange(
        seen(model, batch).patterns[:, :SHOWN], "layer batch head query key -> layer head batch query key"
    )
    return xr.Dataset({"attention": (("layer", "head", "batch", "query", "key"), shown.cpu().numpy())})


def previous_token(model: HookedTransformer, batch: Batch) -> xr.Dataset:
    """How much a head attends to the position before: mean over q >= 1 of ``A[q, q-1]``, in [0, 1].

    It says where a head looks, not what it reads there or whether anything uses it. Null: fresh initialisations.

    Example:
        >>> from headway.models.handmade import previous_token_head
        >>> round(previous_token(*previous_token_head()).previous_token.item(), 3)
        1.0
    """
    return _score("previous_token", model, batch, _mean_subdiagonal)


def current_token(model: HookedTransformer, batch: Batch) -> xr.Dataset:
    """How much a head attends to its own position: mean over q >= 1 of ``A[q, q]``, in [0, 1].

    Null: fresh initialisations.
    """
    return _score("current_token", model, batch, lambda A: _mean(torch.diagonal(A, dim1=-2, dim2=-1)[..., 1:]))


def first_token(model: HookedTransformer, batch: Batch) -> xr.Dataset:
    """How much a head attends to position 0, where heads rest: mean over q >= 1 of ``A[q, 0]``, in [0, 1].

    Null: fresh initialisations.
    """
    return _score("first_token", model, batch, lambda A: _mean(A[..., 1:, 0]))


def prefix_matching(model: HookedTransformer, batch: Batch) -> xr.Dataset:
    """How much a head attends to what followed earlier copies of the current token: what an induction head does.

    Mean over q with an earlier match of the summed ``A[q, k]``, ``1 <= k <= q``, ``x[k-1] == x[q]``; in [0, 1]. The BOS
    token matches nothing; a bidirectional network's later matches count too. Olsson et al. 2022, "In-context learning
    and induction heads", definition of the prefix matching score. A head that attends a constant distance back scores
    on sequences of that one period: use random periods. Null: fresh initialisations.

    Raises:
        DoesNotApplyError: inputs that are vectors, or a batch in which no token repeats.
    """
    matches = previous_matches(batch, causal=model.cfg.attention_dir == "causal")
    return _score("prefix_matching", model, batch, lambda A: _mean_match(A, matches))


def previous_matches(batch: Batch, causal: bool) -> Bool[Tensor, "batch query key"]:
    """Which keys follow a copy of the query's token: ``x[k-1] == x[q]``, with k <= q if ``causal``, never k-1 = q."""
    if batch.inputs.is_floating_point():
        raise DoesNotApplyError("prefix_matching needs tokens; this batch has vectors")
    tokens: Int[Tensor, "batch pos"] = batch.inputs
    bos = None if batch.task is None else batch.task.bos_token
    known = tokens if bos is None else tokens.masked_fill(tokens == bos, -1)
    before_key = torch.full_like(known, -2)
    before_key[:, 1:] = known[:, :-1]
    matches = (known[:, :, None] == before_key[:, None, :]) & (known >= 0)[:, :, None]
    q = torch.arange(tokens.shape[1], device=tokens.device)
    allowed = q[None, :] <= q[:, None] if causal else q[None, :] != q[:, None] + 1
    matches = matches & allowed
    if not matches.any():
        raise DoesNotApplyError("prefix_matching needs a token that repeats; no token of this batch does")
    return matches


def _score(
    name: str,
    model: HookedTransformer,
    batch: Batch,
    score: Callable[[Patterns], Float[Tensor, "layer head"]],
) -> xr.Dataset:
    if batch.inputs.shape[1] < 2:
        raise DoesNotApplyError(f"{name} needs sequences of at least 2 positions; this batch has 1")
    chance = score(uniform_pattern(model, batch))
    return xr.Dataset(
        {
            name: (("layer", "head"), score(seen(model, batch).patterns).cpu().numpy()),
            f"{name}_chance": ((), chance.cpu().numpy().squeeze()),
        }
    )


def _mean(values: Float[Tensor, "layer batch head query"]) -> Float[Tensor, "layer head"]:
    return einops.reduce(values, "layer batch head query -> layer head", "mean")


def _mean_subdiagonal(A: Patterns) -> Float[Tensor, "layer head"]:
    return _mean(torch.diagonal(A, offset=-1, dim1=-2, dim2=-1))


def _mean_match(A: Patterns, matches: Bool[Tensor, "batch query key"]) -> Float[Tensor, "layer head"]:
    matched = einops.einsum(A, matches.float(), "layer batch head query key, batch query key -> layer head")
    return matched / matches.any(-1).sum()
