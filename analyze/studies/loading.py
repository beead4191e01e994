"""Networks as studies load them: a checkpoint of a run, or a language model."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from headway.analyze.studies.study import is_model_name
from headway.checkpoints.run import Run
from headway.data.task import Batch, Task
from headway.data.tokenizer import token_string
from headway.models.convert import Model, load_bridge
from headway.models.hooked_transformer import HookedTransformer


@dataclass(frozen=True)
class LoadedModel:
    """A network, with the run that it comes from.

    Args:
        name: The directory of the run, or the name of the language model.
        step: The checkpoint of the run; None for a TransformerBridge.
        model: The network.
        run: The run; None for a TransformerBridge.
    """

    name: str
    step: int | None
    model: Model
    run: Run | None = None

    @classmethod
    def of(cls, source: Run | TransformerBridge, at: int | None = None) -> "LoadedModel":
        """Load a run at a checkpoint (the last one if ``at`` is None), or take a TransformerBridge as it is.

        Raises:
            ValueError: a checkpoint that the run does not have, any checkpoint of a TransformerBridge.
        """
        if isinstance(source, Run):
            step = source.check_step(at)
            return cls(str(source.path), step, source.model(step), source)
        if at is not None:
            raise ValueError(f"at: {at} is not valid; a language model has no checkpoints here")
        return cls(source.cfg.model_name, None, source)

    @cached_property
    def folded(self) -> Model:
        """The same function with LayerNorm folded into the weights and writing weights centred, where possible.

        For measures of weights. The unembedding is not centred, so that the outputs stay the same and not only their
        differences. ``load_bridge`` has folded a TransformerBridge already.
        """
        if not isinstance(self.model, HookedTransformer):
            return self.model
        try:
            return self.model.processed(center_unembed=False)
        except ValueError:
            return self.model

    @property
    def task(self) -> Task | None:
        """The task of the run, which also names its tokens; None for a TransformerBridge."""
        return None if self.run is None else self.run.task

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; None where tokens stand for no strings."""
        return self.model.tokenizer

    @property
    def eval_seed(self) -> int:
        """The seed of evaluation sequences: that of the run, 0 for a TransformerBridge."""
        return 0 if self.run is None else self.run.recipe.eval_seed

    def tokens(self, batch: Batch) -> list[list[str]]:
        """Return the tokens of each sequence as text; one that is only a part of a character is shown by its bytes."""
        if self.task is None:
            return [[token_string(self.tokenizer, token) for token in row] for row in batch.inputs.tolist()]
        return self.task.labels(batch)

    def token(self, token: int) -> str:
        """Return one token as text."""
        alone = torch.tensor([[token]])
        return self.tokens(Batch(alone, alone, torch.ones_like(alone, dtype=torch.bool)))[0][0]

    def labels(self, batch: Batch) -> list[str]:
        """Return the tokens of the first sequence as text, each with its position."""
        return [f"{q}: {token}" for q, token in enumerate(self.tokens(batch)[0])]


def open_run_or_model(name: str) -> Run | TransformerBridge:
    """Open the run in a directory, or load the language model of that name.

    The name of a language model is a folder that ``save_pretrained`` wrote, or a model on Hugging Face's hub.

    Raises:
        ValueError: a name of neither.
    """
    return load_bridge(name) if is_model_name(name) else Run(name)
