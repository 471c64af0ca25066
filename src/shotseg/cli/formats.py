"""The annotation formats as options of the verbs."""

from __future__ import annotations

from typing import Any

from shotseg.errors import UsageError, one_of


def check_format(name: str) -> str:
    """The name of a format that can be written. Raises UsageError for any other."""
    from shotseg.data.annotations import list_formats

    if name not in (names := list_formats()):
        raise UsageError(f"no annotation format {name!r}{one_of(name, names)}")
    return name


def export_options(verb: Any) -> dict[str, Any]:
    """What the options of a verb say about the annotations to write, as :func:`shotseg.data.annotations.write` takes it."""
    check_format(verb.format)
    if verb.min_object < 0:
        raise UsageError(f"--min-object {verb.min_object}: must be 0 or more")
    options = {"min_object": verb.min_object, "one_a_class": verb.one_a_class}
    sized = verb.min_object and not getattr(verb, "instances", False)
    if verb.format == "mask" and (sized or verb.one_a_class or verb.copy_images):
        raise UsageError("--min-object, --one-a-class and --copy-images are of annotations; give --format, as coco")
    return {**options, "photos": "copy" if verb.copy_images else photos_of(verb.format)}


def photos_of(format: str) -> str:
    """What becomes of the photos where nothing is asked for: links, where the format wants them in a place of its own."""
    return "link" if format in ("mask", "yolo", "voc") else "none"
