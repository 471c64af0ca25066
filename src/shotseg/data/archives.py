"""The official archives of a data set: found, downloaded where the host allows it, unpacked, hashed."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from rich.progress import Progress

from shotseg.errors import InputError, UsageError


def gather(
    facts: dict[str, Any], root: Path, download: bool, progress: Progress
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Where each part of a data set lies, unpacking and downloading as needed, and what was found, for the manifest.

    The parts come with ``root`` and ``variant`` (such as COCO's year: the first that is complete).
    """
    variants = facts["archives"]
    complete = (v for v, parts in variants.items() if not _missing(root, parts))
    variant = next(complete, next(iter(variants)))
    parts = variants[variant]
    if download:
        for part in _missing(root, parts):
            if part.get("direct"):
                _download(root, part)
    if missing := _missing(root, parts):
        wanted = "; ".join(f"{part['file']} from {part['url']}" for part in missing)
        by_us = " or add --download" if all(part.get("direct") for part in missing) and not download else ""
        instead = f"; {facts['instead']}" if "instead" in facts else ""
        said = f"missing in {root}: {wanted}; download by hand and put it there{by_us}{instead}"
        raise UsageError(f"{facts['title']}: {said}")
    found: dict[str, Any] = {"root": root, "variant": variant}
    archives = []
    for key, part in parts.items():
        if not _place(root, part):
            _unpack(root, part, progress)
        place = _place(root, part)
        if place is None:
            inside = f"{part['folders'][0]} with {', '.join(part['needs']) or 'photos'}"
            raise InputError(f"{root / part['file']}: has no folder {inside}; download it again from {part['url']}")
        found[key] = place
        hashed = _hash_file(root, part)
        md5 = hashed.read_text(encoding="ascii") if hashed.is_file() else None
        archives.append({"file": part["file"], "url": part["url"], "md5": md5, "official_md5": part.get("md5")})
    return found, archives


def _place(root: Path, part: dict[str, Any]) -> Path | None:
    """The unpacked folder of an archive; None while it is absent or was unpacked only in part."""
    if _half(root, part).exists():
        return None
    places = [root / folder for folder in part["folders"]]
    return next((p for p in places if p.is_dir() and all(any(p.glob(need)) for need in part["needs"])), None)


def _missing(root: Path, parts: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for part in parts.values() if not _place(root, part) and not (root / part["file"]).is_file()]


def _half(root: Path, part: dict[str, Any]) -> Path:
    return root / f".{part['file']}.part"


def _hash_file(root: Path, part: dict[str, Any]) -> Path:
    return root / f".{part['file']}.md5"  # what was unpacked stays known when the archive itself is deleted


def _download(root: Path, part: dict[str, Any]) -> None:
    from torchvision.datasets.utils import download_url

    try:
        download_url(part["url"], root, f"{part['file']}.download", part.get("md5"))
        (root / f"{part['file']}.download").replace(root / part["file"])
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{part['url']}: cannot be downloaded ({reason}); fetch it by hand into {root}") from error


def _unpack(root: Path, part: dict[str, Any], progress: Progress) -> None:
    """Unpack beside the final place, then move: a folder that is there is whole."""
    archive, half = root / part["file"], _half(root, part)
    task = progress.add_task(f"checking {archive.name}", total=None)
    if part.get("md5"):
        with archive.open("rb") as file:
            _hash_file(root, part).write_text(hashlib.file_digest(file, "md5").hexdigest(), encoding="ascii")
    progress.update(task, description=f"unpacking {archive.name}")
    shutil.rmtree(half, ignore_errors=True)
    try:
        half.mkdir()
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(half)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(half, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, RuntimeError) as error:
        full = isinstance(error, OSError) and error.strerror  # the disk's fault, not the archive's
        mend = "make room, or a folder that can be written" if full else f"download {part['url']} again"
        raise InputError(f"{archive}: cannot be unpacked ({full or error}); {mend}") from error
    for source in sorted(path for path in half.rglob("*") if path.is_file()):
        target = root / source.relative_to(half)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    shutil.rmtree(half)
    progress.remove_task(task)
