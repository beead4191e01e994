"""Files of weights: one safetensors file for each checkpoint, which says of which step it is, and hashes what it holds.

The label of a file stands in its metadata, so that a file that was renamed, or whose weights were replaced, is known
for one. ``headway audit`` compares labels with names, contents, scores and config.yaml.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import nn

# The one entry of the metadata, because the order of several is another in each process.
LABEL = "checkpoint"


class Label(NamedTuple):
    """The label of a file of weights: its step, and the hashes of its weights and of the run's config.yaml."""

    step: int
    weights: str
    config: str


def arrays_of(model: "nn.Module") -> dict[str, np.ndarray]:
    """Return the weights of a network as they are kept: float32, by name."""
    return {name: value.detach().float().cpu().contiguous().numpy() for name, value in model.state_dict().items()}


def hash_of(weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the names, shapes and float32 numbers of weights.

    Example:
        >>> hash_of({"W": np.zeros(3), "b": np.ones(2)}) == hash_of({"b": np.ones(2), "W": np.zeros(3)})
        True
        >>> hash_of({"W": np.zeros(6)}) == hash_of({"W": np.zeros((2, 3))})
        False
    """
    names = sorted(weights)
    found = hashlib.sha256(json.dumps([(name, weights[name].shape) for name in names]).encode())
    for name in names:
        found.update(np.ascontiguousarray(weights[name], "<f4").tobytes())
    return found.hexdigest()


def hash_of_config(config: Mapping[str, Any]) -> str:
    """SHA-256 over the values of a config.yaml, whatever their order, without the schedule of its checkpoints.

    No weight depends on the schedule, so that a checkpoint of a denser one has the same bytes.

    Example:
        >>> hash_of_config({"seed": 0, "schedule": {"log": 3}}) == hash_of_config({"schedule": {"log": 5}, "seed": 0})
        True
    """
    values = {name: value for name, value in config.items() if name != "schedule"}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def content_of(weights: Mapping[str, np.ndarray], step: int, config: Mapping[str, Any]) -> bytes:
    """Return the content of a file of weights, with its label."""
    import safetensors.numpy

    label = Label(step, hash_of(weights), hash_of_config(config))
    return safetensors.numpy.save(dict(weights), {LABEL: json.dumps(label._asdict())})


def read_label(path: Path) -> Label | None:
    """Read the label of a file of weights; None for a file of an older Headway, which has none.

    Raises:
        ValueError: a file that is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(LABEL)
        return None if text is None else Label(**json.loads(text))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"weights: {path} is damaged ({error})") from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the weights of a file by name.

    Raises:
        ValueError: a file that is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"weights: {path} is damaged ({error})") from None
