"""A bar for what takes longer than two seconds, on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

T = TypeVar("T")
QUIET = 2.0


def tracked(items: Iterable[T], what: str, progress: bool | None = None) -> Iterator[T]:
    """The items, with a bar on standard error from two seconds on.

    Args:
        items: to go through.
        what: is done with them.
        progress: whether to show a bar; by default, where standard error is a terminal.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not (console.is_terminal if progress is None else progress):
        yield from items
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    start, total = time.perf_counter(), len(items) if isinstance(items, Sized) else None
    bar, task = None, None
    try:
        number = 0
        for number, item in enumerate(items, 1):
            if bar is None and time.perf_counter() - start > QUIET:
                columns: tuple[Any, ...] = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
                bar = Progress(*columns, console=console)
                task = bar.add_task(what, total=total)
                bar.start()
            if bar is not None and task is not None:
                bar.update(task, completed=number - 1)
            yield item
        if bar is not None and task is not None:
            bar.update(task, completed=number)
    finally:
        if bar is not None:
            bar.stop()
