"""Closing a graph's symmetry: the edges that make its automorphisms the annotated group, no more and no less.

Two things can be missing after emission. Node sets that hold the same space without being linked element to element (a weight used
twice) could be permuted apart. And a product of spaces, some of which move on their own, could be permuted as if it were one space.
Membership edges from each node set to the nodes of every such factor mend both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.symmetries.spaces import Axis, Space

if TYPE_CHECKING:
    from paramgraph.compiler.emission import Emitter

Key = frozenset[int]


class Closure:
    """Finds node sets that hold a dependency-closed product of spaces, and links those that are not linked yet."""

    def __init__(self, emitter: Emitter) -> None:
        self.emitter = emitter
        self.group = emitter.group
        # Of node sets with the same units: their blocks; and the closed products that they hold, whether as a whole, and whether several times.
        self.blocks_of: dict[Axis, list[tuple[np.ndarray | None, tuple[int, ...]]]] = {}
        self.keys_of: dict[Axis, list[tuple[Key, bool, bool]]] = {}
        self.space_of: dict[int, Space] = {}
        self.parent: dict[tuple[str, Key], tuple[str, Key]] = {}
        # The node set that is indexed by exactly a closed product.
        self.hubs: dict[Key, str] = {}

    def run(self) -> None:
        holders: dict[Key, dict[str, bool]] = {}
        several: set[tuple[str, Key]] = set()
        for name, record in self.emitter.nodes.items():
            for key, exact, repeated in self._keys(record.units):
                holders.setdefault(key, {})[name] = exact
                self.parent[name, key] = (name, key)
                if repeated:
                    several.add((name, key))
        for link in self.emitter.links:
            shared = self._atoms(link.shared)
            for key in dict.fromkeys([self._closed(number) for number in shared if not self.group.spaces[number].pinned]):
                if key <= shared and link.source in holders.get(key, ()) and link.target in holders[key]:
                    ends = (link.source, key), (link.target, key)
                    # Of a set that holds the product in several blocks (a concatenation), a link may reach one block and not the others.
                    if several.isdisjoint(ends):
                        self._union(*ends)
        for key in sorted(holders, key=lambda k: (len(k), sorted(k))):
            self._connect(key, holders[key])
        for name, record in list(self.emitter.nodes.items()):
            if record.type == "hidden":  # others are linked with the nodes that their elements come from
                self._tell_occurrences(name, record.units)

    def _tell_occurrences(self, name: str, units: Axis) -> None:
        """Link nodes of pairs of elements of one space, those of a matrix with equal rows and columns, with both elements apart."""
        places: dict[int, dict[int, None]] = {}  # of each space, once for all blocks: edges go from each of them
        for _, numbers in self._blocks(units):
            for place, number in enumerate(numbers):
                if numbers.count(number) > 1 and not self.group.spaces[number].pinned and self._closed(number) <= set(numbers):
                    places.setdefault(number, {})[place] = None
        for number, occurring in places.items():
            key = self._closed(number)
            if key not in self.hubs:
                self._connect(key, {})
            for place in occurring:
                self._membership(key, name, self.hubs[key], f"member.{place}", {number: place})

    # -- keys ----------------------------------------------------------------------------------------------------------

    def _blocks(self, units: Axis) -> list[tuple[np.ndarray | None, tuple[int, ...]]]:
        found = self.blocks_of.get(units)
        if found is None:
            found = self.blocks_of[units] = []
            for block in self.emitter.blocks(units):
                numbers = self.group.numbers(block.axes[0])
                self.space_of.update(zip(numbers, block.axes[0], strict=True))
                found.append((self.group.block(block).index[0], numbers))
        return found

    def _keys(self, units: Axis) -> list[tuple[Key, bool, bool]]:
        """The closed products that a node set holds, whether the whole set is indexed by exactly that product, and whether several blocks hold it."""
        known = self.keys_of.get(units)
        if known is not None:
            return known
        blocks = self._blocks(units)
        out: dict[Key, bool] = {}
        for _, numbers in blocks:
            for number in numbers:
                if self.group.spaces[number].pinned:
                    continue
                key = self._closed(number)
                if key <= set(numbers) and len(set(numbers)) == len(numbers):
                    exact = len(blocks) == 1 and key == frozenset(numbers)
                    out[key] = out.get(key, False) or exact
        self.keys_of[units] = [(key, exact, sum(key <= set(numbers) for _, numbers in blocks) > 1) for key, exact in out.items()]
        return self.keys_of[units]

    def _closed(self, number: int) -> Key:
        factor = self.group.factors[self.group.spaces[number].factor]
        return frozenset((*factor.spaces, *factor.over))

    def _atoms(self, units: Axis) -> Key:
        return frozenset(n for unit in units for n in self.emitter.atoms(unit))

    # -- linking -------------------------------------------------------------------------------------------------------

    def _find(self, item: tuple[str, Key]) -> tuple[str, Key]:
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def _union(self, a: tuple[str, Key], b: tuple[str, Key]) -> None:
        self.parent[self._find(a)] = self._find(b)

    def _connect(self, key: Key, holders: dict[str, bool]) -> None:
        """Link all holders of a product with one node set that is indexed by exactly it."""
        clusters: dict[tuple[str, Key], list[str]] = {}
        for name in holders:
            clusters.setdefault(self._find((name, key)), []).append(name)
        exact = next((name for name, is_exact in holders.items() if is_exact), None)
        if exact is None:
            numbers = sorted(key)
            units = tuple(self.space_of[n] for n in numbers)
            depth = min((self.emitter.nodes[name].depth for name in holders), default=0)
            exact = self.emitter.add_nodes("×".join(self.group.spaces[n].label for n in numbers) or "factor", "factor", units, depth)
            home = None
        else:
            home = self._find((exact, key))
        self.hubs[key] = exact
        for root, names in clusters.items():
            if root != home:
                self._membership(key, names[0], exact)

    def _membership(self, key: Key, name: str, hub: str, type_: str = "member", occurrences: Mapping[int, int] = MappingProxyType({})) -> None:
        """An edge from every node to the hub node with the same elements of the product.

        Args:
            occurrences: which occurrence of a space is meant, where the nodes hold it several times.
        """
        hub_index, hub_order = self._blocks(self.emitter.nodes[hub].units)[0]
        sources, targets = [], []
        for index, numbers in self._blocks(self.emitter.nodes[name].units):
            if not key <= set(numbers) or any(numbers.count(n) > 1 and numbers[d : d + 1] != (n,) for n, d in occurrences.items()):
                continue
            sizes = [self.group.spaces[n].size for n in numbers]
            place_of = {n: occurrences.get(n, -1) if numbers.count(n) > 1 else -1 for n in hub_order}
            target = np.zeros((), dtype=np.int64)
            for n in hub_order:
                axis = numbers.index(n) if place_of[n] < 0 else place_of[n]
                size = self.group.spaces[n].size
                target = target * size + np.arange(size).reshape([-1 if d == axis else 1 for d in range(len(sizes))])
            target = np.broadcast_to(target, sizes)
            flat = np.arange(math.prod(sizes)) if index is None else index
            sources.append(flat)
            targets.append(target.reshape(-1) if hub_index is None else hub_index[target.reshape(-1)])
        source, target = np.concatenate(sources), np.concatenate(targets)
        shared = tuple(self.space_of[n] for n in hub_order)
        self.emitter.add_edges(type_, name, hub, (len(source), 1, 1, 1), source[:, None], target[:, None], shared=shared)

