"""Small attention networks with the orders of their groups derived in the comments."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.cases import case, lam


class Attention(nn.Module):
    """One attention layer behind a hidden layer of `width` units.

    Args:
        width: of the queries, all heads together.
        heads: query heads.
        shared: key-value heads.
        position: None, `"rotary"`, `"alibi"` or `"causal"`.
    """

    def __init__(self, width: int = 8, heads: int = 2, shared: int = 2, position: str | None = None) -> None:
        super().__init__()
        self.heads, self.shared, self.dim, self.position = heads, shared, width // heads, position
        self.i, self.o = nn.Linear(5, width), nn.Linear(width, 3)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, shared * self.dim), nn.Linear(width, shared * self.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.heads, self.dim).transpose(1, 2)
        k, v = (layer(x).view(b, t, self.shared, self.dim).transpose(1, 2) for layer in (self.k, self.v))
        if self.shared != self.heads:
            shape = (b, self.shared, self.heads // self.shared, t, self.dim)
            k, v = (value[:, :, None].expand(shape).reshape(b, self.heads, t, self.dim) for value in (k, v))
        if self.position == "rotary":
            q, k = self._rotate(q), self._rotate(k)
        mask = None
        if self.position == "causal":
            mask = torch.full((t, t), -1e9).triu(1)
        elif self.position == "alibi":
            slopes = 2.0 ** -torch.arange(1, self.heads + 1)
            mask = slopes[:, None, None] * (torch.arange(t)[None, :] - torch.arange(t)[:, None])
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o(y.transpose(1, 2).reshape(b, t, -1))

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        angle = torch.arange(x.shape[-2])[:, None] * (0.3 ** torch.arange(self.dim // 2)).repeat(2)
        a, b = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()


HIDDEN = lam(8)
# Two heads of four dimensions: heads, then query-key and value-output dimensions of each head.
TWO_HEADS = lam(2) + 2 * lam(4) + 2 * lam(4)


@case("two-head attention", HIDDEN + TWO_HEADS, (3, 7, 5))
def attention() -> nn.Module:
    return Attention()


@case("causal attention", HIDDEN + TWO_HEADS, (3, 7, 5))  # a mask that is the same for all heads pins none of them
def causal() -> nn.Module:
    return Attention(position="causal")


@case("alibi attention", HIDDEN + 4 * lam(4), (3, 7, 5))  # fixed slopes tell the heads apart
def alibi() -> nn.Module:
    return Attention(position="alibi")


@case("rotary attention", HIDDEN + lam(2) + 2 * lam(4), (3, 7, 5))  # query-key dimensions are fixed, value-output dimensions are free
def rotary() -> nn.Module:
    return Attention(position="rotary")


# Two key-value heads, each with two query heads; dimensions per key-value head.
@case("grouped-query attention", lam(16) + lam(2) + 2 * lam(2) + 4 * lam(4), (3, 7, 5))
def grouped_query() -> nn.Module:
    return Attention(16, 4, 2)


@case("grouped-query attention, whole", lam(16) + lam(2) + 2 * lam(2) + 4 * lam(4), (3, 7, 5))  # the same as one operation
class GroupedWhole(Attention):
    def __init__(self) -> None:
        super().__init__(16, 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.heads, self.dim).transpose(1, 2)
        k, v = (layer(x).view(b, t, self.shared, self.dim).transpose(1, 2) for layer in (self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).reshape(b, t, -1))


class Packed(nn.Module):
    """Queries, keys and values from one weight, unpacked as (3, heads, dimensions)."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.qkv, self.o = nn.Linear(5, 8), nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return self.o(self.attend(q, k, v).reshape(b, t, 8))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


@case("packed attention", HIDDEN + TWO_HEADS, (3, 7, 5))
def packed() -> nn.Module:
    return Packed()


# The mixing matrices separate the heads of the scores from those of the weights and of the values: three spaces of heads where there
# was one. The dimensions of queries and keys depend on the first, those of values on the last.
@case("talking heads", HIDDEN + 3 * lam(2) + 4 * lam(4), (3, 7, 5))
class Talking(Packed):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(2, 2), nn.Linear(2, 2)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = (q @ k.transpose(-1, -2)).permute(0, 2, 3, 1)
        weights = self.before(scores).softmax(-2).permute(0, 3, 1, 2)
        return (self.after(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ v).transpose(1, 2)


# Attention between channels: the scores hold the dimensions of queries and of keys apart. Those of keys are those of values; those of
# queries are those of the output.
@case("xcit", HIDDEN + lam(2) + 4 * lam(4), (3, 7, 5))
class XCiT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.qkv, self.o = nn.Linear(5, 8), nn.Linear(8, 24), nn.Linear(8, 3)
        self.temperature = nn.Parameter(torch.ones(2, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 2, 4).permute(2, 0, 3, 4, 1)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2) * self.temperature
        return self.o((scores.softmax(-1) @ v).permute(0, 3, 1, 2).reshape(b, t, 8))


class CrossAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(3, 8), nn.Linear(4, 8), nn.Linear(8, 3)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = self.a(x), self.b(y)
        return self.o(self.attend(x, y, y, need_weights=False)[0])


# The packed weight is cut into queries and keys-values, whose inputs are two spaces; the attention's output is a third.
@case("cross attention", 3 * lam(8) + TWO_HEADS, (3, 7, 3), (3, 6, 4))
def cross() -> nn.Module:
    return CrossAttention()


# Residual streams of widths 16 are inputs and outputs: fixed. Per layer: feed-forward units, heads, dimensions.
@case("transformer encoder", 2 * (lam(20) + lam(2) + 4 * lam(8)), (3, 7, 16))
def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 20, batch_first=True), 2)


# Two attentions per layer; the second one's packed weight reads two streams.
@case("transformer decoder", 2 * (lam(20) + 2 * (lam(2) + 4 * lam(8))), (3, 7, 16), (3, 5, 16))
def decoder() -> nn.Module:
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 20, batch_first=True), 2)


# One table of biases per head for both layers: the heads of all layers are one space, their dimensions are per layer.
@case("t5 relative bias", lam(8) + lam(2) + 2 * 4 * lam(4), (3, 6, 5))
class T5(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.o, self.table = nn.Linear(5, 8), nn.Linear(8, 3), nn.Embedding(11, 2)
        self.layers = nn.ModuleList(nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in "qkvo") for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        b, t, _ = x.shape
        distance = torch.arange(t)[None, :] - torch.arange(t)[:, None] + 5
        bias = self.table(distance).permute(2, 0, 1)
        for q, k, v, o in self.layers:
            heads = [layer(x).view(b, t, 2, 4).transpose(1, 2) for layer in (q, k, v)]
            weights = (heads[0] @ heads[1].transpose(-1, -2) + bias).softmax(-1)
            x = x + o((weights @ heads[2]).transpose(1, 2).reshape(b, t, 8))
        return self.o(x)


class Shifted(Attention):
    """Attention with relative positions whose scores are shifted into place by padding and viewing (Transformer-XL)."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.p = nn.Linear(6, 8)
        self.bias = nn.Parameter(torch.randn(2, 1, 4))
        angle = torch.arange(length - 1, -length, -1)[:, None] * 0.3 ** torch.arange(3)
        self.register_buffer("table", torch.cat([angle.sin(), angle.cos()], 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        b, t, _ = x.shape
        q, k, v = (layer(x).view(b, t, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        places = self.p(self.table).view(-1, 2, 4).permute(1, 2, 0)
        shifted = F.pad((q + self.bias) @ places, (1, 0)).view(b, 2, -1, t)[:, :, 1:].reshape(b, 2, t, -1)[..., :t]
        y = (q @ k.transpose(-1, -2) + shifted).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


# The table is a buffer that moves with nothing: its six columns may be permuted against those of the layer that reads it.
@case("relative positions by shifting", HIDDEN + TWO_HEADS + lam(6), (3, 5, 5))
def shifted() -> nn.Module:
    return Shifted(5)


@case("relative positions by shifting, long", HIDDEN + TWO_HEADS + lam(6), (3, 24, 5))
def shifted_long() -> nn.Module:
    return Shifted(24)


class ShiftedByConcatenation(Shifted):
    """The same with a fixed table, and zeros laid beside the scores."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.register_buffer("table", self.table, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        b, t, _ = x.shape
        q, k, v = (layer(x).view(b, t, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        scores = (q + self.bias) @ self.p(self.table).view(-1, 2, 4).permute(1, 2, 0)
        padded = torch.cat([torch.zeros(b, 2, t, 1), scores], -1)
        shifted = padded.view(b, 2, -1, t)[:, :, 1:].reshape(b, 2, t, -1)[..., :t]
        y = (q @ k.transpose(-1, -2) + shifted).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


# The fixed table tells its columns apart.
@case("relative positions by shifting, fixed table", HIDDEN + TWO_HEADS, (3, 5, 5))
def shifted_fixed() -> nn.Module:
    return ShiftedByConcatenation(5)


@case("relative positions by shifting, fixed table, longer", HIDDEN + TWO_HEADS, (3, 13, 5))
def shifted_fixed_long() -> nn.Module:
    return ShiftedByConcatenation(13)
