"""Typed tensors as blocks: parts on which every axis is a product of atomic spaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paramgraph.symmetries.keys import Entry, Keys
from paramgraph.symmetries.space import Axis, Space, length
from paramgraph.symmetries.spaces import SpaceSystem


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
        varies, before = self._may_vary(unit.id), [entry for entry in block.entries if self._may_vary(entry[0])]
        for part, positions in self.system.leaves(unit):
            entry = (unit.id, np.sort(positions).tobytes())
            inner = self._restricted(part, before) if before else self.system.units(part)
            if varies:
                axes = [self._restricted(other, (entry,)) for other in block.axes]
                axes[dim] = (*self._restricted(axis[:at], (entry,)), *inner, *self._restricted(axis[at + 1 :], (entry,)))
            else:
                axes = list(block.axes)
                axes[dim] = (*axis[:at], *inner, *axis[at + 1 :])
            index = list(block.index)
            inside, known = positions if grid is None else grid[:, positions].reshape(-1), block.index[dim]
            index[dim] = inside if known is None else known[inside]
            out.append(Block(tuple(index), tuple(axes), (*block.entries, entry)))
        return out

    def _may_vary(self, id: int) -> bool:
        """Whether anything may be another space on each part of a space."""
        return True

    def _inside(self, unit: Space) -> Counter[Space]:
        """The spaces inside the parts of a union, at any depth, with how often each occurs."""
        changes = self.system.changes
        known = self._insides.get(unit)
        if known is not None and known[0] == changes:
            return known[1]
        out: Counter[Space] = Counter()
        for axis, _ in self.system.leaves(unit):
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
