"""What the pixels of a mask mean: the one rule for a mask of one class, and label maps.

A mask of one class is binary: what is not background (0) is the class. In order:

1. Alpha that varies is the mask, unless the pixels it shows are a mask themselves. A palette stands for its indices; for
   its colours where they are greys, or where black is not index 0. One or several plain colours on black are a mask.
2. 255 means ignore in two forms alone, which ``pseudo-label`` writes: a palette whose entry 255 is the light grey of ours or
   of PASCAL VOC; and 0, 1 and 255 as the only values, 1 being at least a hundredth of what is marked.
3. Soft masks are cut at half of their range: fractions (at 0 where some are negative); values that rise step by step; and
   greys below white that form edges or single pixels, not areas. JPEG too, also saved again as PNG, which must be nearly
   black and white.
4. Everything else that is above 0 is the class: 0/1, 0/255, any ids of any objects, in 1 to 64 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from shotseg.data.pixels import WHITES, Pixels, known_values
from shotseg.data.samples import IGNORE
from shotseg.errors import InputError, note

VOID = ((224, 224, 224), (224, 224, 192))  # colour of 255 in our palette and in PASCAL VOC's
BESIDE = 1e-3  # so far from a whole number is an id that was scaled and scaled back, as NIfTI's are
HOLLOW = 6  # from so many times its own area that a mask encloses it may be an outline
COLOURS = "a mask in colours; save it as a grey or palette PNG, one class id a pixel, 0 = background"


def binary(pixels: Pixels, name: object) -> np.ndarray:
    """The mask of one class, (H, W) uint8: 1 = the class, 0 = background, 255 = ignore.

    name: of the file, for messages. Raises InputError for a photo in colours, or class ids blurred by JPEG.
    """
    values = _levels(pixels, name)
    if values.dtype.kind == "f":
        finite = _whole(np.where(np.isfinite(values), values, 0))
        if (finite % 1).any():
            return (finite >= _half(pixels, values)).astype(np.uint8)
        values = finite.astype(np.int64)
    if values.dtype.kind == "i":
        values = values.clip(0)
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    present, counts = _histogram(values)
    marked = int(counts[present > 0].sum())
    void = marked and present[-1] == IGNORE and _says_ignore(pixels, present, counts, marked)
    if void:
        mask = (values > 0).astype(np.uint8)
        mask[values == IGNORE] = IGNORE
        if counts[-1] > marked / 2:
            note(f"{name}: 255 means ignore here, and is {100 * counts[-1] / marked:.0f} % of what is marked")
        return mask
    soft = _is_blurred(present, counts, name) if pixels.lossy else _is_soft(values, present, counts)
    least = max(1, -(-int(present[-1]) // 2)) if soft else 1
    return (values >= least).astype(np.uint8)


def class_ids(pixels: Pixels, name: object) -> np.ndarray:
    """A label map, (H, W) uint8: class ids as they are stored (palette: the indices), 255 = ignore, transparent = 0.

    Raises InputError for colours, fractions, and ids above 255.
    """
    values = pixels.values
    if values.ndim == 3:
        grey = _grey(values, pixels.lossy)
        if grey is None:
            raise InputError(f"{name}: {COLOURS}")
        values = grey
    if pixels.alpha is not None:
        values = np.where(pixels.alpha >= 128, values, 0)
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind != "b" and values.max() == 65535 and np.isin(values, (0, 65535)).all():
        values = values // 257
    values = _whole(values) if values.dtype.kind == "f" else values
    fractions = values.dtype.kind == "f" and (values % 1).any()
    if fractions or not 0 <= values.min() <= values.max() <= 255:
        found = f"mask values from {values.min()} to {values.max()}"
        raise InputError(f"{name}: {found}; use whole class ids from 0 to 254, and 255 = ignore")
    return values.astype(np.uint8)


def _whole(values: np.ndarray) -> np.ndarray:
    """Floats that lie beside whole numbers, all of them, as those; others as they are."""
    with np.errstate(invalid="ignore"):  # infinite ones
        near = np.rint(values)
        return near if near.any() and (np.abs(values - near) <= BESIDE).all() else values


def warn_if_doubtful(mask: np.ndarray, name: object) -> None:
    """Say where the mask of an example, (H, W) in {0, 1, 255}, is nearly everything, an outline, or looks inverted."""
    object_ = mask == 1
    share = float(object_.mean())
    border = np.concatenate([object_[0], object_[-1], object_[:, 0], object_[:, -1]])
    if share > 0.95:
        note(f"{name}: the mask is {100 * share:.0f} % of the photo; background must be 0 in it")
    elif share > 0.5 and border.mean() > 0.95:
        note(f"{name}: the mask is the border of the photo, it looks inverted; the object must be non-zero, the rest 0")
    elif _encloses(object_) > HOLLOW:
        note(f"{name}: the mask looks like an outline; fill it, if the object is what it encloses")


def _encloses(mask: np.ndarray) -> float:
    """How many times as large the mask is with its holes as without, by squares of pixels of which one is marked; 0 where
    scipy is missing, as beside the exported form alone."""
    try:
        from scipy import ndimage
    except ImportError:
        return 0
    side = max(1, max(mask.shape) // 512)
    squares = (
        np.add.reduceat(np.add.reduceat(mask, range(0, mask.shape[0], side)), range(0, mask.shape[1], side), axis=1) > 0
    )
    regions, _ = ndimage.label(np.pad(~squares, 1, constant_values=True))  # the first lies around the photo
    return float((regions != regions[0, 0]).sum() / max(1, int(squares.sum())))


def _levels(pixels: Pixels, name: object) -> np.ndarray:
    """One value a pixel, (H, W), 0 = background."""
    values = pixels.values if pixels.palette is None else _of_palette(pixels.values, pixels.palette)
    alpha = pixels.alpha
    if alpha is not None and alpha.min() < 128 <= alpha.max():
        opaque = alpha >= 128
        if not _is_drawn(values[opaque]):
            return alpha
        values = np.where(opaque if values.ndim == 2 else opaque[..., None], values, 0)
    return values if values.ndim == 2 else _of_colours(values, pixels.lossy, name)


def _of_palette(values: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The indices; the colours where they are greys or black is not index 0, as in what drawing programs write."""
    used = palette[np.unique(values)]
    black, grey = (used == 0).all(1), bool((used == used[:, :1]).all())
    white = bool((used == 255).all())  # alone, as of a GIF that is the class everywhere
    plain = not white and not black.any()
    if tuple(palette[IGNORE].tolist()) in VOID or black.all() or plain or (not palette[0].any() and not grey):
        return values
    return palette[values]


def _of_colours(values: np.ndarray, lossy: bool, name: object) -> np.ndarray:
    """Colours as levels: grey as it is, one hue by its strength, several plain colours as their brightest channel."""
    grey = _grey(values, lossy)
    if grey is not None:
        return grey
    peak = values.max(axis=2)
    if not (peak <= (IGNORE // 8 if lossy else 0)).any():
        raise InputError(f"{name}: {COLOURS}")
    if lossy:
        return peak
    strongest = values.reshape(-1, values.shape[2])[peak.argmax()].astype(np.int64)
    full = int(strongest.max())
    marked = peak > 0
    of_one_hue = strongest * peak[marked][:, None].astype(np.int64)
    if (np.abs(values[marked] * np.int64(full) - of_one_hue) <= full).all():
        return (peak.astype(np.int64) * 255 // full).astype(np.uint8)
    if _flat(_packed(values))[marked].mean() < 1 / 3:
        raise InputError(f"{name}: {COLOURS}")
    return marked.astype(np.uint8)


def _grey(values: np.ndarray, lossy: bool) -> np.ndarray | None:
    """(H, W) of (H, W, 3) with equal channels; None for colours."""
    first = values[..., 0]
    spread = max(int(np.abs(first.astype(np.int64) - values[..., i]).max()) for i in range(1, values.shape[2]))
    return first if spread <= (4 if lossy else 0) else None


def _is_drawn(shown: np.ndarray) -> bool:
    """Whether visible pixels, (N,) or (N, C), are a mask: black and one colour."""
    values = shown if shown.ndim == 1 else _packed(shown)
    if len(np.unique(values[: 1 << 16])) > 2:  # a photo is told by a part of it
        return False
    colours = np.unique(values)
    return len(colours) == 2 and bool(colours[0] == 0)


def _packed(values: np.ndarray) -> np.ndarray:
    """(..., 3) colours as one number each."""
    return values.astype(np.int64) @ (1 << np.array([32, 16, 0], dtype=np.int64))


def _histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur, ascending, and how often."""
    if values.dtype == np.uint8:
        counts = np.array(Image.fromarray(values).histogram())  # a bincount would need 8 bytes a pixel
        return np.flatnonzero(counts), counts[counts > 0]
    return np.unique(values, return_counts=True)


def _says_ignore(pixels: Pixels, present: np.ndarray, counts: np.ndarray, marked: int) -> bool:
    """Whether 255, the highest value, means ignore: rule 2 of the module."""
    if pixels.palette is not None and tuple(pixels.palette[IGNORE].tolist()) in VOID:
        return True
    others = present[(present > 0) & (present < IGNORE)]
    return others.tolist() == [1] and int(counts[present == 1][0]) * 100 >= marked


def _is_blurred(present: np.ndarray, counts: np.ndarray, name: object) -> bool:
    """Whether lossy values have somewhere to be cut: nearly all must be near black or near the highest."""
    rim = max(1, present[-1] // 4)
    if counts[(present <= rim) | (present >= present[-1] - rim)].sum() < 0.9 * counts.sum():
        raise InputError(f"{name}: JPEG or WebP blurs class ids; save the mask as PNG")
    return True


def _is_soft(values: np.ndarray, present: np.ndarray, counts: np.ndarray) -> bool:
    """Whether whole values are shades, not ids: rule 3 of the module."""
    if len(present[present > 0]) < 2:
        return False
    top, flat = int(present[-1]), _flat(values)
    if top >= 64 and _was_lossy(present, counts):
        return True
    between = (values > 0) & (values < top)
    middle = (values >= top / 8) & (values <= top * 7 / 8)
    if len(present) > 256 and top not in WHITES and _is_cells(values, present, between):
        return False
    if flat[between].mean() < 1 / 3 and (top in WHITES or len(present) - 1 > _ndimage().label(values > 0)[1]):
        return True  # ids have areas, or at least an object each
    # Maps of probability or distance change little from pixel to pixel; ids leap, or lie in areas.
    if top < 64 or not middle.any() or flat[middle].mean() >= 2 / 3:
        return False
    whole = values.astype(np.int64)
    steps = np.concatenate([_steps(whole, between), _steps(whole.T, between.T)])
    return steps.size > 0 and float(np.quantile(steps, 0.75)) <= top / 32


def _is_cells(values: np.ndarray, present: np.ndarray, between: np.ndarray) -> bool:
    """Whether each value is about one area, and neighbours are strangers: objects that touch. Slopes pass every shade."""
    ndimage = _ndimage()
    plain = ndimage.minimum_filter(values, 2) == ndimage.maximum_filter(values, 2)  # squares of 2 x 2; lines have none
    if ndimage.maximum_filter(plain, 2, origin=-1)[between].mean() < 1 / 2:
        return False
    from skimage import measure  # slow to load, and seldom needed

    if measure.label(np.where(between, values, 0), connectivity=1).max() > 2 * len(present):
        return False
    ranks = np.searchsorted(present, values)
    steps = np.concatenate([_steps(ranks, between), _steps(ranks.T, between.T)])
    return bool((steps > 1).mean() >= 1 / 4)


def _ndimage() -> Any:
    """scipy.ndimage, which an installation of the exported form alone has not."""
    try:
        from scipy import ndimage
    except ImportError:
        raise InputError(
            "a mask of many shades: pip install scipy scikit-image, or save it in black and white"
        ) from None
    return ndimage


def _was_lossy(present: np.ndarray, counts: np.ndarray) -> bool:
    """Whether black and white both waver, as in a JPEG that was saved again as PNG, and hardly anything lies between."""
    rim = present[-1] // 8
    dark, light = (present > 0) & (present <= rim), (present >= present[-1] - rim) & (present < present[-1])
    ends = counts[dark].sum() + counts[light].sum() + counts[-1]
    return dark.sum() > 1 and light.sum() > 1 and bool(ends >= 0.9 * counts[present > 0].sum())


def _flat(values: np.ndarray) -> np.ndarray:
    """(H, W) bool: whether a pixel equals its four neighbours, as the inside of an area does and an edge does not."""
    flat = np.ones(values.shape, bool)
    same = values[1:] == values[:-1]
    flat[1:] &= same
    flat[:-1] &= same
    same = values[:, 1:] == values[:, :-1]
    flat[:, 1:] &= same
    flat[:, :-1] &= same
    return flat


def _steps(values: np.ndarray, between: np.ndarray) -> np.ndarray:
    """Sizes of the changes from row to row where one side is neither lowest nor highest."""
    sizes = np.abs(np.diff(values, axis=0))
    return sizes[(sizes > 0) & (between[1:] | between[:-1])]


def _half(pixels: Pixels, values: np.ndarray) -> float:
    """Where fractions are cut: probabilities at 0.5, logits and signed distances above 0, others at the middle of their range.

    No-data is left out.
    """
    known = known_values(Pixels(values, nodata=pixels.nodata))
    low, high = float(known.min(initial=0)), float(known.max(initial=0))
    if low < 0 < high:
        return float(np.nextafter(values.dtype.type(0), values.dtype.type(1)))
    return 0.5 if low >= 0 and 0.5 < high <= 1 else (low + high) / 2
