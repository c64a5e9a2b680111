"""Positions that become channels and channels that become positions: patch merging, space to depth, and their inverses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.cases import case, lam


def merged(x: torch.Tensor, n: int = 2) -> torch.Tensor:
    """Squares of n × n positions laid into channels: `[B, H, W, C]` to `[B, H/n, W/n, n·n·C]`."""
    b, h, w, c = x.shape
    return x.view(b, h // n, n, w // n, n, c).permute(0, 1, 3, 2, 4, 5).flatten(3)


def spread(x: torch.Tensor, n: int = 2) -> torch.Tensor:
    """Channels laid out as squares of n × n positions: `[B, H, W, n·n·C]` to `[B, n·H, n·W, C]`."""
    b, h, w, c = x.shape
    return x.view(b, h, w, n, n, c // (n * n)).permute(0, 1, 3, 2, 4, 5).reshape(b, n * h, n * w, c // (n * n))


class Windowed(nn.Module):
    """Attention within windows of 3 × 3 of the image, which is rolled before and after; then a layer of its own for each position."""

    def __init__(self, channels: int, shift: int) -> None:
        super().__init__()
        self.shift, self.norm = shift, nn.LayerNorm(channels)
        self.q, self.k, self.v = (nn.Linear(channels, n) for n in (2, 2, 3))
        self.o, self.up, self.down = nn.Linear(3, channels), nn.Linear(channels, 5), nn.Linear(5, channels)
        self.table = nn.Parameter(torch.randn(25))
        at = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None] + 2
        self.register_buffer("index", 5 * apart[0] + apart[1], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, h, w, c = x.shape
        y = self.norm(x).roll((-self.shift, -self.shift), (1, 2))
        y = y.view(b, h // 3, 3, w // 3, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, c)
        scores = self.q(y) @ self.k(y).transpose(1, 2) + self.table[self.index]
        y = self.o(scores.softmax(-1) @ self.v(y))
        y = y.view(b, h // 3, w // 3, 3, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + y.roll((self.shift, self.shift), (1, 2))
        return x + self.down(torch.tanh(self.up(x)))


BLOCK = lam(2) + lam(3) + lam(5)  # of queries and keys, values, and units


# The stream of 4 channels; after merging, that of 3: a layer norm's gain and the reduction hold the 4 channels at each of 4 places.
@case("windows, shifts and merging", lam(4) + 2 * BLOCK + lam(3) + BLOCK, (1, 3, 12, 12))
class Merging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Conv2d(3, 4, 2, 2), nn.Sequential(Windowed(4, 0), Windowed(4, 1))
        self.norm, self.reduce = nn.LayerNorm(16), nn.Linear(16, 3, bias=False)
        self.last, self.head = Windowed(3, 0), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.embed(x).permute(0, 2, 3, 1))
        return self.head(self.last(self.reduce(self.norm(merged(x)))).mean((1, 2)))


# The same places are merged before channels of their own are made of them and after: 4 channels, 5 channels of merged places.
@case("windows of merged positions", lam(4) + lam(5), (1, 3, 6, 6))
class WindowsOfMerged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.reduce, self.head = nn.Conv2d(3, 4, 1), nn.Linear(36, 4), nn.Linear(16, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.embed(x)).permute(0, 2, 3, 1)
        x = x + self.inner(merged(x, 3)).tanh().repeat_interleave(3, 1).repeat_interleave(3, 2)
        return self.head(self.reduce(merged(x)).tanh().mean((1, 2)))


@case("squares laid into channels", lam(4) + lam(5), (2, 3, 8, 8))
class SpaceToDepth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.reduce, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm(16), nn.Linear(16, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.embed(x)).permute(0, 2, 3, 1)
        return self.head(torch.tanh(self.reduce(self.norm(merged(x)))).mean((1, 2)))


@case("unshuffled pixels, then a pointwise layer", lam(4) + lam(5), (2, 3, 8, 8))
class Unshuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.o = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 5, 1), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(torch.relu(self.b(self.norm(F.pixel_unshuffle(torch.relu(self.a(x)), 2)))).mean((2, 3)))


# What is made for four places is read at each alike, and rows are in order: the two columns of all squares are exchanged.
@case("channels laid out as squares", lam(4) + lam(3) + lam(2) + lam(5), (2, 3, 4, 4))
class DepthToSpace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.o = nn.Conv2d(3, 4, 1), nn.Linear(4, 12), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.a(x)).permute(0, 2, 3, 1)
        return self.o(torch.tanh(self.c(torch.tanh(spread(self.b(x))))).cumsum(1).mean((1, 2)))


# Tokens are the input's own, and no operation runs along them in order.
@case("pairs of tokens", lam(4) + lam(5) + lam(6), (2, 8, 3))
class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.o = nn.Linear(3, 4), nn.Linear(8, 5), nn.Linear(10, 6), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.a(x)).reshape(-1, 4, 8)
        x = torch.tanh(self.b(x)).reshape(-1, 2, 10)
        return self.o(torch.tanh(self.c(x)).flatten(1))


# Tokens are contracted by a layer of their own: there they are nodes, beside the units of both layers and the channels that pass by.
@case("token mixing of merged positions", lam(4) + lam(5) + lam(3) + lam(6), (2, 3, 8, 8))
class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.reduce, self.head = nn.Conv2d(3, 4, 1), nn.Linear(16, 5), nn.Linear(5, 2)
        self.tokens = nn.Sequential(nn.Linear(16, 3), nn.Tanh(), nn.Linear(3, 16))
        self.channels = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.reduce(merged(torch.tanh(self.embed(x)).permute(0, 2, 3, 1))).flatten(1, 2)
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(x)).mean(1))
