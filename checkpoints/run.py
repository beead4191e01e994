"""Run: a directory with everything a training run left behind, and the way back from it to a model.

Scores, studies and config.yaml are read without torch and without the task's code, so that pages and figures are drawn
at once, and also where that code is gone. Methods that need more (the task, a model) import it when they are called.
Two of them, ``summary`` and ``plot``, hand the run to ``headway.analyze``: the object that a user holds is one, and not
a second class of the same name that knows more.
"""

import hashlib
import html
import json
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from headway.checkpoints.config import read_config
from headway.checkpoints.files import CONFIG, ENVIRONMENT, holds_run, read_tree, write_whole
from headway.checkpoints.frame import framed
from headway.checkpoints.lock import FOLDERS, writing
from headway.checkpoints.log import logged_numbers
from headway.checkpoints.scores import evaluation_file, read_circuit, read_file, read_scores, score_files
from headway.checkpoints.weights import arrays_of, content_of
from headway.models.config import ModelConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedTokenizerFast

    from headway.checkpoints.recipe import Recipe
    from headway.data.task import Batch, Task
    from headway.models.hooked_transformer import HookedTransformer

TOKENIZER = "tokenizer.json"
# Where an imported run comes from; other runs have none.
IMPORT = "import.json"
# The numbers of every update, and what TensorBoard calls them.
UPDATE_TAGS = {"loss": "loss/train", "gradient_norm": "optimiser/gradient_norm", "lr": "optimiser/lr"}
# What stands in for the parts of a network that are not kept, the default first.
REPLACEMENTS = ("twin", "position_mean", "resample", "mean", "zero")
# What a run writes into its directory; --overwrite removes these and leaves anything else.
# The two that make a directory a run go last, so that one whose removal was cut off is still known for one.
CONTENTS = (
    TOKENIZER,
    IMPORT,
    *FOLDERS,
    "resume.ckpt",
    "events.out.tfevents.*",
    "hparams.yaml",
    "report.html",
    "text.html",
    CONFIG,
    ENVIRONMENT,
)


def not_a_run(value: Any) -> ValueError:
    """The error about a value in place of a run; of a network it says how it becomes one."""
    how = "; headway.import_run(model, DIRECTORY) makes a run of a network" if hasattr(value, "state_dict") else ""
    return ValueError(f"run: a {type(value).__name__} is not valid; it must be a run or its directory{how}")


class Run:
    """A training run on disk.

    A run may come from somebody else. To open it imports no code that is not Headway's and reads no file outside its
    directory, until the user names its task or trusts it; weights and scores need neither.

    Args:
        path: The run's directory.
        task: The class of the run's task, or its import path, if it is not one of Headway's.
        trust: Import the task that config.yaml names, and let it read files outside the run, such as a corpus.

    Raises:
        ValueError: the directory holds no run.

    Example:
        >>> run = Run("runs/induction")  # doctest: +SKIP
        >>> run.config["model"]["n_heads"]  # doctest: +SKIP
        4
        >>> run.model(step="last").cfg.n_layers  # doctest: +SKIP
        2
    """

    def __init__(self, path: str | Path, task: "type[Task] | str | None" = None, trust: bool = False):
        if not isinstance(path, str | Path):
            raise not_a_run(path)
        self.path = Path(path).expanduser()
        self._task, self._trust = task, trust
        if not holds_run(self.path):
            missing = [name for name in (CONFIG, ENVIRONMENT) if not (self.path / name).is_file()]
            why = f"there is no {missing[0]} in it" if missing else f"its {CONFIG} is none of Headway's"
            several = missing and any(each.is_dir() and holds_run(each) for each in self.path.glob("*"))
            runs = f", but runs; name them, such as {self.path}/*" if several else ""
            raise ValueError(f"run: {self.path} holds no run ({why}){runs}")
        # What ``scores`` has read, with the state of its files at that time.
        self._read: tuple[dict[Path, tuple[int, int]], xr.Dataset] | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self._state})"

    def _repr_html_(self) -> str:
        """A small card; the page is what ``show`` gives."""
        facts = {"run": str(self.path), "state": self._state}
        try:
            model = self.config["model"]
            sizes = ("n_layers", "n_heads", "d_model")
            facts["task"] = str(self.config["task"].get("class")).rpartition(":")[2]
            facts["model"] = ", ".join(f"{name} {model[name]}" for name in sizes)
            facts["seed"] = str(self.config["seed"])
        except ValueError as error:
            facts["error"] = str(error)
        if self.studies:
            facts["studies"] = ", ".join(f"{name} (step {step})" for name, step in self.studies.items())
        facts["page"] = ".show()" if self.report_file.exists() else f"headway report {self.path} writes it"
        rows = (
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(value)}</td></tr>'
            for name, value in facts.items()
        )
        return f"<table>{''.join(rows)}</table>"

    @property
    def _state(self) -> str:
        """The number of checkpoints, and whether the run is finished."""
        kept = f"{len(self.steps)} checkpoint{'' if len(self.steps) == 1 else 's'}"
        try:
            return f"{kept}, {'finished' if self.finished else 'not finished'}"
        except ValueError:
            return f"{kept}, {CONFIG} is damaged"

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml as plain values: what determined this run, read without the task's code.

        Raises:
            ValueError: a file that is damaged, or of another version.
        """
        return read_config(self.path / CONFIG)

    @cached_property
    def recipe(self) -> "Recipe":
        """Everything that determined this run.

        Raises:
            ValueError: a damaged file, a task whose code would have to be imported.
        """
        from headway.checkpoints.recipe import Recipe, task_class

        named = task_class(self._task) if isinstance(self._task, str) else self._task
        return Recipe.load(self.path / CONFIG, named, self._trust)

    @property
    def task(self) -> "Task":
        """The task that the network was trained on.

        Raises:
            ValueError: as for ``recipe``; a task that reads files outside the run.
        """
        task = self.recipe.task
        if task.outside_files is not None and not self._trust:
            raise ValueError(
                f"task: this run reads {task.outside_files}, which lies outside of it; "
                "say --trust (Run(..., trust=True)) to let it"
            )
        return task

    def with_task(self, task: "Task") -> "Run":
        """Return the same run with another task, which its network must fit; what is on disk stays.

        Raises:
            ValueError: a task that the network does not fit.
        """
        from dataclasses import replace

        other = Run(self.path, self._task, self._trust)
        other.recipe = replace(self.recipe, task=task)
        return other

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerFast | None":
        """The tokenizer of this network; None if its tokens stand for no strings.

        Raises:
            ValueError: its file is gone, or is not the one that the network was trained with.
        """
        path = self.path / TOKENIZER
        recorded = self.config["task"].get("tokenizer_hash")
        if recorded is None and not path.exists():
            return None
        try:
            written = path.read_bytes()
        except OSError as error:
            raise ValueError(f"run: {path}, which spells its tokens, cannot be read ({error.strerror})") from None
        if recorded not in (None, hashlib.sha256(written).hexdigest()):
            raise ValueError(f"run: {path} is not the tokenizer that this network was trained with; it was altered")

        from headway.data.tokenizer import read_tokenizer

        try:
            about = self.imported
            return read_tokenizer(written) if about is None else read_tokenizer(written, about.get("bos_token"))
        except ValueError as error:
            raise ValueError(f"run: {path} is damaged ({error})") from None

    @cached_property
    def imported(self) -> dict[str, Any] | None:
        """The record of an import: read, given, assumed, dropped, sources and results; None for a run trained here.

        Raises:
            ValueError: a file that is damaged.
        """
        path = self.path / IMPORT
        if not path.exists():
            return None
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(about, dict) or not isinstance(about["initialiser"], bool):
                raise TypeError("it is no description of an import")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"run: {path} is damaged ({error})") from None
        return about

    @property
    def has_initialiser(self) -> bool:
        """True if it is known how the weights were initialised, so that fresh networks can be drawn."""
        return self.imported is None or self.imported["initialiser"]

    @property
    def steps(self) -> list[int]:
        """The kept steps, in order."""
        names = (re.fullmatch(r"step-(\d{8,})\.safetensors", path.name) for path in self.path.glob("weights/step-*"))
        return sorted(int(name[1]) for name in names if name)

    def check_step(self, step: int | Literal["last"] | None = "last", nearest: bool = False) -> int:
        """The number of a checkpoint: ``step`` itself, for "last" or None the last, with ``nearest`` the nearest one.

        Raises:
            ValueError: a step that was not kept, or a run without checkpoints.
        """
        steps = self.steps
        if not steps:
            raise ValueError(f"run: {self.path} has no checkpoint yet")
        if step is None or step == "last":
            return steps[-1]
        if isinstance(step, str):
            raise ValueError(f"step: {step!r} is not valid; it must be the number of a checkpoint, or 'last'")
        closest = min(steps, key=lambda kept: abs(kept - step))
        if closest != step and not nearest:
            raise ValueError(f"step: {step} was not kept; nearest is {closest}, all are {', '.join(map(str, steps))}")
        return closest

    @property
    def finished(self) -> bool:
        """True if the last step of the recipe has a checkpoint, and its file is whole; an imported run has no other."""
        from safetensors import SafetensorError, safe_open

        last = self.config["steps"] if self.imported is None or not self.steps else self.steps[-1]
        try:
            with safe_open(self.weights_file(last), framework="np"):
                return True
        except (SafetensorError, OSError):
            return False

    @property
    def resume_file(self) -> Path:
        """Lightning's checkpoint of the last kept step, for going on."""
        return self.path / "resume.ckpt"

    def state_file(self, step: int) -> Path:
        """Return the path of Lightning's checkpoint of ``step``, of those that stay."""
        return self.path / "states" / f"step-{step:08d}.ckpt"

    @property
    def report_file(self) -> Path:
        """The page that shows this run, once it has been written."""
        return self.path / "report.html"

    def weights_file(self, step: int) -> Path:
        """Return the path of the weights of ``step``."""
        return self.path / "weights" / f"step-{step:08d}.safetensors"

    def model(
        self, step: int | Literal["last"] | None = "last", processed: bool = False, nearest: bool = False
    ) -> "HookedTransformer":
        """The network as it was at a checkpoint, on the CPU, in evaluation mode.

        Args:
            step: The number of a checkpoint, or "last".
            processed: Fold LayerNorm and centre weights, as TransformerLens does; the function stays the same.
            nearest: Take the checkpoint nearest to ``step``.

        Raises:
            ValueError: a step that was not kept, or a damaged file.

        Example:
            >>> run = Run("runs/induction")  # doctest: +SKIP
            >>> logits = run.model(step=400, nearest=True)(run.batch().inputs)  # doctest: +SKIP
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from headway.models.hooked_transformer import HookedTransformer

        step, tokenizer = self.check_step(step, nearest), self.tokenizer
        try:
            config = ModelConfig(**json.loads((self.path / "weights" / "config.json").read_text(encoding="utf-8")))
            # A size that was altered could be that of a network which no memory holds.
            if config != ModelConfig(**self.config["model"]):
                raise ValueError(f"it is of another network than {CONFIG}")
            check_shapes(self.weights_file(step), config)
            model = HookedTransformer(config, tokenizer)
            weights = load_file(self.weights_file(step))
            if endless := [name for name, weight in weights.items() if not weight.isfinite().all()]:
                raise ValueError(f"{endless[0]} has numbers that are not finite")
            model.load_state_dict(weights)
        except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"run: {self.weights_file(step)}, or config.json beside it, is damaged ({error})"
            ) from None
        model.eval()
        return model.processed(center_unembed=self._puts_out_logits(config)) if processed else model

    def _puts_out_logits(self, config: ModelConfig) -> bool:
        """Return whether outputs mean the same after a constant is added to all of them, as numbers do not."""
        if config.input_type == "vectors":
            return False
        # The sequences that a run keeps tell without the task's code, which may be gone.
        if evaluation_file(self.path).is_file():
            return read_file(evaluation_file(self.path)).targets.dtype.kind != "f"
        if config.d_vocab_out == config.d_vocab:
            return True
        return not self.task.evaluation_batch(self.recipe.eval_seed, 1).targets.is_floating_point()

    def batch(self) -> "Batch":
        """The fixed evaluation batch, on which every step of this run is scored."""
        from headway.checkpoints.memory import check_drawn

        check_drawn("eval_batch_size", self.recipe.eval_batch_size, self.task)
        return self.task.evaluation_batch(self.recipe.eval_seed, self.recipe.eval_batch_size)

    @property
    def scores(self) -> xr.Dataset:
        """Every score that has been computed; axes as in ``headway.checkpoints.scores``.

        Numbers are read from their files when they are looked at, at the steps that are asked for; ``.load()`` reads
        and keeps them all. Files are opened again only when one of them is new or has changed.
        """
        files = {path: path.stat() for path in score_files(self.path).values()}
        state = {path: (stat.st_mtime_ns, stat.st_size) for path, stat in files.items()}
        if self._read is None or self._read[0] != state:
            self._read = (state, read_scores(self.path))
        return self._read[1].copy()

    @property
    def training(self) -> xr.Dataset:
        """Numbers of every update, from TensorBoard's files: ``loss``, ``gradient_norm`` (before clipping) and ``lr``.

        Axis ``step``, the number of updates with this one, from 1: the loss of its batch was taken before it. Empty for
        a run that has trained no step.
        """
        logged = logged_numbers(self.path, list(UPDATE_TAGS.values()))
        values = {name: logged[tag] for name, tag in UPDATE_TAGS.items()}
        # A run that goes on may have written one number of an update and not yet the next.
        steps = sorted(set.intersection(*(set(each) for each in values.values())))
        return xr.Dataset(
            {name: (("step",), np.array([each[step] for step in steps])) for name, each in values.items()},
            {"step": np.array(steps, dtype=int)},
        )

    def study_file(self, name: str, step: int) -> Path:
        """Return the path of the study ``name`` at ``step``."""
        return self.path / "studies" / f"step-{step:08d}" / f"{name}.nc"

    def circuit_file(self, step: int | None, part: str | None, replacement: str, nodes: bool = False) -> Path:
        """Return the path of a circuit found at ``step``; of one over all checkpoints if ``step`` is None.

        Circuits of nodes without edges have a folder of their own.
        """
        folder = "over-steps" if step is None else f"step-{step:08d}"
        circuits = self.path / "circuits" / "nodes" if nodes else self.path / "circuits"
        return circuits / folder / f"{part or 'all'}-{replacement}.safetensors"

    @property
    def circuits(self) -> list[tuple[int, str, str]]:
        """The circuits there are of this run: step, part (``all`` for every position that counts) and replacement."""
        return self._circuits("circuits")

    @property
    def node_circuits(self) -> list[tuple[int, str, str]]:
        """The circuits of nodes without edges, named in the same way."""
        return self._circuits("circuits/nodes")

    def _circuits(self, folder: str) -> list[tuple[int, str, str]]:
        found = (
            (re.fullmatch(r"step-(\d{8,})", path.parent.name), path.stem.rpartition("-"))
            for path in self.path.glob(f"{folder}/step-*/*-*.safetensors")
        )
        return sorted((int(step[1]), part, replacement) for step, (part, _, replacement) in found if step)

    def circuit(
        self,
        step: int | None = None,
        part: str | None = None,
        replacement: str | None = None,
        over_steps: bool = False,
        nodes: bool = False,
    ) -> xr.Dataset:
        """The circuit that ``headway circuit`` found: at ``step``, or the last one that fits what is given.

        Args:
            step: The checkpoint at which it was found; the last one with a circuit if None.
            part: The behaviour: a part of the task, or ``all`` for every position that counts; that of the task if
                there are several and none is given.
            replacement: What stood in for the edges that were not kept; the default of the task likewise.
            over_steps: Give the numbers of the last circuit at every checkpoint instead.
            nodes: Give the circuit of nodes without edges (``headway circuit --nodes``).

        Raises:
            ValueError: no such circuit has been found, or its file is damaged.

        Example:
            >>> circuit = Run("runs/induction").circuit()  # doctest: +SKIP
            >>> circuit.edge[circuit.in_circuit].values, circuit.faithfulness.item()  # doctest: +SKIP
        """
        wanted, found = (step, part, replacement), self.node_circuits if nodes else self.circuits
        option = " --nodes" if nodes else ""
        fitting = [
            each for each in found if all(asked in (None, there) for asked, there in zip(wanted, each, strict=True))
        ]
        if not fitting:
            there = ", ".join(f"{name} ({kind}) at step {at}" for at, name, kind in found) or "none"
            raise ValueError(
                f"circuit: it has not been found; headway circuit {self.path}{option} does; there is {there}"
            )
        name, kind = self.usual_first({each[1:] for each in fitting})[0]
        at = max(step for step, *asked in fitting if asked == [name, kind])
        path = self.circuit_file(None if over_steps else at, name, kind, nodes)
        if not path.exists():
            raise ValueError(f"circuit: {path} is missing; headway circuit {self.path}{option} --part {name} writes it")
        return read_circuit(path)

    def usual_first(self, asked: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the behaviours of circuits, part and replacement, in order.

        That of the task comes first, and what stands in by default.
        """
        if len(asked) < 2:
            return list(asked)
        scored = [path for (_, name), path in score_files(self.path).items() if name == "loss"]
        try:
            stated = read_file(scored[-1]).loss.attrs["behaviour"]["part"] or "all" if scored else None
        except (ValueError, KeyError, TypeError, AttributeError):  # scores of an older version, or damaged ones
            stated = None
        order = {name: place for place, name in enumerate(REPLACEMENTS)}
        return sorted(asked, key=lambda each: (each[0] != stated, order.get(each[1], len(order)), each))

    @property
    def studies(self) -> dict[str, int]:
        """The studies there are of this run, each with the last step at which it was made."""
        return {name: step for step, name in self.studies_at_steps}

    @property
    def studies_at_steps(self) -> list[tuple[int, str]]:
        """The studies there are at every step: step and name."""
        found = ((re.fullmatch(r"step-(\d{8,})", path.parent.name), path) for path in self.path.glob("studies/*/*.nc"))
        return sorted((int(step[1]), path.stem) for step, path in found if step)

    def study(self, name: str, step: int | None = None) -> xr.DataTree:
        """The figures and tables of a study, at ``step`` or the last one at which it was made: a node a section.

        Raises:
            ValueError: a study that has not been made, or whose file is damaged.
        """
        step = self.studies.get(name) if step is None else step
        if step is None or not self.study_file(name, step).exists():
            there = ", ".join(f"{each} at step {at}" for each, at in self.studies.items()) or "none"
            at_step = "" if step is None else f" at step {step}"
            raise ValueError(f"study: {name}{at_step} has not been made; there is {there}")
        return read_tree(self.study_file(name, step))

    def show(self, step: int | Literal["last"] | None = "last") -> "ShownRun":
        """This run's page at a checkpoint, for the output of a notebook.

        The page is the one on disk, which training writes at its end and ``headway report`` anew.

        Raises:
            ValueError: a step that was not kept, or a run without a page.
        """
        step = self.check_step(step)
        if not self.report_file.exists():
            raise ValueError(f"run: {self.path} has no page yet; headway report {self.path} writes it")
        return ShownRun(self, step)

    def summary(self) -> str:
        """Return the summary that ends a training: behaviour, circuit, parts, and what is not needed.

        Raises:
            ValueError: a run without scores.
        """
        from headway.analyze.report.summary import summary

        return summary(self)  # pyright: ignore[reportArgumentType]  # it knows this file under two names

    def plot(self, figure: str, step: int | None = None, **options: Any) -> "Figure":
        """A figure of the page for a paper, drawn by matplotlib; ``headway.analyze.report.figures.plot.draw``.

        Args:
            figure: loss, network, circuit, diagram, attention, eigenvalues, heads, composition or attribution.
            step: A step with scores; the last one if None. Figures over training mark it if it is given.
            options: layer, head, sequence, measure, part, replace, nodes: what of it is drawn.

        Raises:
            ValueError: an unknown figure, an option that it does not take, scores that are missing, or no matplotlib.

        Example:
            >>> Run("runs/induction").plot("attention", step=500, layer=1)  # doctest: +SKIP
        """
        from headway.analyze.report.figures.plot import draw

        # The command calls it at.
        options = options if step is None else {"at": step} | options
        return draw(self, figure, **options)  # pyright: ignore[reportArgumentType]

    def keep(self, step: int, model: "HookedTransformer") -> None:
        """Write the weights of ``step``, as float32, with a label that says of which step and recipe they are."""
        config = self.path / "weights" / "config.json"
        if not config.exists():
            write_whole(config, json.dumps(model.cfg.to_dict(), indent=2))
        write_whole(self.weights_file(step), content_of(arrays_of(model), step, self.config))

    @classmethod
    def create(cls, path: str | Path, recipe: "Recipe", overwrite: bool = False, imported: str | None = None) -> "Run":
        """A new, empty run. A directory that holds a run is refused unless ``overwrite``, which removes that run.

        ``imported`` is the content of import.json, of a run that was trained elsewhere.

        Raises:
            ValueError: a directory that cannot be that of a new run, or a recipe that would come back as another one.
        """
        from headway.checkpoints.environment import environment

        path, _ = cls.place(path, overwrite)
        config = recipe.to_yaml()
        with writing(path):
            # Another process may have come first.
            for old in cls.place(path, overwrite)[1]:
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
            tokenizer = recipe.task.tokenizer_json
            write_whole(path / ENVIRONMENT, json.dumps(environment(), indent=2))
            if tokenizer is not None:
                write_whole(path / TOKENIZER, tokenizer)
            if imported is not None:
                write_whole(path / IMPORT, imported)
            write_whole(path / CONFIG, config)
        return cls(path, type(recipe.task), trust=True)

    @staticmethod
    def place(path: str | Path, overwrite: bool) -> tuple[Path, list[Path]]:
        """Return the directory of a new run, and the files that it replaces.

        Raises:
            ValueError: a directory that holds something else, or other runs, or a run that may not be replaced.
        """
        path = Path(path).expanduser()
        if path.exists() and not path.is_dir():
            raise ValueError(f"out: {path} is a file; it must be a directory")
        check_outside_runs(path)
        inside = next((each for each in sorted(path.glob("*")) if each.is_dir() and holds_run(each)), None)
        if inside:
            raise ValueError(
                f"out: {path} holds the run {inside.name}; it must be empty, or hold no other run than its own"
            )
        there = [old for pattern in CONTENTS for old in path.glob(pattern)]
        if there:
            # A run that was killed while it was made has these alone.
            begun = {old.name for old in there} <= {ENVIRONMENT, TOKENIZER, IMPORT}
            if not (begun or holds_run(path)):
                raise ValueError(f"out: {path} holds {there[0].name} but no run; it must be empty, or hold a run")
            if not (begun or overwrite):
                raise ValueError(f"out: {path} holds a run already; --overwrite replaces it, --resume {path} goes on")
        return path, there


def check_outside_runs(path: Path) -> None:
    """Refuse a directory to write to that lies in a run."""
    around = next((parent for parent in path.resolve().parents if holds_run(parent)), None)
    if around:
        raise ValueError(f"out: {path} lies in the run {around}; it must lie outside of any run")


def check_shapes(path: Path, config: ModelConfig) -> None:
    """Refuse a configuration that is not that of the weights in a file, by the file's header, before it is built.

    A run from somebody else may say sizes that no memory holds, in both of its files.
    """
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        there = set(file.keys())
        for name, shape in config.weight_shapes():
            if name not in there:
                raise ValueError(f"{name} is missing in it, which config.json has")
            if (found := tuple(file.get_slice(name).get_shape())) != shape:
                raise ValueError(f"{name} has the shape {found}, and by config.json {shape}")


@dataclass(frozen=True)
class ShownRun:
    """The page of a run at one step, which a notebook shows in a frame."""

    run: Run
    step: int

    def _repr_html_(self) -> str:
        page = self.run.report_file
        address = html.escape(page.absolute().as_uri())
        place = f'<head><meta name="place" content="step={self.step}" data-address="{address}">'
        text = page.read_text(encoding="utf-8").replace("<head>", place, 1)
        scored = max((folder.stat().st_mtime for folder in self.run.path.glob("scores/step-*")), default=0)
        stale = f"Scored since this page was written; headway report {self.run.path} renews it."
        note = f"<p>{html.escape(stale)}</p>" if scored > page.stat().st_mtime else ""
        return note + framed(text, str(self.run.path), 860)
