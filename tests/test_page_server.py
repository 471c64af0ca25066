"""The page's server: a person draws, corrects, accepts and exports over HTTP."""

import io
import json
import re
import threading
import zipfile
from importlib.metadata import EntryPoint

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

import warm
from page_client import API, HOST, accept, all_predicted, client_of, draw, mask, ok, patch, photos, put, until
from page_project import SIZE, photo, photos_folder, project_of, square
from shotseg import Segmenter, plugins
from shotseg.data import annotations
from shotseg.models import presence
from shotseg.web import kept, model
from shotseg.web.app import make_app
from shotseg.web.engine import FEWER, MOST_SHOTS, newest
from shotseg.web.labels import Runs
from shotseg.web.project import Project


def test_a_stroke_answers_in_its_photo_and_the_others_follow_without_being_encoded_again(page, segmenter, monkeypatch):
    until(page, lambda: ok(page.get(f"{API}/project"))["encoding"]["done"] == 4)
    encoded = []
    monkeypatch.setattr(type(segmenter), "encode", lambda *given: encoded.append(given) or pytest.fail("encoded again"))
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    item = photos(page)[0]
    answer = ok(draw(page, item))
    assert answer["state"] == "predicted" and answer["strokes"][0]["class_id"] == "c1"
    found, version = mask(page, item)
    assert version == answer["version"] and found[15, 15] == 1
    until(page, lambda: all_predicted(page))
    assert not encoded
    monkeypatch.setattr(segmenter.model, "encode", lambda x: encoded.append(x) or pytest.fail("encoded again"))
    before = photos(page)[3]["version"]
    ok(put(page, photos(page)[1], square(12, 16, 25)))  # an example is learnt from what is kept of its photo
    until(page, lambda: photos(page)[3]["version"] > before)
    assert not encoded and ok(page.get(f"{API}/project"))["classes"][0]["examples"] == 1


def test_photos_that_are_decided_at_once_have_the_masks_of_each_alone(tmp_path, segmenter, monkeypatch):
    twins = []
    monkeypatch.setattr(model, "twins_of", lambda one, most: twins.append(one) or [one, one.twin(), one.twin()])
    with client_of(project_of(tmp_path, 9), segmenter) as page:
        for name, top in (("red", 5), ("blue", 40)):
            ok(page.post(f"{API}/classes", json={"name": name}))
            item = photos(page)[len(twins) > 1]
            ok(put(page, item, square(top, 6) * (1 + (name == "blue"))))
            until(page, lambda: all_predicted(page) and not ok(page.get(f"{API}/project"))["encoding"]["waiting"])
        assert len(twins) == 3  # once without a class, then for each example
        for number, item in enumerate(photos(page)[2:], 2):
            assert np.array_equal(mask(page, item)[0], segmenter.predict(photo(number)).labels)


def test_the_list_is_filtered_by_confidence_before_it_is_cut_into_pages(page):
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    assert photos(page, below=1) == []  # nothing is known of them yet
    ok(put(page, photos(page)[0], square(5, 6)))
    until(page, lambda: all_predicted(page))
    sure, *guessed = photos(page)
    assert sure["confidence"] is None  # a person made it, no model is sure of it
    between = max(item["confidence"] for item in guessed)
    under = [item["file"] for item in guessed if item["confidence"] < between]
    answer = ok(page.get(f"{API}/photos", params={"sort": "name", "below": between, "limit": 1}))
    assert answer["total"] == len(under) and [item["file"] for item in answer["items"]] == under[:1]
    assert page.get(f"{API}/photos", params={"below": "nan"}).status_code == 422


def test_draw_correct_accept_undo_and_export_to_coco_with_the_same_pixels(page, tmp_path):
    coco_mask = pytest.importorskip("pycocotools.mask")
    ok(page.post(f"{API}/classes", json={"name": "red", "key": "5"}))
    ok(page.post(f"{API}/classes", json={"name": "sky"}))
    drawn = {}
    first, second, third, fourth = photos(page)
    corrected = square(5, 6) + 2 * square(30, 40)
    answer = ok(put(page, first, corrected))
    assert answer["state"] == "corrected" and answer["areas"] == {"c1": 100 / 4800, "c2": 100 / 4800}
    drawn[first["file"]] = corrected
    until(page, lambda: all_predicted(page))
    second = photos(page)[1]
    ok(draw(page, second))
    second = ok(draw(page, photos(page)[1], side="outside", points=[(50, 50)]))
    assert len(second["strokes"]) == 2
    undone = ok(page.delete(f"{API}/photos/{second['id']}/strokes", params={"version": second["version"]}))
    assert undone["strokes"] == [] and undone["state"] == "predicted"
    accept(page, 1)
    drawn[second["file"]] = mask(page, second)[0]
    ok(
        page.post(
            f"{API}/photos/{third['id']}/state", json={"version": photos(page)[2]["version"], "state": "rejected"}
        )
    )
    counts = ok(page.get(f"{API}/export", params={"format": "coco", "reviewed_only": True}))
    assert counts["photos"] == 2
    left_out = {row["file"]: row["reason"] for row in counts["left_out"]}
    assert left_out == {third["file"]: "rejected", fourth["file"]: "not reviewed"}
    answer = page.post(f"{API}/export", json={"format": "coco", "reviewed_only": True})
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    name = next(name for name in archive.namelist() if name.endswith(".json"))
    coco = json.loads(archive.read(name))
    classes = {c["id"]: c["name"] for c in coco["categories"]}
    for image in coco["images"]:
        found = np.zeros(SIZE, np.uint8)
        for annotation in coco["annotations"]:
            if annotation["image_id"] == image["id"]:
                region = annotation["segmentation"]
                region = region if isinstance(region, dict) else coco_mask.merge(coco_mask.frPyObjects(region, *SIZE))
                if isinstance(region["counts"], list):
                    region = coco_mask.frPyObjects(region, *SIZE)
                value = 1 + ["red", "sky"].index(classes[annotation["category_id"]])
                found[coco_mask.decode(region) == 1] = value
        assert (found == drawn[image["file_name"]]).all()
    assert len(coco["images"]) == 2
    table = page.get(f"{API}/areas.csv").text.splitlines()
    assert f"{first['file']},corrected,red,100,0.020833" in table


def test_a_rectangle_is_put_on_the_mask_that_was_seen_and_on_no_other(page):
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    item = photos(page)[0]
    piece = np.ones((3, 4), np.uint8)
    answer = ok(patch(page, item, piece, 70, 50))  # nothing is known yet: the rest is background
    expected = np.zeros(SIZE, np.uint8)
    expected[50:53, 70:74] = 1
    assert answer["state"] == "corrected" and (mask(page, item)[0] == expected).all()
    until(page, lambda: all_predicted(page))
    item = photos(page)[1]
    found, version = mask(page, item)
    answer = ok(patch(page, {**item, "version": version}, 1 - piece, 14, 13))
    found = found.copy()
    found[13:16, 14:18] = 0
    assert answer["state"] == "corrected" and (mask(page, item)[0] == found).all()
    assert patch(page, {**item, "version": version}, piece, 0, 0).status_code == 409
    for left, top in ((78, 0), (0, 58), (10**6, 10**6)):
        refused = patch(page, answer, piece, left, top)
        assert refused.status_code == 422 and "leaves the photo" in refused.json()["detail"]
    assert patch(page, answer, 2 * piece, 0, 0).status_code == 422
    assert patch(page, answer, np.zeros((61, 3), np.uint8), 0, 0).status_code == 422
    assert (mask(page, item)[0] == found).all()


def test_the_page_is_there_before_its_model_and_what_is_drawn_meanwhile_stays(tmp_path, segmenter):
    there = threading.Event()

    def load():
        there.wait(120)
        return segmenter

    app = make_app(project_of(tmp_path, 3), load, frozenset({HOST}))
    with TestClient(app, base_url=f"http://{HOST}") as page:
        assert ok(page.get(f"{API}/project"))["encoding"]["loading"]
        ok(page.post(f"{API}/classes", json={"name": "red"}))
        item = photos(page)[0]
        assert not mask(page, item)[0].any()
        ok(patch(page, item, np.ones((25, 25), np.uint8), 5, 5))
        unseen = photos(page)[1]
        refused = page.post(
            f"{API}/photos/{unseen['id']}/state", json={"version": unseen["version"], "state": "accepted"}
        )
        assert refused.status_code == 422 and "wait until it is predicted" in refused.json()["detail"]
        there.set()
        until(page, lambda: all_predicted(page))
        assert photos(page)[0]["state"] == "corrected" and mask(page, item)[0].sum() == 625


@pytest.mark.parametrize(
    "format", ["mask", "coco", "coco-polygons", "voc", "yolo", "labelstudio", "labelme", "cvat", "geojson"]
)
def test_every_format_is_exported(page, format):
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    ok(put(page, photos(page)[0], square(5, 6)))
    answer = ok(page.post(f"{API}/export", json={"format": format, "reviewed_only": True}))
    assert "left_out.csv" in zipfile.ZipFile(io.BytesIO(answer.content)).namelist()


def test_a_format_of_another_package_is_offered_and_exported_like_ours(page, monkeypatch):
    point = EntryPoint("theirs", "shotseg.data.annotations.coco:TWIN", "shotseg.formats")
    monkeypatch.setattr(annotations.coco, "TWIN", annotations.FORMATS["coco"], raising=False)
    monkeypatch.setattr(plugins, "added", lambda kind: {"theirs": point})
    assert ok(page.get(f"{API}/project"))["formats"][-1] == "theirs"
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    ok(put(page, photos(page)[0], square(5, 6)))
    assert ok(page.get(f"{API}/export", params={"format": "theirs", "reviewed_only": True}))["photos"] == 1
    packed = ok(page.post(f"{API}/export", json={"format": "theirs", "reviewed_only": True}))
    assert "annotations/instances_default.json" in zipfile.ZipFile(io.BytesIO(packed.content)).namelist()
    refused = page.get(f"{API}/export", params={"format": "no-such"})
    assert refused.status_code == 422 and "choose one of mask, coco" in refused.json()["detail"]


def test_two_pages_lose_nothing_the_second_is_told_and_its_next_try_goes_through(page):
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    item = photos(page)[0]
    ok(draw(page, item))
    refused = draw(page, item)
    assert refused.status_code == 409 and "changed meanwhile" in refused.json()["detail"]
    ok(draw(page, ok(page.get(f"{API}/photos/{item['id']}"))))
    assert len(ok(page.get(f"{API}/photos/{item['id']}"))["strokes"]) == 2


def test_pictures_are_upright_and_as_small_as_asked_for(tmp_path, segmenter):
    folder = photos_folder(tmp_path / "photos", 0)
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(photo(0, (300, 400))).save(folder / "turned.jpg", exif=turned)
    with client_of(Project(tmp_path / "project", folder), segmenter) as page:
        item = photos(page)[0]
        assert (item["width"], item["height"]) == (300, 400)
        for url, size in ((f"image?side={100}", (75, 100)), ("thumbnail", (192, 256)), ("image", (300, 400))):
            answer = ok(page.get(f"{API}/photos/{item['id']}/{url}"))
            assert Image.open(io.BytesIO(answer.content)).size == size


def test_encoding_is_stopped_and_goes_on(tmp_path, segmenter):
    with client_of(project_of(tmp_path, 4), segmenter) as page:
        assert ok(page.post(f"{API}/encoding", json={"running": False}))["running"] is False
        ok(page.post(f"{API}/encoding", json={"running": True}))
        done = {"done": 4, "total": 4, "running": False, "waiting": 0, "loading": False}
        until(page, lambda: ok(page.get(f"{API}/project"))["encoding"] == done)


def examples(page):
    return ok(page.get(f"{API}/project"))["classes"][0]["examples"]


def test_a_class_that_only_strokes_speak_of_is_found_in_other_photos_and_an_example_takes_its_place(page):
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    item = photos(page)[0]
    left, top = 5, 5  # of the red square
    ok(draw(page, item, points=[(left + 5, top + 5), (left + 18, top + 18)]))
    until(page, lambda: all_predicted(page))
    assert examples(page) == 0
    accept(page, 0)
    until(page, lambda: examples(page) == 1)
    ok(page.patch(f"{API}/project", json={"examples_from_reviewed": False}))
    until(page, lambda: examples(page) == 0)


def test_runs_say_the_same_as_the_mask(page):
    for name in ("red", "blue"):
        ok(page.post(f"{API}/classes", json={"name": name}))
    labels = np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)
    ok(put(page, photos(page)[0], labels))
    until(page, lambda: all_predicted(page))
    for _ in range(2):
        for item in photos(page)[:3]:
            answer = ok(page.get(f"{API}/photos/{item['id']}/mask/runs"))
            shown, version = mask(page, item)
            assert np.array_equal(Runs.unpacked(answer.content).labels(SIZE), shown)
            assert answer.headers["etag"] == f'"{version}"'
        page.delete(f"{API}/classes/c1")  # the second class is the first one now
        until(page, lambda: still(page))
    assert page.get(f"{API}/photos/no-such/mask/runs").status_code == 404


def test_a_prediction_is_made_anew_only_where_what_it_rests_on_has_changed(page, segmenter, monkeypatch):
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    ok(put(page, photos(page)[0], square(5, 6)))
    until(page, lambda: all_predicted(page) and still(page))
    decided, decide = [], type(segmenter).decide  # of all its twins
    monkeypatch.setattr(type(segmenter), "decide", lambda own, *how: decided.append(own) or decide(own, *how))
    ok(page.patch(f"{API}/classes/c1", json={"colour": "#102030"}))
    until(page, lambda: still(page))
    assert len(decided) == 0
    ok(draw(page, photos(page)[1]))  # a scribble on a photo teaches nothing about the others
    until(page, lambda: still(page))
    assert len(decided) == 1
    ok(put(page, photos(page)[2], square(7, 8)))  # an example does
    until(page, lambda: still(page))
    assert len(decided) == 3


def test_deciding_again_asks_only_the_classes_that_changed(page, monkeypatch):
    for name in ("red", "sky"):
        ok(page.post(f"{API}/classes", json={"name": name}))
    first, second, *rest = photos(page)
    ok(put(page, first, square(5, 6)))
    until(page, lambda: all_predicted(page) and still(page))
    asked, evidence_of = [], presence.evidence_of
    monkeypatch.setattr(presence, "evidence_of", lambda *args: asked.append(len(args[2])) or evidence_of(*args))
    ok(put(page, second, 2 * square(30, 30)))
    until(page, lambda: still(page))
    assert asked == [1] * len(rest)


def test_the_oldest_examples_are_left_out_several_at_once():
    found = [newest(list(range(count))) for count in range(40)]
    assert all(shots[-1:] == [count - 1][: len(shots)] for count, shots in enumerate(found))
    assert [len(shots) for shots in found[:21]] == list(range(21)) and max(map(len, found)) == MOST_SHOTS
    starts = [shots[0] for shots in found[1:]]
    assert len(set(starts)) == 1 + -(-(39 - MOST_SHOTS) // FEWER)  # how often all photos are compared with all anew


def test_what_classes_said_is_kept_as_far_as_there_is_room(tmp_path, monkeypatch):
    project = project_of(tmp_path)
    first, second, _ = project.said.photos.values()
    monkeypatch.setattr(kept, "ANSWERS", 150)
    own, few, many = kept.Kept(tmp_path), answer_of(100), answer_of(200)
    for answers in (few, many, few, few):  # what is too large takes no room
        own.answered(first, answers)
    own.answered(second, few)
    assert [path.name[: len(first.id)] for path in own._answers] == [first.id] and own._room == 50
    own.answered(first, {})
    own.answered(second, few)
    assert own._answers[own.path(second)] == (100, few) and own._room == 50


def test_photos_that_another_setting_encoded_are_encoded_anew(tmp_path):
    project = project_of(tmp_path)
    photo, small, large = next(iter(project.said.photos.values())), Segmenter(size=64), Segmenter(size=96)
    own = kept.Kept(tmp_path / "encoded")
    assert own.encoded(photo, small).by == small.encodes_as
    again = kept.Kept(tmp_path / "encoded")  # as after a restart
    assert "embedding" in again.encoded(photo, small).features.made  # what each class will ask is not made again
    again = kept.Kept(tmp_path / "encoded")
    assert again.encoded(photo, large).by == large.encodes_as != small.encodes_as


def answer_of(size):
    return {object(): presence.Answer((), {}, torch.zeros(size, dtype=torch.uint8), None, {})}


def still(page):
    encoding = ok(page.get(f"{API}/project"))["encoding"]
    return encoding["done"] == encoding["total"] and not encoding["waiting"]


def test_renaming_and_removing_a_class_reach_the_masks(page):
    for name in ("red", "sky"):
        ok(page.post(f"{API}/classes", json={"name": name}))
    item = photos(page)[0]
    ok(put(page, item, square(5, 5) + 2 * square(30, 30)))
    assert ok(page.patch(f"{API}/classes/c2", json={"name": "blue"}))["name"] == "blue"
    assert page.patch(f"{API}/classes/c2", json={"name": "red"}).status_code == 422
    ok(page.delete(f"{API}/classes/c1"))
    assert (
        mask(page, item)[0] == 2 * square(30, 30)
    ).all()  # numbers stay, so that no page takes one class for another
    item = photos(page)[0]
    ok(put(page, item, square(5, 5) + 2 * square(40, 30)))  # a page that has not heard of it yet
    assert (mask(page, item)[0] == 2 * square(40, 30)).all()
    assert page.delete(f"{API}/classes/c1").status_code == 404


def test_a_server_killed_at_work_has_every_acknowledged_stroke_after_the_restart(tmp_path):
    folder = photos_folder(tmp_path / "photos", 2)
    command = [
        "serve",
        tmp_path / "project",
        "--photos",
        folder,
        "--port",
        "0",
        "--no-browser",
        "--size",
        "96",
        "--token",
    ]
    with warm.shotseg(tmp_path, *command) as server:
        address, token = re.fullmatch(r"(http://127.0.0.1:\d+)/#token=(\S+)", server.first_line()).groups()
        with httpx.Client(base_url=address, timeout=30) as page:
            assert page.get(f"{API}/project").status_code == 401
            page.post(f"{API}/login", json={"token": token})
            with page.stream("GET", f"{API}/events") as events:
                assert next(events.iter_lines()) == "event: project"
            ok(page.post(f"{API}/classes", json={"name": "red"}))
            item, count = photos(page)[0], 5
            for _ in range(count):
                item = ok(draw(page, item))
    assert len(Project(tmp_path / "project").photo(item["id"]).strokes) == count


@pytest.mark.parametrize(
    "options, said",
    [
        (["--host", "0.0.0.0"], "add --token"),
        (["--port", "70000"], "--port 70000"),
        (["--photos", "nowhere"], "--photos nowhere"),
        (["--size", "0"], "--size 0"),
    ],
)
def test_a_wrong_call_is_one_line(tmp_path, capsys, options, said):
    from shotseg.cli import main

    assert main(["serve", str(tmp_path / "project"), "--no-browser", *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "project").exists()
