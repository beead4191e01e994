"""Many runs: each is what it would be alone, whatever happens to the process that trains it."""

import importlib
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killing import Killing
from safetensors.torch import load_file
from threads import Threads
from toys import TOKENS, Train

from headway.checkpoints import Run
from headway.checkpoints.schedule import Schedule
from headway.processes import DiedError
from headway.sweeps.display import ShowRuns
from headway.sweeps.each import ATTEMPTS, InterruptedJobError, Outcome, SkippedError, each
from headway.sweeps.on_ray import Ray
from headway.sweeps.plan import seeded
from headway.sweeps.pool import Pool
from headway.sweeps.train_all import train_all


def quietly(count: int) -> ShowRuns:
    return ShowRuns(count, quiet=True)


def test_each_job_is_done_and_says_how_it_ended():
    def job(number: int) -> None:
        if number == 2:
            raise SkippedError("finished")
        if number == 3:
            raise ValueError("steps: 0 is not valid")
        if number == 5:
            raise ZeroDivisionError("division by zero")
        if number == 7:
            raise MemoryError

    outcomes, asked = each(job, {str(number): number for number in (1, 2, 3, 5, 7)}, Threads(), quietly(5))
    assert asked is None
    assert outcomes == {
        "1": Outcome("finished"),
        "2": Outcome("skipped", "finished"),
        "3": Outcome("failed", "steps: 0 is not valid"),
        "5": Outcome("failed", "ZeroDivisionError: division by zero"),
        "7": Outcome("failed", "out of memory"),
    }


def test_no_more_jobs_run_than_there_are_workers():
    workers = Threads(3)
    each(lambda _: None, dict.fromkeys(map(str, range(23))), workers, quietly(23))
    assert workers.most == 3


@pytest.mark.parametrize(("deaths", "state"), [(ATTEMPTS - 1, "finished"), (ATTEMPTS, "failed")])
def test_a_job_whose_process_dies_is_started_again_a_few_times(deaths: int, state: str):
    class Dying(Threads):
        def start(self, job: Callable[..., Any], *arguments: Any) -> Future[Any]:
            started.append(arguments[-1])
            if arguments[-1] == "ill" and started.count("ill") <= deaths:
                dead: Future[Any] = Future()
                dead.set_exception(DiedError("its process was killed"))
                return dead
            return super().start(job, *arguments)

    started: list[str] = []
    outcomes, _ = each(lambda _: None, {name: name for name in ("well", "ill", "fine")}, Dying(), quietly(3))
    assert outcomes["ill"].state == state
    assert started.count("ill") == min(deaths + 1, ATTEMPTS)
    assert outcomes["well"].state == outcomes["fine"].state == "finished"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_jobs_to_end_and_starts_no_other(number: signal.Signals):
    def job(_: str) -> None:
        assert workers.stopped.wait(30)
        raise InterruptedJobError("stopped at step 3")

    workers = Threads(2)
    before = signal.getsignal(number)
    threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
    outcomes, asked = each(job, {name: name for name in "abc"}, workers, quietly(3))
    assert asked == number
    assert outcomes == {
        "a": Outcome("stopped", "stopped at step 3"),
        "b": Outcome("stopped", "stopped at step 3"),
        "c": Outcome("stopped", "not started"),
    }
    assert signal.getsignal(number) == before


@pytest.mark.whole
@pytest.mark.parametrize("workers", [Pool, Ray])
@pytest.mark.usefixtures("forked_not_spawned")
def test_a_run_whose_worker_is_killed_is_what_it_would_have_been(
    workers: type[Pool] | type[Ray], tmp_path: Path, trained: Train
):
    task = Killing(**vars(TOKENS.task), dies_at=11, mark=str(tmp_path / "mark"))
    recipes = seeded(replace(TOKENS, task=task, schedule=Schedule(log=0, linear=2)), [2, 3, 5])
    with workers(2) as started:
        outcomes, asked = train_all(recipes, tmp_path / "many", started, quiet=True)
        again, _ = train_all(recipes, tmp_path / "many", started, quiet=True)
    assert asked is None
    assert (tmp_path / "mark").exists()
    assert [outcome.state for outcome in outcomes.values()] == ["finished"] * 3
    assert [outcome.state for outcome in again.values()] == ["skipped"] * 3
    for name, recipe in recipes.items():
        alone = trained(replace(recipe, task=TOKENS.task), tmp_path / f"alone-{name}")
        among_many = Run(tmp_path / "many" / name, Killing)
        assert among_many.steps == alone.steps
        for step in alone.steps:
            ours, theirs = (load_file(run.weights_file(step)) for run in (among_many, alone))
            assert {name: tensor.tolist() for name, tensor in ours.items()} == {
                name: tensor.tolist() for name, tensor in theirs.items()
            }
        assert among_many.scores.load().equals(alone.scores.load())
        assert among_many.training.equals(alone.training)
        assert among_many.report_file.exists()


def test_a_job_that_no_process_can_read_fails_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "gone.py").write_text("def job(item): pass")
    job = importlib.import_module("gone").job
    (tmp_path / "gone.py").unlink()
    with Pool(1) as pool:
        outcomes, _ = each(job, {"one": 1}, pool, quietly(1))
    assert outcomes == {"one": Outcome("failed", "ModuleNotFoundError: No module named 'gone'")}


def test_a_pool_shares_out_the_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("headway.sweeps.pool.cores", lambda: 7)
    assert (Pool().count, Pool().threads) == (7, 1)
    assert (Pool(3).count, Pool(3).threads) == (3, 2)
    assert Pool(11).threads == 1


@pytest.mark.parametrize(("argument", "said"), [({"count": 0}, "workers: 0"), ({"threads": 0}, "threads: 0")])
def test_numbers_of_workers_that_are_not_valid_are_refused(argument: dict[str, int], said: str):
    with pytest.raises(ValueError, match=f"^{said} is not valid"):
        Pool(**argument)


def test_a_cluster_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"^address: 127\.0\.0\.1:1 cannot be reached"), Ray(address="127.0.0.1:1"):
        pass
