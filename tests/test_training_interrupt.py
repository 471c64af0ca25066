"""A training that is interrupted keeps what it has done, and says how to go on; and what may change when it does."""

import os
import re
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

import warm
from shotseg.cli import main
from shotseg.errors import UsageError
from shotseg.training import checkpoint, interrupt, progress
from shotseg.training.run import train
from training_miniature import TINY, settings, squares

QUIET = {"device": "cpu", "say": lambda line: None}
FLAGS = ["--model.size", "64", "--model.weights", "random", "--data.fold", "", "--data.held-out", "0.4", "--batch", "2"]
FLAGS += ["--data.test-classes", "cross", "--validation.every", "0", "--validation.episodes", "2", "--steps", "400"]
FLAGS += ["--no-cache-features", "--save-every", "300", "--device", "cpu", "--model.encoder", TINY]


@pytest.fixture(autouse=True)
def ctrl_c_as_a_person_has_it():
    """A shell starts its background jobs with Ctrl-C ignored, those that run tests too."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return squares(tmp_path_factory.mktemp("photos"))


@pytest.mark.parametrize("number, workers", [(signal.SIGINT, "0"), (signal.SIGINT, "1"), (signal.SIGTERM, "0")])
def test_an_interrupted_training_is_kept_at_the_step_it_stood(photos, tmp_path, number, workers, capsys):
    verb = ["train", "guided/tiny", "--root", str(photos), "--out", str(tmp_path), *FLAGS, "--workers", workers]
    process = warm.shotseg(tmp_path / "said", *verb)
    metrics = tmp_path / "metrics.jsonl"
    while process.poll() is None and (not metrics.is_file() or metrics.read_text().count("\n") < 5):
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as a terminal sends it: to the processes that read photos too
    code, said = process.wait(), process.err.read_text()
    assert code == 130, said
    assert "Traceback" not in said and "with --resume to go on" in said.splitlines()[-1]
    step = checkpoint.read(tmp_path / "last.safetensors")[1]["step"]
    assert 5 <= step < 300 and step == metrics.read_text().count("\n")
    assert main(verb) == 2 and "add --resume to go on with it, or choose another --out" in capsys.readouterr().err


def test_a_run_stopped_by_a_signal_goes_on_to_the_same_weights(photos, tmp_path, monkeypatch):
    recipe = settings("guided/tiny", steps=6)
    train(recipe, photos, tmp_path / "whole", **QUIET)
    write = progress.Log.step

    def stopped(self, step, *rest):
        write(self, step, *rest)
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(progress.Log, "step", stopped)
        train(recipe, photos, tmp_path / "parts", **QUIET)
    assert checkpoint.read(tmp_path / "parts" / "last.safetensors")[1]["step"] == 4  # the step after the signal
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(recipe, photos, tmp_path / "parts", resume=True, **QUIET)
    whole, parts = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_signal_that_is_ignored_stays_so_and_the_second_one_stops_at_once():
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt.postponed() as wanted:
            signal.raise_signal(signal.SIGINT)
            assert not wanted.asked
    finally:
        signal.signal(signal.SIGINT, usual)
    with pytest.raises(KeyboardInterrupt), interrupt.postponed() as wanted:
        signal.raise_signal(signal.SIGINT)
        assert wanted.asked
        signal.raise_signal(signal.SIGINT)


def test_steps_that_were_done_are_not_started_over_without_a_word(photos, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')  # killed before anything was kept
    with pytest.raises(UsageError, match="add --resume"):
        train(settings("guided/tiny"), photos, tmp_path, **QUIET)
    assert train(settings("guided/tiny"), photos, tmp_path, resume=True, **QUIET).steps == 2


def test_what_does_not_change_the_result_may_change_on_resume(photos, tmp_path):
    constant = {"schedule": {"name": "constant"}}
    train(settings("guided/tiny", **constant), photos, tmp_path, **QUIET)
    longer = settings("guided/tiny", steps=3, save_every=7, workers=1, **constant)
    assert train(longer, photos, tmp_path, resume=True, **QUIET).steps == 3
    with pytest.raises(UsageError, match="another batch"):
        train(settings("guided/tiny", batch=4, **constant), photos, tmp_path, resume=True, **QUIET)


def test_a_longer_training_ends_with_the_same_weights_where_the_rate_does_not_depend_on_its_length(photos, tmp_path):
    constant = {"schedule": {"name": "constant"}}
    train(settings("guided/tiny", steps=6, **constant), photos, tmp_path / "whole", **QUIET)
    for steps in (2, 6):
        train(settings("guided/tiny", steps=steps, **constant), photos, tmp_path / "parts", resume=True, **QUIET)
    whole, parts = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_length_that_the_rate_depends_on_stays(photos, tmp_path):
    train(settings("guided/tiny"), photos, tmp_path, **QUIET)
    with pytest.raises(UsageError, match=r"another steps \(2 instead of 3\)"):
        train(settings("guided/tiny", steps=3), photos, tmp_path, resume=True, **QUIET)


def test_without_a_terminal_a_line_is_printed_now_and_then(photos, tmp_path, capsys):
    train(settings("guided/tiny", steps=22), photos, tmp_path, **QUIET)
    steps = [int(n) for n in re.findall(r"step (\d+) of 22: loss", capsys.readouterr().err)]
    assert steps[0] == 1 and steps[-1] == 22 and 8 <= len(steps) <= 13
