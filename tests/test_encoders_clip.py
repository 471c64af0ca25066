import pickle

import open_clip
import pytest
import torch

import golden
import shotseg.encoders
import tiny_clip
from shotseg.encoders import clip
from shotseg.errors import InputError, UsageError

CASES = ("native", "rect", "odd")


@pytest.fixture(scope="module")
def tiny():
    return tiny_clip.pi_clip()


def _config(**vision) -> dict:
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    vision = {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8} | vision
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


@pytest.mark.parametrize("path", golden.files("pi_clip", "clip_tiny_image*.npz"))
@pytest.mark.parametrize("case", CASES)
def test_tokens_and_attention_of_every_layer_are_the_official_ones(path, case, tiny):
    known = {k: torch.from_numpy(v) for k, v in golden.npz(path).items()}
    seen = tiny.tokens_and_attention(known[f"{case}_image"], normalised=True, round_positions=True)
    golden.assert_close("tokens", torch.stack(seen.tokens).transpose(1, 2), known[f"{case}_all_tokens"], atol=1e-4)
    golden.assert_close("attention", torch.stack(seen.attention), known[f"{case}_all_attn"], atol=1e-4)
    golden.assert_close("before last", seen.before_last.transpose(0, 1), known[f"{case}_tokens_before_last"], atol=1e-4)
    golden.assert_close("positions", tiny.positions(seen.grid, rounded=True), known[f"{case}_pos_embed"], atol=1e-6)


@pytest.mark.parametrize("path", golden.files("pi_clip", "clip_tiny_image*.npz"))
@pytest.mark.parametrize("case", CASES)
def test_the_last_block_gives_the_official_probabilities_and_attention(path, case, tiny):
    known = {k: torch.from_numpy(v) for k, v in golden.npz(path).items()}
    words = golden.npz(path.with_name(path.name.replace("image", "text")))
    ids = known["class_ids_for_probs"]
    text = torch.cat([torch.from_numpy(words[f"pascal_{kind}_features"])[ids] for kind in ("fg", "bg")])
    image = known[f"{case}_image"]
    seen = tiny.tokens_and_attention(image, normalised=True, until_last=True, round_positions=True)
    last = tiny.last_block(seen, text)
    golden.assert_close("probabilities", last.probabilities, known[f"{case}_probs"], atol=1e-4)
    golden.assert_close("attention", last.attention, known[f"{case}_last_attn"], atol=1e-4)


@pytest.mark.parametrize("path", golden.files("pi_clip", "clip_tiny_text*.npz"))
@pytest.mark.parametrize("words", ["pascal_fg", "pascal_bg", "coco_fg", "coco_bg"])
def test_text_features_are_the_official_ones(path, words, tiny):
    known = golden.npz(path)
    tokens = torch.from_numpy(known[f"{words}_tokens"]).long()
    golden.assert_close(words, tiny.text_of_tokens(tokens[:, None]), known[f"{words}_features"], atol=1e-5)


@pytest.mark.parametrize("path", golden.files("pi_clip", "clip_tiny_text*.npz"))
def test_class_names_and_templates_are_tokenised_as_the_official_code_does(path, tiny):
    known = golden.npz(path)
    for kind, template in (("fg", "a photo of {}."), ("bg", "a photo without {}.")):
        ours = tiny.text(["aeroplane", "bicycle", "bird avian"], [template])
        golden.assert_close(template, ours, known[f"pascal_{kind}_features"][:3], atol=1e-5)


@pytest.mark.parametrize("path", golden.files("corenet", "clipes_gradcam*.npz"))
def test_a_clipes_vit_gives_its_tokens_attention_and_softmax(path):
    known = {k: torch.from_numpy(v) for k, v in golden.npz(path).items()}
    model = tiny_clip.clipes()
    seen = model.tokens_and_attention(known["image"], normalised=True, until_last=True, round_positions=True)
    golden.assert_close("tokens", seen.before_last.transpose(0, 1), known["tokens_before_last"], atol=1e-4)
    golden.assert_close("attention", torch.cat(seen.attention), known["attn_first9"].float(), atol=1e-3)
    last = model.last_block(seen, known["text"])
    golden.assert_close("softmax", last.probabilities, known["logits_softmax"], atol=1e-4)
    golden.assert_close("last attention", last.attention[0], known["attn_last"], atol=1e-4)


@pytest.mark.parametrize("path", golden.files("corenet", "imr_gradcam*.npz"))
def test_a_clip_resnet_gives_its_last_stage_and_softmax(path):
    known = {k: torch.from_numpy(v) for k, v in golden.npz(path).items()}
    model = tiny_clip.imr()
    seen = model.tokens_and_attention(known["image"], normalised=True)
    golden.assert_close("layer4", seen.before_last, known["layer4"], atol=1e-4)
    golden.assert_close("softmax", model.last_block(seen, known["text"]).probabilities, known["probs"], atol=1e-4)


def _unit(rows: int, width: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, width), dim=-1)


def test_the_gradient_reaches_the_activation_and_nothing_else():
    model = clip.from_config(_config())
    seen = model.tokens_and_attention(torch.rand(2, 3, 24, 40), until_last=True)
    last = model.last_block(seen, model.text(["cat", "dog"]))
    (gradient,) = torch.autograd.grad(last.probabilities[:, 0].sum(), last.activation)
    assert last.map(gradient).shape == (2, 64, 3, 5)
    assert not seen.before_last.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_last_block_continues_where_all_tokens_end():
    model = clip.from_config(_config())
    images = torch.rand(1, 3, 32, 32)
    every = model.tokens_and_attention(images)
    until = model.tokens_and_attention(images, until_last=True)
    torch.testing.assert_close(every.before_last, until.before_last)
    torch.testing.assert_close(every.attention[-1], model.last_block(until, model.text(["cat"])).attention)


def test_dense_tokens_end_in_the_models_own_image_feature():
    model = clip.from_config(_config())
    images = torch.rand(2, 3, 32, 32)
    visual = model.visual
    seen = model.tokens_and_attention(images)
    own = model.model.encode_image((images - model.mean) / model.std)
    torch.testing.assert_close(visual.ln_post(seen.tokens[-1])[:, 0] @ visual.proj, own)


def test_a_clip_resnet_pools_as_open_clip_does_and_takes_other_sizes():
    model = clip.from_config(_config(layers=(1, 1, 1, 1), width=16, patch_size=None, image_size=64))
    images = torch.rand(2, 3, 64, 64)
    own = model.model.encode_image((images - model.mean) / model.std)
    text = model.text(["cat", "dog", "sky"])
    last = model.last_block(model.tokens_and_attention(images), text)
    torch.testing.assert_close(last.probabilities, model._probabilities(own, text))
    other = model.last_block(model.tokens_and_attention(torch.rand(1, 3, 96, 128)), text)
    assert other.map(other.activation).shape == (1, 512, 3, 4)
    assert [tuple(m.shape[2:]) for m in model(torch.rand(1, 3, 96, 128)).maps] == [(24, 32), (12, 16), (6, 8), (3, 4)]


def test_templates_are_averaged_and_the_result_is_a_unit_vector():
    model = clip.from_config(_config())
    both = model.text(["cat"], ["a {}.", "the {}."])
    one, other = model.text(["cat"], ["a {}."]), model.text(["cat"], ["the {}."])
    torch.testing.assert_close(both, torch.nn.functional.normalize((one + other) / 2, dim=-1))


def test_a_missing_key_of_a_clip_file_is_named(tmp_path):
    model = clip.from_config(_config())
    state = model.model.state_dict()
    del state["visual.proj"]
    with pytest.raises(InputError, match=r"missing \(visual\.proj\)"):
        clip.from_config(_config(), state)


@pytest.mark.parametrize("name", ["open_clip:ViT-S-32-alt", "open_clip:PE-Core-T-16-384", "open_clip:convnext_tiny"])
def test_other_open_clip_models_have_dense_maps_and_a_last_block(name):
    model = shotseg.encoders.load(name, "random")
    images = torch.rand(1, 3, 64, 96)
    seen = model.tokens_and_attention(images)
    text = _unit(2, model.model.encode_text(torch.zeros(1, model.model.context_length, dtype=torch.long)).shape[1])
    last = model.last_block(seen, text)
    assert last.map(last.activation).shape[-2:] == model(images).maps[-1].shape[-2:] == seen.grid
    assert last.probabilities.requires_grad


def test_a_file_of_another_clip_is_refused_by_name_and_its_own_file_loads(tmp_path):
    model = shotseg.encoders.load("open_clip:ViT-S-32-alt", "random")
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in model.model.state_dict().items()}
    state["visual.proj"] = model.visual.proj  # the others take no room in the file
    torch.save(state, tmp_path / "own.pt")
    loaded = shotseg.encoders.load("open_clip:ViT-S-32-alt", str(tmp_path / "own.pt"))
    torch.testing.assert_close(loaded.visual.proj, model.visual.proj)
    del state["visual.proj"]
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: .*visual\.proj"):
        shotseg.encoders.load("open_clip:ViT-S-32-alt", str(tmp_path / "other.pt"))


def test_an_open_clip_model_without_dense_tokens_is_refused():
    with pytest.raises(UsageError, match="no dense tokens"):
        shotseg.encoders.load("open_clip:ViTamin-S", "random")


def activations(encoder):
    return {type(module).__name__ for module in encoder.modules() if "GELU" in type(module).__name__}


@pytest.mark.parametrize("name, activation", [("RN50/cc12m", "QuickGELU"), ("ViT-S-32-alt", "GELU")])
def test_the_activation_is_the_one_that_the_weights_were_trained_with(name, activation):
    assert activations(shotseg.encoders.load(f"open_clip:{name}", weights="random")) == {activation}


def test_every_entry_of_open_clip_gets_its_own_activation(monkeypatch):
    asked = {}

    def create(model, force_quick_gelu, **_):
        asked["quick"] = force_quick_gelu or open_clip.get_model_config(model).get("quick_gelu", False)
        raise OSError("not built here")

    monkeypatch.setattr(open_clip, "create_model", create)
    for model, tag in open_clip.list_pretrained():
        with pytest.raises(UsageError):
            shotseg.encoders.load(f"open_clip:{model}/{tag}", weights="random")
        said = open_clip.get_pretrained_cfg(model, tag).get("quick_gelu")
        of_model = open_clip.get_model_config(model).get("quick_gelu", False)
        assert asked["quick"] == (of_model if said is None else said), (model, tag)


def test_a_model_travels_to_another_process_with_its_tokenizer():
    encoder = shotseg.encoders.load("open_clip:RN50/cc12m", weights="random")
    words = encoder.tokenize(["a dog"])
    assert torch.equal(pickle.loads(pickle.dumps(encoder.tokenize))(["a dog"]), words)
    assert len(pickle.dumps(encoder.tokenize)) < 2000


@pytest.mark.parametrize("name", [None, "open_clip:PE-Core-T-16-384"])
def test_only_the_attention_that_is_asked_for_is_kept_and_the_rest_is_the_same(name):
    model = shotseg.encoders.load(name, "random") if name else clip.from_config(_config())
    images = torch.rand(2, 3, 32, 32)
    every, two = model.tokens_and_attention(images), model.tokens_and_attention(images, attention=2)
    depth = len(every.tokens)
    assert len(every.attention) == depth and len(two.attention) == 2
    torch.testing.assert_close(every.tokens, two.tokens)
    torch.testing.assert_close(every.attention[-2:], two.attention)
    last = model.tokens_and_attention(images, until_last=True, attention=2).attention
    torch.testing.assert_close(every.attention[-2:-1], last)
    assert len(model.tokens_and_attention(images, attention=99).attention) == depth
    text = _unit(2, model.model.encode_text(torch.zeros(1, model.model.context_length, dtype=torch.long)).shape[1])
    full, bare = (model.last_block(every, text, attention=wanted) for wanted in (True, False))
    assert bare.attention is None and full.attention is not None
    found = [torch.autograd.grad(x.probabilities[:, 0].sum(), x.activation)[0] for x in (full, bare)]
    torch.testing.assert_close(*found)
