"""Official archives to a checked manifest: found or downloaded, unpacked, converted once, counted, hashed.

Everything is written whole or not at all, and in one fixed order, so that a run that was killed goes on where it
stopped and ends in the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import shotseg
from shotseg.data.images import write_bytes, write_png
from shotseg.data.manifest import VERSION, Manifest, Photo, pairs, pairs_hash, read_photos
from shotseg.data.samples import IGNORE
from shotseg.data.sets import PLANS, Plan, Source, planner, spec
from shotseg.errors import InputError, UsageError

BATCH = 64  # photos converted between two looks at the disk


def prepare(
    name: str,
    root: str | Path,
    out: str | Path | None = None,
    download: bool = False,
    workers: int = 2,
    quiet: bool = False,
) -> Manifest:
    """Check and convert a data set; return what was written to ``out`` (default ``root/shotseg/<name>``).

    root:     where the official archives lie, packed or unpacked.
    download: fetch missing archives from hosts that allow it.      workers: threads that convert masks.
    Raises UsageError for a missing archive (which, from where, to where), InputError for a broken one.
    """
    root = Path(root)
    if name not in PLANS:
        raise UsageError(f"no data set {name!r}; choose one of {', '.join(PLANS)}")
    if not root.is_dir():
        if not download:
            raise UsageError(f"{root}: no such folder; make it and put the archives of {name} there, or add --download")
        root.mkdir(parents=True)
    folder = Path(out) if out else root / "shotseg" / name
    facts = spec(name)
    with _progress(quiet) as progress:
        found, archives = gather(facts, root, download, progress)
        plan = planner(name)(found, facts)
        if not plan.sources:
            raise InputError(f"{root}: the files of {name} hold no annotated photo; unpack the official archives again")
        items = _convert(plan, root, folder, workers, progress)
    return _finish(name, facts, plan, root, folder, items, archives)


# --- archives ---------------------------------------------------------------------------------------------------------


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
        raise UsageError(f"{facts['title']}: missing in {root}: {wanted}; download by hand and put it there{by_us}")
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
    half.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(half)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(half, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(f"{archive}: cannot be unpacked ({error}); download {part['url']} again") from error
    for source in sorted(path for path in half.rglob("*") if path.is_file()):
        target = root / source.relative_to(half)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    shutil.rmtree(half)
    progress.remove_task(task)


# --- masks ------------------------------------------------------------------------------------------------------------


def _convert(plan: Plan, root: Path, folder: Path, workers: int, progress: Progress) -> Path:
    """Write the masks and one line a photo to ``items.jsonl``, going on after the lines that an earlier run left."""
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / "items.jsonl", folder / "items.jsonl.part"
    if final.is_file() and not partial.is_file():
        shutil.copyfile(final, partial)
    kept, size = _kept(plan, root, folder, partial)
    task = progress.add_task("converting masks", total=len(plan.sources), completed=kept)
    with partial.open("ab") as lines, ThreadPoolExecutor(max(1, workers)) as pool:
        lines.truncate(size)
        rest = iter(islice(plan.sources, kept, None))
        while batch := list(islice(rest, BATCH)):
            for photo in pool.map(lambda source: _photo(source, root, folder, plan), batch):
                lines.write(f"{photo.line()}\n".encode())
                progress.advance(task)
            lines.flush()
    partial.replace(final)
    return final


def _kept(plan: Plan, root: Path, folder: Path, partial: Path) -> tuple[int, int]:
    """How many photos an earlier run finished, in order, and the bytes that their lines take."""
    kept = size = 0
    if not partial.is_file():
        return 0, 0
    with partial.open("rb") as lines:
        for source, line in zip(plan.sources, lines):
            try:
                photo = Photo.parse(line.decode())
            except (ValueError, KeyError, TypeError):
                break
            same = (photo.id, photo.image, photo.mask, photo.lists) == (
                source.id, _relative(source.image, root), _mask_name(source), source.lists
            )  # fmt: skip
            if not same or not line.endswith(b"\n") or not (folder / photo.mask).is_file():
                break
            kept, size = kept + 1, size + len(line)
    return kept, size


def _photo(source: Source, root: Path, folder: Path, plan: Plan) -> Photo:
    mask = source.mask()
    height, width = mask.shape
    if (width, height) != (shown := _upright_size(source.image)):
        raise InputError(
            f"{source.image}: {shown[0]} x {shown[1]} pixels but its annotation has {width} x {height}; unpack it again"
        )
    values, counts = np.unique(mask, return_counts=True)
    if source.class_id is not None:
        pixels = {source.class_id: int(counts[values == 1].sum())}
    else:
        pixels = {int(v): int(n) for v, n in zip(values, counts) if v in plan.classes}
        unknown = [int(v) for v in values if v not in plan.classes and v not in (0, IGNORE)]
        if unknown:
            raise InputError(f"{source.image}: its annotation has class {unknown[0]}, which the data set does not have")
    name = _mask_name(source)
    write_png(folder / name, mask)
    return Photo(source.id, _relative(source.image, root), name, height, width, pixels, source.lists)


def _mask_name(source: Source) -> str:
    shared = source.class_id is not None and "/" not in source.id  # one photo may have a mask a class
    return f"masks/{source.class_id}/{source.id}.png" if shared else f"masks/{source.id}.png"


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _upright_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5
            return (image.size[1], image.size[0]) if turned else image.size
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; unpack the official archive again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read as an image; unpack the official archive again") from error


# --- manifest ---------------------------------------------------------------------------------------------------------


def _finish(
    name: str, facts: dict[str, Any], plan: Plan, root: Path, folder: Path, items: Path, archives: list[dict[str, Any]]
) -> Manifest:
    photos = list(read_photos(items))
    lists = {
        each: sum(each in photo.lists for photo in photos) for each in sorted({x for p in photos for x in p.lists})
    }
    views = dict(_views(facts, plan, photos))
    checks = list(_checks(facts, plan, lists, views))
    repacked = [
        f"{a['file']}: its md5 {a['md5']} is not {a['official_md5']}; unless you packed it yourself, download it again"
        for a in archives
        if a["md5"] not in (None, a["official_md5"])
    ]
    different = [f"{c['what']}: {c['found']} instead of {c['expected']}" for c in checks if not c["ok"]]
    with items.open("rb") as file:
        items_hash = hashlib.file_digest(file, "sha256").hexdigest()
    written = {
        "title": facts["title"],
        "home": facts["home"],
        "shotseg": shotseg.__version__,
        "archives": archives,
        "choices": plan.notes,
        "photos_by_list": lists,
        "pairs": views,
        "checks": checks,
        "warnings": [*repacked, *plan.warnings, *different],
        "items_sha256": items_hash,
    }
    head = {
        "version": VERSION,
        "name": name,
        "root": _way(folder.resolve(), root.resolve()),
        "photos": len(photos),
        "binary": plan.binary,
        "classes": plan.classes,
        "folds": plan.folds,
        "families": facts["families"],
        "facts": written,
    }
    write_bytes(folder / "manifest.json", json.dumps(head, ensure_ascii=False, indent=1).encode())
    return Manifest.read(folder)


def _views(facts: dict[str, Any], plan: Plan, photos: list[Photo]) -> Iterator[tuple[str, dict[str, Any]]]:
    """``family/list/definition/fold`` -> number and hash of the pairs of the fold's own classes in that list."""
    everything = {"all": {"all": list(plan.classes)}}
    for family, rule in facts["families"].items():
        for name in sorted({rule["train"], rule["test"]}):
            listed = [photo for photo in photos if name in photo.lists]
            for definition, folds in (plan.folds or everything).items():
                for fold, class_ids in folds.items():
                    found = list(pairs(listed, set(class_ids), rule["min_pixels"]))
                    yield f"{family}/{name}/{definition}/{fold}", {"pairs": len(found), "sha256": pairs_hash(found)}


def _checks(
    facts: dict[str, Any], plan: Plan, lists: dict[str, int], views: dict[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """What the papers count, beside what was found."""
    expected = facts.get("expected", {})

    def check(what: str, found: int, wanted: int) -> dict[str, Any]:
        return {"what": what, "found": found, "expected": wanted, "ok": found == wanted}

    for name, wanted in expected.get("photos", {}).items():
        yield check(f"photos in list {name}", lists.get(name, 0), wanted)
    for key, by_fold in expected.get("pairs", {}).items():
        for fold, wanted in enumerate(by_fold):
            view = f"{key}/{next(iter(plan.folds))}/{fold}"
            yield check(f"pairs of {view}", views[view]["pairs"], wanted)
    if "classes" in expected:
        yield check("classes", len(plan.classes), expected["classes"])


def _way(folder: Path, root: Path) -> str:
    """The root as seen from the manifest: relative where one lies in the other, so that both can be moved together."""
    inside = folder.is_relative_to(root)
    return Path(os.path.relpath(root, folder)).as_posix() if inside else root.as_posix()


def _progress(quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, disable=quiet, console=Console(stderr=True))
