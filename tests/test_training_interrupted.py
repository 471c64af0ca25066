"""Ctrl-C in a training, what may change at a resume, and what a log without a terminal shows."""

import functools
import json
import os
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file

from shotseg.cli import main
from shotseg.errors import UsageError
from shotseg.training import progress
from shotseg.training.run import train
from test_training import command, photos, settings  # noqa: F401 (photos is a fixture)

QUIET = {"device": "cpu", "say": lambda line: None}


@pytest.mark.parametrize("workers", ["0", "1"])
def test_ctrl_c_saves_the_step_and_resume_ends_with_the_same_weights(photos, tmp_path, workers, capsys):  # noqa: F811
    flags = ("--steps", "16", "--save-every", "1000", "--validation.every", "0")
    train(settings(*flags), photos, tmp_path / "whole", **QUIET)
    out = tmp_path / "out"
    # a background job of a shell starts with Ctrl-C ignored; a person's terminal does not
    restore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        [*map(str, command(photos, out, *flags, "--workers", workers))],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=restore,
        start_new_session=True,
    )
    while process.poll() is None and not (out / "metrics.jsonl").is_file():
        time.sleep(0.02)
    while process.poll() is None and (out / "metrics.jsonl").read_bytes().count(b"\n") < 2:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the readers too
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said and "--resume" in said.splitlines()[-1]
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert (out / "last.safetensors").is_file() and 2 <= len(steps) < 16
    assert main([*map(str, command(photos, out, *flags)[3:])]) == 2
    assert "a run is there; add --resume" in capsys.readouterr().err
    train(settings(*flags, "--save-every", "7", "--workers", "0"), photos, out, resume=True, **QUIET)
    ours, theirs = load_file(out / "last.safetensors"), load_file(tmp_path / "whole/last.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_longer_training_goes_on_where_the_rate_does_not_depend_on_its_length(photos, tmp_path):  # noqa: F811
    constant = ("--schedule.name", "constant", "--validation.every", "2")
    train(settings("--steps", "6", *constant), photos, tmp_path / "whole", **QUIET)
    train(settings("--steps", "2", *constant), photos, tmp_path / "parts", **QUIET)
    assert train(settings("--steps", "6", *constant), photos, tmp_path / "parts", resume=True, **QUIET).steps == 6
    ours, theirs = (load_file(tmp_path / name / "last.safetensors") for name in ("parts", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    train(settings("--steps", "2"), photos, tmp_path / "poly", **QUIET)
    with pytest.raises(UsageError, match=r"another steps \(2 instead of 6\)"):
        train(settings("--steps", "6"), photos, tmp_path / "poly", resume=True, **QUIET)


def test_a_run_that_was_killed_before_it_saved_is_not_started_over_without_a_word(photos, tmp_path):  # noqa: F811
    train(settings("--steps", "2"), photos, tmp_path, **QUIET)
    (tmp_path / "last.safetensors").unlink()
    with pytest.raises(UsageError, match="a run is there; add --resume"):
        train(settings("--steps", "2"), photos, tmp_path, **QUIET)
    assert train(settings("--steps", "2"), photos, tmp_path, resume=True, **QUIET).steps == 2


def test_a_log_without_a_terminal_gets_a_line_now_and_then(photos, tmp_path, monkeypatch, capsys):  # noqa: F811
    train(settings("--steps", "3", "--validation.every", "0"), photos, tmp_path / "a", **QUIET)
    first = [line for line in capsys.readouterr().err.splitlines() if "step" in line or "of" in line]
    assert first and len(first) < 4
    monkeypatch.setattr(progress, "QUIET", 0.0)
    train(settings("--steps", "3", "--validation.every", "0"), photos, tmp_path / "b", **QUIET)
    said = capsys.readouterr().err
    assert all(f"step {step} of 3: loss" in said for step in (1, 2, 3))
