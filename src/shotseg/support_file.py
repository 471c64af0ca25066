"""Support files: the encoded classes of a Segmenter as safetensors, with a JSON header that says what encoded them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save as serialise

from shotseg.data import images as files
from shotseg.data.samples import Support
from shotseg.errors import InputError, first_line
from shotseg.photo import check_classes

FORMAT = "shotseg-support-2"
NETWORK = "network/"  # how a tensor of the network begins; others begin with the number of their class
NEEDED = {"method", "encoder", "options", "classes"}  # of the header


def write(
    path: str | Path, about: Mapping[str, Any], supports: Mapping[str, Support], network: Mapping[str, Any]
) -> None:
    """Write classes and what encoded them.

    about: method, encoder, options and more, as JSON has it.     supports: class name -> its support.
    network: tensors by name, of a network that no other file holds.
    """
    tensors = {NETWORK + key: _array(tensor) for key, tensor in network.items()}
    tensors |= {
        f"{i}/{key}": _array(tensor)
        for i, support in enumerate(supports.values())
        for key, tensor in support.tensors.items()
    }
    header = {"format": FORMAT, **about, "classes": list(supports)}
    files.write_bytes(path, serialise(tensors, {"shotseg": json.dumps(header)}))


def read(path: str | Path, kind: Literal["pt", "np"] = "pt") -> tuple[dict[str, Any], dict[str, Support]]:
    """What :func:`write` wrote of the classes, as tensors on the CPU or as arrays.

    Raises InputError for a file that is missing, damaged or of another kind.
    """
    if Path(path).is_dir():
        raise InputError(f"{path}: a folder; give the file that Segmenter.save wrote")
    try:
        with safe_open(str(path), kind) as stored:
            about = json.loads((stored.metadata() or {}).get("shotseg", "{}"))
            held = [key for key in stored.keys() if not key.startswith(NETWORK)]  # noqa: SIM118
            tensors = {key: stored.get_tensor(key) for key in held}
    except Exception as error:
        raise InputError(
            f"{path}: not a readable support file ({first_line(error)}); make one with Segmenter.save"
        ) from None
    if "recipe" in about:
        raise InputError(f"{path}: a trained model, no encoded classes; give it as --checkpoint, beside --support")
    if about.get("format") != FORMAT:
        raise InputError(f"{path}: not a support file of this version; make one with Segmenter.save")
    if missing := sorted(NEEDED - about.keys()):
        raise InputError(f"{path}: its header says no {missing[0]}; make it again with Segmenter.save")
    check_classes(about["classes"], path, InputError)
    supports = {}
    for i, name in enumerate(about["classes"]):
        own = {key.split("/", 1)[1]: tensor for key, tensor in tensors.items() if key.startswith(f"{i}/")}
        if not own:
            raise InputError(f"{path}: holds nothing of class {name!r}; make it again with Segmenter.save")
        supports[name] = Support(own)
    return about, supports


def network(path: str | Path) -> dict[str, Any]:
    """The tensors of the network that a file of :func:`write` holds, by name; nothing of one that holds classes alone."""
    with safe_open(str(path), "pt") as stored:
        held = [key for key in stored.keys() if key.startswith(NETWORK)]  # noqa: SIM118
        return {key.removeprefix(NETWORK): stored.get_tensor(key) for key in held}


def _array(tensor: Any) -> np.ndarray:
    return np.ascontiguousarray(tensor.cpu() if hasattr(tensor, "cpu") else tensor)
