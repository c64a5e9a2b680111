"""What the commands share: consoles, and a line that says what is going on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

out = Console()
"""Results go to standard output."""

err = Console(stderr=True)
"""Progress and errors go to standard error, so that results can be piped."""


def show_error(error: Exception) -> None:
    """Print an error's message, without a traceback."""
    err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show that something is going on, and then how long it took."""
    start = time.perf_counter()
    with err.status(what):
        yield
    err.print(f"{what} [dim]{time.perf_counter() - start:.1f} s[/]", highlight=False)


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a progress bar; gives the function `(done, total, what)` that moves it."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(what, total=None)

        def move(done: int, total: int, now: str) -> None:
            progress.update(task, completed=done, total=total, description=f"{what}: {escape(now)[:60]}")

        yield move
        progress.update(task, description=what)
