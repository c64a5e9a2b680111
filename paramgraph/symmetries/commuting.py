"""Matrices that commute with fixed ones: what is left of a matrix group where the network mixes the elements of a space in fixed ways.

Rotary positions turn pairs of query and key elements by angles that depend on the position. A matrix may be put in between if it commutes with
every such turn: a complex number for each pair (Su et al., arXiv:2104.09864, section 3.4.2, write the turns as complex numbers). Pairs that
are turned alike may be mixed, too, and elements that are not turned at all by any matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.symmetries.moves import Matrices

if TYPE_CHECKING:
    import torch

Array = np.ndarray


@dataclass(frozen=True)
class CommutingPart:
    """A part of a tensor that a matrix acts on.

    Attributes:
        tensor: name of the tensor's action.
        axis: of the tensor, along which the matrices act.
        places: positions along the axis, shape `(copies, uses, n)`: a matrix acts alike on each of its uses.
        dual: whether the inverse's transpose acts, not the matrix.
    """

    tensor: str
    axis: int
    places: Array
    dual: bool


@dataclass(frozen=True)
class CommutingFactor(Matrices):
    """The invertible matrices `Σ c_k ⊗ B_k` of an algebra with basis B, for any matrices c_k of one size.

    Attributes:
        name: for people.
        basis: shape `(k, m, m)`: of the matrices that commute with the fixed ones.
        multiplicity: number of blocks of m elements that are mixed by the same fixed matrices; the size of each c_k.
        copies: number of matrices.
        parts: what they act on.
    """

    name: str
    basis: Array
    multiplicity: int
    copies: int
    parts: tuple[CommutingPart, ...]

    @property
    def size(self) -> int:
        """Rows of a matrix."""
        return self.multiplicity * self.basis.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a tangent: the coefficients of each matrix."""
        return self.copies, len(self.basis), self.multiplicity, self.multiplicity

    @property
    def dimension(self) -> int:
        return self.copies * len(self.basis) * self.multiplicity**2

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return tuple(dict.fromkeys(part.tensor for part in self.parts))

    @cached_property
    def is_complex(self) -> bool:
        """Whether the algebra of the basis is that of the complex numbers."""
        if self.basis.shape != (2, 2, 2):
            return False
        other = [b - np.trace(b) / 2 * np.eye(2) for b in self.basis]
        return all(np.linalg.det(b) > 1e-9 or not b.any() for b in other)

    def draw(self, generator: torch.Generator | None, sigma: float) -> torch.Tensor:
        """Random matrices of shape `(copies, n, n)`: exponentials of normal elements of the algebra, of either sign."""
        import torch

        matrices = torch.linalg.matrix_exp(self._matrices(torch.randn(self.shape, generator=generator, dtype=torch.float64) * sigma))
        return matrices * (1 - 2 * torch.randint(0, 2, (self.copies, 1, 1), generator=generator))

    def act(self, matrices: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New tensors for those that the matrices act on; others are left out.

        Args:
            matrices: shape `(copies, n, n)`, invertible elements of the algebra, float64.
            tensors: by action name.
        """
        import torch

        made = {name: tensors[name].to(torch.float64, copy=True) for name in self.tensors}
        dual = torch.linalg.inv(matrices).mT
        for part in self.parts:
            along = made[part.tensor].movedim(part.axis, 0)
            places = torch.from_numpy(part.places)
            along[places] = self._times(dual if part.dual else matrices, along[places])
        return {name: tensor.to(tensors[name].dtype) for name, tensor in made.items()}

    def tangent(self, direction: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The derivative of the action at the identity, in float64.

        Args:
            direction: coefficients, of the factor's shape.
            tensors: by action name.
        """
        import torch

        matrices = self._matrices(direction)
        out = {name: torch.zeros_like(tensors[name], dtype=torch.float64) for name in self.tensors}
        for part in self.parts:
            places = torch.from_numpy(part.places)
            held = tensors[part.tensor].to(torch.float64).movedim(part.axis, 0)[places]
            out[part.tensor].movedim(part.axis, 0)[places] += self._times(-matrices.mT if part.dual else matrices, held)
        return out

    def _matrices(self, coefficients: torch.Tensor) -> torch.Tensor:
        import torch

        basis = torch.from_numpy(self.basis)
        return torch.einsum("ckab,kij->caibj", coefficients, basis).reshape(self.copies, self.size, self.size)

    @staticmethod
    def _times(matrices: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """Matrices times elements of shape `(copies, uses, n, …)`."""
        flat = held.reshape(*held.shape[:3], -1)
        return (matrices.to(held.device)[:, None] @ flat).reshape(held.shape)

    def __str__(self) -> str:
        copies = f"^{self.copies}" if self.copies > 1 else ""
        if self.is_complex:
            return f"GL({self.multiplicity}, ℂ){copies}: {self.name}"
        if len(self.basis) == 1:
            return f"GL({self.multiplicity}){copies}: {self.name}"
        return f"{len(self.basis) * self.multiplicity**2} dimensions of GL({self.size}){copies}: {self.name}"
