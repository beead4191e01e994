"""The attention of any network on sequences of one's own, as a small page: in a notebook, or in a file."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from headway.analyze.network.forward import forward_pass, shared_forward_pass
from headway.analyze.report.packed import Packed
from headway.analyze.report.page import check_page, small_page, write_page
from headway.analyze.tools.prompt import prompt_tokens
from headway.checkpoints.frame import framed
from headway.data.task import Batch
from headway.data.tokenizer import format_token
from headway.models.convert import Model

# What the patterns may take, in bytes, before they are deflated; and the sequences that one goes through.
MOST_BYTES = 2**22
MOST_SEQUENCES = 100
PADDING = "pad"


@dataclass(frozen=True)
class ShownAttention:
    """The page with the attention of a network; a notebook shows it in a frame.

    Args:
        page: The text of the page.
        title: Its title.
    """

    page: str = field(repr=False)
    title: str

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the page as one file, and give its path.

        Raises:
            ValueError: a file there that is not a page of ours, unless ``overwrite``, or that cannot be written.
        """
        return write_page(check_page(Path(path).expanduser(), overwrite), self.page, overwrite)

    def _repr_html_(self) -> str:
        return framed(self.page, self.title, 640)


def show_attention(model: Model, batch: Batch | Int[Tensor, "*batch pos"] | str) -> ShownAttention:
    """Return the attention of every head of a network on a batch, on tokens or on a prompt, for a notebook or a file.

    Args:
        model: The network: ours, or a TransformerBridge.
        batch: A batch, tokens ``[pos]`` or ``[batch, pos]``, or a prompt, which is put after BOS.

    Raises:
        ValueError: tokens that the network does not have, more positions than it reads, or a prompt for a network
            without a tokenizer.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> model, batch = composing_pair("k")
        >>> show_attention(model, batch.first(3))
        ShownAttention(title='Attention of 2 layers of 2 heads')
        >>> show_attention(model, batch.inputs[0]).save("attention.html")  # doctest: +SKIP
    """
    batch = _batch_of(model, batch)
    cfg, length = model.cfg, batch.inputs.shape[1]
    of_pairs = MOST_BYTES // (cfg.n_layers * cfg.n_heads)
    shown = min(length, int(of_pairs**0.5))
    count = min(len(batch.inputs), MOST_SEQUENCES, max(1, of_pairs // shown**2))
    some = batch.first(count)
    with shared_forward_pass():
        patterns = forward_pass(model, some.to(model.W_E.device)).patterns
    values = patterns[..., :shown, :shown].transpose(1, 2).float().cpu().numpy()
    packed, left_out = Packed(), []
    if count < len(batch.inputs):
        left_out.append(f"The first {count} of {len(batch.inputs)} sequences.")
    if shown < length:
        left_out.append(f"The first {shown} of {length} positions.")
    title = f"Attention of {cfg.n_layers} layer{'s' if cfg.n_layers > 1 else ''} of {cfg.n_heads} heads"
    data = {
        "layers": cfg.n_layers,
        "heads": cfg.n_heads,
        "leftOut": " ".join(left_out),
        "values": packed.add_shares(values[None]),
        "tokens": [row[:shown] for row in _labels(model, some)],
    }
    return ShownAttention(small_page(title, {"shown": data | {"packed": packed.text()}}), title)


def _batch_of(model: Model, given: Batch | Tensor | str) -> Batch:
    """Return a batch as it is, and one of tokens or of a prompt."""
    if isinstance(given, str):
        given = prompt_tokens(model, given)
    if isinstance(given, Tensor):
        tokens = given[None] if given.ndim == 1 else given
        d_vocab = model.cfg.d_vocab
        if tokens.ndim != 2 or tokens.is_floating_point() or not tokens.numel():
            raise ValueError(
                f"batch: a tensor of shape {tuple(given.shape)} and type {given.dtype} is not valid; it must be tokens "
                "[pos] or [batch, pos]"
            )
        if not (int(tokens.min()) >= 0 and int(tokens.max()) < d_vocab):
            raise ValueError(f"batch: token {int(tokens.max())} is not valid; tokens must be 0 to {d_vocab - 1}")
        given = Batch(tokens, tokens, torch.ones_like(tokens, dtype=torch.bool))
    if not isinstance(given, Batch):
        raise ValueError(f"batch: {type(given).__name__} is not valid; it must be a Batch, tokens or a prompt")
    if given.inputs.shape[1] > model.cfg.n_ctx:
        raise ValueError(
            f"batch: {given.inputs.shape[1]} positions are not valid; this network reads at most {model.cfg.n_ctx}"
        )
    return given


def _labels(model: Model, batch: Batch) -> list[list[str]]:
    """Return the token at each position as text; what is padding as such."""
    tokenizer = getattr(model, "tokenizer", None)
    if batch.task is not None:
        labels = batch.task.labels(batch)
    elif batch.inputs.is_floating_point():
        labels = [[f"x{position}" for position in range(batch.inputs.shape[1])] for _ in batch.inputs]
    elif tokenizer is not None:
        labels = [[format_token(tokenizer, token)[1:-1] for token in row] for row in batch.inputs.tolist()]
    else:
        labels = [[str(token) for token in row] for row in batch.inputs.tolist()]
    real = batch.real.tolist()
    return [
        [label if is_real else PADDING for label, is_real in zip(row, of_row, strict=True)]
        for row, of_row in zip(labels, real, strict=True)
    ]
