"""The project folder of the page: what was said is there after any end, and the command line understands the folder."""

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import warm
from page_project import photo, photos_folder, project_of, square
from shotseg.data.folder import FolderDataset
from shotseg.data.images import read_mask
from shotseg.errors import InputError, UsageError
from shotseg.web.album import safe_name
from shotseg.web.drawing import Stroke, marked, painted
from shotseg.web.project import Outdated, Project

STROKE = [(True, 3.0, [(10, 10), (20, 20)])]


def first(project):
    return sorted(project.said.photos.values(), key=lambda photo: photo.file)[0]


def state_of(project):
    photos = {
        p.id: (p.state, p.said, p.strokes, p.drawn, p.by_hand, p.areas) for p in project.said.photos.values() if p.said
    }
    return project.said.classes, photos, project.said.settings


def a_scripted_run(project):
    red, blue = project.add_class("red"), project.add_class("blue", "#0000ff", "7")
    a, b, c = sorted(project.said.photos.values(), key=lambda photo: photo.file)
    project.draw(a.id, a.version, red.id, STROKE)
    project.draw(b.id, b.version, blue.id, STROKE)
    project.correct(b.id, b.version, square(5, 5) * 2)
    project.set_state(c.id, c.version, "rejected")
    project.change_class(blue.id, "sky", None, None)
    project.set_examples_from_reviewed(False)
    return a, b, c


def test_a_restart_gives_the_same_state(tmp_path):
    project = project_of(tmp_path)
    a_scripted_run(project)
    project.close()
    again = Project(tmp_path / "project")
    assert state_of(again) == state_of(project)
    assert again.album.folder == tmp_path / "photos"
    assert [own.name for own in again.classes] == ["red", "sky"]


def test_a_last_line_that_was_cut_short_is_left_out_and_the_next_event_starts_whole(tmp_path):
    project = project_of(tmp_path)
    a_scripted_run(project)
    project.close()
    journal = tmp_path / "project" / "journal.jsonl"
    whole = journal.read_bytes()
    before = state_of(project)
    for cut in (b"{", b'{"do": "state", "photo": "', b"\x00" * 40):
        journal.write_bytes(whole + cut)
        again = Project(tmp_path / "project")
        assert state_of(again) == before
        own = again.add_class("green")
        again.remove_class(own.id)
        again.close()
        assert all(json.loads(line) for line in journal.read_text().splitlines())
        journal.write_bytes(whole)


@pytest.mark.parametrize(
    "line", [b"no json", b'{"do": "fly"}', b"[1]", b'{"do": "drop", "number": 9}', b'{"do": "mask"}']
)
def test_a_damaged_line_in_the_middle_is_named_and_the_rest_holds(tmp_path, line):
    project = project_of(tmp_path)
    a_scripted_run(project)
    project.close()
    journal = tmp_path / "project" / "journal.jsonl"
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([*lines[:2], line, *lines[2:]]) + b"\n")
    with pytest.warns(UserWarning, match="left out"):
        again = Project(tmp_path / "project")
    assert state_of(again) == state_of(project)


def test_what_is_accepted_or_corrected_is_an_example_and_a_result_that_the_command_line_reads(tmp_path):
    project = project_of(tmp_path)
    red = project.add_class("red")
    a, b, _ = sorted(project.said.photos.values(), key=lambda photo: photo.file)
    project.correct(a.id, a.version, square(5, 6))
    project.set_state(b.id, b.version, "accepted", square(7, 8) * red.number)
    assert (a.state, b.state) == ("corrected", "accepted")
    project.settle()
    found = FolderDataset(tmp_path / "project" / "examples", masks=True)
    assert [item.class_name for item in found.items] == ["red", "red"]
    areas = {found.sample(i).image.tobytes(): found.sample(i).mask.sum() for i in range(2)}
    assert set(areas.values()) == {100}
    assert (read_mask(tmp_path / "project/results/labels/photo0.png", labels=True) == square(5, 6)).all()
    assert (read_mask(tmp_path / "project/results/masks/red/photo1.png") == square(7, 8)).all()
    lines = [json.loads(line) for line in (tmp_path / "project/results/results.jsonl").read_text().splitlines()]
    assert [(line["file"], line["class"], line["state"]) for line in lines] == [
        ("photo0.png", "red", "corrected"),
        ("photo1.png", "red", "accepted"),
    ]
    assert lines[0]["classes"]["red"]["area"] == lines[0]["area"] == round(100 / 4800, 6)
    project.set_state(a.id, a.version, "rejected")
    assert project.publish() and not project.publish()
    assert len(FolderDataset(tmp_path / "project" / "examples", masks=True).items) == 1
    project.set_examples_from_reviewed(False)
    project.publish()
    assert not (tmp_path / "project" / "examples" / "images" / "red").exists()


def test_results_and_examples_that_were_lost_are_made_again(tmp_path):
    import shutil

    project = project_of(tmp_path)
    project.add_class("red")
    a = first(project)
    project.correct(a.id, a.version, square(5, 6))
    project.close()
    shutil.rmtree(tmp_path / "project" / "results")
    shutil.rmtree(tmp_path / "project" / "examples")
    Project(tmp_path / "project").restore()
    assert (tmp_path / "project/results/masks/red/photo0.png").is_file()
    assert len(FolderDataset(tmp_path / "project" / "examples").items) == 1


def test_a_correction_is_never_overwritten_by_a_guess_and_strokes_are_painted_on_it(tmp_path):
    project = project_of(tmp_path)
    red = project.add_class("red")
    a = first(project)
    project.correct(a.id, a.version, square(30, 40))
    project.predicted(a, 5, 0.9, {1: 1.0}, {1: 1.0})
    assert (project.drawn_mask(a) == square(30, 40)).all() and a.state == "corrected"
    project.set_state(a.id, a.version, "accepted")
    assert a.state == "corrected"
    project.draw(a.id, a.version, red.id, [(True, 0.0, [(0, 0), (3, 0)]), (False, 0.0, [(40, 30)])])
    wanted = square(30, 40)
    wanted[0, :4], wanted[30, 40] = 1, 0
    assert (project.drawn_mask(a) == wanted).all() and a.state == "corrected" and len(a.strokes) == 2


def test_a_rejected_correction_comes_back_as_it_was(tmp_path):
    project = project_of(tmp_path)
    project.add_class("red")
    a = first(project)
    project.correct(a.id, a.version, square(30, 40))
    project.set_state(a.id, a.version, "rejected")
    project.set_state(a.id, a.version, "accepted")
    assert a.state == "corrected" and (project.drawn_mask(a) == square(30, 40)).all()


def test_a_change_to_an_old_version_is_refused_and_a_guess_in_between_refuses_only_to_accept(tmp_path):
    project = project_of(tmp_path)
    red = project.add_class("red")
    a = first(project)
    seen = a.version
    project.draw(a.id, seen, red.id, STROKE)
    for stale in (
        lambda: project.draw(a.id, seen, red.id, STROKE),
        lambda: project.correct(a.id, seen, square(1, 1)),
        lambda: project.clear(a.id, seen),
        lambda: project.set_state(a.id, seen, "rejected"),
        lambda: project.draw(a.id, a.version + 1, red.id, STROKE),
    ):
        with pytest.raises(Outdated):
            stale()
    seen = a.version
    project.predicted(a, 1, 0.5, {}, {})
    with pytest.raises(Outdated):
        project.set_state(a.id, seen, "accepted", square(1, 1))
    assert project.draw(a.id, seen, red.id, STROKE).version > seen


def test_removing_a_class_keeps_the_others_pixels_and_moves_its_masks_aside(tmp_path):
    project = project_of(tmp_path)
    red, sky = project.add_class("red"), project.add_class("sky")
    a = first(project)
    labels = square(5, 5) + 2 * square(30, 30)
    project.correct(a.id, a.version, labels)
    project.remove_class(red.id)
    assert (project.in_order(project.drawn_mask(a)) == square(30, 30)).all()
    assert [p.name for p in (tmp_path / "project/removed/examples/masks/red").iterdir()] == [f"{a.id}.png"]
    again = project.add_class("red")
    assert again.id not in (red.id, sky.id)
    assert (project.in_order(project.drawn_mask(a)) == square(30, 30)).all()


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", "a\x00b", " ", ".", "x" * 300, "é" * 150, "red", "RED"])
def test_a_class_name_that_can_be_no_folder_or_is_taken_is_refused(tmp_path, name):
    project = project_of(tmp_path)
    project.add_class("red")
    with pytest.raises(UsageError):
        project.add_class(name)
    assert [own.name for own in project.classes] == ["red"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_full_disk_changes_nothing_and_the_next_try_goes_through(tmp_path, monkeypatch, code):
    project = project_of(tmp_path)
    red = project.add_class("red")
    a = first(project)
    before = state_of(project)

    def full(number):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises((InputError, OSError)):
            project.draw(a.id, a.version, red.id, STROKE)
        with pytest.raises((InputError, OSError)):
            project.correct(a.id, a.version, square(1, 1))
    assert state_of(project) == before
    project.draw(a.id, a.version, red.id, STROKE)
    project.close()
    assert state_of(Project(tmp_path / "project")) == state_of(project)


def test_a_project_is_open_once(tmp_path):
    project = project_of(tmp_path)
    with pytest.raises(UsageError, match="open in another"):
        Project(tmp_path / "project")
    project.close()
    Project(tmp_path / "project").close()


def test_a_project_is_open_once_where_files_are_locked_as_windows_does_it(tmp_path, monkeypatch):
    taken = set()

    def locking(file, mode, count):
        if os.fstat(file).st_ino in taken:
            raise PermissionError(errno.EACCES, "Permission denied")
        taken.add(os.fstat(file).st_ino)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    project = project_of(tmp_path)
    with pytest.raises(UsageError, match="open in another"):
        Project(tmp_path / "project")
    project.add_class("red")
    assert b'"red"' in (tmp_path / "project/journal.jsonl").read_bytes()[:100]


def test_what_was_predicted_is_listed_at_once_after_a_start(tmp_path):
    project = project_of(tmp_path)
    red = project.add_class("red")
    a, b, c = sorted(project.said.photos.values(), key=lambda photo: photo.file)
    for photo_, confidence in ((a, 0.9), (b, 0.4), (c, 0.6)):
        project.predicted(photo_, 7, confidence, {red.number: 1.0}, {red.number: 0.25})
    project.correct(c.id, c.version, square(5, 5))
    project.close()
    again = Project(tmp_path / "project")
    assert [photo_.file for photo_ in again.album.listed("doubt")] == ["photo1.png", "photo0.png", "photo2.png"]
    assert [photo_.state for photo_ in again.album.listed("name")] == ["predicted", "predicted", "corrected"]
    again.close()
    (tmp_path / "project/encoded/predicted.json").write_text(json.dumps({a.id: 3}))
    assert Project(tmp_path / "project").photo(a.id).state == "open"


def test_a_photo_that_is_gone_or_replaced_keeps_what_was_drawn(tmp_path):
    project = project_of(tmp_path)
    red = project.add_class("red")
    a, b, _ = sorted(project.said.photos.values(), key=lambda photo: photo.file)
    project.correct(a.id, a.version, square(5, 5))
    project.draw(b.id, b.version, red.id, STROKE)
    project.close()
    a.path.unlink()
    Image.fromarray(photo(1, (100, 90))).save(b.path)
    again = Project(tmp_path / "project")
    gone, other = again.photo(a.id), again.photo(b.id)
    assert "no such file" in gone.error and (again.drawn_mask(gone) == square(5, 5)).all()
    assert "90 x 100" in other.error and other.size == (60, 80) and other.strokes == b.strokes


def test_photos_in_odd_places_and_of_odd_names_are_found(tmp_path):
    folder = photos_folder(tmp_path / "photos", 1)
    (folder / "Ä ö").mkdir()
    Image.fromarray(photo(1)).save(folder / "Ä ö" / "photo0.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    Image.fromarray(photo(2)).save(os.fsencode(folder) + b"/\xff.png", format="PNG")
    project = Project(tmp_path / "project", folder)
    project.album.know_names()
    assert len(project.said.photos) == 4 and len(set(project.album.names.values())) == 4
    assert project.album.counts()["failed"] == 1


def test_dropped_photos_get_safe_names_of_their_own(tmp_path):
    project = project_of(tmp_path)
    data = (tmp_path / "photos" / "photo1.png").read_bytes()
    files = ["photo0.png", "../../x.png", "/etc/x.png", "C:\\x.png", "x.png\x00", ".hidden.png"]
    added = [project.add_photo(file, data) for file in files]
    assert len({p.id for p in added}) == len(files)
    kept = list((tmp_path / "project" / "photos").iterdir())
    assert len(kept) == len(files) and not (tmp_path / "x.png").exists()
    assert safe_name("../..") == "photo"
    assert len({project.album.names[p.id] for p in project.said.photos.values()}) == len(files) + 3
    project.close()
    assert {p.id for p in added} <= set(Project(tmp_path / "project").said.photos)


def test_examples_that_lie_in_the_folder_make_their_classes(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "project/examples" / kind / "cat").mkdir(parents=True)
    assert [own.name for own in project_of(tmp_path).classes] == ["cat"]


def test_a_thin_stroke_is_one_pixel_wide_and_the_newest_class_wins():
    line = Stroke(1, True, 0.0, ((2.7, 5.2), (6.1, 5.9)))
    assert np.argwhere(painted(np.zeros((10, 10), np.uint8), [line])).tolist() == [[5, x] for x in range(2, 7)]
    over = Stroke(2, True, 0.0, ((4, 5), (4, 5)))
    drawn = marked([line, over], {1: "a", 2: "b"}, (10, 10))
    assert drawn["a"][5].tolist() == [255, 255, 1, 1, 255, 1, 1, 255, 255, 255]
    assert drawn["b"][5, 4] == 1


@pytest.mark.parametrize("radius", [0.0, 1.0, 2.5, 3.0, 90.0])
def test_a_stroke_that_leaves_the_photo_is_the_part_of_it_that_a_larger_photo_shows(radius):
    rng, empty = np.random.default_rng(0), np.zeros((60, 80), np.uint8)
    for count in (1, 2, 9):
        points = rng.uniform((-60, -40), (140, 100), (count, 2))
        drawn = painted(empty, [Stroke(3, True, radius, tuple(map(tuple, points)))])
        moved = painted(np.zeros((460, 480), np.uint8), [Stroke(3, True, radius, tuple(map(tuple, points + 200)))])
        assert np.array_equal(drawn, moved[200:260, 200:280])
        erased = painted(np.full((60, 80), 3, np.uint8), [Stroke(3, False, radius, tuple(map(tuple, points)))])
        assert np.array_equal(erased == 0, drawn == 3)
    assert not empty.any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_acknowledged_stroke_is_there_after_a_kill_at_any_moment(tmp_path):
    with TemporaryDirectory() as on_a_disk:  # where a file that is to be safe is waited for, as is none in memory
        # In a process that is small: to fork this one takes a tenth of a second.
        killing = warm.Process(tmp_path / "out", tmp_path / "err", {}, _kill_at_any_moment, Path(on_a_disk))
        assert killing.wait() == 0, killing.err.read_text()


def _kill_at_any_moment(folder):
    photos = photos_folder(folder / "photos", 3)
    places = [folder / f"project{i}" for i in range(5)]
    acknowledged: list[dict[str, int]] = [{} for _ in places]
    for moments in np.random.default_rng(0).uniform(0.001, 0.05, (10, 5)):  # a stroke takes 5 ms
        children = [_begun(place, photos) for place in places]
        for moment, (child, _) in zip(np.diff(np.sort(moments), prepend=0), children):
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
        for place, known, (child, reader) in zip(places, acknowledged, children):
            os.waitpid(child, 0)
            with os.fdopen(reader) as said:
                for id, count in map(str.split, said.read().splitlines()):
                    if count.endswith("."):
                        known[id] = max(known.get(id, 0), int(count[:-1]))
            project = Project(place)
            for id, count in known.items():
                assert len(project.photo(id).strokes) >= count
            for drawn in project.said.photos.values():
                if drawn.drawn is not None:
                    assert project.drawn_mask(drawn).shape == drawn.size
                    assert not list((place / "drawn").glob(f"{drawn.id}*.tmp"))
            project.close()
    assert sum(sum(known.values()) for known in acknowledged) > 12


def _begun(place, photos):
    """A process that draws, from its first moment at work: its number, and where it says which strokes are acknowledged."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _draw_until_killed(place, photos, writer)
    os.close(writer)
    assert os.read(reader, 1) == b"!"
    return child, reader


def _draw_until_killed(folder, photos, writer):
    try:
        project = Project(folder, photos)
        own = project.classes[0] if project.classes else project.add_class("red")
        os.write(writer, b"!")
        while True:
            for i, drawn in enumerate(list(project.said.photos.values())):
                if i == 0 and not drawn.by_hand:  # the strokes are painted on it
                    project.correct(drawn.id, drawn.version, square(5, 5))
                project.draw(drawn.id, drawn.version, own.id, STROKE)
                if drawn.by_hand:
                    project.patch(drawn.id, drawn.version, project.drawn_mask(drawn), square(0, 0)[:5, :5], 3, 4)
                os.write(writer, f"{drawn.id} {len(drawn.strokes)}.\n".encode())
    finally:
        os._exit(1)
