"""Export of checkpoints: for TransformerLens's HookedTransformer and bridges, and for the Hugging Face hub."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headway.checkpoints.files import write_all
from headway.checkpoints.run import TOKENIZER, Run, check_outside_runs
from headway.options import nearest, shown

if TYPE_CHECKING:
    from headway.models.exports import Exported
    from headway.models.hooked_transformer import HookedTransformer

Kind = Literal["hooked-transformer", "bridge", "huggingface"]
KINDS = ("hooked-transformer", "bridge", "huggingface")
# It names the files of an export, so that --overwrite replaces these and nothing else.
EXPORT = "export.json"
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

_LOADS = {
    "hooked-transformer": """\
import json
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig  # version 3.9

model = HookedTransformer(HookedTransformerConfig.from_dict(json.load(open("config.json"))))
model.load_state_dict(load_file("model.safetensors"))
""",
    "bridge": """\
import json
from safetensors.torch import load_file
from transformer_lens.model_bridge import TransformerBridge  # version 4

model = TransformerBridge.boot_native(json.load(open("config.json")))
model.load_state_dict(load_file("model.safetensors"))
""",
    "huggingface": """\
import json
from safetensors.torch import load_file
from headway import HookedTransformer, ModelConfig

model = HookedTransformer(ModelConfig(**json.load(open("config.json"))))
model.load_state_dict(load_file("model.safetensors"))
""",
}


def export_run(
    run: Run | str | Path,
    out: str | Path,
    to: Kind,
    step: int | Literal["last"] | None = "last",
    push: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a checkpoint in the form of another program, and return the folder.

    The folder holds ``model.safetensors``, ``config.json`` and a README.md that says how to load them; for a
    HookedTransformer also ``model.pt``, a dictionary of tensors, and for the hub the tokenizer, if the run has one.
    Logits are those of the run.

    Args:
        run: The run, or its directory.
        out: The folder, which must not exist.
        to: ``hooked-transformer`` (TransformerLens 3.9), ``bridge`` (``boot_native`` of TransformerLens 4) or
            ``huggingface`` (Headway's own names, with a model card).
        step: The checkpoint, or "last".
        push: With huggingface, a name on the hub, ``user/name``, to which the folder is uploaded; each checkpoint
            of the run becomes a revision such as ``step400``. A repository that is new is private.
        overwrite: Replace an export that is in ``out``; other files stay.

    Raises:
        ValueError: a network that the other program cannot express, a step that was not kept, an ``out`` that exists,
            or a hub that refuses.

    Example:
        >>> folder = export_run("runs/induction", "theirs", to="hooked-transformer")  # doctest: +SKIP
        >>> sorted(file.name for file in folder.iterdir())  # doctest: +SKIP
        ['README.md', 'config.json', 'export.json', 'model.pt', 'model.safetensors']
    """
    run, out = run if isinstance(run, Run) else Run(run), Path(out).expanduser()
    if to not in KINDS:
        raise ValueError(f"to: {shown(to)} is not one of {', '.join(KINDS)}{nearest(str(to), KINDS)}")
    if push is not None and to != "huggingface":
        raise ValueError(f"push: {push} is not valid with to {to}; only huggingface is pushed")
    hub = None if push is None else _hub()
    step = run.check_step(step)
    check_outside_runs(out)
    old = _old_export(out, overwrite)
    files = exported_files(run, step, to)
    for name in set(files) - old:
        if (out / name).exists():
            raise ValueError(f"out: {out / name} exists, and is no file of the export in it; give another folder")
    write_all({out / name: content for name, content in files.items()})
    for name in old - set(files):
        (out / name).unlink(missing_ok=True)
    if hub is not None and push is not None:
        _push(hub, run, out, files, push)
    return out


def _old_export(out: Path, overwrite: bool) -> set[str]:
    """The files of an export that is replaced; a folder that holds anything is refused otherwise."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return set()
    try:
        about = json.loads((out / EXPORT).read_text(encoding="utf-8"))
        old = {str(name) for name in about["files"]} if about["headway"] in KINDS else None
    except (OSError, ValueError, KeyError, TypeError):
        old = None
    if old is None or any(Path(name).name != name for name in old):
        raise ValueError(f"out: {out} exists, and is no export of Headway; give another folder")
    if not overwrite:
        raise ValueError(f"out: {out} exists; give another folder, or --overwrite to replace the export in it")
    return old


def exported_files(run: Run, step: int, to: Kind) -> dict[str, bytes | str]:
    """Return the contents of the files of an export by name.

    Raises:
        ValueError: a network that the other program cannot express.
    """
    import io

    import safetensors.torch
    import torch

    from headway.models.exports import check_bridge, for_bridge, for_hooked_transformer

    model = run.model(step)
    files: dict[str, bytes | str] = {}
    notes: tuple[str, ...] = ()
    if to == "huggingface":
        config: Mapping[str, Any] = model.cfg.to_dict()
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        if (run.path / TOKENIZER).is_file():
            files[TOKENIZER] = (run.path / TOKENIZER).read_bytes()
    else:
        exported: Exported = for_bridge(model) if to == "bridge" else for_hooked_transformer(model)
        if to == "bridge":
            check_bridge(model, exported)
        config, notes = exported.config, exported.notes
        weights = {name: value.contiguous() for name, value in exported.weights.items()}
        if to == "hooked-transformer":
            buffer = io.BytesIO()
            torch.save(weights, buffer)
            files["model.pt"] = buffer.getvalue()
    files[WEIGHTS] = safetensors.torch.save(weights, {"format": "pt"})
    files[CONFIG] = json.dumps(config, indent=2) + "\n"
    files[CARD] = model_card(run, step, to, model, notes)
    files[EXPORT] = json.dumps({"headway": to, "step": step, "files": sorted([*files, EXPORT])}, indent=2) + "\n"
    return files


def model_card(run: Run, step: int, to: Kind, model: "HookedTransformer", notes: tuple[str, ...] = ()) -> str:
    """Return the README.md of an export: what the network was trained on, how well it does, and how to load it."""
    config, cfg = run.config, model.cfg
    lines: list[str] = []
    if to == "huggingface":
        lines += ["---", "library_name: headway", "tags: [mechanistic-interpretability, toy-model]", "---", ""]
    task = {name: value for name, value in config["task"].items() if name not in ("class", "tokenizer_hash")}
    kind = str(config["task"].get("class")).rpartition(":")[2]
    lines += [
        f"# {run.path.resolve().name}, step {step}",
        "",
        f"A toy transformer of {cfg.n_layers} layer{'' if cfg.n_layers == 1 else 's'} with {cfg.n_heads} "
        f"head{'' if cfg.n_heads == 1 else 's'} each, d_model {cfg.d_model} and "
        f"{'no MLPs' if cfg.attn_only else f'MLPs of {cfg.d_mlp} neurons'}.",
        "",
        "## Training",
        "",
    ]
    if run.imported is not None:
        lines += ["- It was imported; how it was trained is not known."]
    lines += ["- task: none" if kind == "NoTask" else f"- task: {kind} ({_listed(task)})"]
    if run.imported is None:
        lines += [
            f"- seed: {config['seed']}; seed of the evaluation batch: {config['eval_seed']}",
            f"- step: {step} of {config['steps']}, in batches of {config['batch_size']} sequences",
            f"- optimiser: {_listed(config['optim'])}",
        ]
    lines += ["", "## Results", "", *_results(run, model), "", "## To load it", "", "```python", _LOADS[to] + "```"]
    if notes:
        lines += ["", *(f"- {note}" for note in notes)]
    if to == "huggingface":
        lines += ["", "Other checkpoints are the revisions `stepN` of this repository, if they were uploaded."]
        lines += ["", "## Licence", "", "None has been chosen; whoever shares these weights adds one."]
    return "\n".join(lines) + "\n"


def _listed(options: Mapping[str, Any]) -> str:
    """The options in one line; of a path only its last part, because folders may tell more than they should."""

    def said(value: Any) -> str:
        return Path(value).name if isinstance(value, str) and "/" in value else str(value)

    return ", ".join(f"{name} {said(value)}" for name, value in options.items()) or "default options"


def _results(run: Run, model: "HookedTransformer") -> list[str]:
    """Loss and accuracy on the evaluation batch, beside the baselines of the task."""
    from headway.checkpoints.importing import evaluated
    from headway.data.no_task import NoTask

    try:
        task = run.task
        if isinstance(task, NoTask):
            return ["There is no task, and so no loss."]
        numbers, baselines = evaluated(model, run.recipe), task.baselines()
    except ValueError as error:
        return [f"They are not known here ({error})."]
    rows = [f"| {name.replace('_', ' ')} | {value:.4f} |" for name, value in numbers.items()]
    rows += [f"| baseline: {name.replace('_', ' ')} | {value:.4f} |" for name, value in baselines.items()]
    return ["On the evaluation batch:", "", "| | |", "|---|---|", *rows]


def _hub() -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise ValueError("push: it needs huggingface_hub; pip install huggingface_hub") from None
    return HfApi()


def _push(hub: Any, run: Run, out: Path, files: Mapping[str, Any], name: str) -> None:
    """Upload an export to the branch main, and each checkpoint of the run to one of its own."""
    try:
        hub.create_repo(name, private=True, exist_ok=True)
        # Files of other exports in the folder are not the run's.
        hub.upload_folder(repo_id=name, folder_path=str(out), allow_patterns=sorted(files), commit_message="Export")
        for step in run.steps:
            with tempfile.TemporaryDirectory() as folder:
                write_all(
                    {Path(folder, each): content for each, content in exported_files(run, step, "huggingface").items()}
                )
                hub.create_branch(name, branch=f"step{step}", exist_ok=True)
                hub.upload_folder(
                    repo_id=name, folder_path=folder, revision=f"step{step}", commit_message=f"Step {step}"
                )
    except ValueError:
        raise
    except Exception as error:  # of the network, of the hub, of a login that is missing
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"push: {name} could not be written on the hub ({said}); the folder {out} is whole") from None
