"""What a group is made of: index spaces, factors, and how each tensor is permuted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class IndexSpace:
    """An atomic index space: `size` elements, moved by one factor, or by none where it is pinned.

    Attributes:
        size: number of elements.
        label: where it comes from, for people.
        factor: number of the factor that moves it; -1 where it is pinned.
        cause: why it is pinned; empty where it is free.
    """

    size: int
    label: str
    factor: int = -1
    cause: str = ""

    @property
    def pinned(self) -> bool:
        return self.factor < 0


@dataclass(frozen=True)
class Factor:
    """S_n to the power m: a joint space of n elements, permuted separately for each element of what it depends on; or scales or signs.

    Attributes:
        name: for people and for selecting factors.
        spaces: numbers of the index spaces whose product is permuted.
        over: numbers of the index spaces that it depends on.
        size: n; for scales and signs, how many there are.
        copies: m, the product of the sizes of `over`.
        kind: `"permutation"`, `"scale"` or `"sign"`.
        variables: for scales and signs, numbers of their variables in `SymmetryGroup.scales`.
    """

    name: str
    spaces: tuple[int, ...]
    over: tuple[int, ...]
    size: int
    copies: int
    kind: str = "permutation"
    variables: tuple[int, ...] = ()

    @property
    def log_order(self) -> float:
        """Natural logarithm of (n!)^m; 0 for scales and signs."""
        return self.copies * math.lgamma(self.size + 1) if self.kind == "permutation" else 0.0

    def __str__(self) -> str:
        if self.kind != "permutation":
            return f"{'ℝ₊' if self.kind == 'scale' else '{±1}'}^{self.size}: {self.name}"
        power = f"^{self.copies}" if self.copies > 1 else ""
        return f"S_{self.size}{power} on {self.name}"


@dataclass(frozen=True)
class ActionBlock:
    """A part of a tensor (restricted to some dimensions) on which every dimension is a product of index spaces.

    Attributes:
        index: per dimension, the positions of its elements; None for the first ones, in order.
        spaces: per dimension, numbers of its index spaces, row-major.
    """

    index: tuple[Array | None, ...]
    spaces: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TensorAction:
    """How group elements permute one tensor: for each set of dimensions that move together, its blocks.

    Attributes:
        shape: of the tensor.
        components: `(dimensions, blocks)` for each set of coupled dimensions that anything moves.
        unread: flat numbers of elements that no operation reads: they stay where they are.
    """

    shape: tuple[int, ...]
    components: tuple[tuple[tuple[int, ...], tuple[ActionBlock, ...]], ...]
    unread: Array | None = None

    def spaces(self) -> set[int]:
        return {s for _, blocks in self.components for block in blocks for dim in block.spaces for s in dim}
