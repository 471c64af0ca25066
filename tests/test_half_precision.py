"""Sums and variances that half precision would spoil."""

import pytest
import torch

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
