"""What makes a network say `` else`` after ``a if b``: the circuit of the notebook on a one-layer language model.

A head looks from the end of the condition back to `` if`` (its QK circuit), and what it finds there raises `` else``
(its OV circuit). Both are tables between tokens that can be read from weights; whether the network says `` else`` for
this reason, and for the same one after a closing bracket, shows on prompts.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from headway.analyze.measures.attribution import attribute_outputs
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import shared_forward_pass
from headway.analyze.network.interventions import heads_except
from headway.analyze.studies.if_else import anomalies, subcircuits, token_circuits
from headway.analyze.studies.if_else.anomalies import to_else
from headway.analyze.studies.if_else.prompts import Prompts, at_end, raised, ranks, texts_of
from headway.analyze.studies.if_else.scores import attention_to_if, directions_section, key_margins, positions_section
from headway.analyze.studies.if_else.subcircuits import Kept
from headway.analyze.studies.if_else.token_circuits import TokenCircuits
from headway.analyze.studies.runner import over_steps
from headway.analyze.studies.story import Claim, Claims, Figure, Section, Story, table
from headway.analyze.studies.subject import Subject, simplified
from headway.analyze.tools.anomaly_scores import Separation
from headway.analyze.tools.perplexity import held_out_loss
from headway.checkpoints.run import Run
from headway.data.text import Text
from headway.data.tokenizer import one_token
from headway.models.config import Head
from headway.models.convert import Model

NAME = "if-else"
# So many prompts are shown, and so many components have a row of their own.
SHOWN, ROWS = 6, 12
# So many heads, the strongest ones, have their skip trigrams shown.
TRIGRAM_HEADS = 3
# `` else`` is expected if it is among so many.
LIKELIEST = 10
# Nats that the probability of `` else`` falls by without `` if``, for that to be its reason.
FALLS = 1.0
# Chance for any head of a network to have the two entries where it is said to have them.
BY_CHANCE = 0.01


def study(
    run: Run | TransformerBridge,
    at: int | None = None,
    sequences: int = 200,
    length: int = 16,
    corpus: str = "stdlib",
    pair: Sequence[Sequence[str]] | None = None,
    progress: bool = False,
) -> Story:
    """Study what makes a network say ``else`` in ``a if b else c``.

    Args:
        run: A run of the task Text, or a language model.
        at: The kept step to look at; the last one if not given.
        sequences: How many pairs of prompts are generated, a normal and an anomalous one each.
        length: How many tokens a prompt has, BOS among them.
        corpus: Of a language model: the texts that other prompts are taken from, as in training. A run has its own.
        pair: Further pairs of tokens whose place in the OV circuits is looked up.

    Raises:
        ValueError: a run of another task, a step that was not kept, prompts longer than what the network reads, a token
            that the tokenizer splits.
    """
    if sequences < 3:
        raise ValueError(f"sequences: {sequences} is not valid; it must be at least 3")
    texts = texts_of(run, corpus)
    subject = Subject.of(run, at)
    model, tokenizer = subject.folded, subject.tokenizer
    if length > model.cfg.n_ctx:
        raise ValueError(f"length: {length} is not valid; {subject.name} reads {model.cfg.n_ctx} tokens at most")
    pairs = [(source, destination) for source, destination in pair or ()]
    for string in (string for each in pairs for string in each):
        one_token(tokenizer, string)
    prompts = Prompts.of(texts, tokenizer, run.recipe.eval_seed if isinstance(run, Run) else 0, sequences, length)
    generated = prompts.generated
    with shared_forward_pass():
        added = _added(model, generated)
        order = sorted(added, key=lambda head: -added[head])
        shown = sorted(added, key=lambda head: -abs(added[head]))[: token_circuits.HEADS]
        circuits = TokenCircuits.of(model, generated)
        sections = [
            _behaviour(subject, prompts, progress),
            token_circuits.layer_norm(model, prompts),
            token_circuits.ov_section(circuits, prompts, shown),
            token_circuits.pairs_section(circuits, prompts, pairs),
            token_circuits.qk_section(circuits, prompts, shown),
            positions_section(model, generated, shown),
            _attributions(model, prompts, shown),
            subcircuits.section(model, generated, order),
            token_circuits.distinct_section(circuits, shown),
            token_circuits.trigrams_section(circuits, prompts, order[:TRIGRAM_HEADS]),
            directions_section(model, generated, order),
            anomalies.section(model, prompts),
        ]
        untrained = list(anomalies.untrained(model, generated).values())
        ends = claims(model, generated, untrained)
    if isinstance(run, Run) and subject.step is not None:
        figures = over_steps(
            run,
            subject.step,
            lambda each: claims(simplified(run, each), generated, untrained),
            progress,
            lambda each: _measured(simplified(run, each), generated),
        )
        text = "The claims and the measures at each kept step up to this one."
        sections.append(Section("How it formed", text, figures))
    return Story(NAME, subject.name, subject.step, tuple(sections), ends)


def _added(model: Model, prompts: Prompts) -> dict[Head, float]:
    """What each head adds to the logit of `` else`` at END, over the mean logit; mean over the prompts."""
    added = to_else(model, prompts).sum("source").mean("prompt").values
    return dict(zip(heads_except(model), added.tolist(), strict=True))


def by_what_they_add(model: Model, prompts: Prompts) -> list[Head]:
    """All heads, those first that add most to the logit of `` else``."""
    added = _added(model, prompts)
    return sorted(added, key=lambda head: -added[head])


def _behaviour(subject: Subject, prompts: Prompts, progress: bool) -> Section:
    """How well it predicts text, and how much it expects `` else``, with `` if`` and without."""
    model, batch = subject.folded, prompts.batch
    said = {"as they are": at_end(model, batch), "without if": at_end(model, prompts.without_if)}
    token = prompts.else_token
    likely = {name: logits.log_softmax(-1)[:, token] for name, logits in said.items()}
    places = ranks(said["as they are"], token)
    kinds = prompts.kinds
    best = said["as they are"].argmax(-1)
    few = [int(which.nonzero()[i]) for which in kinds.values() for i in range(min(2, int(which.sum())))][:SHOWN]
    figures = [
        Figure(
            "How much it expects ' else'",
            table(
                "prompts",
                kinds,
                count=[int(which.sum()) for which in kinds.values()],
                probability=[likely["as they are"][which].exp().mean().item() for which in kinds.values()],
                median_rank=[places[which].float().median().item() for which in kinds.values()],
                among_10=[(places[which] <= LIKELIEST).float().mean().item() for which in kinds.values()],
                logit=[raised(said["as they are"], token)[which].mean().item() for which in kinds.values()],
                without_if=[likely["without if"][which].exp().mean().item() for which in kinds.values()],
                nats_lost=[
                    (likely["as they are"] - likely["without if"])[which].mean().item() for which in kinds.values()
                ],
            ),
            "table",
            "logit: over the mean logit. without if: the probability with a comma in the place of ' if'; nats lost: "
            "how much the log probability falls by it, mean.",
        ),
        Figure(
            "Some prompts",
            table(
                "prompt",
                [repr(prompts.tokenizer.decode(batch.inputs[i, 1:], clean_up_tokenization_spaces=False)) for i in few],
                kind=[name for i in few for name, which in kinds.items() if which[i]],
                likeliest=[prompts.label(int(best[i])) for i in few],
                probability_of_else=[likely["as they are"][i].exp().item() for i in few],
                rank_of_else=[int(places[i]) for i in few],
            ),
            "table",
        ),
    ]
    if isinstance(subject.task, Text):
        figures.insert(0, _perplexity(model, subject.task, progress))
    return Section(
        "Behaviour",
        "Prompts are what stands before ' else' in a conditional expression: of real texts"
        + (", held out from training, " if isinstance(subject.task, Text) else " ")
        + "and of a grammar, in pairs of which the second, the anomalous one, ends in ')'.",
        tuple(figures),
    )


def _perplexity(model: Model, task: Text, progress: bool) -> Figure:
    nats = {"this network": held_out_loss(model, task, progress), **task.baselines()}
    return Figure(
        "Perplexity on all text held out",
        table("predictor", nats, perplexity=np.exp(list(nats.values())), loss=list(nats.values())),
        "table",
        f"Windows of {task.length} tokens, one after another. unigram, bigram: of how often tokens, and pairs of them, "
        "occur in what was trained on.",
    )


def _attributions(model: Model, prompts: Prompts, heads: Sequence[Head]) -> Section:
    """From which tokens, through which heads, the logit of `` else`` comes."""
    kinds = prompts.kinds
    batch = prompts.batch
    wanted = batch._replace(targets=torch.full_like(batch.targets, prompts.else_token))
    terms = attribute_outputs(model, wanted, over_mean=True).isel(pos=prompts.end)
    order = np.argsort(-np.abs(terms.values[:, prompts.made.numpy()].mean(1)))[:ROWS]
    by_source = to_else(model, prompts)
    places = _by_place(by_source, prompts)
    distances = list(range(-prompts.end, 1))
    named = [str(head) for head in heads]
    mean = {kind: by_source.sel(head=named).values[:, which.numpy()].mean(1) for kind, which in kinds.items()}
    return Section(
        "Attributions",
        "The logit of ' else' over the mean logit is a sum: of what each component adds, and for heads of what they "
        "carry over from each position, attention times what its value says about ' else'.",
        (
            Figure(
                "What each component adds",
                table(
                    "component",
                    terms.component.values[order],
                    **{kind: terms.values[order][:, which.numpy()].mean(1) for kind, which in kinds.items()},
                ),
                "table",
                "Largest first; all of them add up to the logit, which is checked.",
            ),
            Figure(
                "Where heads take it from",
                table(
                    "prompts",
                    kinds,
                    **{
                        place: [values[which].mean().item() for which in kinds.values()]
                        for place, values in places.items()
                    },
                    from_if=[_from_if(places, which) for which in kinds.values()],
                ),
                "table",
                "Of all heads together; the first five add up to what they add. from if: the share of IF.",
            ),
            Figure(
                "By head and distance",
                xr.Dataset(
                    {"adds": (("prompts", "head", "source"), np.stack(list(mean.values())))},
                    {"prompts": list(mean), "head": named, "source": distances},
                ),
                "maps",
                "Means over the prompts, whose ' if' stands at different distances. source: 0 is END, the first BOS.",
            ),
            key_margins(model, prompts, heads),
        ),
    )


def _by_place(by_source: xr.DataArray, prompts: Prompts) -> dict[str, torch.Tensor]:
    """What all heads together carry over from BOS, before IF, IF, between IF and END, and END: [prompt] each."""
    values = torch.from_numpy(by_source.sum("head").values)
    at, position = prompts.batch.info["if_position"][:, None], torch.arange(values.shape[1])
    where = {
        "BOS": position == 0,
        "before_if": (position > 0) & (position < at),
        "if": position == at,
        "condition": (position > at) & (position < prompts.end),
        "END": position == prompts.end,
    }
    return {name: values.where(which, 0).sum(1) for name, which in where.items()}


def _from_if(places: dict[str, torch.Tensor], which: torch.Tensor) -> float:
    """The share that comes from IF of what the heads add to these prompts; NaN if they add next to nothing."""
    whole = sum(values[which].mean().item() for values in places.values())
    return places["if"][which].mean().item() / whole if whole >= subcircuits.LEAST else np.nan


def _measured(model: Model, prompts: Prompts) -> xr.Dataset:
    """Every measure at one step."""
    which, token = ~prompts.anomalous, prompts.else_token
    logits = at_end(model, prompts.batch)
    looks = attention_to_if(model, prompts)
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    found = token_circuits.places_of(TokenCircuits.of(model, prompts), prompts).values()
    ov, qk = np.array([(each.ov.least, each.qk.least) for each in found]).T.reshape(2, *shape)
    added = np.array(list(_added(model, prompts).values())).reshape(shape)
    return xr.Dataset(
        {
            "log_probability_of_else": ((), logits.log_softmax(-1)[which, token].mean().item()),
            "adds_to_else": (HEAD, added),
            "attention_to_if": (HEAD, looks[:, :, which].mean(-1).numpy()),
            "attention_to_if_anomalous": (HEAD, looks[:, :, prompts.anomalous].mean(-1).numpy()),
            "ov_percentile": (HEAD, ov),
            "qk_percentile": (HEAD, qk),
        }
    )


def claims(model: Model, prompts: Prompts, untrained: Sequence[Separation]) -> Claims:
    """What the circuit would have to do, each statement with the number that decides it; on generated prompts.

    ``untrained`` is what networks that know nothing tell apart, the same at each step.
    """
    circuits, order = TokenCircuits.of(model, prompts), by_what_they_add(model, prompts)
    token, normal = prompts.else_token, ~prompts.anomalous
    logits = at_end(model, prompts.batch)
    likely, without = (each.log_softmax(-1)[:, token] for each in (logits, at_end(model, prompts.without_if)))
    found = token_circuits.places_of(circuits, prompts).values()
    # Percentiles of one head are uniform by chance; so many heads have so many chances.
    high = 1 - BY_CHANCE / len(order)
    places = _by_place(to_else(model, prompts), prompts)
    few = subcircuits.few_of(order)
    back = subcircuits.shares_back(
        model,
        prompts,
        {
            "few": Kept(few),
            "if alone": Kept(order, subcircuits.IF_ALONE),
            "tokens alone": Kept(order, subcircuits.TOKENS_ALONE),
        },
    )
    attributions = anomalies.mahalanobis_separation(anomalies.of_attributions(model, prompts), prompts)
    return (
        Claim(
            "It expects else",
            f"share of normal prompts in which ' else' is among the {LIKELIEST} likeliest tokens",
            (ranks(logits, token)[normal] <= LIKELIEST).float().mean().item(),
            0.5,
        ),
        Claim(
            "Because of if",
            "nats by which its log probability falls with a comma in the place of ' if', mean of all prompts",
            (likely - without).mean().item(),
            FALLS,
        ),
        Claim(
            "A head's OV circuit promotes else from if",
            "OV of ' if' and ' else': the smaller percentile, of row and column, in the best head",
            max(each.ov.least for each in found),
            high,
        ),
        Claim(
            "What Python is known to promote is found",
            f"the same of the best control ({', '.join(token_circuits.controls(prompts.tokenizer))})",
            max(each.control for each in found),
            1 - BY_CHANCE / len(order) / len(token_circuits.CONTROLS),
        ),
        Claim(
            "A head's QK circuit looks from a closing bracket for if",
            "QK of ')' and ' if': the smaller percentile, of row and column, in the best head",
            max(each.qk.least for each in found),
            high,
        ),
        Claim(
            "One head does both",
            "the smallest of its four percentiles, in the best head",
            max(each.both for each in found),
            0.99,
        ),
        Claim(
            "Heads take it from if",
            "share of what they add to ' else' that comes from IF, normal prompts",
            _from_if(places, normal),
            0.5,
        ),
        Claim(
            "After a closing bracket too",
            "the same share, anomalous prompts",
            _from_if(places, prompts.anomalous),
            0.5,
        ),
        Claim(
            "A few heads suffice",
            "share of the logit of ' else' that the quarter of heads that adds most brings back, with the direct path",
            back["few"] if len(few) < len(order) else np.nan,
            0.9,
        ),
        Claim(
            "What they read at if suffices",
            "share that all heads bring back if of all values they read only that of IF",
            back["if alone"],
            0.9,
        ),
        Claim(
            "Tokens suffice to find it",
            "share that all heads bring back if positions are taken out of the scores from END; in one layer",
            # Later layers read what earlier heads know of positions.
            back["tokens alone"] if model.cfg.n_layers == 1 else np.nan,
            0.9,
        ),
        Claim(
            "No two heads have the same circuit",
            f"largest share of largest OV entries that two of the {token_circuits.HEADS} that add most have in common",
            token_circuits.most_alike(circuits, order[: token_circuits.HEADS]),
            0.5,
            below=True,
        ),
        Claim(
            "Attributions tell anomalous prompts from normal ones",
            "lower end of the interval of the area under the ROC curve, Mahalanobis distance",
            attributions.low,
            0.9,
        ),
        Claim(
            "And better than what knows nothing of it",
            "that end less the largest upper end of log p(' else'), where ' if' stands, of a run untrained networks",
            anomalies.above_controls(attributions, model, prompts, untrained),
            0.0,
        ),
    )
