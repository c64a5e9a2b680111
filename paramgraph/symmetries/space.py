"""An index space, and axes as products of spaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Axis = tuple["Space", ...]
Index = np.ndarray | range


class Space:
    """An index set of `size` elements. Compare by identity, after `SpaceSystem.units`."""

    __slots__ = ("alias", "assign", "base", "cause", "factors", "id", "label", "names", "parts", "pinned", "positions", "size", "together", "uniform")

    def __init__(self, id: int, size: int, label: str) -> None:
        self.id = id
        self.size = size
        self.label = label
        self.alias: Space | None = None
        self.factors: Axis | None = None
        # A union of parts: part j holds the elements positions[j] of this space, in that order.
        self.parts: tuple[Axis, ...] | None = None
        self.positions: tuple[Index, ...] | None = None
        self.pinned = False
        self.cause: str | None = None
        # Whether different elements were identified: then nothing can depend on which element it is.
        self.uniform = False
        # A family member: `base` restricted to `assign`, a set of (space id, positions as bytes).
        self.base: Space | None = None
        self.assign: frozenset[tuple[int, bytes]] = frozenset()
        # Ids that this space answers to (aliases and the spaces it is a factor of); for each tensor that it occurs in, the ids of what
        # occurs there. Sets are kept apart, not intersected: what is two spaces now may be one when all axes are unified.
        self.names: frozenset[int] = frozenset((id,))
        self.together: tuple[frozenset[int], ...] = ()

    def __repr__(self) -> str:
        mark = "!" if self.pinned else ""
        return f"{self.label or 's'}#{self.id}:{self.size}{mark}"


class Unsettled(Exception):
    """The dependencies of a program could not be solved; the caller falls back to the trivial group and says so."""


class Misaligned(Exception):
    """Two axes cannot be cut into common factors; the caller pins them and says so."""


def as_array(index: Index) -> np.ndarray:
    """Positions as an array; a range is laid out without going through its elements one by one."""
    return np.arange(index.start, index.stop, index.step) if isinstance(index, range) else np.asarray(index, dtype=np.int64)


def length(axis: Axis) -> int:
    """Number of elements of an axis."""
    out = 1
    for space in axis:
        out *= space.size
    return out


class Transaction:
    """A context that calls `end` when its body ends, with whether it failed. One is made for each operation: a generator would cost more."""

    __slots__ = ("_end",)

    def __init__(self, end: Callable[[bool], None]) -> None:
        self._end = end

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, *_: object) -> None:
        self._end(kind is not None)


def common_ends(before: Sequence[Space], after: Sequence[Space]) -> tuple[int, int]:
    """How many spaces two products have in common at their beginnings, and at their ends beyond those."""
    least = min(len(before), len(after))
    first = next((i for i in range(least) if before[i] is not after[i]), least)
    last = next((i for i in range(least - first) if before[-1 - i] is not after[-1 - i]), least - first)
    return first, last
