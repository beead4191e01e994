"""Why a head attends from the end of a sentence to a name: the story of McDougall's notebook on fixed keys and queries.

"Mary and John went … John gave a drink to": a name mover attends from the last word (END) to the name that comes once
(IO) and says it; a negative head attends there as well and takes some of it back. A head's score is affine in its
query's vector with the keys as they are, and in its key's vector with the queries as they are. So it can be asked which
vector makes it look: what stands in for the query, the unembedding of IO or what a name mover writes; what for the key,
the token's embedding or what layer 0 makes of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from headway.analyze.measures.attribution import (
    AffineScore,
    as_read,
    as_scaled,
    attribute_inputs,
    attribute_outputs,
    reads,
    score_given_keys,
    score_given_queries,
    unembedding,
)
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass, hooked_forward_pass, shared_forward_pass
from headway.analyze.network.interventions import Input, heads_except, through_paths
from headway.analyze.network.requirements import check_head
from headway.analyze.network.weights import bias, weight
from headway.analyze.studies.loading import LoadedModel, folded_model
from headway.analyze.studies.result import Claim, Claims, Figure, Section, StudyResult, table
from headway.analyze.studies.runner import over_steps
from headway.analyze.tools.copying import copying_score, effective_embedding
from headway.checkpoints.run import Run
from headway.data.indirect_object import IndirectObject, in_tokens
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model

NAME = "name-movers"
Place = Literal["io", "s1", "s2"]
PLACES: tuple[Place, ...] = ("io", "s1", "s2")
# So many sentences have their scores split by component, and so many bins has a histogram.
SPLIT, BINS = 64, 60
# So many heads, or components, have a row of their own.
ROWS = 10
# A head is called a name mover, or a negative one, if it adds or takes away this share of the logit difference.
WORTH = 0.05
# It takes back what the strongest name mover says if it takes off more than this share of it.
TAKES_BACK = 0.1


@dataclass(frozen=True)
class Sentences:
    """Sentences with two names, and the same with three others."""

    batch: Batch
    corrupted: Batch
    names: Int[Tensor, "name"]

    @classmethod
    def of(cls, task: IndirectObject, seed: int, count: int) -> "Sentences":
        """Some sentences of a task, always the same."""
        batch = task.evaluation_batch(seed, count)
        return cls(batch, task.corrupted(batch), task.name_tokens)

    def first(self, count: int) -> "Sentences":
        """The first of them."""
        return Sentences(self.batch.first(count), self.corrupted.first(count), self.names)

    def at(self, values: Float[Tensor, "batch pos *rest"], place: str) -> Float[Tensor, "batch *rest"]:
        """What stands at one position of each: ``io``, ``s1``, ``s2`` or ``end``."""
        return values[torch.arange(len(values)), self.batch.info[place]]


@dataclass(frozen=True)
class Chosen:
    """The head whose attention is explained, the heads that say the name, and where the head looks."""

    head: Head
    movers: tuple[Head, ...]
    place: Place

    @property
    def earlier(self) -> tuple[Head, ...]:
        """The name movers whose output the head can read."""
        return tuple(head for head in self.movers if head.layer < self.head.layer)

    @property
    def token(self) -> str:
        """In ``info``: the token at that place."""
        return "io_token" if self.place == "io" else "s_token"

    @property
    def there(self) -> str:
        """The place as it is written."""
        return self.place.upper()


def study(
    run: Run | TransformerBridge,
    at: int | None = None,
    sequences: int = 200,
    head: str | None = None,
    to: Place = "io",
    names: tuple[str, ...] | None = None,
    progress: bool = False,
) -> StudyResult:
    """Study the heads that attend from the end of a sentence to its names.

    Args:
        run: A run of the task IndirectObject, or a language model.
        at: The kept step to look at; the last one if not given.
        sequences: How many sentences each number is taken over.
        head: The head whose scores are explained, such as L10H7; if not given the negative name mover that takes back
            most, or the strongest name mover where there is none.
        to: Whose position is attended to: io, s1 or s2.
        names: Of a language model: the names in the sentences, each one token of its tokenizer; ours if not given.

    Raises:
        ValueError: a run of another task, a step that was not kept, a head that does not exist, a tokenizer that splits
            a name.
    """
    if isinstance(run, Run) and not isinstance(run.task, IndirectObject):
        raise ValueError(f"run: {run.path} is of the task {type(run.task).__name__}; {NAME} needs IndirectObject")
    if isinstance(run, Run) and names is not None:
        raise ValueError(f"names: {', '.join(names)} is not valid for a run, whose task has its own")
    if sequences < 2:
        raise ValueError(f"sequences: {sequences} is not valid; it must be at least 2")
    subject = LoadedModel.of(run, at)
    model = subject.folded
    asked = None if head is None else check_head(model, Head.named(head))
    task = run.task if isinstance(run, Run) else in_tokens(run.tokenizer, names=names)
    assert isinstance(task, IndirectObject)
    if model.cfg.n_ctx < task.n_ctx:
        raise ValueError(f"run: {subject.name} reads {model.cfg.n_ctx} tokens; these sentences have {task.n_ctx}")
    sentences = Sentences.of(task, run.recipe.eval_seed if isinstance(run, Run) else 0, sequences)
    with shared_forward_pass():
        chosen = choose(model, sentences, asked, to)
        sections = [
            _behaviour(subject, sentences),
            _finding(model, sentences, chosen),
            _keys_fixed(model, sentences, chosen),
            _queries_fixed(model, sentences, chosen),
            _components(model, sentences.first(SPLIT), chosen),
            _paths(model, sentences, chosen),
        ]
        ends = claims(model, sentences, chosen)
    if isinstance(run, Run) and subject.step is not None:
        figures = over_steps(
            run,
            subject.step,
            lambda each: claims(folded_model(run, each), sentences, chosen),
            progress,
            lambda each: _measured(folded_model(run, each), sentences),
        )
        text = "The claims and the measures at each kept step up to this one, with the heads that are chosen here."
        sections.append(Section("How it formed", text, figures))
    return StudyResult(NAME, subject.name, subject.step, tuple(sections), ends)


def choose(model: Model, sentences: Sentences, head: Head | None = None, place: Place = "io") -> Chosen:
    """The name movers, and the head to explain if none is given.

    A name mover attends from END to IO, more than to S1 and more than chance, and adds at least a twentieth of
    logit(IO) - logit(S); strongest first. A negative one attends so too, and takes away as much.
    """
    says, looks = _says(model, sentences), attention_from_end(model, sentences)
    toward = (looks["io"] > looks["s1"]) & (looks["io"] > _chance(sentences))
    least = WORTH * max(_logit_difference(model, sentences).mean().item(), 0.0)
    ranked = [_named(i, model) for i in np.argsort(-says.values, axis=None).tolist()]
    movers = tuple(each for each in ranked if toward.values[each] and says.values[each] > least)
    if head is None:
        negative = [each for each in ranked if toward.values[each] and says.values[each] < -least]
        # Where none attends to IO, the one that does most for the right name is looked at.
        head = negative[-1] if negative else movers[0] if movers else ranked[0]
    return Chosen(head, movers, place)


def _named(place: int, model: Model) -> Head:
    return Head(*divmod(place, model.cfg.n_heads))


def attention_from_end(model: Model, sentences: Sentences) -> dict[str, xr.DataArray]:
    """Attention [layer, head] from END to IO, S1, S2, BOS and END itself, means over the sentences."""
    patterns = einops.rearrange(
        forward_pass(model, sentences.batch).patterns, "layer batch head q k -> batch q layer head k"
    )
    from_end = einops.rearrange(sentences.at(patterns, "end"), "batch layer head k -> batch k layer head")
    found = {place: sentences.at(from_end, place).mean(0) for place in (*PLACES, "end")}
    found["bos"] = from_end[:, 0].mean(0)
    return {place: xr.DataArray(values.numpy(), dims=HEAD) for place, values in found.items()}


def _chance(sentences: Sentences) -> float:
    """Attention to one of the keys that END sees, if all were alike."""
    return (1 / (sentences.batch.info["end"] + 1)).mean().item()


def _says(model: Model, sentences: Sentences) -> xr.DataArray:
    """What each head adds directly to logit(IO) - logit(S) at END: [layer, head]."""
    terms = _difference(model, sentences).mean("batch")
    return xr.DataArray(
        terms.sel(component=[str(head) for head in heads_except(model)]).values.reshape(model.cfg.n_layers, -1),
        dims=HEAD,
    )


def _difference(model: Model, sentences: Sentences) -> xr.DataArray:
    """What each component adds to logit(IO) - logit(S) at END: [component, batch]."""
    io, s = (_for(model, sentences, name) for name in ("io_token", "s_token"))
    return io - s


def _for(model: Model, sentences: Sentences, name: str) -> xr.DataArray:
    """What each component adds to the logit of one name at END: [component, batch]."""
    batch = sentences.batch
    wanted = einops.repeat(batch.info[name], "batch -> batch pos", pos=batch.inputs.shape[1])
    terms = attribute_outputs(model, batch._replace(targets=wanted), over_mean=True)
    end = xr.DataArray(batch.info["end"].numpy(), dims="batch")
    return terms.isel(pos=end)


def _logits(model: Model, batch: Batch) -> Float[Tensor, "batch d_vocab_out"]:
    """The output at END."""
    output = forward_pass(model, batch).output
    return output[torch.arange(len(output)), batch.info["end"]]


def _logit_difference(model: Model, sentences: Sentences) -> Float[Tensor, "batch"]:
    """logit(IO) - logit(S) at END."""
    logits, info = _logits(model, sentences.batch), sentences.batch.info
    io, s = (logits.gather(1, info[name][:, None])[:, 0] for name in ("io_token", "s_token"))
    return io - s


def _behaviour(subject: LoadedModel, sentences: Sentences) -> Section:
    """Which name is said, in both orders, and where other names stand in the place of these."""
    model, batch = subject.folded, sentences.batch
    info = batch.info
    logits = {"as they are": _logits(model, batch), "with other names": _logits(model, sentences.corrupted)}
    rows = {
        "all": ("as they are", torch.ones(len(batch.inputs), dtype=torch.bool)),
        "IO first (ABBA)": ("as they are", info["order"] == 0),
        "S first (BABA)": ("as they are", info["order"] == 1),
        "corrupted: three other names": ("with other names", torch.ones(len(batch.inputs), dtype=torch.bool)),
    }
    found = []
    for which, where in rows.values():
        of_them, io, s = logits[which][where], info["io_token"][where], info["s_token"][where]
        difference = (of_them.gather(1, io[:, None]) - of_them.gather(1, s[:, None]))[:, 0]
        found.append(
            (
                len(of_them),
                difference.mean().item(),
                difference.std().item(),
                (difference > 0).float().mean().item(),
                (of_them.argmax(-1) == io).float().mean().item(),
                of_them.softmax(-1).gather(1, io[:, None]).mean().item(),
            )
        )
    names = ("sentences", "logit_difference", "spread", "io_above_s", "io_above_all", "probability_of_io")
    columns = {name: [row[i] for row in found] for i, name in enumerate(names)}
    text, few = subject.tokens(batch), range(min(6, len(batch.inputs)))
    best = logits["as they are"].argmax(-1)
    gap = "" if subject.task is None else " "
    return Section(
        "Behaviour",
        "Sentences with two names, one of which (S) comes again; the answer at their last word (END) is the other, IO.",
        (
            Figure(
                "Which name is said",
                table("sentences of", rows, **columns),
                "table",
                "logit difference: of IO and S at END. With other names in the sentence nothing tells IO from S.",
            ),
            Figure(
                "Some sentences",
                table(
                    "sentence",
                    [gap.join(text[i][1 : int(info["end"][i]) + 1]) for i in few],
                    io=[subject.token(int(info["io_token"][i])) for i in few],
                    said=[subject.token(int(best[i])) for i in few],
                    probability=[logits["as they are"][i].softmax(-1)[info["io_token"][i]].item() for i in few],
                ),
                "table",
                "The probability is that of IO.",
            ),
        ),
    )


def _finding(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """Name movers and negative ones: what heads add to the right name, where they look, and what they copy."""
    says, looks = _says(model, sentences), attention_from_end(model, sentences)
    copies = {sign: copying_score(model, sentences.names, sign=sign) for sign in (1, -1)}
    scores = {
        "logit_io_minus_s": says,
        "attention_to_io": looks["io"],
        "attention_to_s1": looks["s1"],
        "attention_to_s2": looks["s2"],
        "copying": copies[1],
        "negative_copying": copies[-1],
    }
    order = np.argsort(-says.values, axis=None).tolist()
    ends = [*order[:ROWS], *order[-ROWS:]] if len(order) > 2 * ROWS else order
    heads = [_named(i, model) for i in ends]
    logits = {name: _for(model, sentences, f"{name}_token").mean("batch") for name in ("io", "s")}
    components = _difference(model, sentences).mean("batch")
    apart = {name: [each.sel(component=str(head)).item() for head in heads] for name, each in logits.items()}
    others = [name for name in components.component.values if not str(name).startswith("L")]
    return Section(
        "Finding the heads",
        f"Name movers: {_list(chosen.movers)}. The head that is explained below: {chosen.head}. A name mover attends "
        "from END to IO more than to S1 and says it; a negative one takes some of that away.",
        (
            Figure(
                "Heads by what they add to the right name",
                table(
                    "head",
                    map(str, heads),
                    logit_io=apart["io"],
                    logit_s=apart["s"],
                    **{name: [values.values[head] for head in heads] for name, values in scores.items()},
                ),
                "table",
                "logit_io, logit_s: direct attribution at END over the mean of all logits. copying: share of the names "
                "that are among the 5 largest logits of what the head makes of them, through what layer 0 makes of "
                f"them; chance is {5 / model.cfg.d_vocab_out:.2g}. negative: with the head's output turned round.",
            ),
            Figure("All heads", xr.Dataset({name: (HEAD, each.values) for name, each in scores.items()}), "maps"),
            Figure(
                "What else adds to the right name",
                table("component", others, logit_io_minus_s=components.sel(component=others).values),
                "table",
                "All components, with the heads, add up to the logit difference, which is checked.",
            ),
        ),
    )


@dataclass(frozen=True)
class Fixed:
    """A head's score from END to one place of each sentence, with one side as it is."""

    score: AffineScore
    row: Float[Tensor, "batch key"]
    place: Int[Tensor, "batch"]

    def scores(self, vectors: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch"]:
        """With these vectors, as the head reads them, on the free side."""
        return self.score(vectors[:, None])[:, 0, 0]

    def probabilities(self, scores: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Attention with only that entry of the row of END replaced."""
        row = self.row.clone()
        row[torch.arange(len(row)), self.place] = scores
        return row.softmax(-1)[torch.arange(len(row)), self.place]


def fixed(model: Model, sentences: Sentences, chosen: Chosen, side: Literal["keys", "queries"]) -> Fixed:
    """The score as an affine function of what END reads (keys fixed), or of what the place holds (queries fixed)."""
    batch, info = sentences.batch, sentences.batch.info
    everywhere = range(batch.inputs.shape[1])
    if side == "keys":
        score = score_given_keys(model, batch, chosen.head, everywhere).at(info[chosen.place])
    else:
        score = score_given_queries(model, batch, chosen.head, everywhere).at(info["end"])
    scores = forward_pass(model, batch).activations[f"blocks.{chosen.head.layer}.attn.hook_attn_scores"][
        :, chosen.head.head
    ]
    return Fixed(score, sentences.at(scores, "end"), info[chosen.place])


def query_vectors(model: Model, sentences: Sentences, chosen: Chosen) -> dict[str, Float[Tensor, "batch d_model"]]:
    """What may stand in for what END reads, each as a LayerNorm would read it; ``real`` is what it does read."""
    batch, info, layer = sentences.batch, sentences.batch.info, chosen.head.layer
    directions = unembedding(model).T
    draws = torch.randint(model.cfg.d_vocab_out, (len(batch.inputs),), generator=generator("null", 0))
    name = "W_U[IO]" if chosen.place == "io" else "W_U[S]"
    other = "W_U[S]" if chosen.place == "io" else "W_U[IO]"
    tokens = {"W_U[IO]": info["io_token"], "W_U[S]": info["s_token"], "W_U[random]": draws}
    vectors = {each: directions[tokens[each]] for each in (name, other, "W_U[random]")}
    if chosen.earlier:
        mover = chosen.earlier[0]
        z = forward_pass(model, batch).activations[f"blocks.{mover.layer}.attn.hook_z"][:, :, mover.head]
        vectors[f"output of {mover}"] = sentences.at(z, "end") @ weight(model, "W_O")[mover]
    return _as_read(model, sentences, layer, vectors, "end")


def key_vectors(model: Model, sentences: Sentences, chosen: Chosen) -> dict[str, Float[Tensor, "batch d_model"]]:
    """What may stand in for what is read at the place, each as a LayerNorm would read it; ``real`` is what is there."""
    info, layer = sentences.batch.info, chosen.head.layer
    token, other = ("io_token", "s_token") if chosen.place == "io" else ("s_token", "io_token")
    mine, its = ("IO", "S") if chosen.place == "io" else ("S", "IO")
    W_E = weight(model, "W_E")
    vectors = {f"W_E[{mine}]": W_E[info[token]], f"W_E[{its}]": W_E[info[other]]}
    kinds = {"without MLP 0": False} | ({"with MLP 0": True} if _has_mlp(model) else {})
    for name, mlp in kinds.items():
        vectors[f"effective embedding of {mine} {name}"] = effective_embedding(model, info[token], mlp)
    last = next(reversed(kinds.items()))
    vectors[f"effective embedding of {its} {last[0]}"] = effective_embedding(model, info[other], last[1])
    return _as_read(model, sentences, layer, vectors, chosen.place)


def _as_read(
    model: Model, sentences: Sentences, layer: int, vectors: dict[str, Float[Tensor, "batch d_model"]], place: str
) -> dict[str, Float[Tensor, "batch d_model"]]:
    read = {name: as_read(model, layer, each) for name, each in vectors.items()}
    if model.cfg.positional_embedding_type == "shortformer":
        # Such positions are added after LayerNorm, whatever stands there.
        positions = sentences.at(forward_pass(model, sentences.batch).activations["hook_pos_embed"], place)
        read = {name: each + positions for name, each in read.items()}
    return read | {"real": sentences.at(reads(model, sentences.batch, layer), place)}


def _has_mlp(model: Model) -> bool:
    return not getattr(model.cfg, "attn_only", False)


def _keys_fixed(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """The score with the keys as they are, and other vectors in the place of the query's."""
    found = fixed(model, sentences, chosen, "keys")
    return Section(
        "Keys fixed",
        f"The score of {chosen.head} from END to {chosen.there} is affine in what END reads. Each vector stands in for "
        "that, as LayerNorm reads it; W_U is the direction that raises a token's logit. The real one gives back the "
        "score, which is checked.",
        _histograms(found, query_vectors(model, sentences, chosen), "Query-side vector"),
    )


def _queries_fixed(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """The score with the queries as they are, and other vectors in the place of the key's."""
    found = fixed(model, sentences, chosen, "queries")
    without = "" if _has_mlp(model) else " This network has no MLP 0."
    return Section(
        "Queries fixed",
        f"The score of {chosen.head} from END to {chosen.there} is affine in what stands at {chosen.there}. An "
        "effective embedding is what layer 0 makes of a token by itself, with and without what MLP 0 adds to that."
        f"{without}",
        _histograms(found, key_vectors(model, sentences, chosen), "Key-side vector"),
    )


def _histograms(found: Fixed, vectors: dict[str, Float[Tensor, "batch d_model"]], title: str) -> tuple[Figure, ...]:
    """Scores and probabilities for each vector, in the order of their means."""
    scores = {name: found.scores(each) for name, each in vectors.items()}
    scores = dict(sorted(scores.items(), key=lambda each: each[1].mean().item()))
    attention = {name: found.probabilities(each) for name, each in scores.items()}
    real = scores["real"]
    low, high = torch.stack(list(scores.values())).aminmax()
    figures = [
        Figure(
            f"{title}: scores and attention",
            table(
                "vector",
                scores,
                mean_score=[each.mean().item() for each in scores.values()],
                spread=[each.std().item() for each in scores.values()],
                above_real=[(each > real).float().mean().item() for each in scores.values()],
                mean_attention=[each.mean().item() for each in attention.values()],
                median_attention=[each.median().item() for each in attention.values()],
            ),
            "table",
            "Sorted by the mean score. Attention: only this entry of the row is replaced before the softmax. above "
            "real: in which share of the sentences the score is above the real one.",
        )
    ]
    for kind, values, (start, stop) in (
        ("score", scores, (low.item(), high.item() + 1e-3)),
        ("attention", attention, (0.0, 1.0)),
    ):
        edges = np.linspace(start, stop, BINS + 1)
        counts = np.stack([np.histogram(each.numpy(), edges)[0] for each in values.values()])
        figures.append(
            Figure(
                f"{title}: {kind}s, how often",
                xr.Dataset(
                    {"sentences": (("vector", kind), counts)},
                    {"vector": list(values), kind: (edges[1:] + edges[:-1]) / 2},
                ),
                "lines",
                f"A histogram of {BINS} bins, one line a vector, in the order of their means.",
            )
        )
    return tuple(figures)


def split_score(
    model: Model, sentences: Sentences, chosen: Chosen, side: Literal["q", "k"], instead: Tensor | None = None
) -> xr.DataArray:
    """What each component adds to the score from END to the place, on the side of the query or of the key.

    [component, batch]; each b_O and b_out, and b_Q or b_K with what LayerNorm adds (``constant``), are terms of their
    own. The sum is the score, which is checked; with ``instead``, [batch, d_model], another vector on the other side.

    Raises:
        ValueError: terms that do not add up to the score.
    """
    batch, head = sentences.batch, chosen.head
    parts = attribute_inputs(model, batch, head)
    here, there = ("end", chosen.place) if side == "q" else (chosen.place, "end")
    other = "k" if side == "q" else "q"
    mine = _at(parts.sel(input=side), batch, here)
    W, b = weight(model, f"W_{other.upper()}")[head], bias(model, f"b_{other.upper()}")[head]
    if instead is None:
        opposite = xr.DataArray(_at(parts.sel(input=other), batch, there).sum("component"))
    else:
        opposite = xr.DataArray((instead @ W + b).numpy(), dims=("batch", "d_head"))
    terms = (mine * opposite).sum("d_head") / math.sqrt(model.cfg.d_head)
    terms = _with_mlp_biases(model, sentences, chosen, side, here, opposite, terms)
    if instead is None:
        scores = forward_pass(model, batch).activations[f"blocks.{head.layer}.attn.hook_attn_scores"][:, head.head]
        expected = scores[torch.arange(len(scores)), batch.info["end"], batch.info[chosen.place]].numpy()
        if not np.allclose(terms.sum("component"), expected, rtol=1e-3, atol=1e-3 * max(1.0, np.abs(terms).max())):
            raise ValueError(f"split_score: the terms do not add up to the scores of {head}")
    return terms


def _at(parts: xr.DataArray, batch: Batch, place: str) -> xr.DataArray:
    return parts.isel(pos=xr.DataArray(batch.info[place].numpy(), dims="batch"))


def _with_mlp_biases(
    model: Model,
    sentences: Sentences,
    chosen: Chosen,
    side: Literal["q", "k"],
    place: str,
    opposite: xr.DataArray,
    terms: xr.DataArray,
) -> xr.DataArray:
    """The terms with each b_out taken from its MLP's, as one of its own."""
    if not _has_mlp(model):
        return terms
    W = weight(model, f"W_{side.upper()}")[chosen.head]
    own = []
    for layer in range(chosen.head.layer):
        b_out = model.blocks[layer].mlp.b_out.detach().float()
        read = sentences.at(as_scaled(model, sentences.batch, chosen.head.layer, b_out), place) @ W
        term = (xr.DataArray(read.numpy(), dims=("batch", "d_head")) * opposite).sum("d_head")
        term = term / math.sqrt(model.cfg.d_head)
        terms = xr.where(terms.component == f"{layer}_mlp_out", terms - term, terms)
        own.append(term.expand_dims(component=[f"{layer}_b_out"]))
    return xr.concat([terms, *own], "component").transpose("component", "batch")


def _components(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """Which components the head finds on either side, and with the unembedding on the other."""
    mine = "IO" if chosen.place == "io" else "S"
    told = {
        "key side": split_score(model, sentences, chosen, "k"),
        "query side": split_score(model, sentences, chosen, "q"),
        f"key side, W_U[{mine}] as query": split_score(
            model, sentences, chosen, "k", query_vectors(model, sentences, chosen)[f"W_U[{mine}]"]
        ),
    }
    means = xr.concat([each.mean("batch") for each in told.values()], xr.Variable("side", list(told)))
    by_layer, misc = _arranged(means, chosen.head.layer, model.cfg.n_heads)
    order = np.argsort(-np.abs(means.isel(side=0).values))[: 2 * ROWS]
    most = means.isel(component=order)
    columns = {side: most.sel(side=side).values for side in told}
    figures = [
        Figure(
            "The components that matter most on the key side",
            xr.Dataset(
                {"score": (("component", "side"), np.stack(list(columns.values()), 1))},
                {"component": most.component.values, "side": list(columns)},
            ),
            "table",
            "Largest first. On the key side: the query as it is; on the query side: the key as it is.",
        ),
        Figure(
            "Embedding, positions and biases",
            xr.Dataset(
                {"score": (("component", "side"), misc.values.T)},
                {"component": misc.component.values, "side": list(told)},
            ),
            "table",
            "constant: b_K on the key side, b_Q on the query side, and what LayerNorm adds.",
        ),
        Figure(
            "The sum of all",
            table("side", told, score=[each.mean("batch").sum().item() for each in told.values()]),
            "table",
            "The first two are the mean of the head's scores.",
        ),
    ]
    if by_layer is not None:
        figures.insert(
            1,
            Figure(
                "By layer and part",
                xr.Dataset({"score": by_layer}),
                "maps",
                "Rows are layers, columns its heads, its MLP, and their biases.",
            ),
        )
    return Section(
        "Components",
        f"The score of {chosen.head} from END to {chosen.there}, mean over the first {len(sentences.batch.inputs)} "
        "sentences, split by what each component writes; with the scale of LayerNorm as it is.",
        tuple(figures),
    )


def _arranged(means: xr.DataArray, layers: int, heads: int) -> tuple[xr.DataArray | None, xr.DataArray]:
    """[side, layer, part] of what layers write; and [side, component] of everything else."""
    names = [str(name) for name in means.component.values]
    columns = [f"H{i}" for i in range(heads)] + ["MLP", "b_O", "b_out"]
    values = np.full((means.sizes["side"], layers, len(columns)), np.nan)
    for layer in range(layers):
        own = [str(Head(layer, head)) for head in range(heads)]
        for i, name in enumerate([*own, f"{layer}_mlp_out", f"{layer}_b_O", f"{layer}_b_out"]):
            if name in names:
                values[:, layer, i] = means.sel(component=name)
    rest = [name for name in names if name in ("embed", "pos_embed", "constant") or name.endswith(("_b_O", "_b_out"))]
    coords = {"side": means.side.values, "layer": [f"L{i}" for i in range(layers)], "part": columns}
    there = xr.DataArray(values, coords, ("side", "layer", "part")) if layers else None
    return there, means.sel(component=rest)


def _paths(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """Where the head looks when it reads, at one input, what earlier heads write on sentences with other names."""
    earlier = [head for head in heads_except(model) if head.layer < chosen.head.layer]
    cases: dict[str, tuple[Sequence[Head], Input]] = {}
    for input in ("q", "k"):
        if chosen.earlier:
            cases[f"{_list(chosen.earlier)} → {chosen.head}, {input}"] = (chosen.earlier, input)
        if earlier:
            cases[f"all earlier heads → {chosen.head}, {input}"] = (earlier, input)
    rows = {"as it is": _looks(model, sentences, chosen)}
    for name, (senders, input) in cases.items():
        rows[name] = _looks_with(model, sentences, chosen, senders, input)
    none = "" if chosen.earlier else " No name mover stands before it."
    return Section(
        "Path patching",
        f"{chosen.head} reads, at one input, what earlier heads write on the same sentences with three other names; "
        f"everything else is as it is. Is attention to {chosen.there} then gone?{none}",
        (
            Figure(
                f"Attention of {chosen.head} from END",
                table(
                    "path, input",
                    rows,
                    **{f"to_{place}": [row[place] for row in rows.values()] for place in ("io", "s1", "s2", "bos")},
                    score=[row["score"] for row in rows.values()],
                ),
                "table",
                f"Means over the sentences; the score is that of END and {chosen.there}. Chance is "
                f"{_chance(sentences):.2g}.",
            ),
        ),
    )


def _looks(model: Model, sentences: Sentences, chosen: Chosen) -> dict[str, float]:
    """The head's attention from END, and its score."""
    looks = {place: each.values[chosen.head].item() for place, each in attention_from_end(model, sentences).items()}
    scores = forward_pass(model, sentences.batch).activations[f"blocks.{chosen.head.layer}.attn.hook_attn_scores"]
    row = sentences.at(scores[:, chosen.head.head], "end")
    info = sentences.batch.info
    return looks | {"score": row[torch.arange(len(row)), info[chosen.place]].mean().item()}


def _looks_with(
    model: Model, sentences: Sentences, chosen: Chosen, senders: Sequence[Head], input: Input
) -> dict[str, float]:
    """The same when it reads there what other heads write on corrupted sentences."""
    hooks = through_paths(model, sentences.batch, senders, [chosen.head], input, sentences.corrupted)
    with hooked_forward_pass(model, hooks):
        return _looks(model, sentences, chosen)


def _measured(model: Model, sentences: Sentences) -> xr.Dataset:
    """Every measure of heads at one step."""
    logits, info = _logits(model, sentences.batch), sentences.batch.info
    looks = attention_from_end(model, sentences)
    return xr.Dataset(
        {
            "logit_difference": ((), _logit_difference(model, sentences).mean().item()),
            "accuracy_at_end": ((), (logits.argmax(-1) == info["io_token"]).float().mean().item()),
            "logit_io_minus_s": _says(model, sentences),
            **{f"attention_to_{place}": looks[place] for place in PLACES},
            "copying": copying_score(model, sentences.names).drop_attrs(),
            "negative_copying": copying_score(model, sentences.names, sign=-1).drop_attrs(),
        }
    )


def claims(model: Model, sentences: Sentences, chosen: Chosen) -> Claims:
    """What name movers and a negative head would have to do, each statement with the number that decides it.

    Those about the head hold the head, and the name movers, that were chosen; a claim without a number (no name mover,
    none before the head) does not hold.
    """
    head, difference = chosen.head, _logit_difference(model, sentences)
    says, looks = _says(model, sentences), attention_from_end(model, sentences)
    copies, negative = (copying_score(model, sentences.names, sign=sign) for sign in (1, -1))
    mover = chosen.movers[0] if chosen.movers else None
    total = difference.mean().item()
    by_movers = sum(says.values[each].item() for each in chosen.movers)
    keys, queries = (fixed(model, sentences, chosen, side) for side in ("keys", "queries"))
    query = {name: keys.scores(each) for name, each in query_vectors(model, sentences, chosen).items()}
    key = {name: queries.scores(each) for name, each in key_vectors(model, sentences, chosen).items()}
    mine, other = ("IO", "S") if chosen.place == "io" else ("S", "IO")
    layer_0 = "with MLP 0" if _has_mlp(model) else "without MLP 0"
    found, left = (key[f"effective embedding of {name} {layer_0}"] for name in (mine, other))
    here = _looks(model, sentences, chosen)[chosen.place]
    patched = np.nan
    if chosen.earlier:
        patched = _looks_with(model, sentences, chosen, chosen.earlier, "q")[chosen.place]
    W_U = query[f"W_U[{mine}]"]
    return (
        Claim(
            "It says the name that comes once",
            "share of sentences in which the logit of IO is above that of S",
            (difference > 0).float().mean().item(),
            0.9,
        ),
        Claim(
            "A head attends from the end to that name",
            "attention from END to IO, best head",
            looks["io"].max().item(),
            0.5,
        ),
        Claim(
            "Name movers say it",
            f"what {_list(chosen.movers)} add to logit(IO) - logit(S), of the whole",
            by_movers / total if mover is not None and total > 0 else np.nan,
            0.5,
        ),
        Claim(
            "They copy the names that they attend to",
            "copying score of the strongest name mover; names among the 5 largest logits",
            copies.values[mover].item() if mover is not None else np.nan,
            0.5,
        ),
        Claim(
            f"{head} takes some of it back",
            "what it takes from logit(IO) - logit(S), of what the strongest name mover adds",
            -says.values[head].item() / says.values[mover].item() if mover is not None else np.nan,
            TAKES_BACK,
        ),
        Claim(
            f"It suppresses the names that {head} attends to",
            "copying score with its output turned round",
            negative.values[head].item(),
            0.5,
        ),
        Claim(
            f"{head} attends to {chosen.there}",
            f"its attention from END to {chosen.there}",
            here,
            0.5,
        ),
        Claim(
            f"The unembedding of {mine} makes it look there, more than what the query really reads",
            f"score with W_U[{mine}] on the query side over the real score, mean",
            (W_U - query["real"]).mean().item(),
            0.0,
        ),
        Claim(
            "And that of other tokens does not",
            f"share of sentences in which W_U[{mine}] gives a larger score than W_U of a random token",
            (query["W_U[random]"] < W_U).float().mean().item(),
            0.9,
        ),
        Claim(
            f"What layer 0 makes of {mine} is what it finds",
            f"share of sentences in which the effective embedding of {mine} gives a larger score than that of {other}",
            (found > left).float().mean().item(),
            0.9,
        ),
        Claim(
            "Its queries read what name movers write",
            f"share of its attention to {chosen.there} that is lost when they come from sentences with other names",
            1 - patched / here,
            0.5,
        ),
    )


def _list(heads: Sequence[Head]) -> str:
    return ", ".join(map(str, heads)) or "none"
