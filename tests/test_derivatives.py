"""The network has derivatives of every order, by every way of torch to take them, and one value in every dtype.

The fused kernels give the values and gradients of ordinary training; where they have no formula, the explicit steps
give it. Forcing the explicit steps, by a hook on each of them, is the reference.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_networks import assert_close, inputs_for, keep, network
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from headway.models.hooked_transformer import HookedTransformer

SIZES: dict[str, Any] = {
    "d_model": 5,
    "d_head": 3,
    "n_heads": 2,
    "d_vocab": 7,
    "d_vocab_out": 7,
    "d_mlp": 3,
    "n_ctx": 11,
}
Parameters = dict[str, Tensor]
KINDS: list[dict[str, Any]] = [
    {"positional_embedding_type": positions, "normalization_type": norm, "attention_dir": direction, **more}
    for positions, norm, direction, more in [
        ("standard", "LN", "causal", {}),
        ("standard", "LNPre", "bidirectional", {"act_fn": "gelu"}),
        ("shortformer", "LN", "causal", {"act_fn": "solu_ln"}),
        ("shortformer", None, "bidirectional", {"attn_only": True}),
        ("none", "LNPre", "causal", {"act_fn": "silu"}),
        ("none", None, "causal", {"act_fn": "gelu_new"}),
    ]
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))


def write_out(model: HookedTransformer) -> HookedTransformer:
    """The same network, which now computes each step explicitly."""
    model.add_hook(lambda name: name.endswith(("hook_pattern", "hook_normalized")), keep)
    return model


def loss_of(model: HookedTransformer) -> Callable[[Parameters], Tensor]:
    tokens = inputs_for(model)
    return lambda parameters: functional_call(model, parameters, (tokens,), {"return_type": "loss"})


def parameters_of(model: nn.Module) -> Parameters:
    return {name: parameter.detach().requires_grad_() for name, parameter in model.named_parameters()}


def by_double_backward(loss: Callable[[Parameters], Tensor], at: Parameters, direction: Parameters) -> Parameters:
    """The Hessian of the loss times a direction: the gradient of the gradient's product with it."""
    gradient = torch.autograd.grad(loss(at), list(at.values()), create_graph=True, materialize_grads=True)
    along = sum((g * d).sum() for g, d in zip(gradient, direction.values(), strict=True))
    assert isinstance(along, Tensor)
    return dict(zip(at, torch.autograd.grad(along, list(at.values()), materialize_grads=True), strict=True))


WAYS: dict[str, Callable[[Callable[[Parameters], Tensor], Parameters, Parameters], Parameters]] = {
    "double backward": by_double_backward,
    "forward over reverse": lambda loss, at, direction: jvp(grad(loss), (at,), (direction,))[1],
    "reverse over reverse": lambda loss, at, direction: vjp(grad(loss), at)[1](direction)[0],
    "reverse over forward": lambda loss, at, direction: grad(lambda p: jvp(loss, (p,), (direction,))[1])(at),
}


@kinds
@pytest.mark.parametrize("way", WAYS)
def test_hessian_vector_products_are_those_of_the_explicit_steps(kind: dict[str, Any], way: str):
    model = network(**SIZES, **kind)
    draws = torch.Generator().manual_seed(3)
    at = parameters_of(model)
    direction = {name: torch.randn(p.shape, generator=draws, dtype=p.dtype) for name, p in at.items()}
    product = WAYS[way](loss_of(model), at, direction)
    explicit = by_double_backward(loss_of(write_out(model)), at, direction)
    assert any(part.any() for part in explicit.values())
    for name in at:
        assert_close(product[name].detach(), explicit[name].detach(), 1e-11)


@kinds
def test_a_directional_derivative_is_the_gradient_along_the_direction(kind: dict[str, Any]):
    model = network(**SIZES, **kind)
    at = parameters_of(model)
    direction = {name: torch.ones_like(p) for name, p in at.items()}
    gradient = torch.autograd.grad(loss_of(model)(at), list(at.values()), materialize_grads=True)
    along = sum(g.sum() for g in gradient)
    assert isinstance(along, Tensor)
    assert_close(jvp(loss_of(model), (at,), (direction,))[1].detach(), along)
    with torch.autograd.forward_ad.dual_level():
        duals = {name: torch.autograd.forward_ad.make_dual(p, direction[name]) for name, p in at.items()}
        assert_close(torch.autograd.forward_ad.unpack_dual(loss_of(model)(duals)).tangent.detach(), along)  # pyright: ignore


@pytest.mark.parametrize("attention_dir", ["causal", "bidirectional"])
def test_hessians_of_the_input_agree_however_they_are_taken(attention_dir: str):
    model = network(**SIZES, input_type="vectors", attention_dir=attention_dir, n_layers=1)
    inputs = inputs_for(model)[:1, :3]

    def output(vectors: Tensor) -> Tensor:
        return model(vectors).pow(2).sum()

    functional = torch.autograd.functional
    taken = [
        functional.hessian(output, inputs),
        functional.hessian(output, inputs, vectorize=True),
        hessian(output)(inputs),
        jacfwd(jacrev(output))(inputs),
        jacrev(jacrev(output))(inputs),
    ]
    write_out(model)
    explicit = functional.hessian(output, inputs)
    for one in taken:
        assert_close(one.detach(), explicit, 1e-10)  # pyright: ignore


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_in_half_precision_are_those_of_the_explicit_steps(kind: dict[str, Any], dtype: torch.dtype):
    model = network(**SIZES, **kind, dtype=dtype)
    exact = network(**SIZES, **kind, dtype=torch.float32)
    exact.load_state_dict(model.state_dict())

    def gradients(of: HookedTransformer) -> Tensor:
        at = parameters_of(of)
        found = torch.autograd.grad(loss_of(of)(at), list(at.values()), materialize_grads=True)
        return torch.cat([gradient.flatten().float() for gradient in found])

    fused, reference = gradients(model), gradients(exact)
    explicit = gradients(write_out(model))
    for one in (fused, explicit):
        assert one.dtype == torch.float32
        assert (one - reference).norm() < 16 * torch.finfo(dtype).eps * reference.norm()


def test_third_derivatives_are_those_of_the_explicit_steps():
    model = network(**SIZES, input_type="vectors", n_layers=1, attn_only=True)
    start = inputs_for(model)[:1, :3]

    def third(along: Tensor) -> Tensor:
        derivative = model(start * along).pow(2).sum()
        for _ in range(3):
            (derivative,) = torch.autograd.grad(derivative, along, create_graph=True)
        return derivative.detach()

    scale = torch.ones((), dtype=start.dtype, requires_grad=True)
    fused = third(scale)
    write_out(model)
    explicit = third(scale)
    assert explicit.abs() > 0.1
    torch.testing.assert_close(fused, explicit, rtol=1e-9, atol=0)


def test_second_derivatives_leave_frozen_weights_alone():
    model = network(**SIZES)
    values = model.blocks[0].attn.W_V
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "blocks.0.attn.W_V")

    def product() -> Tensor:
        (gradient,) = torch.autograd.grad(model(inputs_for(model), return_type="loss"), values, create_graph=True)
        return torch.autograd.grad(gradient.pow(2).sum(), values)[0]

    fused = product()
    write_out(model)
    assert_close(fused, product())


def test_a_batch_of_networks_is_mapped():
    models = [network(seed=seed, **SIZES) for seed in range(3)]
    tokens = inputs_for(models[0])
    stacked = {name: torch.stack([m.state_dict()[name] for m in models]) for name in models[0].state_dict()}
    outputs = vmap(lambda parameters: functional_call(models[0], parameters, (tokens,)))(stacked)
    for model, output in zip(models, outputs, strict=True):
        assert_close(output, model(tokens).detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@kinds
def test_both_paths_are_as_exact_in_every_dtype(kind: dict[str, Any], dtype: torch.dtype):
    """Each path is at most a few roundings from the network in float64, and returns its own dtype."""
    model = network(dtype=dtype, **kind)
    exact = network(**kind)
    exact.load_state_dict({name: weight.double() for name, weight in model.state_dict().items()})
    tokens = inputs_for(model, batch=7)
    expected = exact(tokens).detach()
    errors = []
    for path in (model, write_out(model)):
        output = path(tokens)
        assert output.dtype == dtype
        errors.append((output.double() - expected).pow(2).mean().sqrt().item())
    assert max(errors) < 16 * torch.finfo(dtype).eps * expected.std().item()
    assert max(errors) < 1.5 * min(errors)


def test_a_hook_may_give_queries_another_dtype():
    model = network(dtype=torch.bfloat16, n_layers=1, normalization_type=None)
    tokens = inputs_for(model)
    hook = ("blocks.0.attn.hook_q", lambda q, hook: q.float())
    promoted = model.run_with_hooks(tokens, fwd_hooks=[hook])
    assert promoted.dtype == torch.bfloat16
    assert torch.equal(promoted, write_out(model)(tokens))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_an_empty_batch_gives_an_empty_output(shape: tuple[int, int]):
    model = network()
    empty = torch.zeros(shape, dtype=torch.long)
    for path in (model, write_out(model)):
        assert path(empty).shape == (*shape, model.cfg.d_vocab_out)
