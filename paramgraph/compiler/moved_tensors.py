"""How an element of a group moves tensors with given axes: as permutations of sets of dimensions, and as grids of positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from paramgraph.compiler.dimensions import Moves, is_identity
from paramgraph.compiler.grids import Grid, grids
from paramgraph.symmetries.element import GroupElement
from paramgraph.symmetries.group import ActionBlock, SymmetryGroup, TensorAction
from paramgraph.symmetries.solution import GroupBuilder
from paramgraph.symmetries.spaces import Axis


class MovedTensors:
    """Tensors under one element of a group after the other.

    Args:
        builder: the group's spaces and factors, closed. Spaces met here for the first time are numbered.
    """

    # The group, and the element that moves; set when all spaces are numbered.
    group: SymmetryGroup
    element: GroupElement

    def __init__(self, builder: GroupBuilder) -> None:
        self.builder = builder
        self._actions: dict[tuple[Axis, ...], TensorAction] = {}
        # Per sequence of blocks, the factors that move each; nothing where a product does not say by itself where its elements go.
        self._moving: dict[int, Sequence[tuple[ActionBlock, set[int]]]] = {}
        self._closed: dict[tuple[int, ...], bool] = {}
        self._known: dict[tuple[Axis, ...], Moves] = {}
        self._sources: dict[int, np.ndarray | None] = {}
        self._images: dict[tuple[int, ...], np.ndarray] = {}
        self._positions: dict[tuple[tuple[int, ...], int, bytes], np.ndarray] = {}

    def start(self, element: GroupElement) -> None:
        """Let another element move the tensors."""
        self.element = element
        self._known, self._sources, self._images, self._positions = {}, {}, {}, {}

    def action(self, axes: tuple[Axis, ...]) -> TensorAction:
        """How the group permutes a tensor with these axes."""
        found = self._actions.get(axes)
        if found is None:
            found = self._actions[axes] = self.builder.action(axes)
        return found

    def factors_of(self, block: ActionBlock) -> set[int]:
        return {self.builder.spaces[s].factor for spaces in block.spaces for s in spaces}

    # -- permutations of all elements ----------------------------------------------------------------------------------

    def moves(self, axes: tuple[Axis, ...]) -> Moves:
        """How the element permutes a tensor with these axes."""
        found = self._known.get(axes)
        if found is None:
            action = self.action(axes)
            found = self._known[axes] = {}
            for dims, blocks in action.components:
                if id(blocks) not in self._sources:  # tensors with the same dimensions share their blocks
                    source = self._source(action, dims, blocks)
                    self._sources[id(blocks)] = None if source is None or is_identity(source) else source
                source = self._sources[id(blocks)]
                if source is not None:
                    found[dims] = source
        return found

    def _source(self, action: TensorAction, dims: tuple[int, ...], blocks: Sequence[ActionBlock]) -> np.ndarray | None:
        """Where the new value of each flat place comes from; the same few spaces make up most single dimensions."""
        moving = self._moving_parts(blocks)
        if not moving:
            return self.element.source(action, dims, blocks)
        sizes = [action.shape[d] for d in dims]
        source = np.arange(math.prod(sizes))
        for block, factors in moving:
            if factors.isdisjoint(self.element.permutations):
                continue
            place: np.ndarray | None = None
            target: np.ndarray | None = None
            for size, spaces, index in zip(sizes, block.spaces, block.index, strict=True):
                image = self._image(spaces)
                before, after = (np.arange(len(image)), image) if index is None else (index, index[image])
                place = before if place is None else np.add.outer(place * size, before).reshape(-1)
                target = after if target is None else np.add.outer(target * size, after).reshape(-1)
            assert place is not None and target is not None  # blocks have dimensions
            source[target] = place
        return source

    def _moving_parts(self, blocks: Sequence[ActionBlock]) -> Sequence[tuple[ActionBlock, set[int]]]:
        """Blocks whose products say by themselves where their elements go, with what moves each; nothing if one does not."""
        moving = self._moving.get(id(blocks))
        if moving is None:
            closed = all(self._is_closed(spaces) for block in blocks for spaces in block.spaces)
            moving = self._moving[id(blocks)] = [(block, self.factors_of(block)) for block in blocks] if closed else ()
        return moving

    def _image(self, spaces: tuple[int, ...]) -> np.ndarray:
        found = self._images.get(spaces)
        if found is None:
            found = self._images[spaces] = self.element.permutation_of(spaces)
        return found

    def _is_closed(self, spaces: tuple[int, ...]) -> bool:
        """Whether a product says by itself where its elements go: nothing else decides it."""
        found = self._closed.get(spaces)
        if found is None:
            factors = [self.group.factors[number] for s in spaces if (number := self.group.spaces[s].factor) >= 0]
            found = self._closed[spaces] = all({*factor.spaces, *factor.over} <= set(spaces) for factor in factors)
        return found

    # -- grids of positions --------------------------------------------------------------------------------------------

    def grids(self, axes: tuple[Axis, ...]) -> list[Grid] | None:
        """The grids that the element makes of a tensor with these axes; None where it moves some dimension in other ways."""
        action = self.action(axes)
        components = []
        for dims, blocks in action.components:
            moving = self._moving_parts(blocks)
            if not moving:
                return None
            sizes = [action.shape[d] for d in dims]
            components.append((dims, [tuple(map(self._along, block.spaces, sizes, block.index)) for block, _ in moving]))
        return grids(action.shape, components)

    def _along(self, spaces: tuple[int, ...], size: int, index: np.ndarray | None) -> np.ndarray:
        """Where the positions of a product along a dimension go; -1 for those that are not its own."""
        key = spaces, size, b"" if index is None else index.tobytes()
        found = self._positions.get(key)
        if found is None:
            image = self._image(spaces)
            found = self._positions[key] = np.full(size, -1)
            found[slice(len(image)) if index is None else index] = image if index is None else index[image]
        return found
