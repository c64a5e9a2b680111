"""Index spaces and their unification: the state that permutation typing works on.

An axis of a tensor is a row-major product of spaces: a tuple of `Space`. A space is atomic, or an alias of another, or a product of
factors (after a reshape split it), or a union of parts (after an operation cut it, or a concatenation made it). What a space is only
becomes finer while a program is typed, so axes are stored as they were and resolved when read.

Spaces in one tensor may depend on each other (the permutation of one may differ for each element of another). Cutting a space K
turns each space D that may depend on K into a family: `member` gives "D where K is restricted to these elements". Members are
merged again by `paramgraph.symmetries.dependencies` when it turns out that D does not depend on K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from paramgraph.symmetries.space import Axis, Index, Misaligned, Space, Transaction, Unsettled, as_array, length
from paramgraph.symmetries.unification import Unification

__all__ = ["Axis", "Misaligned", "Space", "SpaceSystem", "Transaction", "Unsettled", "as_array", "length"]


class SpaceSystem(Unification):
    """All spaces of one program, with the operations that typing rules use: unify, take, concat, reshape."""

    def family(self, members: Sequence[Axis], over: Space) -> Axis:
        """An axis that is `members[j]` on part j of the union `over`."""
        first = members[0]
        if all(self.units(member) == self.units(first) for member in members):
            return first
        size = length(first)
        assert over.positions is not None
        if self.is_crowded(over) or all(self.is_fixed(unit) for member in members for unit in self.units(member)):
            for member in members[1:]:
                try:
                    self.unify(first, member)
                except Misaligned:
                    return self.axis(size, "fixed", "fixed parts of different shape")
            return first
        space = self.fresh(size, "family")
        for member, where in zip(members, over.positions, strict=True):
            key = frozenset({(over.id, as_array(where).tobytes())})
            proxy = self.fresh(size, "family")
            self._set(proxy, base=space, assign=key)
            self.members[(space.id, key)] = proxy
            self.unify((proxy,), member)
        return (space,)

    def take(self, axes: Sequence[Axis], dim: int, index: Index, alone: bool = False) -> list[Axis]:
        """The axes of `tensor.index_select(dim, index)` for distinct constant indices.

        Args:
            alone: the other axes are known not to depend on the cut one.
        """
        if alone:
            cut = self.assemble(self.pieces(axes[dim], index), len(index))
            return [cut if d == dim else axis for d, axis in enumerate(axes)]
        if self._is_plain(axes, dim):
            part = self.axis(len(index), "position", self.cause(axes[dim]))
            self.plain_cuts.append((axes[dim], [part]))
            return [part if d == dim else axis for d, axis in enumerate(axes)]
        pieces = self.pieces(axes[dim], index)
        size = len(index)
        if len(pieces) == 1 and np.array_equal(pieces[0][0], np.arange(size)):
            _, axis, cuts = pieces[0]
            return [axis if d == dim else self.restrict(other, cuts) for d, other in enumerate(axes)]
        joined = self.union([axis for _, axis, _ in pieces], [positions for positions, _, _ in pieces])
        out: list[Axis] = []
        for d, other in enumerate(axes):
            if d == dim:
                out.append((joined,))
            else:
                out.append(self.family([self.restrict(other, cuts) for _, _, cuts in pieces], joined))
        return out

    def _is_plain(self, axes: Sequence[Axis], dim: int) -> bool:
        """Whether an axis is fixed and nothing in the tensor can depend on it: then how it is cut tells nothing apart."""
        return self._is_still(self.units(axes[dim]), [unit for d, axis in enumerate(axes) if d != dim for unit in self.units(axis)])

    def _is_still(self, units: Axis, others: Sequence[Space]) -> bool:
        """Whether some units are fixed, and no other of their tensor can depend on them."""
        if not all(unit.pinned for unit in units):
            return False
        return not any(self.may_depend(other, unit) for other in others if not other.pinned for unit in units)

    def concat(self, tensors: Sequence[Sequence[Axis]], dim: int) -> list[Axis]:
        """The axes of tensors laid end to end along `dim`."""
        parts = [axes[dim] for axes in tensors]
        alike = all(
            self.units(axes[d]) == self.units(tensors[0][d]) for axes in tensors[1:] for d in range(len(tensors[0])) if d != dim
        )
        if alike and all(self._is_plain(axes, dim) for axes in tensors):
            joined: Axis = self.axis(sum(map(length, parts)), "position", self.cause(parts[0]))
            self.plain_cuts.append((joined, parts))
            return [joined if d == dim else axis for d, axis in enumerate(tensors[0])]
        union = self.union(parts)
        return [
            (union,) if d == dim else self.family([axes[d] for axes in tensors], union) for d in range(len(tensors[0]))
        ]

    def reshape(self, axes: Sequence[Axis], shape: Sequence[int], renumber: bool = False) -> list[Axis]:
        """Regroup the row-major product of `axes` into axes of the sizes `shape`.

        Where a boundary of the new shape falls inside a space that is no product there, the spaces are cut at the common refinement.

        Args:
            renumber: fixed spaces on which nothing depends become new ones there, without keeping how they were cut.

        Raises:
            Misaligned: the shape has another number of elements.
        """
        if 0 in shape:  # nothing moves, and sizes say nothing of where anything comes from
            return [self.axis(n, "empty", "a tensor without elements") for n in shape]
        stack = [space for axis in reversed(axes) for space in reversed(axis)]
        out: list[Axis] = []
        while len(out) < len(shape):
            taken: list[Space] = []
            left = shape[len(out)]
            while left > 1:
                top = self._top(stack)
                if top is None:
                    raise Misaligned(f"shape {tuple(shape)} needs more elements than there are")
                if left % top.size == 0:
                    taken.append(top)
                    stack.pop()
                    left //= top.size
                elif (common := math.gcd(top.size, left)) > 1:
                    self._split_top(stack, top, common)
                elif renumber and (new := self._renumbered(stack, taken, out, shape)):
                    out += new
                    break
                else:
                    before = [space for axis in out for space in axis] + taken
                    before = self._cut_across(stack, left, before)
                    counts = [len(axis) for axis in out]
                    taken = before[sum(counts) :]
                    out = [tuple(before[sum(counts[:i]) : sum(counts[: i + 1])]) for i in range(len(counts))]
            else:
                out.append(tuple(taken))
        return out

    def _renumbered(self, stack: list[Space], taken: list[Space], before: list[Axis], shape: Sequence[int]) -> list[Axis]:
        """Fixed spaces under a new numbering: axes for the next sizes of a shape, as many as it takes until boundaries meet again.

        Args:
            stack: the spaces from there on, the next one last; changed in place if axes were made.
            taken: those already taken for the next size.
            before: the axes before it.

        Returns:
            The new axes; none if the spaces can move, or others may depend on them.
        """
        rest, run = list(stack), list(taken)
        have, end = math.prod(space.size for space in run), len(before)
        want = shape[end]
        while have != want:
            if have > want:
                end += 1
                want *= shape[end]
            else:
                top = self._top(rest)
                if top is None:
                    return []
                run.append(rest.pop())
                have *= run[-1].size
        others = [unit for axis in (*before, tuple(rest)) for unit in self.units(axis)]
        if not self._is_still(self.units(tuple(run)), others):
            return []
        stack[:] = rest
        cause = self.cause(tuple(run))
        new = [self.axis(size, "position", cause) for size in shape[len(before) : end + 1]]
        self.plain_cuts.append((tuple(run), new))
        return new

    def _cut_across(self, stack: list[Space], outer: int, before: list[Space]) -> list[Space]:
        """Replace the next spaces of a tensor by one union that can be split into `outer` blocks; all others become families over it.

        Args:
            stack: the spaces from there on, the next one last; changed in place.
            before: the spaces that come before.

        Returns:
            The spaces before, as families.
        """
        run: list[Space] = []
        size = 1
        while size % outer or size == 1:
            top = self._top(stack)
            if top is None:
                raise Misaligned(f"no blocks of {outer} in what is left")
            run.append(stack.pop())
            size *= run[-1].size
        inner = size // outer
        pieces = []
        for block in range(outer):
            start = block * inner
            pieces += [(start + at, axis, cuts) for at, axis, cuts in self.pieces(tuple(run), np.arange(start, start + inner))]
        union = self.union([axis for _, axis, _ in pieces], [positions for positions, _, _ in pieces])

        def varied(space: Space) -> Axis:
            return self.family([self.restrict((space,), cuts) for _, _, cuts in pieces], union)

        after = [space for other in stack for space in reversed(varied(other))]
        stack[:] = [*after, union]
        return [self._one(varied(space)) for space in before]

    def _one(self, axis: Axis) -> Space:
        """A product as one space, which stands for its factors."""
        if len(axis) == 1:
            return axis[0]
        space = self.fresh(length(axis))
        self._set(space, factors=axis)
        return space
