"""``make bench``: what fused attention saves in a training step, and what a look at every measure costs.

Ratios of runs that alternate in one process, medians over rounds; absolute times depend on the machine and are no mark.
"""

import statistics
import time
from collections.abc import Callable

import torch

from headway.analyze import MEASURES
from headway.analyze.attention import patterns_computed_once
from headway.data.task import masked_mean
from headway.models.hooked_transformer import HookedTransformer
from headway.train import RECIPES

ROUNDS = 15
STEPS = 10


def seconds(work: Callable[[], object], times: int = STEPS) -> float:
    """Wall time of one call, over ``times`` calls."""
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times


def ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float, float]:
    """Median of ours / theirs over alternating rounds, and each one's median in milliseconds."""
    for warm_up in (ours, theirs):
        seconds(warm_up, 3)
    rounds = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
    a, b = zip(*rounds, strict=True)
    return statistics.median(x / y for x, y in rounds), 1e3 * statistics.median(a), 1e3 * statistics.median(b)


def step_of(model: torch.nn.Module, run: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
    """One update of the induction recipe with ``run`` as the forward pass."""
    recipe = RECIPES["induction"]
    batch = recipe.task.batch(seed=0, index=0, batch_size=recipe.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        masked_mean(recipe.task.loss(run(batch.inputs), batch), batch.mask).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def main() -> None:
    """Print the table."""
    recipe = RECIPES["induction"]
    model = HookedTransformer(recipe.model)
    explicit = HookedTransformer(recipe.model)
    for block in explicit.blocks:
        block.attn.hook_pattern.add_hook(lambda pattern, hook: None)  # pyright: ignore
    fused, written_out = step_of(model, model), step_of(explicit, explicit)
    share, ours, theirs = ratio(fused, written_out)
    print(f"training step, fused / explicit attention: {share:.2f}  ({ours:.1f} ms / {theirs:.1f} ms)")

    batch = recipe.task.evaluation_batch(0, recipe.eval_batch_size)

    def score() -> None:
        with patterns_computed_once():
            for each in MEASURES:
                each(model, batch)

    share, ours, theirs = ratio(score, fused)
    print(f"all measures once / training step:         {share:.2f}  ({ours:.1f} ms / {theirs:.1f} ms)")


if __name__ == "__main__":
    main()
