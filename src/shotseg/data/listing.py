"""Which files of a folder are photos or masks; what is left out is named."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from shotseg.data.images import IMAGE_TYPES, address
from shotseg.data.video import VIDEO_TYPES
from shotseg.errors import UsageError, note

LEFTOVERS = frozenset({".bak", ".old", ".orig", ".part", ".crdownload", ".tmp", ".swp"})
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF....WEBP", b"....ftyp(heic|heix|mif1|avif)")
NAMED = 200  # files left out that are named, one by one


def find_images(query: str | Path, skip: Collection[Path] = ()) -> list[Path]:
    """The image files that a file name, a folder (all below it) or a glob such as ``photos/**/*.jpg`` means, sorted.

    A file that is named outright is taken whatever its ending. Links to folders are followed, each folder once. Files that
    are no images are named in one line; hidden ones are not.
    skip: folders that are not looked into, and files of a folder that are passed over, resolved.
    Raises UsageError where nothing is found.
    """
    return sorted(each_image(query, skip))


def each_image(query: str | Path, skip: Collection[Path] = ()) -> Iterator[Path]:
    """The same, in any order and as they are found: a million of them take no memory."""
    path = Path(query)
    if path.is_file():
        yield path
        return
    if path.is_dir():
        found = _walk(path, skip)
    elif glob.has_magic(str(query)):
        found = _globbed(path, skip)
    elif said := address(query):
        raise UsageError(said)
    elif path.exists():
        raise UsageError(f"{query}: a pipe or a device; give a file or a folder")
    else:
        raise UsageError(f"{query}: no such file or folder; check the path")
    none = True
    for image in _sifted(query, found, IMAGE_TYPES):
        none = False
        yield image
    if none and path.suffix.lower() in VIDEO_TYPES:
        raise UsageError(f"{query}: videos are taken one by one; give one file")
    if none:
        raise UsageError(f"{query}: no image found; give a file, folder or glob of {', '.join(sorted(IMAGE_TYPES))}")


def only_images(where: object, files: Iterable[Path], types: Collection[str] = IMAGE_TYPES) -> list[Path]:
    """The images among files, by their ending, or by how they begin where the ending says nothing. Names the others."""
    return list(_sifted(where, files, types))


def _sifted(where: object, files: Iterable[Path], types: Collection[str]) -> Iterator[Path]:
    broken, others = _First(), _First()
    for file in files:
        if file.name.startswith("."):  # macOS puts a "._photo.jpg" beside each photo on foreign disks
            continue
        if file.is_file():
            if _is_image(file, types):
                yield file
            else:
                others.add(file.name)
        elif file.is_symlink() and not file.exists():
            broken.add(file.name)
        elif file.exists() and not file.is_dir():  # a pipe, which would be waited for
            others.add(file.name)
    for left_out, why in ((broken, "a link that leads nowhere"), (others, "no image that can be read")):
        if left_out.count:
            note(f"{where}: left out, {why}: {some(left_out.names(), NAMED, left_out.count)}")


class _First:
    """The first names by the alphabet of many, and how many there are."""

    def __init__(self) -> None:
        self.count, self._names = 0, list[str]()

    def add(self, name: str) -> None:
        self.count += 1
        self._names.append(name)
        if len(self._names) > 10 * NAMED:
            self._names = self.names()

    def names(self) -> list[str]:
        return sorted(self._names)[:NAMED]


def files_in(folder: Path) -> list[Path]:
    """The files of one folder, sorted, without hidden ones; none where there is no such folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if not path.is_dir() and not path.name.startswith("."))


def images_below(root: Path) -> list[Path]:
    """The images of a folder and all below it, as :func:`find_images` takes them, without a word on the others."""
    return sorted(file for file in _walk(root, ()) if not file.name.startswith(".") and _is_image(file, IMAGE_TYPES))


def has_photos(folder: Path) -> bool:
    return any(_is_image(file, IMAGE_TYPES) for file in files_in(folder))


def subfolders(folder: Path) -> dict[str, Path]:
    """Name -> folder, without hidden ones; none where there is no such folder.

    Raises UsageError where two names differ in nothing but how their accents are stored.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and path.name[0] != "." and found.setdefault(normal(path.name), path) != path:
            raise UsageError(f"{path}: two folders of this name, their accents stored in two ways; join them into one")
    return found


def some(names: Sequence[str], most: int = 10, count: int = 0) -> str:
    """The first names, and how many more there are, of ``count`` where that is given."""
    more = max(count, len(names)) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _walk(root: Path, skip: Collection[Path]) -> Iterator[Path]:
    """The files below a folder; a folder that links lead to comes once, under its own path where it has one."""
    seen, links = {str(path) for path in skip}, [root]
    while links:
        waiting = [links.pop(0)]
        while waiting:
            folder = waiting.pop()
            place = os.path.realpath(folder)
            if place in seen:
                continue
            seen.add(place)
            below: list[Path] = []
            for file in entries(folder):
                if os.path.isdir(file):  # noqa: PTH112 (fast)
                    below.append(file)
                elif os.path.join(place, file.name) not in seen:  # noqa: PTH118 (fast)
                    yield file
            below = sorted(path for path in below if not path.name.startswith("."))
            waiting += [path for path in below if not path.is_symlink()]
            links += [path for path in below if path.is_symlink()]


def entries(folder: Path) -> Iterator[Path]:
    """What is in a folder, as it is found; nothing where it cannot be read."""
    with suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            yield folder / entry.name


def _globbed(pattern: Path, skip: Collection[Path]) -> Iterator[Path]:
    """The files that a glob means; below ``**`` a link that leads back up would be followed for ever by ``glob``."""
    parts = pattern.parts
    if "**" not in parts:
        folders = _once(Path(name) for name in glob.iglob(str(pattern.parent)))  # noqa: PTH207 (absolute patterns)
        yield from (file for folder in folders for file in entries(folder) if fnmatch(file.name, pattern.name))
        return
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    yield from (file for file in _walk(root, skip) if _fits(file.relative_to(root).parts, parts[fixed:]))


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatch(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _once(folders: Iterable[Path]) -> list[Path]:
    """Each folder once, however many links lead there; under its own path where that is among them."""
    found: dict[str, Path] = {}
    for path in sorted(folders, key=lambda path: (os.path.realpath(path) != str(path.absolute()), path)):
        found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def has_controls(name: str) -> bool:
    """Whether a name holds line breaks or other control characters, or bytes that are no text, which no file can name.

    Blanks of every width and joined letters are text: screenshots of macOS have a narrow one before "PM".
    """
    return any(unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs") or letter in "\ufffe\uffff" for letter in name)


def _is_image(file: Path, types: Collection[str]) -> bool:
    ending = file.suffix.lower()
    if not file.is_file() or ending in types:
        return file.is_file()
    if ending in LEFTOVERS or file.name.endswith("~"):
        return False
    try:
        with file.open("rb") as opened:
            beginning = opened.read(12)
    except OSError:
        return False
    return any(re.match(known, beginning, re.DOTALL) for known in BEGINNINGS)


def by_name(files: Iterable[Path]) -> dict[str, Path]:
    """The files by their names without ending. Raises UsageError where two have one name."""
    found: dict[str, Path] = {}
    for file in files:
        name = normal(file.stem)
        if name in found:
            raise UsageError(f"{found[name]} and {file.name}: two images of one name; rename one of them")
        found[name] = file
    return found


def normal(name: str) -> str:
    """One spelling of accented letters: macOS stores them in two parts, other systems in one."""
    return unicodedata.normalize("NFC", name)
