"""Class phrases and background words, from ``words.yaml`` or a file of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from shotseg.data.images import read_bytes
from shotseg.errors import InputError

OWN = Path(__file__).with_name("words.yaml")


@dataclass(frozen=True)
class Words:
    """phrases: class name -> what to say for it.     background: what competes with the classes of a photo."""

    phrases: dict[str, str]
    background: tuple[str, ...]

    def beside(self, names: Sequence[str]) -> tuple[str, ...]:
        """The background words without those that a class name already says ("keyboard" beside "keyboard", "stop sign")."""
        said = {word.casefold() for name in names for word in (name, *name.split())}
        return tuple(word for word in self.background if word.casefold() not in said)


def read(path: str | Path = OWN) -> Words:
    """The words of a YAML file with the keys ``phrases`` and ``background``; a key that is left out is ours.

    Raises InputError (one line) for a file that is absent, not YAML, or of another form.
    """
    try:
        content = yaml.safe_load(read_bytes(path)) or {}
        phrases, background = content.pop("phrases", None), content.pop("background", None)
        if content:
            raise ValueError(f"unknown key {next(iter(content))!r}")
        if not isinstance(phrases or {}, dict) or not isinstance(background or [], list):
            raise ValueError("phrases is no mapping or background no list")
    except (yaml.YAMLError, ValueError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise InputError(
            f"{path}: not a word file ({why}); give it phrases: (name: phrase) and background: [words]"
        ) from None
    own = Words({}, ()) if path == OWN else read()
    return Words(
        own.phrases if phrases is None else {str(name): str(phrase) for name, phrase in phrases.items()},
        own.background if background is None else tuple(map(str, background)),
    )
