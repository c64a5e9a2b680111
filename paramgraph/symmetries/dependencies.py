"""Which space may depend on which: the greatest fixpoint over all tensors of a program.

The rule: a space may depend only on spaces that occur, exactly once, in every tensor in which it occurs. What is left when all
unifications are done is a preorder. Spaces that depend on each other are one joint space. Families whose dependency is lost are
merged here, which may unify more; the loop runs until nothing changes, so the result does not depend on the order of operations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations, permutations
from typing import Any

import numpy as np

from paramgraph.symmetries.spaces import Axis, Misaligned, Space, SpaceSystem, Unsettled, length

Assign = frozenset[tuple[int, bytes]]
_NOTHING: set[Space] = set()


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
    entries: tuple[tuple[int, bytes], ...] = ()


def _is_empty(assign: Assign) -> bool:
    """Whether a space is restricted to no element."""
    return not all(data for _, data in assign)


class Dependencies:
    """Solve the dependencies of a typed system. Afterwards `on[space]` holds, for each atomic space, what it depends on."""

    def __init__(self, system: SpaceSystem) -> None:
        self.system = system
        self.on: dict[Space, set[Space]] = {}
        # Fixed unions that became one fixed space, with what was inside them.
        self.joined: dict[Space, set[Space]] = {}
        # Spaces made of parts that nothing tells apart.
        self.fused: set[Space] = set()
        self._insides: dict[Space, tuple[int, Counter[Space]]] = {}
        self._linked: set[tuple[Any, ...]] = set()
        self._normal: set[tuple[int, bytes]] = set()
        self._tensors = [(tuple(chain.from_iterable(axes)), read) for axes, read in system.tensors]
        if system.members:
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
        self._close()
        # Spaces that are families over a parted space, by its id: those whose members are not all the space itself.
        self._varying: dict[int, set[Space]] = {}
        for (base_id, assign), member in system.members.items():
            base = system.spaces[base_id]
            if system.find(member) is not system.find(base):
                for over_id, _ in assign:
                    self._varying.setdefault(over_id, set()).add(base)
        self._fuse()

    def _fix_families(self) -> None:
        """A family of which every member is fixed is fixed itself."""
        system = self.system
        fixed: dict[int, bool] = {}
        for (base_id, _), member in system.members.items():
            fixed[base_id] = fixed.get(base_id, True) and system.is_fixed(system.find(member))
        for base_id, all_fixed in fixed.items():
            base = system.find(system.spaces[base_id])
            if all_fixed and base.base is None and base.factors is None and base.parts is None and self._covers(base_id):
                system.pin((base,), next(cause for (id, _), member in system.members.items() if id == base_id and (cause := system.cause((member,)))))

    def _covers(self, base_id: int) -> bool:
        """Whether the members of a family over one space cover that space."""
        assigns = [assign for id, assign in self.system.members if id == base_id]
        if len({over_id for assign in assigns for over_id, _ in assign}) != 1 or any(len(assign) != 1 for assign in assigns):
            return False
        ((over_id, _),) = assigns[0]
        covered = np.unique(np.concatenate([np.frombuffer(data, dtype=np.int64) for assign in assigns for _, data in assign]))
        return len(covered) == self.system.spaces[over_id].size

    def _round(self, coarse: bool = False) -> bool:
        system, changed = self.system, False
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

    def _lost(self, space: Space | None, over: Space) -> bool:
        """Whether a space is known, and known not to depend on another."""
        if space is None:
            return False
        on = self.on.get(self.system.find(space))
        return on is not None and over not in on

    def _collapse(self) -> bool:
        """A family whose members are all the same space is that space."""
        system, changed = self.system, False
        families: dict[tuple[int, Assign, int], list[Space]] = {}
        for (base_id, assign), member in system.members.items():
            for entry in assign:
                families.setdefault((base_id, assign - {entry}, entry[0]), []).append(member)
        count: dict[int, int] = {}
        for (base_id, rest, over_id), members in families.items():
            over = system.spaces[over_id]
            if over.parts is None:
                continue
            if over_id not in count:
                count[over_id] = len(system.leaves(over))
            first = system.units((members[0],))
            if len(members) < count[over_id]:
                continue
            if all(system.units((member,)) == first for member in members[1:]):
                changed = self._same((members[0],), (self._member(system.spaces[base_id], rest),)) or changed
        return changed

    # -- families ------------------------------------------------------------------------------------------------------

    def _member(self, base: Space, assign: Assign) -> Space:
        """The member of `base` at `assign`, made if there is none."""
        if not assign or base.pinned or base.size == 1:
            return self.system.find(base)
        system = self.system
        found = system.members.get((base.id, assign))
        if found is None:
            found = system.fresh(base.size, base.label)
            found.base, found.assign = base, assign
            system.members[(base.id, assign)] = found
        return system.find(found)

    def _same(self, a: Axis, b: Axis) -> bool:
        if self.system.units(a) == self.system.units(b):
            return False
        before = self.system.changes
        try:
            self.system.unify(a, b)
        except Misaligned as error:
            self.system.pin((*a, *b), f"family members of different shape were identified: {error}")
            self.system.level((*a, *b))
        return self.system.changes != before

    def _normalise(self) -> bool:
        """Rewrite the registry so that bases are atomic roots and keys are finest parts of parted roots."""
        system, changed = self.system, False
        self._finest: dict[int, frozenset[bytes]] = {}
        for key, member in list(system.members.items()):
            if system.members.get(key) is not member:
                continue
            if member.size == 1:  # nothing to permute
                del system.members[key]
                continue
            base, assign = system.spaces[key[0]], key[1]
            root = system.find(base)
            if root.factors is None and system.is_fixed(root):  # what cannot move is the same everywhere
                del system.members[key]
                changed = self._same((member,), (root,)) or changed
                continue
            is_member = root.base is not None and root is not base
            new_assign = self._normal_assign(assign | root.assign if is_member else assign)
            if new_assign is None:  # the key is no union of parts: the family cannot be told apart along it
                del system.members[key]
                changed = self._same((member,), (base,)) or changed
                continue
            if _is_empty(new_assign):  # a member met another occurrence of what it is restricted to: it cannot depend on both
                del system.members[key]
                changed = self._same((member,), (root,)) or changed
                continue
            if root.base is not None and is_member:
                root = system.find(root.base)
            if root.factors is not None:
                del system.members[key]
                target = tuple(self._member(unit, new_assign) for unit in system.units((root,)))
                self._same((member,), target)
                changed = True
            elif root.parts is not None:
                del system.members[key]
                parts = [tuple(self._member(unit, new_assign) for unit in system.units(part)) for part in root.parts]
                self._same((member,), (system.union(parts, root.positions, root.label),))
                changed = True
            elif root is not base or new_assign != assign:
                del system.members[key]
                kept = system.members.setdefault((root.id, new_assign), member) if new_assign and not root.pinned else root
                if kept is member and member.alias is None:
                    member.base, member.assign = root, new_assign
                changed = self._same((member,), (kept,)) or changed
            else:
                changed = self._refine(root, assign, member) or changed
        return self._commute() or changed

    def _commute(self) -> bool:
        """A family over two spaces is the same whichever is restricted first."""
        system, changed = self.system, False
        single: dict[int, list[tuple[tuple[int, bytes], Space]]] = {}
        for (base_id, assign), member in system.members.items():
            if len(assign) == 1:
                single.setdefault(base_id, []).append((next(iter(assign)), member))
        several = {id: entries for id, entries in single.items() if len({entry[0] for entry, _ in entries}) > 1}
        together = self._together({entry[0] for entries in several.values() for entry, _ in entries})
        for base_id, entries in several.items():
            if system.spaces[base_id].alias is not None:
                continue
            for (a, at_a), (b, at_b) in combinations(entries, 2):
                if (a[0], b[0]) in together and self._is_new(base_id, a, b, self._state(at_a), self._state(at_b)):
                    first = self._restrict_all((at_a,), frozenset({b}))
                    changed = self._same(first, self._restrict_all((at_b,), frozenset({a}))) or changed
        return changed

    def _together(self, ids: set[int]) -> set[tuple[int, int]]:
        """Pairs of the given spaces that occur in one tensor. A space can depend on both only if they do."""
        system = self.system
        out: set[tuple[int, int]] = set()
        for axis, _ in self._tensors if ids else ():
            found: set[int] = set()
            for unit in system.units(axis):
                if unit.parts is not None:
                    found.add(unit.id)
                    found.update(inner.id for inner in self._inside(unit) if inner.parts is not None)
            found &= ids
            if len(found) > 1:
                out.update(permutations(found, 2))
        return out

    def _is_normal(self, entry: tuple[int, bytes]) -> bool:
        """Whether an entry of a key is one that this solver wrote, about a space that is still one parted space."""
        space = self.system.spaces[entry[0]]
        return space.parts is not None and space.alias is None and space.factors is None and entry in self._normal

    def _normal_assign(self, assign: Assign) -> Assign | None:
        if all(map(self._is_normal, assign)) and len({id for id, _ in assign}) == len(assign):
            return assign
        out: dict[int, np.ndarray] = {}
        for id, data in assign:
            where = np.frombuffer(data, dtype=np.int64)
            units = self.system.units((self.system.spaces[id],))
            sizes = [unit.size for unit in units]
            coordinates = np.unravel_index(where, sizes) if len(units) > 1 else (where,)
            sets = [np.unique(c) for c in coordinates]
            if int(np.prod([len(s) for s in sets])) != len(np.unique(where)):
                return None
            for unit, elements in zip(units, sets, strict=True):
                if len(elements) == unit.size or unit.parts is None:
                    if len(elements) != unit.size:
                        return None
                    continue
                elements = np.intersect1d(out[unit.id], elements) if unit.id in out else elements
                out[unit.id] = elements
        result = frozenset((id, elements.astype(np.int64).tobytes()) for id, elements in out.items())
        self._normal |= result
        return result

    def _is_finest(self, entry: tuple[int, bytes]) -> bool:
        """Whether the elements of an entry are one finest part. Parts found once per pass: what changes within it is seen in the next."""
        parts = self._finest.get(entry[0])
        if parts is None:
            leaves = self.system.leaves(self.system.spaces[entry[0]])
            parts = self._finest[entry[0]] = frozenset(np.sort(positions).astype(np.int64).tobytes() for _, positions in leaves)
        return entry[1] in parts

    def _refine(self, base: Space, assign: Assign, member: Space) -> bool:
        """Link a member over a part that was cut further with the members over its finest parts."""
        system, changed = self.system, False
        for entry in assign:
            if self._is_finest(entry):
                continue
            over = system.spaces[entry[0]]
            where = set(np.frombuffer(entry[1], dtype=np.int64).tolist())
            inside = [positions for _, positions in system.leaves(over) if where.issuperset(positions.tolist())]
            if len(inside) <= 1:
                continue
            part = self._part_at(over, where)
            for positions in inside:
                key = assign - {entry} | {(over.id, np.sort(positions).tobytes())}
                finest = self._member(base, key)
                if part is None:
                    changed = self._same((member,), (finest,)) or changed
                    continue
                unit, local = part
                local_positions = np.sort(np.asarray([local[p] for p in positions.tolist()], dtype=np.int64))
                if not self._is_new(base.id, key, self._state(member), self._state(finest)):
                    continue
                deeper = self._restrict_all((member,), frozenset({(unit.id, local_positions.tobytes())}))
                changed = self._same((finest,), deeper) or changed
        return changed

    def _state(self, space: Space) -> tuple[int, ...]:
        """What a space is by now: the ids of its finest parts."""
        out: list[int] = []
        for unit in self.system.units((space,)):
            leaves = self.system.leaves(unit) if unit.parts is not None else [((unit,), None)]
            out.extend(inner.id for axis, _ in leaves for inner in axis)
        return tuple(out)

    def _is_new(self, *key: Any) -> bool:
        """Whether a link between members is made for the first time: making it again would only make names."""
        if key in self._linked:
            return False
        self._linked.add(key)
        return True

    def _restrict_all(self, axis: Axis, assign: Assign) -> Axis:
        """An axis at `assign`: members of its atomic spaces, inside unions too."""
        system = self.system
        out: list[Space] = []
        for unit in system.units(axis):
            if system.is_fixed(unit):
                out.append(unit)
            elif unit.parts is not None:
                parts = [self._restrict_all(part, assign) for part in unit.parts]
                same = all(system.units(a) == system.units(b) for a, b in zip(parts, unit.parts, strict=True))
                out.append(unit if same else system.union(parts, unit.positions, unit.label))
            else:
                base = unit if unit.base is None else unit.base
                both = self._normal_assign(unit.assign | assign)
                if both is None:  # no union of parts: nothing can be told apart along it
                    out.append(system.find(base))
                else:
                    out.append(unit if _is_empty(both) else self._member(base, both))
        return tuple(out)

    def _part_at(self, over: Space, where: set[int]) -> tuple[Space, dict[int, int]] | None:
        """The parted unit whose elements are `where` within `over`, with the map to its own positions."""
        stack = [(over, np.arange(over.size))]
        while stack:
            space, absolute = stack.pop()
            for part, positions in zip(space.parts or (), space.positions or (), strict=True):
                units, here = self.system.units(part), absolute[np.asarray(positions)]
                if len(units) == 1 and units[0].parts is not None:
                    if set(here.tolist()) == where:
                        return units[0], {p: i for i, p in enumerate(here.tolist())}
                    stack.append((units[0], here))
        return None

    def _implicit(self) -> bool:
        """Make the members of every free space that depends on a parted one: none is left to depend on a union as a whole."""
        made = False
        for space, on in list(self.on.items()):
            if space.pinned or space.parts is not None or space.size == 1:
                continue
            for over in on:
                if over.parts is None or over.uniform or len(self.system.leaves(over)) == 1:
                    continue
                for _, positions in self.system.leaves(over):
                    key = (space.id, frozenset({(over.id, np.sort(positions).tobytes())}))
                    if key not in self.system.members:
                        self._member(*(space, key[1]))
                        made = True
        return made

    # -- contexts ------------------------------------------------------------------------------------------------------

    def _collect(self, coarse: bool = False) -> None:
        """What occurs together in every tensor; in a coarse pass, in every tensor without parted spaces."""
        self.on = {}
        self._families = self._varying_ids()
        self._seen: set[tuple[Any, ...]] = set()
        self.read: set[Space] = set()
        # Tensors as products of units, each once: further rounds start from these, which only become finer.
        found: dict[tuple[bool, tuple[int, ...]], tuple[Axis, bool]] = {}
        for axis, reading in self._tensors:
            units = self.system.units(axis)
            found[reading, tuple(unit.id for unit in units)] = (units, reading)
        self._tensors = list(found.values())
        for units, reading in self._tensors:
            self._reading = reading
            if not coarse or all(unit.parts is None for unit in units):
                self._visit(units)
        if not coarse:
            self._join_fixed()

    def _varying_ids(self) -> dict[int, set[int]]:
        """Ids of the spaces whose members over a space are not all the space itself, by that space's id."""
        out: dict[int, set[int]] = {}
        for (base_id, assign), member in self.system.members.items():
            if self.system.find(member) is not self.system.find(self.system.spaces[base_id]):
                for over_id, _ in assign:
                    out.setdefault(over_id, set()).add(base_id)
        return out

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
                unit.cause = unit.cause or "; ".join(sorted(causes)) or "a union of single elements"
                unit.pinned, unit.parts, unit.positions = True, None, None
                self.joined[unit] = inside - {unit}

    def _visit(self, units: Sequence[Space], entries: tuple[tuple[int, bytes], ...] = ()) -> None:
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
            for axis, positions in self.system.leaves(unit):
                inner = self._restricted(axis, entries)
                if expand:
                    entry = (unit.id, np.sort(positions).astype(np.int64).tobytes())
                    self._visit([*inner, *self._restricted(others, (entry,))], (*entries, entry))
                else:
                    self._visit_inside(inner, others, entries)

    def _restricted(self, axis: Iterable[Space], entries: Iterable[tuple[int, bytes]]) -> Axis:
        """An axis where parted spaces are restricted to the finest parts `entries`: members in place of their families."""
        out = tuple(axis)
        for entry in entries:
            out = tuple(self._at(space, entry) for space in out)
        return self.system.units(out)

    def _at(self, space: Space, entry: tuple[int, bytes]) -> Space:
        base = space if space.base is None else space.base
        found = self.system.members.get((base.id, space.assign | {entry}))
        return space if found is None else found

    def _visit_inside(self, axis: Axis, others: Sequence[Space], entries: tuple[tuple[int, bytes], ...]) -> None:
        """Contexts of the spaces inside a part, where the rest of the tensor is the same for every part."""
        block = [*axis, *others]
        count = Counter(block)
        for other in others:
            if other.parts is not None:
                count.update(self._inside(other))
        once = self._once(block, count, entries)
        for unit in axis:
            self._meet(unit, {other for other in once if other.parts is None or unit not in self._inside(other)})
            if unit.parts is not None:
                rest = list(block)
                rest.remove(unit)
                for inner, _ in self.system.leaves(unit):
                    self._visit_inside(self._restricted(inner, entries), rest, entries)

    def _once(self, units: Iterable[Space], count: Counter[Space], entries: Iterable[tuple[int, bytes]]) -> set[Space]:
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

    def _meet(self, unit: Space, candidates: Iterable[Space]) -> None:
        if self._reading:
            self.read.add(unit)
        found = self.on.get(unit)
        if found is None:
            self.on[unit] = {other for other in candidates if other is not unit}
        else:
            found.intersection_update(candidates)

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

    @property
    def delicate(self) -> bool:
        """Whether any space is a family, with members that differ between the parts of another space, or was fused of parts."""
        return bool(self._varying or self.fused)

    @cached_property
    def _family_spaces(self) -> set[Space]:
        bases = {base.id for own in self._varying.values() for base in own}
        out = set(self.fused)
        for (base_id, assign), member in self.system.members.items():
            if base_id in bases:
                out.add(self.system.spaces[base_id])
                out.update(self._deep((member,)))
                out.update(self.system.spaces[over_id] for over_id, _ in assign)
        return out

    def is_delicate(self, axis: Axis) -> bool:
        """Whether a family, one of its members, a space that one varies over, or a fused space is in an axis, inside unions too."""
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

    # -- reading a tensor ----------------------------------------------------------------------------------------------

    def blocks(self, axes: Sequence[Axis]) -> list[Block]:
        """The tensor as blocks of atomic spaces, families resolved."""
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
        before, after = length(axis[:at]), length(axis[at + 1 :])
        grid = np.arange(length(axis)).reshape(before, unit.size, after)
        out = []
        for part, positions in self.system.leaves(unit):
            entry = (unit.id, np.sort(positions).astype(np.int64).tobytes())
            inner = self._restricted(part, block.entries)
            axes = [self._restricted(other, (entry,)) for other in block.axes]
            axes[dim] = (*self._restricted(axis[:at], (entry,)), *inner, *self._restricted(axis[at + 1 :], (entry,)))
            index = list(block.index)
            inside, known = grid[:, positions].reshape(-1), block.index[dim]
            index[dim] = inside if known is None else known[inside]
            out.append(Block(tuple(index), tuple(axes), (*block.entries, entry)))
        return out

    def coupled(self, axes: Sequence[Axis]) -> list[list[int]]:
        """Dimensions that must be permuted together: a space of one depends on a space of another."""
        deep = [self._deep(axis) for axis in axes]
        parent = list(range(len(axes)))
        for a in range(len(axes)):
            for b in range(len(axes)):
                if a != b and parent[a] != parent[b] and self._depends(deep[a], deep[b]):
                    old, new = parent[a], parent[b]
                    parent = [new if p == old else p for p in parent]
        return [[d for d in range(len(axes)) if parent[d] == root] for root in dict.fromkeys(parent)]

    def _deep(self, axis: Axis) -> set[Space]:
        out: set[Space] = set()
        for unit in self.system.units(axis):
            out.add(unit)
            if unit.parts is not None:
                out |= set(self._inside(unit))
        return out

    def _depends(self, a: set[Space], b: set[Space]) -> bool:
        for unit in a:
            if not self.on.get(unit, _NOTHING).isdisjoint(b):
                return True
        return any(not self._varying.get(unit.id, _NOTHING).isdisjoint(a) for unit in b if unit.parts is not None)
