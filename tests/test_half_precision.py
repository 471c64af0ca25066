"""Sums and variances that half precision would spoil."""

import pytest
import torch

from shotseg.models.blocks.conv4d import Block4d
from shotseg.models.blocks.transport import TransportAttention, sinkhorn
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


def test_a_norm_of_4d_maps_with_a_large_mean_is_that_of_float32():
    torch.manual_seed(0)
    layer = Block4d(1, 4, 1).eval()
    for name, parameter in layer.named_parameters():
        if name.endswith("bias") and "norm" not in name:
            parameter.data += 8  # far from 0 beside a small spread
    x = 0.4 * torch.randn(1, 1, 3, 3, 3, 3)
    with torch.no_grad():
        wanted, found = layer(x), layer.to(torch.bfloat16)(x.bfloat16()).float()
    assert 0.5 < found.std() / wanted.std() < 2
