"""Rotations and reflections of a residual stream that normalisations alone look at: they see lengths, and means.

A root mean square is kept by every orthogonal matrix, a layer normalisation by those that keep the vector of ones. What writes into the stream
is turned, and what reads it is turned back. A reader stands behind the gain γ: it is turned as `diag(γ)⁻¹ Q diag(γ)` turns, so what is done
depends on the gains at that point (Ashkboos et al., arXiv:2401.15024, turn streams of networks whose gains are in the readers already).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paramgraph.symmetries.moves import Matrices

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RotatedPart:
    """An axis of a tensor that is turned.

    Attributes:
        tensor: name of the tensor's action.
        axis: the axis.
        gains: `(name of the action, number that is added to its tensor, power)` of the factors g of `diag(g) Q diag(g)⁻¹`.
    """

    tensor: str
    axis: int
    gains: tuple[tuple[str, float, int], ...] = ()


@dataclass(frozen=True)
class RotationFactor(Matrices):
    """O(d), or its subgroup that keeps the vector of ones.

    Attributes:
        name: for people.
        size: d.
        centred: whether the vector of ones is kept.
        parts: what is turned.
    """

    name: str
    size: int
    centred: bool
    parts: tuple[RotatedPart, ...]

    @property
    def free(self) -> int:
        """Dimension of the space that is turned."""
        return self.size - self.centred

    @property
    def dimension(self) -> int:
        return math.comb(self.free, 2)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a tangent: the planes."""
        return (self.dimension,)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return tuple(dict.fromkeys(part.tensor for part in self.parts))

    @property
    def read(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are gains."""
        return tuple(dict.fromkeys(name for part in self.parts for name, _, _ in part.gains))

    def draw(self, generator: torch.Generator | None, sigma: float) -> torch.Tensor:
        """A random orthogonal matrix of shape `(d, d)`, uniform over the group."""
        import torch

        turned, upper = torch.linalg.qr(torch.randn(self.free, self.free, generator=generator, dtype=torch.float64))
        return self._embedded(turned * upper.diagonal().sign(), 1.0)

    def act(self, matrix: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New tensors for those that are turned. Nothing is where a gain has no inverse.

        Args:
            matrix: orthogonal, shape `(d, d)`, float64.
            tensors: by action name, those that are read too.
        """
        import torch

        made: dict[str, torch.Tensor] = {}
        gains = [self._gain(part, tensors) for part in self.parts]
        if all(bool((gain.isfinite() & (gain != 0)).all()) for gain in gains):
            for part, gain in zip(self.parts, gains, strict=True):
                held = made[part.tensor] if part.tensor in made else tensors[part.tensor].to(torch.float64)
                made[part.tensor] = self._turned(matrix, part, gain, held)
        return {name: made[name].to(tensors[name].dtype) if name in made else tensors[name].clone() for name in self.tensors}

    def tangent(self, direction: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The derivative of the action at the identity, in float64.

        Args:
            direction: of the factor's shape: how far in each plane.
            tensors: by action name, those that are read too.
        """
        import torch

        skew = torch.zeros(self.free, self.free, dtype=torch.float64)
        rows, columns = torch.triu_indices(self.free, self.free, 1)
        skew[rows, columns], skew[columns, rows] = direction, -direction
        matrix = self._embedded(skew, 0.0)
        out = {name: torch.zeros_like(tensors[name], dtype=torch.float64) for name in self.tensors}
        for part in self.parts:
            out[part.tensor] += self._turned(matrix, part, self._gain(part, tensors), tensors[part.tensor].to(torch.float64))
        return out

    def inverse(self, matrix: torch.Tensor) -> torch.Tensor:
        return matrix.mT

    def _embedded(self, matrix: torch.Tensor, on_ones: float) -> torch.Tensor:
        """A matrix of the space that is turned as one of the whole, which multiplies the vector of ones by a number if it is left out."""
        import torch

        if not self.centred:
            return matrix
        # A reflection that exchanges the first unit vector and the normalised vector of ones.
        normal = torch.full((self.size,), 1 / math.sqrt(self.size), dtype=torch.float64)
        normal[0] -= 1
        mirror = torch.eye(self.size, dtype=torch.float64) - 2 * torch.outer(normal, normal) / normal.square().sum()
        whole = torch.zeros(self.size, self.size, dtype=torch.float64)
        whole[0, 0] = on_ones
        whole[1:, 1:] = matrix
        return mirror @ whole @ mirror

    def _gain(self, part: RotatedPart, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        import torch

        out = torch.ones(self.size, dtype=torch.float64)
        for name, added, power in part.gains:
            out = out * (tensors[name].to("cpu", torch.float64).reshape(-1) + added) ** power
        return out

    @staticmethod
    def _turned(matrix: torch.Tensor, part: RotatedPart, gain: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        turn = (gain[:, None] * matrix / gain).to(tensor.device)
        return (tensor.movedim(part.axis, -1) @ turn.mT).movedim(-1, part.axis)

    def __str__(self) -> str:
        return f"O({self.free}): {self.name}"
