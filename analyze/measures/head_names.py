"""Names of heads by what they attend to, without torch: pages and summaries read them too."""

import re
from collections.abc import Sequence

from headway.models.config import Head

# The name of a head that mainly does what an attention score measures.
HEAD_NAMES = {
    "previous_token": "previous-token head",
    "prefix_matching": "induction head",
    "duplicate_token": "duplicate-token head",
    "current_token": "current-token head",
    "first_token": "attention sink",
    "fixed_offset": "fixed-offset head",
    "mirror": "mirror head",
}
# A head mainly does what it is more than half of the way to, from chance to attending to nothing else.
MAINLY = 0.5


def spans(nodes: Sequence[str]) -> str:
    """Return names of nodes, with three or more neighbours of one layer as a span.

    Example:
        >>> spans(["L0H0", "L1H1", "L1H2", "L1H3", "L2H4", "MLP2"])
        'L0H0, L1H1 to L1H3, L2H4, MLP2'
    """
    runs: list[list[str]] = []
    for node in nodes:
        if runs and _follows(runs[-1][-1], node):
            runs[-1].append(node)
        else:
            runs.append([node])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def _follows(before: str, node: str) -> bool:
    pair = [re.fullmatch(r"L(\d+)H(\d+)", each) for each in (before, node)]
    return all(pair) and pair[1][0] == str(Head(int(pair[0][1]), int(pair[0][2]) + 1))  # pyright: ignore[reportOptionalSubscript]
