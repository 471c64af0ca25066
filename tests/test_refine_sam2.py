"""Masks redrawn by SAM 2: transformers' own network with tiny random weights, and a pretended one that draws as it is told."""

from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.draw import disk
from transformers import BertConfig, BertModel, Sam2Config, Sam2Model

from shotseg import Segmenter
from shotseg.cli.doctor import Doctor
from shotseg.cli.segment import Segment
from shotseg.encoders import network
from shotseg.errors import UsageError
from shotseg.priors import sam2

SIDE = 128
BACKBONE = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 8,
    "image_size": [SIDE, SIDE],
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 1, 2, 4],
    "window_size_per_stage": [8, 4, 4, 4],
    "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [4, 4],
}
VISION = {
    "backbone_config": BACKBONE,
    "backbone_channel_list": [64, 32, 16, 8],
    "backbone_feature_sizes": [[SIDE // n] * 2 for n in (4, 8, 16)],
    "fpn_hidden_size": 16,
}
DECODER = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    prompts = {"hidden_size": 16, "image_size": SIDE}
    return Sam2Model(
        Sam2Config(vision_config=VISION, prompt_encoder_config=prompts, mask_decoder_config=DECODER)
    ).eval()


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    where = tmp_path_factory.mktemp("sam2")
    tiny.save_pretrained(where)
    return where


def scores_of(*masks):
    """(N + 1, 32, 32) log odds of classes that are sure of their masks."""
    odds = [torch.from_numpy(np.where(mask, 4.0, -4.0)).float() for mask in masks]
    return torch.stack([torch.zeros(32, 32), *odds])


def square(top, left, side):
    mask = np.zeros((32, 32), bool)
    mask[top : top + side, left : left + side] = True
    return mask


class Pretended(torch.nn.Module):
    """A SAM that answers with ``draw`` of the mask prompt, and writes down what it was asked."""

    def __init__(self, draw):
        super().__init__()
        self.weight, self.draw, self.asked = torch.nn.Parameter(torch.zeros(1)), draw, []
        self.prompt_encoder = SimpleNamespace(mask_input_size=(32, 32), input_image_size=SIDE)

    def get_image_embeddings(self, pixels):
        assert pixels.shape == (1, 3, SIDE, SIDE)
        return [pixels]

    def forward(self, image_embeddings, input_masks, multimask_output, **prompts):
        self.asked.append(prompts)
        found = (input_masks[0, 0] > 0).numpy()
        odds = torch.from_numpy(np.where(self.draw(found), 7.0, -7.0)).float()
        others = [-odds, odds, torch.full_like(odds, -7.0)] if multimask_output else [odds]
        return SimpleNamespace(pred_masks=torch.stack(others)[None, None])


PHOTO = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)


def test_the_network_of_transformers_takes_the_prompts_and_gives_finite_odds_on_its_grid(tiny):
    refine, scores = sam2.Sam2(tiny), scores_of(square(4, 4, 12), square(20, 20, 8))
    one, again = (refine.redrawn(PHOTO, scores.clone()) for _ in range(2))
    assert one.shape == (3, 32, 32) and one.isfinite().all()
    torch.testing.assert_close(one, again)
    answer = refine._asked(refine._seen(PHOTO), square(4, 4, 12))
    assert answer is None or answer.shape == (32, 32)


def test_each_object_gets_its_own_box_and_innermost_point_in_pixels_of_the_square():
    net = Pretended(lambda found: found)
    kept = sam2.Sam2(net).redrawn(PHOTO, scores_of(square(2, 4, 12) | square(20, 22, 6)))
    first, second = net.asked[1::2]
    assert first["input_boxes"].tolist() == [[[16, 8, 64, 56]]]  # four pixels of the square a cell
    assert second["input_boxes"].tolist() == [[[88, 80, 112, 104]]]
    x, y = first["input_points"][0, 0, 0].tolist()
    assert 32 < x < 48 and 24 < y < 40 and first["input_labels"].tolist() == [[[1]]]
    assert ((kept.argmax(0) == 1).numpy() == (square(2, 4, 12) | square(20, 22, 6))).all()


def test_what_sam_draws_takes_the_place_of_the_object_and_nothing_else():
    net = Pretended(lambda found: np.roll(found, 1, axis=1))
    found = sam2.Sam2(net).redrawn(PHOTO, scores_of(square(4, 4, 12), square(24, 24, 4))).argmax(0).numpy()
    assert ((found == 1) == np.roll(square(4, 4, 12), 2, axis=1)).all()  # asked twice, each time one further
    assert (found == 2).sum() == 16


def test_an_answer_about_another_object_is_not_taken():
    net = Pretended(lambda found: ~found)
    scores = scores_of(square(4, 4, 12))
    torch.testing.assert_close(sam2.Sam2(net).redrawn(PHOTO, scores.clone()), scores)


def test_a_photo_without_objects_is_not_looked_at():
    net = Pretended(lambda found: found)
    sam2.Sam2(net).redrawn(PHOTO, scores_of(square(0, 0, 0)))
    assert net.asked == []


def test_weights_that_cannot_be_had_are_one_line(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(network, "answers", lambda url: False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "empty").mkdir()
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    ).save_pretrained(tmp_path / "bert")
    for name in ("sam2:nobody/has-this", f"sam2:{tmp_path / 'empty'}", f"sam2:{tmp_path / 'bert'}", "sam3"):
        with pytest.raises(UsageError) as error:
            sam2.load(name)
        line = str(error.value)
        assert "\n" not in line and "sam2:FOLDER" in line and name.removeprefix("sam2:") in line


def test_weights_that_lack_some_are_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    state = load_file(folder / "model.safetensors")
    save_file(dict(list(state.items())[:-3]), tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="lacks 3 weights of SAM 2"):
        sam2.load(f"sam2:{tmp_path}")


def test_a_segmenter_a_run_and_the_doctor_take_a_folder_of_weights(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(network, "answers", lambda url: False)
    mask = np.zeros((64, 96), np.uint8)
    mask[disk((32, 48), 20)] = 255
    photo = np.where(mask[..., None] > 0, (220, 40, 40), (90, 90, 90)).astype(np.uint8)
    segmenter = Segmenter(size=96, device="cpu", present=None)
    segmenter.add("ball", [photo], [mask])
    plain, segmenter.refine = segmenter.predict(photo), sam2.Sam2(Pretended(lambda found: np.roll(found, 1, axis=1)))
    moved = segmenter.predict(photo)
    assert moved.labels.shape == plain.labels.shape
    assert np.argwhere(moved.masks["ball"])[:, 1].mean() > np.argwhere(plain.masks["ball"])[:, 1].mean() + 2
    for kind, picture in (("images", photo), ("masks", mask)):
        (tmp_path / "examples" / kind / "ball").mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "examples" / kind / "ball/a.png")
    options = {"query": str(tmp_path / "examples/images/ball/a.png"), "support": tmp_path / "examples"}
    run = Segment(out=tmp_path / "out", device="cpu", size=96, refine=f"sam2:{folder}", **options)
    assert run.run() == 0 and (tmp_path / "out/masks/ball/a.png").is_file()
    assert Doctor(download=(f"sam2:{folder}", "sam2:nowhere/at-all")).run() == 1
    with pytest.raises(UsageError, match="leave it or --engine out"):
        Segment(out=tmp_path / "out", engine="ray", refine="sam2", **options).run()
