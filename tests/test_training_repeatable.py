"""Trainings that end with the same weights on a GPU too: the flag that asks for it, and what it says where that cannot be."""

import os

import pytest
import torch
from safetensors.torch import load_file

import training_miniature as miniature
from shotseg.errors import UsageError
from shotseg.training.few_shot import FewShot
from shotseg.training.run import train

STEP = FewShot.loss


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return miniature.squares(tmp_path_factory.mktemp("photos"))


def trained(photos, out, monkeypatch, deterministic, step=STEP):
    """The weights, and of each step whether the same sums were asked for."""
    asked = []
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def noted(model, batch):
        asked.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        return step(model, batch)

    monkeypatch.setattr(FewShot, "loss", staticmethod(noted))
    train(
        miniature.settings("guided/tiny", deterministic=deterministic), photos, out, device="cpu", say=lambda line: None
    )
    return load_file(out / "last.safetensors"), asked


def test_the_same_sums_are_asked_for_in_every_step_where_the_recipe_says_so_and_nowhere_else(
    photos, tmp_path, monkeypatch
):
    plain, asked = trained(photos, tmp_path / "plain", monkeypatch, False)
    assert asked == [(False, None)] * 2
    same, asked = trained(photos, tmp_path / "same", monkeypatch, True)
    assert asked == [(True, ":4096:8")] * 2
    assert not torch.are_deterministic_algorithms_enabled()
    assert plain.keys() == same.keys() and all(torch.equal(plain[name], same[name]) for name in plain)


def test_an_operation_that_has_no_such_form_is_named_in_one_line(photos, tmp_path, monkeypatch):
    def step(model, batch):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
        return STEP(model, batch)

    assert trained(photos, tmp_path / "plain", monkeypatch, False, step)[0]
    with pytest.raises(UsageError, match=r"^deterministic: put_ has no form here .* or train with --device cpu$"):
        trained(photos, tmp_path / "same", monkeypatch, True, step)
    assert not torch.are_deterministic_algorithms_enabled()
