"""Formation over many runs: dates, orders, shares and outliers of curves whose dates are known."""

import io
import json
import math
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter
from toys import LOG4, TOKENS, made_up_circuit, made_up_over_steps, run_of_ways

from headway.__main__ import main
from headway.analyze.formation.differences import differences
from headway.analyze.formation.distributions import before, leads, outliers
from headway.analyze.formation.kinds import NONE, kind_of
from headway.analyze.formation.over_runs import formation
from headway.analyze.formation.plain import from_json, to_json
from headway.analyze.report.formation_rows import order_rows
from headway.analyze.report.formation_table import print_differences, print_formation
from headway.checkpoints import Run
from headway.checkpoints.run import UPDATE_TAGS
from headway.checkpoints.scores import read_file, score_file, write_scores

NEVER = [0.0] * 6
BEHAVIOUR, PREVIOUS, COMPOSITION = "behaviour", "previous_token", "k_composition"


def rise(after: int, start: float = 0.0) -> list[float]:
    """A way that leaves 0 at a checkpoint of LOG4, at which it is ``start``, and is whole at the next one."""
    return [0.0] * after + [start] + [1.0] * (5 - after)


def half(after: int, start: float = 0.0) -> float:
    """The step at which ``rise`` is half-way."""
    return 4 ** (after + (0.5 - start) / (1 - start)) - 1


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of these runs need not survive a crash of the machine."""
    monkeypatch.setattr("os.fsync", lambda file: None)


@pytest.fixture(scope="module")
def five_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five runs: previous-token heads form first, in heads of other numbers, and one run never learns."""
    folder = tmp_path_factory.mktemp("five")
    for seed in range(5):
        learns = seed < 4
        ways = {
            BEHAVIOUR: rise(3, 0.1 * seed) if learns else NEVER,
            PREVIOUS: rise(2),
            COMPOSITION: rise(3) if learns else NEVER,
        }
        run_of_ways(folder / f"seed-{seed}", ways, heads=(seed % 3, 0), seed=seed)
    return folder


@pytest.fixture
def five(five_once: Path, tmp_path: Path) -> Path:
    """A copy, which a test may change."""
    return Path(shutil.copytree(five_once, tmp_path / "many"))


@pytest.fixture(scope="module")
def data(five_once: Path) -> xr.Dataset:
    return formation(five_once)


def test_each_run_has_dates_by_role_and_none_is_dropped(data: xr.Dataset):
    assert data.run.values.tolist() == [f"seed-{seed}" for seed in range(5)]
    assert data.event.values.tolist() == [BEHAVIOUR, PREVIOUS, COMPOSITION]
    assert data.label.values.tolist() == ["loss on repeats", "previous token", "K-composition"]
    dates = data.half_way.sel(event=BEHAVIOUR).values
    np.testing.assert_allclose(dates, [*(half(3, 0.1 * seed) for seed in range(4)), math.nan])
    assert data.formed.sel(event=BEHAVIOUR).values.tolist() == [True] * 4 + [False]
    assert data.state.sel(event=BEHAVIOUR).values[4] == "not formed"
    np.testing.assert_allclose(data.half_way.sel(event=PREVIOUS), half(2))
    assert data.who.sel(event=PREVIOUS).values.tolist() == ["L0H0", "L0H1", "L0H2", "L0H0", "L0H1"]
    assert data.who.sel(event=COMPOSITION).values[1] == "L0H1 and L1H0"
    assert data.level.sel(event=COMPOSITION).values.tolist() == pytest.approx([1, 1, 1, 1, 0], abs=1e-6)
    assert data.last_step.values.tolist() == [1023] * 5
    for name in ("half_way", "formed", "level", "width", "who"):
        assert {"long_name", "units", "description"} <= data[name].attrs.keys()


def test_medians_shares_and_curves_have_the_run_that_never_learns(data: xr.Dataset):
    learned = data.sel(event=BEHAVIOUR)
    assert learned.median_half_way.item() == pytest.approx(sorted(half(3, 0.1 * seed) for seed in range(4))[2])
    assert learned.median_half_way_high.item() == math.inf  # resamples in which most never learn
    assert (learned.measured.item(), learned.formed_runs.item()) == (5, 4)
    assert learned.share_formed_low.item() == pytest.approx(0.376, abs=1e-3)  # Wilson, 4 of 5
    curve = learned.formed_by.dropna("step")
    assert curve.values[[0, -1]].tolist() == [0, pytest.approx(0.8)]
    assert (np.diff(curve.values) >= 0).all()
    np.testing.assert_allclose(data.median_width.sel(event=PREVIOUS), (4**2.9 - 1) / (4**2.1 - 1))


def test_order_is_by_intervals_of_checkpoints(data: xr.Dataset):
    one = data.sel(event=PREVIOUS, other=BEHAVIOUR)
    expected = [math.log((1 + half(3, 0.1 * seed)) / (1 + half(2))) for seed in range(4)]
    np.testing.assert_allclose(leads(data, PREVIOUS, BEHAVIOUR), [*expected, math.inf])
    assert one.lead.item() == pytest.approx(sorted(expected)[2])
    # 15 to 63 comes before 63 to 255, and before never.
    assert before(data, PREVIOUS, BEHAVIOUR).tolist() == [1] * 5
    assert before(data, BEHAVIOUR, PREVIOUS).tolist() == [-1] * 5
    assert (one["first"].item(), one.decided.item(), one.undecided.item()) == (1, 5, 0)
    assert one.first_low.item() == pytest.approx(0.5655, abs=1e-3)  # Wilson, 5 of 5
    # The same two checkpoints do not tell, and a run that has neither says nothing.
    same = before(data, BEHAVIOUR, COMPOSITION)
    assert same[:4].tolist() == [0] * 4
    assert np.isnan(same[4])
    both = data.sel(event=BEHAVIOUR, other=COMPOSITION)
    assert (both.decided.item(), both.undecided.item(), both.lead_runs.item()) == (0, 4, 4)


def test_a_lead_over_what_never_happens_is_said_in_words(data: xr.Dataset):
    leads = {row[:2]: row[2] for row in order_rows(data).cells}
    assert leads["previous token", "loss on repeats"].endswith(", the next never]")
    assert not any("inf" in lead for lead in leads.values())


def test_dates_between_the_same_checkpoints_are_no_distribution(data: xr.Dataset):
    assert data.same_checkpoints.values.tolist() == [0.8, 1.0, 0.8]
    notes = " ".join(data.attrs["notes"])
    assert (
        "loss on repeats (4 of 5 runs), K-composition (4 of 5 runs): between the same two checkpoints, 63 and 255"
        in notes
    )
    assert "previous token (5 of 5 runs): between the same two checkpoints, 15 and 63" in notes


def test_the_loss_of_every_update_tells_dates_between_the_same_checkpoints_apart(tmp_path: Path):
    for seed in range(3):
        run = run_of_ways(tmp_path / f"{seed}", {BEHAVIOUR: rise(3)[:5], PREVIOUS: rise(3)[:5]}, LOG4[:5], seed=seed)
        with SummaryWriter(str(run.path)) as writer:
            for update in range(1, 256):
                loss = 1 + 2 / (1 + math.exp((update - 1 - (100 + 20 * seed)) / 4))  # of the network before it
                for tag in UPDATE_TAGS.values():
                    writer.add_scalar(tag, loss, update)
    data = formation(tmp_path)
    np.testing.assert_allclose(data.half_way.sel(event=BEHAVIOUR), [100, 120, 140], atol=1)
    assert data.by_updates.sel(event=BEHAVIOUR).all()
    assert data.same_checkpoints.values.tolist() == [0, 1]
    notes = " ".join(data.attrs["notes"])
    assert "loss on repeats" not in notes
    assert "previous token (3 of 3 runs): between the same two checkpoints" in notes
    assert not before(data, BEHAVIOUR, PREVIOUS).any()  # a fine date within a coarse one does not tell either


def test_noise_is_no_event(tmp_path: Path):
    draws = np.random.default_rng(0)
    for seed in range(3):
        ways = {BEHAVIOUR: draws.normal(0, 0.02, 6).tolist(), PREVIOUS: draws.normal(0, 0.02, 6).tolist()}
        run_of_ways(tmp_path / f"{seed}", ways, seed=seed)
    data = formation(tmp_path)
    assert data.event.values.tolist() == [BEHAVIOUR]  # no head mainly attends to the previous token
    assert not data.formed.any()
    assert data.median_half_way.item() == math.inf
    assert (data.share_formed.item(), data.share_formed_low.item()) == (0, 0)
    asked = formation(tmp_path, measures=[PREVIOUS])
    assert asked.state.sel(event=PREVIOUS).values.tolist() == ["not formed"] * 3
    assert np.nanmax(data.formed_by.values) == 0


def test_noise_around_chance_without_a_floor_is_nothing_learned(five: Path):
    for step in LOG4:
        path = score_file(five / "seed-4", step, "loss")
        scores = read_file(path)
        scores["loss"].attrs["behaviour"] = {"part": "repeats", "chance": 4.0, "floor": None}
        scores["loss_repeats"] = scores.loss_repeats - step / 10_000
        write_scores(path, scores)
    assert formation(five / "seed-4").state.sel(event=BEHAVIOUR).values.tolist() == ["not formed"]


def test_more_than_half_never_is_a_median_of_never(tmp_path: Path):
    for seed in range(5):
        run_of_ways(tmp_path / f"{seed}", {BEHAVIOUR: rise(2) if seed < 2 else NEVER}, seed=seed)
    data = formation(tmp_path)
    assert data.median_half_way.item() == math.inf
    assert data.share_formed.item() == 0.4


def test_a_run_that_is_not_finished_is_censored_where_it_ends(tmp_path: Path):
    for seed in range(4):
        run_of_ways(tmp_path / f"{seed}", {BEHAVIOUR: rise(3)}, seed=seed)
    run = run_of_ways(tmp_path / "4", {BEHAVIOUR: NEVER[:3]}, steps=LOG4[:3])
    text = (run.path / "config.yaml").read_text().replace("steps: 15", "steps: 1023")
    (run.path / "config.yaml").write_text(text)
    data = formation(tmp_path)
    assert data.last_step.values.tolist() == [1023] * 4 + [15]
    assert data.median_half_way.item() == pytest.approx(half(3))
    assert data.formed_by.sel(step=255).item() == 1  # of those that were still going on
    assert any(note.startswith("4: not finished") for note in data.attrs["notes"])


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_runs_have_values_and_no_interval(five: Path, count: int):
    data = formation([five / f"seed-{seed}" for seed in range(count)])
    assert data.median_half_way.sel(event=PREVIOUS).item() == pytest.approx(half(2))
    for name in map(str, data.data_vars):
        if name.endswith(("_low", "_high")):
            assert np.isnan(data[name].values).all(), name
    assert any("values without intervals, which need 3" in note for note in data.attrs["notes"])


def test_few_runs_say_that_their_intervals_are_no_wider_than_their_range(five: Path, tmp_path: Path):
    assert any(note.startswith("5 runs: no interval") and "with 94%" in note for note in formation(five).attrs["notes"])
    for seed in range(6):
        run_of_ways(tmp_path / "six" / f"{seed}", {BEHAVIOUR: rise(2)}, seed=seed)
    assert not any("no interval" in note for note in formation(tmp_path / "six").attrs["notes"])


def test_scores_that_do_not_say_what_the_task_is_about_are_read_as_those_that_do(five: Path):
    whole = formation(five)
    for step in LOG4:
        path = score_file(five / "seed-1", step, "loss")
        scores = read_file(path)
        del scores["loss"].attrs["behaviour"]
        write_scores(path, scores)
    lent = formation(five)
    xr.testing.assert_identical(lent.half_way, whole.half_way)
    assert "seed-1: the scores do not say what the task is about; those of another run do" in lent.attrs["notes"]
    config = five / "seed-1" / "config.yaml"
    config.write_text(config.read_text().replace("late_start: 0.5", "late_start: 0.25"))
    other = formation(five)  # of a task with another option: the same part, from where it begins to where it ends
    xr.testing.assert_identical(other.half_way, whole.half_way)
    assert any("the part is that of other runs" in note for note in other.attrs["notes"])
    alone = formation(five / "seed-1")
    assert alone.label.sel(event=BEHAVIOUR).item() == "loss"
    assert any("the loss of all positions" in note for note in alone.attrs["notes"])


def test_other_measures_and_parts_are_looked_at_when_asked_for(five: Path):
    data = formation(five, measures=["loss_first"])
    assert data.event.values.tolist() == [BEHAVIOUR, PREVIOUS, COMPOSITION, "loss_first"]
    assert not data.formed.sel(event="loss_first").any()  # it does not fall
    assert formation(five, only=[PREVIOUS]).event.values.tolist() == [PREVIOUS]
    assert formation(five, part="all").label.sel(event=BEHAVIOUR).item() == "loss"


@pytest.mark.parametrize("stated", ["repeats", {"part": "repeats"}, {"part": "repeats", "chance": "4", "floor": 0}])
def test_scores_that_say_nonsense_are_damaged(five: Path, stated: object):
    for step in LOG4:
        path = score_file(five / "seed-1", step, "loss")
        scores = read_file(path)
        scores["loss"].attrs["behaviour"] = stated
        write_scores(path, scores)
    with pytest.raises(ValueError, match=r"^run: .*seed-1 are damaged \("):
        formation(five)


def test_kinds_of_circuit_by_names_and_routes(five: Path):
    for seed in range(3):
        run = Run(five / f"seed-{seed}")
        for step in LOG4:
            run.weights_file(step).parent.mkdir(exist_ok=True)
            run.weights_file(step).touch()
        route = "k" if seed else "q"
        made_up_circuit(run, 1023, ["embed->L0H1.v", f"L0H1->L1H0.{route}", "L1H0->output"], [], ("L0H0", "L0H1"))
        made_up_over_steps(run, 1023)
    data = formation(five)
    one = kind_of(Run(five / "seed-1").circuit())
    assert str(one) == "1 previous-token head, 1 head without a name; K"
    assert data.kind.values.tolist() == [str(one).replace("K", "Q"), str(one), str(one), NONE, NONE]
    assert data.kind_share.sel(kind_name=str(one)).item() == 0.4
    assert data.part_share.sel(part_count="1 previous-token head").item() == 1
    assert data.route_share.sel(route="K").item() == pytest.approx(2 / 3)
    circuits = data.sel(event="circuit")
    # The run that knows nothing has no circuit; of the other one it is not known.
    assert circuits.state.values[3:].tolist() == ["not measured", "not formed"]
    assert circuits.measured.item() == 4
    assert "circuit is not known of 1 of 5 runs; headway circuit finds it" in data.attrs["notes"]


def test_heads_of_one_layer_do_not_compose(tmp_path: Path):
    runs = [run_of_ways(tmp_path / f"seed-{seed}", {BEHAVIOUR: rise(2), COMPOSITION: rise(3)}) for seed in range(2)]
    one_layer = run_of_ways(tmp_path / "one-layer", {BEHAVIOUR: NEVER})
    (one_layer.path / "config.yaml").write_text(
        (one_layer.path / "config.yaml").read_text().replace("n_layers: 2", "n_layers: 1")
    )
    unmeasured = run_of_ways(tmp_path / "unmeasured", {BEHAVIOUR: rise(2)})
    data = formation([*runs, one_layer.path, unmeasured])
    composes = data.sel(event=COMPOSITION)
    assert composes.state.values.tolist() == ["formed", "formed", "does not apply", "not measured"]
    assert composes.measured.item() == 2
    assert "K-composition is not known of 1 of 4 runs; headway measure finds it" in data.attrs["notes"]


def table(dates: Sequence[float], kinds: Sequence[str]) -> xr.Dataset:
    """One event over runs, as ``formation`` has it, with dates of every update."""
    values = np.array(dates, float)[:, None]
    formed = ~np.isnan(values)
    axes = ("run", "event")
    data = {
        "half_way": values,
        "after": values - 1,
        "before": values + 1,
        "formed": formed,
        "level": formed.astype(float),
    }
    variables = {name: (axes, each) for name, each in data.items()}
    of_runs = {"kind": ("run", list(kinds)), "last_step": ("run", [1500] * len(kinds))}
    return xr.Dataset({**variables, **of_runs}, {"event": ["e"], "label": ("event", ["it"])})


def test_outliers_have_reasons():
    dates = [150, 152, 148, 155, 151, 149, 150, 153, 147, 600, math.nan]
    said = outliers(table(dates, ["usual"] * 10 + ["other"]))
    assert said[:9] == [""] * 9
    assert said[9].startswith("it late: step 600, median 150 (")
    assert said[10] == "it never formed (10 of 11 did); rare kind of circuit: other (10 of 11 have usual)"
    assert outliers(table([150] * 10 + [152], ["a"] * 11)) == [""] * 11  # as far as dates can tell apart
    assert outliers(table([150, 900, 150], ["a"] * 3)) == [""] * 3  # of three dates none is one
    assert outliers(table([math.nan] * 4 + [100], ["a"] * 5))[4] == "it formed (4 of 5 never did)"


@pytest.mark.parametrize(("last_step", "said"), [(599, ""), (601, "it never formed (10 of 11 did)")])
def test_a_run_that_ended_before_the_latest_date_is_no_outlier(last_step: int, said: str):
    data = table([150] * 9 + [600, math.nan], ["a"] * 11)
    data["last_step"][10] = last_step
    assert outliers(data)[10] == said


def test_a_date_between_neighbouring_checkpoints_is_no_outlier():
    """Checkpoints at 55, 70, 88 and 120: nothing says that a date before 70 and one after it are far apart."""
    data = table([79] * 10 + [62, 104], ["a"] * 12)
    between = [(70, 88)] * 10 + [(55, 70), (88, 120)]
    for name, place in (("after", 0), ("before", 1)):
        data[name] = (("run", "event"), [[ends[place]] for ends in between])
    assert outliers(data) == [""] * 12
    data["before"][10], data["after"][10] = 15, 12
    data["half_way"][10] = 13
    assert outliers(data)[10].startswith("it early: step 13")
    assert outliers(data)[11] == ""


def test_groups_that_differ_and_groups_that_do_not(tmp_path: Path):
    for group, after in (("a", 1), ("c", 3)):
        for seed in range(5):
            never = NEVER if group == "c" and seed == 0 else None
            ways = {BEHAVIOUR: never or rise(after, 0.05 * seed)}
            run_of_ways(tmp_path / group / f"{seed}", ways, seed=seed)
    found = {group: formation(tmp_path / group) for group in "ac"}
    same = differences(found["a"], found["a"].assign_coords(path=("run", list("01234"))))
    assert same.comparison.values.tolist() == ["behaviour half-way", "behaviour width", "behaviour final way"]
    assert (same.p == 1).all()
    np.testing.assert_allclose(same.difference, [1, 1, 0])
    later = differences(found["a"], found["c"]).set_coords("quantity").swap_dims(comparison="quantity")
    assert later.quantity.values.tolist() == ["half-way", "formed", "width", "final way"]
    date = later.sel(quantity="half-way")
    assert date.effect.item() == 1
    assert date.p.item() == pytest.approx(2 / 252)  # of all ways to choose 5 of 10
    assert date.p_corrected.item() == pytest.approx(4 * 2 / 252)
    assert date["second"].item() / date["first"].item() > 10
    assert date.difference.item() == pytest.approx((1 + date["second"].item()) / (1 + date["first"].item()))
    assert later.effect.sel(quantity="formed").item() == pytest.approx(-0.2)
    assert (later.n_first.values == 5).all()
    few = differences(formation([tmp_path / "a" / "0", tmp_path / "a" / "1"]), found["c"])
    assert np.isnan(few.p.values).all()
    assert (few.n_first.values == 2).all()
    with pytest.raises(
        ValueError, match=r"^compare: the behaviour of one group is 'loss on repeats' and of the other 'loss'"
    ):
        differences(found["a"], formation(tmp_path / "c", part="all"))


def test_numbers_survive_strict_json(data: xr.Dataset):
    text = to_json({"many": data})
    plain = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert plain["groups"]["many"]["coords"]["run"]["data"] == data.run.values.tolist()
    back = from_json(text)[0]["many"]
    assert back.attrs == data.attrs
    for name in data.data_vars:
        np.testing.assert_array_equal(back[name].values, data[name].values, err_msg=str(name))
        assert (back[name].dims, back[name].attrs) == (data[name].dims, data[name].attrs)


def test_the_command_prints_tables_or_json(five: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (five / "notes.txt").write_text("mine")
    main(["formation", str(five)])
    said = " ".join(capsys.readouterr().out.split())
    assert "5 runs of RepeatedTokens" in said
    assert "previous token 5 of 5 [57, 100 %] 31 [31, 31]" in said
    assert "previous token loss on repeats ×" in said
    assert "seed-4 loss on repeats never formed (4 of 5 did)" in said
    assert f"Note: {five} holds notes.txt too, no run: passed over." in said
    main(["formation", str(five), "--json"])
    printed = from_json(capsys.readouterr().out)[0]["runs"]
    main(
        [
            "formation",
            "--compare",
            str(five / "seed-[012]"),
            str(five / "seed-[34]"),
            "--json",
            str(tmp_path / "f.json"),
        ]
    )
    said = capsys.readouterr().out
    assert "fewer than 3 runs of a group have the number: no interval and no p" in " ".join(said.split())
    groups, compared = from_json((tmp_path / "f.json").read_text())
    assert list(groups) == [str(five / "seed-[012]"), str(five / "seed-[34]")]
    assert compared is not None
    assert "behaviour half-way" in compared.comparison
    assert printed.sizes["run"] == 5


def test_names_of_groups_are_printed_as_they_are(five: Path):
    data, other = (formation([five / f"seed-{seed}" for seed in seeds]) for seeds in ((0, 1), (2, 3)))
    names = ["a[/]b", "[red]c[/red]"]
    console = Console(file=io.StringIO(), width=200)
    print_differences(differences(data, other), names, console)
    print_formation(data, console, names[0])
    assert isinstance(console.file, io.StringIO)
    header = console.file.getvalue().splitlines()[2]
    assert all(name in header for name in names)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--compare many 'many/*'", "many/seed-0 is in both groups"),
        ("many many/seed-0", "run: many/seed-0 is given twice; it counts once"),
        ("many unscored", "run: unscored has no scores yet; headway measure unscored computes them"),
        ("waiting", "run: no run in waiting has scores yet; headway measure computes them"),
        ("many --measures previous_tokens", "nearest is 'previous_token'"),
    ],
)
def test_bad_folders_of_runs_are_one_line(
    arguments: str, says: str, five: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(five.parent)
    Run.create(Path("unscored"), TOKENS)
    Run.create(Path("waiting/seed-0"), TOKENS)
    with pytest.raises(SystemExit) as end:
        main(["formation", *shlex.split(arguments)])
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert says in line


def test_a_run_of_a_folder_that_has_no_scores_is_passed_over_and_that_is_said(five: Path):
    Run.create(five / "seed-9", TOKENS)
    data = formation(five)
    assert data.sizes["run"] == 5
    assert f"seed-9 in {five} has no scores yet: passed over" in data.attrs["notes"]
