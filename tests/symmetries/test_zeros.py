"""Zeros of constants: which are cut, and that whatever is claimed of random networks with masks, tables and fixed matrices holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import paramgraph as pg

ACTS: list[Callable[[Tensor], Tensor]] = [torch.relu, torch.tanh, lambda h: h, torch.abs]


class Random(nn.Module):
    """Layers of four units; before each function a constant with zeros is multiplied, added, or contracted, as a seed says."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)

        def numbers(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g)

        def bits(*shape: int) -> Tensor:
            return (torch.rand(*shape, generator=g) > 0.5).float()

        self.a, self.b, self.c, self.skip = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2), seed % 2
        for i in range(4):
            made = [bits(4), numbers(4) * bits(4), numbers(4, 4) * bits(4, 1) * bits(1, 4), torch.block_diag(numbers(2, 2), numbers(2, 2)),
                    numbers(4, 4) * bits(4, 4), torch.cat([numbers(5, 2), torch.zeros(5, 2)], 1)]  # fmt: skip
            self.register_buffer(f"m{i}", made[int(torch.randint(0, 6, (1,), generator=g))], persistent=False)
        self.ways = torch.randint(0, 6, (4,), generator=g).tolist()
        self.acts = torch.randint(0, 4, (4,), generator=g).tolist()

    def used(self, h: Tensor, i: int) -> Tensor:
        m, way = getattr(self, f"m{i}"), self.ways[i]
        if m.shape == (4, 4):
            h = [h @ m.T, h @ m, h @ m.T, h @ m, h * m[:, 1], m[2] * h][way]
        else:
            h = [h + m, h * m, h - m][way % 3]
        return ACTS[self.acts[i]](h)

    def forward(self, x: Tensor) -> Tensor:
        h = self.used(self.used(self.a(x), 0), 1)
        h = self.used(h * self.skip + self.b(h), 2)
        return self.c(self.used(h, 3))


# Of the first hundred: dead units whose signs pass through a matrix of zeros (22), residual connections, and what has most scales.
@pytest.mark.parametrize("seed", [4, 15, 17, 22])
def test_random_networks(seed: int) -> None:
    torch.manual_seed(0)
    model, x = Random(seed).double().eval(), torch.randn(2, 5, 3, dtype=torch.float64)
    graph = pg.compile(model, x)
    assert graph.symmetry.dimension > 0
    report = pg.verify(graph, model, x)
    assert report.passed, report.problems


class Units(nn.Module):
    """Three units, and a function of them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False), function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(torch.relu(self.a(x))))


ZEROS = torch.tensor([0.0, 0.5, 1.0])


# A zero that is divided by, or compared with, or looked at by any other function, is a number as any other.
@pytest.mark.parametrize(("function", "dimension"), [
    (lambda h: h * ZEROS.to(h), 4), (lambda h: h / ZEROS.to(h), 3), (lambda h: h + ZEROS.to(h), 1), (lambda h: torch.maximum(h, ZEROS.to(h)), 0),
    (lambda h: h * ZEROS.to(h) + h / (1 + ZEROS.to(h)), 3),
])  # fmt: skip
def test_what_zeros_are_read_by(function: Callable[[Tensor], Tensor], dimension: int) -> None:
    assert pg.compile(Units(function), torch.randn(4, 3)).symmetry.dimension == dimension


def test_constants_of_many_patterns_are_left_whole() -> None:
    """A triangle of 20 rows has 20 classes of slices: no axis is cut, and its zeros are as any other number."""
    model = nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 2))

    class Triangle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[2](torch.relu(self.layers[0](x)) @ torch.ones(20, 20).tril())

    assert pg.compile(Triangle(), torch.randn(4, 3)).symmetry.dimension == 1


def test_masks_of_shifted_windows() -> None:
    """Masks of windows are zero in parts that no product of axes is: cut there, the axes would be cut on and on (this network had no scales)."""
    from paramgraph.models import resolve

    resolve("torchvision:resnet18")  # makes torchvision's operators known where its extension is not built
    from torchvision.models.swin_transformer import SwinTransformer

    torch.manual_seed(0)
    model, x = SwinTransformer([2, 2], 12, [2], [3], [2, 2], num_classes=5).eval(), torch.randn(1, 3, 16, 16)
    graph = pg.compile(model, x)
    kinds = {factor.kind for factor in graph.symmetry.factors}
    assert {"scale", "sign"} <= kinds and len(graph.symmetry.moves) > 20
    report = pg.verify(graph, model, x, elements=1, inputs=1, leave_one_out=0)
    assert report.passed, str(report)
