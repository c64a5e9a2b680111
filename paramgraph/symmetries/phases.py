"""Phase shifts of periodic functions: half a period added to a unit's bias negates the unit, `sin(x + π) = -sin x`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paramgraph.symmetries.moves import Discrete
from paramgraph.symmetries.reflections import ReflectedPart, multiply

if TYPE_CHECKING:
    import torch

# Half periods that are drawn, in either direction.
MOST = 2


@dataclass(frozen=True)
class PhaseFactor(Discrete):
    """A whole number of half periods for each unit of a layer.

    Attributes:
        name: for people.
        size: number of units.
        offset: name of the action of the biases that are shifted, one for each unit.
        frequency: by which biases are multiplied before the function.
        parts: what is negated by an odd number.
    """

    name: str
    size: int
    offset: str
    frequency: float
    parts: tuple[ReflectedPart, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return tuple(dict.fromkeys((self.offset, *(part.tensor for part in self.parts))))

    def draw(self, generator: torch.Generator | None, sigma: float) -> torch.Tensor:
        """Whole numbers of half periods, at least one of them odd."""
        import torch

        shifts = torch.randint(-MOST, MOST + 1, (self.size,), generator=generator)
        shifts[torch.randint(0, self.size, (), generator=generator)] = 1
        return shifts

    def act(self, shifts: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New tensors for those that are acted on.

        Args:
            shifts: half periods, shape `(units,)`, whole numbers.
            tensors: by action name.
        """
        import torch

        made = {name: tensors[name].to(torch.float64, copy=True) for name in self.tensors}
        signs = 1.0 - 2.0 * (shifts % 2).to(torch.float64)
        for part in self.parts:
            multiply(made[part.tensor], part, signs)
        offset = made[self.offset]
        offset += (shifts.to(torch.float64) * (math.pi / self.frequency)).to(offset.device)
        return {name: tensor.to(tensors[name].dtype) for name, tensor in made.items()}

    def inverse(self, shifts: torch.Tensor) -> torch.Tensor:
        return -shifts

    def product(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """What both do, one after the other."""
        return first + second

    def __str__(self) -> str:
        return f"ℤ^{self.size}: {self.name}"
