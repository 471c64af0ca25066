"""Photos at addresses, results in a store: what is read, written, resumed, refused, and never shown."""

import http.server
import io
import json
import re
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from shotseg import Segmenter, runs
from shotseg.cli import main
from shotseg.data import remote
from shotseg.data.images import write_png
from shotseg.data.remote import shown
from shotseg.errors import InputError, UsageError
from shotseg.report import STATE
from shotseg.runs import journal
from shotseg.runs.photos import seen
from test_runs_again import Finder

fsspec = pytest.importorskip("fsspec", reason="extra remote is not installed")
SECRET = "geheim"


def png(width=9):
    content = io.BytesIO()
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:, :width] = 200
    Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def store():
    """A store in memory with four photos; gives its files by their paths."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    for number, file in enumerate(("1.png", "2.png", "sub/1.png", "sub/3.png")):
        store.pipe_file(f"/bucket/photos/{file}", png(3 * number + 1))
    store.pipe_file("/bucket/photos/notes.txt", b"no photo")
    yield store
    store.store.clear()


@pytest.fixture
def web(monkeypatch):
    """A server of this machine; gives its address, and how often each path was asked for."""
    pytest.importorskip("aiohttp", reason="extra remote is not installed")
    asked = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path, answers = self.path.split("?")[0], {"/no.png": 403, "/none.png": 404, "/down.png": 503}
            asked[path] = asked.get(path, 0) + 1
            if path in answers or (path == "/flaky.png" and asked[path] < 2):
                self.send_error(answers.get(path, 503))
                return
            body = {"/empty.png": b"", "/broken.png": b"no photo"}.get(path, png())
            if path == "/list.txt":
                body = "".join(f"http://{host}/{file}?sig={SECRET}\n" for file in LISTED).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 40 if path == "/large.png" else len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    host = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    yield f"http://{host}", asked
    server.shutdown()
    server.server_close()


LISTED = ("a/1.png", "%2e%2e/%2e%2e/etc/2.png", "flaky.png", "broken.png", "none.png")


def run(out, query="memory://bucket/photos", finder=None, **how):
    finder = finder or Finder("dress")
    summary = runs.segment_folder(finder, runs.find_photos(query, out), out, **how)
    return finder.asked, summary


def content(store, root="/bucket/out"):
    """The files of a run by their names, without times and where photos lay."""
    files = {path.removeprefix(f"{root}/"): store.cat_file(path) for path in store.find(root)}
    files["results.jsonl"] = [json.loads(line) | {"seconds": 0} for line in files["results.jsonl"].splitlines()]
    return {name: file for name, file in files.items() if "journals/" not in name}


def test_a_run_in_a_store_leaves_the_files_of_a_run_in_a_folder(store, tmp_path):
    asked, summary = run("memory://bucket/out", failed_supports=[("a", "b")])
    run(tmp_path / "out", failed_supports=[("a", "b")])
    theirs = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file() and path.name != "journal.jsonl"
    }
    theirs["results.jsonl"] = [json.loads(line) | {"seconds": 0} for line in theirs["results.jsonl"].splitlines()]
    assert content(store) == theirs and len(theirs) == 4 * 3 + 4
    assert asked == ["1.png", "2.png", "sub/1.png", "sub/3.png"]
    assert summary.report == "memory://bucket/out/report.html" and summary.errors == "memory://bucket/out/errors.csv"


def test_a_large_photo_in_a_store_is_seen_in_windows_as_one_in_a_folder_is(tmp_path):
    image = np.random.default_rng(0).integers(0, 120, (300, 340, 3), dtype=np.uint8)
    image[100:160, 60:120] = (230, 120, 30)
    Image.fromarray(image).save(tmp_path / "a.png")
    finder = Segmenter(encoder="efficientnet-lite0", size=96, tile=192, device="cpu")
    finder.add("disc", image[60:200, 20:160], np.pad(np.full((60, 60), 255, np.uint8), 40))
    seen_in_windows, in_windows = [], Segmenter._in_windows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segmenter, "_in_windows", lambda *given: seen_in_windows.append(1) or in_windows(*given))
        store = fsspec.filesystem("memory")
        store.pipe_file("/large/a.png", (tmp_path / "a.png").read_bytes())
        for query, out in (("memory://large", tmp_path / "from store"), (tmp_path, tmp_path / "from folder")):
            runs.segment_folder(finder, runs.find_photos(query, out), out)
    store.store.clear()
    assert len(seen_in_windows) == 2
    kept = [(tmp_path / out / "masks/disc/a.png").read_bytes() for out in ("from store", "from folder")]
    assert kept[0] == kept[1]


class Stopped(Finder):
    """Is interrupted at the third photo."""

    def predict(self, photo):
        if len(self.asked) == 2:
            raise KeyboardInterrupt
        return super().predict(photo)


def test_an_interrupted_run_in_a_store_goes_on_where_it_stopped(store):
    run("memory://bucket/whole")
    with pytest.raises(KeyboardInterrupt):
        run("memory://bucket/out", finder=Stopped("dress"))
    assert 0 < len(store.cat_file("/bucket/out/results.jsonl").splitlines()) < 4
    asked, _ = run("memory://bucket/out", resume=True)
    assert 0 < len(asked) < 4
    assert content(store) == content(store, "/bucket/whole")
    store.pipe_file("/bucket/photos/2.png", png(29))
    assert run("memory://bucket/out", resume=True)[0] == ["2.png"]
    assert run("memory://bucket/out", resume=True)[0] == []
    with pytest.raises(UsageError, match=r"memory://bucket/out was made with other settings \(size\)"):
        run("memory://bucket/out", resume=True, settings={"size": 5})


def test_a_second_run_in_a_store_takes_the_place_of_the_first(store):
    store.pipe_file("/bucket/photos/broken.png", b"no photo")
    run("memory://bucket/out")
    assert store.exists("/bucket/out/errors.csv")
    store.rm_file("/bucket/photos/broken.png")
    store.rm_file("/bucket/photos/2.png")
    store.pipe_file("/bucket/out/masks/dress/mine.png", b"mine")
    run("memory://bucket/out")
    found = content(store)
    assert "errors.csv" not in found and "masks/dress/2.png" not in found and "masks/dress/mine.png" in found
    assert len(found) == 3 * 3 + 1 + 3


def test_shards_in_a_store_are_joined_by_the_last(store):
    run("memory://bucket/whole")
    for shard in ("2/3", "1/3"):
        run("memory://bucket/out", shard=shard)
        assert not store.exists("/bucket/out/results.jsonl")
    run("memory://bucket/out", shard="3/3")
    ours, whole = content(store), content(store, "/bucket/whole")
    assert {name: file for name, file in ours.items() if "shard" not in name} == {
        name: file for name, file in whole.items() if not name.startswith(f"{STATE}/names")
    }


def test_two_shards_that_come_to_their_end_at_once_are_joined(store, monkeypatch):
    join = journal.join_shards

    def and_then_the_other(place, part):
        joined = join(place, part)
        if part.part == 0:
            run("memory://bucket/out", shard="2/2")
        return joined

    monkeypatch.setattr(journal, "join_shards", and_then_the_other)
    run("memory://bucket/out", shard="1/2")
    assert len(store.cat_file("/bucket/out/results.jsonl").splitlines()) == 4


def test_results_in_the_store_of_the_photos_are_no_photos(store):
    for out in ("memory://bucket/photos", "memory://bucket/photos/out"):
        for _ in range(2):
            assert [photo.file for photo in runs.find_photos("memory://bucket/photos", out)] == [
                "1.png",
                "2.png",
                "sub/1.png",
                "sub/3.png",
            ]
            run(out)
        store.rm(out.removeprefix("memory:/") + "/masks", recursive=True)
        store.rm(out.removeprefix("memory:/") + "/labels", recursive=True)


def test_a_list_names_photos_of_this_machine_from_its_own_folder_or_by_whole_paths(tmp_path):
    for name in ("here/a.png", "b.png"):
        write_png(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    lines = "here/a.png", str(tmp_path / "b.png"), "lost.jpg", "https://a.example/p"
    (tmp_path / "list.txt").write_text("\n".join(lines))
    found = {photo.file: photo.path for photo in runs.find_photos(tmp_path / "list.txt")}
    assert found.pop("a.example/p") == "https://a.example/p"
    assert found == {name: str(tmp_path / name) for name in ("here/a.png", "b.png", "lost.jpg")}
    (tmp_path / "list.txt").write_text("memory://none/x.png\nhere/a.png")
    summary = runs.segment_folder(Finder("x"), runs.find_photos(tmp_path / "list.txt"), tmp_path / "out")
    assert (summary.photos, summary.failed) == (2, 1)
    with pytest.raises(UsageError, match="line 1 is no address and no photo"):  # a list of others opens no file of mine
        list(remote.listed([str(tmp_path / "b.png")], "https://a.example/list.txt"))


def test_a_query_in_a_store_is_a_photo_a_folder_or_a_pattern(store, tmp_path):
    def files(query):
        return [photo.file for photo in runs.find_photos(query)]

    assert files("memory://bucket/photos/sub/1.png") == ["1.png"]
    assert files("memory://bucket/photos/sub") == ["1.png", "3.png"]
    assert files("memory://bucket/*/sub/*.png") == ["photos/sub/1.png", "photos/sub/3.png"]
    with pytest.raises(UsageError, match=r"memory://bucket/none: no image found"):
        files("memory://bucket/none")
    (tmp_path / "list.jsonl").write_text('{"url": "memory://bucket/photos/1.png", "file": "x/../../y.png"}\n\n')
    assert files(tmp_path / "list.jsonl") == ["x/y.png"]
    for line in ("photos/1", "{}", "[", "file:///etc/passwd", "zip://a::http://b/c", "https://?id=1", "http:///#x"):
        (tmp_path / "list.txt").write_text(f"# photos\n{line}\n")
        with pytest.raises(UsageError, match=r"list\.txt: line 2 is no address and no photo"):
            files(tmp_path / "list.txt")
    for line, said in (
        ("mine/1.png?key=S", "mine/1.png;"),
        ("htps://u:S@a.example/1.png?key=S", "htps://a.example/1.png;"),
    ):
        (tmp_path / "list.txt").write_text(line)
        with pytest.raises(UsageError, match=r"line 1 is no address and no photo: " + re.escape(said)):
            files(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("https://a.example/p?id=1\nhttps://a.example/p?id=2\n")
    with pytest.raises(UsageError, match=r"two photos are called a\.example/p"):
        files(tmp_path / "list.txt")


def test_masks_of_your_own_in_a_store_and_places_that_take_none_are_refused(store, tmp_path, capsys):
    store.pipe_file("/bucket/out/masks/mine.png", b"mine")
    for out, words in {
        "memory://bucket/out": "masks/ in it is your own",
        f"https://me:{SECRET}@a.example/out": "https://a.example/out: cannot be written",
    }.items():
        with pytest.raises(UsageError, match=words):
            runs.check_output(out)
    labels = ["pseudo-label", "--images", str(tmp_path), "--labels", str(tmp_path), "--out", "s3://bucket/out"]
    assert main(labels) == 2
    assert "--out s3://bucket/out: pseudo-label writes to a folder" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--format and --instances write to a folder of this machine"):
        runs.check_output("memory://bucket/new", "coco")


def test_a_list_on_the_web_is_done_and_what_fails_is_one_line_without_its_signature(web, tmp_path):
    host, asked = web
    _, summary = run(tmp_path / "out", query=f"{host}/list.txt?sig={SECRET}")
    lines = [json.loads(line) for line in summary.results.read_text().splitlines()]
    assert (summary.photos, summary.failed) == (5, 2) and asked["/flaky.png"] == 2
    assert all(line["file"].startswith("127.0.0.1_") and ".." not in line["file"] for line in lines)
    errors = [line["error"] for line in lines if line["error"]]
    assert any("/none.png: no such file" in line for line in errors) and any("/broken.png" in line for line in errors)
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    done, _ = run(tmp_path / "out", query=f"{host}/list.txt?sig=another", resume=True)
    assert done == [], "signed anew, the photos are the same"


def test_an_address_that_gives_nothing_is_one_line(web, monkeypatch):
    host, asked = web
    monkeypatch.setattr(remote, "MOST", 1 << 20)
    for file, words in {
        "no.png": "not allowed; check the credentials",
        "none.png": "no such file",
        "empty.png": "empty",
        "large.png": "larger than 1 MiB",
        "down.png": "503",
    }.items():
        with pytest.raises(InputError, match=words) as said:
            remote.read(f"{host.replace('//', f'//me:{SECRET}@')}/{file}?sig={SECRET}")
        assert SECRET not in str(said.value) and "\n" not in str(said.value)
    assert asked["/down.png"] == remote.TRIES and asked["/none.png"] == asked["/no.png"] == 1


def test_what_is_secret_in_an_address_is_not_shown():
    assert shown(f"https://me:{SECRET}@a.example:8/x/@y/z.png?sig={SECRET}#part") == "https://a.example:8/x/@y/z.png"
    assert shown(f"https://a.example?{SECRET}") == "https://a.example"
    assert remote.address("s3:/bucket/x") == remote.address("S3://bucket/x") == "s3://bucket/x"
    assert remote.address("C:/x") is remote.address("a/b.png") is remote.address("file:///x") is None


def test_a_store_whose_library_is_missing_says_which(monkeypatch, capsys, tmp_path):
    def missing(scheme, **options):
        raise ImportError("Install s3fs")

    remote._file_system.cache_clear()
    monkeypatch.setattr(fsspec, "filesystem", missing)
    flags = ["segment", "--support", str(tmp_path), "--query", "s3://bucket/photos", "--out", str(tmp_path / "out")]
    assert main(flags) == 2
    assert "pip install 'shotseg[remote]' s3fs" in capsys.readouterr().err
    remote._file_system.cache_clear()


def test_a_photo_in_a_store_is_read_once_and_known_by_its_listing(store):
    (photo, *_) = runs.find_photos("memory://bucket/photos")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data, about = seen(photo)
    assert data == png(1) and about["path"] == "memory://bucket/photos/1.png" and about["stat"] == [photo.version]


def test_a_bucket_of_s3_takes_a_run_and_its_resume(tmp_path, monkeypatch):
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(
        "127.0.0.1", 0, verbose=False
    )
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        bucket = fsspec.filesystem("s3", use_listings_cache=False)
        bucket.mkdir("bucket")
        for number in range(3):
            bucket.pipe_file(f"bucket/photos/{number}.png", png(number))
        runs.check_output("s3://bucket/out")
        with pytest.raises(KeyboardInterrupt):
            run("s3://bucket/out", "s3://bucket/photos", Stopped("dress"))
        asked, summary = run("s3://bucket/out", "s3://bucket/photos", resume=True)
        assert asked == ["2.png"] and (summary.photos, summary.failed) == (3, 0)
        assert run("s3://bucket/out", "s3://bucket/photos", resume=True)[0] == []
        assert len(bucket.glob("bucket/out/masks/dress/*.png")) == 3
        with pytest.raises(InputError, match=r"s3://none/out/.*: no such file"):
            runs.check_output("s3://none/out")
    finally:
        server.stop()
