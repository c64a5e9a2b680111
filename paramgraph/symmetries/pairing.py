"""Pairing: which occurrence of a space another one depends on, where a tensor holds it several times.

The weight of a layer from a stream of groups to itself has the type `[(G, C), (G, C)]`. What moves within a group may differ for each group,
on both axes: C depends on the G that stands beside it. The group acts on the two axes one by one, each by the permutation of (G, C).

In general the axes of a tensor fall into *components*, such that what is in one depends on nothing in another. A component is acted on as if it
were a tensor of its own, so the rule for whole tensors has to hold in each: a space may depend only on spaces that occur exactly once in its
component. The partner of an occurrence is what stands in its own axis, or the only one that there is in all of the tensor. Operations keep
partners: their operands' axes are axes of the hidden tensor of all labels, so what stands beside a space does so on every side. Those that divide
a tensor's elements into axes in another way are recorded with what both divisions have in common; a constant in which two axes move as one, and
what would need nodes for pairs of elements of one space, are recorded without pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from paramgraph.symmetries.contexts import Contexts
from paramgraph.symmetries.space import Axis, Space
from paramgraph.symmetries.spaces import SpaceSystem

_NOTHING: set[Space] = set()


class Pairing(Contexts):
    """Components of tensors' axes, and the dependencies that are defined in each of them.

    Attributes:
        partners: spaces that depend on others of which some tensor holds several, and those.
    """

    def __init__(self, system: SpaceSystem, pairing: bool = True) -> None:
        super().__init__(system, pairing)
        self.partners: set[Space] = set()

    def _varying_on(self, unit: Space) -> set[Space]:
        """The spaces that may be others on each part of a parted space."""
        return _NOTHING

    def coupled(self, axes: Sequence[Axis], coarse: bool = False) -> list[list[int]]:
        """Dimensions that must be permuted together: a space of one depends on a space of another.

        Args:
            coarse: a union counts, too, as what is known of it as a whole; mostly its parts and members are free of that.
        """
        deep = [self._deep(axis) for axis in axes]
        repeated = bool(self.partners) and not coarse
        parent = list(range(len(axes)))
        for a in range(len(axes)):
            for b in range(len(axes)):
                if a != b and parent[a] != parent[b] and self._depends(deep[a], deep[b], coarse, axes[a] if repeated else None):
                    old, new = parent[a], parent[b]
                    parent = [new if p == old else p for p in parent]
        return [[d for d in range(len(axes)) if parent[d] == root] for root in dict.fromkeys(parent)]

    def _depends(self, a: set[Space], b: set[Space], coarse: bool, axis: Axis | None) -> bool:
        """Whether something in one axis depends on something in another.

        Args:
            a: the spaces of the one, those inside its parts among them.
            b: those of the other.
            coarse: see `coupled`.
            axis: the one axis, if what stands in it may have its partners there.
        """
        for unit in a:
            if (coarse or unit.parts is None) and not (on := self.on.get(unit, _NOTHING)).isdisjoint(b):
                common = on & b
                if axis is None or not common <= a or not all(common <= set(own) for own in self._products(axis) if unit in own):
                    return True
        return any(not self._varying_on(unit).isdisjoint(a) for unit in b if unit.parts is not None)

    def _products(self, axis: Axis) -> Iterator[Axis]:
        """The products of atomic spaces that an axis is made of."""
        units = self.system.units(axis)
        if all(unit.parts is None for unit in units):
            yield units
        else:
            yield from (block.axes[0] for block in self.blocks([units]))

    def _find_partners(self) -> None:
        """Collect the spaces that depend on others which some tensor holds several times, with those."""
        self.partners = set()
        for axes in dict.fromkeys(self._paired):
            repeated = self._repeated(axes)
            for unit in {unit for axis in axes for unit in self._deep(axis)} if repeated else ():
                common = self.on.get(unit, _NOTHING) & repeated
                if common:
                    self.partners |= {unit, *common}

    def _drop_undefined(self) -> bool:
        """Let nothing depend on what its component of a tensor holds more than once. Returns whether anything did."""
        dropped: set[tuple[Space, Space]] = set()
        self._find_partners()
        for axes in dict.fromkeys(self._paired) if self.partners else ():
            for dims in self.coupled(axes):
                for product in self._joint([axes[d] for d in dims]):
                    dropped.update((unit, other) for unit in product for other in self.on.get(unit, ()) if product.count(other) > 1)
        for unit, other in dropped:
            self.on[unit].discard(other)
        return bool(dropped)

    def _repeated(self, axes: Sequence[Axis]) -> set[Space]:
        """The spaces that a tensor holds several times."""
        seen: set[Space] = set()
        repeated: set[Space] = set()
        for axis in axes:
            for unit in self.system.units(axis):
                for space in (unit, *(self._inside(unit).elements() if unit.parts is not None else ())):
                    (repeated if space in seen else seen).add(space)
        return repeated

    def _joint(self, axes: Sequence[Axis]) -> Iterable[Axis]:
        """Products of atomic spaces that several axes together are made of."""
        if all(unit.parts is None for axis in axes for unit in axis):
            return [tuple(chain.from_iterable(axes))]
        return [tuple(chain.from_iterable(block.axes)) for block in self.blocks(axes)]
