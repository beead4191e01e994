"""HookedTransformer: a small transformer in which hooks can read and replace every activation.

It builds on parts of TransformerLens (HookedRootModule, HookPoint, ActivationCache, FactoredMatrix, ProcessWeights) and
uses the names of TransformerLens's HookedTransformer for parameters, hooks, and the methods that notebooks call. It
leaves out what toy models do not need: grouped-query attention, pretrained weights.

This file has the forward pass, and weights that are loaded and simplified. Hooks and caches are in ``hooks.py``,
``to_tokens`` and the other conversions in ``strings.py``, ``generate`` in ``generation.py``, ``W_Q`` and other weights
of all layers in ``stacked_weights.py``, checks of arguments in ``arguments.py``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import einops
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities import lm_cross_entropy_loss

from headway.data.seeds import generator
from headway.models.arguments import (
    ArrayLike,
    as_tensor,
    check_bools,
    check_forward,
    check_range,
    checked_input,
    checked_mask,
    checked_stream,
    integer_tokens,
    is_not_integer,
)
from headway.models.components import (
    Embed,
    LayerNormPre,
    PosEmbed,
    TiedUnembed,
    TransformerBlock,
    Unembed,
    has_hooks,
    normalization,
)
from headway.models.config import ModelConfig
from headway.models.generation import Generation
from headway.models.hooks import SWITCHES, CheckedHooks
from headway.models.initialization import initial_weight
from headway.models.processing import process_weights, with_own_weights
from headway.models.stacked_weights import StackedWeights
from headway.models.strings import check_only_for_strings, is_strings
from headway.options import shown

ReturnType = Literal["logits", "loss", "both"] | None

# What TransformerLens's class had, and what to do instead.
_PROCESSED = "call model.processed(...), which returns a copy"
_REPLACED = {
    **dict.fromkeys(("process_weights_", "fold_layer_norm", "center_writing_weights", "center_unembed"), _PROCESSED),
    **dict.fromkeys(("fold_value_biases", "refactor_factored_attn_matrices"), _PROCESSED),
    "set_ungroup_grouped_query_attention": "its heads share no keys",
    "move_model_modules_to_device": "call model.to(device)",
    "sample_datapoint": "take sequences from a task: task.batch(seed, index, batch_size)",
    "load_sample_training_dataset": "take sequences from a task: task.batch(seed, index, batch_size)",
    "tl_parameters": "call model.named_parameters()",
    "W_gate": "its MLPs have no gate",
    "generate_stream": "call model.generate(...)",
}


# Buffers that TransformerLens stores with the weights.
_BUFFERS = (".attn.mask", ".attn.IGNORE", ".attn.rotary_sin", ".attn.rotary_cos")


class Output(NamedTuple):
    """Output for ``return_type="both"``."""

    logits: Float[Tensor, "batch pos d_vocab_out"]
    loss: Tensor


def _checked_weights(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return weights without TransformerLens's buffers; refuse values that are not tensors, as in a checkpoint."""
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"state_dict: {shown(state_dict)} is not valid; it must map names to tensors")
    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            inside = f"; pass state_dict[{name!r}]" if isinstance(value, Mapping) else ""
            raise ValueError(f"state_dict: {name!r} is a {type(value).__name__}; it must be a tensor{inside}")
        if value.is_complex():
            raise ValueError(f"state_dict: {name!r} is complex; it must be a tensor of real numbers")
    return {name: value for name, value in state_dict.items() if not name.endswith(_BUFFERS)}


class HookedTransformer(StackedWeights, Generation, CheckedHooks):
    """Transformer with a hook point on every activation.

    For each layer: ``x = x + attn(ln1(x))``, then (unless attn_only) ``x = x + mlp(ln2(x))``; the output is
    ``ln_final(x) @ W_U + b_U``. Activations are row vectors, as in TransformerLens: ``x @ W``.

    Args:
        cfg: Configuration; the model keeps a copy.
        tokenizer: Hugging Face tokenizer, needed for strings only.
        seed: Seed of the initial weights, which are drawn as ``init_mode`` says, independently of torch's global
            generator; biases are 0.

    Example:
        >>> cfg = ModelConfig(n_layers=2, d_model=11, n_ctx=7, d_head=5, n_heads=3, d_vocab=13)
        >>> model = HookedTransformer(cfg)
        >>> logits, cache = model.run_with_cache(torch.tensor([[1, 2, 3]]))
        >>> cache["pattern", 1].shape  # batch head query key
        torch.Size([1, 3, 3, 3])
    """

    blocks: Sequence[TransformerBlock]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, cfg: ModelConfig, tokenizer: Any = None, seed: int = 0):
        super().__init__()
        if not isinstance(cfg, ModelConfig):
            raise ValueError(f"cfg: {shown(cfg)} is not valid; it must be a ModelConfig")
        self.cfg = replace(cfg)
        self.set_tokenizer(tokenizer)
        self.embed = Embed(self.cfg)
        self.hook_embed = HookPoint()
        if self.cfg.has_W_pos:
            self.pos_embed = PosEmbed(self.cfg)
            self.hook_pos_embed = HookPoint()
        self.blocks = nn.ModuleList(TransformerBlock(self.cfg) for _ in range(self.cfg.n_layers))  # pyright: ignore[reportAttributeAccessIssue]
        if self.cfg.normalization_type is not None:
            self.ln_final = normalization(self.cfg, self.cfg.d_model)
        self.unembed = TiedUnembed(self.cfg, self.embed) if self.cfg.tie_word_embeddings else Unembed(self.cfg)
        self._record_device_and_dtype()
        self.init_weights(generator("init", seed))
        self.setup()

    @torch.no_grad()
    def init_weights(self, draws: torch.Generator) -> None:
        """Redraw every weight matrix from the distribution of ``init_mode``; biases and LayerNorms do not change."""
        if not isinstance(draws, torch.Generator):
            raise ValueError(f"draws: {shown(draws)} is not valid; it must be a torch.Generator")
        for name, parameter in self.named_parameters():
            if name.rpartition(".")[2].startswith("W_"):
                parameter.copy_(initial_weight(self.cfg, name, parameter.shape, draws))

    def forward(
        self,
        input: str | ArrayLike,
        return_type: ReturnType = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        start_at_layer: int | None = None,
        tokens: ArrayLike | None = None,
        shortformer_pos_embed: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        stop_at_layer: int | None = None,
    ) -> Any:
        """Run the network.

        Each array is a tensor, a numpy array or a list of numbers; one sequence needs no batch axis.

        Args:
            input: Tokens ``[batch, pos]``, vectors ``[batch, pos, d_vocab]``, a string or a list of strings if the
                model has a tokenizer, or with ``start_at_layer`` a residual stream ``[batch, pos, d_model]``. No query
                attends to the padding of a list of strings, and no loss counts it.
            return_type: ``"logits"`` ``[batch, pos, d_vocab_out]``; ``"loss"``, the mean next-token cross-entropy in
                nats; ``"both"``; or None.
            loss_per_token: Return the loss of each token ``[batch, pos - 1]`` instead of its mean.
            prepend_bos: Start strings with the tokenizer's BOS token; None means True.
            start_at_layer: Skip the embedding and the blocks before this one.
            tokens: Tokens ``[batch, pos]`` for the loss when ``start_at_layer`` is given.
            shortformer_pos_embed: Position embeddings ``[batch, pos, d_model]`` when ``start_at_layer`` is given and
                positions are shortformer.
            attention_mask: 0 at padding, which no query attends to and which takes no position.
            stop_at_layer: Stop before this block and return the residual stream.

        Raises:
            ValueError: the network cannot take this input, an argument has no effect beside the others, or a loss has
                no tokens to predict.
        """
        check_forward(
            self.cfg, return_type, loss_per_token, start_at_layer, stop_at_layer, tokens, shortformer_pos_embed
        )
        if is_strings(input):
            if start_at_layer is not None:
                raise ValueError("input: strings are not valid with start_at_layer; it must be a residual stream")
            input, padding = self._tokens_and_padding(input, prepend_bos)
            attention_mask = padding if attention_mask is None else attention_mask
        else:
            check_only_for_strings(prepend_bos=prepend_bos)
        if start_at_layer is None:
            inputs = checked_input(self.cfg, input, self.W_E.dtype)
            tokens = inputs if self.cfg.input_type == "tokens" else None
        else:
            inputs = checked_stream("input", input, self.cfg, like=self.W_E)
        mask = None if attention_mask is None else checked_mask(attention_mask, inputs.shape[:2]).to(inputs.device)
        if start_at_layer is None:
            residual, positions = self._embedded(inputs, mask)
        else:
            residual, positions = inputs, shortformer_pos_embed
            if positions is not None:
                shape = inputs.shape[:2]
                positions = checked_stream("shortformer_pos_embed", positions, self.cfg, like=inputs, shape=shape)
        # In a slice negative layers count from the end, as in TransformerLens.
        for block in list(self.blocks)[start_at_layer:stop_at_layer]:
            residual = block(residual, positions, mask)
        if stop_at_layer is not None:
            return residual
        if self.cfg.normalization_type is not None:
            residual = self.ln_final(residual)
        if return_type is None:
            return None
        logits = self.unembed(residual)
        if return_type == "logits":
            return logits
        if tokens is None or self.cfg.input_type == "vectors":
            raise ValueError(
                f"return_type: {return_type!r} needs tokens to predict; "
                "for vectors, or with start_at_layer and no tokens, compute your own loss from the logits"
            )
        loss = self.loss_fn(logits, tokens, mask, loss_per_token)
        return loss if return_type == "loss" else Output(logits, loss)

    def loss_fn(
        self,
        logits: ArrayLike,
        tokens: ArrayLike,
        attention_mask: ArrayLike | None = None,
        per_token: bool = False,
    ) -> Tensor:
        """Return the mean next-token cross-entropy in nats, or with ``per_token`` that of each token [batch, pos - 1].

        Logits ``[batch, pos, d_vocab_out]``, and tokens and mask ``[batch, pos]``, are tensors, numpy arrays or lists;
        those of one sequence need no batch axis.

        Raises:
            ValueError: the shapes differ, a token has no logit, or no position predicts a token.

        Example:
            >>> model = HookedTransformer(ModelConfig(n_layers=1, d_model=5, n_ctx=7, d_head=3, n_heads=2, d_vocab=11))
            >>> model.loss_fn(torch.zeros(1, 2, 11), torch.tensor([[3, 7]])).item() == torch.tensor(11.0).log().item()
            True
        """
        check_bools(per_token=per_token)
        logits, tokens = as_tensor("logits", logits, "numbers"), as_tensor("tokens", tokens, "integer tokens")
        logits, tokens = logits[None] if logits.ndim == 2 else logits, tokens[None] if tokens.ndim == 1 else tokens
        if logits.ndim != 3 or not logits.is_floating_point():
            raise ValueError(
                f"logits: {logits.dtype} of shape {tuple(logits.shape)} is not valid; "
                "it must be floats [batch, pos, d_vocab_out]"
            )
        if is_not_integer(tokens) or tokens.shape != logits.shape[:-1]:
            raise ValueError(
                f"tokens: {tokens.dtype} of shape {tuple(tokens.shape)} is not valid; "
                f"the loss needs integers of shape {tuple(logits.shape[:-1])}"
            )
        tokens, mask = tokens.to(logits.device).long(), attention_mask
        if mask is not None:
            mask = checked_mask(mask, tokens.shape).to(logits.device)
        if not per_token and (
            tokens[:, 1:].numel() == 0 or (mask is not None and not (mask[:, 1:] & mask[:, :-1]).any())
        ):
            raise ValueError("loss: no position predicts a token; a sequence needs two tokens that are no padding")
        try:
            return lm_cross_entropy_loss(logits, tokens, mask, per_token)
        except (IndexError, RuntimeError):
            last = logits.shape[-1] - 1
            if 0 <= int(tokens.min()) <= int(tokens.max()) <= last:
                raise
            raise ValueError(f"tokens: some have no logit; the loss needs tokens from 0 to {last}") from None

    def input_to_embed(
        self, input: ArrayLike, attention_mask: ArrayLike | None = None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"] | None]:
        """Return the first residual stream, and the position embeddings of shortformer (None for other kinds).

        Args:
            input: Tokens ``[batch, pos]`` or vectors ``[batch, pos, d_vocab]``.
            attention_mask: 0 at padding, as in ``forward``.

        Raises:
            ValueError: the network cannot take this input or this mask.
        """
        inputs = checked_input(self.cfg, input, self.W_E.dtype)
        mask = None if attention_mask is None else checked_mask(attention_mask, inputs.shape[:2]).to(inputs.device)
        return self._embedded(inputs, mask)

    def _embedded(
        self, input: Tensor, attention_mask: Tensor | None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"] | None]:
        batch, pos = input.shape[:2]
        if pos > self.cfg.n_ctx:
            raise ValueError(f"input: {pos} positions are not valid; n_ctx allows at most {self.cfg.n_ctx}")
        embed = self.hook_embed(self.embed(input))
        if not self.cfg.has_W_pos:
            return F.dropout(embed, self.cfg.embd_pdrop, self.training), None
        pos_embed = self.pos_embed(batch, pos, attention_mask)
        # A hook cannot write to an expanded view, so it gets a clone.
        pos_embed = self.hook_pos_embed(pos_embed.clone() if has_hooks(self.hook_pos_embed) else pos_embed)
        if self.cfg.positional_embedding_type == "standard":
            embed, pos_embed = embed + pos_embed, None
        return F.dropout(embed, self.cfg.embd_pdrop, self.training), pos_embed

    def setup(self) -> None:
        """Name the hook points; the inputs of queries, keys and values also have their TransformerBridge names."""
        super().setup()
        for layer, block in enumerate(self.blocks):
            for x in "qkv":
                self.mod_dict[f"blocks.{layer}.attn.hook_{x}_input"] = getattr(block, f"hook_{x}_input")

    def to(self, *args: Any, print_details: bool = True, **kwargs: Any) -> Any:
        """Move or convert the network as torch does; whatever ``print_details`` says, nothing is printed."""
        check_bools(print_details=print_details)
        return super().to(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> "HookedTransformer":
        super()._apply(*args, **kwargs)
        self._record_device_and_dtype()
        return self

    def _record_device_and_dtype(self) -> None:
        self.cfg.device, self.cfg.dtype = str(self.W_E.device), self.W_E.dtype

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights; ignore the mask buffers that TransformerLens's HookedTransformer stores with them.

        Raises:
            ValueError: the values are not tensors, or (unless ``strict=False``) not those of this network by name and
                shape.
        """
        check_bools(strict=strict, assign=assign)
        weights = _checked_weights(state_dict)
        try:
            return super().load_state_dict(weights, strict, assign)
        except RuntimeError as error:
            raise ValueError(f"state_dict: it is not this network's; {' '.join(str(error).split())}") from None

    def processed(
        self,
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool | None = None,
        fold_value_biases: bool = True,
        refactor_factored_attn_matrices: bool = False,
    ) -> "HookedTransformer":
        """Return a copy with simpler weights that computes the same function, with the same switches on.

        LayerNorm weights are folded into the weights that read them, weights that write to the residual stream are
        centred (a LayerNorm removes their component along the all-ones vector; RMSNorm does not, and leaves them), and
        b_V is folded into b_O. Tied embeddings become two matrices, and absent biases
        weights. By default
        the unembedding is centred for tokens, where this shifts all logits equally, and not for vectors, where it would
        change the output.

        Raises:
            ValueError: LayerNorm is folded with shortformer positions (they are added after ln1, so this would change
                the function), or the unembedding of a network that predicts vectors is centred.
        """
        if center_unembed is None:
            center_unembed = self.cfg.input_type == "tokens"
        copy = HookedTransformer(self.cfg, self.tokenizer).to(self.W_E)
        for switch in SWITCHES:
            setattr(copy.cfg, switch, getattr(self.cfg, switch))
        copy.load_and_process_state_dict(
            self.state_dict(),
            fold_ln,
            center_writing_weights,
            center_unembed,
            fold_value_biases,
            refactor_factored_attn_matrices,
        )
        return copy.train(self.training)

    def load_and_process_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        fold_value_biases: bool = True,
        refactor_factored_attn_matrices: bool = False,
    ) -> None:
        """Load weights and simplify them in place, as TransformerLens does; ``processed`` does this for a copy."""
        check_bools(
            fold_ln=fold_ln,
            center_writing_weights=center_writing_weights,
            center_unembed=center_unembed,
            fold_value_biases=fold_value_biases,
            refactor_factored_attn_matrices=refactor_factored_attn_matrices,
        )
        folds = fold_ln and self.cfg.normalization_type in ("LN", "RMS")
        weights = _checked_weights(state_dict)
        if missing := sorted(set(self.state_dict()) - set(weights)):
            raise ValueError(f"state_dict: {missing[0]!r} is missing; it must hold every weight of this network")
        weights, whole = with_own_weights(weights, self.cfg)
        processed = process_weights(
            weights,
            whole,
            folds,
            center_writing_weights,
            center_unembed,
            fold_value_biases,
            refactor_factored_attn_matrices,
        )
        self._add_weights()
        if folds:
            self._drop_ln_weights()
        self.load_state_dict(processed)

    def _add_weights(self) -> None:
        """Give the network the biases that it lacks, and the unembedding a W_U of its own."""
        for module in self.modules():
            for name, bias in list(module.named_buffers(recurse=False)):
                if name.startswith("b_"):
                    delattr(module, name)
                    setattr(module, name, nn.Parameter(bias))
        self.cfg.biases = True
        if self.cfg.tie_word_embeddings:
            self.cfg.tie_word_embeddings = False
            self.unembed = Unembed(self.cfg).to(self.W_E)
            self.setup()

    def _drop_ln_weights(self) -> None:
        """Replace each norm with one that has no weights."""
        self.cfg.normalization_type = "LNPre" if self.cfg.normalization_type == "LN" else "RMSPre"
        self.ln_final = normalization(self.cfg, self.cfg.d_model)
        for block in self.blocks:
            block.ln1 = normalization(self.cfg, self.cfg.d_model)
            if not self.cfg.attn_only:
                block.ln2 = normalization(self.cfg, self.cfg.d_model)
                if self.cfg.act_fn == "solu_ln":
                    block.mlp.ln = LayerNormPre(self.cfg)
        self.setup()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse: pretrained language models are TransformerBridges."""
        raise ValueError(
            "from_pretrained: this class has no pretrained weights; call headway.models.convert.load_bridge(name)"
        )

    from_pretrained_no_processing = from_pretrained

    def __getattr__(self, name: str) -> Any:
        """Say what replaces a part of TransformerLens's class that this one leaves out."""
        if name in _REPLACED:
            raise AttributeError(f"HookedTransformer has no {name!r}; {_REPLACED[name]}")
        return super().__getattr__(name)

    def tokens_to_residual_directions(self, tokens: str | int | ArrayLike) -> Float[Tensor, "*shape d_model"]:
        """Return the column of W_U for each token: the residual stream times this column is the token's logit.

        Without folding, the weights of ln_final come in between: use ``processed()`` first.
        """
        if isinstance(tokens, str):
            tokens = self._single_token(tokens, "tokens")
        found = integer_tokens(tokens)
        check_range(found, self.cfg.d_vocab_out, "tokens", "the columns of W_U")
        if found.numel() == 1:
            return self.W_U[:, int(found)]
        return einops.rearrange(self.W_U[:, found], "d_model ... -> ... d_model")
