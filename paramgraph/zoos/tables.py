"""Tables as columns: from CSV and JSON files, from rows, and the choice of rows before anything else is read."""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from paramgraph.errors import FileFormatError, UnknownNameError, first_line
from paramgraph.zoos.progress import tracked

Column = np.ndarray[Any, Any]
Table = dict[str, Column]
Where = Callable[[Table], Any]
Rows = slice | Sequence[int] | Column

# What Python would read as a number, but is a name: 007, 1_0.
_NAME = re.compile(r"^0[0-9]|_", re.MULTILINE)

# Rows that are held as text at a time.
_AT_ONCE = 20_000


def read_csv(path: Path, progress: bool | None = False) -> Table:
    """A CSV file, compressed or not, with names in its first line: numbers where a whole column is numbers, else text. Gaps are NaN, or empty.

    Args:
        path: of the file.
        progress: whether to show a bar if it takes long; None where standard error is a terminal.

    Raises:
        FileFormatError: there is no such file, or it is damaged.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    parts: dict[str, list[Column]] = {}
    try:
        with opened(path, "rt", newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            names = next(rows, [])
            if len(set(names)) != len(names):
                raise FileFormatError(f"{path}: expected a name of its own for each column, got {names}.")
            blocks = iter(lambda: list(islice(rows, _AT_ONCE)), [])
            for block in tracked(blocks, f"reading {path.name}", progress):
                for number, row in enumerate(block):
                    if len(row) != len(names):
                        where = rows.line_num - len(block) + number + 1
                        raise FileFormatError(f"{path}: expected {len(names)} fields per line, got {len(row)} in line {where}. Is the file whole?")
                for name, texts in zip(names, zip(*block, strict=True), strict=True):
                    parts.setdefault(name, []).append(_column(texts))
    except (OSError, EOFError, csv.Error, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: expected a CSV file, but it cannot be read ({first_line(error)}).") from error
    if not parts:
        raise FileFormatError(f"{path}: expected names of columns and rows, but the file is empty.")
    return {name: _joined(columns) for name, columns in parts.items()}


def _column(texts: Sequence[str]) -> Column:
    """Integers, else numbers with NaN for gaps, else text."""
    if not _NAME.search("\n".join(texts)):
        try:
            return np.array([int(text) for text in texts], np.int64)
        except (ValueError, OverflowError):
            pass
        try:
            return np.array([float(text) if text else np.nan for text in texts])
        except ValueError:
            pass
    return np.array([sys.intern(text) for text in texts], object)


def _joined(columns: Sequence[Column]) -> Column:
    if any(column.dtype == object for column in columns):
        return np.array(["" if item != item else str(item) for column in columns for item in column], dtype=object)
    return np.concatenate(columns)


def columns(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows as columns: integers, numbers, or objects as they are where a column has others. Gaps are NaN among numbers, else None."""
    names = {name: None for row in rows for name in row}
    table: Table = {}
    for name in names:
        items = [row.get(name) for row in rows]
        known = [item for item in items if item is not None]
        if all(isinstance(item, (bool, np.bool_)) for item in known) and len(known) == len(items):
            table[name] = np.array(items, bool)
        elif all(isinstance(item, (int, np.integer)) and not isinstance(item, bool) for item in known) and len(known) == len(items):
            table[name] = np.array(items)
        elif known and all(isinstance(item, (int, float, np.number)) and not isinstance(item, bool) for item in known):
            table[name] = np.array([np.nan if item is None else float(item) for item in items])
        else:
            table[name] = np.empty(len(items), object)
            table[name][:] = items
    return table


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileFormatError: there is no such file, or it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{path}: expected a JSON file, but it cannot be read ({first_line(error)}).") from error


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object, or with one per line as Ray Tune writes its results. A last line that is cut off is left away.

    Raises:
        FileFormatError: there is no such file, or it holds no objects.
    """
    try:
        text = path.read_text(encoding="utf-8")
        try:
            whole = json.loads(text)
            found = whole if isinstance(whole, list) else [whole]
        except ValueError:
            found = list(_objects(text.splitlines()))
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{path}: expected a JSON file, but it cannot be read ({first_line(error)}).") from error
    if not found or not all(isinstance(item, dict) for item in found):
        raise FileFormatError(f"{path}: expected a JSON object, or one per line.")
    return found


def _objects(lines: Sequence[str]) -> Iterator[Any]:
    for number, line in enumerate(lines):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                if number < len(lines) - 1:  # a run that was stopped while it wrote
                    raise


def flat(nested: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dots between names."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{before}{name}."))
        else:
            found[f"{before}{name}"] = value
    return found


def column_of(table: Mapping[str, Any], name: str, what: str) -> Any:
    """A column, or what a row has under its name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in table:
        raise UnknownNameError(f"expected a column {name!r} in {what}; it has {', '.join(list(table)[:30]) or 'none'}.")
    return table[name]


def chosen(count: int, table: Table, rows: Rows | None, where: Where | None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers of the rows that meet a condition, and of those the ones in `rows`.

    Args:
        count: of all rows.
        table: what is known of them.
        rows: a slice, numbers, or true and false; among those that meet the condition.
        where: gives true or false per row of the table.

    Raises:
        UnknownNameError: rows, or the condition's result, do not fit the table.
    """
    numbers = np.arange(count, dtype=np.int64)
    if where is not None:
        met = np.asarray(where(table))
        if met.dtype != bool or met.shape != (count,):
            raise UnknownNameError(f"where: expected true or false for each of {count} rows, got {met.dtype} of shape {met.shape}.")
        numbers = numbers[met]
    if rows is None:
        return numbers
    try:
        found = numbers[rows if isinstance(rows, slice) else np.asarray(rows)]
    except IndexError as error:
        raise UnknownNameError(f"rows: expected a slice, numbers, or a mask, of {len(numbers)} rows ({first_line(error)}).") from error
    if len(np.unique(found)) != len(found):
        raise UnknownNameError(f"rows: expected each row once, got {len(found) - len(np.unique(found))} of them again.")
    return found


def taken(table: Table, numbers: Column) -> Table:
    """Some rows of a table."""
    return {name: column[numbers] for name, column in table.items()}
