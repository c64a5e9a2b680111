"""Scales of what is made of parameters wherever they are read: a running variance with its ε, a gain `1 + γ`, a temperature `exp(t)`.

A parameter p that is read as `p + c` alone is as good as one that holds this sum. Where the sum may be multiplied by s, p becomes
`s (p + c) − c`: that is exact for any c. So it is with `exp(k p)`, where p becomes `p + ln(s) / k`, and with `softplus(p)`. Other tensors that
have to do with it are multiplied, as by any scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.symmetries.moves import Addition, places_of
from paramgraph.symmetries.scales import Scales, drawn

if TYPE_CHECKING:
    import torch

Array = np.ndarray


@dataclass(frozen=True)
class AffineScaleFactor(Addition):
    """Multiples of tensors, and of functions of some of them.

    Elements are logarithms: the variables' tables without what is zero there, one after the other.

    Attributes:
        name: for people.
        scales: variables of one block of a tensor, and the characters of the tensors that they scale, by the names of the actions.
        constants: what is added to some of these wherever they are read; of exponentials, what multiplies them in the exponent.
        functions: of which a function is read instead, `"exp"` or `"softplus"`.
    """

    name: str
    scales: Scales
    constants: Mapping[str, float]
    functions: Mapping[str, str] = field(default_factory=dict)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return tuple(self.scales.blocks)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of an element."""
        return (sum(variable.dimension for variable in self.scales.variables),)

    def draw(self, generator: torch.Generator | None, sigma: float) -> torch.Tensor:
        """Logarithms that are normal, of standard deviation `sigma` in each element of the tensor where the variables are first met."""
        import torch

        def values(shape: tuple[int, ...]) -> Array:
            return torch.randn(shape, generator=generator, dtype=torch.float64).numpy() * sigma

        tables = drawn(self.scales.variables, values)
        return torch.from_numpy(np.concatenate([table[_inner(table)].reshape(-1) for table in tables]))

    def act(self, logs: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New tensors for those that are multiplied.

        Args:
            logs: of the factor's shape, float64.
            tensors: by action name.
        """
        out = {}
        for name, multiplier in self._multipliers(logs, tensors).items():
            number, tensor = self.constants.get(name, 0.0), tensors[name].double()
            function = self.functions.get(name, "add")
            if function == "exp":
                made = tensor + multiplier.log() / number
            elif function == "softplus":
                made = _softplus_inverse(_log_softplus(tensor) + multiplier.log())
            else:
                made = (tensor + number) * multiplier - number
            out[name] = made.to(tensors[name].dtype)
        return out

    def tangent(self, direction: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The derivative at the identity."""
        import torch

        out = {}
        for name, multiplier in self._multipliers(direction, tensors).items():
            number, tensor = self.constants.get(name, 0.0), tensors[name].double()
            function = self.functions.get(name, "add")
            if function == "exp":
                slope = torch.full_like(tensor, 1 / number)
            elif function == "softplus":
                slope = (_log_softplus(tensor) - torch.nn.functional.logsigmoid(tensor)).exp()
            else:
                slope = tensor + number
            out[name] = slope * multiplier.log()
        return out

    def _multipliers(self, logs: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What each tensor is multiplied by, float64, of its shape."""
        import torch

        tables: dict[int, Array] = {}
        start, numbers = 0, logs.detach().cpu().numpy()
        for number, variable in enumerate(self.scales.variables):
            table = np.zeros(variable.shape)
            inner = _inner(table)
            table[inner] = numbers[start : start + variable.dimension].reshape(table[inner].shape)
            start += variable.dimension
            tables[number] = table
        out = {}
        for name in self.tensors:
            tensor = tensors[name]
            multiplier = torch.ones(tensor.shape, dtype=torch.float64, device=tensor.device)
            for index, arrays in self.scales.multipliers(name, tables):
                where = places_of(index, tensor.shape, tensor.device) if any(own is not None for own in index) else ...
                for array in arrays:
                    multiplier[where] *= torch.from_numpy(np.asarray(array, dtype=np.float64)).to(tensor.device)
            out[name] = multiplier
        return out

    def __str__(self) -> str:
        return f"ℝ₊^{self.dimension}: {self.name}"


def _inner(table: Array) -> tuple[slice, ...]:
    """Where a table may be other than zero."""
    return (slice(1, None),) * table.ndim


# Torch's softplus is the identity above this; below its negative, it is the exponential, to the last bit.
_LINEAR = 20.0
_SMALL = -40.0


def _log_softplus(x: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.where(x < _SMALL, x, torch.nn.functional.softplus(x.clamp(min=_SMALL)).log())


def _softplus_inverse(logs: torch.Tensor) -> torch.Tensor:
    """The arguments at which torch's softplus has given logarithms."""
    import torch

    values = logs.clamp(min=_SMALL).exp()
    inverse = values + torch.log(-torch.expm1(-values))
    return torch.where(logs < _SMALL, logs, torch.where(values > _LINEAR, values, inverse))
