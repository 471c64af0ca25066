"""The page's server: who is not the page is refused, and a fault is one line that loses nothing."""

import errno
import io

import numpy as np
import pytest
from PIL import Image

from page_client import API, HOST, all_predicted, client_of, draw, ok, patch, photos, png, put, until
from page_project import SIZE, photo, project_of, square
from shotseg.web.project import Project


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
        patched.setattr(type(segmenter), "decide", none_left)
        answer = ok(draw(page, photos(page)[0]))
        assert "ran out of memory" in answer["error"] and len(answer["strokes"]) == 1
    again = ok(draw(page, ok(page.get(f"{API}/photos/{answer['id']}"))))
    assert again["error"] is None and len(again["strokes"]) == 2


def test_a_full_disk_is_one_line_and_nothing_is_lost(page, monkeypatch):
    import os

    ok(page.post(f"{API}/classes", json={"name": "red"}))
    item = photos(page)[0]

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for answer in (draw(page, item), put(page, item, square(5, 5)), patch(page, item, square(0, 0)[:5], 0, 0)):
            assert answer.status_code == 503 and "No space left" in answer.json()["detail"]
    assert ok(draw(page, item))["strokes"]


def test_a_read_only_project_is_shown_and_each_change_is_refused_by_one_line(tmp_path, segmenter, monkeypatch):
    project = project_of(tmp_path, 2)
    project.add_class("red")
    known = sorted(project.said.photos.values(), key=lambda photo: photo.file)
    project.correct(known[0].id, known[0].version, square(5, 5))
    project.close()
    before = {path: path.read_bytes() for path in (tmp_path / "project").rglob("*") if path.is_file()}

    def refused(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr("shotseg.web.ledger.os.open", refused)
        patched.setattr(type(tmp_path), "write_bytes", refused)
        with client_of(Project(tmp_path / "project"), segmenter) as page:
            assert photos(page)[0]["state"] == "corrected"
            until(page, lambda: all_predicted(page))
            for answer in (draw(page, photos(page)[1]), put(page, photos(page)[1], square(5, 5))):
                assert answer.status_code == 503 and "Read-only" in answer.json()["detail"]
    assert {path: path.read_bytes() for path in before} == before


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
