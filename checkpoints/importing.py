"""Import of checkpoints that another program made, as a finished run that every command takes."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from headway.checkpoints.exporting import CONFIG, EXPORT, WEIGHTS
from headway.checkpoints.files import read_small, write_whole
from headway.checkpoints.lock import writing
from headway.checkpoints.recipe import Recipe, check_direction, task_class
from headway.checkpoints.run import TOKENIZER, Run
from headway.checkpoints.schedule import Schedule
from headway.checkpoints.weight_sources import (
    assumed_steps,
    check_count,
    checked_steps,
    checkpoints_of,
    in_order,
    step_of,
)
from headway.data.no_task import NoTask
from headway.data.task import Batch, Task, masked_mean
from headway.models.config import ModelConfig
from headway.models.convert import Model, boot_bridge, is_bridge, is_lens_network, network_of_bridge, network_of_lens
from headway.models.file_names import SUFFIXES, step_in_name
from headway.models.hooked_transformer import HookedTransformer
from headway.models.layouts import in_layout
from headway.models.lens_configs import read_config
from headway.models.state_dicts import UNKNOWN_INITIALISER, Provenance, knows_initialiser, network_of
from headway.models.weight_files import (
    Source,
    is_lens_config_file,
    read_config_file,
)
from headway.options import nearest, shown

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

EXPECTED = ("accuracy", "loss")


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
    steps = None if steps is None else checked_steps(steps)
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
    of_task = {} if task is None else {"n_ctx": task.n_ctx, "attention_dir": task.attention_dir}
    of_config = {name: "config: " for name in {*beside, *given} - set(model or {})}
    cfg, last_weights, known = network_of(replace(last, weights=weights), {**beside, **given}, of_task, of_config)
    known.read |= {name: value for name, value in beside.items() if name not in known.read}
    if last.config_file is not None:
        known.read["config"] = str(last.config_file)
    known.given, known.dropped = dict(given), [*known.dropped, *without]
    if layout != "transformer_lens":
        known.given["layout"] = layout
    assumed = assumed_steps(found)
    if assumed and steps is None:
        known.assumed["steps"] = assumed
    networks = {found[-1].step: _network(cfg, last_weights)}
    for each in found[:-1]:
        state = in_layout(each.source.weights, layout, given.get("n_heads"))
        try:
            other, state, _ = network_of(Source(each.source.name, state), {**cfg.to_dict()})
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
        folders = [each for each in in_order(folders[0]) if (each / EXPORT).is_file()]
    if not all((folder / EXPORT).is_file() for folder in folders):
        return []
    found = [_Export.read(str(folder), folder) for folder in folders]
    if steps is None or not found:
        return found
    check_count(steps, len(found))
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
        folders = [each for each in (path, *in_order(path)) if (each / "config.json").is_file()]
        folders = [each for each in folders if not list(each.glob("step-*.safetensors"))]  # weights of a run
        folders = [each for each in folders if not is_lens_config_file(each / "config.json")]
        if not folders:
            return None
        if steps is not None:
            check_count(steps, len(folders))
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
        steps = checked_steps(list(source))
    if steps is None and several and len(values) > 1:
        raise ValueError(f"step: {len(values)} networks have none; give steps, one for each")
    steps = [1] if steps is None else steps
    check_count(steps, len(values))
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
        check_direction(task, cfg)
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
