"""Arguments into a verb's dataclass, by tyro; a mistake becomes one line."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

from shotseg.errors import UsageError

Verb = TypeVar("Verb")


def parse(verb: type[Verb], arguments: Sequence[str], program: str) -> Verb:
    """An instance of ``verb`` from its arguments. Raises UsageError (one line); ``--help`` prints and exits with 0."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                verb,
                args=arguments,
                prog=program,
                description=inspect.getdoc(verb),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
    raise UsageError(f"{_one_line(said.getvalue())}; see {program} --help")


def _one_line(box: str) -> str:
    """What tyro's box says before its first rule, and the options that it suggests after it."""
    message, suggestion = [], ""
    after_rule = False
    for line in (re.sub(r"\x1b\[[0-9;]*m", "", raw).strip("│╭╮╰╯ \t") for raw in box.splitlines()[1:-1]):
        after_rule |= line.startswith("───")
        option = re.match(r"(--[\w.-]+)", line)
        if not after_rule:
            message.append(line)
        elif option and not suggestion:
            suggestion = f", did you mean {option[1]}?"
    if message and message[0].startswith("Missing from"):
        missing = [line.split()[0] for line in message[1:] if re.match(r"--|[A-Z{]", line) and line.isascii()]
        return "missing " + ", ".join(missing)
    text = " ".join(" ".join(message).split("Got errors:")[0].split())
    return text.rstrip(".") + (suggestion if "nrecognized" in text else "")
