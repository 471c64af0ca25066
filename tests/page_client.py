"""A page without a browser: what a person does, over HTTP."""

import io
import time

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from page_project import SIZE
from shotseg.web import engine
from shotseg.web.app import make_app

engine.PATIENCE = 0.1  # no model waits for a browser here
HOST = "127.0.0.1:8000"
API = "/api/v1"


def client_of(project, segmenter, token=None, hosts=frozenset({HOST})):
    return TestClient(make_app(project, lambda: segmenter, hosts, token), base_url=f"http://{HOST}")


def ok(answer):
    assert answer.status_code < 300, answer.text
    return answer.json() if answer.headers.get("content-type") == "application/json" else answer


def photos(page, **options):
    return ok(page.get(f"{API}/photos", params={"sort": "name", **options}))["items"]


def until(page, condition, seconds=120):
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


def patch(page, item, piece, left, top):
    return page.patch(
        f"{API}/photos/{item['id']}/mask",
        params={"version": item["version"], "left": left, "top": top},
        content=png(piece),
        headers={"content-type": "image/png"},
    )


def accept(page, index):
    """As a person does: look at the mask, then accept what was seen."""
    for _ in range(200):
        item = photos(page)[index]
        _, version = mask(page, item)
        answer = page.post(f"{API}/photos/{item['id']}/state", json={"version": version, "state": "accepted"})
        if answer.status_code != 409:
            assert ok(answer)["state"] == "accepted"
            return
        time.sleep(0.1)
    raise AssertionError("the mask never stood still")
