"""Index spaces as scale typing needs them: concrete index sets, cut wherever two tensors are cut differently.

Typing rules are run on these spaces once more. Nothing is permuted here, so there are no families: element j of a space is the same
element wherever the space occurs. A pinned space is one along which no multiplier varies (positions of a convolution, a batch).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from paramgraph.symmetries.cutting import Cut
from paramgraph.symmetries.space import as_array, length
from paramgraph.symmetries.spaces import Axis, Space, SpaceSystem

# Fixed spaces (positions) in more parts than this are taken as whole: one multiplier for all, instead of one for each.
MOST_FIXED = 4


class ScaleSpaces(SpaceSystem):
    """Spaces without families and dependencies."""

    def may_depend(self, space: Space, on: Space) -> bool:
        return False

    def record(self, axes: Sequence[Axis], read: bool = True, stored: bool = False, paired: bool = True) -> None:
        """Which spaces occur together does not matter for multipliers."""

    def restrict(self, axis: Axis, cuts: Iterable[Cut]) -> Axis:
        return self.units(axis)

    def member(self, space: Space, over: Space, where: np.ndarray) -> Space:
        return space

    def family(self, members: Sequence[Axis], over: Space) -> Axis:
        """Axes laid beside each other are aligned element by element."""
        for member in members[1:]:
            self.unify(members[0], member)
        return members[0]

    def _is_still(self, units: Axis, others: Sequence[Space]) -> bool:
        return bool(units) and all(unit.pinned and unit.parts is None for unit in units)

    def _split_parted(self, space: Space, outer: int, inner: int) -> Axis:
        """A union seen as `outer` blocks of `inner`: blocks that lie in the same parts in the same way are one part of the outer space."""
        leaves = self.leaves(space)
        owner, local = np.empty(space.size, dtype=np.int64), np.empty(space.size, dtype=np.int64)
        for number, (_, positions) in enumerate(leaves):
            owner[positions] = number
            local[positions] = np.arange(len(positions))
        rows, places = owner.reshape(outer, inner), local.reshape(outer, inner)
        classes: dict[bytes, list[int]] = {}
        for block, row in enumerate(rows):
            key = row.tobytes() if (row == row[0]).all() else row.tobytes() + block.to_bytes(8, "little")
            classes.setdefault(key, []).append(block)
        groups = list(classes.values())
        whole = len(groups) == 1
        second = self.fresh(inner, f"{space.label}%{inner}")
        first = self.fresh(outer, f"{space.label}/{inner}")
        pieces: list[Axis] = [(first,)] if whole else [self.axis(len(blocks), first.label) for blocks in groups]
        if not whole:
            self._set(first, parts=tuple(pieces), positions=tuple(np.asarray(blocks) for blocks in groups))
        if space.pinned:
            self.pin((first, second), space.cause or "position")
        self._set(space, factors=(first, second))
        for blocks, piece in zip(groups, pieces, strict=True):
            row = rows[blocks[0]]
            owners = np.unique(row)
            if len(owners) == 1:
                self._identify(leaves[owners[0]][0], places[blocks].reshape(-1), (*piece, second))
                continue
            spans = [np.flatnonzero(row == number) for number in owners]
            parts = []
            for number, at in zip(owners, spans, strict=True):
                index = places[blocks][:, at].reshape(-1)
                parts.append(self.assemble(self.pieces(leaves[number][0], index), len(index)))
            self.unify((second,), (self.union(parts, spans, second.label),))
        return first, second


@dataclass(frozen=True, eq=False)
class AxisBlock:
    """A part of an axis that is a product of atomic spaces.

    Attributes:
        positions: of its elements along the axis, in row-major order of the atoms; None for the whole axis in order.
        atoms: the atomic spaces.
        free: numbers of the atoms along which multipliers may vary.
    """

    positions: np.ndarray | None
    atoms: Axis
    free: tuple[int, ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the atomic spaces."""
        return tuple([atom.size for atom in self.atoms])

    def where(self, size: int) -> np.ndarray:
        return np.arange(size) if self.positions is None else self.positions


@dataclass(frozen=True, eq=False)
class Layout:
    """An axis of a tensor as blocks.

    Attributes:
        size: number of elements.
        units: the spaces whose product it is.
        counts: number of blocks of each unit; the axis' blocks are their product, row-major.
        blocks: the blocks.
    """

    size: int
    units: Axis
    counts: tuple[int, ...]
    blocks: tuple[AxisBlock, ...]

    @cached_property
    def digits(self) -> tuple[tuple[int, ...], ...]:
        """Per block, the number of each unit's block."""
        return tuple(itertools.product(*map(range, self.counts)))

    @cached_property
    def numbers(self) -> dict[tuple[int, ...], int]:
        """Blocks by the number of each unit's block."""
        return {digits: number for number, digits in enumerate(self.digits)}

    @cached_property
    def owner(self) -> np.ndarray:
        """Number of each element's block."""
        out = np.empty(self.size, dtype=np.int64)
        for number, block in enumerate(self.blocks):
            out[block.where(self.size)] = number
        return out


@dataclass
class Layouts:
    """Layouts of the axes of a typed program, each made once."""

    system: ScaleSpaces
    _known: dict[Axis, Layout] = field(default_factory=dict)
    _of: dict[Axis, Layout] = field(default_factory=dict)
    _matches: dict[tuple[Layout, Layout], tuple[int, ...] | None] = field(default_factory=dict)
    _parts: dict[Space, list[tuple[np.ndarray | None, Axis]]] = field(default_factory=dict)
    _holding: dict[Any, list[tuple[list[int], bool]]] = field(default_factory=dict)

    def of(self, axis: Axis) -> Layout:
        """The layout of an axis as it is now: call when all spaces are settled."""
        known = self._of.get(axis)
        if known is not None:
            return known
        units = self.system.units(axis)
        if not all([unit.size > 1 for unit in units]):
            units = tuple([unit for unit in units if unit.size > 1])
        found = self._known.get(units)
        if found is None:
            found = self._known[units] = self._make(units)
        self._of[axis] = found
        return found

    def _make(self, units: Axis) -> Layout:
        parts = [self._blocks_of(unit) for unit in units]
        counts = tuple(map(len, parts))
        size = length(units)
        blocks = []
        for chosen in itertools.product(*parts):
            positions = _grid([where for where, _ in chosen], [unit.size for unit in units])
            atoms = tuple(atom for _, axis in chosen for atom in axis)
            blocks.append(AxisBlock(positions, atoms, tuple(i for i, atom in enumerate(atoms) if not atom.pinned)))
        return Layout(size, units, counts, tuple(blocks))

    def _blocks_of(self, unit: Space) -> list[tuple[np.ndarray | None, Axis]]:
        """A unit as blocks `(positions, atomic spaces)`, ordered by their first positions."""
        if unit.parts is None or unit.positions is None:
            return [(None, (unit,))]
        found = self._parts.get(unit)
        if found is not None:
            return found
        out: list[tuple[np.ndarray | None, Axis]] = []
        for part, positions in zip(unit.parts, unit.positions, strict=True):
            where = np.arange(positions.start, positions.stop, positions.step) if isinstance(positions, range) else np.asarray(positions)
            inside = self.of(part)
            out.extend((where if block.positions is None else where[block.positions], block.atoms) for block in inside.blocks)
        out.sort(key=lambda entry: int(entry[0].min()) if entry[0] is not None else 0)
        if len(out) == 1 and out[0][0] is not None and np.array_equal(out[0][0], np.arange(unit.size)):
            out = [(None, out[0][1])]
        if len(out) > MOST_FIXED and unit.pinned and all(atom.pinned for _, axis in out for atom in axis):
            out = [(None, self.system.axis(unit.size, unit.label, "fixed, in many parts"))]
        self._parts[unit] = out
        return out

    def match(self, a: Layout, b: Layout) -> tuple[int, ...] | None:
        """For each block of `a`, the block of `b` with the same elements in the same order; None if they are cut differently."""
        if a is b:
            return tuple(range(len(a.blocks)))
        key = (a, b)
        if key not in self._matches:
            self._matches[key] = self._compare(a, b)
        return self._matches[key]

    def holding(self, layout: Layout, source: Layout, index: range | np.ndarray) -> list[tuple[list[int], bool]]:
        """For each block of an axis whose elements are those of another at `index`, what `blocks_holding` says of it."""
        key = (layout, source, index) if isinstance(index, range) else None
        found = self._holding.get(key)
        if found is None:
            where = as_array(index)
            found = [blocks_holding(block, where if block.positions is None else where[block.positions], source) for block in layout.blocks]
            if key is not None:
                self._holding[key] = found
        return found

    @staticmethod
    def _compare(a: Layout, b: Layout) -> tuple[int, ...] | None:
        if a.size != b.size or len(a.blocks) != len(b.blocks):
            return None
        first = {int(block.where(b.size).min()): number for number, block in enumerate(b.blocks)}
        out = []
        for block in a.blocks:
            number = first.get(int(block.where(a.size).min()))
            if number is None or not same_block(block, b.blocks[number], block.where(a.size), b.blocks[number].where(b.size)):
                return None
            out.append(number)
        return tuple(out)


def same_block(a: AxisBlock, b: AxisBlock, where_a: np.ndarray, where_b: np.ndarray) -> bool:
    """Whether two blocks hold the same elements, in the same order where multipliers may vary along them."""
    if len(where_a) != len(where_b):
        return False
    if not a.free and not b.free:
        return np.array_equal(np.sort(where_a), np.sort(where_b))
    if a.free != b.free or a.sizes != b.sizes:
        return False
    return np.array_equal(where_a, where_b)


def blocks_holding(block: AxisBlock, where: np.ndarray, layout: Layout) -> tuple[list[int], bool]:
    """Which blocks of an axis hold some elements.

    Args:
        block: a block of another axis, which these elements make up in this order.
        where: their positions along the axis `layout`.

    Returns:
        The blocks' numbers, and whether the elements are one whole block in its own order.
    """
    if len(layout.blocks) == 1:
        found = [0]
    else:
        owners = layout.owner[where]
        found = [int(owners[0])] if (owners == owners[0]).all() else np.unique(owners).tolist()
    source = layout.blocks[found[0]]
    return found, len(found) == 1 and same_block(block, source, where, source.where(layout.size))


def _grid(positions: Sequence[np.ndarray | None], sizes: Sequence[int]) -> np.ndarray | None:
    """Positions in a row-major product, from those along each of its factors; None for all in order."""
    if all(where is None for where in positions):
        return None
    out: np.ndarray | None = None
    for where, size in zip(positions, sizes, strict=True):
        here = np.arange(size) if where is None else where
        if out is None:
            out = here
        else:
            out = out * size + here if len(out) == 1 else (out[:, None] * size + here).reshape(-1)
    return out
