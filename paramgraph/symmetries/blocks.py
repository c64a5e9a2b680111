"""Typed tensors as blocks: parts on which every axis is a product of atomic spaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paramgraph.symmetries.keys import Entry, Keys
from paramgraph.symmetries.space import Axis, Space, length
from paramgraph.symmetries.spaces import SpaceSystem

_NONE: set[Space] = set()


@dataclass(frozen=True)
class Block:
    """A part of a tensor on which every axis is a product of atomic spaces.

    Attributes:
        index: per axis, the positions of the block's elements along that axis of the tensor; None for all, in order.
        axes: per axis, its atomic spaces.
        entries: the finest parts that the block lies in, `(space id, positions)`.
    """

    index: tuple[np.ndarray | None, ...]
    axes: tuple[Axis, ...]
    entries: tuple[Entry, ...] = ()


class Blocks(Keys):
    """Reads the types of tensors, families resolved part by part."""

    def __init__(self, system: SpaceSystem) -> None:
        super().__init__(system)
        self._insides: dict[Space, tuple[int, Counter[Space]]] = {}
        # Blocks by axes, from when spaces no longer change.
        self._known: dict[tuple[Axis, ...], list[Block]] | None = None
        self._finest_entries: dict[Space, list[tuple[Axis, np.ndarray, Entry]]] = {}

    def blocks(self, axes: Sequence[Axis]) -> list[Block]:
        """The tensor as blocks of atomic spaces, families resolved."""
        if self._known is None:
            return self._resolved(axes)
        key = tuple(axes)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._resolved(axes)
        return found

    def _resolved(self, axes: Sequence[Axis]) -> list[Block]:
        start = Block((None,) * len(axes), tuple(self.system.units(axis) for axis in axes))
        done, todo = [], [start]
        while todo:
            block = todo.pop()
            place = next(
                ((d, i) for d, axis in enumerate(block.axes) for i, unit in enumerate(axis) if unit.parts is not None), None
            )
            if place is None:
                atomic = tuple(tuple(unit for unit in axis if unit.size > 1) for axis in block.axes)
                done.append(Block(block.index, atomic, block.entries))
                continue
            todo.extend(reversed(self._expand(block, *place)))
        return done

    def _expand(self, block: Block, dim: int, at: int) -> list[Block]:
        axis = block.axes[dim]
        unit = axis[at]
        grid = None
        if len(axis) > 1:
            grid = np.arange(length(axis)).reshape(length(axis[:at]), unit.size, length(axis[at + 1 :]))
        out = []
        bases = self._varying_over(unit.id)
        before = [entry for entry in block.entries if self._varying_over(entry[0]) != _NONE]
        # The sides of the cut axis, and which axes have anything to restrict.
        left, right = axis[:at], axis[at + 1 :]
        sides = [*block.axes, left, right] if len(axis) > 1 or len(block.axes) > 1 else []
        touched = [bases is None or any((space if space.base is None else space.base) in bases for space in side) for side in sides]
        for part, positions, entry in self._entries(unit):
            inner = self._restricted(part, before) if before else self.system.units(part)
            if not sides:
                known = block.index[0]
                out.append(Block((positions if known is None else known[positions],), (inner,), (*block.entries, entry)))
                continue
            axes = [self._restricted(side, (entry,)) if varies else side for side, varies in zip(sides, touched, strict=True)]
            axes[dim] = (*axes[-2], *inner, *axes[-1])
            del axes[-2:]
            index = list(block.index)
            inside, known = positions if grid is None else grid[:, positions].reshape(-1), block.index[dim]
            index[dim] = inside if known is None else known[inside]
            out.append(Block(tuple(index), tuple(axes), (*block.entries, entry)))
        return out

    def _varying_over(self, id: int) -> set[Space] | None:
        """The spaces that may be others on each part of a space; None if that is not known yet."""
        return None

    def _entries(self, unit: Space) -> list[tuple[Axis, np.ndarray, Entry]]:
        """The finest parts of a space, with the keys of restrictions to them."""
        found = self._finest_entries.get(unit)
        if found is None:
            found = [(part, positions, (unit.id, np.sort(positions).tobytes())) for part, positions in self.system.leaves(unit)]
            if self._known is not None:
                self._finest_entries[unit] = found
        return found

    def _inside(self, unit: Space) -> Counter[Space]:
        """The spaces inside the parts of a union, at any depth, with how often each occurs."""
        changes = self.system.changes
        known = self._insides.get(unit)
        if known is not None and known[0] == changes:
            return known[1]
        out: Counter[Space] = Counter()
        for axis in self.system.finest(unit):
            for inner in axis:
                out[inner] += 1
                if inner.parts is not None:
                    out.update(self._inside(inner))
        self._insides[unit] = changes, out
        return out

    def _deep(self, axis: Axis) -> set[Space]:
        out: set[Space] = set()
        for unit in self.system.units(axis):
            out.add(unit)
            if unit.parts is not None:
                out |= set(self._inside(unit))
        return out
