"""Sums and variances that half precision would spoil."""

import pytest
import torch

from shotseg.models.blocks.channels_last import NormReLU
from shotseg.models.tlg.transport import TransportAttention, sinkhorn
from shotseg.priors.dino_masks import similarity_masks

HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_transport_plan_keeps_its_sums_in_half_precision(dtype):
    plan = sinkhorn(torch.rand(2, 60, 60).to(dtype))
    assert torch.allclose(plan.sum(-1) * 60, torch.ones(2, 60), atol=1e-4)
    assert torch.allclose(plan.sum(-2) * 60, torch.ones(2, 60), atol=1e-3)
    attention = TransportAttention(16).to(dtype)
    assert attention(torch.rand(1, 6, 16, dtype=dtype), torch.rand(1, 6, 16, dtype=dtype)).dtype == dtype


def test_a_transport_plan_keeps_its_sums_under_autocast():
    attention = TransportAttention(16).eval()
    seen = []
    plan = attention.plan
    attention.plan = lambda weights: seen.append(plan(weights)) or seen[0]
    with torch.autocast("cpu", torch.bfloat16):
        attention(torch.rand(2, 8, 16), torch.rand(2, 8, 16))
    assert torch.allclose(seen[0].sum(-1) * 8, torch.ones(2, 8), atol=1e-4)


@pytest.mark.parametrize("dtype", HALVES)
def test_otsus_threshold_takes_half_precision(dtype):
    similarity = torch.full((1, 1, 8, 8), -0.5)
    similarity[..., 2:5, 3:7] = 0.5
    assert torch.equal(similarity_masks(similarity.to(dtype), threshold="otsu")[0] == 1, similarity[0, 0] > 0)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("spread, mean", [(1, 0), (1, 20), (3, 300), (0, 0.5), (0, 0)])
def test_the_norm_of_4d_tensors_and_its_gradients_keep_their_sums_in_half_precision(dtype, spread, mean):
    x = (spread * torch.randn(2, 2000, 8) + mean).to(dtype)
    grad = 0.1 * torch.randn(2, 2000, 8)

    def found(like):
        own = x.to(like).clone().requires_grad_()
        wide = torch.promote_types(like, torch.float32)
        weight, bias = torch.full((8,), 1, dtype=wide), torch.full((8,), 10, dtype=wide)  # of 10, so that all pass ReLU
        y = NormReLU.apply(own, weight.requires_grad_(), bias.requires_grad_(), 4, 1e-5)
        y.backward(grad.to(y))
        return [part.detach().double() for part in (y, own.grad, weight.grad, bias.grad)]

    for ours, exact in zip(found(dtype), found(torch.float64)):
        assert (ours - exact).abs().max() <= 0.03 * exact.abs().max() + 1e-3
