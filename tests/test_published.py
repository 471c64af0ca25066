"""Published numbers stand beside a result only with their source and only for what was measured alike."""

from dataclasses import asdict

import numpy as np
import pytest

from shotseg.data.sets import spec
from shotseg.encoders import list_encoders
from shotseg.evaluation.protocols import PRESETS, preset
from shotseg.evaluation.results import all_published, lines, published, published_beside


def test_published_means_are_the_means_of_their_folds_and_every_row_names_its_source():
    for row in all_published():
        assert row["source"] and row["dataset"] and 0 < row["miou"] < 100
        if row["folds"]:
            assert abs(np.mean(row["folds"]) - row["miou"]) < 0.13, row
    assert {r["backbone"] for r in published("tlg", "pascal5i", 1)} == {"resnet50", "vgg16"}
    assert published("matching", "pascal5i", 1) == []


def test_published_rows_name_protocols_encoders_and_folds_that_exist():
    for row in all_published():
        if row["protocol"]:
            assert row["protocol"] in PRESETS and row["encoder"] in list_encoders()
            assert row["fold_definition"] in spec(row["dataset"])["folds"]


def measured(**changes):
    """What a result of HDMNet on fold 1 of COCO-20i says of itself."""
    about = {"method": "hdmnet", "dataset": "coco20i", "shot": 1, "encoder": "resnet50-v2", "fold": 1}
    data = {"folds": changes.pop("folds", "interleaved"), "year": changes.pop("year", "2014")}
    protocol = preset(changes.pop("protocol", "hdmnet"), "coco20i").override(**changes.pop("override", {}))
    return {**about, "data": data, "protocol": asdict(protocol), **changes}


def test_a_published_number_stands_beside_the_same_fold_encoder_and_protocol_with_its_source():
    content = measured(miou=1.0, fb_iou=1.0, ci95=None, controls={})
    content["published"] = published_beside(content, all_classes=True)
    first, second = lines(content)[1:]
    assert first == ("published: resnet50, fold 1; HDMNet, Peng et al., CVPR 2023; not checked", "55.3", "", "")
    assert second[0].startswith("published: resnet50, fold 1; without the base learner; ") and second[1] == "53.1"
    assert not second[0].endswith("not checked")


@pytest.mark.parametrize(
    "changes",
    [
        {"folds": "contiguous"},
        {"year": "2017"},
        {"fold": None},
        {"fold": "s1"},
        {"encoder": "resnet50"},
        {"encoder": "efficientnet-lite0"},
        {"protocol": "shotseg"},
        {"protocol": "hsnet"},
        {"override": {"episodes": 10}},
        {"override": {"size": 473}},
        {"method": "matching"},
        {"shot": 2},
    ],
)
def test_no_published_number_stands_beside_another_measurement(changes):
    assert published_beside(measured(), all_classes=True)
    assert published_beside(measured(**changes), all_classes=True) == []
    assert published_beside(measured(), all_classes=False) == []


def test_pi_clip_is_compared_in_its_own_host_and_pfenet_at_its_own_size():
    def of(method, **same):
        return [(r["backbone"], r["miou"]) for r in published(method, "coco20i", 1, **same)]

    assert of("pi-clip", encoder="resnet50-v2", host="pfenet") == [("resnet50, in pfenet", 38.4)]
    assert of("pfenet", encoder="resnet101-v2", size=641) == [("resnet101", 38.5)]


def test_every_row_that_was_not_checked_says_so_in_the_table():
    for row in all_published():
        if row["folds"] and row["protocol"]:
            content = {**measured(miou=1.0, fb_iou=1.0, ci95=None, controls={}), "fold": 0, "published": [row]}
            label = lines(content)[1][0]
            assert row["source"] in label
            sure = row["checked"] and "folds" not in row.get("unchecked", ())
            assert label.endswith("not checked") != sure
