"""Implicit neural representations of images: networks of layout 2-32-32-1 that give an image's brightness at each place.

Many are fitted at once (batched products over networks), and kept on disk. `classify_inrs.py` and `edit_inr.py` use this file.
"""

from __future__ import annotations

import gzip
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import paramgraph as pg


class Siren(nn.Module):
    """Sitzmann et al. 2020 (arXiv:2006.09661): sines of frequency 30, and an output around 1/2."""

    def __init__(self, width: int = 32, frequency: float = 30.0) -> None:
        super().__init__()
        self.frequency = frequency
        self.first, self.second, self.last = nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, 1)
        with torch.no_grad():
            for name, bound in self.bounds().items():
                self.get_parameter(name).uniform_(-bound, bound)

    def bounds(self) -> dict[str, float]:
        """Per parameter, within what it is drawn: the first layer spans all periods, the others keep the size of what goes through."""
        width = self.first.out_features
        inner = math.sqrt(6 / width) / self.frequency
        return {name: 1 / 2 if name.startswith("first") else inner for name, _ in self.named_parameters()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.sin(self.frequency * self.first(x))
        return self.last(torch.sin(self.frequency * self.second(hidden))) + 0.5


def images(folder: Path, split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `(count, 28, 28)` in [0, 1], and labels, of MNIST's IDX files (gzip)."""
    with gzip.open(folder / f"{split}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)[:count]
    with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)[:count]
    return torch.from_numpy(pixels.copy()).float() / 255, torch.from_numpy(labels.astype(np.int64))


def grid(size: int = 28) -> torch.Tensor:
    """Places of pixels, `(size², 2)` in [-1, 1]."""
    line = torch.linspace(-1, 1, size)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).reshape(-1, 2)


def fit(targets: torch.Tensor, seed: int = 0, steps: int = 60, rate: float = 5e-3) -> dict[str, torch.Tensor]:
    """Networks fitted to images, each from an initialisation of its own: values `(networks, …)` by name.

    Args:
        targets: `(networks, 28, 28)`.
        seed: of the initialisations.
        steps: of Adam.
        rate: its learning rate, which falls to zero along a cosine.
    """
    torch.manual_seed(seed)
    model, count = Siren(), len(targets)
    shapes = {name: value.shape for name, value in model.named_parameters()}
    torch.manual_seed(seed)
    values = {name: torch.empty(count, *shapes[name]).uniform_(-bound, bound) for name, bound in model.bounds().items()}
    values = {name: value.to(targets.device).requires_grad_() for name, value in values.items()}
    places = grid().to(targets.device).T.expand(count, 2, -1)
    wanted = targets.reshape(count, 1, -1) - 0.5
    optimiser = torch.optim.Adam(values.values(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def layer(name: str, x: torch.Tensor, factor: float) -> torch.Tensor:
        """`factor · (W x + b)` of all networks, places along the last axis."""
        return torch.baddbmm(values[f"{name}.bias"][..., None], values[f"{name}.weight"], x, beta=factor, alpha=factor)

    for _ in range(steps):
        optimiser.zero_grad()
        hidden = torch.sin(layer("first", places, model.frequency))
        hidden = torch.sin(layer("second", hidden, model.frequency))
        (layer("last", hidden, 1.0) - wanted).square().mean(-1).sum().backward()
        optimiser.step()
        schedule.step()
    return {name: value.detach() for name, value in values.items()}


def population(folder: Path, cache: Path, count: int, device: str = "cpu", at_once: int = 20) -> tuple[pg.metanets.Stack, torch.Tensor, torch.Tensor]:
    """`count` networks as one stack, their labels, and the images; fitted once, then read from `cache`."""
    pictures, labels = images(folder, "train", count)
    file = cache / f"{folder.name}-inrs-{count}.pt"
    if not file.exists():
        start = time.perf_counter()
        parts = []
        for number, targets in enumerate(pictures.split(at_once)):
            parts.append({name: value.cpu() for name, value in fit(targets.to(device), seed=number).items()})
            done = min(len(pictures), (number + 1) * at_once)
            print(f"\rfitted {done} of {len(pictures)}, {time.perf_counter() - start:.0f} s", end="", flush=True)
        print()
        cache.mkdir(parents=True, exist_ok=True)
        torch.save({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, file)
    graph = pg.compile(Siren(), grid()[:4], name="inr")
    stack = pg.metanets.Stack(graph, torch.load(file, weights_only=True))
    with torch.no_grad():
        error = (pg.metanets.run(Siren(), stack.take(slice(0, 100)), grid())[..., 0] - pictures[:100].flatten(1)).square().mean()
    print(f"{count} networks of {graph.num_parameters:,} parameters; peak signal-to-noise ratio {-10 * math.log10(error):.1f} dB")
    return stack, labels, pictures
