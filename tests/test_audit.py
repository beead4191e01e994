"""The audit of a run: clean runs of every optimiser pass, and each planted fault is named with its step."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from toys import NO_POSITIONS, TOKENS, VECTORS, Train

import headway
from headway.__main__ import main
from headway.analyze import LIVE, measure
from headway.analyze.studies.result import StudyResult
from headway.checkpoints import Recipe, Run
from headway.checkpoints.audit import audit, initial_faults
from headway.checkpoints.schedule import Schedule
from headway.checkpoints.scores import score_file
from headway.checkpoints.way import KINDS, Finding, Way, furthest_by_adam, furthest_by_sgd
from headway.checkpoints.weights import arrays_of, content_of, read_arrays, read_label
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer
from headway.models.optim import OptimConfig, OptimizerName

OPTIMISERS = {
    "AdamW": TOKENS.optim,
    "Adam, decaying, fast": OptimConfig("Adam", lr=0.1, weight_decay=0.1),
    "SGD": OptimConfig("SGD", lr=3.0, weight_decay=0.0),
    "SGD with momentum and decay": OptimConfig("SGD", lr=0.3, momentum=0.9, weight_decay=0.01, decay="linear"),
    "AdamW in groups, in parts": OptimConfig(
        lr=1e-4, groups={"embed.*": {"lr": 0.03, "weight_decay": 0.3}, "*.b_*": {"weight_decay": 0.0}}, accumulate=2
    ),
    "SGD in groups": OptimConfig("SGD", lr=0.01, weight_decay=0.0, groups={"embed.*": {"lr": 3.0}}),
    "SGD without clipping": OptimConfig("SGD", lr=1.0, max_grad_norm=None),
}
RECIPES = {
    **{name: replace(TOKENS, optim=optim) for name, optim in OPTIMISERS.items()},
    "no positions": NO_POSITIONS,
    "tied": replace(TOKENS, model=replace(TOKENS.model, tie_word_embeddings=True, biases=False)),
    "vectors": VECTORS,
    "every step kept": replace(TOKENS, schedule=Schedule(log=0, linear=17), optim=OptimConfig(lr=0.05)),
}


@pytest.mark.parametrize("name", RECIPES)
def test_clean_runs_have_no_fault(name: str, trained: Train, tmp_path: Path):
    run = trained(RECIPES[name], tmp_path / "run")
    assert audit(run) == []
    unlabelled(run)
    assert audit(run.path) == []


@pytest.fixture
def run(trained: Train, tmp_path: Path) -> Run:
    return trained(TOKENS, tmp_path / "run")


def unlabelled(run: Run) -> None:
    """Make the run one of an older Headway, without any hash."""
    for step in run.steps:
        run.weights_file(step).write_bytes(safetensors.numpy.save(read_arrays(run.weights_file(step))))
    shutil.rmtree(run.path / "scores")
    shutil.rmtree(run.path / "circuits", ignore_errors=True)


def rewritten(run: Run, step: int, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change weights, with a label that fits them, and without scores."""
    weights = {name: weight.copy() for name, weight in read_arrays(run.weights_file(step)).items()}
    change(weights)
    run.weights_file(step).write_bytes(content_of(weights, step, run.config))
    shutil.rmtree(run.path / "scores", ignore_errors=True)
    shutil.rmtree(run.path / "circuits", ignore_errors=True)


def found(run: Run) -> list[tuple[int | None, str]]:
    findings = audit(run)
    assert all(finding.fault in KINDS for finding in findings)
    return [(finding.step, finding.fault) for finding in findings]


def test_every_checkpoint_and_every_score_has_the_hash_of_its_weights(run: Run):
    for step in run.steps:
        label = read_label(run.weights_file(step))
        assert label is not None
        assert label.step == step
        for path in run.path.glob(f"scores/step-{step:08d}/*"):
            assert safetensors.numpy.load_file(path)["weights_sha256"].tobytes().hex() == label.weights
    assert len({read_label(run.weights_file(step)) for step in run.steps}) == len(run.steps)


def test_scores_that_are_computed_later_are_of_the_same_bytes(run: Run):
    live = {path: path.read_bytes() for path in run.path.glob("scores/step-*/*")}
    measure(run, LIVE, overwrite=True)
    assert live == {path: path.read_bytes() for path in run.path.glob("scores/step-*/*")}


def test_a_copy_under_another_name_is_found(run: Run):
    shutil.copy(run.weights_file(4), run.weights_file(8))
    assert found(run) == [(8, "label"), (8, "repeated"), (8, "scores")]
    texts = [str(finding) for finding in audit(run)]
    assert texts[:2] == ["step 8: its weights were kept as those of step 4", "step 8: its weights are those of step 4"]
    assert texts[2].startswith("step 8: its scores are of weights that are not kept (")


def test_a_copy_is_found_where_nothing_is_labelled(run: Run):
    unlabelled(run)
    shutil.copy(run.weights_file(1), run.weights_file(8))
    assert found(run) == [(8, "repeated")]


def test_two_checkpoints_that_are_exchanged_are_found_by_their_labels_and_by_their_way(run: Run):
    exchange(run, 5, 8)
    assert {(5, "label"), (8, "label"), (5, "scores"), (8, "scores")} <= set(found(run))
    unlabelled(run)
    assert {step for step, fault in found(run) if fault in ("way", "update")} & {5, 8}


def exchange(run: Run, first: int, second: int) -> None:
    contents = [run.weights_file(step).read_bytes() for step in (first, second)]
    for step, content in zip((second, first), contents, strict=True):
        run.weights_file(step).write_bytes(content)


@pytest.mark.parametrize("step", [4, 8, 17])
def test_weights_of_another_run_are_off_the_way(step: int, run: Run):
    unlabelled(run)
    other = HookedTransformer(TOKENS.model, seed=TOKENS.seed + 1)
    run.weights_file(step).write_bytes(safetensors.numpy.save(arrays_of(other)))
    assert (step, "way") in found(run) or (step, "update") in found(run)


def test_a_run_that_goes_on_with_another_ones_weights_jumps():
    """In the middle and at the end; before and after it the ways are clean."""
    draws = np.random.default_rng(0)
    moves = draws.normal(0, 0.001, (40, 1009))
    for at in (20, 39):
        way = Way(None, 40)
        weights = np.zeros(1009)
        for step in range(40):
            weights = weights + moves[step] + (draws.normal(0, 0.03, 1009) if step == at else 0)
            assert way.go_on(step, {"W": weights}) == []
        assert [(finding.step, finding.fault) for finding in way.faults()] == [(at, "way")]


def test_a_way_that_returns_is_found():
    """Step 35 holds what step 3 held, up to noise; its neighbours are near each other, and it is far from both."""
    draws = np.random.default_rng(1)
    ways = np.cumsum(draws.normal(0, 0.001, (40, 1009)), axis=0)
    ways[35] = ways[3] + draws.normal(0, 0.0001, 1009)
    way = Way(None, 40)
    for step in range(40):
        way.go_on(step, {"W": ways[step]})
    assert [finding.step for finding in way.faults()] == [35]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("the scale", lambda weights: weights["blocks.0.attn.W_Q"].__imul__(3)),
        ("the mean", lambda weights: weights["embed.W_E"].__iadd__(0.02)),
        ("a bias", lambda weights: weights["blocks.1.attn.b_O"].__setitem__(0, 0.001)),
        ("the norm", lambda weights: weights["ln_final.w"].__imul__(0.99)),
        ("the seed", lambda weights: weights.update(arrays_of(HookedTransformer(TOKENS.model, seed=1)))),
    ],
)
def test_a_first_step_that_is_not_fresh_is_found(name: str, change: Callable, run: Run):
    rewritten(run, 0, change)
    assert (0, "initial") in found(run)


def test_fresh_networks_are_inside_the_null_of_their_initialiser():
    for model in (TOKENS.model, replace(NO_POSITIONS.model, initializer_range=0.3, act_fn="solu_ln"), VECTORS.model):
        for seed in range(20):
            weights = arrays_of(HookedTransformer(model, seed=seed))
            assert initial_faults(weights, model, seed + 100, exact=False) == []
            assert initial_faults(weights, model, seed, exact=True) == []
    wider = replace(TOKENS.model, initializer_range=0.03)
    weights = arrays_of(HookedTransformer(wider))
    (fault,) = initial_faults(weights, TOKENS.model, 0, exact=False)
    assert str(fault).startswith("step 0: its weights are not those of a fresh network: the standard deviation of")


def test_a_weight_that_moves_further_than_the_optimiser_allows_is_found(run: Run):
    rewritten(run, 8, lambda weights: weights["unembed.b_U"].__setitem__(3, 7.0))
    findings = audit(run)
    assert (8, "update") in [(finding.step, finding.fault) for finding in findings]
    assert any("step 8: unembed.b_U moved by" in str(finding) for finding in findings)


def adversary(optim: OptimConfig, gradients: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The weights after each update of torch's optimiser with these gradients."""
    weight = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = optim.build([weight], fused=False)
    ways = [start]
    for step, gradient in enumerate(gradients):
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        if optim.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_([weight], optim.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * optim.factor(step, len(gradients))
        optimizer.step()
        ways.append(weight.detach().numpy().copy())
    return np.array(ways)


@pytest.mark.parametrize("kind", ["constant", "growing", "spikes", "signs"])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.0, 0.99), (0.95, 0.8)])
@pytest.mark.parametrize("optimizer", ["Adam", "AdamW"])
def test_no_gradients_carry_adam_further_than_its_bound(
    optimizer: OptimizerName, betas: tuple[float, float], kind: str
):
    draws, n = np.random.default_rng(0), 60
    gradients = {
        "constant": np.ones((n, 5)),
        "growing": 1.06 ** np.arange(n)[:, None] * np.ones(5),
        "spikes": draws.standard_t(1, (n, 5)),
        "signs": draws.choice([-1.0, 1.0], (n, 5)),
    }[kind]
    optim = OptimConfig(
        optimizer, lr=0.01, betas=betas, weight_decay=0.3, warmup_steps=7, decay="linear", max_grad_norm=None
    )
    ways = adversary(optim, gradients, draws.normal(size=5))
    for first, last in ((0, 1), (0, 9), (9, 31), (31, 60)):
        apart, grown = furthest_by_adam(optim, n, first, last)
        moved = np.abs(ways[last] - ways[first])
        assert (moved <= (apart + grown * np.abs(ways[first])) * (1 + 1e-9)).all()


def test_adams_bound_is_reached():
    """By gradients that grow as 1 / (β2 / β1)^t, after which |m̂| / √v̂ has no larger value."""
    optim = OptimConfig("Adam", lr=0.01, betas=(0.9, 0.999), weight_decay=0.0, max_grad_norm=None)
    n = 400
    gradients = (0.999 / 0.9) ** np.arange(n)[:, None]
    ways = adversary(optim, gradients, np.zeros(1))
    apart, _ = furthest_by_adam(optim, n, n - 1, n)
    assert abs(ways[-1] - ways[-2]).item() == pytest.approx(apart, rel=1e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_no_gradients_carry_sgd_further_than_its_bound(momentum: float):
    optim = OptimConfig("SGD", lr=0.1, momentum=momentum, weight_decay=0.2, max_grad_norm=0.7)
    start = np.array([3.0, 4.0])
    ways = adversary(optim, np.tile(start, (30, 1)), start)
    largest = 5.0
    for first, last in ((0, 1), (1, 9), (9, 30)):
        bound = furthest_by_sgd(optim, 30, first, last, largest)
        assert np.linalg.norm(ways[last] - ways[first]) <= bound * (1 + 1e-9)
        largest = max(largest, float(np.linalg.norm(ways[first])) + bound)
    assert furthest_by_sgd(replace(optim, max_grad_norm=None), 30, 0, 1, 5.0) == np.inf


def test_altered_damaged_and_missing_weights_are_found(run: Run):
    weights = read_arrays(run.weights_file(4))
    label = {"checkpoint": json.dumps(read_label(run.weights_file(4))._asdict())}  # pyright: ignore
    weights["unembed.b_U"] = weights["unembed.b_U"] + np.float32(1e-6)
    run.weights_file(4).write_bytes(safetensors.numpy.save(weights, label))
    run.weights_file(8).write_bytes(b"")
    run.weights_file(5).unlink()
    assert set(found(run)) == {
        (4, "altered"), (4, "scores"), (5, "missing"), (5, "scores"), (8, "damaged")
    }  # fmt: skip


def test_scores_of_another_step_are_found(run: Run):
    shutil.copy(score_file(run.path, 8, "loss"), score_file(run.path, 4, "loss"))
    assert [str(finding) for finding in audit(run)] == ["step 4: its scores are of the weights of step 8 (loss)"]


def studied(run: Run, step: int, weights: str | None) -> None:
    """Store a study at a step that says of which weights it is."""
    StudyResult("toy", str(run.path), step, (), (), weights).write(run.study_file("toy", step))


def test_studies_of_other_weights_are_found(run: Run):
    labels = {step: read_label(run.weights_file(step)) for step in run.steps}
    hashes = {step: label.weights for step, label in labels.items() if label is not None}
    for step in (4, 8, 17):
        studied(run, step, hashes[step])
    studied(run, 1, None)  # of an older Headway
    assert audit(run) == []
    assert str(run.study("toy", 8).attrs["weights"]) == hashes[8]
    assert StudyResult.read(run.study_file("toy", 1)).weights is None
    shutil.copy(run.study_file("toy", 4), run.study_file("toy", 8))
    studied(run, 17, "0" * 64)
    studied(run, 9, hashes[8])
    assert [str(finding) for finding in audit(run)] == [
        "step 8: its scores are of the weights of step 4 (study toy)",
        "step 9: it has scores, and its weights are not kept (study toy)",
        "step 17: its scores are of weights that are not kept (study toy)",
    ]
    run.study_file("toy", 4).write_bytes(b"")
    assert found(run)[0] == (4, "damaged")


def test_a_config_that_changed_is_found_with_its_option(run: Run):
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.01", "lr: 0.02"))
    (finding,) = audit(run.path)
    assert (finding.step, finding.fault) == (None, "config")
    assert str(finding).startswith("config.yaml has changed since step 0, 1, ")
    assert str(finding).endswith(": optim.lr was 0.01 and is 0.02")
    run.resume_file.unlink()
    assert found(Run(run.path)) == [(None, "config")]


def test_a_run_that_is_not_finished_misses_nothing(run: Run):
    run.weights_file(17).unlink()
    run.resume_file.unlink()  # it would be that of step 8
    shutil.rmtree(run.path / "scores" / "step-00000017")
    shutil.rmtree(run.path / "circuits", ignore_errors=True)
    assert audit(run) == []


def test_the_last_step_of_a_finished_run_is_missed_where_nothing_else_is_of_it(run: Run):
    unlabelled(run)
    assert audit(run) == []
    run.weights_file(17).unlink()
    assert found(run) == [(17, "missing")]


def test_a_state_of_training_with_other_weights_than_its_step_is_found(run: Run):
    """Late in training, two checkpoints without labels that are exchanged differ by no more than any other two."""
    unlabelled(run)
    weights = {name: weight * np.float32(1 + 1e-6) for name, weight in read_arrays(run.weights_file(17)).items()}
    run.weights_file(17).write_bytes(safetensors.numpy.save(weights))
    assert [str(finding) for finding in audit(run)] == [
        "step 17: its weights are not those in resume.ckpt, which is of this step"
    ]


def test_the_checkpoints_of_an_imported_run_are_missed(run: Run, tmp_path: Path):
    imported = headway.import_run(run.path / "weights", tmp_path / "imported")
    assert audit(imported) == []
    for step in (4, 17):
        imported.weights_file(step).unlink()
    assert [str(finding) for finding in audit(Run(imported.path))] == [
        f"step {step}: it was imported, and its weights are not kept" for step in (4, 17)
    ]


def test_two_checkpoints_far_apart_that_are_exchanged_are_both_off_the_way():
    """The moves from and to the one are so long that those of the other seem short beside them."""
    draws = np.random.default_rng(2)
    steps = [0, 1, 2, 3, 4, 5, 6, 500, 1000, 1500, 2000, 2500]
    ways = {0: np.zeros(1009)}
    for before, step in pairwise(steps):
        ways[step] = ways[before] + draws.normal(0, 0.001 * (step - before) ** 0.5, 1009)
    ways[2], ways[1500] = ways[1500], ways[2]
    way = Way(None, 2500)
    for step in steps:
        way.go_on(step, {"W": ways[step]})
    assert {2, 1500} <= {finding.step for finding in way.faults()}


@pytest.fixture
def history(run: Run, tmp_path: Path) -> Path:
    """A folder of checkpoints as another program leaves them."""
    (tmp_path / "history").mkdir()
    for step in run.steps:
        torch.save(run.model(step).state_dict(), tmp_path / "history" / f"step{step}.pt")
    torch.save({"loss": [1.0]}, tmp_path / "history" / "losses.pt")
    return tmp_path / "history"


def with_bias(file: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    state = torch.load(file, weights_only=True)
    torch.save({**state, "unembed.b_U": change(state["unembed.b_U"])}, file)


PLANTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a copy": (lambda at: shutil.copy(at / "step4.pt", at / "step8.pt"), "step 8: its weights are those of step 4"),
    "two of one step": (
        lambda at: shutil.copy(at / "step4.pt", at / "step4_again.pt"),
        "step 4: step4.pt and step4_again.pt are both of it",
    ),
    "another step": (
        lambda at: torch.save({"step": 9, "model": torch.load(at / "step8.pt")}, at / "step8.pt"),
        "step 8: step8.pt says that it is of step 9",
    ),
    "no number": (
        lambda at: with_bias(at / "step5.pt", lambda bias: bias * torch.nan),
        "step 5: unembed.b_U of step5.pt has numbers that are not finite",
    ),
    "another network": (
        lambda at: with_bias(at / "step5.pt", lambda bias: bias[:3]),
        "step 5: unembed.b_U of step5.pt is not as in step 0",
    ),
    "nothing": (lambda at: (at / "step5.pt").write_bytes(b""), "step 5: {at}/step5.pt is empty"),
    "another run": (
        lambda at: torch.save(HookedTransformer(TOKENS.model, seed=1).state_dict(), at / "step8.pt"),
        "step 8: its weights lie off the way from step 5 to step 17",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_folder_of_weights_is_audited_as_it_is(name: str, history: Path, capsys: pytest.CaptureFixture[str]):
    assert audit(history) == []
    plant, text = PLANTED[name]
    plant(history)
    (finding,) = audit(history)
    assert str(finding).startswith(text.format(at=history))
    with pytest.raises(SystemExit) as end:
        main(["audit", str(history)])
    assert end.value.code == 1
    assert capsys.readouterr().out.startswith(f"{history}: 1 fault in ")


def test_what_has_no_steps_cannot_be_audited(history: Path):
    (history / "step8.pt").rename(history / "final.pt")
    with pytest.raises(ValueError, match=r"^step: the name of .*final\.pt has none; rename it, such as step400\.pt$"):
        audit(history)
    with pytest.raises(ValueError, match="holds no run"):
        audit(history.parent / "nowhere")


def test_the_command_ends_with_1_where_there_is_a_fault(run: Run, capsys: pytest.CaptureFixture[str]):
    main(["audit", str(run.path)])
    assert capsys.readouterr().out == f"{run.path}: no fault in {len(run.steps)} checkpoints\n"
    shutil.copy(run.weights_file(1), run.weights_file(4))
    with pytest.raises(SystemExit) as end:
        main(["audit", str(run.path.parent)])
    assert end.value.code == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{run.path}: 3 faults in {len(run.steps)} checkpoints"
    assert said[1] == "  step 4: its weights were kept as those of step 1"


def test_headway_audits(run: Run):
    assert headway.audit(run.path) == []
    assert str(Finding(None, "config", "it has changed")) == "it has changed"
    assert isinstance(TOKENS, Recipe)
    assert isinstance(TOKENS.model, ModelConfig)
