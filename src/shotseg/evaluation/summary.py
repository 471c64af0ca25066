"""What a result says in one table; every kind of result file makes one of its content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Interval = Sequence[float] | None


@dataclass(frozen=True)
class Summary:
    """title, columns, rows: the table that is printed and stands in the report.      numbers: columns that are set flush right.
    scores: name -> value, in percent where docs/benchmarks.md says no other unit; None = nothing to measure.
    intervals: of some of them, 95 %, in the same unit.
    notes: lines of what a reader should know.      below: a line that belongs to the table.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    scores: dict[str, float | None]
    intervals: dict[str, Interval] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    notes: Sequence[str] = ()
    below: str = ""


def between(pair: Interval, digits: int = 1) -> str:
    """An interval as it stands in a table; empty where there is none."""
    return "" if pair is None else f"{pair[0]:.{digits}f} .. {pair[1]:.{digits}f}"
