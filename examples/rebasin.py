"""Two networks trained apart, and the straight line between them: before and after one is moved along its orbit toward the other.

On the line between two independently trained networks the loss rises far above that of either end. Much of that is only that their neurons
stand in another order: after `pg.symmetries.align`, the same two functions lie closer, and the barrier falls (Ainsworth, Hayase &
Srinivasa 2023, arXiv:2209.04836). For a multilayer perceptron, and for a small residual network.

    python examples/rebasin.py path/to/mnist                       a folder with MNIST's four IDX files (gzip)
    python examples/rebasin.py path/to/mnist --images 60000 --epochs 5
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import paramgraph as pg


class Residual(nn.Module):
    """A residual network without batch statistics, which a line between two networks would have to compute anew."""

    def __init__(self, width: int = 24, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)) for _ in range(blocks)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.head(x.mean((2, 3)))


def perceptron(width: int = 256) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def images(folder: Path, split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `(count, 1, 28, 28)` around 0, and labels."""
    with gzip.open(folder / f"{split}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)[:count]
    with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)[:count]
    return (torch.from_numpy(pixels.copy()).float() - 33.3) / 78.6, torch.from_numpy(labels.astype(np.int64))


def train(make: Callable[[], nn.Module], x: torch.Tensor, y: torch.Tensor, epochs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = make()
    steps = epochs * (len(x) // 128)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps + 1)
    for _ in range(epochs):
        for batch in torch.randperm(len(x))[: len(x) // 128 * 128].split(128):
            optimiser.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def line(model: nn.Module, a: pg.ParamGraph, b: pg.ParamGraph, x: torch.Tensor, y: torch.Tensor, points: int = 11) -> list[tuple[float, float]]:
    """Loss and accuracy at equal steps along the line between two networks."""
    out = []
    with torch.no_grad():
        for t in torch.linspace(0, 1, points):
            state = {name: torch.lerp(a.values[name], b.values[name], t) for name in a.values}
            scores = torch.func.functional_call(model, state, x)
            out.append((float(F.cross_entropy(scores, y)), float((scores.argmax(1) == y).float().mean())))
    return out


def barrier(losses: list[tuple[float, float]]) -> float:
    """How far the loss rises above the straight line between the ends."""
    ends = np.linspace(losses[0][0], losses[-1][0], len(losses))
    return float(max(loss - end for (loss, _), end in zip(losses, ends, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    x, y = images(options.data, "train", options.images)
    test_x, test_y = images(options.data, "t10k", 2_000)
    for name, make in (("perceptron", perceptron), ("residual network", Residual)):
        models = [train(make, x, y, options.epochs, seed) for seed in (1, 2)]
        a, b = (pg.compile(model, x[:2], name=name) for model in models)
        print(f"{name}: {a.num_parameters:,} parameters, ln order of the permutations {a.symmetry.log_order:,.0f}")
        rows = [("as trained", b), *((f"aligned by {' and '.join(kinds)}s", pg.symmetries.align(a, b, kinds=kinds).graph)
                                     for kinds in (["permutation"], ["permutation", "scale"]))]
        for what, end in rows:
            losses = line(models[0], a, end, test_x, test_y)
            middle = losses[len(losses) // 2]
            print(f"  {what:35s} barrier {barrier(losses):6.3f}   accuracy at the ends {losses[0][1]:.1%}, {losses[-1][1]:.1%}, "
                  f"half-way {middle[1]:.1%}")


if __name__ == "__main__":
    main()
