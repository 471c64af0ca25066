"""Folders as people have them, through ``segment``: every photo read or named, every example used as it was meant."""

import json
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

import shotseg
from shotseg.cli import main
from shotseg.cli.demo import DATA
from shotseg.errors import InputError, InputWarning
from shotseg.segmenter import Segmenter

PHOTO, EXAMPLE = DATA / "images/dress/0102.jpg", DATA / "images/dress/example.jpg"
MASK = np.asarray(Image.open(DATA / "masks/dress/example.png")) > 0


def segment(support, query, out, *options):
    return main(["segment", *map(str, ("--support", support, "--query", query, "--out", out, "--size", 96, *options))])


def example(root, mask=MASK, name="one"):
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(EXAMPLE, root / f"{name}.jpg")
    if mask is not None:
        Image.fromarray(mask.astype(np.uint8) * 255).save(root / f"{name}_mask.png")
    return root


def small():
    return Image.open(PHOTO).resize((96, 144))


def test_a_folder_of_odd_photos_has_the_masks_of_the_plain_photo(tmp_path):
    query, colour = tmp_path / "query", np.array(small())
    query.mkdir()
    grey = np.array(small().convert("L"))
    for ending in ("png", "jfif", "jpe", "avif", "gif", "jp2", "ppm", "bmp", "webp", "tga"):
        kind = "JPEG" if ending in ("jfif", "jpe") else None
        small().save(query / f"plain {ending}.{ending}", kind)
    small().save(query / "lies.jpg", "PNG")
    small().save(query / "bare", "PNG")
    tifffile.imwrite(query / "deep.tif", colour.astype("u2") * 16, photometric="rgb", planarconfig="contig")
    tifffile.imwrite(query / "planes.tif", np.moveaxis(colour.astype("u2") * 257, 2, 0), planarconfig="separate")
    tifffile.imwrite(query / "fractions.tif", colour.astype("f4") / 255, photometric="rgb")
    tifffile.imwrite(query / "infrared.tif", np.dstack([colour, grey]), photometric="rgb", extrasamples=["unassalpha"])
    (tmp_path / "linked").mkdir()
    small().save(tmp_path / "linked/far.png")
    (query / "link").symlink_to(tmp_path / "linked")
    with pytest.warns(InputWarning, match="4 bands"):
        assert segment(example(tmp_path / "dress"), query, tmp_path / "out") == 0
    records = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert {record["file"] for record in records} == {p.relative_to(query).as_posix() for p in query.glob("*.*")} | {
        "bare",
        "link/far.png",
    }
    masks = {r["file"]: np.asarray(Image.open(tmp_path / f"out/masks/dress/{r['name']}.png")) > 0 for r in records}
    plain = masks["plain png.png"]
    for file, mask in masks.items():
        assert (mask & plain).sum() / (mask | plain).sum() > 0.85, file


def odd_photos(folder):
    """One photo in every container that holds it, and what is no photo: the names of both."""
    colour, grey = np.array(small()), np.array(small().convert("L"))
    rows = colour.astype("f4") / 255
    for o in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = o
        inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[o]
        stored = small().transpose(Image.Transpose(inverse))
        stored.save(folder / f"turned{o}.png", exif=exif)
        stored.save(folder / f"turned{o}.tif", exif=exif)
    for bits in (10, 12, 14, 16):
        deep = colour.astype("u2") << (bits - 8)
        for order in "<>":
            name = folder / f"deep {bits}{'be' if order == '>' else ''}.tiff"
            tifffile.imwrite(name, deep, photometric="rgb", byteorder=order)
    for dtype in ("u4", "i4", "f2", "f4", "f8"):
        tifffile.imwrite(folder / f"whole {dtype}.tif", colour.astype(dtype), photometric="rgb")
        if dtype[0] == "f":
            tifffile.imwrite(folder / f"part {dtype}.tif", rows.astype(dtype), photometric="rgb")
    for name, value in {"nan": np.nan, "inf": np.inf, "gdal": -9999, "high": 1e20}.items():
        lacking = rows.copy()
        lacking[0, :3] = value
        tifffile.imwrite(folder / f"{name}.tif", lacking, photometric="rgb")
    tifffile.imwrite(folder / "big.tif", colour, photometric="rgb", bigtiff=True)
    tifffile.imwrite(folder / "zip.tif", colour, photometric="rgb", compression="zlib", predictor=True)
    small().save(folder / "lzw.tif", compression="tiff_lzw")
    small().save(folder / "käse und ü 日本.png")
    small().save(folder / "UPPER.PNG")
    small().save(folder / "two.dots.png")
    small().convert("RGBA").save(folder / "opaque.png")
    small().convert("CMYK").save(folder / "cmyk.tif")
    small().quantize(256).save(folder / "palette.png")
    small().save(folder / "lossless.webp", lossless=True)
    for ending in ("ppm", "pnm", "bmp", "dib", "tga", "jp2", "j2k", "jpg", "jfif", "avif"):
        small().save(folder / f"plain.{ending}.{ending}", "JPEG" if ending == "jfif" else None)
    small().save(folder / "a lie.jpg", "PNG")
    small().save(folder / "bare", "PNG")
    photos = {path.name for path in folder.iterdir()}
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no photo")
    (folder / "half.png").write_bytes((folder / "UPPER.PNG").read_bytes()[:3000])
    (folder / "broken link.jpg").symlink_to(folder / "nowhere.jpg")
    tifffile.imwrite(
        folder / "five.tif", np.dstack([colour, grey, grey]), photometric="minisblack", planarconfig="contig"
    )
    (folder / "notes.txt").write_text("mine")
    (folder / "list.csv").write_text("a,b")
    (folder / "raw.dng").write_bytes(b"raw")
    return photos, {path.name for path in folder.iterdir()} - photos


def test_of_sixty_odd_files_every_photo_has_its_mask_and_every_other_file_is_named(tmp_path, capsys):
    (tmp_path / "query").mkdir()
    photos, others = odd_photos(tmp_path / "query")
    assert len(photos) + len(others) > 60
    with pytest.warns(InputWarning) as caught:
        assert segment(example(tmp_path / "dress"), tmp_path / "query", tmp_path / "out") == 1
    said = capsys.readouterr().err + " ".join(str(warning.message) for warning in caught)
    assert not [name for name in others if name not in said] and "Traceback" not in said
    records = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text(encoding="utf-8").splitlines()]
    records = [record for record in records if not record.get("error")]
    assert {record["file"] for record in records} == photos
    masks = {r["file"]: np.asarray(Image.open(tmp_path / f"out/masks/dress/{r['name']}.png")) > 0 for r in records}
    plain = masks["two.dots.png"]
    wrong = {file: (mask & plain).sum() / (mask | plain).sum() for file, mask in masks.items()}
    assert plain.any() and not {file: iou for file, iou in wrong.items() if iou < 0.85}


def test_bands_and_pages_are_chosen_on_the_command_line(tmp_path, capsys):
    bands = np.dstack([np.array(small())[..., ::-1], np.zeros((144, 96, 2), np.uint8)])
    (tmp_path / "query").mkdir()
    tifffile.imwrite(tmp_path / "query/a.tif", bands, photometric="minisblack", planarconfig="contig")
    support = tmp_path / "support"
    for kind in ("images", "masks"):
        (support / kind / "dress").mkdir(parents=True)
    tifffile.imwrite(
        support / "images/dress/one.tif", np.array(Image.open(EXAMPLE))[..., ::-1].copy(), photometric="rgb"
    )
    shutil.copy(DATA / "masks/dress/example.png", support / "masks/dress/one.png")
    assert segment(support, tmp_path / "query", tmp_path / "out") == 1
    assert "a.tif: 5 bands" in capsys.readouterr().err
    assert segment(support, tmp_path / "query", tmp_path / "out", "--bands", "3,2,1") == 0
    about = json.loads((tmp_path / "out/.shotseg/journal.jsonl").read_text().splitlines()[0])
    assert about["settings"]["bands"] == "3,2,1"
    assert segment(support, tmp_path / "query", tmp_path / "out", "--page", "2") == 1
    assert "no page 2" in capsys.readouterr().err
    for wrong in ("1,2", "a,b,c", "0"):
        assert segment(support, tmp_path / "query", tmp_path / "out", "--bands", wrong) in (1, 2)
        assert "--bands" in capsys.readouterr().err


def test_examples_without_a_mask_are_said_and_stand_in_the_report(tmp_path, capsys, monkeypatch):
    from shotseg import segmenter

    monkeypatch.setattr(segmenter.pseudo_masks, "from_name", lambda image, name, device: MASK.astype(np.uint8))
    support = example(example(tmp_path / "dress"), None, "bare")
    assert segment(support, PHOTO, tmp_path / "out") == 0
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "1 of 2 examples have no mask" in said[0] and "dress/bare" in said[0]
    assert "masks made from the class name" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_the_one_class_of_a_folder_is_named_by_it_or_by_name(tmp_path, capsys):
    assert segment(example(tmp_path / "dress"), PHOTO, tmp_path / "out") == 0
    assert (tmp_path / "out/masks/dress/0102.png").is_file()
    assert segment(tmp_path / "dress", PHOTO, tmp_path / "named", "--name", "gown") == 0
    assert (tmp_path / "named/masks/gown/0102.png").is_file()
    assert segment(tmp_path / "dress", PHOTO, tmp_path / "two", "--name", "gown", "robe") == 2
    assert "one name" in capsys.readouterr().err


def test_stacked_arrays_are_photos_and_masks():
    images = np.stack([np.array(Image.open(EXAMPLE).resize((96, 144)))] * 2)
    masks = np.stack([np.array(Image.fromarray(MASK).resize((96, 144)))] * 2)
    together, apart = Segmenter(size=96, device="cpu"), Segmenter(size=96, device="cpu")
    together.add("dress", images, masks)
    apart.add("dress", [Image.fromarray(i) for i in images], [Image.fromarray(m.astype("u1") * 255) for m in masks])
    ours, theirs = (s.predict(small()).probabilities["dress"] for s in (together, apart))
    assert np.allclose(ours, theirs, atol=1e-5)
    with pytest.raises(InputError, match="no foreground"):
        apart.add("dress", images[0], masks[0] * 0)


def test_a_photo_far_larger_than_the_working_size_gets_a_word_on_size():
    seg = shotseg.Segmenter(size=64, device="cpu")
    seg.add("dress", np.array(small()), np.array(Image.fromarray(MASK).resize((96, 144))))
    with pytest.warns(InputWarning, match="--size 128"):
        seg.predict(np.zeros((200, 300, 3), np.uint8))
