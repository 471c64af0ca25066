"""A folder of bright squares, and recipes small enough to train on it in a second."""

from pathlib import Path
from typing import Any

import numpy as np

from shotseg.data.images import write_png
from shotseg.training import recipe as recipes

SIDE = 64
TINY = "timm:test_efficientnet"  # an encoder of a sixth of the time, for tests of what does not depend on it
FORMER = {"width": 32, "mask_width": 32, "queries": 4, "layers": 1, "ffn": 32}
OPTIONS: dict[str, dict[str, Any]] = {"maskformer": FORMER, "simformer": FORMER | {"simnet_width": 8}}
OPTIONS |= {name: {"width": 8} for name in ("guided", "pfenet", "bam", "qgnet")} | {"hsnet": {"widths": [8, 8, 16]}}
OPTIONS |= {"hdmnet": {"width": 16, "tokens": 16}, "cst": {"width": 64}, "corenet": {"width": 64}}
OPTIONS["tlg"] = {"grid": 8, "widths": [8, 8, 16]}


def squares(root: Path, each: int = 8) -> Path:
    """Three classes of bright squares on noise, ``cross`` to be held back."""
    stream = np.random.default_rng(0)
    for name in ("disc", "stripe", "cross"):
        for i in range(each):
            image, drawn = stream.integers(0, 99, (SIDE, SIDE, 3)).astype(np.uint8), np.zeros((SIDE, SIDE), np.uint8)
            top, left = stream.integers(0, 32, 2)
            drawn[top : top + 24, left : left + 24] = 255
            image[drawn > 0] += 128
            write_png(root / "images" / name / f"{i}.png", image)
            write_png(root / "masks" / name / f"{i}.png", drawn)
    return root


def settings(name: str, **changes: Any) -> recipes.Recipe:
    usual = recipes.load(name).model.encoder
    encoder = TINY if usual == "efficientnet-lite0" and name != "contrastive/tiny" else usual
    own = {"encoder": encoder, "size": SIDE, "weights": "random", "options": OPTIONS.get(name.partition("/")[0], {})}
    small = {
        "model": own,
        "data": {"fold": "", "test_classes": ["cross"], "held_out": 0.4, "supervision": "mask"},
        "validation": {"every": 0, "episodes": 2},
        "batch": 2,
        "steps": 2,
        "workers": 0,
        "base": "",
        "cache_features": False,
    }
    return recipes.load(name, **recipes._merged(small, changes))
