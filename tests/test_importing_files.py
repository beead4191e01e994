"""Kinds of files that people have: where checkpoints lie in them, of which steps, and what stands beside them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_importing import CONFIGS, SIZES, TL_CONFIG, buffers, network, save_state

from headway.analyze import MEASURES, measure
from headway.checkpoints import Run
from headway.checkpoints.importing import import_run
from headway.models.config import ModelConfig
from headway.models.file_names import step_in_name

SEEDS = {0: 0, 100: 1, 250: 2}


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    return dict(network(CONFIGS["LN"], seed=seed).state_dict())


def states() -> list[dict[str, torch.Tensor]]:
    return [state(seed) for seed in SEEDS.values()]


SERIES: dict[str, Callable[[], Any]] = {
    "by steps": lambda: dict(zip(SEEDS, states(), strict=True)),
    "by steps as text": lambda: {str(step): each for step, each in zip(SEEDS, states(), strict=True)},
    "by names of steps": lambda: {"run": {f"step_{step}": each for step, each in zip(SEEDS, states(), strict=True)}},
    "dictionaries with a step": lambda: [
        {"step": step, "model": each, "optimizer": {}} for step, each in zip(SEEDS, states(), strict=True)
    ],
    "steps beside a list": lambda: {"states": states(), "steps": list(SEEDS), "losses": [3.0, 2.0, 1.0]},
    "an array of steps": lambda: {"log": {"states": states(), "saved_at_iter": np.array(list(SEEDS))}},
    "a tensor of epochs": lambda: {"checkpoints": states(), "checkpoint_epochs": torch.tensor(list(SEEDS))},
}


@pytest.mark.parametrize("name", SERIES)
def test_several_checkpoints_in_one_file_have_the_steps_that_it_says(name: str, tmp_path: Path):
    torch.save(SERIES[name](), tmp_path / "them.pt")
    run = import_run(tmp_path / "them.pt", tmp_path / "run")
    assert run.steps == list(SEEDS)
    for step, seed in SEEDS.items():
        assert torch.equal(run.model(step).W_E, network(CONFIGS["LN"], seed=seed).W_E)
    assert run.imported is not None
    epochs = "epochs" in name
    assert run.imported["assumed"].get("steps") == ("the epochs 0, 100, 250" if epochs else None)
    assert set(run.imported["dropped"]) <= {"losses", "optimizer"}
    given = import_run(tmp_path / "them.pt", tmp_path / "given", steps=[1, 2, 3])
    assert given.steps == [1, 2, 3]


def test_two_networks_in_one_file_are_no_steps(tmp_path: Path):
    save_state({"model_1": state(0), "model_2": state(1)}, tmp_path / "them.pt")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^key: .* holds weights at model_1, model_2; give one of them as --key$"):
        import_run(tmp_path / "them.pt", tmp_path / "run")


@pytest.mark.parametrize("make", [list, tuple])
def test_pairs_of_names_and_tensors_are_a_state_dict(make: Callable[..., Any], tmp_path: Path):
    torch.save({"params": make(state().items())}, tmp_path / "them.pt")
    assert torch.equal(import_run(tmp_path / "them.pt", tmp_path / "run").model().W_E, state()["embed.W_E"])


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step400", 400), ("checkpoint-400", 400), ("epoch=2-step=20", 20), ("step400_epoch2", 400),
        ("ckpt_3_iter_600", 600), ("run_10k", 10_000), ("step_1.5k", 1500), ("step1e5", 100_000), ("step2M", 2_000_000),
        ("gpt2", None), ("v2_final", None), ("attn-only-2l", None), ("step_2_layers", 2), ("footstep", None),
    ],
)  # fmt: skip
def test_names_of_steps(name: str, step: int | None):
    found = step_in_name(name)
    assert (found and found.step) == step


def test_a_name_with_two_steps_is_refused(tmp_path: Path):
    save_state(state(), tmp_path / "step100_of_steps1000.pt")
    with pytest.raises(ValueError, match=r"^step: 'step100_of_steps1000' names several \(100, 1000\); give --step$"):
        import_run(tmp_path / "step100_of_steps1000.pt", tmp_path / "run")
    assert import_run(tmp_path / "step100_of_steps1000.pt", tmp_path / "run", steps=[100]).steps == [100]


def test_the_step_in_a_file_is_taken_where_its_name_has_none_and_must_be_that_of_its_name(tmp_path: Path):
    torch.save({"state_dict": state(), "global_step": torch.tensor(700), "epoch": 3}, tmp_path / "last.ckpt")
    run = import_run(tmp_path / "last.ckpt", tmp_path / "run")
    assert run.steps == [700]
    assert run.imported is not None
    assert "steps" not in run.imported["assumed"]
    (tmp_path / "last.ckpt").rename(tmp_path / "step400.ckpt")
    with pytest.raises(ValueError, match=r"^step: .*step400.* and its name say different ones \(700 and 400\); give"):
        import_run(tmp_path / "step400.ckpt", tmp_path / "other")
    assert import_run(tmp_path / "step400.ckpt", tmp_path / "given", steps=[400]).steps == [400]
    # Epochs and numbers of files are other counts, and say so.
    (tmp_path / "step400.ckpt").rename(tmp_path / "ckpt-4.ckpt")
    assert import_run(tmp_path / "ckpt-4.ckpt", tmp_path / "counted").steps == [700]
    torch.save({"state_dict": state(), "epoch": 3}, tmp_path / "last.ckpt")
    run = import_run(tmp_path / "last.ckpt", tmp_path / "epochs")
    assert run.imported is not None
    assert (run.steps, run.imported["assumed"]["steps"]) == ([3], "the epochs 3")


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path):
    for seed, step in enumerate((20, 100, 3)):
        (tmp_path / f"step{step}").mkdir()
        save_state(state(seed), tmp_path / f"step{step}" / "model.pt")
    run = import_run(tmp_path, tmp_path / "run")
    assert run.steps == [3, 20, 100]
    given = import_run(tmp_path, tmp_path / "given", steps=[0, 1, 2])
    for step, same in ((0, 3), (1, 20), (2, 100)):
        assert torch.equal(given.model(step).W_E, run.model(same).W_E)


def test_a_folder_may_hold_files_without_weights_and_they_are_said(tmp_path: Path):
    save_state(state(), tmp_path / "step4.pt")
    torch.save({"loss": [0.1]}, tmp_path / "losses.pt")
    run = import_run(tmp_path, tmp_path / "run")
    assert run.imported is not None
    assert (run.steps, run.imported["dropped"]) == ([4], ["losses.pt"])
    with pytest.raises(ValueError, match=r"losses\.pt holds no weights of a transformer; it has loss"):
        import_run([tmp_path / "step4.pt", tmp_path / "losses.pt"], tmp_path / "other", steps=[1, 2])
    (tmp_path / "step5.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"step5\.pt is empty"):
        import_run(tmp_path, tmp_path / "other")


def test_checkpoints_of_other_networks_are_named(tmp_path: Path):
    save_state(state(), tmp_path / "step4.pt")
    save_state(dict(network(CONFIGS["attention only"]).state_dict()), tmp_path / "step2.pt")
    with pytest.raises(ValueError, match=r"^file: .*step2\.pt does not fit the network of .*step4\.pt \("):
        import_run(tmp_path, tmp_path / "run")


def test_a_configuration_beside_the_file_is_that_of_its_network(tmp_path: Path):
    cfg = replace(CONFIGS["LN"], attention_dir="bidirectional", positional_embedding_type="shortformer")
    model = network(cfg)
    file = save_state(dict(model.state_dict()), tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(json.dumps(TL_CONFIG))
    tokens = torch.randint(14, (3, 11))
    for number, source in enumerate((file, tmp_path)):
        run = import_run(source, tmp_path / str(number))
        torch.testing.assert_close(run.model()(tokens), model(tokens))
        assert run.imported is not None
        assert run.imported["read"]["config"] == str(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps({**TL_CONFIG, "n_layers": 3}))
    with pytest.raises(ValueError, match=r"^config: n_layers 3 is not valid; .*model\.pt has 2$"):
        import_run(file, tmp_path / "other")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt", "d_model": 5}))
    assert import_run(file, tmp_path / "plain").model().cfg.attention_dir == "causal"


class SavedConfig(SimpleNamespace):
    """Stands for the class of a configuration, which is not there where it is read."""


SavedConfig.__module__, SavedConfig.__qualname__ = "transformer_lens.HookedTransformerConfig", "HookedTransformerConfig"


def test_a_configuration_that_was_saved_whole_is_read_without_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import sys

    values = {"n_layers": 2, "d_model": 19, "act_fn": "gelu", "attn_scale": np.float64(5**0.5), "dtype": torch.float32}
    with monkeypatch.context() as here:
        module = SimpleNamespace(HookedTransformerConfig=SavedConfig)
        here.setitem(sys.modules, "transformer_lens.HookedTransformerConfig", module)  # pyright: ignore[reportArgumentType]
        torch.save({"model": state(), "cfg": SavedConfig(**values)}, tmp_path / "whole.pt")
        torch.save(SavedConfig(**values), tmp_path / "cfg.pt")
    torch.save({"model": state(), "cfg": values, "losses": [np.float32(1.0), np.ones(3)]}, tmp_path / "values.pt")
    save_state(state(), tmp_path / "bare.pt")
    for name, config in (("whole", None), ("values", None), ("bare", tmp_path / "cfg.pt")):
        run = import_run(tmp_path / f"{name}.pt", tmp_path / name, config=config)
        assert run.model().cfg.act_fn == "gelu"
        assert torch.equal(run.model().W_E, state()["embed.W_E"])


def test_a_mask_that_looks_ahead_is_of_a_bidirectional_network(tmp_path: Path):
    full = {name: torch.ones_like(x) if name.endswith("mask") else x for name, x in buffers(CONFIGS["LN"]).items()}
    save_state(state() | full, tmp_path / "them.pt")
    assert import_run(tmp_path / "them.pt", tmp_path / "run").model().cfg.attention_dir == "bidirectional"
    with pytest.raises(ValueError, match=r"^model\.attention_dir: 'causal' is not valid; .* of bidirectional$"):
        import_run(tmp_path / "them.pt", tmp_path / "other", model={"attention_dir": "causal"})


def test_a_network_with_fewer_outputs_than_tokens_needs_no_task(tmp_path: Path):
    model = network(ModelConfig(**{**SIZES, "d_vocab_out": 13}, attn_only=True))
    run = import_run(save_state(dict(model.state_dict()), tmp_path / "them.pt"), tmp_path / "run")
    assert run.model().cfg.d_vocab_out == 13
    measure(run, [each for each in MEASURES if each.name == "ov_eigenvalue"])
    assert Run(run.path).recipe.model.d_vocab_out == 13
