"""Components: groups of node-like places of an activation, and the node sets that hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paramgraph.compiler.parameters import Place
from paramgraph.symmetries.spaces import Axis


@dataclass
class Ref:
    """Nodes of a node set: all in order, or those with the given numbers."""

    name: str
    index: np.ndarray | None = None

    def numbers(self, size: int) -> np.ndarray:
        return np.arange(size) if self.index is None else self.index


@dataclass
class Component:
    """Node-like places of a tensor, row-major, and the nodes that hold them."""

    places: tuple[Place, ...]
    ref: Ref

    @property
    def size(self) -> int:
        return math.prod(space.size for _, _, space in self.places)


@dataclass
class NodeRecord:
    """A node set under construction."""

    name: str
    type: str
    units: Axis
    depth: int
    activation: str | None = None
    normalized: str | None = None
    rank: int = 0

    @property
    def size(self) -> int:
        return math.prod(unit.size for unit in self.units)


@dataclass
class Link:
    """Along which spaces an edge set ties its two node sets element to element."""

    source: str
    target: str
    shared: Axis


def arranged(component: Component, parts: Sequence[Sequence[Place]], shape: tuple[int, int]) -> np.ndarray | None:
    """Node numbers of a component with its places in the order of `parts`, reshaped; None where they are the implied ones."""
    wanted = [place for part in parts for place in part]
    if list(component.places) == wanted and component.ref.index is None:
        return None
    sizes = [space.size for _, _, space in component.places]
    numbers = component.ref.numbers(component.size).reshape(sizes)
    order = [component.places.index(place) for place in wanted]
    return np.ascontiguousarray(numbers.transpose(order).reshape(shape))
