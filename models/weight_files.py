"""Weights that other programs wrote, in files or in Python, and configurations of TransformerLens beside them.

Nothing in a file runs, and every tensor comes to the CPU. Beside tensors a file may hold numbers of numpy, and a
configuration of TransformerLens that was saved whole, of which the values are read without its class.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headway.models.arguments import as_int
from headway.models.file_names import SUFFIXES, NamedStep, step_in_name
from headway.models.lens_configs import is_config, read_config
from headway.options import cut, shown

# Every network has it.
EMBEDDING = "embed.W_E"
# Names under which a file holds the configuration of its network.
CONFIGS = ("config", "cfg", "model_config", "model_cfg")
# Names under which a file says of which step its weights are.
STEPS = ("step", "global_step", "current_step", "iteration", "iter", "iter_num", "update", "updates", "batch_idx")
# The classes of a configuration that TransformerLens 1 to 3 and the program before it save.
_SAVED_CONFIG = re.compile(r"(transformer_lens|easy_transformer)\.\S*Config")


@dataclass(frozen=True)
class Source:
    """The tensors of one checkpoint by name, and where they come from.

    Args:
        name: The file, with the place in it.
        weights: Its tensors.
        config: The configuration in the file or beside it; empty if there is none.
        others: What else the file holds.
        step: The step that the file says; None if it says none.
        config_file: The file beside it that holds the configuration; None if the file itself does.
    """

    name: str
    weights: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    step: NamedStep | None = None
    config_file: Path | None = None


class NoWeightsError(ValueError):
    """A file that can be read, and that holds no weights of a transformer."""


@dataclass(frozen=True)
class _Found:
    """A state dict inside of what a file holds.

    Args:
        label: Its place in a list, or its key, such as ``[3]``.
        state: The state dict.
        step: Its step; None if nothing says it.
        others: The names beside it.
    """

    label: str
    state: Mapping[str, Any]
    step: NamedStep | None = None
    others: tuple[str, ...] = ()


def read_source(path: Path, key: str | None = None) -> list[Source]:
    """Read the checkpoints of one file: one state dict, or several in a list or by their steps.

    A configuration of TransformerLens that stands beside the file as config.json is that of its network.

    Args:
        path: A file of torch or safetensors.
        key: The place of the weights in it, such as ``model`` or ``state.model``; they are looked for if None.

    Raises:
        ValueError: a file that cannot be read, would run code, or holds no weights of a transformer.
    """
    found = sources_in(_load(path), str(path), key)
    beside = path.parent / "config.json"
    if found[0].config or not is_lens_config_file(beside):
        return found
    config = json.loads(beside.read_text(encoding="utf-8"))
    return [replace(each, config=config, config_file=beside) for each in found]


def sources_in(content: Any, name: str, key: str | None = None) -> list[Source]:
    """Return the checkpoints in what a file holds, or in a state dict of Python; the arguments are those of a file.

    Raises:
        ValueError: no weights of a transformer, or several and no key.
    """
    where, found = _found_in(content, name, key)
    config = next((c for each in CONFIGS if is_config(c := _values(_get(content, each)))), {})
    of_file = tuple(str(each) for each in content if str(each) not in where.split(".")) if where else ()
    named = f"{name}[{where}]" if where else name
    steps, read = _steps_beside(content, where, len(found))
    if steps is not None and all(each.step is None for each in found):
        found = [replace(each, step=step) for each, step in zip(found, steps, strict=True)]
    return [
        Source(
            named + each.label,
            _unprefixed(each.state),
            config,
            tuple(dict.fromkeys(other for other in (*of_file, *each.others) if other != read)),
            each.step,
        )
        for each in found
    ]


def _found_in(content: Any, name: str, key: str | None) -> tuple[str, list[_Found]]:
    """Return the place of the checkpoints in a file, and them."""
    if key is None:
        places = dict(_places(content))
        if len(places) > 1:
            raise ValueError(f"key: {name} holds weights at {cut(', '.join(places))}; give one of them as --key")
    else:
        places = {key: _checkpoints(_at(content, name, key))}
    where, found = next(iter(places.items()), ("", []))
    if not found:
        raise NoWeightsError(f"file: {name} holds no weights of a transformer; it {_described(content)}")
    return where, found


def _at(content: Any, name: str, key: str) -> Any:
    """Return what is at a place such as ``state.model`` or ``checkpoints.3``."""
    found, place = content, ""
    for part in key.split("."):
        by_name = {str(each): each for each in found} if isinstance(found, Mapping) else {}
        if isinstance(found, list | tuple) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        elif part in by_name:
            found = found[by_name[part]]
        else:
            inside = ", ".join(by_name) if isinstance(found, Mapping) else "none"
            raise ValueError(f"key: {key!r} is not in {name}; {place or 'the file'} has {cut(inside)}")
        place = f"{place}.{part}".strip(".")
    return found


def _places(content: Any, place: str = "", depth: int = 3) -> Iterator[tuple[str, list[_Found]]]:
    """The places of state dicts; several in a list, or by their steps, have one place."""
    found = _checkpoints(content, depth)
    if found:
        yield place, found
    elif isinstance(content, Mapping) and depth > 0:
        for name, inner in content.items():
            yield from _places(inner, f"{place}.{name}" if place else str(name), depth - 1)


def _checkpoints(value: Any, depth: int = 3) -> list[_Found]:
    """Return the checkpoints that a value is: a state dict, or several of them; none of anything else."""
    state = _as_state(value)
    if state is not None:
        return [_Found("", state)]
    members = list(_members(value))
    found: list[_Found] = []
    for label, step, each in members:
        inside = list(_places(each, depth=depth - 1)) if depth > 0 else []
        if len(inside) != 1 or len(inside[0][1]) != 1:
            return []
        (where, (one,)) = inside[0]
        beside, read = _steps_beside(each, where, 1)
        others = [str(name) for name in each if str(name) not in (*where.split("."), read)] if where else []
        found.append(_Found(label, one.state, step or (beside[0] if beside else one.step), tuple(others)))
    return found


def _members(value: Any) -> Iterator[tuple[str, NamedStep | None, Any]]:
    """The members of a list, or of a dictionary whose keys are all steps."""
    if isinstance(value, list | tuple):
        for place, each in enumerate(value):
            yield f"[{place}]", None, each
    elif isinstance(value, Mapping):
        steps = {key: _step_of_key(key) for key in value}
        if all(step is not None for step in steps.values()):
            for key, step in steps.items():
                yield f"[{key}]", step, value[key]


def _step_of_key(key: Any) -> NamedStep | None:
    """Return the step that a key is, such as 400 or "step400"; model_1 and model_2 may be two networks."""
    if isinstance(key, int) and not isinstance(key, bool):
        return NamedStep(key, "step")
    if not isinstance(key, str):
        return None
    try:
        found = step_in_name(key)
    except ValueError:
        return None
    if found and found.unit == "number":
        return NamedStep(found.step, "step") if key.isdecimal() else None
    return found


def _steps_beside(content: Any, where: str, count: int) -> tuple[list[NamedStep] | None, str]:
    """Return the steps of checkpoints that stand beside their place, and the name of these numbers."""
    for part in where.split(".")[:-1] if where else []:
        content = _get(content, part)
    if not where or not isinstance(content, Mapping):
        return None, ""
    for unit, fits in (("step", _names_steps), ("epoch", _names_epochs)):
        for name, value in content.items():
            numbers = _counts(value)
            several = isinstance(value, list | tuple | np.ndarray) or (isinstance(value, Tensor) and value.ndim > 0)
            if fits(str(name), several) and len(numbers) == count and several == (count > 1):
                return [NamedStep(number, unit) for number in numbers], str(name)
    return None, ""


def _names_steps(name: str, several: bool) -> bool:
    """Return whether a name is that of steps; ``steps`` alone may be how many there are in all."""
    return name in STEPS or (several and re.search(r"step|iter|update", name) is not None)


def _names_epochs(name: str, several: bool) -> bool:
    return name == "epoch" or (several and "epoch" in name)


def _counts(value: Any) -> list[int]:
    """Return the whole numbers, rising, that a number or a list of numbers is; none of anything else."""
    if isinstance(value, Tensor | np.ndarray | np.integer):
        value = value.tolist()
    found = [as_int(each) for each in (value if isinstance(value, list | tuple) else [value])]
    numbers = [each for each in found if each is not None and each >= 0]
    rise = len(numbers) == len(found) and all(before < after for before, after in pairwise(numbers))
    return numbers if rise else []


class _Values:
    """The values of an object without its class."""


def _values(value: Any) -> Any:
    return vars(value) if isinstance(value, _Values) else value


def _harmless(path: Path) -> list[Any]:
    """Return what a file may name beside tensors: numbers of numpy, and stand-ins for saved configurations."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    found: list[Any] = [(np.ndarray, "numpy.ndarray"), (np.dtype, "numpy.dtype")]
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):
        found += [(scalar, f"{module}.scalar"), (array, f"{module}._reconstruct")]
    for kind in {type(np.dtype(code)) for code in "?bhilqBHILQefd"}:
        found.append((kind, f"{kind.__module__}.{kind.__qualname__}"))
    return [*found, *((_Values, name) for name in _unknown(path) if _SAVED_CONFIG.fullmatch(name))]


def _unknown(path: Path) -> list[str]:
    """The classes that a file names and torch does not know; none of a file in torch's old format."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # torch raises many kinds; loading says what is wrong with the file
        return []


def _load(path: Path) -> Any:
    """Return what a file holds, on the CPU; nothing in it runs."""
    if not path.is_file():
        raise ValueError(f"file: {path} is no file")
    if path.stat().st_size == 0:
        raise ValueError(f"file: {path} is empty")
    harmless = _harmless(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with (
            warnings.catch_warnings(action="ignore"),  # of the protocols of pickles
            torch.serialization.safe_globals(harmless),
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        said = " ".join(str(error).split())
        named = re.search(r"(?:GLOBAL|Unsupported global:|Unsupported class) (\w+\.\S+)", said)
        known = {name for _, name in harmless}
        classes = [each for each in _unknown(path) if each not in known] or ([named[1]] if named else [])
        if classes or path.read_bytes().startswith(b"\x80"):  # as every pickle
            what = f"that would run code ({cut(', '.join(classes))})" if classes else "that torch.save did not write"
            raise ValueError(
                f"file: {path} is a pickle {what}, and is not loaded; save the state_dict alone: "
                "torch.save(model.state_dict(), FILE)"
            ) from None
        raise ValueError(f"file: {path} cannot be read as weights ({said[:200]})") from None


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, Mapping) else None


def _as_state(value: Any) -> Mapping[str, Any] | None:
    """Return the state dict that a value is, with the embedding of a transformer; it may be a list of pairs."""
    if isinstance(value, list | tuple) and all(isinstance(each, list | tuple) and len(each) == 2 for each in value):
        value = {name: tensor for name, tensor in value if isinstance(name, str)}
    if not isinstance(value, Mapping):
        return None
    named = (name for name in value if isinstance(name, str) and name.endswith(EMBEDDING))
    return value if any(isinstance(value[name], Tensor | list) for name in named) else None


def _described(content: Any) -> str:
    """Say what a file holds in place of weights."""
    if isinstance(content, Tensor):
        return f"is one tensor of shape {tuple(content.shape)}"
    if not isinstance(content, Mapping | list | tuple):
        return f"is a {type(content).__name__}"
    if isinstance(content, Mapping):
        names = cut(", ".join(map(str, content))) or "nothing"
        return f"has {names}, and no tensor named {EMBEDDING}"
    kinds = sorted({type(each).__name__ for each in content})
    return f"is a list of {len(content)} ({', '.join(kinds)})"


def _unprefixed(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return tensors by TransformerLens's names, without what stands before all of them, such as ``module.``."""
    before = next(name for name in state if str(name).endswith(EMBEDDING)).removesuffix(EMBEDDING)
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        tensor = value
        if isinstance(value, list):
            try:
                tensor = torch.tensor(value, dtype=torch.float32)
            except (TypeError, ValueError):
                raise ValueError(f"file: {name} is a list, and not one of numbers") from None
        if isinstance(tensor, Tensor):
            found[str(name).removeprefix(before)] = tensor
    return found


def is_lens_config_file(path: Path) -> bool:
    """Return whether a file is a configuration of TransformerLens, and not one of Hugging Face's transformers."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return is_config(values) and not {"model_type", "architectures"} & set(values)


def read_config_file(given: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Read a configuration of TransformerLens: a dictionary, JSON, or a file of JSON or of torch.

    Raises:
        ValueError: what is none.
    """
    values: Any = given
    if not isinstance(given, Mapping):
        text = str(given)
        if not text.lstrip().startswith("{"):
            path = Path(text).expanduser()
            if path.suffix in SUFFIXES:
                values = _values(_load(path))
                values = next((c for each in CONFIGS if is_config(c := _values(_get(values, each)))), values)
            else:
                try:
                    text = path.read_text(encoding="utf-8")
                except (OSError, UnicodeDecodeError) as error:
                    raise ValueError(f"config: {given} cannot be read ({error})") from None
        if values is given:
            try:
                values = json.loads(text)
            except ValueError as error:
                raise ValueError(f"config: {shown(str(given))} is not JSON ({error})") from None
    if not is_config(values):
        raise ValueError(f"config: {shown(str(given))} holds no configuration of a network")
    return read_config(values)
