"""What leaves an attention layer's function unchanged, and what of that is not declared.

    python examples/symmetries.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import paramgraph as pg


class Attention(nn.Module):
    """Two heads of four dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(9, 8), nn.Linear(9, 8), nn.Linear(9, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).unflatten(2, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def main() -> None:
    torch.manual_seed(0)
    model, x = Attention().eval(), torch.randn(3, 7, 9)
    graph = pg.compile(model, x)
    print(graph.symmetry)
    for factor in graph.symmetry.moves:
        print(f"  {factor} ({factor.dimension} dimensions)")

    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    moved = graph.symmetry.move(seed=0).act(state)
    before, after = (torch.func.functional_call(model.double(), s, x.double()) for s in (state, moved))
    print(f"under random matrices and translations the outputs change by {float((after - before).detach().abs().max()):.0e}")
    print(pg.verify(graph, model, x, maximality=True).maximality)


if __name__ == "__main__":
    main()
