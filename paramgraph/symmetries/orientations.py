"""Orientations of filters: where copies of a filter are laid side by side, turned, each unit may start from another of them.

A group convolution (Cohen & Welling, arXiv:1602.07576) expands `W[c]` to all its turns `W[c] ∘ r`. To turn it by g beforehand permutes the
expansion, and with it what the unit gives for every orientation r: whatever reads these has its orientations permuted back. Both permute elements
of parameters, by the right translations of the group, one for each unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.symmetries.moves import Discrete

if TYPE_CHECKING:
    import torch

Array = np.ndarray


@dataclass(frozen=True)
class OrientedPart:
    """Elements of a tensor that units' orientations move.

    Attributes:
        tensor: name of the tensor's action.
        places: flat numbers of the elements, shape `(elements,)`.
        units: number of the unit that moves each.
        images: where each element of the group takes them: flat numbers, shape `(group, elements)`.
    """

    tensor: str
    places: Array
    units: Array
    images: Array


@dataclass(frozen=True)
class OrientationFactor(Discrete):
    """One element of a finite group for each unit.

    Attributes:
        name: for people.
        size: number of units.
        shifts: per element of the group, where it takes the orientations, shape `(group, orientations)`. The first is the identity, and each is
            known by where it takes the first orientation.
        parts: what is moved.
    """

    name: str
    size: int
    shifts: Array
    parts: tuple[OrientedPart, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return tuple(dict.fromkeys(part.tensor for part in self.parts))

    def draw(self, generator: torch.Generator | None, sigma: float) -> torch.Tensor:
        """Numbers of elements of the group, at least one of them not the identity."""
        import torch

        chosen = torch.randint(0, len(self.shifts), (self.size,), generator=generator)
        chosen[torch.randint(0, self.size, (), generator=generator)] = len(self.shifts) - 1
        return chosen

    def act(self, chosen: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New tensors for those that are acted on.

        Args:
            chosen: the group's element for each unit, by number, shape `(units,)`.
            tensors: by action name.
        """
        import torch

        made = {name: tensors[name].clone(memory_format=torch.contiguous_format) for name in self.tensors}
        for part in self.parts:
            images = part.images[chosen.cpu().numpy()[part.units], np.arange(len(part.places))]
            flat = made[part.tensor].view(-1)
            flat[torch.from_numpy(images).to(flat.device)] = flat[torch.from_numpy(part.places).to(flat.device)]
        return made

    def inverse(self, chosen: torch.Tensor) -> torch.Tensor:
        """The element that takes each unit back."""
        import torch

        first = self.shifts[:, 0]
        back = [int(np.flatnonzero(first == np.flatnonzero(shift == 0)[0])[0]) for shift in self.shifts]
        return torch.tensor(back)[chosen]

    def product(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """What both do, one after the other."""
        import torch

        number = {int(image): k for k, image in enumerate(self.shifts[:, 0])}
        table = [[number[int(later[earlier[0]])] for later in self.shifts] for earlier in self.shifts]
        return torch.tensor(table)[first, second]

    def __str__(self) -> str:
        return f"group of order {len(self.shifts)} for each of {self.size}: {self.name}"
