"""Which space may depend on which: the greatest fixpoint over all tensors of a program.

The rule: a space may depend only on spaces that occur, exactly once, in every tensor in which it occurs, or beside it in the same axis
(see `paramgraph.symmetries.pairing`). What is left when all unifications are done is a preorder. Spaces that depend on each other are one
joint space. Families whose dependency is lost are merged here, which may unify more; the loop runs until nothing changes, so the result does
not depend on the order of operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain

import numpy as np

from paramgraph.symmetries.blocks import Block
from paramgraph.symmetries.pairing import Pairing
from paramgraph.symmetries.space import Axis, Space, Unsettled
from paramgraph.symmetries.spaces import SpaceSystem

__all__ = ["Block", "Dependencies"]

_NOTHING: set[Space] = set()


class Dependencies(Pairing):
    """Solve the dependencies of a typed system. Afterwards `on[space]` holds, for each atomic space, what it depends on.

    Args:
        system: the spaces, with all tensors recorded.
        pairing: whether a space may depend on one beside it in its axis where other axes hold that one as well.
    """

    def __init__(self, system: SpaceSystem, pairing: bool = True) -> None:
        super().__init__(system, pairing)
        # Spaces made of parts that nothing tells apart.
        self.fused: set[Space] = set()
        if system.members:
            self._coarsen()
            # What whole tensors tell already leaves fewer families to resolve part by part.
            self._fix_families()
            self._round(coarse=True)
        limit = len(system.spaces) * 20 + 10_000
        for _ in range(60):
            if len(system.spaces) > limit:
                raise Unsettled("families keep splitting")
            if not self._round():
                break
        else:
            raise Unsettled("families keep changing")
        # Spaces that are families over a parted space, by its id: those whose members are not all the space itself.
        self._varying: dict[int, set[Space]] = {}
        for (base_id, assign), member in system.members.items():
            base = system.spaces[base_id]
            if system.find(member) is not system.find(base):
                for over_id, _ in assign:
                    self._varying.setdefault(over_id, set()).add(base)
        self._close()
        self._fuse()
        self._known = {}

    def _round(self, coarse: bool = False) -> bool:
        system, changed = self.system, self._coarsen()
        # What follows from the families alone comes first: a dependency is judged when its spaces have settled.
        for _ in range(60):
            if not self._normalise():
                break
        else:
            raise Unsettled("families keep being rewritten")
        self._collect(coarse)
        for (base_id, assign), member in list(system.members.items()):
            base = system.spaces[base_id]
            if base.alias is not None or base.factors is not None or base.parts is not None:
                changed = True  # merged in this round: settled by the next normalisation
                continue
            for entry in assign:
                over = system.spaces[entry[0]]
                if over.alias is not None or over.factors is not None:
                    changed = True
                    continue
                if not (over.uniform or self._lost(base, over) or self._lost(system.members.get((base_id, assign - {entry})), over)):
                    continue
                target = self._member(base, assign - {entry})
                if system.find(member) is not target or member.factors is not None:
                    changed = self._same((member,), (target,)) or changed
        changed = self._collapse() or changed
        if coarse:
            self._join_fixed()
            return True
        return changed or self._implicit()

    def _coarsen(self) -> bool:
        """Let nothing depend on spaces that have more parts than families may have."""
        system, changed = self.system, False
        if system.most_parts is None:
            return False
        for (base_id, assign), member in list(system.members.items()):
            crowded = {entry for entry in assign if system.is_crowded(system.spaces[entry[0]])}
            if crowded:
                system.level(tuple(system.spaces[over_id] for over_id, _ in crowded))
                changed = self._same((member,), (self._member(system.spaces[base_id], assign - crowded),)) or changed
        return changed

    def _lost(self, space: Space | None, over: Space) -> bool:
        """Whether a space is known, and known not to depend on another."""
        if space is None:
            return False
        space = self.system.find(space)
        on = self.on.get(space)
        return over not in on if on is not None else space.factors is None and self.system.is_fixed(space)

    def _implicit(self) -> bool:
        """Make the members of every free space that depends on a parted one: none is left to depend on a union as a whole."""
        made = False
        for space, on in list(self.on.items()):
            if space.pinned or space.parts is not None or space.size == 1:
                continue
            for over in on:
                if over.parts is None or over.uniform or self.system.is_crowded(over) or len(self.system.leaves(over)) == 1:
                    continue
                for _, positions in self.system.leaves(over):
                    key = (space.id, frozenset({(over.id, np.sort(positions).tobytes())}))
                    if key not in self.system.members:
                        self._member(space, key[1])
                        made = True
        return made

    def _close(self) -> None:
        """Fixed spaces depend on nothing; a dependency needs all that it depends on itself.

        Spaces of elements that are moved about but never computed with belong to no group: they are fixed.
        """
        for unit, on in self.on.items():
            if unit not in self.read and not unit.pinned and unit.parts is None:
                unit.pinned, unit.cause = True, "no operation reads it"
            if unit.pinned or unit.size == 1:
                on.clear()
            else:
                for other in [other for other in on if other.parts is not None]:
                    leaves = self.system.leaves(other)
                    if len(leaves) == 1:  # a relabelling: depending on it is depending on what it relabels
                        on.update(leaves[0][0])
                on.difference_update([other for other in on if other.parts is not None or other.size == 1 or other.uniform])
        changed = True
        while changed:
            changed = False
            for unit, on in self.on.items():
                bad = [other for other in on if not (self.on.get(other, set()) - {unit}) <= on]
                if bad:
                    on.difference_update(bad)
                    changed = True
            changed = changed or self._drop_undefined()

    def _fuse(self) -> None:
        """Make one space of the parts of a union that no tensor tells apart: where one is read, so are the others, in the same unions.

        Single elements are left alone: what reads one of them has an axis of size 1, which does not say which element it is.
        """
        apart: set[Space] = {other for on in self.on.values() for other in on}
        for axis in (*self.system.told_apart, *((member,) for member in self.system.members.values())):
            apart.update(self._deep(axis))
        stored = (self.system.units(tuple(chain.from_iterable(axes))) for axes in self.system.stored)
        leaves: dict[Space, list[tuple[Axis, np.ndarray]]] = {}
        places: dict[Space, set[Space]] = {}
        for unit in {unit for units in chain((units for units, reading in self._tensors if reading), stored) for unit in units}:
            if unit.parts is None:
                apart.add(unit)
                continue
            leaves[unit] = self.system.leaves(unit)
            seen: set[Space] = set()
            for axis, _ in leaves[unit]:
                if len(axis) != 1 or axis[0] in seen or unit.id in self._varying:
                    apart.update(axis)
                seen.update(axis)
            for part in seen:
                places.setdefault(part, set()).add(unit)
        alike: dict[tuple[frozenset[Space], frozenset[Space]], list[Space]] = {}
        for part, where in places.items():
            if part.size > 1 and not part.pinned and part not in apart:
                alike.setdefault((frozenset(where), frozenset(self.on.get(part, ()))), []).append(part)
        for (unions, shared), parts in sorted(alike.items(), key=lambda item: item[1][0].id):
            if len(parts) > 1:
                self._fuse_parts({union: leaves[union] for union in unions}, sorted(parts, key=lambda part: part.id), shared)
        for union, parts_of in leaves.items():
            if any(axis[0] in self.fused for axis, _ in parts_of if axis):
                union.parts, union.positions = tuple(axis for axis, _ in parts_of), tuple(positions for _, positions in parts_of)

    def _fuse_parts(self, leaves: dict[Space, list[tuple[Axis, np.ndarray]]], parts: Sequence[Space], on: Iterable[Space]) -> None:
        fused = self.system.fresh(sum(part.size for part in parts), parts[0].label)
        self.on[fused] = set(on)
        self.fused.add(fused)
        for own in leaves.values():
            where = {axis[0]: positions for axis, positions in own if len(axis) == 1}
            own[:] = [(axis, positions) for axis, positions in own if not (len(axis) == 1 and axis[0] in parts)]
            own.append(((fused,), np.concatenate([where[part] for part in parts])))

    def _varying_over(self, id: int) -> set[Space] | None:
        return None if self._known is None else self._varying.get(id, _NOTHING)

    def _varying_on(self, unit: Space) -> set[Space]:
        return self._varying.get(unit.id, _NOTHING)

    @property
    def delicate(self) -> bool:
        """Whether any space is a family, with members that differ between the parts of another space, was fused of parts, or has partners."""
        return bool(self._varying or self.fused or self.partners)

    @cached_property
    def _family_spaces(self) -> set[Space]:
        bases = {base.id for own in self._varying.values() for base in own}
        out = self.fused | self.partners
        for (base_id, assign), member in self.system.members.items():
            if base_id in bases:
                out.add(self.system.spaces[base_id])
                out.update(self._deep((member,)))
                out.update(self.system.spaces[over_id] for over_id, _ in assign)
        return out

    def is_delicate(self, axis: Axis) -> bool:
        """Whether a family, one of its members, a space that one varies over, or a fused or paired space is in an axis, inside unions too."""
        return not self._family_spaces.isdisjoint(self._deep(axis))

    @cached_property
    def names(self) -> dict[Space, Space]:
        """One of each set of unions that are the same element by element, for those over which nothing varies."""
        parent: dict[Space, Space] = {}

        def find(space: Space) -> Space:
            while (above := parent.setdefault(space, space)) is not space:
                space = above
            return space

        for pair in self.system.twins:
            a, b = (self.system.units((space,)) for space in pair)
            if len(a) == 1 and len(b) == 1 and find(a[0]) is not find(b[0]):
                parent[find(b[0])] = find(a[0])
        told_apart = {find(space) for space in parent if space.id in self._varying}
        return {space: find(space) for space in parent if find(space) not in told_apart}
