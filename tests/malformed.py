"""A folder with a run of each kind, ways to damage it, and a command in it: the table of malformed input uses them."""

import contextlib
import io
import logging
import os
import shutil
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import torch
from corpora import write_corpus
from language_models import saved_gpt2
from torch.optim import Optimizer
from toy_studies import made_up_study, untrained_run
from toys import NO_POSITIONS, TOKENS, VECTORS, Train

from headway.__main__ import main
from headway.checkpoints.recipe import Recipe
from headway.checkpoints.resuming import digest
from headway.checkpoints.schedule import Schedule
from headway.data.indirect_object import IndirectObject
from headway.data.repeated_synonyms import RepeatedSynonyms
from headway.data.text import Text
from headway.models.config import ModelConfig
from headway.models.lightning_module import TrainingModule
from headway.train import train

SHORT = {"steps": 3, "schedule": Schedule(log=0, linear=0), "batch_size": 2, "eval_batch_size": 3}
RUN = replace(TOKENS, **SHORT)
FILES = {
    "mine.html": "mine",
    "mine.svg": "mine",
    "latin.txt": b"caf\xe9",
    "one.txt": "5,7\n",
    "words.txt": "5,seven\n8,9\n",
    "three.txt": "5,7,9\n",
    "syntax.py": "def (",
    "raising.py": "raise SystemExit(3)",
    "foreign/config.yaml": "colour: red\n",
    "seeds.yaml": "seeds: 0:2\n",
    "empty/.keep": "",
    "few/only.py": "x = 1\n",
    "binary/a": b"\xff\x00",
    "binary/b": b"\xff\x01",
}


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def build(folder: Path, trained: Train) -> None:
    """Fill a folder with runs, a language model, a corpus, and files of a user's own."""
    trained(RUN, folder / "run")
    shutil.copytree(folder / "run", folder / "unscored", ignore=shutil.ignore_patterns("scores", "report.html"))
    made_up_study("run", 3).write(folder / "run" / "studies" / "step-00000003" / "induction.nc")
    with contextlib.chdir(folder):
        write_corpus(Path("corpus"))
        task = Text("corpus", n_tokens=331, length=17)
        model = ModelConfig(n_layers=1, d_model=19, n_ctx=17, d_head=5, n_heads=3, d_vocab=331, attn_only=True)
        train(**vars(replace(RUN, task=task, model=model, steps=1)), out="text")
        killed(replace(RUN, schedule=Schedule(log=0, linear=0, at=(1,))), Path("stopped"))
        sentences = IndirectObject()
        sizes = {"d_vocab": sentences.d_vocab, "d_vocab_out": sentences.d_vocab, "n_ctx": sentences.n_ctx}
        for name, recipe in {
            "vectors": VECTORS,
            "positions": NO_POSITIONS,
            "synonyms": replace(TOKENS, task=RepeatedSynonyms(n_pairs=6, length=11, period_min=5, period_max=5)),
            "sentences": replace(TOKENS, task=sentences, model=replace(TOKENS.model, **sizes)),
        }.items():
            untrained_run(Path(name), replace(recipe, **SHORT), steps=(0, 3))
        untrained_run(Path("begun"), RUN, steps=())
        saved_gpt2(Path("gpt2"))
        for name, content in FILES.items():
            write(Path(name), content)


def killed(recipe: Recipe, out: Path) -> None:
    """A run that was killed after its checkpoint at step 1."""
    step = TrainingModule.loss_and_gradient

    def die(module: TrainingModule, index: int, optimizer: Optimizer) -> torch.Tensor:
        if module.global_step == 2:
            raise ZeroDivisionError
        return step(module, index, optimizer)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ZeroDivisionError):
        patch.setattr(TrainingModule, "loss_and_gradient", die)
        train(**vars(recipe), out=out)


@dataclass(frozen=True)
class Damage:
    """Something that is wrong in the folder, in words, and what makes it so."""

    what: str
    apply: Callable[[], None]
    path: str = ""


def replaced(path: str, old: str, new: str) -> Damage:
    """Another text in place of one that a file holds."""

    def apply() -> None:
        whole = Path(path).read_text()
        assert old in whole, f"{path} holds no {old!r}"
        Path(path).write_text(whole.replace(old, new, 1))

    return Damage(f"{path} with {new[:30]!r} for {old!r}", apply, path)


def holding(path: str, content: bytes | str) -> Damage:
    """Another content of a file."""
    return Damage(f"{path} holding {content[:30]!r}", lambda: write(Path(path), content), path)


def cut(path: str) -> Damage:
    """The first half of a file."""
    return Damage(
        f"half of {path}", lambda: write(Path(path), Path(path).read_bytes()[: -Path(path).stat().st_size // 2]), path
    )


def gone(path: str) -> Damage:
    """A file or folder that is not there."""

    def apply() -> None:
        assert Path(path).exists()
        remove(Path(path))

    return Damage(f"without {path}", apply, path)


def folder_at(path: str) -> Damage:
    """A folder in place of a file."""

    def apply() -> None:
        remove(Path(path))
        Path(path).mkdir(parents=True)

    return Damage(f"a folder at {path}", apply, path)


def file_at(path: str) -> Damage:
    """A file in place of a folder."""

    def apply() -> None:
        remove(Path(path))
        Path(path).write_text("a file")

    return Damage(f"a file at {path}", apply, path)


def link_at(path: str, target: str) -> Damage:
    """A link in place of a file."""

    def apply() -> None:
        remove(Path(path))
        Path(path).symlink_to(target)

    return Damage(f"{path} linked to {target}", apply, path)


def typed(content: bytes) -> Damage:
    """Bytes that come through a pipe."""
    stdin = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    return Damage(f"{content!r} typed", lambda: setattr(sys, "stdin", stdin))


def with_tensors(path: str, change: Callable[[dict[str, Any]], None]) -> Damage:
    """A safetensors file with other arrays; its metadata stay."""

    def apply() -> None:
        with safetensors.safe_open(path, framework="np") as file:
            arrays, metadata = {name: file.get_tensor(name) for name in list(file.keys())}, file.metadata()
        change(arrays)
        Path(path).write_bytes(safetensors.numpy.save(arrays, metadata))

    return Damage(f"{path} {change.__name__}", apply, path)


def with_checkpoint(change: Callable[[dict[str, Any]], Any], signed: bool = False) -> Damage:
    """An altered resume.ckpt of the run that was killed, with a digest that fits if ``signed``."""
    path = Path("stopped/resume.ckpt")

    def apply() -> None:
        checkpoint = torch.load(path, weights_only=True)
        changed = change(checkpoint)
        checkpoint = checkpoint if changed is None else changed
        if signed:
            checkpoint["digest"] = digest(checkpoint)
        torch.save(checkpoint, path)

    return Damage(f"resume.ckpt {change.__name__}{' and signed' if signed else ''}", apply, str(path))


def remove(path: Path) -> None:
    """Remove a file or a folder; in their place may be nothing."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def copied(whole: Path, folder: Path, names: str) -> None:
    """Copy those entries of a folder that occur in ``names``."""
    for each in whole.iterdir():
        if each.name in names:
            shutil.copytree(each, folder / each.name) if each.is_dir() else shutil.copy2(each, folder / each.name)


Contents = dict[Path, bytes | str | None]


def contents(folder: Path) -> Contents:
    """Everything on disk: files with what they hold, links with where they lead, folders."""

    def content(path: Path) -> bytes | str | None:
        if path.is_symlink():
            return str(path.readlink())
        return path.read_bytes() if path.is_file() else None

    return {path: content(path) for path in folder.rglob("*")}


class Watched:
    """A folder in which nothing is to change; its files are read again only if one of them was written."""

    def __init__(self, folder: Path):
        self.folder, self.before = folder, contents(folder)
        self._written = written(folder)

    def now(self) -> Contents:
        """Return what the folder holds; what has changed is undone, because other cases begin with the same folder."""
        now = written(self.folder)
        if now == self._written:
            return self.before
        after = contents(self.folder)
        if after != self.before:
            for path in self.folder.iterdir():
                remove(path)
            restore(self.folder, self.before)
        self._written = written(self.folder)
        return after


def written(folder: Path) -> dict[str, tuple[int, int, int] | None]:
    """Where and when each file and link in a folder was written. The time of a folder says only what came and went."""
    found = {}
    for place, folders, files in os.walk(folder):
        for path in (f"{place}/{name}" for name in (*folders, *files)):
            state = os.lstat(path)
            is_folder = stat.S_ISDIR(state.st_mode)
            found[path] = None if is_folder else (state.st_ino, state.st_size, state.st_mtime_ns)
    return found


def restore(folder: Path, whole: Contents) -> None:
    """Fill an empty folder with what ``contents`` found in it."""
    for path, content in whole.items():
        write(path, content) if isinstance(content, bytes) else path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def no_noise(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail for a warning that a user would see, and for a record of a log."""
    with warnings.catch_warnings(record=True) as seen:
        yield
    shown = [each for each in seen if not issubclass(each.category, DeprecationWarning | PendingDeprecationWarning)]
    assert not shown, [str(each.message) for each in shown]
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def refused(command: list[str], code: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> str:
    """The one line that a command says, and nothing else, if it ends with ``code``."""
    with no_noise(caplog), pytest.raises(SystemExit) as end:
        main(command)
    said = capfd.readouterr()
    assert (end.value.code, said.out) == (code, ""), said
    assert said.err.startswith("headway: "), said.err
    assert said.err.count("\n") == 1, said.err
    return said.err


def holds(line: str, says: str) -> bool:
    """Return whether a line holds the pieces of ``says``, which ``…`` separates, in this order."""
    rest = line
    for piece in says.split(" … "):
        _, found, rest = rest.partition(piece)
        if not found:
            return False
    return True
