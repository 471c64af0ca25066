"""Which mask is whose, told by the names of the files; a mask that belongs to no photo is named.

Names are compared without letter case, without the words that mark a mask ("a_mask", "mask_a") or a photo ("a_sat", "img_a"),
and without the ending of the photo ("a.jpg.png"). A photo may have a mask for each object: "a_mask_1", "a_2_mask". Other ends
that masks share are of :mod:`shotseg.data.suffixes`.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from shotseg.data.images import IMAGE_TYPES, MASK_TYPES
from shotseg.data.listing import NAMED, by_name, files_in, normal, only_images, some, subfolders
from shotseg.data.suffixes import Ends, by_end, look_as_masks
from shotseg.errors import UsageError, note

CAMERA = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".heic", ".heif", ".avif", ".webp"}
)  # endings of photos, not of masks
USUAL = tuple(end for kind in ("jpg", "jpeg", "png", "tif", "tiff", "bmp") for end in (f".{kind}", f".{kind.upper()}"))
MARKED = (
    r"(cp[_-])?masks?|labels?|lab|segs?|segmentations?|segmask|gt|ground[_-]?truth|annotations?|anno|label_ground-truth"
    r"|manual\d?|gtfine_labelids|instance_color_rgb"
)
MASK_WORD = re.compile(rf"^(masks?|labels?|seg|gt)([ ._-]+(?=.)|(?=\d))|(?<=.)[ ._-]+({MARKED})$", re.IGNORECASE)
TAKEN = r"images?|img|photo|sat|rgb|colou?r|volume|input|original|training|leftimg8bit|0000"
PHOTO_WORD = re.compile(rf"^(images?|img|im|photo)([ ._-]+(?=.)|(?=\d))|(?<=.)[ ._-]+({TAKEN})$", re.IGNORECASE)
NUMBER = re.compile(rf"(?<=.)[ ._-]+(({MARKED}|obj(ect)?|inst(ance)?)[ ._-]*)?\d+$", re.IGNORECASE)  # of an object
ALIKE = {"img.png", "label.png", "label_viz.png"}  # in the folder of a photo, as LabelMe writes it
Pair = tuple[str, Path, tuple[Path, ...]]  # name, photo, its masks


def photos_and_masks(photos: Path, masks: Path | None, several: bool = False) -> list[Pair]:
    """(name, photo, its masks) of a folder, by name; masks lie in a folder of their own, or (None) beside the photos.

    A mask is named as its photo, with or without a word as in "a_mask.png", or has the photo's whole name before its own
    ending. Beside a photo it needs the word, or an ending that no camera writes. A mask of no photo is named in one line.
    several: a photo may have one for each object, numbered, which is said in one line; beside a mask of the photo's own name
    they are left out, beside "a_mask.png" they are more of the same.
    Raises UsageError where two photos have one name, or there are masks and none of them is a photo's.
    """
    listed = only_images(photos, files_in(photos), IMAGE_TYPES if masks else MASK_TYPES)
    beside = [] if masks else _masks_among(listed)
    ends = {} if masks else _ends_among([file for file in listed if file not in beside])
    others = {*beside, *(mask for group in ends.values() for mask in group)}
    named = sorted(by_name(file for file in listed if file not in others).items())
    drawn = only_images(masks, files_in(masks), MASK_TYPES) if masks else beside
    by_name(drawn)
    whose = _Drawn(drawn, [photo for _, photo in named])
    pairs: list[Pair] = [(name, photo, whose.of(photo)) for name, photo in named]
    used = {mask for _, _, found in pairs for mask in found}
    if several:
        pairs = [(name, photo, whose.with_objects(photo, found, used)) for name, photo, found in pairs]
        used = {mask for _, _, found in pairs for mask in found}
        _say_several(pairs, masks or photos)
    if masks:
        bare = [photo for _, photo, found in pairs if not found]
        ends = by_end(whose.names(bare), [(_plain(file.stem), file) for file in drawn if file not in used])
        ends = ends if ends and 2 * len(next(iter(ends.values()))) >= len(bare) else {}
    pairs = _with_ends(pairs, ends, masks or photos)
    used.update(mask for group in ends.values() for mask in group)
    unused = sorted(file.name for file in drawn if file not in used)
    if unused and not used:
        raise UsageError(f"{masks}: no mask is named as a photo of {photos}; give both the same name")
    if unused:
        note(f"{masks or photos}: left out, a mask of no photo: {some(unused, NAMED)}")
    return pairs


def _ends_among(files: list[Path]) -> Ends:
    """Of one folder the files that are masks of others by their end and their pictures."""
    drawn = [(_plain(file.stem), file) for file in files if file.suffix.lower() not in CAMERA]
    found = by_end(_Drawn((), files).names(files), drawn)
    return {end: group for end, group in found.items() if look_as_masks(group)}


def _with_ends(pairs: list[Pair], ends: Ends, where: Path) -> list[Pair]:
    """The same, photos without a mask with that of the first end; which it is, and what else there is, is said."""
    if not ends:
        return pairs
    first, group = next(iter(ends.items()))
    own = {photo: mask for mask, photo in group.items()}
    found = [(name, photo, drawn or ((own[photo],) if photo in own else ())) for name, photo, drawn in pairs]
    used = {mask for _, _, drawn in found for mask in drawn}
    if found != pairs:
        note(f"{where}: masks are named as their photos with {next(iter(group)).stem[-len(first) :]} behind")
    if more := sorted(mask.name for pairs in ends.values() for mask in pairs if mask not in used):
        note(f"{where}: left out, further masks of the photos: {some(more, NAMED)}")
    return found


def objects_by_photo(photos: Path, folders: dict[str, Path]) -> list[Pair]:
    """(name, photo, all masks in the folder of that name) of a folder of photos; folders of no photo are named."""
    named = sorted(by_name(only_images(photos, files_in(photos))).items())
    pairs = [(name, photo, _all_in(folders[name]) if name in folders else ()) for name, photo in named]
    where = next(iter(folders.values())).parent
    if strays := sorted(set(folders) - {name for name, _ in named}):
        note(f"{where}: left out, masks of no photo in the folders {some(strays)}")
    _say_several(pairs, where)
    return pairs


def one_photo_each(places: Iterable[tuple[Path, Path | None]], root: Path) -> list[Pair]:
    """The same of folders of one photo each, with a folder of its masks in any names."""
    pairs = [
        (normal(photo.stem), photo, () if masks is None else _all_in(masks))
        for photos, masks in places
        for photo in only_images(photos, files_in(photos))
    ]
    _say_several(pairs, root)
    return pairs


def called_alike(folders: dict[str, Path]) -> list[Pair]:
    """(folder, its photo, its mask) of folders as ``labelme_json_to_dataset`` writes them; [] unless all are such."""
    files = {name: {file.name for file in files_in(folder)} for name, folder in folders.items()}
    if not all(found >= ALIKE for found in files.values()):
        return []
    return [(name, folder / "img.png", (folder / "label.png",)) for name, folder in folders.items()]


def share_names(photos: Path, masks: Path) -> bool:
    """Whether most of the masks of a folder are named as photos of another; True where their files lie deeper."""
    named, drawn = (only_images(folder, files_in(folder), MASK_TYPES) for folder in (photos, masks))
    if not named or not drawn:
        return True
    whose = _Drawn(drawn, named)
    found = {mask for photo in named for mask in whose.of(photo) or whose.objects_of(photo)}
    return 2 * len(found) >= min(len(drawn), len(named))


def mask_named(path: Path) -> tuple[Path, ...]:
    """The mask at a path without its ending, whatever that is, with or without a word as in "a_mask.png"; none: ().

    Where there is none, those of its objects. Raises UsageError where two have the name.
    """
    if not path.parent.is_dir():
        return ()
    drawn = _drawn_in(path.parent, path.parent.stat().st_mtime_ns)
    photo = path.with_name(f"{path.name}.jpg")
    return drawn.of(photo) or drawn.objects_of(photo)


def is_beside_its_photo(path: Path) -> bool:
    """Whether a file is called a mask and its photo lies beside it: "a_mask.png" beside "a.jpg". Cameras write no such file."""
    if path.suffix.lower() in CAMERA or not _is_called_mask(path.stem):
        return False
    stems = {MASK_WORD.sub("", re.sub(r"[ ._-]*\d+$", "", path.stem)), MASK_WORD.sub("", path.stem)} - {path.stem}
    begins = [os.path.join(path.parent, stem) for stem in stems]  # noqa: PTH118 (fast)
    return any(os.path.isfile(begin + end) for begin in begins for end in USUAL)  # noqa: PTH113


def lie_beside(path: Path) -> bool:
    """Whether a file of the folder, or of a folder in it, is called a mask: "a_mask.png"."""
    places = [path, *subfolders(path).values()] if path.is_dir() else []
    return any(_is_called_mask(file.stem) and file.suffix.lower() in MASK_TYPES for p in places for file in files_in(p))


def _is_called_mask(name: str) -> bool:
    """Whether a file of this name, without its ending, says that it is a mask."""
    return bool(MASK_WORD.search(name) or MASK_WORD.search(re.sub(r"[ ._-]*\d+$", "", name)))


@lru_cache(maxsize=8)
def _drawn_in(folder: Path, changed: int) -> _Drawn:
    """The masks of a folder by their names; kept until the folder changes, so that many are listed once."""
    drawn = only_images(folder, files_in(folder), MASK_TYPES)
    by_name(drawn)
    return _Drawn(drawn)


class _Drawn:
    """Masks by the names that their photos may have.

    photos: all of them: a word is taken off a photo's name only where that makes no other's.
    """

    def __init__(self, masks: Sequence[Path], photos: Sequence[Path] = ()):
        self._exact = {normal(mask.stem): mask for mask in masks}
        self._bare = {_bare(mask.stem): mask for mask in masks}
        self._objects: dict[str, list[Path]] = defaultdict(list)
        for mask in masks:
            self._objects[_of_object(mask.stem)].append(mask)
        cores = Counter(_core(photo.stem) for photo in photos)
        self._cores = {core for core, times in cores.items() if times == 1} - {_plain(photo.stem) for photo in photos}

    def of(self, photo: Path) -> tuple[Path, ...]:
        """The mask of a photo, or ()."""
        exact = self._exact.get(normal(photo.stem)) or self._exact.get(normal(photo.name))
        found = exact or next((self._bare[name] for name in self._names(photo) if name in self._bare), None)
        return () if found is None else (found,)

    def objects_of(self, photo: Path, used: Iterable[Path] = ()) -> tuple[Path, ...]:
        """The masks of a photo's objects, without those that are another's."""
        found = next((self._objects[name] for name in self._names(photo) if name in self._objects), [])
        return tuple(mask for mask in found if mask not in used)

    def with_objects(self, photo: Path, found: tuple[Path, ...], used: Collection[Path]) -> tuple[Path, ...]:
        """A photo's mask and those of its objects, unless its mask is called as the photo itself and is all of them."""
        if any(_plain(mask.stem) in self._names(photo) for mask in found):
            return found
        return (*found, *self.objects_of(photo, used))

    def names(self, photos: Iterable[Path]) -> dict[str, Path]:
        """Each name that one of the photos may have -> it."""
        return {name: photo for photo in photos for name in reversed(self._names(photo))}

    def _names(self, photo: Path) -> list[str]:
        core = _core(photo.stem)
        return [_plain(photo.stem), *([core] if core in self._cores else [])]


def _say_several(pairs: Sequence[Pair], where: Path) -> None:
    several = [f"{photo.name} ({len(masks)})" for _, photo, masks in pairs if len(masks) > 1]
    if several:
        note(f"{where}: several masks of a photo are one class together: {some(several)}")


def _all_in(folder: Path) -> tuple[Path, ...]:
    return tuple(only_images(folder, files_in(folder), MASK_TYPES))


def _masks_among(files: list[Path]) -> list[Path]:
    """The files of one folder that are masks of the others."""
    photos = {_plain(file.stem) for file in files if file.suffix.lower() in CAMERA}
    names = {name for file in files for name in (_plain(file.stem), _core(file.stem))}

    def is_mask(file: Path) -> bool:
        name = _plain(file.stem)
        own = file.suffix.lower() not in CAMERA and name in photos
        return own or (_is_called_mask(name) and bool({_bare(name), _of_object(name)} & (names - {name})))

    return [file for file in files if is_mask(file)]


def _plain(name: str) -> str:
    """A name without case and without the ending of a photo."""
    name = normal(name).casefold()
    return Path(name).stem if Path(name).suffix in IMAGE_TYPES else name


def _bare(name: str) -> str:
    """The same without the word that marks a mask."""
    return _plain(MASK_WORD.sub("", normal(name), count=1))


def _core(name: str) -> str:
    """The same without the word that marks a photo."""
    return _plain(PHOTO_WORD.sub("", _plain(name), count=1))


def _of_object(name: str) -> str:
    """The name of the photo of which a mask shows one object."""
    return _bare(NUMBER.sub("", _bare(name), count=1))
