"""A run in a few lines of text: its behaviour, the circuit that carries it, its parts, and what is not needed."""

import io
import math

from headway.analyze.report.formation_lines import behaviour_lines, parts_lines
from headway.analyze.report.lines import WIDTH, laid_out
from headway.analyze.report.stored import StoredScores
from headway.checkpoints.run import Run


def summary(run: Run, progress: bool = False) -> str:
    """The last scores of a run as text: losses and baselines, its behaviour, its circuit, and the parts of that.

    It is made from the run's files. For a run of text its perplexity is added, for which the network predicts all text
    held out; ``progress`` shows a bar meanwhile.

    Raises:
        ValueError: a run without scores.

    Example:
        >>> print(summary(Run("runs/induction")))  # doctest: +SKIP
    """
    from rich.console import Console

    stored = StoredScores.of(run)
    step = stored.steps[stored.index(None)]
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, highlight=False, markup=False)
    for later, reason in stored.left_out.items():
        if later > step:
            console.print(f"step {later} is left out: {reason}", soft_wrap=True)
    console.print(f"{run.path}, step {step}:", soft_wrap=True)
    reached = ", ".join(f"{each.label} {each.values.values[-1]:.4f}" for each in stored.losses)
    known = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in stored.baselines.items())
    console.print(f"{reached}  (baselines: {known})" if known else reached, soft_wrap=True)
    try:
        held_out = _loss_on_held_out_text(run, progress)
    except ValueError as error:
        held_out = None
        console.print(f"perplexity on all text held out is left out: {error}", soft_wrap=True)
    if held_out is not None:
        nats = {"this network": held_out, **stored.baselines}
        perplexities = ", ".join(f"{name} {math.exp(loss):.1f}" for name, loss in nats.items())
        console.print(f"perplexity on all text held out: {perplexities}", soft_wrap=True)
    for line in laid_out([*behaviour_lines(stored), *parts_lines(stored)]):
        console.print(line, soft_wrap=True)
    if run.report_file.exists():
        console.print(f"The page that shows it, over all of training: {run.report_file}", soft_wrap=True)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # pyright: ignore[reportAttributeAccessIssue]


def _loss_on_held_out_text(run: Run, progress: bool) -> float | None:
    """Of a run of text; None for any other."""
    if run.config["task"]["class"] != "headway.data.text:Text":
        return None
    from headway.analyze.tools.perplexity import held_out_loss
    from headway.data.text import Text

    assert isinstance(run.task, Text)
    return held_out_loss(run.model(), run.task, progress)
