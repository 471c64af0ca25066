"""Fields of a dataclass from what YAML and JSON say of them; a wrong one is a line that names it."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from shotseg.errors import UsageError, did_you_mean

# What a value has to be, by the type of its field.
WORDS: dict[Any, str] = {
    str: "text, in quotes where it is a word such as no, on or null",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list, as [a, b]",
    dict: "`name: value` below it",
}

MOST = 1e12  # where a range has no end; infinite is no value


def check_ranges(filled: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raise UsageError for the first number outside (lowest, highest). ranges: by the field's name, as ``optimiser.lr``."""
    for name, (low, high) in ranges.items():
        value = attrgetter(name)(filled)
        several = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
        if not all(low <= number <= high for number in several):
            allowed = f"{low:g} or more" if high == MOST else f"from {low:g} to {high if high > MOST else f'{high:g}'}"
            raise UsageError(f"recipe field {name}={value}: must be {allowed}")


def built(cls: type, content: Any, where: str, prefix: str = "") -> Any:
    """A dataclass from nested mappings. prefix: of its fields, in messages. Raises UsageError that names the field."""
    if not isinstance(content, Mapping):
        raise UsageError(f"{where}: field {prefix.rstrip('.')!r} has fields of its own; give `field: value` below it")
    kinds = get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    for name in content:
        if name not in known:
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            raise UsageError(f"{where}: unknown field {prefix + str(name)!r}{hint}")
    return cls(**{name: _value(kinds[name], value, where, prefix + name) for name, value in content.items()})


def _value(kind: Any, value: Any, where: str, name: str) -> Any:
    """``value`` as the type of its field; YAML and JSON have lists for tuples and whole numbers for floats."""
    origin, of = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return built(kind, value, where, name + ".")  # type: ignore[arg-type]
    if origin is Literal and value in of:
        return value
    if origin in (Union, types.UnionType):
        lists = [option for option in of if get_origin(option) is tuple]
        if lists and isinstance(value, list | tuple):
            return _value(lists[0], value, where, name)
        if isinstance(value, tuple(option for option in of if option not in lists)):
            return value
    if origin is dict and isinstance(value, Mapping):
        given = {str(key): v for key, v in value.items() if v is not None}  # null takes out what a parent has
        return {key: _value(of[1], v, where, f"{name}.{key}") for key, v in given.items()}
    if origin is tuple and isinstance(value, list | tuple) and (Ellipsis in of or len(of) == len(value)):
        return tuple(_value(of[0], v, where, name) for v in value)
    if kind is float and (number := _number(value)) is not None:
        return number
    if kind is str and type(value) is int:
        return str(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    wanted = " or ".join(map(str, of)) if origin is Literal else WORDS.get(origin or kind, str(kind))
    raise UsageError(f"{where}: field {name!r} is {value!r}; give {wanted}")


def _number(value: Any) -> float | None:
    """YAML 1.1 reads 1e-3 as text, since it has no point."""
    try:
        return float(value) if math.isfinite(float(value)) and not isinstance(value, bool) else None
    except (TypeError, ValueError):
        return None
