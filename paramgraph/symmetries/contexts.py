"""Contexts: what every space occurs together with, in every tensor: exactly once in all of it, or exactly once in the same axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from paramgraph.symmetries.families import Families, Forms
from paramgraph.symmetries.keys import Entry
from paramgraph.symmetries.space import Axis, Space
from paramgraph.symmetries.spaces import SpaceSystem

_NOTHING: set[Space] = set()
# For each way in which a tensor is divided into axes, the number of each unit's axis.
Cells = tuple[tuple[int, ...], ...]


class Contexts(Families):
    """Collects, for each space, the spaces that it may depend on: `on[space]`."""

    def __init__(self, system: SpaceSystem, pairing: bool = True) -> None:
        super().__init__(system)
        self.pairing = pairing
        # Axes of the tensors in which what a space depends on may be told by the axis that both stand in.
        self._paired: list[tuple[Axis, ...]] = []
        self.on: dict[Space, set[Space]] = {}
        self.read: set[Space] = set()
        # Fixed unions that became one fixed space, with what was inside them.
        self.joined: dict[Space, set[Space]] = {}
        self._families: dict[int, set[int]] = {}
        self._seen: set[tuple[Any, ...]] = set()
        self._reading = False
        self._leaves: dict[Space, list[tuple[Axis, np.ndarray]]] = {}

    def _collect(self, coarse: bool = False) -> None:
        """What occurs together in every tensor; in a coarse pass, in every tensor without parted spaces."""
        self.on = {}
        self._families = self._varying_ids()
        self._seen = set()
        self._leaves = {}
        self.read = set()
        # Tensors as products of units, each once: further rounds start from these, which only become finer.
        resolve = self.system.units
        tensors: dict[tuple[Axis, bool], Forms] = {}
        for (axis, reading), forms in self._tensors.items():
            self._add(tensors, (resolve(axis), reading), forms)
        self._tensors, self._paired = tensors, []
        for (units, reading), forms in tensors.items():
            self._reading = reading
            if not coarse or all(unit.parts is None for unit in units):
                self._visit(units, (), forms)
        if not coarse:
            self._join_fixed()

    def _cells(self, units: Sequence[Space], forms: Forms) -> Cells:
        """For each unit the number of its axis, for each way in which a tensor is divided into axes; none where that tells nothing."""
        if not forms or not self.pairing or all(len(units) <= sum(map(bool, axes)) for axes in forms):  # one space for each axis
            return ()
        divided = [tuple(self.system.units(axis) for axis in axes) for axes in forms]
        if not any(self._meet_again(axes) for axes in divided):
            return ()  # what occurs once in its axis occurs once in all of the tensor
        self._paired += divided
        return tuple(dict.fromkeys(tuple(d for d, axis in enumerate(axes) for _ in axis) for axes in divided))

    def _meet_again(self, axes: Sequence[Axis]) -> bool:
        """Whether a space is in several axes of a tensor, inside unions too."""
        seen: set[Space] = set()
        for axis in axes:
            own = self._deep(axis)
            if not seen.isdisjoint(own):
                return True
            seen |= own
        return False

    def _beside(self, units: Sequence[Space], cells: Cells, entries: Iterable[Entry]) -> Iterator[set[Space]]:
        """For each unit, what occurs exactly once in its axis, whatever the other axes hold."""
        sets = [[self._single([u for u, c in zip(units, form, strict=True) if c == d], entries) for d in range(max(form) + 1)] for form in cells]
        for i in range(len(units)):
            yield set.intersection(*(own[form[i]] for own, form in zip(sets, cells, strict=True)))

    def _single(self, axis: Sequence[Space], entries: Iterable[Entry]) -> set[Space]:
        """The spaces without parts that occur exactly once in an axis."""
        count = self._counted(axis)
        restricted = {id for id, _ in entries}
        return {unit for unit in axis if unit.parts is None and count[unit] == 1 and unit.id not in restricted}

    def _visit(self, units: Sequence[Space], entries: tuple[Entry, ...] = (), forms: Forms = None, cells: Cells = ()) -> None:
        parted = [unit for unit in dict.fromkeys(units) if unit.parts is not None]
        if not parted and not entries and len(together := set(units)) == len(units):
            if self._reading:
                self.read |= together
            for unit in units:
                found = self.on.get(unit)
                if found is None:
                    self.on[unit] = together - {unit}
                elif not found <= together:
                    found &= together
            return
        cells = self._cells(units, forms) if forms else cells
        key = (self._reading, tuple(sorted(unit.id for unit in units)), entries, cells and (tuple(unit.id for unit in units), cells))
        if key in self._seen:
            return
        self._seen.add(key)
        count = self._counted(units)
        once = self._once(units, count, entries)
        if cells:
            for unit, own in zip(units, self._beside(units, cells, entries), strict=True):
                self._meet(unit, once | own)
        else:
            for unit in units:
                self._meet(unit, once)
        for at in [units.index(unit) for unit in parted] if not cells else [i for i, unit in enumerate(units) if unit.parts is not None]:
            unit = units[at]
            others = [*units[:at], *units[at + 1 :]]
            around = [(form[at], (*form[:at], *form[at + 1 :])) for form in cells]
            beside = [[other for other, c in zip(others, left, strict=True) if c == own] for own, left in around]
            families = self._families.get(unit.id)
            expand = families is not None and count[unit] == 1 and not families.isdisjoint(self._bases(others))
            rest = None if expand else self._rest(others, entries)
            for axis, positions in self._leaves_of(unit):
                inner = self._restricted(axis, entries)
                if rest is None:
                    entry = (unit.id, np.sort(positions).astype(np.int64).tobytes())
                    kept = [self._restricted((other,), (entry,)) for other in others] if cells else [self._restricted(others, (entry,))]
                    within = tuple((*(own for _ in inner), *(c for c, held in zip(left, kept, strict=True) for _ in held)) for own, left in around)
                    self._visit([*inner, *chain.from_iterable(kept)], (*entries, entry), None, within)
                else:
                    self._visit_inside(inner, others, rest, entries, beside)

    def _counted(self, units: Sequence[Space]) -> dict[Space, int]:
        """How often each space is in some units or inside them."""
        count: dict[Space, int] = {}
        for unit in units:
            count[unit] = count.get(unit, 0) + 1
            if unit.parts is not None:
                for inner, times in self._inside(unit).items():
                    count[inner] = count.get(inner, 0) + times
        return count

    def _rest(self, units: Sequence[Space], entries: tuple[Entry, ...]) -> tuple[dict[Space, int], set[Space]]:
        """How often each space is in some units or inside them, and what occurs once."""
        count = self._counted(units)
        return count, self._once(units, count, entries)

    def _visit_inside(
        self,
        axis: Axis,
        others: Sequence[Space],
        rest: tuple[dict[Space, int], set[Space]],
        entries: tuple[Entry, ...],
        beside: Sequence[Sequence[Space]] = (),
    ) -> None:
        """Contexts of the spaces inside a part, where the rest of the tensor is the same for every part.

        Args:
            beside: those of the others that stand in the same axis of the tensor, for each way in which it is divided into axes.
        """
        count, once = rest
        own = set.intersection(*(self._single([*axis, *units], entries) for units in beside)) if beside else _NOTHING
        once = set(once)
        for unit in axis:
            if count.get(unit, 0) or axis.count(unit) > 1 or any(unit.id == id for id, _ in entries):
                once.discard(unit)
            else:
                once.add(unit)
        parted = [unit for unit in axis if unit.parts is not None]
        for unit in axis:
            if parted or count.get(unit, 0):
                self._meet(unit, {other for other in once if other.parts is None or unit not in self._inside(other)} | own)
            else:
                self._meet(unit, once | own if own else once)
        for unit in parted:
            remaining = [*axis, *others]
            remaining.remove(unit)
            around = self._rest(remaining, entries)
            near = [[*(other for other in axis if other is not unit), *units] for units in beside]
            for inner, _ in self._leaves_of(unit):
                self._visit_inside(self._restricted(inner, entries), remaining, around, entries, near)

    def _leaves_of(self, unit: Space) -> list[tuple[Axis, np.ndarray]]:
        found = self._leaves.get(unit)
        if found is None:
            found = self._leaves[unit] = self.system.leaves(unit)
        return found

    def _once(self, units: Iterable[Space], count: Mapping[Space, int], entries: Sequence[Entry]) -> set[Space]:
        """What occurs exactly once. On one part of a space, everything occurs together with that space still."""
        if not entries:
            return {unit for unit in units if count[unit] == 1}
        restricted = Counter(self.system.spaces[id] for id, _ in entries)
        single = {unit for unit in units if count[unit] == 1 and unit not in restricted}
        return single | {unit for unit, times in restricted.items() if times == 1 and unit not in count}

    def _bases(self, units: Iterable[Space]) -> set[int]:
        """Ids under which the units, and the spaces inside their parts, have families."""
        out = set()
        for unit in units:
            for space in (unit, *(self._inside(unit) if unit.parts is not None else ())):
                out.add(space.id if space.base is None else space.base.id)
        return out

    def _meet(self, unit: Space, candidates: Iterable[Space]) -> None:
        if self._reading:
            self.read.add(unit)
        found = self.on.get(unit)
        if found is None:
            self.on[unit] = {other for other in candidates if other is not unit}
        else:
            found.intersection_update(candidates)

    def _join_fixed(self) -> None:
        """A union of fixed parts on which nothing depends is one fixed space: how it was cut no longer tells anything apart."""
        system, families = self.system, self._varying_ids()
        needed: set[Space] = set()
        for unit, on in self.on.items():
            if not unit.pinned and unit.size > 1:
                needed |= on
        candidates: set[Space] = set()
        for units, _ in self._tensors:
            parted = [unit for unit in units if unit.parts is not None]
            candidates.update(parted)
            # After a coarse pass, what a space depends on may not be known yet.
            if parted and any(unit not in self.on and not system.is_fixed(unit) for unit in units):
                needed.update(parted)
        for unit in candidates:
            if unit in needed or not system.is_fixed(unit):
                continue
            inside = {unit, *self._inside(unit)}
            if inside.isdisjoint(needed) and not any(space.id in families for space in inside):
                causes = {space.cause for axis, _ in system.leaves(unit) for space in axis if space.cause}
                unit.cause = unit.cause or "; ".join(sorted(causes)) or "it is cut into single elements"
                unit.pinned, unit.parts, unit.positions = True, None, None
                self.joined[unit] = inside - {unit}
