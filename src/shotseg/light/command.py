"""``shotseg-onnx``: masks of a folder of photos, by an export, without torch."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from shotseg.data.listing import find_images
from shotseg.errors import InputError, ShotsegError, UsageError, is_out_of_memory, no_memory, on_the_command_line
from shotseg.light.exported import OnnxSegmenter


def main(argv: Sequence[str] | None = None) -> int:
    """0 all done; 1 some photos failed, each with a line; 2 wrong usage."""
    warnings.formatwarning = lambda message, *_: f"shotseg: {message}\n"
    parser = argparse.ArgumentParser("shotseg-onnx", description=__doc__)
    parser.add_argument("export", help="folder that `shotseg export` wrote")
    parser.add_argument(
        "--support", type=Path, required=True, help="file of Segmenter.save, or images/<class>/ and masks/"
    )
    parser.add_argument("--query", type=Path, required=True, help="a photo, or a folder with sub-folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of masks/<class>/ and labels/")
    parser.add_argument("--known", action="store_true", help="every class is in every photo")
    given = parser.parse_args(argv)
    with on_the_command_line():
        return _run(given)


def _run(given: argparse.Namespace) -> int:
    try:
        segmenter = OnnxSegmenter(given.export, present=None if given.known else 0.5)
        segmenter.exported.open()
        failed = _learn(segmenter, given.support)
        photos = _photos(given.query, given.out)
        stems = Counter(path.with_suffix("") for path in photos)
        for path in photos:
            name = path if stems[path.with_suffix("")] > 1 else path.with_suffix("")
            base = given.query if given.query.is_dir() else given.query.parent
            try:
                segmenter.predict(path).save(given.out, name.relative_to(base).as_posix())
            except UsageError:
                raise
            except Exception as error:
                failed += _said(_mendable(error, path))
    except KeyboardInterrupt:
        _said("interrupted, what was finished is kept")
        return 130
    except Exception as error:
        _said(_mendable(error, given.export))
        return 2 if isinstance(error, UsageError) else 1
    print(f"{len(photos)} photos: {given.out}" + (f", {failed} lines of what failed above" if failed else ""))
    return 1 if failed else 0


def _learn(segmenter: OnnxSegmenter, support: Path) -> int:
    """Classes of a file or of a folder of examples; how many examples failed."""
    if not support.is_dir():
        segmenter.add_file(support)
        return 0
    failed = 0
    for image in _photos(support / "images"):
        place = image.relative_to(support / "images")
        if len(place.parts) < 2:
            raise UsageError(f"{image}: no class; put it into images/<class>/")
        try:
            mask = next(iter(sorted((support / "masks" / place.parent).glob(f"{_literal(place.stem)}.*"))), None)
            if mask is None:
                raise InputError(f"{image}: no mask masks/{place.with_suffix('.png').as_posix()}; draw one")
            segmenter.add(place.parts[0], image, mask)
        except InputError as error:
            failed += _said(error)
    if not segmenter.classes:
        raise InputError(f"{support}: no example can be used; mend one of the above")
    return failed


def _photos(place: Path, *skip: Path) -> list[Path]:
    """What ``shotseg segment`` takes of a folder, without the results in it; what is left out is named."""
    if not place.exists():
        raise UsageError(f"{place}: no such file or folder; check the path")
    return find_images(place, [path.resolve() for path in skip])


def _literal(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _mendable(error: Exception, what: Path) -> ShotsegError:
    """The line of an error that a person can mend. Raises any other."""
    if is_out_of_memory(error):
        return InputError(f"{what}: {no_memory(error)}; export with a smaller --size")
    if not isinstance(error, ShotsegError):
        raise error
    return error


def _said(error: object) -> int:
    print(f"shotseg: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
