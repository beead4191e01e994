"""Checks of arguments and results in tests, for the functions that say the shape of an array.

All other types are pyright's. A check costs more than most of what these functions do, so inside networks, where a
forward pass would take three times as long, it is made in the tests of networks alone.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from beartype import beartype

INSIDE_NETWORKS = ("headway.models.components", "headway.models.hooked_transformer")


def states_a_shape(function: Callable[..., Any]) -> bool:
    return "jaxtyping." in str(function.__annotations__)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The type checker that jaxtyping puts around every function of the package."""
    return beartype(function) if states_a_shape(function) else function


def set_checks(inside_networks: bool) -> None:
    """Have jaxtyping, which asks at each call, leave out what needs no check."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "headway":
            for function in functions_of(module):
                wanted = states_a_shape(function) and (inside_networks or name not in INSIDE_NETWORKS)
                vars(function)["__no_type_check__"] = not wanted


def functions_of(module: ModuleType) -> Iterator[Callable[..., Any]]:
    """The functions that a module defines, those of its classes included."""
    for holder in (module, *(kind for kind in vars(module).values() if inspect.isclass(kind))):
        for function in vars(holder).values():
            if isinstance(function, property):
                function = function.fget
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                yield function
