"""The direction of the data: a room imports only from rooms to its left."""

import ast
import functools
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "shotseg"
ORDER = [
    "errors",
    "arguments",
    "plugins",
    "heap",
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
    "learnt",
    "light",
    "tiled",
    "segmenter",
    "semantic",
    "labeller",
]
ORDER += ["exporting", "report", "runs", "integrations", "web", "cli"]
EVERYWHERE = {"errors", ""}  # "" is the package itself (its version)
LONGEST = 400  # lines
MODULES = sorted(SOURCE.rglob("*.py"))


@functools.cache
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


def name_of(path: Path) -> str:
    return ".".join(("shotseg", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def modules_imported(path: Path) -> set[str]:
    """Modules of shotseg that a file names in its imports, also those inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names & {name_of(path) for path in MODULES}


def faults(of) -> dict[str, object]:
    """What is wrong with each module where ``of`` (its path) finds anything."""
    return {str(path.relative_to(SOURCE)): wrong for path in MODULES if (wrong := of(path))}


def rooms_to_the_right(path: Path) -> list[str]:
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return []
    return sorted(other for other in rooms_imported(path) - EVERYWHERE if ORDER.index(other) > ORDER.index(room))


def test_a_room_imports_only_from_the_rooms_to_its_left():
    assert not faults(rooms_to_the_right)


def unsafe_lines(path: Path) -> list[str]:
    return [
        line.strip()
        for line in path.read_text().splitlines()
        if ".cuda()" in line or "pickle.load" in line or ("torch.load(" in line and "weights_only=True" not in line)
    ]


def test_no_module_calls_cuda_or_loads_a_pickle():
    assert not faults(unsafe_lines)


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


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_the_order_names_every_room_and_no_other():
    assert {room_of(path) for path in MODULES} - {"__init__", "__main__"} == set(ORDER)


def lines_beyond_what_a_reader_takes_in(path: Path) -> int:
    return max(0, len(path.read_text().splitlines()) - LONGEST)


def test_no_file_is_longer_than_a_reader_takes_in():
    assert not faults(lines_beyond_what_a_reader_takes_in), "divide it"


def test_files_of_two_rooms_have_two_names():
    """``reference/x.py`` reads what the authors of ``models/x.py`` released, and is called so; ``integrations/x.py`` works
    inside the tool whose files ``data/annotations/x.py`` reads."""
    rooms: dict[str, set[str]] = {}
    for path in MODULES:
        rooms.setdefault(path.stem, set()).add(room_of(path))
    doubled = {name: sorted(found) for name, found in rooms.items() if len(found) > 1 and name != "__init__"}
    allowed = (["models", "reference"], ["data", "integrations"])
    assert not {name: found for name, found in doubled.items() if found not in allowed}


def private_names_of_other_modules(text: str) -> set[str]:
    """Names that begin with one underscore and are read of a module of shotseg, imported or as its attribute."""
    tree, found, modules = ast.parse(text), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "shotseg":
            modules |= {alias.asname or alias.name for alias in node.names}
            found |= {alias.name for alias in node.names if alias.name.startswith("_") and alias.name[1] != "_"}
        elif isinstance(node, ast.Import):
            modules |= {alias.asname for alias in node.names if alias.asname and alias.name.startswith("shotseg.")}
    for node in ast.walk(tree):
        private = isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if private and isinstance(node.value, ast.Name) and node.value.id in modules:
            found.add(f"{node.value.id}.{node.attr}")
    return found


def test_no_module_reads_the_private_names_of_another():
    assert not faults(lambda path: private_names_of_other_modules(path.read_text()))


def test_private_names_are_seen_however_they_are_read():
    text = "from shotseg.data.folder import _a\nfrom shotseg.data import folder as f\nimport shotseg.x as x\n"
    text += "f._b, x._c, f.d, self._e"
    assert private_names_of_other_modules(text) == {"_a", "f._b", "x._c"}


def users_of(block: str, graph: dict[str, set[str]]) -> set[str]:
    """The methods that import a file of ``models/blocks``, at once or through other blocks."""
    users: set[str] = set()
    for name, imported in graph.items():
        if block not in imported:
            continue
        if name.startswith("shotseg.models.blocks."):
            users |= users_of(name, graph)
        elif name.startswith("shotseg.models."):
            users.add(name.split(".")[2])
    return users


MODELS = {name_of(path): modules_imported(path) for path in MODULES if room_of(path) == "models"}


@pytest.mark.parametrize("block", [name for name in MODELS if name.startswith("shotseg.models.blocks.")])
def test_a_block_is_what_two_methods_share(block):
    users = users_of(block, MODELS)
    assert len(users) > 1, f"{block} is used by {users or 'nobody'} alone: it belongs there"


def test_no_models_import_each_other_in_a_circle():
    done: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in sorted(MODELS[name] & MODELS.keys()):
                if not name.startswith(other + "."):  # the package that it is a part of
                    follow(other, (*way, name))
            done.add(name)

    for name in MODELS:
        follow(name, ())


def test_two_files_of_the_models_have_two_names():
    names = [path.stem for path in MODULES if room_of(path) == "models" and path.stem != "__init__"]
    assert len(names) == len(set(names))
