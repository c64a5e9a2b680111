"""Tensors as arrays over index spaces: what comparisons along the spaces of a group work on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from paramgraph.symmetries.action import ActionBlock, Array, Factor

if TYPE_CHECKING:
    from paramgraph.graph import ParamGraph
    from paramgraph.symmetries.group import SymmetryGroup

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Slices:
    """A part of a tensor in which a factor's spaces occur, as slices: one for each element of each copy.

    Attributes:
        name: of the tensor.
        dims: dimensions of the tensor that the part is restricted in.
        block: the restriction.
        sizes: of the spaces of the block, in order.
        order: numbers of the spaces: those of the copies, those of the elements, the others.
        axes: dimensions of the tensor that the elements lie along.
        copies: number of copies.
        elements: number of elements.
    """

    name: str
    dims: tuple[int, ...]
    block: ActionBlock
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    axes: frozenset[int]
    copies: int
    elements: int

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The slices, shape `(copies, elements, rest)`."""
        return self.spread(tensor).reshape(self.copies, self.elements, -1)

    def spread(self, tensor: torch.Tensor) -> torch.Tensor:
        """The part over all its spaces: those of the copies, those of the elements, the others; a view where the part is all of the tensor."""
        part = tensor
        sizes, start = [[n] for n in tensor.shape], 0
        for d, index, spaces in zip(self.dims, self.block.index, self.block.spaces, strict=True):
            sizes[d] = list(self.sizes[start : start + len(spaces)])
            start += len(spaces)
            part = part.narrow(d, 0, math.prod(sizes[d])) if index is None else part.index_select(d, torch.from_numpy(index).to(part.device))
        first = [sum(len(held) for held in sizes[:d]) for d in range(tensor.ndim)]
        own = [first[d] + i for d, spaces in zip(self.dims, self.block.spaces, strict=True) for i in range(len(spaces))]
        rest = [first[d] + i for d in range(tensor.ndim) if d not in self.dims for i in range(len(sizes[d]))]
        return part.reshape([n for held in sizes for n in held]).permute([*(own[i] for i in self.order), *rest])

    def moments(self, tensor: torch.Tensor) -> Iterator[torch.Tensor]:
        """Means of the first three powers over each slice, shape `(copies, elements)`."""
        part = self.spread(tensor)
        outer = next(i for i in range(part.ndim + 1) if math.prod(part.shape[:i]) == self.copies * self.elements)
        dims, square = tuple(range(outer, part.ndim)), part * part
        for power in (part, square, square * part):
            yield (power.mean(dims) if dims else power).reshape(self.copies, self.elements)


def slices_of(group: SymmetryGroup, factor: Factor, names: Iterable[str]) -> list[Slices]:
    """Everything that a permutation factor moves among some tensors. A space that occurs twice in a part gives two entries."""
    out = []
    for name in names:
        for dims, blocks in group.actions[name].components:
            for block in blocks:
                flat = [s for spaces in block.spaces for s in spaces]
                along = [d for d, spaces in zip(dims, block.spaces, strict=True) for _ in spaces]
                sizes = tuple(group.spaces[s].size for s in flat)
                for places in _occurrences(flat, factor):
                    over = [flat.index(s) for s in factor.over]
                    others = [i for i in range(len(flat)) if i not in over and i not in places]
                    order = (*over, *places, *others)
                    axes = frozenset(along[i] for i in places)
                    out.append(Slices(name, dims, block, sizes, order, axes, factor.copies, factor.size))
    return out


def _occurrences(flat: Sequence[int], factor: Factor) -> list[list[int]]:
    if len(factor.spaces) == 1:
        return [[i] for i, s in enumerate(flat) if s == factor.spaces[0]]
    return [[flat.index(s) for s in factor.spaces]] if factor.spaces[0] in flat else []


def compared(graph: ParamGraph) -> list[str]:
    """Names of the actions that comparisons look at: on floating-point numbers that are no running statistics."""
    group = graph.symmetry
    statistics = {e.parameter.name for e in graph.parameter_edges() if e.parameter is not None and "running_" in e.parameter.role}
    return [
        name
        for name in group.actions
        if all(graph.values[member].is_floating_point() and member not in statistics for member in group.members(name))
    ]


def prepared(graph: ParamGraph, names: Iterable[str], dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """What the named actions are on, detached, those of a stack in one tensor; elements that no operation reads are 0.

    Half precision becomes float32, if no type is asked for.
    """
    out = {}
    for name in names:
        action = graph.symmetry.actions[name]
        members = [graph.values[member].detach() for member in graph.symmetry.members(name)]
        value = members[0] if len(members) == 1 else torch.stack(members).reshape(action.shape)
        value = value.to(dtype or (value.dtype if value.dtype in (torch.float32, torch.float64) else torch.float32))
        unread: Array | None = action.unread
        if unread is not None:
            value = value.clone().contiguous()
            value.view(-1)[torch.from_numpy(unread).to(value.device)] = 0
        out[name] = value
    return out
