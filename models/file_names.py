"""Names of files of weights, and the steps in names: step400.pt, epoch=2-step=20, ckpt-400, step10k."""

import re
from typing import NamedTuple

# Suffixes of files of weights.
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# How sure a number is a step: those of "step" are, those of "epoch" and "checkpoint" count something else, perhaps.
_UNITS = {
    "step": r"steps?|iter(?:ation)?s?|updates?|batch(?:es)?",
    "epoch": r"epochs?",
    "checkpoint": r"ckpts?|checkpoints?|snapshots?",
}
# 400, 10k, 1.5M, 1e5
_COUNT = r"(\d+(?:\.\d+)?(?:[km](?![a-z])|e\+?\d+)|\d+)"
_NAMED = {unit: re.compile(rf"(?<![a-z])(?:{words})[-_. =]*{_COUNT}", re.IGNORECASE) for unit, words in _UNITS.items()}
_LAST = re.compile(rf"(?:^|[-_. =]){_COUNT}$", re.IGNORECASE)


class NamedStep(NamedTuple):
    """A number in a name, and its unit: ``step``, ``epoch``, ``checkpoint``, or ``number`` where none is named."""

    step: int
    unit: str


def step_in_name(name: str) -> NamedStep | None:
    """Return the step that a name says, that of the surest unit; None if it has none.

    Raises:
        ValueError: a name with several numbers of that unit.

    Example:
        >>> step_in_name("epoch=2-step=20"), step_in_name("run_10k"), step_in_name("gpt2")
        (NamedStep(step=20, unit='step'), NamedStep(step=10000, unit='number'), None)
    """
    for unit, pattern in _NAMED.items():
        steps = {_count(found) for found in pattern.findall(name)}
        if len(steps) > 1:
            raise ValueError(f"step: {name!r} names several ({', '.join(map(str, sorted(steps)))}); give --step")
        if steps:
            return NamedStep(steps.pop(), unit)
    last = _LAST.search(name)
    return NamedStep(_count(last[1]), "number") if last else None


def _count(text: str) -> int:
    """Read a number of updates.

    Example:
        >>> _count("400"), _count("1.5k"), _count("1e5")
        (400, 1500, 100000)
    """
    factor = {"k": 10**3, "m": 10**6}.get(text[-1].lower())
    if factor is not None:
        return round(float(text[:-1]) * factor)
    return round(float(text)) if "e" in text.lower() else int(text)


def in_order_of_numbers(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts step20 before step100.

    Example:
        >>> sorted(["step100.pt", "step20.pt"], key=in_order_of_numbers)
        ['step20.pt', 'step100.pt']
    """
    return [(int(part or 0), part) if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
