"""The network in the page: weights of checkpoints and the evaluation sequences, for ``assets/forward.js`` to run."""

import base64
import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr

from headway.analyze.report.stored import StoredScores, spread
from headway.analyze.report.tokenizer_in_page import tokenizer_in_page
from headway.checkpoints import Run
from headway.checkpoints.run import check_shapes
from headway.checkpoints.scores import PART_MASK, evaluation_file, read_file
from headway.models.config import ModelConfig

Weights = Literal["fitting", "all", "none"] | float
# The bytes of a page with weights: where no others are asked for, and at most, so that browsers open it in seconds.
FITTING, LARGEST = 3_000_000, 100_000_000
# What stands in a page beside the weights of a checkpoint: its step, quotes and a comma.
_BESIDE_WEIGHTS = 64
# What stands beside the path of the run where a page has not all checkpoints.
_BESIDE_PATH = 200
# Positions of all evaluation sequences together: a page runs through them for the mean of a head.
MOST_POSITIONS = 16_384
# Options of a network that forward.js computes, with their values; a number may be any.
COMPUTED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("relu", "gelu", "gelu_new", "silu", "solu", "solu_ln"),
    "attention_dir": ("causal", "bidirectional"),
    "attn_only": (True, False),
    "biases": (True, False),
    "input_type": ("tokens", "vectors"),
    "normalization_type": ("LN", "LNPre", "RMS", "RMSPre", None),
    "positional_embedding_type": ("standard", "shortformer", "none", "rotary", "relative"),
    "tie_word_embeddings": (False, True),
    "use_attn_scale": (True, False),
}
NUMBERS = (
    "n_layers", "d_model", "n_ctx", "d_head", "n_heads", "d_vocab", "d_vocab_out", "d_mlp", "eps",
    "attn_scale", "rotary_dim", "rotary_base",
)  # fmt: skip
# Options that a forward pass does not read.
ONLY_TRAINED_WITH = ("init_mode", "initializer_range", "embd_pdrop", "attn_pdrop", "resid_pdrop")


def most_bytes(weights: Weights) -> float:
    """Return the size in bytes up to which a page has weights.

    Raises:
        ValueError: none of ``Weights``, or a number of megabytes that a page cannot have.

    Example:
        >>> most_bytes("fitting"), most_bytes("all"), most_bytes(20)
        (3000000, 100000000, 20000000)
    """
    named = {"fitting": FITTING, "all": LARGEST, "none": 0}
    if isinstance(weights, str) and weights in named:
        return named[weights]
    if isinstance(weights, int | float) and 0 < 1e6 * weights <= LARGEST:
        return 1_000_000 * weights
    raise ValueError(
        f"weights: {weights!r} is not valid; it must be one of {', '.join(named)}, or the size of the page in MB, at "
        f"most {LARGEST / 1e6:g}"
    )


class NetworkInPage(NamedTuple):
    """The data of a network for a page, without its weights, and the steps whose weights the page can have, best first.

    Where there is none, ``steps`` is empty and the data are ``{"why": …}``.
    """

    data: dict[str, Any]
    steps: list[int]


def network_in_page(
    stored: StoredScores, shown: Sequence[int], live: bool = False, weights: Weights = "fitting"
) -> NetworkInPage:
    """Return the network of a run at the steps that a page shows, or the reason why the page has none."""
    try:
        return _network(stored, shown, live, weights)
    except NoNetworkError as reason:
        return NetworkInPage({"why": str(reason)}, [])


class NoNetworkError(Exception):
    """The page has no network, for a reason that it says."""


def _network(stored: StoredScores, shown: Sequence[int], live: bool, weights: Weights) -> NetworkInPage:
    run, config = stored.run, ModelConfig(**stored.run.config["model"])
    if weights == "none":
        raise NoNetworkError("This page was written without weights.")
    if live:
        raise NoNetworkError("The page that is written when training ends has the network.")
    check_computed(config)
    steps = sorted(set(shown) & set(run.steps))
    if not steps:
        raise NoNetworkError("This run has no weights of the steps that are scored.")
    data = {
        "config": config.to_dict(),
        "layout": [[name, list(shape)] for name, shape in config.weight_shapes()],
        "sequences": _sequences(run, config),
    }
    return NetworkInPage(data, list(by_importance(steps, stored.dates)))


def check_computed(config: ModelConfig) -> None:
    """Refuse a network with an option that forward.js does not compute."""
    for each in fields(config):
        if not each.init or each.name in (*NUMBERS, *ONLY_TRAINED_WITH):
            continue
        value = getattr(config, each.name)
        if value not in COMPUTED.get(each.name, (each.default,)):
            raise NoNetworkError(f"The page cannot run networks with {each.name} {value}.")


def by_importance(steps: Sequence[int], dates: Sequence[int]) -> Iterator[int]:
    """Yield every step once: the last, the first, the dates of what formed, then others, each finer than those before.

    Example:
        >>> list(by_importance(range(10), dates=[7]))[:3]
        [9, 0, 7]
    """
    finer = [[steps[at] for at in spread(steps, 2**power)] for power in range(3, math.ceil(math.log2(len(steps) + 8)))]
    named = [date for date in dates if date in steps]
    yield from dict.fromkeys([steps[-1], steps[0], *named, *itertools.chain(*finer), *steps])


def packed_weights(run: Run, step: int) -> str | None:
    """Return the weights of a step in float32, deflated and in base64; None if they cannot be read or are not finite.

    First come the first bytes of all numbers, then the second and so on: sign and exponent are what deflates.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    config, path = ModelConfig(**run.config["model"]), run.weights_file(step)
    try:
        check_shapes(path, config)
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError):
        return None
    numbers = np.concatenate([weights[name].ravel() for name, _ in config.weight_shapes()]).astype("<f4")
    if not np.isfinite(numbers).all():
        return None
    deflate = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    planes = numbers.view("u1").reshape(-1, 4).T.tobytes()
    return base64.b64encode(deflate.compress(planes) + deflate.flush()).decode()


def add_weights(networks: Sequence[tuple[Run, NetworkInPage]], size: int, weights: Weights = "fitting") -> list[str]:
    """Add weights to the data of networks, of as many checkpoints as a page has room for.

    Networks take turns, so that each of several runs has as many. Where not even one fits, there is no network.

    Args:
        networks: Runs and their networks.
        size: The bytes of the page without weights.
        weights: What was asked for.

    Returns:
        A sentence on each network that has fewer checkpoints than the slider.

    Raises:
        ValueError: not even one checkpoint of each run fits, although weights were asked for.
    """
    room = most_bytes(weights) - size - sum(_BESIDE_PATH + len(str(run.path)) for run, _ in networks)
    found: list[dict[int, str]] = [{} for _ in networks]
    left = [_readable(run, each.steps) for run, each in networks]
    if weights != "fitting":
        left = _with_room_for_one(left, room, weights)
    turns = set(range(len(networks)))
    while turns:
        for at in sorted(turns):
            step, text = next(left[at], (None, ""))
            if step is None or len(text) + _BESIDE_WEIGHTS > room:
                turns.remove(at)
            else:
                found[at][step] = text
                room -= len(text) + _BESIDE_WEIGHTS
    for (run, each), texts in zip(networks, found, strict=True):
        more = (
            f"; headway report {run.path} --with-weights takes all that can be read, up to {LARGEST / 1e6:g} MB"
            if weights == "fitting"
            else ""
        )
        if texts:
            steps = sorted(texts)
            each.data.update(steps=steps, weights=[texts[step] for step in steps], fewer="")
            if len(steps) < len(each.steps):
                each.data["fewer"] = (
                    f"This page has the weights of {len(steps)} of {len(each.steps)} checkpoints{more}."
                )
        elif each.steps:
            each.data.clear()
            each.data["why"] = (
                f"The weights of no checkpoint fit into {most_bytes(weights) / 1e6:g} MB, or they cannot be read{more}."
            )
    return [each.data["fewer"] for _, each in networks if each.data.get("fewer")]


def _readable(run: Run, steps: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield each step whose weights can be read, with them."""
    for step in steps:
        text = packed_weights(run, step)
        if text is not None:
            yield step, text


def _with_room_for_one(
    left: Sequence[Iterator[tuple[int, str]]], room: float, weights: Weights
) -> list[Iterator[tuple[int, str]]]:
    """Refuse a page without room for the first of each, and return what was given."""
    first = [list(itertools.islice(each, 1)) for each in left]
    taken = sum(len(text) + _BESIDE_WEIGHTS for each in first for _, text in each)
    if taken > room:
        least = most_bytes(weights) - room + taken
        megabytes = f"{math.ceil(least / 1e5) / 10:g}"
        valid = (
            f"at least {megabytes}, or none"
            if least <= LARGEST
            else f"none, as no page has more than {LARGEST / 1e6:g}"
        )
        each = "" if len(left) == 1 else " of each run"
        raise ValueError(
            f"weights: {weights!r} is not valid for this page, which has {megabytes} MB with one checkpoint{each}; it "
            f"must be {valid}"
        )
    return [itertools.chain(*both) for both in zip(first, left, strict=True)]


def _sequences(run: Run, config: ModelConfig) -> dict[str, Any]:
    """Return the evaluation sequences without their padding, with lists in place of arrays."""
    path = evaluation_file(run.path)
    if not path.exists():
        raise NoNetworkError(
            f"An older Headway has not stored the evaluation sequences of this run; headway measure {run.path} does, "
            "and then headway report writes this page anew."
        )
    try:
        stored = read_file(path)
        inputs, targets = stored.inputs, stored.targets
        check_inputs(inputs, config)
        ends = _ends(stored)
    except (ValueError, AttributeError, KeyError) as error:
        raise NoNetworkError(str(error)) from None
    count = min(len(inputs), max(1, MOST_POSITIONS // inputs.sizes["pos"]))
    some = stored.isel(batch=slice(count))
    parts = [str(name) for name in stored.data_vars if str(name).startswith(PART_MASK)]

    def real(rows: list[list]) -> list[list]:
        # No query attends to the padding after the end of its sequence, so that the rest computes the same without it.
        return [row[:end] for row, end in zip(rows, ends, strict=False)]

    return {
        "count": len(inputs),
        "inputs": real(_lists(some.inputs)),
        "targets": real(_answers(some.targets, config)),
        "mask": real(_lists(some.mask.astype("u1"))),
        "parts": [
            {"name": name.removeprefix(PART_MASK), "mask": real(_lists(some[name].astype("u1")))} for name in parts
        ],
        "labels": inputs.attrs.get("labels"),
        "tokenizer": tokenizer_in_page(run, inputs, config.d_vocab),
        "descriptions": (inputs.attrs.get("descriptions") or [""] * len(inputs))[:count],
        "shift": targets.attrs.get("shift"),
        "loss": targets.attrs.get("loss"),
        "outputs_are_inputs": targets.attrs.get("outputs_are_inputs", True),
    }


_OTHER_SEQUENCES = "The stored evaluation sequences of this run are not those of its network."


def check_inputs(inputs: xr.DataArray, config: ModelConfig) -> None:
    """Refuse sequences that are not those of this network."""
    of_tokens = config.input_type == "tokens"
    fitting = inputs.values.max() < config.d_vocab if of_tokens else inputs.sizes.get("input") == config.d_vocab
    if (inputs.values.dtype.kind == "i") is not of_tokens or not fitting or inputs.sizes["pos"] > config.n_ctx:
        raise ValueError(_OTHER_SEQUENCES)


def _ends(stored: xr.Dataset) -> list[int]:
    """Return the length of each sequence without its padding, which comes after its end."""
    real = stored.get("attention_mask", xr.ones_like(stored.mask)).values.astype(bool)
    ends = real.sum(1)
    if not ends.all() or (real != (np.arange(real.shape[1]) < ends[:, None])).any():
        raise ValueError(_OTHER_SEQUENCES)
    return ends.tolist()


def _answers(targets: xr.DataArray, config: ModelConfig) -> list:
    """Return targets as lists, with None for those that are no output: where they do not count they may be."""
    if targets.values.dtype.kind == "f":
        return _lists(targets)
    return [[answer if 0 <= answer < config.d_vocab_out else None for answer in row] for row in _lists(targets)]


def _lists(values: xr.DataArray) -> list:
    """Return numbers as lists, with None for NaN; nine digits are all that a float32 has."""
    if values.dtype.kind == "f":
        short = np.vectorize(lambda x: float(f"{x:.9g}") if np.isfinite(x) else None, otypes=[object])
        return short(values.values).tolist()
    return values.values.tolist()
