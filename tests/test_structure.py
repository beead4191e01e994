"""The shape of the project: which way imports go, that examples run, and that the README tells the truth."""

import ast
import doctest
import importlib
import inspect
import tomllib
from pathlib import Path

import pytest
from toys import TOKENS

import headway
from headway.__main__ import COMMANDS, USAGE

ROOT = Path(__file__).parent.parent
WAY = ["data", "models", "checkpoints", "analyze", "recipes", "train", "replay", "sweeps", "reproductions", "commands"]
# Modules that know nothing of Headway, and which every folder may import.
LEAVES = ["lazy", "options", "processes"]
# The two methods of Run that hand it to analysis, imported when they are called: a user holds one object.
DOORS = {
    Path("checkpoints/run.py"): {"headway.analyze.report.summary", "headway.analyze.report.figures.plot"},
}
# The folders of analyze/; one may import those with a smaller number, and itself.
FLOORS = {"network": 0, "measures": 1, "tools": 2, "circuits": 2, "formation": 2, "studies": 3, "report": 4}
TOP = [
    Path(f"{name}.py") for name in ("__init__", "lazy", "options", "processes", "recipes", "devices", "train", "replay")
]
MODULES = sorted(path.relative_to(ROOT) for folder in WAY for path in ROOT.glob(f"{folder}/**/*.py"))


def dotted(path: Path) -> str:
    return ".".join(("headway", *path.with_suffix("").parts)).removesuffix(".__init__")


def test_an_installation_has_every_folder():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {"headway", *(dotted(path) for path in MODULES if path.name == "__init__.py")} == set(packages)


def imported(path: Path, at_top: bool = False) -> list[str]:
    """The modules of Headway that a file imports, wherever in it, or only at its top."""
    names, tree = [], ast.parse((ROOT / path).read_text())
    for node in tree.body if at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # A module may be imported from its package by name.
            names += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.startswith("headway.")]


def test_imports_go_the_way_of_the_data():
    for path in MODULES:
        here = WAY.index(path.parts[0])
        for name in imported(path):
            ours = name.split(".")[1] in (*WAY[: here + 1], *LEAVES)
            assert ours or any(name.startswith(door) for door in DOORS.get(path, ())), f"{path} imports {name}"
    for path in DOORS:
        assert not any(name.startswith("headway.analyze") for name in imported(path, at_top=True))


def test_only_the_command_imports_its_subcommands():
    others = [Path("train.py"), Path("recipes.py")]  # those of MODULES import what comes before them in WAY
    assert not any(name.startswith("headway.commands") for path in others for name in imported(path))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_a_module_and_a_line_of_usage(name: str):
    assert callable(getattr(importlib.import_module(f"headway.commands.{name}"), f"{name}_command"))
    assert f"\n  {name} " in USAGE


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_imports_nothing_of_headway(name: str):
    assert imported(Path(f"{name}.py")) == []


def test_the_folders_of_analyze_build_on_each_other():
    inside = [path for path in MODULES if path.parts[0] == "analyze" and len(path.parts) > 2]
    assert {path.parts[1] for path in inside} == set(FLOORS)
    for path in inside:
        folder = path.parts[1]
        for name in imported(path):
            parts = name.split(".")
            if parts[1] == "analyze" and len(parts) > 2 and parts[2] in FLOORS:
                below = FLOORS[parts[2]] < FLOORS[folder] or parts[2] == folder
                assert below, f"{path} imports {name}"


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py"], ids=str)
def test_no_package_exports_a_name_that_is_one_of_its_modules(path: Path):
    folder = ROOT / path.parent
    modules = {each.stem for each in folder.glob("*.py")} | {each.parent.name for each in folder.glob("*/__init__.py")}
    package = importlib.import_module(dotted(path))
    assert not modules & set(getattr(package, "__all__", ()))
    for name in modules - {"__init__"}:
        found = importlib.import_module(f"{dotted(path)}.{name}")
        assert getattr(package, name) is found


def test_headway_exports_one_name_that_is_a_module_and_it_is_that_module(tmp_path: Path):
    """``headway.train`` can be called; it is the same whether or not the module was imported before."""
    modules = {path.stem for path in ROOT.glob("*.py")} | {*WAY, "commands"}
    assert modules & set(headway.__all__) == {"train"}
    module = importlib.import_module("headway.train")
    assert headway.train is module
    assert headway.__getattr__("train") is module  # what a first use gives
    assert inspect.signature(headway.train) == inspect.signature(module.train)
    with pytest.raises(ValueError, match=r"^steps: 0 is not valid"):
        headway.train(task=TOKENS.task, model=TOKENS.model, out=tmp_path / "run", steps=0)


@pytest.mark.parametrize("name", headway.__all__)
def test_what_headway_exports_exists_and_is_listed(name: str):
    assert getattr(headway, name) is not None
    assert name in dir(headway)


@pytest.mark.parametrize("path", [*MODULES, *TOP], ids=str)
def test_examples_in_docstrings_run(path: Path):
    module = importlib.import_module(dotted(path))
    assert doctest.testmod(module).failed == 0


def test_everything_public_is_documented():
    for path in [*MODULES, *TOP, Path("__main__.py")]:
        for node in ast.parse((ROOT / path).read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name}"
