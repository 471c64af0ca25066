"""The verbs: help, wrong usage, and what each one says."""

import json
import subprocess
import sys

import pytest

from shotseg import cli

WRONG = [
    (["segmant"], "did you mean 'segment'?"),
    (["segment"], "--query, --out"),
    (["segment", "--query", "a", "--out", "b"], "--support"),
    (["segment", "--support", "a", "--query", "b", "--out", "c", "--sise", "3"], "did you mean --size?"),
    (["segment", "--support", "a", "--query", "b", "--out", "c", "--size", "big"], "--size"),
    (["segment", "--support", "a", "--query", "b", "--out", "c", "--size", "0"], "--size"),
    (["segment", "--support", "a", "--query", "b", "--out", "c", "--engine", "mpi"], "local"),
    (["segment", "--support", "a", "--query", "b", "--out", "c", "--shard", "5/3"], "i/n"),
    (["segment", "--support", "a", "--query", "/no such folder", "--out", "c"], "/no such folder"),
    (["segment", "--support", "a", "--query", "", "--out", "c"], "--query is empty"),
    (["segment", "--support", "a", "--query", "b", "--out="], "--out is empty"),
    (["evaluate", "folder", "--root", ""], "--root is empty"),
    (
        ["segment", "--support", "a.safetensors", "--query", "b", "--out", "c", "--from", "coco"],
        "--from changes nothing",
    ),
    (["evaluate", "--compare", "a.json"], "--compare: more or fewer values"),
    (
        ["serve", "/proc/nosuch/project", "--port", "0", "--no-browser"],
        "PROJECT /proc/nosuch/project: cannot be written",
    ),
    (["evaluate", "nosuch", "--out", "c.json"], "nosuch: no folder of that name"),
    (["evaluate", "tests", "--out", "c.json", "--min-area", "2"], "--min-area 2.0: a part of the photo"),
    (["list"], "models"),
    (["list", "colours"], "encoders"),
    (["segment", "--checkpoint", "a", "--query", "b", "--out", "c", "--scales", "-5"], "--scales -5"),
    (["segment", "--checkpoint", "a", "--query", "b", "--out", "c", "--window", "-5"], "--window -5"),
    (["benchmark", "--photos", "0"], "--photos"),
    (["benchmark", "--size", "0"], "--size"),
    (["benchmark", "--method", "maskformer"], "choose another"),
    (["benchmark", "--method", "simformer", "--episode"], "choose another"),
    (["demo", "--encoder", "resnet49"], "resnet50"),
    (["demo", "--method", "guess"], "matching"),
    (["demo", "--device", "abacus"], "choose one of auto, cuda, mps, cpu"),
]


@pytest.mark.parametrize("argv, mend", WRONG, ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "")
def test_wrong_usage_is_one_line_with_the_mend(argv, mend, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1
    assert err.startswith("shotseg: ") and mend in err


def test_help_names_every_verb(capsys):
    for argv in ([], ["--help"], ["-h"], ["help"]):
        assert cli.main(argv) == 0
        said = capsys.readouterr().out
        assert all(f"  {verb} " in said for verb in cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"shotseg {verb}" in said.split("usage:")[1].partition("\n")[2], "an example below the usage line"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CPUAllocator: can't allocate memory: 4 PB")])
def test_too_little_memory_names_what_takes_less(capsys, monkeypatch, error):
    from shotseg.cli.catalogue import List

    def too_much(self):
        raise error

    monkeypatch.setattr(List, "run", too_much)
    assert cli.main(["list", "models"]) == 1
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1 and "memory" in err and "--size" in err


def test_a_fault_of_ours_is_one_line_too(capsys, monkeypatch):
    from shotseg.cli.catalogue import List

    def broken(self):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(List, "run", broken)
    monkeypatch.delenv("SHOTSEG_DEBUG", raising=False)
    assert cli.main(["list", "models"]) == 1
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1 and "ZeroDivisionError" in err and "SHOTSEG_DEBUG" in err


def test_an_interrupt_is_130_and_one_line(capsys, monkeypatch):
    from shotseg.cli.catalogue import List

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(List, "run", interrupted)
    assert cli.main(["list", "models"]) == 130
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_python_m_shotseg_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "shotseg", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("shotseg ")
    done = subprocess.run([sys.executable, "-m", "shotseg", "segmant"], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "what, member", [("models", "matching"), ("encoders", "efficientnet-lite0"), ("datasets", "folder")]
)
def test_list_begins_each_line_with_a_name(what, member, capsys):
    assert cli.main(["list", what]) == 0
    assert member in [line.split()[0] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("what, member", [("weights", "Apache-2.0"), ("protocols", "hsnet"), ("recipes", "")])
def test_list_prints_tables_that_fit_a_pipe(what, member, capsys):
    assert cli.main(["list", what]) == 0
    assert member in capsys.readouterr().out


def test_doctor_asks_no_network(capsys, monkeypatch):
    import socket

    def refused(*_, **__):
        raise AssertionError("the network was contacted")

    monkeypatch.setattr(socket.socket, "connect", refused)
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("torch", "device cpu", "extra ray", "weights efficientnet-lite0"))


def test_the_demo_finds_its_classes_and_beats_the_controls(capsys, tmp_path):
    assert cli.main(["demo", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "report.html") in said.replace("\n", "")
    mean = next(line for line in said.splitlines() if "mean" in line)
    ours, whole, disc = (int(word) for word in mean.replace("│", " ").split() if word.isdigit())
    assert ours > max(whole, disc) + 20
    assert said.count("which shows none of the classes: none found") == 2
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(records) == 12
    assert [record["class"] for record in records if record["name"].startswith("others/")] == [None, None]


def test_benchmark_writes_its_numbers(tmp_path, capsys):
    argv = ["benchmark", "--size", "64", "--repeats", "1", "--photos", "3", "--out", str(tmp_path / "speed.json")]
    assert cli.main(argv) == 0
    numbers = json.loads((tmp_path / "speed.json").read_text())
    assert numbers["support_encoder_calls"] == 1
    assert min(numbers[key] for key in ("encoder_seconds", "predict_seconds", "photos_per_second")) > 0
    assert max(numbers["working_size"]) == 64
    assert "photos/s" in capsys.readouterr().out
