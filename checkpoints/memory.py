"""The memory that a run needs, from the sizes in its recipe, so that it is said before anything is built or drawn."""

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import replace

from headway.checkpoints.recipe import Recipe, TrainerConfig
from headway.data.task import Task
from headway.models.config import ModelConfig

FLOAT, TOKEN = 4, 8  # bytes
SAID = 2**30  # bytes from which a need is announced


def check_memory(recipe: Recipe, members: int = 1) -> None:
    """Refuse a run that needs more memory than is there; announce one that needs much.

    Everything counts whose size an option decides: the network, a batch to train on, the evaluation batch. Each is a
    little less than what is used, so that nothing is refused that fits.

    Args:
        recipe: The run.
        members: How many of its networks are trained at once.

    Raises:
        ValueError: the network, a batch to train on or the evaluation batch is too large.
    """
    there, owner = _memory(recipe.trainer)
    for what, needed, doing in _needs(recipe, members):
        said = f"{what} need about {needed / 2**30:,.1f} GiB to {doing}"
        if needed > there:
            raise ValueError(f"{said}; {owner} has {there / 2**30:,.1f}")
        if needed > SAID:
            print(said, file=sys.stderr)


def check_drawn(name: str, sequences: int, task: Task) -> None:
    """Refuse a number of sequences, the option ``name``, that this machine's memory does not hold.

    Raises:
        ValueError: there are too many.
    """
    _check_sequences(name, sequences, task.n_ctx, bytes_drawn(task))


def check_scored(name: str, sequences: int, positions: int, model: ModelConfig) -> None:
    """Refuse a number of sequences, the option ``name``, whose forward pass this machine's memory does not hold.

    Raises:
        ValueError: there are too many.
    """
    _check_sequences(name, sequences, positions, bytes_scored(positions, model))


def bytes_of_network(model: ModelConfig) -> int:
    """Return what training holds of a network, some 100 kB of Python for the modules of each layer included.

    Each weight is four numbers: the weight, its gradient, and two moments of Adam.

    Example:
        >>> bytes_of_network(ModelConfig(n_layers=1, d_model=5, n_ctx=7, d_head=3, n_heads=2, d_vocab=11)) - 100_000
        8864
    """
    tables = model.n_ctx * (model.rotary_dim or model.d_head) if model.positional_embedding_type == "rotary" else 0
    return 4 * FLOAT * n_parameters(model) + model.n_layers * (FLOAT * tables + 100_000)


def n_parameters(model: ModelConfig) -> int:
    """Return the number of all weights of a network, which need not be built, however many layers it has.

    Example:
        >>> n_parameters(ModelConfig(n_layers=1, d_model=5, n_ctx=7, d_head=3, n_heads=2, d_vocab=11))
        554
    """
    one = {name: math.prod(shape) for name, shape in replace(model, n_layers=1).weight_shapes()}
    block = sum(size for name, size in one.items() if name.startswith("blocks."))
    return sum(one.values()) + (model.n_layers - 1) * block


def bytes_drawn(task: Task) -> int:
    """Return what the inputs and targets of one sequence of a task take.

    Example:
        >>> from headway.data.previous_token import PreviousToken
        >>> bytes_drawn(PreviousToken(length=7))
        119
    """
    inputs = FLOAT * task.d_vocab if task.input_type == "vectors" else TOKEN
    return task.n_ctx * (inputs + TOKEN + 1)


def bytes_trained(task: Task, model: ModelConfig, precision: str) -> int:
    """Return what a training step keeps of one sequence for the backward pass.

    Each layer keeps its two inputs, queries, keys, values and their weighted sum, and its neurons before and after the
    activation; attention scores where no kernel computes them; then the outputs and their gradient.
    """
    positions, heads = task.n_ctx, model.n_heads
    layer = 2 * model.d_model + 4 * heads * model.d_head + (0 if model.attn_only else 2 * model.d_mlp)
    if model.positional_embedding_type == "relative" or model.attn_pdrop > 0:
        layer += 2 * heads * positions
    return positions * (
        (FLOAT if precision == "32-true" else FLOAT // 2) * model.n_layers * layer + 2 * FLOAT * model.d_vocab_out
    )


def bytes_scored(positions: int, model: ModelConfig) -> int:
    """Return what the forward pass that measures share holds of one sequence: scores and patterns of attention first.

    Beside them are the values of each head and their weighted sum, and four vectors of the residual stream.
    """
    layer = 2 * model.n_heads * (positions + model.d_head) + 4 * model.d_model
    return FLOAT * positions * (model.n_layers * layer + 2 * model.d_vocab_out)


def _needs(recipe: Recipe, members: int) -> Iterator[tuple[str, int, str]]:
    """Yield what a run holds: in words, its bytes, and what they are needed for."""
    task, model = recipe.task, recipe.model
    times = f"{members} times " if members > 1 else ""
    layers = "1 layer" if model.n_layers == 1 else f"{model.n_layers:,} layers"
    network = f"model: {times}{layers} with {n_parameters(model):,} parameters"
    yield network, members * bytes_of_network(model), "train"
    at_once = -(-recipe.batch_size // (recipe.optim.accumulate * recipe.trainer.devices))
    trained = recipe.batch_size * bytes_drawn(task) + at_once * bytes_trained(task, model, recipe.trainer.precision)
    scored = recipe.eval_batch_size * (bytes_drawn(task) + bytes_scored(task.n_ctx, model))
    # Members are scored one after another.
    for name, sequences, needed, doing in (
        ("batch_size", recipe.batch_size, members * trained, "train on"),
        ("eval_batch_size", recipe.eval_batch_size, scored, "score"),
    ):
        of_all = times if name == "batch_size" else ""
        yield f"{name}: {of_all}{sequences:,} sequences of {task.n_ctx:,} positions", needed, doing


def _check_sequences(name: str, sequences: int, positions: int, of_each: int) -> None:
    needed, there = sequences * of_each, _of_machine()
    if needed > there:
        raise ValueError(
            f"{name}: {sequences:,} sequences of {positions:,} positions need about {needed / 2**30:,.1f} GiB; "
            f"this machine has {there / 2**30:,.1f}"
        )


def _memory(trainer: TrainerConfig) -> tuple[float, str]:
    """Return the bytes of the device that trains, without end if nobody tells, and the words for their owner."""
    if trainer.accelerator not in ("cpu", "mps"):
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_properties(0).total_memory, "this GPU"
    return _of_machine(), "this machine"


def _of_machine() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        return math.inf
