"""Networks and state dicts of Python that come in, and arguments that are neither."""

# pyright: reportArgumentType=false

from pathlib import Path
from typing import Any

import pytest
import torch
import transformer_lens
from installed_lens import IS_3
from test_importing import CONFIGS, network

import headway
from headway.checkpoints.importing import import_run

TOKENS = torch.randint(14, (3, 11), generator=torch.Generator().manual_seed(0))
THEIRS: dict[str, dict[str, Any]] = {
    "LN": {"act_fn": "gelu"},
    "LNPre": {"act_fn": "gelu", "normalization_type": "LNPre"},
    "no norms": {"act_fn": "relu", "normalization_type": None},
    "RMS": {"act_fn": "relu", "normalization_type": "RMS", "init_mode": "xavier_normal"},
    "one layer, solu_ln": {"n_layers": 1, "act_fn": "solu_ln"},
    "shortformer": {"attn_only": True, "positional_embedding_type": "shortformer", "d_vocab_out": 5},
    "rotary": {"act_fn": "gelu", "positional_embedding_type": "rotary", "rotary_dim": 4, "use_attn_scale": False},
    "bidirectional": {"act_fn": "relu", "attention_dir": "bidirectional"},
}


def lens_network(**options: Any) -> Any:
    sizes = {"n_layers": 2, "d_model": 19, "n_ctx": 11, "d_head": 5, "n_heads": 3, "d_vocab": 14, "d_mlp": 23}
    cfg = transformer_lens.HookedTransformerConfig(**{**sizes, "seed": 0, **options})  # pyright: ignore
    return transformer_lens.HookedTransformer(cfg).eval()  # pyright: ignore


@pytest.mark.skipif(not IS_3, reason="TransformerLens 4 has no HookedTransformer")
@pytest.mark.parametrize("name", THEIRS)
def test_a_network_of_transformer_lens_comes_in_as_it_is(name: str, tmp_path: Path):
    theirs = lens_network(**THEIRS[name])
    run = import_run(theirs, tmp_path / "run")
    torch.testing.assert_close(run.model()(TOKENS), theirs(TOKENS), rtol=1e-4, atol=1e-5)
    torch.save({"model": theirs.state_dict(), "cfg": theirs.cfg.to_dict()}, tmp_path / "values.pt")
    torch.save({"model": theirs.state_dict(), "cfg": theirs.cfg}, tmp_path / "whole.pt")
    for saved in ("values", "whole"):
        assert import_run(tmp_path / f"{saved}.pt", tmp_path / saved).model().cfg == run.model().cfg


@pytest.mark.skipif(not IS_3, reason="TransformerLens 4 has no HookedTransformer")
def test_networks_of_transformer_lens_that_are_processed_or_none_of_ours(tmp_path: Path):
    theirs = lens_network(act_fn="gelu")
    theirs.process_weights_()
    run = import_run({0: lens_network(act_fn="gelu", normalization_type="LNPre"), 10: theirs}, tmp_path / "run")
    assert run.steps == [0, 10]
    torch.testing.assert_close(run.model(10)(TOKENS), theirs(TOKENS), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"^config: gated_mlp True is not valid"):
        import_run(lens_network(act_fn="relu", gated_mlp=True), tmp_path / "other")


def test_networks_and_state_dicts_come_in_by_their_steps(tmp_path: Path):
    models = {0: network(CONFIGS["LN"]), 40: network(CONFIGS["LN"], seed=1)}
    states = {step: model.state_dict() for step, model in models.items()}
    options: Any = {"model": {"act_fn": "gelu"}}
    runs = [
        import_run(models, tmp_path / "0"),
        import_run(list(models.values()), tmp_path / "1", steps=[0, 40]),
        import_run(states, tmp_path / "2", **options),
        import_run(list(states.values()), tmp_path / "3", steps=torch.tensor([0, 40]).tolist(), **options),
    ]
    for run in runs:
        assert run.steps == [0, 40]
        for step, model in models.items():
            torch.testing.assert_close(run.model(step)(TOKENS), model(TOKENS), rtol=0, atol=0)
    one = import_run(states[40], tmp_path / "one", **options)
    torch.testing.assert_close(one.model()(TOKENS), models[40](TOKENS), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"^source: the network of step 1 has other weights than that of step 2"):
        import_run({1: network(CONFIGS["no biases"]), 2: models[0]}, tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": None}, "source: None is not valid"),
        ({"source": 5}, "source: 5 is not valid"),
        ({"source": {}}, "source holds no weights of a transformer; it has nothing"),
        ({"source": []}, "file: is missing"),
        ({"source": [network(CONFIGS["LN"])] * 2}, "step: 2 networks have none; give steps"),
        ({"source": [network(CONFIGS["LN"])] * 2, "steps": [3, 3]}, "step: 3, 3 are not valid"),
        ({"source": {"a": network(CONFIGS["LN"])}}, "steps: 'a' is not valid; it must be at least 0"),
        ({"source": [network(CONFIGS["LN"]), "them.pt"]}, "source: a str is not valid"),
        ({"steps": 3}, "steps: 3 is not valid; it must be a list"),
        ({"steps": "12"}, "steps: '12' is not valid; it must be a list"),
        ({"steps": [1.5]}, "steps: 1.5 is not valid"),
        ({"steps": [-1]}, "steps: -1 is not valid"),
        ({"key": 3}, "key: 3 is not valid"),
        ({"layout": None}, "layout: None is not one of"),
        ({"model": "gelu"}, "model: 'gelu' is not valid; it must be a dictionary"),
        ({"task": 3}, "task: 3 is not valid"),
        ({"config": [1]}, "config: "),
        ({"expect": "accuracy=1"}, "expect: 'accuracy=1' is not valid"),
    ],
)
def test_arguments_that_cannot_be_are_refused_by_name(arguments: dict[str, Any], message: str, tmp_path: Path):
    values = {"source": network(CONFIGS["LN"]).state_dict(), **arguments}
    with pytest.raises(ValueError, match=f"^(file: )?{message}") as error:
        import_run(out=tmp_path / "run", **values)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "call",
    [
        lambda model: headway.study("induction", model),
        lambda model: headway.study("previous-token", model),
        lambda model: headway.circuit(model),
        lambda model: headway.measure(model, headway.MEASURES),
        lambda model: headway.audit(model),
        lambda model: headway.export_run(model, "out", "bridge"),
        lambda model: headway.densify(model, (0, 1)),
        lambda model: headway.resume(model),
        lambda model: headway.Run(model),
    ],
    ids=["study", "study of runs", "circuit", "measure", "audit", "export", "densify", "resume", "Run"],
)
def test_what_takes_a_run_says_how_a_network_becomes_one(call: Any):
    with pytest.raises(ValueError, match=r"^run: a HookedTransformer is not valid; .*import_run\(model, DIRECTORY\)"):
        call(network(CONFIGS["LN"]))
