"""Recipes and their parts are values: nobody can change one in passing, and what one leaves out keeps its meaning."""

import copy
import importlib
import re
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from toys import TOKENS

from headway.checkpoints import Recipe
from headway.checkpoints.config import ADDED_LATER
from headway.checkpoints.recipe import TrainerConfig
from headway.checkpoints.schedule import Schedule
from headway.data.affine_recurrence import AffineRecurrence
from headway.data.brackets import Brackets
from headway.data.indirect_object import IndirectObject
from headway.data.linear_regression import LinearRegression
from headway.data.markov_chains import MarkovChains
from headway.data.maximum import Maximum
from headway.data.modular_addition import ModularAddition
from headway.data.previous_token import PreviousToken
from headway.data.repeated_synonyms import RepeatedSynonyms
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.text import Text
from headway.models.config import ModelConfig
from headway.models.optim import OptimConfig

ROOT = Path(__file__).parent.parent
MODULES = [
    ".".join(("headway", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for folder in ("data", "models", "checkpoints", "analyze")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

# A default is part of the interface, as a name is: whoever changes one here changes what notebooks train, and what runs
# from before an option existed are.
DEFAULTS = {
    Recipe: {"steps": 1500, "batch_size": 64, "seed": 0, "eval_seed": 0, "eval_batch_size": 64, "compile": False},
    ModelConfig: {
        "d_vocab_out": -1,
        "d_mlp": -1,
        "act_fn": "relu",
        "attn_only": False,
        "attention_dir": "causal",
        "positional_embedding_type": "standard",
        "normalization_type": "LN",
        "eps": 1e-5,
        "initializer_range": 0.02,
        "input_type": "tokens",
        "use_attn_scale": True,
        "attn_scale": -1,
        "biases": True,
        "init_mode": "gpt2",
        "rotary_dim": None,
        "rotary_base": 10000.0,
        "tie_word_embeddings": False,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
    },
    OptimConfig: {
        "optimizer": "AdamW",
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "momentum": 0.0,
        "weight_decay": 0.01,
        "warmup_steps": 0,
        "decay": "constant",
        "max_grad_norm": 1.0,
        "accumulate": 1,
    },
    Schedule: {"log": 32, "linear": 12, "at": (), "state_every": 0},
    TrainerConfig: {"precision": "32-true", "accelerator": "auto", "devices": 1, "threads": None},
    RepeatedTokens: {
        "n_tokens": 64,
        "length": 48,
        "period_min": 3,
        "period_max": 16,
        "late_start": 0.5,
        "only_repeats": False,
    },
    RepeatedSynonyms: {"n_pairs": 100, "length": 48, "period_min": 8, "period_max": 24, "late_start": 0.0},
    PreviousToken: {"n_tokens": 299, "length": 50, "bos": True},
    AffineRecurrence: {
        "d_vector": 40,
        "compl": 1,
        "length_min": 4,
        "length_max": 29,
        "c_min": -2.0,
        "c_max": 2.0,
        "d_min": -2.0,
        "d_max": 2.0,
        "a_min": -3.0,
        "a_max": 3.0,
        "cap_min": 1.0,
        "cap_max": 2.0,
        "shared_start": False,
    },
    IndirectObject: {"n_names": 100, "order": "mixed", "s2_place": "last"},
    MarkovChains: {"n_states": 2, "order": 1, "length": 100, "n_chains": None, "chain_seed": 0},
    Maximum: {"n_tokens": 64, "length": 4},
    ModularAddition: {"p": 53, "held_out": 0.5, "split_seed": 0},
    Brackets: {"max_brackets": 40},
    LinearRegression: {
        "dimension": 4,
        "n_pairs": 16,
        "noise_variance": 0.125,
        "n_tasks": None,
        "task_seed": 0,
    },
    Text: {
        "corpus": "stdlib",
        "n_tokens": 4096,
        "length": 128,
        "held_out": 0.1,
        "corpus_hash": None,
        "tokenizer_hash": None,
    },
}


@pytest.mark.parametrize("kind", DEFAULTS, ids=lambda kind: kind.__name__)
def test_an_option_that_is_left_out_means_what_it_always_meant(kind: type):
    assert {f.name: f.default for f in fields(kind) if f.init and f.default is not MISSING} == DEFAULTS[kind]


def test_a_config_that_lacks_an_option_is_no_other_recipe():
    whole = TOKENS.to_dict()
    assert Recipe.from_dict(whole) == TOKENS
    options = {(part, name) for part, of_part in whole.items() if isinstance(of_part, dict) for name in of_part}
    for part, name in options | {(name, None) for name, value in whole.items() if not isinstance(value, dict)}:
        short = copy.deepcopy(whole)
        if name is None:
            del short[part]
        else:
            del short[part][name]
        full = part if name is None else f"{part}.{name}"
        if full in (*ADDED_LATER, "task.late_start", "task.only_repeats"):  # older runs lack these
            Recipe.from_dict(short)
            continue
        with pytest.raises(ValueError, match=rf"^{re.escape(full)}: .*(is missing|None is not valid)"):
            Recipe.from_dict(short)


@pytest.mark.parametrize("lines", range(3, 40, 4))
def test_a_config_that_was_cut_off_is_no_other_recipe(lines: int):
    text = TOKENS.to_yaml().splitlines(keepends=True)
    assert len(text) > 40
    with pytest.raises(ValueError, match=r"missing|must be"):
        Recipe.from_dict(yaml.safe_load("".join(text[:lines])))


# TransformerLens's switches (use_attn_result and others) are set on a configuration; packs, provenances and ways grow.
CHANGE = ("ModelConfig", "Packed", "Provenance", "Way")


def test_dataclasses_are_values():
    for module in MODULES:
        for kind in vars(importlib.import_module(module)).values():
            ours = isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == module
            if ours and kind.__name__ not in CHANGE:
                assert kind.__dataclass_params__.frozen, kind  # pyright: ignore[reportAttributeAccessIssue]


def test_a_value_cannot_be_changed_in_passing():
    with pytest.raises(FrozenInstanceError):
        TOKENS.steps = 3  # pyright: ignore[reportAttributeAccessIssue]
