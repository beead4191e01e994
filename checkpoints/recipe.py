"""Recipe: everything that determines a run. A run's config.yaml is one, resolved."""

import importlib
import pkgutil
from argparse import SUPPRESS
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from inspect import isabstract
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from jsonargparse import ActionYesNo, ArgumentParser, Namespace

import headway.data
from headway.checkpoints.config import ADDED_LATER, MOST, VERSION, check_version, read_values
from headway.checkpoints.imports import imported, is_loaded
from headway.checkpoints.schedule import Schedule
from headway.data.seeds import check_seed
from headway.data.task import Task
from headway.models.config import ModelConfig
from headway.models.optim import OptimConfig, grouped
from headway.options import nearest, parse


@dataclass(frozen=True)
class TrainerConfig:
    """Precision and hardware of Lightning's Trainer.

    Args:
        precision: float32 by default; mixed precision is for hardware that has it. Kept weights are float32 always.
        accelerator: Lightning's name of the hardware.
        devices: Number of devices, or of processes on a CPU, that take equal parts of each batch. A toy trains on one.
        threads: CPU threads for arithmetic; null chooses by the size of a step, one for each GFLOP of it, and never
            more than torch has. Another number rounds differently.

    Raises:
        ValueError: fewer than one thread or device.
    """

    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.devices <= 1024:
            raise ValueError(f"devices: {self.devices} is not valid; it must be from 1 to 1024")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ValueError(f"threads: {self.threads} is not valid; it must be from 1 to 1024, or null")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines a run: task, network, optimiser, checkpoints, hardware, length and seeds.

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
        compile: Compile the training forward pass (torch.compile); analysis uses the same weights uncompiled.

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
    compile: bool = False

    parts: ClassVar = {"model": ModelConfig, "optim": OptimConfig, "schedule": Schedule, "trainer": TrainerConfig}

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_batch_size"):
            if not 1 <= getattr(self, name) <= MOST:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be 1 or more, up to {MOST}")
        for f in fields(self.task):
            if not f.init or is_dataclass(getattr(self.task, f.name)):
                raise ValueError(f"task.{f.name}: no option can set it; a task's fields are numbers, text or lists")
        if self.batch_size < self.trainer.devices:
            raise ValueError(
                f"trainer.devices: {self.trainer.devices} is not valid; they share out {self.batch_size} sequences"
            )
        parts = self.trainer.devices * self.optim.accumulate
        if self.batch_size < parts:
            raise ValueError(
                f"optim.accumulate: {self.optim.accumulate} is not valid; it must leave each of {parts} parts some of "
                f"{self.batch_size} sequences"
            )
        if self.optim.groups:  # a network that is too large to build has too many names to go through
            try:
                grouped((name for name, _ in self.model.weight_shapes()), self.optim.groups)
            except ValueError as error:
                raise ValueError(f"optim.{error}") from None
        for name in ("seed", "eval_seed"):
            check_seed(name, getattr(self, name))
        self.schedule.steps(self.steps)
        task, model = self.task, self.model
        if model.input_type != task.input_type:
            raise ValueError(f"model.input_type: {model.input_type!r} is not valid; the task has {task.input_type}")
        if task.input_type == "vectors" and model.d_vocab != task.d_vocab:
            raise ValueError(f"model.d_vocab: {model.d_vocab} is not valid; the task's vectors have {task.d_vocab}")
        for name, have, needed in (
            ("model.n_ctx", model.n_ctx, task.n_ctx),
            ("model.d_vocab", model.d_vocab, task.d_vocab),
            ("model.d_vocab_out", model.d_vocab_out, task.d_vocab_out),
        ):
            if have < needed:
                raise ValueError(f"{name}: {have} is too small; the task needs {needed}")
        if task.n_sequences is not None:
            for name, which, most in (
                ("batch_size", "to train on", task.n_sequences.training),
                ("eval_batch_size", "held out", task.n_sequences.held_out),
            ):
                if getattr(self, name) > most:
                    raise ValueError(
                        f"{name}: {getattr(self, name)} is not valid; the task has only {most} sequences {which}"
                    )

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what config.yaml holds, and what ``from_dict`` takes."""
        return {
            "version": VERSION,
            "task": {"class": import_path(type(self.task)), **asdict(self.task)},
            "model": self.model.to_dict(),
            "optim": {**asdict(self.optim), "betas": list(self.optim.betas)},
            "schedule": {**asdict(self.schedule), "at": list(self.schedule.at)},
            "trainer": asdict(self.trainer),
            **{f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("task", *self.parts)},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], task: type[Task] | None = None, trust: bool = False) -> "Recipe":
        """The inverse of ``to_dict``.

        Args:
            values: The options. A recipe may come from somebody else, so the code that it names is imported only if
                it is a task of Headway, or is loaded already.
            task: The class of the task, in place of the one that the recipe names.
            trust: Import the class that the recipe names, whatever it is.

        Raises:
            ValueError: another version, an option that is unknown, missing, or of a wrong type, a task whose code would
                have to be imported.
        """
        check_version(values)
        values = {name: value for name, value in values.items() if name != "version"}
        options = values.pop("task", None)
        if not (isinstance(options, dict) and isinstance(options.get("class"), str)):
            raise ValueError("task.class: is missing; it must be package.module:Class")
        kind = _class_of(options["class"], trust) if task is None else task
        options = {name: value for name, value in options.items() if name != "class"}
        values = {"task": options, **values} if options else values
        parsed = parse(cls.parser(kind), values)
        later = {*ADDED_LATER, *(f"task.{name}" for name in kind.options_added_later)}
        expected = {f.name: values for f in fields(cls) if f.name not in ("task", *cls.parts)}
        for part, of_part in {"task": kind, **cls.parts}.items():
            expected |= {f"{part}.{f.name}": values.get(part, {}) for f in fields(of_part) if f.init}
        for name, given in expected.items():
            if name.rpartition(".")[2] not in given and name not in later:
                raise ValueError(f"{name}: is missing; a recipe in a file holds every option")
        return cls.from_options(kind, parsed)

    @classmethod
    def parser(cls, task: type[Task]) -> ArgumentParser:
        """The options of a recipe for this kind of task, of a command line and of config.yaml, which one may change."""
        return deepcopy(_parser(task))

    def defaults(self) -> dict[str, Any]:
        """This recipe as defaults of ``parser``: sizes that follow from others go on following them."""
        parts = {part: asdict(getattr(self, part)) for part in ("task", *self.parts)}
        parts["model"] = self.model.as_given()
        if self.task.d_vocab_out != self.task.d_vocab:
            outputs = self.model.d_vocab_out
            parts["model"]["d_vocab_out"] = -1 if outputs == self.task.d_vocab_out else outputs
        plain = {name: value for name, value in vars(self).items() if name not in parts}
        return plain | {f"{part}.{name}": value for part, options in parts.items() for name, value in options.items()}

    @property
    def sizes_of_task(self) -> list[str]:
        """The options of sizes that are the task's, and so change with it; d_vocab_out of -1 follows by itself.

        They are those of the network, and a batch of all sequences of a finite set.

        Example:
            >>> from headway.data.previous_token import PreviousToken
            >>> model = ModelConfig(n_layers=1, d_model=8, n_ctx=13, d_head=4, n_heads=2, d_vocab=17)
            >>> Recipe(task=PreviousToken(length=13, n_tokens=11), model=model).sizes_of_task
            ['model.n_ctx', 'model.input_type', 'model.attention_dir']
        """
        sizes = _sizes(self.task)
        return [name for name, size in sizes.items() if size in (None, attrgetter(name)(self))]

    @classmethod
    def from_options(cls, task: type[Task], options: Namespace, following: Collection[str] = ()) -> "Recipe":
        """The recipe that ``parser(task)`` has read, in which these of ``sizes_of_task`` are the task's."""
        values = {f.name: options.get(f.name, {}) for f in fields(cls)}
        for part, kind in {"task": task, **cls.parts}.items():
            if part == "model":
                for option, size in _sizes(values["task"]).items():
                    if option in following and size is not None:
                        owner, _, name = option.rpartition(".")
                        (values[owner] if owner else values)[name] = size
                if values["task"].d_vocab_out != values["task"].d_vocab and values[part].get("d_vocab_out", -1) == -1:
                    values[part]["d_vocab_out"] = values["task"].d_vocab_out
            try:
                values[part] = kind(**values[part])
            except ValueError as error:
                raise ValueError(f"{part}.{error}") from None
        return cls(**values)

    def changed(self, options: Mapping[str, Any]) -> "Recipe":
        """This recipe with other options, by the names that a command line has; the task stays of its kind.

        Sizes of the network that are the task's follow the task, unless they are given.

        Raises:
            ValueError: an option that does not exist, or a value that is not valid.

        Example:
            >>> from headway.recipes import RECIPES
            >>> RECIPES["induction"].changed({"model.n_layers": 1, "task.length": 31}).model.n_ctx
            31
        """
        nested: dict[str, Any] = {}
        for option, value in options.items():
            part, dot, name = str(option).partition(".")
            if dot:
                nested.setdefault(part, {})[name] = value
            elif option in ("task", *self.parts):
                raise ValueError(f"{option}: there is no such option; options of this part have a dot")
            else:
                nested[option] = value
        parser = self.parser(type(self.task))
        parser.set_defaults(self.defaults())
        following = set(self.sizes_of_task) - set(options)
        return self.from_options(type(self.task), parse(parser, nested), following)

    def to_yaml(self) -> str:
        """Return the text of config.yaml.

        Raises:
            ValueError: a recipe that would come back as another one.
        """
        try:
            text = yaml.safe_dump(self.to_dict(), sort_keys=False)
        except (yaml.YAMLError, TypeError) as error:
            raise ValueError(
                f"config: a value is not a number, text or list, and cannot be written ({error})"
            ) from None
        back = Recipe.from_dict(yaml.safe_load(text), trust=True)
        for f in fields(self):
            if getattr(back, f.name) != getattr(self, f.name):
                raise ValueError(f"{f.name}: {getattr(self, f.name)} comes back from a file as {getattr(back, f.name)}")
        return text

    def save(self, path: Path) -> None:
        """Write config.yaml."""
        path.write_text(self.to_yaml(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path, task: type[Task] | None = None, trust: bool = False) -> "Recipe":
        """Read config.yaml; ``task`` and ``trust`` as in ``from_dict``.

        Raises:
            ValueError: a file that is not there or holds no recipe, with the name of the file.
        """
        values = read_values(path)
        try:
            return cls.from_dict(values, task, trust)
        except ValueError as error:
            raise ValueError(f"config: {path}: {error}") from None


def check_direction(task: Task, model: ModelConfig) -> None:
    """Refuse a network whose attention has another direction than the task needs; older runs may have one."""
    if task.attention_dir not in (None, model.attention_dir):
        raise ValueError(
            f"model.attention_dir: {model.attention_dir!r} is not valid; {type(task).__name__} needs "
            f"{task.attention_dir} attention"
        )


def _sizes(task: Task) -> dict[str, Any]:
    """The options of a recipe that a task decides; None for one that it leaves open."""
    sizes = {f"model.{name}": getattr(task, name) for name in ("n_ctx", "d_vocab", "input_type", "attention_dir")}
    if task.n_sequences is None:
        return sizes
    return {**sizes, "batch_size": task.n_sequences.training, "eval_batch_size": task.n_sequences.held_out}


@cache
def _parser(task: type[Task]) -> ArgumentParser:
    """Build a parser, which takes ten times as long as to copy one: jsonargparse reads the docstrings."""
    parser = ArgumentParser(allow_abbrev=False, exit_on_error=False)
    for part, kind in {"task": task, **Recipe.parts}.items():
        if fields(kind):
            parser.add_class_arguments(kind, part)
            # jsonargparse's own way to give a whole part at once; ``parse`` refuses it.
            next(action for action in parser._actions if action.dest == part).help = SUPPRESS
    parser.add_class_arguments(Recipe, skip={"task", *Recipe.parts, "compile"})
    parser.add_argument("--compile", action=ActionYesNo, default=False, help="Compile the training forward pass.")
    return parser


def import_path(kind: type[Task]) -> str:
    """The name under which ``task_class`` finds a task again.

    Raises:
        ValueError: a class inside a function, which nothing can import.

    Example:
        >>> from headway.data.previous_token import PreviousToken
        >>> import_path(PreviousToken)
        'headway.data.previous_token:PreviousToken'
    """
    if "<locals>" in kind.__qualname__:
        raise ValueError(
            f"task: {kind.__qualname__} cannot be imported again; define the class outside of any function"
        )
    return f"{kind.__module__}:{kind.__qualname__}"


def task_class(path: str) -> type[Task]:
    """The Task that ``package.module:Class`` names.

    Raises:
        ValueError: nothing can be imported under this name, or it is no Task.

    Example:
        >>> task_class("headway.data.previous_token:PreviousToken").__name__
        'PreviousToken'
    """
    kind = imported("task", path, f"package.module:Class{nearest(path, _our_tasks())}")
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ValueError(f"task: {path!r} is not a headway.data.task.Task")
    if isabstract(kind):
        raise ValueError(f"task: {path!r} lacks {', '.join(sorted(kind.__abstractmethods__))}")
    return kind


def _class_of(path: str, trust: bool) -> type[Task]:
    """The class that a recipe names; a ValueError if that would run code which nobody has asked for."""
    if not (trust or path.startswith("headway.data.") or is_loaded(path)):
        raise ValueError(
            f"task: {path!r} is not a task of Headway, and its code is not run unasked; name the class yourself "
            f"(--task {path}, Run(..., task={path.rpartition(':')[2]})), or say --trust (trust=True)"
        )
    return task_class(path)


def _our_tasks() -> list[str]:
    """Import paths of the tasks in headway.data."""
    modules = [importlib.import_module(f"headway.data.{m.name}") for m in pkgutil.iter_modules(headway.data.__path__)]
    kinds = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    return [import_path(kind) for kind in kinds if issubclass(kind, Task) and not isabstract(kind)]
