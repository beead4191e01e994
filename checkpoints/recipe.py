"""Recipe: everything that determines a run. A run's config.yaml is one, resolved."""

import importlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from headway.checkpoints.schedule import Schedule
from headway.data.task import Task
from headway.models.config import ModelConfig
from headway.models.optim import OptimConfig


@dataclass(frozen=True)
class TrainerConfig:
    """What Lightning's Trainer runs on.

    Args:
        precision: float32 by default; mixed precision is for hardware that has it. Kept weights are float32 always.
        accelerator: Lightning's name of the hardware: auto, cpu, gpu, mps.
    """

    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: str = "auto"


@dataclass(frozen=True)
class Recipe:
    """What is trained on what, how, for how long, from which seeds, and what is kept.

    Args:
        task: What the network is trained on.
        model: The network's sizes and kinds.
        optim: Optimiser, learning rate, clipping.
        schedule: Which steps are kept.
        trainer: Precision and hardware.
        steps: Number of updates.
        batch_size: Sequences in each update.
        seed: Seed of the initial weights and of the training data.
        eval_seed: Seed of the fixed evaluation batch.
        eval_batch_size: Sequences in the evaluation batch.

    Raises:
        ValueError: a number below its minimum, or a network that the task does not fit.
    """

    task: Task
    model: ModelConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: Schedule = field(default_factory=Schedule)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    steps: int = 1500
    batch_size: int = 64
    seed: int = 0
    eval_seed: int = 0
    eval_batch_size: int = 64

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("seed", 0), ("eval_seed", 0), ("eval_batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be {least} or more")
        task, model = self.task, self.model
        if model.input_type != task.input_type:
            raise ValueError(f"model.input_type: {model.input_type!r} is not valid; the task has {task.input_type}")
        if task.input_type == "vectors" and model.d_vocab != task.d_vocab:
            raise ValueError(f"model.d_vocab: {model.d_vocab} is not valid; the task's vectors have {task.d_vocab}")
        for name, have, needed in (
            ("model.n_ctx", model.n_ctx, task.n_ctx),
            ("model.d_vocab", model.d_vocab, task.d_vocab),
            ("model.d_vocab_out", model.d_vocab_out, task.d_vocab),
        ):
            if have < needed:
                raise ValueError(f"{name}: {have} is too small; the task needs {needed}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what config.yaml holds, and what ``from_dict`` takes."""
        kind = type(self.task)
        return {
            "task": {"class": f"{kind.__module__}:{kind.__qualname__}", **asdict(self.task)},
            "model": self.model.to_dict(),
            "optim": {**asdict(self.optim), "betas": list(self.optim.betas)},
            "schedule": {**asdict(self.schedule), "at": list(self.schedule.at)},
            "trainer": asdict(self.trainer),
            **{f.name: getattr(self, f.name) for f in fields(self)[5:]},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """The inverse of ``to_dict``; a ValueError that names a key which is unknown or missing."""
        values = dict(values)
        for part in ("task", "model", "optim", "schedule", "trainer"):
            if not isinstance(values.get(part, {}), dict):
                raise ValueError(f"config: {part}: {values[part]!r} is not valid; it must be a mapping of options")
        try:
            task = _with_tuples(values.pop("task"))
            optim, schedule = _with_tuples(values.pop("optim", {})), _with_tuples(values.pop("schedule", {}))
            return cls(
                task=task_class(task.pop("class"))(**task),
                model=ModelConfig(**values.pop("model")),
                optim=OptimConfig(**optim),
                schedule=Schedule(**schedule),
                trainer=TrainerConfig(**values.pop("trainer", {})),
                **values,
            )
        except KeyError as missing:
            raise ValueError(f"config: {missing} is missing") from None
        except TypeError as error:
            raise ValueError(f"config: {error}") from None

    def save(self, path: Path) -> None:
        """Write config.yaml."""
        path.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False))

    @classmethod
    def load(cls, path: Path) -> "Recipe":
        """Read config.yaml; a ValueError if it is not there or not a recipe."""
        try:
            values = yaml.safe_load(path.read_text())
        except OSError as error:
            raise ValueError(f"config: {path} cannot be read ({error.strerror})") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise ValueError(f"config: {path} is not YAML") from None
        if not isinstance(values, dict):
            raise ValueError(f"config: {path} holds no recipe")
        return cls.from_dict(values)


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """YAML has lists where the dataclasses have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def task_class(path: str) -> type[Task]:
    """The Task that ``package.module:Class`` names.

    Example:
        >>> task_class("headway.data.previous_token:PreviousToken").__name__
        'PreviousToken'
    """
    module_name, _, name = path.partition(":")
    try:
        kind = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"task: {path!r} cannot be imported ({error}); it must be package.module:Class") from None
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ValueError(f"task: {path!r} is not a headway.data.task.Task")
    return kind
