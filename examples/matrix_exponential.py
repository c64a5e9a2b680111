"""A rule for an operation that paramgraph does not know.

The layer rotates its features by the exponential of a skew-symmetric matrix. `torch.linalg.matrix_exp` has no rule: all that it touches is
pinned, and the compiler says so. The rule says how the exponential uses its operand; it computes nothing.

    python examples/matrix_exponential.py
"""

from __future__ import annotations

import torch
from torch import nn

import paramgraph as pg


class Rotation(nn.Module):
    """Multiplies by an orthogonal matrix: the exponential of a skew-symmetric one."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.generator = nn.Parameter(torch.randn(features, features) / features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.linalg.matrix_exp(self.generator - self.generator.T)


def matrix_exponential(b, a):
    """exp(A) = 1 + A + AA/2 + …: rows and columns are one index, and the result's are the same. In a product AA, they are just that."""
    return b.contract("ij,jk->ik", a, a, name="matrix_exp")


def build() -> nn.Module:
    """A small network around the layer."""
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), Rotation(6), nn.Tanh(), nn.Linear(6, 3))


def main() -> None:
    model, x = build(), torch.randn(5, 4)
    for diagnostic in pg.compile(model, x).diagnostics:
        if diagnostic.kind == "unknown-operation":
            print(diagnostic)
    pg.rule("aten.linalg_matrix_exp")(matrix_exponential)
    graph = pg.compile(model, x)
    print(graph.symmetry)
    print(pg.verify(graph, model, x, leave_one_out="all"))


if __name__ == "__main__":
    main()
