"""State dicts of other programs: files of weights, their layouts, and the configuration that their shapes give.

Nothing is unpickled, and every tensor comes to the CPU. What a file does not say is assumed, and listed as assumed.
"""

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import einops
import torch
from torch import Tensor

from headway.models.config import InitMode, ModelConfig
from headway.options import nearest, shown

# Suffixes of files of weights.
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# Buffers that TransformerLens stores with weights. The mask is triangular in a bidirectional network too.
BUFFERS = re.compile(r"attn\.(mask|IGNORE|rotary_sin|rotary_cos)$")
# Every network has it.
EMBEDDING = "embed.W_E"
# Of the axes of a matrix for which TransformerLens's class computes x @ W, and how other programs have them.
AXES = {
    "W_E": "d_vocab d_model", "W_pos": "n_ctx d_model", "W_U": "d_model d_vocab_out", "W_in": "d_model d_mlp",
    "W_out": "d_mlp d_model", "W_Q": "n_heads d_model d_head", "W_K": "n_heads d_model d_head",
    "W_V": "n_heads d_model d_head", "W_O": "n_heads d_head d_model",
}  # fmt: skip
JOINED = {
    "W_Q": "d_model (n_heads d_head)", "W_K": "d_model (n_heads d_head)", "W_V": "d_model (n_heads d_head)",
    "W_O": "(n_heads d_head) d_model", "b_Q": "(n_heads d_head)", "b_K": "(n_heads d_head)", "b_V": "(n_heads d_head)",
}  # fmt: skip
LAYOUTS = {
    "transformer_lens": "x @ W, heads apart: W_Q is [head, d_model, d_head]",
    "transposed": "W @ x, heads apart: W_Q is [head, d_head, d_model], W_E is [d_model, d_vocab]",
    "joined": "x @ W, heads joined: W_Q is [d_model, head * d_head]",
    "joined_transposed": "W @ x, heads joined, as in torch.nn.Linear: W_Q is [head * d_head, d_model]",
}
# What a configuration of TransformerLens must say for the network to be one of ours, where it says it.
PLAIN: dict[str, tuple[Any, ...]] = {
    "attn_types": (None,), "use_local_attn": (False,), "window_size": (None,),
    "scale_attn_by_inverse_layer_idx": (False,), "parallel_attn_mlp": (False,), "gated_mlp": (False,),
    "num_experts": (None,), "n_key_value_heads": (None,), "post_embedding_ln": (False,),
    "use_normalization_before_and_after": (False,), "output_logits_soft_cap": (-1.0, None),
    "attn_scores_soft_cap": (-1.0, None), "relative_attention_max_distance": (None,), "use_qk_norm": (False,),
    "clip_qkv": (None,), "use_logn_attn": (False,), "use_attention_sinks": (False,),
}  # fmt: skip
# The same of a network with rotary positions; others may say anything of them.
PLAIN_ROTARY: dict[str, tuple[Any, ...]] = {
    "rotary_adjacent_pairs": (False,), "rotary_scaling_factor": (1.0,), "rotary_base_local": (None,),
    "use_NTK_by_parts_rope": (False,), "use_yarn_rope": (False,), "use_dynamic_ntk_rope": (False,),
}  # fmt: skip
# Its other names for our options.
SYNONYMS = {"init_range": "initializer_range", "d_vocab_input": "d_vocab", "nonlinearity": "act_fn"}
_KINDS = (
    "act_fn", "attention_dir", "positional_embedding_type", "rotary_dim", "rotary_base", "normalization_type", "eps",
    "input_type", "use_attn_scale", "attn_scale",
)  # fmt: skip


@dataclass
class Provenance:
    """The origin of each part of an imported configuration, as ``headway import`` prints it.

    Args:
        read: What the shapes and names of tensors say.
        given: What the user or a configuration says.
        assumed: What neither says.
        dropped: What the files hold besides weights.
    """

    read: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, Any] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """The tensors of one checkpoint by name, and where they come from.

    Args:
        name: The file, with the place in it.
        weights: Its tensors.
        config: The configuration beside them; empty if there is none.
        others: What else the file holds.
    """

    name: str
    weights: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def read_source(path: Path, key: str | None = None) -> list[Source]:
    """Read the checkpoints of one file: one state dict, or a list of them.

    Args:
        path: A file of torch or safetensors.
        key: The place of the weights in it, such as ``model`` or ``state.model``; they are looked for if None.

    Raises:
        ValueError: a file that cannot be read, would run code, or holds no weights of a transformer.
    """
    content = _load(path)
    if key is not None:
        found, place = content, ""
        for part in key.split("."):
            if isinstance(found, Sequence) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, Mapping) and part in found:
                found = found[part]
            else:
                inside = ", ".join(map(str, found)) if isinstance(found, Mapping) else "none"
                raise ValueError(f"key: {key!r} is not in {path}; {place or 'the file'} has {_cut(inside)}")
            place = f"{place}.{part}".strip(".")
        places = {key: found}
    else:
        places = dict(_places(content))
        if len(places) > 1:
            raise ValueError(f"key: {path} holds weights at {_cut(', '.join(places))}; give one of them as --key")
    nothing: Any = None
    where, found = next(iter(places.items()), ("", nothing))
    states = list(found) if _is_list_of_states(found) else [found]
    if not all(_is_state(state) for state in states):
        raise ValueError(f"file: {path} holds no weights of a transformer; it {_described(content)}")
    name = f"{path}[{where}]" if where else str(path)
    config = next((c for each in ("config", "cfg") if _is_config(c := _get(content, each))), {})
    others = tuple(str(each) for each in content if str(each) not in where.split(".")) if where else ()
    return [
        Source(name if len(states) == 1 else f"{name}[{i}]", _unprefixed(state), config, others)
        for i, state in enumerate(states)
    ]


def _load(path: Path) -> Any:
    """Return what a file holds, on the CPU; nothing in it runs."""
    if not path.is_file():
        raise ValueError(f"file: {path} is no file")
    if path.stat().st_size == 0:
        raise ValueError(f"file: {path} is empty")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of the protocols of pickles
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        said = " ".join(str(error).split())
        unsafe = re.search(r"(?:GLOBAL|Unsupported global:|Unsupported class) (\S+)", said)
        if unsafe:
            what = f" ({unsafe[1]})"
            raise ValueError(
                f"file: {path} is a pickle that would run code{what}, and is not loaded; save the state_dict alone: "
                "torch.save(model.state_dict(), FILE)"
            ) from None
        raise ValueError(f"file: {path} cannot be read as weights ({said[:200]})") from None


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, Mapping) else None


def _is_state(value: Any) -> bool:
    """Return whether a value maps names to tensors, the embedding of a transformer among them."""
    return isinstance(value, Mapping) and any(
        isinstance(name, str) and name.endswith(EMBEDDING) and isinstance(tensor, Tensor | list)
        for name, tensor in value.items()
    )


def _is_list_of_states(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(_is_state(each) for each in value)


def _is_config(value: Any) -> bool:
    return isinstance(value, Mapping) and {"d_model", "n_layers"} & set(value) != set()


def _places(content: Any, place: str = "", depth: int = 3) -> Iterator[tuple[str, Any]]:
    """The places of state dicts; a list of them is one."""
    if _is_state(content) or _is_list_of_states(content):
        yield place, content
    elif isinstance(content, Mapping) and depth > 0:
        for name, inner in content.items():
            yield from _places(inner, f"{place}.{name}" if place else str(name), depth - 1)


def _described(content: Any) -> str:
    """Say what a file holds in place of weights."""
    if isinstance(content, Tensor):
        return f"is one tensor of shape {tuple(content.shape)}"
    if not isinstance(content, Mapping | list | tuple):
        return f"is a {type(content).__name__}"
    if isinstance(content, Mapping):
        names = _cut(", ".join(map(str, content))) or "nothing"
        return f"has {names}, and no tensor named {EMBEDDING}"
    kinds = sorted({type(each).__name__ for each in content})
    return f"is a list of {len(content)} ({', '.join(kinds)})"


def _cut(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"{text[:most]} …"


def _unprefixed(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return tensors by TransformerLens's names, without what stands before all of them, such as ``module.``."""
    before = next(name for name in state if str(name).endswith(EMBEDDING)).removesuffix(EMBEDDING)
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        tensor = value
        if isinstance(value, list):
            try:
                tensor = torch.tensor(value, dtype=torch.float32)
            except (TypeError, ValueError):
                raise ValueError(f"file: {name} is a list, and not one of numbers") from None
        if isinstance(tensor, Tensor):
            found[str(name).removeprefix(before)] = tensor
    return found


def in_layout(weights: Mapping[str, Tensor], layout: str, n_heads: int | None) -> dict[str, Tensor]:
    """Return weights in the layout of TransformerLens.

    Example:
        >>> found = in_layout({"blocks.0.attn.W_Q": torch.zeros(6, 5)}, "joined_transposed", n_heads=2)
        >>> found["blocks.0.attn.W_Q"].shape  # head d_model d_head
        torch.Size([2, 5, 3])
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: {layout!r} is not one of {', '.join(LAYOUTS)}{nearest(layout, LAYOUTS)}")
    if layout == "transformer_lens":
        return dict(weights)
    joined, transposed = layout.startswith("joined"), layout.endswith("transposed")
    if joined and n_heads is None:
        raise ValueError(f"layout: {layout} needs the number of heads; give --model.n_heads")
    found = {}
    for name, tensor in weights.items():
        kind = name.rpartition(".")[2]
        axes = AXES.get(kind)
        here = JOINED.get(kind, axes) if joined else axes
        if here is None or BUFFERS.search(name):
            found[name] = tensor
            continue
        there = axes or "n_heads d_head"
        if transposed and kind.startswith("W_"):
            here = _transposed(here)
        try:
            found[name] = einops.rearrange(
                tensor, f"{here} -> {there}", **({"n_heads": n_heads} if "(n_heads" in here else {})
            ).contiguous()
        except einops.EinopsError:
            raise ValueError(
                f"layout: {layout} does not fit {name} of shape {tuple(tensor.shape)}, which must be [{here}]"
            ) from None
    return found


def _transposed(axes: str) -> str:
    """Exchange the last two axes.

    Example:
        >>> _transposed("n_heads d_model d_head"), _transposed("d_model (n_heads d_head)")
        ('n_heads d_head d_model', '(n_heads d_head) d_model')
    """
    parts = re.findall(r"\([^)]*\)|\S+", axes)
    return " ".join([*parts[:-2], parts[-1], parts[-2]])


def read_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of ours that a configuration of TransformerLens holds.

    Raises:
        ValueError: a network that is none of ours.

    Example:
        >>> read_config({"n_layers": 1, "d_model": 5, "gated_mlp": False, "init_range": 0.8, "device": "cuda"})
        {'n_layers': 1, 'd_model': 5, 'initializer_range': 0.8}
    """
    rotary = values.get("positional_embedding_type") == "rotary"
    for name, plain in {**PLAIN, **(PLAIN_ROTARY if rotary else {})}.items():
        value = values.get(name, plain[0])
        if not any(value == each for each in plain) and value != values.get("n_heads", _NOTHING):
            raise ValueError(f"config: {name} {shown(value)} is not valid; Headway's networks have {shown(plain[0])}")
    norm = values.get("normalization_type", "LN")
    if values.get("final_rms") and norm not in ("RMS", "RMSPre"):
        raise ValueError(f"config: final_rms True is not valid with normalization_type {norm}; all norms must be alike")
    known = {f.name for f in fields(ModelConfig) if f.init}
    named = {SYNONYMS.get(name, name): value for name, value in values.items()}
    unused = {*_unused_scale(named), *([] if rotary else ["rotary_dim", "rotary_base"])}
    if not _is_our_initialiser(named):
        unused |= {"init_mode", "initializer_range"}
    return {name: value for name, value in named.items() if name in known - unused and _is_set(name, value)}


def _unused_scale(values: Mapping[str, Any]) -> list[str]:
    """The scale of attention, if it is that of the default or there is none: TransformerLens writes it down."""
    scale, d_head = values.get("attn_scale"), values.get("d_head")
    if values.get("use_attn_scale") is False:
        return ["attn_scale"]
    if not (isinstance(scale, int | float) and isinstance(d_head, int)):
        return []
    return ["attn_scale"] if math.isclose(scale, math.sqrt(d_head), rel_tol=1e-6) else []


def _is_our_initialiser(values: Mapping[str, Any]) -> bool:
    """Return whether ours draws these weights; TransformerLens's other initialisers have initializer_range as gain."""
    mode, default = values.get("init_mode", "gpt2"), ModelConfig.initializer_range
    gain = values.get("initializer_range", default)
    return mode in get_args(InitMode) and (mode.startswith("gpt2") or gain in (-1, 1, default))


_NOTHING = object()


def _is_set(name: str, value: Any) -> bool:
    """Return whether a value says something: sizes of -1, and None but for the norm, stand for nothing."""
    if name == "normalization_type":
        return True
    return value is not None and not (name in ("d_vocab", "d_vocab_out", "d_mlp", "initializer_range") and value == -1)


def network_of(
    source: Source, given: Mapping[str, Any], n_ctx: int | None = None
) -> tuple[ModelConfig, dict[str, Tensor], Provenance]:
    """Return the configuration and the weights of a checkpoint in TransformerLens's layout, and where they come from.

    Args:
        source: The checkpoint.
        given: Options of the network that the user gives; they must not contradict the shapes.
        n_ctx: The context of a network without position embeddings.

    Raises:
        ValueError: tensors that are not those of one of our networks, or that leave open which one.
    """
    weights = {name: value for name, value in source.weights.items() if not BUFFERS.search(name)}
    # Since version 3.9 the mask is empty.
    masks = [value for name, value in source.weights.items() if name.endswith("attn.mask") and value.numel()]
    dropped = sorted({name.rpartition(".")[2] for name in source.weights if BUFFERS.search(name)})
    known = Provenance(given=dict(given), dropped=[*dropped, *source.others])
    _check_masks(masks)
    sizes = _sizes(source.name, weights, given)
    rotary = _rotary(source, sizes["d_head"])
    if "n_ctx" not in sizes:
        sizes |= {"n_ctx": masks[0].shape[-1]} if masks and masks[0].ndim >= 2 else {}
    sizes |= {name: value for name, value in rotary.items() if name not in sizes}
    if _is_tied(source.name, weights, given):
        sizes["tie_word_embeddings"] = True
        weights.pop("unembed.W_U", None)
    if not any(_is_bias(name) for name in weights) and not given.get("biases"):
        sizes["biases"] = False
    elif given.get("biases") is False:
        weights = _without_biases(source.name, weights)
    for name, value in sizes.items():
        if name in given and not _agree(given[name], value) and not (name == "attn_only" and not value):
            raise ValueError(f"model.{name}: {shown(given[name])} is not valid; {source.name} has {value}")
    known.read |= sizes
    options = {**sizes, **given}
    if "n_ctx" not in options:
        if n_ctx is None:
            raise ValueError(f"model.n_ctx: is missing; {source.name} has no position embeddings; give --model.n_ctx")
        options["n_ctx"] = known.assumed["n_ctx"] = n_ctx
    options |= _kinds(source.name, weights, options, known)
    try:
        config = ModelConfig(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model.{error}") from None
    return config, fitted(source.name, weights, config, known), known


def _agree(given: Any, read: Any) -> bool:
    if isinstance(read, float) and isinstance(given, int | float):
        return math.isclose(given, read, rel_tol=1e-3)
    return bool(given == read)


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2].startswith("b_")


def _without_biases(name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out biases of 0, which other programs store of a network without biases."""
    for each, value in weights.items():
        if _is_bias(each) and value.count_nonzero():
            raise ValueError(f"model.biases: False is not valid; {each} of {name} is not 0")
    return {each: value for each, value in weights.items() if not _is_bias(each)}


def _is_tied(name: str, weights: Mapping[str, Tensor], given: Mapping[str, Any]) -> bool:
    """Return whether the unembedding is the embedding; a file may store it twice."""
    W_E, W_U = weights[EMBEDDING], weights.get("unembed.W_U")
    if W_U is None:
        if given.get("tie_word_embeddings") is False or weights.get("unembed.b_U", W_E).shape[0] != W_E.shape[0]:
            raise ValueError(f"file: {name} has no unembed.W_U, which every network has that is not tied")
        return True
    if given.get("tie_word_embeddings") is False:
        return False
    equal = W_U.shape == W_E.T.shape and torch.equal(W_U, W_E.T)
    if given.get("tie_word_embeddings") and not equal:
        raise ValueError(
            f"model.tie_word_embeddings: True is not valid; unembed.W_U of {name} is not the transpose of {EMBEDDING}, "
            "as after weights were processed; give --model.tie_word_embeddings false"
        )
    return equal


def _rotary(source: Source, d_head: int) -> dict[str, Any]:
    """Options of rotary positions that their tables give, which TransformerLens stores; none if there are no tables.

    Raises:
        ValueError: tables of other angles than ours.
    """
    tables = [
        next((value.double() for name, value in source.weights.items() if name.endswith(f"attn.rotary_{kind}")), None)
        for kind in ("sin", "cos")
    ]
    sin, cos = tables
    if sin is None or cos is None:
        return {}
    if sin.ndim != 2 or sin.shape != cos.shape or sin.shape[1] % 2 or not 2 <= sin.shape[1] <= d_head:
        raise ValueError(f"file: the tables of rotary positions of {source.name} have the shape {tuple(sin.shape)}")
    n_ctx, rotary_dim = sin.shape
    half = rotary_dim // 2
    found: dict[str, Any] = {"positional_embedding_type": "rotary", "n_ctx": n_ctx, "rotary_dim": rotary_dim}
    if n_ctx < 2:
        return found
    slowest = float(torch.atan2(sin[1, half - 1], cos[1, half - 1]))
    base = 1e4 if half == 1 or slowest <= 0 else slowest ** (-half / (half - 1))
    found |= {} if half == 1 else {"rotary_base": float(f"{base:.4g}")}
    angles = torch.arange(n_ctx)[:, None] * base ** (-torch.arange(half, dtype=torch.float64) / half).repeat(2)
    if not torch.allclose(torch.stack([angles.sin(), angles.cos()]), torch.stack([sin, cos]), atol=1e-3):
        raise ValueError(
            f"file: the tables of rotary positions of {source.name} are of other angles than Headway's, which are "
            "pos / rotary_base^(2 i / rotary_dim) for the entries i and i + rotary_dim / 2"
        )
    return found


def _check_masks(masks: Sequence[Tensor]) -> None:
    """Refuse masks that let a query attend to a window of keys; others say nothing of the direction."""
    for mask in masks:
        rows = mask.bool().reshape(-1, mask.shape[-1]) if mask.ndim >= 2 else mask[None].bool()
        if mask.shape[-1] == rows.shape[0] and not rows[-1].all():
            raise ValueError("file: its attn.mask has a window; Headway's networks attend to all earlier positions")


def _sizes(name: str, weights: Mapping[str, Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that shapes give."""

    def shape(weight: str, axes: int) -> tuple[int, ...]:
        if weight not in weights:
            raise ValueError(f"file: {name} has no {weight}, which every network has")
        found = tuple(weights[weight].shape)
        if len(found) != axes:
            raise ValueError(f"file: {weight} of {name} has {len(found)} axes and not {axes}; try --layout joined")
        return found

    layers = {int(found[1]) for each in weights if (found := re.match(r"blocks\.(\d+)\.", each))}
    if layers != set(range(len(layers))) or not layers:
        raise ValueError(f"file: {name} has the layers {sorted(layers)}; they must be numbered from 0")
    d_vocab, d_model = shape(EMBEDDING, 2)
    n_heads, inside, d_head = shape("blocks.0.attn.W_Q", 3)
    # Tied embeddings have no unembedding of their own.
    last, d_vocab_out = shape("unembed.W_U", 2) if "unembed.W_U" in weights else (d_model, d_vocab)
    sizes: dict[str, Any] = {"n_layers": len(layers), "d_model": d_model, "n_heads": n_heads, "d_head": d_head}
    if inside != d_model or last != d_model:
        others = f"blocks.0.attn.W_Q is {(n_heads, inside, d_head)}, unembed.W_U is {(last, d_vocab_out)}"
        raise ValueError(f"layout: {EMBEDDING} is {(d_vocab, d_model)}, {others}; try --layout transposed")
    sizes |= {"d_vocab": d_vocab, "d_vocab_out": d_vocab_out, "attn_only": "blocks.0.mlp.W_in" not in weights}
    if "pos_embed.W_pos" in weights:
        sizes["n_ctx"] = shape("pos_embed.W_pos", 2)[0]
    if "blocks.0.attn.W_rel" in weights:
        offsets = shape("blocks.0.attn.W_rel", 3)[1]
        sizes["n_ctx"] = (offsets + 1) // 2 if given.get("attention_dir") == "bidirectional" else offsets
    if not sizes["attn_only"]:
        sizes["d_mlp"] = shape("blocks.0.mlp.W_in", 2)[1]
    return sizes


def _kinds(name: str, weights: Mapping[str, Tensor], options: Mapping[str, Any], known: Provenance) -> dict[str, Any]:
    """The kinds that names and numbers of tensors give, or that are assumed."""
    found: dict[str, Any] = {}
    norms = {each for each in weights if re.search(r"ln(1|2|_final)\.[wb]$", each)}
    if norms:
        # A LayerNorm whose biases are left out has the same names as RMSNorm; it is one if the user says so.
        centres = any(each.endswith(".b") for each in norms) or options.get("normalization_type") == "LN"
        found["normalization_type"] = known.read["normalization_type"] = "LN" if centres else "RMS"
    elif "normalization_type" not in options:
        if not is_centred(weights):
            raise ValueError(
                f"model.normalization_type: is missing; {name} has no weights of norms, and its writing weights are "
                "not centred, which leaves a network without norms and one with LNPre or RMSPre; give null, LNPre or "
                "RMSPre"
            )
        found["normalization_type"] = "LNPre"
        known.read["normalization_type"] = "LNPre (no LayerNorm weights, and the writing weights are centred)"
    if "blocks.0.attn.W_rel" in weights:
        found["positional_embedding_type"] = known.read["positional_embedding_type"] = "relative"
    elif "pos_embed.W_pos" not in weights and options.get("positional_embedding_type") not in ("none", "rotary"):
        # Rotary positions need no weights.
        found["positional_embedding_type"] = known.assumed["positional_embedding_type"] = "none"
    if any(each.endswith("mlp.ln.w") for each in weights):
        found["act_fn"] = known.read["act_fn"] = "solu_ln"
    for kind, value in found.items():
        if options.get(kind, value) != value:
            raise ValueError(f"model.{kind}: {shown(options[kind])} is not valid; the weights of {name} are of {value}")
    defaults = {f.name: f.default for f in fields(ModelConfig) if f.init and f.default is not MISSING}
    whole = {**options, **found}
    unused = {
        "act_fn": options["attn_only"],
        "eps": whole.get("normalization_type") is None,
        "rotary_dim": whole.get("positional_embedding_type") != "rotary",
        "rotary_base": whole.get("positional_embedding_type") != "rotary",
        "attn_scale": whole.get("use_attn_scale") is False,
    }
    spelled = {"rotary_dim": "d_head", "attn_scale": "sqrt(d_head)"}
    for kind in _KINDS:
        if kind not in whole and not unused.get(kind, False):
            known.assumed[kind] = spelled.get(kind, defaults[kind])
    if not knows_initialiser(options):
        known.assumed["initialiser"] = "unknown: no score has a null of fresh initialisations"
    return found


def knows_initialiser(options: Mapping[str, Any]) -> bool:
    """Return whether these options say from which distribution the weights were drawn.

    Example:
        >>> knows_initialiser({"init_mode": "xavier_normal"}), knows_initialiser({"init_mode": "gpt2"})
        (True, False)
    """
    mode = options.get("init_mode", "gpt2")
    return "initializer_range" in options or not mode.startswith("gpt2")


def is_centred(weights: Mapping[str, Tensor]) -> bool:
    """Return whether the weights that write to the residual stream have mean 0 over it, as processed ones have.

    A network that was trained with LNPre, and never processed, has other means.

    Example:
        >>> is_centred({"embed.W_E": torch.tensor([[1.0, -1.0], [2.0, -2.0]])})
        True
    """
    writing = [value.float() for name, value in weights.items() if name.endswith((EMBEDDING, "attn.W_O", "mlp.W_out"))]
    return all(float(each.mean(-1).abs().max()) <= 1e-4 * float(each.abs().max()) for each in writing)


def fitted(name: str, weights: Mapping[str, Tensor], config: ModelConfig, known: Provenance) -> dict[str, Tensor]:
    """Return the weights of a network of this configuration in float32.

    Raises:
        ValueError: tensors that are missing, left over, of another shape, or not finite; some of them are named.
    """
    shapes = dict(config.weight_shapes())
    missing = [each for each in shapes if each not in weights]
    zeros = [each for each in missing if _is_bias(each) or each.endswith(".b")]
    left = [each for each in weights if each not in shapes]
    wrong = [
        f"{each} has the shape {tuple(weights[each].shape)} and not {shape}"
        for each, shape in shapes.items()
        if each in weights and tuple(weights[each].shape) != shape
    ]
    said = [
        *(f"{each} is missing" for each in missing if each not in zeros),
        *wrong,
        *(f"{each} is no weight of Headway's networks" for each in left),
    ]
    if said:
        more = f", and {len(said) - 3} more do not fit" if len(said) > 3 else ""
        raise ValueError(f"file: {name} does not fit: {'; '.join(said[:3])}{more}")
    for each, tensor in weights.items():
        if tensor.is_complex() or not tensor.isfinite().all():
            raise ValueError(f"file: {each} of {name} has numbers that are not finite or not real")
    if zeros:
        known.assumed["biases"] = f"0 ({_cut(', '.join(zeros), 60)})"
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()} - {"float32"})
    if kinds:
        known.read["numbers"] = f"{', '.join(kinds)}, kept as float32"
    there = {each: tensor.detach().float().contiguous() for each, tensor in weights.items()}
    return {each: there.get(each, torch.zeros(shape)) for each, shape in shapes.items()}


def read_config_file(given: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Read a configuration of TransformerLens: a dictionary, JSON, or a file of JSON or of torch.

    Raises:
        ValueError: what is none.
    """
    values: Any = given
    if not isinstance(given, Mapping):
        text = str(given)
        if not text.lstrip().startswith("{"):
            path = Path(text).expanduser()
            if path.suffix in SUFFIXES:
                values = _load(path)
                values = next((c for each in ("config", "cfg") if _is_config(c := _get(values, each))), values)
            else:
                try:
                    text = path.read_text(encoding="utf-8")
                except (OSError, UnicodeDecodeError) as error:
                    raise ValueError(f"config: {given} cannot be read ({error})") from None
        if values is given:
            try:
                values = json.loads(text)
            except ValueError as error:
                raise ValueError(f"config: {shown(str(given))} is not JSON ({error})") from None
    if not _is_config(values):
        raise ValueError(f"config: {shown(str(given))} holds no configuration of a network")
    return read_config(values)
