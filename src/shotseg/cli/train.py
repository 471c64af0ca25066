"""``shotseg train``: a recipe and a folder of photos in, weights out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro import MISSING
from tyro.conf import Positional, arg

from shotseg.cli.console import say
from shotseg.errors import UsageError
from shotseg.training import recipe as recipes
from shotseg.training.recipe import Recipe


@dataclass(frozen=True)
class Train:
    """Train a model by a recipe; every field of the recipe is a flag.

    Writes best.safetensors (for --checkpoint of evaluate and segment), last.safetensors (for --resume), metrics.jsonl,
    tensorboard/ and report.html. Under `accelerate launch` or torchrun it uses every device; the batch stays the recipe's.

    example: shotseg train pfenet/tiny --root photos --out run --optimiser.lr 1e-3
    """

    recipe: Positional[str]
    """See: shotseg list recipes; or a .yaml file of your own."""
    root: Path
    """Folder of the data set."""
    out: Path
    """Folder of the results."""
    resume: bool = False
    """Go on where an interrupted run stopped."""
    device: str = "auto"
    """ "auto" (what accelerate finds), or "cpu"."""
    until: Literal["", "extractor", "priors"] = ""
    """Of QGNet: stop after this stage; the same command without it goes on from there."""
    settings: Annotated[Recipe, arg(name="")] = field(default_factory=lambda: Recipe(steps=1))
    """The fields of the recipe."""

    @classmethod
    def defaults(cls, arguments: Sequence[str]) -> Train | None:
        """The recipe that the arguments name gives the defaults of the flags."""
        if not arguments or arguments[0] in ("-h", "--help"):
            return None
        if arguments[0].startswith("-"):
            raise UsageError("give the recipe first, as: shotseg train pfenet/tiny --root photos --out run")
        return cls(arguments[0], MISSING, MISSING, settings=recipes.load(arguments[0]))

    def run(self) -> int:
        from shotseg.training.run import train

        outcome = train(self.settings, self.root, self.out, self.resume, self.device, say, self.until)
        print(f"{outcome.best} after {outcome.steps} steps, validation {outcome.score:.1f}")
        return 0
