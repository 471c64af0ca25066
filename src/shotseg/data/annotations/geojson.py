"""GeoJSON: outlines on a map, or in pixels as QuPath writes and reads them.

A file named as a photo is of that photo alone. Any other is drawn on every photo with a place on earth that lies where its
outlines do. On such photos coordinates are longitude and latitude (RFC 7946), or of the file's ``crs``; on others, and in files
written here, they are pixels. A pixel is an object's where its middle lies inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shotseg.data import geo
from shotseg.data.annotations import outlines
from shotseg.data.annotations.drawn import BROKEN, CLASS_KEYS, Annotated, Annotations, Photos, Shape, numbered, size
from shotseg.data.annotations.labelled import Labelled, Part, inside, malformed, note, read_json, some, usable
from shotseg.data.annotations.sniff import json_kind
from shotseg.data.annotations.streams import dumped
from shotseg.data.images import write_bytes
from shotseg.data.listing import images_below
from shotseg.errors import InputError

NO_CLASS = "object"  # where a photo's own file names none
FOLDERS = (".", "annotations", "labels", "geojson")  # where .json may be GeoJSON
Polygon = list[np.ndarray]  # its outline and its holes, (N, 2) each
MENDS = {"no area": "draw polygons", "no class": "give them one"}


def write(out: Path, results: Iterable[Labelled], classes: Sequence[str]) -> None:
    for result in results:
        height, width = result.labels.shape
        content = {
            "type": "FeatureCollection",
            "features": [_feature(part, classes[part.label - 1]) for part in result.objects],
            "photo": {"file": result.file, "height": height, "width": width},
            "classes": list(classes),
        }
        write_bytes(out / f"{result.stem}.geojson", dumped(content))


class Outline(NamedTuple):
    """One object: the name of its class, its polygons, and the box around them: left, top, right, bottom."""

    name: str
    polygons: list[Polygon]
    box: np.ndarray


@dataclass(frozen=True, eq=False)
class Outlines:
    """The objects of a file.

    crs:   of their coordinates, None where it names none.      lost: how many cannot be used.
    frame: the photo and its (height, width), in whose pixels they are, where the file says so.
    known: the classes in their order, where the file says them.
    """

    file: Path
    crs: str | None
    objects: list[Outline]
    lost: int
    frame: tuple[str, tuple[int, int] | None] | None = None
    known: tuple[str, ...] = ()

    @lru_cache(maxsize=4)  # noqa: B019 (the photos of one map ask for the same)
    def on(self, crs: Any) -> tuple[list[Outline], np.ndarray]:
        """The objects in the coordinates of a map, and the boxes (N, 4) around them. Raises InputError for an unknown CRS."""
        rings = [ring for each in self.objects for polygon in each.polygons for ring in polygon]
        moved = iter(geo.moved(rings, self.crs, crs, self.file))
        again = [(each.name, [[next(moved) for _ in polygon] for polygon in each.polygons]) for each in self.objects]
        objects = [_outline(*each) for each in again]
        return objects, np.array([each.box for each in objects]).reshape(-1, 4)

    def named(self, name: str) -> Outlines:
        """Those without a class get this one."""
        return replace(self, objects=[each._replace(name=each.name or name) for each in self.objects])


def files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if json_kind(path) == "geojson" else []
    # masks/ of a run holds some beside its masks, which are exact.
    found = [file for file in sorted(path.rglob("*.geojson")) if "masks" not in file.relative_to(path).parts[:-1]]
    others = [file for name in FOLDERS for file in sorted((path / name).glob("*.json"))]
    return found or (others if any(json_kind(file) == "geojson" for file in others[:5]) else [])


def read(path: Path, images: Path | None = None) -> Annotations:
    """``path``: a file, or a folder of them. A file that is broken is named. Classes: in the order that files say, then sorted.

    Raises InputError where there is none, where no photo fits, and for a photo of a map where rasterio is not installed.
    """
    found, broken = usable(files(path), _content)
    if not found:
        raise InputError(f"{path}: no GeoJSON in it; give the folder of its files")
    root = path if path.is_dir() else path.parent
    base = images or root
    finder = Photos(base, base / "images")
    own, shared = list[tuple[Path | None, Outlines]](), list[Outlines]()
    for each in found:
        photo = finder.find(each.frame[0] if each.frame else each.file.relative_to(root).with_suffix("").as_posix())
        if photo is None and each.frame is None:
            shared.append(each.named(each.file.stem))
        else:
            own.append((photo, each.named(NO_CLASS)))
    used = {one.name for each in (*(mine for _, mine in own), *shared) for one in each.objects}
    classes = numbered([*(name for each in found for name in each.known), *sorted(used)])
    photos = [_photo(base, photo, _place(photo, each), [each], classes) for photo, each in own]
    far = []
    taken = {photo for photo, _ in own}
    for photo in images_below(base) if shared else ():
        place = None if photo in taken else geo.place_of(photo)
        if place is not None and _meet(place, shared):
            photos.append(_photo(base, photo, place, shared, classes))
        elif place is not None:
            far.append(photo.name)
    if not photos:
        raise InputError(
            f"{shared[0].file}: no photo of that name, and none with a place on earth where its outlines lie; "
            f"name it as its photo, or put the photos beside it"
        )
    if far:
        note(f"{base}: {len(far)} photos lie where no outline does, left out ({some(far)})")
    return Annotations(classes, photos, broken + len(far))


def _content(file: Path) -> Outlines:
    content = read_json(file)
    try:
        crs = content.get("crs") if isinstance(content, dict) else None
        features = content["features"] if isinstance(content, dict) and "features" in content else content
        features = [dict(each) for each in (features if isinstance(features, list) else [features])]
        known = {key for each in features for key in _properties(each)}
        key = next((key for key in CLASS_KEYS if key in known), "")
        objects, lost = [], Counter[str]()
        for each in features:
            title = _text(_properties(each).get(key))
            polygons = list(_polygons(each.get("geometry", each)))
            if not polygons or (key and not title):
                lost["no class" if polygons else "no area"] += 1
            else:
                objects.append(_outline(title, polygons))
        name = None if crs is None else str(crs["properties"]["name"])
        found = Outlines(file, name, objects, lost.total(), *_said(content))
    except BROKEN as error:
        raise malformed(file, error, "GeoJSON") from error
    for why, count in lost.items():
        note(f"{file}: {count} features left out, they have {why}; {MENDS[why]}")
    return found


def _said(content: Any) -> tuple[tuple[str, tuple[int, int] | None] | None, tuple[str, ...]]:
    """What files written here say of the photo and the classes."""
    photo = content.get("photo") if isinstance(content, dict) else None
    if not isinstance(photo, dict):
        return None, ()
    known = tuple(str(name) for name in content.get("classes", ()))
    return (str(photo["file"]), size(photo.get("height"), photo.get("width"))), known


def _properties(feature: dict) -> dict[str, Any]:
    return {str(key).lower(): value for key, value in (feature.get("properties") or {}).items()}


def _text(value: Any) -> str:
    """The name of a class; QuPath has it one deeper."""
    named = value.get("name") if isinstance(value, dict) else value
    return "" if named is None or not str(named).strip() else str(named)


def _polygons(geometry: dict | None) -> Iterator[Polygon]:
    kind = geometry["type"] if geometry else None
    if geometry is None or kind not in ("Polygon", "MultiPolygon", "GeometryCollection"):
        return
    if kind == "GeometryCollection":
        for each in geometry["geometries"]:
            yield from _polygons(each)
        return
    for polygon in geometry["coordinates"] if kind == "MultiPolygon" else [geometry["coordinates"]]:
        if polygon:
            yield [np.array([point[:2] for point in ring], np.float64).reshape(-1, 2) for ring in polygon]


def _outline(name: str, polygons: list[Polygon]) -> Outline:
    points = np.concatenate([ring for polygon in polygons for ring in polygon])
    return Outline(name, polygons, np.concatenate([points.min(0), points.max(0)]))


def _place(photo: Path | None, found: Outlines) -> geo.Place | None:
    return None if photo is None or found.frame else geo.place_of(photo)


def _photo(
    base: Path, photo: Path | None, place: geo.Place | None, found: Sequence[Outlines], classes: list[str]
) -> Annotated:
    shapes = []
    for each in found:
        objects, boxes = each.on(None if place is None else place.crs)
        near = [True] * len(objects) if place is None else place.meets(boxes)
        shapes += [
            Shape(classes.index(o.name) + 1, partial(_drawn, o.polygons, place)) for o in compress(objects, near)
        ]
    name, frame = found[0].frame or (photo.relative_to(base).as_posix() if photo else "", None)
    lost = found[0].lost if len(found) == 1 else 0
    return Annotated(inside(name, found[0].file), found[0].file, place.size if place else frame, shapes, photo, lost)


def _meet(place: geo.Place, found: Sequence[Outlines]) -> bool:
    """Whether a photo lies in the box around all outlines: there it shows what it has of them, else nothing is known of it."""
    boxes = np.concatenate([each.on(place.crs)[1] for each in found])
    return bool(len(boxes)) and bool(place.meets(np.r_[boxes[:, :2].min(0), boxes[:, 2:].max(0)][None])[0])


def _drawn(polygons: list[Polygon], place: geo.Place | None, height: int, width: int) -> np.ndarray:
    """(h, w) bool. Raises ValueError for coordinates that are no numbers."""
    mask = np.zeros((height, width), bool)
    for polygon in polygons:
        mask |= outlines.filled([ring if place is None else place.pixels(ring) for ring in polygon], height, width)
    return mask


def _feature(part: Part, name: str) -> dict[str, Any]:
    pieces = [
        outlines.rings(mask, part.top + top, part.left + left, outlines.EXACT)
        for mask, top, left in outlines.parts(part.mask)
    ]
    polygons = [[[*ring.tolist(), ring[0].tolist()] for ring in rings] for rings in pieces]
    shape = (
        {"type": "Polygon", "coordinates": polygons[0]}
        if len(polygons) == 1
        else {"type": "MultiPolygon", "coordinates": polygons}
    )
    return {
        "type": "Feature",
        "geometry": shape,
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }
