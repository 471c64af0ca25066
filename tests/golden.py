"""Where the golden values and the real photos lie, and how they are read and compared.

``SHOTSEG_GOLDEN`` and ``SHOTSEG_DATA`` name the folders (default ``../shared/golden`` and ``../shared/data`` beside the
checkout); tests that need one are skipped, with the reason, where it is absent.
"""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

_BESIDE = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = Path(os.environ.get("SHOTSEG_GOLDEN", _BESIDE / "golden"))
DATA = Path(os.environ.get("SHOTSEG_DATA", _BESIDE / "data"))


def folder(system: str) -> Path:
    """The golden folder of one system, or skip."""
    if not (GOLDEN / system).is_dir():
        pytest.skip(f"no golden values at {GOLDEN / system} (set SHOTSEG_GOLDEN)")
    return GOLDEN / system


def files(system: str, pattern: str) -> list:
    """Every golden file that matches, as test parameters; one skipped parameter where there is none."""
    found = sorted((GOLDEN / system).glob(pattern)) if (GOLDEN / system).is_dir() else []
    absent = pytest.param(
        None, marks=pytest.mark.skip(reason=f"no {pattern} in {GOLDEN / system} (set SHOTSEG_GOLDEN)")
    )
    return [pytest.param(path, id=path.stem) for path in found] or [absent]


def data(name: str) -> Path:
    """A folder of real photos, or skip."""
    if not (DATA / name).is_dir():
        pytest.skip(f"no photos at {DATA / name} (set SHOTSEG_DATA)")
    return DATA / name


def npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata."""
    with safe_open(path, "pt") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}, stored.metadata() or {}  # noqa: SIM118


def load_json(path: Path):
    return json.loads(path.read_text())


def assert_close(name: str, ours, theirs, atol: float = 1e-5, rtol: float = 0.0) -> None:
    """Fail with the tensor's name, the place and the size of its largest difference."""
    ours, theirs = (
        torch.as_tensor(np.asarray(x) if not torch.is_tensor(x) else x).detach().double() for x in (ours, theirs)
    )
    assert ours.shape == theirs.shape, f"{name}: shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}"
    over = (ours - theirs).abs() - atol - rtol * theirs.abs()
    if over.numel() and not bool((over <= 0).all()):
        at = np.unravel_index(int(torch.nan_to_num(over, nan=torch.inf).argmax()), ours.shape)
        worst = f"{ours[at].item():.8g} instead of {theirs[at].item():.8g}"
        raise AssertionError(
            f"{name}: {worst} at {tuple(map(int, at))}; largest difference {(ours - theirs).abs().max():.3g}"
        )


def uniform(name: str, shape: tuple[int, ...], salt: int) -> torch.Tensor:
    """float32 in [-1, 1): the recipe "sm64" of the README of ``golden/tlg``."""
    seed = zlib.crc32(f"{salt}:{name}".encode())
    with np.errstate(over="ignore"):
        z = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = z + np.uint64(seed * 0xD1342543DE82EF95 % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    value = np.float32(2) * (z >> np.uint64(40)).astype(np.float32) * np.float32(2**-24) - np.float32(1)
    return torch.from_numpy(value.reshape(shape))


_GAINS = {"linear_512_625.weight": 8, "CrossAttention.q_fc.weight": 8, "CrossAttention.k_fc.weight": 8}
_GAINS |= {"CrossAttention.v_fc.weight": 4} | {f"SelfAttention.{part}.weight": 4 for part in ("q", "kv", "proj")}


def weight(name: str, shape: tuple[int, ...], salt: int) -> torch.Tensor:
    """The parameter or buffer of an official key by the same README."""
    u, leaf = uniform(name, tuple(shape), salt), name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return torch.zeros((), dtype=torch.long)
    if leaf == "running_mean":
        return 0.1 * u
    if leaf == "running_var":
        return (1e-3 if name == "bn.running_var" else 1.0) * (1 + 0.5 * u)
    if len(shape) == 1:
        return 1 + 0.2 * u if leaf == "weight" else 0.1 * u
    return u * np.float32(_GAINS.get(name, 1) * np.sqrt(3 / np.prod(shape[1:])))
