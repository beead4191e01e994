"""Markov chains, a new one in each sequence: the transition probabilities must be estimated in context."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import einops
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from headway.data.seeds import generator as stream
from headway.data.task import Batch, Behaviour, Task

GRAMS = ("uniform", "unigram", "bigram", "trigram", "4-gram")
MOST_CONTEXTS = 512
MOST_CHAINS = 1024
# Sequences behind the baselines (fewer where each is compared with a whole pool), and how many are in memory at once.
SAMPLE, SAMPLE_OF_POOL, CHUNK, MOST_NUMBERS = 20_000, 2_000, 500, 2**22


@dataclass(frozen=True)
class MarkovChains(Task):
    """Tokens of a Markov chain, a new one in each sequence (Edelman et al. 2024, arXiv 2402.11004).

    P(s_(t+1) = j | s_(t-order+1)..s_t) is entry j of the row of these ``order`` tokens, and each row of a chain is
    drawn from Dirichlet(1, .., 1). The first ``order`` tokens come from the chain's stationary distribution. The input
    at position q is s_q and its target is s_(q+1), for q = 0..length-1; it counts from q = order - 1 on. With
    ``n_chains``, each sequence belongs to one of so many fixed chains, drawn from ``chain_seed``: a network can know
    these by heart.

    ``info`` holds the rows as ``transitions`` [batch, context, state], and the number of the chain as ``chain``
    [batch], -1 for a new one. Context number c_1 n_states^(order-1) + .. + c_order stands for the tokens c_1..c_order.

    Args:
        n_states: number of states k, which are the tokens
        order: number of tokens that the next one depends on
        length: number of predictions in a sequence
        n_chains: number of chains in a fixed pool; null draws a new chain for each sequence
        chain_seed: seed of the fixed pool

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> task = MarkovChains(n_states=3, length=7)
        >>> batch = task.batch(seed=0, index=0, batch_size=2)
        >>> batch.inputs.shape, batch.info["transitions"].shape
        (torch.Size([2, 7]), torch.Size([2, 3, 3]))
        >>> {name: tuple(output.shape) for name, output in task.predictors(batch).items()}
        {'uniform': (2, 7, 3), 'unigram': (2, 7, 3), 'bigram': (2, 7, 3)}
    """

    attention_dir: ClassVar = "causal"
    behaviour: ClassVar[Behaviour] = Behaviour(None, "uniform", "best")

    n_states: int = 2
    order: int = 1
    length: int = 100
    n_chains: int | None = None
    chain_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse fields from which nothing can be drawn, or that are too large to estimate."""
        longest = len(GRAMS) - 2
        for name, valid, rule in (
            ("n_states", 2 <= self.n_states <= MOST_CONTEXTS, f"from 2 to {MOST_CONTEXTS}"),
            ("order", 1 <= self.order <= longest, f"from 1 to {longest}"),
            ("length", self.length > self.order, f"more than the order, {self.order}"),
            ("n_chains", self.n_chains is None or 1 <= self.n_chains <= MOST_CHAINS, f"null, or 1 to {MOST_CHAINS}"),
            ("chain_seed", 0 <= self.chain_seed < 2**32, f"a whole number from 0 to {2**32 - 1}"),
        ):
            if not valid:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be {rule}")
        if self.n_contexts > MOST_CONTEXTS:
            raise ValueError(
                f"order: {self.order} is not valid; n_states^order = {self.n_contexts} must be at most {MOST_CONTEXTS}"
            )

    @property
    def n_contexts(self) -> int:
        """Number of rows of a chain, n_states^order."""
        return self.n_states**self.order

    @property
    def d_vocab(self) -> int:
        """Number of states."""
        return self.n_states

    @property
    def n_ctx(self) -> int:
        """Length of the inputs s_0..s_(length-1)."""
        return self.length

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` sequences, each with its own chain or one of the pool."""
        if self.n_chains is None:
            chain = torch.full((batch_size,), -1)
            transitions = dirichlet_rows((batch_size, self.n_contexts, self.n_states), generator)
            start = stationary(transitions)
        else:
            chain = torch.randint(self.n_chains, (batch_size,), generator=generator)
            transitions, start = self.pool[chain], stationary(self.pool)[chain]
        tokens = _walk(transitions, start, self.length + 1, generator)
        return Batch(
            inputs=tokens[:, :-1],
            targets=tokens[:, 1:],
            mask=(torch.arange(self.length) >= self.order - 1).repeat(batch_size, 1),
            info={"transitions": transitions.float(), "chain": chain},
        )

    @property
    def pool(self) -> Float[Tensor, "chain context state"]:
        """The chains of the fixed pool, in float64.

        Raises:
            ValueError: every sequence has a chain of its own.
        """
        if self.n_chains is None:
            raise ValueError("n_chains: None is not valid; a fixed pool needs a number of chains")
        return _pool(self.n_chains, self.n_contexts, self.n_states, self.chain_seed)

    def predictors(self, batch: Batch) -> dict[str, Float[Tensor, "batch pos d_vocab_out"]]:
        """Return log-probabilities of the next token, each given s_0..s_q.

        - ``uniform``: 1 / k for each of the k states.
        - ``unigram``: (1 + count of j) / (k + q + 1).
        - ``bigram``, and ``trigram`` and so on up to the order: (1 + count of j after the last tokens) / (k + count of
          the last tokens). At the length of the order it is the posterior mean of the row, so that no predictor has a
          lower loss but for what the first tokens tell about a chain, of which they are stationary.
        - ``pool``, with a fixed pool: the mean of the pool's rows under the posterior of the chain, which is optimal.

        Example:
            >>> task = MarkovChains(n_states=2, length=3)
            >>> batch = task.batch(0, 0, batch_size=1)._replace(inputs=torch.tensor([[0, 1, 0]]))
            >>> known = task.predictors(batch)["bigram"].exp()[0, 2]  # 0 was followed by 1 once
            >>> [round(share, 3) for share in known.tolist()]
            [0.333, 0.667]
        """
        names = GRAMS[: self.order + 2]
        found = {name: n_gram(batch.inputs, self.n_states, n) for n, name in enumerate(names)}
        if self.n_chains is not None:
            found["pool"] = self._pool_predictor(batch.inputs)
        return found

    def twin(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return tokens that are uniform and independent, so that counts tell nothing of the chain.

        Example:
            >>> task = MarkovChains(n_states=3, length=7)
            >>> task.twin(task.batch(seed=0, index=0, batch_size=2), torch.Generator().manual_seed(0)).inputs.shape
            torch.Size([2, 7])
        """
        tokens = torch.randint(self.n_states, batch.inputs.shape, generator=generator)
        return batch._replace(inputs=tokens.to(batch.inputs))

    def baselines(self) -> dict[str, float]:
        """Return the means of ``baselines_by_position`` over the positions that count, and ``best``.

        ``best`` is the lowest of these predictors: the one that counts what followed the last ``order`` tokens, or that
        of the pool. With two states that of counts is about .001 above what a network can reach: the first tokens,
        which are stationary, tell a little about a chain.

        Example:
            >>> for name, nats in MarkovChains().baselines().items():
            ...     print(name, round(nats, 2))
            uniform 0.69
            unigram 0.58
            bigram 0.51
            entropy 0.48
            best 0.51
        """
        means = {name: losses.nanmean().item() for name, losses in self.baselines_by_position().items()}
        return {**means, "best": means[GRAMS[self.order + 1] if self.n_chains is None else "pool"]}

    def baselines_by_position(self) -> dict[str, Float[Tensor, " pos"]]:
        """Return the cross-entropy of each predictor at each position, and ``entropy``, of one that knows the chain.

        They are estimates from 20,000 sequences (2,000 with a fixed pool), in which a prediction is compared with the
        row of the chain and not with one target: the standard error of their mean over positions is about .001. They
        are NaN where the context is not whole.
        """
        return {name: losses.clone() for name, losses in _estimated(self).items()}

    def _pool_predictor(self, inputs: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab_out"]:
        pool = self.pool.to(inputs.device)
        context = contexts(inputs, self.n_states, self.order)
        # The likelihood of a chain: its stationary distribution of the first context, then a row for each token.
        likelihood = torch.zeros(*inputs.shape, len(pool), dtype=torch.float64, device=inputs.device)
        likelihood[:, self.order - 1] = stationary(pool).T[context[:, self.order - 1]].log()
        before, after = context[:, self.order - 1 : -1], inputs[:, self.order :]
        likelihood[:, self.order :] = einops.rearrange(pool, "chain context j -> context j chain")[before, after].log()
        posterior = likelihood.cumsum(1).softmax(-1)
        known = torch.full((*inputs.shape, self.n_states), 1 / self.n_states, dtype=torch.float64, device=inputs.device)
        for c in context.unique().tolist():
            here = context == c
            known[here] = posterior[here] @ pool[:, c]
        return known.log().float()


def dirichlet_rows(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Return rows drawn from Dirichlet(1, .., 1), the uniform distribution over distributions, in float64.

    Example:
        >>> rows = dirichlet_rows((5, 3), torch.Generator().manual_seed(0))
        >>> bool(torch.allclose(rows.sum(-1), torch.ones(5).double()))
        True
    """
    weights = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
    return weights / weights.sum(-1, keepdim=True)


def stationary(transitions: Float[Tensor, "batch context state"]) -> Float[Tensor, "batch context"]:
    """Return the stationary distribution over contexts of each chain.

    Example:
        >>> stationary(torch.tensor([[[0.5, 0.5], [1.0, 0.0]]], dtype=torch.float64))[0].round(decimals=3).tolist()
        [0.667, 0.333]
    """
    n_contexts, n_states = transitions.shape[-2:]
    # Context c, followed by state j, becomes the context that forgets the first token of c and ends in j.
    flow = torch.zeros(len(transitions), n_contexts, n_contexts).to(transitions)
    c, j = torch.arange(n_contexts)[:, None], torch.arange(n_states)[None]
    flow[:, c, (c * n_states + j) % n_contexts] = transitions
    equations = torch.eye(n_contexts).to(transitions) - flow.mT
    equations[:, -1] = 1  # one equation follows from the others; in its place the probabilities add up to 1
    answers = torch.zeros(len(transitions), n_contexts, 1).to(transitions)
    answers[:, -1] = 1
    return torch.linalg.solve(equations, answers)[..., 0].clamp(min=0)


def contexts(tokens: Int[Tensor, "batch pos"], n_states: int, order: int) -> Int[Tensor, "batch pos"]:
    """Return the number of the last ``order`` tokens at each position; tokens before the first one count as 0.

    Example:
        >>> contexts(torch.tensor([[1, 0, 2]]), n_states=3, order=2).tolist()
        [[1, 3, 2]]
    """
    padded = F.pad(tokens, (order - 1, 0), value=0)
    powers = n_states ** torch.arange(order - 1, -1, -1, device=tokens.device)
    return (padded.unfold(1, order, 1) * powers).sum(-1)


def n_gram(tokens: Int[Tensor, "batch pos"], n_states: int, n: int) -> Float[Tensor, "batch pos state"]:
    """Return log-probabilities of the next token from add-one counts of what followed the last n - 1 tokens.

    n = 0 is the uniform distribution, n = 1 counts single tokens, n = 2 counts pairs.

    Example:
        >>> [round(share, 3) for share in n_gram(torch.tensor([[0, 0, 1]]), n_states=2, n=1).exp()[0, 2].tolist()]
        [0.6, 0.4]
    """
    one_hot = F.one_hot(tokens.long(), n_states).float()
    if n == 0:
        counts = torch.zeros_like(one_hot)
    elif n == 1:
        counts = one_hot.cumsum(1)
    else:
        now = contexts(tokens, n_states, n - 1)
        earlier = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device).tril(-1)
        earlier[:, : n - 2] = False  # no whole context yet
        same = (now[:, :, None] == now[:, None]) & earlier
        same[:, : n - 2] = False
        counts = same[:, :, :-1].float() @ one_hot[:, 1:]
    return ((1 + counts) / (n_states + counts.sum(-1, keepdim=True))).log()


def _walk(
    transitions: Float[Tensor, "batch context state"],
    start: Float[Tensor, "batch context"],
    length: int,
    generator: torch.Generator,
) -> Int[Tensor, "batch length"]:
    """Draw sequences of chains, the first context from ``start``."""
    batch, n_contexts, n_states = transitions.shape
    order = round(math.log(n_contexts, n_states))
    draws = torch.rand(batch, length - order + 1, generator=generator, dtype=torch.float64)
    context = _drawn(start, draws[:, 0])
    powers = n_states ** torch.arange(order - 1, -1, -1)
    first = context[:, None] // powers % n_states
    # Which state each context would be followed by, at each step; then the walk only looks up.
    each = einops.repeat(draws[:, 1:], "batch step -> step batch context", context=n_contexts)
    following = torch.stack([_drawn(transitions, draw) for draw in each], 1)
    rest, sequences = [], torch.arange(batch)
    for step in range(length - order):
        state = following[sequences, step, context]
        context = (context * n_states + state) % n_contexts
        rest.append(state)
    return torch.cat((first, torch.stack(rest, 1)), 1)


def _drawn(distribution: Float[Tensor, "*shape state"], uniform: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return the outcome whose part of [0, 1] holds a number."""
    # The last bound is left out, because rounding may leave it below 1.
    bounds = distribution.cumsum(-1)[..., :-1]
    return (uniform[..., None] >= bounds).sum(-1)


@lru_cache(maxsize=16)
def _pool(n_chains: int, n_contexts: int, n_states: int, seed: int) -> Float[Tensor, "chain context state"]:
    return dirichlet_rows((n_chains, n_contexts, n_states), stream("pool", seed))


@lru_cache(maxsize=16)
def _estimated(task: MarkovChains) -> dict[str, Float[Tensor, " pos"]]:
    if task.n_chains is None:
        chunks, size = SAMPLE // CHUNK, CHUNK
    else:
        size = max(1, min(CHUNK, MOST_NUMBERS // (task.length * task.n_chains)))
        chunks = -(-SAMPLE_OF_POOL // size)
    generator, totals = stream("baseline", 0), dict[str, Tensor]()
    for _ in range(chunks):
        batch = task.sample(generator, size)
        context = contexts(batch.inputs, task.n_states, task.order)
        rows = batch.info["transitions"].double()[torch.arange(size)[:, None], context]
        losses = {name: -(rows * output).sum(-1) for name, output in task.predictors(batch).items()}
        for name, loss in {**losses, "entropy": torch.special.entr(rows).sum(-1)}.items():
            totals[name] = totals.get(name, 0) + loss.mean(0) / chunks
    for total in totals.values():
        total[: task.order - 1] = math.nan
    return totals
