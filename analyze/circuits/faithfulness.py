"""Faithfulness and necessity: the share of what a network knows that some of its heads carry.

Both compare three losses: of the clean network, with every head replaced, and with some heads replaced. Their meaning
depends on the replacement; see ``ablated_loss``. Embeddings and MLPs stay in place.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.descriptions import LEAST_KNOWN
from headway.analyze.measures.loss import loss
from headway.analyze.network.interventions import Kind, heads_except
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model


@dataclass(frozen=True)
class Known:
    """The clean loss and the loss with every head replaced; their difference is what the heads know.

    Args:
        clean: The loss of the clean network.
        replaced: Its loss with every head replaced.

    Example:
        >>> known = Known(clean=0.5, replaced=4.5)
        >>> known.amount, known.faithfulness(0.5), known.faithfulness(4.5), known.necessity(1.5)
        (4.0, 1.0, 0.0, 0.25)
    """

    clean: float
    replaced: float

    @classmethod
    def of(
        cls, model: Model, batch: Batch, kind: Kind = "mean", part: str | None = None, reference: Batch | None = None
    ) -> "Known":
        """Measure the two losses of a network; the arguments are those of ``faithfulness``."""
        replaced = ablated_loss(model, batch, heads_except(model), kind, reference=reference)
        variable = _variable(part)
        return cls(loss(model, batch)[variable].item(), replaced[variable].item())

    @property
    def amount(self) -> float:
        """``replaced - clean``; NaN if that is less than a tenth of ``replaced``."""
        amount = self.replaced - self.clean
        return amount if amount > 0 and amount >= LEAST_KNOWN * self.replaced else float("nan")

    def faithfulness(self, kept: float) -> float:
        """Return ``(replaced - kept) / known`` for the loss with only some heads kept; see ``faithfulness``."""
        return _share(self.replaced - kept, self.amount)

    def necessity(self, without: float) -> float:
        """Return ``(without - clean) / known`` for the loss with some heads replaced; see ``necessity``."""
        return _share(without - self.clean, self.amount)


def faithfulness(
    model: Model,
    batch: Batch,
    heads: Iterable[Head],
    kind: Kind = "mean",
    part: str | None = None,
    reference: Batch | None = None,
) -> float:
    """Return the share of what a network knows that some heads carry alone, with every other head replaced.

    ``(loss(all replaced) - loss(only these kept)) / known``, where ``known = loss(all replaced) - loss(clean)``. 0: as
    with no heads, 1: as with all heads; below 0 these heads mislead, above 1 the other heads do. NaN where ``known`` is
    less than a tenth of the loss with all replaced. Rounded to six decimals, since two ways to the same loss differ in
    their last bits. It does not show that no other heads carry as much; see ``necessity``.

    Args:
        model: The network.
        batch: Sequences of a task.
        heads: The heads that are kept.
        kind: What replaces the other heads; see ``ablated_loss``.
        part: The part of the task, such as ``repeats``; all unmasked positions if None.
        reference: The batch that replacements are computed on; see ``ablated_loss``.

    Raises:
        DoesNotApplyError: ``resample`` with a single sequence and no reference.
        ValueError: a head or a part that does not exist, a batch without a task, a ``reference`` of another shape.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> model, batch = composing_pair("k")  # a previous-token head, and an induction head that reads it
        >>> circuit = [Head(0, 0), Head(1, 1)]
        >>> [round(faithfulness(model, batch, heads, part="repeats"), 2) for heads in ([], circuit[:1], circuit)]
        [0.0, 0.0, 1.0]
    """
    kept = ablated_loss(model, batch, heads_except(model, tuple(heads)), kind, reference=reference)
    return Known.of(model, batch, kind, part, reference).faithfulness(kept[_variable(part)].item())


def necessity(
    model: Model,
    batch: Batch,
    heads: Iterable[Head],
    kind: Kind = "mean",
    part: str | None = None,
    reference: Batch | None = None,
) -> float:
    """Return the share of what a network knows that is lost if some heads are replaced.

    ``(loss(these replaced) - loss(clean)) / known``; the arguments are those of ``faithfulness``. 0: nothing is lost,
    1: everything that the heads know. It equals one minus the faithfulness of all other heads.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> model, batch = composing_pair("k")
        >>> [necessity(model, batch, [head], part="repeats") > 0.9 for head in (Head(0, 0), Head(0, 1))]
        [True, False]
    """
    without = ablated_loss(model, batch, tuple(heads), kind, reference=reference)
    return Known.of(model, batch, kind, part, reference).necessity(without[_variable(part)].item())


def _variable(part: str | None) -> str:
    return "loss" if part is None else f"loss_{part}"


def _share(part: float, whole: float) -> float:
    return round(part / whole, 6)
