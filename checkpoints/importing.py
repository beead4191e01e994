"""Import of checkpoints that another program made, as a finished run that every command takes."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from headway.checkpoints.exporting import CONFIG, EXPORT, WEIGHTS
from headway.checkpoints.files import holds_run, read_small, write_whole
from headway.checkpoints.lock import writing
from headway.checkpoints.recipe import Recipe, task_class
from headway.checkpoints.run import TOKENIZER, Run
from headway.checkpoints.schedule import Schedule
from headway.data.no_task import NoTask
from headway.data.task import Batch, Task, masked_mean
from headway.models.arguments import checked_int
from headway.models.config import ModelConfig
from headway.models.convert import Model, boot_bridge, is_bridge, is_lens_network, network_of_bridge, network_of_lens
from headway.models.file_names import SUFFIXES, NamedStep, in_order_of_numbers, step_in_name
from headway.models.hooked_transformer import HookedTransformer
from headway.models.layouts import in_layout
from headway.models.lens_configs import read_config
from headway.models.state_dicts import UNKNOWN_INITIALISER, Provenance, knows_initialiser, network_of
from headway.models.weight_files import (
    NoWeightsError,
    Source,
    is_lens_config_file,
    read_config_file,
    read_source,
    sources_in,
)
from headway.options import nearest, shown

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# From the surest to the least sure.
_UNITS = ("step", "epoch", "checkpoint", "number")
EXPECTED = ("accuracy", "loss")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint that is imported: its tensors, its step, and the unit of that; "" if nothing says the step."""

    step: int
    unit: str
    source: Source


def import_run(
    source: str | Path | Sequence[str | Path] | Model | Mapping[Any, Any] | Sequence[Any],
    out: str | Path,
    steps: Sequence[int] | None = None,
    task: Task | type[Task] | str | None = None,
    config: Mapping[str, Any] | str | Path | None = None,
    model: Mapping[str, Any] | None = None,
    key: str | None = None,
    layout: str = "transformer_lens",
    tokenizer: str | Path | None = None,
    expect: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> Run:
    """Make a finished run of checkpoints that another program made, and return it.

    ``Run.imported`` says what was read from the files, what was given, what was **assumed**, what was dropped, and with
    a task the loss and the accuracy of each checkpoint beside the baselines. Files are read with ``weights_only`` and
    on the CPU.

    Args:
        source: A file of weights (.pt, .pth, .bin, .ckpt or .safetensors) by TransformerLens's names, several of them,
            each a checkpoint, or a folder of such files or of folders with one; a HookedTransformer, of Headway or of
            TransformerLens 3, a TransformerBridge, or a state dict; several of these in a list, or by their steps; or a
            language model: a folder of ``save_pretrained``, a folder of several, or a name on the hub, whose revisions
            are steps. What ``export_run`` wrote, in folders or on the hub, comes back with its steps and its tokenizer.
        out: Directory of the run.
        steps: The step of each checkpoint, of a folder in the order of the numbers in names; if None, that which its
            name or the file says. Of a name on the hub, the revisions to take.
        task: The task that the network was trained on, or its class; without one, measures of weights work, and
            batches of your own in Python.
        config: A configuration of TransformerLens: a dictionary, JSON, or a file; if None, that in the file, or the
            config.json beside it.
        model: Options of the network that are not in the file, such as ``{"act_fn": "gelu"}``.
        key: The place of the weights in a file that holds more.
        layout: One of ``headway.models.layouts.LAYOUTS``.
        tokenizer: A file tokenizer.json.
        expect: The least ``accuracy`` and the largest ``loss`` of the last checkpoint; of a part of the task with its
            name, as ``accuracy_repeats``.
        overwrite: Replace a run that is in ``out`` already.

    Raises:
        ValueError: files without weights of one of our networks, two of one step, options that contradict them or each
            other, a task that the network does not fit, an ``out`` that holds a run, or what is expected and not so.
            Nothing on disk has changed.

    Example:
        >>> run = import_run("induction.pt", "runs/theirs", model={"act_fn": "gelu"})  # doctest: +SKIP
        >>> run.imported["assumed"]  # doctest: +SKIP
        {'attention_dir': 'causal', 'positional_embedding_type': 'standard', ...}
    """
    path, _ = Run.place(out, overwrite)
    if not isinstance(source, str | Path | nn.Module | Mapping | list | tuple):
        raise ValueError(f"source: {shown(source)} is not valid; it must be files, a folder, networks or state dicts")
    steps = None if steps is None else _checked_steps(steps)
    if not (key is None or isinstance(key, str)):
        raise ValueError(f"key: {shown(key)} is not valid; it must be a place such as state.model")
    if not (expect is None or isinstance(expect, Mapping)):
        raise ValueError(f"expect: {shown(expect)} is not valid; it must be such as {{'accuracy': 1.0}}")
    task, expect = _task_of(task), expect or {}
    exports = _exports_of(source, steps)
    if exports:
        source = [each.folder / WEIGHTS for each in exports]
        config = exports[-1].folder / CONFIG if config is None else config
        steps = [each.step for each in exports]
        if tokenizer is None and (exports[-1].folder / TOKENIZER).is_file():
            tokenizer = exports[-1].folder / TOKENIZER
    models = None if exports else _models_of(source, steps)
    if models is not None:
        if config is not None or model or key is not None or layout != "transformer_lens":
            raise ValueError("model: no config, option, key or layout is taken beside a model, which has its own")
        return _import_models(path, models, task, tokenizer, expect, overwrite)
    given = {**({} if config is None else read_config_file(config)), **_checked({} if model is None else model)}
    found, without = checkpoints_of(source, steps, key)
    last = found[-1].source
    weights = in_layout(last.weights, layout, given.get("n_heads"))
    beside = {name: value for name, value in read_config(last.config).items() if name not in given}
    n_ctx = None if task is None else task.n_ctx
    of_config = {name: "config: " for name in {*beside, *given} - set(model or {})}
    cfg, last_weights, known = network_of(replace(last, weights=weights), {**beside, **given}, n_ctx, of_config)
    known.read |= {name: value for name, value in beside.items() if name not in known.read}
    if last.config_file is not None:
        known.read["config"] = str(last.config_file)
    known.given, known.dropped = dict(given), [*known.dropped, *without]
    if layout != "transformer_lens":
        known.given["layout"] = layout
    assumed = _assumed_steps(found)
    if assumed and steps is None:
        known.assumed["steps"] = assumed
    networks = {found[-1].step: _network(cfg, last_weights)}
    for each in found[:-1]:
        state = in_layout(each.source.weights, layout, given.get("n_heads"))
        try:
            other, state, _ = network_of(Source(each.source.name, state), {**cfg.to_dict()}, n_ctx)
        except ValueError as error:
            raise ValueError(f"file: {each.source.name} does not fit the network of {last.name} ({error})") from None
        networks[each.step] = _network(other, state)
    names = {each.step: each.source.name for each in found}
    names |= {each.step: each.name for each in exports}
    return write_imported(path, networks, names, known, task, _tokenizer_of(tokenizer), expect, overwrite)


@dataclass(frozen=True)
class _Export:
    """An export of Headway: its name, the folder that holds its files, and its step."""

    name: str
    folder: Path
    step: int

    @classmethod
    def read(cls, name: str, folder: Path) -> "_Export":
        """Read what an export says of itself.

        Raises:
            ValueError: one that is damaged, or that is for bridges, whose weights have other names.
        """
        try:
            about = json.loads(read_small(folder / EXPORT))
            kind, step = about["headway"], int(about["step"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"file: {EXPORT} of {name} is damaged ({error})") from None
        if kind == "bridge":
            raise ValueError(f"file: {name} is an export for bridges; boot the bridge and import it in Python")
        return cls(name, folder, step)


def _exports_of(source: Any, steps: Sequence[int] | None) -> list[_Export]:
    """Return the exports of Headway that are folders, in a folder, or behind a name on the hub; none of anything else.

    Raises:
        ValueError: an export that is damaged or for bridges, another number of steps than exports, or a hub that is not
            reachable.
    """
    sources = list(source) if isinstance(source, list | tuple) else [source]
    if not sources or not all(isinstance(each, str | Path) for each in sources):
        return []
    name = _name_on_hub(sources)
    if name is not None:
        return _exports_on_hub(name, _revisions(name, steps))
    folders = [Path(each).expanduser() for each in sources]
    if len(folders) == 1 and folders[0].is_dir() and not (folders[0] / EXPORT).is_file():
        folders = [each for each in _in_order(folders[0]) if (each / EXPORT).is_file()]
    if not all((folder / EXPORT).is_file() for folder in folders):
        return []
    found = [_Export.read(str(folder), folder) for folder in folders]
    if steps is None or not found:
        return found
    _check_count(steps, len(found))
    return [replace(each, step=step) for each, step in zip(found, steps, strict=True)]


def _exports_on_hub(name: str, revisions: Sequence[tuple[int, str | None]]) -> list[_Export]:
    """Download the revisions of a name on the hub, if they are exports; the folders stay in the cache of the hub.

    Raises:
        ValueError: a revision that cannot be downloaded, or whose export is of another step than its name says.
    """
    from huggingface_hub import list_repo_files, snapshot_download

    exports = []
    for step, revision in revisions:
        named = name if revision is None else f"{name}@{revision}"
        try:
            if EXPORT not in list_repo_files(name, revision=revision):
                return []
            files = [EXPORT, WEIGHTS, CONFIG, TOKENIZER]
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=files))
        except Exception as error:  # of the network, of the hub, of the disk
            said = " ".join(str(error).split())[:200]
            raise ValueError(f"file: {named} cannot be downloaded ({said})") from None
        exports.append(_Export.read(named, folder))
        if revision is not None and exports[-1].step != step:
            raise ValueError(f"step: {named} is the export of step {exports[-1].step}; download it, and give --step")
    return exports


def _import_models(
    path: Path,
    models: Mapping[int, tuple[str, Model]],
    task: Task | None,
    tokenizer: str | Path | None,
    expect: Mapping[str, float],
    overwrite: bool,
) -> Run:
    made = {step: _network_of_model(each) for step, (_, each) in models.items()}
    networks, names = (
        {step: each for step, (each, _) in made.items()},
        {step: name for step, (name, _) in models.items()},
    )
    last = max(models)
    for step, each in networks.items():
        if dict(each.cfg.weight_shapes()) != dict(networks[last].cfg.weight_shapes()):
            raise ValueError(f"source: the network of step {step} has other weights than that of step {last}")
    spelled = _tokenizer_of(tokenizer) or _spelling(getattr(models[last][1], "tokenizer", None))
    return write_imported(path, networks, names, made[last][1], task, spelled, expect, overwrite)


def _network_of_model(model: Model) -> tuple[HookedTransformer, Provenance]:
    """Return a network as one of ours, and what is known of it."""
    if is_lens_network(model):
        return network_of_lens(model)
    network = model if isinstance(model, HookedTransformer) else network_of_bridge(cast("TransformerBridge", model))
    known = Provenance(read=network.cfg.to_dict())
    del known.read["initializer_range"], known.read["init_mode"]
    known.assumed["initialiser"] = UNKNOWN_INITIALISER
    return network, known


def _models_of(source: Any, steps: Sequence[int] | None) -> dict[int, tuple[str, Model]] | None:
    """Return networks by step, each with its name, of what is no file of weights; None for files and state dicts.

    Raises:
        ValueError: a language model that cannot be loaded, or steps that it does not have.
    """
    live = _live_models(source, steps)
    if live is not None:
        return live
    if isinstance(source, Mapping):
        return None
    sources = [source] if isinstance(source, str | Path) else list(source)
    if len(sources) != 1 or not isinstance(sources[0], str | Path):
        return None
    name, path = str(sources[0]), Path(sources[0]).expanduser()
    if path.is_dir():
        folders = [each for each in (path, *_in_order(path)) if (each / "config.json").is_file()]
        folders = [each for each in folders if not list(each.glob("step-*.safetensors"))]  # weights of a run
        folders = [each for each in folders if not is_lens_config_file(each / "config.json")]
        if not folders:
            return None
        if steps is not None:
            _check_count(steps, len(folders))
            found = dict(zip(steps, folders, strict=True))
        else:
            named = {each: step_of(each / "config.json") for each in folders}
            found = {None if step is None else step.step: each for each, step in named.items()}
            if len(folders) > 1 and (None in found or len(found) < len(folders)):
                raise ValueError(f"step: the folders in {path} must have names such as step400, each another number")
        return {1 if step is None else step: (str(each), boot_bridge(str(each))) for step, each in found.items()}
    if _name_on_hub(sources) is None:
        return None
    return {step: (f"{name}@{revision}", boot_bridge(name, revision)) for step, revision in _revisions(name, steps)}


def _live_models(source: Any, steps: Sequence[int] | None) -> dict[int, tuple[str, Model]] | None:
    """Return networks in Python by step, each with its name: one, several in a list, or several by their steps."""
    several = isinstance(source, Mapping | list | tuple)
    values = list(source.values() if isinstance(source, Mapping) else source) if several else [source]
    if not any(isinstance(each, nn.Module) for each in values):
        return None
    for each in values:
        if not (isinstance(each, HookedTransformer) or is_bridge(each) or is_lens_network(each)):
            raise ValueError(f"source: a {type(each).__name__} is not valid; give its state_dict as a file")
    if isinstance(source, Mapping) and steps is None:
        steps = _checked_steps(list(source))
    if steps is None and several and len(values) > 1:
        raise ValueError(f"step: {len(values)} networks have none; give steps, one for each")
    steps = [1] if steps is None else steps
    _check_count(steps, len(values))
    if len(set(steps)) < len(steps):
        raise ValueError(f"step: {', '.join(map(str, steps))} are not valid; each checkpoint needs another step")
    return {step: (type(each).__name__, each) for step, each in zip(steps, values, strict=True)}


def _name_on_hub(sources: Sequence[Any]) -> str | None:
    """Return the name on the hub that is given in place of a file; None where files are given."""
    if len(sources) != 1 or not isinstance(sources[0], str | Path):
        return None
    name, path = str(sources[0]), Path(sources[0]).expanduser()
    named = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and path.suffix not in SUFFIXES
    return name if named and not path.exists() else None


def _revisions(name: str, steps: Sequence[int] | None) -> list[tuple[int, str | None]]:
    """Return the revisions of a model on the hub that are named after steps; the newest weights if there are none."""
    try:
        from huggingface_hub import list_repo_refs
    except ImportError:
        raise ValueError(
            f"file: {name} is no file or folder; for a name on the hub, pip install huggingface_hub"
        ) from None
    try:
        refs = list_repo_refs(name)
    except Exception as error:  # of the network, of the hub, of a name that is none
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"file: {name} is no file or folder, and is not reachable on the hub ({said})") from None
    found: dict[int, str] = {}
    for ref in (*refs.branches, *refs.tags):
        named = step_in_name(ref.name)
        if named is None or named.unit == "number":
            continue
        if named.step in found:
            raise ValueError(f"step: the revisions {found[named.step]} and {ref.name} of {name} are both of one step")
        found[named.step] = ref.name
    if steps is not None:
        for step in steps:
            if step not in found:
                raise ValueError(
                    f"step: {step} is no revision of {name}, which has {', '.join(map(str, sorted(found)))}"
                )
        found = {step: found[step] for step in steps}
    return sorted(found.items()) or [(1, None)]


def write_imported(
    path: Path,
    networks: Mapping[int, HookedTransformer],
    sources: Mapping[int, str],
    known: Provenance,
    task: Task | None,
    spelling: tuple[bytes, str | None] | None,
    expect: Mapping[str, float],
    overwrite: bool,
) -> Run:
    """Write a finished run of these networks by step, after they have shown what is expected."""
    steps = sorted(networks)
    cfg = networks[steps[-1]].cfg
    task = NoTask(d_vocab=cfg.d_vocab, n_ctx=cfg.n_ctx, input_type=cfg.input_type) if task is None else task.resolved()
    schedule = Schedule(log=0, linear=0, at=tuple(steps))
    try:
        recipe = Recipe(task=task, model=cfg, steps=max(1, steps[-1]), schedule=schedule)
    except ValueError as error:
        raise ValueError(f"task: {type(task).__name__} does not fit the network ({error})") from None
    results = {} if isinstance(task, NoTask) else {step: evaluated(networks[step], recipe) for step in steps}
    _check_expected(expect, results[steps[-1]] if results else None, known)
    about = {
        **asdict(known),
        "initialiser": knows_initialiser({**known.read, **known.given}),
        "bos_token": None if spelling is None else spelling[1],
        "sources": {str(step): sources[step] for step in steps},
        "results": {str(step): result for step, result in results.items()},
        "baselines": {name: float(value) for name, value in task.baselines().items()},
        "no_better_than_chance": bool(results) and not _is_better_than_chance(task, results[steps[-1]]),
    }
    with writing(path):
        run = Run.create(path, recipe, overwrite, imported=json.dumps(about, indent=2, default=str))
        if spelling is not None:
            write_whole(path / TOKENIZER, spelling[0])
        for step in steps:
            run.keep(step, networks[step])
    return run


def checkpoints_of(source: Any, steps: Sequence[int] | None, key: str | None) -> tuple[list[Checkpoint], list[str]]:
    """Return the checkpoints of files or state dicts in the order of their steps, and the files without weights.

    In a folder there may be files without weights, such as one of losses.

    Raises:
        ValueError: files without weights, two checkpoints of one step, or another number of steps than checkpoints.
    """
    read, without = _read(source, key)
    _check_count(steps, len(read))
    found: dict[int, Checkpoint] = {}
    for place, (path, each, several) in enumerate(read):
        named = None if steps is not None else surest_step(path, each, several)
        if steps is not None:
            step = steps[place]
        elif named is not None:
            step = named.step
        elif several > 1:
            step = place
        elif len(read) > 1:
            raise ValueError(f"step: the name of {path} has none; give --step, one for each file")
        else:
            step = 1
        if step < 0:
            raise ValueError(f"step: {step} is not valid; it must be 0 or more")
        if step in found:
            raise ValueError(f"step: {found[step].source.name} and {each.name} are both of step {step}; give --step")
        found[step] = Checkpoint(step, "" if named is None else named.unit, each)
    return [found[step] for step in sorted(found)], without


def _read(source: Any, key: str | None) -> tuple[list[tuple[Path | None, Source, int]], list[str]]:
    """Return checkpoints, each with its file and the number of those in it, and the files of folders without any."""
    if isinstance(source, Mapping) or (
        isinstance(source, list | tuple) and not all(isinstance(each, str | Path) for each in source)
    ):
        inside = sources_in(source, "source", key)
        return [(None, each, len(inside)) for each in inside], []
    found: list[tuple[Path | None, Source, int]] = []
    without: dict[str, NoWeightsError] = {}
    for path, in_folder in weight_files([source] if isinstance(source, str | Path) else list(source)):
        try:
            inside = read_source(path, key)
        except NoWeightsError as error:
            if not in_folder:
                raise
            without[path.name] = error
            continue
        found += [(path, each, len(inside)) for each in inside]
    if not found:
        raise next(iter(without.values()))
    return found, list(without)


def surest_step(path: Path | None, source: Source, several: int) -> NamedStep | None:
    """Return the step of a checkpoint that its file or the name of that says.

    Raises:
        ValueError: they say different ones.
    """
    inside, named = source.step, None if path is None or several > 1 else step_of(path)
    said = [each for each in (inside, named) if each is not None]
    if len({each.step for each in said if each.unit == "step"}) > 1:
        steps = " and ".join(str(each.step) for each in said)
        raise ValueError(f"step: {source.name} and its name say different ones ({steps}); give --step")
    return min(said, key=lambda each: _UNITS.index(each.unit), default=None)


def _assumed_steps(found: Sequence[Checkpoint]) -> str:
    """Say which steps are assumed; nothing where files or names say them."""
    units = {each.unit for each in found}
    steps = ", ".join(str(each.step) for each in found)
    if "" in units:
        return steps
    if units - {"step"}:
        return f"the {'epochs' if units == {'epoch'} else 'numbers in names'} {steps}"
    return ""


def _check_count(steps: Sequence[int] | None, count: int) -> None:
    if steps is not None and len(steps) != count:
        raise ValueError(f"step: {len(steps)} are given for {count} checkpoints; give one for each")


def _checked_steps(steps: Any) -> list[int]:
    if isinstance(steps, str) or not isinstance(steps, Sequence | np.ndarray):
        raise ValueError(f"steps: {shown(steps)} is not valid; it must be a list of steps, one for each checkpoint")
    return [checked_int("steps", step, 0) for step in steps]


def weight_files(sources: Sequence[str | Path]) -> list[tuple[Path, bool]]:
    """Return files, and in place of a folder those in it or in its folders; each with whether it is of a folder.

    Raises:
        ValueError: a folder without files of weights, or that is a run.
    """
    if not sources:
        raise ValueError("file: is missing; give a file of weights")
    files: list[tuple[Path, bool]] = []
    for each in sources:
        path = Path(each).expanduser()
        if not path.is_dir():
            files.append((path, False))
            continue
        if holds_run(path):
            raise ValueError(f"file: {path} is a run already; every command takes it as it is")
        inside = _files_in(path) or [
            file for folder in _in_order(path) if folder.is_dir() for file in _files_in(folder)
        ]
        if not inside:
            raise ValueError(f"file: {path} holds no file of weights ({', '.join(SUFFIXES)})")
        files += [(file, True) for file in inside]
    return files


def _in_order(folder: Path) -> list[Path]:
    """What is in a folder, step20 before step100."""
    return sorted(folder.iterdir(), key=lambda path: in_order_of_numbers(path.name))


def _files_in(folder: Path) -> list[Path]:
    return [file for file in _in_order(folder) if file.suffix in SUFFIXES and file.is_file()]


def step_of(path: Path) -> NamedStep | None:
    """Return the step in the name of a file, or of the folder in which it lies.

    Example:
        >>> step_of(Path("run_400.pt")), step_of(Path("step7/model.pt"))
        (NamedStep(step=400, unit='number'), NamedStep(step=7, unit='step'))
    """
    folder = step_in_name(path.parent.name)
    if folder and folder.unit == "number" and not path.parent.name.isdecimal():
        folder = None  # a name such as run_3
    said = [each for each in (step_in_name(path.stem), folder) if each is not None]
    return min(said, key=lambda each: _UNITS.index(each.unit), default=None)


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise ValueError(f"model: {shown(options)} is not valid; it must be a dictionary of options")
    known = {f.name for f in fields(ModelConfig) if f.init}
    for name in options:
        if name not in known:
            raise ValueError(f"model.{name}: there is no such option{nearest(str(name), known)}")
    return dict(options)


def _task_of(task: Task | type[Task] | str | None) -> Task | None:
    if task is None or isinstance(task, Task):
        return task
    kind = task_class(task) if isinstance(task, str) else task
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ValueError(f"task: {shown(task)} is not valid; it must be a task, its class, or package.module:Class")
    try:
        return kind()
    except (TypeError, ValueError) as error:
        raise ValueError(f"task.{error}") from None


def _network(cfg: ModelConfig, weights: Mapping[str, torch.Tensor]) -> HookedTransformer:
    model = HookedTransformer(cfg)
    model.load_state_dict(weights)
    return model.eval()


def _tokenizer_of(path: str | Path | None) -> tuple[bytes, str | None] | None:
    """Read a file tokenizer.json, and the token in it that begins a text: the first special one."""
    if path is None:
        return None
    from tokenizers import Tokenizer

    try:
        content = read_small(Path(path).expanduser())
        special = [each for each in Tokenizer.from_buffer(content).get_added_tokens_decoder().values() if each.special]
    except Exception as error:  # tokenizers raises bare exceptions
        raise ValueError(f"tokenizer: {path} cannot be read ({error})") from None
    return content, special[0].content if special else None


def _spelling(tokenizer: Any) -> tuple[bytes, str | None] | None:
    """Return the file of a Hugging Face tokenizer, and its BOS token; None for one that has no such file."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return None
    return fast.to_str().encode(), tokenizer.bos_token or tokenizer.eos_token


def evaluated(model: HookedTransformer, recipe: Recipe) -> dict[str, float]:
    """Return loss and accuracy on the evaluation batch, of all positions that count and of each part of the task.

    Vectors have no accuracy.

    Raises:
        ValueError: a task whose sequences the network cannot take.
    """
    task = recipe.task
    batch = task.evaluation_batch(recipe.eval_seed, recipe.eval_batch_size)
    check_tokens(batch, model.cfg)
    with torch.no_grad():
        output = model(batch.inputs)
        losses = task.loss(output, batch)
    parts = {"": batch.mask, **{f"_{name}": part for name, part in task.parts(batch).items()}}
    found = {f"loss{name}": masked_mean(losses, mask).item() for name, mask in parts.items()}
    if not batch.targets.is_floating_point():
        right = (output.argmax(-1) == batch.targets).float()
        found |= {f"accuracy{name}": masked_mean(right, mask).item() for name, mask in parts.items()}
    return found


def check_tokens(batch: Batch, cfg: ModelConfig) -> None:
    """Refuse tokens that the network does not have; a negative one would be taken from the end of the vocabulary."""
    for name, tokens, count in (("tokens", batch.inputs, cfg.d_vocab), ("targets", batch.targets, cfg.d_vocab_out)):
        if tokens.is_floating_point() or tokens.numel() == 0:
            continue
        counted = tokens if name == "tokens" else tokens[batch.mask]
        low, high = int(counted.min()), int(counted.max())
        if low < 0 or high >= count:
            raise ValueError(
                f"task: its {name} are {low} to {high}, and this network has 0 to {count - 1}; give a task that it fits"
            )


def _is_better_than_chance(task: Task, result: Mapping[str, float]) -> bool:
    """Return whether the loss on the behaviour is a tenth of chance or more below it; True where no chance is known."""
    part, chance, _ = task.behaviour
    baselines = task.baselines()
    bound = baselines.get(chance or "chance")
    return bound is None or result[f"loss_{part}" if part else "loss"] < 0.9 * bound


def _check_expected(expect: Mapping[str, float], result: Mapping[str, float] | None, known: Provenance) -> None:
    for name, bound in expect.items():
        if result is None:
            raise ValueError(f"expect: {name} needs a task; give --task")
        if name not in result:
            raise ValueError(f"expect: {name!r} is not one of {', '.join(result)}{nearest(name, result)}")
        value = result[name]
        if value < bound - 1e-6 if name.startswith("accuracy") else value > bound + 1e-6:
            assumed = ", ".join(f"{each} {value}" for each, value in known.assumed.items() if each != "initialiser")
            more = f"; assumed is {assumed}" if assumed else ""
            raise ValueError(f"expect: {name} is {value:.4g} and not {shown(bound)}{more}")
