"""Files of weights that other programs wrote, and configurations of TransformerLens beside them.

Nothing is unpickled, and every tensor comes to the CPU.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headway.models.lens_configs import is_config, read_config
from headway.options import cut, shown

# Suffixes of files of weights.
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# Every network has it.
EMBEDDING = "embed.W_E"


@dataclass(frozen=True)
class Source:
    """The tensors of one checkpoint by name, and where they come from.

    Args:
        name: The file, with the place in it.
        weights: Its tensors.
        config: The configuration beside them; empty if there is none.
        others: What else the file holds.
    """

    name: str
    weights: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def read_source(path: Path, key: str | None = None) -> list[Source]:
    """Read the checkpoints of one file: one state dict, or a list of them.

    Args:
        path: A file of torch or safetensors.
        key: The place of the weights in it, such as ``model`` or ``state.model``; they are looked for if None.

    Raises:
        ValueError: a file that cannot be read, would run code, or holds no weights of a transformer.
    """
    content = _load(path)
    if key is not None:
        found, place = content, ""
        for part in key.split("."):
            if isinstance(found, Sequence) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, Mapping) and part in found:
                found = found[part]
            else:
                inside = ", ".join(map(str, found)) if isinstance(found, Mapping) else "none"
                raise ValueError(f"key: {key!r} is not in {path}; {place or 'the file'} has {cut(inside)}")
            place = f"{place}.{part}".strip(".")
        places = {key: found}
    else:
        places = dict(_places(content))
        if len(places) > 1:
            raise ValueError(f"key: {path} holds weights at {cut(', '.join(places))}; give one of them as --key")
    nothing: Any = None
    where, found = next(iter(places.items()), ("", nothing))
    states = list(found) if _is_list_of_states(found) else [found]
    if not all(_is_state(state) for state in states):
        raise ValueError(f"file: {path} holds no weights of a transformer; it {_described(content)}")
    name = f"{path}[{where}]" if where else str(path)
    config = next((c for each in ("config", "cfg") if is_config(c := _get(content, each))), {})
    others = tuple(str(each) for each in content if str(each) not in where.split(".")) if where else ()
    return [
        Source(name if len(states) == 1 else f"{name}[{i}]", _unprefixed(state), config, others)
        for i, state in enumerate(states)
    ]


def _load(path: Path) -> Any:
    """Return what a file holds, on the CPU; nothing in it runs."""
    if not path.is_file():
        raise ValueError(f"file: {path} is no file")
    if path.stat().st_size == 0:
        raise ValueError(f"file: {path} is empty")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of the protocols of pickles
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        said = " ".join(str(error).split())
        unsafe = re.search(r"(?:GLOBAL|Unsupported global:|Unsupported class) (\S+)", said)
        if unsafe:
            what = f" ({unsafe[1]})"
            raise ValueError(
                f"file: {path} is a pickle that would run code{what}, and is not loaded; save the state_dict alone: "
                "torch.save(model.state_dict(), FILE)"
            ) from None
        raise ValueError(f"file: {path} cannot be read as weights ({said[:200]})") from None


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, Mapping) else None


def _is_state(value: Any) -> bool:
    """Return whether a value maps names to tensors, the embedding of a transformer among them."""
    return isinstance(value, Mapping) and any(
        isinstance(name, str) and name.endswith(EMBEDDING) and isinstance(tensor, Tensor | list)
        for name, tensor in value.items()
    )


def _is_list_of_states(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(_is_state(each) for each in value)


def _places(content: Any, place: str = "", depth: int = 3) -> Iterator[tuple[str, Any]]:
    """The places of state dicts; a list of them is one."""
    if _is_state(content) or _is_list_of_states(content):
        yield place, content
    elif isinstance(content, Mapping) and depth > 0:
        for name, inner in content.items():
            yield from _places(inner, f"{place}.{name}" if place else str(name), depth - 1)


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
                values = _load(path)
                values = next((c for each in ("config", "cfg") if is_config(c := _get(values, each))), values)
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
