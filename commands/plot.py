"""``headway plot``: one figure of the page, or several runs laid over each other, in a file."""

from pathlib import Path

from headway.commands.arguments import checked_directory, checked_path


def plot_command(arguments: list[str]) -> None:
    """Draw one figure of the page of a run, or one of several runs, into a file."""
    from jsonargparse import ArgumentParser

    usage = "headway plot RUN [RUN ...] FIGURE [options]"
    parser = ArgumentParser(usage=usage, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("runs", nargs="+", help="directory of the run; or several, or a sweep, over each other")
    text = "loss, network, circuit, diagram, attention, eigenvalues, heads, composition or attribution; of several "
    parser.add_argument("figure", help=f"{text}runs formation, heads or loss")
    parser.add_argument("--at", type=int | None, help="the step; the last one with scores if not given")
    parser.add_argument("--layer", type=int | None, help="one layer; all if not given")
    parser.add_argument("--head", type=int | None, help="one head of each of these layers; all if not given")
    parser.add_argument("--sequence", type=int | None, help="which of the sequences whose attention is kept, from 0")
    parser.add_argument("--measure", help="which measure, of a figure that can show several")
    parser.add_argument("--part", help="the behaviour whose circuit is shown")
    parser.add_argument("--replace", help="the replacement under which it was found")
    text = "show the circuit of nodes without edges, which headway circuit --nodes found"
    parser.add_argument("--nodes", action="store_true", help=text)
    parser.add_argument("--out", help="a .png, .svg or .pdf file; FIGURE.svg if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is not a figure of Headway")
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from headway.options import parse

    options = parse(parser, arguments)
    paths = [checked_directory("run", path) for path in options.runs]

    from headway.analyze.formation.over_runs import runs_inside

    runs = runs_inside(paths)

    from headway.analyze.report.figures.plot import check_figure, draw, draw_many, save

    out = Path(f"{options.figure}.svg") if options.out is None else checked_path("out", options.out)
    if options.out is not None:
        check_figure(out, options.overwrite)

    names = ("at", "layer", "head", "sequence", "measure", "part", "replace")
    chosen = {name: getattr(options, name) for name in names} | {"nodes": options.nodes or None}
    figure = draw_many(runs, options.figure, **chosen) if len(runs) > 1 else draw(runs[0], options.figure, **chosen)
    print(save(figure, out, options.overwrite))
