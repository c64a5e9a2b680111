"""The layer. It knows nothing of paramgraph."""

from __future__ import annotations

import torch
from torch import nn


class Rational(nn.Module):
    """p(x) / (1 + |q(x)|), with polynomials p and q of each channel's own.

    Args:
        channels: size of the last dimension.
        degree: of both polynomials.
    """

    def __init__(self, channels: int, degree: int = 3) -> None:
        super().__init__()
        self.numerator = nn.Parameter(torch.randn(channels, degree + 1) / (degree + 1))
        self.denominator = nn.Parameter(torch.randn(channels, degree) / degree)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(x).all():  # a branch on data: no trace can follow it
            raise ValueError("the input of a rational activation is not finite")
        powers = x[..., None] ** torch.arange(self.numerator.shape[1])
        below = (powers[..., 1:] * self.denominator).sum(-1).abs()
        return (powers * self.numerator).sum(-1) / (1 + below)
