"""Which scales the permutations normalise: a group of both is one only if a permuted scale is a scale again.

Scale typing does not follow an index into what it names: the multipliers of weights gathered by values are the same for all elements that
may be named. Permutations do follow it, and may differ for each of those elements: they would take a multiplier that is the same for all of
them to multipliers that are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from paramgraph.symmetries.action import TensorAction
from paramgraph.symmetries.scales import Scales

if TYPE_CHECKING:
    from paramgraph.symmetries.group import SymmetryGroup


def unnormalised(group: SymmetryGroup, scales: Scales) -> list[int]:
    """Numbers of the variables that vary along axes of a tensor whose permutation depends on its other axes.

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
    return sorted(out)


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
