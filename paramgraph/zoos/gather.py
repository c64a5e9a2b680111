"""The loop of all readers of single files: read, group by architecture, leave out what is damaged, and say so."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from paramgraph.errors import FileFormatError, ParamGraphError, UnknownNameError, first_line
from paramgraph.graph import ParamGraph
from paramgraph.metanets.stack import Stack
from paramgraph.zoos.growing import Growing
from paramgraph.zoos.population import Zoo
from paramgraph.zoos.progress import tracked
from paramgraph.zoos.tables import Table, columns, taken


@dataclass(frozen=True)
class Found:
    """A network in a file.

    Attributes:
        architecture: equal for networks of one architecture.
        build: gives its graph and its module; called once per architecture.
        state: the values.
        label: a number, or the name of a class; None where there are no labels.
        row: what the file says beside.
    """

    architecture: Hashable
    build: Callable[[], tuple[ParamGraph, nn.Module | None]]
    state: Mapping[str, torch.Tensor]
    label: Any = None
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Kind:
    growing: Growing
    model: nn.Module | None
    number: int


def check_on_error(on_error: str) -> None:
    """Raise unless it is one of the two."""
    if on_error not in ("raise", "skip"):
        raise UnknownNameError(f"on_error: expected 'raise' or 'skip', got {on_error!r}.")


def gather(files: Sequence[Path], table: Table, read: Callable[[Path, int], Found], on_error: str, progress: bool | None, what: str) -> Zoo:
    """A zoo of files.

    Args:
        files: one network each.
        table: what is known of them, one row per file.
        read: gives the network in a file, and raises a `ParamGraphError` if it cannot; gets the file's number too.
        on_error: what to do then.
        progress: whether to show a bar.
        what: is read, for the bar.

    Raises:
        FileFormatError: a file cannot be read, or none can.
    """
    check_on_error(on_error)
    if not files:
        raise FileFormatError("expected at least one file that meets the conditions, found none. Loosen `rows` or `where`.")
    kinds: dict[Hashable, _Kind] = {}
    failed: dict[Hashable, ParamGraphError] = {}
    places: list[tuple[int, int]] = []
    kept: list[int] = []
    labels: list[Any] = []
    rows: list[Mapping[str, Any]] = []
    skipped: list[str] = []
    for number, path in enumerate(tracked(files, f"reading {what}", progress)):
        try:
            found = read(path, number)
            if found.architecture in failed:
                raise failed[found.architecture]
            if found.architecture not in kinds:
                try:
                    graph, model = found.build()
                except ParamGraphError as error:
                    failed[found.architecture] = error
                    raise
                growing = Growing(graph)
                growing.append(found.state)  # before the architecture counts: the first network decides whether there is any
                kinds[found.architecture] = _Kind(growing, model, len(kinds))
            else:
                kinds[found.architecture].growing.append(found.state)
        except ParamGraphError as error:
            if on_error == "raise":
                raise FileFormatError(f"{path}: {error} Pass on_error='skip' to leave such files out.") from error
            skipped.append(f"{path}: {first_line(error, 300)}")
            continue
        kind = kinds[found.architecture]
        places.append((kind.number, len(kind.growing) - 1))
        kept.append(number)
        labels.append(found.label)
        rows.append(found.row)
    report(skipped, len(files), "files")
    known = taken(table, np.array(kept))
    own = {name: column for name, column in columns(rows).items() if name not in known}
    numbers, classes = numbered(labels)
    models = [kind.model for kind in kinds.values() if kind.model is not None]
    stacks: list[Stack] = [kind.growing.stack() for kind in kinds.values()]
    return Zoo(stacks, places, numbers, {**known, **own}, models if len(models) == len(stacks) else (), classes, skipped)


def report(skipped: Sequence[str], count: int, what: str) -> None:
    """Warn of what was left out.

    Raises:
        FileFormatError: nothing is left.
    """
    if skipped and len(skipped) == count:
        raise FileFormatError(f"none of {count} {what} could be read. The first, {skipped[0]}")
    if skipped:
        warnings.warn(f"{len(skipped)} of {count} {what} were left out, listed in `skipped`. The first, {skipped[0]}", stacklevel=4)


def numbered(labels: Sequence[Any]) -> tuple[torch.Tensor | None, list[str]]:
    """Labels as a tensor; names of classes become their numbers in alphabetical order.

    Raises:
        FileFormatError: some networks have labels and some do not, or labels are neither numbers nor text.
    """
    if all(label is None for label in labels):
        return None, []
    if any(label is None for label in labels):
        raise FileFormatError(f"expected a label for every network, but {sum(label is None for label in labels)} of {len(labels)} have none.")
    if any(isinstance(label, str) for label in labels):
        classes = sorted({str(label) for label in labels})
        numbers = {name: number for number, name in enumerate(classes)}
        return torch.tensor([numbers[str(label)] for label in labels]), classes
    try:
        return torch.as_tensor(np.array(labels)).to(torch.int64 if all(_whole(label) for label in labels) else torch.float32), []
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"expected labels that are numbers or text; got {type(labels[0]).__name__}.") from error


def _whole(label: Any) -> bool:
    return isinstance(label, (int, np.integer))


def as_label(text: str) -> int | float | str:
    """A label that stands in a path: a number if it is one, else the name of a class."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def label_in(path: str, pattern: str | re.Pattern[str]) -> int | float | str:
    """The label in a path, by a regular expression with one group.

    Raises:
        FileFormatError: it does not match, or has no group.
    """
    found = re.search(pattern, path)
    if found is None or not found.groups() or found.group(1) is None:
        shown = pattern if isinstance(pattern, str) else pattern.pattern
        raise FileFormatError(f"expected a label in its path by a regular expression with one group, got {shown!r}, which finds none.")
    return as_label(found.group(1))


def unlike(sizes: set[int]) -> int:
    """A batch size for example inputs that occurs nowhere in a network."""
    return next(size for size in count(5) if size not in sizes)
