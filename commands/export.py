"""``headway export``: a checkpoint for another program, or for the Hugging Face hub."""

from headway.commands.arguments import add_trust, checked_directory


def export_command(arguments: list[str]) -> None:
    """Write a folder that another program loads, and print how."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        usage="headway export RUN --to KIND --out DIR [options]", allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("run", help="directory of a run")
    text = "hooked-transformer (TransformerLens 3.9), bridge (TransformerLens 4) or huggingface (a folder for the hub)"
    parser.add_argument("--to", type=str | None, help=text)
    parser.add_argument("--out", type=str | None, help="the folder that is written, which must not exist")
    parser.add_argument("--step", type=int | None, help="the checkpoint; the last one if not given")
    text = "with huggingface: upload it as user/name, private if new, and each checkpoint as a revision such as step400"
    parser.add_argument("--push", type=str | None, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace the export that is in the folder")
    add_trust(parser)
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from headway.options import parse

    options = parse(parser, arguments)
    for name, what in (("to", "hooked-transformer, bridge or huggingface"), ("out", "the folder that is written")):
        if getattr(options, name) is None:
            raise ValueError(f"{name}: is missing; give {what}")
    out = checked_directory("out", options.out)
    path = checked_directory("run", options.run)

    from headway.checkpoints.exporting import CARD, export_run
    from headway.checkpoints.run import Run

    run = Run(path, options.task, options.trust)
    out = export_run(run, out, options.to, options.step, options.push, options.overwrite)
    print(f"{out}: step {run.check_step(options.step)} as {options.to}; {out / CARD} says how to load it")
    if options.push is not None:
        print(f"https://huggingface.co/{options.push}: the same, and {len(run.steps)} checkpoints as revisions")
