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

from shotseg.errors import UsageError, first_line

Kind = Literal["methods", "encoders", "generators", "formats"]


@cache
def added(kind: Kind) -> dict[str, EntryPoint]:
    """Name -> entry point of every installed package, in the order of the names; nothing is imported yet."""
    return {point.name: point for point in sorted(entry_points(group=f"shotseg.{kind}"))}


def load(kind: Kind, name: str) -> Any:
    """What an added name stands for. Raises UsageError with one line where its package does not load."""
    point = added(kind)[name]
    try:
        return point.load()
    except Exception as error:  # whatever another package's code raises
        package = point.dist.name if point.dist else point.value
        raise UsageError(f"{kind[:-1]} {name!r}: its package {package} does not load: {first_line(error)}") from error
