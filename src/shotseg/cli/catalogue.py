"""``shotseg list``: what there is to choose from."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated, Literal

from tyro.conf import Positional

from shotseg import plugins
from shotseg.cli.choices import DATASETS, ENCODERS, MODELS, NEEDS
from shotseg.cli.console import table


@dataclass(frozen=True)
class List:
    """The names that the other verbs take.

    example: shotseg list encoders
    """

    what: Annotated[Literal["models", "encoders", "datasets", "recipes", "weights", "protocols"], Positional]
    """What to list."""

    def run(self) -> int:
        if self.what == "weights":
            _weights()
        elif self.what == "protocols":
            _protocols()
        else:
            _lines(_rows(self.what))
        return 0


def _rows(what: str) -> list[tuple[str, ...]]:
    """The cells of each line, the name first."""
    if what == "recipes":
        from shotseg.training.recipe import list_recipes

        return [(name,) for name in list_recipes()]
    if what == "encoders":
        from shotseg.encoders import list_weights

        weights: list[tuple[str, ...]] = [
            (row.name, f"needs {NEEDS[row.source]}", *ENCODERS[row.name]) for row in list_weights()
        ]
        return weights + _added("encoders", ENCODERS)
    import shotseg

    if what == "models":
        ours: list[tuple[str, ...]] = [(name, f"needs {needs}", *rest) for name, (needs, *rest) in MODELS.items()]
        return ours + _added("methods", MODELS)
    return [(name, *DATASETS[name]) for name in shotseg.list_datasets()]


def _added(kind: plugins.Kind, ours: Container[str]) -> list[tuple[str, ...]]:
    """What other packages add, with the package that does."""
    found = plugins.added(kind)
    return [
        (name, f"added by {point.dist.name if point.dist else point.value}")
        for name, point in found.items()
        if name not in ours
    ]


def _lines(rows: list[tuple[str, ...]]) -> None:
    """One line a row, cells below each other; nothing is cut off, so that a script may read it."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _weights() -> None:
    from shotseg.cli.doctor import weights_here
    from shotseg.encoders import list_weights

    rows = []
    for row in list_weights():
        here = weights_here(row)
        rows.append((row.name, row.trained_on, row.licence, str(row.size), row.source, str(here) if here else "-"))
    table("", ("encoder", "trained on", "licence", "side", "source", "on this machine"), rows)


def _protocols() -> None:
    from shotseg.evaluation.protocols import PRESETS

    columns = ("rule", "episodes", "seeds", "size", "geometry", "score_at", "fusion")
    rows = [
        (name, *("as the model" if getattr(p, c) is None else str(getattr(p, c)) for c in columns))
        for name, p in PRESETS.items()
    ]
    table("", ("protocol", *columns), rows)
