"""Compile RASP programs with Tracr, and write down their weights and what they compute: circuits that nobody here made.

Tracr (Lindner et al. 2023) compiles a program into the weights of a transformer. Every variable of the program has
directions of its own in the residual stream, so its labels and weights say which heads and edges the program uses.
The tests read the files that this script leaves in ``fixtures/``: one safetensors file per program, with

    weights.NAME.at  weights.NAME.values   the entries of a weight that are not 0, and their places in the flat weight
    inputs           [sequence, pos]       distinct token sequences, BOS first; shorter ones end with PAD
    targets          [sequence, pos]       what the program itself says, without a network: number of the output, or
                                           the value; -1 or NaN where it says nothing (BOS, PAD, None)
    outputs          [sequence, pos, out]  what Tracr's network puts out
    decoded          [sequence, pos]       Tracr's own answer, as the number of the output (categorical programs)
    metadata["fixture"]  JSON: our config, what the program is, the labels of the residual stream and of the outputs

Tracr's networks have no LayerNorm and no biases, and W_U reads the directions of the program's output. BOS takes
position 0, where Tracr's position embedding is 0. Tracr has no attention mask: its selectors on tokens see no PAD.

Run ``python make_fixtures.py``: with Tracr in the interpreter it writes the files, otherwise it first makes a
throwaway environment that has it. The same machine writes the same bytes every time.
"""

import itertools
import json
import random
import subprocess
import sys
import tempfile
import venv
import zlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

FIXTURES = Path(__file__).parent / "fixtures"
REQUIREMENTS = (
    "tracr-pypi==1.0.0",
    "jax==0.10.2",
    "dm-haiku==0.0.17",
    "chex==0.1.92",
    "networkx==3.6.1",
    "safetensors==0.8.0",
)
BOS, PAD = "compiler_bos", "compiler_pad"
SEQUENCES = 96


class Recipe(NamedTuple):
    """One program of Tracr's library: the expression that makes it, its tokens, and its longest sequence.

    ``shorter``: sequences of all lengths, since the program depends on the length. ``unique``: no token twice.
    ``rare``: a test of sequences that chance seldom draws. They are half of those that are kept, or a fifth if they are
    few.
    """

    program: str
    tokens: Any
    length: int
    shorter: bool = False
    unique: bool = False
    rare: Callable[[tuple], bool] | None = None


def balanced(pairs: list[str]) -> Callable[[tuple], bool]:
    """Return a test of whether each of these pairs of parentheses is balanced."""

    def test(sequence: tuple) -> bool:
        depths = [
            list(itertools.accumulate((token == pair[0]) - (token == pair[1]) for token in sequence)) for pair in pairs
        ]
        return all(min(depth) >= 0 and depth[-1] == 0 for depth in depths)

    return test


def contains(pattern: str) -> Callable[[tuple], bool]:
    """Return a test of whether a sequence contains a pattern."""
    return lambda sequence: pattern in "".join(sequence)


# The program is an expression in the names of Tracr's own modules, lib and rasp.
PROGRAMS = {
    "length_5": Recipe("rasp.numerical(lib.make_length())", "abc", 5, shorter=True),
    "length_categorical_7": Recipe("rasp.categorical(lib.make_length())", "abc", 7, shorter=True),
    "reverse_5": Recipe("lib.make_reverse(rasp.tokens)", "abc", 5, shorter=True),
    "reverse_7": Recipe("lib.make_reverse(rasp.tokens)", "abcd", 7, shorter=True),
    "hist_5": Recipe("lib.make_hist()", "abc", 5),
    "hist_7": Recipe("lib.make_hist()", "abcde", 7),
    "count_a_5": Recipe('lib.make_count(rasp.tokens, "a")', "abc", 5),
    "count_b_8": Recipe('lib.make_count(rasp.tokens, "b")', "abcd", 8),
    "count_less_freq_5": Recipe("lib.make_count_less_freq(2)", "abc", 5),
    "count_less_freq_numerical_6": Recipe("rasp.numerical(lib.make_count_less_freq(2))", "abcd", 6),
    "sort_unique_5": Recipe("lib.make_sort_unique(rasp.tokens, rasp.tokens)", range(1, 8), 5, unique=True),
    "sort_unique_6": Recipe("lib.make_sort_unique(rasp.tokens, rasp.tokens)", range(1, 9), 6, unique=True),
    "sort_4": Recipe("lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=4, min_key=1)", range(1, 5), 4),
    "sort_5": Recipe("lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=5, min_key=1)", range(1, 5), 5),
    "sort_freq_4": Recipe("lib.make_sort_freq(max_seq_len=4)", range(1, 4), 4),
    "frac_prevs_5": Recipe('lib.make_frac_prevs(rasp.tokens == "l")', "helo", 5),
    "frac_prevs_8": Recipe('lib.make_frac_prevs(rasp.tokens == "(")', "abc()", 8),
    "shift_by_1": Recipe("lib.shift_by(1, rasp.tokens)", "abcd", 5),
    "shift_by_2": Recipe("lib.shift_by(2, rasp.tokens)", "abcd", 7),
    "detect_ab_5": Recipe('lib.detect_pattern(rasp.tokens, "ab")', "abc", 5, rare=contains("ab")),
    "detect_abc_7": Recipe('lib.detect_pattern(rasp.tokens, "abc")', "abc", 7, rare=contains("abc")),
    "pair_balance_5": Recipe('lib.make_pair_balance(rasp.tokens, "(", ")")', "a()", 5),
    "pair_balance_7": Recipe('lib.make_pair_balance(rasp.tokens, "(", ")")', "a()", 7),
    "shuffle_dyck_1": Recipe('lib.make_shuffle_dyck(["()"])', "()", 6, shorter=True, rare=balanced(["()"])),
    "shuffle_dyck_2": Recipe(
        'lib.make_shuffle_dyck(["()", "{}"])', "(){}", 6, shorter=True, rare=balanced(["()", "{}"])
    ),
}


def main() -> None:
    """Build here, or in an environment that has Tracr."""
    try:
        here = version("tracr-pypi") == "1.0.0"
    except PackageNotFoundError:
        here = False
    if here:
        FIXTURES.mkdir(exist_ok=True)
        for name, recipe in PROGRAMS.items():
            build(name, recipe)
        return
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "Scripts" if sys.platform == "win32" else "bin", "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        subprocess.run([python, __file__], check=True)


def build(name: str, recipe: Recipe) -> None:
    """Compile one program and write its network and what it does."""
    import numpy as np
    from safetensors.numpy import save_file
    from tracr.compiler import compiling, lib  # pyright: ignore
    from tracr.rasp import rasp  # pyright: ignore

    program = eval(recipe.program, {"lib": lib, "rasp": rasp})
    model = compiling.compile_rasp_to_model(
        program, set(recipe.tokens), recipe.length, compiler_bos=BOS, compiler_pad=PAD
    )
    categorical = rasp.is_categorical(program)
    labels = model.residual_labels
    tokens = list(model.input_encoder.encoding_map)
    # The outputs in the order in which Tracr numbers them.
    values = list(model.output_encoder.encoding_map) if categorical else []
    output_labels = [f"{program.label}:{value}" for value in values] if categorical else [program.label]

    weights = weights_of(model)
    weights["unembed.W_U"] = np.zeros((len(labels), len(output_labels)), np.float32)
    for column, label in enumerate(output_labels):
        weights["unembed.W_U"][labels.index(label), column] = 1

    tensors = {}
    for parameter, weight in weights.items():
        at = np.flatnonzero(weight)
        tensors[f"weights.{parameter}.at"] = at.astype(np.int32)
        tensors[f"weights.{parameter}.values"] = weight.ravel()[at]
    inputs, targets, outputs, decoded = [], [], [], []
    for sequence in sequences(recipe, random.Random(zlib.crc32(name.encode()))):
        rest = recipe.length - len(sequence)
        padded = [BOS, *sequence, *[PAD] * rest]
        said = [None, *program(list(sequence)), *[None] * rest]
        ran = model.apply(padded)
        inputs.append([tokens.index(token) for token in padded])
        if categorical:
            targets.append([-1 if value is None else values.index(value) for value in said])
            answers = model.output_encoder.encode(ran.decoded[1:])
            decoded.append([-1, *answers])
        else:
            targets.append([np.nan if value is None else value for value in said])
        outputs.append(np.asarray(ran.transformer_output[0]) @ weights["unembed.W_U"])
    tensors["inputs"] = np.array(inputs, np.int16)
    tensors["targets"] = np.array(targets, np.int16 if categorical else np.float32)
    tensors["outputs"] = np.array(outputs, np.float32)
    if categorical:
        tensors["decoded"] = np.array(decoded, np.int16)

    sizes = model.model_config
    config = {
        "n_layers": sizes.num_layers,
        "d_model": len(labels),
        "n_ctx": recipe.length + 1,
        "d_head": sizes.key_size,
        "n_heads": sizes.num_heads,
        "d_vocab": len(tokens),
        "d_vocab_out": len(output_labels),
        "d_mlp": sizes.mlp_hidden_size,
        "act_fn": "relu",
        "attention_dir": "causal" if sizes.causal else "bidirectional",
        "normalization_type": None,
    }
    about = {
        "config": config,
        "program": recipe.program,
        "categorical": categorical,
        "labels": labels,
        "tokens": [str(token) for token in tokens],
        "outputs": output_labels,
    }
    save_file(tensors, FIXTURES / f"{name}.safetensors", metadata={"fixture": json.dumps(about)})


def sequences(recipe: Recipe, draws: random.Random) -> list[tuple]:
    """Return distinct sequences of a program's tokens, in random order."""
    lengths = range(1, recipe.length + 1) if recipe.shorter else [recipe.length]
    every = itertools.permutations if recipe.unique else lambda tokens, length: itertools.product(tokens, repeat=length)
    by_length = [list(every(sorted(recipe.tokens), length)) for length in lengths]
    if recipe.rare:
        rare = [each for of_length in by_length for each in of_length if recipe.rare(each)]
        kept = draws.sample(rare, min(len(rare), SEQUENCES // 2))
        # As many others, and of the same lengths, so that the answer does not follow from the length.
        for length in [len(each) for each in kept]:
            others = [each for each in by_length[lengths.index(length)] if not recipe.rare(each) and each not in kept]
            kept += draws.sample(others, min(len(others), 1 if len(rare) > SEQUENCES // 4 else 4))
    else:
        share = -(-SEQUENCES // len(by_length))
        kept = [each for of_length in by_length for each in draws.sample(of_length, min(len(of_length), share))]
    draws.shuffle(kept)
    return kept[:SEQUENCES]


def weights_of(model: Any) -> dict[str, Any]:
    """Return the weights of a compiled network under the names, and in the shapes, of a HookedTransformer."""
    import numpy as np

    sizes, params = (
        model.model_config,
        {name: {k: np.asarray(v) for k, v in p.items()} for name, p in model.params.items()},
    )
    weights = {"embed.W_E": params["token_embed"]["embeddings"], "pos_embed.W_pos": params["pos_embed"]["embeddings"]}
    d_model = len(model.residual_labels)
    for layer in range(sizes.num_layers):
        theirs, ours = f"transformer/layer_{layer}", f"blocks.{layer}"
        for read, name in (("query", "W_Q"), ("key", "W_K"), ("value", "W_V")):
            flat = params[f"{theirs}/attn/{read}"]["w"]
            weights[f"{ours}.attn.{name}"] = flat.reshape(d_model, sizes.num_heads, sizes.key_size).transpose(1, 0, 2)
        flat = params[f"{theirs}/attn/linear"]["w"]
        weights[f"{ours}.attn.W_O"] = flat.reshape(sizes.num_heads, sizes.key_size, d_model)
        weights[f"{ours}.mlp.W_in"] = params[f"{theirs}/mlp/linear_1"]["w"]
        weights[f"{ours}.mlp.W_out"] = params[f"{theirs}/mlp/linear_2"]["w"]
    assert not any(each["b"].any() for each in params.values() if "b" in each)
    return {name: np.ascontiguousarray(weight, np.float32) for name, weight in weights.items()}


if __name__ == "__main__":
    main()
