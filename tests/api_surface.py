"""What users hold on to: the public names with their signatures, and the flags of the command line with their defaults.

``python tests/api_surface.py`` writes them into ``api_surface.json`` beside it; a test compares: a change shows in review.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import types
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import tyro

import shotseg
from shotseg import cli

STORED = Path(__file__).with_name("api_surface.json")


def surface() -> dict[str, Any]:
    """Everything public, in the form of the stored file."""
    verbs = {name: getattr(import_module(f"shotseg.cli.{module}"), cls) for name, (module, cls, _) in cli.VERBS.items()}
    names = {name: getattr(shotseg, name) for name in sorted(shotseg.__all__) if name != "__version__"}
    return {
        "python": {key: call for name, found in names.items() for key, call in _calls(name, found)},
        "command line": {verb: dict(_flags(cls)) for verb, cls in verbs.items()},
    }


def _calls(name: str, found: Any) -> Iterator[tuple[str, list[str] | str]]:
    """A public name and, of a class, everything that can be reached with a dot."""
    if inspect.isclass(found) and issubclass(found, Exception):
        yield name, "an error"
        return
    yield name, _signature(found)
    if not inspect.isclass(found):
        return
    for part in sorted(set(dir(found)) - set(dir(object))):
        member = inspect.getattr_static(found, part)
        if part.startswith("_"):
            continue
        if isinstance(member, property | functools.cached_property):
            read = member.fget if isinstance(member, property) else member.func
            yield f"{name}.{part}", _annotation(inspect.signature(read).return_annotation)
        elif callable(getattr(found, part)):
            yield f"{name}.{part}", _signature(getattr(found, part))


def _signature(call: Any) -> list[str]:
    """One line a parameter, and what comes back; "*" stands before those that must be named."""
    signature, lines = inspect.signature(call), []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not any(line.startswith("*") for line in lines):
            lines.append("*")
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        said = "" if parameter.annotation is parameter.empty else f": {_annotation(parameter.annotation)}"
        default = "" if parameter.default is parameter.empty else f" = {_value(parameter.default)}"
        lines.append(f"{star}{parameter.name}{said}{default}")
    back = signature.return_annotation
    return lines + ([] if inspect.isclass(call) or back is signature.empty else [f"-> {_annotation(back)}"])


def _flags(verb: type, prefix: str = "", default: Any = None) -> Iterator[tuple[str, str]]:
    """The flags of a verb's dataclass and of those in it: name -> type and default."""
    hints = typing.get_type_hints(verb, include_extras=True)
    for field in dataclasses.fields(verb):
        kind, marks = hints[field.name], ()
        if typing.get_origin(kind) is typing.Annotated:
            kind, *marks = typing.get_args(kind)
        own = next((mark.name for mark in marks if getattr(mark, "name", None) is not None), field.name)
        value = _default(field) if default is None else getattr(default, field.name)
        if dataclasses.is_dataclass(kind):
            yield from _flags(kind, f"{prefix}{own}." if own else prefix, value)  # type: ignore[arg-type]
            continue
        within = "" if any(getattr(mark, "prefix_name", None) is False for mark in marks) else prefix
        flag = own.upper() if tyro.conf.Positional in marks else f"--{within}{own}".replace("_", "-")
        yield flag, _type(kind) + ("" if value is dataclasses.MISSING else f" = {_value(value)}")


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _annotation(said: Any) -> str:
    return said if isinstance(said, str) else _type(said)


def _type(kind: Any) -> str:
    """A type as it is written, the same in every version of Python."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_type, arguments))
    if origin is typing.Literal:
        return " | ".join(map(repr, arguments))
    if arguments:
        return f"{_type(origin)}[{', '.join(map(_type, arguments))}]"
    return {type(None): "None", ...: "..."}.get(kind) or getattr(kind, "__name__", str(kind))


def _value(default: Any) -> str:
    return str(default) if isinstance(default, Path) else repr(default)


if __name__ == "__main__":
    STORED.write_text(json.dumps(surface(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{STORED} written")
