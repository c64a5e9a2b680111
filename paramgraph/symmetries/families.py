"""Families: what a space is for each part of another, kept consistent while spaces are identified."""

from __future__ import annotations

from itertools import chain, combinations, permutations
from typing import Any

import numpy as np

from paramgraph.symmetries.blocks import Blocks
from paramgraph.symmetries.keys import Assign, Entry, is_empty
from paramgraph.symmetries.space import Axis, Misaligned, Space, Unsettled
from paramgraph.symmetries.spaces import SpaceSystem

# Restrictions of members, about a millisecond each: many times what the networks need whose families settle.
MOST_WORK = 10_000
# The ways in which a tensor was divided into axes; None where they are not paired.
Forms = list[tuple[Axis, ...]] | None


class Families(Blocks):
    """The registry of members, rewritten until bases are atomic roots and keys are finest parts of parted roots."""

    def __init__(self, system: SpaceSystem) -> None:
        super().__init__(system)
        self._linked: set[tuple[Any, ...]] = set()
        self._work = 0
        self._finest: dict[int, frozenset[bytes]] = {}
        # Every tensor as one product of spaces, and whether an operation computes with it, with its axes each time.
        self._tensors: dict[tuple[Axis, bool], Forms] = {}
        for (axes, read), paired in system.tensors.items():
            self._add(self._tensors, (tuple(chain.from_iterable(axes)), read), [axes] if paired else None)

    @staticmethod
    def _add(tensors: dict[tuple[Axis, bool], Forms], key: tuple[Axis, bool], forms: Forms) -> None:
        known = tensors.setdefault(key, forms)
        if known is not forms:
            tensors[key] = None if known is None or forms is None else [*known, *forms]

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
        # Fixed axes are identified once: unions of fixed parts keep two names, and cutting them alike again would never end.
        if all(map(self.system.is_fixed, self.system.units((*a, *b)))) and not self._is_new("fixed", *(space.id for space in (*a, *b))):
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
        self._finest = {}
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
            if system.holds(found := system.find(member), root):  # a rearrangement of the whole: what is moved is fixed
                system.unify((root,), (found,))
                changed = True
                continue
            is_member = root.base is not None and root is not base
            new_assign = self._normal_assign(assign | root.assign if is_member else assign)
            if new_assign is None:  # the key is no union of parts: the family cannot be told apart along it
                del system.members[key]
                changed = self._link_cells(base, assign, member) or self._same((member,), (base,)) or changed
                continue
            if is_empty(new_assign):  # a member met another occurrence of what it is restricted to: it cannot depend on both
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
        single: dict[int, list[tuple[Entry, Space]]] = {}
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

    def _link_cells(self, base: Space, assign: Assign, member: Space) -> bool:
        """Replace a member over a part of a space that was split into factors by members over the blocks that make up the part.

        Returns:
            False if the part is not made of whole blocks: then nothing was linked.
        """
        system = self.system
        for entry in assign:
            over, where = system.spaces[entry[0]], set(np.frombuffer(entry[1], dtype=np.int64).tolist())
            units = system.units((over,))
            found_part = next((item for item in zip(over.parts or (), over.positions or (), strict=True) if set(map(int, item[1])) == where), None)
            if len(units) < 2 or found_part is None or len(found_part[0]) != 1 or self._normal_assign(frozenset({entry})) is not None:
                continue
            part, order = found_part
            cells = [(block.index[0], block.entries) for block in self.blocks([(over,)])]
            inside = [(cell, entries) for cell, entries in cells if cell is not None and where.issuperset(cell.tolist())]
            if sum(len(cell) for cell, _ in inside) != len(where):
                return False
            local = {int(element): i for i, element in enumerate(order)}
            found = system.find(member)
            if found.base is not None:  # it is no longer a restriction along one space
                found.base, found.assign = None, frozenset()
            for cell, entries in inside:
                at = np.sort(np.asarray([local[element] for element in cell.tolist()], dtype=np.int64))
                finest = self._member(base, assign - {entry} | set(entries))
                deeper = (found,) if len(at) == part[0].size else self._restrict_all((found,), frozenset({(part[0].id, at.tobytes())}))
                self._same((finest,), deeper)
            return True
        return False

    def _refine(self, base: Space, assign: Assign, member: Space) -> bool:
        """Link a member over a part that was cut further with the members over its finest parts."""
        system, changed = self.system, self._link_factors(base, assign, member)
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

    def _link_factors(self, base: Space, assign: Assign, member: Space) -> bool:
        """Link a member over a part that is a product, and over some of its factors, with the member over the whole part."""
        system = self.system
        if len(assign) < 2:
            return False
        inner: set[int] = set()
        for id, data in assign:
            over = system.spaces[id]
            if not system.has_products(over):
                continue
            for axis, positions in system.leaves(over):
                if len(axis) > 1 and np.sort(positions).astype(np.int64).tobytes() == data:
                    inner.update(unit.id for unit in axis)
        whole = frozenset(entry for entry in assign if entry[0] not in inner)
        above = system.members.get((base.id, whole))
        if not whole or len(whole) == len(assign) or above is None or not self._is_new(base.id, assign, self._state(above), self._state(member)):
            return False
        return self._same((member,), self._restrict_all((above,), assign - whole))

    def _is_finest(self, entry: Entry) -> bool:
        """Whether the elements of an entry are one finest part. Parts found once per pass: what changes within it is seen in the next."""
        parts = self._finest.get(entry[0])
        if parts is None:
            leaves = self.system.leaves(self.system.spaces[entry[0]])
            parts = self._finest[entry[0]] = frozenset(np.sort(positions).astype(np.int64).tobytes() for _, positions in leaves)
        return entry[1] in parts

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

    def _restrict_all(self, axis: Axis, assign: Assign) -> Axis:
        """An axis at `assign`: members of its atomic spaces, inside unions too."""
        system = self.system
        self._work += 1
        if self._work > MOST_WORK:
            raise Unsettled("families have too many members to be resolved")
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
                    out.append(unit if is_empty(both) else self._member(base, both))
        return tuple(out)

    def _state(self, space: Space) -> tuple[int, ...]:
        """What a space is by now: the ids of its finest parts."""
        out: list[int] = []
        for unit in self.system.units((space,)):
            out += [inner.id for axis in self.system.finest(unit) for inner in axis]
        return tuple(out)

    def _is_new(self, *key: Any) -> bool:
        """Whether a link between members is made for the first time: making it again would only make names."""
        if key in self._linked:
            return False
        self._linked.add(key)
        return True

    def _collapse(self) -> bool:
        """A family whose members over the finest parts are all the same space is that space, and so are its members over several of these."""
        system, changed = self.system, False
        families: dict[tuple[int, Assign, int], dict[bytes, Space]] = {}
        for (base_id, assign), member in system.members.items():
            for entry in assign:
                families.setdefault((base_id, assign - {entry}, entry[0]), {})[entry[1]] = member
        finest: dict[int, list[bytes]] = {}
        for (base_id, rest, over_id), members in families.items():
            over = system.spaces[over_id]
            if over.parts is None:
                continue
            if over_id not in finest:
                finest[over_id] = [np.sort(positions).astype(np.int64).tobytes() for _, positions in system.leaves(over)]
            # The finest parts decide: members over several of them follow. Members over what were finest parts before count as well.
            parts = [members.get(part) for part in finest[over_id]]
            if None in parts and len(members) >= len(parts):
                parts = list(members.values())
            first = parts[0]
            if first is None or any(part is None or system.units((part,)) != system.units((first,)) for part in parts):
                continue
            for member in members.values():
                changed = self._same((member,), (first,)) or changed
            changed = self._same((first,), (self._member(system.spaces[base_id], rest),)) or changed
        return changed

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

    def _varying_ids(self) -> dict[int, set[int]]:
        """Ids of the spaces whose members over a space are not all the space itself, by that space's id."""
        out: dict[int, set[int]] = {}
        for (base_id, assign), member in self.system.members.items():
            if self.system.find(member) is not self.system.find(self.system.spaces[base_id]):
                for over_id, _ in assign:
                    out.setdefault(over_id, set()).add(base_id)
        return out
