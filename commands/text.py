"""``headway text``: what a network makes of a string."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.commands.arguments import checked_path

if TYPE_CHECKING:
    from headway.analyze.tools.prompt import PromptResult
    from headway.checkpoints import Run


def text_command(arguments: list[str]) -> None:
    """Say what a network makes of a string, and write the page that shows it."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway text RUN STRING [options]", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("run", help="directory of a run whose tokens are text, or name of a language model")
    parser.add_argument("string", help="what is typed; - reads it from where a pipe comes in")
    parser.add_argument("--at", type=int | None, help="the kept step of a run; the last one if not given")
    parser.add_argument("--top", type=int, default=5, help="how many of the likeliest next tokens are shown")
    parser.add_argument("--position", type=int | None, help="what is explained, from 0, BOS; the last if not given")
    parser.add_argument("--token", help="whose logit is explained there; the next if there is one, else the likeliest")
    parser.add_argument("--out", help="the file; text.html in the run, or of a language model in runs/NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is not a page of Headway")
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from headway.options import parse

    options = parse(parser, arguments)
    if options.top < 1:
        raise ValueError(f"top: {options.top} is not valid; it must be at least 1")

    from rich.console import Console

    from headway.analyze.report.about import about_run
    from headway.analyze.report.console import print_prompt
    from headway.analyze.report.page import check_page, write_prompt_page
    from headway.analyze.report.prompt_page import prompt_steps
    from headway.analyze.studies.loading import LoadedModel, open_run_or_model
    from headway.analyze.tools.prompt import run_prompt
    from headway.checkpoints import Run
    from headway.checkpoints.files import holds_run
    from headway.data.tokenizer import check_utf8

    string = _typed() if options.string == "-" else options.string
    check_utf8("string", string)
    checked_path("run", options.run, "a run or a language model")
    studied = open_run_or_model(options.run)
    if isinstance(studied, Run):
        folder = studied.path
    else:
        folder = Path("runs") / Path(options.run).name
        if options.out is None and holds_run(folder):
            raise ValueError(f"out: {folder} holds a run; give another file")
    subject = LoadedModel.of(studied, options.at)
    shown = run_prompt(subject.model, string, options.position, options.token)
    out = folder / "text.html" if options.out is None else checked_path("out", options.out)
    out = check_page(out, options.overwrite)
    results, left_out = {subject.step: shown}, ""
    step = [] if subject.step is None else [("step", str(subject.step))]
    about = [("model", subject.name), *step, ("string", string)]
    if isinstance(studied, Run) and subject.step is not None:
        steps = [step for step in prompt_steps(studied.steps, subject.step, shown, options.top) if step != subject.step]
        others, left_out = _at_steps(studied, steps, string, options)
        results |= others
        about += about_run(studied)
    page = write_prompt_page(results, subject.step, subject.model, about, out, options.top, options.overwrite, left_out)
    print_prompt(shown, Console(width=None if sys.stdout.isatty() else 160), options.top)
    print(f"\nThe page that shows it, at every position: {page}")


def _at_steps(run: "Run", steps: list[int], string: str, options: Any) -> tuple[dict[int, "PromptResult"], str]:
    """Return what a run makes of a string at other checkpoints, and a sentence on those that a page does not have."""
    from tqdm import tqdm

    from headway.analyze.tools.prompt import run_prompt

    results, notes = {}, []
    for step in tqdm(steps, desc="checkpoints", unit="checkpoint", disable=None):
        try:
            results[step] = run_prompt(run.model(step), string, options.position, options.token)
        except ValueError as error:  # a damaged checkpoint, which is not the one that was asked for
            notes.append(f"Step {step} is left out: {error}.")
    if len(results) + 1 < len(run.steps):
        notes.insert(0, f"The slider stops at {len(results) + 1} of {len(run.steps)} checkpoints.")
    return results, " ".join(notes)


def _typed() -> str:
    """Return the text that comes through a pipe."""
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"string: what is typed is not valid; it must be UTF-8 ({error.reason})") from None
