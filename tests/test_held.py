"""Photos and masks as people hold them: addresses within limits, rows of data sets, samples of FiftyOne."""

import io
import ssl
import subprocess
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from shotseg.cli.demo import DATA
from shotseg.data import fetched
from shotseg.data.fetched import fetch
from shotseg.data.images import read_image, read_mask
from shotseg.errors import InputError
from shotseg.photo import are_several, is_one, open_photo, read_photo, read_shot

PHOTO, MASK = DATA / "images/hair/example.jpg", DATA / "masks/hair/example.png"
SIZE = read_image(PHOTO).shape[:2]


class _Web(BaseHTTPRequestHandler):
    """A server of pictures with every bad habit."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.split("?")[0]
        if path in ("/a.jpg", "/Z%C3%BCrich%20a.jpg"):
            self._say(200, PHOTO.read_bytes())
        elif path == "/moved":
            self._say(302, b"", Location="/a.jpg")
        elif path.startswith("/to/"):
            self._say(302, b"", Location=self.path[4:])
        elif path == "/round":
            self._say(302, b"", Location=f"/round?{time.monotonic_ns()}")
        elif path == "/page":
            self._say(200, b"<html>", **{"Content-Type": "text/html; charset=utf-8"})
        elif path == "/drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(400):  # 20 s
                self.wfile.write(b"x")
                time.sleep(0.05)
        else:
            self._say(
                {"/empty": 200, "/large": 200, "/text": 200}.get(path, 404), {"/large": b"x" * 5000}.get(path, b"")
            )

    def _say(self, code, content, **headers):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(address, certificate) of a server on this machine, by TLS."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = str(folder / "key.pem"), str(folder / "cert.pem")
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
    ]
    made += ["-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl cannot make a certificate here")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=partial(server.serve_forever, poll_interval=0.05), daemon=True).start()
    yield f"https://localhost:{server.server_port}", certificate
    server.shutdown()
    server.server_close()


@pytest.fixture
def web(served, monkeypatch):
    """The server, as if it were a public one whose certificate is known."""
    address, certificate = served
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    monkeypatch.setenv("no_proxy", "localhost")
    monkeypatch.setattr(fetched, "_refuse_inner", lambda *_: None)
    return address


def test_an_address_is_the_photo_that_lies_there(web):
    for place in ("/a.jpg", "/a.jpg?key=secret#top", "/moved", "/Zürich a.jpg"):
        np.testing.assert_array_equal(read_photo(web + place), read_image(PHOTO))
    assert open_photo(f"{web}/a.jpg", 100).size == SIZE and is_one(f"{web}/a.jpg")


@pytest.mark.parametrize(
    "place, says",
    [
        ("/none?key=secret", "the server answers 404; check the address"),
        ("/empty", "sends nothing"),
        ("/large", "more than 0 MB; download"),
        ("/page", "a web page, not a file"),
        ("/drip", "not done in 0 s"),
        ("/round", "the server answers 302"),
        ("/to/http://localhost/a.jpg", "only https:// is fetched"),
        ("/to/file:///etc/hostname", "the server answers 302"),
        ("/to/https://me:secret@localhost/", "a password in it"),
    ],
)
def test_what_an_address_gives_in_place_of_a_photo_is_one_line_without_its_key(web, monkeypatch, place, says):
    monkeypatch.setattr(fetched, "MOST_BYTES", 4000)
    monkeypatch.setattr(fetched, "SECONDS", 0.4 if place == "/drip" else 60)
    start = time.monotonic()
    with pytest.raises(InputError, match=says) as caught:
        fetch(web + place)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value) and time.monotonic() - start < 15


def test_a_server_whose_certificate_is_not_known_is_refused(web, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(InputError, match="certificate verify failed"):
        fetch(f"{web}/a.jpg")


def test_no_address_of_this_machine_or_its_networks_is_asked(served, monkeypatch):
    inner = ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"]
    inner += ["[::1]", "[::ffff:10.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "[fd00::1]"]
    for host in (*inner, served[0].removeprefix("https://")):
        with pytest.raises(InputError, match="an address of this machine or network"):
            fetch(f"https://{host}/a.jpg")
    found = [(2, 1, 6, "", ("93.184.216.34", 443)), (2, 1, 6, "", ("10.0.0.1", 443))]  # a name that means both
    monkeypatch.setattr(fetched.socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(fetched.socket, "socket", lambda *_: pytest.fail("connected"))
    with pytest.raises(InputError, match="both: an address of this machine"):
        fetch("https://both/a.jpg")
    fetched._refuse_inner("dns", "1.1.1.1"), fetched._refuse_inner("dns", "2606:4700:4700::1111")


@pytest.mark.parametrize("address", ["https://", "https://[x/a.jpg", "https://a:b/c.jpg", "https://ü.example/a.jpg"])
def test_an_address_that_is_none_is_one_line(address):
    with pytest.raises(InputError, match="; "):
        read_photo(address)


def rows():
    image, mask = Image.open(PHOTO), Image.open(MASK)
    content = {"bytes": PHOTO.read_bytes(), "path": None}
    yield {"image": image, "mask": mask, "label": 3}
    yield {"image": content, "annotation": {"bytes": None, "path": str(MASK)}}
    yield {"label": mask, "img": np.asarray(image), "id": "a"}
    yield {
        "pixel_values": torch.as_tensor(read_image(PHOTO)).permute(2, 0, 1),
        "labels": torch.as_tensor(np.array(mask)),
    }
    yield {"image_path": str(PHOTO), "mask": str(MASK), "caption": "a person.jpg of"}
    yield {"jpg": PHOTO.read_bytes(), "mask.png": MASK.read_bytes(), "__key__": "a"}


def test_a_row_of_a_data_set_is_its_photo_and_its_mask():
    for row in rows():
        image, mask = read_shot(row)
        np.testing.assert_array_equal(image, read_image(PHOTO))
        np.testing.assert_array_equal(mask, read_mask(MASK))
        assert is_one(row) and open_photo(row, 100).size == SIZE
    assert read_shot({"bytes": PHOTO.read_bytes(), "path": "a.jpg"})[1] is None
    assert read_shot({"image": PHOTO, "label": 3, "mask": None})[1] is None


@pytest.mark.parametrize(
    "row, says",
    [
        ({}, "a row with nothing in it"),
        ({"label": 3, "text": "a"}, "a row with label, text, none of which is a photo"),
        ({"image": {"bytes": None, "path": None}}, "neither bytes nor a path"),
        ({"image": [Image.new("RGB", (2, 2))] * 3}, "several rows at once, 3 under 'image'"),
        ({"image": {"path": "nowhere.jpg"}}, "nowhere.jpg: no such file"),
        ({"left": PHOTO, "right": PHOTO}, "a row with several pictures, left, right; give the value that is the photo"),
    ],
)
def test_a_row_without_a_photo_is_one_line(row, says):
    with pytest.raises(InputError, match=says):
        read_photo(row)


def test_rows_that_the_datasets_library_gives_are_taken_as_they_are():
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = datasets.Features(
        {"image": datasets.Image(), "mask": datasets.Image(decode=False), "label": datasets.Value("int8")}
    )
    table = datasets.Dataset.from_dict({"image": [str(PHOTO)] * 2, "mask": [str(MASK)] * 2, "label": [1, 1]}, features)
    for row in (*table, table.with_format("numpy")[0], table.with_format("torch")[0]):
        image, mask = read_shot(row)
        np.testing.assert_array_equal(image, read_image(PHOTO))
        np.testing.assert_array_equal(mask, read_mask(MASK))
    np.testing.assert_array_equal(read_photo(next(iter(table["image"]))), image)
    with pytest.raises(InputError, match="several rows at once"):
        read_photo(table[:2])


class _Label(SimpleNamespace):
    """A label as FiftyOne's are: fields, and ``to_dict``."""

    def to_dict(self):
        return vars(self)


class _Sample(SimpleNamespace):
    field_names = ("id", "filepath", "truth", "more")

    def __getitem__(self, name):
        return getattr(self, name, None)


def detections(name="hair"):
    mask = read_mask(MASK) == 1
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    box = [left / SIZE[1], top / SIZE[0], (right - left) / SIZE[1], (bottom - top) / SIZE[0]]
    own = _Label(label=name, bounding_box=box, mask=mask[top:bottom, left:right], mask_path=None)
    other = _Label(label="dog", bounding_box=[0, 0, 1.2, 1], mask=np.ones((2, 2)), mask_path=None)
    return _Label(detections=[own, other])


def test_a_sample_of_fiftyone_is_its_photo_and_its_only_masks():
    whole = [_Label(mask=np.asarray(Image.open(MASK)), mask_path=None), _Label(mask=None, mask_path=str(MASK))]
    for label in (*whole, detections()):
        sample = _Sample(filepath=str(PHOTO), truth=label)
        for given in (None, label):
            image, mask = read_shot(sample, given, "hair")
            np.testing.assert_array_equal(image, read_image(PHOTO))
            np.testing.assert_array_equal(mask, read_mask(MASK))
    assert read_shot(sample, None, "dog")[1].all() and is_one(sample) and is_one(label)
    with pytest.raises(InputError, match=r"the mask of .*example\.jpg: no foreground pixel"):
        read_shot(sample, None, "cat")
    with pytest.raises(InputError, match=r"masks in truth, more; give one of them, as masks=\[sample.truth\]"):
        read_shot(_Sample(filepath=str(PHOTO), truth=label, more=label))


def test_the_same_photo_in_every_form_of_bytes():
    content = PHOTO.read_bytes()
    for photo in (bytearray(content), memoryview(content), io.BytesIO(content)):
        assert is_one(photo)
        np.testing.assert_array_equal(read_photo(photo), read_image(PHOTO))
    with PHOTO.open("rb") as file:
        np.testing.assert_array_equal(read_photo(file), read_image(PHOTO))
    with pytest.raises(InputError, match=r"example\.jpg: cannot be read \(.*closed file.*\); open it again"):
        read_photo(file)


def test_one_item_of_a_torch_data_set_is_no_batch_and_two_photos_are():
    photo, mask = Image.open(PHOTO).convert("RGB"), Image.open(MASK).convert("L")
    array = np.asarray(photo)
    for item in ((photo, mask), (photo, 3), (array, np.asarray(mask)), (array, 0), (PHOTO, "hair"), (PHOTO, MASK)):
        assert not are_several(item)
    for several in ((photo, photo), (array, array), (PHOTO, PHOTO), [photo, mask], (str(PHOTO), PHOTO)):
        assert are_several(several)


def test_an_item_of_a_torch_data_set_is_its_photo_and_its_mask():
    photo, mask = Image.open(PHOTO), Image.open(MASK)
    tensor, drawn = torch.from_numpy(read_image(PHOTO)).permute(2, 0, 1), torch.from_numpy(read_mask(MASK))
    expected = read_shot(PHOTO, MASK)
    for item in ((photo, mask), (tensor, drawn), (str(PHOTO), str(MASK)), (PHOTO, MASK, "a name")):
        found = read_shot(item)
        assert all((mine == theirs).all() for mine, theirs in zip(found, expected, strict=True))
    for item in ((tensor, 3), (PHOTO, "hair"), (tensor, {"boxes": []})):
        image, known = read_shot(item)
        assert known is None
        assert (image == expected[0]).all()


def test_a_pil_image_that_is_closed_or_cut_off_is_one_line_and_the_stream_goes_on():
    shut, cut = Image.open(PHOTO), Image.open(io.BytesIO(PHOTO.read_bytes()[:2000]))
    shut.close()
    for broken in (shut, cut):
        with pytest.raises(InputError, match="a PIL image that cannot be read"):
            read_photo(broken)
    with pytest.raises(InputError, match=r"the mask of .*: a PIL image that cannot be read"):
        read_shot(PHOTO, shut)


def test_run_lengths_of_coco_are_a_mask_as_a_list_as_text_and_as_bytes():
    drawn = np.zeros((300, 200), np.uint8)
    drawn[:2, 1] = 1
    for counts in ([300, 2, 59698], "\\92bYj1", b"\\92bYj1"):
        _, mask = read_shot(np.zeros((300, 200, 3), np.uint8), {"size": [300, 200], "counts": counts})
        assert (mask == drawn).all()
    for counts in ([1, 2], "?", None):
        with pytest.raises(InputError, match="run lengths that are none"):
            read_shot(PHOTO, {"size": [300, 200], "counts": counts})


def test_a_tuple_of_planes_or_rows_of_numbers_is_one_photo():
    image = read_image(PHOTO)[:8, :9]
    for whole in (tuple(np.moveaxis(image, 2, 0)), tuple(image), tuple(image[..., 0].tolist())):
        assert read_photo(whole).shape == image.shape


def test_a_batch_of_one_is_a_photo_and_of_several_is_one_line():
    image = read_image(PHOTO)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    for one in (image[None], tensor[None]):
        assert (read_photo(one) == image).all()
    for several in (np.stack([image] * 2), torch.stack([tensor] * 2)):
        with pytest.raises(InputError, match="a batch of 2 photos; give them one by one, or to predict_batch"):
            read_photo(several)
    with pytest.raises(InputError, match="a list of a photo and more; give the photo alone"):
        read_photo([tensor, 3])
