"""Layouts of weights in other programs: matrices that are transposed, heads that are joined."""

import re
from collections.abc import Mapping

import einops
import torch

from headway.options import nearest

# Buffers that TransformerLens stores with weights. The mask is triangular in a bidirectional network too.
BUFFERS = re.compile(r"attn\.(mask|IGNORE|rotary_sin|rotary_cos)$")
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


def in_layout(weights: Mapping[str, torch.Tensor], layout: str, n_heads: int | None) -> dict[str, torch.Tensor]:
    """Return weights in the layout of TransformerLens.

    Example:
        >>> found = in_layout({"blocks.0.attn.W_Q": torch.zeros(6, 5)}, "joined_transposed", n_heads=2)
        >>> found["blocks.0.attn.W_Q"].shape  # head d_model d_head
        torch.Size([2, 5, 3])
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: {layout!r} is not one of {', '.join(LAYOUTS)}{nearest(str(layout), LAYOUTS)}")
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
