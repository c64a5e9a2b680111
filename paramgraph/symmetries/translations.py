"""Translations: what may be added to a parameter because a softmax, or a normalisation by the mean, takes it away again.

A key's bias adds the same to the scores of all keys, a router's bias the same to all logits, a writer of a residual stream the same to all
elements that are normalised together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Array = np.ndarray


@dataclass(frozen=True)
class TranslationFactor:
    """Anything that is the same all along some axes may be added to a part of a tensor.

    Attributes:
        name: for people.
        tensor: name of the tensor's action.
        index: per axis, the positions of the part's elements; None for all, in order.
        shape: of what is added: 1 along the axes where it is the same everywhere.
    """

    name: str
    tensor: str
    index: tuple[Array | None, ...]
    shape: tuple[int, ...]

    @property
    def dimension(self) -> int:
        return math.prod(self.shape)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return (self.tensor,)

    @property
    def read(self) -> tuple[str, ...]:
        """Names of further actions whose tensors are looked at: none."""
        return ()

    def draw(self, generator: torch.Generator | None, sigma: float) -> torch.Tensor:
        """Normal numbers of standard deviation `sigma`."""
        import torch

        return torch.randn(self.shape, generator=generator, dtype=torch.float64) * sigma

    def act(self, added: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A new tensor for the one that is acted on.

        Args:
            added: of the factor's shape, float64.
            tensors: by action name.
        """
        import torch

        tensor = tensors[self.tensor]
        made = tensor.to(torch.float64, copy=True)
        made[self._places(tensor)] += added.to(tensor.device)
        return {self.tensor: made.to(tensor.dtype)}

    def tangent(self, direction: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The derivative of the action at the identity, in float64."""
        import torch

        out = torch.zeros_like(tensors[self.tensor], dtype=torch.float64)
        out[self._places(out)] += direction
        return {self.tensor: out}

    def inverse(self, added: torch.Tensor) -> torch.Tensor:
        return -added

    def product(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """What both do, one after the other."""
        return first + second

    def _places(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        import torch

        where = [np.arange(n) if index is None else index for index, n in zip(self.index, tensor.shape, strict=True)]
        return tuple(torch.from_numpy(axis).to(tensor.device) for axis in np.ix_(*where))

    def __str__(self) -> str:
        return f"ℝ^{self.dimension}: {self.name}"
