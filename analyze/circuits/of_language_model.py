"""Circuits of language models: nodes that carry a behaviour, on sentences of a task in the tokens of the model."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.data.indirect_object import in_tokens
from headway.data.task import Task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# Tasks that exist in the tokens of any language model, by name.
LANGUAGE_TASKS: dict[str, Callable[[Any], Task]] = {"indirect-object": in_tokens}


def check_task(task: Any) -> None:
    """Refuse what is neither a task nor the name of one of LANGUAGE_TASKS."""
    if not isinstance(task, Task) and task not in LANGUAGE_TASKS:
        what = "is missing" if task is None else f"{task!r} is not valid"
        raise ValueError(f"task: {what}; a language model needs one of {', '.join(LANGUAGE_TASKS)}, or a Task")


def task_of(model: "TransformerBridge", task: Task | str) -> Task:
    """Return a task in the tokens of a language model.

    Raises:
        ValueError: a task with more tokens or longer sequences than the model takes.
    """
    if not isinstance(task, Task):
        task = LANGUAGE_TASKS[task](model.tokenizer)
    for name, has, takes in (("tokens", task.d_vocab, model.cfg.d_vocab), ("positions", task.n_ctx, model.cfg.n_ctx)):
        if has > takes:
            raise ValueError(f"task: {type(task).__name__} has {has} {name}; this model takes {takes}")
    return task


def model_circuit_file(folder: Path, task: Task, part: str | None, replacement: str) -> Path:
    """Return the path of the circuit of a language model in the model's directory."""
    return folder / "circuits" / f"{type(task).__name__}-{part or 'all'}-{replacement}.safetensors"
