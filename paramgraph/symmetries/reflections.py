"""Reflections: signs of units whose function is odd about a point other than zero, or that take their slope to its inverse.

Sigmoid-like functions have `f(e - x) = c - f(x)`: what makes `x` is negated and moved by `e`, what reads the unit is negated, and `c` times it is
added to the reader's bias. A parametric ReLU of slope a has `f(-x; 1/a) = -f(x; a) / a`: readers are multiplied by -a.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.symmetries.moves import Discrete, places_of

if TYPE_CHECKING:
    import torch

Array = np.ndarray


@dataclass(frozen=True)
class ReflectedPart:
    """A part of a tensor that is multiplied where units are reflected.

    Attributes:
        tensor: name of the tensor's action.
        index: per axis, the positions of the part's elements; None for all, in order.
        sizes: per axis, sizes of its spaces, row-major.
        along: which of the part's spaces, numbered through all axes, is that of the units; -1 if one unit is all there is.
        negated: whether the sign changes.
        power: of the slope, by which it is multiplied.
    """

    tensor: str
    index: tuple[Array | None, ...]
    sizes: tuple[tuple[int, ...], ...]
    along: int
    negated: bool
    power: int

    @cached_property
    def flat(self) -> tuple[int, ...]:
        return tuple(n for sizes in self.sizes for n in sizes)


def multiply(tensor: torch.Tensor, part: ReflectedPart, factor: torch.Tensor) -> None:
    """Multiply a part of a tensor in place, by a number for each unit."""

    places = places_of(part.index, tensor.shape, tensor.device)
    held = tensor[places]
    wide = factor.reshape([-1 if p == part.along else 1 for p in range(len(part.flat))]).to(tensor.device)
    tensor[places] = (held.reshape(part.flat) * wide).reshape(held.shape)


@dataclass(frozen=True)
class ReflectionShift:
    """What is added to an offset for each unit that is reflected.

    Attributes:
        tensor: name of the offset's action; it has one axis.
        total: what is added for each unit, times the elements of its reader.
        reader: name of the reader's action; empty where the offset is the units' own.
        sizes: per axis of the reader, sizes of its spaces.
        along: which of these is that of the units.
        kept: the reader's axis that is the offset's.
    """

    tensor: str
    total: float
    reader: str = ""
    sizes: tuple[tuple[int, ...], ...] = ()
    along: int = 0
    kept: int = 0


@dataclass(frozen=True)
class ReflectionFactor(Discrete):
    """One sign for each unit of a layer.

    Attributes:
        name: for people.
        size: number of units.
        parts: what is multiplied.
        shifts: what is added.
        slope: name of the action of the slopes that are inverted, one for each unit; empty where there are none.
    """

    name: str
    size: int
    parts: tuple[ReflectedPart, ...]
    shifts: tuple[ReflectionShift, ...] = ()
    slope: str = ""

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        names = [part.tensor for part in self.parts] + [name for shift in self.shifts for name in (shift.tensor, shift.reader)] + [self.slope]
        return tuple(dict.fromkeys(name for name in names if name))

    def draw(self, generator: torch.Generator | None, sigma: float) -> torch.Tensor:
        """Which units are reflected: one at least, the others with equal chances."""
        import torch

        chosen = torch.randint(0, 2, (self.size,), generator=generator, dtype=torch.bool)
        chosen[torch.randint(0, self.size, (), generator=generator)] = True
        return chosen

    def act(self, chosen: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New tensors for those that are acted on. A unit whose slope has no inverse in its type stays as it is.

        Args:
            chosen: which units are reflected, shape `(units,)`.
            tensors: by action name.
        """
        import torch

        slopes = torch.ones(self.size, dtype=torch.float64)
        if self.slope:
            given = tensors[self.slope]
            slopes = given.to("cpu", torch.float64).reshape(-1)
            inverse = slopes.reciprocal().to(given.dtype)
            chosen = chosen & (slopes != 0) & inverse.isfinite() & (inverse != 0)
        made = {name: tensors[name].to(torch.float64, copy=True) for name in self.tensors}
        for part in self.parts:
            factor = slopes**part.power * (-1 if part.negated else 1)
            multiply(made[part.tensor], part, torch.where(chosen, factor, torch.ones_like(factor)))
        for shift in self.shifts:
            made[shift.tensor] += self._added(shift, chosen, tensors).to(made[shift.tensor].device)
        if self.slope:
            own = made[self.slope]
            made[self.slope] = torch.where(chosen.to(own.device).reshape(own.shape), own.reciprocal(), own)
        return {name: tensor.to(tensors[name].dtype) for name, tensor in made.items()}

    @staticmethod
    def _added(shift: ReflectionShift, chosen: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        import torch

        if not shift.reader:
            return chosen.to(torch.float64) * shift.total
        reader = tensors[shift.reader].to("cpu", torch.float64)
        flat = [n for sizes in shift.sizes for n in sizes]
        counted = chosen.to(torch.float64).reshape([-1 if p == shift.along else 1 for p in range(len(flat))])
        held = (reader.reshape(flat) * counted).reshape(reader.shape)
        return held.movedim(shift.kept, 0).reshape(held.shape[shift.kept], -1).sum(1) * shift.total

    def inverse(self, chosen: torch.Tensor) -> torch.Tensor:
        """Reflecting twice changes nothing."""
        return chosen

    def product(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """What both do, one after the other."""
        return first ^ second

    def __str__(self) -> str:
        return f"{{±1}}^{self.size}: {self.name}"
