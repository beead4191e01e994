"""Facts on a run that a page states at its end: task, network, training, versions, and how long it took."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from importlib.metadata import metadata
from shlex import quote
from typing import Any

from headway.checkpoints import Run
from headway.checkpoints.duration import training_seconds
from headway.checkpoints.files import CONFIG, ENVIRONMENT
from headway.models.config import ModelConfig

Facts = list[tuple[str, str]]
# Names of packages in environment.json, in the order in which a page has them.
PACKAGES = ("python", "torch", "lightning", "transformer_lens", "numpy")
# A fact that came from somebody else may be of any length.
LONGEST = 400
_ABSENT = object()
# Options of a network that a page gives in words.
_NAMED = ("d_mlp", "act_fn", "attn_only", "positional_embedding_type", "normalization_type")


def about_run(run: Run) -> Facts:
    """Return the task's class with its options, the network, the optimiser, versions, hardware and duration."""
    config = run.config
    task = dict(config["task"])
    name = str(task.pop("class")).rpartition(":")[2]
    options = ", ".join(f"{option} {value}" for option, value in task.items())
    took, path = training_seconds(run.path), quote(str(run.path / CONFIG))
    if run.imported is None:
        training = [
            ("training", f"{config['steps']} steps of {config['batch_size']} sequences, seed {config['seed']}"),
            ("optimiser", _optimiser(config["optim"])),
        ]
    else:
        training = [(name, text[:LONGEST]) for name, text in _imported(run.imported)]
    return [
        ("task", f"{name}: {options}" if options else name),
        ("network", _network(ModelConfig(**config["model"]))),
        *training,
        ("scored on", f"{config['eval_batch_size']} sequences, evaluation seed {config['eval_seed']}"),
        *([] if (began := _began(run)) is None else [("date", f"{began:%Y-%m-%d %H:%M} UTC")]),
        *([] if took is None else [("duration", f"{duration_text(took)} from the first update to the last")]),
        *_environment(run),
        *([] if run.imported else [("to repeat", f"headway train --config {path} --out runs/again")]),
        ("to cite", citation(_recorded(run).get("commit"))),
    ]


def citation(commit: str | None = None) -> str:
    """Return how to cite Headway: as CITATION.cff has it, with the commit that made a run, if that is known.

    Example:
        >>> citation("0f1e2d").endswith(", commit 0f1e2d.")
        True
    """
    about = metadata("headway")
    title = about["Summary"].rstrip(".")
    version = f"version {about['Version']}" + (f", commit {commit}" if commit else "")
    return f"The Headway developers. Headway: {title[0].lower()}{title[1:]}; {version}."


def _began(run: Run) -> datetime | None:
    """Return when a training began: TensorBoard's files have the second in their names."""
    names = (path.name.split(".") for path in run.path.glob("events.out.tfevents.*"))
    seconds = [int(parts[3]) for parts in names if len(parts) > 3 and parts[3].isdecimal() and len(parts[3]) < 12]
    return datetime.fromtimestamp(min(seconds), UTC) if seconds else None


def _imported(about: Mapping[str, Any]) -> Facts:
    """Return the files of an imported run, and what was given and assumed of its network."""
    sources = about.get("sources")
    facts = [("imported from", ", ".join(map(str, sources.values())) if isinstance(sources, dict) else "")]
    for name in ("given", "assumed"):
        values = about.get(name)
        if isinstance(values, dict) and values:
            facts.append((name, ", ".join(f"{option} {value}" for option, value in values.items())))
    return facts


def about_runs(runs: Sequence[Run]) -> Facts:
    """Return what all of several runs share of their options, by section, their versions, and their durations."""
    flat = options_of(runs)
    shared = {name: value for name, value in flat[0].items() if all(each.get(name, _ABSENT) == value for each in flat)}
    sections: dict[str, list[str]] = {}
    for name, value in shared.items():
        section, _, option = name.rpartition(".")
        text = str(value).rpartition(":")[2] if name == "task.class" else f"{option} {value}"
        sections.setdefault(section.partition(".")[0] or "training", []).append(text)
    facts = [(section, ", ".join(texts)) for section, texts in sections.items()]
    counts = sorted({parameters(ModelConfig(**run.config["model"])) for run in runs})
    facts.append(("parameters", " to ".join(dict.fromkeys(f"{count:,}" for count in (counts[0], counts[-1])))))
    took = sorted(seconds for run in runs if (seconds := training_seconds(run.path)) is not None)
    if took:
        ends = " to ".join(dict.fromkeys(duration_text(seconds) for seconds in (took[0], took[-1])))
        facts.append(("duration", f"{ends} each from the first update to the last, {duration_text(sum(took))} in all"))
    for fact, texts in _together([_environment(run) for run in runs]).items():
        facts.append((fact, "; ".join(texts)))
    return facts


def options_of(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the options of each run, called as on the command line.

    Where a run was trained before an option existed, it has the default, unless its task's code is not known.
    """
    found = [flat_options(run.config) for run in runs]
    if all(each.keys() == found[0].keys() for each in found):
        return found
    return [flat_options(_with_defaults(run)) for run in runs]


def _with_defaults(run: Run) -> dict[str, Any]:
    try:
        return run.recipe.to_dict()
    except ValueError:
        return run.config


def flat_options(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the options of config.yaml, called as on the command line.

    Example:
        >>> flat_options({"seed": 3, "optim": {"lr": 0.1}})
        {'seed': 3, 'optim.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flat_options(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def parameters(model: ModelConfig) -> int:
    """Return the number of trained numbers of a network.

    Example:
        >>> parameters(ModelConfig(n_layers=1, d_model=5, n_ctx=7, d_head=3, n_heads=2, d_vocab=11, attn_only=True))
        319
    """
    return sum(math.prod(shape) for _, shape in model.weight_shapes())


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units.

    Example:
        >>> duration_text(7.4), duration_text(75), duration_text(7322)
        ('7 s', '1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _network(model: ModelConfig) -> str:
    mlp = "attention only" if model.attn_only else f"d_mlp {model.d_mlp} ({model.act_fn})"
    other = model.d_vocab_out != model.d_vocab
    outputs = f"d_vocab {model.d_vocab}, d_vocab_out {model.d_vocab_out}, " if other else ""
    layers = "1 layer" if model.n_layers == 1 else f"{model.n_layers} layers"
    return (
        f"{layers} of {model.n_heads} heads, d_model {model.d_model}, d_head {model.d_head}, {mlp}, "
        f"{outputs}positions {model.positional_embedding_type}, normalization {model.normalization_type}, "
        + "".join(f"{name} {value}, " for name, value in _unusual(model).items())
        + f"{parameters(model):,} parameters"
    )


def _unusual(model: ModelConfig) -> dict[str, Any]:
    """Return the options of a network that are not at their default, and that the sentence about it does not name."""
    usual = {f.name: f.default for f in fields(ModelConfig) if f.init and f.default is not MISSING}
    given = model.as_given()
    return {name: given[name] for name in usual if name not in _NAMED and given[name] != usual[name]}


def _optimiser(optim: Mapping[str, Any]) -> str:
    name = optim.get("optimizer")
    own = f"momentum {optim.get('momentum')}" if name == "SGD" else f"betas {optim.get('betas')}"
    clip = optim.get("max_grad_norm")
    return (
        f"{name}, learning rate {optim.get('lr')} (warm-up over {optim.get('warmup_steps')} steps, then "
        f"{optim.get('decay')}), {own}, weight decay {optim.get('weight_decay')}, "
        + ("gradients not clipped" if clip is None else f"gradients clipped at a norm of {clip}")
        + "".join(f", {pattern} with {_of_group(options)}" for pattern, options in optim.get("groups", {}).items())
        + (f", each batch in {optim['accumulate']} parts" if optim.get("accumulate", 1) > 1 else "")
    )


def _of_group(options: Mapping[str, float]) -> str:
    names = {"lr": "learning rate", "weight_decay": "weight decay"}
    return " and ".join(f"{names.get(name, name)} {value}" for name, value in options.items())


def _recorded(run: Run) -> dict[str, Any]:
    """Return what environment.json says; nothing if it is damaged, since no number depends on it."""
    try:
        stored = json.loads((run.path / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _environment(run: Run) -> Facts:
    """Return versions, hardware and command as a page has them."""
    if not (stored := _recorded(run)):
        return []
    commit = stored.get("commit")
    headway = f"headway {stored.get('headway')}" + (f", commit {commit}" if commit else "")
    others = ", ".join(f"{name} {stored[name]}" for name in PACKAGES if name in stored)
    machine = [str(stored[name]) for name in ("machine", "gpu") if stored.get(name)]
    machine += [f"{name} {stored[name]}" for name in ("processors", "threads") if name in stored]
    command = stored.get("command")
    called = " ".join(map(str, command[1:])) if isinstance(command, list) else ""
    facts = [("version", headway), ("packages", others), ("machine", ", ".join(machine)), ("command", called)]
    return [(name, text[:LONGEST]) for name, text in facts if text]


def _together(all_facts: Sequence[Facts], most: int = 3) -> dict[str, list[str]]:
    """Return the different texts of each fact, the first few of them."""
    found: dict[str, list[str]] = {}
    for facts in all_facts:
        for name, text in facts:
            if text not in found.setdefault(name, []):
                found[name].append(text)
    return {
        name: texts if len(texts) <= most else [*texts[:most], f"{len(texts) - most} others"]
        for name, texts in found.items()
    }
