"""What a study looks at: a kept step of a run, or a language model that was trained elsewhere."""

from dataclasses import dataclass
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
        step: The kept step of a run; None for a bridge.
        model: The network as it computes.
        folded: The same function with LayerNorm folded into the weights, where that is possible: for what is read from
            weights.
        task: What a run was trained on, which says what its tokens are called; None for a bridge.
        tokenizer: What spells strings in its tokens; None where they stand for none.
    """

    name: str
    step: int | None
    model: Model
    folded: Model
    task: Task | None = None
    tokenizer: Any = None

    @classmethod
    def of(cls, studied: Run | TransformerBridge, at: int | None = None) -> "LoadedModel":
        """A run at one of its steps, the last if ``at`` is None; or a bridge, which has none.

        A bridge is taken as it is; ``load_bridge`` gives one whose LayerNorm is folded.

        Raises:
            ValueError: a step that was not kept, or a step of a bridge.
        """
        if isinstance(studied, Run):
            step = studied.check_step(at)
            model = studied.model(step)
            return cls(str(studied.path), step, model, folded_model(studied, step), studied.task, model.tokenizer)
        if at is not None:
            raise ValueError(f"at: {at} is not valid; a model that was not trained here has no steps")
        return cls(studied.cfg.model_name, None, studied, studied, tokenizer=studied.tokenizer)

    def tokens(self, batch: Batch) -> list[list[str]]:
        """The tokens of each sequence, as text."""
        if self.task is None:
            return [[self.tokenizer.decode([token]) for token in row] for row in batch.inputs.tolist()]
        return self.task.labels(batch)

    def token(self, token: int) -> str:
        """One token as text."""
        alone = torch.tensor([[token]])
        return self.tokens(Batch(alone, alone, torch.ones_like(alone, dtype=torch.bool)))[0][0]


def open_run_or_model(name: str) -> Run | TransformerBridge:
    """The run that a directory holds, or the language model of that name.

    A name is that of a folder that ``save_pretrained`` wrote, or else of a model on Hugging Face's hub.

    Raises:
        ValueError: neither.
    """
    path = Path(name).expanduser()
    if (path / "config.json").is_file() and not (path / "config.yaml").exists():
        return load_bridge(name)
    # What lies in a folder that is here is meant to be here.
    if not name or path.exists() or (len(path.parts) > 1 and path.parent.exists()):
        return Run(path)
    return load_bridge(name)


def folded_model(run: Run, step: int) -> HookedTransformer:
    """The network with LayerNorm folded and what it writes centred; as it is where that would change the function.

    The unembedding is not centred, so outputs stay what they are and not only their differences.
    """
    model = run.model(step)
    try:
        return model.processed(center_unembed=False)
    except ValueError:
        return model
