"""CST replayed against the values of its released code."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import golden
import tiny_clip
from shotseg import encoders
from shotseg.data.samples import Episode, Prediction, Support
from shotseg.encoders.vit import Tokens
from shotseg.models.blocks.correlation_tokens import Correlation, Heads, joined, patches
from shotseg.models.blocks.correlation_transformer import Block, attend, bias_of
from shotseg.models.corenet.voronoi import cells
from shotseg.models.cst import CST, Learner, decide
from shotseg.priors.dino_masks import class_query, key_similarity, similarity_masks
from shotseg.reference import cst as reference


def stored(path) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in golden.npz(path).items() if value.dtype.kind in "fiub"}


def published(learner: Learner, state: dict[str, torch.Tensor]) -> Learner:
    """A learner with weights under the authors' names."""
    names = reference.published_names(type("", (), {"learner": learner})())
    learner.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
    return learner


def learner_of(path) -> Learner:
    return published(Learner(72), tiny_clip.by_recipe("cst_learner", 2023))


def biases(mask: torch.Tensor, sides=(12, 3)) -> list[torch.Tensor]:
    return [F.pad(bias_of(mask, side, soft=False), (1, 0)) for side in sides]


@pytest.mark.parametrize("path", golden.files("corenet", "cst_corr_tokens*.npz"))
def test_correlation_tokens_are_the_authors(path):
    known = stored(path)
    layers, channels = len(known["tok_q"]), known["tok_q"].shape[-1]
    side = round((known["tok_q"].shape[2] - 1) ** 0.5)
    heads = Heads([channels] * layers, channels * layers // known["corr"].shape[1])
    small = round((known["corr"].shape[-1] - 1) ** 0.5)

    def maps(tokens):
        return joined([layer[:, 1:].mT.unflatten(2, (side, side)) for layer in tokens])

    classes = torch.cat([layer[:, 0] for layer in known["tok_s"]], 1)[..., None]
    support = heads(torch.cat([classes, patches(maps(known["tok_s"]), small)], 2))
    correlation = Correlation(heads(maps(known["tok_q"]).flatten(2)), support)
    assert correlation.shape == known["corr"].shape
    golden.assert_close("corr", correlation.rows(0, side**2), known["corr"])
    golden.assert_close("some rows", correlation.rows(3, 20), known["corr"][:, :, 3:20])


@pytest.mark.parametrize("path", golden.files("corenet", "cst_block_*.npz"))
def test_a_block_of_the_correlation_transformer_is_the_authors(path):
    known = stored(path)
    channels, out, kernel, stride, padding, heads, groups = known["cfg"].tolist()
    block = Block(channels, out, kernel, stride, padding, heads, groups)
    weights = [value for name, value in known.items() if name.startswith("w.")]
    block.load_state_dict(dict(zip(block.state_dict(), weights, strict=True)))
    side = round((known["x"].shape[-1] - 1) ** 0.5)
    (bias,) = biases(known["mask"], (side,))
    with torch.no_grad():
        golden.assert_close("out_mask", block(known["x"], bias), known["out_mask"], 1e-4)
        golden.assert_close("out_nomask", block(known["x"]), known["out_nomask"], 1e-4)
        attended = block.attention(attend([block], known["x"], [bias])[0])
        golden.assert_close("attn_out_mask", attended, known["attn_out_mask"], 1e-4)


@pytest.mark.parametrize("path", golden.files("corenet", "cst_learner*.npz"))
def test_the_whole_learner_is_the_authors(path):
    known = stored(path)
    learner, corr, masks = learner_of(path), known["corr"].float(), biases(known["mask"])
    grid = [round(corr.shape[2] ** 0.5)] * 2
    with torch.no_grad():
        first = learner.transformer[0](corr, masks[0])
        second = learner.transformer[1](first, masks[1])
        masked, plain = learner(corr, grid, masks), learner(corr, grid, [None, None])
    golden.assert_close("block1", first[:, :, :6], known["block1_mask_q0"], 1e-4)
    golden.assert_close("block2", second, known["block2_mask"], 1e-4)
    golden.assert_close("linear", learner.common(second), known["linear_mask"], 1e-4)
    for name, answers in (("mask", masked), ("nomask", plain)):
        golden.assert_close(f"cls_{name}", answers.presence, known[f"cls_{name}"], 1e-4)
        golden.assert_close(f"seg_{name}", answers.mask, known[f"seg_{name}"], 1e-4)


@pytest.mark.parametrize("path", golden.files("corenet", "cst_loss*.npz"))
def test_loss_gradients_and_decisions_are_the_authors(path):
    known, inputs = stored(path), stored(path.with_name(path.name.replace("cst_loss", "cst_learner")))
    learner = learner_of(path)
    corr = inputs["corr"].float()
    answers = learner(corr, [round(corr.shape[2] ** 0.5)] * 2, biases(inputs["mask"]))
    up = F.interpolate(answers.mask, known["gt"].shape[-2:], mode="bilinear", align_corners=True)
    prediction = Prediction(answers.mask, {"presence": answers.presence})
    model = CST(encoders.load("efficientnet-lite0", "random"), supervision="pixel")
    losses = model.losses(prediction, known["gt"].long(), known["presence"][:, 0])
    golden.assert_close("up_masks", up, known["up_masks"][:, 0], 1e-4)
    golden.assert_close("loss", sum(losses.values()), known["loss"], 1e-4)
    sum(losses.values()).backward()
    parameters = dict(learner.named_parameters())
    names = {theirs: ours for ours, theirs in reference.published_names(type("", (), {"learner": learner})()).items()}
    norms = golden.npz(path)["grad_norms"]
    ours = torch.stack([parameters[names[str(name)]].grad.norm() for name in golden.npz(path)["grad_names"]])
    golden.assert_close("gradients", ours, norms, atol=1e-5, rtol=1e-3)
    with torch.no_grad():
        present, labels = decide([prediction], known["gt"].shape[-2:])
    assert torch.equal(present, known["pred_cls"])
    assert (labels == known["pred_mask"]).float().mean() > 0.999


@pytest.mark.parametrize("path", golden.files("corenet", "cst_pseudo_mask*.npz"))
def test_pseudo_masks_from_keys_are_the_authors(path):
    known = stored(path)
    side = round((known["spt_qkv"].shape[3] - 1) ** 0.5)

    def tokens(name: str) -> Tokens:
        query, key, value = known[name]
        return Tokens((), (query,), (key,), (value,), (side, side), 1)

    support, query = tokens("spt_qkv"), tokens("qry_qkv")
    whole = [int(known["imgsize"])] * 2
    for name in (n for n in known if n.startswith("spt_") and n != "spt_qkv"):
        threshold = float(name.removeprefix("spt_"))
        masks = similarity_masks(key_similarity(support), whole, threshold)
        golden.assert_close(name, masks, known[name], 0)
        asked = key_similarity(query, class_query(support))
        masks = similarity_masks(asked, known["resize"].tolist(), threshold, known["presence"])
        golden.assert_close(name.replace("spt", "qry"), masks, known[name.replace("spt", "qry")], 0)


@pytest.fixture(scope="module")
def on_dino():
    """CST on DINO ViT-S/8 with the authors' weights, and what it sees in a query and two supports of 400 pixels."""
    model = CST(encoders.load("dino-vits8", "random"), supervision="pixel").eval()
    reference.load(model, tiny_clip.by_recipe("cst_e2e", 4242, "manifest_e2e.json"))
    model.encoder.mean.zero_(), model.encoder.std.fill_(1)
    rng = np.random.default_rng(4243)

    def image() -> torch.Tensor:
        coarse = np.kron(rng.standard_normal((1, 3, 10, 10)).astype(np.float32), np.ones((1, 1, 40, 40), np.float32))
        return torch.from_numpy(coarse + 0.2 * rng.standard_normal((1, 3, 400, 400)).astype(np.float32)).float()

    return model, [model.encode(image()) for _ in range(3)]


@pytest.mark.parametrize("path", golden.files("corenet", "cst_e2e*.npz"))
def test_dino_vit_s8_gives_the_official_features_at_400_pixels(path, on_dino):
    known, (_, (seen, *_)) = golden.npz(path), on_dino
    classes = torch.stack([layer[0] for layer in seen.classes[:12]])
    token_17 = torch.stack([layer[0, :, 0, 16] for layer in seen.maps[:12]])
    golden.assert_close("class token", classes, known["feats_cls"], atol=1e-4)
    golden.assert_close("token 17", token_17, known["feats_tok_17"], atol=1e-4)


@pytest.mark.parametrize("path", golden.files("corenet", "cst_e2e*.npz"))
def test_cst_on_dino_gives_the_authors_answers_from_pixels(path, on_dino):
    known, (model, (query, support, second)) = golden.npz(path), on_dino
    mask = torch.zeros(1, 1, 400, 400, dtype=torch.long)
    mask[..., 80:280, 120:320] = 1
    pixels, size = torch.zeros(1, 1, 3, 400, 400), known["seg_mask"].shape[-2:]

    def answer():
        return model(query, model.encode_support(pixels, mask, support), pixels[0])

    with torch.no_grad():
        prediction = answer()
        upsampled = F.interpolate(prediction.logits, size, mode="bilinear", align_corners=True)
        golden.assert_close("cls_mask", prediction.extra["presence"], known["cls_mask"][:, 0], 1e-4)
        golden.assert_close("seg_mask", upsampled, known["seg_mask"][:, 0], 1e-4)
        model.own_masks = True
        made = model.inside(pixels[:, 0], mask, support, None).to(torch.uint8)
        golden.assert_close("support_pmask", made.flatten(), np.unpackbits(known["support_pmask"]), 0)
        prediction = answer()
        upsampled = F.interpolate(prediction.logits, size, mode="bilinear", align_corners=True)
        golden.assert_close("cls_pseudo", prediction.extra["presence"], known["cls_pseudo"][:, 0], 1e-4)
        golden.assert_close("seg_pseudo", upsampled, known["seg_pseudo"][:, 0], 1e-4)
        task = Episode(torch.zeros(1, 3, *size), pixels, torch.zeros(1))
        found = model.query_mask(query, support, torch.ones(1, dtype=torch.bool), task)
        golden.assert_close("query_pmask", found, known["query_pmask"], 0)
        model.own_masks = False
        shots = [model.encode_support(pixels, mask, features) for features in (support, second)]
        present, labels = decide([model(query, Support.join(shots), pixels[0])], size)
    assert torch.equal(present, torch.from_numpy(known["shot2_cls"]))
    assert (labels.numpy() == known["shot2_seg"]).mean() > 0.999


@pytest.mark.parametrize("path", golden.files("corenet", "fptrans_voronoi*.npz"))
def test_voronoi_cells_and_their_means_are_fptranss(path):
    known = stored(path)
    batch, shots = known["feat"].shape[:2]
    matrix = cells(known["fg_mask"] == 1, int(known["bg_num"]), known["first_center"]).unflatten(0, (batch, shots))
    golden.assert_close("cells", matrix.transpose(1, 2).flatten(2), known["cells"])
    means = known["feat"].flatten(3) @ matrix  # (B, S, C, K)
    golden.assert_close("proto", means.transpose(1, 2).flatten(2), known["proto"])
    background = F.cosine_similarity(
        known["qry_feat"].flatten(2)[..., None], means.transpose(1, 2).flatten(2)[:, :, None], dim=1
    ).amax(2)
    golden.assert_close("background", 20 * background, known["logits"][:, 0].flatten(1), 1e-4)
