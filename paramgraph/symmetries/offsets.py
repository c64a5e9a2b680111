"""Additions that others make up for: a bias is moved, and what arrives at others is taken away from them.

What is added to a value's bias passes attention, whose weights sum to one, and comes to the output's bias, times the output's weight. A
normalisation's offset comes to the biases of its readers, each times the reader's weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.symmetries.moves import Addition, Index, places_of

if TYPE_CHECKING:
    import torch

Array = np.ndarray


@dataclass(frozen=True)
class Compensation:
    """What makes up for additions.

    Attributes:
        tensor: name of the action of the bias.
        index: per axis, the positions of the part's elements; None for all, in order.
        places: which additions arrive, shape `(terms, elements)`: at each element of the bias' part, or at what the reader sums over.
        numbers: by which they are multiplied, of that shape.
        reader: name of the action of what reads them; empty where they arrive as they are.
        reader_index: per axis, the positions of the reader's part.
        kept: the reader's axis that is the bias', if the only one of more than one element.
    """

    tensor: str
    index: Index
    places: Array
    numbers: Array
    reader: str = ""
    reader_index: Index = ()
    kept: int = 0

    def arriving(self, added: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What arrives at the elements of the bias' part, in row-major order."""
        import torch

        found = (added.reshape(-1)[torch.from_numpy(self.places)] * torch.from_numpy(self.numbers)).sum(0)
        if not self.reader:
            return found
        reader = tensors[self.reader]
        part = reader[places_of(self.reader_index, reader.shape, reader.device)].to("cpu", torch.float64).movedim(self.kept, 0)
        return part.reshape(len(part), -1) @ found


@dataclass(frozen=True)
class OffsetFactor(Addition):
    """Anything may be added to a part of a parameter of one axis, since others make up for it.

    Attributes:
        name: for people.
        tensor: name of the tensor's action.
        index: per axis, the positions of the part's elements; None for all, in order.
        size: number of elements.
        compensations: what is taken away elsewhere.
    """

    name: str
    tensor: str
    index: Index
    size: int
    compensations: tuple[Compensation, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is added."""
        return (self.size,)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return tuple(dict.fromkeys((self.tensor, *(each.tensor for each in self.compensations))))

    @property
    def read(self) -> tuple[str, ...]:
        """Names of the actions of readers."""
        return tuple(dict.fromkeys(each.reader for each in self.compensations if each.reader))

    def act(self, added: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New tensors for the bias and those that make up for it.

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

        out = {name: torch.zeros_like(tensors[name], dtype=torch.float64) for name in self.tensors}
        places = places_of(self.index, out[self.tensor].shape, out[self.tensor].device)
        out[self.tensor][places] += direction.reshape(out[self.tensor][places].shape).to(out[self.tensor].device)
        for each in self.compensations:
            places = places_of(each.index, out[each.tensor].shape, out[each.tensor].device)
            arriving = each.arriving(direction, tensors).to(out[each.tensor].device)
            out[each.tensor][places] -= arriving.reshape(out[each.tensor][places].shape)
        return out

    def __str__(self) -> str:
        return f"ℝ^{self.dimension}: {self.name}"
