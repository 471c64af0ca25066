"""Docstrings as pages show them: arguments as a list, examples as code. Griffe, which reads the sources, calls this for each."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":\w+:`~?(?:shotseg\.)?([^`]+)`")
ARGUMENT = re.compile(r"(?:^|\s{3,})([a-z_]+(?:, [a-z_]+)*):\s+(?=\S)")  # one line may name several


class Readable(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = readable(obj.docstring.value)


def readable(text: str) -> str:
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", ROLE.sub(r"`\1`", text)):
        if block.startswith(">>> "):
            code = re.sub(r"^(>>>|\.\.\.) ?|\s*# doctest:.*$", "", block, flags=re.MULTILINE)
            lines += ["```python", code, "```", ""]
        else:
            for line in block.splitlines():
                named = ARGUMENT.sub(r"\n- **\1**: ", line) if ARGUMENT.match(line) else line
                lines += named.splitlines() if ARGUMENT.match(line) else [line]
            lines.append("")
    return "\n".join(lines)
