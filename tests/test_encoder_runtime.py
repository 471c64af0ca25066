"""What computes an encoder on a CPU: the maps are the same, threads share it, and torch stays where another cannot be."""

import copy
import functools
import json
import sys
import warnings
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import miniatures
import shotseg
from shotseg import encoders
from shotseg.cli import main
from shotseg.data.images import write_png
from shotseg.encoders import Encoder, Features, int8, runtime
from shotseg.errors import UsageError
from training_miniature import TINY

SIZES = ((1, 32, 64), (3, 65, 33), (2, 64, 32), (1, 33, 47))
NETWORKS = {
    "efficientnet-lite0": "default",
    "efficientnet-lite2": "default",
    "efficientnet-lite0-blocks": "default",
    "resnet50": "random",
    "vgg16-bn": "random",
    "timm:tf_mobilenetv3_small_minimal_100": "random",
    "timm:resnet10t": "random",
}
FORMS = (
    "torch",
    pytest.param("onnxruntime", marks=pytest.mark.skipif("not __import__('importlib').util.find_spec('onnx')")),
)


@pytest.fixture
def made_before():
    """For tests of what a form gives, however it came to be there."""


@pytest.fixture(autouse=True)
def nothing_made_before(request, monkeypatch):
    if "made_before" not in request.fixturenames:
        monkeypatch.setattr(runtime, "_made", OrderedDict())
        monkeypatch.setattr(runtime, "KEPT", 2)


class Own(Encoder):
    """A convolution and what ``after`` makes of its map."""

    name, strides, channels, convolutional = "own", (2,), (4,), True

    def __init__(self, after=lambda x: x):
        super().__init__((0.5,) * 3, (0.2,) * 3)
        self.first, self.norm, self.after = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), after

    def extract(self, normalised):
        return Features((self.after(self.norm(self.first(normalised))),), self.strides)


def own(after=lambda x: x):
    return Own(after).freeze()


def lines_of(work):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        work()
    return [str(line.message) for line in said]


@functools.cache
def loaded(name):
    return encoders.load(name, NETWORKS[name])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_maps_are_those_of_torch_at_any_size_and_batch(name, form):
    encoder = loaded(name)
    runtime.use(encoder, form)
    assert encoder.runtime == form and encoder.fast is not None
    for batch, height, width in SIZES:
        images = torch.rand(batch, 3, height, width)
        with torch.no_grad():
            told = encoder.extract((images - encoder.mean) / encoder.std)
        found = encoder(images)
        assert found.strides == told.strides and len(found.maps) == len(told.maps)
        for ours, theirs in zip(found.maps, told.maps):
            assert ours.shape == theirs.shape and ours.dtype == torch.float32 and ours.is_contiguous()
            assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_an_unknown_runtime_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"runtime 'tensorrt'; choose one of auto, torch, onnxruntime"):
        runtime.use(own(), "tensorrt")


@pytest.mark.parametrize("library", ["onnxruntime", "onnx"])
def test_without_the_extra_one_line_names_it_and_torch_computes(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    encoder, images = own(), torch.rand(1, 3, 40, 40)
    told = encoder(images).maps[0]
    (line,) = lines_of(lambda: runtime.use(encoder, "onnxruntime"))
    assert "own: onnxruntime cannot be used" in line and "\n" not in line
    assert lines_of(lambda: runtime.use(encoder, "auto")) == []
    assert encoder.runtime == "torch" and torch.allclose(encoder(images).maps[0], told, atol=1e-5)


def test_what_onnx_does_not_know_stays_with_torch_and_nothing_is_printed(capfd):
    pytest.importorskip("onnxruntime")
    encoder = own(lambda x: x + torch.linalg.svdvals(x[..., :3, :3]).sum() * 0)
    (line,) = lines_of(lambda: runtime.use(encoder, "onnxruntime"))
    assert "svd" in line and encoder.runtime == "torch"
    assert capfd.readouterr().out == ""


def test_a_network_that_tracing_fixes_at_one_size_stays_as_it_is():
    encoder = own(lambda x: x * int(x.shape[2]))
    lines_of(lambda: runtime.use(encoder))
    assert encoder.fast is None and encoder.runtime == "torch"
    assert torch.equal(
        encoder(torch.ones(1, 3, 20, 20)).maps[0], encoder.extract(torch.full((1, 3, 20, 20), 2.5)).maps[0]
    )


def test_a_vit_stays_with_torch_and_says_so_where_another_was_asked_for():
    encoder = encoders.load("timm:vit_tiny_patch16_224", "random")
    assert lines_of(lambda: runtime.use(encoder)) == []
    (line,) = lines_of(lambda: runtime.use(encoder, "onnxruntime"))
    assert "no CNN" in line and encoder.fast is None


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """What is made in 8 bits is kept here, of photos small enough for a test."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.setenv("SHOTSEG_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(int8, "SIZE", 96)
    int8.demo_photos.cache_clear()
    yield tmp_path / "weights" / "int8"
    int8.demo_photos.cache_clear()


def test_in_8_bits_maps_are_nearly_those_of_torch_and_masks_of_kept_supports_nearly_the_same(
    own_folder, made_before, tmp_path
):
    (image, mask), (query, truth) = square(20, 30, 0), square(40, 70, 1)
    exact = shotseg.Segmenter(encoder="efficientnet-lite0", size=96, device="cpu", runtime="torch")
    exact.add("red", [image], [mask])
    exact.save(tmp_path / "red.safetensors")
    rough = shotseg.Segmenter.load(tmp_path / "red.safetensors", device="cpu", runtime="onnxruntime-int8")
    encoder = rough.model.encoder
    assert encoder.runtime == rough.runtime == "onnxruntime-int8"
    photo = torch.from_numpy(query).permute(2, 0, 1)[None] / 255
    for theirs, ours in zip(exact.model.encoder(photo).maps, encoder(photo).maps, strict=True):
        assert theirs.shape == ours.shape and not torch.allclose(theirs, ours)
        assert nn.functional.cosine_similarity(theirs, ours).mean() > 0.9
    found, expected = rough.predict(query).masks["red"], exact.predict(query).masks["red"]
    assert (found & expected).sum() > 0.9 * (found | expected).sum() > 0.8 * truth.sum()


def test_what_was_made_in_8_bits_is_read_from_the_disk_and_made_again_where_it_is_damaged(own_folder, monkeypatch):
    made, quantised = [], int8.quantised
    monkeypatch.setattr(int8, "quantised", lambda *given: made.append(1) or quantised(*given))
    torch.manual_seed(3)
    encoder = own()
    for times, damage in ((1, False), (1, False), (2, True), (2, False)):
        if damage:
            (file,) = own_folder.iterdir()
            file.write_bytes(file.read_bytes()[:-1])
        runtime._made.clear()
        assert lines_of(lambda: runtime.use(encoder, "onnxruntime-int8")) == []
        assert encoder.runtime == "onnxruntime-int8" and len(made) == times


def test_where_sums_of_8_bits_overflow_weights_have_7(own_folder, monkeypatch):
    bits, quantised, alike = [], int8.quantised, runtime._alike
    monkeypatch.setattr(int8, "quantised", lambda *given: bits.append(given[2]) or quantised(*given))
    monkeypatch.setattr(runtime, "_alike", lambda *given: bits[-1] == 7 and alike(*given))
    torch.manual_seed(3)
    encoder = own()
    assert lines_of(lambda: runtime.use(encoder, "onnxruntime-int8")) == []
    assert encoder.runtime == "onnxruntime-int8" and bits == [8, 7]
    weights = [weights_of(path.read_bytes()[32:]) for path in own_folder.iterdir()]
    assert sorted(int(np.abs(each).max()) for each in weights) == [64, 127]


def weights_of(model):
    """All 8-bit weights of an ONNX model, as whole numbers."""
    import onnx

    kept = [
        each for each in onnx.load_model_from_string(model).graph.initializer if each.data_type == onnx.TensorProto.INT8
    ]
    return np.concatenate([onnx.numpy_helper.to_array(each).astype(int).ravel() for each in kept])


def test_a_network_whose_maps_8_bits_do_not_hold_is_computed_in_32_and_says_so(own_folder):
    torch.manual_seed(3)
    sizes = torch.tensor([1.0, 1e-4, 1e-4, 1e-4])[:, None, None]  # one map drowns the others, and is drowned at the end
    encoder = own(lambda x: nn.functional.conv2d(x * sizes, torch.ones(4, 1, 1, 1), groups=4) / sizes)
    (line,) = lines_of(lambda: runtime.use(encoder, "onnxruntime-int8"))
    assert line == "encoder own: onnxruntime-int8 cannot be used (its maps are others than torch's), onnxruntime is"
    assert encoder.runtime == "onnxruntime"


@pytest.mark.parametrize("form", FORMS)
def test_threads_share_one_form_and_get_the_maps_that_one_thread_gets(form, made_before):
    encoder = encoders.load(TINY, "random")
    runtime.use(encoder, form)
    twins = [copy.deepcopy(encoder) for _ in range(4)]
    assert all(twin.fast is encoder.fast for twin in twins)
    photos = [torch.rand(1, 3, 64 + 32 * (i % 3), 96) for i in range(24)]
    alone = [encoder(photo).maps[-1] for photo in photos]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: twins[i % 4](photos[i]).maps[-1], range(24)))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(together, alone))


@pytest.mark.parametrize("form", FORMS)
def test_equal_weights_take_the_form_that_is_there_and_others_get_their_own(form):
    first, equal, other = (encoders.load("efficientnet-lite0") for _ in range(3))
    other.net.conv_stem.weight.mul_(1.5)
    blocks = encoders.load("efficientnet-lite0-blocks")  # the same weights, other maps
    for encoder in (first, equal, other, blocks):
        runtime.use(encoder, form)
    assert equal.fast is first.fast
    assert len({id(encoder.fast) for encoder in (first, other, blocks)}) == 3
    assert len(runtime._made) == runtime.KEPT


def test_making_a_form_takes_none_of_the_random_numbers():
    encoder = encoders.load(TINY, "random")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    runtime.use(encoder)
    assert torch.equal(torch.rand(2), expected)


def test_extract_stays_torch_with_its_gradients(made_before):
    encoder = encoders.load(TINY, "random")
    runtime.use(encoder)
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    encoder.extract(images).maps[-1].sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def square(top, left, seed):
    rng = np.random.default_rng(seed)
    image, mask = rng.integers(90, 140, (120, 160, 3), dtype=np.uint8), np.zeros((120, 160), np.uint8)
    mask[top : top + 50, left : left + 60] = 1
    image[mask == 1] = (200, 30, 30)
    return image, mask


def test_masks_are_the_same_and_a_saved_support_serves_both(made_before, tmp_path):
    pytest.importorskip("onnxruntime")
    image, mask = square(20, 30, 0)
    query, _ = square(40, 70, 1)
    found = {}
    for name in ("torch", "onnxruntime"):
        segmenter = shotseg.Segmenter(size=160, device="cpu", runtime=name)
        segmenter.add("red", [image], [mask])
        assert segmenter.model.encoder.runtime == segmenter.runtime == name
        assert segmenter.twin().model.encoder.fast is segmenter.model.encoder.fast
        segmenter.save(tmp_path / f"{name}.safetensors")
        found[name] = segmenter.predict(query)
    assert np.array_equal(found["torch"].labels, found["onnxruntime"].labels)
    kept = shotseg.load(tmp_path / "torch.safetensors", device="cpu")
    assert kept.runtime == "torch"
    crossed = shotseg.Segmenter.load(tmp_path / "torch.safetensors", device="cpu", runtime="onnxruntime")
    assert crossed.model.encoder.runtime == "onnxruntime"
    assert np.array_equal(crossed.predict(query).labels, found["torch"].labels)


def test_an_evaluation_says_what_computed_it_and_counts_the_same(made_before, tmp_path):
    pytest.importorskip("onnxruntime")
    photos = miniatures.folder(tmp_path / "photos")
    how = {"episodes": 6, "seeds": (0,), "size": 64, "device": "cpu"}
    ours, theirs = (shotseg.evaluate(photos, runtime=name, **how) for name in ("onnxruntime", "torch"))
    assert (ours.content["runtime"], theirs.content["runtime"]) == ("onnxruntime", "torch")
    assert ours.scores["miou"] == pytest.approx(theirs.scores["miou"], abs=0.2)
    with pytest.raises(UsageError, match="--runtime changes nothing with a model that is ready"):
        shotseg.evaluate(photos, shotseg.Segmenter(device="cpu").model, runtime="torch", **how)


def test_the_command_line_takes_it_for_a_folder_and_for_a_benchmark(made_before, tmp_path):
    image, mask = square(20, 30, 0)
    for name in ("images/red/a.png", "photos/b.png"):
        write_png(tmp_path / name, image)
    write_png(tmp_path / "masks/red/a.png", mask * 255)
    masks = {}
    for name in ("torch", "auto"):
        asked = ["--support", str(tmp_path), "--query", str(tmp_path / "photos"), "--out", str(tmp_path / name)]
        assert main(["segment", *asked, "--size", "160", "--device", "cpu", "--runtime", name]) == 0
        masks[name] = (tmp_path / name / "masks/red/b.png").read_bytes()
    assert masks["torch"] == masks["auto"]
    out = tmp_path / "speed.json"
    asked = ["--runtime", "torch", "--size", "96", "--repeats", "1", "--photos", "2", "--device", "cpu"]
    assert main(["benchmark", *asked, "--out", str(out)]) == 0
    assert json.loads(out.read_text())["runtime"] == "torch"
