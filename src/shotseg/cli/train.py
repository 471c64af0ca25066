"""``shotseg train``: a recipe and a folder of photos in, weights out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro import MISSING
from tyro.conf import Positional, arg

from shotseg.cli.console import say
from shotseg.cli.parsing import must_exist
from shotseg.errors import UsageError
from shotseg.training import recipe as recipes
from shotseg.training.recipe import Recipe


@dataclass(frozen=True)
class Train:
    """Train a model by a recipe; every field of the recipe is a flag, with the recipe's value as its default.

    shotseg train RECIPE --help shows them for that recipe. --root, --out and --resume are all that most trainings need.

    Writes best.safetensors (for --checkpoint of evaluate and segment), last.safetensors (for --resume), metrics.jsonl,
    tensorboard/ and report.html. Under `accelerate launch` or torchrun it uses every device; the batch stays the recipe's.

    example: shotseg train guided/tiny --root photos --out run --optimiser.lr 1e-3
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
    """ "auto" is what accelerate finds: cuda, mps or cpu."""
    until: Literal["", "extractor", "priors"] = ""
    """Of QGNet: stop after this stage; the same command without it goes on from there."""
    settings: Annotated[Recipe, arg(name="")] = field(default_factory=lambda: Recipe(steps=1))
    """The fields of the recipe."""

    @classmethod
    def defaults(cls, arguments: Sequence[str]) -> tuple[Train | None, list[str]]:
        """The recipe that the arguments name gives the defaults of the flags; and the arguments that are left to parse."""
        if not arguments or arguments[0] in ("-h", "--help"):
            return cls(MISSING, MISSING, MISSING), list(arguments)
        if arguments[0].startswith("-"):
            raise UsageError("give the recipe first, as: shotseg train guided/tiny --root photos --out run")
        changes, rest = _any_keyword(arguments[1:])
        return cls(arguments[0], MISSING, MISSING, settings=recipes.load(arguments[0], **changes)), [
            arguments[0],
            *rest,
        ]

    def run(self) -> int:
        from accelerate import PartialState

        from shotseg.training.run import train

        must_exist(root=self.root)
        outcome = train(self.settings, self.root, self.out, self.resume, self.device, say, self.until)
        if PartialState().is_main_process:
            done = (
                f" after {outcome.steps} steps, validation {outcome.score:.1f}"
                if outcome.steps
                else ", for later stages"
            )
            print(f"{outcome.best}{done}")
        return 0


def _any_keyword(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Flags as ``--model.options.<keyword> VALUE...`` as changes of the recipe, and the other arguments.

    Which keywords there are the model says; so they cannot be flags of the parser. No value is True.
    """
    found: dict[str, dict[str, list[str]]] = {"model.options": {}, "optimiser.factors": {}}
    rest: list[str] = []
    values = rest
    for argument in arguments:
        flag = re.fullmatch(r"--(model\.options|optimiser\.factors)\.([^=]+)(?:=(.*))?", argument)
        if flag:
            values = found[flag[1]][flag[2]] = [] if flag[3] is None else [flag[3]]
            continue
        if argument.startswith("--"):
            values = rest
        values.append(argument)
    options = {key.replace("-", "_"): _value(words) for key, words in found["model.options"].items()}
    factors = {key: _value(words) for key, words in found["optimiser.factors"].items()}
    return {"model": {"options": options}, "optimiser": {"factors": factors}}, rest


def _value(words: Sequence[str]) -> Any:
    values = [_scalar(word) for word in words]
    return values[0] if len(values) == 1 else values or True


def _scalar(word: str) -> int | float | bool | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(word)
    return {"true": True, "false": False}.get(word.lower(), word)
