"""Readers of layer normalisations: what is normalised has mean zero, so its sum may be added to whatever reads it.

With gain γ and offset β the values that are read are `γ x̂ + β`, and `Σ x̂ = 0`: a reader may have `u (1/γ)ᵀ` more, if its bias has `u Σ β/γ` less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.symmetries.moves import Addition, places_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CentredFactor(Addition):
    """Additions to one reader of a layer normalisation.

    Attributes:
        name: for people.
        tensor: name of the reader's action.
        axis: of the reader, along which it reads.
        shape: of what is added, times the inverse gain: 1 along `axis`.
        gain: name of the gain's action; empty where there is none.
        offset: name of the offset's action; empty where there is none.
        bias: name of the action of the bias that makes up for the offset; empty where there is none.
        index: per axis of the reader, the positions of the part that reads; None for all, in order.
        bias_index: positions of the bias' part; None for all, in order.
    """

    name: str
    tensor: str
    axis: int
    shape: tuple[int, ...]
    gain: str = ""
    offset: str = ""
    bias: str = ""
    index: tuple[np.ndarray | None, ...] = ()
    bias_index: np.ndarray | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return tuple(name for name in (self.tensor, self.bias) if name)

    @property
    def read(self) -> tuple[str, ...]:
        """Names of the actions whose tensors say what is added."""
        return tuple(name for name in (self.gain, self.offset) if name)

    def act(self, added: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New tensors for the reader and its bias. Nothing is added where a gain has no inverse.

        Args:
            added: of the factor's shape, float64.
            tensors: by action name, those that are read too.
        """
        import torch

        change = self.tangent(added, tensors)
        return {name: (tensors[name].to(torch.float64) + change[name]).to(tensors[name].dtype) for name in self.tensors}

    def tangent(self, direction: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What is added, in float64."""
        import torch

        reader = tensors[self.tensor]
        size = reader.shape[self.axis]
        inverse = torch.ones(size, dtype=torch.float64, device=reader.device)
        if self.gain:
            inverse = tensors[self.gain].to(reader.device, torch.float64).reciprocal()
        if not bool(inverse.isfinite().all()):
            inverse = torch.zeros_like(inverse)
        direction = direction.to(reader.device)
        change = torch.zeros_like(reader, dtype=torch.float64)
        places = places_of(self.index or (None,) * reader.ndim, reader.shape, reader.device)
        change[places] = direction * inverse.reshape([-1 if d == self.axis else 1 for d in range(reader.ndim)])
        out = {self.tensor: change}
        if self.bias:
            total = (inverse * tensors[self.offset].to(reader.device, torch.float64)).sum()
            bias = torch.zeros_like(tensors[self.bias], dtype=torch.float64)
            bias[places_of((self.bias_index,), bias.shape, bias.device)] = (-direction.reshape(-1) * total).to(bias.device)
            out[self.bias] = bias
        return out

    def __str__(self) -> str:
        return f"ℝ^{self.dimension}: {self.name}"
