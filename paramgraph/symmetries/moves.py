"""What the factors of `symmetry.moves` have in common.

A factor draws an element, acts by it on tensors given by the names of their actions, inverts it and composes two; its tangent is the derivative of
the action at the identity, in directions of a shape of its own, which `maximality` compares with the null space of the network's Jacobian.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Array = np.ndarray
# Per axis of a tensor, the positions of a part's elements; None for all, in order.
Index = tuple[Array | None, ...]


class Move:
    """A factor that looks at no other tensors than those that it acts on, unless it says so."""

    @property
    def read(self) -> tuple[str, ...]:
        """Names of further actions whose tensors are looked at."""
        return ()


class Addition(Move):
    """A factor whose elements are what is added, of the factor's shape."""

    @property
    def dimension(self) -> int:
        return math.prod(self.shape)  # type: ignore[attr-defined]

    def draw(self, generator: torch.Generator | None, sigma: float) -> torch.Tensor:
        """Normal numbers of standard deviation `sigma`."""
        import torch

        return torch.randn(self.shape, generator=generator, dtype=torch.float64) * sigma  # type: ignore[attr-defined]

    def inverse(self, added: torch.Tensor) -> torch.Tensor:
        return -added

    def product(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """What both do, one after the other."""
        return first + second


class Discrete(Move):
    """A factor whose elements lie apart: there is no direction to go."""

    @property
    def dimension(self) -> int:
        """That of a discrete group."""
        return 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a tangent: there is none."""
        return (0,)

    def tangent(self, direction: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """There is none."""
        return {}


class Matrices(Move):
    """A factor whose elements are matrices, which act from the left."""

    def inverse(self, matrices: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.linalg.inv(matrices)

    def product(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """What both do, one after the other."""
        return second @ first


def places_of(index: Sequence[Array | None], shape: Sequence[int], device: torch.device | str = "cpu") -> tuple[torch.Tensor, ...]:
    """What a tensor is indexed by for a part of it, on the tensor's device."""
    import torch

    where = [np.arange(n) if own is None else own for own, n in zip(index, shape, strict=True)]
    return tuple(torch.from_numpy(axis).to(device) for axis in np.ix_(*where))
