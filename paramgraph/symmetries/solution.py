"""From solved dependencies to a group: number the atomic spaces, make the factors, and say how each tensor is permuted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from paramgraph.graph import Alias
from paramgraph.symmetries.dependencies import Block, Dependencies
from paramgraph.symmetries.group import ActionBlock, Factor, IndexSpace, Scaling, SymmetryGroup, TensorAction
from paramgraph.symmetries.spaces import Axis, Space, Unsettled


class GroupBuilder:
    """Numbers spaces as they are met, so that the graph and the group name them alike."""

    def __init__(self, dependencies: Dependencies) -> None:
        self.dependencies = dependencies
        self.spaces: list[IndexSpace] = []
        self.factors: list[Factor] = []
        self._numbers: dict[Space, int] = {}
        self._names: dict[str, int] = {}
        self._together: dict[tuple[Axis, ...], tuple[ActionBlock, ...]] = {}
        self._closed = False

    def known(self) -> set[Space]:
        """The spaces numbered so far."""
        return set(self._numbers)

    def close(self) -> None:
        """Say that all tensors have been seen: free spaces met from now on move no parameter, and are no part of the group."""
        self._closed = True

    def number(self, space: Space) -> int:
        """The number of an atomic space in the group."""
        found = self._numbers.get(space)
        if found is not None:
            return found
        on = self.dependencies.on.get(space, set())
        if space.pinned or self._closed:
            self._numbers[space] = len(self.spaces)
            self.spaces.append(IndexSpace(space.size, space.label, -1, space.cause or "it indexes no parameter"))
            return self._numbers[space]
        joint = [space, *(other for other in on if space in self.dependencies.on.get(other, ()))]
        joint.sort(key=lambda unit: unit.id)
        over = sorted((other for other in on if other not in joint), key=lambda unit: unit.id)
        over_numbers = tuple(self.number(other) for other in over)
        numbers = []
        for unit in joint:
            numbers.append(len(self.spaces))
            self._numbers[unit] = len(self.spaces)
            self.spaces.append(IndexSpace(unit.size, unit.label, len(self.factors)))
        size = math.prod(unit.size for unit in joint)
        copies = math.prod(other.size for other in over)
        self.factors.append(Factor(self._name(joint), tuple(numbers), over_numbers, size, copies))
        return self._numbers[space]

    def _name(self, joint: Sequence[Space]) -> str:
        label = " × ".join(unit.label for unit in joint)
        times = self._names.get(label, 0)
        self._names[label] = times + 1
        return label if not times else f"{label} ({times + 1})"

    def numbers(self, axis: Axis) -> tuple[int, ...]:
        return tuple(self.number(unit) for unit in axis)

    def action(self, axes: Sequence[Axis]) -> TensorAction:
        """How the group permutes a tensor with these axes."""
        shape = tuple(math.prod(space.size for space in axis) for axis in axes)
        try:
            return TensorAction(shape, self._components(axes, self.dependencies.coupled(axes)))
        except Unsettled:  # something depends on a space of other dimensions after all
            return TensorAction(shape, self._components(axes, self.dependencies.coupled(axes, coarse=True)))

    def _components(self, axes: Sequence[Axis], together: Sequence[Sequence[int]]) -> tuple[tuple[tuple[int, ...], tuple[ActionBlock, ...]], ...]:
        components = []
        for dims in together:
            own = tuple(axes[d] for d in dims)
            if own not in self._together:
                self._together[own] = self._blocks_of(own)
            actions = self._together[own]
            if actions:
                components.append((tuple(dims), actions))
        return tuple(components)

    def _blocks_of(self, axes: tuple[Axis, ...]) -> tuple[ActionBlock, ...]:
        """The blocks of dimensions that move together; none where nothing moves. Tensors with the same dimensions share them."""
        blocks = self.dependencies.blocks(axes)
        if all(unit.pinned for block in blocks for axis in block.axes for unit in axis):
            return ()
        actions = tuple(self.block(block) for block in blocks)
        for action in actions:
            self.check(action)
        return actions

    def check(self, action: ActionBlock) -> None:
        """Every space must occur together with all that its permutation may depend on, once: else the element would not be defined.

        Raises:
            Unsettled: one does not.
        """
        found = [s for dim in action.spaces for s in dim]
        for s in set(found):
            if self.spaces[s].pinned:
                continue
            factor = self.factors[self.spaces[s].factor]
            if not factor.over and len(factor.spaces) == 1:
                continue
            needed = [*factor.over, *(other for other in factor.spaces if other != s)]
            if any(found.count(other) != 1 for other in needed):
                raise Unsettled(f"{self.spaces[s].label} occurs without a space that it depends on")

    def block(self, block: Block) -> ActionBlock:
        index = tuple(None if i is None or _is_everything(i) else i for i in block.index)
        return ActionBlock(index, tuple(self.numbers(axis) for axis in block.axes))

    def group(
        self,
        actions: Mapping[str, TensorAction],
        aliases: Mapping[str, Alias],
        stacks: Mapping[str, tuple[str, ...]] | None = None,
        scaling: Callable[[SymmetryGroup], Scaling] | None = None,
    ) -> SymmetryGroup:
        """The group.

        Args:
            actions: per base tensor, or stack of them.
            aliases: names of views of base tensors.
            stacks: names of the tensors of each stack.
            scaling: gives scales and signs, with their factors, from the permutations; called when first asked for. None where there are none.
        """
        spaces, factors, held = tuple(self.spaces), tuple(self.factors), dict(stacks or {})
        if scaling is None:
            return SymmetryGroup(spaces, factors, dict(actions), dict(aliases), held)
        return SymmetryGroup.deferred(spaces, factors, dict(actions), dict(aliases), held, scaling)


def _is_everything(index: np.ndarray) -> bool:
    return len(index) == 0 or (index[0] == 0 and index[-1] == len(index) - 1 and bool((np.diff(index) == 1).all()))
