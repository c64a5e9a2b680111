"""Permutations of a tensor as grids: parts on which every dimension moves by itself.

A tensor's elements are many, the positions along its dimensions few. Where a permutation is made of grids, whether an operation of layout
commutes with it is asked of the positions, dimension by dimension, and no permutation of all elements is ever made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np

# Per dimension, where each position goes: -1 for those outside the grid; None where all of them stay, inside it.
Grid = tuple[np.ndarray | None, ...]
# More pairs of grids than this are not compared one by one.
MOST_PAIRS = 1 << 12


def grids(shape: Sequence[int], components: Sequence[tuple[Sequence[int], Sequence[Grid]]]) -> list[Grid] | None:
    """The grids of a tensor, from those of each set of its dimensions; None where some set's grids are not all of it.

    Args:
        shape: of the tensor.
        components: sets of dimensions that move together, with their grids. Other dimensions stay as they are.
    """
    for dims, own in components:
        if sum(math.prod(_count(image, shape[d]) for d, image in zip(dims, grid, strict=True)) for grid in own) != math.prod(shape[d] for d in dims):
            return None
    out = []
    for chosen in product(*(own for _, own in components)):
        images: list[np.ndarray | None] = [None] * len(shape)
        for (dims, _), grid in zip(components, chosen, strict=True):
            for d, image in zip(dims, grid, strict=True):
                images[d] = image
        out.append(tuple(images))
    return out


def _count(image: np.ndarray | None, size: int) -> int:
    return size if image is None else int(np.count_nonzero(image >= 0))


def is_carried(small: Sequence[Grid], big: Sequence[Grid], dim: int, places: np.ndarray) -> bool | None:
    """Whether laying one tensor into another commutes with permutations of both; None where there are too many grids to say.

    Args:
        small: grids of the one.
        big: those of the other.
        dim: the dimension along which the two differ.
        places: where along it each position of the small tensor lies in the big one; no two in one place.
    """
    if len(small) * len(big) > MOST_PAIRS:
        return None
    known: dict[tuple[bool, int, int], tuple[bool, bool]] = {}

    def compared(d: int, one: np.ndarray | None, other: np.ndarray | None) -> tuple[bool, bool]:
        """Whether two grids meet along a dimension, and whether both move what they share alike."""
        key = (d == dim, id(one), id(other))
        if key not in known:
            known[key] = _compared(one, other, places if d == dim else None)
        return known[key]

    for one, other in product(small, big):
        along = [compared(d, a, b) for d, (a, b) in enumerate(zip(one, other, strict=True))]
        # Each position that two grids share along a dimension is in an element of both if they meet along all of them.
        if all(meets for meets, _ in along) and not all(alike for _, alike in along):
            return False
    return True


def _compared(one: np.ndarray | None, other: np.ndarray | None, places: np.ndarray | None) -> tuple[bool, bool]:
    if places is None:
        if one is other:
            return True, True
        assert one is not None or other is not None  # not one and the same
        here = np.arange(len(other)) if one is None and other is not None else one
        there = np.arange(len(here)) if other is None and here is not None else other
    else:
        here = places if one is None else np.where(one >= 0, places[one], -1)
        there = places if other is None else other[places]
    assert here is not None and there is not None
    shared = (here >= 0) & (there >= 0)
    return bool(shared.any()), bool((here == there)[shared].all())
