"""Additions to a parameter that other parameters take to zero: what it is multiplied with, and summed over, before anything else is done.

A weight's spectral norm is read from two vectors, as `uᵀ W v`: u may have anything more that is orthogonal to `W v`, and v to `Wᵀ u`. An offset
that nothing but a narrow layer reads may have anything more that this layer takes to zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paramgraph.symmetries.moves import Addition
from paramgraph.symmetries.offsets import Step

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class VanishingFactor(Addition):
    """What is added to a tensor is taken to zero by linear maps, which depend on other tensors. Elements are projected to what they take to zero.

    Attributes:
        name: for people.
        tensor: name of the tensor's action.
        shape: of the element, and of the tensor.
        rank: of the maps together, where the other tensors are in general position; elsewhere more may be added.
        maps: numbers of the steps that must come to zero.
        steps: how they are computed.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    rank: int
    maps: tuple[int, ...]
    steps: tuple[Step, ...]

    @property
    def dimension(self) -> int:
        return super().dimension - self.rank

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return (self.tensor,)

    @property
    def read(self) -> tuple[str, ...]:
        """Names of the actions whose tensors say what may be added."""
        return tuple(dict.fromkeys(step.name for step in self.steps if step.kind == "tensor"))

    def act(self, added: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A new tensor for the one that is acted on.

        Args:
            added: of the factor's shape, float64: the part of it that the maps take to zero is added.
            tensors: by action name, those that are read too.
        """
        tensor = tensors[self.tensor]
        return {self.tensor: (tensor.double() + self.tangent(added, tensors)[self.tensor]).to(tensor.dtype)}

    def tangent(self, direction: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What is added, in float64; nothing where the maps are not finite."""
        import torch

        target = tensors[self.tensor]
        matrix = matrix_of(self.steps, self.maps, direction.numel(), tensors)
        flat = direction.detach().to("cpu", torch.float64).reshape(-1)
        if not bool(matrix.isfinite().all()):
            return {self.tensor: torch.zeros_like(target, dtype=torch.float64)}
        rows = row_space(matrix)
        for _ in range(2):  # what rounding leaves of the first is gone after the second
            flat = flat - rows.T @ (rows @ flat)
        return {self.tensor: flat.reshape(target.shape).to(target.device)}

    def __str__(self) -> str:
        return f"ℝ^{self.dimension}: {self.name}"


def matrix_of(steps: Sequence[Step], maps: Sequence[int], size: int, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The matrix, float64, of the linear maps from an element of `size` numbers to some of the steps, one below the other.

    Args:
        steps: how they are computed.
        maps: numbers of the steps.
        size: of the element.
        tensors: by action name.
    """
    import torch

    # Derivatives are taken whatever mode the caller is in.
    with torch.inference_mode(False), torch.enable_grad():
        held = {step.name: tensors[step.name].detach().clone() for step in steps if step.kind == "tensor"}

        def computed(element: torch.Tensor) -> torch.Tensor:
            made: list[torch.Tensor] = []
            for step in steps:
                made.append(step.compute(element, held, made))
            return torch.cat([made[number].reshape(-1) for number in maps])

        zero = torch.zeros(size, dtype=torch.float64, requires_grad=True)
        out = computed(zero)
        if len(out) <= size:
            rows = [torch.autograd.grad(each, zero, retain_graph=True)[0] for each in out]
            return torch.stack(rows)
        with torch.no_grad():
            return torch.stack([computed(unit) for unit in torch.eye(size, dtype=torch.float64)], 1)


def row_space(matrix: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of the span of a matrix' rows, as rows. Rows count by their direction, however long they are."""
    import torch

    lengths = torch.linalg.vector_norm(matrix, dim=1, keepdim=True)
    matrix = matrix / lengths.where(lengths > 0, torch.ones_like(lengths))
    _, values, right = torch.linalg.svd(matrix, full_matrices=False)
    small = max(matrix.shape) * torch.finfo(torch.float64).eps * values.max().clamp(min=0) if values.numel() else 0
    return right[values > small]
