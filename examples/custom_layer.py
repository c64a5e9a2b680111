"""A layer of your own that no tracer can follow, and the rule that tells paramgraph what it does.

The layer routes each row of its input to its most similar prototype with a Python loop over data: `torch.export` refuses it. With a rule
for its class its calls are kept whole. The rule says, in program operations, how the function uses its tensors; it computes nothing.

    python examples/custom_layer.py
"""

from __future__ import annotations

import torch
from torch import nn

import paramgraph as pg


class PrototypeGate(nn.Module):
    """Each feature vector gains the value row of its nearest key row, found by a data-dependent search."""

    def __init__(self, features: int, prototypes: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(prototypes, features))
        self.values = nn.Parameter(torch.randn(prototypes, features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = []
        for row in x:
            best, place = float("inf"), 0
            for i, key in enumerate(self.keys):
                distance = float(((row - key) ** 2).sum())  # a number out of a tensor: not traceable
                if distance < best:
                    best, place = distance, i
            rows.append(row + self.values[place])
        return torch.stack(rows)


@pg.rule(PrototypeGate)
def prototype_gate(b, module, params, x):
    """The search compares rows with keys feature by feature and reads a value row: prototypes may be permuted, features move as one."""
    distance = b.contract("bf,pf->bp", x, params["keys"], name="distance")
    choice = b.mix("nearest", distance, [1])
    read = b.contract("bp,pf->bf", choice, params["values"], name="read")
    return b.elementwise("add", x, read)


def build() -> nn.Module:
    """A small network around the layer."""
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), PrototypeGate(8, 6), nn.Linear(8, 3))


def main() -> None:
    model, x = build(), torch.randn(4, 5)
    graph = pg.compile(model, x)
    print(graph)
    print(pg.verify(graph, model, x))


if __name__ == "__main__":
    main()
