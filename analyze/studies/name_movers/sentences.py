"""Sentences with two names, what heads add to the right one, and the heads that are called name movers for it."""

from dataclasses import dataclass

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from headway.analyze.measures.attribution import (
    attribute_outputs,
)
from headway.analyze.measures.logit_difference import logit_difference
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.interventions import heads_except
from headway.analyze.studies.name_movers.options import PLACES, Place
from headway.data.indirect_object import IndirectObject
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model

# A head is called a name mover, or a negative one, if it adds or takes away this share of the logit difference.
WORTH = 0.05


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


def choose(model: Model, sentences: Sentences, head: Head | None = None, place: Place = "io") -> Chosen:
    """The name movers, and the head to explain if none is given.

    A name mover attends from END to IO, more than to S1 and more than chance, and adds at least a twentieth of
    logit(IO) - logit(S); strongest first. A negative one attends so too, and takes away as much.
    """
    says, looks = added_by_heads(model, sentences), attention_from_end(model, sentences)
    toward = (looks["io"] > looks["s1"]) & (looks["io"] > chance_at_end(sentences))
    least = WORTH * max(lead_of_io(model, sentences).mean().item(), 0.0)
    ranked = [head_at(i, model) for i in np.argsort(-says.values, axis=None).tolist()]
    movers = tuple(each for each in ranked if toward.values[each] and says.values[each] > least)
    if head is None:
        negative = [each for each in ranked if toward.values[each] and says.values[each] < -least]
        # Where none attends to IO, the one that does most for the right name is looked at.
        head = negative[-1] if negative else movers[0] if movers else ranked[0]
    return Chosen(head, movers, place)


def head_at(place: int, model: Model) -> Head:
    """The head at one place of a flat [layer, head]."""
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


def chance_at_end(sentences: Sentences) -> float:
    """Attention to one of the keys that END sees, if all were alike."""
    return (1 / (sentences.batch.info["end"] + 1)).mean().item()


def added_by_heads(model: Model, sentences: Sentences) -> xr.DataArray:
    """What each head adds directly to logit(IO) - logit(S) at END: [layer, head]."""
    terms = added_to_difference(model, sentences).mean("batch")
    return xr.DataArray(
        terms.sel(component=[str(head) for head in heads_except(model)]).values.reshape(model.cfg.n_layers, -1),
        dims=HEAD,
    )


def added_to_difference(model: Model, sentences: Sentences) -> xr.DataArray:
    """What each component adds to logit(IO) - logit(S) at END: [component, batch]."""
    io, s = (added_to_name(model, sentences, name) for name in ("io_token", "s_token"))
    return io - s


def added_to_name(model: Model, sentences: Sentences, name: str) -> xr.DataArray:
    """What each component adds to the logit of one name at END: [component, batch]."""
    batch = sentences.batch
    terms = attribute_outputs(model, batch._replace(targets=_everywhere(batch, name)), over_mean=True)
    end = xr.DataArray(batch.info["end"].numpy(), dims="batch")
    return terms.isel(pos=end)


def logits_at_end(model: Model, batch: Batch) -> Float[Tensor, "batch d_vocab_out"]:
    """The output at END."""
    output = forward_pass(model, batch).output
    return output[torch.arange(len(output)), batch.info["end"]]


def lead_of_io(model: Model, sentences: Sentences, corrupted: bool = False) -> Float[Tensor, "batch"]:
    """logit(IO) - logit(S) at END; of corrupted sentences too IO and S are those of the original."""
    batch, task = sentences.batch, sentences.batch.task
    assert task is not None
    inputs = sentences.corrupted.inputs if corrupted else batch.inputs
    at_end = batch._replace(inputs=inputs, mask=task.parts(batch)["end"])
    return logit_difference(model, at_end, _everywhere(batch, "s_token"))


def _everywhere(batch: Batch, name: str) -> Int[Tensor, "batch pos"]:
    """A token of each sentence, at every position."""
    return einops.repeat(batch.info[name], "batch -> batch pos", pos=batch.inputs.shape[1])


def has_mlp(model: Model) -> bool:
    """Whether the network has MLPs."""
    return not getattr(model.cfg, "attn_only", False)
