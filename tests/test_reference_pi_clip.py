"""The authors' checkpoints of PFENet, BAM, HDMNet, PI-CLIP and their base learners: every key arrives where it belongs."""

import functools

import pytest
import torch

import golden
from shotseg import encoders
from shotseg.errors import InputError, UsageError
from shotseg.models.bam import BAM
from shotseg.models.base_learner import BaseLearner
from shotseg.models.hdmnet import HDMNet
from shotseg.models.pfenet import PFENet
from shotseg.reference import pi_clip as reference

HOSTS = {"pfenet": PFENet, "bam": BAM, "hdmnet": HDMNet, "piclip": HDMNet}


def published(name: str) -> dict[str, tuple]:
    """Keys and shapes of one network of the golden folder."""
    root = golden.folder("pi_clip")
    if (root / name).is_file():
        listed = golden.load_json(root / name)["manifest"]
    else:
        listed = golden.load_json(root / "reference_state_dict_shapes.json")[name]
    return {key: tuple(shape) for key, shape in listed}


def every_network() -> list[str]:
    if not (golden.GOLDEN / "pi_clip").is_dir():
        return [pytest.param("", marks=pytest.mark.skip(reason="no golden values (set SHOTSEG_GOLDEN)"))]
    manifests = (golden.GOLDEN / "pi_clip").glob("*shot_manifest.json")
    names = [path.name for path in manifests if "transformer" not in path.name]
    return sorted(names) + sorted(golden.load_json(golden.GOLDEN / "pi_clip" / "reference_state_dict_shapes.json"))


@functools.cache
def backbone(name: str) -> encoders.Encoder:
    return encoders.load(name, weights="random")


def network(name: str, shapes: dict[str, tuple]):
    """Our network of the kind that has these keys and shapes, without memory for its weights."""
    encoder = backbone("resnet50-v2" if "layer1.0.conv1.weight" in shapes else "vgg16-bn")
    family = name.split("_")[0]
    with torch.device("meta"):
        if family == "pspnet":
            return BaseLearner(encoder, shapes["cls.4.weight"][0] - 1)
        options = {"scales": (8, 4, 2, 1)} if family == "pfenet" else {}
        if family != "pfenet":
            classes = shapes.get("base_learnear.2.weight") or shapes["learner_base.1.4.weight"]
            options["base_classes"] = range(classes[0] - 1)
            options["shots"] = shapes.get("kshot_rw.0.weight", (2, 1))[1]
        if "query_merge.0.weight" in shapes:
            options["prior_maps"] = shapes["query_merge.0.weight"][1] - 512
        return HOSTS[family](encoder, **options)


@pytest.mark.parametrize("name", every_network())
def test_our_names_and_shapes_are_the_authors(name):
    shapes = published(name)
    model = network(name, shapes)
    own, names = model.state_dict(), reference.published_names(model)
    ours = {theirs: tuple(own[mine].shape) for mine, theirs in names.items()}
    assert len(ours) == len(names), "two of our names map to one of theirs"
    assert ours == {key: shape for key, shape in shapes.items() if not key.startswith("encoder.")}


@pytest.fixture(scope="module")
def small():
    """A BAM on a small encoder, and its own state under the authors' names."""
    model = BAM(backbone("efficientnet-lite0"), base_classes=(3, 7), shots=5, width=8)
    own, names = model.state_dict(), reference.published_names(model)
    state = {theirs: torch.randn(own[mine].shape).to(own[mine].dtype) for mine, theirs in names.items()}
    return model, state


def test_a_state_dict_makes_the_round_trip_with_prefix_and_extras(small):
    model, state = small
    extras = {"module.encoder.0.weight": torch.zeros(1), "module.clip_model.visual.proj": torch.zeros(1)}
    reference.load(model, {f"module.{name}": tensor for name, tensor in state.items()} | extras)
    own = model.state_dict()
    for mine, theirs in reference.published_names(model).items():
        golden.assert_close(theirs, own[mine], state[theirs], atol=0)


def test_a_training_checkpoint_is_read_from_its_file(small, tmp_path):
    model, state = small
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "optimizer": {}}
    torch.save(wrapped, tmp_path / "train_epoch_3.pth")
    with torch.no_grad():
        model.ensemble.gram_merge.weight.zero_()
    reference.load(model, tmp_path / "train_epoch_3.pth")
    golden.assert_close("gram_merge", model.ensemble.gram_merge.weight, state["gram_merge.weight"], atol=0)


@pytest.mark.parametrize("wrong", ["missing", "unexpected", "of another shape"])
def test_a_wrong_key_is_named(small, wrong):
    model, state = small
    state = dict(state)
    if wrong == "missing":
        name = "init_merge.0.weight"
        del state[name]
    elif wrong == "unexpected":
        name = "init_merge.9.weight"
        state[name] = torch.zeros(1)
    else:
        name = "cls_merge.weight"
        state[name] = torch.zeros(3)
    with pytest.raises(InputError) as error:
        reference.load(model, state)
    assert wrong in str(error.value) and name in str(error.value) and "\n" not in str(error.value)


def test_another_model_is_refused():
    with pytest.raises(UsageError, match="Linear"):
        reference.load(torch.nn.Linear(1, 1), {})
