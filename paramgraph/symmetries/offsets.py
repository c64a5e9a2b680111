"""Additions that others make up for: a parameter is moved, and what arrives at others is taken away from them.

What is added to a value's bias passes attention, whose weights sum to one, and comes to the output's bias, times the output's weight. A
normalisation's offset comes to the biases of its readers, each times the reader's weight. What is normalised has mean zero: a reader may have
`u (1/γ)ᵀ` more, if its bias has `u Σ β/γ` less.

What is added to each parameter is linear in the element, and depends on parameters that the element leaves as they are: a few steps compute it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.symmetries.moves import Addition

if TYPE_CHECKING:
    import torch

Array = np.ndarray


@dataclass(frozen=True)
class Step:
    """A tensor, computed from others.

    Attributes:
        kind: `"source"` (the element), `"tensor"` (a parameter), `"constant"`, `"take"` (some positions of an axis), `"place"` (the tensor at some
            positions of an axis, zeros at the others), `"regroup"` (axes permuted, repeated and reshaped), `"product"` (of powers, summed over
            labels) or `"sum"` (of multiples).
        shape: its shape.
        inputs: numbers of earlier steps.
        name: of the action of a parameter.
        axis: where positions are taken or placed; one that the operand lacks, it is the same along.
        index: these positions.
        labels: of each operand's axes, then, for a product, of the result's; of a regrouping, the operand's axes in order (−1 for new ones), then
            their sizes.
        numbers: powers, multiples, or a constant's elements.
    """

    kind: str
    shape: tuple[int, ...]
    inputs: tuple[int, ...] = ()
    name: str = ""
    axis: int = 0
    index: Array | None = None
    labels: tuple[tuple[int, ...], ...] = ()
    numbers: tuple[float, ...] = ()

    def compute(self, element: torch.Tensor, tensors: Mapping[str, torch.Tensor], made: Sequence[torch.Tensor]) -> torch.Tensor:
        """The tensor, float64.

        Args:
            element: what is added.
            tensors: by action name.
            made: results of earlier steps.
        """
        import torch

        operands = [made[number] for number in self.inputs]
        if self.kind == "source":
            return element.reshape(self.shape)
        if self.kind == "tensor":
            return tensors[self.name].detach().to("cpu", torch.float64).reshape(self.shape)
        if self.kind == "constant":
            return torch.tensor(self.numbers, dtype=torch.float64).reshape(self.shape)
        if self.kind == "regroup":
            axes = self.labels[0]
            moved = operands[0].permute([axis for axis in axes if axis >= 0])
            for d, axis in enumerate(axes):
                moved = moved.unsqueeze(d) if axis < 0 else moved
            return moved.expand(self.labels[1]).reshape(self.shape)
        if self.kind in ("take", "place"):
            assert self.index is not None
            index = torch.from_numpy(self.index)
            if self.kind == "take":
                return operands[0].index_select(self.axis, index).reshape(self.shape)
            given = operands[0] if operands[0].ndim == len(self.shape) else operands[0].unsqueeze(self.axis)
            sizes = [len(index) if d == self.axis else n for d, n in enumerate(self.shape)]
            return torch.zeros(self.shape, dtype=torch.float64).index_copy(self.axis, index, given.expand(sizes))
        if self.kind == "product":
            parts = [x if power == 1 else x**power for x, power in zip(operands, self.numbers, strict=True)]
            flat = [each for part, labels in zip(parts, self.labels[:-1], strict=True) for each in (part, list(labels))]
            return torch.einsum(*flat, list(self.labels[-1]))
        total = torch.zeros(self.shape, dtype=torch.float64)
        for x, labels, number in zip(operands, self.labels, self.numbers, strict=True):
            total = total + number * _spread(x, labels, len(self.shape))
        return total


@dataclass(frozen=True)
class Change:
    """What is added to one parameter: a sum of multiples of what some steps give.

    Attributes:
        tensor: name of the action.
        numbers: of the multiples.
        steps: numbers of the steps.
        dims: per step, the parameter's axes that its result's axes lie along; it is the same along others.
    """

    tensor: str
    numbers: tuple[float, ...]
    steps: tuple[int, ...]
    dims: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class OffsetFactor(Addition):
    """Anything of a shape may be added to a parameter, since others make up for it.

    Attributes:
        name: for people.
        tensor: name of the tensor's action.
        shape: of the element: 1 along axes where the same is added everywhere.
        changes: what is added to each tensor, that one first.
        steps: how that is computed.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    changes: tuple[Change, ...]
    steps: tuple[Step, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return tuple(change.tensor for change in self.changes)

    @property
    def read(self) -> tuple[str, ...]:
        """Names of the actions whose tensors say what is added."""
        return tuple(dict.fromkeys(step.name for step in self.steps if step.kind == "tensor"))

    def act(self, added: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New tensors for those that are moved. Nothing is added where a gain has no inverse.

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

        made: list[torch.Tensor] = []
        for step in self.steps:
            made.append(step.compute(direction.to("cpu", torch.float64), tensors, made))
        out = {}
        for change in self.changes:
            target = tensors[change.tensor]
            total = torch.zeros(target.shape, dtype=torch.float64)
            for number, step_number, dims in zip(change.numbers, change.steps, change.dims, strict=True):
                total = total + number * _spread(made[step_number], dims, target.ndim)
            out[change.tensor] = total.expand(target.shape).to(target.device)
        if not all(bool(tensor.isfinite().all()) for tensor in out.values()):
            return {name: torch.zeros_like(tensor) for name, tensor in out.items()}
        return out

    def __str__(self) -> str:
        return f"ℝ^{self.dimension}: {self.name}"


def _spread(x: torch.Tensor, dims: Sequence[int], rank: int) -> torch.Tensor:
    """A tensor whose axes lie along some dimensions of one of a rank: of one element along the others."""
    order = sorted(range(len(dims)), key=lambda axis: dims[axis])
    shape = [1] * rank
    for axis in order:
        shape[dims[axis]] = x.shape[axis]
    return x.permute(order).reshape(shape)
