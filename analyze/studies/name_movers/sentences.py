"""Sentences with two names, contributions of heads to the right name, and the name movers."""

from dataclasses import dataclass

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from headway.analyze.measures.attribution import attribute_outputs
from headway.analyze.measures.logit_difference import logit_difference
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.interventions import heads_except
from headway.analyze.studies.name_movers.options import PLACES, Place
from headway.data.indirect_object import IndirectObject
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model

# The smallest share of the logit difference that a name mover adds, or a negative name mover subtracts.
WORTH = 0.05


@dataclass(frozen=True)
class Sentences:
    """Sentences with two names, and the same sentences with three other names."""

    batch: Batch
    corrupted: Batch
    names: Int[Tensor, "name"]

    @classmethod
    def of(cls, task: IndirectObject, seed: int, count: int) -> "Sentences":
        """Draw evaluation sentences of a task."""
        batch = task.evaluation_batch(seed, count)
        return cls(batch, task.corrupted(batch), task.name_tokens)

    def first(self, count: int) -> "Sentences":
        """Return the first ``count`` sentences."""
        return Sentences(self.batch.first(count), self.corrupted.first(count), self.names)

    def at(self, values: Float[Tensor, "batch pos *rest"], place: str) -> Float[Tensor, "batch *rest"]:
        """Return the values at one position of each sentence: ``io``, ``s1``, ``s2`` or ``end``."""
        return values[torch.arange(len(values)), self.batch.info[place]]


@dataclass(frozen=True)
class Chosen:
    """The head whose attention is explained, the name movers, and the position that the head attends to."""

    head: Head
    movers: tuple[Head, ...]
    place: Place

    @property
    def earlier(self) -> tuple[Head, ...]:
        """The name movers in earlier layers, whose output the head can read."""
        return tuple(head for head in self.movers if head.layer < self.head.layer)

    @property
    def token(self) -> str:
        """The key of ``info`` for the token at the position."""
        return "io_token" if self.place == "io" else "s_token"

    @property
    def there(self) -> str:
        """The position as text."""
        return self.place.upper()


def choose(model: Model, sentences: Sentences, head: Head | None = None, place: Place = "io") -> Chosen:
    """Find the name movers, and choose the head to explain if none is given.

    A name mover attends from END to IO more than to S1 and more than chance, and adds at least a twentieth of
    logit(IO) - logit(S); strongest first. A negative name mover attends in the same way and subtracts as much.
    """
    added, attention = added_by_heads(model, sentences), attention_from_end(model, sentences)
    toward = toward_io(attention, sentences)
    least = WORTH * max(io_minus_s(model, sentences).mean().item(), 0.0)
    ranked = [head_at(i, model) for i in np.argsort(-added.values, axis=None).tolist()]
    movers = tuple(each for each in ranked if toward.values[each] and added.values[each] > least)
    if head is None:
        negative = [each for each in ranked if toward.values[each] and added.values[each] < -least]
        # If no head attends to IO, the head that adds most.
        head = negative[-1] if negative else movers[0] if movers else ranked[0]
    return Chosen(head, movers, place)


def toward_io(attention: dict[str, xr.DataArray], sentences: Sentences) -> xr.DataArray:
    """Return which heads [layer, head] attend from END to IO more than to S1 and more than chance."""
    return (attention["io"] > attention["s1"]) & (attention["io"] > chance_at_end(sentences))


def head_at(place: int, model: Model) -> Head:
    """Return the head at an index of a flat [layer, head]."""
    return Head(*divmod(place, model.cfg.n_heads))


def attention_from_end(model: Model, sentences: Sentences) -> dict[str, xr.DataArray]:
    """Return mean attention [layer, head] from END to IO, S1, S2, BOS and END."""
    patterns = einops.rearrange(
        forward_pass(model, sentences.batch).patterns, "layer batch head q k -> batch q layer head k"
    )
    from_end = einops.rearrange(sentences.at(patterns, "end"), "batch layer head k -> batch k layer head")
    found = {place: sentences.at(from_end, place).mean(0) for place in (*PLACES, "end")}
    found["bos"] = from_end[:, 0].mean(0)
    return {place: xr.DataArray(values.numpy(), dims=HEAD) for place, values in found.items()}


def chance_at_end(sentences: Sentences) -> float:
    """Return the attention from END to one visible key if attention is uniform."""
    return (1 / (sentences.batch.info["end"] + 1)).mean().item()


def added_by_heads(model: Model, sentences: Sentences) -> xr.DataArray:
    """Return the direct contribution of each head to logit(IO) - logit(S) at END: [layer, head]."""
    terms = added_to_difference(model, sentences).mean("batch")
    return xr.DataArray(
        terms.sel(component=[str(head) for head in heads_except(model)]).values.reshape(model.cfg.n_layers, -1),
        dims=HEAD,
    )


def added_to_difference(model: Model, sentences: Sentences) -> xr.DataArray:
    """Return the direct contribution of each component to logit(IO) - logit(S) at END: [component, batch]."""
    io, s = (added_to_name(model, sentences, name) for name in ("io_token", "s_token"))
    return io - s


def added_to_name(model: Model, sentences: Sentences, name: str) -> xr.DataArray:
    """Return the direct contribution of each component to the logit of one name at END: [component, batch]."""
    batch = sentences.batch
    terms = attribute_outputs(model, batch._replace(targets=_everywhere(batch, name)), over_mean=True)
    end = xr.DataArray(batch.info["end"].numpy(), dims="batch")
    return terms.isel(pos=end)


def logits_at_end(model: Model, batch: Batch) -> Float[Tensor, "batch d_vocab_out"]:
    """Return the logits at END."""
    output = forward_pass(model, batch).output
    return output[torch.arange(len(output)), batch.info["end"]]


def io_minus_s(model: Model, sentences: Sentences, corrupted: bool = False) -> Float[Tensor, "batch"]:
    """Return logit(IO) - logit(S) at END; IO and S of a corrupted sentence are those of the original."""
    batch, task = sentences.batch, sentences.batch.task
    assert task is not None
    inputs = sentences.corrupted.inputs if corrupted else batch.inputs
    at_end = batch._replace(inputs=inputs, mask=task.parts(batch)["end"])
    return logit_difference(model, at_end, _everywhere(batch, "s_token"))


def _everywhere(batch: Batch, name: str) -> Int[Tensor, "batch pos"]:
    """Repeat a token of each sentence at every position."""
    return einops.repeat(batch.info[name], "batch -> batch pos", pos=batch.inputs.shape[1])


def has_mlp(model: Model) -> bool:
    """Return whether the network has MLPs."""
    return not getattr(model.cfg, "attn_only", False)
