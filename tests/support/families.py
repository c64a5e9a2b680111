"""Reduced twins of families of networks, all of whose functions are analytic: for counting their continuous symmetries.

Widths differ, inputs are at least as wide as the first layer, and outputs at least as wide as what they read: narrower ones hide directions of
parameters that no larger network of the family hides.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

Tensor = torch.Tensor


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(3 * x)


class Filters(nn.Module):
    """A multiplicative filter network."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.ModuleList([nn.Linear(2, 4) for _ in range(3)])
        self.mixes = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)])

    def forward(self, x: Tensor) -> Tensor:
        z = torch.sin(self.filters[0](x))
        for own, mix in zip(self.filters[1:], self.mixes[:2], strict=True):
            z = torch.sin(own(x)) * mix(z)
        return self.mixes[2](z)


class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.all, self.inner, self.head = nn.Linear(3, 4), nn.Linear(3, 4, bias=False), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.own(x) + self.all(x.mean(1, keepdim=True)))
        return self.head(torch.tanh(self.inner(h.sum(1))))


class SoftExperts(nn.Module):
    """Experts that a softmax weighs."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.up, self.down = nn.Linear(4, 3), nn.Parameter(torch.randn(3, 5, 4)), nn.Parameter(torch.randn(3, 2, 5))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.tanh(torch.einsum("euc,bc->beu", self.up, x))
        return torch.einsum("be,beu,edu->bd", self.router(x).softmax(-1), inner, self.down)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.tokens, self.back = nn.Linear(5, 4), nn.Linear(3, 5), nn.Linear(5, 3)
        self.norms = nn.ModuleList([nn.LayerNorm(4) for _ in range(3)])
        self.up, self.down, self.head = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        x = x + self.back(F.gelu(self.tokens(self.norms[0](x).mT))).mT
        x = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x).mean(1))


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise, self.norm = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.LayerNorm(4)
        self.up, self.down, self.gamma = nn.Linear(4, 6), nn.Linear(6, 4), nn.Parameter(torch.rand(4) + 0.5)
        self.last, self.head = nn.LayerNorm(4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        y = self.norm(self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        x = x + self.gamma * self.down(F.gelu(self.up(y)))
        return self.head(self.last(x.mean((1, 2))))


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """Attention of `(batch, tokens, heads × dimensions)`."""
    batch, tokens, width = q.shape
    q, k, v = (part.view(batch, tokens, heads, -1).transpose(1, 2) for part in (q, k, v))
    if mask is None:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    else:
        out = (q @ k.mT / q.shape[-1] ** 0.5 + mask).softmax(-1) @ v
    return out.transpose(1, 2).reshape(batch, tokens, width)


class Gpt(nn.Module):
    """Layer norms before, learned positions, a packed projection, tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.positions, self.norms = nn.Embedding(7, 4), nn.Embedding(4, 4), nn.ModuleList([nn.LayerNorm(4) for _ in range(3)])
        self.qkv, self.out, self.up, self.down = nn.Linear(4, 12), nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens) + self.positions(torch.arange(tokens.shape[1]))
        x = x + self.out(attended(*self.qkv(self.norms[0](x)).split(4, -1), 2, causal=True))
        x = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return F.linear(self.norms[2](x), self.table.weight)


class Bert(nn.Module):
    """Layer norms behind, an embedding of its own for the head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.positions, self.norms = nn.Embedding(7, 4), nn.Embedding(4, 4), nn.ModuleList([nn.LayerNorm(4) for _ in range(3)])
        self.query, self.key, self.value, self.out = (nn.Linear(4, 4) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norms[0](self.table(tokens) + self.positions(torch.arange(tokens.shape[1])))
        x = self.norms[1](x + self.out(attended(self.query(x), self.key(x), self.value(x), 2)))
        return self.head(self.norms[2](x + self.down(F.gelu(self.up(x)))))


class T5(nn.Module):
    """Root-mean-square norms, a table of relative positions, no biases."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.relative, self.norms = nn.Embedding(7, 4), nn.Embedding(7, 2), nn.ModuleList([nn.RMSNorm(4, eps=0.3) for _ in range(3)])
        self.query, self.key, self.value, self.out = (nn.Linear(4, 4, bias=False) for _ in range(4))
        self.up, self.gate, self.down = nn.Linear(4, 5, bias=False), nn.Linear(4, 5, bias=False), nn.Linear(5, 4, bias=False)
        self.head = nn.Linear(4, 7, bias=False)
        self.register_buffer("distance", torch.arange(4)[None] - torch.arange(4)[:, None] + 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        y = self.norms[0](x)
        x = x + self.out(attended(self.query(y), self.key(y), self.value(y), 2, mask=self.relative(self.distance).permute(2, 0, 1)[None]))
        y = self.norms[1](x)
        x = x + self.down(F.gelu(self.gate(y)) * self.up(y))
        return self.head(self.norms[2](x))


class SetAttention(nn.Module):
    """Learned seeds ask; what answers is a set."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.seeds = nn.Linear(4, 4), nn.Parameter(torch.randn(1, 6, 4))
        self.query, self.key, self.value, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x))
        scores = self.query(self.seeds) @ self.key(h).mT / 2
        return self.head(torch.tanh(scores.softmax(-1) @ self.value(h)))


class P4(nn.Module):
    """A lifting convolution over the four quarter turns, a convolution over the group, the largest invariant taken as a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.group, self.head = nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Parameter(torch.randn(4, 3, 4, 3, 3)), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        lifted = torch.stack([self.lift.rot90(turn, (-2, -1)) for turn in range(4)], 1)
        h = torch.tanh(F.conv2d(x, lifted.flatten(0, 1), padding=1))
        turned = [self.group.roll(turn, 2).rot90(turn, (-2, -1)) for turn in range(4)]
        h = torch.tanh(F.conv2d(h, torch.stack(turned, 1).flatten(0, 1).flatten(1, 2), padding=1))
        return self.head(h.unflatten(1, (4, 4)).mean((2, 3, 4)))


def siren() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), Sine(), nn.Linear(4, 5), Sine(), nn.Linear(5, 2))
