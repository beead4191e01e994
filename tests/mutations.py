"""Seeded mutations of every file that Headway reads; each reader and command must succeed or say why it cannot."""

import contextlib
import io
import os
import random
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from corpora import write_corpus
from forks import forked
from kills import DENSIFY, RECIPE, TEXT, Scenes, perform
from toy_studies import made_up_study
from toys import made_up_circuit, made_up_over_steps

from headway.checkpoints import Run

# The scene: a finished run with a study, a run that was killed, and a run of text with its cached corpus.
TOY, STOPPED, WORDS = "toy", "stopped", "words"
FORMATS = {
    "config.yaml": "*/config.yaml",
    "recipe.yaml": "recipe.yaml",
    "environment.json": "*/environment.json",
    "config.json of weights": "*/weights/config.json",
    "weights": "*/weights/*.safetensors",
    "resume.ckpt": "stopped/resume.ckpt",
    "state": "toy/states/step-00000006.ckpt",
    "scores": "*/scores/step-*/*.safetensors",
    "null scores": "*/scores/null/*.safetensors",
    "log": "*/events.*",
    "page": "*/report.html",
    "study": "toy/studies/*/*.nc",
    "circuit": "toy/circuits/*/*.safetensors",
    "tokenizer": "words/tokenizer.json",
    "corpus": "corpus/*/*.py",
    "cached text": "cache/text/*/*",
    "cached nulls": "cache/nulls/*/*",
    "lock": "stopped/.writer.json",
}
HOW = ("flip", "flip", "random", "insert", "delete", "truncate", "empty", "double", "zero", *["word"] * 4)
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")
# What a number or a word in a file may become.
VALUES = (
    b"null", b"-1", b"0", b"1", b"7", b"99999999999", b"1e400", b"NaN", b".nan", b"1.5", b"true", b'""', b"[]", b"{}",
    b"[1, 2]", b"x", b"\xff", b"'", b'"', b"F64", b"!!python/name:os.system", b"\n", b"[[[[[[[[", b"../../x",
)  # fmt: skip
# Of address space, beyond what the process has at its start.
MEMORY = 2 << 30
SECONDS = 60
READERS: dict[str, Callable[[Run], object]] = {
    "steps": lambda run: run.steps,
    "finished": lambda run: run.finished,
    "config": lambda run: run.config,
    "recipe": lambda run: run.recipe,
    "batch": lambda run: run.batch(),
    "scores": lambda run: run.scores.load(),
    "training": lambda run: run.training,
    "first model": lambda run: run.model(run.check_step(0, nearest=True)),
    "last model": lambda run: run.model(),
    "tokenizer": lambda run: run.tokenizer,
    "studies": lambda run: [run.study(name) for name in run.studies],
    "circuits": lambda run: [run.circuit(*each) for each in run.circuits],
    "circuit over steps": lambda run: run.circuit(over_steps=True) if run.circuits else None,
    "summary": lambda run: run.summary(),
    "card": lambda run: run._repr_html_(),
    "show": lambda run: run.show()._repr_html_(),
}
RESUMES = ["train", "--resume", "{run}", "--trust"]
DENSIFIES = [each.replace("run", "{run}") for each in DENSIFY]
LOOKS = [
    ["report", "{run}"],
    ["formation", "{run}"],
    ["plot", "{run}", "loss", "--overwrite", "--out", "loss.svg"],
    ["plot", "{run}", "attention", "--overwrite", "--out", "attention.svg"],
    ["plot", "{run}", "composition", "--overwrite", "--out", "composition.svg"],
    ["measure", "{run}", "--only", "loss,previous_token,rank_95", "--at", "0", "--overwrite", "--trust"],
    RESUMES,
]
COMMANDS = {
    TOY: [
        ["study", "induction", "{run}"],
        ["plot", "{run}", "circuit", "--overwrite", "--out", "circuit.svg"],
        DENSIFIES,
        *LOOKS,
    ],
    STOPPED: LOOKS,
    WORDS: [["text", "{run}", "x = a"], *LOOKS],
    "": [
        ["train", "--config", "recipe.yaml", "--out", "new", "--overwrite", "--steps", "1"],
        ["train", "--config", "words.yaml", "--out", "new", "--overwrite", "--trust", "--steps", "1"],
    ],
}


class Mutation(NamedTuple):
    """One change of one file, and the commands that read it afterwards, by run."""

    seed: int
    kind: str
    path: Path
    how: str
    content: bytes
    commands: dict[str, list[list[str]]]


def draw(scene: Path, seed: int) -> Mutation:
    """Draw a file, each format in turn, and one change of it."""
    draws = random.Random(seed)
    kind = list(FORMATS)[seed % len(FORMATS)]
    path = draws.choice(sorted(path for path in scene.glob(FORMATS[kind]) if path.is_file()))
    how, content = _changed(path.read_bytes(), draws)
    path = path.relative_to(scene)
    first = path.parts[0]
    runs = [first] if first in (TOY, STOPPED, WORDS) else [WORDS, ""] if first in ("cache", "corpus") else [""]
    commands = {run: draws.sample(COMMANDS[run], 2) for run in runs}
    reader = {"state": DENSIFIES}.get(kind, RESUMES if first == STOPPED else None)
    if reader is not None and reader not in commands[first]:
        commands[first].append(reader)
    return Mutation(seed, kind, path, how, content, commands)


def _changed(content: bytes, draws: random.Random) -> tuple[str, bytes]:
    """Return the name of a change, and the changed content."""
    at = draws.randrange(len(content)) if draws.random() < 0.5 else draws.randrange(min(len(content), 700))
    size = draws.choice((1, 1, 4, 16, 128))
    before, part, after = content[:at], content[at : at + size], content[at + size :]
    how = draws.choice(HOW)
    if how == "word":
        words = list(re.finditer(rb"[A-Za-z_]{2,}|-?\d+(?:\.\d+)?", content[at : at + 4000]))
        if words:
            word = draws.choice(words)
            value = draws.choice(VALUES)
            name = f"{word[0][:20].decode()} to {value.decode(errors='replace')}"
            return name, content[: at + word.start()] + value + content[at + word.end() :]
        how = "flip"
    changed = {
        "flip": before + bytes([part[0] ^ 1 << draws.randrange(8)]) + part[1:] + after,
        "random": before + draws.randbytes(len(part)) + after,
        "insert": before + draws.randbytes(size) + part + after,
        "delete": before + after,
        "truncate": before,
        "empty": b"",
        "double": before + part + part + after,
        "zero": before + bytes(len(part)) + after,
    }
    return how, changed[how]


def write_scene(scenes: Scenes) -> Path:
    """Write the runs that are mutated, and return their folder."""
    scene = scenes.root / "scene"
    shutil.copytree(scenes.undisturbed("train").folder / "run", scene / TOY)
    shutil.copytree(scenes.begin("resume", scenes.root / "scene-stopped") / "run", scene / STOPPED)
    made_up_study(TOY, RECIPE.steps).write(Run(scene / TOY).study_file("induction", RECIPE.steps))
    edges = ["embed->L0H1.q", "embed->L0H1.v", "L0H1->output"]
    made_up_circuit(Run(scene / TOY), RECIPE.steps, edges, ["L0H2->output"], ("L0H1", "L0H2"))
    made_up_over_steps(Run(scene / TOY), RECIPE.steps)
    RECIPE.save(scene / "recipe.yaml")
    TEXT.save(scene / "words.yaml")
    write_corpus(scene / "corpus", files=7)
    for command in (
        ["measure", TOY, "--only", "rank_95", "--at", f"0,{RECIPE.steps}"],
        ["report", TOY],
        ["train", "--config", "words.yaml", "--trust", "--out", WORDS],
    ):
        ended = forked(partial(perform, command, scene), scene)
        assert ended.status == 0, ended.printed
    return scene


def survive(scene: Path, mutation: Mutation, folder: Path) -> list[str]:
    """Change one file in a copy of the scene, let everything read it, and return what is wrong."""
    others = {TOY, STOPPED} - set(mutation.commands)
    shutil.copytree(scene, folder, ignore=lambda at, _: others if at == str(scene) else ())
    (folder / mutation.path).write_bytes(mutation.content)
    report = folder.with_name(f"{folder.name}.wrong")
    ended = forked(partial(_read_all, mutation.commands, folder, report), folder, SECONDS, memory=MEMORY)
    wrong = report.read_text().splitlines()
    if ended.status:
        wrong.append(f"the process ended with status {ended.status}: {ended.printed[-700:]}")
    if STOPPED in mutation.commands:
        wrong += _other_weights(folder / STOPPED, scene / TOY, mutation)
    report.unlink()
    return wrong


def _other_weights(resumed: Path, whole: Path, mutation: Mutation) -> Iterator[str]:
    """A run that went on has the weights of the undisturbed run, but for those whose file was mutated."""
    for path in sorted(resumed.glob("weights/*.safetensors")):
        name = path.relative_to(resumed)
        if name != Path(*mutation.path.parts[1:]) and path.read_bytes() != (whole / name).read_bytes():
            yield f"{name} has other weights after --resume"


def _read_all(commands: dict[str, list[list[str]]], folder: Path, report: Path) -> None:
    """Read with every reader and command, and write what is wrong, one line each, as soon as it is."""
    from headway.__main__ import main

    with report.open("w", buffering=1) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        current = ""

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            # Headway asks for its commit, and Python for the machine.
            if event in STARTS and arguments[0] not in ("git", "uname"):
                file.write(f"{current}: {event} {arguments[0]!r}\n")

        sys.addaudithook(hook)
        for run in commands:
            for name, read in READERS.items() if run else ():
                current, before = f"Run({run!r}).{name}", _state(folder)
                try:
                    read(Run(run, trust=True))
                except (ValueError, OSError):
                    pass
                except BaseException as error:
                    file.write(f"{current}: {_said(error)}\n")
                if _state(folder) != before:
                    file.write(f"{current} has changed files\n")
            for command in commands[run]:
                arguments = [each.format(run=run) for each in command]
                current, before = " ".join(arguments), _state(folder)
                printed, status = io.StringIO(), 0
                try:
                    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
                        main(arguments)
                except SystemExit as end:
                    status = end.code
                    last = printed.getvalue().strip().split("\n")[-1]
                    if status not in (1, 2) or not last.startswith("headway: "):
                        file.write(f"{current}: status {status}, {last}\n")
                    elif status == 2 and (changed := _changed_by(command, _state(folder) ^ before)):
                        names = ", ".join(sorted({os.path.relpath(path, folder) for path in changed}))
                        file.write(f"{current}: was refused ({last}), but has changed {names}\n")
                except BaseException as error:
                    file.write(f"{current}: {_said(error)}\n")
                if "Traceback" in printed.getvalue():
                    file.write(f"{current}: printed a traceback, {' '.join(printed.getvalue().split())[-300:]}\n")


def _changed_by(command: list[str], files: set[tuple[str, int, int, int]]) -> set[str]:
    """The files that a command should not have changed: measuring goes on from the scores that it has computed."""
    scores = command[0] in ("measure", "densify") or "--resume" in command
    return {path for path, *_ in files if not (scores and "/scores/" in path)}


def _said(error: BaseException) -> str:
    """The kind of an error, where it came from in Headway, and its first line."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' '.join(frames[-4:])}: {' '.join(str(error).split())[:200]}"


def _state(folder: Path) -> set[tuple[str, int, int, int]]:
    """Every file with what changes when it is written; locks, caches and what killed processes left do not count."""
    found = set()
    for at, _, names in os.walk(folder):
        if "/cache" not in at:
            for name in names:
                stat = os.stat(os.path.join(at, name))
                if name not in (".lock", ".writer.json") and not name.endswith(".part"):
                    found.add((os.path.join(at, name), stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return found
