"""The page about the architecture says what the code does: its picture, its rooms, and each step of its two walks."""

import re
import sys
from functools import cached_property, reduce
from importlib import import_module

import pytest

from test_architecture import SOURCE

DOCS = SOURCE.parents[1] / "docs"
sys.path.insert(0, str(DOCS))

import draw_architecture as drawing  # noqa: E402

PAGE = (DOCS / "architecture.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^\| \d+ \| `([\w/.]+)` \| `([\w.]+)` \|", PAGE, re.MULTILINE)


def test_the_picture_is_that_of_the_imports():
    said = "rooms or their imports changed; run `python docs/draw_architecture.py`"
    assert drawing.PICTURE.read_text(encoding="utf-8") == drawing.svg(), said


def test_an_arrow_that_is_left_out_follows_from_those_that_are_drawn():
    graph = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a", "c"}}
    assert drawing.shortest(graph) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"c"}}
    assert drawing.columns(graph) == [["a"], ["b"], ["c"], ["d"]]


def test_the_table_names_every_room_and_a_file_of_it():
    rooms = re.findall(r"^\| `(\w+)` \| .* \| `([\w/.]+)` \|$", PAGE, re.MULTILINE)
    assert [room for room, _ in rooms] == list(drawing.imports())
    for room, file in rooms:
        assert (SOURCE / file).is_file() and file.removesuffix(".py").split("/")[0] == room


@pytest.mark.parametrize(("file", "name"), STEPS)
def test_each_step_of_a_walk_is_a_function_of_that_file(file, name):
    module = import_module("shotseg." + file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    found = reduce(getattr, name.split("."), module)
    found = found.func if isinstance(found, cached_property) else found
    assert callable(found) and found.__module__ == module.__name__, f"docs/architecture.md: {name} is not in {file}"


def test_the_page_has_two_walks():
    assert len(STEPS) > 20
