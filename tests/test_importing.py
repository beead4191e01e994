"""Checkpoints of other programs: what is read, assumed and refused, and that every command takes the run they make."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from language_models import saved_gpt2
from networks import llama_bridge, parallel_bridge
from safetensors import safe_open
from toys import NO_POSITIONS, TOKENS, VECTORS, HoldsZero, Train, handmade_run

import headway
from headway.__main__ import main
from headway.analyze import MEASURES, measure
from headway.analyze.measures.attention import previous_token
from headway.analyze.studies import find_study
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.previous_token.training import training_section
from headway.analyze.studies.runner import with_sequences
from headway.checkpoints import Run
from headway.checkpoints.audit import audit
from headway.checkpoints.importing import import_run
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.models import handmade
from headway.models.config import ModelConfig
from headway.models.convert import boot_bridge, load_bridge
from headway.models.hooked_transformer import HookedTransformer
from headway.models.layouts import in_layout
from headway.replay import densify
from headway.train import resume

SIZES: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 19,
    "n_ctx": 11,
    "d_head": 5,
    "n_heads": 3,
    "d_vocab": 14,
    "d_mlp": 23,
}
CONFIGS = {
    "LN": ModelConfig(**SIZES, act_fn="gelu"),
    "solu_ln": ModelConfig(**SIZES, act_fn="solu_ln"),
    "attention only": ModelConfig(**{**SIZES, "d_vocab_out": 17}, attn_only=True),
    "shortformer": ModelConfig(**SIZES, positional_embedding_type="shortformer", attn_only=True),
    "no positions": ModelConfig(**SIZES, positional_embedding_type="none"),
    "no norm": ModelConfig(**SIZES, normalization_type=None),
    "LNPre": ModelConfig(**SIZES, normalization_type="LNPre", attention_dir="bidirectional"),
    "vectors": ModelConfig(**SIZES, input_type="vectors", attn_only=True),
    "rotary": ModelConfig(**SIZES, positional_embedding_type="rotary", rotary_dim=4, rotary_base=29.0),
    "relative": ModelConfig(**SIZES, positional_embedding_type="relative", attn_only=True),
    "relative, both ways": ModelConfig(
        **SIZES, positional_embedding_type="relative", attention_dir="bidirectional", biases=False
    ),
    "RMS": ModelConfig(**SIZES, normalization_type="RMS", attn_scale=1.7),
    "RMSPre, unscaled": ModelConfig(**SIZES, normalization_type="RMSPre", use_attn_scale=False),
    "tied": ModelConfig(**SIZES, tie_word_embeddings=True),
    "no biases": ModelConfig(**SIZES, biases=False),
}


def network(cfg: ModelConfig, seed: int = 0) -> HookedTransformer:
    model = HookedTransformer(replace(cfg, initializer_range=0.3), seed=seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.rpartition(".")[2].startswith("b"):
                weight.normal_(generator=torch.Generator().manual_seed(5))
    return model.eval()


def buffers(cfg: ModelConfig) -> dict[str, torch.Tensor]:
    """The buffers of TransformerLens's class: a triangle whatever the direction."""
    mask = torch.ones(cfg.n_ctx, cfg.n_ctx).tril().bool()
    found = {f"blocks.{layer}.attn.mask": mask for layer in range(cfg.n_layers)}
    return found | {f"blocks.{layer}.attn.IGNORE": torch.tensor(-torch.inf) for layer in range(cfg.n_layers)}


def saved(model: HookedTransformer, path: Path, **beside: Any) -> Path:
    state = model.state_dict() | buffers(model.cfg)
    torch.save({"model": state, **beside} if beside else state, path)
    return path


def kinds(cfg: ModelConfig) -> dict[str, Any]:
    names = (
        "act_fn", "normalization_type", "attention_dir", "positional_embedding_type", "input_type", "n_ctx",
        "rotary_dim", "rotary_base", "use_attn_scale", "attn_scale",
    )  # fmt: skip
    return {name: getattr(cfg, name) for name in names}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_state_dict_comes_back_as_the_network_that_it_is_of(name: str, tmp_path: Path):
    model = network(CONFIGS[name])
    run = import_run(saved(model, tmp_path / "them.pt"), tmp_path / "run", model=kinds(model.cfg))
    inputs = torch.randn(2, 7, 14) if model.cfg.input_type == "vectors" else torch.randint(14, (2, 7))
    torch.testing.assert_close(run.model()(inputs), model(inputs), rtol=0, atol=0)
    assert run.finished
    assert run.imported is not None
    assert run.imported["dropped"] == ["IGNORE", "mask"]
    assert audit(run) == []
    of_shapes = ("biases", "tie_word_embeddings", "attn_only", "d_vocab_out")
    assert all(getattr(run.model().cfg, name) == getattr(model.cfg, name) for name in of_shapes)


FIXTURES = sorted((Path(__file__).parent / "parity" / "fixtures").glob("*.safetensors"))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_a_state_dict_of_transformer_lens_gives_its_logits(path: Path, tmp_path: Path):
    with safe_open(path, "pt") as file:
        cfg = json.loads(file.metadata()["fixture"])["config"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state = {name.removeprefix("weights."): x for name, x in tensors.items() if name.startswith("weights.")}
    torch.save({"model": state, "config": cfg}, tmp_path / "them.pt")
    run = import_run(tmp_path / "them.pt", tmp_path / "run")
    logits = run.model()(tensors["inputs"], attention_mask=tensors.get("attention_mask"))
    torch.testing.assert_close(logits, tensors["logits"], rtol=1e-4, atol=1e-5)
    if cfg.get("positional_embedding_type") == "rotary":
        # The tables say it without a configuration.
        del cfg["positional_embedding_type"], cfg["rotary_dim"]
        base = cfg.pop("rotary_base", 10000)
        other = import_run(save_state(state, tmp_path / "tables.pt"), tmp_path / "tables", model=cfg)
        torch.testing.assert_close(other.model()(tensors["inputs"]), run.model()(tensors["inputs"]))
        assert other.model().cfg.rotary_base == base
        for name in state:
            if "rotary_" in name:
                state[name] = state[name][:, torch.arange(state[name].shape[1]).view(2, -1).T.flatten()]
        with pytest.raises(ValueError, match=r"rotary positions of .* are of other angles than Headway's"):
            import_run(save_state(state, tmp_path / "adjacent.pt"), tmp_path / "adjacent", model=cfg)


def save_state(state: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"positional_embedding_type": "alibi"}, "positional_embedding_type"),
        ({"positional_embedding_type": "rotary", "rotary_adjacent_pairs": True}, "config: rotary_adjacent_pairs True"),
        ({"positional_embedding_type": "rotary", "use_yarn_rope": True}, "config: use_yarn_rope True"),
        ({"final_rms": True}, "config: final_rms True is not valid with normalization_type LN"),
        ({"use_attention_sinks": True}, "config: use_attention_sinks True"),
        ({"tie_word_embeddings": True}, "model.tie_word_embeddings: True is not valid; unembed.W_U"),
        ({"biases": False}, "model.biases: False is not valid; blocks.0.attn.b_Q"),
    ],
)
def test_a_configuration_of_another_network_is_refused_by_name(config: dict[str, Any], message: str, tmp_path: Path):
    file = saved(network(CONFIGS["LN"]), tmp_path / "them.pt", config={"n_layers": 2, **config})
    with pytest.raises(ValueError, match=message):
        import_run(file, tmp_path / "run")


def test_what_transformer_lens_stores_twice_or_as_zeros_is_read_as_left_out(tmp_path: Path):
    tied = network(CONFIGS["tied"])
    state = tied.state_dict() | {"unembed.W_U": tied.state_dict()["embed.W_E"].T.clone()}
    run = import_run(save_state(state, tmp_path / "tied.pt"), tmp_path / "tied")
    assert run.model().cfg.tie_word_embeddings
    own = import_run(tmp_path / "tied.pt", tmp_path / "own", model={"tie_word_embeddings": False})
    assert not own.model().cfg.tie_word_embeddings
    bare = network(CONFIGS["no biases"])
    zeros = {f"blocks.{layer}.attn.b_{x}": torch.zeros(3, 5) for layer in range(2) for x in "QKV"}
    save_state(bare.state_dict() | zeros, tmp_path / "zeros.pt")
    assert not import_run(tmp_path / "zeros.pt", tmp_path / "bare", model={"biases": False}).model().cfg.biases
    assert import_run(tmp_path / "zeros.pt", tmp_path / "zeros").model().cfg.biases


def test_norms_with_a_weight_and_no_bias_are_rms_unless_a_layer_norm_is_given(tmp_path: Path):
    model = network(CONFIGS["LN"])
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(".b")}
    save_state(state, tmp_path / "them.pt")
    assert import_run(tmp_path / "them.pt", tmp_path / "rms").model().cfg.normalization_type == "RMS"
    run = import_run(tmp_path / "them.pt", tmp_path / "ln", model={"normalization_type": "LN", "act_fn": "gelu"})
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".b"):
                weight.zero_()
    tokens = torch.randint(14, (2, 7))
    torch.testing.assert_close(run.model()(tokens), model(tokens))


def test_the_initialiser_is_known_from_a_mode_that_needs_no_range(tmp_path: Path):
    for config, known in (
        ({"init_mode": "xavier_normal"}, True),
        ({"init_mode": "xavier_normal", "initializer_range": 0.5}, False),
        ({"init_mode": "muP", "initializer_range": 1.0}, False),
        ({"init_mode": "gpt2", "initializer_range": 0.3}, True),
    ):
        file = saved(network(CONFIGS["LN"]), tmp_path / "them.pt", config={"n_layers": 2, **config})
        assert import_run(file, tmp_path / "run", overwrite=True).has_initialiser is known


def test_what_the_file_does_not_say_is_assumed_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = saved(network(CONFIGS["LN"]), tmp_path / "them.pt")
    main(["import", str(file), "--out", str(tmp_path / "run")])
    about = Run(tmp_path / "run").imported
    assert about is not None
    assert about["read"] == {
        "n_layers": 2, "d_model": 19, "n_heads": 3, "d_head": 5, "d_vocab": 14, "d_vocab_out": 14, "attn_only": False,
        "n_ctx": 11, "d_mlp": 23, "normalization_type": "LN",
    }  # fmt: skip
    assert about["assumed"] == {
        "steps": "1", "act_fn": "relu", "attention_dir": "causal", "positional_embedding_type": "standard", "eps": 1e-5,
        "input_type": "tokens", "use_attn_scale": True, "attn_scale": "sqrt(d_head)",
        "initialiser": "unknown: no score has a null of fresh initialisations",
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "assumed   act_fn relu, attention_dir causal, positional_embedding_type standard" in said
    assert "dropped   IGNORE, mask" in said
    assert "There is no task" in said


def test_a_processed_network_is_told_from_one_without_norms_by_its_centred_weights(tmp_path: Path):
    model = network(CONFIGS["LN"])
    processed = model.processed()
    run = import_run(saved(processed, tmp_path / "them.pt"), tmp_path / "run", model={"act_fn": "gelu"})
    tokens = torch.randint(14, (3, 11))
    assert run.model().cfg.normalization_type == "LNPre"
    torch.testing.assert_close(run.model()(tokens).log_softmax(-1), model(tokens).log_softmax(-1), rtol=1e-4, atol=1e-4)
    for name in ("no norm", "LNPre"):
        file = saved(network(CONFIGS[name]), tmp_path / "uncentred.pt")
        with pytest.raises(ValueError, match=r"^model.normalization_type: is missing; .* give null, LNPre or RMSPre$"):
            import_run(file, tmp_path / "other")
        assert not (tmp_path / "other").exists()


LAYOUTS: dict[str, Callable[[str, torch.Tensor], torch.Tensor]] = {
    "transposed": lambda name, x: x.transpose(-1, -2) if "W_" in name else x,
    "joined": lambda name, x: joined(name, x),
    "joined_transposed": lambda name, x: joined(name, x).transpose(-1, -2) if "W_" in name else joined(name, x),
}


def joined(name: str, x: torch.Tensor) -> torch.Tensor:
    kind = name.rpartition(".")[2]
    if kind in ("W_Q", "W_K", "W_V"):
        return torch.cat(list(x), dim=1)
    return x.flatten(0, 1) if kind in ("W_O", "b_Q", "b_K", "b_V") else x


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_are_the_same_network(layout: str, tmp_path: Path):
    model = network(CONFIGS["LN"])
    theirs = {name: LAYOUTS[layout](name, weight) for name, weight in model.state_dict().items()}
    torch.save(theirs, tmp_path / "them.pt")
    with pytest.raises(ValueError, match=rf"try --layout {layout}$"):
        import_run(tmp_path / "them.pt", tmp_path / "run")
    run = import_run(tmp_path / "them.pt", tmp_path / "run", layout=layout, model={"act_fn": "gelu", "n_heads": 3})
    tokens = torch.randint(14, (3, 11))
    torch.testing.assert_close(run.model()(tokens), model(tokens))
    assert in_layout(theirs, layout, 3).keys() == theirs.keys()


def test_steps_come_from_names_or_are_given(tmp_path: Path):
    (tmp_path / "them").mkdir()
    for step in (0, 100, 20):
        saved(network(CONFIGS["LN"], seed=step), tmp_path / "them" / f"step{step}.pt")
    run = import_run(tmp_path / "them", tmp_path / "run")
    assert run.steps == [0, 20, 100]
    torch.testing.assert_close(run.model(20).W_E, network(CONFIGS["LN"], seed=20).W_E)
    files = [tmp_path / "them" / f"step{step}.pt" for step in (100, 20)]
    assert import_run(files, tmp_path / "other", steps=[3, 7]).steps == [3, 7]
    with pytest.raises(ValueError, match="are both of step 3; give --step"):
        import_run(files, tmp_path / "third", steps=[3, 3])


def test_nested_weights_are_found_and_named_by_their_key(tmp_path: Path):
    model = network(CONFIGS["LN"])
    saved(
        model, tmp_path / "one.pt", optimizer={"state": {}}, config={"d_model": 19, "act_fn": "gelu", "init_range": 0.3}
    )
    run = import_run(tmp_path / "one.pt", tmp_path / "run")
    assert run.imported is not None
    assert run.imported["dropped"] == ["IGNORE", "mask", "optimizer", "config"]
    assert run.model().cfg.act_fn == "gelu"
    assert run.has_initialiser
    assert run.imported["read"]["initializer_range"] == 0.3
    prefixed = {f"_orig_mod.{name}": weight for name, weight in model.state_dict().items()}
    torch.save({"a": {"b": prefixed}, "c": model.state_dict()}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match=r"^key: .* holds weights at a\.b, c; give one of them as --key$"):
        import_run(tmp_path / "two.pt", tmp_path / "other")
    torch.testing.assert_close(import_run(tmp_path / "two.pt", tmp_path / "b", key="a.b").model().W_E, model.W_E)
    with pytest.raises(ValueError, match=r"^key: 'a\.x' is not in .*; a has b$"):
        import_run(tmp_path / "two.pt", tmp_path / "other", key="a.x")


def test_a_list_of_state_dicts_is_one_of_checkpoints(tmp_path: Path):
    states = [network(CONFIGS["LN"], seed=seed).state_dict() for seed in range(3)]
    torch.save({"checkpoints": states}, tmp_path / "all.pt")
    run = import_run(tmp_path / "all.pt", tmp_path / "run", steps=[0, 10, 20])
    assert run.steps == [0, 10, 20]
    assert import_run(tmp_path / "all.pt", tmp_path / "one", key="checkpoints.1").steps == [1]
    lists = {name: weight.tolist() for name, weight in states[0].items()}
    torch.save(lists, tmp_path / "lists.pt")
    torch.testing.assert_close(import_run(tmp_path / "lists.pt", tmp_path / "l").model().W_E, states[0]["embed.W_E"])


def test_tensors_of_another_device_come_to_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, Any] = {}
    load = torch.load

    def spied(*arguments: Any, **options: Any) -> Any:
        asked.update(options)
        return load(*arguments, **options)

    monkeypatch.setattr(torch, "load", spied)
    import_run(saved(network(CONFIGS["LN"]), tmp_path / "them.pt"), tmp_path / "run")
    assert asked == {"map_location": "cpu", "weights_only": True}


def test_half_precision_and_missing_biases_are_said(tmp_path: Path):
    state = {name: weight.half() for name, weight in network(CONFIGS["LN"]).state_dict().items() if "b_V" not in name}
    torch.save(state, tmp_path / "them.pt")
    run = import_run(tmp_path / "them.pt", tmp_path / "run")
    assert run.imported is not None
    assert run.imported["read"]["numbers"] == "float16, kept as float32"
    assert run.imported["assumed"]["biases"] == "0 (blocks.0.attn.b_V, blocks.1.attn.b_V)"
    assert not run.model().b_V.any()


TL_CONFIG = {
    "n_layers": 2, "d_model": 19, "n_ctx": 11, "d_head": 5, "n_heads": 3, "d_vocab": 14, "d_mlp": 23, "act_fn": "gelu",
    "attention_dir": "bidirectional", "positional_embedding_type": "shortformer", "normalization_type": "LN",
    "initializer_range": 0.3, "use_attn_scale": True, "attn_scale": 5**0.5, "gated_mlp": False, "device": "cuda",
    "dtype": "torch.float32", "d_vocab_out": -1, "attn_types": None, "seed": 0,
}  # fmt: skip


def test_a_configuration_of_transformer_lens_says_what_the_file_does_not(tmp_path: Path):
    cfg = replace(CONFIGS["LN"], attention_dir="bidirectional", positional_embedding_type="shortformer")
    model = network(cfg)
    file = saved(model, tmp_path / "them.pt")
    (tmp_path / "config.json").write_text(json.dumps(TL_CONFIG))
    for number, config in enumerate((TL_CONFIG, json.dumps(TL_CONFIG), tmp_path / "config.json")):
        run = import_run(file, tmp_path / str(number), config=config)
        tokens = torch.randint(14, (3, 11))
        torch.testing.assert_close(run.model()(tokens), model(tokens))
        assert run.has_initialiser
    for name, value in {"gated_mlp": True, "use_local_attn": True, "positional_embedding_type": "rotary_"}.items():
        with pytest.raises(ValueError, match=name):
            import_run(file, tmp_path / "wrong", config={**TL_CONFIG, name: value})


@pytest.fixture
def trained_elsewhere(tmp_path: Path) -> Path:
    """The checkpoints of a run that knows induction from step 7 on, as another program would leave them."""
    run = handmade_run(tmp_path / "own")
    (tmp_path / "theirs").mkdir()
    for step in run.steps:
        torch.save(run.model(step).state_dict() | buffers(run.model().cfg), tmp_path / "theirs" / f"step_{step}.pt")
    return tmp_path / "theirs"


def kinds_of_handmade() -> dict[str, Any]:
    return kinds(handmade.composing_pair("k")[0].cfg)


def test_loss_and_accuracy_stand_beside_the_baselines(trained_elsewhere: Path, tmp_path: Path, capsys: Any):
    task = handmade.TASK
    run = import_run(trained_elsewhere, tmp_path / "run", task=task, model=kinds_of_handmade())
    assert run.imported is not None
    assert run.imported["results"]["11"]["accuracy_repeats"] > 0.9
    assert run.imported["baselines"] == task.baselines()
    assert not run.imported["no_better_than_chance"]
    first = import_run(trained_elsewhere / "step_0.pt", tmp_path / "first", task=task, model=kinds_of_handmade())
    assert first.imported is not None
    assert first.imported["no_better_than_chance"]
    options = [f"--model.{name}={'null' if value is None else value}" for name, value in kinds_of_handmade().items()]
    options += [f"--task.{name}={value}" for name, value in asdict(task).items()]
    options += ["--task", "headway.data.repeated_tokens:RepeatedTokens", "--out", str(tmp_path / "third")]
    main(["import", str(trained_elsewhere / "step_0.pt"), *options])
    assert "This is no better than chance" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(
            [
                "import",
                str(trained_elsewhere / "step_0.pt"),
                *options,
                "--overwrite",
                "--expect",
                "accuracy_repeats=0.9",
            ]
        )
    assert end.value.code == 2
    assert "expect: accuracy_repeats is" in capsys.readouterr().err
    main(["import", str(trained_elsewhere), *options, "--overwrite", "--expect", "accuracy_repeats=0.9,loss_repeats=1"])


def test_an_imported_run_is_finished(trained_elsewhere: Path, tmp_path: Path):
    run = import_run(trained_elsewhere, tmp_path / "run", task=handmade.TASK, model=kinds_of_handmade())
    for refused in (lambda: resume(run.path), lambda: densify(run.path, (0, 5), from_start=True)):
        with pytest.raises(ValueError, match="was imported"):
            refused()


def test_every_command_takes_an_imported_run(
    trained_elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shutil.rmtree(tmp_path / "own")
    for step in (0, 5):
        (trained_elsewhere / f"step_{step}.pt").unlink()
    import_run(trained_elsewhere, tmp_path / "run", task=handmade.TASK, model=kinds_of_handmade())
    monkeypatch.chdir(tmp_path)
    for command in (
        "measure run --only loss,accuracy,attention,previous_token,k_composition,ov_eigenvalue",
        "circuit run --sequences 7 --orders 1 --controls 3", "study induction run --sequences 7",
        "report run", "plot run loss --out loss.svg", "plot run heads --out heads.svg", "plot run circuit --out c.svg",
        "formation run",
    ):  # fmt: skip
        main(command.split())
    assert "from the start" not in capsys.readouterr().out
    assert [str(finding) for finding in audit("run")] == ["step 11: its weights are those of step 7"]
    scores = Run("run").scores
    assert not [name for name in scores if str(name).startswith("previous_token_z")]
    assert "k_composition_z" in scores
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "imported from" in page
    assert "learning rate" not in page.partition("imported from")[2][:2000]
    assert "loss" in Run("run").summary()


def test_without_a_task_measures_of_weights_work_and_batches_in_python(trained_elsewhere: Path, tmp_path: Path):
    run = import_run(trained_elsewhere / "step_11.pt", tmp_path / "run", model=kinds_of_handmade())
    inapplicable = measure(run, MEASURES)
    there = {path.stem for path in run.path.glob("scores/*/*")}
    assert {"ov_eigenvalue", "qk_eigenvalue", "k_composition", "rank_95"} <= there
    assert inapplicable["loss"].startswith("task: this run was imported without a task")
    assert not there & set(inapplicable)
    batch: Batch = handmade.TASK.evaluation_batch(0, 7)
    assert previous_token(run.model(), batch).previous_token.max() > 0.9
    with pytest.raises(ValueError, match="imported without a task"):
        _ = run.batch().inputs
    main(["report", str(run.path)])
    with pytest.raises(SystemExit):
        main(["circuit", str(run.path)])


def test_a_known_initialiser_gives_nulls(trained_elsewhere: Path, tmp_path: Path):
    options = {**kinds_of_handmade(), "initializer_range": 0.02}
    run = import_run(trained_elsewhere / "step_11.pt", tmp_path / "run", task=handmade.TASK, model=options)
    measure(run, [each for each in MEASURES if each.name == "previous_token"])
    assert "previous_token_z" in run.scores


class Thing:
    """An object that no state dict holds."""


BAD: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "nothing": (lambda file: None, {}, "is no file"),
    "an empty file": (lambda file: file.write_bytes(b""), {}, "is empty"),
    "text": (lambda file: file.write_text("hello"), {}, "cannot be read as weights|is a pickle"),
    "a pickle": (
        lambda file: torch.save(Thing(), file),
        {},
        r"is a pickle that would run code \(.*test_importing\.Thing\), .*save the state_dict",
    ),
    "a plain pickle": (
        lambda file: file.write_bytes(pickle.dumps({"a": 1})),
        {},
        "is a pickle that torch.save did not write",
    ),
    "a file of losses": (
        lambda file: torch.save({"loss": [0.1, 0.2]}, file),
        {},
        r"holds no weights of a transformer; it has loss, and no tensor named embed\.W_E",
    ),
    "a list": (lambda file: torch.save([1, 2], file), {}, r"it is a list of 2 \(int\)"),
    "a tensor": (lambda file: torch.save(torch.ones(3), file), {}, r"it is one tensor of shape \(3,\)"),
    "rotary positions": (
        lambda file: changed(file, {"blocks.0.attn.rotary_sinus": torch.ones(3)}),
        {},
        r"does not fit: blocks\.0\.attn\.rotary_sinus is no weight of Headway's networks$",
    ),
    "other heads": (
        lambda file: changed(file, {"blocks.1.attn.W_K": torch.ones(1, 19, 5)}),
        {},
        r"does not fit: blocks\.1\.attn\.W_K has the shape \(1, 19, 5\) and not \(3, 19, 5\)$",
    ),
    "no unembedding": (
        lambda file: changed(file, {}, ["unembed.W_U"]),
        {"model": {"tie_word_embeddings": False}},
        r"has no unembed\.W_U",
    ),
    "no unembedding, and other outputs": (
        lambda file: changed(file, {"unembed.b_U": torch.zeros(17)}, ["unembed.W_U"]),
        {},
        r"has no unembed\.W_U",
    ),
    "a layer that is missing": (
        lambda file: changed(file, {}, [name for name in network(CONFIGS["LN"]).state_dict() if "blocks.0" in name]),
        {},
        r"has the layers \[1\]; they must be numbered from 0",
    ),
    "NaN": (lambda file: changed(file, {"unembed.b_U": torch.full((14,), torch.nan)}), {}, "are not finite"),
    "a window": (
        lambda file: changed(file, {"blocks.0.attn.mask": torch.ones(11, 11).tril().triu(-2).bool()}),
        {},
        "its attn.mask has a window",
    ),
    "an option that contradicts": (
        lambda file: saved(network(CONFIGS["LN"]), file),
        {"model": {"n_heads": 4}},
        r"^model\.n_heads: 4 is not valid; .* has 3$",
    ),
    "an unknown option": (
        lambda file: saved(network(CONFIGS["LN"]), file),
        {"model": {"act": "gelu"}},
        r"^model\.act: there is no such option; nearest is 'act_fn'",
    ),
    "an unknown layout": (
        lambda file: saved(network(CONFIGS["LN"]), file),
        {"layout": "joind"},
        r"^layout: 'joind' is not one of .* nearest is 'joined'",
    ),
    "a task that does not fit": (
        lambda file: saved(network(CONFIGS["LN"]), file),
        {"task": RepeatedTokens(n_tokens=14, length=11, period_max=5)},
        r"^task: RepeatedTokens does not fit the network \(model\.d_vocab: 14 is too small; the task needs 15\)$",
    ),
    "expectations without a task": (
        lambda file: saved(network(CONFIGS["LN"]), file),
        {"expect": {"accuracy": 1.0}},
        "^expect: accuracy needs a task",
    ),
    "no tokenizer": (
        lambda file: saved(network(CONFIGS["LN"]), file),
        {"tokenizer": "nowhere.json"},
        r"^tokenizer: nowhere\.json cannot be read",
    ),
    "no config": (lambda file: saved(network(CONFIGS["LN"]), file), {"config": "nowhere.json"}, "^config: nowhere"),
    "a folder without weights": (lambda file: file.mkdir(), {}, "holds no file of weights"),
}


def changed(file: Path, others: dict[str, torch.Tensor], without: list[str] | None = None) -> None:
    state = network(CONFIGS["LN"]).state_dict() | others
    torch.save({name: value for name, value in state.items() if name not in (without or [])}, file)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_one_line_and_leaves_nothing(name: str, tmp_path: Path):
    make, options, said = BAD[name]
    make(tmp_path / "them.pt")
    with pytest.raises(ValueError, match=said) as error:
        import_run(tmp_path / "them.pt", tmp_path / "run", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_tasks_with_negative_tokens_are_refused(tmp_path: Path):
    class Negative(RepeatedTokens):
        def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
            batch = super().sample(generator, batch_size)
            return batch._replace(inputs=batch.inputs - 1)

    globals()["Negative"] = Negative
    file = saved(network(CONFIGS["LN"]), tmp_path / "them.pt")
    with pytest.raises(ValueError, match=r"^task: its tokens are -1 to 1[0-9], and this network has 0 to 13"):
        import_run(file, tmp_path / "run", task=Negative(n_tokens=13, length=11, period_min=2, period_max=5))


@pytest.mark.parametrize("kind", ["LNPre", "relative, both ways"])
def test_attention_has_the_direction_that_the_task_needs(kind: str, tmp_path: Path):
    """The weights do not tell it: with relative positions they do not tell n_ctx either."""
    cfg, task = replace(CONFIGS[kind], d_vocab_out=2), HoldsZero(n_tokens=13, length=11)
    model, batch = network(cfg), task.evaluation_batch(0, 7)
    file = save_state(model.state_dict(), tmp_path / "them.pt")
    given = {name: value for name, value in kinds(cfg).items() if name not in ("attention_dir", "n_ctx")}
    run = import_run(file, tmp_path / "run", task=task, model=given)
    assert run.imported is not None
    assert run.imported["assumed"]["attention_dir"] == "bidirectional"
    assert run.model().cfg.n_ctx == 11
    torch.testing.assert_close(run.model()(batch.inputs, **batch.padding), model(batch.inputs, **batch.padding))
    with pytest.raises(ValueError, match=r"^task: HoldsZero does not fit the network \(model.attention_dir: 'causal'"):
        import_run(file, tmp_path / "causal", task=task, model={**given, "attention_dir": "causal"})


def test_a_run_is_not_replaced_unasked(trained: Train, tmp_path: Path):
    run = trained(TOKENS, tmp_path / "run")
    file = saved(network(CONFIGS["LN"]), tmp_path / "them.pt")
    with pytest.raises(ValueError, match="holds a run already"):
        import_run(file, run.path)
    assert Run(run.path).imported is None
    assert headway.import_run(file, run.path, overwrite=True).imported is not None
    assert Run(run.path).steps == [1]


@pytest.mark.parametrize("recipe", [TOKENS, NO_POSITIONS, VECTORS], ids=["tokens", "no positions", "vectors"])
def test_the_checkpoints_of_a_run_come_in_as_they_were(recipe: Any, trained: Train, tmp_path: Path):
    run = trained(recipe, tmp_path / "run")
    options = kinds(recipe.model)
    again = import_run(run.path / "weights", tmp_path / "again", task=recipe.task, model=options)
    assert again.steps == run.steps
    for step in run.steps:
        assert torch.equal(run.model(step).W_E, again.model(step).W_E)
    measure(again, [each for each in MEASURES if each.name == "loss"])
    results = [again.imported["results"][str(step)]["loss"] for step in again.steps]  # pyright: ignore
    np.testing.assert_allclose(results, again.scores.loss.values, rtol=1e-5)
    assert audit(again) == []


def test_a_language_model_comes_in_with_its_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = saved_gpt2(tmp_path / "gpt2")
    run = import_run(folder, tmp_path / "run")
    bridge = boot_bridge(str(folder))
    tokens = torch.randint(20, (2, 11))
    with torch.no_grad():
        torch.testing.assert_close(run.model()(tokens), bridge(tokens), rtol=1e-3, atol=1e-4)
    text = "Then Mary and John went to the shop"
    assert run.tokenizer is not None
    assert run.tokenizer(text).input_ids == bridge.tokenizer(text).input_ids  # pyright: ignore
    assert run.tokenizer.bos_token == "<|end|>"
    main(["text", str(run.path), text, "--out", str(tmp_path / "text.html")])
    assert "The page that shows it" in capsys.readouterr().out
    folded = load_bridge(str(folder))
    folded_run = import_run(folded, tmp_path / "folded")
    with torch.no_grad():
        torch.testing.assert_close(folded_run.model()(tokens), folded(tokens), rtol=1e-3, atol=1e-4)


def test_folders_and_revisions_are_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "models").mkdir()
    for step in (100, 20):
        saved_gpt2(tmp_path / "models" / f"step{step}")
    assert import_run(tmp_path / "models", tmp_path / "run").steps == [20, 100]
    refs = SimpleNamespace(branches=[SimpleNamespace(name=name) for name in ("main", "step20", "step100")], tags=[])
    monkeypatch.setattr("huggingface_hub.list_repo_refs", lambda name: refs)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name, revision: ["config.json"])
    asked: list[tuple[str, str | None]] = []

    def booted(name: str, revision: str | None = None) -> Any:
        asked.append((name, revision))
        return boot_bridge(str(tmp_path / "models" / str(revision)))

    monkeypatch.setattr("headway.checkpoints.importing.boot_bridge", booted)
    assert import_run("somebody/toy", tmp_path / "hub").steps == [20, 100]
    assert asked == [("somebody/toy", "step20"), ("somebody/toy", "step100")]
    assert import_run("somebody/toy", tmp_path / "one", steps=[100]).steps == [100]
    with pytest.raises(ValueError, match=r"^step: 7 is no revision of somebody/toy, which has 20, 100$"):
        import_run("somebody/toy", tmp_path / "other", steps=[7])


def test_a_hub_that_is_not_reachable_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unreachable(name: str) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.list_repo_refs", unreachable)
    with pytest.raises(
        ValueError, match=r"^file: somebody/toy is no file or folder, and is not reachable .*no route to"
    ):
        import_run("somebody/toy", tmp_path / "run")


def test_a_name_on_the_hub_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as where it is not installed
    with pytest.raises(
        ValueError, match=r"^file: somebody/toy is no file or folder; for .* hub, pip install huggingface_hub$"
    ):
        import_run("somebody/toy", tmp_path / "run")
    file = saved(network(CONFIGS["LN"]), tmp_path / "them.pt")
    assert import_run(file, tmp_path / "run").steps == [1]


def test_other_architectures_are_refused(tmp_path: Path):
    for bridge in (llama_bridge(), parallel_bridge()):
        with pytest.raises(ValueError, match=r"is none of Headway's networks|is not valid; Headway's networks have"):
            import_run(bridge, tmp_path / "run")
    with pytest.raises(ValueError, match=r"^source: a Linear is not valid"):
        import_run(torch.nn.Linear(2, 3), tmp_path / "run")  # pyright: ignore
    model = network(CONFIGS["LN"])
    assert import_run(model, tmp_path / "ours").steps == [1]
    with pytest.raises(ValueError, match=r"^model: no config, option, key or layout is taken beside a model"):
        import_run(model, tmp_path / "other", model={"act_fn": "gelu"})


def test_a_study_makes_its_sequences_for_a_network_without_a_task(trained_elsewhere: Path, tmp_path: Path):
    run = import_run(trained_elsewhere / "step_11.pt", tmp_path / "run", model=kinds_of_handmade())
    result = headway.study("induction", run, sequences=7)
    assert result.claims
    with pytest.raises(ValueError, match=r"run was imported without a task; name-movers needs IndirectObject$"):
        headway.study("name-movers", run)
    # Nobody knows with which learning rate it was trained.
    source = with_sequences(find_study("previous-token"), run)
    assert isinstance(source, Run)
    assert [figure.title for figure in training_section(LoadedModel.of(source), source, ()).figures] == [
        "Loss by position over training"
    ]
