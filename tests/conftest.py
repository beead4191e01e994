"""What every test shares: one thread, one cache for the whole session, and where shapes are checked."""

import inspect
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from browsing import browser, opened  # noqa: F401  # fixtures

# Tests run side by side on the machine's cores.
torch.set_num_threads(1)

TESTS_OF_NETWORKS = ("test_parity", "test_transformer_lens_tools", "test_handmade")


@pytest.fixture(autouse=True, scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the workers of one session share, with the cache of nulls and texts: none outlives the session."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    os.environ["HEADWAY_CACHE"] = str(folder / "cache")
    return folder


@pytest.fixture(autouse=True, scope="module")
def checked_parts(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check shapes inside networks only in tests of networks: a forward pass takes three times as long with them."""
    from headway.models import components, hooked_transformer

    functions = [
        function
        for module in (components, hooked_transformer)
        for holder in (module, *(kind for kind in vars(module).values() if inspect.isclass(kind)))
        for function in vars(holder).values()
        if inspect.isfunction(function) and function.__module__ == module.__name__
    ]
    skip = not request.module.__name__.endswith(TESTS_OF_NETWORKS)
    for function in functions:
        vars(function)["__no_type_check__"] = skip  # jaxtyping reads it at each call
    yield
    for function in functions:
        vars(function)["__no_type_check__"] = False
