"""Text corpora: Python's own source, a folder, a package, a dataset. Files are read, never imported or run."""

import glob
import hashlib
import importlib.util
import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

# Folders of tests, and of packages that are not part of the standard library.
EXCLUDED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
# Reasons to skip a file.
SKIP_REASONS: tuple[str, ...] = ("empty", "undecodable", "duplicate", "unreadable")
# Columns of a dataset that may hold its text; the first one found is used.
COLUMNS = ("text", "content", "code")


@dataclass(frozen=True)
class Corpus:
    """The texts of a corpus without duplicates, in the order of the file names or dataset rows.

    Args:
        name: The name given to ``read_corpus``.
        texts: One text for each file or dataset row.
        skipped: Number of files skipped for each reason: ``empty``, ``undecodable`` (not UTF-8 text), ``duplicate``
            (the same text as another file), ``unreadable``.
    """

    name: str
    texts: tuple[str, ...]
    skipped: dict[str, int]

    @cached_property
    def hash(self) -> str:
        """SHA-256 hash of all texts, in their order."""
        digests = (hashlib.sha256(text.encode()).digest() for text in self.texts)
        return hashlib.sha256(b"".join(digests)).hexdigest()

    def split(self, held_out: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Split into training texts and held-out texts, which have about ``held_out`` of all characters.

        Texts are chosen by a hash of their contents: file names, their order and random seeds have no effect.

        Example:
            >>> corpus = Corpus("", ("a" * 10, "b" * 10, "c" * 10, "d" * 10), {})
            >>> [len(part) for part in corpus.split(0.25)]
            [3, 1]
        """
        order = sorted(self.texts, key=lambda text: hashlib.sha256(text.encode()).digest())
        wanted = held_out * sum(map(len, order))
        # At least one text is held out, and at least one is not.
        up_to = 1 + sum(length < wanted for length in accumulate(map(len, order[:-2])))
        held_out_texts = set(order[:up_to])
        train = tuple(text for text in self.texts if text not in held_out_texts)
        return train, tuple(text for text in self.texts if text in held_out_texts)


def read_corpus(name: str) -> Corpus:
    """Read the texts of ``name``:

    - ``stdlib``: the .py files of this Python's standard library, without its tests;
    - ``package:NAME``: the .py files of an installed package;
    - ``dataset:NAME``: the rows of a Hugging Face dataset's split ``train`` (needs the package ``datasets``);
    - a folder: every file below it except hidden ones; or a file pattern such as ``src/**/*.py``.

    Raises:
        ValueError: there is no such corpus, or it has fewer than two texts, one of which must be held out.

    Example:
        >>> any("def loads(" in text for text in read_corpus("package:json").texts)
        True
    """
    skipped = dict.fromkeys(SKIP_REASONS, 0)
    texts: dict[str, None] = {}
    for text in _rows(name) if name.startswith("dataset:") else _read(_files(name), skipped):
        if not text.strip():
            skipped["empty"] += 1
        elif text in texts:
            skipped["duplicate"] += 1
        else:
            texts[text] = None
    if len(texts) < 2:
        why = ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count) or "none"
        raise ValueError(
            f"corpus: {name!r} has {len(texts) or 'no'} text{'' if len(texts) == 1 else 's'} (skipped: {why}); it must "
            "have at least two, one of which is held out"
        )
    return Corpus(name, tuple(texts), skipped)


def _read(files: list[Path], skipped: dict[str, int]) -> Iterator[str]:
    for path in files:
        try:
            yield path.read_bytes().decode()
        except UnicodeDecodeError:
            skipped["undecodable"] += 1
        except OSError:
            skipped["unreadable"] += 1


def _files(name: str) -> list[Path]:
    if name == "stdlib":
        return _python_files(Path(sysconfig.get_paths()["stdlib"]), EXCLUDED_FOLDERS)
    if name.startswith("package:"):
        return _package(name)
    if not name or "\0" in name:
        raise ValueError(
            f"corpus: {name!r} is not valid; it must be stdlib, package:NAME, dataset:NAME, a folder or a file pattern"
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return sorted(_walk(path, set()))
    found = sorted(Path(each) for each in glob.glob(str(path), recursive=True) if os.path.isfile(each))
    if not found:
        raise ValueError(f"corpus: no folder or file matches {name!r}")
    return found


def _package(name: str) -> list[Path]:
    package = name.removeprefix("package:")
    # find_spec of a submodule would import its package.
    spec = importlib.util.find_spec(package) if re.fullmatch(r"\w+", package) else None
    if spec is None:
        raise ValueError(
            f"corpus: {name!r} is not installed; it must be the import name of a package, such as package:rich"
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    return [path for folder in folders for path in _python_files(folder, set())] or [Path(spec.origin or "")]


def _python_files(folder: Path, excluded: set[str]) -> list[Path]:
    return sorted(path for path in _walk(folder, excluded) if path.suffix == ".py")


def _walk(folder: Path, excluded: set[str]) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".") and each not in excluded]
        yield from (Path(here) / name for name in names if not name.startswith("."))


def _rows(name: str) -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError(
            f"corpus: {name!r} needs the package datasets; install it with pip install 'headway[datasets]'"
        ) from None
    try:
        rows = load_dataset(name.removeprefix("dataset:"), split="train")
    except Exception as error:  # a hub, a network and a file raise errors of many kinds
        raise ValueError(f"corpus: {name!r} cannot be loaded ({type(error).__name__}: {error})") from None
    column = next((column for column in COLUMNS if column in rows.column_names), None)
    if column is None:
        raise ValueError(
            f"corpus: {name!r} has the columns {', '.join(rows.column_names)}; one of them must be "
            f"{', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}"
        )
    return (str(text) for text in rows[column])
