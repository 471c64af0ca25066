"""A start of `shotseg serve`: the list is there before anything that loads slowly, and what is known is not looked at again."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra web")
pytest.importorskip("multipart", reason="needs the extra web")

from page_client import API, client_of, ok, photos, until
from page_project import SIZE, photo, photos_folder, project_of, square
from shotseg.cli.serve import Serve
from shotseg.data.images import read_mask
from shotseg.web import engine, remembered
from shotseg.web.project import Project

START = """
import os, sys, time
from page_client import API, HOST, TestClient, make_app, ok
from shotseg.cli.serve import Serve
from shotseg.web import engine
from shotseg.web.project import Project

engine.PATIENCE = 60
app = make_app(Project(sys.argv[1], sys.argv[2]), Serve()._segmenter, frozenset({HOST}))

async def watched(scope, receive, send):
    async def told(message):
        if message["type"] == "http.response.body":
            slow = {"torch", "onnxruntime", "timm", "transformers", "skimage", "matplotlib"}
            print(sorted(slow & set(sys.modules)), flush=True)
        await send(message)
    await app(scope, receive, told)

with TestClient(watched, base_url=f"http://{HOST}") as page:
    time.sleep(0.5)
    print(ok(page.get(f"{API}/photos"))["total"], flush=True)
    os._exit(0)  # the model need not load
"""


def test_the_list_is_served_before_torch_is_imported(tmp_path):
    command = [sys.executable, "-c", START, str(tmp_path / "project"), str(photos_folder(tmp_path / "photos"))]
    places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(command, env=environment, timeout=100, capture_output=True, text=True)
    assert done.stdout == "[]\n3\n", done.stderr


def test_no_part_of_an_answer_waits_for_the_other_sides_word_on_the_part_before_it():
    listening, told = Serve(port=0)._listening(), []

    async def answer(reader, writer):
        told.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def talk():
        async with await asyncio.start_server(answer, sock=listening):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            await reader.read()
            writer.close()

    with ThreadPoolExecutor() as pool:  # in a thread of its own, for tests in a browser leave a loop in this one
        pool.submit(asyncio.run, talk()).result()
    assert len(told) == 1 and told[0]


def test_the_model_is_loaded_once_the_list_was_answered_or_nobody_asks_for_it(tmp_path, segmenter, monkeypatch):
    folder = photos_folder(tmp_path / "photos", 1)
    monkeypatch.setattr(engine, "PATIENCE", 60)
    with client_of(Project(tmp_path / "asked", folder), segmenter) as page:
        time.sleep(0.2)
        assert ok(page.get(f"{API}/project"))["encoding"]["loading"]
        photos(page)
        until(page, lambda: not ok(page.get(f"{API}/project"))["encoding"]["loading"])
    monkeypatch.setattr(engine, "PATIENCE", 0.1)
    with client_of(Project(tmp_path / "alone", folder), segmenter) as page:
        until(page, lambda: not ok(page.get(f"{API}/project"))["encoding"]["loading"])


def test_a_second_start_reads_the_headers_of_new_and_changed_photos_alone(tmp_path, monkeypatch):
    folder, read = photos_folder(tmp_path / "photos"), []
    original = remembered.upright_size
    monkeypatch.setattr(remembered, "upright_size", lambda path: read.append(path.name) or original(path))
    project = tmp_path / "project"
    Project(project, folder).close()
    assert sorted(read) == ["photo0.png", "photo1.png", "photo2.png"]
    read.clear()
    Project(project).close()
    assert read == []
    Image.fromarray(photo(7, (30, 50))).save(folder / "photo1.png")
    (folder / "photo2.png").unlink()
    Image.fromarray(photo(3)).save(folder / "photo3.png")
    again = Project(project)
    assert sorted(read) == ["photo1.png", "photo3.png"]
    assert {each.file: each.size for each in again.said.photos.values()} == {
        "photo0.png": (60, 80),
        "photo1.png": (30, 50),
        "photo3.png": (60, 80),
    }
    again.close()
    for damaged in ("[1]", "no json", '{"a": 3}', '{"a": ["b", 1, 2, 3]}'):
        (project / "encoded" / "sizes.json").write_text(damaged)
        again = Project(project)
        assert len(again.said.photos) == 3
        again.close()


def test_examples_and_results_that_a_kill_came_before_are_made_at_the_next_start(tmp_path):
    folder = photos_folder(tmp_path / "photos")
    project = Project(tmp_path / "project", folder)
    project.add_class("red")
    a, b, _ = sorted(project.said.photos.values(), key=lambda each: each.file)
    project.correct(a.id, a.version, square(5, 6))
    project.correct(b.id, b.version, square(5, 6))
    project.publish()
    time.sleep(0.02)  # a file system's clock
    project.correct(a.id, a.version, square(30, 40))
    project.clear(b.id, b.version)
    project._ledger.close()  # killed: nothing of it was published
    project = Project(tmp_path / "project")
    project.restore()
    labels = tmp_path / "project" / "results" / "labels"
    assert (np.array(Image.open(labels / "photo0.png")) == square(30, 40)).all() and not (
        labels / "photo1.png"
    ).exists()
    assert len(list((tmp_path / "project" / "examples" / "masks" / "red").iterdir())) == 1
    project.close()


def test_photos_that_come_and_go_while_the_project_is_open_are_noticed_and_what_was_drawn_stays(tmp_path):
    project = project_of(tmp_path)
    project.add_class("red")
    a, b, _ = sorted(project.said.photos.values(), key=lambda photo: photo.file)
    project.correct(a.id, a.version, square(5, 5))
    assert not project.find_photos()
    a.path.rename(tmp_path / "aside.png")
    b.path.unlink()
    Image.fromarray(photo(4)).save(tmp_path / "photos" / "new.png")
    Image.fromarray(photo(4)).save(tmp_path / "photos" / "photo2.jpg")
    assert project.find_photos() and not project.find_photos()
    there = sorted(photo_.file for photo_ in project.said.photos.values())
    assert there == ["new.png", "photo0.png", "photo2.jpg", "photo2.png"] and "no such file" in a.error
    assert project.album.names.keys() == project.said.photos.keys()
    assert len(set(project.album.names.values())) == 4
    (tmp_path / "aside.png").rename(a.path)
    assert project.find_photos() and a.error is None and (project.drawn_mask(a) == square(5, 5)).all()


def test_a_file_of_several_pages_says_that_the_first_is_the_photo(tmp_path, segmenter):
    folder = photos_folder(tmp_path / "photos", 1)
    pages = [Image.fromarray(photo(seed)) for seed in range(3)]
    pages[0].save(folder / "stack.tif", save_all=True, append_images=pages[1:])
    with client_of(Project(tmp_path / "project", folder), segmenter) as page:
        found = [ok(page.get(f"{API}/photos/{item['id']}"))["pages"] for item in photos(page)]
    assert found == [1, 3]


def test_a_reviewed_photo_keeps_the_name_of_its_masks_when_another_of_its_stem_comes(tmp_path):
    project = project_of(tmp_path)
    red = project.add_class("red")
    first = min(project.said.photos.values(), key=lambda photo: photo.file)
    project.correct(first.id, first.version, square(5, 5))
    project.close()
    name = first.path.stem
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(first.path.with_suffix(".bmp"))
    (tmp_path / "project/results/results.jsonl").open("a").write('{"file": "x.png", "name": "../../out"}\n{"torn')
    again = Project(tmp_path / "project")
    again.restore()  # as a server does
    other = next(photo for photo in again.said.photos.values() if photo.path.suffix == ".bmp")
    again.correct(other.id, other.version, square(20, 20))
    again.close()
    masks = {path.stem: read_mask(path) for path in (tmp_path / "project/results/masks" / red.name).iterdir()}
    assert np.array_equal(masks.pop(name), square(5, 5))
    ((theirs, mask),) = masks.items()
    assert theirs.startswith(name) and np.array_equal(mask, square(20, 20))
