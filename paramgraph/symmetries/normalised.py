"""Which scales the permutations normalise: a group of both is one only if a permuted scale is a scale again.

Scale typing does not follow an index into what it names: the multipliers of weights gathered by values are the same for all elements that
may be named. Permutations do follow it, and may differ for each of those elements: they would take a multiplier that is the same for all of
them to multipliers that are not. The same goes for positions that are fixed for scales, and which permutations tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.symmetries.action import TensorAction
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
    """Variables of some spaces of an axis whose permutation depends on its others: random elements show whether it does."""
    from paramgraph.symmetries.element import GroupElement

    numbers = np.random.default_rng(0)
    drawn: list[GroupElement] = []
    out: set[int] = set()
    for name, blocks in scales.blocks.items():
        action = group.actions[name]
        for d in {dims[0] for dims, parts in action.components if len(dims) == 1 and any(_depends_within(group, part.spaces[0]) for part in parts)}:
            partly = [block for block in blocks if any(0 < len(_own(block, term, d)) < len(block.sizes[d]) for term in block.terms)]
            if partly and not drawn:
                drawn = [GroupElement(group, {n: numbers.permuted(np.tile(np.arange(f.size), (f.copies, 1)), axis=1)
                                              for n, f in enumerate(group.permuting)}) for _ in range(_ELEMENTS)]  # fmt: skip
            sources = [source for element in drawn if partly for dims, source in element.sources(action) if dims == (d,)]
            for source in sources:
                for block in partly:
                    kept = [frozenset(term.places) for term in block.terms if _is_kept(block, term, d, source)]
                    out.update(v for term in block.terms if not any(other >= set(term.places) for other in kept) for v in term.variables)
    return out


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
    pairs = np.unique(np.stack([multiplier[positions], multiplier[source[positions]]]), axis=1)
    return pairs.shape[1] == len(np.unique(multiplier[positions]))


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
