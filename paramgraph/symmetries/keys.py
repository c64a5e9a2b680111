"""Keys of family members: a base space, restricted to parts of other spaces.

A key is a set of `(space id, positions)`, one entry per parted space that the base varies over. Different keys can say the same: along a
product, along a part of a part, or member of a member. Each is brought into one normal form, over finest parts of whole parted spaces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from paramgraph.symmetries.space import Axis, Space
from paramgraph.symmetries.spaces import SpaceSystem

Entry = tuple[int, bytes]
Assign = frozenset[Entry]


def is_empty(assign: Assign) -> bool:
    """Whether a space is restricted to no element."""
    return not all(data for _, data in assign)


class Keys:
    """The members of families of one system, by normal keys."""

    def __init__(self, system: SpaceSystem) -> None:
        self.system = system
        self._normal: set[Entry] = set()
        # Per space, the number of changes at which what is inside it was found, and that.
        self._nested: dict[int, tuple[int, set[int]]] = {}

    def _is_normal(self, entry: Entry) -> bool:
        """Whether an entry of a key is one that this solver wrote, about a space that is still one parted space."""
        space = self.system.spaces[entry[0]]
        return space.parts is not None and space.alias is None and space.factors is None and entry in self._normal

    def _normal_assign(self, assign: Assign) -> Assign | None:
        out: dict[int, np.ndarray] = {}
        if len({id for id, _ in assign}) == len(assign) and all(map(self._is_normal, assign)):  # each by itself stays as it is
            if len(assign) > 1:
                out = {id: np.frombuffer(data, dtype=np.int64) for id, data in assign}
                self._drop_nested(out)
            return assign if len(out) in (0, len(assign)) else self._kept(out)
        todo: list[tuple[Axis, np.ndarray]] = []
        for entry in assign:
            where = np.frombuffer(entry[1], dtype=np.int64)
            if self._is_normal(entry):
                out[entry[0]] = np.intersect1d(out[entry[0]], where) if entry[0] in out else where
            else:
                todo.append((self.system.units((self.system.spaces[entry[0]],)), where))
        while todo:
            units, where = todo.pop()
            sizes = [unit.size for unit in units]
            if len(units) == 1:
                sets = [where if (where[1:] > where[:-1]).all() else np.unique(where)]
            else:
                sets = [np.unique(c) for c in np.unravel_index(where, sizes)]
                if math.prod(map(len, sets)) != len(np.unique(where)):
                    return None
            for unit, elements in zip(units, sets, strict=True):
                if len(elements) == unit.size or unit.parts is None:
                    if len(elements) != unit.size:
                        return None
                    continue
                inner = self._in_product(unit, elements)
                if inner is not None:  # along the part, and along its factors
                    axis, positions, local = inner
                    elements = np.sort(positions)
                    todo.append((axis, local))
                out[unit.id] = np.intersect1d(out[unit.id], elements) if unit.id in out else elements
        if len(out) > 1:
            self._drop_nested(out)
        return self._kept(out)

    def _kept(self, elements: dict[int, np.ndarray]) -> Assign:
        result = frozenset((id, where.astype(np.int64).tobytes()) for id, where in elements.items())
        self._normal |= result
        return result

    def _in_product(self, unit: Space, elements: np.ndarray) -> tuple[Axis, np.ndarray, np.ndarray] | None:
        """The finest part in which some of its elements are, if it is a product: its units, its positions, and the elements within it."""
        if not self.system.has_products(unit):
            return None
        for axis, positions in self.system.leaves(unit):
            if len(axis) > 1 and len(elements) < len(positions) and np.isin(elements, positions).all():
                order = np.argsort(positions)
                return axis, positions, order[np.searchsorted(positions, elements, sorter=order)]
        return None

    def _drop_nested(self, assign: dict[int, np.ndarray]) -> None:
        """What is restricted along a space and along a part of that space is restricted along the space alone."""
        inside = {over: self._parted_in(self.system.spaces[over]) for over in assign}
        for inner in list(assign):
            for over in list(assign):
                if over != inner and inner in inside[over] and (where := self._place(over, inner)) is not None:
                    assign[over] = np.intersect1d(assign[over], where[assign.pop(inner)], assume_unique=True)
                    break

    def _place(self, over: int, inner: int) -> np.ndarray | None:
        """Where the elements of a parted space are in another of which it is a part, at any depth; None if it is none."""
        whole, part_of = self.system.spaces[over], self.system.spaces[inner]
        if part_of.parts is None or part_of.size > whole.size:
            return None
        stack = [(whole, np.arange(whole.size))]
        while stack:
            space, absolute = stack.pop()
            for part, positions in zip(space.parts or (), space.positions or (), strict=True):
                units = self.system.units(part)
                if len(units) == 1 and units[0].parts is not None:
                    here = absolute[np.asarray(positions)]
                    if units[0].id == inner:
                        return here
                    stack.append((units[0], here))
        return None

    def _parted_in(self, space: Space) -> set[int]:
        """Ids of the parted spaces that are parts of a space, at any depth."""
        changes, known = self._nested.get(space.id, (-1, set()))
        if changes != self.system.changes:
            known = set()
            for part in space.parts or ():
                units = self.system.units(part)
                if len(units) == 1 and units[0].parts is not None:
                    known.add(units[0].id)
                    known |= self._parted_in(units[0])
            self._nested[space.id] = self.system.changes, known
        return known

    def _at(self, space: Space, entry: Entry) -> Space:
        base = space if space.base is None else space.base
        found = self.system.members.get((base.id, space.assign | {entry}))
        return space if found is None else found

    def _restricted(self, axis: Iterable[Space], entries: Iterable[Entry]) -> Axis:
        """An axis where parted spaces are restricted to the finest parts `entries`: members in place of their families."""
        out = tuple(axis)
        for entry in entries:
            out = tuple(self._at(space, entry) for space in out)
        return self.system.units(out)
