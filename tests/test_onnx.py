"""Exported methods: the same masks without torch, at other sizes than those of the export, for any classes and shots."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import shotseg
from shotseg.cli import main
from shotseg.cli.export import Export
from shotseg.data.images import read_mask
from shotseg.errors import InputError, InputWarning, UsageError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from shotseg.light.command import main as light_main

DEMO = Path(shotseg.__file__).parent / "demo_data"
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "pascal_coseg15"
EXAMPLES = {
    name: [(DEMO / "images" / name / "example.jpg", DEMO / "masks" / name / "example.png")]
    for name in ("hair", "dress")
}
SIZE = 192


def torch_side(**options):
    return shotseg.Segmenter("matching", "efficientnet-lite0", "cpu", size=SIZE, runtime="torch", **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    assert main(["export", "--encoder", "efficientnet-lite0", "--size", str(SIZE), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def both(folder):
    """The two doors with the same classes: one shot of hair, two of dress, three of both by another name."""
    doors = torch_side(present=None), shotseg.OnnxSegmenter(folder, present=None)
    photos = sorted((DEMO / "images" / "dress").glob("0*.jpg"))
    dress = [*EXAMPLES["dress"], (photos[0], DEMO / "masks" / "dress" / f"{photos[0].stem}.png")]
    for door in doors:
        for name, pairs in (("hair", EXAMPLES["hair"]), ("dress", dress), ("both", [*EXAMPLES["hair"], *dress])):
            door.add(name, [image for image, _ in pairs], [mask for _, mask in pairs])
    return doors


def fifty():
    """50 real photos of ten classes, or, where they do not lie beside the repository, those of the demo."""
    found = [photo for name in sorted((REAL / "images").glob("*"))[:10] for photo in sorted(name.glob("*.jpg"))[:5]]
    return found or sorted((DEMO / "images").rglob("*.jpg"))


def agree(ours, theirs):
    assert ours._scores.shape == theirs._scores.shape
    np.testing.assert_allclose(ours._scores, theirs._scores, rtol=1e-4, atol=1e-4)
    assert ours.present == pytest.approx(theirs.present, abs=1e-4)
    for name in ours.classes:
        a, b = ours.masks[name], theirs.masks[name]
        assert (a & b).sum() >= 0.999 * (a | b).sum()


def test_masks_and_log_odds_of_fifty_photos_are_those_of_torch(both):
    torch_door, light = both
    for photo in fifty():
        agree(light.predict(photo), torch_door.predict(photo))


@pytest.mark.parametrize("shape", [(192, 48), (37, 190), (150, 150), (8, 192)], ids=str)
def test_photos_of_any_shape_get_the_masks_of_torch(both, shape):
    photo = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    agree(both[1].predict(photo), both[0].predict(photo))


@pytest.mark.parametrize("count", [1, 2, 8])
def test_any_number_of_classes_competes_as_in_torch(folder, tmp_path, count):
    names = sorted((DEMO / "images").rglob("0*.jpg"))[:count]
    torch_door = torch_side()
    for i, photo in enumerate(names):
        mask = DEMO / "masks" / photo.relative_to(DEMO / "images").with_suffix(".png")
        torch_door.add(f"class {i}", photo, mask)
    torch_door.save(tmp_path / "classes.safetensors")
    light = shotseg.OnnxSegmenter(folder, tmp_path / "classes.safetensors")
    for photo in names[:2]:
        ours, theirs = light.predict(photo), torch_door.predict(photo)
        assert ours.present == pytest.approx(theirs.present, abs=1e-4)
        assert (ours.labels == theirs.labels).mean() > 0.999


def test_a_class_learnt_without_torch_is_the_class_that_torch_learns(both, tmp_path):
    torch_door, light = both
    light.save(tmp_path / "light.safetensors")
    torch_door.save(tmp_path / "torch.safetensors")
    kept = shotseg.Segmenter.load(tmp_path / "light.safetensors", device="cpu", runtime="torch")
    assert kept.classes == torch_door.classes == light.classes
    for name, support in torch_door._supports.items():
        for key, tensor in support.tensors.items():
            found = kept._supports[name][key]
            assert found.shape == tensor.shape and found.dtype == tensor.dtype
            np.testing.assert_allclose(found, tensor, atol=2e-4 * float(tensor.abs().max()))
    again = shotseg.OnnxSegmenter.load(tmp_path / "light.safetensors")
    assert again.classes == light.classes


def test_a_batch_is_its_photos_one_by_one(both):
    photos = sorted((DEMO / "images").rglob("*.jpg"))[:4]
    for together, alone in zip(both[1].predict_batch(photos), map(both[1].predict, photos), strict=True):
        assert np.array_equal(together.labels, alone.labels)


def test_classes_come_and_go(both, folder):
    light = shotseg.Segmenter.from_onnx(folder)
    (image, mask) = EXAMPLES["hair"][0]
    light.add("a", image, mask)
    light.add("b", [image], [mask])
    assert set(np.unique(light.predict(image).labels)) <= {0, 1, 2}
    light.remove("a")
    assert light.predict(image).classes == ("b",)
    with pytest.raises(UsageError, match="no class 'a'"):
        light.remove("a")


def test_a_source_of_photos_streams_as_with_torch(both):
    photos = sorted((DEMO / "images").rglob("*.jpg"))[:2]
    for found, photo in zip(both[1].predict(iter(photos)), photos, strict=True):
        assert np.array_equal(found.labels, both[1].predict(photo).labels)


def test_of_detections_those_of_the_class_are_learnt(folder):
    light, (image, mask) = shotseg.OnnxSegmenter(folder, present=None), EXAMPLES["hair"][0]
    box = {"bounding_box": [0, 0, 1, 1], "mask_path": None, "to_dict": dict}
    own = SimpleNamespace(label="hair", mask=read_mask(mask) == 1, **box)
    other = SimpleNamespace(label="dress", mask=np.ones((2, 2), bool), **box)
    light.add("hair", image, SimpleNamespace(detections=[own, other]))
    light.add("all", image, mask)
    assert all(np.array_equal(light._classes["hair"][key], x) for key, x in light._classes["all"].items())


def test_torch_is_never_loaded(folder, tmp_path):
    image, mask = EXAMPLES["hair"][0]
    code = (
        "import sys, shotseg\n"
        "sys.modules['scipy'] = sys.modules['skimage'] = None\n"
        f"light = shotseg.OnnxSegmenter({str(folder)!r})\n"
        f"light.add('hair', {str(image)!r}, {str(mask)!r})\n"
        f"result = light.predict({str(image)!r})\n"
        f"result.save({str(tmp_path)!r}), result.overlay(), result.confidence, light.save({str(tmp_path / 'c')!r})\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "masks" / "hair" / "photo.png").is_file()


def test_without_torch_the_segmenter_says_what_is_left(monkeypatch, folder):
    monkeypatch.setattr(shotseg, "find_spec", lambda name: None)
    assert shotseg.Segmenter.from_onnx(folder).classes == ()
    with pytest.raises(UsageError, match="torch is not installed"):
        shotseg.Segmenter()


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda to: (to / "export.json").unlink(), "no such file"),
        (lambda to: (to / "export.json").write_text("{"), "not what shotseg export writes"),
        (lambda to: (to / "export.json").write_text("[]"), "not what shotseg export writes"),
        (lambda to: (to / "export.json").write_text('{"format": "later"}'), "not of this version"),
        (lambda to: (to / "export.json").write_text('{"format": "shotseg-export-1"}'), "says no encoder"),
        (lambda to: (to / "encoder.onnx").write_bytes(b"no graph"), "not a readable ONNX file"),
        (lambda to: (to / "decide.onnx").unlink(), "no such file"),
    ],
)
def test_a_damaged_export_is_one_line(folder, tmp_path, spoil, line):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    spoil(tmp_path)
    image, mask = EXAMPLES["hair"][0]

    def use():
        light = shotseg.OnnxSegmenter(tmp_path)
        light.add("hair", image, mask)
        light.predict(image)

    with pytest.raises(InputError, match=line) as said:
        use()
    assert "\n" not in str(said.value)


def test_a_damaged_graph_is_said_once_however_many_photos_there_are(folder, tmp_path, capsys):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "decide.onnx").write_bytes(b"no graph")
    photos = EXAMPLES["hair"][0][0].parent
    asked = [str(tmp_path), "--support", "none.safetensors", "--query", str(photos), "--out", str(tmp_path / "out")]
    assert light_main(asked) == 1
    assert capsys.readouterr().err.count("decide.onnx: not a readable ONNX file") == 1


def test_an_export_into_a_file_is_refused_before_it_is_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("shotseg.exporting.export", lambda *given: pytest.fail("it was made"))
    with pytest.raises(UsageError, match="file: cannot be written"):
        Export(tmp_path / "file").run()


def test_wrong_calls_are_one_line(both, folder, tmp_path):
    light = shotseg.OnnxSegmenter(folder)
    image, mask = EXAMPLES["hair"][0]
    empty = tmp_path / "empty.png"
    shotseg.data.images.write_png(empty, np.zeros((40, 30), np.uint8))
    for call, line in (
        (lambda: light.predict(image), "no class yet"),
        (lambda: light.add("hair", image), "one for each photo"),
        (lambda: light.add("hair", [image], [mask, mask]), "one for each photo"),
        (lambda: light.add("hair", np.zeros((40, 30, 3), np.uint8), empty), "no foreground pixel"),
        (lambda: light.add("a/b", image, mask), "a/b"),
        (lambda: shotseg.OnnxSegmenter(folder, present=2), "probability"),
        (lambda: light.add_file(image), "not a readable support file"),
    ):
        with pytest.raises((InputError, UsageError), match=line):
            call()
    other = shotseg.Segmenter("matching", "efficientnet-lite0", "cpu", size=SIZE + 32)
    other.add("hair", image, mask)
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="made with options"):
        light.add_file(tmp_path / "other.safetensors")


def test_a_folder_is_segmented_from_the_command_line(folder, tmp_path, capsys):
    query = tmp_path / "query"
    (query / "sub").mkdir(parents=True)
    photo = EXAMPLES["hair"][0][0].read_bytes()
    for name in ("a.jpg", "sub/b.jpg"):
        (query / name).write_bytes(photo)
    (query / "broken.jpg").write_bytes(photo[:200])
    (query / "._a.jpg").write_bytes(b"a copy of macOS")
    (query / "notes.txt").write_text("no photo")
    out = query / "out"
    command = [str(folder), "--support", str(DEMO), "--query", str(query), "--out", str(out)]
    for _ in range(2):  # results inside the folder are no photos
        with pytest.warns(InputWarning, match=r"left out, no image that can be read: notes\.txt$") as notes:
            code = light_main(command)
        assert any(f"an export with --size {2 * SIZE} draws them finer" in str(line.message) for line in notes)
        said = capsys.readouterr()
        assert code == 1 and said.out.startswith("3 photos")
        assert [line for line in said.err.splitlines() if "broken.jpg" in line] == said.err.splitlines()[-1:]
    assert {file.relative_to(out / "labels").as_posix() for file in (out / "labels").rglob("*.png")} == {
        "a.png",
        "sub/b.png",
    }
    assert light_main([str(folder), "--support", str(DEMO), "--query", str(out / "none"), "--out", str(out)]) == 2


def test_a_photo_that_memory_has_no_room_for_is_one_line_without_torch_too(folder, tmp_path, capsys, monkeypatch):
    photo, predict, calls = EXAMPLES["hair"][0][0], shotseg.OnnxSegmenter.predict, iter(range(9))

    def full(self, path):
        if next(calls) == 0:
            raise MemoryError
        return predict(self, path)

    monkeypatch.setattr(shotseg.OnnxSegmenter, "predict", full)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "query").mkdir(exist_ok=True)
        (tmp_path / "query" / name).write_bytes(photo.read_bytes())
    command = [str(folder), "--support", str(DEMO), "--query", str(tmp_path / "query"), "--out", str(tmp_path / "out")]
    assert light_main(command) == 1
    assert "a.jpg: no memory is left for this; export with a smaller --size" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out/labels").iterdir()] == ["b.png"]


def test_the_verb_writes_what_it_says(folder, tmp_path, capsys):
    about = json.loads((folder / "export.json").read_text())
    assert (about["method"], about["size"], about["options"]) == ("matching", SIZE, {"size": SIZE})
    assert {file.name for file in folder.iterdir()} == {
        "encoder.onnx",
        "decide.onnx",
        "learn.onnx",
        "export.json",
    }
    assert main(["export", "--size", "64", "--out", str(tmp_path / "small")]) == 2
    assert main(["export", "--method", "maskformer", "--out", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
