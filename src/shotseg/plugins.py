"""What other packages add by entry points: names that every verb and call takes beside ours.

    [project.entry-points."shotseg.methods"]
    prototype = "my_package:Prototype"

group               what the entry point names
shotseg.methods     a class as ``shotseg.models.few_shot_model.FewShot``, called with the encoder
shotseg.encoders    a function of the weights ("default", "random" or a file) that gives an ``Encoder``
shotseg.generators  a function of (``Options``, device) that gives a ``Generator`` of pseudo masks
shotseg.formats     a ``shotseg.data.annotations.Format``

A name of ours stands before one of the same spelling that is added.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from shotseg.errors import ShotsegError, UsageError, first_line

Kind = Literal["methods", "encoders", "generators", "formats"]


@cache
def added(kind: Kind) -> dict[str, EntryPoint]:
    """Name -> entry point of every installed package, in the order of the names; nothing is imported yet."""
    return {point.name: point for point in sorted(entry_points(group=f"shotseg.{kind}"))}


def load(kind: Kind, name: str) -> Any:
    """What an added name stands for. Raises UsageError with one line where its package does not load."""
    try:
        return added(kind)[name].load()
    except (Exception, SystemExit) as error:  # whatever another package's code raises
        raise UsageError(f"{_whose(kind, name)} does not load: {first_line(error)}") from error


def made(kind: Kind, name: str, wanted: type, *given: Any) -> Any:
    """What the function of an added name makes of ``given``. Raises UsageError with one line where that is no ``wanted``."""
    make = load(kind, name)
    try:
        found = make(*given)
    except ShotsegError:
        raise
    except Exception as error:
        raise UsageError(f"{_whose(kind, name)} makes none: {first_line(error)}") from error
    return held(kind, name, wanted, found)


def held(kind: Kind, name: str, wanted: type, found: Any) -> Any:
    """``found``, where it is a ``wanted``, or a class of it. Raises UsageError with one line where it is not."""
    if isinstance(found, wanted) or (isinstance(found, type) and issubclass(found, wanted)):
        return found
    own = found.__name__ if isinstance(found, type) else type(found).__name__
    raise UsageError(f"{_whose(kind, name)} gives {own!r}, no {wanted.__name__} of {wanted.__module__}")


def _whose(kind: Kind, name: str) -> str:
    point = added(kind)[name]
    return f"{kind[:-1]} {name!r}: its package {point.dist.name if point.dist else point.value}"
