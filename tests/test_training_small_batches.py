"""Trainings whose batches, or parts of them, hold a single photo."""

import pytest
import torch
from torch import nn

import training_miniature as miniature
from shotseg.errors import UsageError
from shotseg.models.blocks.norm import BatchNorm
from shotseg.training import checkpoint
from shotseg.training.run import train


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return miniature.squares(tmp_path_factory.mktemp("photos"))


@pytest.mark.parametrize("batch, accumulate", [(1, 1), (2, 2)])
@pytest.mark.parametrize("cached", [False, True])
def test_a_base_learner_learns_from_single_photos(photos, tmp_path, batch, accumulate, cached):
    recipe = miniature.settings("base-learner/tiny", batch=batch, accumulate=accumulate, cache_features=cached)
    outcome = train(recipe, photos, tmp_path, device="cpu", say=lambda line: None)
    assert all(tensor.isfinite().all() for tensor in checkpoint.read(outcome.best)[0].values())


@pytest.mark.parametrize(
    "system", ["pfenet", "bam", "hdmnet", "hsnet", "tlg", "cst", "corenet", "maskformer", "contrastive"]
)
def test_every_system_learns_from_single_photos_at_the_smallest_size(photos, tmp_path, system):
    size = 64 if system in ("contrastive", "maskformer") else 32
    changes = {"model": {"size": size}, "batch": 1}
    outcome = train(
        miniature.settings(f"{system}/tiny", **changes), photos, tmp_path, device="cpu", say=lambda line: None
    )
    assert outcome.steps == 2


def test_contrastive_views_of_one_point_are_refused_before_the_work(photos, tmp_path):
    recipe = miniature.settings("contrastive/tiny", model={"size": 32})
    with pytest.raises(UsageError, match="views of 32 pixels: efficientnet-lite0 makes one point of them; give 64"):
        train(recipe, photos, tmp_path, device="cpu", say=lambda line: None)
    assert not (tmp_path / "superpixels").exists()


def test_a_norm_of_one_value_a_channel_takes_its_running_statistics_and_keeps_them():
    norm = BatchNorm(3)
    x = torch.randn(4, 3, 2, 2)
    usual = nn.BatchNorm2d(3)
    assert torch.equal(norm(x), usual(x))
    kept = norm.running_mean.clone()
    single = norm(x[:1, :, :1, :1])
    assert torch.equal(single, norm.eval()(x[:1, :, :1, :1])) and torch.equal(norm.running_mean, kept)
