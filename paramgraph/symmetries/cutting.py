"""Cutting: an axis made of pieces that are whole spaces.

Cutting a space turns what depends on it into a family over its parts; `member` gives "D where K is restricted to these elements".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from paramgraph.symmetries.space import Axis, Index, Space, as_array, length
from paramgraph.symmetries.store import SpaceStore

# What an axis is restricted to: a unit and its elements, then, if they are within one part of it, that part and its elements, and so on.
Cut = tuple[tuple[Space, np.ndarray], ...]
# A piece of an axis: its positions in the result, its axis, and the cuts that it is restricted to.
Piece = tuple[np.ndarray, Axis, list[Cut]]


class Cutting(SpaceStore):
    """Pieces of axes, their unions, and members of families."""

    def pieces(self, axis: Axis, index: Index, through: bool = False) -> list[Piece]:
        """Cut an axis so that the elements `index` (distinct, in this order) are made of whole spaces.

        Args:
            through: what is only put in another order is made of relabelled factors, and cut where the order does not follow them.

        Returns:
            Pieces `(positions in the result, axis, cuts)`; `cuts` say what the piece is restricted to.
        """
        units = self.units(axis)
        index = as_array(index)
        size = length(units)
        if len(index) == size:  # the whole, perhaps in another order, is not cut
            in_order = np.array_equal(index, np.arange(size))
            if in_order or not through:
                return [(np.argsort(index), units, [])]
            if len(units) == 1:
                return [(np.arange(size), (self.union([units], [np.argsort(index)]),), [])]
        if len(units) == 1:
            return self._pieces_of_unit(units[0], index, through)
        return self._pieces_of_product(units, index, through)

    def _pieces_of_unit(self, unit: Space, index: np.ndarray, through: bool) -> list[Piece]:
        if unit.parts is None:
            self._cut_atomic(unit, index)
        if unit.factors is not None:
            return self.pieces((unit,), index, through)
        assert unit.parts is not None and unit.positions is not None
        for part, positions in zip(unit.parts, unit.positions, strict=True):
            if len(positions) == len(index) and np.array_equal(as_array(positions), index):  # one whole part: often the one just cut
                return [(np.arange(len(index)), self.units(part), [((unit, index),)])]
        owner, local = np.empty(unit.size, dtype=np.int64), np.empty(unit.size, dtype=np.int64)
        for number, positions in enumerate(unit.positions):
            where = as_array(positions)
            owner[where] = number
            local[where] = np.arange(len(where))
        out = []
        owners = owner[index]
        numbers = [int(owners[0])] if (owners == owners[0]).all() else dict.fromkeys(owners.tolist())
        for number in numbers:
            at = np.flatnonzero(owners == number)
            inside = self.units(unit.parts[number])
            for positions, axis, cuts in self.pieces(inside, local[index[at]], through):
                first: Cut = ((unit, index[at[positions]]),)
                if cuts and len(inside) == 1 and cuts[0][0][0] is inside[0]:  # a part that is cut again
                    first, cuts = first + cuts[0], cuts[1:]
                out.append((at[positions], axis, [first, *cuts]))
        return out

    def _pieces_of_product(self, units: Axis, index: np.ndarray, through: bool) -> list[Piece]:
        """Group the outer elements that select the same inner elements in the same order; recurse into the inner product."""
        outer, inner_units = units[0], units[1:]
        inner = length(inner_units)
        blocks, offsets = index // inner, index % inner
        rows: dict[int, list[int]] = {}
        for at, block in enumerate(blocks.tolist()):
            rows.setdefault(block, []).append(at)
        classes: dict[bytes, list[int]] = {}
        for block, places in rows.items():
            classes.setdefault(offsets[places].tobytes(), []).append(block)
        groups = [(offset, members) for offset, members in classes.items()]
        if through and len(groups) == 1 and len(index) == length(units) and not np.array_equal(np.sort(blocks), blocks):
            groups = [(offset, [block]) for offset, members in groups for block in members]  # no outer order gives this one: block by block
        out = []
        for offset_bytes, members in groups:
            offset = np.frombuffer(offset_bytes, dtype=np.int64)
            where = np.stack([np.asarray(rows[block]) for block in members])  # (blocks, offsets)
            for at_outer, axis_outer, cuts_outer in self.pieces((outer,), np.asarray(members), through):
                inner_axis = self.restrict(inner_units, cuts_outer)
                for at_inner, axis_inner, cuts_inner in self.pieces(inner_axis, offset, through):
                    kept = self.restrict(axis_outer, cuts_inner)
                    out.append((where[np.ix_(at_outer, at_inner)].reshape(-1), (*kept, *axis_inner), [*cuts_outer, *cuts_inner]))
        return out

    def _cut_atomic(self, unit: Space, index: np.ndarray) -> None:
        mask = np.ones(unit.size, dtype=bool)
        mask[index] = False
        rest = np.flatnonzero(mask)
        parts = []
        for where in (index, rest):
            part = self.fresh(len(where), unit.label)
            together = tuple(ids | {part.id} for ids in unit.together)
            self._set(part, pinned=unit.pinned, cause=unit.cause, together=together, uniform=unit.uniform)
            parts.append((part,))
        self._set(unit, parts=tuple(parts), positions=(index.copy(), rest))

    def assemble(self, pieces: Sequence[tuple[np.ndarray, Axis, Any]], size: int) -> Axis:
        """The axis made of pieces at given positions: the piece itself if it is alone and in order, else a union."""
        if len(pieces) == 1 and np.array_equal(pieces[0][0], np.arange(size)):
            return pieces[0][1]
        return (self.union([piece[1] for piece in pieces], [piece[0] for piece in pieces]),)

    def union(self, parts: Sequence[Axis], positions: Sequence[Index] | None = None, label: str = "cat") -> Space:
        """A space that is the disjoint union of axes, laid end to end unless `positions` says otherwise."""
        sizes = [length(part) for part in parts]
        if positions is None:
            ends = np.cumsum(sizes)
            positions = [range(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True)]
        space = self.fresh(sum(sizes), label)
        self._set(space, parts=tuple(parts), positions=tuple(positions))
        if all(unit.pinned for part in parts for unit in self.units(part)):
            self._set(space, pinned=True, cause="it is cut into parts that are fixed")
        return space

    def restrict(self, axis: Axis, cuts: Iterable[Cut]) -> Axis:
        """The axis as it is where the cut units are restricted to the given elements."""
        out = self.units(axis)
        for cut in cuts:
            out = tuple(self._at_cut(space, cut) for space in out)
        return out

    def _at_cut(self, space: Space, cut: Cut) -> Space:
        """`space` at a cut: what is restricted along a unit is not restricted along the parts of that unit as well."""
        for unit, where in cut:
            found = self.member(space, unit, where)
            if found is not space:
                return found
        return space

    def member(self, space: Space, over: Space, where: np.ndarray) -> Space:
        """`space` where `over` is restricted to the elements `where`; `space` itself if it cannot depend on `over`."""
        if space is over or self.is_fixed(space) or not self.may_depend(space, over):
            return space
        base = space if space.base is None else space.base
        assign = space.assign | {(over.id, as_array(where).tobytes())}
        found = self.members.get((base.id, assign))
        if found is None:
            found = self.fresh(space.size, space.label)
            self._set(found, base=base, assign=assign)
            self.members[(base.id, assign)] = found
        return found
