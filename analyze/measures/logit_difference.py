"""Logit difference between a right answer and a named wrong one."""

from jaxtyping import Float, Int
from torch import Tensor

from headway.analyze.network.forward import forward_pass
from headway.analyze.network.requirements import DoesNotApplyError, check_targets
from headway.data.task import Batch
from headway.models.convert import Model


def logit_difference(model: Model, batch: Batch, wrong: Int[Tensor, "batch pos"]) -> Float[Tensor, "answer"]:
    """Return the logit of the right answer minus that of a named wrong one, at each unmasked position.

    ``logit[right] - logit[wrong]`` where ``batch.mask`` is True, in the order of the batch. In logits, any real number;
    null 0: the network prefers neither answer; exp of it is the ratio of the two probabilities. It does not show
    whether either answer is the most likely token.

    Args:
        model: The network.
        batch: Sequences; ``targets`` are the right answers.
        wrong: The wrong answer at each position.

    Raises:
        DoesNotApplyError: targets that are vectors.
        ValueError: a wrong answer that is not a token of the output, or not one for each position.

    Example:
        >>> from headway.models.handmade import name_movers
        >>> model, batch = name_movers()  # it predicts IO, the name that occurs once, not S
        >>> end = batch._replace(mask=batch.task.parts(batch)["end"])
        >>> S = batch.info["s_token"][:, None].expand_as(batch.targets)
        >>> bool((logit_difference(model, end, S) > 0).all())
        True
    """
    if batch.targets.is_floating_point():
        raise DoesNotApplyError("logit_difference needs tokens to be predicted; the targets of this batch are vectors")
    output = forward_pass(model, batch).output
    check_targets(output, batch)
    named = wrong[batch.mask] if wrong.shape == batch.targets.shape else wrong
    if wrong.shape != batch.targets.shape or not 0 <= named.min() <= named.max() < output.shape[-1]:
        raise ValueError(
            f"wrong: {named.min()} to {named.max()}, of the shape {tuple(wrong.shape)}, is not valid; it must be 0 to "
            f"{output.shape[-1] - 1}, one for each of {tuple(batch.targets.shape)} positions"
        )
    counted = output[batch.mask]
    right, other = (counted.gather(-1, answers[batch.mask][:, None])[:, 0] for answers in (batch.targets, wrong))
    return right - other
