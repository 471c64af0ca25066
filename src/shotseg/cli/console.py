"""What the verbs print: one line at a time, and a progress bar where a person is watching."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
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


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr, none where stderr is not a terminal; the value moves it by one."""
    done = count(1)
    with measured(title) as to:
        to(0, total)
        yield lambda: to(next(done), total)


@contextmanager
def measured(title: str) -> Iterator[Callable[[int, int], None]]:
    """The same bar for work whose length is told with its progress; the value takes (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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
