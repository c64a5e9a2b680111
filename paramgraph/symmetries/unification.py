"""Unification: two axes made the same, split into factors and cut into parts as far as needed."""

from __future__ import annotations

import math

import numpy as np

from paramgraph.symmetries.cutting import Cutting
from paramgraph.symmetries.space import Axis, Misaligned, Space, length


class Unification(Cutting):
    """Making axes the same, and spaces into products."""

    def unify(self, a: Axis, b: Axis) -> None:
        """Make two axes of one length the same, splitting and cutting both as far as needed.

        Raises:
            Misaligned: their lengths differ.
        """
        if length(a) != length(b):
            raise Misaligned(f"lengths {length(a)} and {length(b)} differ")
        left, right = list(reversed(a)), list(reversed(b))
        while left or right:
            x, y = self._top(left), self._top(right)
            if x is None or y is None:
                break
            if x is y:
                left.pop(), right.pop()
            elif x.size == y.size:
                left.pop(), right.pop()
                self._merge(x, y)
            elif (common := math.gcd(x.size, y.size)) > 1:
                if x.size != common:
                    self._split_top(left, x, common)
                if y.size != common:
                    self._split_top(right, y, common)
            else:
                self._unify_cells(left, right)

    def _unify_cells(self, left: list[Space], right: list[Space]) -> None:
        """Identify two products whose boundaries do not meet: both are cut at the common refinement."""
        runs: tuple[list[Space], list[Space]] = ([], [])
        sizes = [1, 1]
        while sizes[0] != sizes[1] or not runs[0]:
            side = int(sizes[1] < sizes[0])
            top = self._top((left, right)[side])
            if top is None:
                raise Misaligned("axes of different lengths")
            (left, right)[side].pop()
            runs[side].append(top)
            sizes[side] *= top.size
        inner = sizes[0] // runs[1][0].size
        for block in range(runs[1][0].size):
            index = np.arange(block * inner, (block + 1) * inner)
            a, b = (self.assemble(self.pieces(tuple(run), index), inner) for run in runs)
            self.unify(a, b)

    def _top(self, stack: list[Space]) -> Space | None:
        while stack:
            space = self.find(stack.pop())
            if space.factors is not None:
                stack.extend(reversed(space.factors))
            elif space.size > 1:
                stack.append(space)
                return space
        return None

    def _split_top(self, stack: list[Space], space: Space, outer: int) -> None:
        if space.size % outer:
            raise Misaligned(f"{space.size} does not split into blocks of {outer}")
        stack.pop()
        stack.extend(reversed(self.split(space, outer, space.size // outer)))

    def split(self, space: Space, outer: int, inner: int) -> Axis:
        """Turn a unit into a product of two spaces of sizes `outer` and `inner`."""
        if space.parts is not None:
            return self._split_parted(space, outer, inner)
        label = space.label
        first, second = self.fresh(outer, f"{label}/{inner}"), self.fresh(inner, f"{label}%{inner}")
        self._inherit_factors(space, first, second)
        return first, second

    def _inherit_factors(self, space: Space, first: Space, second: Space) -> None:
        for factor in (first, second):
            self._set(factor, names=factor.names | space.names, together=space.together, uniform=space.uniform)
            if space.pinned:
                self._set(factor, pinned=True, cause=space.cause)
        self._set(space, factors=(first, second))

    def _split_parted(self, space: Space, outer: int, inner: int) -> Axis:
        """A union seen as `outer` blocks of `inner`: the blocks are cut where the union's boundaries fall.

        Blocks that lie in the same parts in the same way form one part of the outer space; within it the inner space is a family
        member, itself a union where a boundary falls inside a block.
        """
        self.late.append((space, (outer, inner)))
        leaves = self.leaves(space)
        owner = np.empty(space.size, dtype=np.int64)
        local = np.empty(space.size, dtype=np.int64)
        for number, (_, positions) in enumerate(leaves):
            owner[positions] = number
            local[positions] = np.arange(len(positions))
        classes: dict[bytes, list[int]] = {}
        for block, row in enumerate(owner.reshape(outer, inner)):
            classes.setdefault(row.tobytes(), []).append(block)
        rows = local.reshape(outer, inner)
        first, second = self.fresh(outer, f"{space.label}/{inner}"), self.fresh(inner, f"{space.label}%{inner}")
        groups = [(np.frombuffer(row, dtype=np.int64), blocks) for row, blocks in classes.items()]
        whole = len(groups) == 1
        pieces: list[Axis] = [(first,)] if whole else [self.axis(len(blocks), first.label) for _, blocks in groups]
        if not whole:
            self._set(first, parts=tuple(pieces), positions=tuple(np.asarray(blocks) for _, blocks in groups))
        todo = []
        for (row, blocks), piece in zip(groups, pieces, strict=True):
            where = np.asarray(blocks)
            inner_axis: Axis = (second,) if whole else (self._new_member(second, first, where),)
            owners = np.unique(row)
            if len(owners) == 1:
                axis = leaves[owners[0]][0]
                todo.append((axis, rows[where].reshape(-1), (*piece, *inner_axis)))
            else:
                parts: list[Axis] = []
                places: list[np.ndarray] = []
                for number in owners:
                    at = np.flatnonzero(row == number)
                    part = self.axis(len(at), second.label)
                    parts.append(part)
                    places.append(at)
                    todo.append((leaves[number][0], rows[where][:, at].reshape(-1), (*piece, *part)))
                member = self.find(inner_axis[0])
                self._set(member, parts=tuple(parts), positions=tuple(places))
        self._inherit_factors(space, first, second)
        if space.pinned:
            self.pin((first, second), space.cause or "")
        for axis, index, target in todo:
            self._identify(axis, index, target)
        return first, second

    def _identify(self, axis: Axis, index: np.ndarray, target: Axis) -> None:
        """Make elements of an axis, in some order, the same as a product."""
        if len(axis) == 1 and len(index) == axis[0].size:  # a relabelling: the axis is the product in another order
            self.unify(axis, self.assemble(self.pieces(target, np.argsort(index)), len(index)))
        else:
            self.unify(self.assemble(self.pieces(axis, index, through=True), len(index)), target)

    def _new_member(self, space: Space, over: Space, where: np.ndarray) -> Space:
        member = self.fresh(space.size, space.label)
        key = frozenset({(over.id, where.astype(np.int64).tobytes())})
        self._set(member, base=space, assign=key, names=member.names)
        self.members[(space.id, key)] = member
        return member

    def _merge(self, x: Space, y: Space) -> None:
        """Identify two units of one size."""
        if x.parts is not None and y.parts is None:
            x, y = y, x
        if x.parts is None:  # x is atomic: it becomes a name of y, unless y is a relabelling of x itself
            if y.parts is not None and self.holds(y, x):
                self._merge_relabelled(x, y)
                return
            if y.parts is not None and self._merge_own_member(x, y):
                return
            if y.parts is None and y.base is not None and x.base is None:
                x, y = y, x
            self._alias(x, y)
            if x.pinned:
                self.pin((y,), x.cause or "")
            return
        left, right = self.leaves(x), self.leaves(y)
        maps = []
        for leaves, size in ((left, x.size), (right, y.size)):
            owner, local = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
            for number, (_, positions) in enumerate(leaves):
                owner[positions] = number
                local[positions] = np.arange(len(positions))
            maps.append((owner, local))
        (owner_x, local_x), (owner_y, local_y) = maps
        pairs, where = np.unique(np.stack([owner_x, owner_y]), axis=1, return_inverse=True)
        for number, (i, j) in enumerate(pairs.T):
            at = np.flatnonzero(where.reshape(-1) == number)
            at = at[np.argsort(local_x[at])]  # a part that is taken whole is taken in its own order: no relabelling is made
            a, b = left[i][0], right[j][0]
            index_a, index_b = local_x[at], local_y[at]
            if self.units(a) == self.units(b):
                self._pin_moved(a, index_a, index_b)
                continue
            taken_a = self.assemble(self.pieces(a, index_a), len(at))
            taken_b = self.assemble(self.pieces(b, index_b), len(at))
            self.unify(taken_a, taken_b)
        if x.pinned or y.pinned:
            self.pin((y,), x.cause or y.cause or "")
            self.pin((x,), x.cause or y.cause or "")
        # Unions whose parts agree stay two spaces: one name for both would let what depends on one seem to depend on the other,
        # wherever one is made of rearranged parts of the other.
        self.twins.append((x, y))

    def _alias(self, x: Space, y: Space) -> None:
        together = tuple(dict.fromkeys(y.together + x.together)) if x.together and y.together else y.together or x.together
        self._set(y, names=y.names | x.names, together=together)
        if x.uniform:
            self.level((y,))
        self._set(x, alias=y)

    def _merge_relabelled(self, x: Space, y: Space) -> None:
        (axis, positions), *_ = self.leaves(y)
        if len(positions) == x.size and tuple(unit for unit in self.units(axis) if unit.size > 1) == (x,):
            local = np.empty(x.size, dtype=np.int64)
            local[positions] = np.arange(x.size)
            self._pin_moved((x,), np.arange(x.size), local)
        else:
            self.pin((x,), "a space was identified with a rearrangement of a product that contains it")
            self.level((y,))

    def _merge_own_member(self, x: Space, y: Space) -> bool:
        """Identify a space with a relabelling of its own family's member: what is moved is fixed.

        Else the space would be made of its own member, and that of a member of a member, without end.
        """
        (leaf, positions), *others = self.leaves(y)
        axis = tuple(space for space in leaf if space.size > 1)
        if others or len(axis) != 1 or axis[0].base is None or self.find(axis[0].base) is not x:
            return False
        self._pin_moved((x,), np.arange(x.size), np.argsort(positions))
        self.unify(axis, (x,))
        self._alias(y, x)
        return True

    def _pin_moved(self, axis: Axis, a: np.ndarray, b: np.ndarray) -> None:
        """Elements a[i] and b[i] of one axis were identified: those that differ are fixed."""
        moved = np.unique(np.concatenate([a[a != b], b[a != b]]))
        if len(moved):
            self.level(axis)
            cause = "identified with a rearrangement of itself"
            self.pin(self.assemble(self.pieces(axis, moved), len(moved)), cause)
