"""Matrix groups: where a network is linear along an index space, any invertible matrix may be put in between.

Query and key dimensions of a head meet in their inner product alone, value dimensions are read by the output projection alone, the rank of a
factorised weight by its second factor: `(A q) · (A⁻ᵀ k) = q · k`. The diagonal matrices among them are scales and signs too, and permutation
matrices are permutations: a factor here holds those of its space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.symmetries.moves import Matrices, places_of

if TYPE_CHECKING:
    import torch

Array = np.ndarray


@dataclass(frozen=True)
class MatrixPart:
    """A part of a tensor that a matrix acts on.

    Attributes:
        tensor: name of the tensor's action.
        index: per axis, the positions of the part's elements; None for all, in order.
        sizes: per axis, sizes of its spaces, row-major.
        along: which of the part's spaces, numbered through all axes, the matrix acts along, row-major.
        over: which of the spaces it may differ along.
        dual: whether the inverse's transpose acts, not the matrix.
    """

    tensor: str
    index: tuple[Array | None, ...]
    sizes: tuple[tuple[int, ...], ...]
    along: tuple[int, ...]
    over: tuple[int, ...]
    dual: bool

    @cached_property
    def flat(self) -> tuple[int, ...]:
        return tuple(n for sizes in self.sizes for n in sizes)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The spaces in the order: those that matrices differ along, those that they act along, the others."""
        rest = [p for p in range(len(self.flat)) if p not in self.over and p not in self.along]
        return (*self.over, *self.along, *rest)


@dataclass(frozen=True)
class MatrixFactor(Matrices):
    """GL(n), with a matrix for each element of other spaces.

    Attributes:
        name: for people.
        size: n.
        copies: number of matrices.
        parts: what they act on.
    """

    name: str
    size: int
    copies: int
    parts: tuple[MatrixPart, ...]

    @property
    def dimension(self) -> int:
        return self.copies * self.size**2

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return tuple(dict.fromkeys(part.tensor for part in self.parts))

    def draw(self, generator: torch.Generator | None, sigma: float) -> torch.Tensor:
        """Random matrices of shape `(copies, n, n)`: orthogonal ones, with singular values whose logarithms are normal between them."""
        import torch

        noise = [torch.randn(self.copies, self.size, self.size, generator=generator, dtype=torch.float64) for _ in range(2)]
        left, right = (torch.linalg.qr(each)[0] for each in noise)
        values = torch.randn(self.copies, self.size, generator=generator, dtype=torch.float64).mul(sigma).exp()
        return left @ (values[..., None] * right)

    def act(self, matrices: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New tensors for those that the matrices act on; others are left out.

        Args:
            matrices: shape `(copies, n, n)`, invertible, float64.
            tensors: by action name.
        """
        import torch

        out: dict[str, torch.Tensor] = {}
        dual = torch.linalg.inv(matrices).mT if any(part.dual for part in self.parts) else matrices
        for part in self.parts:
            tensor = out.get(part.tensor, tensors[part.tensor])
            places, moved = self._times(dual if part.dual else matrices, part, tensor)
            made = tensor.to(_exact(tensor), copy=True)
            made[places] = moved
            out[part.tensor] = made.to(tensor.dtype)
        return out

    def tangent(self, direction: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The derivative of the action at the identity, in float64.

        Args:
            direction: matrices of shape `(copies, n, n)`: those that act are `1 + t · direction`.
            tensors: by action name.
        """
        import torch

        out = {name: torch.zeros_like(tensors[name], dtype=_exact(tensors[name])) for name in self.tensors}
        for part in self.parts:
            places, moved = self._times(-direction.mT if part.dual else direction, part, tensors[part.tensor])
            out[part.tensor][places] += moved
        return out

    def _times(self, matrices: torch.Tensor, part: MatrixPart, tensor: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Where a part is, and its elements times the matrices."""
        places = places_of(part.index, tensor.shape, tensor.device)
        held = tensor[places].to(_exact(tensor)).reshape(part.flat).permute(part.order)
        moved = matrices.to(held.device, held.dtype) @ held.reshape(self.copies, self.size, -1)
        back = moved.reshape(held.shape).permute(np.argsort(part.order).tolist())
        return places, back.reshape(tensor[places].shape)

    def __str__(self) -> str:
        return f"GL({self.size}){f'^{self.copies}' if self.copies > 1 else ''}: {self.name}"


def _exact(tensor: torch.Tensor) -> torch.dtype:
    """Double precision: real matrices multiply the real and the imaginary parts of complex numbers alike."""
    import torch

    return torch.complex128 if tensor.is_complex() else torch.float64
