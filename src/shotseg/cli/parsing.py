"""Arguments into a verb's dataclass, by tyro; a mistake becomes one line."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import tyro

from shotseg.errors import UsageError

Verb = TypeVar("Verb")


def parse(verb: type[Verb], arguments: Sequence[str], program: str, default: Any = None) -> Verb:
    """An instance of ``verb`` from its arguments. Raises UsageError (one line); ``--help`` prints and exits with 0.

    default: gives the fields that the arguments leave out. As its flags may be on or off, both --x and --no-x are known then.
    """
    flags = Counter(word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--"))
    if twice := [flag for flag, times in flags.items() if times > 1]:
        raise UsageError(f"{twice[0]} is given twice, of which one would be lost; give it once; see {program} --help")
    places = {f"--{f.name}".replace("_", "-") for f in fields(verb) if "Path" in str(f.type) or f.name == "query"}  # type: ignore[arg-type]
    for flag, value in [*pairwise(arguments), *(word.split("=", 1) for word in arguments if "=" in word)]:
        if flag in places and not value.strip():  # which would be the folder that the command is run in
            raise UsageError(
                f"{flag} is empty; give a path, or . for this folder (is a variable of the shell not set?)"
            )
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                verb,
                args=arguments,
                default=default,
                prog=program,
                description=inspect.getdoc(verb),
                config=() if default is not None else (tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
    raise UsageError(f"{_one_line(said.getvalue())}; see {program} --help")


def must_exist(**paths: Path | None) -> None:
    """Raise UsageError for the first flag whose file or folder is not there; None is a flag that was not given."""
    for flag, path in paths.items():
        if path is not None and not path.exists():
            raise UsageError(f"--{flag} {path}: no such file or folder; check the path")


def identity(path: Path) -> str:
    """A file by its name and its content, for the settings of a run."""
    from shotseg.data.images import sha256

    return f"{path.name} {sha256(path)[:16]}"


def _one_line(box: str) -> str:
    """What tyro's box says between its title and its rule, and the option that it suggests below."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│╭╮╰╯").rstrip() for line in box.splitlines()[1:]]
    message, _, hints = (
        re.sub(r"^ *[─-]{3,}$", "───", "\n".join(lines), flags=re.MULTILINE).strip("─\n").partition("───")
    )
    if message.strip().startswith("Missing from"):
        # The names stand first; their help text is set further in.
        below = [line for line in message.splitlines()[1:] if line.strip()]
        margin = min(len(line) - len(line.lstrip()) for line in below)
        return "missing " + ", ".join(line.split()[0] for line in below if line[margin] != " ")
    text = " ".join(message.split("Got errors:")[0].split()).rstrip(".")
    if unfit := re.match(r"Error parsing (--\S+): (no type matching|Could not find valid parse)", text):
        return f"{unfit[1]}: more or fewer values than it takes, or of another kind"
    surplus = text.partition(": ")[2].split(", ") if text.startswith("Unrecognized") else []
    if surplus and Path(surplus[0]).exists():
        return f'{surplus[0]} is one value too many; put a pattern in quotes, as --query "photos/*.jpg"'
    option = re.search(r"^ +(--[\w.-]+)", hints, re.MULTILINE)
    return f"{text}, did you mean {option[1]}?" if option and text.startswith("Unrecognized") else text
