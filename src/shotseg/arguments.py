"""What a call is given, held against what it says that it takes: a value of another kind is one line, before any work.

Only annotations that are made of the words below are looked at; whatever else a call takes it checks itself. Numbers and lists
of NumPy and torch arrive as Python's own, so that all that is made of them can be written as JSON.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar, cast

from shotseg.errors import UsageError, did_you_mean

Call = TypeVar("Call", bound=Callable[..., Any])
Kind = tuple[str, Callable[[Any], bool]]  # how a message calls it, and whether a value is one


def _all(kind: Any) -> Callable[[Any], bool]:
    return lambda value: _is_list(value) and all(isinstance(each, kind) for each in value)


def _is_list(value: Any) -> bool:
    return hasattr(value, "__len__") and isinstance(value, Iterable) and not isinstance(value, str | bytes)


KINDS: dict[str, Kind] = {  # by the word of an annotation
    "str": ("text", lambda value: isinstance(value, str)),
    "Path": ("a path", lambda value: isinstance(value, os.PathLike)),
    "int": ("a whole number", lambda value: isinstance(value, Integral) and not isinstance(value, bool)),
    "float": ("a number", lambda value: isinstance(value, Real) and not isinstance(value, bool)),
    "bool": ("True or False", lambda value: type(value).__name__ in ("bool", "bool_")),
    "None": ("None", lambda value: value is None),
    "Sequence[str]": ("a list of texts", _all(str)),
    "dict[str, Any]": ("names with values", lambda value: isinstance(value, Mapping)),
    "Sequence[int]": ("a list of whole numbers", _all(Integral)),
}


def checked(call: Call) -> Call:
    """The call, which first looks at what it is given: see :func:`check`. Also a decorator."""

    @functools.wraps(call)
    def held(*given: Any, **named: Any) -> Any:
        given, named = tuple(map(plain, given)), {name: plain(value) for name, value in named.items()}
        check(call, *given, **named)
        return call(*given, **named)

    return cast(Call, held)


def plain(value: Any) -> Any:
    """A number, text or truth value of NumPy, and a list of them, as Python's own; anything else as it is.

    A list of whole numbers may also be an array or tensor (N,). Other arrays are photos and masks, and stay.
    """
    if type(value) in (list, tuple):
        return type(value)(map(plain, value)) if any(_is_foreign(each) for each in value) else value
    return value.tolist() if _is_foreign(value) else value


def _is_foreign(value: Any) -> bool:
    sides, kind = getattr(value, "ndim", None), getattr(getattr(value, "dtype", None), "kind", "i")
    return hasattr(value, "dtype") and (sides == 0 or (sides == 1 and kind in "iU")) and hasattr(value, "tolist")


def check(call: Callable[..., Any], *given: Any, **named: Any) -> None:
    """Raise UsageError for the first value that is of another kind than its parameter's annotation says."""
    try:
        asked = inspect.signature(call).bind_partial(*given, **named).arguments
    except TypeError as error:
        known = inspect.signature(call).parameters
        if near := next((near for name in named if name not in known and (near := did_you_mean(name, known))), ""):
            raise TypeError(f"{call.__qualname__}: {error}{near}") from None
        return  # too many, or a name like none: the call itself says so
    for name, value in asked.items():
        kinds = _kinds(call).get(name, ())
        if kinds and not any(fits(value) for _, fits in kinds):
            wanted = " or ".join(word for word, _ in kinds)
            raise UsageError(f"{name} {_shown(value)}: of type {type(value).__name__}; give {wanted}")


@functools.cache
def _kinds(call: Callable[..., Any]) -> dict[str, list[Kind]]:
    """Of each parameter whose annotation is made of known words, what it may be."""
    found = {}
    for name, parameter in inspect.signature(call).parameters.items():
        said = parameter.annotation
        words = [word.strip() for word in (said if isinstance(said, str) else getattr(said, "__name__", "")).split("|")]
        kinds = [_one_of(word) if word.startswith("Literal[") else KINDS.get(word) for word in words]
        if None not in kinds and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            found[name] = cast(list[Kind], kinds)
    return found


def _one_of(literal: str) -> Kind:
    values = ast.literal_eval(f"({literal.removeprefix('Literal[')[:-1]},)")
    return f"one of {', '.join(map(str, values))}", lambda value: isinstance(value, str | int) and value in values


def _shown(value: Any) -> str:
    """A value in one short line."""
    return " ".join(repr(value).split())[:60]
