"""Nulls of a run: scores of fresh initialisations, kept with the run and, by content, in the user's cache."""

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
from headway.data.task import Batch

# A null depends on the code of these.
_CODE = ("data/seeds.py", "models/*.py", "analyze/network/*.py", "analyze/measures/*.py")


class Nulls:
    """Scores of fresh initialisations by each measure of a run whose null they are.

    They are computed once for a configuration and an evaluation batch: a run keeps its own, and runs of the same kind
    share them through the user's cache.
    """

    def __init__(self, run: Run, measures: Sequence[Measure], batch: Batch):
        self.run, self.measures, self.batch = run, [each for each in measures if each.fresh_null], batch
        self.held: dict[str, Null] = {}

    def __getitem__(self, name: str) -> Null:
        """The null of one measure; those that are missing are computed together."""
        path = score_file(self.run.path, None, name)
        if not path.exists():
            self._make()
        if name not in self.held:
            scale = next(each.scale for each in self.measures if each.name == name)
            try:
                self.held[name] = Null.from_dataset(read_file(path), scale)
            except TypeError:
                raise ValueError(f"scores: {path} holds no null; remove it and measure again") from None
        return self.held[name]

    def _make(self) -> None:
        """Take every null that the run lacks from the cache, or compute it and keep it there too."""
        lacking = [each for each in self.measures if not score_file(self.run.path, None, each.name).exists()]
        folder = cache_folder() / "nulls" / self._key()
        missing: dict[str, Measure] = {}
        for each in lacking:
            cached = folder / f"{each.name}.safetensors"
            # A function of the user's own may change under its name.
            null = _read(cached) if isinstance(each.function, str) else None
            if null is None:
                missing[each.name] = each
            else:
                write_scores(score_file(self.run.path, None, each.name), null)
        scales = {name: each.scale for name, each in missing.items()}
        drawn = fresh_initialisations(missing, scales, self.run.recipe.model, self.batch) if missing else {}
        for name, null in drawn.items():
            write_scores(score_file(self.run.path, None, name), null.to_dataset())
            if isinstance(missing[name].function, str):
                # A cache that cannot be written costs time and nothing else.
                with suppress(OSError):
                    write_scores(folder / f"{name}.safetensors", null.to_dataset())

    def _key(self) -> str:
        """A hash of all that these nulls depend on."""
        recipe = self.run.recipe.to_dict()
        parts = [recipe["model"], recipe["task"], headway.__version__, torch.__version__, str(self.batch.inputs.device)]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
        for tensor in (self.batch.inputs, self.batch.targets, self.batch.mask):
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
    """A null from the cache; None where there is none, or a damaged file."""
    try:
        return read_file(path)
    except (OSError, ValueError):
        return None
