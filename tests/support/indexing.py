"""Small networks that choose elements by index tensors, cut windows, or read at computed places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.cases import case, lam
from tests.support.values import EXPERTS, Experts


class Between(nn.Module):
    """A linear layer to 6 units, a function of them (and of further inputs and tables), and a linear layer behind it."""

    def __init__(self, function: Callable[..., torch.Tensor], *tables: tuple[int, ...], out: int = 6, hidden: int = 6) -> None:
        super().__init__()
        self.function, self.i, self.o = function, nn.Linear(4, hidden), nn.Linear(out, 2)
        self.tables = nn.ParameterList([nn.Parameter(torch.randn(*shape)) for shape in tables])

    def forward(self, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return self.o(torch.tanh(self.function(torch.tanh(self.i(x)), *others, *self.tables)))


def between(name: str, order: float, function: Callable[..., torch.Tensor], *shapes: Any, tables: Any = (), out: int = 6, hidden: int = 6) -> None:
    case(name, order, *shapes)(lambda: Between(function, *tables, out=out, hidden=hidden))


def wide(index: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return index[:, None].expand(-1, like.shape[1])


def messages(h: torch.Tensor, edges: torch.Tensor, reduce: str) -> torch.Tensor:
    sent = h[edges[0]]
    if reduce == "sum":
        return torch.zeros_like(h).scatter_add(0, wide(edges[1], sent), sent)
    return h.scatter_reduce(0, wide(edges[1], sent), sent, reduce)


def steps(h: torch.Tensor) -> torch.Tensor:
    state, out = torch.zeros_like(h[:, 0]), torch.zeros_like(h)
    for step in range(h.shape[1]):
        state = torch.tanh(state + h[:, step])
        out[:, step] = state
    return out


def under_mask(h: torch.Tensor, mask: torch.Tensor, values: torch.Tensor | float) -> torch.Tensor:
    h = h.clone()
    h[mask] = values
    return h


def kept_rows(h: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    rows = h[mask]
    torch._check(rows.shape[0] == h.shape[0])
    return rows


def put_back(h: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return under_mask(h, mask, kept_rows(h, mask).sin())


# Nodes and edges of a graph are inputs; the units of the message are the units of the nodes.
for _reduce in ("sum", "amax", "mean"):
    between(f"messages by {_reduce}", lam(6), lambda h, e, r=_reduce: messages(h, e, r), (7, 4), (7, (2, 11)))
between("messages by index_add", lam(6), lambda h, e: h.index_add(0, e[1], h[e[0]].sin()), (7, 4), (7, (2, 11)))
between("gathered positions", lam(6), lambda h, p: h.gather(1, p[..., None].expand(-1, -1, 6)), (3, 7, 4), (7, (3, 2)))
between("rows at two indices", lam(6), lambda h, p: h[torch.arange(3), p], (3, 7, 4), (7, (3,)))
# Under a mask: elements may be chosen one by one; chosen rows keep their order, and their units are those of the hidden layer.
between("assignment under a mask", lam(6), lambda h: under_mask(h, h > 0.1, 0.5), (7, 4))
between("rows assigned under a mask", lam(6), lambda h, p, t: under_mask(h, p == 0, t), (7, 4), (2, (7,)), tables=[(6,)])
between("rows kept by a mask", lam(6), lambda h, p: kept_rows(h, p < 2), (7, 4), (2, (7,)))
between("rows kept by a mask, put back", lam(6), lambda h, p: put_back(h, p < 2), (7, 4), (2, (7,)))
# Entries of a table at computed places: its rows and columns are fixed, its depth is the width of the hidden layer.
between("table at two indices", lam(6), lambda h, i, j, t: h + t[i, j], (3, 4), (5, (3,)), (7, (3,)), tables=[(5, 7, 6)])
# Three summed entries for each unit; that they may also move for each row and column is missed: gathering drops what depends on them.
between("table at two indices, apart", lam(6) + 6 * lam(3), lambda h, i, j, t: h + t[i, :, j].sum(1), (3, 4), (5, (3,)), (7, (3,)),
        tables=[(5, 3, 7, 6)])  # fmt: skip
between("units of a mask", lam(4) + lam(2), lambda h: h[:, torch.tensor([True, False, True, True, False, True])] * h[:, [1, 4]].sum(-1, True),
        (5, 4), out=4)  # fmt: skip
between("written step by step", lam(6), lambda h: steps(h), (3, 7, 4))
between("assigned rows", lam(6), lambda h, t: h.index_put((torch.tensor([3, 0]),), t), (5, 4), tables=[(2, 6)])
# Sorting and gathering by the sorted order: ranks are in order. Units of the stream move.
between("gathered by rank", lam(6), lambda h: h.gather(1, h.sum(-1).argsort(1)[..., None].expand(-1, -1, 6)), (3, 7, 4))
between("median over units", lam(6), lambda h: h + h.median(-1).values[:, None], (5, 4))
between("third of the units", lam(6), lambda h: h + h.kthvalue(3).values[:, None], (5, 4))
between("third of the positions", lam(6), lambda h: h + h.kthvalue(3, 1, True).values, (3, 7, 4))
between("cumulative maximum", 0.0, lambda h: h.cummax(-1).values, (5, 4))  # units are in order

# Boundaries that are sorted first are no particular ones.
between("bucketize", lam(6) + lam(3), lambda h, t: h + torch.bucketize(h, t.sort().values), (5, 4), tables=[(3,)])
between("fourier transform of positions", lam(6), lambda h: torch.fft.fft(h, dim=1).real + h, (3, 7, 4))
between("half fourier transform of positions", lam(6), lambda h: torch.fft.rfft(h, dim=1).abs(), (3, 7, 4))
between("fourier transform of units", 0.0, lambda h: torch.fft.fftn(h).real + h, (3, 7, 4))
# Pairs of units are complex numbers: pairs move, the two of a pair differ.
between("complex pairs", lam(3), lambda h: torch.view_as_complex(h.view(-1, 3, 2)).abs(), (5, 4), out=3)
between("complex pairs and back", lam(3), lambda h: torch.view_as_real(torch.view_as_complex(h.view(-1, 3, 2)) ** 2).flatten(1), (5, 4))
between("windows of positions", lam(6), lambda h: h.unfold(1, 3, 2).amax(-1), (3, 7, 4))
between("windows side by side", lam(6), lambda h: h.unfold(1, 2, 2).amax(-1), (3, 8, 4))
# 6 units as 3 windows of 2: windows move, and the two units of each.
between("windows of units", lam(3) + 3 * lam(2), lambda h: h.unfold(1, 2, 2).prod(-1), (5, 4), out=3)
between("a number read off a unit", lam(5), lambda h: h + h[0, 3].item() ** 2, (5, 4))  # the unit is fixed
between("a number read off all units", lam(6), lambda h: h + torch.full_like(h, h.amax().item() * 2), (5, 4))
between("an empty slice", lam(6), lambda h: torch.cat([h[:, 6:], h], -1), (5, 4))
between("lower triangle", lam(6), lambda h: (h @ h.transpose(1, 2)).tril() @ h, (3, 7, 4))
between("distances", lam(6) + lam(5), lambda h, t: torch.cdist(h, t), (7, 4), tables=[(5, 6)], out=5)
between("outer product", lam(6), lambda h: torch.outer(h.sum(0), h.mean(0)).tanh().sum(0)[None], (7, 4))
between("einsum over any batch", lam(6) + lam(5), lambda h, t: torch.einsum("...i,...i,ij->...j", h, h.sin(), t), (3, 7, 4),
        tables=[(6, 5)], out=5)  # fmt: skip
# Cross products of pairs of triples: the two triples move, coordinates are in order.
between("cross product", lam(2), lambda h: torch.linalg.cross(h.view(-1, 2, 3), h.view(-1, 2, 3).sin()).flatten(1), (5, 4))
between("cross product along the first axis of three", lam(6), lambda h: torch.cross(h, h.sin().flip(1)), (3, 7, 4))


class Images(nn.Module):
    """A pointwise convolution to 6 channels, a function, and a linear layer."""

    def __init__(self, function: Callable[..., torch.Tensor], out: int, *tables: tuple[int, ...]) -> None:
        super().__init__()
        self.function, self.i, self.o = function, nn.Conv2d(3, 6, 1), nn.Linear(out, 2)
        self.tables = nn.ParameterList([nn.Parameter(torch.randn(*shape)) for shape in tables])

    def forward(self, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return self.o(torch.tanh(self.function(torch.tanh(self.i(x)), *others, *self.tables)))


def images(name: str, order: float, function: Callable[..., torch.Tensor], out: int, *shapes: Any, tables: Any = ()) -> None:
    case(name, order, (2, 3, 4, 4), *shapes)(lambda: Images(function, out, *tables))


images("patches", lam(6), lambda h: F.unfold(h, 2, stride=2).transpose(1, 2), 24)
images("patches and back", lam(6), lambda h: F.fold(F.unfold(h, 3, padding=1).tanh(), (4, 4), 3, padding=1).flatten(2).transpose(1, 2), 6)
images("pixel unshuffle", lam(6), lambda h: F.pixel_unshuffle(h, 2).flatten(2).transpose(1, 2), 24)
images("image at places", lam(6), lambda h, g: F.grid_sample(h, g, align_corners=True).flatten(2).transpose(1, 2), 6, (2, 3, 5, 2))
images("plane at places", lam(6), lambda h, g, t: (h.mean((2, 3))[:, :, None, None] + F.grid_sample(t.expand(2, -1, -1, -1), g)).flatten(2).mT,
       6, (2, 3, 5, 2), tables=[(1, 6, 7, 7)])  # fmt: skip
images("interpolated", lam(6), lambda h: F.interpolate(h, scale_factor=2, mode="bilinear").flatten(2).mT, 6)
images("mean of all positions", lam(6), lambda h: F.avg_pool2d(h, 4).flatten(1), 6)


@case("cell of a gru", lam(7), (3, 9, 5))
class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.o = nn.GRUCell(5, 7), nn.Linear(7, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(3, 7)
        for step in range(3):
            h = self.cell(x[:, step], h)
        return self.o(h)


@case("cell of an lstm", lam(7), (3, 9, 5))
class LongCells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.o = nn.LSTMCell(5, 7), nn.Linear(7, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = x.new_zeros(3, 7), x.new_zeros(3, 7)
        for step in range(3):
            h, c = self.cell(x[:, step], (h, c))
        return self.o(h)


@case("gated convolution", lam(6), (2, 4, 7))  # two halves of a packed weight with a bias
def gated_convolution() -> nn.Module:
    return nn.Sequential(nn.Conv1d(4, 12, 3), nn.GLU(1), nn.Conv1d(6, 2, 1))


@case("top-k mixture by scattering", EXPERTS, (7, 5))  # shares assigned to the chosen experts, zero elsewhere
class Scattered(Experts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        scores = self.router(x).softmax(-1)
        share, chosen = scores.topk(2, -1)
        gate = torch.zeros_like(scores).scatter(1, chosen, share)
        inner = torch.relu(torch.einsum("bi,eij->bej", x, self.up))
        return torch.einsum("be,beo->bo", gate, torch.einsum("bei,eio->beo", inner, self.down))


@case("top-k mixture by masking", EXPERTS, (7, 5))  # all scores but the chosen ones are masked
class Masked(Experts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        scores = self.router(x)
        mask = torch.zeros_like(scores).scatter(1, scores.topk(2, -1).indices, 1.0)
        gate = (scores * mask).exp()
        inner = torch.relu(torch.einsum("bi,eij->bej", x, self.up))
        return torch.einsum("be,beo->bo", gate, torch.einsum("bei,eio->beo", inner, self.down))


class Chosen(nn.Module):
    """Rows of a table chosen by a function of six units."""

    def __init__(self, function: Callable[..., torch.Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function, self.i = function, nn.Linear(4, 6)
        self.tables = nn.ParameterList([nn.Parameter(torch.randn(*shape)) for shape in ((6, 3), *shapes)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table, *others = self.tables
        return table[self.function(self.i(x), *others)]


# Of equal elements the first is chosen, and functions with flat pieces make elements equal.
TIED: dict[str, Callable[..., torch.Tensor]] = {
    "the least of cut off": lambda h: h.relu().argmin(-1),
    "the largest of signs": lambda h: h.sign().argmax(-1),
    "the largest of rounded": lambda h: h.round().argmax(-1),
    "the first that is positive": lambda h: (h > 0).to(h.dtype).argmax(-1),
    "the least of shares of cut off": lambda h: (h.clamp(-0.1, 0.1) * 2 + 1).softmax(-1).argmin(-1),
    "the least of normalised": lambda h: F.layer_norm(h.relu(), [6]).argmin(-1),
    "the least above a mean": lambda h: torch.maximum(h, h.mean(-1, keepdim=True)).argmin(-1),
    "the least of masked by sign": lambda h: torch.where(h > 0, h, 0.0).argmin(-1),
    "the least of gated": lambda h: (h * (h > 0)).argmin(-1),
    "the least of what is left": lambda h: (h - h.relu()).argmax(-1),
    "the least of counts": lambda h: (h > 0).sum(0, keepdim=True).argmin(-1),
    "the least of angles": lambda h: h.angle().argmin(-1),
    "the unit next to another": lambda h: ((h[:, :, None] - h[:, None]).abs() + 9 * torch.eye(6)).amin(-1).argmin(-1),
    "two of cut off": lambda h: h.relu().topk(2, -1, largest=False).indices[:, 1],
    "order of cut off": lambda h: h.relu().argsort(-1)[:, 2],
    "the largest of a gate that closes": lambda h: (h * h.mean(-1, keepdim=True).relu()).argmax(-1),
}
for _name, _tied in TIED.items():
    case(_name, 0.0, (50, 4))(lambda f=_tied: Chosen(f))
# A choice of whole rows leaves zeros in the others; of what is not chosen there, the elements can be exchanged.
ROWS: dict[str, Callable[..., torch.Tensor]] = {
    "rows kept": lambda h, chosen: torch.where(chosen == 0, h, 0.0),
    "rows masked": lambda h, chosen: h.masked_fill(chosen != 0, 0.0),
    "rows kept, broadcast": lambda h, chosen: torch.where((chosen == 0).expand_as(h), h, torch.zeros_like(h)),
    "rows multiplied": lambda h, chosen: (chosen == 0) * h,
    "rows added": lambda h, chosen: torch.where(chosen == 0, h, 0.0) + torch.where(chosen == 4, h.exp(), 0.0),
}
for _name, _rows in ROWS.items():
    _number = 3 if "added" in _name else 4
    case(f"the largest of {_name}", lam(_number), (90, 4))(
        lambda f=_rows: Chosen(lambda h, router: f(h, (h @ router).argmax(-1, keepdim=True)).argmax(-1), (6, 5)))
# Elsewhere they are equal by chance only.
case("the largest", lam(6), (50, 4))(lambda: Chosen(lambda h: h.argmax(-1)))
case("the least of shares", lam(6), (50, 4))(lambda: Chosen(lambda h: (h.tanh() / 3).softmax(-1).argmin(-1)))
case("the least of cut off and moved", lam(6), (50, 4))(lambda: Chosen(lambda h, b: (h.relu() + b).argmin(-1), (6,)))
case("the least behind weights", 2 * lam(6), (50, 4))(lambda: Chosen(lambda h, p: (h.tanh() @ p).argmin(-1), (6, 6)))
case("the least behind weights of cut off", lam(6), (50, 4))(lambda: Chosen(lambda h, p: (h.relu() @ p).argmin(-1), (6, 6)))  # all may be zero
case("the least behind weights and a bias", 2 * lam(6), (50, 4))(lambda: Chosen(lambda h, p, b: (h.relu() @ p + b).argmin(-1), (6, 6), (6,)))
case("the least of the larger of two", lam(6), (50, 4))(lambda: Chosen(lambda h, p: torch.maximum(h, p).argmin(-1), (6,)))
# The least of copies is always the first: the units move.
case("the least of copies", lam(6), (50, 4))(lambda: Chosen(lambda h: h.mean(-1, keepdim=True).expand(-1, 6).argmin(-1)))
