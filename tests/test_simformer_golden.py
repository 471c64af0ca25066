"""SimFormer and MaskFormer against the values of the authors' modules (and of the corrected paths beside them)."""

import re

import numpy as np
import pytest
import torch

import golden
from released_scores import confusion, released_scores
from shotseg.data import transforms
from shotseg.errors import InputError
from shotseg.models.blocks import set_criterion as criterion
from shotseg.models.blocks.set_criterion import DICE, FOCAL, Proposals, Targets
from shotseg.models.maskformer import semantic as semantic_scores
from shotseg.models.simformer import SimFormer, pseudo_label
from shotseg.models.simformer.pixel_similarity import (
    Balance,
    PixelSimilarity,
    SimNet,
    at_points,
    draw_points,
    joined_pairs,
    partners,
)
from shotseg.reference import simformer as reference
from shotseg.training.pairs import PairSampler
from shotseg.training.short_crop import padded

BASE, NOVEL, CLASSES = [0, 1, 2, 4, 6], [3, 5, 7], 8
TARGETS = {"NovelScore": "novel", "FullScore": "full", "FullLogit": "logit", "FullLogitC": "relu-logit"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def stored(path):
    return {k: torch.from_numpy(v) if v.dtype.kind not in "US" else v for k, v in golden.npz(path).items()}


def close(name, ours, theirs, rtol=1e-4):
    """Within ``rtol`` of the tensor's largest entry."""
    theirs = torch.as_tensor(np.asarray(theirs))
    golden.assert_close(
        name, ours, theirs, atol=max(1e-6, rtol * float(theirs.double().abs().max() if theirs.numel() else 0))
    )


def simnet(path, **options):
    net = reference.load_simnet(golden.tensors(path)[0])
    return net


@pytest.mark.parametrize("path", golden.files("simformer", "*simnet_tiny.npz"))
def test_simnet_gives_the_authors_values_gradients_and_statistics(path):
    d = stored(path)
    net = simnet(path.with_suffix(".safetensors"))
    close("y_eval", net(d["x"]), d["y_eval"])
    x = d["x"].clone().requires_grad_()
    y = net.train()(x)
    close("y_train", y, d["y_train"])
    y.backward(d["cotangent"])
    close("grad_x", x.grad, d["grad_x"])
    grads = reference.simnet_names({k.removeprefix("grad."): v for k, v in d.items() if k.startswith("grad.")})
    for name, parameter in net.named_parameters():
        close(name, parameter.grad, grads[name])
    after = reference.simnet_names({k.removeprefix("after."): v for k, v in d.items() if k.startswith("after.")})
    for name, buffer in net.named_buffers():
        close(name, buffer, after[name])
    close("nobn_y", simnet(path.with_name(path.stem + "_nobn.safetensors"))(d["x"]), d["nobn_y"])


@pytest.mark.parametrize("path", golden.files("simformer", "*simnet_tiny.safetensors"))
def test_a_simnet_with_missing_or_unknown_names_is_refused_by_name(path):
    state = {f"criterion.cro_pixel_sim_net.{name}": tensor for name, tensor in golden.tensors(path)[0].items()}
    whole = state | {"backbone.x": torch.zeros(1), "criterion.ingore_th": torch.tensor([-2.5])}
    assert len(list(reference.load_simnet(whole).parameters())) and reference.load_floor(whole) == -2.5
    with pytest.raises(InputError, match="stray"):
        reference.load_simnet(whole | {"stray": torch.zeros(1)})
    first = "criterion.cro_pixel_sim_net.fc_branch.layers.block0.layer1.weight"
    with pytest.raises(InputError, match=first):
        reference.load_simnet({name: tensor for name, tensor in whole.items() if name != first})
    with pytest.raises(InputError, match="ingore_th"):
        reference.load_floor(state)


@pytest.mark.parametrize("path", golden.files("simformer", "*simnet_default.npz"))
def test_simnet_of_the_released_size_gives_the_authors_values(path):
    d, rng, net = stored(path), np.random.default_rng(102), SimNet()
    assert sum(p.numel() for p in net.parameters()) == 595_202
    state = net.state_dict()
    order = [
        f"blocks.{b}.{m}.{leaf}"
        for b in range(3)
        for m in ("conv1", "conv2", "bn1", "bn2", *(["shortcut"] if b == 0 else []))
        for leaf in (("weight", "bias", "running_mean", "running_var") if m.startswith("bn") else ("weight", "bias"))
    ]
    for name in [*order, "out.weight", "out.bias"]:
        shape = tuple(state[name].shape)
        if name.endswith("running_var"):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 1 and name.endswith("weight"):
            value = rng.uniform(0.6, 1.4, shape)
        elif len(shape) == 1:
            value = rng.normal(0, 0.1, shape)
        else:
            value = rng.normal(0, 1, shape) / np.sqrt(np.prod(shape[1:]))
        state[name] = torch.from_numpy(value.astype(np.float32))
    close("first_weight_head", state[order[0]].flatten()[:8], d["first_weight_head"])
    net.load_state_dict(state)
    close("y_eval", net.eval()(d["x"]), d["y_eval"])
    close("y_train", net.train()(d["x"]), d["y_train"])


@pytest.mark.parametrize("path", golden.files("simformer", "*balance_weights.npz"))
def test_the_balance_gives_the_authors_weights(path):
    d, balance = stored(path), Balance()
    close("neg_pos_weight", torch.stack([balance.update(g[..., 0]) for g in d["gt"]]), d["neg_pos_weight"])


@pytest.mark.parametrize("path", golden.files("simformer", "*_points.npz"))
def test_points_and_pairs_are_the_authors(path):
    d = stored(path)
    points = draw_points(d["region"][:, 0], d["points"].shape[1], d["noise"][:, 0])
    close("points", points, d["points"])
    for name, where in (("sampled", points), ("free", d["free_points"])):
        close(f"{name}_feat", at_points(d["feat_map"], where), d[f"{name}_feat"])
        close(f"{name}_label", at_points(d["label_map"], where, "nearest"), d[f"{name}_label"])
    features = d["sampled_feat"]
    close("pair", joined_pairs(features[:, :4], partners(features)[:, :3]), d["pair"])
    for name in (n for n in d if n.startswith("shuffle")):
        close(name, partners(torch.arange(len(d[name]))), d[name])


def cross_image_cases():
    for parameter in golden.files("simformer", "*crossimg_loss.npz"):
        path = parameter.values[0]
        cases = sorted({n.split("/")[0] for n in golden.npz(path) if "/" in n}) if path else [None]
        for case in cases:
            yield pytest.param(path, case, id=f"{parameter.id}-{case}", marks=parameter.marks)


def cross_image(path, case, **options):
    """Both losses of one case, what they were made of, the module and the inputs."""
    d = stored(path)
    about = golden.json.loads(str(d["meta_json"]))[case]
    chosen = {k.rpartition("__")[2]: v for k, v in about["overrides"].items()}
    pairs = PixelSimilarity(
        d["pixel_features"].shape[1],
        NOVEL,
        width=16,
        points=d[f"{case}/sim_pred"].shape[-1],
        target=TARGETS[chosen.get("DISTILL_TO", "NovelScore")],
        loss=chosen.get("DISTILL_FUNC", "cce"),
        detach=chosen.get("BASE_DETACH") != "False",
        detach_teacher=chosen.get("TEACH_DETACH") != "False",
        **options,
    ).train()
    pairs.simnet.load_state_dict(simnet(path.with_name("a_crossimg_simnet.safetensors")).state_dict())
    inputs = [d[n].clone().requires_grad_() for n in ("pixel_features", "pred_logits", "pred_masks")]
    maps = torch.stack([d["label1"], d.get(f"label2_{case}", d["label2"])])
    padding = torch.stack([d["pad1"], d["pad2"]]).bool()
    first, second = (set(labels) & set(NOVEL) for labels in about["labels"])
    common = [about["chosen_common_base"][0] if about["chosen_common_base"] else None]
    noise = [d[f"noise_{n}"][:, 0] for n in ("pos", "neg", "distill")]
    return *pairs(*inputs, maps, padding, [bool(first & second)], common, noise), pairs, inputs, d


@pytest.mark.parametrize(("path", "case"), cross_image_cases())
def test_the_pixel_similarity_losses_are_the_authors(path, case):
    flags = {"within": True, "on_padding": True, "teacher_trains": True, "count_invalid": True}
    similarity, distilled, extra, pairs, inputs, d = cross_image(path, case, **flags)
    close("loss_cro_sim", similarity, d[f"{case}/loss_cro_sim"], 1e-5)
    close("loss_cro_dit", distilled, d[f"{case}/loss_cro_dit"], 1e-5)
    names = {"sim_pred": "similarity", "pos_points": "inside", "neg_points": "outside", "balance": "balance"}
    names |= {"teacher_sim": "teacher", "student_cos": "student", "distill_points": "distilled"}
    for theirs, ours in names.items():
        if f"{case}/{theirs}" in d:
            close(theirs, extra[ours], d[f"{case}/{theirs}"])
    (1.0 * similarity + 0.5 * distilled).backward()
    for name, x in zip(("pixel_features", "pred_logits", "pred_masks"), inputs):
        close(f"grad_{name}", torch.zeros_like(x) if x.grad is None else x.grad, d[f"{case}/grad_{name}"])
    first = pairs.simnet.blocks[0]
    close("grad_out", pairs.simnet.out.weight.grad, d[f"{case}/grad_simnet_out_weight"])
    close("grad_b0", first.conv1.weight.grad, d[f"{case}/grad_simnet_b0_layer1_weight"])
    close("running_mean", first.bn1.running_mean, d[f"{case}/simnet_running_mean_b0bn1_after"])


@pytest.mark.parametrize(("path", "case"), cross_image_cases())
def test_each_correction_of_the_distillation_gives_the_independent_values(path, case):
    clean = golden.load_json(path.with_name("derived_clean_values.json"))
    wanted = clean["a_crossimg_loss"].get(case, {})
    for kind, on_padding in (("included", True), ("excluded", False)):
        name = f"loss_distill_cross_image_student_pad_{kind}"
        if name in wanted:
            distilled = cross_image(path, case, on_padding=on_padding, teacher_trains=True)[1]
            assert distilled.item() == pytest.approx(wanted[name], abs=1e-5)
    full = clean["crossimg_full_default_eval_teacher"]
    key = case if case in full else case.removesuffix("_cce")
    if key in full:
        assert cross_image(path, case)[1].item() == pytest.approx(full[key], abs=1e-5)


def targets_of(d, images):
    """The stored targets of each image, filled up to the same number."""
    most = max(len(d[f"target{i}_labels"]) for i in range(images))

    def joined(name, fill):
        parts = [d[f"target{i}_{name}"] for i in range(images)]
        return torch.stack(
            [torch.cat([p, torch.full((most - len(p), *p.shape[1:]), fill, dtype=p.dtype)]) for p in parts]
        )

    padding = torch.stack([d[f"target{i}_pad_region"] for i in range(images)]).bool()
    return Targets(joined("labels", -1), joined("has_masks", False), joined("masks", 0).bool(), padding)


def matching_of(d, images, most, query="query", target="target"):
    matched = torch.full((images, most), -1)
    for i in range(images):
        matched[i, d[f"{target}{i}"]] = d[f"{query}{i}"]
    return matched


def only(targets, i):
    return Targets(*(x[i : i + 1] for x in vars(targets).values()))


@pytest.mark.parametrize("path", golden.files("simformer", "*classification_loss.npz"))
def test_the_classification_losses_are_the_authors(path):
    d = stored(path)
    count = len(d["pred_logits"])
    most = max(len(d[f"labels{i}"]) for i in range(count))
    labels = torch.stack(
        [torch.nn.functional.pad(d[f"labels{i}"], (0, most - len(d[f"labels{i}"])), value=-1) for i in range(count)]
    )
    empty = torch.zeros(count, most, 2, 2, dtype=torch.bool)
    targets, matched = Targets(labels, labels >= 0, empty, empty[:, 0]), matching_of(d, count, most)
    x = d["pred_logits"].clone().requires_grad_()
    loss = criterion.classification(x, targets, matched)
    close("matched_ce", loss, d["loss_matched_ce"], 1e-5)
    close("grad", *torch.autograd.grad(loss, x), d["grad_matched_ce"])
    each = criterion.image_level(x, targets)
    close("mil map", each, d["mil_softmax_bce_map"])
    close("mil mean", each.mean(), d["mil_softmax_bce_mean"], 1e-5)
    close("mil grad", *torch.autograd.grad(each.mean(), x), d["grad_mil_softmax_bce"])


@pytest.mark.parametrize("path", golden.files("simformer", "*complementary_loss.npz"))
def test_the_mask_and_complementary_losses_are_the_authors(path):
    d = stored(path)
    count = len(d["pred_masks"])
    targets = targets_of(d, count)
    matched = matching_of(d, count, targets.labels.shape[1])
    photos = {"mixed": 0, "base_only": 1, "novel_only": 2}
    for option in sorted({n.split("/")[0] for n in d if "/" in n}):
        floor = -100.0 if option == "no_ignore_floor" else criterion.FLOOR
        masks = d["pred_masks"].clone().requires_grad_()
        focal, dice = criterion.mask_losses(masks, targets, matched, d["num_masks"])
        close("focal", focal, d[f"{option}/loss_mask_m"], 1e-5)
        close("dice", dice, d[f"{option}/loss_mask_d"], 1e-5)
        close("grad", *torch.autograd.grad(FOCAL * focal + DICE * dice, masks), d[f"{option}/grad_mask_pred_masks"])
        if f"{option}/loss_comp" in d:
            loss = criterion.complementary(masks, targets, matched, floor)
            close("complement", loss, d[f"{option}/loss_comp"], 1e-5)
            close("grad", *torch.autograd.grad(loss, masks), d[f"{option}/grad_comp_pred_masks"])
        for name, i in photos.items():
            part = (masks[i : i + 1], only(targets, i), matched[i : i + 1])
            focal, dice = criterion.mask_losses(*part, 2.0)
            close(name, focal, d[f"{option}/{name}/loss_mask_m"], 1e-5)
            close(name, dice, d[f"{option}/{name}/loss_mask_d"], 1e-5)
            if f"{option}/{name}/loss_comp" in d:
                close(name, criterion.complementary(*part, floor), d[f"{option}/{name}/loss_comp"], 1e-5)


def losses_of(proposals, targets, matched):
    focal, dice = criterion.mask_losses(proposals.masks, targets, matched, criterion.mask_count(targets))
    complement = criterion.complementary(proposals.masks, targets, matched)
    named = criterion.classification(proposals.classes, targets, matched)
    return {"loss_mask_m": focal, "loss_mask_d": dice, "loss_comp": complement, "loss_cls_a": named}


class Body(SimFormer):
    """The criterion alone."""

    def __init__(self, **options):
        torch.nn.Module.__init__(self)
        self.reordered, self.complement, self.floor = True, 0.15, criterion.FLOOR
        self.ignore_padding, self.image_level, self.novel = False, 0.0, NOVEL


@pytest.mark.parametrize("path", golden.files("simformer", "d_criterion*.npz"))
def test_the_criterion_gives_the_authors_costs_matching_losses_and_gradients(path):
    d = stored(path)
    count = len(d["pred_logits"])
    targets = targets_of(d, count)
    last = Proposals(*(d[n].clone().requires_grad_() for n in ("pred_logits", "pred_masks")))
    auxiliary = sorted(n.removesuffix("_pred_logits") for n in d if re.fullmatch(r"aux\d_pred_logits", n))
    layers = [Proposals(d[f"{n}_pred_logits"], d[f"{n}_pred_masks"]) for n in auxiliary] + [last]
    matched = criterion.match(layers, targets, reordered=True)
    for i in range(count):
        close("match", matched[-1, i][d[f"match{i}_target"]], d[f"match{i}_query"])
    compare_costs(last, targets, [d[f"cost{i}"] for i in range(count)])
    small = criterion.small_masks(only(targets, 0), last.masks.shape[-2:]).flatten(2)
    pixels = last.masks[:1].flatten(2)
    close("pairwise_dice", criterion.pairwise_dice(pixels, small)[0], d["pairwise_dice_img0"])
    close("pairwise_focal", criterion.pairwise_focal(pixels, small)[0], d["pairwise_focal_img0"])
    for layer, (proposals, own) in enumerate(zip(layers, matched)):
        suffix = "" if proposals is last else f"_{layer}"
        for name, value in losses_of(proposals, targets, own).items():
            close(name + suffix, value, d[f"loss/{name}{suffix}"], 1e-5)
    total = Body().criterion(layers, targets)
    close("total", sum(total.values()), d["loss_total_weighted"], 1e-5)
    final = sum(Body().criterion([last], targets).values())
    for name, grad in zip(("pred_logits", "pred_masks"), torch.autograd.grad(final, (last.classes, last.masks))):
        close(f"grad_{name}", grad, d[f"grad_{name}"])


def compare_costs(proposals, targets, stored_costs):
    small = criterion.small_masks(targets, proposals.masks.shape[-2:])
    ours = criterion.costs(proposals, targets, small)
    for i, theirs in enumerate(stored_costs):
        columns = (~small[i].flatten(1).any(1)).long().argsort(stable=True)
        close("cost", ours[i][:, columns[columns < theirs.shape[1]]], theirs)


@pytest.mark.parametrize("path", golden.files("simformer", "d_matcher*.npz"))
def test_a_mask_that_vanishes_is_matched_as_released_or_right(path):
    d = stored(path)
    targets, proposals = targets_of(d, 1), Proposals(d["pred_logits"], d["pred_masks"])
    compare_costs(proposals, targets, [d["cost"]])
    right = golden.load_json(path.with_name("derived_clean_values.json"))[path.stem]
    wanted = {
        True: d,
        False: {"match_query": torch.tensor(right["match_query"]), "match_target": right["match_target"]},
    }
    for released, found in wanted.items():
        matched = criterion.match([proposals], targets, reordered=released)[0]
        close("match", matched[0, found["match_target"]], found["match_query"])
        for name, value in losses_of(proposals, targets, matched).items():
            close(name, value, d[f"loss/{name}"] if released else right["losses"][name], 1e-5)


@pytest.mark.parametrize("path", golden.files("simformer", "*semantic_inference.npz"))
def test_inference_gives_the_authors_scores(path):
    d = stored(path)
    padded_size, (height, width), size = (tuple(d[n].tolist()) for n in ("padded_size", "image_size", "output_size"))
    scores = semantic_scores(Proposals(d["pred_logits"][None], d["pred_masks"][None]), padded_size)
    close("semseg_padded", scores[0], d["semseg_padded"])
    each = 1e4 * torch.eye(len(d["pred_masks"]), len(d["pred_masks"]) + 1)  # every proposal a class of its own
    masks = semantic_scores(Proposals(each[None], d["pred_masks"][None]), padded_size)
    close("masks_up", masks[0], d["masks_up"].sigmoid())
    final = transforms.resize_logits(scores[..., :height, :width], size)[0]
    for name in ("semseg_final", "semseg_e2e"):
        close(name, final, d[name])
    assert torch.equal(final.argmax(0), d["pred"])
    close("tta", (d["tta_a"] + d["tta_b_flipped"].flip(-1) + d["tta_c"]) / 3, d["tta_mean"])


@pytest.mark.parametrize("path", golden.files("simformer", "f_pseudo_label*.npz"))
def test_pseudo_labels_are_the_authors(path):
    d = golden.npz(path)
    for truth, predicted, wanted in zip(d["gt"], d["pred"], d["pseudo"]):
        tags = sorted(set(np.unique(truth)) & set(d["novel_ids"].tolist()))
        known = np.where(np.isin(truth, d["base_ids"]), truth, 255)
        assert np.array_equal(pseudo_label(predicted, known, tags), wanted)


@pytest.mark.parametrize("path", golden.files("simformer", "g_evaluation*.npz"))
def test_scores_are_those_of_the_released_evaluator(path):
    d = golden.npz(path)
    wanted = golden.json.loads(str(d["results_json"]))
    conf = confusion(d["pred"], d["gt"], CLASSES)
    assert np.array_equal(conf, d["conf"])
    assert np.array_equal(confusion(d["pred_absent"], d["gt_absent"], CLASSES), d["conf_absent"])
    for kind, matrix in (("plain", "conf"), ("absent", "conf_absent"), ("pseudo_quality", "conf_pseudo")):
        found = released_scores(d[matrix], np.array(BASE), np.array(NOVEL))
        for name, value in wanted[kind].items():
            ours = found[name.replace("IoU-c", "IoU-").replace("ACC-c", "ACC-")]
            theirs = np.nan if value is None else value
            assert ours == pytest.approx(theirs, rel=1e-4, nan_ok=True), f"{kind} {name}"


@pytest.mark.parametrize("path", golden.files("simformer", "h_targets*.npz"))
def test_targets_are_the_authors(path):
    d = stored(path)
    size = d["weak/image"].shape[-1]
    raw = d["image"].permute(2, 0, 1).float() / 255
    image, segm, padding = padded(raw, d["label"].long(), size)
    for stage in ("weak", "retrain"):
        close("image", (image * 255).round(), d[f"{stage}/image"])
        assert torch.equal(segm, d[f"{stage}/segm"])
        assert torch.equal(padding.long(), d[f"{stage}/pad"])
        hidden = torch.isin(segm, torch.tensor(NOVEL)) if stage == "weak" else torch.zeros_like(padding)
        known = segm.masked_fill(hidden, 255)
        tags = torch.unique(segm[hidden]).tolist()
        targets = Targets.of(known[None], [tags], padding[None])
        for name, ours in (("labels", targets.labels), ("has_masks", targets.has_mask), ("masks", targets.masks)):
            assert torch.equal(ours[0].long(), d[f"{stage}/{name}"].long()), name


@pytest.mark.parametrize("path", golden.files("simformer", "h_pair_lists*.json"))
def test_partner_lists_are_the_authors(path):
    stored_lists = golden.load_json(path)
    names = list(stored_lists["images"])
    novel, base = ([frozenset(x[k]) for x in stored_lists["images"].values()] for k in ("novel_dids", "base_dids"))
    sampler = PairSampler(novel, base, reference=True)
    for i, (_, wanted) in enumerate(stored_lists["pairs"].items()):
        found = sampler.lists(i)
        single = {str(c): {names[j] for j in js} for c, js in found.single.items()}
        assert single == {c: set(js) for c, js in wanted["deconf_pair_list"].items()}
        assert {names[j] for j in found.novel} == set(wanted["novel_comm_pair_list"])
        assert {names[j] for j in found.base} == set(wanted["base_comm_pair_list"])


@pytest.mark.parametrize("path", golden.files("simformer", "*hf_keymap.json"))
def test_the_key_map_is_the_stored_one(path):
    wanted = golden.load_json(path)["map"]
    assert {name: reference.transformers_names(name) for name in wanted} == wanted


@pytest.mark.parametrize("path", golden.files("simformer", "*_d2.safetensors"))
def test_a_small_network_gives_the_authors_maps_and_proposals(path):
    state = golden.tensors(path)[0]
    d = stored(path.with_name(path.name.replace("_d2.safetensors", "_io.npz")))
    network = reference.from_state(state, heads=4)
    with torch.no_grad():
        features = network.encoder.extract(d["x"])
        layers = network(None, features)
    for i, feature_map in enumerate(features.maps):
        close(f"res{i + 2}", feature_map, d[f"res{i + 2}"])
    close("pixel_features", layers.pixels, d["pixel_features"])
    for i, proposals in enumerate(layers.proposals):
        prefix = "" if i == len(layers.proposals) - 1 else f"aux{i}_"
        close(f"{prefix}logits", proposals.classes, d[f"{prefix}pred_logits"])
        close(f"{prefix}masks", proposals.masks, d[f"{prefix}pred_masks"])
    with pytest.raises(InputError, match="stray"):
        reference.from_state(state | {"stray": d["x"]}, heads=4)
    again = reference.to_detectron2(reference.to_transformers(state), state)
    assert all(torch.equal(again[name], state[name]) for name in again)
