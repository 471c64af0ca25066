"""Files of several pages or frames: each page a photo of its own, or the frames of a sequence; channels are no pages."""

import json
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

import shotseg
from shotseg.cli import main
from shotseg.cli.demo import demo_items
from shotseg.data.annotations import read
from shotseg.data.annotations.opened import open_folder
from shotseg.data.images import pages_in, read_image, read_pages, read_pair
from shotseg.data.preparation import prepare
from shotseg.data.usable import usable
from shotseg.data.windows import open_windows
from shotseg.errors import InputError, UsageError
from shotseg.evaluation.pool import with_enough_photos
from shotseg.integrations.supports import add_examples
from shotseg.photo import read_photo
from shotseg.runs import find_photos, frames_of, pages_of, segment_folder

STACK = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1, 1) * 10 + np.zeros((30, 40), np.uint8)
AXES = "TCZYX"


@pytest.fixture(scope="module")
def segmenter():
    found = shotseg.Segmenter(encoder="efficientnet-lite0", size=192, device="cpu", runtime="torch")
    item = next(item for item in demo_items()[0] if item.class_name == "dress")
    found.add("dress", [item.image_path], [item.mask_path])
    return found


@pytest.fixture
def pictures():
    photos = sorted({item.image_path for item in demo_items()[1]})[:4]
    return [Image.open(path).convert("RGB").resize((160, 120)) for path in photos]


def wanted(query, pages, **same):
    return [(photo.file, photo.name, photo.page) for photo in pages_of(find_photos(query, **same), pages)]


def stacks(folder, photo="a.tif", mask="a_mask.tif", pages=3):
    """A labelled stack of grey pages 10, 20, ..., of which the second shows nothing."""
    masks = np.zeros((pages, 30, 40), np.uint8)
    for page in range(pages):
        masks[page, 5:15, 5 : 10 + page] = 255 * (page != 1)
    values = np.repeat(np.arange(1, pages + 1, dtype=np.uint8) * 10, 1200).reshape(pages, 30, 40)
    for name, stack in ((photo, values), (mask, masks)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / name, stack, imagej=True, metadata={"axes": "ZYX"})
    return masks > 0


def run(segmenter, photos, out, track=False, labels=True, **options):
    frames = frames_of(photos) if track else None
    segment_folder(segmenter, frames.photos if frames else photos, out, track=frames, **options)
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return lines, [np.asarray(Image.open(out / "labels" / f"{line['name']}.png")) for line in lines if labels]


@pytest.mark.parametrize("kind", ["tif", "gif", "webp", "png"])
def test_every_page_of_a_stack_or_frame_of_an_animation_is_a_photo_with_a_name_of_its_own(pictures, tmp_path, kind):
    lossless = {"lossless": True} if kind == "webp" else {}
    pictures[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=pictures[1:], **lossless)
    pictures[0].save(tmp_path / "plain.jpg")
    names = [("a_p001", 1), ("a_p002", 2), ("a_p003", 3), ("a_p004", 4), ("plain", 1)]
    assert [found[1:] for found in wanted(tmp_path, "all")] == names
    assert wanted(tmp_path / f"a.{kind}", "4,1-2")[2] == (f"a.{kind}#004", "a_p004", 4)


def test_pages_that_no_file_has_are_one_line_and_the_others_are_taken(pictures, tmp_path):
    pictures[0].save(tmp_path / "a.tif", save_all=True, append_images=pictures[1:])
    pictures[0].save(tmp_path / "plain.jpg")
    with pytest.warns(match=r"plain.jpg: none of --pages 3-9, it has 1; it is left out"):
        assert [name for _, name, _ in wanted(tmp_path, "3-9")] == ["a_p003", "a_p004"]
    with pytest.warns(match="none of"), pytest.raises(UsageError, match="no file has such a page"):
        wanted(tmp_path, "7")
    for wrong in ("0", "x", "1-2-3", "-2", "2-", "1,,2"):
        with pytest.raises(UsageError, match="give all, or pages from 1, as 1-20 or 3,7-9"):
            wanted(tmp_path, wrong)


def ome(path):
    tifffile.imwrite(path, STACK, metadata={"axes": AXES}, photometric="minisblack")


def imagej(path):
    tifffile.imwrite(path, np.moveaxis(STACK, 1, 2), imagej=True, metadata={"axes": "TZCYX"})


@pytest.mark.parametrize("write", [ome, imagej])
def test_channels_of_a_stack_are_bands_of_one_page_and_depth_and_time_are_pages(tmp_path, write):
    path = tmp_path / "stack.ome.tif"
    write(path)
    assert pages_in(path) == 8
    with pytest.warns(match="channels are pages of their own: the first channel is read"):
        assert (read_image(path, page=6) == STACK[1, 0, 1, 0, 0]).all()
    assert read_image(path, bands=(3, 2, 1), page=6)[0, 0].tolist() == STACK[1, ::-1, 1, 0, 0].tolist()
    assert (read_image(path, bands=(2,), page=8) == STACK[1, 1, 3, 0, 0]).all()
    for bands in (None, (3, 2, 1), (2,)):
        assert (open_windows(path, bands, 6).read() == read_image(path, bands, 6)).all()
    with pytest.raises(InputError, match="no page 9, it has 8"):
        read_image(path, page=9)


def test_more_channels_than_imagej_shows_are_pages(tmp_path):
    """As tifffile writes the slices of a stack where nobody says what they are."""
    for count, pages in ((7, 1), (8, 8)):
        tifffile.imwrite(tmp_path / "stack.tif", STACK.reshape(24, 30, 40)[:count], imagej=True)
        assert pages_in(tmp_path / "stack.tif") == pages


@pytest.mark.parametrize("write", [ome, imagej])
def test_a_page_that_pillow_has_turned_to_is_that_page_whatever_the_axes_are(tmp_path, write):
    write(tmp_path / "stack.ome.tif")
    flat = tifffile.imread(tmp_path / "stack.ome.tif").reshape(-1, 30, 40)
    with Image.open(tmp_path / "stack.ome.tif") as image:
        for number in (23, 5, 0):
            image.seek(number)
            assert (read_photo(image) == flat[number, 0, 0]).all()


def test_in_python_a_stack_is_tracked_by_its_path_and_read_page_by_page(segmenter, pictures, tmp_path):
    pictures[0].save(tmp_path / "stack.tif", save_all=True, append_images=pictures[1:])
    pages = list(read_pages(tmp_path / "stack.tif"))
    assert all((page == np.asarray(picture)).all() for page, picture in zip(pages, pictures, strict=True))
    found, expected = segmenter.track(tmp_path / "stack.tif"), segmenter.track(pages)
    assert all((mine.labels == theirs.labels).all() for mine, theirs in zip(found, expected, strict=True))
    pictures[0].save(tmp_path / "one.tif")
    with pytest.raises(UsageError, match="one frame: give track the frames in their order"):
        next(segmenter.track(tmp_path / "one.tif"))
    with pytest.raises(InputError, match=r"none.tif: no such file"):
        next(read_pages(tmp_path / "none.tif"))


def test_bands_that_are_pages_without_a_word_on_axes_are_one_photo(tmp_path):
    with tifffile.TiffWriter(tmp_path / "bands.tif") as file:
        for value in (10, 20, 30):
            file.write(np.full((30, 40), value, np.uint8), metadata=None)
    assert pages_in(tmp_path / "bands.tif") == 3
    assert pages_in(tmp_path / "bands.tif", bands=(3, 2, 1)) == 1
    assert read_image(tmp_path / "bands.tif", bands=(3, 2, 1))[0, 0].tolist() == [30, 20, 10]


def test_smaller_copies_of_a_picture_are_no_pages(tmp_path):
    with tifffile.TiffWriter(tmp_path / "map.tif") as file:
        for side, kind in ((64, 0), (32, 1), (16, 1)):
            file.write(np.full((side, side), side, np.uint8), subfiletype=kind, metadata=None)
    assert pages_in(tmp_path / "map.tif") == 1


def test_a_stack_that_was_cut_off_is_said_and_a_page_that_cannot_be_read_is_named(segmenter, pictures, tmp_path):
    with tifffile.TiffWriter(tmp_path / "stack.tif") as file:
        for picture in pictures:
            file.write(np.asarray(picture), photometric="rgb", compression="zlib", metadata=None)
    whole = (tmp_path / "stack.tif").read_bytes()
    (tmp_path / "half.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(match=r"half.tif: cut off or damaged; its \d pages are used"):
        assert 0 < pages_in(tmp_path / "half.tif") < 4
    with tifffile.TiffFile(tmp_path / "stack.tif") as file:
        place = file.pages[2].dataoffsets[0]
    (tmp_path / "stack.tif").write_bytes(whole[:place] + b"\xff" * 40 + whole[place + 40 :])
    lines, _ = run(segmenter, pages_of(find_photos(tmp_path / "stack.tif"), "1,3"), tmp_path / "out", labels=False)
    assert [line["error"] and line["error"].split(": ")[0] for line in lines] == [None, f"{tmp_path}/stack.tif, page 3"]


def test_planes_that_no_page_names_are_said(tmp_path):
    tifffile.imwrite(tmp_path / "large.tif", STACK[:, 0, 0], imagej=True, truncate=True, metadata={"axes": "TYX"})
    with pytest.warns(match=r"large.tif: a stack without a page for each of its planes; the first is read"):
        read_image(tmp_path / "large.tif")


def test_a_mask_of_as_many_pages_as_its_photo_is_read_at_the_same_page(tmp_path):
    masks = np.zeros((3, 30, 40), np.uint8)
    for page in range(3):
        masks[page, page + 1 : 9, 5:20] = 255
    for name, stack in (("photo", np.random.default_rng(0).integers(0, 255, masks.shape, np.uint8)), ("mask", masks)):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as file:
            for page in stack:
                file.write(page, metadata=None)
    for page in (2, 3):
        found = read_pair(tmp_path / "photo.tif", tmp_path / "mask.tif", page=page)[1]
        assert (found == (masks[page - 1] > 0)).all()


def test_each_page_of_a_labelled_stack_is_an_item(tmp_path):
    masks = stacks(tmp_path / "cells")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = open_folder(tmp_path / "cells")
        samples = [found.sample(number) for number in range(3)]
    assert [str(line.message).rpartition("/")[2] for line in said] == [
        "cells: each page of a stack is a photo, with that of its mask: a.tif"
    ]
    assert [item.id for item in found.items] == ["cells/a_p001", "cells/a_p002", "cells/a_p003"]
    for page, sample in enumerate(samples):
        assert (sample.image == 10 * page + 10).all() and ((sample.mask == 1) == masks[page]).all()
        assert (found.mask(page) == sample.mask).all() and sample.tags == {0}
    assert len({item.content for item in found.items}) == 3
    assert with_enough_photos(found, ["cells"], 2) == ["cells"]
    kept, lost = usable(found, ["cells"], lambda line: None)
    assert (len(kept), lost) == (2, 1)
    (chosen,) = open_folder(tmp_path / "cells", page=3).items
    assert (chosen.id, chosen.page, chosen.pages) == ("cells/a", 3, 1)


def test_a_stack_with_one_mask_and_a_photo_with_a_stack_of_masks_stay_one_photo(tmp_path):
    stacks(tmp_path / "cells", pages=3)
    tifffile.imwrite(tmp_path / "cells/a_mask.tif", np.ones((30, 40), np.uint8))
    assert [item.pages for item in open_folder(tmp_path / "cells").items] == [1]
    stacks(tmp_path / "cells", pages=3)
    tifffile.imwrite(tmp_path / "cells/a.tif", np.ones((2, 30, 40), np.uint8), imagej=True, metadata={"axes": "ZYX"})
    assert [item.pages for item in open_folder(tmp_path / "cells").items] == [1]


def test_each_page_of_a_stack_of_label_maps_is_an_item_of_what_it_shows(tmp_path):
    stacks(tmp_path, "images/a.tif", "masks/a.tif")
    maps = np.zeros((3, 30, 40), np.uint8)
    maps[0, :5], maps[1, :9], maps[2, 5:] = 1, 2, 1
    tifffile.imwrite(tmp_path / "masks/a.tif", maps, imagej=True, metadata={"axes": "ZYX"})
    (tmp_path / "classes.csv").write_text("class_id,class\n0,background\n1,nucleus\n2,wall\n")
    found = open_folder(tmp_path)
    assert [item.id for item in found.items] == ["nucleus/a_p001", "nucleus/a_p003", "wall/a_p002"]
    assert (found.sample(1).mask == (maps[2] == 1)).all()


@pytest.mark.parametrize("target", ["coco", "mask", "labelme"])
def test_a_labelled_stack_is_converted_page_by_page_into_files_that_tools_open(tmp_path, target, capsys):
    masks = stacks(tmp_path / "cells")
    assert main(["convert", str(tmp_path / "cells"), "--to", target, "--out", str(tmp_path / "out")]) == 0
    assert "3 of 3 photos converted" in capsys.readouterr().out
    pages = sorted((tmp_path / "out/images/cells").iterdir())
    assert [path.name for path in pages] == ["a_p001.png", "a_p002.png", "a_p003.png"]
    assert [np.asarray(Image.open(path)).max() for path in pages] == [10, 20, 30]
    back = {one.stem: one.labels for one in read(target, tmp_path / "out")[1]}
    assert [(back[f"cells/a_p00{page}"] == masks[page - 1]).all() for page in (1, 2, 3)] == [True] * 3


def test_a_stack_is_not_prepared_with_the_masks_of_other_pages(tmp_path):
    stacks(tmp_path)
    with pytest.raises(
        InputError, match="page 1 of a stack; save it as a file; evaluate and train take the folder itself"
    ):
        prepare("folder", tmp_path)


def test_annotations_of_pages_name_files_that_are_written_beside_them(segmenter, pictures, tmp_path):
    pictures[0].save(tmp_path / "stack.tif", save_all=True, append_images=pictures[1:])
    pages = pages_of(find_photos(tmp_path / "stack.tif"), "2-3")
    lines, labels = run(segmenter, pages, tmp_path / "out", annotations="coco")
    assert [line["file"] for line in lines] == ["stack.tif#002", "stack.tif#003"]
    content = json.loads((tmp_path / "out/coco/annotations/instances_default.json").read_text())
    assert [row["file_name"] for row in content["images"]] == ["stack_p002.png", "stack_p003.png"]
    for number, name in enumerate(["stack_p002", "stack_p003"]):
        assert (read_image(tmp_path / f"out/coco/images/{name}.png") == np.asarray(pictures[number + 1])).all()
    back = {one.stem: one.labels for one in read("coco", tmp_path / "out/coco")[1]}
    assert all((back[line["name"]] == label).all() for line, label in zip(lines, labels, strict=True))
    run(segmenter, pages, tmp_path / "again", annotations="labelme")
    assert len(list((tmp_path / "again/labelme").glob("*.json"))) == 2


def test_the_pages_of_a_stack_are_examples_where_its_mask_is_a_stack_too(segmenter, pictures, tmp_path):
    stacks = tmp_path / "stacks"
    stacks.mkdir()
    masks = [np.zeros((120, 160), np.uint8) for _ in pictures]
    for page in (0, 2):
        masks[page][20:90, 30 + page : 80] = 255
    pictures[0].save(stacks / "train-volume.tif", save_all=True, append_images=pictures[1:])
    drawn = [Image.fromarray(mask) for mask in masks]
    drawn[0].save(stacks / "train-labels.tif", save_all=True, append_images=drawn[1:])
    for number in (0, 2):
        for folder, picture in (("images", pictures[number]), ("masks", drawn[number])):
            (tmp_path / "files" / folder).mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / "files" / folder / f"{number}.png")
    learnt = []
    for place in (stacks, tmp_path / "files"):
        mine = shotseg.Segmenter(encoder="efficientnet-lite0", size=192, device="cpu", runtime="torch", present=None)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert not any(error for _, error in add_examples(mine, open_folder(place, name="cell")))
        learnt.append(mine.predict(np.asarray(pictures[1])).labels)
        lines = [str(one.message) for one in said]
        if place == stacks:
            assert any("train-volume.tif: 2 of its pages are examples" in line for line in lines)
            assert not any("the first is read" in line for line in lines)
    assert (learnt[0] == learnt[1]).all()


def test_pages_of_a_stack_get_the_masks_of_the_same_pictures_as_files(segmenter, pictures, tmp_path):
    pictures[0].save(tmp_path / "stack.tif", save_all=True, append_images=pictures[1:])
    (tmp_path / "files").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "files" / f"{number}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no line says that only the first is read
        pages = pages_of(find_photos(tmp_path / "stack.tif"), "all")
        for track in (False, True):
            lines, found = run(segmenter, pages, tmp_path / f"out{track}", track)
            _, files = run(segmenter, find_photos(tmp_path / "files"), tmp_path / f"files{track}", track)
            assert all((mine == theirs).all() for mine, theirs in zip(found, files, strict=True))
            assert [line["file"] for line in lines] == [f"stack.tif#00{page}" for page in (1, 2, 3, 4)]


def test_two_stacks_are_two_sequences_and_a_run_of_pages_resumes(segmenter, pictures, tmp_path):
    for name in ("a", "b"):
        pictures[0].save(tmp_path / f"{name}.tif", save_all=True, append_images=pictures[1:2])
    pages = pages_of(find_photos(tmp_path), "all")
    assert len({photo.sequence for photo in pages}) == 2
    first = run(segmenter, pages, tmp_path / "out", track=True)
    again = run(segmenter, pages, tmp_path / "out", track=True, resume=True)
    assert first[0] == again[0]  # the seconds too: nothing was done again


def test_track_takes_all_pages_of_one_stack_and_pages_chooses(pictures, tmp_path, capsys):
    pictures[0].save(tmp_path / "stack.tif", save_all=True, append_images=pictures[1:])
    item = next(item for item in demo_items()[0] if item.class_name == "dress")
    for folder, path in (("images", item.image_path), ("masks", item.mask_path)):
        (tmp_path / "examples" / folder).mkdir(parents=True)
        (tmp_path / "examples" / folder / f"a{path.suffix}").write_bytes(path.read_bytes())
    call = ["segment", "--support", str(tmp_path / "examples"), "--query", str(tmp_path / "stack.tif"), "--out"]
    call += [str(tmp_path / "out"), "--encoder", "efficientnet-lite0", "--size", "64"]
    assert main([*call, "--track"]) == 0
    assert "4 of 4 photos done" in capsys.readouterr().out
    assert main([*call, "--track", "--pages", "2-3"]) == 0
    assert sorted(path.stem for path in (tmp_path / "out" / "labels").iterdir()) == ["stack_p002", "stack_p003"]
    assert main([*call, "--page", "2"]) == 1
    assert (
        "no page 2, it has 1; leave --page out, or give --pages, which is of the query alone" in capsys.readouterr().err
    )
