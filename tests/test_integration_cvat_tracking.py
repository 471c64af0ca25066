"""The tracking function of CVAT and the parameters of both functions, with cvat-cli's own loader, agents and types; no server."""

import argparse
import pickle
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from shotseg.cli.demo import demo_items

masks = pytest.importorskip("cvat_sdk.masks", reason="cvat-sdk is not installed")
pytest.importorskip("cvat_cli", reason="cvat-cli is not installed")
from cvat_cli._internal import agent, agent_driver, agent_driver_tracking, common, parsers  # noqa: E402

from shotseg.errors import InputError  # noqa: E402
from shotseg.integrations import cvat, cvat_tracker  # noqa: E402


def loaded(module, *parameters):
    """The function as cvat-cli makes it of ``-p`` parameters."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-p", type=parsers.parse_function_parameter, action=parsers.BuildDictAction, dest="p")
    given = parser.parse_args([part for parameter in parameters for part in ("-p", parameter)]).p
    return common.FunctionLoader(f"shotseg.integrations.{module}", None, given).load()


@pytest.fixture(scope="module")
def tracker():
    return loaded(
        "cvat_tracker", "device=str:cpu", "encoder=str:efficientnet-lite0", "size=int:256", "present=float:0.4"
    )


@pytest.fixture(scope="module")
def frames():
    """A dress that moves to the left, then is gone: windows of a photo beside a picture of leaves."""
    item = next(item for item in demo_items()[0] if item.class_name == "dress")
    photo = Image.open(item.image_path).convert("RGB")
    width, height = photo.size
    known = np.asarray(Image.open(item.mask_path).convert("L").resize(photo.size)) > 127
    noise = np.random.default_rng(0).integers(0, 90, (height, width, 3)).astype(np.uint8)
    wide, drawn = np.concatenate([np.asarray(photo), noise], 1), np.pad(known, ((0, 0), (0, width)))
    steps = (0, width // 12, width // 8, width)
    return [(Image.fromarray(wide[:, x : x + width]), drawn[:, x : x + width]) for x in steps]


class Here:
    """The agents' executor, in this process."""

    def submit(self, function, *args):
        return function(*args)

    def result(self, value):
        return value


@pytest.fixture
def ask(tracker, frames, monkeypatch):
    """What an agent answers to a request of the server."""
    samples = [
        SimpleNamespace(frame_index=i, media=SimpleNamespace(load_image=lambda image=image: image))
        for i, (image, _) in enumerate(frames)
    ]
    monkeypatch.setattr(agent_driver.cvatds, "TaskDataset", lambda *a, **k: SimpleNamespace(labels=[], samples=samples))
    kind = agent.get_function_driver_class(tracker.spec)
    assert kind is agent_driver_tracking.AgentTrackingFunctionDriver
    agent_driver.set_worker_current_function(tracker)
    numbers = count()
    kind.init_worker(lambda: f"state {next(numbers)}")
    driver = kind(None, Here(), pickle.loads(pickle.dumps(tracker.spec)))
    driver.validate_function_compatibility({"supported_shape_types": ["mask", "polygon"]})
    return lambda **request: driver.calculate_result_for_ar({"task": 1, **request}, lambda **progress: None)


def test_an_agent_of_cvat_follows_a_mask_and_a_polygon_and_says_when_the_object_is_gone(ask, frames):
    image, known = frames[0]
    polygon = cvat_tracker.outlined(known)
    shapes = [{"type": "mask", "points": masks.encode_mask(known)}, {"type": "polygon", "points": polygon}]
    states = ask(type="init_tracking", frame=0, shapes=shapes)["states"]
    for frame in (1, 2):
        found = ask(type="track", frame=frame, states=states)["shapes"]
        assert [shape["type"] for shape in found] == ["mask", "polygon"]
        truth = frames[frame][1]
        as_mask = masks.decode_mask(found[0]["points"], image_width=image.width, image_height=image.height)
        as_polygon = cvat_tracker.drawn.polygon(found[1]["points"], image.height, image.width)
        for mask in (as_mask, as_polygon):
            assert (mask & truth).sum() / (mask | truth).sum() > 0.7
    assert ask(type="track", frame=3, states=states)["shapes"] == [None, None]


def test_shapes_do_not_teach_each_other_nor_the_function(ask, frames, tracker):
    left = np.zeros_like(frames[0][1])
    left[:40, :40] = True
    shapes = [{"type": "mask", "points": masks.encode_mask(mask)} for mask in (frames[0][1], left)]
    alone = ask(type="init_tracking", frame=0, shapes=shapes[:1])["states"]
    both = ask(type="init_tracking", frame=0, shapes=shapes)["states"]
    assert ask(type="track", frame=1, states=alone)["shapes"][0] == ask(type="track", frame=1, states=both)["shapes"][0]
    assert tracker.segmenter.classes == ()


def test_a_shape_that_covers_nothing_or_is_none_is_refused_in_one_line(tracker, frames):
    encoded = tracker.preprocess_image(None, frames[0][0])
    shapes = [
        ("mask", [4, 0, 0, 1, 1], "no pixel"),
        ("mask", [9, 0, 0, 1, 1], "cannot be drawn"),
        ("polygon", [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], "no pixel"),
        ("polygon", [1.0, 1.0], "cannot be drawn"),
    ]
    for kind, points, reason in shapes:
        shape = cvat.auto_annotation.TrackableShape(type=kind, points=points)
        with pytest.raises(InputError, match=reason) as error:
            tracker.init_tracking_state(None, encoded, shape)
        assert "\n" not in str(error.value)


def test_cvat_s_own_parameters_reach_the_detector(tmp_path):
    import shotseg

    segmenter = shotseg.Segmenter(encoder="efficientnet-lite0", size=160, device="cpu")
    item = demo_items()[0][0]
    segmenter.add(item.class_name, [item.image_path], [item.mask_path])
    segmenter.save(tmp_path / "one.safetensors")
    parameters = (
        f"supports=str:{tmp_path / 'one.safetensors'}",
        "device=str:cpu",
        "present=float:0.3",
        "one_a_class=bool:true",
    )
    detector = loaded("cvat", *parameters)
    assert detector.one_a_class is True and detector.segmenter.present == 0.3
    kind = agent.get_function_driver_class(detector.spec)
    fields = kind.get_remote_function_fields(pickle.loads(pickle.dumps(detector.spec)))
    assert [label["name"] for label in fields["labels_v2"]] == [item.class_name]
