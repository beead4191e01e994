"""A small corpus of our own: files of Python that nobody would run, always the same."""

import random
from pathlib import Path

NAMES = ("item", "total", "ready", "path", "count", "left", "right", "value", "name", "size", "found")
CALLS = ("len", "first", "is_open", "lookup", "check")


def source(number: int, lines: int = 61) -> str:
    """One file: assignments, functions, and conditional expressions of both kinds."""
    draw = random.Random(number)
    written = [f'"""File {number} of a corpus: größer, 数."""', "import os", ""]
    for line in range(lines):
        a, b, c = draw.sample(NAMES, 3)
        call = f"{draw.choice(CALLS)}({a})"
        written.append(
            draw.choice(
                (
                    f"{a} = {b} + {draw.randint(0, 99)}",
                    f"def {draw.choice(CALLS)}_{line}({a}, {b}):\n    return {a} if {c} else {b}",
                    f"{a} = [{b}, {c}]",
                    f"{c} = {a} if {b} else None",
                    f"{b} = {c} if {call} else {a}",
                    f"for {a} in {b}:\n    print({a})",
                    f"from {a} import {b}",
                )
            )
        )
    return "\n".join(written) + "\n"


def write_corpus(folder: Path, files: int = 23) -> Path:
    """A folder with these files, in two folders below it."""
    for number in range(files):
        path = folder / ("even" if number % 2 == 0 else "odd") / f"file_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source(number))
    return folder
