"""Kill runs at seeded moments and mutate their files, for ``make torture``.

::

    python tests/torture.py                        # 100 kills, then 3 minutes of mutations
    python tests/torture.py --only 17 --keep       # the kill of one seed again; its folder stays
    python tests/torture.py --kills 0 --minutes 1  # mutations alone
    python tests/torture.py --kills 0 --mutation 5 # one of them again

A kill holds if the command that goes on gives what the undisturbed command gives: weights, scores, log, page, and no
file beside these. A mutation holds if every command and every reader either succeeds or ends in one line.
"""

import argparse
import math
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

import forks
import kills
import mutations


def table(of: str, cases: dict[str, int], held: dict[str, int]) -> str:
    """Return the number of cases of each kind, and how many of them hold."""
    width = max(map(len, [of, *cases]))
    rows = [f"{of:{width}}  cases   hold"]
    rows += [f"{kind:{width}}  {cases[kind]:5}  {held.get(kind, 0):5}" for kind in sorted(cases)]
    return "\n".join([*rows, f"{'all':{width}}  {sum(cases.values()):5}  {sum(held.values()):5}"])


def kill(scenes: kills.Scenes, seeds: Iterable[int], scenarios: list[str], keep: bool) -> bool:
    """Kill once for each seed, and print the table; return whether every run was as if it had not been killed."""
    cases, held = Counter[str](), Counter[str]()
    for seed in seeds:
        drawn = kills.draw(scenes, seed, scenarios)
        folder = scenes.root / f"kill-{seed}"
        killed, wrong = kills.survive(scenes, drawn, folder)
        kind = f"{drawn.scenario}: {drawn.kind}{'' if killed else ', after its end'}"
        cases[kind] += 1
        held[kind] += not wrong
        if wrong:
            at = drawn.moment or f"{drawn.share:.3f} of its time"
            print(f"seed {seed}: {kind}, killed at {at}: {'; '.join(wrong[:6])}", flush=True)
        if not keep:
            shutil.rmtree(folder)
    if cases:
        print(table("kill", cases, held))
    return cases == held


def mutate(scenes: kills.Scenes, seeds: Iterable[int], seconds: float, keep: bool) -> bool:
    """Mutate one file for each seed until the time is over, and print the table; return whether all mutations held."""
    scene, cases, held = mutations.write_scene(scenes), Counter[str](), Counter[str]()
    end = time.monotonic() + seconds
    for seed in seeds:
        if time.monotonic() > end:
            break
        drawn = mutations.draw(scene, seed)
        folder = scenes.root / f"mutation-{seed}"
        wrong = mutations.survive(scene, drawn, folder)
        cases[drawn.kind] += 1
        held[drawn.kind] += not wrong
        for each in wrong[:4]:
            print(f"mutation {seed} of {drawn.path} ({drawn.how}): {each}", flush=True)
        if not keep:
            shutil.rmtree(folder)
    print(table("mutated file", cases, held))
    return cases == held


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many kills, of the seeds from 0")
    parser.add_argument("--only", type=int, nargs="+", help="the kills of these seeds alone")
    parser.add_argument("--scenario", choices=kills.SCENARIOS, nargs="+", default=list(kills.SCENARIOS))
    parser.add_argument("--minutes", type=float, default=3, help="of mutations")
    parser.add_argument("--mutations", type=int, help="how many mutations; as many as the minutes allow if not given")
    parser.add_argument("--mutation", type=int, nargs="+", help="the mutations of these seeds alone")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    given = parser.parse_args(arguments)
    os.nice(1)
    root = Path(tempfile.mkdtemp(prefix="torture-")).resolve()
    if given.keep:
        print(root)
    forks.import_once()
    scenes = kills.Scenes(root)
    try:
        held = kill(scenes, given.only or range(given.kills), given.scenario, given.keep)
        if given.mutation or given.mutations or given.minutes:
            seeds = given.mutation or (None if given.mutations is None else range(given.mutations))
            seconds = math.inf if seeds else 60 * given.minutes
            held &= mutate(scenes, seeds or count(), seconds, given.keep)
    finally:
        if not given.keep:
            shutil.rmtree(root)
    sys.exit(not held)


if __name__ == "__main__":
    main()
