"""TLG against values of the released code: attention and transport, the whole head, losses, and who gets a gradient."""

import functools
import hashlib
import json
import re

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import golden
from shotseg import encoders
from shotseg.data.samples import Episode, Prediction, Support
from shotseg.models.blocks.prior_guided import resize
from shotseg.models.tlg import TLG, norms, transport
from shotseg.models.tlg.transport import SelfAttention, TransportAttention, sinkhorn
from shotseg.reference import tlg as reference

RECTANGLE = re.compile(r"([qs])m?(\d) \[(\d+):(\d+),(\d+):(\d+)\]")
SALT = 5


def near(name, ours, theirs, scale=1e-5):
    golden.assert_close(name, ours, theirs, atol=scale * max(1.0, float(theirs.abs().max())))


def attentions(known: dict, **options) -> tuple[SelfAttention, TransportAttention]:
    own, cross = SelfAttention(known["x"].shape[-1]), TransportAttention(known["x"].shape[-1], **options)
    for module, prefix in ((own, "w.SelfAttention."), (cross, "w.CrossAttention.")):
        module.load_state_dict({k.removeprefix(prefix): w for k, w in known.items() if k.startswith(prefix)})
        module.eval()
    return own, cross


@pytest.mark.parametrize("path", golden.files("tlg", "d_attention_ot*.safetensors"))
@torch.no_grad()
def test_attention_and_transport_are_the_released_ones(path):
    known, _ = golden.tensors(path)
    own, cross = attentions(known)
    near("self_out", own(known["x"]), known["self_out"])
    near("cross_ot_out", cross(known["self_out"], known["x"]), known["cross_ot_out"])
    golden.assert_close("cross_plan", cross.plan(known["cross_softmax"]), known["cross_plan"], atol=1e-6)
    plain = attentions(known, transport="none")[1]
    near("cross_plain_out", plain(known["self_out"], known["x"]), known["cross_plain_out"])
    golden.assert_close("plan", sinkhorn(known["ot.cost"][None])[0], known["ot.plan"], atol=1e-6)
    softmax = known["ot_underflow.logits"].softmax(-1)
    golden.assert_close("underflow", cross.plan(softmax)[0], known["ot_underflow.plan"], atol=1e-6)


def rectangles(text: str, size: int = 400) -> dict[str, torch.Tensor]:
    """Masks (B, size, size) of query ("q") and support ("s")."""
    found: dict[str, dict[int, torch.Tensor]] = {"q": {}, "s": {}}
    for side, i, top, bottom, left, right in RECTANGLE.findall(text):
        mask = torch.zeros(size, size)
        mask[int(top) : int(bottom), int(left) : int(right)] = 1
        found[side][int(i)] = mask
    return {side: torch.stack([masks[i] for i in sorted(masks)]) for side, masks in found.items()}


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]


class Case:
    """A backbone's inputs, made by the recipe, and our model with the official parameters."""

    def __init__(self, backbone: str, folder):
        self.backbone = backbone
        _, about = golden.tensors(golden.folder("tlg") / f"e_{backbone}_eval.safetensors")
        self.about, self.batch = about, int(about["B"])
        self.taps = {side: self._features(side) for side in "qs"}
        tables = [F.normalize(golden.uniform(f"clip.{name}", (20, 512), SALT), dim=1) for name in
                  ("clip_fg_embed", "clip_refine", "clip_bg_embed")]  # fmt: skip
        rows = reference.rows_of_tables([str(i) for i in range(20)], *tables)
        save_file(rows, folder / "rows.safetensors")
        encoder = encoders.load(self.backbone, weights="random")
        self.model = TLG(encoder, reference=True, text=str(folder / "rows.safetensors"))
        self.state = self._state()
        self.text = self.model.rows([str(i) for i in json.loads(about["class_id"])])
        self.cams = rectangles(about["cams"])

    def _features(self, side: str) -> list[torch.Tensor]:
        made = []
        for i, (channels, size) in enumerate(json.loads(self.about["shapes"])):
            shape = (self.batch, channels, size, size)
            made.append(golden.uniform(f"feat.{self.backbone}.{side}.{i}", shape, SALT) + 0.3)
            assert digest(made[-1]) == json.loads(self.about["feature_sha256_16"])[f"{side}{i:02d}"]
        return made

    def _state(self) -> dict[str, torch.Tensor]:
        keys = golden.load_json(golden.folder("tlg") / "state_dict_keys.json")["models"][self.backbone]
        expected = json.loads(self.about["param_sha256_16"])
        own = {"backbone." + k.removeprefix("net."): t for k, t in self.model.encoder.state_dict().items()}
        state = {}
        for key, shape, _, role in keys:
            state[f"module.{key}"] = (
                own.get(key, torch.empty(0)) if role == "backbone" else golden.weight(key, shape, SALT)
            )
            assert key not in expected or digest(state[f"module.{key}"]) == expected[key], key
        return state

    def reset(self):
        """The model with the official parameters, as they were."""
        reference.load(self.model, self.state)
        return self.model

    def compare(self):
        cams = (self.cams[side][:, None] for side in "qs")
        return self.model.compare(self.taps["q"], self.taps["s"], self.text, *cams)


@pytest.fixture(scope="module")
def case_of(tmp_path_factory):
    """Of a golden file its backbone's case, made once."""
    return functools.cache(lambda path: Case(path.stem.split("_")[1], tmp_path_factory.mktemp("rows")))


@pytest.mark.parametrize("path", golden.files("tlg", "e_*_eval.safetensors"))
def test_the_whole_head_is_the_released_one(path, case_of, monkeypatch):
    known, _ = golden.tensors(path)
    case, seen = case_of(path), {}
    model = case.reset().eval()

    watched = {
        model.pyramid: ("after4d_query", "after4d_support"),
        model.aggregate: ("final_cat_query", "final_cat_support"),
        model.transport: ("prior_support", "prior_query"),
        model.transport.own: ("selfattn_support", "selfattn_query"),
        model.transport.cross: ("crossattn_support", "crossattn_query"),
        model.decoder: ("decoder2_query", "decoder2_support"),
    }
    calls = {module: iter(names) for module, names in watched.items()}

    def keep(module, inputs, output):
        seen[next(calls[module])] = (*inputs, output)

    plans = []

    def keep_plan(cost):
        plans.append(sinkhorn(cost))
        return plans[-1]

    monkeypatch.setattr(transport, "sinkhorn", keep_plan)

    hooks = [module.register_forward_hook(keep) for module in watched]
    with torch.no_grad():
        sides = case.compare()
        query_map, support_map = model.text(case.text)
    for hook in hooks:
        hook.remove()
    golden.assert_close("logit_query", sides.query, known["logit_query"], atol=2e-5)
    golden.assert_close("logit_support", sides.support, known["logit_support"], atol=2e-5)
    large = resize(sides.query, (400, 400))[..., ::16, ::16]
    golden.assert_close("logit_query_400", large, known["logit_query_400.s16"], atol=2e-5)
    near("clip_merge_map", query_map, known["clip_merge_map"])
    near("clip_refine_map", support_map, known["clip_refine_map"])
    near("maxpool_res", seen["prior_support"][1][..., ::5, ::5], known["maxpool_res_support.s5"])
    near("avgpool_res", seen["prior_query"][1][..., ::5, ::5], known["avgpool_res_query.s5"])
    for side, plan in zip(("support", "query"), plans, strict=True):
        golden.assert_close(f"plan_{side}", plan, known[f"plan_{side}"], atol=1e-6)
        near(side, seen[f"after4d_{side}"][-1][..., ::4, ::4], known[f"after4d_{side}.s4"])
        near(side, seen[f"final_cat_{side}"][-1][0][..., ::5, ::5], known[f"final_cat_{side}.s5"])
        tokens, attended = seen[f"selfattn_{side}"]
        near(f"tokens_{side}", tokens, known[f"tokens_{side}"])
        near(f"selfattn_{side}", attended, known[f"selfattn_{side}"])
        near(f"crossattn_{side}", seen[f"crossattn_{side}"][-1], known[f"crossattn_{side}"])
        near(f"dec_in_{side}", seen[f"decoder2_{side}"][0][..., ::4, ::4], known[f"dec_in_{side}.s4"])
        near(f"decoder2_{side}", seen[f"decoder2_{side}"][1][..., ::4, ::4], known[f"decoder2_{side}.s4"])


@pytest.mark.parametrize("path", golden.files("tlg", "e_*_train.safetensors"))
def test_losses_gradients_and_batch_norm_are_the_released_ones(path, case_of):
    known, about = golden.tensors(path)
    case = case_of(path)
    model, names = case.reset().train(), reference.published_names(case.model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
    sides = case.compare()
    masks = {side: mask.long() for side, mask in rectangles(about["masks"]).items()}
    episode = Episode(masks["q"], masks["s"], torch.zeros(2), masks["q"], masks["s"][:, None])
    shown = {side: resize(getattr(sides, side), (400, 400)) for side in ("query", "support")}
    prediction = Prediction(shown["query"], {"support_logits": shown["support"][:, None]})
    losses = model.losses_of_both(prediction, Support({}), episode)
    for side, weight in zip(("query", "support"), json.loads(about["weights"])):
        golden.assert_close(f"ce_{side}", losses[side] / weight, float(about[f"ce_{side}"]), atol=1e-5)
        expected = known[f"logit_{side}_400.s16"]
        golden.assert_close(f"logit_{side}", shown[side][..., ::16, ::16], expected, atol=2e-5)
    total = sum(losses.values())
    golden.assert_close("loss", total, float(about["loss_total_without_l2"]), atol=1e-5)
    total.backward()
    gradients = {names[k]: p.grad for k, p in model.named_parameters() if k in names and p.grad is not None}
    expected = json.loads(about["grad_norms"])
    assert gradients.keys() == expected.keys()
    for name, norm in expected.items():
        golden.assert_close(name, gradients[name].norm(), norm, atol=1e-6, rtol=2e-4)
    for name, tensor in known.items():
        if name.startswith("grad."):
            golden.assert_close(name, gradients[name.removeprefix("grad.")], tensor, atol=1e-6, rtol=2e-4)
    near("running_mean", model.transport.norm.running_mean, known["bn.running_mean"])
    near("running_var", model.transport.norm.running_var, known["bn.running_var"])


@pytest.mark.parametrize("path", golden.files("tlg", "e_*_train.safetensors"))
def test_the_norm_penalty_of_a_single_gpu_is_the_released_sum(path, case_of):
    _, about = golden.tensors(path)
    case = case_of(path)
    keys = golden.load_json(golden.folder("tlg") / "state_dict_keys.json")["models"][case.backbone]
    dead = [golden.weight(key, shape, SALT).norm() for key, shape, _, role in keys if role == "never_used"]
    head = torch.nn.ModuleList(m for name, m in case.reset().named_children() if name not in ("encoder", "guide"))
    expected = float(about["sum_of_l2_norms_head_params"])
    golden.assert_close("sum of norms", norms(head) + sum(dead), expected, atol=1e-2)


@pytest.mark.parametrize("path", golden.files("tlg", "state_dict_keys*.json"))
def test_every_published_key_is_ours_or_dead(path):
    for backbone, keys in golden.load_json(path)["models"].items():
        model = TLG(encoders.load(backbone, weights="random"), reference=True)
        names, own = reference.published_names(model), model.state_dict()
        ours = {theirs: tuple(own[mine].shape) for mine, theirs in names.items()}
        theirs = {key: tuple(shape) for key, shape, _, role in keys if role != "never_used"}
        theirs = {key: shape for key, shape in theirs.items() if not key.startswith("backbone.classifier.")}
        text = {"linear_512_625.weight"}
        assert ours.keys() == theirs.keys()
        assert all(ours[key] == theirs[key] for key in ours.keys() - text)
