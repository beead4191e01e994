"""Mutation run: a seeded sample of small changes to the code, each run against the tests nearest to it.

Needs `pip install cosmic-ray`, which makes the changes, in a copy of the working tree::

    python tests/mutants.py                   # the whole sample; results go to mutants.jsonl, and it goes on from there
    python tests/mutants.py --list            # the sample
    python tests/mutants.py --only positions  # the modules whose path contains this
    python tests/mutants.py --table           # counts of what is in mutants.jsonl

A mutant is killed if a test fails or takes longer than five minutes. The sample holds, for each stratum, the mutants
with the smallest hash of seed, place and change, so a line that stays keeps its mutants.
"""

import argparse
import ast
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
SEED = 0
TIME_LIMIT = 300

# The kinds of change, by Cosmic Ray's operators. Annotations hold | and paths hold /, which kill without a test.
KINDS = {
    "comparison": [
        *("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_GtE", "Gt_LtE", "LtE_Gt", "GtE_Lt"),
        *("Is_IsNot", "IsNot_Is"),
    ],
    "sign": ["USub_UAdd", "Delete_Not", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"],
    "operator": [
        *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul", "BitAnd_BitOr"),
        *("ReplaceAndWithOr", "ReplaceOrWithAnd"),
    ],
    "constant": ["NumberReplacer"],
}
# Folders of a stratum, and how many mutants of each kind it gets.
STRATA = {
    "measures": (["analyze/network", "analyze/measures", "analyze/formation"], 14),
    "data": (["data"], 10),
    "models": (["models"], 10),
    "checkpoints": (["checkpoints"], 10),
}
# The tests nearest to a module, those that are quick first; the examples in its docstrings come before them.
NEAREST = {
    "analyze/measures/__init__.py": ["ground_truth", "measures", "runs"],
    "analyze/network/axes.py": ["measures"],
    "analyze/network/forward.py": ["measures", "ablation"],
    "analyze/network/interventions.py": ["ablation"],
    "analyze/network/requirements.py": ["ground_truth", "measures", "attribution", "vocabulary"],
    "analyze/network/vocabulary.py": ["skip_trigrams", "vocabulary"],
    "analyze/network/weights.py": ["measures", "attribution"],
    "analyze/measures/ablation.py": ["handmade", "ablation"],
    "analyze/measures/attention.py": ["ground_truth", "measures"],
    "analyze/measures/attribution.py": ["attribution"],
    "analyze/measures/callback.py": ["runs"],
    "analyze/measures/composition.py": ["ground_truth", "measures"],
    "analyze/measures/descriptions.py": ["scores"],
    "analyze/measures/eigenvalues.py": ["ground_truth", "measures"],
    "analyze/measures/geometry.py": ["ground_truth", "geometry"],
    "analyze/measures/logit_difference.py": ["faithfulness"],
    "analyze/measures/loss.py": ["handmade", "measures"],
    "analyze/measures/measure.py": ["measures", "runs"],
    "analyze/measures/nulls.py": ["nulls"],
    "analyze/measures/pairs.py": ["measures"],
    "analyze/measures/positions.py": ["ground_truth", "vocabulary"],
    "analyze/measures/ranks.py": ["measures"],
    "analyze/measures/run_nulls.py": ["scores"],
    "analyze/measures/scales.py": ["nulls"],
    "analyze/measures/scoring.py": ["runs"],
    "analyze/measures/surgery.py": ["ablation"],
    "analyze/measures/vocabulary.py": ["ground_truth", "vocabulary"],
    "analyze/formation/": ["formation"],
    "data/conditionals.py": ["conditionals"],
    "data/corpus.py": ["text"],
    "data/indirect_object.py": ["values", "indirect_object"],
    "data/tokenized_corpus.py": ["text"],
    "data/cache.py": ["text"],
    "data/text.py": ["values", "text"],
    "data/tokenizer.py": ["text", "conditionals"],
    "data/": ["values", "tasks"],
    "models/config.py": ["values", "config", "parity"],
    "models/convert.py": ["measures", "prompt"],
    "models/handmade.py": ["handmade", "ground_truth"],
    "models/lightning_module.py": ["lightning_module", "runs"],
    "models/optim.py": ["values", "recipe", "runs"],
    "models/": ["parity", "transformer_lens_tools", "hooks", "cache", "derivatives", "arguments", "kinds"],
    "checkpoints/": ["values", "recipe", "scores", "runs"],
}
# A minute of the C++ compiler, which tells nothing about a mutant.
LEFT_OUT = "tests/test_runs.py::test_compiled_training_is_the_same_up_to_rounding"
# Imported once; each test run is a fork of this process.
HEAVY = ["torch", "lightning", "transformer_lens.model_bridge", "transformers", "xarray", "sklearn", "pytest"]


@dataclass(frozen=True)
class Mutant:
    """One change: where it is, how Cosmic Ray makes it, and the line before and after."""

    stratum: str
    kind: str
    path: str
    operator: str
    occurrence: int
    definition: str
    number: int
    line: str
    changed: str

    @property
    def key(self) -> str:
        return f"{self.path} {self.definition}: {self.line} -> {self.changed}"


@dataclass
class Result:
    """A mutant and what became of it: killed by a test, or survived."""

    mutant: Mutant
    outcome: str
    by: str = ""
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Place:
    """A mutant before it is made: where Cosmic Ray finds it, and a key that outlives changes elsewhere in the file."""

    stratum: str
    kind: str
    path: str
    operator: str
    occurrence: int
    definition: str
    number: int
    key: str


def places(root: Path, stratum: str) -> list[Place]:
    """The places of all mutants of a stratum."""
    from cosmic_ray.commands.init import _all_work_items  # pyright: ignore[reportMissingImports]

    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    found, seen = [], Counter()
    for path in sorted(path for folder in STRATA[stratum][0] for path in (root / folder).glob("*.py")):
        source, relative = path.read_text(encoding="utf-8"), str(path.relative_to(root))
        lines = source.splitlines()
        for (mutation,) in (item.mutations for item in _all_work_items([path], {})):
            name = mutation.operator_name.removeprefix("core/")
            kind = kind_of.get(name, kind_of.get(name.partition("Operator_")[2]))
            if kind is None or (name.endswith("Div_Mul") and "pathlib" in source):
                continue
            number, column = mutation.start_pos
            line = lines[number - 1]
            column -= len(line) - len(line.lstrip())
            key = f"{SEED} {relative} {mutation.definition_name} {line.strip()} {column} {name}"
            seen[key] += 1  # a number has two mutants
            hashed = hashlib.sha256(f"{key} {seen[key]}".encode()).hexdigest()
            found.append(
                Place(
                    *(stratum, kind, relative, mutation.operator_name, mutation.occurrence),
                    *(mutation.definition_name or "", number, hashed),
                )
            )
    return found


def mutant_at(root: Path, place: Place) -> Mutant | None:
    """The mutant, or None if the change gives no Python."""
    from cosmic_ray.mutating import mutate_code  # pyright: ignore[reportMissingImports]
    from cosmic_ray.plugins import get_operator  # pyright: ignore[reportMissingImports]

    source = (root / place.path).read_text(encoding="utf-8")
    changed = mutate_code(source, get_operator(place.operator)(), place.occurrence)
    if changed is None or not _parses(changed):
        return None
    pairs = zip(source.splitlines(), changed.splitlines(), strict=True)
    line, after = next((one.strip(), other.strip()) for one, other in pairs if one != other)
    shared = {name: value for name, value in vars(place).items() if name != "key"}
    return Mutant(**shared, line=line, changed=after)


def sample(root: Path) -> Iterator[Mutant]:
    """The seeded sample: of each stratum the same number of each kind, at most one a line."""
    for stratum, (_, each) in STRATA.items():
        left, lines = dict.fromkeys(KINDS, each), set()
        for place in sorted(places(root, stratum), key=lambda place: place.key):
            at = (place.path, place.number)
            if left[place.kind] and at not in lines and (mutant := mutant_at(root, place)) is not None:
                left[place.kind] -= 1
                lines.add(at)
                yield mutant


def nearest(path: str) -> list[str]:
    """The tests to run for a module."""
    names = next(names for prefix, names in NEAREST.items() if path.startswith(prefix))
    examples = f"tests/test_structure.py::test_examples_in_docstrings_run[{path}]"
    return [examples, *(f"tests/test_{name}.py" for name in names)]


def copied(root: Path, folder: Path) -> Path:
    """A copy of the working tree, which imports as headway."""
    files = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=root, text=True)
    for name in files.splitlines():
        if (root / name).is_file():
            target = folder / "headway" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target)
    return folder / "headway"


def run_tests(tree: Path, tests: list[str]) -> tuple[int, str]:
    """Run tests in a fork of this process, up to the first that fails: the exit status, and what was printed."""
    log = tree.parent / "log"
    child = os.fork()
    if child == 0:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree.parent)  # for processes that tests start
        sys.path.insert(0, str(tree.parent))
        sys.argv = ["pytest"]
        status = 3
        try:
            import pytest

            options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=line", "--deselect", LEFT_OUT]
            status = int(pytest.main([*options, *tests]))
        finally:
            os._exit(status)
    end = time.monotonic() + TIME_LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL, "time limit"


def tried(tree: Path, mutant: Mutant) -> Result:
    """Make the change, run the nearest tests, undo it."""
    from cosmic_ray.mutating import use_mutation  # pyright: ignore[reportMissingImports]
    from cosmic_ray.plugins import get_operator  # pyright: ignore[reportMissingImports]

    start = time.monotonic()
    with use_mutation(tree / mutant.path, get_operator(mutant.operator)(), mutant.occurrence):
        status, printed = run_tests(tree, nearest(mutant.path))
    failed = [line for line in printed.splitlines() if line.startswith(("FAILED", "ERROR"))] or [printed[-200:]]
    seconds = round(time.monotonic() - start, 1)
    return Result(mutant, "survived", seconds=seconds) if status == 0 else Result(mutant, "killed", failed[0], seconds)


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def read_results(path: Path) -> list[Result]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [Result(**{**read, "mutant": Mutant(**read["mutant"])}) for read in map(json.loads, lines)]


def table(results: list[Result]) -> str:
    """Counts by stratum."""
    rows = [f"{'':12} drawn  killed  survived"]
    for stratum in STRATA:
        of = [result.outcome for result in results if result.mutant.stratum == stratum]
        rows.append(f"{stratum:12} {len(of):5}  {of.count('killed'):6}  {of.count('survived'):8}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="modules whose path contains this")
    parser.add_argument("--list", action="store_true", help="print the sample and stop")
    parser.add_argument("--table", action="store_true", help="count the results and stop")
    parser.add_argument("--results", type=Path, default=Path("mutants.jsonl"))
    given = parser.parse_args()
    results = read_results(given.results)
    if not given.table:
        drawn = [mutant for mutant in sample(ROOT) if given.only in mutant.path]
        if given.list:
            for mutant in drawn:
                print(mutant.kind, mutant.key)
            return
        for name in HEAVY:
            importlib.import_module(name)
        known = {result.mutant.key for result in results}
        with tempfile.TemporaryDirectory() as folder:
            tree = copied(ROOT, Path(folder))
            for mutant in drawn:
                if mutant.key not in known:
                    results.append(tried(tree, mutant))
                    with given.results.open("a") as file:
                        file.write(json.dumps(asdict(results[-1])) + "\n")
                    print(results[-1].outcome, results[-1].seconds, mutant.key, results[-1].by, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
