"""The direction of the data: a room imports only from rooms to its left."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "shotseg"
ORDER = [
    "errors",
    "device",
    "data",
    "overlay",
    "encoders",
    "priors",
    "models",
    "reference",
    "training",
    "evaluation",
    "photo",
    "result",
    "predictor",
    "encoded",
    "support_file",
    "segmenter",
    "semantic",
    "labeller",
]
ORDER += ["report", "runs", "web", "cli"]
EVERYWHERE = {"errors", ""}  # "" is the package itself (its version)
MODULES = sorted(SOURCE.rglob("*.py"))


def rooms_imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "shotseg":
            names = [f"shotseg.{alias.name}" for alias in node.names if not alias.name.startswith("__")]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found |= {[*name.split("."), ""][1] for name in names if name.split(".")[0] == "shotseg"}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_imports_only_from_the_rooms_to_its_left(path):
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    wrong = {other for other in rooms_imported(path) - EVERYWHERE if ORDER.index(other) > ORDER.index(room)}
    assert not wrong, f"{path.relative_to(SOURCE)} imports from {sorted(wrong)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_module_calls_cuda_or_loads_a_pickle(path):
    text = path.read_text()
    assert ".cuda()" not in text
    assert "pickle.load" not in text
    for line in text.splitlines():
        assert "torch.load(" not in line or "weights_only=True" in line, f"{path.name}: {line.strip()}"


def test_help_answers_without_loading_torch():
    code = (
        "import sys, shotseg.cli\n"
        "try: shotseg.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'timm', 'matplotlib'} & set(sys.modules), 'heavy import'"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "segment" in done.stdout
    print(f"--help took {time.perf_counter() - start:.2f} s")
