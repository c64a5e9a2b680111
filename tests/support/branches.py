"""Networks with parallel branches: which can be exchanged, and which only look like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.cases import case, lam


class Of(nn.Module):
    """A function of a list of modules and the inputs."""

    def __init__(self, function: Callable[..., torch.Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.own = function, nn.ModuleList(modules)

    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        return self.function(self.own, *x)


def linear(*sizes: tuple[int, int]) -> list[nn.Module]:
    return [nn.Linear(*size) for size in sizes]


# Two layers of 4 units, added, and a reader: exchanges may differ from unit to unit.
EACH = lam(4) + 4 * lam(2)
PAIR = [(3, 4), (3, 4), (4, 2)]

# name, ln order, function of two layers 3 → 4 and a reader 4 → 2
PAIRS: list[tuple[str, float, Callable[[Any, torch.Tensor], torch.Tensor]]] = [
    ("branches added", EACH, lambda m, x: m[2](torch.tanh(m[0](x)) + torch.tanh(m[1](x)))),
    ("branches multiplied", EACH, lambda m, x: m[2](torch.tanh(m[0](x)) * torch.tanh(m[1](x)))),
    ("the larger of two branches", EACH, lambda m, x: m[2](torch.maximum(torch.tanh(m[0](x)), torch.tanh(m[1](x))))),
    ("branches stacked and averaged", EACH, lambda m, x: m[2](torch.stack([torch.tanh(m[0](x)), torch.tanh(m[1](x))]).mean(0))),
    ("a branch written the other way round", EACH, lambda m, x: m[2](torch.tanh(m[0](x)) * x[:, :1] + x[:, :1] * torch.tanh(m[1](x)))),
    ("branches of two weights", lam(4), lambda m, x: m[2](torch.tanh(m[0](x)) * 0.5 + torch.tanh(m[1](x)) * 0.7)),
    ("a difference of branches", lam(4), lambda m, x: m[2](torch.tanh(m[0](x)) - torch.tanh(m[1](x)))),
    ("a branch doubled", lam(4), lambda m, x: m[2](torch.tanh(m[0](x)) + 2 * torch.tanh(m[1](x)))),
    ("a branch doubled in the sum", lam(4), lambda m, x: m[2](torch.add(torch.tanh(m[0](x)), torch.tanh(m[1](x)), alpha=2))),
    ("branches of two functions", lam(4), lambda m, x: m[2](torch.tanh(m[0](x)) + torch.sin(m[1](x)))),
    ("branches of two slopes", lam(4), lambda m, x: m[2](F.leaky_relu(m[0](x), 0.1) + F.leaky_relu(m[1](x), 0.3))),
    ("a branch rounded", lam(4), lambda m, x: m[2](torch.tanh(m[0](x)) + torch.tanh((99 * m[1](x)).int().type_as(x)))),
    ("a branch rounded in a stack", lam(4),
     lambda m, x: m[2](torch.stack([9 * torch.tanh(m[0](x)), (9 * torch.tanh(m[1](x))).int().type_as(x)]).sum(0))),
    ("a branch read elsewhere", lam(4), lambda m, x: m[2](torch.tanh(m[0](x)) + torch.tanh(m[1](x)) + torch.sin(m[0](x)))),
    ("a branch's weight read elsewhere", lam(4), lambda m, x: m[2](torch.tanh(m[0](x)) + torch.tanh(m[1](x))) + (m[0].weight ** 2).sum()),
    ("a branch that reads the other", lam(4), lambda m, x: m[2](torch.tanh(m[0](x)) + torch.tanh(m[1](x) + torch.tanh(m[0](x))))),
    ("branches with one weight and two biases", EACH, lambda m, x: m[2](torch.tanh(m[0](x)) + torch.tanh(F.linear(x, m[0].weight, m[1].bias)))),
    ("a branch twice", lam(4), lambda m, x: m[2](torch.tanh(m[0](x)) + torch.tanh(m[0](x)))),
    ("branches of two inputs", lam(4), lambda m, x: m[2](torch.tanh(m[0](x)) + torch.tanh(m[1](x.flip(0))))),
    # Weights that are added before anything else is done are merely added: (W + W') x.
    ("layers merely added", lam(4), lambda m, x: m[2](torch.tanh(m[0](x) + m[1](x)))),
]  # fmt: skip


# The same, with both layers in one of 8 units, cut in two.
HALVES: list[tuple[str, float, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = [
    ("halves added", EACH, lambda a, b: torch.tanh(a) + torch.tanh(b)),
    ("halves multiplied", EACH, lambda a, b: a * b),
    ("the larger of two halves", EACH, torch.maximum),
    ("a difference of halves", lam(4), lambda a, b: torch.tanh(a) - torch.tanh(b)),
    ("halves of two functions", lam(4), lambda a, b: torch.tanh(a) + torch.sin(b)),
    ("a half doubled", lam(4), lambda a, b: torch.tanh(a) + 2 * torch.tanh(b)),
    ("a half read elsewhere", lam(4), lambda a, b: torch.maximum(a, b) + torch.sin(a)),
]

for _name, _order, _halves in HALVES:
    case(_name, _order, (5, 3))(lambda f=_halves: Of(lambda m, x: m[1](torch.tanh(f(*m[0](x).chunk(2, -1)))), *linear((3, 8), (4, 2))))


def _pair(function: Callable[..., torch.Tensor]) -> Callable[[], nn.Module]:
    return lambda: Of(function, *linear(*PAIR))


for _name, _order, _function in PAIRS:
    case(_name, _order, (5, 3))(_pair(_function))


@case("a rounded sum of two branches and a third", EACH, (5, 3))  # the third is added after rounding: the two are exchanged
def rounded_sum() -> nn.Module:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m[3]((9 * torch.tanh(m[0](x)) + 9 * torch.tanh(m[1](x))).int().type_as(x) + 9 * torch.tanh(m[2](x)))

    return Of(function, *linear(*[(3, 4)] * 3, (4, 2)))


# Two pairs of layers of 3 units, and the same number times each: one pair of 6. Distances are no sums of products: each has units of its own.
@case("multiples of branches", lam(4) + lam(6), (5, 3))
def multiples() -> nn.Module:
    return Of(lambda m, x: m[4](torch.tanh(0.4 * m[1](torch.tanh(m[0](x))) + 0.4 * m[3](torch.tanh(m[2](x))))),
              *[layer for _ in range(2) for layer in (nn.Linear(3, 3), nn.Linear(3, 4, bias=False))], nn.Linear(4, 2))


@case("distances of branches", lam(2) + 2 * lam(3) + lam(4), (5, 3))
def distances() -> nn.Module:
    return Of(lambda m, x: m[4](torch.tanh(torch.cdist(m[0](x), m[1].weight) + torch.cdist(m[2](x), m[3].weight))),
              *linear((3, 3), (3, 4), (3, 3), (3, 4), (4, 2)))


@case("gains merely multiplied", lam(4), (5, 3))
def gains() -> nn.Module:
    return Of(lambda m, x: m[1](torch.tanh(m[0](x)) * m[2].weight * m[2].bias), *linear((3, 4), (4, 2)), nn.LayerNorm(4))


# What nothing tells apart is one layer: the units of three layers of 4, read by weights of their own.
@case("a wide layer in three", lam(12), (5, 3))
def in_three() -> nn.Module:
    return Of(lambda m, x: sum(m[2 * i + 1](torch.tanh(m[2 * i](x))) for i in range(3)), *linear(*[(3, 4), (4, 2)] * 3))


@case("branches side by side, two readers", lam(8), (5, 3))
def side_by_side() -> nn.Module:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = torch.cat([torch.tanh(m[0](x)), torch.tanh(m[1](x))], -1)
        return m[2](h) * torch.sigmoid(m[3](h))

    return Of(function, *linear((3, 4), (3, 4), (8, 2), (8, 2)))


# Branches normalised each for itself stay blocks of the concatenation: S_4 ≀ S_2.
@case("normalised branches side by side", lam(2) + 2 * lam(4), (5, 3))
def normalised() -> nn.Module:
    return Of(lambda m, x: m[2](torch.cat([F.layer_norm(torch.tanh(m[i](x)), [4]) for i in range(2)], -1)), *linear((3, 4), (3, 4), (8, 2)))


@case("branches side by side, read in order", 0.0, (5, 3))
def in_order() -> nn.Module:
    return Of(lambda m, x: m[2](torch.cat([torch.tanh(m[0](x)), torch.tanh(m[1](x))], -1).cumsum(-1)), *linear((3, 4), (3, 4), (8, 2)))


@case("branches side by side, returned", 0.0, (5, 3))
def returned() -> nn.Module:
    return Of(lambda m, x: torch.cat([torch.tanh(m[0](x)), torch.tanh(m[1](x))], -1), *linear((3, 4), (3, 4)))


@case("two kinds of branches interleaved", 2 * lam(8), (5, 3))  # units of one function are one layer wherever they stand
def interleaved() -> nn.Module:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m[4](torch.cat([torch.tanh(m[0](x)), torch.sin(m[1](x)), torch.tanh(m[2](x)), torch.sin(m[3](x))], -1))

    return Of(function, *linear(*[(3, 4)] * 4, (16, 2)))


@case("branches added to outputs", 4 * lam(2), (5, 3))  # outputs are fixed: an exchange of two units for each
def to_outputs() -> nn.Module:
    return Of(lambda m, x: torch.tanh(m[0](x)) + torch.tanh(m[1](x)), *linear((3, 4), (3, 4)))


@case("one of three branches read elsewhere", EACH, (5, 3))  # the other two are exchanged
def one_of_three() -> nn.Module:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m[3](sum(torch.tanh(m[i](x)) for i in range(3))) + (m[1].weight ** 2).sum() + (m[1].bias ** 4).sum()

    return Of(function, *linear(*[(3, 4)] * 3, (4, 2)))


@case("two of two kinds", 2 * lam(4) + 8 * lam(2), (5, 3))  # two pairs of branches, of different inputs, added: pairs are not exchanged
def two_kinds() -> nn.Module:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        z = torch.sin(x)
        return m[4](torch.tanh(m[0](x)) + torch.tanh(m[1](x))) + m[5](torch.tanh(m[2](z)) + torch.tanh(m[3](z)))

    return Of(function, *linear(*[(3, 4)] * 4, (4, 2), (4, 2)))


@case("two streams", lam(4) + lam(2) + 2 * lam(5), (5, 3))  # branches of two layers, exchanged as wholes
def two_streams() -> nn.Module:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m[4](sum(torch.tanh(m[i + 2](F.layer_norm(torch.tanh(m[i](x)), [5]))).cumsum(0) for i in range(2)))

    return Of(function, *linear((3, 5), (3, 5), (5, 4), (5, 4), (4, 2)))


# Inner pairs of 2 units are added for each of 2 outer branches, whose 2 units each are one layer of 4: S_2 ≀ S_4, and 3 units behind.
@case("branches of branches", lam(3) + lam(4) + 4 * lam(2), (5, 3))
def nested() -> nn.Module:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        inner = [torch.tanh(torch.tanh(m[2 * i](x)) + torch.tanh(m[2 * i + 1](x))) for i in range(2)]
        return m[6](torch.tanh(m[4](inner[0]) + m[5](inner[1])))

    return Of(function, *linear(*[(3, 2)] * 4, (2, 3), (2, 3), (3, 2)))


@case("adapters added", 2 * lam(4), (5, 3))  # two adapters of rank 2 are one of rank 4; and 4 units
def adapters() -> nn.Module:
    return Of(lambda m, x: m[5](torch.tanh(m[0](x) + m[2](m[1](x)) + m[4](m[3](x)))), *linear((3, 4), (3, 2), (2, 4), (3, 2), (2, 4), (4, 2)))


class Experts(nn.Module):
    """Experts in a list, weighted by the columns of a router."""

    def __init__(self, weigh: str, count: int = 3) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 3)) for _ in range(count)])
        self.router, self.weigh = nn.Linear(3, count), weigh

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gates = torch.softmax(self.router(x), -1)
        outs = [expert(x) for expert in self.experts]
        if self.weigh == "stack":
            return (torch.stack(outs, 1) * gates[..., None]).sum(1)
        columns = {
            "slice": [gates[:, e : e + 1] for e in range(len(outs))],
            "unbind": [gate.unsqueeze(-1) for gate in gates.unbind(-1)],
            "chunk": gates.chunk(len(outs), -1),
            "reversed": [gates[:, e : e + 1] for e in reversed(range(len(outs)))],
            "first": [gates[:, e : e + 1] + gates[:, :1] for e in range(len(outs))],
            "raised": [gates[:, e : e + 1] ** (1 + (e > 1)) for e in range(len(outs))],
        }[self.weigh]
        return sum(column * out for column, out in zip(columns, outs, strict=True))


def _experts(weigh: str) -> Callable[[], nn.Module]:
    return lambda: Experts(weigh)


for _weigh in ("slice", "unbind", "chunk", "reversed", "stack"):
    case(f"experts in a list, {_weigh}", lam(3) + 3 * lam(4), (5, 3))(_experts(_weigh))
# The first router column is read twice, or the last one is squared: the other two experts are exchanged.
case("experts in a list, first", lam(2) + 3 * lam(4), (5, 3))(_experts("first"))
case("experts in a list, raised", lam(2) + 3 * lam(4), (5, 3))(_experts("raised"))


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = linear((4, 3), (4, 3), (4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1) @ self.v(x)


@case("attention heads in a list", lam(3) + 3 * lam(3) + 3 * lam(2), (2, 5, 4))
class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.o = nn.ModuleList([Head() for _ in range(3)]), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(torch.cat([head(x) for head in self.heads], -1))


class Branched(nn.Module):
    """A residual block of branches of three convolutions."""

    def __init__(self, count: int = 3, last: bool = False, bias: bool = False, dilations: tuple[int, ...] = (1, 1, 1)) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 5, 1), nn.Linear(5, 2)
        self.branches = nn.ModuleList([self.branch(last, bias, dilations[i]) for i in range(count)])

    @staticmethod
    def branch(last: bool, bias: bool, dilation: int) -> nn.Module:
        convolutions = [nn.Conv2d(5, 2, 1, bias=bias), nn.Conv2d(2, 2, 3, 1, dilation, dilation, bias=bias), nn.Conv2d(2, 5, 1, bias=bias)]
        first, second, third = convolutions
        norms = [nn.BatchNorm2d(2), nn.BatchNorm2d(2)]
        return nn.Sequential(first, norms[0], nn.GELU(), second, norms[1], nn.GELU(), third, *([nn.BatchNorm2d(5)] if last else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.stem(x))
        return self.head(torch.tanh(x + sum(branch(x) for branch in self.branches)).mean((2, 3)))


# As for grouped convolutions: the stream, the branches, and two inner spaces of each.
BLOCK = lam(5) + lam(3) + 6 * lam(2)
case("a block of branches", BLOCK, (2, 3, 4, 4))(Branched)
case("a block of branches with biases", BLOCK, (2, 3, 4, 4))(lambda: Branched(bias=True))
case("a block of branches normalised at the end", BLOCK, (2, 3, 4, 4))(lambda: Branched(last=True))
case("a block of branches, one dilated", BLOCK - lam(3) + lam(2), (2, 3, 4, 4))(lambda: Branched(dilations=(1, 2, 1)))
case("a block of two branches, one dilated", lam(5) + 4 * lam(2), (2, 3, 4, 4))(lambda: Branched(2, dilations=(1, 2)))


# The stream, the branches, and for each its groups and, on both sides of the grouped convolution, two channels in each group.
@case("branches of grouped and transposed convolutions", lam(4) + lam(2) + 2 * (lam(2) + 4 * lam(2)), (2, 3, 4, 4))
class Grouped(nn.Module):
    """Per branch: 4 channels in 2 groups of 2, normalised group by group, and up to a stream of 4 that the branches share."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.ModuleList([nn.Conv2d(3, 4, 1) for _ in range(2)])
        self.b = nn.ModuleList([nn.Conv2d(4, 4, 3, groups=2) for _ in range(2)])
        self.c = nn.ModuleList([nn.ConvTranspose2d(4, 4, 3) for _ in range(2)])
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outs = [torch.tanh(c(torch.tanh(F.group_norm(b(torch.tanh(a(x))), 2)))) for a, b, c in zip(self.a, self.b, self.c, strict=True)]
        return self.head((outs[0] + outs[1]).mean((2, 3)))


class Looped(nn.Module):
    """Three experts of 5 units in packed tensors, taken one after the other: a function of the router's values says how much each counts."""

    def __init__(self, shares: Callable[[torch.Tensor], Callable[[int], torch.Tensor]]) -> None:
        super().__init__()
        self.shares = shares
        self.router = nn.Linear(4, 3)
        self.up, self.down = nn.Parameter(torch.randn(3, 4, 5)), nn.Parameter(torch.randn(3, 5, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = self.shares(self.router(x).softmax(-1))
        out = torch.zeros_like(x[:, :2])
        for e in range(3):
            out = out + share(e) * (torch.tanh(x @ self.up[e]) @ self.down[e])
        return out


def _compared(scores: torch.Tensor) -> Callable[[int], torch.Tensor]:
    values, chosen = scores.topk(2, -1)
    return lambda e: (values * (chosen == e)).sum(-1, keepdim=True)


def _masked(scores: torch.Tensor) -> Callable[[int], torch.Tensor]:
    values, chosen = scores.topk(2, -1)
    return lambda e: values.masked_fill(chosen != e, 0.0).sum(-1, keepdim=True)


def _largest(scores: torch.Tensor) -> Callable[[int], torch.Tensor]:
    value, chosen = scores.max(-1, keepdim=True)
    return lambda e: torch.where(chosen == e, value, 0.0)


EXPERTS = lam(3) + 3 * lam(5)
case("packed experts in a loop", EXPERTS, (7, 4))(lambda: Looped(lambda scores: lambda e: scores[:, e : e + 1]))
case("packed experts in a loop, chosen by comparison", EXPERTS, (7, 4))(lambda: Looped(_compared))
case("packed experts in a loop, others masked", EXPERTS, (7, 4))(lambda: Looped(_masked))
case("packed experts in a loop, the largest alone", EXPERTS, (7, 4))(lambda: Looped(_largest))
# What is compared with the numbers is counted from one: the experts are told apart.
case("packed experts in a loop, compared with an index that was counted up", 3 * lam(5), (7, 4))(
    lambda: Looped(lambda scores: lambda e: (scores.argmax(-1, keepdim=True) + 1 == e).to(scores.dtype)))


@case("experts in a list, chosen by comparison", EXPERTS, (7, 4))
class ChosenByComparison(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 3)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = _compared(self.router(x).softmax(-1))
        return sum(share(e) * expert(x) for e, expert in enumerate(self.experts))


class ChosenInTurn(nn.Module):
    """Experts put in place by `where` one after the other, where the router's choice is theirs."""

    def __init__(self, condition: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
        super().__init__()
        self.condition = condition
        self.router = nn.Linear(4, 3)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = self.router(x).argmax(-1)
        out = torch.zeros_like(x[:, :2])
        for e, expert in enumerate(self.experts):
            out = torch.where(self.condition(chosen, e), expert(x), out)
        return out


case("experts put in place one after the other", EXPERTS, (40, 4))(lambda: ChosenInTurn(lambda chosen, e: (chosen == e)[:, None]))
# The first two have one condition: the second one is put in the first one's place.
case("experts put in place, two in one", 3 * lam(5), (40, 4))(lambda: ChosenInTurn(lambda chosen, e: (chosen == max(e, 1))[:, None]))
# Some conditions are of rows, others of columns: they do not exclude each other.
case("experts put in place across each other", 3 * lam(5), (40, 4))(
    lambda: ChosenInTurn(lambda chosen, e: (chosen == e)[:, None] if e else (chosen[:2] == e)[None, :]))
