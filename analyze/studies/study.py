"""Study: one entry of STUDIES. It names what a study needs and imports it only when the study is made."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from headway.options import nearest


@dataclass(frozen=True)
class Study:
    """A question about one network, and where the code is that answers it.

    Args:
        name: The name on the command line and of the file.
        question: What it asks, in one sentence; ``headway study`` lists it.
        function: Import path of the function ``(network, options) -> Findings``; with ``takes_runs`` it has a third
            argument, the further runs.
        options: Import path of the frozen dataclass of its options, which refuses what can be refused without a
            network. Its module imports no torch, so that ``--help`` starts at once.
        tasks: Import paths of the tasks whose runs it takes.
        takes_models: It takes language models too.
        takes_runs: It takes further runs, which stand beside the first.

    Example:
        >>> from headway.analyze.studies import STUDIES
        >>> STUDIES["induction"].given({"sequences": 7}).sequences
        7
    """

    name: str
    question: str
    function: str
    options: str
    tasks: tuple[str, ...]
    takes_models: bool = False
    takes_runs: bool = False

    @property
    def task_names(self) -> str:
        """The tasks whose runs it takes, as text."""
        return " or ".join(path.partition(":")[2] for path in self.tasks)

    @property
    def option_type(self) -> type:
        """The dataclass of its options."""
        return imported(self.options)

    def given(self, values: Mapping[str, Any]) -> Any:
        """Its options with these values; a ValueError for an option that it does not have, or a value out of range."""
        known = [each.name for each in fields(self.option_type)]
        for name in values:
            if name not in known:
                raise ValueError(f"{name}: {self.name} has no such option{nearest(name, known)}")
        return self.option_type(**{name: _tuples(value) for name, value in values.items()})

    def changed(self, options: Any) -> list[str]:
        """The names of the options that differ from their defaults."""
        return [each.name for each in fields(options) if getattr(options, each.name) != each.default]


def imported(path: str) -> Any:
    """The object that ``package.module:name`` names.

    Example:
        >>> imported("headway.analyze.studies.study:Study").__name__
        'Study'
    """
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _tuples(value: Any) -> Any:
    """Tuples in the place of lists, which would differ from the default of an option.

    Example:
        >>> _tuples([["if", "else"]])
        (('if', 'else'),)
    """
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def check_at_least(name: str, value: int, least: int, why: str = "") -> None:
    """Refuse, with a ValueError, an option below its least value."""
    if value < least:
        raise ValueError(f"{name}: {value} is not valid; it must be at least {least}{why and f', {why}'}")
