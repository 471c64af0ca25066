"""What users hand in, as arrays: paths, addresses, bytes, pictures, records of data sets; and the names of classes."""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from shotseg.data import held, image_labels, masks, tiff
from shotseg.data import images as files
from shotseg.data.fetched import fetch, is_web, shown
from shotseg.data.masks import binary
from shotseg.data.pixels import Pixels, decode, from_array, from_image, to_rgb
from shotseg.data.samples import IGNORE, Sample
from shotseg.data.windows import Windows, extent, in_memory, open_windows
from shotseg.errors import InputError, ShotsegError, UsageError, first_line, note

# Any: also an open file, a tensor, a list, a row of a data set, a sample of FiftyOne
Photo = str | os.PathLike | bytes | np.ndarray | Image.Image | Sample | Any
COARSE = 4  # a photo so many times the working size gets contours that are off by several pixels
MOST_CLASSES = 254  # a label map holds 0 = background and 255 = ignore beside them


@dataclass(frozen=True, eq=False)
class Opened:
    """A photo at hand at a reduced size, and whole when that is asked for.

    small: (h, w, 3) uint8 RGB.     size: (H, W) of the photo.      whole(): (H, W, 3) uint8 RGB, of a function that can be
    pickled, since results go between processes.
    """

    small: np.ndarray
    size: tuple[int, int]
    whole: Callable[[], np.ndarray]


def enough(size: int) -> int:
    """Pixels of a photo's longer side from which on more would change no mask, for a network that works at ``size``.

    Not quite twice as many: photos of 12 megapixels, 4,000 to 4,032 pixels wide, are decoded at a quarter for 512.
    """
    return max(1, 15 * size // 8)


def open_photo(photo: Photo, least: int) -> Opened:
    """A photo of which ``least`` pixels of the longer side are enough: it is not decoded finer than that takes.

    A photo of twice that and more is reduced by whole numbers, each pixel the mean of those that it stands for; a JPEG while it
    is decoded. Raises as :func:`read_photo`.
    """
    photo = _taken(photo)
    if isinstance(photo, Opened):
        return photo
    if isinstance(photo, str | os.PathLike):
        return open_file(_content(photo), title(photo), least)
    if isinstance(photo, bytes | bytearray | memoryview):
        return open_file(bytes(photo), "photo", least)
    image = read_photo(photo)
    return Opened(_reduced(image, least), (image.shape[0], image.shape[1]), partial(np.asarray, image))


def open_file(
    data: bytes | Path, name: object, least: int, bands: Sequence[int] | None = None, page: int = 1
) -> Opened:
    """The same of the content of a file; data, bands and page as for :func:`shotseg.data.pixels.decode`."""
    pixels = decode(data, name, bands, page, least)
    image = to_rgb(pixels)
    size = pixels.whole or (image.shape[0], image.shape[1])
    # The whole photo is decoded again if it is wanted: until then its file takes a tenth of the memory.
    return Opened(_reduced(image, least), size, partial(_decoded, data, name, bands, page))


def _decoded(data: bytes | Path, name: object, bands: Sequence[int] | None, page: int) -> np.ndarray:
    return to_rgb(decode(data, name, bands, page))


def _reduced(image: np.ndarray, least: int) -> np.ndarray:
    factor = max(image.shape[:2]) // least
    return image if factor < 2 else np.array(Image.fromarray(image).reduce(factor))


def windows_of(photo: Photo, wanted: Callable[[tuple[int, int]], Any]) -> Windows | None:
    """A photo as windows, where ``wanted`` says so of its (H, W); None for another, and where nothing says the size before all of
    it is read: of an address, and of an open file that cannot go back. Raises as :func:`read_photo`."""
    photo = _taken(photo)
    if isinstance(photo, Windows):
        return photo
    if isinstance(photo, str | os.PathLike):
        path = os.fspath(photo)
        size = extent(path)
        return open_windows(path) if size is not None and wanted(size) else None
    size = _size(photo)
    return in_memory(read_photo(photo)) if size is not None and wanted(size) else None


def _size(photo: Any) -> tuple[int, int] | None:
    if isinstance(photo, Image.Image):
        return photo.height, photo.width
    if isinstance(photo, bytes | bytearray | memoryview):
        return extent(io.BytesIO(photo))
    if hasattr(photo, "read"):
        try:
            photo.seek(0)
        except (
            OSError,
            ValueError,
            AttributeError,
        ):  # it cannot go back, or is closed: what is wrong is said when it is read
            return None
        return extent(photo)
    try:
        shape: Sequence[int] = np.shape(photo) if isinstance(photo, list | tuple) else getattr(photo, "shape", ())
    except ValueError:  # rows of different lengths
        return None
    if len(shape) not in (2, 3):
        return None
    return (shape[0], shape[1]) if len(shape) == 2 or shape[2] <= 4 else (shape[1], shape[2])


def warn_if_large(photos: Sequence[Opened], size: int, method: str, mend: str = "--size") -> None:
    """Say that the contours of a photo far larger than the working size are off by several pixels."""
    if any(max(photo.size) > COARSE * size for photo in photos):
        note(
            f"photos are more than {COARSE} times as large as the {size} pixels at which {method} works, so edges are coarse; "
            f"{mend} {2 * size} draws them finer"
        )


def read_photo(photo: Photo) -> np.ndarray:
    """(H, W, 3) uint8 RGB of whatever holds a photo:

    - a path, the bytes of a file, an open file, an address (``https://``, see :func:`shotseg.data.fetched.fetch`);
    - a PIL image, an array, a tensor, a list: (H, W), (H, W, C) or (C, H, W) with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or
      4 (RGB, alpha), of bytes, of wider whole numbers, or of fractions. Where both fit, the last dimension is C;
    - a Sample, a row of Hugging Face ``datasets``, a sample of FiftyOne, an item (photo, ...) of a torch data set, see
      :mod:`shotseg.data.held`.

    The same pixels give the same photo, whatever they come in: see :func:`shotseg.data.pixels.shown_range`.
    Raises InputError for anything else, and for a file that cannot be read.
    """
    photo = _taken(photo)
    if isinstance(photo, Opened):
        return photo.whole()
    return to_rgb(_pixels(photo, "photo"))


def read_shot(photo: Photo, mask: Any = None, name: str = "") -> tuple[np.ndarray, np.ndarray | None]:
    """A support photo, (H, W, 3) uint8, and its mask, (H, W) uint8 in {0, 1, 255}, or None where there is none.

    mask: anything that :func:`read_photo` takes, COCO's run lengths ({"size", "counts"}), or a label of FiftyOne, of which that
          of class ``name`` is taken; read by the rule of :mod:`shotseg.data.masks`. A list of paths is one for each object of
          the class, taken together.
          None: that of a Sample, a row or a sample of FiftyOne.
    Raises InputError where either cannot be read, their shapes differ, or no pixel is the class.
    """
    image = read_photo(photo)
    if mask is None:
        mask = photo.mask if isinstance(photo, Sample) else held.mask_of(photo)
    if mask is None:
        return image, None
    if _are_paths(mask):
        known = files.joined(_read_mask(photo, image, path) for path in mask)
    else:
        known = _read_mask(photo, image, held.mask_among(mask, name, image.shape[:2]))
    if not (known == 1).any():
        raise InputError(f"{_mask_title(photo, mask)}: no foreground pixel; mark the object, or leave this pair out")
    masks.warn_if_doubtful(known, _mask_title(photo, mask))
    return image, known


def _read_mask(photo: Photo, image: np.ndarray, mask: Any) -> np.ndarray:
    name = _mask_title(photo, mask)
    known = _as_decoded(photo, mask)
    if known is None and held.is_run_lengths(mask):
        known = held.run_lengths(mask, name)
    if known is None:
        known = binary(_pixels(mask, name), name)
    return files.scaled_to(known, image.shape[:2], name, title(photo))


def _mask_title(photo: Photo, mask: Any) -> str:
    one = mask[0] if _are_paths(mask) else mask
    return title(one) if isinstance(one, str | os.PathLike) else f"the mask of {title(photo)}"


def _are_paths(mask: Any) -> bool:
    return isinstance(mask, list | tuple) and bool(mask) and all(isinstance(one, str | os.PathLike) for one in mask)


def is_one(photos: Any) -> bool:
    """Whether this is one photo (or mask), not a sequence of them; a nested list of numbers is read as a sequence."""
    whole = str | os.PathLike | bytes | bytearray | memoryview | Image.Image | Sample | Opened
    if isinstance(photos, whole) or hasattr(photos, "read") or held.is_record(photos) or held.has_masks(photos):
        return True
    shape: tuple[int, ...] = photos.shape if hasattr(photos, "__array__") and hasattr(photos, "shape") else ()
    return len(shape) == 2 or (len(shape) == 3 and (shape[2] <= 4 or shape[0] in (1, 3, 4)))


def each(photos: Any, what: str) -> Iterable[Any]:
    """Several photos (or masks) one after the other. Raises UsageError where nothing can be taken from it."""
    if not isinstance(photos, Iterable):
        raise UsageError(f"{what}: of type {type(photos).__name__}; give one, or a list of them")
    return photos


def in_order(frames: Any) -> Iterable[Any]:
    """The frames of a sequence, or the pages of the stack at a path. Raises UsageError for one frame."""
    if isinstance(frames, str | os.PathLike) and files.pages_in(path := os.fspath(frames)) > 1:
        return files.read_pages(path)
    if is_one(frames) and not hasattr(frames, "shape"):
        raise UsageError("one frame: give track the frames in their order; of a video: shotseg segment --track")
    return each(frames, "frames")


def photos_with_masks(images: Any, masks: Any, name: str) -> tuple[Sequence[Any], Sequence[Any] | None]:
    """The photos of a class and the mask of each, or None for all; one photo or one mask need not be in a list.

    Raises UsageError where there is no photo, or another number of masks.
    """
    if is_one(images):
        alone = isinstance(masks, list | tuple) and len(masks) == 1 and (masks[0] is None or is_one(masks[0]))
        images, masks = [images], masks if masks is None or alone else [masks]
    elif is_one(masks) and len(getattr(masks, "shape", (0, 0))) == 2:  # three dimensions may be a stack of masks
        masks = [masks]
    images, masks = _listed(images, "images"), None if masks is None else _listed(masks, "masks")
    if not len(images):
        raise UsageError(f"class {name!r} has no photo: give at least one")
    if masks is not None and len(masks) != len(images):
        raise UsageError(f"class {name!r}: {len(images)} photos but {len(masks)} masks; give one for each photo")
    return images, masks


def _listed(photos: Any, what: str) -> Sequence[Any]:
    found = each(photos, what)
    return found if hasattr(found, "__len__") else list(found)  # type: ignore[return-value]


def are_many(photos: Any) -> bool:
    """Whether this is a source of photos: a generator, a data set, a view of one; not a list or array, which may be one photo."""
    apart = isinstance(photos, list | tuple | str) or hasattr(photos, "__array__") or is_one(photos)
    return isinstance(photos, Iterable) and not apart


def listed_photos(photos: Any) -> list[Photo]:
    """Several photos as a list. Raises UsageError for one."""
    if is_one(photos) and not hasattr(photos, "shape"):
        raise UsageError("one photo: give it to predict, or a list of photos to predict_batch")
    return list(each(photos, "photos"))


def are_several(photo: Any) -> bool:
    """Whether this is a sequence of photos where one was asked for: a list of files or pictures, or an array (N, H, W, C).

    A tuple whose second value is not of the kind of the first is an item of a data set: a photo with its mask or label.
    """
    if held.is_item(photo) and not held.are_alike(*photo[:2]):
        return False
    if isinstance(photo, list | tuple) and photo:
        return len(getattr(photo[0], "shape", (0,) * 3)) == 3 and is_one(photo[0])
    shape: tuple[int, ...] = getattr(photo, "shape", ())
    return len(shape) == 4 and shape[0] != 1


def _as_decoded(photo: Photo, mask: Any) -> np.ndarray | None:
    """The mask that a data set has read already, in {0, 1, 255}; None where it is not in that form."""
    if not isinstance(photo, Sample) or mask is not photo.mask:
        return None
    values = np.unique(np.asarray(mask)).tolist()
    return np.asarray(mask).astype(np.uint8) if 1 in values and set(values) <= {0, 1, IGNORE} else None


def _taken(photo: Photo) -> Any:
    return photo.image if isinstance(photo, Sample) else held.photo_of(photo)


def _content(place: str | os.PathLike) -> bytes:
    return fetch(str(place)) if is_web(place) else files.read_bytes(os.fspath(place))


def _pixels(source: Any, name: object) -> Pixels:
    source = held.photo_of(source)
    if isinstance(source, str | os.PathLike):
        return decode(_content(source), title(source))
    if isinstance(source, Image.Image):
        return _of_image(source, name)
    if hasattr(source, "read"):
        name = getattr(source, "name", name)
        try:
            if source.seekable():
                source.seek(0)
            source = source.read()
        except (OSError, ValueError) as error:  # closed, or its disk or server is gone
            raise InputError(f"{name}: cannot be read ({first_line(error)}); open it again") from None
        if isinstance(source, str):
            raise InputError(f"{name}: opened as text; open it with mode 'rb'")
    if isinstance(source, bytes | bytearray | memoryview):
        return decode(bytes(source), name)
    if hasattr(source, "detach"):
        source = _of_tensor(source, name)
    if not isinstance(source, list | tuple) and not hasattr(source, "__array__"):
        raise InputError(
            f"{name}: of type {type(source).__name__}; give a path, bytes, an open file, a PIL image, an array or a row"
        )
    if len(getattr(source, "shape", ())) == 4 and 1 not in source.shape[:2]:
        raise InputError(f"{name}: a batch of {source.shape[0]} photos; give them one by one, or to predict_batch")
    try:
        return from_array(source, name)
    except ValueError as error:  # rows of different lengths
        if is_one(source[0]) and not isinstance(source[0], list | tuple):
            raise InputError(f"{name}: a {type(source).__name__} of a photo and more; give the photo alone") from None
        raise InputError(f"{name}: no rectangle of numbers ({first_line(error)}); give (H, W) or (H, W, 3)") from None


def _of_image(image: Image.Image, name: object) -> Pixels:
    file = _undecoded_tiff(image)
    place = None if file is None else tiff.place_of(file, image.tell())
    if file is not None and place is not None:
        return decode(file, name, place[1], place[0])
    try:
        return from_image(image)
    except (OSError, ValueError, SyntaxError) as error:  # closed, cut off, or its file is damaged
        raise InputError(f"{name}: a PIL image that cannot be read ({first_line(error)}); open it again") from None


def _of_tensor(tensor: Any, name: object) -> np.ndarray:
    tensor = tensor.detach()
    try:
        return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()  # NumPy has no bfloat16
    except (RuntimeError, TypeError) as error:  # sparse, quantised, without data
        reason = f"a tensor that is no array of numbers ({first_line(error)})"
        raise InputError(f"{name}: {reason}; give a dense one, as tensor.to_dense()") from None


def _undecoded_tiff(image: Image.Image) -> bytes | None:
    """The file of a TIFF that Pillow has opened and not decoded yet: it narrows 16 bits, and mixes up the rows of turned ones."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not image.tile or image.fp is None:
        return None
    place = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(place)
    return content


def check_classes(names: Collection[str], where: object, error: type[ShotsegError] = UsageError) -> None:
    """Raise ``error`` for more names than a label map holds, for one that cannot be a folder's name, or for two that are one
    folder on Windows and macOS."""
    if not 1 <= len(names) <= MOST_CLASSES:
        raise error(f"{where}: {len(names)} classes, but a label map holds 1 to {MOST_CLASSES}; take them in parts")
    filed: dict[str, str] = {}
    for i, name in enumerate(names):
        image_labels.check_name(name, where, error)
        if name in list(names)[:i]:
            raise error(f"{where}: class {name!r} is there twice; name each once")
        other = filed.setdefault(filed_as(name), name)
        if other != name:
            first, second = sorted((name, other))
            raise error(f"{where}: classes {first!r} and {second!r} are one folder on Windows and macOS; rename one")


def filed_as(name: str) -> str:
    """What two names have in common that Windows or macOS keep as one file: letter case and spelling of accents make no
    difference there, nor do dots and blanks at the end."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).rstrip(". ")


def title(photo: Photo) -> str:
    if isinstance(photo, Sample):
        return photo.id or str(photo.path or "sample")
    if isinstance(filepath := getattr(photo, "filepath", None), str):
        return filepath
    if is_web(photo):
        return shown(photo)
    return str(photo) if isinstance(photo, str | os.PathLike) else "photo"
