"""Study: an entry of STUDIES. It names the code of a study, which is imported when the study runs."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from headway.options import nearest

# Of sequences, tokens and other things that are counted.
MOST = 10_000_000


@dataclass(frozen=True)
class Study:
    """A question about a network, and the code that answers it.

    Args:
        name: The name on the command line, and of the file.
        question: The question, in one sentence; ``headway study`` lists it.
        function: Import path of the function ``(network, options) -> Findings``; with ``takes_runs`` its third argument
            is the list of further runs.
        options: Import path of the frozen dataclass of its options, which checks whatever needs no network. Its module
            must not import torch, so that ``--help`` starts at once.
        tasks: Import paths of the tasks whose runs it accepts.
        takes_models: Whether it accepts language models.
        takes_runs: Whether it accepts further runs, to compare with the first.
        makes: Import path of the function from a network's configuration to a task that it fits, for runs that were
            imported without a task; nothing if the study needs one.

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
    makes: str = ""

    @property
    def task_names(self) -> str:
        """The names of the tasks whose runs it accepts."""
        return " or ".join(path.partition(":")[2] for path in self.tasks)

    @property
    def option_type(self) -> type:
        """The dataclass of its options, imported."""
        return imported(self.options)

    def given(self, values: Mapping[str, Any]) -> Any:
        """Return its options with these values.

        Raises:
            ValueError: an option that it does not have, a value out of range.
        """
        known = [each.name for each in fields(self.option_type)]
        for name in values:
            if name not in known:
                raise ValueError(
                    f"{name}: not an option of {self.name}; options: {', '.join(known)}{nearest(name, known)}"
                )
        return self.option_type(**{name: _tuples(value) for name, value in values.items()})

    def changed(self, options: Any) -> list[str]:
        """Return the names of the options that differ from their defaults."""
        return [each.name for each in fields(options) if getattr(options, each.name) != each.default]


def imported(path: str) -> Any:
    """Import the object that ``package.module:name`` names.

    Example:
        >>> imported("headway.analyze.studies.study:Study").__name__
        'Study'
    """
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _tuples(value: Any) -> Any:
    """Replace lists by tuples, because the defaults of options are tuples.

    Example:
        >>> _tuples([["if", "else"]])
        (('if', 'else'),)
    """
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def check_at_least(name: str, value: int, least: int, why: str = "") -> None:
    """Raise a ValueError for an option below its smallest value, or beyond any that a machine can hold."""
    if value < least:
        raise ValueError(f"{name}: {value} is not valid; it must be at least {least}{why and f', {why}'}")
    if value > MOST:
        raise ValueError(f"{name}: {value} is not valid; it must be at most {MOST:,}")


def is_model_name(name: str) -> bool:
    """Return whether a name is that of a language model, not of a directory.

    Example:
        >>> is_model_name("roneneldan/TinyStories-1M"), is_model_name("."), is_model_name("")
        (True, False, False)
    """
    path = Path(name).expanduser()
    if (path / "config.json").is_file() and not (path / "config.yaml").exists():
        return True
    # A path in an existing folder is a directory, even if it does not exist.
    in_folder = (len(path.parts) > 1 and path.parent.exists()) or name.startswith(("./", "../"))
    return bool(name) and not path.exists() and not in_folder
