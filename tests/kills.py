"""Kills of commands at seeded moments, and how what they left differs from an undisturbed run once it has gone on."""

import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import few_networks  # noqa: F401
import torch
import xarray as xr
from corpora import write_corpus
from forks import Ended, forked
from toys import LAST, TOKENS, WHOLE, handmade_run

from headway.checkpoints import Run
from headway.checkpoints.recipe import Recipe
from headway.checkpoints.resuming import digest
from headway.checkpoints.schedule import Schedule
from headway.data.text import Text
from headway.models.config import ModelConfig

RECIPE = replace(TOKENS, steps=23, schedule=Schedule(log=3, linear=4, at=(5,), state_every=3))
TEXT = Recipe(
    task=Text("corpus", n_tokens=331, length=17),
    model=ModelConfig(n_layers=1, d_model=19, n_ctx=17, d_head=5, n_heads=3, d_vocab=331, attn_only=True),
    schedule=Schedule(log=2, linear=1),
    trainer=TOKENS.trainer,
    steps=5,
    batch_size=5,
    eval_batch_size=7,
)
TRAIN = ["train", "--config", "recipe.yaml", "--out", "run"]
RESUME = ["train", "--resume", "run"]
MEASURE = ["measure", "run", "--only", "ablation,rank_95,qk_attribution", "--at", "5,23"]
# It begins at the state of step 6.
DENSIFY = ["densify", "run", "--between", "12", "17", "--steps", "2"]
CIRCUIT = ["circuit", "run", "--orders", "1", "--controls", "3"]


class Moment(NamedTuple):
    """One operation on a file: the ``nth`` of this kind on this path, whose changing parts are X."""

    operation: str
    path: str
    nth: int


@dataclass(frozen=True)
class Scenario:
    """A command that is killed.

    Args:
        command: The arguments of ``headway``.
        prepare: Makes what the command finds in its working directory.
        goes_on: The command with which a user goes on where a run is there; the same command if None.
    """

    command: list[str]
    prepare: Callable[["Scenes", Path], None]
    goes_on: list[str] | None = None


def _recipe(scenes: "Scenes", folder: Path) -> None:
    RECIPE.save(folder / "recipe.yaml")
    scenes.warm(folder)


def _corpus(_: "Scenes", folder: Path) -> None:
    write_corpus(folder / "corpus")
    TEXT.save(folder / "recipe.yaml")


def _killed(scenes: "Scenes", folder: Path) -> None:
    """A run that was killed after some of its checkpoints, between two files of scores."""
    _recipe(scenes, folder)
    # Its log has updates of later steps than its last resume.ckpt.
    moment = Moment("rename", "run/scores/step-00000012/previous_token.safetensors", 1)
    ended = forked(partial(perform, TRAIN, folder, moment), folder, kill=True)
    assert ended.status == -signal.SIGKILL, ended


def _another(scenes: "Scenes", folder: Path) -> None:
    """A finished run of another seed."""
    _recipe(scenes, folder)
    replace(RECIPE, seed=1).save(folder / "recipe.yaml")
    assert forked(partial(perform, TRAIN, folder), folder).status == 0
    RECIPE.save(folder / "recipe.yaml")


def _finished(scenes: "Scenes", folder: Path) -> None:
    shutil.copytree(scenes.undisturbed("train").folder, folder, dirs_exist_ok=True)


def _knowing(_: "Scenes", folder: Path) -> None:
    """A run that nobody trained, with something to explain at three of its checkpoints."""
    handmade_run(folder / "run")


SCENARIOS = {
    "train": Scenario(TRAIN, _recipe, RESUME),
    "resume": Scenario(RESUME, _killed, RESUME),
    "overwrite": Scenario([*TRAIN, "--overwrite"], _another, [*TRAIN, "--overwrite"]),
    "corpus": Scenario([*TRAIN, "--trust"], _corpus, [*RESUME, "--trust"]),
    "measure": Scenario(MEASURE, _finished),
    "study": Scenario(["study", "induction", "run"], _finished),
    "report": Scenario(["report", "run"], _finished),
    "circuit": Scenario(CIRCUIT, _knowing),
    "densify": Scenario(DENSIFY, _finished),
}
# How often a command is killed at any time; the other half of the kills is at a moment of a file.
AT_ANY_TIME = ("train", "train", "resume", "train", "corpus", "measure", "train", "study", "densify", "circuit")
KINDS = {
    "config.yaml": r"run/\.?config\.yaml",
    "environment.json": r"environment\.json",
    "config.json of weights": r"weights/\.?config\.json",
    "weights": r"run/weights\b",
    "state": r"run/states",
    "resume.ckpt": r"resume\.ckpt",
    "null scores": r"run/scores/null",
    "scores": r"run/scores",
    "log": r"run/(events|\.log\.)",
    "page": r"report\.html",
    "lock": r"\.lock|\.writer\.json",
    "study": r"run/studies",
    "circuit": r"run/circuits",
    "tokenizer": r"run/\.?tokenizer\.json",
    "cached text": r"cache/text",
    "cached nulls": r"cache/nulls",
}
CHANGING = [
    (r"\.\d+\.part\b", ".X.part"),
    (r"cache/text/\.[^/]*", "cache/text/.X"),
    (r"events\.out\.tfevents\.\d+\.(?!mended)[^/]*", "events.X"),
]


@dataclass(frozen=True)
class Undisturbed:
    """A scenario that nothing kills: its folder, the moments of its files, and how long it took."""

    folder: Path
    moments: list[Moment]
    seconds: float


class Scenes:
    """The scenarios' starting points and undisturbed ends, each made once in ``root``."""

    def __init__(self, root: Path):
        self.root = root
        self._ends: dict[str, Undisturbed] = {}

    def warm(self, folder: Path) -> None:
        """Copy the cache of nulls, once there is one."""
        if (self.root / "warm" / "cache").exists():
            shutil.copytree(self.root / "warm" / "cache", folder / "cache", dirs_exist_ok=True)

    def begin(self, name: str, folder: Path) -> Path:
        """Return ``folder`` with what the scenario ``name`` begins with."""
        start = self.root / f"{name}-start"
        if not start.exists():
            if name == "train" and not (self.root / "warm").exists():
                (self.root / "warm").mkdir()
                RECIPE.save(self.root / "warm" / "recipe.yaml")
                done = forked(partial(perform, TRAIN, self.root / "warm"), self.root / "warm")
                assert done.status == 0, done.printed
            start.mkdir()
            SCENARIOS[name].prepare(self, start)
        shutil.copytree(start, folder)
        return folder

    def undisturbed(self, name: str) -> Undisturbed:
        """Return the end of a scenario that nothing kills."""
        if name not in self._ends:
            folder = self.begin(name, self.root / f"{name}-undisturbed")
            found = self.root / f"{name}-moments.json"
            begun = time.monotonic()
            ended = forked(partial(perform, SCENARIOS[name].command, folder, found), folder)
            if ended.status:
                raise RuntimeError(f"{name} failed undisturbed:\n{ended.printed}")
            moments = [Moment(*each) for each in json.loads(found.read_text())]
            self._ends[name] = Undisturbed(folder, moments, time.monotonic() - begun)
        return self._ends[name]


@dataclass(frozen=True)
class Kill:
    """One kill, which its seed decides: a scenario, a kind of moment, and the moment or the share of its time."""

    seed: int
    scenario: str
    kind: str
    moment: Moment | None = None
    share: float = 0.0


# The first seeds: between two files that belong together, and in the middle of one.
CIRCUIT_OF = "run/circuits/{}/.repeats-twin.safetensors.X.part"
BETWEEN = (
    ("train", "between weights and resume.ckpt of step 0", Moment("open", "run/.resume.ckpt.X.part", 1)),
    ("train", "between weights and resume.ckpt of the end", Moment("open", "run/.resume.ckpt.X.part", 7)),
    ("train", "between two scores", Moment("rename", "run/scores/step-00000006/k_composition.safetensors", 1)),
    ("resume", "in the middle of the log", Moment("append half of", "run/.log.X.part/events.X", 5)),
    ("circuit", "in the middle of a circuit", Moment("write half of", CIRCUIT_OF.format(f"step-{LAST:08d}"), 1)),
    ("circuit", "between two circuits", Moment("open", CIRCUIT_OF.format(f"step-{WHOLE:08d}"), 1)),
    ("densify", "between the log and the page", Moment("open", "run/.report.html.X.part", 1)),
    ("train", "between state and weights", Moment("open", "run/weights/.step-00000006.safetensors.X.part", 1)),
)


def draw(scenes: Scenes, seed: int, scenarios: Iterable[str] = SCENARIOS) -> Kill:
    """Draw a kill: the first between two files, then of even seeds at a moment of a file, of odd seeds at any time.

    Kinds of files, and the commands that write them, take turns.
    """
    if seed < len(BETWEEN):
        return Kill(seed, *BETWEEN[seed])
    draws, scenarios = random.Random(seed), list(scenarios)
    if seed % 2:
        timed = [name for name in AT_ANY_TIME if name in scenarios]
        return Kill(seed, timed[seed // 2 % len(timed)], "any time", share=draws.random())
    pairs: dict[tuple[str, str], list[Moment]] = {}
    for name in scenarios:
        for moment in scenes.undisturbed(name).moments:
            pairs.setdefault((kind_of(moment.path), name), []).append(moment)
    # Each kind in turn, and of a kind each command.
    kinds = sorted({kind for kind, _ in pairs})
    turns = [[(kind, name) for name in scenarios if (kind, name) in pairs] for kind in kinds]
    in_turn = [pair for row in zip_longest(*turns) for pair in row if pair is not None]
    kind, name = in_turn[seed // 2 % len(in_turn)]
    return Kill(seed, name, kind, draws.choice(pairs[kind, name]))


def kind_of(path: str) -> str:
    """Return the kind of file that a path is of."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, path)), "folder")


class Outcome(NamedTuple):
    """Whether the kill came before the command had ended, and how the end differs from the undisturbed one."""

    killed: bool
    wrong: list[str]


def survive(scenes: Scenes, kill: Kill, folder: Path) -> Outcome:
    """Kill a command, go on as a user would, and compare the end with the undisturbed one."""
    scenario, undisturbed = SCENARIOS[kill.scenario], scenes.undisturbed(kill.scenario)
    scenes.begin(kill.scenario, folder)
    if kill.moment is None:
        ended = forked(partial(perform, scenario.command, folder), folder, kill.share * undisturbed.seconds, kill=True)
    else:
        ended = forked(partial(perform, scenario.command, folder, kill.moment), folder, kill=True)
    killed = ended.status == -signal.SIGKILL
    if not killed and not (kill.moment is None and ended.status == 0):
        return Outcome(killed, [f"the command was not killed: {_end_of(ended)}"])
    goes_on = scenario.command
    if scenario.goes_on is not None and is_run(folder / "run"):
        goes_on = scenario.goes_on
    again = forked(partial(perform, goes_on, folder), folder)
    if again.status:
        return Outcome(killed, [f"{' '.join(goes_on)}: {_end_of(again)}"])
    return Outcome(killed, differences(folder, undisturbed.folder))


def is_run(path: Path) -> bool:
    """Return whether ``path`` is a run that opens."""
    try:
        Run(path)
    except ValueError:
        return False
    return True


def differences(found: Path, expected: Path) -> list[str]:
    """Return every way in which a folder differs from that of an undisturbed command."""
    wrong = []
    theirs, ours = (set(map(str, _files(folder))) for folder in (expected, found))
    wrong += [f"{name} is left over" for name in sorted(ours - theirs)]
    # A cache may lack what can be made again.
    wrong += [f"{name} is missing" for name in sorted(theirs - ours) if not name.startswith("cache/nulls")]
    for name in sorted(ours & theirs):
        if not _same(found / name, expected / name):
            wrong.append(f"{name} is different")
    run, whole = Run(found / "run"), Run(expected / "run")
    if run.steps != whole.steps or not run.finished:
        wrong.append(f"steps {run.steps}, finished {run.finished}")
    if not run.training.identical(whole.training):
        wrong.append(f"training has {run.training.sizes['step']} of {whole.training.sizes['step']} updates")
    log, whole_log = logged(run), logged(whole)
    for tag in sorted(log.keys() | whole_log.keys()):
        if log.get(tag) != whole_log.get(tag):
            steps = [[step for step, _ in each.get(tag, [])] for each in (log, whole_log)]
            wrong.append(f"log: {tag} has steps {steps[0]}, not {steps[1]}")
    return wrong


def logged(run: Run) -> dict[str, list[tuple[int, Any]]]:
    """Return every number and picture of the log, by tag, with its step; of texts and options the step alone."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    everything = {"scalars": 0, "images": 0, "tensors": 0}
    events = EventAccumulator(str(run.path), size_guidance=everything).Reload()
    tags = events.Tags()
    return {
        **{tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in tags["scalars"]},
        **{tag: [(each.step, each.encoded_image_string) for each in events.Images(tag)] for tag in tags["images"]},
        **{f"{tag} (text)": [(each.step, None) for each in events.Tensors(tag)] for tag in tags["tensors"]},
        **{f"{name} (options)": [] for name in events.summary_metadata if name.startswith("_hparams")},
    }


def _files(folder: Path) -> Iterable[Path]:
    """The files and folders of a scene; those of the log, whose names hold a time, are compared by what is in them."""
    for path in folder.rglob("*"):
        if not path.name.startswith("events.out.tfevents."):
            yield path.relative_to(folder)


def _same(path: Path, other: Path) -> bool:
    # A run whose last weights are kept is finished, whatever resume.ckpt is of.
    if path.is_dir() or path.name == "resume.ckpt":
        return True
    if path.suffix == ".ckpt":
        # A file of torch depends on which of its parts are one object in memory.
        return digest(torch.load(path, weights_only=True)) == digest(torch.load(other, weights_only=True))
    if path.suffix == ".nc":
        return xr.open_datatree(path, engine="h5netcdf").identical(xr.open_datatree(other, engine="h5netcdf"))
    if path.name == "report.html":
        return _without_times(path.read_bytes()) == _without_times(other.read_bytes())
    return path.read_bytes() == other.read_bytes()


def _without_times(page: bytes) -> bytes:
    """Leave out when the training began and how long it took: the page alone says that."""
    return re.sub(rb'"([^"]* from the first update to the last|[0-9-]{10} [0-9:]{5} UTC)"', b"", page)


def _end_of(ended: Ended) -> str:
    return f"status {ended.status}, {' '.join(ended.printed.strip().splitlines()[-1:])}"


def perform(arguments: list[str], folder: Path, at: Moment | Path | None = None) -> None:
    """Give a command in a child; be killed at a moment, or write the moments that there are into a file."""
    from headway.__main__ import main

    sys.argv = ["headway", *arguments]
    seen: Counter[tuple[str, str]] = Counter()
    moments: list[Moment] = []
    root = f"{folder}/"

    def is_now(operation: str, path: str) -> bool:
        if not path.startswith(root):
            return False
        name = path.removeprefix(root)
        for pattern, constant in CHANGING:
            name = re.sub(pattern, constant, name)
        seen[operation, name] += 1
        moments.append(Moment(operation, name, seen[operation, name]))
        return moments[-1] == at

    if at is not None:
        _watch(is_now)
    main(arguments)
    if isinstance(at, Path):
        at.write_text(json.dumps(moments))


def _watch(is_now: Callable[[str, str], bool]) -> None:
    """Ask ``is_now`` before each operation that changes a file, and in the middle of those that write one."""
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    def absolute(path: Any) -> str:
        return os.path.abspath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else ""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if (set(mode) & set("wax+")) if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR):
                die_if("open", absolute(path))
        elif event == "os.rename":
            die_if("rename", absolute(arguments[1]))
        elif event in ("os.remove", "os.mkdir", "os.rmdir"):
            die_if(event.removeprefix("os."), absolute(arguments[0]))

    def die_if(operation: str, path: str) -> None:
        if is_now(operation, path):
            os.kill(os.getpid(), signal.SIGKILL)

    fsync, append = os.fsync, LocalFileSystem._write

    def synced(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if not os.path.isdir(path) and is_now("write half of", path):
            with suppress(OSError):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        die_if("sync", path)
        fsync(descriptor)

    def appended(self: Any, filename: Any, file_content: Any, mode: str) -> None:
        if is_now("append half of", absolute(filename)):
            append(self, filename, file_content[: len(file_content) // 2], mode)
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, filename, file_content, mode)

    os.fsync, LocalFileSystem._write = synced, appended
    sys.addaudithook(hook)
