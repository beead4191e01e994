"""The notebook tutorial: it is stripped, its cells run, its prose is right, and the rendered page is of these cells."""

import ast
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import headway

DOCS = Path(__file__).parent.parent / "docs"


def module() -> ModuleType:
    """The script docs/tutorial.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("tutorial", DOCS / "tutorial.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


TUTORIAL = module()


def test_the_notebook_has_no_outputs_and_no_magics():
    notebook = json.loads(TUTORIAL.NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            ast.parse("".join(cell["source"]))  # magics are no Python


def test_every_cell_of_code_follows_a_question_or_an_explanation():
    """No two cells of code stand together, but for figures and lists that one text explains."""
    kinds = [cell.kind for cell in TUTORIAL.cells()]
    assert kinds[0] == kinds[-1] == "markdown"
    assert "code code code" not in " ".join(kinds)


def test_the_rendered_page_is_of_these_cells():
    """And it names no folder of the machine that rendered it."""
    page = TUTORIAL.PAGE.read_text(encoding="utf-8")
    at = 0
    for cell in TUTORIAL.cells():
        source = cell.source if cell.kind == "markdown" else f"```python\n{cell.source}\n```"
        assert source in page[at:], f"python docs/tutorial.py renders it again: {cell.source.splitlines()[0]}"
        at = page.index(source, at) + len(source)
    pictures = re.findall(r"!\[[^\n]*\]\((.*?)\)", page)
    assert sorted(pictures) == sorted(str(path.relative_to(DOCS)) for path in DOCS.glob("figures/tutorial-*.png"))
    assert sum((DOCS / each).stat().st_size for each in [*pictures, "tutorial.md", "tutorial.ipynb"]) < 1_000_000
    assert not re.search(r"/tmp|/home|/root|/work|/Users", page)


def test_a_cell_shows_what_it_prints_and_its_last_value():
    names: dict[str, Any] = {}
    assert TUTORIAL.run_cell("x = 3\nprint(x)\nx + 1", names) == [("text", "3"), ("text", "4")]
    assert TUTORIAL.run_cell("y = x", names) == []
    assert names["y"] == 3
    assert TUTORIAL.run_cell("None", names) == []

    class Both:
        def _repr_html_(self) -> str:
            return "<b>bold</b>"

    assert TUTORIAL.shown_value(Both()) == ("html", "<b>bold</b>")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, few_fresh_networks: None) -> dict[str, Any]:
    """The namespace of the notebook after its last cell, with the outputs of its cells."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    names: dict[str, Any] = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tutorial"))
        names["OUTPUTS"] = list(TUTORIAL.run_cells(names))
        names["RUN"] = headway.Run(Path("runs/tutorial").resolve())
    torch.set_grad_enabled(True)
    jaxtyping.config.update("jaxtyping_disable", False)
    return names


def test_every_cell_runs_and_shows_something(finished: dict[str, Any]):
    silent = [cell.source for cell, outputs in finished["OUTPUTS"] if cell.kind == "code" and not outputs]
    assert silent == []
    pictures = [shown for _, outputs in finished["OUTPUTS"] for shown in outputs if shown.kind == "picture"]
    assert len(pictures) == len(list(DOCS.glob("figures/tutorial-*.png")))


def test_the_circuit_of_the_tutorial_forms(finished: dict[str, Any]):
    """What the prose says of the numbers beside it is so in this run."""
    chance, late, early = finished["task"].baselines()["chance"], finished["late"], finished["early"]
    batch, loss, without = finished["batch"], finished["loss_on_repeats"], finished["without"]
    previous, other = finished["previous"], finished["other"]
    with torch.no_grad():
        assert loss(late(batch.inputs)) < 0.1 * chance < 0.5 * chance < loss(early(batch.inputs))
        costs = {head: float(loss(without(late, head)) - loss(late(batch.inputs))) for head in (previous, other)}
        assert costs[previous] > 0.5 * chance > 5 * costs[other]
        assert abs(loss(without(early, previous)) - loss(early(batch.inputs))) < 0.1 * costs[previous]
    dates = finished["dates"]
    assert bool(dates.formed.all())
    assert (dates.half_way < 300).all()
    paths = np.abs(finished["paths"])
    assert float(paths.sel(input="k", from_head=previous.head).min()) > 10 * float(
        paths.where((paths.input != "k") | (paths.from_head != previous.head)).max()
    )


def test_patching_a_head_with_itself_changes_nothing_and_with_its_twin_much(finished: dict[str, Any]):
    with torch.no_grad():
        whole = finished["loss_on_repeats"](finished["late"](finished["batch"].inputs))
        torch.testing.assert_close(finished["patched"](finished["cache"]), whole.expand(2, 2), rtol=1e-4, atol=1e-5)
        twin = finished["patched"](finished["twin_cache"])
    assert twin[0, finished["previous"].head] > 1 + whole
    assert twin[0, finished["other"].head] < 0.5 + whole


def test_the_imported_network_has_the_circuit_of_the_run(finished: dict[str, Any]):
    found, previous = finished["found"], finished["previous"]
    assert finished["same"]
    assert str(previous) in found.nodes
    assert str(finished["other"]) not in found.nodes
    assert {"L1H0", "L1H1"} & set(found.nodes)
    assert found.scores.faithfulness > 0.9
    assert found.scores.necessity > 0.9
    assert (found.scores.control_faithfulness < found.scores.faithfulness).all()
    assert not finished["theirs"].imported["no_better_than_chance"]
    printed = [shown.content for _, outputs in finished["OUTPUTS"] for shown in outputs if shown.kind == "text"]
    assert any(text.startswith("expect: accuracy_repeats is 0.") for text in printed)


def test_headway_audits_the_runs_of_the_tutorial(finished: dict[str, Any]):
    assert headway.audit(finished["RUN"]) == []
