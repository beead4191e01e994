"""How much of what the network does before `` else`` a few heads do, and a part of what they read."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import einops
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.circuits.faithfulness import Known
from headway.analyze.network.forward import Hook, forward_pass, hooked_forward_pass, shared_forward_pass
from headway.analyze.network.interventions import Kind, ablation_hooks, heads_except, output_with
from headway.analyze.network.requirements import needs_plain_scores
from headway.analyze.studies.if_else.prompts import Prompts, at_end, raised
from headway.analyze.studies.if_else.scores import patterns_from_parts, score_parts
from headway.analyze.studies.result import Figure, Section, table
from headway.models.config import Head
from headway.models.convert import Model

# No more than so many heads are kept one after another.
MOST = 12
# The part of all heads of which it is claimed that they suffice.
FEW = 4
TOKENS_ALONE, POSITIONS_ALONE, IF_ALONE = "tokens alone in QK", "positions alone in QK", "IF alone in OV"
# By so much must all heads raise the logit of `` else`` for it to be asked which of them do.
LEAST = 1.0
# What the heads that are not kept write.
KIND: Kind = "position_mean"
READS = (TOKENS_ALONE, POSITIONS_ALONE, IF_ALONE)


class Kept(NamedTuple):
    """Heads, and the part of what they read that is left to them; all of it if None."""

    heads: Sequence[Head]
    read: str | None = None


@dataclass(frozen=True)
class Left:
    """What is left of the logit of `` else`` over the mean logit, and of its loss; means over the prompts."""

    logit: float
    loss: float

    def share_of_logit(self, none: "Left", everything: "Left") -> float:
        """How much of the logit has come back, from no head, 0, to all of them, 1; NaN if they differ by nothing."""
        whole = everything.logit - none.logit
        return (self.logit - none.logit) / whole if whole else float("nan")


def left(model: Model, prompts: Prompts, heads: Sequence[Head], read: str | None = None) -> Left:
    """With these heads and the direct path: every other head writes its mean over ordinary text, at each position.

    With ``read``, what the kept heads write at END is made of a part of what they read: attention by tokens alone or by
    positions alone, or of all values only that of IF, and in the place of each other the mean over ordinary text.
    """
    hooks = ablation_hooks(model, prompts.batch, heads_except(model, heads), KIND, reference=prompts.ordinary)
    if read is not None:
        # Before there are hooks, since it may have to run the network on other tokens.
        needs_plain_scores("if-else", model)
        with (
            hooked_forward_pass(model, hooks) if hooks else nullcontext(),
            shared_forward_pass() if hooks else nullcontext(),
        ):
            instead = {head: _instead(model, prompts, head, read) for head in heads}
        hooks = hooks + [_at_end(head, value, prompts.end) for head, value in instead.items()]
    logits = output_with(model, prompts.batch, hooks)[:, prompts.end] if hooks else at_end(model, prompts.batch)
    said = logits.log_softmax(-1)[:, prompts.else_token]
    return Left(raised(logits, prompts.else_token).mean().item(), -said.mean().item())


def text_loss(model: Model, prompts: Prompts, heads: Sequence[Head]) -> float:
    """The loss on ordinary text with these heads and the direct path."""
    batch = prompts.ordinary
    output = output_with(model, batch, ablation_hooks(model, batch, heads_except(model, heads), KIND))
    return F.cross_entropy(output.flatten(0, 1), batch.targets.flatten()).item()


def _instead(model: Model, prompts: Prompts, head: Head, read: str) -> Float[Tensor, "prompt d_head"]:
    """What a head's z would be at END if it read only a part."""
    block = f"blocks.{head.layer}.attn"
    cache = forward_pass(model, prompts.batch).activations
    v = cache[f"{block}.hook_v"][:, :, head.head]
    if read == IF_ALONE:
        mean = forward_pass(model, prompts.ordinary).activations[f"{block}.hook_v"][:, :, head.head].mean((0, 1))
        pattern = cache[f"{block}.hook_pattern"][:, head.head, prompts.end][prompts.at_if][:, None]
        return pattern * v[prompts.at_if] + (1 - pattern) * mean
    patterns = patterns_from_parts(score_parts(model, prompts, head))
    return einops.einsum(patterns[read.removesuffix(" in QK")], v, "prompt key, prompt key d_head -> prompt d_head")


def _at_end(head: Head, value: Float[Tensor, "prompt d_head"], end: int) -> Hook:
    def hook(z: Tensor, hook: Any) -> Tensor:
        changed = z.clone()
        changed[:, end, head.head] = value.to(z)
        return changed

    return f"blocks.{head.layer}.attn.hook_z", hook


def section(model: Model, prompts: Prompts, order: Sequence[Head]) -> Section:
    """How much comes back with one head after another, and with a part of what they read."""
    n_heads = len(order)
    counts = [*range(min(n_heads, MOST) + 1), *([n_heads] if n_heads > MOST else [])]
    kept = {_said(order, count): left(model, prompts, order[:count]) for count in counts}
    text = [text_loss(model, prompts, order[:count]) for count in counts]
    none, *_, everything = kept.values()
    few = few_of(order)
    parts = {
        f"{name}; {read}": left(model, prompts, heads, read)
        for name, heads in (("all heads", order), (", ".join(map(str, few)), few))
        for read in READS
    }
    rows = kept | parts
    logit_back = [each.share_of_logit(none, everything) for each in rows.values()]
    known, known_of_text = Known(everything.loss, none.loss), Known(text[-1], text[0])
    loss_back = [known.faithfulness(each.loss) for each in rows.values()]
    text_back = [known_of_text.faithfulness(each) for each in text]
    curves = {
        "logit of ' else'": logit_back[: len(counts)],
        "loss of ' else'": loss_back[: len(counts)],
        "loss on text": text_back,
    }
    not_taken = [float("nan")] * len(parts)
    return Section(
        "Subcircuits",
        "Some heads and the direct path are kept; every other head writes at each position its mean over ordinary "
        "text, so that nothing it says is about the prompt. Shares are of what no head and all heads differ by, over "
        "the generated prompts. Heads are added in the order of what they add to ' else'.",
        (
            Figure(
                "What is left, and what comes back",
                table(
                    "kept",
                    rows,
                    logit=[each.logit for each in rows.values()],
                    logit_back=logit_back,
                    loss=[each.loss for each in rows.values()],
                    loss_back=loss_back,
                    loss_on_text=text + not_taken,
                    loss_on_text_back=text_back + not_taken,
                ),
                "table",
                "logit: of ' else' over the mean logit. loss: -log p(' else'). loss on text: of windows that end "
                "anywhere. tokens or positions alone: the scores from END without the other. IF alone: of all values "
                "that of IF; in the place of each other one the mean over ordinary text.",
            ),
            Figure(
                "What comes back with so many heads",
                xr.Dataset({"share": (("of", "heads"), list(curves.values()))}, {"of": list(curves), "heads": counts}),
                "lines",
            ),
        ),
    )


def _said(order: Sequence[Head], count: int) -> str:
    if count < 2:
        return str(order[0]) if count else "no head"
    return f"{'all' if count == len(order) else count} heads, with {order[count - 1]}"


def few_of(order: Sequence[Head]) -> Sequence[Head]:
    """The first quarter of the heads, one at least."""
    return order[: max(1, len(order) // FEW)]


def shares_back(model: Model, prompts: Prompts, cases: Mapping[str, Kept]) -> dict[str, float]:
    """The share of the logit of `` else`` that each brings back, of what no head and all heads differ by.

    NaN where all heads raise it by less than LEAST: a share of nothing can be anything.
    """
    none, everything = left(model, prompts, []), left(model, prompts, heads_except(model))
    if everything.logit - none.logit < LEAST:
        return dict.fromkeys(cases, float("nan"))
    return {name: left(model, prompts, *kept).share_of_logit(none, everything) for name, kept in cases.items()}
