"""Checks of arguments and results in tests, for the functions that say the shape of an array.

All other types are pyright's. jaxtyping puts a wrapper around every function of the package, also around those that
are defined anew in each call of another; the wrapper costs more than most of what these functions do. So a function
that says no shape gets none, and inside networks, where a forward pass would take three times as long, shapes are
checked in the tests of networks alone.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

# jaxtyping's import hook keeps compiled code of its own for whatever is first imported inside one of our modules, also
# of other packages. They are imported before, so that Python's own compiled code of them serves.
import einops  # noqa: F401
import jaxtyping
import lightning  # noqa: F401
import tokenizers  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import transformer_lens.model_bridge  # noqa: F401
import xarray  # noqa: F401

INSIDE_NETWORKS = ("headway.models.components", "headway.models.hooked_transformer")

_wrapped = jaxtyping.jaxtyped


def states_a_shape(defined: Any) -> bool:
    """Also of a dataclass, by its fields, and of a property, a class method or a static method."""
    if inspect.isclass(defined):
        defined = defined.__init__
    function = getattr(defined, "fget", None) or getattr(defined, "__func__", defined)
    return "jaxtyping." in str(getattr(function, "__annotations__", ""))


def jaxtyped(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """The decorator that jaxtyping's import hook writes above every class and every function."""

    def decorated(defined: Any) -> Any:
        inside_another = "<locals>" in getattr(defined, "__qualname__", "")
        return defined if inside_another or not states_a_shape(defined) else _wrapped(defined, typechecker=typechecker)

    return decorated


def wrap_only_what_states_a_shape() -> None:
    """Before the package is imported."""
    assert "headway" not in sys.modules
    jaxtyping.jaxtyped = jaxtyped


def set_checks(inside_networks: bool) -> None:
    """Have jaxtyping, which asks at each call, check or leave out the functions inside networks."""
    for name in INSIDE_NETWORKS:
        if name in sys.modules:
            for function in functions_of(sys.modules[name]):
                vars(function)["__no_type_check__"] = not inside_networks


def functions_of(module: ModuleType) -> Iterator[Callable[..., Any]]:
    """The functions that a module defines, those of its classes included."""
    for holder in (module, *(kind for kind in vars(module).values() if inspect.isclass(kind))):
        for function in vars(holder).values():
            if isinstance(function, property):
                function = function.fget
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                yield function
