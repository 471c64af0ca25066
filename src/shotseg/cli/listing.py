"""``shotseg list``: what there is to choose from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional

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
            print("\n".join(_names(self.what)))
        return 0


def _names(what: str) -> list[str]:
    if what == "recipes":
        from shotseg.training.recipe import list_recipes

        return list_recipes()
    import shotseg

    return {"models": shotseg.list_models, "encoders": shotseg.list_encoders, "datasets": shotseg.list_datasets}[what]()


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
