"""Nulls of a run: scores of fresh initialisations, stored with the run and, by content, in the user's cache."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
import xarray as xr

import headway
from headway.analyze.measures.measure import Measure
from headway.analyze.measures.nulls import Null, fresh_initialisations
from headway.checkpoints.run import Run
from headway.checkpoints.scores import read_file, score_file, write_scores
from headway.data.cache import cache_folder
from headway.data.parts import remove_parts
from headway.data.task import Batch

# A null depends on the code in these files.
_CODE = ("data/seeds.py", "models/*.py", "analyze/network/*.py", "analyze/measures/*.py")


class Nulls:
    """Nulls of a run's measures, from scores of fresh initialisations.

    They are computed once for a configuration and an evaluation batch: each run stores its own copy, and runs with the
    same configuration and batch share them through the user's cache.
    """

    def __init__(self, run: Run, measures: Sequence[Measure], batch: Batch):
        self.run, self.measures, self.batch = run, [each for each in measures if each.fresh_null], batch
        self.loaded: dict[str, Null] = {}

    def __getitem__(self, name: str) -> Null:
        """Return the null of one measure; missing nulls of all measures are computed together."""
        path = score_file(self.run.path, None, name)
        if not path.exists():
            self._make()
        if name not in self.loaded:
            scale = next(each.scale for each in self.measures if each.name == name)
            try:
                self.loaded[name] = Null.from_dataset(read_file(path), scale)
            except TypeError:
                raise ValueError(f"scores: {path} holds no null; remove it and measure again") from None
        return self.loaded[name]

    def check(self) -> None:
        """Refuse a null of the run that cannot be read; one that it lacks is computed when it is needed."""
        for each in self.measures:
            if score_file(self.run.path, None, each.name).exists():
                _ = self[each.name]

    def _make(self) -> None:
        """Take each missing null of the run from the cache, or compute it and store it in the run and in the cache."""
        lacking = [each for each in self.measures if not score_file(self.run.path, None, each.name).exists()]
        folder = cache_folder() / "nulls" / self._key()
        missing: dict[str, Measure] = {}
        for each in lacking:
            cached = folder / f"{each.name}.safetensors"
            # A user's function may change while its name stays the same.
            null = _read(cached) if isinstance(each.function, str) else None
            if null is None:
                missing[each.name] = each
            else:
                write_scores(score_file(self.run.path, None, each.name), null)
        scales = {name: each.scale for name, each in missing.items()}
        if not missing:
            return
        caches = folder.parent
        remove_parts(caches, [each.name for each in caches.iterdir()] if caches.exists() else [])
        for name, null in fresh_initialisations(missing, scales, self.run.recipe.model, self.batch).items():
            # The run's own copy comes last: while a run lacks it, the cache is completed.
            if isinstance(missing[name].function, str):
                # Without a writable cache the null is computed again for the next run; nothing is lost.
                with suppress(OSError):
                    write_scores(folder / f"{name}.safetensors", null.to_dataset())
            write_scores(score_file(self.run.path, None, name), null.to_dataset())

    def _key(self) -> str:
        """Return a hash of everything that these nulls depend on."""
        recipe = self.run.recipe.to_dict()
        parts = [recipe["model"], recipe["task"], headway.__version__, torch.__version__, str(self.batch.inputs.device)]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
        for tensor in (self.batch.inputs, self.batch.targets, self.batch.mask, *self.batch.padding.values()):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        digest.update(_code().encode())
        return digest.hexdigest()[:32]


@cache
def _code() -> str:
    root = Path(headway.__file__).parent
    digest = hashlib.sha256()
    for pattern in _CODE:
        for path in sorted(root.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> xr.Dataset | None:
    """Return a null from the cache, or None if it is missing or damaged."""
    try:
        return read_file(path)
    except (OSError, ValueError):
        return None
