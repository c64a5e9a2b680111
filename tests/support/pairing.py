"""Networks whose streams of groups or heads stand on both axes of a weight, with orders derived by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.cases import case, lam

X = (2, 5, 3)
# Three elements in each of two groups, permuted group by group, and the groups: S_3 ≀ S_2.
WREATH = lam(2) + 2 * lam(3)
# The same permutation of the three in both groups.
PRODUCT = lam(2) + lam(3)


def grouped_norm(x: torch.Tensor, groups: int = 2) -> torch.Tensor:
    return F.group_norm(x.transpose(1, 2), groups).transpose(1, 2)


def in_groups(x: torch.Tensor, groups: int = 2) -> torch.Tensor:
    return x.unflatten(-1, (groups, -1))


class Stream(nn.Module):
    """Into a stream, one step of it, and out."""

    def __init__(self, step: Callable[..., torch.Tensor], *shapes: tuple[int, ...], width: int = 6) -> None:
        super().__init__()
        self.into, self.out, self.step = nn.Linear(3, width), nn.Linear(width, 2), step
        self.parts = nn.ParameterList([nn.Parameter(torch.randn(*shape) * 0.4) for shape in shapes])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.step(self.into(x), *self.parts))


def stream(name: str, log_order: float, *shapes: tuple[int, ...], width: int = 6) -> Callable[[Callable[..., torch.Tensor]], object]:
    """Register a stream by its step: a function of the stream and parameters."""

    def register(step: Callable[..., torch.Tensor]) -> object:
        return case(name, log_order, X)(lambda: Stream(step, *shapes, width=width))

    return register


# -- a permutation of its own in each group: the wreath product -------------------------------------------------------


@stream("group norm stream", WREATH, (6, 6))
def _(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return h + grouped_norm(h).relu() @ w


@stream("group norm stream, weight and its transpose", WREATH, (6, 6))
def _(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return h + grouped_norm(h).relu() @ w + grouped_norm(h).tanh() @ w.T


@stream("group norm stream, weight twice", WREATH, (6, 6))
def _(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return h + torch.relu(grouped_norm(h).tanh() @ w) @ w


@stream("group norm stream, weight of normed columns", WREATH, (6, 6), (6,))
def _(h: torch.Tensor, w: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return h + grouped_norm(h).relu() @ (w / w.norm(dim=0) * gain)


@stream("group norm stream, adapter", WREATH + lam(4), (6, 6), (6, 4), (4, 6))
def _(h: torch.Tensor, w: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return h + grouped_norm(h).relu() @ (w + down @ up)


@stream("group norm stream, weight without diagonal", WREATH, (6, 6))
def _(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return h + grouped_norm(h).relu() @ (w * (1 - torch.eye(6)))


@stream("group norm stream, weight cut", WREATH, (6, 12))
def _(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return h + grouped_norm(h).relu() @ w[:, :6] + grouped_norm(h).tanh() @ w[:, 6:]


@stream("group norm stream beside units", WREATH + lam(5), (11, 6), (6, 5))
def _(h: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return h + torch.cat([grouped_norm(h), (h @ v).relu()], -1).relu() @ w


@stream("group norm stream, group to channel", WREATH, (2, 6))
def _(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return h + in_groups(grouped_norm(h).relu()).mean(-1) @ w


# S_2 ≀ S_2 ≀ S_2: norms of groups of four, and of groups of two inside them.
@stream("groups inside groups", 7 * lam(2), (8, 8), width=8)
def _(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return h + (grouped_norm(h, 2) + grouped_norm(h, 4)).relu() @ w


# Which group is which may differ for each of the three, where no norm pools a group: S_2 ≀ S_3.
@stream("gains shared by groups", lam(3) + 3 * lam(2), (6, 6), (3,))
def _(h: torch.Tensor, w: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return h + (in_groups(h.tanh() @ w) * gain).flatten(2)


# -- the same permutation in all groups ------------------------------------------------------------------------------


@stream("group norm stream, kernel shared by groups", PRODUCT, (6, 6), (3, 3))
def _(h: torch.Tensor, w: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    return h + grouped_norm(h).relu() @ w + (in_groups(h.tanh()) @ shared).flatten(2)


@stream("group norm stream, depthwise kernel shared by groups", PRODUCT, (6, 6), (3, 1, 3))
def _(h: torch.Tensor, w: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    moved = F.conv1d(h.transpose(1, 2), kernel.repeat(2, 1, 1), padding=1, groups=6)
    return h + grouped_norm(h).relu() @ w + moved.transpose(1, 2)


@stream("group norm stream, shared bilinear form", PRODUCT, (6, 6), (3, 3))
def _(h: torch.Tensor, w: torch.Tensor, form: torch.Tensor) -> torch.Tensor:
    y = in_groups(grouped_norm(h))
    return h + grouped_norm(h).relu() @ w + torch.einsum("btgc,cd,btgd->btg", y.tanh(), form, y).repeat_interleave(3, -1)


@stream("group norm stream, kronecker product", PRODUCT, (2, 2), (3, 3))
def _(h: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return h + grouped_norm(h).relu() @ torch.einsum("gk,cd->gckd", a, b).reshape(6, 6)


@stream("group norm stream, mask of the same element", PRODUCT, (6, 6))
def _(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return h + grouped_norm(h).relu() @ (w * torch.kron(torch.ones(2, 2), torch.eye(3)))


@stream("group norm stream, mean over groups", PRODUCT, (6, 6))
def _(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return h + grouped_norm(h).relu() @ w + in_groups(h.tanh()).mean(2).repeat(1, 1, 2)


# -- layers ------------------------------------------------------------------------------------------------------------


# Two stages of S_2 ≀ S_2 and S_4 ≀ S_2, and the five inner channels of a bottleneck.
@case("residual stages with group norm", lam(2) + 2 * lam(2) + lam(2) + 2 * lam(4) + lam(5), (2, 3, 8, 8))
class Stages(nn.Module):
    """A residual network with group norms, strides and a bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(8, 2)
        self.norms = nn.ModuleList([nn.GroupNorm(2, n) for n in (4, 4, 8, 8)])
        self.same, self.down = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.shortcut, self.narrow = nn.Conv2d(4, 8, 1, stride=2), nn.Conv2d(8, 5, 1)
        self.wide, self.last = nn.Conv2d(5, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.same(self.norms[0](x).relu())
        x = self.shortcut(x) + self.down(self.norms[1](x).relu())
        x = x + self.wide(self.narrow(self.norms[2](x).relu()).relu())
        x = x + self.last(self.norms[3](x).relu())
        return self.head(x.mean((2, 3)))


# Three stages of S_2 ≀ S_2, and S_3 ≀ S_2 below; the norm after the concatenation has the groups of both of its parts.
@case("u-net with group norm", 3 * (lam(2) + 2 * lam(2)) + lam(2) + 2 * lam(3), (2, 2, 8, 8))
class UNet(nn.Module):
    """One level down and up again, with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.norms = nn.ModuleList([nn.GroupNorm(g, n) for g, n in ((2, 4), (2, 6), (4, 8), (2, 4))])
        self.top, self.below = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.down, self.up = nn.Conv2d(4, 6, 3, 2, 1), nn.ConvTranspose2d(6, 4, 2, 2)
        self.joined, self.shortcut = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.into(x)
        x = x + self.top(self.norms[0](x).relu())
        y = self.down(x)
        y = torch.cat([self.up(y + self.below(self.norms[1](y).relu())), x], 1)
        y = self.shortcut(y) + self.joined(self.norms[2](y).relu())
        return self.out(self.norms[3](y).relu() + y)


# One gain for each group of both streams: the groups are exchanged together.
@case("two streams of the same groups", lam(2) + 2 * lam(3) + 2 * lam(4), X)
class TwoStreams(nn.Module):
    """Streams of three and of four channels in each group, with a weight from one to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large, self.across, self.out = nn.Linear(3, 6), nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)
        self.gain = nn.Parameter(torch.randn(2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small, large = ((in_groups(layer(x)) * self.gain).flatten(2) for layer in (self.small, self.large))
        return self.out(small + self.across(large))


class MAB(nn.Module):
    """The multi-head attention block of the Set Transformer (Lee et al. 2019): queries are added to what their heads return."""

    def __init__(self, query: int, key: int, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.q, self.k, self.v, self.o = nn.Linear(query, width), nn.Linear(key, width), nn.Linear(key, width), nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        q, k, v = (torch.cat(z.split(self.width // self.heads, 2)) for z in (self.q(x), self.k(y), self.v(y)))
        attended = q + torch.softmax(q @ k.transpose(1, 2) / self.width**0.5, 2) @ v
        out = self.first(torch.cat(attended.split(x.size(0)), 2))
        return self.second(out + self.o(out).relu())


class ISAB(nn.Module):
    def __init__(self, width: int, inner: int, points: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(1, points, inner))
        self.gather, self.spread = MAB(inner, width, inner), MAB(width, inner, inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.spread(x, self.gather(self.points.repeat(x.size(0), 1, 1), x))


class Attending(nn.Module):
    """Blocks of self-attention, and a linear map."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks, self.out = nn.ModuleList(blocks), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x, x) if isinstance(block, MAB) else block(x)
        return self.out(x)


class PMA(nn.Module):
    def __init__(self, width: int, seeds: int) -> None:
        super().__init__()
        self.seeds, self.block = nn.Parameter(torch.randn(1, seeds, width)), MAB(width, width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.seeds.repeat(x.size(0), 1, 1), x)


case("set attention", WREATH, X)(lambda: Attending(MAB(3, 3, 6)))
case("set attention twice", 2 * WREATH, X)(lambda: Attending(MAB(3, 3, 6), MAB(6, 6, 6)))
# The four points may be exchanged, and the six entries of each: they are only read by a linear map.
case("set attention by points", 2 * WREATH + lam(4) + lam(6), X)(lambda: Attending(ISAB(3, 6, 4)))
case("set attention by seeds", 2 * WREATH + lam(6), X)(lambda: Attending(MAB(3, 3, 6), PMA(6, 4)))


# The dimensions of values are those of the stream, head by head; those of queries and keys are their own; five inner units.
@case("stream of heads", WREATH + 2 * lam(3) + lam(5), X)
class Headed(nn.Module):
    """A transformer block without output projection: what the heads return, one after the other, is added to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.qkv, self.out = nn.Linear(3, 6), nn.Linear(6, 18), nn.Linear(6, 2)
        self.first, self.second, self.up, self.down = nn.LayerNorm(6), nn.LayerNorm(6), nn.Linear(6, 5), nn.Linear(5, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.into(x)
        q, k, v = self.qkv(self.first(x)).unflatten(2, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out(x + self.down(F.gelu(self.up(self.second(x)))))
