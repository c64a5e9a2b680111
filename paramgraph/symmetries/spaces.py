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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

Axis = tuple["Space", ...]
Index = np.ndarray | range


class Space:
    """An index set of `size` elements. Compare by identity, after `SpaceSystem.units`."""

    __slots__ = ("alias", "assign", "base", "cause", "factors", "hint", "id", "label", "names", "parts", "pinned", "positions", "size", "uniform")

    def __init__(self, id: int, size: int, label: str) -> None:
        self.id = id
        self.size = size
        self.label = label
        self.alias: Space | None = None
        self.factors: Axis | None = None
        # A union of parts: part j holds the elements positions[j] of this space, in that order.
        self.parts: tuple[Axis, ...] | None = None
        self.positions: tuple[Index, ...] | None = None
        self.pinned = False
        self.cause: str | None = None
        # Whether different elements were identified: then nothing can depend on which element it is.
        self.uniform = False
        # A family member: `base` restricted to `assign`, a set of (space id, positions as bytes).
        self.base: Space | None = None
        self.assign: frozenset[tuple[int, bytes]] = frozenset()
        # Ids that this space answers to (aliases and the spaces it is a factor of), and those that it may still depend on.
        self.names: frozenset[int] = frozenset((id,))
        self.hint: frozenset[int] | None = None

    def __repr__(self) -> str:
        mark = "!" if self.pinned else ""
        return f"{self.label or 's'}#{self.id}:{self.size}{mark}"


class Unsettled(Exception):
    """The dependencies of a program could not be solved; the caller falls back to the trivial group and says so."""


class Misaligned(Exception):
    """Two axes cannot be cut into common factors; the caller pins them and says so."""


def as_array(index: Index) -> np.ndarray:
    """Positions as an array; a range is laid out without going through its elements one by one."""
    return np.arange(index.start, index.stop, index.step) if isinstance(index, range) else np.asarray(index, dtype=np.int64)


def length(axis: Axis) -> int:
    """Number of elements of an axis."""
    out = 1
    for space in axis:
        out *= space.size
    return out


class SpaceSystem:
    """All spaces of one program, with the operations that typing rules use. Changes can be undone with `transaction`."""

    def __init__(self) -> None:
        self.spaces: dict[int, Space] = {}
        self.tensors: list[tuple[tuple[Axis, ...], bool]] = []
        self.members: dict[tuple[int, frozenset[tuple[int, bytes]]], Space] = {}
        # Unions that were identified element by element. They keep two names: see `_merge`.
        self.twins: list[tuple[Space, Space]] = []
        # Parameters and constants: the parts of their axes stay within them.
        self.stored: list[tuple[Axis, ...]] = []
        # Axes along which the values of a constant tell parts apart.
        self.told_apart: list[Axis] = []
        # Fixed axes that were cut from, or laid together of, other fixed axes without keeping how: `(whole, parts)`.
        self.plain_cuts: list[tuple[Axis, list[Axis]]] = []
        self._recorded: dict[tuple[bool, tuple[Axis, ...]], None] = {}
        self._trail: list[tuple[Space, str, Any]] = []

    # -- making and resolving ------------------------------------------------------------------------------------------

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
        stack = list(reversed(axis))
        while stack:
            space = self.find(stack.pop())
            if space.factors is not None:
                stack.extend(reversed(space.factors))
            else:
                out.append(space)
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

    @property
    def changes(self) -> int:
        """Number of changes so far."""
        return len(self._trail)

    # -- changing, with undo -------------------------------------------------------------------------------------------

    def _set(self, space: Space, **values: Any) -> None:
        for name, value in values.items():
            self._trail.append((space, name, getattr(space, name)))
            setattr(space, name, value)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Undo every change if the body raises: a rule that fails half-way leaves nothing behind."""
        mark, tensors, members, recorded = len(self._trail), len(self.tensors), len(self.members), len(self._recorded)
        twins, plain_cuts = len(self.twins), len(self.plain_cuts)
        try:
            yield
        except BaseException:
            for space, name, value in reversed(self._trail[mark:]):
                setattr(space, name, value)
            del self._trail[mark:]
            del self.tensors[tensors:]
            del self.twins[twins:]
            del self.plain_cuts[plain_cuts:]
            for key in list(self.members)[members:]:
                del self.members[key]
            for record in list(self._recorded)[recorded:]:
                del self._recorded[record]
            raise

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

    def record(self, axes: Sequence[Axis], read: bool = True, stored: bool = False) -> None:
        """Register a tensor (real or hidden): what occurs together in it bounds what may depend on what.

        Args:
            read: whether an operation computes with its elements; layout operations only move them.
            stored: whether it is a tensor of its own, such as a parameter.
        """
        axes = tuple(axes)
        if stored:
            self.stored.append(axes)
        key = (read, axes)
        if key in self._recorded:
            return
        self._recorded[key] = None
        self.tensors.append((axes, read))
        units = [unit for axis in axes for unit in self.units(axis)]
        everything: frozenset[int] = frozenset().union(*(unit.names for unit in units)) if units else frozenset()
        for unit in units:
            if unit.hint is None:
                self._set(unit, hint=everything)
            elif not unit.hint <= everything:
                self._set(unit, hint=unit.hint & everything)

    def may_depend(self, space: Space, on: Space) -> bool:
        """False once it is certain that the permutation of `space` cannot differ between elements of `on`."""
        if on.uniform:
            return False
        return space.hint is None or not space.hint.isdisjoint(on.names)

    # -- unification ---------------------------------------------------------------------------------------------------

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
        hint = None if space.hint is None else space.hint | {first.id, second.id}
        for factor in (first, second):
            self._set(factor, names=factor.names | space.names, hint=hint, uniform=space.uniform)
            if space.pinned:
                self._set(factor, pinned=True, cause=space.cause)
        self._set(space, factors=(first, second))

    def _split_parted(self, space: Space, outer: int, inner: int) -> Axis:
        """A union seen as `outer` blocks of `inner`: the blocks are cut where the union's boundaries fall.

        Blocks that lie in the same parts in the same way form one part of the outer space; within it the inner space is a family
        member, itself a union where a boundary falls inside a block.
        """
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
        groups = []
        for row_bytes, blocks in classes.items():
            row = np.frombuffer(row_bytes, dtype=np.int64)
            if len(set(row.tolist())) == 1:
                groups.append((row, blocks))
            else:  # blocks that straddle parts are told apart one by one
                groups.extend((row, [block]) for block in blocks)
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
                    todo.append((leaves[number][0], rows[where][:, at].reshape(-1), part))
                member = self.find(inner_axis[0])
                self._set(member, parts=tuple(parts), positions=tuple(places))
        self._inherit_factors(space, first, second)
        if space.pinned:
            self.pin((first, second), space.cause or "")
        for axis, index, target in todo:
            pieces_of = self.pieces(axis, index)
            self.unify(self.assemble(pieces_of, len(index)), target)
        return first, second

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
            if y.parts is not None and self._holds(y, x):
                self._merge_relabelled(x, y)
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
        hint = y.hint if x.hint is None else x.hint
        if x.hint is not None and y.hint is not None:
            hint = frozenset(id for id in x.hint if self._answers(id, y.hint))
        self._set(y, names=y.names | x.names, hint=hint)
        if x.uniform:
            self.level((y,))
        self._set(x, alias=y)

    def _answers(self, id: int, hint: frozenset[int]) -> bool:
        return id in hint or any(not unit.names.isdisjoint(hint) for unit in self.units((self.spaces[id],)))

    def _holds(self, space: Space, inner: Space) -> bool:
        """Whether `inner` is somewhere inside the parts of `space`."""
        for part in space.parts or ():
            for unit in self.units(part):
                if unit is inner or self._holds(unit, inner):
                    return True
        return False

    def _merge_relabelled(self, x: Space, y: Space) -> None:
        (axis, positions), *_ = self.leaves(y)
        if len(positions) == x.size and self.units(axis) == (x,):
            local = np.empty(x.size, dtype=np.int64)
            local[positions] = np.arange(x.size)
            self._pin_moved((x,), np.arange(x.size), local)
        else:
            self.pin((x,), "a space was identified with a rearrangement of a product that contains it")
            self.level((y,))

    def _pin_moved(self, axis: Axis, a: np.ndarray, b: np.ndarray) -> None:
        """Elements a[i] and b[i] of one axis were identified: those that differ are fixed."""
        moved = np.unique(np.concatenate([a[a != b], b[a != b]]))
        if len(moved):
            self.level(axis)
            cause = "identified with a rearrangement of itself"
            self.pin(self.assemble(self.pieces(axis, moved), len(moved)), cause)

    # -- cutting -------------------------------------------------------------------------------------------------------

    def pieces(self, axis: Axis, index: Index) -> list[tuple[np.ndarray, Axis, list[tuple[Space, np.ndarray]]]]:
        """Cut an axis so that the elements `index` (distinct, in this order) are made of whole spaces.

        Returns:
            Pieces `(positions in the result, axis, cuts)`; `cuts` are the `(unit, its elements)` that the piece is restricted to.
        """
        units = self.units(axis)
        index = as_array(index)
        size = length(units)
        if len(index) == size and np.array_equal(index, np.arange(size)):
            return [(np.arange(size), units, [])]
        if len(units) == 1:
            return self._pieces_of_unit(units[0], index)
        return self._pieces_of_product(units, index)

    def _pieces_of_unit(self, unit: Space, index: np.ndarray) -> list[tuple[np.ndarray, Axis, list[tuple[Space, np.ndarray]]]]:
        if unit.parts is None:
            self._cut_atomic(unit, index)
        if unit.factors is not None:
            return self.pieces((unit,), index)
        assert unit.parts is not None and unit.positions is not None
        for part, positions in zip(unit.parts, unit.positions, strict=True):
            if len(positions) == len(index) and np.array_equal(as_array(positions), index):  # one whole part: often the one just cut
                pieces = self.pieces(part, np.arange(len(index)))
                return [(at, axis, [(unit, index[at]), *cuts]) for at, axis, cuts in pieces]
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
            for positions, axis, cuts in self.pieces(unit.parts[number], local[index[at]]):
                out.append((at[positions], axis, [(unit, index[at[positions]]), *cuts]))
        return out

    def _cut_atomic(self, unit: Space, index: np.ndarray) -> None:
        if len(index) == unit.size:  # a relabelling of the whole
            copy = self.axis(unit.size, unit.label)
            names = copy[0].names | unit.names
            self._set(copy[0], pinned=unit.pinned, cause=unit.cause, names=names, hint=unit.hint, uniform=unit.uniform)
            self._set(unit, parts=(copy,), positions=(index.copy(),))
            return
        mask = np.ones(unit.size, dtype=bool)
        mask[index] = False
        rest = np.flatnonzero(mask)
        parts = []
        for where in (index, rest):
            part = self.fresh(len(where), unit.label)
            hint = None if unit.hint is None else unit.hint | {part.id}
            self._set(part, pinned=unit.pinned, cause=unit.cause, hint=hint, uniform=unit.uniform)
            parts.append((part,))
        self._set(unit, parts=tuple(parts), positions=(index.copy(), rest))

    def _pieces_of_product(self, units: Axis, index: np.ndarray) -> list[tuple[np.ndarray, Axis, list[tuple[Space, np.ndarray]]]]:
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
        out = []
        for offset_bytes, members in classes.items():
            offset = np.frombuffer(offset_bytes, dtype=np.int64)
            where = np.stack([np.asarray(rows[block]) for block in members])  # (blocks, offsets)
            for at_outer, axis_outer, cuts_outer in self.pieces((outer,), np.asarray(members)):
                inner_axis = self.restrict(inner_units, cuts_outer)
                for at_inner, axis_inner, cuts_inner in self.pieces(inner_axis, offset):
                    kept = self.restrict(axis_outer, cuts_inner)
                    out.append((where[np.ix_(at_outer, at_inner)].reshape(-1), (*kept, *axis_inner), [*cuts_outer, *cuts_inner]))
        return out

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
            self._set(space, pinned=True, cause="a union of fixed parts")
        return space

    # -- families ------------------------------------------------------------------------------------------------------

    def restrict(self, axis: Axis, cuts: Iterable[tuple[Space, np.ndarray]]) -> Axis:
        """The axis as it is where the cut units are restricted to the given elements."""
        out = self.units(axis)
        for unit, where in cuts:
            out = tuple(self.member(space, unit, where) for space in out)
        return out

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

    def is_fixed(self, space: Space) -> bool:
        """Whether no element can move: pinned, single, or cut into parts that are."""
        if space.pinned or space.size == 1:
            return True
        if space.parts is None:
            return False
        return all(self.is_fixed(unit) for part in space.parts for unit in self.units(part))

    def family(self, members: Sequence[Axis], over: Space) -> Axis:
        """An axis that is `members[j]` on part j of the union `over`."""
        first = members[0]
        if all(self.units(member) == self.units(first) for member in members):
            return first
        size = length(first)
        assert over.positions is not None
        if all(self.is_fixed(unit) for member in members for unit in self.units(member)):
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
        units = self.units(axes[dim])
        if not all(unit.pinned for unit in units):
            return False
        others = [unit for d, axis in enumerate(axes) if d != dim for unit in self.units(axis) if not unit.pinned]
        return not any(self.may_depend(other, unit) for other in others for unit in units)

    def cause(self, axis: Axis) -> str:
        """Why an axis is pinned."""
        return next((unit.cause for unit in self.units(axis) if unit.cause), "fixed")

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

    # -- reshaping -----------------------------------------------------------------------------------------------------

    def reshape(self, axes: Sequence[Axis], shape: Sequence[int]) -> list[Axis]:
        """Regroup the row-major product of `axes` into axes of the sizes `shape`.

        Where a boundary of the new shape falls inside a space that is no product there, the spaces are cut at the common refinement.

        Raises:
            Misaligned: the shape has another number of elements.
        """
        stack = [space for axis in reversed(axes) for space in reversed(axis)]
        out: list[Axis] = []
        for size in shape:
            taken: list[Space] = []
            left = size
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
                else:
                    before = [space for axis in out for space in axis] + taken
                    before = self._cut_across(stack, left, before)
                    counts = [len(axis) for axis in out]
                    taken = before[sum(counts) :]
                    out = [tuple(before[sum(counts[:i]) : sum(counts[: i + 1])]) for i in range(len(counts))]
            out.append(tuple(taken))
        return out

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
