"""``headway plot``: one figure of the page in a file."""

from pathlib import Path

from headway.commands.arguments import checked_directory, checked_path


def plot_command(arguments: list[str]) -> None:
    """Draw one figure of the page into a file."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway plot RUN FIGURE [options]", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("run", help="directory of the run")
    parser.add_argument(
        "figure", help="loss, network, circuit, diagram, attention, eigenvalues, heads, composition or attribution"
    )
    parser.add_argument("--at", type=int | None, help="the step; the last one with scores if not given")
    parser.add_argument("--layer", type=int | None, help="one layer; all if not given")
    parser.add_argument("--head", type=int | None, help="one head of each of these layers; all if not given")
    parser.add_argument("--sequence", type=int | None, help="which sequence of the evaluation batch, from 0")
    parser.add_argument("--measure", help="which measure, of a figure that can show several")
    parser.add_argument("--out", help="a .png, .svg or .pdf file; FIGURE.svg if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is not a figure of Headway")
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from headway.checkpoints import Run
    from headway.options import parse

    options = parse(parser, arguments)
    run = Run(checked_directory("run", options.run))

    from headway.analyze.report.figures.plot import check_figure, draw, save

    out = Path(f"{options.figure}.svg") if options.out is None else checked_path("out", options.out)
    if options.out is not None:
        check_figure(out, options.overwrite)

    figure = draw(
        run,
        options.figure,
        at=options.at,
        layer=options.layer,
        head=options.head,
        sequence=options.sequence,
        measure=options.measure,
    )
    print(save(figure, out, options.overwrite))
