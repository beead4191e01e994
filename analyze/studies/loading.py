"""A network with what a study needs to know of it: a checkpoint of a run, or a language model trained elsewhere."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from headway.checkpoints.run import Run
from headway.data.task import Batch, Task
from headway.models.convert import Model, load_bridge
from headway.models.hooked_transformer import HookedTransformer


@dataclass(frozen=True)
class LoadedModel:
    """A network, as a study sees it.

    Args:
        name: Where it comes from: the run's directory, or the model's name.
        step: The checkpoint of a run; None for a bridge.
        model: The network as it computes.
        run: The run; None for a bridge.
    """

    name: str
    step: int | None
    model: Model
    run: Run | None = None

    @classmethod
    def of(cls, source: Run | TransformerBridge, at: int | None = None) -> "LoadedModel":
        """A run at one of its checkpoints, the last if ``at`` is None; or a bridge, which has none.

        A bridge is taken as it is; ``load_bridge`` gives one whose LayerNorm is folded.

        Raises:
            ValueError: a step that was not kept, or a step of a bridge.
        """
        if isinstance(source, Run):
            step = source.check_step(at)
            return cls(str(source.path), step, source.model(step), source)
        if at is not None:
            raise ValueError(f"at: {at} is not valid; a model that was not trained here has no steps")
        return cls(source.cfg.model_name, None, source)

    @cached_property
    def folded(self) -> Model:
        """The same function with LayerNorm folded and what is written centred, where that is possible.

        For what is read from weights. The unembedding is not centred, so outputs stay what they are and not only
        their differences.
        """
        if not isinstance(self.model, HookedTransformer):
            return self.model
        try:
            return self.model.processed(center_unembed=False)
        except ValueError:
            return self.model

    @property
    def task(self) -> Task | None:
        """What a run was trained on, which says what its tokens are called; None for a bridge."""
        return None if self.run is None else self.run.task

    @property
    def tokenizer(self) -> Any:
        """What spells strings in its tokens; None where they stand for none."""
        return self.model.tokenizer

    @property
    def eval_seed(self) -> int:
        """The seed of sequences to evaluate on: the run's, 0 for a bridge."""
        return 0 if self.run is None else self.run.recipe.eval_seed

    def tokens(self, batch: Batch) -> list[list[str]]:
        """The tokens of each sequence, as text."""
        if self.task is None:
            return [[self.tokenizer.decode([token]) for token in row] for row in batch.inputs.tolist()]
        return self.task.labels(batch)

    def token(self, token: int) -> str:
        """One token as text."""
        alone = torch.tensor([[token]])
        return self.tokens(Batch(alone, alone, torch.ones_like(alone, dtype=torch.bool)))[0][0]

    def labels(self, batch: Batch) -> list[str]:
        """The tokens of the first sequence, each with its position."""
        return [f"{q}: {token}" for q, token in enumerate(self.tokens(batch)[0])]


def open_run_or_model(name: str) -> Run | TransformerBridge:
    """The run that a directory holds, or the language model of that name.

    A name is that of a folder that ``save_pretrained`` wrote, or else of a model on Hugging Face's hub.

    Raises:
        ValueError: neither.
    """
    return load_bridge(name) if is_model_name(name) else Run(name)


def is_model_name(name: str) -> bool:
    """Whether a name is that of a language model, and not of a directory that holds a run or should.

    Example:
        >>> is_model_name("roneneldan/TinyStories-1M"), is_model_name("."), is_model_name("")
        (True, False, False)
    """
    path = Path(name).expanduser()
    if (path / "config.json").is_file() and not (path / "config.yaml").exists():
        return True
    # What lies in a folder that is here is meant to be here.
    return bool(name) and not path.exists() and not (len(path.parts) > 1 and path.parent.exists())
