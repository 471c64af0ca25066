"""Where a result cannot be written is known before the work that it takes."""

import re
from pathlib import Path

import pytest

from shotseg.cli.benchmark import Benchmark
from shotseg.cli.evaluate import Evaluate
from shotseg.errors import UsageError
from shotseg.evaluation import subject


@pytest.mark.parametrize("flags", [{}, {"way": 2}, {"method": "simformer", "checkpoint": Path("x.safetensors")}])
def test_a_place_that_cannot_be_written_is_known_before_the_work(tmp_path, monkeypatch, flags):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(subject, "place", lambda *_: pytest.fail("the work began"))
    monkeypatch.setattr(subject, "names", lambda *_: (flags.get("method", "matching"), "none"))
    for out, said in (
        (tmp_path / "file/x.json", "cannot be written (a file stands above it)"),
        (tmp_path, "ends in .json"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            Evaluate("folder", root=tmp_path, out=out, **flags).run()
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UsageError, match=r"--out .*folder\.json: a folder; name a file in it"):
        Evaluate("folder", root=tmp_path, out=tmp_path / "folder.json", **flags).run()


def test_comparison_and_benchmark_know_it_too(tmp_path):
    (tmp_path / "file").write_text("")
    missing = tmp_path / "missing.json"
    for verb in (
        Evaluate(compare=(missing, missing), out=tmp_path / "file/x.json"),
        Benchmark(out=tmp_path / "file/x"),
    ):
        with pytest.raises(UsageError, match=r"--out .*cannot be written"):
            verb.run()
