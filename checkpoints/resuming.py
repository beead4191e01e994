"""The checks of resume.ckpt: a run goes on only from what it was at its last kept step."""

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from headway.checkpoints.run import Run
from headway.models.hooked_transformer import HookedTransformer
from headway.models.optim import OptimConfig, grouped

# What Lightning needs to go on, each with its type.
NEEDED = {
    "recipe": dict,
    "global_step": int,
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "pytorch-lightning_version": str,
}


def check_state_file(run: Run, file: Path) -> int:
    """The step of a whole checkpoint of Lightning, which is of this recipe and has the weights that the run has kept.

    Raises:
        ValueError: a file that is damaged or altered, or does not belong to the run.
    """
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        for name, kind in NEEDED.items():
            if type(checkpoint[name]) is not kind and not (kind is dict and isinstance(checkpoint[name], dict)):
                raise TypeError(f"{name} is a {type(checkpoint[name]).__name__}")
        _check_parts(checkpoint)
        step = checkpoint["global_step"]
        # Files of older runs have no digest.
        whole = checkpoint.get("digest", "") in ("", digest(checkpoint))
        for optimizer in checkpoint["optimizer_states"]:
            whole &= step == 0 or len(optimizer["state"]) == sum(len(g["params"]) for g in optimizer["param_groups"])
        whole &= len(checkpoint["optimizer_states"]) == len(checkpoint["lr_schedulers"]) == 1
    except Exception as error:  # torch raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _refused(run, f"{file} is damaged ({reason})") from None
    if not whole:
        raise _refused(run, f"{file} was altered")
    then, now = checkpoint["recipe"], run.config
    changed = [f"{part} was {then.get(part)}" for part in now if then.get(part) != now[part]]
    if changed:
        raise ValueError(
            f"resume: a run must resume with the recipe it started with, but config.yaml has changed: "
            f"{', '.join(changed)}; undo the change or train a new run"
        )
    if step in run.steps:
        kept = run.model(step).state_dict()
        ours = {name.removeprefix("model."): value.float() for name, value in checkpoint["state_dict"].items()}
        if not _equal(ours, kept):
            raise _refused(run, f"{file} has other weights than {run.weights_file(step)}")
        if unlike := _unlike_its_step(checkpoint, now):
            raise _refused(run, f"{file} was altered ({unlike})")
    return step


def check_resume_file(run: Run) -> int | None:
    """The step from which a run goes on; None for one that has kept nothing and begins.

    The file must be whole, of this recipe, of the last kept step or the one before (a run that died between two files
    has written the weights of a step and nothing else), and its weights must be those that the run has kept of that
    step.

    Raises:
        ValueError: a file that is missing, damaged or altered, or does not belong to what the run has kept.
    """
    file, steps = run.resume_file, run.steps
    if not file.exists():
        # One that died at its first checkpoint has the initial weights alone, which its recipe gives again.
        if steps and not (steps == [0] and _is_initial(run)):
            raise _refused(run, f"{file} is missing, and the run has kept step {steps[-1]}")
        return None
    step = check_state_file(run, file)
    if step not in steps[-2:]:
        raise _refused(run, f"{file} is of step {step}, but the run has kept step {steps[-1] if steps else 'none'}")
    lost = [at for at in run.recipe.schedule.steps(run.recipe.steps) if at <= step and at not in steps]
    if lost:
        raise _refused(run, f"the weights of step {', '.join(map(str, lost))} are missing")
    return step


def _check_parts(checkpoint: dict[str, Any]) -> None:
    """Raise an error for parts of the right type that Lightning cannot go on from."""
    if not re.match(r"[0-9]+\.[0-9]+", checkpoint["pytorch-lightning_version"]):
        raise ValueError(f"pytorch-lightning_version is {checkpoint['pytorch-lightning_version']!r}")
    if "fit_loop" not in checkpoint["loops"]:
        raise KeyError("fit_loop")
    for scheduler in checkpoint["lr_schedulers"]:
        int(scheduler["last_epoch"])
        [float(lr) for lr in scheduler["base_lrs"]]
    loops = checkpoint["loops"]["fit_loop"]
    int(loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"])
    int(loops["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"])
    for name in ("completed", "ready"):
        int(loops["epoch_loop.batch_progress"]["current"][name])
    # The optimiser numbers the weights in the order of its groups.
    weights = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
    groups = grouped(weights, checkpoint["recipe"]["optim"].get("groups", {}))
    shapes = [weights[name].shape for names in groups.values() for name in names]
    for optimizer in checkpoint["optimizer_states"]:
        if len(optimizer["param_groups"]) != len(groups):
            raise ValueError(f"its optimizer has {len(optimizer['param_groups'])} groups of weights")
        for group in optimizer["param_groups"]:
            float(group["lr"])
        for number, state in optimizer["state"].items():
            for name, value in state.items():
                if torch.is_tensor(value) and value.ndim > 0 and value.shape != shapes[number]:
                    raise ValueError(f"{name} of weight {number} has the shape {tuple(value.shape)}")


def _unlike_its_step(checkpoint: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """Say what in a checkpoint is not as the recipe has it at its step; nothing if all is.

    A digest says more, but files of older runs have none, and whoever alters a file may write another.
    """
    step, (optimizer,) = checkpoint["global_step"], checkpoint["optimizer_states"]
    # With 16-mixed some updates are left out.
    made = {float(state["step"]) for state in optimizer["state"].values() if "step" in state}
    if recipe["trainer"]["precision"] != "16-mixed" and made - {float(step)}:
        return f"its optimizer has made {max(made):g} updates"
    loops = checkpoint["loops"]["fit_loop"]
    # Those of a stack, and of earlier versions, are Lightning's own.
    automatic = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    ours = loops["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"]
    blocks = loops["epoch_loop.batch_progress"]["current"]
    if step not in (automatic, ours) or not 0 <= blocks["completed"] <= blocks["ready"] <= step:
        return "its loops are of another step"
    return _unlike_its_options(checkpoint, OptimConfig(**recipe["optim"]), recipe["steps"])


def _unlike_its_options(checkpoint: Mapping[str, Any], optim: OptimConfig, steps: int) -> str:
    """Say which option of the optimiser, or which learning rate, is not the recipe's."""
    step, (schedule,), (optimizer,) = (checkpoint[key] for key in ("global_step", "lr_schedulers", "optimizer_states"))
    names = [name.removeprefix("model.") for name in checkpoint["state_dict"]]
    own = [
        {"lr": optim.lr, "weight_decay": optim.weight_decay, **optim.groups.get(pattern, {})}
        for pattern in grouped(names, optim.groups)
    ]
    if [schedule["last_epoch"], *schedule["base_lrs"]] != [step, *(options["lr"] for options in own)]:
        return f"its learning rate is that of step {schedule['last_epoch']}"
    for group, options in zip(optimizer["param_groups"], own, strict=True):
        lr = options.pop("lr") * optim.factor(step, steps)
        if not math.isclose(group["lr"], lr, rel_tol=1e-6, abs_tol=1e-12):
            return f"its learning rate is {group['lr']:g}"
        for name, value in {**options, "betas": tuple(optim.betas), "momentum": optim.momentum}.items():
            given = group.get(name, value)
            if (tuple(given) if name == "betas" else given) != value:
                return f"its {name} is {given}"
    return ""


def _is_initial(run: Run) -> bool:
    """Return whether the weights of step 0 are those with which the recipe begins."""
    kept, initial = run.model(0), HookedTransformer(run.recipe.model, seed=run.recipe.seed)
    return _equal({name: value.float() for name, value in initial.state_dict().items()}, kept.state_dict())


def _equal(weights: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> bool:
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def digest(checkpoint: Any) -> str:
    """SHA-256 over everything in a checkpoint but its own entry ``digest``.

    Example:
        >>> digest({"lr": 0.1, "w": torch.ones(2)}) == digest({"w": torch.ones(2), "lr": 0.1, "digest": "any"})
        True
        >>> digest({"lr": 0.1}) == digest({"lr": 0.2})
        False
    """
    found = hashlib.sha256()

    def add(value: Any) -> None:
        found.update(type(value).__name__.encode() if isinstance(value, list | tuple) else b"")
        if isinstance(value, torch.Tensor):
            found.update(f"{value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            for name in sorted(value, key=repr):
                found.update(repr(name).encode())
                add(value[name])
        elif isinstance(value, list | tuple):
            for each in value:
                add(each)
        else:
            found.update(repr(value).encode())

    add({name: value for name, value in checkpoint.items() if name != "digest"})
    return found.hexdigest()


def _refused(run: Run, reason: str) -> ValueError:
    again = f"headway train --config {run.path / 'config.yaml'} --out DIRECTORY"
    return ValueError(f"resume: {reason}, so it cannot go on; its checkpoints stay; {again} trains it again")
