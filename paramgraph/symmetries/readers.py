"""Offsets of layer normalisations whose readers have no bias: the readers make up for them.

What is read is `γ x̂ + β` with `Σ x̂ = 0`. With g = 1/γ, every reader W may be `W (1 − c gᵀ / gᵀ(β + c))` where the offset is `β + c`: the second term
is zero on γ x̂, and takes W c away from W (β + c).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paramgraph.symmetries.moves import Addition, Index, places_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Reader:
    """What reads a normalisation.

    Attributes:
        tensor: name of the action.
        index: per axis, the positions of the part that reads; None for all, in order.
        axis: along which it reads.
    """

    tensor: str
    index: Index
    axis: int


@dataclass(frozen=True)
class ReadOffsetFactor(Addition):
    """Additions to an offset that its readers make up for.

    Attributes:
        name: for people.
        offset: name of the offset's action.
        gain: name of the gain's action; empty where there is none.
        size: number of elements.
        readers: all that reads the normalisation.
    """

    name: str
    offset: str
    gain: str
    size: int
    readers: tuple[Reader, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is added."""
        return (self.size,)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return tuple(dict.fromkeys((self.offset, *(reader.tensor for reader in self.readers))))

    @property
    def read(self) -> tuple[str, ...]:
        """Names of the actions whose tensors say what is added."""
        return (self.gain,) if self.gain else ()

    def act(self, added: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New tensors for the offset and its readers. Nothing is added where a gain has no inverse, or where the new offset sums to zero over it.

        Args:
            added: of the factor's shape, float64.
            tensors: by action name, those that are read too.
        """
        import torch

        change = self._change(added, tensors, added)
        return {name: (tensors[name].to(torch.float64) + change[name]).to(tensors[name].dtype) for name in self.tensors}

    def tangent(self, direction: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The derivative of the action at the identity, in float64."""
        return self._change(direction, tensors, 0 * direction)

    def _change(self, added: torch.Tensor, tensors: Mapping[str, torch.Tensor], moved: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is added to each tensor, the offset having been moved to divide by."""
        import torch

        offset = tensors[self.offset].to("cpu", torch.float64).reshape(-1)
        inverse = tensors[self.gain].to("cpu", torch.float64).reshape(-1).reciprocal() if self.gain else torch.ones_like(offset)
        weights = inverse / (inverse @ (offset + moved))
        out = {name: torch.zeros(tensors[name].shape, dtype=torch.float64) for name in self.tensors}
        if bool(weights.isfinite().all()):
            out[self.offset] += added.reshape(out[self.offset].shape)
            for reader in self.readers:
                places = places_of(reader.index, out[reader.tensor].shape)
                part = tensors[reader.tensor].to("cpu", torch.float64)[places].movedim(reader.axis, -1)
                out[reader.tensor][places] -= ((part @ added)[..., None] * weights).movedim(-1, reader.axis)
        return {name: change.to(tensors[name].device) for name, change in out.items()}

    def __str__(self) -> str:
        return f"ℝ^{self.dimension}: {self.name}"
