"""Characters: by which multipliers the elements of a tensor are scaled when parameters are, as linear forms in unknowns.

The logarithm of a multiplier is a function of the tensor's indices. It is written as a sum of functions on subsets of its index spaces,
each zero where an index is the first of its space (`f(i, j) = f + f_i(i) + f_j(j) + f_ij(i, j)`). Constraints between tensors are the same
for every element, so each of these functions is one unknown of a linear system, over the rationals for magnitudes and over GF(2) for
signs. An unknown function on spaces of sizes n, m, … has (n − 1)(m − 1)… dimensions. A tensor that is cut into parts has functions of
its own on each part.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from paramgraph.symmetries.elimination import EVEN, ZERO, Form, Parity, plus
from paramgraph.symmetries.scale_spaces import Layout

# Number of one block along each axis.
Key = tuple[int, ...]
# Index spaces within a block: (axis, atom of the axis' block), sorted.
Subset = tuple[tuple[int, int], ...]
# Magnitude and sign.
Term = tuple[Form, Parity]
Terms = dict[Subset, Term]
# Unknowns of tensors that are no parameters are solved for first.
AUXILIARY = 1 << 40
# Parameters with more spaces than this have multipliers on single spaces only.
MOST_SPACES = 6
NOTHING: Term = (ZERO, EVEN)


def times(a: Term, b: Term) -> Term:
    """The product of two functions on one subset."""
    return plus(a[0], b[0]), a[1] ^ b[1]


def ratio(a: Term, b: Term) -> Term:
    """The quotient of two functions on one subset."""
    return plus(a[0], b[0], -1), a[1] ^ b[1]


class Incompatible(Exception):
    """Two tensors that an operation aligns are cut differently; the caller takes the operation as one without a rule."""


class Unknown(NamedTuple):
    """An unknown function of a parameter: on which spaces of which of its blocks.

    Attributes:
        name: of the parameter.
        key: the block.
        subset: the spaces.
        shape: their sizes.
        spaces: their identities, sorted.
    """

    name: str
    key: Key
    subset: Subset
    shape: tuple[int, ...]
    spaces: tuple[int, ...]

    @property
    def dimension(self) -> int:
        return math.prod([n - 1 for n in self.shape])


class Character:
    """The character of one tensor; the terms of a block are made when they are asked for."""

    __slots__ = ("_blocks", "_make", "_terms", "layouts")

    def __init__(self, layouts: Sequence[Layout], make: Callable[[Key], Terms]) -> None:
        self.layouts = tuple(layouts)
        self._make = make
        self._terms: dict[Key, Terms] = {}
        self._blocks: list[Key] | None = None

    def terms(self, key: Key) -> Terms:
        found = self._terms.get(key)
        if found is None:
            found = self._terms[key] = self._make(key)
        return found

    @property
    def blocks(self) -> list[Key]:
        """All blocks."""
        if self._blocks is None:
            counts = [len(layout.blocks) for layout in self.layouts]
            whole = counts.count(1) == len(counts)
            self._blocks = [(0,) * len(counts)] if whole else list(itertools.product(*map(range, counts)))
        return self._blocks

    @property
    def made(self) -> dict[Key, Terms]:
        """Blocks that were asked for."""
        return self._terms
