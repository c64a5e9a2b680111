"""Equivariant networks: group convolutions by hand and by escnn, attention over sets; and routed experts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from architectures.base import BATCH, Architecture, Network, installed


class Lifting(nn.Module):
    """A convolution whose filters are turned, and mirrored if asked: one copy of each output for every element of p4, or p4m."""

    def __init__(self, i: int, o: int, mirrored: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.mirrored = nn.Parameter(torch.randn(o, i, 3, 3) / 3), nn.Parameter(torch.randn(o)), mirrored

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        copies = [self.weight, self.weight.flip(-1)] if self.mirrored else [self.weight]
        filters = torch.stack([torch.rot90(w, turn, (-2, -1)) for w in copies for turn in range(4)], 1)
        y = F.conv2d(x, filters.flatten(0, 1), padding=1).unflatten(1, filters.shape[:2])
        return y + self.bias[:, None, None, None]


class GroupConvolution(nn.Module):
    """A p4 convolution: a filter for every orientation of the input, turned and shifted along orientations for each of the output."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(o, i, 4, 3, 3) / 6), nn.Parameter(torch.randn(o))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        filters = torch.stack([torch.rot90(self.weight, turn, (-2, -1)).roll(turn, 2) for turn in range(4)], 1)
        y = F.conv2d(x.flatten(1, 2), filters.flatten(0, 1).flatten(1, 2), padding=1).unflatten(1, filters.shape[:2])
        return y + self.bias[:, None, None, None]


class Planar(nn.Module):
    def __init__(self, mirrored: bool = False) -> None:
        super().__init__()
        self.first, self.head = Lifting(3, 6, mirrored), nn.Linear(5, 2)
        self.second = GroupConvolution(6, 5) if not mirrored else nn.Conv3d(6, 5, (1, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))).amax(2).mean((2, 3)))


class SetAttention(nn.Module):
    """Attention among the elements of a set, and pooling by attention from learned seeds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 12), nn.Linear(12, 2)
        self.among, self.pool = (nn.MultiheadAttention(12, 3, batch_first=True) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(12) for _ in range(2))
        self.seeds = nn.Parameter(torch.randn(2, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        x = self.norms[0](x + self.among(x, x, x, need_weights=False)[0])
        seeds = self.seeds.expand(x.shape[0], -1, -1)
        return self.head(self.norms[1](seeds + self.pool(seeds, x, x, need_weights=False)[0])).flatten(1)


class HashGrid(nn.Module):
    """Two levels of tables that corners of a grid are hashed into, interpolated."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(64, 4) for _ in range(2))
        self.net = nn.Sequential(nn.Linear(8, 19), nn.ReLU(), nn.Linear(19, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(torch.cat([self._read(table, x * size) for table, size in zip(self.tables, (7.9, 15.9), strict=True)], -1))

    def _read(self, table: nn.Embedding, x: torch.Tensor) -> torch.Tensor:
        low = x.sigmoid().mul(9).floor()
        rest, low = x.sigmoid().mul(9) - low, low.long()
        out = 0
        for i in (0, 1):
            for j in (0, 1):
                share = (rest[:, 0] if i else 1 - rest[:, 0]) * (rest[:, 1] if j else 1 - rest[:, 1])
                key = ((low[:, 0] + i) * 1 ^ (low[:, 1] + j) * 2654435761) % 64
                out = out + share[:, None] * table(key)
        return out


class Routed(nn.Module):
    """The two best of five experts, by a router; experts stacked in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router, self.head = nn.Linear(5, 12), nn.Linear(12, 5), nn.Linear(12, 3)
        self.up, self.down = nn.Parameter(torch.randn(5, 12, 7) / 3), nn.Parameter(torch.randn(5, 7, 12) / 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.embed(x))
        share, chosen = self.router(x).softmax(-1).topk(2, -1)
        inner = torch.relu(torch.einsum("bi,bkij->bkj", x, self.up[chosen]))
        return self.head(x + torch.einsum("bk,bkj,bkji->bi", share, inner, self.down[chosen]))


def _image(make: type[nn.Module], **options: bool) -> Network:
    return Network(make(**options).eval(), (torch.randn(BATCH, 3, 9, 9),))


def _escnn() -> Network:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
    import equivariant_convolution  # registers its rule

    return Network(equivariant_convolution.Network().train(), (torch.randn(BATCH, 3, 7, 7),))


def architectures() -> Iterator[Architecture]:
    yield Architecture("torch:p4 convolutions", partial(_image, Planar))
    yield Architecture("torch:p4m lifting", partial(_image, Planar, mirrored=True))
    yield Architecture("torch:set attention", lambda: Network(SetAttention().eval(), (torch.randn(BATCH, 7, 3),)))
    yield Architecture("torch:hash grid", lambda: Network(HashGrid().eval(), (torch.randn(9, 2),)))
    yield Architecture("torch:routed experts", lambda: Network(Routed().eval(), (torch.randn(11, 5),)))
    if installed("escnn"):
        yield Architecture("torch:planar convolutions (escnn)", _escnn)
