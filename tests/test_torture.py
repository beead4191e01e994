"""A fixed handful of ``make torture``: killed commands go on as if they had not been, and mutated files are refused."""

from multiprocessing.context import ForkServerContext

import pytest
import torture
from kills import BETWEEN
from mutations import FORMATS

# One kill of training between two files, that of going on, and one of a command that writes several files.
KILLS = [
    next(seed for seed, (_, kind, _) in enumerate(BETWEEN) if kind == between)
    for between in ("between two scores", "in the middle of the log", "between two circuits")
]
# Each format once. Of 400 such rows this one changes files in eight ways, and its commands take the least time.
ROW = 92
MUTATIONS = [ROW * len(FORMATS) + place for place in range(len(FORMATS))]


@pytest.mark.whole
def test_killed_runs_go_on_and_mutated_files_are_refused_in_one_line(
    forkserver: ForkServerContext,
):
    """In a process of its own that computes nothing, because its children must inherit no thread."""
    arguments = ["--only", *map(str, KILLS), "--mutation", *map(str, MUTATIONS)]
    process = forkserver.Process(target=torture.main, args=(arguments,))
    process.start()
    process.join()
    assert process.exitcode == 0
