"""The backend of Label Studio: its routes, on real photos, by what Label Studio sends."""

import base64
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import shotseg
from shotseg.cli import main
from shotseg.cli.demo import DATA, demo_items
from shotseg.data.annotations.label_studio import decode, draw, encode
from shotseg.data.folder import FolderDataset
from shotseg.data.images import read_mask
from shotseg.errors import InputError
from shotseg.integrations.label_studio import Backend
from shotseg.integrations.regions import strokes_of, tag_of
from shotseg.integrations.task_photos import TaskPhotos

testing = pytest.importorskip("fastapi.testclient", reason="fastapi is not installed")
from shotseg.integrations.backend_app import app_of  # noqa: E402

SCHEMA = (
    '<View><Image name="img" value="$photo"/><BrushLabels name="tag" toName="img">'
    '<Label value="hair"/><Label value="dress"/></BrushLabels></View>'
)


def task_of(item, number):
    return {"id": number, "data": {"photo": f"/data/local-files/?d={item.image_path.relative_to(DATA)}"}}


def finished(item, number=7, action="ANNOTATION_CREATED"):
    mask = read_mask(item.mask_path) == 1
    region = {"type": "brushlabels", "value": {"format": "rle", "rle": encode(mask), "brushlabels": [item.class_name]}}
    return {
        "action": action,
        "project": {"id": 1, "label_config": SCHEMA},
        "annotation": {"id": 3, "task": number, "result": [region], "was_cancelled": False},
        "task": task_of(item, number),
    }


@pytest.fixture(scope="module")
def segmenter():
    found = shotseg.Segmenter(size=160, device="cpu")
    for item in demo_items()[0]:
        found.add(item.class_name, [item.image_path], [item.mask_path])
    return found


@pytest.fixture
def client(segmenter, tmp_path):
    return testing.TestClient(app_of(Backend(segmenter, TaskPhotos(folder=DATA), tmp_path / "kept")))


def predict(client, tasks, schema=SCHEMA, context=None):
    asked = {"tasks": tasks, "label_config": schema, "project": "1.1", "params": {"context": context}}
    return client.post("/predict", json=asked).json()["results"]


def test_health_setup_and_old_routes_answer(client):
    assert client.get("/").json()["status"] == client.get("/health").json()["status"] == "UP"
    version = client.post("/setup", json={"project": "1.1", "schema": ""}).json()["model_version"]
    assert version.startswith("shotseg-") and client.get("/versions").json()["versions"] == [version]
    assert client.post("/train").json() == client.post("/job_status").json() == {}


def test_a_batch_has_one_answer_a_task_in_order_and_the_masks_are_the_segmenter_s(client, segmenter):
    items = demo_items()[1][:2]
    unread = {"id": 2, "data": {"photo": "/data/local-files/?d=none.jpg"}}
    first, lost, second = predict(client, [task_of(items[0], 1), unread, task_of(items[1], 3)])
    assert lost == []  # Label Studio keeps no prediction then, and asks again
    for answer, item in ((first, items[0]), (second, items[1])):
        found = segmenter.predict(item.image_path)
        assert answer["score"] == pytest.approx(found.confidence, abs=1e-4)
        drawn = {region["value"]["brushlabels"][0]: region for region in answer["result"]}
        assert set(drawn) == {name for name, mask in found.masks.items() if mask.any()}
        for name, region in drawn.items():
            assert (region["from_name"], region["to_name"], region["type"]) == ("tag", "img", "brushlabels")
            np.testing.assert_array_equal(decode(region["value"]["rle"], *found.size), found.masks[name])


@pytest.mark.parametrize("bad", [None, 5, "task", {}, {"id": 1, "data": None}, {"id": 1, "data": {"photo": 5}}])
def test_a_task_that_makes_no_sense_leaves_the_others_done(client, bad):
    lost, done = predict(client, [bad, task_of(demo_items()[1][0], 1)])
    assert lost == [] and done["result"]


def test_an_empty_set_up_gives_no_region_and_a_broken_one_is_said(client):
    assert predict(client, [task_of(demo_items()[1][0], 1)], schema="") == [[]]
    answer = client.post("/predict", json={"tasks": [], "label_config": "<View>"})
    assert answer.status_code == 422 and "no XML" in answer.json()["detail"]


def test_bitmask_labels_get_a_picture_of_the_same_pixels(client, segmenter):
    item = demo_items()[1][0]
    (answer,) = predict(client, [task_of(item, 1)], SCHEMA.replace("BrushLabels", "BitmaskLabels"))
    found = segmenter.predict(item.image_path)
    for region in answer["result"]:
        np.testing.assert_array_equal(
            draw(region["value"], *found.size), found.masks[region["value"]["bitmasklabels"][0]]
        )


def test_a_key_point_asks_for_its_class_alone_and_the_mask_agrees_with_it(client, segmenter):
    item = demo_items()[1][0]
    size = segmenter.predict(item.image_path).size
    point = {"type": "keypointlabels", "is_positive": 1, "value": {"x": 10, "y": 90, "width": 0.3}}
    point["value"]["keypointlabels"] = ["dress"]
    (answer,) = predict(client, [task_of(item, 1)], context={"result": [point]})
    (region,) = answer["result"]
    assert region["value"]["brushlabels"] == ["dress"]
    assert decode(region["value"]["rle"], *size)[int(0.9 * size[0]), int(0.1 * size[1])]


def boxed(x, y, width, height, rotation=0, name="hair"):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation, "rectanglelabels": [name]}
    return {"type": "rectanglelabels", "value": value}


def test_rectangles_ask_for_their_class_within_them_and_points_refine_it(client, segmenter):
    item = demo_items()[1][0]
    height, width = segmenter.predict(item.image_path).size
    point = {"type": "keypointlabels", "is_positive": 0, "value": {"x": 25, "y": 25, "width": 0.3}}
    point["value"]["keypointlabels"] = ["hair"]
    (answer,) = predict(
        client, [task_of(item, 1)], context={"result": [point, boxed(20, 10, 10, 30), boxed(60, 70, 20, 20)]}
    )
    (region,) = answer["result"]
    assert region["value"]["brushlabels"] == ["hair"]
    mask = decode(region["value"]["rle"], height, width)
    inside = np.zeros((height, width), bool)
    for left, top, right, bottom in ((20, 10, 30, 40), (60, 70, 80, 90)):
        rows, columns = (
            slice(top * height // 100, bottom * height // 100 + 1),
            slice(left * width // 100, right * width // 100 + 1),
        )
        inside[rows, columns] = True
    assert not (mask & ~inside).any() and mask[int(0.8 * height), int(0.7 * width)]
    assert not mask[int(0.25 * height), int(0.25 * width)]  # the newer point lies on the middle of a rectangle


def test_a_rectangle_that_was_turned_is_where_it_is_seen():
    upright, turned = (
        strokes_of([box], (200, 200))["hair"].labels for box in (boxed(20, 10, 40, 20), boxed(60, 10, 20, 40, 90))
    )
    np.testing.assert_array_equal(upright == 0, turned == 0)
    assert (upright[20:60, 40:120] != 0).all() and upright[40, 80] == 1 and upright[19, 80] == upright[40, 121] == 0


def test_polygon_labels_get_a_polygon_for_each_part(client, segmenter):
    item = demo_items()[1][0]
    (answer,) = predict(client, [task_of(item, 1)], SCHEMA.replace("BrushLabels", "PolygonLabels"))
    found = segmenter.predict(item.image_path)
    drawn = {name: np.zeros(found.size, bool) for name in found.classes}
    for region in answer["result"]:
        assert region["type"] == "polygonlabels" and region["value"]["closed"]
        assert 0 <= np.min(region["value"]["points"]) <= np.max(region["value"]["points"]) <= 100
        drawn[region["value"]["polygonlabels"][0]] |= draw(region["value"], *found.size)
    for name, mask in found.masks.items():
        assert (drawn[name] != mask).sum() <= 0.05 * mask.sum()  # specks are left out
    assert len({region["id"] for region in answer["result"]}) == len(answer["result"])
    both = SCHEMA.replace(
        "<BrushLabels", '<PolygonLabels name="p" toName="img"><Label value="a"/></PolygonLabels><BrushLabels'
    )
    assert tag_of(both).kind == "brushlabels"


def test_a_deleted_annotation_is_an_example_no_longer(tmp_path):
    backend = Backend(shotseg.Segmenter(size=96, device="cpu"), TaskPhotos(folder=DATA), tmp_path)
    client = testing.TestClient(app_of(backend))
    versions = [backend.version]
    for number, item in ((3, demo_items()[0][0]), (31, demo_items()[0][1])):
        event = finished(item, number)
        event["annotation"]["id"] = number
        client.post("/webhook", json=event)
        versions.append(backend.version)
    assert len(set(versions)) == 3
    gone = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 31}], "project": {"id": 1}}
    client.post("/webhook", json=gone)
    assert backend.version == versions[1] and len(FolderDataset(tmp_path).items) == 1
    client.post("/webhook", json={**gone, "annotations": [{"id": 3}]})
    assert backend.version == versions[0] == "shotseg-empty" and not list(tmp_path.rglob("*.png"))


def test_only_new_examples_are_encoded(segmenter, tmp_path, monkeypatch):
    first, second = demo_items()[0]
    backend = Backend(segmenter, TaskPhotos(folder=DATA), tmp_path)
    seen = []
    add = shotseg.Segmenter.add
    monkeypatch.setattr(shotseg.Segmenter, "add", lambda self, name, *rest: seen.append(name) or add(self, name, *rest))
    for number, item in ((1, first), (2, second), (3, second)):
        event = finished(item, number)
        event["annotation"]["result"][0]["value"]["brushlabels"] = [f"new {item.class_name}"]
        backend.learn(event)
    assert seen == [f"new {item.class_name}" for item in (first, second, second)]
    backend.learn({**event, "action": "ANNOTATION_UPDATED"})  # nothing is another
    assert len(seen) == 3
    event["annotation"]["result"] = finished(first)["annotation"]["result"]  # of another size
    with pytest.raises(InputError, match="cannot be drawn"):
        backend.learn(event)


def test_time_that_is_up_leaves_the_rest_to_the_next_call(segmenter, tmp_path):
    backend = Backend(segmenter, TaskPhotos(folder=DATA), seconds=0)
    done, *rest = backend.predict([task_of(demo_items()[1][0], i) for i in range(3)], SCHEMA)
    assert done["result"] and rest == [[], []]


def test_a_finished_annotation_is_an_example_the_version_changes_and_the_command_line_reads_it(tmp_path):
    start = shotseg.Segmenter(size=160, device="cpu")
    backend = Backend(start, TaskPhotos(folder=DATA), tmp_path)
    client = testing.TestClient(app_of(backend))
    item, other = demo_items()[0][0], demo_items()[1][0]
    before = backend.version
    assert predict(client, [task_of(other, 1)]) == [[]]
    assert client.post("/webhook", json=finished(item)).status_code == 201
    assert backend.version != before
    (example,) = FolderDataset(tmp_path).items
    assert example.class_name == item.class_name
    np.testing.assert_array_equal(read_mask(example.mask_path), read_mask(item.mask_path))
    assert predict(client, [task_of(item, 1)])[0]["result"]
    again = backend.version
    client.post("/webhook", json=finished(item, action="ANNOTATION_UPDATED"))
    assert backend.version == again and len(FolderDataset(tmp_path).items) == 1
    assert Backend(start, TaskPhotos(), tmp_path).version == again  # after a restart
    for event in ({"action": "TASKS_CREATED"}, {"action": "ANNOTATION_CREATED"}, {}):
        assert client.post("/webhook", json=event).status_code == 201


def test_a_password_is_asked_of_every_route_but_health(segmenter):
    client = testing.TestClient(app_of(Backend(segmenter, TaskPhotos()), "me", "secret"))
    assert client.get("/health").status_code == 200
    for given in ({}, {"Authorization": "Basic bm8="}, {"Authorization": "Basic ü".encode()}):
        assert client.post("/setup", json={}, headers=given).status_code == 401
    right = {"Authorization": "Basic " + base64.b64encode(b"me:secret").decode()}
    assert client.post("/setup", json={}, headers=right).status_code == 200


class _Server(BaseHTTPRequestHandler):
    """A Label Studio that trades its personal token, serves one photo, and sends to another server."""

    def do_POST(self):
        self._say(200, b'{"access": "short-lived"}')

    def do_GET(self):
        if self.path.startswith("/away"):
            self._say(302, b"", Location="http://127.0.0.1:1/photo.jpg")
        elif self.headers["Authorization"] != "Bearer short-lived":
            self._say(401, b"no")
        else:
            self._say(200, demo_items()[1][0].image_path.read_bytes())

    def _say(self, code, content, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=partial(found.serve_forever, poll_interval=0.05), daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


def test_photos_come_from_the_server_by_a_personal_token(server):
    photo = demo_items()[1][0].image_path.read_bytes()
    assert TaskPhotos(server, "a.b.c").read("/data/upload/1/0a1b2c3d-x.jpg") == photo
    with pytest.raises(InputError, match="personal access token"):
        TaskPhotos(server).read("/data/upload/1/x.jpg")


@pytest.mark.parametrize(
    "address, said",
    [
        ("http://169.254.169.254/latest", "no other server"),
        ("//elsewhere/x.jpg", "no other server"),
        ("/away.jpg", "another server"),
        ("file:///etc/hostname", "leads out"),
        ("/data/local-files/?d=../../../etc/hostname", "leads out"),
        ("/data/local-files/?d=%2e%2e%2fx.jpg", "leads out"),
        ("s3://bucket/x.jpg", "no other server"),
        ("http://[x", "cannot be read"),
        (None, "give the address"),
    ],
)
def test_no_other_server_and_no_file_outside_the_folder_is_read(server, address, said):
    with pytest.raises(InputError, match=said):
        TaskPhotos(server, "a.b.c", DATA).read(address)


def test_a_set_up_s_first_brush_counts_and_entities_are_refused():
    assert tag_of(SCHEMA).labels == ("hair", "dress") and tag_of("<View/>") is None
    with pytest.raises(InputError, match="entities"):
        tag_of('<!DOCTYPE a [<!ENTITY b "c">]><View/>')


def test_the_command_line_asks_for_a_password_where_others_can_reach_it(capsys):
    assert main(["backend", "--host", "0.0.0.0"]) == 2
    assert "--user" in capsys.readouterr().err


def test_label_studio_s_own_decoder_reads_our_regions(client, segmenter):
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed")
    item = demo_items()[1][0]
    found = segmenter.predict(item.image_path)
    for region in predict(client, [task_of(item, 1)])[0]["result"]:
        theirs = brush.decode_rle(region["value"]["rle"]).reshape(*found.size, 4)[..., 3] > 0
        np.testing.assert_array_equal(theirs, found.masks[region["value"]["brushlabels"][0]])
