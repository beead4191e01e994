"""ActivationCache of a HookedTransformer: TransformerLens's, which also knows the activations that this class adds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.metadata import version
from inspect import signature
from typing import Any, Literal, ParamSpec, TypeVar

import torch
import transformer_lens
from torch import Tensor
from transformer_lens.utilities import Slice, get_act_name

from headway.models.arguments import (
    ArrayLike,
    as_tensor,
    check_bools,
    check_one_of,
    check_range,
    check_selects,
    checked_device,
    checked_int,
    checked_slice,
    integer_tokens,
)
from headway.models.config import ModelConfig
from headway.options import nearest, shown

Given = ParamSpec("Given")
Result = TypeVar("Result")

_PER_HEAD = ("hook_q", "hook_k", "hook_v", "hook_rot_q", "hook_rot_k", "hook_z", "hook_result")
_BOOLS = {
    "apply_ln", "expand_neurons", "has_batch_dim", "incl_embeds", "incl_mid", "incl_remainder", "mlp_input",
    "recompute_ln", "return_labels",
}  # fmt: skip
_PER_HEAD_INPUT = ("hook_q_input", "hook_k_input", "hook_v_input", "hook_attn_in")


def position_axis(cfg: ModelConfig, name: str) -> int:
    """Return the axis of positions (of queries, for scores and patterns) in the activation at a hook point.

    Example:
        >>> cfg = ModelConfig(n_layers=1, d_model=5, n_ctx=7, d_head=3, n_heads=2, d_vocab=11)
        >>> position_axis(cfg, "hook_embed"), position_axis(cfg, "blocks.0.attn.hook_z")
        (-2, -3)
    """
    point = name.rpartition(".")[2]
    # With an input for each head, ln1 normalises each of them.
    split = (cfg.use_split_qkv_input or cfg.use_attn_in) and ".ln1." in name
    return -3 if split or point in _PER_HEAD or point in _PER_HEAD_INPUT else -2


def slice_positions(activation: Tensor, pos_slice: Slice, axis: int) -> Tensor:
    """Return the activation at some positions; raise a ValueError if there are no such positions."""
    check_selects("pos_slice", pos_slice, activation.shape[axis])
    return pos_slice.apply(activation, dim=axis)


def _checked(inherited: Callable[Given, Result]) -> Callable[Given, Result]:
    """Return a method of TransformerLens's cache that refuses by name what it would stumble over."""
    parameters = signature(inherited)

    @wraps(inherited)
    def method(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        given = parameters.bind(*args, **kwargs)
        given.apply_defaults()
        given.arguments |= _checked_arguments(inherited.__name__, **given.arguments)
        try:
            return inherited(*given.args, **given.kwargs)
        except KeyError as error:
            lacking = " ".join(str(error.args[0]).split())
            raise ValueError(f"cache: {inherited.__name__} needs activations that it lacks ({lacking})") from None

    return method


def _checked_arguments(method: str, self: "ActivationCache", **given: Any) -> dict[str, Any]:
    """Return the arguments of a method in the form that TransformerLens takes; refuse those that it cannot use."""
    cfg = self.model.cfg
    check_bools(**{name: given[name] for name in _BOOLS & given.keys()})
    if "mode" in given:
        check_one_of("mode", given["mode"], ("all", "mlp", "attn"))
    if given.get("mlp_input") and cfg.attn_only:
        raise ValueError("mlp_input: True is not valid for an attn_only network; it has no MLP")
    if "layer" in given:
        given["layer"] = _checked_layer(cfg, method, given["layer"], given.get("mlp_input", False))
    if method in ("get_neuron_results", "stack_neuron_results") and cfg.attn_only:
        raise ValueError(f"{method}: it is not valid for an attn_only network, which has no neurons")
    for name, length, what in (
        ("pos_slice", self.n_positions, "positions"),
        ("neuron_slice", cfg.d_mlp, "neurons"),
        ("batch_slice", self._batch_size() if self.has_batch_dim else 0, "sequences"),
    ):
        if given.get(name) is not None:
            given[name] = checked_slice(name, given[name])
            if given[name].mode != "identity":
                check_selects(name, given[name], length, what)
    if given.get("project_output_onto") is not None:
        given["project_output_onto"] = _checked_directions(self.model.W_E, given["project_output_onto"])
    return given


def _checked_layer(cfg: ModelConfig, method: str, layer: Any, mlp_input: bool) -> int:
    """Return the number of a layer; n_layers stands for the end of the network, and so do None and -1."""
    if method == "get_neuron_results":
        return checked_int("layer", layer, -cfg.n_layers, cfg.n_layers - 1)
    layer = cfg.n_layers if layer is None else checked_int("layer", layer, -1, cfg.n_layers)
    layer = cfg.n_layers if layer == -1 else layer
    first = 1 if method == "stack_activation" else 0
    if not first <= layer <= cfg.n_layers - mlp_input:
        valid = f"{first} to {cfg.n_layers - mlp_input}"
        raise ValueError(f"layer: {layer} is not valid{' with mlp_input=True' * mlp_input}; it must be {valid}")
    return layer


def _checked_directions(like: Tensor, directions: Any) -> Tensor:
    """Return directions ``[d_model]`` or ``[d_model, directions]`` in the dtype of the network."""
    name, d_model = "project_output_onto", like.shape[-1]
    found = as_tensor(name, directions, "directions")
    if found.ndim not in (1, 2) or found.shape[0] != d_model or found.is_complex() or found.dtype == torch.bool:
        raise ValueError(
            f"{name}: {found.dtype} of shape {tuple(found.shape)} is not valid; it must be [{d_model}] or "
            f"[{d_model}, directions]"
        )
    return found.to(like)


class ActivationCache(transformer_lens.ActivationCache):
    """Activations of one forward pass by hook name, with TransformerLens's methods that take the stream apart.

    Shortformer positions are in the cache, but no part of the residual stream: they are added to the inputs of queries
    and keys only.
    """

    model: Any  # the network, whose configuration is a ModelConfig

    def __init__(self, cache_dict: dict[str, Tensor], model: Any, has_batch_dim: bool = True):
        super().__init__(cache_dict, model, has_batch_dim)
        self.has_pos_embed = self.has_pos_embed and model.cfg.positional_embedding_type == "standard"

    @property
    def n_positions(self) -> int:
        """Number of positions of the activations."""
        name, activation = next(iter(self.cache_dict.items()), ("hook_embed", None))
        return 0 if activation is None else activation.shape[position_axis(self.model.cfg, name)]

    accumulated_resid = _checked(transformer_lens.ActivationCache.accumulated_resid)
    compute_head_results = _checked(transformer_lens.ActivationCache.compute_head_results)
    get_full_resid_decomposition = _checked(transformer_lens.ActivationCache.get_full_resid_decomposition)
    get_neuron_results = _checked(transformer_lens.ActivationCache.get_neuron_results)
    stack_head_results = _checked(transformer_lens.ActivationCache.stack_head_results)
    stack_neuron_results = _checked(transformer_lens.ActivationCache.stack_neuron_results)
    toggle_autodiff = _checked(transformer_lens.ActivationCache.toggle_autodiff)
    _decompose_resid = _checked(transformer_lens.ActivationCache.decompose_resid)
    _stack_activation = _checked(transformer_lens.ActivationCache.stack_activation)
    _apply_ln_to_stack = _checked(transformer_lens.ActivationCache.apply_ln_to_stack)
    _logit_attrs = _checked(transformer_lens.ActivationCache.logit_attrs)

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "mlp", "attn"] = "all",
        apply_ln: bool = False,
        pos_slice: Any = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """Return the parts of the residual stream that a layer reads, as in TransformerLens; refuse to stack none."""
        none_before = layer is not None and layer == 0 and not (mlp_input is True and mode != "mlp")
        if incl_embeds is False and (none_before or (mode == "mlp" and self.model.cfg.attn_only)):
            raise ValueError(f"incl_embeds: False is not valid at layer {layer} with mode {mode!r}; no part is left")
        return self._decompose_resid(layer, mlp_input, mode, apply_ln, pos_slice, incl_embeds, return_labels)

    def stack_activation(self, activation_name: str, layer: int = -1, sublayer_type: str | None = None) -> Tensor:
        """Return an activation of every layer before ``layer``, stacked; all layers by default."""
        for name, value in (("activation_name", activation_name), ("sublayer_type", sublayer_type)):
            if not (isinstance(value, str) or (value is None and name == "sublayer_type")):
                raise ValueError(f"{name}: {shown(value)} is not valid; it must be a name such as pattern")
        point = get_act_name(activation_name, 0, sublayer_type)
        if point not in self.cache_dict:
            there = [name for name in self.cache_dict if name.startswith("blocks.0.")]
            raise ValueError(f"activation_name: {point!r} is not in this cache{nearest(point, there)}")
        return self._stack_activation(activation_name, layer, sublayer_type)

    def apply_ln_to_stack(
        self,
        residual_stack: ArrayLike,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Any = None,
        batch_slice: Any = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Tensor:
        """Return parts of a residual stream ``[part, batch, pos, d_model]`` as a layer reads them: scaled alike."""
        stack = self._checked_stack(residual_stack)
        if recompute_ln is True and layer not in (None, -1, self.model.cfg.n_layers):
            raise ValueError(f"recompute_ln: True is not valid at layer {shown(layer)}; it is for the final LayerNorm")
        with self._fitting(stack):
            return self._apply_ln_to_stack(stack, layer, mlp_input, pos_slice, batch_slice, has_batch_dim, recompute_ln)

    def logit_attrs(
        self,
        residual_stack: ArrayLike,
        tokens: str | int | ArrayLike,
        incorrect_tokens: str | int | ArrayLike | None = None,
        pos_slice: Any = None,
        batch_slice: Any = None,
        has_batch_dim: bool = True,
    ) -> Tensor:
        """Return what parts of the residual stream add to the logit of tokens, or to its difference from others."""
        stack, right = self._checked_stack(residual_stack), self._checked_tokens("tokens", tokens)
        wrong = None if incorrect_tokens is None else self._checked_tokens("incorrect_tokens", incorrect_tokens)
        if wrong is not None and wrong.shape != right.shape:
            raise ValueError(
                f"incorrect_tokens: the shape {tuple(wrong.shape)} is not valid; it must be {tuple(right.shape)}, "
                "as of tokens"
            )
        with self._fitting(stack):
            return self._logit_attrs(stack, right, wrong, pos_slice, batch_slice, has_batch_dim)

    def _checked_tokens(self, name: str, tokens: Any) -> Tensor:
        if isinstance(tokens, str):
            try:
                tokens = self.model.to_single_token(tokens)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        found = integer_tokens(tokens, name)
        check_range(found, self.model.cfg.d_vocab_out, name, "the columns of W_U")
        return found

    def _checked_stack(self, residual_stack: Any) -> Tensor:
        like, name = self.model.W_E, "residual_stack"
        found = as_tensor(name, residual_stack, "numbers")
        if found.ndim < 2 or found.shape[-1] != like.shape[-1] or found.is_complex() or found.dtype == torch.bool:
            raise ValueError(
                f"{name}: {found.dtype} of shape {tuple(found.shape)} is not valid; it must be numbers "
                f"[part, batch, pos, {like.shape[-1]}], or less for one sequence or position"
            )
        return found if found.is_floating_point() and isinstance(residual_stack, Tensor) else found.to(like)

    @contextmanager
    def _fitting(self, stack: Tensor) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            shape, why = tuple(stack.shape), " ".join(str(error).split())
            raise ValueError(
                f"residual_stack: {shape} does not fit the cache, the slices or the tokens ({why})"
            ) from None

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> "ActivationCache":
        """Return a cache of some sequences of the batch."""
        found = checked_slice("batch_slice", batch_slice)
        if not self.has_batch_dim:
            raise ValueError(f"batch_slice: {shown(batch_slice)} is not valid; this cache has no batch axis")
        check_selects("batch_slice", found, self._batch_size(), "sequences")
        sliced = super().apply_slice_to_batch_dim(found)
        return ActivationCache(sliced.cache_dict, self.model, sliced.has_batch_dim)

    def remove_batch_dim(self, batch_size: int | None = None) -> "ActivationCache":
        """Drop the batch axis of the activations of a single sequence."""
        there = self._batch_size()
        if batch_size is not None:
            checked_int("batch_size", batch_size, there, there)
        if self.has_batch_dim and there != 1:
            raise ValueError(f"remove_batch_dim: it is not valid for {there} sequences; it takes one")
        super().remove_batch_dim()
        return self

    def to(self, device: Any) -> "ActivationCache":
        """Move the activations to a device."""
        if device is None:
            raise ValueError("device: None is not valid; it must be a device such as cpu or cuda")
        super().to(checked_device(device))
        return self

    def logit_lens(self, **kwargs: Any) -> Any:
        """Return what each layer would predict, by TransformerLens's logit lens, whose arguments this takes."""
        positions = kwargs.get("positions")
        if positions is not None:
            check_selects("positions", checked_slice("positions", positions), self.n_positions)
        if not hasattr(transformer_lens.ActivationCache, "logit_lens"):
            raise ValueError(f"logit_lens: it needs transformer_lens 4; {version('transformer_lens')} is installed")
        try:
            return super().logit_lens(**kwargs)
        except (TypeError, IndexError, RuntimeError) as error:
            raise ValueError(f"logit_lens: {' '.join(str(error).split())}") from None

    def ssm_layers(self, mixer_type: Any = None) -> list[int]:
        """Return the state-space layers of this network: it has none."""
        return []

    def compute_ssm_state(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a HookedTransformer has no state-space layers."""
        raise ValueError("cache: this network has no state-space layers; compute_ssm_state is for those of a bridge")

    def compute_ssm_effective_attention(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a HookedTransformer has no state-space layers."""
        raise ValueError("cache: this network has no state-space layers; read its attention at hook_pattern")

    def _get_cached_ln_scale(
        self, layer: int | None, mlp_input: bool, pos_slice: Slice, batch_slice: Slice | None = None
    ) -> Tensor:
        """Return the scale of a LayerNorm, once if ln1 normalised an input for each head and all are the same."""
        name = f"blocks.{layer}.ln1.hook_scale"
        if mlp_input or name not in self.cache_dict or self[name].ndim < (4 if self.has_batch_dim else 3):
            return super()._get_cached_ln_scale(layer, mlp_input, pos_slice, batch_slice)
        scale = self[name]
        if not scale.eq(scale[..., :1, :]).all():
            raise ValueError(f"apply_ln: True is not valid at layer {layer}; its heads read different inputs")
        scale = pos_slice.apply(scale[..., 0, :], dim=-2)
        return batch_slice.apply(scale) if batch_slice is not None and self.has_batch_dim else scale
