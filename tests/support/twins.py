"""More reduced twins of families of analytic networks: convolutional, recurrent, of graphs, windowed, with gains and norms in other places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.families import attended

Tensor = torch.Tensor
EPS = 0.3


class Swin(nn.Module):
    """Two blocks of attention within windows of two, the second shifted, with tables of relative positions; then neighbours are merged."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.first = nn.Linear(5, 4), nn.LayerNorm(4, EPS)
        self.norms = nn.ModuleList([nn.LayerNorm(4, EPS) for _ in range(2)])
        self.qkv = nn.ModuleList([nn.Linear(4, 12) for _ in range(2)])
        self.out = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.tables = nn.ParameterList([nn.Parameter(torch.randn(3, 2)) for _ in range(2)])
        self.merging, self.reduction, self.last, self.head = nn.LayerNorm(8, EPS), nn.Linear(8, 8, bias=False), nn.LayerNorm(8, EPS), nn.Linear(8, 10)
        self.register_buffer("distance", torch.tensor([[1, 0], [2, 1]]), persistent=False)

    def attend(self, x: Tensor, number: int) -> Tensor:
        batch, tokens, width = x.shape
        if number:
            x = x.roll(-1, 1)
        windows = self.norms[number](x).view(batch * tokens // 2, 2, width)
        bias = self.tables[number][self.distance].permute(2, 0, 1)[None]
        out = self.out[number](attended(*self.qkv[number](windows).split(4, -1), 2, mask=bias)).view(batch, tokens, width)
        return out.roll(1, 1) if number else out

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.patch(x))
        for number in range(2):
            x = x + self.attend(x, number)
        x = self.reduction(self.merging(torch.cat([x[:, 0::2], x[:, 1::2]], -1)))
        return self.head(self.last(x).mean(1))


class LayerScale(nn.Module):
    """A class token, learned positions, gains behind attention and the perceptron (CaiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token, self.positions = nn.Linear(5, 4), nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 4, 4))
        self.norms = nn.ModuleList([nn.LayerNorm(4, EPS) for _ in range(3)])
        self.query, self.key, self.value, self.out = (nn.Linear(4, 4) for _ in range(4))
        self.gains = nn.ParameterList([nn.Parameter(torch.rand(4) + 0.5) for _ in range(2)])
        self.up, self.down, self.head = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.patch(x)], 1) + self.positions
        y = self.norms[0](x)
        x = x + self.gains[0] * self.out(attended(self.query(y), self.key(y), self.value(y), 2))
        x = x + self.gains[1] * self.down(F.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x))


class Perceiver(nn.Module):
    """Learned latents ask, with norms of their own; layer norms behind."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.inner, self.outer = nn.Parameter(torch.randn(1, 5, 4)), nn.LayerNorm(4, EPS), nn.LayerNorm(6, EPS)
        self.embed, self.query, self.key, self.value, self.out = nn.Linear(6, 6), nn.Linear(4, 4), nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 4)
        self.last, self.head = nn.LayerNorm(4, EPS), nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.outer(self.embed(x)), self.latents.expand(x.shape[0], -1, -1)
        q = self.inner(z)
        z = z + self.out(attended2(self.query(q), self.key(y), self.value(y), 2))
        return self.head(self.last(z))


def attended2(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of other tokens."""
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


class PackedAttention(nn.Module):
    """Torch's own attention layer, which merges its heads with the samples of a batch."""

    def __init__(self, masked: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.register_buffer("mask", torch.randn(5, 5) if masked else None)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False, attn_mask=self.mask)[0]


class TabledWindows(nn.Module):
    """Attention within windows of 2 × 3 positions, with a number for each pair of these."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.table = nn.Linear(4, 12), nn.Linear(4, 3), nn.Parameter(torch.randn(2, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        windows = x.view(b, c, h // 2, 2, w // 3, 3).permute(0, 2, 4, 3, 5, 1).reshape(-1, 6, c)
        q, k, v = self.qkv(windows).view(-1, 6, 3, 2, 2).permute(2, 0, 3, 1, 4)
        return torch.tanh(self.out(((q @ k.mT + self.table).softmax(-1) @ v).transpose(1, 2).reshape(-1, 6, 4)))


class WrittenNorm(nn.Module):
    """A layer normalisation in several operations, as in the annotated transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 4), nn.Linear(4, 5), nn.Linear(5, 3)
        self.gain, self.offset = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = self.gain * (h - h.mean(-1, keepdim=True)) / (h.std(-1, keepdim=True) + 0.3) + self.offset
        return self.third(torch.tanh(self.second(h)))


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, width + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0])


class UNet(nn.Module):
    """Group norms, SiLU, down, up and a skip that is laid beside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.middle = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 2, stride=2), nn.Conv2d(6, 4, 1)
        self.norms = nn.ModuleList([nn.GroupNorm(2, 4, EPS), nn.GroupNorm(2, 6, EPS), nn.GroupNorm(2, 8, EPS)])
        self.out = nn.Conv2d(8, 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norms[0](self.stem(x)))
        y = F.silu(self.norms[1](self.down(x)))
        y = F.interpolate(self.middle(y), scale_factor=2.0, mode="nearest")
        return self.out(F.silu(self.norms[2](torch.cat([x, y], 1))))


class LoRA(nn.Module):
    """A weight with a low-rank one beside it, all of them free."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.a, self.b, self.out = nn.Linear(5, 4), nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(4, 2)), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(F.linear(x, self.base.weight + 0.5 * self.b @ self.a, self.base.bias)))


class Graph(nn.Module):
    """A graph convolution, then attention over edges."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
        self.source, self.target, self.bias = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(6))
        self.head = nn.Linear(6, 7)
        self.register_buffer("adjacency", torch.rand(5, 5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.adjacency @ self.first(x))
        z = self.second(h).unflatten(-1, (2, 3))
        scores = torch.tanh((z * self.source).sum(-1)[:, :, None] + (z * self.target).sum(-1)[:, None])
        out = torch.einsum("bijh,bjhd->bihd", scores.softmax(2), z).flatten(2) + self.bias
        return self.head(torch.tanh(out))


class Dense(nn.Module):
    """Layers that read all before them, through batch norms with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n0, self.c0 = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, EPS), nn.Conv2d(3, 2, 3, padding=1, bias=False)
        self.n1, self.c1, self.n2, self.head = nn.BatchNorm2d(5, EPS), nn.Conv2d(5, 4, 1, bias=False), nn.BatchNorm2d(4, EPS), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.c0(torch.tanh(self.n0(x)))], 1)
        x = self.c1(torch.tanh(self.n1(x)))
        return self.head(torch.tanh(self.n2(x)).mean((2, 3)))


class ResNet(nn.Module):
    """A block with tanh, batch norms with running statistics, and a shortcut with a norm of its own."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.act = nn.Tanh() if act is None else act
        self.stem, self.n0 = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3, EPS)
        self.a, self.n1 = nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2, EPS)
        self.b, self.n2 = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, EPS)
        self.short, self.n3, self.head = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, EPS), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.n0(self.stem(x)))
        x = self.act(self.n2(self.b(self.act(self.n1(self.a(x))))) + self.n3(self.short(x)))
        return self.head(x.mean((2, 3)))


class EfficientNet(nn.Module):
    """An inverted bottleneck with SiLU and squeeze and excitation, batch norms with running statistics, a stream."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.act = nn.SiLU() if act is None else act
        self.stem, self.n0 = nn.Conv2d(4, 3, 1, bias=False), nn.BatchNorm2d(3, EPS)
        self.up, self.n1 = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, EPS)
        self.depth, self.n2 = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4, EPS)
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.down, self.n3, self.head = nn.Conv2d(4, 3, 1, bias=False), nn.BatchNorm2d(3, EPS), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.n0(self.stem(x))
        y = self.act(self.n2(self.depth(self.act(self.n1(self.up(x))))))
        y = y * torch.sigmoid(self.excite(self.act(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head(torch.tanh(x + self.n3(self.down(y))).mean((2, 3)))


def lstm() -> nn.Module:
    return Recurrent(nn.LSTM(4, 3, batch_first=True), 3)


def projected_lstm() -> nn.Module:
    return Recurrent(nn.LSTM(4, 3, proj_size=2, batch_first=True), 2)


def bidirectional_gru() -> nn.Module:
    return Recurrent(nn.GRU(4, 2, batch_first=True, bidirectional=True), 4)


def weight_norm() -> nn.Module:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3), dim=2)
    return nn.Sequential(layer, nn.GELU(), nn.Conv1d(4, 5, 1))


def without_gain() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4, affine=False), nn.GELU(), nn.Conv1d(4, 5, 1)).eval()


def normalised_behind() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.Tanh(), nn.BatchNorm1d(4, EPS, affine=False), nn.Conv1d(4, 5, 1), nn.GELU())


def spectral_norm() -> nn.Module:
    norm = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(norm(nn.Conv2d(2, 4, 2)), nn.GELU(), nn.Flatten(), norm(nn.Linear(16, 3)), nn.Tanh(), nn.Linear(3, 4))


class OneMore(nn.Module):
    """A root mean square norm with a gain that one is added to (Gemma)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gain, self.head = nn.Linear(5, 4), nn.Parameter(torch.randn(4)), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * (1 + self.gain)
        return torch.tanh(self.head(x))


def vgg() -> nn.Module:
    """Convolutions, ReLU, pooling by the largest, a perceptron with dropout that is off."""
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 6))  # fmt: skip


class HashGrid(nn.Module):
    """Two tables that corners of a grid are hashed into, interpolated by shares that sum to one."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(5, 2) for _ in range(2))
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))

    def read(self, table: nn.Module, x: Tensor) -> Tensor:
        low = (9 * x.sigmoid()).floor()
        rest, low = 9 * x.sigmoid() - low, low.long()
        out = torch.zeros(1)
        for i in (0, 1):
            for j in (0, 1):
                share = (rest[:, 0] if i else 1 - rest[:, 0]) * (rest[:, 1] if j else 1 - rest[:, 1])
                out = out + share[:, None] * table(((low[:, 0] + i) ^ (low[:, 1] + j) * 2654435761) % 5)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.cat([self.read(table, size * x) for table, size in zip(self.tables, (2.9, 3.9), strict=True)], -1))


class TriPlane(nn.Module):
    """Features at three planes' places, summed: a sampled plane is linear in what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.planes = nn.Parameter(torch.randn(3, 2, 3, 3))
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        places = torch.stack([x[..., [0, 1]], x[..., [0, 2]], x[..., [1, 2]]])
        found: Tensor = F.grid_sample(self.planes, places[:, None], align_corners=True).sum(0)[:, 0].T
        return self.net(found)
