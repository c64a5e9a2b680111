"""Contexts: what every space occurs together with, exactly once, in every tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from paramgraph.symmetries.families import Families
from paramgraph.symmetries.keys import Entry
from paramgraph.symmetries.space import Axis, Space
from paramgraph.symmetries.spaces import SpaceSystem


class Contexts(Families):
    """Collects, for each space, the spaces that it may depend on: `on[space]`."""

    def __init__(self, system: SpaceSystem) -> None:
        super().__init__(system)
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
        self._tensors = list(dict.fromkeys([(resolve(axis), reading) for axis, reading in self._tensors]))
        for units, reading in self._tensors:
            self._reading = reading
            if not coarse or all(unit.parts is None for unit in units):
                self._visit(units)
        if not coarse:
            self._join_fixed()

    def _visit(self, units: Sequence[Space], entries: tuple[Entry, ...] = ()) -> None:
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
        key = (self._reading, tuple(sorted(unit.id for unit in units)), entries)
        if key in self._seen:
            return
        self._seen.add(key)
        count = Counter(units)
        for unit in units if parted else ():
            if unit.parts is not None:
                count.update(self._inside(unit))
        once = self._once(units, count, entries)
        for unit in units:
            self._meet(unit, once)
        for unit in parted:
            others = list(units)
            others.remove(unit)
            families = self._families.get(unit.id)
            expand = families is not None and count[unit] == 1 and not families.isdisjoint(self._bases(others))
            rest = None if expand else self._rest(others, entries)
            for axis, positions in self._leaves_of(unit):
                inner = self._restricted(axis, entries)
                if rest is None:
                    entry = (unit.id, np.sort(positions).astype(np.int64).tobytes())
                    self._visit([*inner, *self._restricted(others, (entry,))], (*entries, entry))
                else:
                    self._visit_inside(inner, others, rest, entries)

    def _rest(self, units: Sequence[Space], entries: tuple[Entry, ...]) -> tuple[Counter[Space], set[Space]]:
        """How often each space is in some units or inside them, and what occurs once."""
        count = Counter(units)
        for unit in units:
            if unit.parts is not None:
                count.update(self._inside(unit))
        return count, self._once(units, count, entries)

    def _visit_inside(self, axis: Axis, others: Sequence[Space], rest: tuple[Counter[Space], set[Space]], entries: tuple[Entry, ...]) -> None:
        """Contexts of the spaces inside a part, where the rest of the tensor is the same for every part."""
        count, once = rest
        once = set(once)
        for unit in axis:
            if count.get(unit, 0) or axis.count(unit) > 1 or any(unit.id == id for id, _ in entries):
                once.discard(unit)
            else:
                once.add(unit)
        parted = [unit for unit in axis if unit.parts is not None]
        for unit in axis:
            if parted or count.get(unit, 0):
                self._meet(unit, {other for other in once if other.parts is None or unit not in self._inside(other)})
            else:
                self._meet(unit, once)
        for unit in parted:
            remaining = [*axis, *others]
            remaining.remove(unit)
            beside = self._rest(remaining, entries)
            for inner, _ in self._leaves_of(unit):
                self._visit_inside(self._restricted(inner, entries), remaining, beside, entries)

    def _leaves_of(self, unit: Space) -> list[tuple[Axis, np.ndarray]]:
        found = self._leaves.get(unit)
        if found is None:
            found = self._leaves[unit] = self.system.leaves(unit)
        return found

    def _once(self, units: Iterable[Space], count: Counter[Space], entries: Iterable[Entry]) -> set[Space]:
        """What occurs exactly once. On one part of a space, everything occurs together with that space still."""
        restricted = Counter(self.system.spaces[id] for id, _ in entries)
        single = {unit for unit in units if count[unit] == 1 and unit not in restricted}
        return single | {unit for unit, times in restricted.items() if times == 1 and not count[unit]}

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
