"""What a person meets who uses shotseg for the first time: notebooks, threads, saved classes, slips of the command line."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import shotseg
from shotseg import encoders
from shotseg.cli import main
from shotseg.cli.demo import DATA
from shotseg.encoders import weights
from shotseg.errors import InputError, UsageError
from shotseg.result import Result

EXAMPLE = [DATA / "images/hair/example.jpg"], [DATA / "masks/hair/example.png"]


def result(found=True, classes=("dog", "<b>")):
    labels = np.zeros((40, 60), np.uint8)
    labels[:20] = int(found)
    maps = {name: (labels == i + 1).astype(np.float32) for i, name in enumerate(classes)}
    return Result(np.full((40, 60, 3), 90, np.uint8), classes, labels, maps)


@pytest.fixture(scope="module")
def hair():
    segmenter = shotseg.Segmenter(size=96, device="cpu")
    segmenter.add("hair", *EXAMPLE)
    return segmenter


def test_a_result_says_in_a_line_what_was_found():
    assert repr(result()) == "<Result 60 x 40: dog 50.0%; confidence 1.00>"
    assert "nothing found" in repr(result(found=False))


def test_a_notebook_shows_a_result_as_a_picture():
    assert result()._repr_png_().startswith(b"\x89PNG")
    page = result(classes=("<b>", "cat"))._repr_html_()
    assert "&lt;b&gt; 50.0%" in page and 'src="data:image/png;base64,' in page


def test_a_result_is_saved_without_a_name(tmp_path):
    result(classes=("dog", "cat")).save(tmp_path)
    assert (tmp_path / "labels/photo.png").is_file() and (tmp_path / "masks/dog/photo.png").is_file()


def test_a_segmenter_says_in_a_line_what_it_knows(hair):
    assert repr(hair) == "<Segmenter matching on efficientnet-lite2, cpu: hair (1)>"
    assert "no class yet" in repr(shotseg.Segmenter(device="cpu"))


def test_dir_names_what_there_is():
    assert dir(shotseg) == sorted(shotseg.__all__)
    assert all(hasattr(shotseg, name) for name in dir(shotseg))


def test_classes_may_be_added_in_one_thread_while_another_predicts():
    segmenter = shotseg.Segmenter(size=64, device="cpu")
    segmenter.add("first", *EXAMPLE)
    image, mask = np.asarray(Image.open(EXAMPLE[0][0])), np.asarray(Image.open(EXAMPLE[1][0])) > 0
    wrong: list[BaseException] = []

    def guarded(work):
        try:
            for i in range(6):
                work(i)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=guarded, args=(lambda i: segmenter.predict(image),))]
    threads += [
        threading.Thread(target=guarded, args=(lambda i, t=t: segmenter.add(f"{t} {i}", [image], [mask]),))
        for t in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not wrong and len(segmenter.classes) == 13


def changed(file, target, **about):
    """A support file with another header; a value of None takes the key out."""
    with safe_open(str(file), "pt") as stored:
        header = json.loads(stored.metadata()["shotseg"]) | about
    header = {key: value for key, value in header.items() if value is not None}
    save_file(load_file(file), str(target), {"shotseg": json.dumps(header)})
    return target


@pytest.mark.parametrize("key", ["encoder", "method", "options", "classes"])
def test_a_support_file_whose_header_lacks_a_key_is_one_line(hair, tmp_path, key):
    hair.save(tmp_path / "hair.safetensors")
    broken = changed(tmp_path / "hair.safetensors", tmp_path / "broken.safetensors", **{key: None})
    with pytest.raises(InputError, match=rf"broken\.safetensors: its header says no {key}; make it again"):
        shotseg.load(broken, device="cpu")


def test_a_support_file_that_holds_nothing_of_a_class_is_one_line(hair, tmp_path):
    hair.save(tmp_path / "hair.safetensors")
    broken = changed(tmp_path / "hair.safetensors", tmp_path / "broken.safetensors", classes=["hair", "dress"])
    with pytest.raises(InputError, match=r"broken\.safetensors: holds nothing of class 'dress'; make it again"):
        shotseg.load(broken, device="cpu")
    loaded = repr(shotseg.load(tmp_path / "hair.safetensors", device="cpu"))
    assert loaded.endswith("cpu: hair>"), "a support file says nothing of the number of photos"


@pytest.mark.parametrize("name", [3, None, b"dog", ("dog",)])
def test_a_class_name_that_is_no_text_is_one_line(hair, name):
    with pytest.raises(UsageError, match="give text"):
        hair.add(name)


def test_classes_load_with_a_local_file_of_the_same_encoder_and_no_other(hair, tmp_path):
    hair.save(tmp_path / "hair.safetensors")
    own = tmp_path / "own.pth"
    shutil.copy(weights.fetch(weights.TABLE["efficientnet-lite2"]), own)
    loaded = shotseg.Segmenter.load(tmp_path / "hair.safetensors", encoder=str(own), device="cpu")
    assert (loaded.predict(EXAMPLE[0][0]).labels == hair.predict(EXAMPLE[0][0]).labels).all()
    state = torch.load(own, weights_only=True)
    first = next(name for name, tensor in state.items() if tensor.is_floating_point())
    torch.save({**state, first: state[first] * 2}, own)
    with pytest.raises(UsageError, match="encoded with other weights than"):
        shotseg.Segmenter.load(tmp_path / "hair.safetensors", encoder=own, device="cpu")


SLIPS = [
    (["--support", "nosuch", "--query", "a.jpg"], "--support nosuch: no such file or folder"),
    (["--support", "nosuch.safetensors", "--query", "a.jpg"], "--support nosuch.safetensors: no such file or folder"),
    (["--support", ".", "--query", "a.jpg", "b.jpg"], "b.jpg is one value too many; put a pattern in quotes"),
    (["--support", ".", "--query", "a.jpg", "--query=b.jpg"], "--query is given twice"),
    (["--support", ".", "--query", "a.jpg", "b.jpg", "c d.jpg"], "put a pattern in quotes"),
    (["--support", ".", "--query", "a.jpg", "--checkpoint", "no.safetensors"], "--checkpoint no.safetensors: no such"),
]


@pytest.mark.parametrize(("flags", "says"), SLIPS)
def test_a_slip_of_the_command_line_is_told_by_its_cause(flags, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "c d.jpg"):
        Path(name).touch()
    assert main(["segment", *flags, "--out", "o"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and says in said[0] and not Path("o").exists()


@pytest.mark.parametrize("verb", ["evaluate", "train", "pseudo-label"])
def test_a_path_that_is_not_there_is_wrong_usage_for_every_verb(verb, tmp_path, capsys):
    flags = {
        "evaluate": ["folder", "--root", str(DATA), "--checkpoint", "/no/such"],
        "train": ["guided/tiny", "--root", "/no/such"],
        "pseudo-label": ["--images", str(DATA), "--labels", "/no/such"],
    }[verb]
    assert main([verb, *flags, "--out", str(tmp_path / "o.json")]) == 2
    assert "/no/such: no such file or folder" in capsys.readouterr().err


def test_an_untrained_method_is_refused_unless_asked_for(tmp_path, capsys):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.jpg")
    flags = ["segment", "--support", str(DATA), "--query", str(tmp_path / "a.jpg"), "--method", "hsnet", "--size", "64"]
    assert main([*flags, "--out", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert "'hsnet' has learnt nothing yet" in said and "--untrained" in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "o/masks").exists()
    assert main([*flags, "--out", str(tmp_path / "o"), "--untrained"]) == 0


def test_saved_classes_of_an_untrained_method_are_refused_too(tmp_path, capsys):
    segmenter = shotseg.Segmenter("hsnet", size=64, device="cpu")
    segmenter.add("hair", *EXAMPLE)
    segmenter.save(tmp_path / "hair.safetensors")
    flags = ["segment", "--support", str(tmp_path / "hair.safetensors"), "--query", str(EXAMPLE[0][0])]
    assert main([*flags, "--out", str(tmp_path / "o")]) == 2
    assert "has learnt nothing yet" in capsys.readouterr().err


def test_the_list_has_a_line_each_for_models_encoders_and_data_sets(capsys):
    for what, names in (
        ("models", shotseg.list_models()),
        ("encoders", encoders.list_encoders()),
        ("datasets", shotseg.list_datasets()),
    ):
        assert main(["list", what]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == names
        assert all(len(line.split()) > 4 for line in lines)
