"""State dicts of other programs: the network that the shapes, names and numbers of their tensors give.

What they do not say is assumed, and listed as assumed.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from headway.models.config import ModelConfig
from headway.models.layouts import BUFFERS
from headway.models.weight_files import EMBEDDING, Source
from headway.options import cut, shown

UNKNOWN_INITIALISER = "unknown: no score has a null of fresh initialisations"
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


def network_of(
    source: Source,
    given: Mapping[str, Any],
    of_task: Mapping[str, Any] | None = None,
    origins: Mapping[str, str] | None = None,
) -> tuple[ModelConfig, dict[str, Tensor], Provenance]:
    """Return the configuration and the weights of a checkpoint in TransformerLens's layout, and where they come from.

    Args:
        source: The checkpoint.
        given: Options of the network that the user gives; they must not contradict the shapes.
        of_task: What the task needs, for what the weights leave open: n_ctx without position embeddings, and
            attention_dir; None where it needs neither direction.
        origins: The beginning of an error about an option that is given, by its name; ``model.`` if it has none.

    Raises:
        ValueError: tensors that are not those of one of our networks, or that leave open which one.
    """
    weights = {name: value for name, value in source.weights.items() if not BUFFERS.search(name)}
    # Since version 3.9 the mask is empty.
    masks = [value for name, value in source.weights.items() if name.endswith("attn.mask") and value.numel()]
    dropped = sorted({name.rpartition(".")[2] for name in source.weights if BUFFERS.search(name)})
    known = Provenance(given=dict(given), dropped=[*dropped, *source.others])
    _check_masks(masks)
    if any(_looks_ahead(mask) for mask in masks):
        known.read["attention_dir"] = "bidirectional (its attn.mask lets queries attend to later positions)"
    of_task = {name: value for name, value in (of_task or {}).items() if value is not None}
    if "attention_dir" in of_task and "attention_dir" not in {*given, *known.read}:
        given = {**given, "attention_dir": of_task["attention_dir"]}
        known.assumed["attention_dir"] = of_task["attention_dir"]
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
            origin = (origins or {}).get(name)
            said = f"model.{name}: {shown(given[name])}" if origin is None else f"{origin}{name} {shown(given[name])}"
            raise ValueError(f"{said} is not valid; {source.name} has {value}")
    known.read = {**sizes, **known.read}
    options = {**sizes, **given}
    if "n_ctx" not in options:
        if "n_ctx" not in of_task:
            raise ValueError(f"model.n_ctx: is missing; {source.name} has no position embeddings; give --model.n_ctx")
        options["n_ctx"] = known.assumed["n_ctx"] = of_task["n_ctx"]
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


def _looks_ahead(mask: Tensor) -> bool:
    """Return whether a mask lets a query attend to a later key, which no mask of TransformerLens does."""
    return mask.ndim >= 2 and mask.shape[-1] == mask.shape[-2] and bool(mask.bool().triu(1).any())


def _sizes(name: str, weights: Mapping[str, Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that shapes give."""

    def shape(weight: str, axes: int) -> tuple[int, ...]:
        if weight not in weights:
            raise ValueError(f"file: {name} has no {weight}, which every network has")
        found = tuple(weights[weight].shape)
        if len(found) != axes:
            width = weights[EMBEDDING].shape[-1]
            layout = "joined" if found[0] == width else "joined_transposed"
            raise ValueError(f"file: {weight} of {name} has {len(found)} axes and not {axes}; try --layout {layout}")
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
    found: dict[str, Any] = {"attention_dir": "bidirectional"} if "attention_dir" in known.read else {}
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
        known.assumed["initialiser"] = UNKNOWN_INITIALISER
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
        known.assumed["biases"] = f"0 ({cut(', '.join(zeros), 60)})"
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()} - {"float32"})
    if kinds:
        known.read["numbers"] = f"{', '.join(kinds)}, kept as float32"
    there = {each: tensor.detach().cpu().float().contiguous() for each, tensor in weights.items()}
    return {each: there.get(each, torch.zeros(shape)) for each, shape in shapes.items()}
