"""Official archives to a checked manifest: found or downloaded, unpacked, converted once, counted, hashed.

A photo or mask that cannot be used is left out and named in the manifest, up to the share ``MOST_LEFT_OUT``.
Everything is written whole or not at all, and in one fixed order, so that a run that was killed goes on where it
stopped and ends in the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from operator import length_hint
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import shotseg
from shotseg.data.archives import gather
from shotseg.data.images import read_image, write_bytes, write_png
from shotseg.data.manifest import VERSION, Manifest, PreparedPhoto, pairs, pairs_hash, read_photos
from shotseg.data.samples import IGNORE
from shotseg.data.sets import PLANS, LeftOut, Plan, Source, planner, spec
from shotseg.device import working
from shotseg.errors import InputError, UsageError, one_of

BATCH = 64  # photos converted between two looks at the disk
MOST_LEFT_OUT = 1 / 3  # share of pairs that may be unusable; beyond it the archives themselves must be wrong


def prepare(
    name: str,
    root: str | Path,
    out: str | Path | None = None,
    download: bool = False,
    workers: int = 2,
    quiet: bool = False,
    format: str = "auto",
) -> Manifest:
    """Check and convert a data set; return what was written to ``out`` (default ``root/shotseg/<name>``).

    root:     where the official archives lie, packed or unpacked; of "folder", your own, or one annotation file.
    download: fetch missing archives from hosts that allow it.      workers: threads that convert masks.
    format:   of "folder", how its masks are stored, as for :func:`shotseg.data.annotations.opened.open_folder`.
    Raises UsageError for a missing archive (which, from where, to where), InputError for a broken one or one of which
    more than ``MOST_LEFT_OUT`` cannot be used.
    """
    root = Path(root)
    if name not in PLANS:
        raise UsageError(f"no data set {name!r}{one_of(name, PLANS)}")
    if root.is_file() and name != "folder":
        raise UsageError(f"{root}: a file; give the folder that holds the archives of {name}")
    if not root.exists():
        if not download:
            raise UsageError(f"{root}: no such folder; make it and put the archives of {name} there, or add --download")
        root.mkdir(parents=True)
    folder = Path(out) if out else place_of(root) / "shotseg" / name
    facts = spec(name)
    with _progress(quiet) as progress:
        found, archives = gather(facts, root, download, progress)
        plan = planner(name)({**found, "format": format}, facts)
        _check_share(plan.left_out, plan.records or len(plan.sources) + len(plan.left_out), root)
        if not plan.sources:
            mend = "add a mask for each photo" if name == "folder" else "unpack the official archives again"
            raise InputError(f"{root}: the files of {name} hold no annotated photo; {mend}")
        root = _above(place_of(root), plan.sources) if name == "folder" else root
        photos, left_out = _convert(plan, root, folder, workers, progress)
    return _finish(name, facts, plan, root, folder, photos, left_out, archives)


def place_of(root: Path) -> Path:
    """The folder that a data set lies in: of an annotation file, the file's."""
    return root.parent if root.is_file() else root


def _above(root: Path, sources: Sequence[Source]) -> Path:
    """The folder that all photos lie below: the root itself, or one above where annotations name photos elsewhere."""
    if all(source.image.is_relative_to(root) for source in sources):
        return root
    return Path(os.path.commonpath([root.absolute(), *(source.image.parent.absolute() for source in sources)]))


# --- masks ------------------------------------------------------------------------------------------------------------


def _convert(
    plan: Plan, root: Path, folder: Path, workers: int, progress: Progress
) -> tuple[list[PreparedPhoto], list[LeftOut]]:
    """Write the masks and ``items.jsonl``, a line a photo in the order of the plan; give its photos and what is left out.

    What an earlier run finished is kept, what it left out is tried again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / "items.jsonl", folder / "items.jsonl.part"
    done = _kept(folder, final) | _kept(folder, partial)
    wanted, left_out = _once(plan.sources)
    waiting = iter([source for source in wanted if _key(source, root) not in done])
    task = progress.add_task("converting masks", total=len(wanted), completed=len(wanted) - length_hint(waiting))
    size_of = lru_cache(256)(lambda path: read_image(path).shape[:2])
    with partial.open("ab") as lines, ThreadPoolExecutor(working(workers)) as pool:
        lines.truncate(_whole_lines(partial))
        while batch := list(islice(waiting, BATCH)):
            _check_share(left_out, len(plan.sources), root)
            made = pool.map(lambda source: _photo(source, root, folder, plan, size_of), batch)
            for source, photo in zip(batch, made):
                if isinstance(photo, LeftOut):
                    left_out.append(photo)
                else:
                    done[_key(source, root)] = photo
                    lines.write(f"{photo.line()}\n".encode())
                progress.advance(task)
            lines.flush()
    _check_share(left_out, len(plan.sources), root)
    photos = [done[key] for source in wanted if (key := _key(source, root)) in done]
    write_bytes(final, "".join(f"{photo.line()}\n" for photo in photos).encode())
    partial.unlink()
    return photos, [*plan.left_out, *left_out]


def _check_share(left_out: Sequence[LeftOut], total: int, root: Path) -> None:
    if len(left_out) > MOST_LEFT_OUT * total:
        raise InputError(
            f"{root}: {len(left_out)} of {total} photos, masks or annotations cannot be used, more than "
            f"{MOST_LEFT_OUT:.0%}; the first: {left_out[0].reason}"
        )


def _once(sources: Sequence[Source]) -> tuple[list[Source], list[LeftOut]]:
    """The sources, and apart from them those whose mask would overwrite that of an earlier one."""
    first: dict[str, Source] = {}
    for source in sources:
        first.setdefault(_mask_name(source), source)
    twice = [source for source in sources if first[_mask_name(source)] is not source]
    return list(first.values()), [LeftOut(s.id, f"{s.image}: a second photo named {s.id}; rename one") for s in twice]


Key = tuple[str, str, str, tuple[str, ...]]


def _key(source: Source, root: Path) -> Key:
    return source.id, _relative(source.image, root), _mask_name(source), source.lists


def _kept(folder: Path, path: Path) -> dict[Key, PreparedPhoto]:
    """The photos in a file of an earlier run, up to a torn line, whose masks are still there and not empty."""
    found = {}
    try:
        for photo in read_photos(path):
            if all(photo.pixels.values()) and (folder / photo.mask).is_file():
                found[photo.id, photo.image, photo.mask, photo.lists] = photo
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent, or torn by a kill
    return found


def _whole_lines(path: Path) -> int:
    """How many bytes of a file are whole lines."""
    return path.read_bytes().rfind(b"\n") + 1


def _photo(source: Source, root: Path, folder: Path, plan: Plan, size_of: Callable) -> PreparedPhoto | LeftOut:
    """The photo with its mask written, or why it cannot be used."""
    try:
        mask, change = _fitted(source.mask(), size_of(source.image), source)
        pixels = _pixels(mask, source, plan)
    except InputError as error:
        return LeftOut(source.id, str(error))
    name = _mask_name(source)
    write_png(folder / name, mask)
    height, width = mask.shape
    return PreparedPhoto(source.id, _relative(source.image, root), name, height, width, pixels, source.lists, change)


def _fitted(mask: np.ndarray, size: tuple[int, int], source: Source) -> tuple[np.ndarray, str]:
    """A mask of the photo's shape at the photo's (H, W) size, and what was changed; InputError for one of another shape."""
    (height, width), (rows, columns) = size, mask.shape
    if (height, width) == (rows, columns):
        return mask, ""
    if abs(rows * width - columns * height) > max(height + width, rows + columns):  # more than rounding
        sizes = f"{width} x {height} pixels but its annotation has {columns} x {rows}"
        raise InputError(f"{source.image}: {sizes}; unpack it again")
    small = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(small), f"mask of {columns} x {rows} resized to the photo's {width} x {height}"


def _pixels(mask: np.ndarray, source: Source, plan: Plan) -> dict[int, int]:
    """Class id -> pixels of a mask. InputError for an id that the data set does not have, or a class without a pixel."""
    values, counts = np.unique(mask, return_counts=True)
    found = {int(value): int(count) for value, count in zip(values, counts)}
    if source.class_id is not None:
        if not found.get(1):
            raise InputError(
                f"{source.image}: no pixel of {plan.classes[source.class_id]!r} in its mask; draw it again"
            )
        return {source.class_id: found[1]}
    unknown = [value for value in found if value not in plan.classes and value not in (0, IGNORE)]
    if unknown:
        raise InputError(f"{source.image}: its annotation has class {unknown[0]}, which the data set does not have")
    return {value: count for value, count in found.items() if value in plan.classes}


def _mask_name(source: Source) -> str:
    shared = source.class_id is not None and "/" not in source.id  # one photo may have a mask a class
    return f"masks/{source.class_id}/{source.id}.png" if shared else f"masks/{source.id}.png"


def _relative(path: Path, root: Path) -> str:
    return path.absolute().relative_to(root.absolute()).as_posix()


# --- manifest ---------------------------------------------------------------------------------------------------------


def _finish(
    name: str,
    facts: dict[str, Any],
    plan: Plan,
    root: Path,
    folder: Path,
    photos: list[PreparedPhoto],
    left_out: list[LeftOut],
    archives: list[dict[str, Any]],
) -> Manifest:
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
    changed = [{"id": photo.id, "change": photo.change} for photo in photos if photo.change]
    odd = [
        f"{len(names)} {what}, named under {key!r} in manifest.json"
        for key, what, names in (
            ("left_out", "that cannot be used are left out", left_out),
            ("changed", "masks were made to fit their photos", changed),
        )
        if names
    ]
    with (folder / "items.jsonl").open("rb") as file:
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
        "left_out": [{"id": each.id, "reason": each.reason.replace(f"{root}{os.sep}", "")} for each in left_out],
        "changed": changed,
        "warnings": [*odd, *repacked, *plan.warnings, *different],
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


def _views(facts: dict[str, Any], plan: Plan, photos: list[PreparedPhoto]) -> Iterator[tuple[str, dict[str, Any]]]:
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
