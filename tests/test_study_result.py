"""The result of a study: what is written comes back, what cannot be drawn is refused, claims are held to bounds."""

import io
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from toy_studies import made_up_study

from headway.analyze.report.console import print_study
from headway.analyze.studies.result import Claim, Claims, Figure, Kind, Section, StudyResult, by_layer, table
from headway.analyze.studies.runner import over_checkpoints

LINES = Figure("Squares", xr.Dataset({"y": ("x", [0, 1, 4])}), "lines")
EMPTY = StudyResult("empty", "runs/empty", 0, (), ())


def same(a: StudyResult, b: StudyResult) -> bool:
    """Whether two results tell the same; numbers that are NaN in both are."""
    if (a.study, a.run, a.step, repr(a.claims)) != (b.study, b.run, b.step, repr(b.claims)):
        return False
    if [(each.title, each.text, len(each.figures)) for each in a.sections] != [
        (each.title, each.text, len(each.figures)) for each in b.sections
    ]:
        return False
    figures = [[figure for each in result.sections for figure in each.figures] for result in (a, b)]
    return all(
        (x.title, x.kind, x.note, x.log) == (y.title, y.kind, y.note, y.log)
        and list(x.data.data_vars) == list(y.data.data_vars)
        and x.data.identical(y.data)
        for x, y in zip(*figures, strict=True)
    )


def around(*figures: Figure, claims: Claims = ()) -> StudyResult:
    return StudyResult("mine", "runs/mine", 17, (Section("One", "Its text.", figures),), claims)


# Writing and reading


def test_a_result_comes_back_from_its_file(tmp_path: Path):
    result = made_up_study()
    result.write(tmp_path / "made_up.nc")
    back = StudyResult.read(tmp_path / "made_up.nc")
    assert same(back, result)
    assert isinstance(back.step, int)
    assert {(type(claim.number), type(claim.below), type(claim.says)) for claim in back.claims} == {(float, bool, str)}
    # And it is the result of the file that says so.
    for other in (
        replace(result, step=5),
        replace(result, sections=result.sections[::-1]),
        replace(result, claims=result.claims[1:]),
        replace(result, sections=(replace(result.sections[0], figures=result.sections[0].figures[::-1]),)),
    ):
        assert not same(back, other)
    back.write(tmp_path / "again.nc")
    assert same(StudyResult.read(tmp_path / "again.nc"), result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.nc", "made_up.nc"]


def test_a_result_of_a_model_without_steps_comes_back(tmp_path: Path):
    result = replace(made_up_study("gpt2"), step=None)
    result.write(tmp_path / "made_up.nc")
    assert same(StudyResult.read(tmp_path / "made_up.nc"), result)


def test_a_tree_comes_back_without_a_file():
    result = made_up_study()
    assert same(StudyResult.from_tree(result.to_tree()), result)
    # It can be asked twice: reading takes nothing out of it.
    tree = result.to_tree()
    StudyResult.from_tree(tree)
    assert same(StudyResult.from_tree(tree), result)
    assert same(result, made_up_study())


@pytest.mark.parametrize("order", [["b", "a", "c"], ["c", "b", "a"], ["10", "9", "with spaces: and, signs – 1·2"]])
def test_sections_and_figures_keep_their_order(order: list[str], tmp_path: Path):
    figures = tuple(replace(LINES, title=title) for title in order)
    result = replace(EMPTY, sections=tuple(Section(title, title, figures) for title in order))
    result.write(tmp_path / "ordered.nc")
    back = StudyResult.read(tmp_path / "ordered.nc")
    assert [section.title for section in back.sections] == order
    assert [[figure.title for figure in section.figures] for section in back.sections] == [order] * 3


@pytest.mark.parametrize(
    "result", [EMPTY, around(), around(LINES), replace(EMPTY, claims=(Claim("", "", math.nan, 0.5),))],
    ids=["nothing", "an empty section", "no claims", "no sections"],
)  # fmt: skip
def test_what_has_nothing_comes_back_too(result: StudyResult, tmp_path: Path):
    result.write(tmp_path / "few.nc")
    assert same(StudyResult.read(tmp_path / "few.nc"), result)


def test_numbers_words_and_attributes_of_every_kind_come_back(tmp_path: Path):
    data = xr.Dataset(
        {
            "wide": ("row", np.array([math.nan, math.inf, -0.0]), {"long_name": "Wide, 1·2", "units": ""}),
            "narrow": ("row", np.array([1, 2, 3], dtype="float32") / 3),
            "count": ("row", np.array([-(2**62), 0, 2**62])),
            "holds": ("row", np.array([True, False, True])),
            "said": ("row", np.array(["–", "", "</script>"])),
        },
        {"row": ["a", "b", "a"], "beside": ("row", [1.5, 2.5, 3.5]), "everywhere": 7},
        {"source": "by hand"},
    )
    result = around(Figure("All kinds", data, "table", note="A note – with signs.", log=""))
    result.write(tmp_path / "kinds.nc")
    back = StudyResult.read(tmp_path / "kinds.nc")
    assert same(back, result)
    [figure] = back.sections[0].figures
    numbers = ("wide", "narrow", "count", "holds")
    assert [figure.data[name].dtype for name in numbers] == [data[name].dtype for name in numbers]


claims = st.builds(
    Claim,
    says=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=11),
    measured=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=11),
    number=st.floats(),
    bound=st.floats(allow_nan=False),
    below=st.booleans(),
)


@settings(max_examples=30)
@given(claims=st.lists(claims, max_size=5))
def test_claims_come_back_to_the_last_digit(claims: list[Claim]):
    result = replace(EMPTY, claims=tuple(claims))
    back = StudyResult.from_tree(result.to_tree())
    assert repr(back.claims) == repr(result.claims)
    assert [claim.holds for claim in back.claims] == result.to_tree()["claims"].holds.values.tolist()


def test_xarray_alone_opens_a_result(tmp_path: Path):
    """In a process that never imports Headway."""
    path = tmp_path / "made_up.nc"
    made_up_study().write(path)
    code = """
import sys
import xarray as xr
with xr.open_datatree(sys.argv[1], engine="h5netcdf") as tree:
    print([*tree.children], tree.attrs["study"], int(tree.attrs["step"]))
    print([*tree["Maps and tables"].children], tree["Maps and tables"].attrs["text"])
    print(tree["Maps and tables/A table"].steps.sel(part="third").values.tolist())
    print(tree["Lines/Two panels"].attrs["kind"], tree["Lines/Two panels"].attrs["log"])
    print(tree["claims"].number.dims, tree["claims"].holds.values.tolist())
assert not any(name.split(".")[0] == "headway" for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['Lines', 'Maps and tables', 'claims'] made_up 4",
        "['Small maps', 'A large map', 'A table'] What these are of.",
        "[8000, 9000, 10000, 11000]",
        "lines xy",
        "('claim',) [True, False, True, False]",
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # h5netcdf's, of a file it cannot open
@pytest.mark.parametrize("damage", ["empty", "cut", "no file", "text", "no claims", "no kind", "other kind", "no step"])
def test_a_damaged_file_is_named(damage: str, tmp_path: Path):
    path = tmp_path / "made_up.nc"
    around(LINES).write(path)
    whole, tree = path.read_bytes(), around(LINES).to_tree()
    if damage in ("empty", "cut", "text"):
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"not a result"}[damage])
    elif damage == "no file":
        path.unlink()
    else:
        if damage == "no claims":
            del tree["claims"]
        elif damage == "no step":
            del tree.attrs["step"]
        elif damage == "no kind":
            del tree["One/Squares"].attrs["kind"]
        else:
            tree["One/Squares"].attrs["kind"] = "pie"
        tree.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(
        ValueError, match=r"(?s)^study: .*made_up\.nc is damaged \(.*\); remove it and run the study again$"
    ):
        StudyResult.read(path)


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "studies" / "mine.nc"
    around(LINES).write(path)

    def fails(self: xr.DataTree, content: io.BytesIO, **options: object) -> None:
        content.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(xr.DataTree, "to_netcdf", fails)
    with pytest.raises(OSError, match="disk full"):
        made_up_study().write(path)
    assert [each.name for each in path.parent.iterdir()] == ["mine.nc"]
    assert same(StudyResult.read(path), around(LINES))


# Figures


def of_axes(*axes: str) -> xr.Dataset:
    return xr.Dataset({"y": (axes, np.zeros([2] * len(axes)))})


@pytest.mark.parametrize(
    ("kind", "fits"),
    [("lines", [1, 2, 3, 4]), ("maps", [2, 3, 4]), ("scatter", [2, 3, 4]), ("table", [1, 2])],
)
def test_a_figure_has_the_axes_that_it_is_drawn_by(kind: Kind, fits: list[int]):
    for number in range(5):
        axes = "abcd"[:number]
        if number in fits:
            assert Figure("Drawn", of_axes(*axes), kind).data.y.dims == tuple(axes)
        else:
            named = ", ".join(axes) or "none"
            with pytest.raises(ValueError, match=f"^data: y has the axes {named}; {kind} needs"):
                Figure("Drawn", of_axes(*axes), kind)


def test_points_have_two_coordinates():
    data = xr.Dataset({"points": (("point", "of"), np.zeros((5, 3)))})
    with pytest.raises(ValueError, match=r"^data: the last axis of points has 3 entries; scatter needs two, x and y$"):
        Figure("Points", data, "scatter")


def test_one_variable_that_cannot_be_drawn_is_enough():
    both = of_axes("row", "column").assign(z=("row", [1, 2]))
    Figure("Lines of both", both, "lines")
    with pytest.raises(ValueError, match=r"^data: z has the axes row; maps"):
        Figure("Maps of both", both, "maps")


def test_columns_of_a_table_have_the_same_rows():
    columns = xr.Dataset({"a": ("row", [1, 2, 3]), "b": (("row", "head"), np.zeros((3, 5)))})
    Figure("One", columns, "table")
    # Also where there are as many of them.
    fewer, as_many = (columns.assign(c=("line", range(number))) for number in (2, 3))
    for other in (fewer, as_many, columns.transpose("head", ...)):
        with pytest.raises(ValueError, match=r"^data: the variables of the table 'Two' must have the same first axis$"):
            Figure("Two", other, "table")


def test_nothing_of_a_study_is_read_as_markup():
    names = ["U[random]", "[/x]", "[bold]"]
    columns = {name: ("[row]", [0.5, 0.25]) for name in names}
    data = xr.Dataset(columns, {"[row]": ["[red]one[/red]", "[/]"]})
    claim = Claim("[i]It[/i] holds", "share of [x]", 0.75, 0.5)
    section = Section("[b]Title", "[/text]", (Figure("[u]Table", data, "table", "[/note]"),))
    study = replace(EMPTY, sections=(section,), claims=(claim,))
    console = Console(file=io.StringIO(), width=200)
    print_study(study, console)
    printed = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    texts = (section.title, section.text, section.figures[0].title, section.figures[0].note, claim.says, claim.measured)
    for text in (*names, *data["[row]"].values, *texts):
        assert text in printed


@pytest.mark.parametrize("title", ["", "a/b", "/", "/a", "a/"])
def test_a_title_is_a_name(title: str):
    message = f"^title: {title!r} is not valid; it must be a name without a slash$"
    with pytest.raises(ValueError, match=message):
        Figure(title, LINES.data, "lines")
    with pytest.raises(ValueError, match=message):
        Section(title, "Its text.", (LINES,))


def test_a_kind_that_does_not_exist_is_named():
    figure = replace(LINES)
    object.__setattr__(figure, "kind", "pie")  # the type checker of the tests would refuse it as an argument
    with pytest.raises(ValueError, match=r"^kind: 'pie' is not one of lines, maps, scatter, table$"):
        figure.__post_init__()


def test_figures_of_a_section_can_be_told_apart():
    with pytest.raises(ValueError, match=r"^figures: two figures of the section 'One' have the same title$"):
        Section("One", "Its text.", (LINES, replace(LINES, kind="table")))
    Section("One", "Its text.", (LINES, replace(LINES, title="Squares ")))


# Claims


@pytest.mark.parametrize(
    ("number", "above", "below"),
    [(0.6, True, False), (0.4, False, True), (0.5, False, False), (math.nan, False, False), (math.inf, True, False),
     (-math.inf, False, True), (math.nextafter(0.5, 1), True, False)],
)  # fmt: skip
def test_a_claim_holds_on_the_right_side_of_its_bound(number: float, above: bool, below: bool):
    claim = Claim("It is so", "a number", number, bound=0.5)
    assert claim.holds is above
    assert replace(claim, below=True).holds is below
    assert (claim.needs, replace(claim, below=True).needs) == ("> 0.5", "< 0.5")


# Over the checkpoints


NUMBERS = {0: (0.1, 9.0, 0.9), 3: (0.7, 9.0, 0.9), 7: (0.2, 0.2, 0.9), 13: (0.8, 0.1, math.nan), 17: (0.9, 0.1, 0.1)}


def found_at(step: int) -> Claims:
    first, second, third = NUMBERS[step]
    return (
        Claim("It rises", "score", first, 0.5),
        Claim("It falls", "rest", second, 0.5, below=True),
        Claim("It stays", "share", third, 0.5),
    )


def figures_until(last: int) -> tuple[Figure, ...]:
    return over_checkpoints({step: (found_at(step), None) for step in NUMBERS if step <= last})


def test_a_claim_is_said_to_hold_since_the_step_from_which_it_held_for_good():
    formed, lines = figures_until(17)
    assert (formed.kind, lines.kind, lines.log) == ("table", "lines", "x")
    rows = formed.data
    assert rows.claim.values.tolist() == ["It rises", "It falls", "It stays"]
    np.testing.assert_array_equal(rows.since, [13, 7, math.nan])
    np.testing.assert_array_equal(rows["first"], NUMBERS[0])
    np.testing.assert_array_equal(rows["last"], NUMBERS[17])
    assert rows.needs.values.tolist() == ["> 0.5", "< 0.5", "> 0.5"]
    assert rows.since.attrs["long_name"] == "holds since step"
    assert [rows[name].attrs["long_name"] for name in ("first", "last")] == ["at step 0", "at step 17"]
    # At step 7 the first no longer holds, and the third still does, from the start.
    np.testing.assert_array_equal(figures_until(7)[0].data.since, [math.nan, 7, 0])
    np.testing.assert_array_equal(figures_until(0)[0].data.since, [math.nan, math.nan, 0])


def test_the_numbers_of_each_claim_are_drawn_over_the_steps():
    _, lines = figures_until(17)
    assert lines.data.step.values.tolist() == list(NUMBERS)
    assert list(lines.data.data_vars) == ["claim_0", "claim_1", "claim_2"]
    for i, name in enumerate(lines.data.data_vars):
        np.testing.assert_array_equal(lines.data[name], [numbers[i] for numbers in NUMBERS.values()])
    assert lines.data.claim_1.attrs["long_name"] == "It falls: rest (< 0.5)"


def test_what_is_measured_has_the_steps_as_its_last_axis():
    """Also where a step has a variable, or an entry, that others lack."""
    at = {
        0: xr.Dataset({"score": ("head", [1.0, 2.0], {}), "alone": 3.0}, {"head": ["a", "b"]}),
        3: xr.Dataset({"score": ("head", [4.0, 5.0])}, {"head": ["a", "c"]}),
    }
    measured = over_checkpoints({step: (found_at(step), each) for step, each in at.items()})[2].data
    assert measured.score.dims == ("head", "step")
    np.testing.assert_array_equal(measured.score.sel(head=["a", "b", "c"]), [[1, 4], [2, math.nan], [math.nan, 5]])
    np.testing.assert_array_equal(measured.alone, [3, math.nan])


def test_what_formed_over_the_steps_can_be_kept(tmp_path: Path):
    result = around(*figures_until(17), claims=found_at(17))
    result.write(tmp_path / "mine.nc")
    assert same(StudyResult.read(tmp_path / "mine.nc"), result)


# Tables


def test_a_table_has_a_row_for_each_name():
    rows = table("part", ["a", "b", "c"], loss=[0.1, 0.2, 0.3], said=["x", "y", "z"], holds=[True, False, True])
    assert {name: values.dims for name, values in rows.data_vars.items()} == dict.fromkeys(
        ("loss", "said", "holds"), ("part",)
    )
    assert rows.sel(part="b").loss.item() == 0.2
    assert rows.sel(part="c").said.item() == "z"
    Figure("Drawn", rows, "table")
    assert table("part", (name for name in "ab"), loss=[1, 2]).part.values.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="conflicting sizes"):
        table("part", ["a", "b"], loss=[1, 2, 3])


def test_scores_of_layers_and_of_heads_stand_in_one_table():
    draws = np.random.default_rng(0)
    of_heads = xr.DataArray(draws.normal(size=(3, 5)), dims=("layer", "head"))
    of_layers = xr.DataArray(draws.normal(size=3), dims="layer")
    rows = by_layer(score=of_heads, share=of_layers)
    assert rows.layer.values.tolist() == ["L0", "L1", "L2"]
    assert rows["head"].values.tolist() == [f"H{head}" for head in range(5)]
    for layer in range(3):
        assert rows.share.sel(layer=f"L{layer}").item() == of_layers.values[layer]
        for head in range(5):
            assert rows.score.sel(layer=f"L{layer}", head=f"H{head}").item() == of_heads.values[layer, head]
    Figure("Drawn", rows, "table")


def test_a_table_by_layer_takes_scores_as_they_are_stored():
    """With coordinates: numbers of layers and heads, and a step."""
    scores = xr.DataArray(
        np.arange(2 * 3 * 5).reshape(2, 3, 5),
        dims=("step", "layer", "head"),
        coords={"step": [0, 17], "layer": range(3), "head": range(5)},
    )
    rows = by_layer(score=scores.sel(step=17))
    assert set(rows.coords) == {"layer", "head"}
    assert rows.score.sel(layer="L2", head="H4").item() == 29
    assert "head" not in by_layer(share=scores.sel(step=17).mean("head")).coords


@pytest.mark.parametrize("titles", [("claims",), ("One", "Two", "One")])
def test_sections_of_a_result_can_be_told_apart(titles: tuple[str, ...]):
    sections = tuple(Section(title, "", ()) for title in titles)
    with pytest.raises(ValueError, match=r"^sections: '(claims|One)' is a title twice"):
        StudyResult("study", "runs/run", 0, sections, ())
