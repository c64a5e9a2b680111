"""What is known of a checkpoint beside it: JSON and CSV files in its folder or in one above, or a function of its path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from paramgraph.errors import FileFormatError, UnknownNameError
from paramgraph.zoos.paths import number_in
from paramgraph.zoos.tables import flat, json_lines, read_csv

Source = str | Sequence[str] | Callable[[Path], Mapping[str, Any]] | None

NAMING = ("path", "file", "filename", "name", "id")
"""Columns of CSV files that name checkpoints."""


class Metadata:
    """Finds what is known of files below a folder. Files that several checkpoints share are kept for the next ones."""

    def __init__(self, root: Path, source: Source) -> None:
        self._root = root
        self._source: Source = [source] if isinstance(source, str) else source
        self._lines = lru_cache(8)(json_lines)  # files come run by run
        self._named = cache(_named_rows)

    def __call__(self, path: Path) -> dict[str, Any]:
        """Of a file.

        Raises:
            FileFormatError: there is nothing beside it, or that is damaged, or says nothing of it.
        """
        if self._source is None:
            return {}
        if callable(self._source):
            return flat(self._source(path))
        found: dict[str, Any] = {}
        for name in self._source:
            beside = self._beside(path, name)
            if beside.name.endswith((".csv", ".csv.gz")):
                found.update(self._row(path, beside))
            else:
                found.update(flat(self._line(path, beside)))
        return found

    def _beside(self, path: Path, name: str) -> Path:
        folder = path.parent
        while True:
            if (folder / name).is_file():
                return folder / name
            if folder in (self._root, folder.parent):
                raise FileFormatError(f"expected {name} beside it or in a folder above, as far as {self._root}; there is none.")
            folder = folder.parent

    def _line(self, path: Path, beside: Path) -> dict[str, Any]:
        lines = self._lines(beside)
        if len(lines) == 1 and "training_iteration" not in lines[0]:
            return lines[0]
        number = number_in(path.relative_to(self._root).as_posix())
        found = [line for line in lines if line.get("training_iteration") == number]
        if not found:
            raise FileFormatError(f"{beside}: expected one of its {len(lines)} objects to have training_iteration {number}, as the path says.")
        return found[-1]  # a run that was resumed says some things twice

    def _row(self, path: Path, beside: Path) -> dict[str, Any]:
        rows = self._named(beside)
        inner = path.relative_to(beside.parent)
        for start in range(len(inner.parts)):
            end = Path(*inner.parts[start:])
            for name in (end.as_posix(), end.with_suffix("").as_posix()):
                if name in rows:
                    return rows[name]
        # A run's folder, for files that are called the same in all of them.
        for parent in inner.parents:
            if parent.as_posix() in rows:
                return rows[parent.as_posix()]
        raise FileFormatError(f"{beside}: expected a row for {inner.as_posix()}; there is none among {len(rows)}.")


def _named_rows(path: Path) -> dict[str, dict[str, Any]]:
    table = read_csv(path)
    naming = next((name for name in NAMING if name in table), None)
    if naming is None:
        raise UnknownNameError(f"{path}: expected a column {', '.join(NAMING[:-1])} or {NAMING[-1]} that names the files; it has {', '.join(table)}.")
    columns = {name: column.tolist() for name, column in table.items() if name != naming}
    rows: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(table[naming].tolist()):
        if str(name) in rows:
            raise FileFormatError(f"{path}: expected one row per file, but {name!r} is there twice.")
        rows[str(name)] = {column: items[number] for column, items in columns.items()}
    return rows
