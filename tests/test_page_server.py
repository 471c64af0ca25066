"""The page's server: a person draws, corrects, accepts and exports over HTTP, and nobody else can."""

import io
import json
import re
import signal
import subprocess
import sys
import time
import zipfile

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from page_project import SIZE, photo, photos_folder, project_of, square
from shotseg import Segmenter
from shotseg.web.app import make_app
from shotseg.web.project import Project

HOST = "127.0.0.1:8000"
API = "/api/v1"


@pytest.fixture(scope="module")
def shared_segmenter():
    return Segmenter(size=96)


@pytest.fixture
def segmenter(shared_segmenter):
    for name in shared_segmenter.classes:
        shared_segmenter.remove(name)
    return shared_segmenter


@pytest.fixture
def page(tmp_path, segmenter):
    with client_of(project_of(tmp_path, 4), segmenter) as client:
        yield client


def client_of(project, segmenter, token=None, hosts=frozenset({HOST})):
    return TestClient(make_app(project, segmenter, hosts, token), base_url=f"http://{HOST}")


def ok(answer):
    assert answer.status_code < 300, answer.text
    return answer.json() if answer.headers.get("content-type") == "application/json" else answer


def photos(page, **options):
    return ok(page.get(f"{API}/photos", params={"sort": "name", **options}))["items"]


def until(page, condition, seconds=20):
    for _ in range(seconds * 20):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def all_predicted(page):
    return all(item["state"] != "open" for item in photos(page))


def draw(page, item, class_id="c1", side="inside", points=((12, 12), (22, 22))):
    stroke = {"side": side, "radius": 3, "points": [list(point) for point in points]}
    said = {"version": item["version"], "class_id": class_id, "strokes": [stroke]}
    return page.post(f"{API}/photos/{item['id']}/strokes", json=said)


def mask(page, item):
    answer = ok(page.get(f"{API}/photos/{item['id']}/mask"))
    image = Image.open(io.BytesIO(answer.content))
    assert image.mode == "P" and image.size == SIZE[::-1]
    return np.array(image), int(answer.headers["etag"].strip('"'))


def png(labels):
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, format="PNG")
    return buffer.getvalue()


def put(page, item, labels):
    return page.put(
        f"{API}/photos/{item['id']}/mask",
        params={"version": item["version"]},
        content=png(labels),
        headers={"content-type": "image/png"},
    )


def test_a_stroke_answers_in_its_photo_and_the_others_follow_without_being_encoded_again(page, segmenter, monkeypatch):
    until(page, lambda: ok(page.get(f"{API}/project"))["encoding"]["done"] == 4)
    encoded = []
    monkeypatch.setattr(segmenter, "encode", lambda photo: encoded.append(photo) or pytest.fail("encoded again"))
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    item = photos(page)[0]
    answer = ok(draw(page, item))
    assert answer["state"] == "predicted" and answer["strokes"][0]["class_id"] == "c1"
    found, version = mask(page, item)
    assert version == answer["version"] and found[15, 15] == 1
    until(page, lambda: all_predicted(page))
    assert not encoded


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


def accept(page, index):
    """As a person does: look at the mask, then accept what was seen."""
    for _ in range(20):
        item = photos(page)[index]
        _, version = mask(page, item)
        answer = page.post(f"{API}/photos/{item['id']}/state", json={"version": version, "state": "accepted"})
        if answer.status_code != 409:
            assert ok(answer)["state"] == "accepted"
            return
        time.sleep(0.1)
    raise AssertionError("the mask never stood still")


@pytest.mark.parametrize("format", ["mask", "coco", "coco-polygons", "voc", "yolo", "labelstudio", "labelme", "cvat"])
def test_every_format_is_exported(page, format):
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    ok(put(page, photos(page)[0], square(5, 6)))
    answer = ok(page.post(f"{API}/export", json={"format": format, "reviewed_only": True}))
    assert "left_out.csv" in zipfile.ZipFile(io.BytesIO(answer.content)).namelist()


def test_two_pages_lose_nothing_the_second_is_told_and_its_next_try_goes_through(page):
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    item = photos(page)[0]
    ok(draw(page, item))
    refused = draw(page, item)
    assert refused.status_code == 409 and "changed meanwhile" in refused.json()["detail"]
    ok(draw(page, ok(page.get(f"{API}/photos/{item['id']}"))))
    assert len(ok(page.get(f"{API}/photos/{item['id']}"))["strokes"]) == 2


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"host": "evil.example"}, 400),
        ({"host": "127.0.0.1:9"}, 400),
        ({"host": ""}, 400),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"content-length": "99999999999"}, 413),
        ({"origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}, 201),
    ],
)
def test_who_is_not_the_page_is_refused(page, headers, status):
    answer = page.post(
        f"{API}/classes", content=b'{"name": "red"}', headers={"content-type": "application/json", **headers}
    )
    assert answer.status_code == status
    assert len(ok(page.get(f"{API}/project"))["classes"]) == (status == 201)


def test_every_answer_carries_a_strict_policy(page):
    for path in (f"{API}/project", f"{API}/photos/none", "/static/none"):
        headers = page.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        assert headers["x-content-type-options"] == "nosniff" and "access-control-allow-origin" not in headers


def test_with_a_token_only_its_cookie_opens_the_api(tmp_path, segmenter):
    with client_of(project_of(tmp_path), segmenter, "secret", hosts=None) as page:
        assert page.get(f"{API}/project").status_code == 401
        assert page.get(f"{API}/openapi.json").status_code == 401
        assert page.post(f"{API}/login", json={"token": "secreT"}).status_code == 401
        assert page.get(f"{API}/project", headers={"cookie": "shotseg=secret; a=b"}).status_code == 401
        answer = page.post(f"{API}/login", json={"token": "secret"})
        cookie = answer.headers["set-cookie"].lower()
        assert (
            answer.status_code == 204
            and "samesite=strict" in cookie
            and "httponly" in cookie
            and "secret" not in cookie
        )
        assert page.get(f"{API}/project").status_code == 200


@pytest.mark.parametrize(
    "id", ["..%2fproject", "%2e%2e%2fjournal", "/etc/passwd", "photo0.png", "a%00b", "%ff", "é", "x" * 5000]
)
def test_no_path_of_a_client_is_opened(page, id):
    for kind in ("", "/image", "/thumbnail", "/mask"):
        assert page.get(f"{API}/photos/{id}{kind}").status_code in (404, 405)


def test_dropped_photos_are_taken_and_odd_files_refused_with_a_reason(page):
    buffer = io.BytesIO()
    Image.fromarray(photo(7)).save(buffer, format="PNG")
    bomb = bytearray(buffer.getvalue())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # the header says 60000 x 60000
    files = [
        ("../new.png", buffer.getvalue()),
        ("bomb.png", bytes(bomb)),
        ("page.html", b"<script>alert(1)</script>"),
        ("text.jpg", b"no image"),
        ("empty.png", b""),
    ]
    answer = ok(page.post(f"{API}/photos", files=[("files", file) for file in files]))
    assert [item["file"] for item in answer["added"]] == ["new.png"]
    assert [row["file"] for row in answer["refused"]] == ["bomb.png", "page.html", "text.jpg", "empty.png"]
    assert len(photos(page)) == 5


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", png(np.zeros((5, 5), np.uint8)), png(np.full(SIZE, 9, np.uint8)), png(photo(0))],
    ids=["empty", "no image", "size", "value", "colours"],
)
def test_a_mask_that_is_none_is_refused(page, content):
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    item = photos(page)[0]
    url = f"{API}/photos/{item['id']}/mask?version={item['version']}"
    answer = page.put(url, content=content, headers={"content-type": "image/png"})
    assert answer.status_code == 422 and "\n" not in answer.json()["detail"]
    assert photos(page)[0]["state"] == "open"


def test_a_model_without_memory_is_one_line_and_the_stroke_stays(page, segmenter, monkeypatch):
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    ok(put(page, photos(page)[1], square(5, 6)))
    until(page, lambda: all_predicted(page))

    def none_left(*arguments):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB\nand so on")

    with monkeypatch.context() as patched:
        patched.setattr(segmenter, "decide", none_left)
        answer = ok(draw(page, photos(page)[0]))
        assert "ran out of memory" in answer["error"] and len(answer["strokes"]) == 1
    again = ok(draw(page, ok(page.get(f"{API}/photos/{answer['id']}"))))
    assert again["error"] is None and len(again["strokes"]) == 2


def test_a_full_disk_is_one_line_and_nothing_is_lost(page, monkeypatch):
    import errno
    import os

    ok(page.post(f"{API}/classes", json={"name": "red"}))
    item = photos(page)[0]

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for answer in (draw(page, item), put(page, item, square(5, 5))):
            assert answer.status_code == 503 and "No space left" in answer.json()["detail"]
    assert ok(draw(page, item))["strokes"]


def test_a_photo_that_is_deleted_meanwhile_is_one_line_and_the_others_go_on(page, tmp_path):
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    until(page, lambda: ok(page.get(f"{API}/project"))["encoding"]["done"] == 4)
    item, other = photos(page)[:2]
    (tmp_path / "photos" / item["file"]).unlink()
    answer = ok(draw(page, item))
    assert "no such file" in answer["error"] and len(answer["strokes"]) == 1
    assert page.get(f"{API}/photos/{item['id']}/image?side=33").status_code == 404
    assert ok(draw(page, other))["error"] is None


def test_a_photo_that_is_replaced_meanwhile_is_seen_anew_or_named_where_it_was_drawn_on(page, tmp_path):
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    ok(put(page, photos(page)[3], square(5, 5)))
    until(page, lambda: all_predicted(page))
    item, other = photos(page)[:2]
    ok(draw(page, item))
    for one in (item, other):
        Image.fromarray(photo(5, (50, 90))).save(tmp_path / "photos" / one["file"])
    ok(put(page, photos(page)[3], square(6, 6)))
    until(page, lambda: photos(page)[1]["width"] == 90 and photos(page)[0]["error"])
    drawn, fresh = photos(page)[:2]
    assert "drawn on when it was 80 x 60" in drawn["error"] and drawn["width"] == 80
    assert fresh["error"] is None and fresh["height"] == 50


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
        until(page, lambda: ok(page.get(f"{API}/project"))["encoding"] == {"done": 4, "total": 4, "running": False})


def test_a_class_that_only_strokes_speak_of_is_found_in_other_photos_and_an_example_takes_its_place(page):
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    item = photos(page)[0]
    left, top = 5, 5  # of the red square
    ok(draw(page, item, points=[(left + 5, top + 5), (left + 18, top + 18)]))
    until(page, lambda: all_predicted(page))
    assert ok(page.get(f"{API}/project"))["classes"][0]["examples"] == 0
    accept(page, 0)
    assert ok(page.get(f"{API}/project"))["classes"][0]["examples"] == 1
    ok(page.patch(f"{API}/project", json={"examples_from_reviewed": False}))
    assert ok(page.get(f"{API}/project"))["classes"][0]["examples"] == 0


def test_renaming_and_removing_a_class_reach_the_masks(page):
    for name in ("red", "sky"):
        ok(page.post(f"{API}/classes", json={"name": name}))
    item = photos(page)[0]
    ok(put(page, item, square(5, 5) + 2 * square(30, 30)))
    assert ok(page.patch(f"{API}/classes/c2", json={"name": "blue"}))["name"] == "blue"
    assert page.patch(f"{API}/classes/c2", json={"name": "red"}).status_code == 422
    ok(page.delete(f"{API}/classes/c1"))
    assert (mask(page, item)[0] == square(30, 30)).all()
    assert page.delete(f"{API}/classes/c1").status_code == 404


ODD = ["", "\x00", "é" * 300, "<img src=x onerror=alert(1)>", -1, 0, 2**70, 1e308, None, True, [], {}, [[1]], {"a": 1}]


def test_no_route_answers_odd_input_with_a_fault_of_its_own(page):
    """Every operation of the OpenAPI page, with odd values in each of its parameters and fields."""
    ok(page.post(f"{API}/classes", json={"name": "red"}))
    id = photos(page)[0]["id"]
    schema = ok(page.get(f"{API}/openapi.json"))
    bodies = schema["components"]["schemas"]
    tried = 0
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if path.endswith("/events"):
                continue
            url = path.replace("{id}", "c1" if "classes" in path else id)
            names = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"]
            said = [{}, *({name: value} for name in names for value in ODD)]
            content = operation.get("requestBody", {}).get("content", {})
            fields = []
            if "application/json" in content:
                fields = list(bodies[content["application/json"]["schema"]["$ref"].split("/")[-1]]["properties"])
            asked = [{"params": {name: str(value) for name, value in query.items()}} for query in said]
            asked += [{"json": value} for value in ODD if fields]
            good = {"version": 0, "class_id": "c1", "name": "a", "state": "open", "format": "coco", "running": True}
            good |= {
                "strokes": [{"side": "inside", "radius": 1, "points": [[1, 1]]}],
                "token": "",
                "key": "",
                "colour": "#000000",
            }
            good |= {"examples_from_reviewed": True, "reviewed_only": True}
            asked += [{"json": {f: good[f] for f in fields} | {name: value}} for name in fields for value in ODD]
            asked += [{"content": b"\xff\xfe{", "headers": {"content-type": kind}} for kind in content]
            for how in asked:
                if method == "delete" and "classes" in path:
                    url = path.replace("{id}", "c99")
                answer = page.request(method, url, **how)
                tried += 1
                assert answer.status_code < 500, (method, path, how, answer.text)
                assert str(answer.status_code) in operation["responses"], (method, path, how, answer.status_code)
                if answer.status_code >= 400:
                    assert "\n" not in answer.json()["detail"]
    assert tried > 300


def test_a_server_killed_at_work_has_every_acknowledged_stroke_after_the_restart(tmp_path):
    folder = photos_folder(tmp_path / "photos", 2)
    command = [sys.executable, "-m", "shotseg", "serve", str(tmp_path / "project"), "--photos", str(folder)]
    command += ["--port", "0", "--no-browser", "--size", "96", "--token"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        address, token = re.fullmatch(r"(http://127.0.0.1:\d+)/#token=(\S+)\n", server.stdout.readline()).groups()
        with httpx.Client(base_url=address, timeout=30) as page:
            assert page.get(f"{API}/project").status_code == 401
            page.post(f"{API}/login", json={"token": token})
            with page.stream("GET", f"{API}/events") as events:
                assert next(events.iter_lines()) == "event: project"
            ok(page.post(f"{API}/classes", json={"name": "red"}))
            item, count = photos(page)[0], 5
            for _ in range(count):
                item = ok(draw(page, item))
        server.send_signal(signal.SIGKILL)
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
