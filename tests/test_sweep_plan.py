"""Which runs a sweep has: seeds, names, combinations, and what it refuses before anything is written."""

from pathlib import Path

import pytest
import yaml
from toys import TOKENS

from headway.checkpoints import Run
from headway.sweeps.plan import check_folder, name_of, planned, read_seeds, read_sweep, seeded, settings


@pytest.mark.parametrize(
    ("given", "seeds"),
    [("0:3", [0, 1, 2]), ("7", [7]), (7, [7]), ("0:2,11,5:7", [0, 1, 11, 5, 6]), ([3, 2], [3, 2]), ("10:11", [10])],
)
def test_seeds_are_ranges_without_their_last_and_single_numbers(given: object, seeds: list[int]):
    assert read_seeds(given) == seeds  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "a",
        "3:3",
        "5:2",
        "0:3,2",
        "-1",
        "0:",
        ":5",
        "1.5",
        "0:2:3",
        [1, 1],
        [],
        "0:10000000000",
        "٣",
        "4294967296",
        "9" * 40,
    ],
)
def test_seeds_that_are_none_or_are_there_twice_are_refused(given: object):
    with pytest.raises(ValueError, match=r"^seeds: "):
        read_seeds(given)  # pyright: ignore[reportArgumentType]


def test_a_grid_is_combined_with_each_of_the_runs():
    kinds = settings({"optim.lr": [0.1, 0.2], "steps": [3, 5]}, [{"model.n_heads": 1}, {"model.n_heads": 2}])
    assert len(kinds) == 2 * 2 * 2
    assert {tuple(sorted(kind)) for kind in kinds} == {("model.n_heads", "optim.lr", "steps")}
    assert len({tuple(kind.values()) for kind in kinds}) == len(kinds)


def test_every_run_of_a_sweep_has_its_options_its_seed_and_its_name():
    recipes = planned(
        TOKENS, {"options": {"steps": 7}, "grid": {"model.n_layers": [1, 2], "optim.lr": [0.1, 0.01]}, "seeds": "5:7"}
    )
    assert len(recipes) == 2 * 2 * 2
    for name, recipe in recipes.items():
        shown = f"n_layers={recipe.model.n_layers},lr={recipe.optim.lr},seed-{recipe.seed:03d}"
        assert name == shown
        assert recipe.steps == 7
        assert recipe.batch_size == TOKENS.batch_size


def test_sizes_of_the_network_follow_the_task_in_a_sweep():
    recipes = planned(TOKENS, {"grid": {"task.n_tokens": [31, 37]}})
    assert [recipe.model.d_vocab for recipe in recipes.values()] == [recipe.task.d_vocab for recipe in recipes.values()]


def test_a_part_can_be_a_mapping_as_in_the_config_of_a_run():
    flat = {"options": {"model.n_heads": 1}, "grid": {"model.n_layers": [1, 2]}, "runs": [{"optim.lr": 0.1}]}
    nested = {
        "options": {"model": {"n_heads": 1}},
        "grid": {"model": {"n_layers": [1, 2]}},
        "runs": [{"optim": {"lr": 0.1}}],
    }
    assert planned(TOKENS, nested) == planned(TOKENS, flat)


def test_options_of_one_last_name_are_told_apart():
    assert name_of({"task.length": 3, "model.length": 5}) == "task.length=3,model.length=5"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"grid": {}}, "grid: it is empty"),
        ({"grid": {"steps": []}}, "grid.steps: "),
        ({"grid": {"steps": 3}}, "grid.steps: "),
        ({"runs": []}, "runs: it is empty"),
        ({"runs": [3]}, "runs: 3 is not valid"),
        ({"grid": {"model.layers": [1]}}, "model.layers: there is no such option"),
        ({"grid": {"steps": ["many"]}}, "steps: 'many' is not valid"),
        ({"grid": {"model.n_layers": [0]}}, "model.n_layers: 0 is not valid"),
        ({"grid": {"seed": [1, 2]}}, "seed: "),
        ({"grid": {"steps": [7, 7]}}, "sweep: steps=7,seed-000 is there twice"),
        ({"grid": {"steps": [3]}, "runs": [{"steps": 5}]}, "runs.steps: "),
        ({"grid": {"steps": [3]}, "options": {"steps": 5}}, "options.steps: "),
        ({"grid": {3: [1]}}, "grid: 3 is not valid; it must be the name of an option"),
        ({"runs": [{None: 1}]}, "runs: None is not valid; it must be the name of an option"),
        ({"options": {True: 1}}, "options: True is not valid; it must be the name of an option"),
        ({"grid": {"model": [{"n_layers": 1}]}}, "model: there is no such option; options of this part have a dot"),
        ({"options": {"model": {"n_layers": 1}, "model.n_layers": 2}}, "options.model.n_layers: it is given twice"),
        ({"grid": {"optim.lr": [0.001, "1e-3"]}}, "sweep: lr=1e-3 and lr=0.001 are the same run"),
        ({"runs": [{"steps": TOKENS.steps}, {"seed": 3}]}, "seed: each run has its own"),
        ({"runs": [{"steps": TOKENS.steps}, {"batch_size": TOKENS.batch_size}]}, "sweep: .* are the same run"),
        ({"seeds": "0:60000", "grid": {"steps": [3, 5]}}, "sweep: 120,000 runs are too many"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(values: dict, said: str):
    with pytest.raises(ValueError, match=f"^{said}"):
        planned(TOKENS, values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "is not valid; it must be a mapping"),
        ("recipes: induction", "'recipes' is not one of .*; nearest is 'recipe'"),
        ("grid: 3", "grid: 3 is not valid; it must be a mapping"),
        ("seeds: true", "seeds: True is not valid"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_file_that_describes_no_sweep_is_refused(tmp_path: Path, text: str, said: str):
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_sweep(file)


def test_a_sweep_comes_back_from_its_file(tmp_path: Path):
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({"recipe": "induction", "grid": {"steps": [7, 11]}, "seeds": "0:2"}))
    values = read_sweep(file)
    assert values["recipe"] == "induction"
    assert list(planned(TOKENS, values)) == list(planned(TOKENS, {"grid": {"steps": [7, 11]}, "seeds": [0, 1]}))


def test_a_folder_takes_the_same_runs_again_and_no_other_thing(tmp_path: Path):
    recipes = seeded(TOKENS, [2, 3])
    check_folder(tmp_path / "new", recipes)
    Run.create(tmp_path / "seed-002", recipes["seed-002"])
    check_folder(tmp_path, recipes)
    check_folder(tmp_path, seeded(TOKENS, [5]))  # beside other runs
    (tmp_path / "report.html").touch()  # the page of these runs
    check_folder(tmp_path, recipes)
    with pytest.raises(ValueError, match=r"is another run \(steps is \d+ there and \d+ here\)"):
        check_folder(tmp_path, seeded(TOKENS.changed({"steps": TOKENS.steps + 1}), [2]))
    with pytest.raises(ValueError, match="is a run; runs lie beside each other"):
        check_folder(tmp_path / "seed-002", recipes)
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match="holds notes, which is no run"):
        check_folder(tmp_path, recipes)
    (tmp_path / "file").touch()
    for out in ("file", "file/deep", "file/deep/er"):
        with pytest.raises(ValueError, match=r"^out: .*/file is a file"):
            check_folder(tmp_path / out, recipes)


def test_every_run_has_room_before_the_first_is_trained(tmp_path: Path):
    recipes = seeded(TOKENS, [2, 3])
    Run.create(tmp_path / "run", TOKENS)
    with pytest.raises(ValueError, match=r"seed-002 lies in the run .*/run;"):
        check_folder(tmp_path / "run" / "deep", recipes)
    (tmp_path / "many" / "seed-003" / "weights").mkdir(parents=True)
    with pytest.raises(ValueError, match="seed-003 holds weights but no run"):
        check_folder(tmp_path / "many", recipes)


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_run_is_made_in_a_folder_of_runs(tmp_path: Path, overwrite: bool):
    Run.create(tmp_path / "many" / "seed-002", TOKENS)
    with pytest.raises(ValueError, match="many holds the run seed-002"):
        Run.create(tmp_path / "many", TOKENS, overwrite)
    assert [each.name for each in (tmp_path / "many").iterdir()] == ["seed-002"]
    with pytest.raises(ValueError, match=r"many holds no run .*, but runs; name them, such as .*/many/\*"):
        Run(tmp_path / "many")
