"""config.yaml: what determines a run, as plain values, read without torch and without the task's code."""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from headway.checkpoints.files import read_yaml
from headway.models.config import ModelConfig
from headway.options import nearest, shown

# Of config.yaml. Another number means that its options have other names or meanings.
VERSION = 1
# Of steps, and of sequences in a batch.
MOST = 10**9
# Options that runs made before there were any do not have; every other option stands in every config.yaml.
ADDED_LATER = (
    "compile", "trainer.threads", "trainer.devices", "optim.optimizer", "optim.momentum", "model.dtype",
    "schedule.state_every", "model.use_attn_scale", "model.attn_scale", "model.biases", "model.init_mode",
    "model.rotary_dim", "model.rotary_base",
    "model.tie_word_embeddings", "model.embd_pdrop", "model.attn_pdrop", "model.resid_pdrop",
    "optim.groups", "optim.accumulate",
)  # fmt: skip
_KINDS = {
    "task": dict, "model": dict, "optim": dict, "schedule": dict, "trainer": dict,
    "steps": int, "batch_size": int, "seed": int, "eval_seed": int, "eval_batch_size": int,
}  # fmt: skip


def read_values(path: Path) -> dict[str, Any]:
    """The values of a config.yaml; a ValueError that names the file if it is not there or holds no recipe."""
    try:
        values = read_yaml(path)
    except OSError as error:
        raise ValueError(f"config: {path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"config: {path}{'' if str(error).startswith(':') else ' '}{error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"config: {path} holds no recipe")
    return values


def check_version(values: dict[str, Any]) -> None:
    """A ValueError if this Headway does not read a recipe of this version."""
    version = values.get("version")
    if type(version) is not int or version != VERSION:
        raise ValueError(f"version: {shown(version)} is not valid; this Headway reads version {VERSION}")


def read_config(path: Path) -> dict[str, Any]:
    """The values of a run's config.yaml, complete and with valid sizes of the network.

    The options of the task, the optimiser and the rest are not checked; ``Recipe.load`` does that.

    Raises:
        ValueError: a file that cannot be read, has another version, lacks a part, or is damaged.
    """
    values = read_values(path)
    try:
        check_version(values)
        for name, kind in _KINDS.items():
            if type(values.get(name)) is not kind:
                of_kind = "a whole number" if kind is int else "a mapping of options"
                raise ValueError(f"{name}: {shown(values.get(name))} is not valid; it must be {of_kind}")
        if not 1 <= values["steps"] <= MOST:
            raise ValueError(f"steps: {shown(values['steps'])} is not valid; it must be 1 or more, up to {MOST}")
        _check_model(values["model"])
    except ValueError as error:
        raise ValueError(f"config: {path}: {error}") from None
    return values


def _check_model(options: dict[str, Any]) -> None:
    """A ValueError if these are not the options of a ModelConfig, all its sizes among them."""
    known = {f.name: f for f in fields(ModelConfig) if f.init}
    for name in options:
        if name not in known:
            raise ValueError(f"model.{name}: there is no such option{nearest(str(name), known)}")
    for name in known:
        if name not in options and f"model.{name}" not in ADDED_LATER:
            raise ValueError(f"model.{name}: is missing; a recipe in a file holds every option")
    for name, f in known.items():
        value = options.get(name, None if f.default is MISSING else f.default)
        if f.type is int and type(value) is not int:
            raise ValueError(f"model.{name}: {value!r} is not valid; it must be a whole number")
    try:
        ModelConfig(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model.{error}") from None
