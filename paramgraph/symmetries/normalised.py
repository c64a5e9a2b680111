"""Which scales the permutations normalise: a group of both is one only if a permuted scale is a scale again.

Scale typing does not follow an index into what it names: the multipliers of weights gathered by values are the same for all elements that
may be named. Permutations do follow it, and may differ for each of those elements: they would take a multiplier that is the same for all of
them to multipliers that are not. The same goes for positions that are fixed for scales, and which permutations tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paramgraph.symmetries.action import ActionBlock, TensorAction
from paramgraph.symmetries.scales import ScaleBlock, Scales, ScaleTerm

if TYPE_CHECKING:
    from paramgraph.symmetries.group import SymmetryGroup

# Random permutations that a multiplier must be kept by: of two elements, one alone moves both alike half of the time.
_ELEMENTS = 8


def unnormalised(group: SymmetryGroup, scales: Scales) -> list[int]:
    """Numbers of the variables that vary along spaces of a tensor whose permutation depends on its other spaces.

    Args:
        group: the permutations.
        scales: the scales, those of the group or ones that are to be.
    """
    out: set[int] = set()
    for name, blocks in scales.blocks.items():
        if all([len(dims) == 1 for dims, _ in group.actions[name].components]):
            continue
        needed = _needed(group, group.actions[name])
        for block in blocks:
            along = [frozenset(block.axis_of[p] for p in term.places) for term in block.terms]
            for term, axes in zip(block.terms, along, strict=True):
                whole = axes.union(*(needed.get(d, ()) for d in axes))
                if whole != axes and not any(other >= whole for other in along):
                    out.update(term.variables)
    out.update(_along_parts_of_axes(group, scales))
    return sorted(out)


def _along_parts_of_axes(group: SymmetryGroup, scales: Scales) -> set[int]:
    """Variables of some spaces of an axis whose permutation depends on its others.

    Where a block's axis is written in the spaces that are permuted, these say so; elsewhere random elements show it.
    """
    from paramgraph.symmetries.element import GroupElement

    numbers = np.random.default_rng(0)
    drawn: list[GroupElement] = []
    out: set[int] = set()
    within: dict[int, bool] = {}  # many tensors share the parts of an axis
    shown: dict[Any, list[int] | None] = {}
    for name, blocks in scales.blocks.items():
        action = group.actions[name]
        for dims, parts in action.components:
            if len(dims) > 1:
                continue
            if id(parts) not in within:
                within[id(parts)] = any([_depends_within(group, part.spaces[0]) for part in parts])
            if not within[id(parts)]:
                continue
            (d,) = dims
            partly = [block for block in blocks if len(block.sizes[d]) > 1
                      and any([0 < len(_own(block, term, d)) < len(block.sizes[d]) for term in block.terms])]  # fmt: skip
            doubtful = [(block, terms) for block in partly if (terms := _doubtful(group, block, parts, d, shown))]
            if doubtful and not drawn:
                drawn = [GroupElement(group, {n: numbers.permuted(np.tile(np.arange(f.size), (f.copies, 1)), axis=1)
                                              for n, f in enumerate(group.permuting)}) for _ in range(_ELEMENTS)]  # fmt: skip
            sources = [source for element in drawn if doubtful for own, source in element.sources(action) if own == dims]
            for source in sources:
                for block, terms in doubtful:
                    kept = [frozenset(term.places) for term in block.terms if _is_kept(block, term, d, source)]
                    out.update(v for term in terms if not any(other >= set(term.places) for other in kept) for v in term.variables)
    return out


def _doubtful(group: SymmetryGroup, block: ScaleBlock, parts: Sequence[ActionBlock], dim: int, shown: dict[Any, list[int] | None]) -> list[ScaleTerm]:
    """Terms of a block that the spaces of an axis do not show to be kept, by themselves or with others.

    Args:
        shown: the spaces that a part of an axis is written in, as far as known: of lists of parts, and positions, that all tensors share.
    """
    index, sizes = block.index[dim], block.sizes[dim]
    which = id(parts), id(index), sizes
    if which not in shown:
        shown[which] = _spaces_of(group, parts, index, sizes)
    spaces = shown[which]
    kept = []
    for term in block.terms:
        own = _own(block, term, dim)
        if len(own) == len(sizes) or spaces is not None and _is_closed(group, {spaces[i] for i in own}):
            kept.append(frozenset(term.places))
    return [term for term in block.terms if not any([other.issuperset(term.places) for other in kept])]


def _spaces_of(group: SymmetryGroup, parts: Sequence[ActionBlock], index: np.ndarray | None, sizes: tuple[int, ...]) -> list[int] | None:
    """The spaces that the elements of an axis at some positions are permuted by, if these are of the given sizes."""
    spaces = None
    for part in parts:
        held = [s for s in part.spaces[0] if group.spaces[s].size > 1]
        if sizes == tuple([group.spaces[s].size for s in held]) and np.array_equal(_first(part.index[0], sizes), _first(index, sizes)):
            spaces = held
    return spaces


def _first(index: np.ndarray | None, sizes: tuple[int, ...]) -> np.ndarray:
    """Positions along an axis; without any, they are the first ones."""
    return np.arange(math.prod(sizes)) if index is None else index


def _is_closed(group: SymmetryGroup, spaces: set[int]) -> bool:
    """Whether these spaces are permuted in a way that depends on no others."""
    factors = [group.permuting[group.spaces[s].factor] for s in spaces if group.spaces[s].factor >= 0]
    return all([spaces.issuperset(factor.over) and spaces.issuperset(factor.spaces) for factor in factors])


def _depends_within(group: SymmetryGroup, spaces: tuple[int, ...]) -> bool:
    """Whether, among the spaces of one axis, some move otherwise for each element of others."""
    factors = [group.permuting[group.spaces[s].factor] for s in spaces if group.spaces[s].factor >= 0]
    return any(other in spaces for factor in factors for other in factor.over)


def _own(block: ScaleBlock, term: ScaleTerm, dim: int) -> list[int]:
    """The spaces of one axis that a term varies along, numbered within the axis."""
    first = block.axis_of.index(dim) if dim in block.axis_of else 0
    return [p - first for p in term.places if block.axis_of[p] == dim]


def _is_kept(block: ScaleBlock, term: ScaleTerm, dim: int, source: np.ndarray) -> bool:
    """Whether a permutation takes elements of one multiplier to elements of one multiplier."""
    sizes, own = block.sizes[dim], _own(block, term, dim)
    index = block.index[dim]
    positions = np.arange(len(source)) if index is None else np.asarray(index)
    grid = np.indices(sizes).reshape(len(sizes), -1)
    multiplier = np.full(len(source), -1)
    multiplier[positions] = np.ravel_multi_index([grid[i] for i in own], [sizes[i] for i in own]) if own else 0
    before, after = multiplier[positions], multiplier[source[positions]]
    image = np.empty(len(source), dtype=np.int64)
    image[before] = after  # any one of those of one multiplier
    return np.array_equal(image[before], after)


def _needed(group: SymmetryGroup, action: TensorAction) -> Mapping[int, set[int]]:
    """Per axis, the axes along which its permutation may differ."""
    out: dict[int, set[int]] = {}
    for dims, blocks in action.components:
        for block in blocks:
            at = {s: d for d, spaces in zip(dims, block.spaces, strict=True) for s in spaces}
            for s, d in at.items():
                number = group.spaces[s].factor
                factor = group.permuting[number] if number >= 0 else None
                for other in (*factor.over, *factor.spaces) if factor is not None else ():
                    out.setdefault(d, set()).add(at.get(other, d))
    return out
