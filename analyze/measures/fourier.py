"""Progress measures of modular addition, from the Fourier transform of the logits (Nanda et al. 2023).

Logits are those at the last position, of all p² pairs (a, b) and not of the batch. Frequency k stands for w = 2πk/p.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from headway.analyze.network.forward import shared
from headway.analyze.network.interventions import output_with
from headway.analyze.network.requirements import DoesNotApplyError
from headway.data.modular_addition import ModularAddition
from headway.data.task import Batch
from headway.models.convert import Model

# Pairs that run through a network together.
TOGETHER = 2048


def frequency_share(model: Model, batch: Batch) -> xr.Dataset:
    """Share of the logits' variance that is a wave of each frequency in a + b - c, in modular addition.

    ``frequency_share`` [frequency], frequencies 1..(p-1)/2, in [0, 1]: with logits[a, b, c] minus their mean over c and
    minus their mean over all pairs, ``‖projection on cos(w (a + b - c)) and sin(w (a + b - c))‖² / ‖logits‖²``. A
    network that adds by Fourier multiplication has large shares at a few frequencies. Null: 2 / (p² (p - 1)), the mean
    of random logits; one that knows a share of all pairs by heart has this share, spread evenly over the frequencies.
    NaN for constant logits. It does not show whether neurons or attention carry a frequency.

    Raises:
        DoesNotApplyError: another task than modular addition, or an even modulus.

    Example:
        >>> from headway.models.handmade import table_of_sums, waves
        >>> found = frequency_share(*table_of_sums(waves(2))).frequency_share
        >>> found.sel(frequency=[1, 2, 3]).round(3).values.tolist()
        [0.0, 1.0, 0.0]
    """
    task = _task("frequency_share", batch)
    shares = _shares(_logits(model, batch, task))
    return xr.Dataset(
        {"frequency_share": (("frequency",), shares.float().numpy())}, {"frequency": range(1, (task.p + 1) // 2)}
    )


def key_frequencies(model: Model, batch: Batch) -> xr.Dataset:
    """Number of key frequencies of modular addition: those with more than an equal share of the logits' variance.

    ``key_frequencies`` counts the frequencies whose ``frequency_share`` is above 2 / (p - 1), which it would be if all
    were equal, in 0..(p-1)/2. Null 0: random logits, and those of a network that knows pairs by heart, have none. Nanda
    et al. 2023 name five of a trained network. It does not show that the network uses these frequencies alone: compare
    ``restricted_loss``.

    Raises:
        DoesNotApplyError: another task than modular addition, or an even modulus.

    Example:
        >>> from headway.models.handmade import table_of_sums, waves
        >>> key_frequencies(*table_of_sums(waves(1, 3))).key_frequencies.item()
        2
    """
    task = _task("key_frequencies", batch)
    return xr.Dataset({"key_frequencies": ((), len(_keys(_logits(model, batch, task))))})


def excluded_loss(model: Model, batch: Batch, frequencies: Sequence[int] | None = None) -> xr.Dataset:
    """Loss on the training pairs of modular addition without the key frequencies: how much is known by heart.

    From the logits of each c, the projections on cos(w (a + b)) and sin(w (a + b)) of the key frequencies are
    subtracted; the loss is that of the rest. 0 or more, in nats; where there are no key frequencies it is the loss on
    the training pairs. It falls while a network memorises, and rises when it generalises. Null: ln p, which is left
    where nothing is known by heart. It does not show how the network does on pairs that are held out.

    Args:
        model: The network.
        batch: Sequences of modular addition, whose task says which pairs are trained on.
        frequencies: The key frequencies; by default those of this network (``key_frequencies``). Nanda et al. 2023 take
            those of the trained network at every checkpoint.

    Raises:
        DoesNotApplyError: another task than modular addition, or an even modulus.
        ValueError: a frequency that does not exist.

    Example:
        >>> from headway.models.handmade import table_of_sums, waves
        >>> round(excluded_loss(*table_of_sums(waves(2))).excluded_loss.item(), 3)  # ln 7: nothing else is there
        1.946
    """
    task = _task("excluded_loss", batch)
    logits = _logits(model, batch, task)
    keys = _keys(logits) if frequencies is None else _checked(frequencies, task)
    rest = logits - _of_sums(_waves(_by_sum(logits), keys))
    training = task.training_batch(0, 0, task.n_sequences.training)
    a, b, _ = training.inputs.unbind(1)
    loss = F.cross_entropy(rest[a, b], training.targets[:, -1])
    return xr.Dataset({"excluded_loss": ((), loss.float().numpy())})


def restricted_loss(model: Model, batch: Batch, frequencies: Sequence[int] | None = None) -> xr.Dataset:
    """Loss on all pairs of modular addition with the key frequencies alone: how well Fourier multiplication works.

    Of the logits of each c, their mean over all pairs and the projections on cos(w (a + b)) and sin(w (a + b)) of the
    key frequencies are kept; the loss is that of these. 0 or more, in nats. Null: ln p, or a little more: without key
    frequencies only the mean is left. It falls before the loss on held-out pairs does. It does not show what else the
    network knows: compare ``excluded_loss``, which has the same arguments and errors.

    Example:
        >>> from headway.models.handmade import table_of_sums, waves
        >>> round(restricted_loss(*table_of_sums(waves(2, size=20.0))).restricted_loss.item(), 3)
        0.001
    """
    task = _task("restricted_loss", batch)
    logits = _logits(model, batch, task)
    keys = _keys(logits) if frequencies is None else _checked(frequencies, task)
    kept = logits.mean((0, 1)) + _waves(_by_sum(logits), keys)
    loss = F.cross_entropy(kept, torch.arange(task.p))
    return xr.Dataset({"restricted_loss": ((), loss.float().numpy())})


def _task(measure: str, batch: Batch) -> ModularAddition:
    """Return the task of the batch; refuse one that is not modular addition of odd p."""
    task = batch.task
    if not isinstance(task, ModularAddition):
        name = "no task" if task is None else type(task).__name__
        raise DoesNotApplyError(f"{measure} needs the task ModularAddition; this batch is of {name}")
    if task.p % 2 == 0:
        raise DoesNotApplyError(f"{measure} needs an odd modulus; this batch has p = {task.p}")
    return task


def _checked(frequencies: Sequence[int], task: ModularAddition) -> list[int]:
    for k in frequencies:
        if not 1 <= k <= task.p // 2:
            raise ValueError(f"frequencies: {k} is not valid; it must be from 1 to {task.p // 2}")
    return list(frequencies)


def _logits(model: Model, batch: Batch, task: ModularAddition) -> Float[Tensor, "a b c"]:
    """Return the logits of all pairs at the last position, minus their mean over c, in float64 on the CPU."""
    every = _every_pair(task, batch.inputs.device)

    def run() -> Float[Tensor, "a b c"]:
        outputs = [output_with(model, every.at(slice(i, i + TOGETHER)), []) for i in range(0, task.p**2, TOGETHER)]
        logits = torch.cat([output[:, -1, : task.p] for output in outputs]).cpu().double().view((task.p,) * 3)
        return logits - logits.mean(-1, keepdim=True)

    return shared(model, every, run)


@lru_cache(maxsize=4)
def _every_pair(task: ModularAddition, device: torch.device) -> Batch:
    return task.sequences().to(device)


def _by_sum(logits: Float[Tensor, "a b c"]) -> Float[Tensor, "sum c"]:
    """Return the mean logits of all pairs with the same sum."""
    p = len(logits)
    return torch.zeros(p, p).to(logits).index_add(0, _sums(p).flatten(), logits.flatten(0, 1)) / p


def _of_sums(table: Float[Tensor, "sum c"]) -> Float[Tensor, "a b c"]:
    """Return the row of its sum for each pair."""
    return table[_sums(len(table))]


def _sums(p: int) -> Int[Tensor, "a b"]:
    return (torch.arange(p)[:, None] + torch.arange(p)) % p


def _waves(table: Float[Tensor, "sum c"], frequencies: Sequence[int]) -> Float[Tensor, "sum c"]:
    """Return the part of each column that consists of waves of these frequencies."""
    coefficients = torch.fft.rfft(table, dim=0)
    kept = torch.zeros_like(coefficients)
    kept[list(frequencies)] = coefficients[list(frequencies)]
    return torch.fft.irfft(kept, n=len(table), dim=0)


def _shares(logits: Float[Tensor, "a b c"]) -> Float[Tensor, " frequency"]:
    p = len(logits)
    by_sum = _by_sum(logits)
    # The mean over all entries with the same a + b - c, by a + b - c.
    difference = (torch.arange(p)[:, None] - torch.arange(p)) % p
    wave = torch.zeros(p).to(logits).index_add(0, difference.flatten(), by_sum.flatten()) / p
    power = 2 * torch.fft.rfft(wave)[1:].abs() ** 2 / p
    total = ((logits - logits.mean((0, 1))) ** 2).sum()
    # Rounding of float32 outputs is no variance.
    return p**2 * power / total.where(total > 1e-10 * p**3, math.nan)


def _keys(logits: Float[Tensor, "a b c"]) -> list[int]:
    equal = 2 / (len(logits) - 1)
    return [k for k, share in enumerate(_shares(logits).tolist(), 1) if share > equal * (1 + 1e-6)]
