"""Running statistics and what stands behind them: `γ (x − μ) / √(σ² + ε) + β` is the same for many of each.

A variance may have `s² (σ² + ε) − ε` in its place, if its gain has `s γ`; a mean may have `t` more, if its offset has `γ t / √(σ² + ε)` more.
ε enters as it is, so both are exact; what is added depends on the other tensors at that point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paramgraph.symmetries.moves import Addition

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SpreadFactor(Addition):
    """Multiples of the deviations of a running variance, which its gain makes up for.

    Elements are the logarithms of s. A variance may come out between −ε and 0 where s is small. Where `σ² + ε` is not positive, nothing is done.

    Attributes:
        name: for people.
        variance: name of the variance's action.
        gain: name of the gain's action.
        epsilon: ε.
        shape: of both.
    """

    name: str
    variance: str
    gain: str
    epsilon: float
    shape: tuple[int, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return (self.variance, self.gain)

    def act(self, logs: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New tensors for the variance and the gain.

        Args:
            logs: of the factor's shape, float64.
            tensors: by action name.
        """
        variance, gain = tensors[self.variance], tensors[self.gain]
        logs = logs.to(variance.device)
        spread = variance.double() + self.epsilon
        held = spread > 0
        made = (spread * (2 * logs).exp() - self.epsilon).where(held, variance.double())
        return {
            self.variance: made.to(variance.dtype),
            self.gain: (gain.double() * logs.exp().where(held, logs.new_ones(())).to(gain.device)).to(gain.dtype),
        }

    def tangent(self, direction: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The derivative at s = 1."""
        spread = tensors[self.variance].double() + self.epsilon
        direction = direction.to(spread.device) * (spread > 0)
        return {self.variance: 2 * spread * direction, self.gain: tensors[self.gain].double() * direction.to(tensors[self.gain].device)}

    def __str__(self) -> str:
        return f"ℝ₊^{self.dimension}: {self.name}"


@dataclass(frozen=True)
class CentreFactor(Addition):
    """Additions to a running mean, which its offset makes up for.

    Attributes:
        name: for people.
        mean: name of the mean's action.
        offset: name of the offset's action.
        variance: name of the variance's action.
        gain: name of the gain's action; empty where there is none.
        epsilon: ε.
        shape: of all of them.
    """

    name: str
    mean: str
    offset: str
    variance: str
    gain: str
    epsilon: float
    shape: tuple[int, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the actions whose tensors are acted on."""
        return (self.mean, self.offset)

    @property
    def read(self) -> tuple[str, ...]:
        """Names of the actions whose tensors say what is added."""
        return tuple(name for name in (self.variance, self.gain) if name)

    def act(self, added: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New tensors for the mean and the offset.

        Args:
            added: of the factor's shape, float64.
            tensors: by action name, those that are read too.
        """
        change = self.tangent(added, tensors)
        return {name: (tensors[name].double() + change[name]).to(tensors[name].dtype) for name in self.tensors}

    def tangent(self, direction: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What is added, in float64; nothing where there is no deviation to divide by."""
        spread = tensors[self.variance].double() + self.epsilon
        held = spread > 0
        direction = direction.to(spread.device) * held
        arriving = direction * spread.where(held, spread.new_ones(())).rsqrt()
        if self.gain:
            arriving = arriving * tensors[self.gain].to(spread.device).double()
        return {self.mean: direction.to(tensors[self.mean].device), self.offset: arriving.to(tensors[self.offset].device)}

    def __str__(self) -> str:
        return f"ℝ^{self.dimension}: {self.name}"
