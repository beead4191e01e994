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
    assert not re.search(r"/tmp|/home|/root|/Users", page)


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


@pytest.mark.whole
@pytest.mark.usefixtures("unchecked")
def test_the_cells_run_and_the_prose_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One test, because each worker would run the notebook again for each of several."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        outputs = list(TUTORIAL.run_cells(names))
    finally:
        torch.set_grad_enabled(True)
    assert [cell.source for cell, shown in outputs if cell.kind == "code" and not shown] == []
    shown = [each for _, several in outputs for each in several]
    assert sum(each.kind == "picture" for each in shown) == len(list(DOCS.glob("figures/tutorial-*.png")))
    texts = [each.content for each in shown if each.kind == "text"]
    assert any(text.startswith("expect: accuracy_repeats is 0.") for text in texts)
    with torch.no_grad():
        check_formation(names)
        check_patches(names)
    check_circuit(names)
    assert names["run"].steps == list(range(0, 401, 20))
    assert headway.audit("runs/tutorial") == []


def check_formation(names: dict[str, Any]) -> None:
    """The behaviour forms between the two checkpoints; then the previous-token head alone of its layer carries it."""
    chance, late, early, batch = names["task"].baselines()["chance"], names["late"], names["early"], names["batch"]
    loss, without, previous, other = (names[each] for each in ("loss_on_repeats", "without", "previous", "other"))
    assert loss(late(batch.inputs)) < 0.1 * chance < 0.5 * chance < loss(early(batch.inputs))
    costs = {head: float(loss(without(late, head)) - loss(late(batch.inputs))) for head in (previous, other)}
    assert costs[previous] > 0.7 * chance > 10 * costs[other]
    early_costs = [float(loss(without(early, head)) - loss(early(batch.inputs))) for head in (previous, other)]
    assert max(map(abs, early_costs)) < 0.2 * costs[previous]
    dates = names["dates"]
    assert set(dates.event.values) == {"behaviour", "circuit", "previous_token", "prefix_matching", "k_composition"}
    assert bool(dates.formed.all())


def check_patches(names: dict[str, Any]) -> None:
    """A head patched with itself changes nothing; the twin's previous-token head misleads, through keys alone."""
    whole = names["loss_on_repeats"](names["late"](names["batch"].inputs))
    previous, other = names["previous"].head, names["other"].head
    torch.testing.assert_close(names["patched"](names["cache"]), whole.expand(2, 2), rtol=1e-4, atol=1e-5)
    twin = names["patched"](names["twin_cache"])
    assert twin[0, previous] > names["task"].baselines()["chance"]
    assert twin[0, other] < whole + 0.2
    paths = np.abs(names["paths"])
    keys = paths.sel(input="k", from_head=previous)
    others = paths.where((paths.input != "k") | (paths.from_head != previous))
    assert float(keys.min()) > 5 * float(others.max())


def check_circuit(names: dict[str, Any]) -> None:
    """The circuit of the imported network is that of the run, and no random one keeps as much."""
    found, previous, other = names["found"], names["previous"], names["other"]
    assert names["same"]
    assert not names["theirs"].imported["no_better_than_chance"]
    assert str(previous) in found.nodes
    assert str(other) not in found.nodes
    assert "pos_embed" not in found.nodes
    assert not [edge for edge in map(str, found.edges) if edge.endswith((f"{previous}.q", f"{previous}.k"))]
    assert found.scores.effect.sel(node=str(previous)) > 1 > found.scores.effect_high.sel(node="L1H0")
    assert found.scores.faithfulness > 0.9
    assert found.scores.necessity > 0.9
    assert (found.scores.control_faithfulness < found.scores.faithfulness).all()
    assert found.scores.p.item() == pytest.approx(1 / 51)
