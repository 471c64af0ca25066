"""Which methods `shotseg export` takes: tries each, compares its masks with torch's, and prints the table of docs/onnx.md.

Weights are random where the package has none, so that nothing is downloaded: the operators are the same.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

import shotseg
from shotseg.errors import ShotsegError
from shotseg.exporting import export
from shotseg.models import SEMANTIC

DEMO = Path(shotseg.__file__).parent / "demo_data"
PHOTOS = [DEMO / "images" / "hair" / "0202.jpg", DEMO / "images" / "dress" / "0052.jpg"]
SIZES = (224, 256)


def main() -> None:
    warnings.simplefilter("ignore")
    print("| method | encoder | exports | masks like torch's |\n|---|---|---|---|")
    for method in sys.argv[1:] or shotseg.list_models():
        print(f"| {' | '.join(tried(method))} |", flush=True)


def tried(name: str) -> tuple[str, str, str, str]:
    """Method, encoder, whether it exports and how alike its masks are; a name may say an encoder, as matching:resnet50."""
    method, _, encoder = name.partition("=")
    if method in SEMANTIC:
        return method, "-", "no: it knows the classes of its training, so no class is an input", "-"
    torch.manual_seed(0)
    try:
        segmenter = loaded(method, encoder or "auto")
    except Exception as error:
        return method, encoder, f"could not be built here: {str(error).splitlines()[0][:120]}", "-"
    with tempfile.TemporaryDirectory() as folder:
        try:
            export(segmenter, folder)
        except ShotsegError as error:
            return method, segmenter.encoder, f"no: {str(error).partition(': ')[2]}", "-"
        try:
            return method, segmenter.encoder, "yes", compared(segmenter, Path(folder))
        except Exception as error:
            return method, segmenter.encoder, "yes", f"no: {str(error).splitlines()[0][:160]}"


def loaded(method: str, encoder: str) -> shotseg.Segmenter:
    try:
        return shotseg.Segmenter(method, encoder, "cpu", present=None, runtime="torch", size=SIZES[0])
    except ShotsegError:  # weights that would be downloaded
        return shotseg.Segmenter(method, encoder, "cpu", present=None, runtime="torch", size=SIZES[0], weights="random")


def compared(segmenter: shotseg.Segmenter, folder: Path) -> str:
    """The worst difference of log odds on two photos of other sizes than the traced ones."""
    names = ("hair", "dress")
    for name in names:
        example = DEMO / "images" / name / "example.jpg"
        segmenter.add(name, example, None if segmenter.needs == "photos" else DEMO / "masks" / name / "example.png")
    segmenter.save(folder / "classes.safetensors")
    light = shotseg.OnnxSegmenter(folder, folder / "classes.safetensors", present=None)
    worst = 0.0
    for photo in PHOTOS:
        ours, theirs = light.predict(photo)._scores, segmenter.predict(photo)._scores
        if ours.shape != theirs.shape:
            return f"no: scores {ours.shape}, not {theirs.shape}"
        worst = max(worst, float(np.abs(ours - theirs).max()))
    return f"log odds within {worst:.0e}"


if __name__ == "__main__":
    main()
