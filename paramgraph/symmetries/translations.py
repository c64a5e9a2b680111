"""Translations: what may be added to a parameter because a softmax, or a normalisation by the mean, takes it away again.

A key's bias adds the same to the scores of all keys, a router's bias the same to all logits, a writer of a residual stream the same to all
elements that are normalised together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.symmetries.moves import Addition, places_of

if TYPE_CHECKING:
    import torch

Array = np.ndarray


@dataclass(frozen=True)
class TranslationFactor(Addition):
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
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return (self.tensor,)

    def act(self, added: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A new tensor for the one that is acted on.

        Args:
            added: of the factor's shape, float64.
            tensors: by action name.
        """
        import torch

        tensor = tensors[self.tensor]
        made = tensor.to(torch.float64, copy=True)
        made[places_of(self.index, tensor.shape, tensor.device)] += added.to(tensor.device)
        return {self.tensor: made.to(tensor.dtype)}

    def tangent(self, direction: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The derivative of the action at the identity, in float64."""
        import torch

        out = torch.zeros_like(tensors[self.tensor], dtype=torch.float64)
        out[places_of(self.index, out.shape, out.device)] += direction
        return {self.tensor: out}

    def __str__(self) -> str:
        return f"ℝ^{self.dimension}: {self.name}"
