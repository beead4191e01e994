"""Exports: another program has the same logits, what it cannot express is refused, and only exports are replaced."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformer_lens
from installed_lens import IS_3, VERSION
from language_models import saved_gpt2
from safetensors import safe_open
from safetensors.torch import load_file
from test_importing import CONFIGS, FIXTURES, network
from toys import TOKENS, Train

import headway
from headway.__main__ import main
from headway.checkpoints import Recipe, Run
from headway.checkpoints.exporting import EXPORT, export_run
from headway.data.no_task import NoTask
from headway.models.config import ModelConfig
from headway.models.exports import check_bridge, for_bridge, for_hooked_transformer
from headway.models.hooked_transformer import HookedTransformer

REFUSED = {"relative": "no relative positions", "relative, both ways": "no relative positions", "vectors": "vectors"}


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_the_state_dict_is_that_of_transformer_lens(path: Path):
    with safe_open(path, "pt") as file:
        cfg = json.loads(file.metadata()["fixture"])["config"]
        theirs = {name.removeprefix("weights."): file.get_tensor(name) for name in file.keys() if "weights." in name}  # noqa: SIM118
    model = HookedTransformer(ModelConfig(**cfg))
    model.load_state_dict(theirs)
    if cfg["input_type"] == "vectors":
        return
    exported = for_hooked_transformer(model)
    if cfg.get("positional_embedding_type") == "none":
        theirs["pos_embed.W_pos"] = torch.zeros(model.cfg.n_ctx, model.cfg.d_model)
    assert set(exported.weights) == set(theirs)
    for name, weight in theirs.items():
        torch.testing.assert_close(exported.weights[name], weight, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_bridge_has_the_logits_of_the_network_or_is_refused(name: str):
    model = network(CONFIGS[name])
    if name in {**REFUSED, "shortformer": ""}:
        with pytest.raises(ValueError, match=REFUSED.get(name, "no shortformer positions")):
            for_bridge(model)
        return
    exported = for_bridge(model)
    if IS_3 and name == "solu_ln":
        needed = rf"transformer_lens {VERSION} cannot express the network \(.*solu_ln.*\); install transformer_lens 4$"
        with pytest.raises(ValueError, match=needed):
            check_bridge(model, exported)
        return
    check_bridge(model, exported)
    exported.weights["unembed.bias"].add_(1.0)
    with pytest.raises(ValueError, match=f"in transformer_lens {VERSION} its logits would differ by up to 1"):
        check_bridge(model, exported)


@pytest.mark.skipif(not IS_3, reason="TransformerLens 4 has no HookedTransformer")
@pytest.mark.parametrize("name", CONFIGS)
def test_the_class_of_transformer_lens_has_the_logits(name: str):
    model = network(CONFIGS[name])
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            for_hooked_transformer(model)
        return
    exported = for_hooked_transformer(model)
    theirs = transformer_lens.HookedTransformer(transformer_lens.HookedTransformerConfig.from_dict(exported.config))  # pyright: ignore
    theirs.load_state_dict(exported.weights)
    tokens = torch.randint(14, (2, 7))
    torch.testing.assert_close(theirs.eval()(tokens), model(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["huggingface", "hooked-transformer"])
def test_an_export_comes_back(name: str, kind: Any, tmp_path: Path):
    model = network(CONFIGS[name])
    task = NoTask(d_vocab=14, n_ctx=11, input_type=model.cfg.input_type)
    run = Run.create(tmp_path / "run", Recipe(task=task, model=model.cfg, steps=7))
    run.keep(7, model)
    if kind != "huggingface" and name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            export_run(run, tmp_path / "out", kind)
        assert not (tmp_path / "out").exists()
        return
    out = export_run(run, tmp_path / "out", kind)
    main(["import", str(out), "--out", str(tmp_path / "again")])
    again = Run(tmp_path / "again")
    assert again.steps == [7]
    inputs = torch.randn(2, 7, 14) if model.cfg.input_type == "vectors" else torch.randint(14, (2, 7))
    torch.testing.assert_close(again.model()(inputs), model(inputs), rtol=0, atol=0)
    if kind == "huggingface":
        assert again.model().cfg == model.cfg
    else:
        plain = torch.load(out / "model.pt", weights_only=True)
        assert all(torch.equal(value, plain[key]) for key, value in load_file(out / "model.safetensors").items())


def test_the_card_says_how_it_was_trained_how_well_it_does_and_how_to_load_it(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = trained(TOKENS, tmp_path / "run")
    step = run.steps[-2]
    out = headway.export_run(run, tmp_path / "out", "huggingface", step)
    card = (out / "README.md").read_text(encoding="utf-8")
    for said in (f"step {step}", type(TOKENS.task).__name__, "seed: ", "baseline: ", "| loss | ", "Licence"):
        assert said in card
    monkeypatch.chdir(out)
    code = card.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    inputs = run.batch().inputs
    torch.testing.assert_close(names["model"].eval()(inputs), run.model(step)(inputs), rtol=0, atol=0)


def test_only_exports_are_replaced(trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = trained(TOKENS, tmp_path / "run")
    out = tmp_path / "out"
    command = ["export", str(run.path), "--to", "hooked-transformer", "--out", str(out)]
    main(command)
    assert f"{out / 'README.md'} says how to load it" in capsys.readouterr().out
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"out exists; give another folder, or --overwrite"):
        export_run(run, out, "huggingface")
    export_run(run, out, "huggingface", step=run.steps[0], overwrite=True)
    assert {file.name for file in out.iterdir()} == {
        "README.md", "config.json", EXPORT, "mine.txt", "model.safetensors",
    }  # fmt: skip
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    for content in (None, "{}", '{"headway": "bridge", "files": ["../run/config.yaml"]}'):
        if content is not None:
            (tmp_path / "other" / EXPORT).write_text(content)
        with pytest.raises(ValueError, match="other exists, and is no export of Headway"):
            export_run(run, tmp_path / "other", "huggingface", overwrite=True)
    with pytest.raises(ValueError, match=r"^out: .*exported lies in the run .*; it must lie outside of any run$"):
        export_run(run, run.path / "exported", "bridge")
    assert (run.path / "config.yaml").is_file()
    assert not (run.path / "exported").exists()


class FakeHub:
    """A hub in a folder: one folder for each branch of the one repository."""

    def __init__(self, folder: Path):
        self.folder, self.private = folder, False

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
        if "/" not in repo_id:
            raise OSError("401 you must log in\nor give a name")
        self.private = private
        (self.folder / "main").mkdir(exist_ok=exist_ok)

    def create_branch(self, repo_id: str, branch: str, exist_ok: bool) -> None:
        shutil.copytree(self.folder / "main", self.folder / branch, dirs_exist_ok=exist_ok)

    def upload_folder(
        self,
        repo_id: str,
        folder_path: str,
        commit_message: str,
        revision: str = "main",
        allow_patterns: list[str] | None = None,
    ) -> None:
        for file in Path(folder_path).iterdir():
            if allow_patterns is None or file.name in allow_patterns:
                shutil.copy(file, self.folder / revision / file.name)

    def list_repo_refs(self, repo_id: str) -> SimpleNamespace:
        branches = [SimpleNamespace(name=each.name) for each in sorted(self.folder.iterdir())]
        return SimpleNamespace(branches=branches, tags=[])

    def list_repo_files(self, repo_id: str, revision: str | None = None) -> list[str]:
        return [file.name for file in (self.folder / (revision or "main")).iterdir()]

    def snapshot_download(self, repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        """Download as the hub does: a new folder with the files that are asked for."""
        copy = self.folder.parent / "downloads" / (revision or "main")
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(parents=True)
        for name in set(allow_patterns) & set(self.list_repo_files(repo_id, revision)):
            shutil.copy(self.folder / (revision or "main") / name, copy / name)
        return str(copy)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    (tmp_path / "hub").mkdir()
    hub = FakeHub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    for name in ("list_repo_refs", "list_repo_files", "snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", getattr(hub, name))
    return hub


def test_each_checkpoint_is_a_revision_on_the_hub(trained: Train, tmp_path: Path, hub: FakeHub):
    run = trained(TOKENS, tmp_path / "run")
    export_run(run, tmp_path / "out", "huggingface", push="them/toy")
    assert hub.private
    assert {each.name for each in hub.folder.iterdir()} == {"main", *(f"step{step}" for step in run.steps)}
    for step in run.steps:
        revision = hub.folder / f"step{step}"
        there = load_file(revision / "model.safetensors")
        assert all(torch.equal(value, there[name]) for name, value in run.model(step).state_dict().items())
        assert f", step {step}\n" in (revision / "README.md").read_text(encoding="utf-8")
        assert json.loads((revision / EXPORT).read_text())["step"] == step
    with pytest.raises(ValueError, match=r"^push: toy could not be written on the hub \(401 you must log in or give"):
        export_run(run, tmp_path / "out", "huggingface", push="toy", overwrite=True)


def test_revisions_on_the_hub_come_back_as_steps(trained: Train, tmp_path: Path, hub: FakeHub):
    run = trained(TOKENS, tmp_path / "run")
    export_run(run, tmp_path / "out", "huggingface", push="them/toy")
    again = headway.import_run("them/toy", tmp_path / "again", task=TOKENS.task)
    assert again.steps == run.steps
    for step in run.steps:
        ours, theirs = again.model(step).state_dict(), run.model(step).state_dict()
        assert all(torch.equal(value, ours[name]) for name, value in theirs.items())
    assert again.imported is not None
    assert again.imported["sources"] == {str(step): f"them/toy@step{step}" for step in run.steps}
    assert headway.audit(again) == []
    main(["import", "them/toy", "--step", "8,1", "--out", str(tmp_path / "two")])
    two = Run(tmp_path / "two")
    assert two.steps == [1, 8]
    assert torch.equal(two.model(8).W_E, run.model(8).W_E)
    with pytest.raises(ValueError, match=r"^step: 7 is no revision of them/toy, which has 0, 1,"):
        headway.import_run("them/toy", tmp_path / "other", steps=[7])


def test_an_export_on_the_hub_without_revisions_has_its_step(trained: Train, tmp_path: Path, hub: FakeHub):
    run = trained(TOKENS, tmp_path / "run")
    export_run(run, hub.folder / "main", "hooked-transformer", step=8)
    again = headway.import_run("them/toy", tmp_path / "again")
    assert again.steps == [8]
    assert torch.equal(again.model().W_E, run.model(8).W_E)


def test_a_revision_that_is_not_what_its_name_says_is_refused(
    trained: Train, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    run = trained(TOKENS, tmp_path / "run")
    export_run(run, tmp_path / "out", "huggingface", push="them/toy")
    shutil.copytree(hub.folder / "step4", hub.folder / "step8", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"^step: them/toy@step8 is the export of step 4; download it, and give"):
        headway.import_run("them/toy", tmp_path / "again")
    (hub.folder / "step4" / EXPORT).write_text("{")
    with pytest.raises(ValueError, match=rf"^file: {EXPORT} of them/toy@step4 is damaged \("):
        headway.import_run("them/toy", tmp_path / "again", steps=[4])

    def cut(*args: Any, **options: Any) -> None:
        raise ConnectionError("it broke\nin the middle")

    monkeypatch.setattr("huggingface_hub.snapshot_download", cut)
    with pytest.raises(ValueError, match=r"^file: them/toy@step0 cannot be downloaded \(it broke in the middle\)$"):
        headway.import_run("them/toy", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_several_exports_come_back_together(trained: Train, tmp_path: Path):
    run = trained(TOKENS, tmp_path / "run")
    cards = [export_run(run, tmp_path / "cards" / str(step), "huggingface", step) for step in (17, 4)]
    for name, source in (("folders", cards), ("folder", tmp_path / "cards")):
        again = headway.import_run(source, tmp_path / name)
        assert again.steps == [4, 17]
        assert all(torch.equal(again.model(step).W_E, run.model(step).W_E) for step in (4, 17))
    assert headway.import_run(cards, tmp_path / "given", steps=[7, 3]).steps == [3, 7]
    assert torch.equal(Run(tmp_path / "given").model(7).W_E, run.model(17).W_E)
    with pytest.raises(ValueError, match=r"^step: 1 are given for 2 checkpoints"):
        headway.import_run(cards, tmp_path / "wrong", steps=[7])


def test_an_export_comes_back_with_its_tokenizer(tmp_path: Path):
    spelled = headway.import_run(saved_gpt2(tmp_path / "gpt2"), tmp_path / "run")
    out = export_run(spelled, tmp_path / "out", "huggingface")
    again = headway.import_run(out, tmp_path / "again")
    assert again.tokenizer is not None
    assert spelled.tokenizer is not None
    text = "Then Mary and John went to the shop"
    assert again.tokenizer(text).input_ids == spelled.tokenizer(text).input_ids
    assert again.tokenizer.bos_token == spelled.tokenizer.bos_token
