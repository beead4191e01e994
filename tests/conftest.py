"""What every test shares: one thread, one cache for the whole session, and where shapes are checked."""

import gc

# What is imported stays to the end; to look through it for garbage takes a tenth of the time of a test.
gc.disable()

import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest
from browsing import browser, opened  # noqa: F401  # fixtures
from forks import HEAVY

if TYPE_CHECKING:
    from toys import Train

    from headway.checkpoints import Recipe

# Nothing here must outlast a power failure, and a disk takes a millisecond for each file.
os.fsync = lambda descriptor: None

TESTS_OF_NETWORKS = (
    "test_parity",
    "test_transformer_lens_tools",
    "test_handmade",
    "test_hooks",
    "test_cache",
    "test_derivatives",
)


def pytest_configure(config: pytest.Config) -> None:
    """Import what takes seconds, but not where xdist's workers run the tests: they start once this process is ready."""
    if config.getoption("numprocesses", None):
        return
    import shapes
    import torch

    # Tests run side by side on the machine's cores.
    torch.set_num_threads(1)
    shapes.wrap_only_what_states_a_shape()


def pytest_collection_finish() -> None:
    """Tests look for garbage in what they make alone."""
    gc.freeze()
    gc.enable()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Pages in a browser are whole programs too."""
    if "browser" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.whole)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of whole programs begin at once, so that no worker is left alone with one of them at the end.

    Each worker begins with an equal part of the list. The first gets the tests on the demo run, and none waits for the
    training of that; the second gets the others, which share its ``forkserver``.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    whole = [item for item in items if item.get_closest_marker("whole")]
    on_demo = [item for item in whole if "demo" in getattr(item, "fixturenames", ())]
    others = [item for item in whole if item not in on_demo]
    rest = [item for item in items if item not in set(whole)]
    first = max(0, len(items) // workers - len(on_demo)) if workers > 1 else 0
    items[:] = on_demo + rest[:first] + others + rest[first:]


@pytest.fixture(autouse=True, scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the workers of one session share, with the cache of nulls and texts: none outlives the session."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    os.environ["HEADWAY_CACHE"] = str(folder / "cache")
    return folder


@pytest.fixture(scope="session")
def trained(shared: Path) -> "Train":
    """Gives a trained run of a recipe, in a folder that does not exist yet; a recipe is trained once in a session.

    Each call copies that run, so a test may change what it gets. Whoever tests training calls ``train`` itself.
    """
    from headway.checkpoints import Run
    from headway.train import train

    def trained(recipe: "Recipe", folder: Path) -> Run:
        first = shared / "runs" / hashlib.sha256(recipe.to_yaml().encode()).hexdigest()
        if not first.exists():
            own = first.with_name(f"{first.name}-{os.getpid()}")
            train(**vars(recipe), out=own / "run")
            with suppress(OSError):  # the other worker was first
                own.rename(first)
        shutil.copytree(first / "run", folder)
        return Run(folder)

    return trained


@pytest.fixture(scope="session")
def forkserver() -> ForkServerContext:
    """Starts processes as children of one that has imported Headway, which takes each of them seconds otherwise.

    That one is a new Python, in which nothing is wrapped for checks of shapes. It computes with one thread: a child
    inherits none of several, and torch's kernels would wait for them without end.
    """
    from headway.sweeps.pool import THREADS

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    with pytest.MonkeyPatch.context() as patch:
        for variable in THREADS:
            patch.setenv(variable, "1")
        # A first child, because the server imports what it preloads before it forks.
        first = context.Process()
        first.start()
        first.join()
    return context


@pytest.fixture
def forked_not_spawned(forkserver: ForkServerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headway's own processes are children of ``forkserver``, which pickles what they are given, as spawning does."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: forkserver)


@pytest.fixture(autouse=True, scope="session")
def few_fresh_networks() -> None:
    """Nulls pool few fresh networks, but where a test is about nulls."""
    import few_networks  # noqa: F401


@pytest.fixture(autouse=True, scope="module")
def shape_checks(request: pytest.FixtureRequest) -> None:
    import shapes

    shapes.set_checks(inside_networks=request.module.__name__.endswith(TESTS_OF_NETWORKS))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the checks of types that only tests have, which would complain before the code does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
