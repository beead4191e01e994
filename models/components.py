"""Components of a HookedTransformer, with the parameter shapes and hook names of TransformerLens.

A component that has a fused kernel uses it unless a hook needs an activation that the kernel does not expose (attention
scores and pattern; a LayerNorm's scale and normalised input), or a transform of torch.func or a forward-mode derivative
needs a formula that the kernel does not have. Then it computes each step explicitly. Both compute half precision in
float32 and round once, so that they agree in every dtype.

Code that runs at every training step reshapes with torch's own methods: a call of einops costs 5 to 10 µs, and the step
of a toy model has only a few hundred µs for everything that is not arithmetic.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import einops
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd import forward_ad
from transformer_lens import FactoredMatrix
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities import get_offset_position_ids
from transformer_lens.utilities.activation_functions import solu

from headway.models.config import ModelConfig

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "solu": solu,
    "solu_ln": solu,
}


def has_hooks(*points: HookPoint) -> bool:
    """Return True if any of the hook points has a hook, or a ``forward`` of its own, as nnsight gives it."""
    return any(point.fwd_hooks or point.bwd_hooks or "forward" in point.__dict__ for point in points)


def fuses(*points: HookPoint) -> bool:
    """Return True if a fused kernel may stand in for the explicit steps, to which these hook points belong."""
    if has_hooks(*points):
        return False
    # Inside a compiled function there is neither a transform nor a dual level, and these names cannot be traced.
    return torch.compiler.is_compiling() or (
        torch._C._functorch.maybe_current_level() is None  # pyright: ignore[reportAttributeAccessIssue]
        and forward_ad._current_level < 0
    )


def in_full_precision(x: Tensor) -> Tensor:
    """Return ``x`` in float32 if it is in half precision, and ``x`` itself otherwise."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def give_explicit_gradients(output: Tensor, kernel: str, explicit: Callable[..., Any]) -> None:
    """Have a second derivative of a fused kernel's output come from the explicit steps.

    Torch has no second derivative of fused attention, and a wrong third one of layer_norm. A backward pass with
    ``create_graph=True`` gets the gradients that ``explicit(node)`` returns: the inputs of the kernel, and a
    differentiable function of them. Any other backward pass pays for one call of a function that returns at once.
    """
    node = output.grad_fn
    if node is not None and kernel not in node.name():
        # Attention that pads d_head cuts its output afterwards.
        node = node.next_functions[0][0] if node.next_functions else None
    if node is not None and kernel in node.name():
        node.register_hook(partial(_explicit_gradients, explicit))


def _explicit_gradients(
    explicit: Callable[..., Any], gradients: Sequence[Tensor | None], of_outputs: Sequence[Tensor | None]
) -> Sequence[Tensor | None] | None:
    """Return differentiable gradients of the inputs of a kernel if a graph of them is wanted, and None if not."""
    if not torch.is_grad_enabled():
        return None
    inputs, output = explicit(torch._C._current_autograd_node())
    wanted = [x for x, gradient in zip(inputs, gradients, strict=False) if gradient is not None]
    found = iter(torch.autograd.grad(output, wanted, of_outputs[0], create_graph=True))
    return tuple(None if gradient is None else next(found) for gradient in gradients)


def add_bias(module: nn.Module, name: str, cfg: ModelConfig, *shape: int) -> None:
    """Give a module a bias of zeros: a weight, or for a network without biases a buffer that no file stores."""
    if cfg.biases:
        setattr(module, name, nn.Parameter(torch.zeros(shape)))
    else:
        module.register_buffer(name, torch.zeros(shape), persistent=False)


def attention_of(node: Any) -> tuple[Sequence[Tensor], Tensor]:
    """Return the queries, keys and values of a node of fused attention, and the weighted values by explicit steps."""
    q, k, v = node._saved_query, node._saved_key, node._saved_value
    scores = in_full_precision(q) @ in_full_precision(k).mT * (node._saved_scale or q.shape[-1] ** -0.5)
    if node._saved_is_causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~visible, -torch.inf)
    return (q, k, v), scores.softmax(-1).to(v.dtype) @ v


def layer_norm_of(node: Any, eps: float) -> tuple[Sequence[Tensor | None], Tensor]:
    """Return the input, weights and biases of a node of layer_norm, and the normalised input by explicit steps."""
    x, w, b = node._saved_input, node._saved_weight, node._saved_bias
    centred = in_full_precision(x) - in_full_precision(x).mean(-1, keepdim=True)
    normalized = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return (x, w, b), (normalized if w is None else normalized * w + b).to(x.dtype)


class Embed(nn.Module):
    """Embedding: the row of W_E for each token, or each vector times W_E."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model))

    def forward(
        self, inputs: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_vocab"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Embed ``inputs``; raise a ValueError if a token has no row in W_E, or a vector is not of length d_vocab."""
        if self.cfg.input_type == "vectors":
            if not inputs.is_floating_point() or inputs.shape[-1] != self.cfg.d_vocab:
                raise ValueError(
                    f"input: {inputs.dtype} of shape {tuple(inputs.shape)} is not valid; "
                    f"this network takes float vectors [batch, pos, {self.cfg.d_vocab}]"
                )
            return inputs @ self.W_E
        if inputs.is_floating_point():
            raise ValueError(f"input: {inputs.dtype} is not valid; this network takes integer tokens [batch, pos]")
        try:
            return F.embedding(inputs, self.W_E)
        except IndexError:
            raise ValueError(
                f"input: tokens from {inputs.min().item()} to {inputs.max().item()} are not valid; "
                f"this network takes 0 to {self.cfg.d_vocab - 1}"
            ) from None


class PosEmbed(nn.Module):
    """Position embedding: the row of W_pos for each position; padding takes no position and gets zero."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.W_pos = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model))

    def forward(
        self,
        batch: int,
        pos: int,
        attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return the position embeddings for a batch of sequences of length ``pos``."""
        if attention_mask is None:
            return self.W_pos[:pos].expand(batch, -1, -1)
        pos_embed = self.W_pos[get_offset_position_ids(0, attention_mask.long())]
        return pos_embed * attention_mask.bool()[:, :, None]


class LayerNormPre(nn.Module):
    """Centre and scale: (x - mean x) / sqrt(var x + eps), without weights."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.eps = cfg.eps
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "batch pos *head d"]) -> Float[Tensor, "batch pos *head d"]:
        """Normalise the last axis of ``x``."""
        if fuses(self.hook_scale, self.hook_normalized):
            return self.fused(x)
        return self.explicit(x).to(x.dtype)

    def fused(
        self, x: Float[Tensor, "batch pos *head d"], w: Tensor | None = None, b: Tensor | None = None
    ) -> Float[Tensor, "batch pos *head d"]:
        """Normalise in one kernel, which exposes neither the scale nor the normalised input."""
        normalized = F.layer_norm(x, x.shape[-1:], w, b, self.eps)
        if normalized.requires_grad and not torch.compiler.is_compiling():
            give_explicit_gradients(normalized, "LayerNorm", partial(layer_norm_of, eps=self.eps))
        return normalized

    def explicit(self, x: Float[Tensor, "batch pos *head d"]) -> Float[Tensor, "batch pos *head d"]:
        """Normalise step by step, so that hooks can read and replace the scale and the normalised input."""
        x = in_full_precision(x)
        x = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        return self.hook_normalized(x / scale)


class LayerNorm(LayerNormPre):
    """LayerNormPre followed by ``* w + b``; hook_normalized comes before w and b."""

    def __init__(self, cfg: ModelConfig, length: int):
        super().__init__(cfg)
        self.w = nn.Parameter(torch.ones(length))
        self.b = nn.Parameter(torch.zeros(length))

    def forward(self, x: Float[Tensor, "batch pos *head d"]) -> Float[Tensor, "batch pos *head d"]:
        """Normalise the last axis of ``x``, then scale and shift it."""
        if fuses(self.hook_scale, self.hook_normalized):
            return self.fused(x, self.w, self.b)
        return (self.explicit(x) * self.w + self.b).to(x.dtype)


class RMSNormPre(nn.Module):
    """Scale: x / sqrt(mean x² + eps), without weights."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.eps = cfg.eps
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "batch pos *head d"]) -> Float[Tensor, "batch pos *head d"]:
        """Normalise the last axis of ``x``."""
        return self.explicit(x).to(x.dtype)

    def explicit(self, x: Float[Tensor, "batch pos *head d"]) -> Float[Tensor, "batch pos *head d"]:
        """Normalise step by step, in float32 or wider; torch has no fused kernel for this on every device."""
        x = in_full_precision(x)
        scale = self.hook_scale((x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        return self.hook_normalized(x / scale)


class RMSNorm(RMSNormPre):
    """RMSNormPre followed by ``* w``; hook_normalized comes before w."""

    def __init__(self, cfg: ModelConfig, length: int):
        super().__init__(cfg)
        self.w = nn.Parameter(torch.ones(length))

    def forward(self, x: Float[Tensor, "batch pos *head d"]) -> Float[Tensor, "batch pos *head d"]:
        """Normalise the last axis of ``x``, then scale it."""
        return (self.explicit(x) * self.w).to(x.dtype)


def normalization(cfg: ModelConfig, length: int) -> nn.Module:
    """Return the normalisation layer that ``cfg.normalization_type`` names."""
    match cfg.normalization_type:
        case "LN":
            return LayerNorm(cfg, length)
        case "LNPre":
            return LayerNormPre(cfg)
        case "RMS":
            return RMSNorm(cfg, length)
        case "RMSPre":
            return RMSNormPre(cfg)
    return nn.Identity()


def project(
    x: Float[Tensor, "batch pos *head d_model"],
    weights: Sequence[Float[Tensor, "head d_model d_head"]],
    biases: Sequence[Float[Tensor, "head d_head"]],
) -> Sequence[Float[Tensor, "batch pos head d_head"]]:
    """Return ``x @ W + b`` for every head and every W; heads share one input, or each head has its own."""
    if x.ndim == 4:
        to_heads = "batch pos head d_model, head d_model d_head -> batch pos head d_head"
        return [einops.einsum(x, W, to_heads) + b for W, b in zip(weights, biases, strict=True)]
    W = torch.stack(tuple(weights)).permute(2, 0, 1, 3).flatten(1)  # d_model (part head d_head)
    flat = F.linear(x, W.T, torch.stack(tuple(biases)).flatten())
    return [part.unflatten(-1, biases[0].shape) for part in flat.chunk(len(weights), -1)]


class Rotary(nn.Module):
    """Rotary positions: turn pairs of entries of queries and keys by ``pos / rotary_base^(2 i / rotary_dim)``.

    The pair i is of the entries i and i + rotary_dim / 2, as in TransformerLens without adjacent pairs; entries from
    rotary_dim on stay. A score then depends on the offset between query and key alone.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.n_ctx, self.base = cfg.n_ctx, cfg.rotary_base
        self.n_half = (cfg.rotary_dim or cfg.d_head) // 2
        for name, table in self.tables(torch.float32).items():
            self.register_buffer(name, table, persistent=False)

    def tables(self, dtype: torch.dtype) -> dict[str, Float[Tensor, "n_ctx half"]]:
        """Return the cosines and sines of all angles, computed in float64."""
        frequency = self.base ** (-torch.arange(self.n_half, dtype=torch.float64) / self.n_half)
        angles = torch.arange(self.n_ctx, dtype=torch.float64)[:, None] * frequency
        return {"cos": angles.cos().to(dtype), "sin": angles.sin().to(dtype)}

    def _apply(self, *args: Any, **kwargs: Any) -> "Rotary":
        super()._apply(*args, **kwargs)
        # A table has the precision of the network, and never less than float32.
        dtype = torch.float64 if self.cos.dtype == torch.float64 else torch.float32
        device = self.cos.device
        self.cos, self.sin = (table.to(device) for table in self.tables(dtype).values())
        return self

    def forward(
        self,
        x: Float[Tensor, "batch pos head d_head"],
        attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Turn queries or keys by the angles of their positions; padding takes no position."""
        if attention_mask is None:
            cos, sin = self.cos[: x.shape[1], None], self.sin[: x.shape[1], None]
        else:
            positions = get_offset_position_ids(0, attention_mask.long())
            cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]
        full = in_full_precision(x)
        first, second = full[..., : self.n_half], full[..., self.n_half : 2 * self.n_half]
        turned = (first * cos - second * sin, second * cos + first * sin)
        return torch.cat([*turned, full[..., 2 * self.n_half :]], -1).to(x.dtype)


def relative_scores(
    q: Float[Tensor, "batch pos head d_head"],
    W_rel: Float[Tensor, "head offset d_head"],
    cfg: ModelConfig,
    training: bool = False,
) -> Float[Tensor, "batch head query key"]:
    """Return ``q_i · W_rel[i - j]``, undivided; later keys of a causal network, which no query sees, get any number."""
    pos = torch.arange(q.shape[1], device=q.device)
    offset = pos[:, None] - pos
    place = offset.clamp(min=0) if cfg.attention_dir == "causal" else offset + cfg.n_ctx - 1
    if training and cfg.embd_pdrop:
        # Each query and key has a dropout of its own, as in the code of Edelman et al. 2024.
        vectors = F.dropout(W_rel[:, place], cfg.embd_pdrop)
        return torch.einsum("bqhd,hqkd->bhqk", in_full_precision(q), in_full_precision(vectors))
    by_offset = torch.einsum("bqhd,hod->bhqo", in_full_precision(q), in_full_precision(W_rel))
    return by_offset.gather(-1, place.expand(*by_offset.shape[:2], -1, -1))


def attend(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch head pos d_head"],
    v: Float[Tensor, "batch head pos d_head"],
    cfg: ModelConfig,
) -> Float[Tensor, "batch head pos d_head"]:
    """Return the weighted values of some heads by torch's fused kernel."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=cfg.attention_dir == "causal", scale=1 / cfg.score_divisor)


class Attention(nn.Module):
    """Multi-head attention; W_Q, W_K and W_V are [head, d_model, d_head], W_O is [head, d_head, d_model]."""

    b_Q: Tensor
    b_K: Tensor
    b_V: Tensor
    b_O: Tensor

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        heads_in, heads_out = (cfg.n_heads, cfg.d_model, cfg.d_head), (cfg.n_heads, cfg.d_head, cfg.d_model)
        self.W_Q = nn.Parameter(torch.empty(heads_in))
        self.W_K = nn.Parameter(torch.empty(heads_in))
        self.W_V = nn.Parameter(torch.empty(heads_in))
        self.W_O = nn.Parameter(torch.empty(heads_out))
        for name in ("b_Q", "b_K", "b_V"):
            add_bias(self, name, cfg, cfg.n_heads, cfg.d_head)
        add_bias(self, "b_O", cfg, cfg.d_model)
        self.hook_q = HookPoint()
        self.hook_k = HookPoint()
        self.hook_v = HookPoint()
        self.hook_attn_scores = HookPoint()
        self.hook_pattern = HookPoint()
        self.hook_z = HookPoint()
        self.hook_result = HookPoint()
        if cfg.positional_embedding_type == "shortformer":
            self.hook_attn_input = HookPoint()
        if cfg.positional_embedding_type == "rotary":
            self.rotary = Rotary(cfg)
            self.hook_rot_q = HookPoint()
            self.hook_rot_k = HookPoint()
        # No kernel has these scores.
        self.has_kernel = cfg.positional_embedding_type != "relative"
        if not self.has_kernel:
            self.W_rel = nn.Parameter(torch.empty(cfg.n_heads, cfg.n_offsets, cfg.d_head))

    @property
    def OV(self) -> FactoredMatrix:
        """W_V @ W_O of every head, ``[head, d_model, d_model]``."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q @ W_K.T of every head, ``[head, d_model, d_model]``."""
        return FactoredMatrix(self.W_Q, einops.rearrange(self.W_K, "head d_model d_head -> head d_head d_model"))

    def forward(
        self,
        query_input: Float[Tensor, "batch pos *head d_model"],
        key_input: Float[Tensor, "batch pos *head d_model"],
        value_input: Float[Tensor, "batch pos *head d_model"],
        attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return the sum of all heads' outputs, plus b_O; ``attention_mask`` is False (0) at keys to hide."""
        if query_input is key_input is value_input:
            q, k, v = project(query_input, (self.W_Q, self.W_K, self.W_V), (self.b_Q, self.b_K, self.b_V))
        else:
            (q,) = project(query_input, (self.W_Q,), (self.b_Q,))
            (k,) = project(key_input, (self.W_K,), (self.b_K,))
            (v,) = project(value_input, (self.W_V,), (self.b_V,))
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        if self.cfg.positional_embedding_type == "rotary":
            q = self.hook_rot_q(self.rotary(q, attention_mask))
            k = self.hook_rot_k(self.rotary(k, attention_mask))
        # A hook may give queries, keys or values another dtype, which the kernel does not take.
        drops = self.training and self.cfg.attn_pdrop > 0
        takes = self.has_kernel and not drops and attention_mask is None and q.dtype == k.dtype == v.dtype
        if takes and fuses(self.hook_attn_scores, self.hook_pattern):
            z = self.fused(q, k, v)
        else:
            z = self.explicit(q, k, v, attention_mask)
        z = self.hook_z(z)
        if self.cfg.use_attn_result:
            result = einops.einsum(z, self.W_O, "batch pos head d_head, head d_head d_model -> batch pos head d_model")
            return (
                einops.reduce(self.hook_result(result), "batch pos head d_model -> batch pos d_model", "sum") + self.b_O
            )
        return F.linear(z.flatten(-2), self.W_O.flatten(0, 1).T, self.b_O)

    def of_head(
        self,
        head: int,
        q: Float[Tensor, "batch pos d_head"],
        k: Float[Tensor, "batch pos d_head"],
        v: Float[Tensor, "batch pos d_head"],
        attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_head"]:
        """Return the weighted values of one head from its queries, keys and values, without hooks."""
        if self.cfg.positional_embedding_type == "rotary":
            q, k = (self.rotary(x[:, :, None], attention_mask)[:, :, 0] for x in (q, k))
        if self.has_kernel and attention_mask is None:
            return attend(q[:, None], k[:, None], v[:, None], self.cfg)[:, 0]
        scores = (in_full_precision(q) @ in_full_precision(k).mT)[:, None]
        if not self.has_kernel:
            scores = scores + relative_scores(q[:, :, None], self.W_rel[head, None], self.cfg)
        pattern = self.masked(scores / self.cfg.score_divisor, attention_mask)[:, 0].softmax(-1)
        return pattern.to(v.dtype) @ v

    def fused(
        self,
        q: Float[Tensor, "batch pos head d_head"],
        k: Float[Tensor, "batch pos head d_head"],
        v: Float[Tensor, "batch pos head d_head"],
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Return the weighted values from one fused kernel, which exposes no scores and no pattern."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        z = attend(q, k, v, self.cfg)
        if z.requires_grad and not torch.compiler.is_compiling():
            give_explicit_gradients(z, "ScaledDotProduct", attention_of)
        return z.transpose(1, 2)

    def explicit(
        self,
        q: Float[Tensor, "batch pos head d_head"],
        k: Float[Tensor, "batch pos head d_head"],
        v: Float[Tensor, "batch pos head d_head"],
        attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None,
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Return the weighted values by scores and pattern ``[batch, head, query, key]``, which hooks may replace."""
        scores = einops.einsum(
            in_full_precision(q),
            in_full_precision(k),
            "batch query head d_head, batch key head d_head -> batch head query key",
        )
        if not self.has_kernel:
            scores = scores + relative_scores(q, self.W_rel, self.cfg, self.training)
        scores = self.hook_attn_scores(self.masked(scores / self.cfg.score_divisor, attention_mask))
        pattern = scores.softmax(-1)
        if attention_mask is not None:
            # A query that sees no key (padding before the first token) gives 0/0; its pattern is 0 instead.
            pattern = pattern.nan_to_num(0.0)
        pattern = F.dropout(self.hook_pattern(pattern), self.cfg.attn_pdrop, self.training)
        return einops.einsum(
            pattern.to(v.dtype), v, "batch head query key, batch key head d_head -> batch query head d_head"
        )

    def masked(
        self,
        scores: Float[Tensor, "batch head query key"],
        attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch head query key"]:
        """Return scores with -inf at keys that a query does not see."""
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        if self.cfg.attention_dir == "causal":
            visible = visible.tril()
        if attention_mask is not None:
            visible = visible & attention_mask.bool()[:, None, None, :]
        return scores.masked_fill(~visible, -torch.inf)


class MLP(nn.Module):
    """MLP: act_fn(x @ W_in + b_in) @ W_out + b_out, with a LayerNorm before W_out for solu_ln."""

    b_in: Tensor
    b_out: Tensor

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.act_fn = ACTIVATIONS[cfg.act_fn]
        self.W_in = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        add_bias(self, "b_in", cfg, cfg.d_mlp)
        self.W_out = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model))
        add_bias(self, "b_out", cfg, cfg.d_model)
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()
        self.has_ln = cfg.act_fn == "solu_ln"
        if self.has_ln:
            self.hook_mid = HookPoint()
            self.ln = LayerNorm(cfg, cfg.d_mlp) if cfg.normalization_type == "LN" else LayerNormPre(cfg)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Return what the MLP writes to the residual stream."""
        post = self.act_fn(self.hook_pre(F.linear(x, self.W_in.T, self.b_in)))
        if self.has_ln:
            post = self.ln(self.hook_mid(post))
        return F.linear(self.hook_post(post), self.W_out.T, self.b_out)


class TransformerBlock(nn.Module):
    """Attention, then (unless attn_only) an MLP; each reads the residual stream and adds its output to it."""

    # TransformerLens's logit lens checks this: the next block, or the unembedding, reads hook_resid_post only.
    hook_out_is_single_residual_stream = True

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        self.ln1 = normalization(cfg, cfg.d_model)
        self.attn = Attention(cfg)
        if not cfg.attn_only:
            self.ln2 = normalization(cfg, cfg.d_model)
            self.mlp = MLP(cfg)
        self.hook_attn_in = HookPoint()
        self.hook_q_input = HookPoint()
        self.hook_k_input = HookPoint()
        self.hook_v_input = HookPoint()
        self.hook_mlp_in = HookPoint()
        self.hook_attn_out = HookPoint()
        self.hook_mlp_out = HookPoint()
        self.hook_resid_pre = HookPoint()
        if not cfg.attn_only:
            self.hook_resid_mid = HookPoint()
        self.hook_resid_post = HookPoint()

    def forward(
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        shortformer_pos_embed: Float[Tensor, "batch pos d_model"] | None = None,
        attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return the residual stream after this block."""
        resid_pre = self.hook_resid_pre(resid_pre)
        attn_out = self.attn(*self.attention_inputs(resid_pre, shortformer_pos_embed), attention_mask)
        attn_out = self.hook_attn_out(F.dropout(attn_out, self.cfg.resid_pdrop, self.training))
        if self.cfg.attn_only:
            return self.hook_resid_post(resid_pre + attn_out)
        resid_mid = self.hook_resid_mid(resid_pre + attn_out)
        mlp_in = self.hook_mlp_in(resid_mid.clone()) if self.cfg.use_hook_mlp_in else resid_mid
        mlp_out = self.hook_mlp_out(F.dropout(self.mlp(self.ln2(mlp_in)), self.cfg.resid_pdrop, self.training))
        return self.hook_resid_post(resid_mid + mlp_out)

    def attention_inputs(
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        shortformer_pos_embed: Float[Tensor, "batch pos d_model"] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the inputs of queries, keys and values, with a head axis if hooks may change them for each head."""
        pos = shortformer_pos_embed
        if self.cfg.use_split_qkv_input or self.cfg.use_attn_in:
            per_head = partial(
                einops.repeat, pattern="batch pos d_model -> batch pos head d_model", head=self.cfg.n_heads
            )
            # A hook cannot write to an expanded view, so it gets a clone.
            attn_in = self.hook_attn_in(per_head(resid_pre).clone()) if self.cfg.use_attn_in else per_head(resid_pre)
            if self.cfg.use_split_qkv_input:
                query, key, value = (
                    self.ln1(point(attn_in.clone()))
                    for point in (self.hook_q_input, self.hook_k_input, self.hook_v_input)
                )
            else:
                query = key = value = self.ln1(attn_in)
            return (query, key, value) if pos is None else (query + per_head(pos), key + per_head(pos), value)
        normalized = self.ln1(resid_pre)
        if pos is None:
            return normalized, normalized, normalized
        with_pos = self.attn.hook_attn_input(normalized + pos)
        return with_pos, with_pos, normalized


class Unembed(nn.Module):
    """Unembedding: ``x @ W_U + b_U``, which are logits or predicted vectors."""

    b_U: Tensor

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.W_U = nn.Parameter(torch.empty(cfg.d_model, cfg.d_vocab_out))
        self._add_bias_and_hooks(cfg)

    def _add_bias_and_hooks(self, cfg: ModelConfig) -> None:
        add_bias(self, "b_U", cfg, cfg.d_vocab_out)
        self.hook_in = HookPoint()
        self.hook_out = HookPoint()

    def forward(self, residual: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab_out"]:
        """Map the residual stream to logits or predicted vectors."""
        return self.hook_out(F.linear(self.hook_in(residual), self.W_U.T, self.b_U))


class TiedUnembed(Unembed):
    """Unembedding with the transpose of W_E."""

    def __init__(self, cfg: ModelConfig, embed: Embed):
        nn.Module.__init__(self)
        self.tied_to = (embed,)  # a tuple registers no submodule: the embedding is the network's
        self._add_bias_and_hooks(cfg)

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab_out"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The transpose of W_E."""
        return self.tied_to[0].W_E.T
