"""Attributes of stored variables, and what stands for them in runs that were made before variables had any.

This is the only place that reads a measure's list entry or the name of a variable.
"""

import re
from collections.abc import Mapping
from typing import Any

from headway.analyze import MEASURES
from headway.analyze.measures.descriptions import BESIDE, LOSS, PART, SCORE, long_name, role

_MEASURES = {each.name: each for each in MEASURES}
OWN = "A measure of your own."
# Attributes that are text. What stands beside a score has the first three; the others are those of the score.
WORDS = ("of", "role", "long_name", "description", "range", "null", "units")


def complete(measure: str, variable: str, stored: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """All attributes of a variable: those that are ``stored`` with it, and the others if an older Headway wrote it.

    Args:
        measure: The measure whose file holds the variable.
        variable: The variable's name.
        stored: The attributes in that file.
        config: The config.yaml of the run: its task and its inputs decide what an older loss is measured in.

    Example:
        >>> config = {"task": {"class": "headway.data.text:Text"}, "model": {"input_type": "tokens"}}
        >>> found = complete("loss", "loss_repeats", {}, config)
        >>> found["of"], found["role"], found["units"], found["baselines"]
        ('loss', 'part', 'nats', {})
    """
    known = {name: value for name, value in stored.items() if isinstance(value, str) or name not in WORDS}
    needed = WORDS[:3] if known.get("role") in BESIDE else WORDS
    if not set(needed) <= known.keys():
        # A task of one's own may have a loss of its own.
        own_task = not str(config["task"].get("class")).startswith("headway.data.")
        known = _by_name(measure, variable, own_task) | known
    if measure == "loss" and known["role"] in (SCORE, PART):
        known.setdefault("baselines", {})
    # A score of tokens in one unit and of vectors in another names both.
    choices = known.get("units", "").split(", or ")
    known["units"] = choices[-1 if config["model"].get("input_type") == "vectors" else 0]
    return known


def role_of(measure: str, variable: str, stored: Mapping[str, Any]) -> str:
    """The role of a variable beside the score of its measure: ``measures.descriptions.role``."""
    return stored.get("role") or role(measure, variable)


def limits(attributes: Mapping[str, Any]) -> tuple[float, float] | None:
    """The ends of the range of a score, where it is a pair of numbers.

    Example:
        >>> limits({"range": "[-1, 1]"}), limits({"range": "[0, ceiling]"})
        ((-1.0, 1.0), None)
    """
    found = re.fullmatch(r"\[(-?[\d.]+), (-?[\d.]+)\]", attributes.get("range", ""))
    return (float(found[1]), float(found[2])) if found else None


def _by_name(measure: str, variable: str, own_task: bool) -> dict[str, Any]:
    standing, ours = role_of(measure, variable, {}), _MEASURES.get(measure)
    found: dict[str, Any] = {"of": measure, "role": standing, "long_name": long_name(variable)}
    if standing in BESIDE:
        return found | {"description": BESIDE[standing]}
    if ours is None:
        return found | {"description": OWN, "range": "", "null": "", "units": ""}
    found |= {"description": ours.summary.replace("``", ""), "range": ours.range, "null": ours.null}
    return found | {"units": "" if own_task and ours.units == LOSS else ours.units}
