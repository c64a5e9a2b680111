"""The spaces of one program: making them, what they have become, what occurs together, and undoing changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paramgraph.symmetries.space import Axis, Space, Transaction, as_array


class SpaceStore:
    """All spaces of one program. Changes can be undone with `transaction`, until it ends.

    Args:
        most_parts: nothing depends on a space of more finest parts than this; None for no such limit. It only makes groups smaller.
    """

    def __init__(self, most_parts: int | None = None) -> None:
        self.most_parts = most_parts
        self.spaces: dict[int, Space] = {}
        # Axes of every tensor, each once, and whether an operation computes with it. By these: whether its axes are paired (see `record`).
        self.tensors: dict[tuple[tuple[Axis, ...], bool], bool] = {}
        self.members: dict[tuple[int, frozenset[tuple[int, bytes]]], Space] = {}
        # Unions that were identified element by element. They keep two names: see `_merge`.
        self.twins: list[tuple[Space, Space]] = []
        # Parameters and constants: the parts of their axes stay within them.
        self.stored: list[tuple[Axis, ...]] = []
        # Axes along which the values of a constant tell parts apart.
        self.told_apart: list[Axis] = []
        # Fixed axes that were cut from, or laid together of, other fixed axes without keeping how: `(whole, parts)`.
        self.plain_cuts: list[tuple[Axis, list[Axis]]] = []
        # Spaces that were seen as products after they had been cut, with the sizes of the two factors.
        self.late: list[tuple[Space, tuple[int, int]]] = []
        # Number of changes so far.
        self.changes = 0
        self._occurring: set[frozenset[int]] = set()
        # What the changes of an open transaction replaced.
        self._trail: list[tuple[Space, str, Any]] | None = None

    def fresh(self, size: int, label: str = "", pinned: str | None = None) -> Space:
        """A new space; `pinned` gives the cause if its elements may not move."""
        space = Space(len(self.spaces), size, label)
        self.spaces[space.id] = space
        if pinned is not None:
            space.pinned, space.cause = True, pinned
        return space

    def axis(self, size: int, label: str = "", pinned: str | None = None) -> Axis:
        """A new axis of its own space; axes of size 1 have no spaces."""
        return () if size == 1 else (self.fresh(size, label, pinned),)

    def find(self, space: Space) -> Space:
        while space.alias is not None:
            space = space.alias
        return space

    def units(self, axis: Axis) -> Axis:
        """The axis as a product of atomic or parted spaces: aliases followed, products expanded."""
        for space in axis:
            if space.alias is not None or space.factors is not None:
                break
        else:
            return axis
        out: list[Space] = []
        for space in axis:
            while space.alias is not None:
                space = space.alias
            if space.factors is None:
                out.append(space)
            else:
                out += self.units(space.factors)
        return tuple(out)

    def leaves(self, space: Space) -> list[tuple[Axis, np.ndarray]]:
        """The finest parts of a unit: axes that are no single parted space, each with its elements' positions in `space`."""
        if space.parts is None or space.positions is None:
            return [((space,), np.arange(space.size))]
        out: list[tuple[Axis, np.ndarray]] = []
        for part, positions in zip(space.parts, space.positions, strict=True):
            units = self.units(part)
            where = as_array(positions)
            if len(units) == 1 and units[0].parts is not None:
                out.extend((axis, where[local]) for axis, local in self.leaves(units[0]))
            else:
                out.append((units, where))
        return out

    def finest(self, space: Space) -> list[Axis]:
        """The finest parts of a unit, as `leaves` gives them, without where they are."""
        if space.parts is None:
            return [(space,)]
        out: list[Axis] = []
        for part in space.parts:
            units = self.units(part)
            if len(units) == 1 and units[0].parts is not None:
                out += self.finest(units[0])
            else:
                out.append(units)
        return out

    def has_products(self, space: Space) -> bool:
        """Whether any of the finest parts of a unit is a product."""
        for part in space.parts or ():
            units = part if len(part) == 1 and part[0].alias is None and part[0].factors is None else self.units(part)
            if len(units) > 1 or units and units[0].parts is not None and self.has_products(units[0]):
                return True
        return False

    def holds(self, space: Space, inner: Space) -> bool:
        """Whether `inner` is somewhere inside the parts of `space`."""
        for part in space.parts or ():
            for unit in self.units(part):
                if unit is inner or self.holds(unit, inner):
                    return True
        return False

    def is_fixed(self, space: Space) -> bool:
        """Whether no element can move: pinned, single, or cut into parts that are."""
        if space.pinned or space.size == 1:
            return True
        if space.parts is None:
            return False
        return all(self.is_fixed(unit) for part in space.parts for unit in self.units(part))

    def cause(self, axis: Axis) -> str:
        """Why an axis is pinned: its own cause, or that of a part of it."""
        units = self.units(axis)
        inside = (space for unit in units if unit.parts is not None for part, _ in self.leaves(unit) for space in part)
        return next((space.cause for spaces in (units, inside) for space in spaces if space.cause), "it is cut into single elements")

    def _set(self, space: Space, **values: Any) -> None:
        self.changes += 1
        if self._trail is not None:
            self._trail.extend([(space, name, getattr(space, name)) for name in values])
        for name, value in values.items():
            setattr(space, name, value)

    def transaction(self) -> Transaction:
        """Undo every change if the body raises: a rule that fails half-way leaves nothing behind. Transactions do not nest."""
        assert self._trail is None
        trail = self._trail = []
        tensors, members, twins, plain_cuts = len(self.tensors), len(self.members), len(self.twins), len(self.plain_cuts)

        def end(failed: bool) -> None:
            self._trail = None
            if not failed:
                return
            self.changes += 1
            for space, name, value in reversed(trail):
                setattr(space, name, value)
            del self.twins[twins:]
            del self.plain_cuts[plain_cuts:]
            for key in list(self.members)[members:]:
                del self.members[key]
            for tensor in list(self.tensors)[tensors:]:
                del self.tensors[tensor]
            self._occurring.clear()

        return Transaction(end)

    def settle(self) -> None:
        """Forget what only typing needs to know; the spaces stay what they are."""
        self.tensors, self.stored, self.told_apart, self.late, self._occurring = {}, [], [], [], set()
        for space in self.spaces.values():
            space.together = ()

    def pin(self, axis: Axis, cause: str) -> None:
        """Fix every element of an axis."""
        for unit in self.units(axis):
            if unit.parts is not None:
                for part in unit.parts:
                    self.pin(part, cause)
                if not unit.pinned:
                    self._set(unit, pinned=True, cause=cause)
            elif not unit.pinned:
                self._set(unit, pinned=True, cause=cause)

    def level(self, axis: Axis) -> None:
        """Say that nothing depends on an axis: some of its elements were identified with others."""
        for unit in self.units(axis):
            for part in unit.parts or ():
                self.level(part)
            if not unit.uniform:
                self._set(unit, uniform=True)

    def record(self, axes: Sequence[Axis], read: bool = True, stored: bool = False, paired: bool = True) -> None:
        """Register a tensor (real or hidden): what occurs together in it bounds what may depend on what.

        Args:
            read: whether an operation computes with its elements; layout operations only move them.
            stored: whether it is a tensor of its own, such as a parameter.
            paired: whether a space may depend on one beside it in its axis where other axes hold that one as well.
        """
        axes = tuple(axes)
        if stored:
            self.stored.append(axes)
        known = self.tensors.get((axes, read))
        if known is not None:
            self.tensors[axes, read] = known and paired
            return
        self.tensors[axes, read] = paired
        units: list[Space] = []
        for axis in axes:
            units += self.units(axis)
        everything = frozenset([unit.id for unit in units])
        if everything in self._occurring:
            return
        self._occurring.add(everything)
        self.changes += 1
        for unit in units:
            if everything not in unit.together:
                if self._trail is not None:
                    self._trail.append((unit, "together", unit.together))
                unit.together = (*unit.together, everything)

    def is_crowded(self, over: Space) -> bool:
        """Whether a space has more finest parts than families may have."""
        return self.most_parts is not None and sum(
            len(self.leaves(unit)) if unit.parts is not None else 1 for unit in self.units((over,))) > self.most_parts

    def may_depend(self, space: Space, on: Space) -> bool:
        """False once it is certain that the permutation of `space` cannot differ between elements of `on`."""
        if on.uniform or self.is_crowded(on):
            return False
        names = on.names
        return not any(names.isdisjoint(ids) for ids in space.together)
