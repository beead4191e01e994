"""Subcircuits: a few heads alone, and heads that read only a part of their inputs."""

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
from headway.analyze.studies.if_else.prompts import Prompts, at_end, over_mean_logit
from headway.analyze.studies.if_else.scores import patterns_from_parts, score_parts
from headway.analyze.studies.result import Figure, Section, table
from headway.models.config import Head
from headway.models.convert import Model

# The largest number of heads that are added one after another.
MOST = 12
# One in this many heads is in the small circuit.
FEW = 4
TOKENS_ALONE, POSITIONS_ALONE, IF_ALONE = "tokens alone in QK", "positions alone in QK", "IF alone in OV"
# If all heads raise the logit of `` else`` by less than this, shares of it are not measured.
LEAST = 1.0
# The replacement of heads that are not kept.
KIND: Kind = "position_mean"
READS = (TOKENS_ALONE, POSITIONS_ALONE, IF_ALONE)


class Kept(NamedTuple):
    """The heads of a subcircuit, and the part of their inputs that they read; all inputs if None."""

    heads: Sequence[Head]
    read: str | None = None


@dataclass(frozen=True)
class SubcircuitResult:
    """The logit of `` else`` minus the mean logit, and its loss; means over the prompts."""

    logit: float
    loss: float

    def share_of_logit(self, none: "SubcircuitResult", everything: "SubcircuitResult") -> float:
        """Return the share of the logit, from no heads (0) to all heads (1); NaN if these are equal."""
        whole = everything.logit - none.logit
        return (self.logit - none.logit) / whole if whole else float("nan")


def run_subcircuit(model: Model, prompts: Prompts, heads: Sequence[Head], read: str | None = None) -> SubcircuitResult:
    """Measure these heads and the direct path alone.

    Every other head is replaced by its mean at each position over ordinary text. With ``read``, the kept heads read a
    part of their inputs at END: tokens alone or positions alone in QK, or the value of IF alone in OV, with every other
    value replaced by the mean over ordinary text.
    """
    hooks = ablation_hooks(model, prompts.batch, heads_except(model, heads), KIND, reference=prompts.ordinary)
    if read is not None:
        # Without hooks, because it may run the network on other tokens.
        needs_plain_scores("if-else", model)
        with (
            hooked_forward_pass(model, hooks) if hooks else nullcontext(),
            shared_forward_pass() if hooks else nullcontext(),
        ):
            instead = {head: _instead(model, prompts, head, read) for head in heads}
        hooks = hooks + [_at_end(head, value, prompts.end) for head, value in instead.items()]
    logits = output_with(model, prompts.batch, hooks)[:, prompts.end] if hooks else at_end(model, prompts.batch)
    log_probability = logits.log_softmax(-1)[:, prompts.else_token]
    return SubcircuitResult(over_mean_logit(logits, prompts.else_token).mean().item(), -log_probability.mean().item())


def text_loss(model: Model, prompts: Prompts, heads: Sequence[Head]) -> float:
    """Return the loss on ordinary text with these heads and the direct path."""
    batch = prompts.ordinary
    output = output_with(model, batch, ablation_hooks(model, batch, heads_except(model, heads), KIND))
    return F.cross_entropy(output.flatten(0, 1), batch.targets.flatten()).item()


def _instead(model: Model, prompts: Prompts, head: Head, read: str) -> Float[Tensor, "prompt d_head"]:
    """Return hook_z of a head at END if it reads only a part of its inputs."""
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
    """Logit and loss with one head added after another, and with a part of the inputs."""
    n_heads = len(order)
    counts = [*range(min(n_heads, MOST) + 1), *([n_heads] if n_heads > MOST else [])]
    kept = {_said(order, count): run_subcircuit(model, prompts, order[:count]) for count in counts}
    text = [text_loss(model, prompts, order[:count]) for count in counts]
    none, *_, everything = kept.values()
    few = top_quarter(order)
    parts = {
        f"{name}; {read}": run_subcircuit(model, prompts, heads, read)
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
        "Some heads and the direct path are kept; every other head is replaced by its mean at each position over "
        "ordinary text. Shares are from no heads (0) to all heads (1), over the generated prompts. Heads are added in "
        "the order of their contribution to ' else'.",
        (
            Figure(
                "Logit and loss of subcircuits",
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
                "logit: of ' else' minus the mean logit. loss: -log p(' else'). loss on text: on ordinary text. back: "
                "share of the logit, and faithfulness of losses (– if all heads know less than a tenth of the loss). "
                "tokens or positions alone: in the scores from END. IF alone: all other values are replaced by their "
                "mean over ordinary text.",
            ),
            Figure(
                "Shares by number of heads",
                xr.Dataset({"share": (("of", "heads"), list(curves.values()))}, {"of": list(curves), "heads": counts}),
                "lines",
            ),
        ),
    )


def _said(order: Sequence[Head], count: int) -> str:
    if count < 2:
        return str(order[0]) if count else "no head"
    return f"{'all' if count == len(order) else count} heads, with {order[count - 1]}"


def top_quarter(order: Sequence[Head]) -> Sequence[Head]:
    """Return the first quarter of the heads, at least one."""
    return order[: max(1, len(order) // FEW)]


def logit_shares(model: Model, prompts: Prompts, cases: Mapping[str, Kept]) -> dict[str, float]:
    """Return the share of the logit of `` else`` with each subcircuit, from no heads (0) to all heads (1).

    NaN if all heads raise the logit by less than LEAST.
    """
    none, everything = run_subcircuit(model, prompts, []), run_subcircuit(model, prompts, heads_except(model))
    if everything.logit - none.logit < LEAST:
        return dict.fromkeys(cases, float("nan"))
    return {
        name: run_subcircuit(model, prompts, *kept).share_of_logit(none, everything) for name, kept in cases.items()
    }
