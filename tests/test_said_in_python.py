"""What the command line says of flags, the library says of its arguments."""

import pickle
import warnings

import numpy as np
import pytest

import shotseg
from shotseg.cli import main
from shotseg.data.images import write_png
from shotseg.data.reading import Reading
from shotseg.errors import InputError, InputWarning, UsageError, note, on_the_command_line, spoken


@pytest.fixture
def root(tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:15] = 255
    for number in range(3):
        write_png(tmp_path / f"images/{number}.png", np.full((20, 30, 3), 40 * number, np.uint8))
        write_png(tmp_path / f"masks/{number}.png", mask)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shot": 9}, r"^shot=9: no class of .* has the 10 photos"),
        ({"min_area": 2.0}, r"^min_area=2.0: a part of the photo, from 0 to 1$"),
        ({"fold": 3}, r"^'fold': no fold '3' in"),
        ({"resume": True}, r"^'resume' goes on from the counts beside 'out'; give it$"),
        ({"episodes": 5, "way": 2}, r"^'episodes' changes nothing with 'way' above 1"),
        ({"out": "x.txt"}, r"^out=x.txt: name a file that ends in .json$"),
    ],
)
@pytest.mark.usefixtures("in_python")
def test_an_option_that_does_not_fit_is_named_as_the_argument(root, options, said):
    with pytest.raises(UsageError, match=said):
        shotseg.evaluate(root, **options)


@pytest.mark.usefixtures("in_python")
def test_options_of_reading_are_named_as_its_fields():
    with pytest.raises(UsageError, match=r"^bands=1,2: give one or three numbers, from 1, as 4,3,2$"):
        Reading(bands="1,2")
    with pytest.raises(UsageError, match=r"^page=0: must be 1 or more$"):
        Reading(page=0)


@pytest.mark.usefixtures("in_python")
def test_the_command_line_says_flags_and_leaves_python_as_it_was(root, capsys):
    flags = ["--root", str(root), "--shot", "9", "--out", str(root / "x.json")]
    assert main(["evaluate", "folder", *flags]) == 2
    assert "shotseg: --shot 9: no class of" in capsys.readouterr().err
    assert str(UsageError("take fewer --shot")) == "take fewer 'shot'"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("choose another --out or leave --resume out", "choose another 'out' or leave 'resume' out"),
        ("4 bands; choose with --bands 4,3,2", "4 bands; choose with bands=4,3,2"),
        ("both fit; say which with --from, or give the file", "both fit; say which with 'format', or give the file"),
        ("as --data.held-out 0.34", "as data.held_out=0.34"),
        ("run `shotseg prepare x --root y` first", "run `shotseg prepare x --root y` first"),
        ("by: shotseg convert x --to coco --out y; or --out", "by: shotseg convert x --to coco --out y; or 'out'"),
        ("give that of a run (segment --checkpoint)", "give that of a run (segment --checkpoint)"),
        ("/a/b--out.png, /a/x --out.png: no such file", "/a/b--out.png, /a/x --out.png: no such file"),
    ],
)
@pytest.mark.usefixtures("in_python")
def test_flags_become_arguments_and_commands_and_file_names_stay(line, said):
    assert spoken(line) == said and spoken(said) == said
    error = pickle.loads(pickle.dumps(InputError(line)))
    assert str(error) == said and isinstance(error, InputError)
    with pytest.warns(InputWarning) as lines:
        note(line)
    assert str(lines[0].message) == said
    with on_the_command_line():
        assert spoken(line) == line


def test_the_same_line_from_two_places_is_said_once():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        note("a.jpg: the first page is read")
        note("b.jpg: the first page is read")
        note("a.jpg: the first page is read")
    assert [str(each.message) for each in said] == ["a.jpg: the first page is read", "b.jpg: the first page is read"]
