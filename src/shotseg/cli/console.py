"""What the verbs print: one line at a time, and a progress bar where a person is watching."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from shotseg.errors import LeftOutWarning


def say(line: str) -> None:
    """One line on stderr."""
    print(" ".join(line.split()), file=sys.stderr)


@contextmanager
def left_out() -> Iterator[list[str]]:
    """The lines about annotations that cannot be used, which are still said as they come."""
    lines: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def keep(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, LeftOutWarning):
                lines.append(str(message))
            show(message, category, *place)

        warnings.showwarning = keep  # type: ignore[assignment]
        yield lines


class Bar:
    """Moved by one by a call; ``part`` tells how far the work on one of many is, in a second bar while that takes long."""

    def __init__(self, bars: Any, title: str, total: int):
        self._bars, self._whole = bars, bars.add_task(title, total=total)
        self._part: Any = None

    def __call__(self) -> None:
        self._bars.advance(self._whole)

    def part(self, title: str, done: int, total: int) -> None:
        if self._part is None:
            self._part = self._bars.add_task(title)
        self._bars.update(self._part, description=title, completed=done, total=total, visible=done < total)


@contextmanager
def progress(title: str, total: int) -> Iterator[Bar]:
    """A bar on stderr, none where stderr is not a terminal."""
    with _bars() as bars:
        yield Bar(bars, title, total)


@contextmanager
def measured(title: str) -> Iterator[Callable[[int, int], None]]:
    """The same for work whose length is told with its progress; the value takes (done, total)."""
    with _bars() as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[str] = ()) -> None:
    """A table on stdout; ``numbers``: the columns that are set flush right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a pipe has no width: do not break the lines of a script that reads them
    grid = Table(title=title or None, title_justify="left")
    for column in columns:
        grid.add_column(column, justify="right" if column in numbers else "left")
    for row in rows:
        grid.add_row(*map(escape, row))
    console.print(grid)
