"""Small networks that cut, join and mix axes: the cases that permutation typing must not get wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.cases import case, lam


class Viewed(nn.Module):
    """A hidden layer of 6 seen as (2, 3), a function of it, and a linear layer over all 6 (or what the function leaves)."""

    def __init__(self, function: Callable[..., torch.Tensor], *shapes: tuple[int, ...], out: int = 6) -> None:
        super().__init__()
        self.function, self.i, self.o = function, nn.Linear(4, 6), nn.Linear(out, 2)
        self.tables = nn.ParameterList([nn.Parameter(torch.randn(*shape)) for shape in shapes])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.function(self.i(x).view(-1, 2, 3), *self.tables)
        return self.o(torch.tanh(y).flatten(1))


BOTH = lam(2) + lam(3)  # rows and columns of (2, 3), each as one
ROWS = lam(2) + 2 * lam(3)  # rows, and columns for each row: S_3 ≀ S_2
COLUMNS = lam(3) + 3 * lam(2)  # columns, and rows for each column: S_2 ≀ S_3

VIEWS: list[tuple[str, float, Callable[..., torch.Tensor], tuple[tuple[int, ...], ...], int]] = [
    ("view and a table of its shape", lam(6), lambda y, p: y + p, ((2, 3),), 6),
    ("view and a table of its columns", COLUMNS, lambda y, p: y + p, ((3,),), 6),
    ("view and a table of its rows", ROWS, lambda y, p: y * p[:, None], ((2,),), 6),
    ("softmax over columns", ROWS, lambda y: 5 * y.softmax(-1), (), 6),
    ("softmax over rows", COLUMNS, lambda y: 5 * y.softmax(1), (), 6),
    ("softmax over all", lam(6), lambda y: 5 * y.flatten(1).softmax(-1), (), 6),
    ("norm over columns", ROWS, lambda y: F.normalize(y, dim=-1), (), 6),
    ("layer norm over columns", ROWS, lambda y: F.layer_norm(y, [3]), (), 6),
    ("layer norm over columns with a gain", BOTH, lambda y, p: F.layer_norm(y, [3], p), ((3,),), 6),
    ("layer norm over both", lam(6), lambda y: F.layer_norm(y, [2, 3]), (), 6),
    ("sum over columns", ROWS, lambda y: (y * y).sum(-1), (), 2),
    ("sum over rows", COLUMNS, lambda y: (y * y).sum(1), (), 3),
    ("maximum over rows", COLUMNS, lambda y: y.amax(1), (), 3),
    ("cumulative sum over columns", lam(2), lambda y: y.cumsum(-1), (), 6),  # in order, and rows permuted as wholes
    ("cumulative sum over rows", lam(3), lambda y: y.cumsum(1), (), 6),
    ("sort along columns", ROWS, lambda y: y.sort(-1).values, (), 6),
    ("roll alone", ROWS, lambda y: y.roll(1, -1), (), 6),  # no dependency on the axis is kept across it (lam(6) if it were)
    ("flip alone", ROWS, lambda y: y.flip(-1), (), 6),
    # Parameters alone have four modes for each unit, or for each row, beside which its columns pass.
    ("modes of each unit", lam(6) + 6 * lam(4), lambda y, p, q: y * torch.einsum("hdn,hdn->hd", p.sin(), q), ((2, 3, 4), (2, 3, 4)), 6),
    ("modes of each row, beside columns", ROWS + 2 * lam(4), lambda y, p: torch.einsum("bhd,hn->bhdn", y.tanh(), p).sin().sum((1, 2, 3))[:, None],
     ((2, 4),), 1),
    ("flip of row sums", ROWS, lambda y: y.sum(-1).tanh().flip(-1), (), 2),
    ("roll of columns added", lam(2), lambda y: y + 2 * y.roll(1, -1), (), 6),  # order 2 · 3² as a group of cyclic shifts is not annotated
    ("roll of rows added", lam(3), lambda y: y + 2 * y.roll(1, 1), (), 6),  # nor is the exchange of two rows that is such a shift
    ("pooling along columns", lam(2), lambda y: F.avg_pool1d(y, 3, 1, 1), (), 6),
    ("attention between rows", BOTH, lambda y: (y @ y.transpose(1, 2)).softmax(-1) @ y, (), 6),
    ("attention between columns", BOTH, lambda y: (y @ (y.transpose(1, 2) @ y).softmax(-1)), (), 6),
    ("transposed and viewed", ROWS, lambda y, p: y.transpose(1, 2).reshape(-1, 3, 2) + p, ((2,),), 6),
    ("columns laid end to end", ROWS, lambda y, p: torch.cat(y.split(1, 2), 1).view(-1, 3, 2) + p, ((2,),), 6),
    ("pairs laid end to end", ROWS, lambda y, p: torch.cat(y.reshape(-1, 1, 6).split(2, 2), 1) + p, ((2,),), 6),
    ("rows against columns", 0.0, lambda y, p: y.transpose(1, 2).reshape(-1, 2, 3) + y + p, ((3,),), 6),
    # Blocks of 3 against blocks of 2: 0, 1 and 4, 5 are exchanged. The reversal of all six, which exchanges equal cells, is missed.
    ("blocks that do not meet", 2 * lam(2), lambda y: y.softmax(-1).reshape(-1, 3, 2).softmax(-1), (), 6),
    # Two columns are exchanged, the third is not; whatever column, rows are exchanged in it.
    ("columns apart, and rows for each", lam(2) + 3 * lam(2), lambda y: _columns_apart(5 * y.softmax(1)), (), 6),
    ("rows repeated", COLUMNS + 3 * lam(2), lambda y, p: (y.sum(1)[:, None].expand(-1, 2, 3) + p), ((2, 3),), 6),
]


def _columns_apart(y: torch.Tensor) -> torch.Tensor:
    return torch.cat([y.flatten(1)[:, [0, 1, 3, 4]].tanh(), y[..., 2].sin()], 1)


def _view(function: Callable[..., torch.Tensor], shapes: tuple[tuple[int, ...], ...], out: int) -> Callable[[], nn.Module]:
    return lambda: Viewed(function, *shapes, out=out)


for _name, _order, _function, _shapes, _out in VIEWS:
    case(_name, _order, (5, 4))(_view(_function, _shapes, _out))


# Pairs over which a softmax is taken, each at a place in 2 rows and 3 columns; those of the last column are read by themselves. Places move
# among both kinds, and within each pair two units do, as nothing is shared by pairs.
@case("thirds apart, and an outer axis for each pair", lam(4) + lam(2) + 6 * lam(2), (5, 4))
class Thirds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(4, 12), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = 5 * self.i(x).view(-1, 2, 2, 3).softmax(1)
        first = y.flatten(1)[:, [0, 1, 3, 4, 6, 7, 9, 10]]
        return self.o(torch.cat([first.tanh(), y[..., 2].flatten(1).sin()], 1))


class Table(nn.Module):
    """A function of an input and a few free tables."""

    def __init__(self, function: Callable[..., torch.Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.tables = nn.ParameterList([nn.Parameter(torch.randn(*shape)) for shape in shapes])

    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        return self.function(*x, *self.tables)


# The rows of e occur twice in its Gram matrix: columns cannot depend on them.
@case("gram matrix", lam(5) + lam(6), (7, 4))
def gram() -> nn.Module:
    return Table(lambda x, a, e: (x @ a @ torch.tanh(e @ e.T)).sum(-1), (4, 5), (5, 6))


@case("differences of rows", lam(5) + lam(6), (7,))
def differences() -> nn.Module:
    return Table(lambda x, e: (e[:, None] - e[None]).abs().sum(-1).pow(2).sum() * x, (5, 6))


# The mask tells the diagonal of the pairs from the rest, and nothing more.
@case("self-exclusion mask", lam(5) + lam(6), (7,))
def self_exclusion() -> nn.Module:
    return Table(lambda x, e: ((e @ e.T) * (1 - torch.eye(5))).pow(3).sum() * x, (5, 6))


@case("mask of positions", lam(6), (7,))  # a triangular mask fixes the rows on both sides
def triangular() -> nn.Module:
    return Table(lambda x, e, f: ((e @ f.T) * torch.ones(5, 5).tril()).pow(3).sum() * x, (5, 6), (5, 6))


def _chosen(second: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda x, w, v: torch.tanh(x * w[0][1]) @ v + torch.tanh(x * second(w)) @ v


@case("same slice by two paths", lam(5), (7, 1))
def same_slice() -> nn.Module:
    return Table(_chosen(lambda w: w[:, 1][0]), (2, 3, 5), (5, 2))


@case("two slices, one reader", lam(5), (7, 1))
def two_slices() -> nn.Module:
    return Table(_chosen(lambda w: w[1][1]), (2, 3, 5), (5, 2))


@case("two slices, two readers", 2 * lam(5), (7, 1))  # each slice has its own order
def two_readers() -> nn.Module:
    return Table(lambda x, w, v: torch.tanh(x * w[0][1]) @ v[0] + torch.sin(x * w[1, 1]) @ v[1], (2, 3, 5), (2, 5, 2))


@case("overlapping slices", lam(2) + lam(3) + lam(2), (7, 4))  # the first 5 and the last 5 of 7: parts of 2, 3 and 2
def overlapping() -> nn.Module:
    return Table(lambda x, a, v: torch.tanh((x @ a)[:, :5]) @ v + torch.sin((x @ a)[:, 2:].flip(-1)) @ torch.ones(5, 2),
                 (4, 7), (5, 2))


# Rows are outputs, in another order than they are stored in; columns are summed, for each row apart.
@case("reversed outputs", 3 * lam(2), (5, 3))
def reversed_outputs() -> nn.Module:
    return Table(lambda x, p: x * p.sum(1).tanh().flip(0).tanh(), (3, 2))


# Cut to three elements in another order, of which only the first is read: nothing tells the rest from what was not cut.
# The exchange of the two with the single element beside them is missed: single elements are not fused (lam(3) if they were).
@case("parts that nothing tells apart", lam(2), (5,))
def fused() -> nn.Module:
    return Table(lambda x, p: x * (p + p[[3, 0, 2]][0]).tanh().sum(), (4,))


@case("cut and joined again", lam(7), (5, 4))  # in another order, and nothing else is done to the parts
def rejoined() -> nn.Module:
    return Table(lambda x, a, v: torch.cat([torch.tanh(x @ a)[:, 3:], torch.tanh(x @ a)[:, :3]], 1) @ v, (4, 7), (7, 2))


@case("cut, changed and joined again", lam(3) + lam(4), (5, 4))
def changed_between() -> nn.Module:
    return Table(lambda x, a, v: torch.cat([torch.tanh(x @ a)[:, 3:].sin(), torch.tanh(x @ a)[:, :3]], 1) @ v, (4, 7), (7, 2))


# Beside the units stands a constant that differs from unit to unit, but the two are read apart: it says nothing about them.
@case("a constant beside units, read apart", lam(7), (5, 4))
def beside() -> nn.Module:
    def forward(x: torch.Tensor, a: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(x @ a)
        both = torch.cat([h[..., None], torch.arange(7.0).expand(len(x), 7)[..., None]], -1)
        return both[..., 0] @ u + both[..., 1] @ v

    return Table(forward, (4, 7), (7, 2), (7, 2))


def shifted(x: torch.Tensor, width: int, seen: int) -> torch.Tensor:
    """Row i of `(n, width, 2 * seen - 1)` moved to the left by width - 1 - i, its first `seen` columns kept, by padding and views."""
    rows = F.pad(F.pad(x, [0, 1]).flatten(1), [0, x.shape[-1] - width])
    return rows.view(-1, width + 1, x.shape[-1])[:, :width, x.shape[-1] - seen :]


# Distances between positions are fixed, and rows of the table are no nodes: the features that queries share with keys and table are free,
# and those of the values.
def relative_positions(n: int) -> nn.Module:
    def forward(x: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, o: torch.Tensor) -> torch.Tensor:
        scores = x @ q @ (x @ k).transpose(1, 2) + shifted(x @ q @ table.T, n, n)
        return (scores.softmax(-1) @ (x @ v) @ o).flatten(1)

    return Table(forward, (3, 5), (3, 5), (3, 6), (2 * n - 1, 5), (6, 2))


case("relative positions by padding and views", lam(5) + lam(6), (5, 4, 3))(lambda: relative_positions(4))
case("relative positions by padding and views, long", lam(5) + lam(6), (5, 12, 3))(lambda: relative_positions(12))


# The same where positions look further than there are: distances in the middle are seen from all positions, those at one end from none.
@case("relative positions of a wider window", lam(5) + lam(6), (5, 4, 3), (5, 6, 3))
def wider_window() -> nn.Module:
    def forward(*values: torch.Tensor) -> torch.Tensor:
        x, wide, q, k, v, table, o = values
        scores = x @ q @ (wide @ k).transpose(1, 2) + shifted(x @ q @ table.T, 4, 6)
        return (scores.softmax(-1) @ (wide @ v) @ o).flatten(1)

    return Table(forward, (3, 5), (3, 5), (3, 6), (11, 5), (6, 2))


# Operations on bits, element by element.
@case("bits of units", lam(7), (5, 4))
def bits() -> nn.Module:
    def forward(x: torch.Tensor, a: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(x @ a)
        whole = (h * 64).to(torch.int64)
        return (h * ((h > 0) ^ (h > 0.3)) + ((whole << 2) ^ (whole >> 1)) / 64) @ v

    return Table(forward, (4, 7), (7, 2))


# Two numbers that are merely added, to all units alike: exchanging them is left out.
@case("two numbers added to all units", lam(7), (5, 4))
def two_numbers() -> nn.Module:
    return Table(lambda x, a, v, p, q: torch.tanh(x @ a + p + q) @ v, (4, 7), (7, 2), (1,), (1,))


# Only two elements of the table are read in the end, and they are in order: the rest belongs to no group.
@case("two elements of a product", 0.0, (5,))
def two_elements() -> nn.Module:
    return Table(lambda x, p, r: x * (p + r).tanh()[:, :, [2, 1]][:, 0].reshape(6)[[5, 2]].cumsum(0).tanh().sum(), (3, 2, 3), (3,))


# The second half of the joined columns is the second table, whose rows are summed and joined at once. Columns move together everywhere;
# the rows of the first table move for each column apart, those of the second are told apart by their two roles.
@case("a table joined to another and added to both", 3 * lam(2), (5,))
def joined_and_added() -> nn.Module:
    def function(x: torch.Tensor, p: torch.Tensor, q: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([p, q], 1)
        return x * (((q + r).tanh().reshape(2, 4) + joined).tanh() * (joined + 0.3)).tanh().sum()

    return Table(function, (2, 2), (2, 2), (2, 2, 2))


# A table laid beside itself and viewed with blocks that cut through it: its columns are fixed, its rows are contracted.
@case("a table beside itself", lam(3), (5,))
def beside_itself() -> nn.Module:
    return Table(lambda x, p: x * torch.einsum("kb,kby->by", p, torch.cat([p, p], 1).reshape(3, 3, 2)).tanh().sum(), (3, 3))


@case("stacked heads", lam(15), (7, 4))  # units of three heads, read by weights of their own: one layer
class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.o = nn.ModuleList([nn.Linear(4, 5) for _ in range(3)]), nn.Linear(15, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(torch.tanh(torch.cat([head(x) for head in self.heads], -1)))


@case("zero-padding shortcut", 2 * lam(4), (2, 3, 9, 9))  # four channels of 8 carry the shortcut, two zeros on either side are alike
class ZeroPadding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        return self.o(torch.relu(self.b(x) + F.pad(x, (0, 0, 0, 0, 2, 2))).mean((2, 3)))


@case("masked autoregressive", 3 * lam(2), (5, 4))  # units of one degree are alike: {0, 3}, {1, 4}, {2, 5}
class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 4)
        degree = torch.tensor([0, 1, 2, 0, 1, 2])
        self.register_buffer("first", degree[:, None] >= torch.arange(4)[None], persistent=False)
        self.register_buffer("second", (torch.arange(4)[:, None] > degree[None]).float(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(F.linear(x, self.a.weight * self.first, self.a.bias))
        return F.linear(hidden, self.b.weight * self.second, self.b.bias)


class JoinedNorm(nn.Module):
    def __init__(self, a: int, b: int, groups: int) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.o = nn.Conv2d(3, a, 3), nn.Conv2d(3, b, 3), nn.GroupNorm(groups, a + b), nn.Conv2d(a + b, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(torch.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1))))


# 24 channels in 4 groups of 6: two groups inside the first 16, one of 4 + 2, one inside the last 8.
@case("group norm over a concatenation", lam(2) + 2 * lam(6) + lam(4) + lam(2) + lam(6), (2, 3, 9, 9))
def joined_norm() -> nn.Module:
    return JoinedNorm(16, 8, 4)


# Sixteen channels of two equal convolutions, in four groups: S_4 ≀ S_4.
@case("group norm over a concatenation at its boundary", lam(4) + 4 * lam(4), (2, 3, 9, 9))
def joined_norm_aligned() -> nn.Module:
    return JoinedNorm(8, 8, 4)


# A grouped convolution's 2 groups of 3: inputs S_3 ≀ S_2. After the shuffle, outputs are read by a dense layer: S_3 ≀ S_2 as well.
@case("channel shuffle", lam(2) + 4 * lam(3), (2, 3, 9, 9))
class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=2), nn.Conv2d(6, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(torch.relu(F.channel_shuffle(self.b(torch.relu(self.a(x))), 2)))


@case("shuffled concatenation", lam(4) + lam(4), (2, 3, 9, 9))  # two branches of 4, interleaved, then split in halves of 2 + 2
class ShuffledUnit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(torch.relu(F.channel_shuffle(torch.cat([self.a(x), self.b(x).tanh()], 1), 2)))


@case("pixel shuffle", lam(3), (2, 3, 5, 5))  # channels move, the 2 × 2 positions of each stay
def pixel_shuffle() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 12, 1), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(3, 2, 3))


@case("patch merging", lam(5) + lam(6), (2, 3, 8, 8))  # four strided slices concatenated: channels move together in all of them
class Merging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(3, 5, 1), nn.Linear(20, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x)).permute(0, 2, 3, 1)
        x = torch.cat([x[:, i::2, j::2] for i in range(2) for j in range(2)], -1)
        return self.o(torch.tanh(self.b(x)))


# Two heads of 8, of which the first 4 are two interleaved pairs, each turned within itself: heads move; in each, pairs move as wholes,
# and the other 4 freely.
@case("partial interleaved rotation", lam(2) + 2 * (lam(2) + lam(4)), (5, 3))
class PartlyRotated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = (nn.Parameter(torch.randn(3, 16)) for _ in range(2))
        self.o = nn.Parameter(torch.randn(2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = (x @ self.q).view(-1, 2, 8)
        head = q[..., :4]
        turned = head + torch.stack((-head[..., 1::2], head[..., ::2]), -1).flatten(-2)
        return (torch.cat([turned, q[..., 4:]], -1) * (x @ self.k).view(-1, 2, 8)).sum(-1).tanh() @ self.o


# Columns {1, 3} are read apart, then the same columns are seen as two blocks of 2 of which each has one of either kind: what is read
# of a block is a sum over it, so blocks move, together with the elements of both kinds.
@case("cut, then viewed in blocks", lam(2), (5, 3))
class CutThenViewed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = (x @ self.a).tanh()
        return (y[:, [1, 3]] ** 2).sum(-1, keepdim=True).tanh() + (y.view(-1, 2, 2) ** 3).sum(-1).tanh() @ self.o


# Two copies of each input are contracted together: for each input and unit, the weights of the copies are exchanged by all units alike.
@case("inputs repeated", lam(3) + 4 * lam(2), (5, 4))
def repeated_inputs() -> nn.Module:
    return Table(lambda x, w, b: torch.tanh(x.repeat_interleave(2, 1) @ w + b).pow(3).sum() * x, (8, 3), (3,))


# Weights that are summed before anything is multiplied by them, apart for each input and position.
@case("weights summed at once", 9 * lam(2), (5, 3, 3, 3))
def summed_at_once() -> nn.Module:
    return Table(lambda x, w: torch.einsum("bcde,zdc->bde", x, w).tanh().pow(3).sum() * x, (2, 3, 3))


# Channels pass by a layer over positions that were padded: the columns of what stands for padding are exchanged.
@case("positions padded, then mixed", lam(4) + lam(5) + lam(2), (5, 3, 4))
def padded_and_mixed() -> nn.Module:
    return Table(lambda x, a, w, v: torch.tanh(F.pad((x @ a).transpose(1, 2), (1, 1)) @ w).mean(2) @ v, (4, 4), (5, 5), (4, 2))


# The first step of a recurrence whose initial state is a parameter: the matrix has the same rows and columns, and only parameters meet it.
@case("learned initial state", lam(3), (5, 4))
def learned_state() -> nn.Module:
    def forward(x: torch.Tensor, w: torch.Tensor, u: torch.Tensor, h: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ w + torch.sigmoid(h) * (h @ u)) @ v

    return Table(forward, (4, 3), (3, 3), (3,), (3, 2))


# An output that is computed from parameters alone: in each row its elements are exchanged.
@case("outputs without inputs", lam(6) + 3 * lam(4), (5, 4))
def without_inputs() -> nn.Module:
    return Table(lambda x, w, v, q: (torch.tanh(x @ w) @ v, torch.tanh(q).pow(3).sum(-1)), (4, 6), (6, 2), (3, 4))
