"""Tools of others take our networks: nnsight traces them, and devinterp samples around their weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import TOKENS, Train

from headway.models.hooked_transformer import HookedTransformer


@pytest.fixture
def network(trained: Train, tmp_path: Path) -> HookedTransformer:
    return trained(TOKENS, tmp_path / "run").model()


def test_nnsight_traces_and_edits_every_activation(network: HookedTransformer):
    nnsight = pytest.importorskip("nnsight")
    tokens = TOKENS.task.evaluation_batch(0, 5).inputs
    logits, cache = network.run_with_cache(tokens)

    def without_a_head(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        z[:, :, 0] = 0
        return z

    expected = network.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_z", without_a_head)])
    traced = nnsight.NNsight(network)
    with traced.trace(tokens):
        # Fused attention exposes no pattern; a trace sees it all the same.
        pattern = traced.blocks[1].attn.hook_pattern.output.save()
        resid = traced.blocks[1].hook_resid_post.output.save()
        output = traced.output.save()
    with traced.trace(tokens):
        traced.blocks[0].attn.hook_z.output[:, :, 0] = 0
        edited = traced.output.save()
    torch.testing.assert_close(pattern, cache["pattern", 1])
    torch.testing.assert_close(resid, cache["resid_post", 1])
    torch.testing.assert_close(output, logits)
    torch.testing.assert_close(edited, expected)
    assert not torch.allclose(edited, logits)


@pytest.mark.filterwarnings("ignore")  # devinterp's, of options that only tests use
def test_devinterp_samples_around_the_weights(network: HookedTransformer, tmp_path: Path):
    sample = pytest.importorskip("devinterp.slt.sampling").sample
    compute_llc = pytest.importorskip("devinterp.slt.llc").compute_llc
    from datasets import Dataset

    tokens = TOKENS.task.evaluation_batch(0, 11).inputs
    data: Any = Dataset.from_dict({"input_ids": tokens.tolist()}).with_format("torch")
    asked: dict[str, Any] = {
        "n_beta": 30.0, "num_chains": 1, "num_draws": 3, "batch_size": 5, "num_init_loss_batches": 2, "device": "cpu",
    }  # fmt: skip
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    still = sample(network, data, {"data": (data, 1)}, lr=1e-3, noise_level=0.0, output_path=tmp_path / "a", **asked)
    # Without noise a step goes down the gradient of n_beta / 2 times the loss.
    ids, losses = (torch.tensor(still[f"sampling_{name}_micro"].values[0]) for name in ("input_ids", "loss"))
    moved = copy.deepcopy(network)
    for step in range(2):
        logits = moved(ids[step])
        loss = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[step][:, 1:], reduction="none")
        torch.testing.assert_close(losses[step].float(), loss.detach(), atol=1e-4, rtol=1e-4)
        moved.zero_grad()
        loss.mean().backward()
        with torch.no_grad():
            for weight in moved.parameters():
                if weight.grad is not None:
                    weight -= 1e-3 * 30.0 / 2 * weight.grad
    noisy = sample(network, data, {"data": (data, 1)}, lr=1e-2, output_path=tmp_path / "b", **asked)
    assert compute_llc(noisy).llc_mean > 0 > compute_llc(still).llc_mean
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
