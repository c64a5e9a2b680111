"""Additions that are followed through sums, gains, groups, views and repeated layers: which, that the function stays, and what forbids them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import paramgraph as pg
from paramgraph.symmetries.offsets import OffsetFactor
from paramgraph.symmetries.vanishing import VanishingFactor
from tests.symmetries.test_matrices import deviation
from tests.symmetries.test_offsets import made

EPS = 0.3
VECTORS, TOKENS, IMAGES = (7, 5), (2, 6, 5), (3, 2, 6, 6)


class Layers(nn.Module):
    """Parameters by name, and a function of them."""

    def __init__(self, function: Callable[[Layers, Tensor], Tensor], **parts: nn.Module | tuple[int, ...]) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part if isinstance(part, nn.Module) else nn.Parameter(torch.ones(part)))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def linear(i: int, o: int, bias: bool = True) -> nn.Module:
    return nn.Linear(i, o, bias=bias)


def norm(n: int) -> nn.Module:
    return nn.LayerNorm(n, EPS)


def behind(m: Layers, x: Tensor) -> Tensor:
    """A stream from a normalisation, a branch that is added, a function of the sum."""
    x = m.n(x)
    return torch.tanh(x + m.b(torch.tanh(m.a(x))))


def scaled(m: Layers, x: Tensor) -> Tensor:
    x = m.n(x)
    return torch.tanh(x + m.gain * m.b(torch.tanh(m.a(x))))


def pooled_statistics(m: Layers, x: Tensor) -> Tensor:
    """A deviation takes away what is added to a mean and to the logarithm of a sum of exponentials."""
    x = m.a(x)
    return torch.tanh(m.b(torch.cat([x.mean(1), x.std(1), x.logsumexp(1)], -1)))


def softmax_written(m: Layers, x: Tensor) -> Tensor:
    """Shares of a whole sum to one."""
    x = torch.exp(m.a(x) - m.a(x).amax(-1, keepdim=True))
    return torch.tanh(m.b(x / x.sum(-1, keepdim=True)))


def shares_of_others(m: Layers, x: Tensor) -> Tensor:
    return torch.tanh(m.b(torch.exp(m.a(x)) / torch.exp(m.a(-x)).sum(-1, keepdim=True)))


def squashed(m: Layers, x: Tensor) -> Tensor:
    x = m.n(x)
    return torch.tanh(x + torch.sigmoid(m.b(torch.tanh(m.a(x)))))


def halved(m: Layers, x: Tensor) -> Tensor:
    """As both biases of an LSTM in one parameter are read."""
    return torch.tanh(x @ m.w.mT + m.b[:4] + m.b[4:])


def mixed(m: Layers, x: Tensor) -> Tensor:
    return torch.tanh(m.a(m.n(x).mT))


def asked(m: Layers, x: Tensor) -> Tensor:
    scores = m.a(m.seeds) @ m.b(torch.tanh(x)).mT
    return torch.tanh(scores.softmax(-1) @ m.c(x))


def asked_of_itself(m: Layers, x: Tensor) -> Tensor:
    return asked(m, x) + m.seeds.sum()


def repeated(m: Layers, x: Tensor) -> Tensor:
    for _ in range(3):
        x = m.n(x)
        x = x + m.b(torch.tanh(m.a(x)))
    return torch.tanh(m.last(m.n(x)))


def read_twice(m: Layers, x: Tensor) -> Tensor:
    """The next bias is also read elsewhere."""
    return torch.tanh(m.b(m.a(x))) + torch.sin(m.b.bias)


def pooled(m: Layers, x: Tensor) -> Tensor:
    return torch.tanh(m.b(F.max_pool2d(m.a(x), 2)))


def upsampled(m: Layers, x: Tensor) -> Tensor:
    return torch.tanh(m.b(F.interpolate(m.a(x), scale_factor=2.0, mode="bilinear")))


def low_rank(m: Layers, x: Tensor) -> Tensor:
    return torch.tanh(F.linear(x, m.w + 0.5 * m.up @ m.down))


def token(m: Layers, x: Tensor) -> Tensor:
    return torch.tanh(torch.cat([m.t.expand(x.shape[0], -1, -1), m.a(x)], 1) + m.positions)


def routed(m: Layers, x: Tensor) -> Tensor:
    """Experts' biases, weighted by a softmax, before one more."""
    return torch.tanh(torch.einsum("be,beo->bo", m.r(x).softmax(-1), torch.einsum("eoi,bi->beo", m.w, x) + m.own) + m.more)


def routed_freely(m: Layers, x: Tensor) -> Tensor:
    return torch.tanh(torch.einsum("be,beo->bo", m.r(x).sigmoid(), torch.einsum("eoi,bi->beo", m.w, x) + m.own) + m.more)


def grouped(m: Layers, x: Tensor) -> Tensor:
    return torch.tanh(m.g(m.a(x)))


def written(m: Layers, x: Tensor) -> Tensor:
    """A branch behind a gain, on a stream that a normalisation alone reads."""
    return torch.tanh(m.b(m.n(m.a(x) + m.gain * m.c(torch.sin(x)))))


def gated(m: Layers, x: Tensor) -> Tensor:
    """One layer's outputs at two inputs, mixed by a gate and what it leaves."""
    z = torch.sigmoid(m.z(x))
    return torch.tanh(m.b(z * m.a(torch.sin(x)) + (1 - z) * m.a(torch.cos(x))))


def gated_twice(m: Layers, x: Tensor) -> Tensor:
    """What two gates leave of one layer's outputs is shared among four."""
    y, z = torch.sigmoid(m.y(x)), torch.tanh(m.z(x))
    one, two, three, four = (m.a(f(x)) for f in (torch.sin, torch.cos, torch.exp, torch.tanh))
    return torch.tanh(m.b(y * z * one + (1 - y) * z * two + (y - y * z) * three + (1 - y - z + z * y) * four))


def between(m: Layers, x: Tensor) -> Tensor:
    """A table's rows left and right of a place, which is no number of a row."""
    place = 4 * x[:, 0].sigmoid()
    low = place.floor()
    rest = (place - low)[:, None]
    return torch.tanh(m.b((1 - rest) * m.table[low.long()] + rest * m.table[low.long() + 1]))


def unmatched(m: Layers, x: Tensor) -> Tensor:
    """Two gates that leave nothing of each other."""
    y, z = torch.sigmoid(m.z(x)), torch.sigmoid(2 * m.z(x))
    return torch.tanh(m.b(z * m.a(torch.sin(x)) + (1 - y) * m.a(torch.cos(x))))


def doubled(m: Layers, x: Tensor) -> Tensor:
    z = torch.sigmoid(m.z(x))
    return torch.tanh(m.b(z * m.a(torch.sin(x)) + (2 - z * z) * m.a(torch.cos(x))))


def elsewhere(m: Layers, x: Tensor) -> Tensor:
    """What one gate takes at one position, and leaves at another."""
    z = torch.sigmoid(m.z(x))
    return torch.tanh(m.b(z * m.a(torch.sin(x)) + (1 - z.flip(0)) * m.a(torch.cos(x))))


# Per network, its inputs and what may be added to which parameters while others make up for it, with dimensions by hand.
FOUND: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, int]]] = {
    "an offset past a sum": (lambda: Layers(behind, n=norm(5), a=linear(5, 4), b=linear(4, 5)), TOKENS, {"n.bias": 5}),
    "behind a gain": (lambda: Layers(scaled, n=norm(5), a=linear(5, 4), b=linear(4, 5), gain=(5,)), TOKENS, {"n.bias": 5}),
    "before tokens are mixed": (lambda: Layers(mixed, n=norm(5), a=linear(6, 4)), TOKENS, {"n.bias": 1}),
    "learned queries": (lambda: Layers(asked, seeds=(1, 3, 5), a=linear(5, 4), b=linear(5, 4), c=linear(5, 4)), TOKENS, {"seeds": 5}),
    "a layer three times": (lambda: Layers(repeated, n=norm(5), a=linear(5, 4), b=linear(4, 5), last=linear(5, 3)), TOKENS, {"n.bias": 5}),
    "a largest of some": (lambda: Layers(pooled, a=nn.Conv2d(2, 3, 3, padding=1), b=nn.Conv2d(3, 4, 2)), IMAGES, {"a.bias": 3}),
    "statistics of positions": (lambda: Layers(pooled_statistics, a=linear(5, 4), b=linear(12, 3)), TOKENS, {"a.bias": 4}),
    "a softmax in several operations": (lambda: Layers(softmax_written, a=linear(5, 4), b=linear(4, 3)), VECTORS, {"b.weight": 3}),
    "positions in between": (lambda: Layers(upsampled, a=nn.Conv2d(2, 3, 3), b=nn.Conv2d(3, 4, 2)), IMAGES, {"a.bias": 3}),
    "groups of a convolution": (lambda: Layers(lambda m, x: torch.tanh(m.b(m.a(x))), a=nn.Conv2d(2, 4, 1), b=nn.Conv2d(4, 6, 2, groups=2)),
                                IMAGES, {"a.bias": 4}),
    "low rank": (lambda: Layers(low_rank, w=(4, 5), up=(4, 2), down=(2, 5)), VECTORS, {"up": 8, "down": 10}),
    "a class token": (lambda: Layers(token, t=(1, 1, 4), a=linear(5, 4), positions=(1, 7, 4)), TOKENS, {"t": 4, "a.bias": 4}),
    "experts": (lambda: Layers(routed, r=linear(5, 3), w=(3, 4, 5), own=(3, 4), more=(4,)), VECTORS, {"own": 4}),
    "groups of a normalisation": (lambda: Layers(grouped, a=linear(5, 6), g=nn.GroupNorm(2, 6, EPS)), VECTORS, {"a.weight": 10, "a.bias": 2}),
    "a writer behind a gain": (lambda: Layers(written, a=linear(5, 4), c=linear(5, 4), gain=(4,), n=norm(4), b=linear(4, 3)), VECTORS,
                               {"c.weight": 5, "a.bias": 4, "n.bias": 4, "b.weight": 3}),
    "what a gate leaves": (lambda: Layers(gated, z=linear(5, 4), a=linear(5, 4), b=linear(4, 3)), VECTORS, {"a.bias": 4}),
    "what two gates leave": (lambda: Layers(gated_twice, y=linear(5, 4), z=linear(5, 4), a=linear(5, 4), b=linear(4, 3)), VECTORS, {"a.bias": 4}),
    "between two rows": (lambda: Layers(between, table=(6, 4), b=linear(4, 3)), VECTORS, {"table": 4}),
    "two parts of one": (lambda: Layers(halved, w=(4, 5), b=(8,)), VECTORS, {"b": 4}),
}  # fmt: skip


def found_in(graph: pg.ParamGraph) -> dict[int, OffsetFactor]:
    return {n: factor for n, factor in enumerate(graph.symmetry.moves) if isinstance(factor, OffsetFactor)}


@pytest.mark.parametrize("name", FOUND)
def test_which(name: str) -> None:
    make, shape, wanted = FOUND[name]
    model, x, graph = made(make, shape)
    found = found_in(graph)
    for tensor, dimension in wanted.items():
        assert sum(f.dimension for f in found.values() if f.tensor == tensor) == dimension, tensor
    state = {n: t.detach() for n, t in model.state_dict().items()}
    before = torch.func.functional_call(model, state, x)
    for number, factor in found.items():
        g, h = graph.symmetry.move(1, [number]), graph.symmetry.move(2, [number])
        moved = g.act(state)
        assert {n for n in state if not torch.equal(moved[n], state[n])} == set(factor.tensors)
        assert deviation(torch.func.functional_call(model, moved, x), before) < 1e-11
        once, twice, back = (g @ h).act(state), g.act(h.act(state)), g.inverse().act(moved)
        assert all(torch.allclose(once[n], twice[n]) and torch.allclose(back[n], state[n]) for n in state)
        if factor.tensor in wanted and len(factor.tensors) > 1:
            for member in factor.tensors:
                assert deviation(torch.func.functional_call(model, moved | {member: state[member]}, x), before) > 1e-6


def pair(first: str, second: str, weight: str = "", axis: tuple[int, ...] = ()) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Ones added to one parameter, and what would arrive taken away from another."""

    def move(state: dict[str, Tensor]) -> dict[str, Tensor]:
        arriving = torch.ones(state[first].shape[-1], dtype=torch.float64)
        if weight:
            arriving = (state[weight].sum(axis) if axis else state[weight]) @ arriving
        return {first: state[first] + 1, second: state[second] - arriving}

    return move


# Per network, its inputs, a parameter that nothing may be added to, and what would be done were it another network.
NONE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, Callable[[dict[str, Tensor]], dict[str, Tensor]]]] = {
    "a function within the branch": (lambda: Layers(squashed, n=norm(5), a=linear(5, 4), b=linear(4, 5)), TOKENS,
                                     "n.bias", pair("n.bias", "b.bias")),
    "a bias that is read elsewhere": (lambda: Layers(read_twice, a=linear(5, 4), b=linear(4, 3)), VECTORS,
                                      "a.bias", pair("a.bias", "b.bias", "b.weight")),
    "queries that are read elsewhere": (lambda: Layers(asked_of_itself, seeds=(1, 3, 5), a=linear(5, 4), b=linear(5, 4), c=linear(5, 4)), TOKENS,
                                        "seeds", pair("seeds", "a.bias", "a.weight")),
    "a padded convolution": (lambda: Layers(lambda m, x: torch.tanh(m.b(m.a(x))), a=nn.Conv2d(2, 3, 1), b=nn.Conv2d(3, 4, 3, padding=1)), IMAGES,
                             "a.bias", pair("a.bias", "b.bias", "b.weight", (2, 3))),
    "a transposed convolution": (lambda: Layers(lambda m, x: torch.tanh(m.b(m.a(x))), a=nn.Conv2d(2, 3, 1), b=nn.ConvTranspose2d(3, 3, 2)), IMAGES,
                                 "a.bias", pair("a.bias", "b.bias", "b.weight", (2, 3))),
    "a padded mean": (lambda: Layers(lambda m, x: torch.tanh(m.b(F.avg_pool2d(m.a(x), 2, padding=1))), a=nn.Conv2d(2, 3, 1), b=nn.Conv2d(3, 4, 1)),
                      IMAGES, "a.bias", pair("a.bias", "b.bias", "b.weight", (2, 3))),
    "weights that do not sum to one": (lambda: Layers(routed_freely, r=linear(5, 3), w=(3, 4, 5), own=(3, 4), more=(4,)), VECTORS, "own",
                                       pair("own", "more")),
    "two gates": (lambda: Layers(unmatched, z=linear(5, 4), a=linear(5, 4), b=linear(4, 3)), VECTORS, "a.bias", pair("a.bias", "b.bias", "b.weight")),
    "a gate that leaves more": (lambda: Layers(doubled, z=linear(5, 4), a=linear(5, 4), b=linear(4, 3)), VECTORS, "a.bias",
                                pair("a.bias", "b.bias", "b.weight")),
    "a gate at two positions": (lambda: Layers(elsewhere, z=linear(5, 4), a=linear(5, 4), b=linear(4, 3)), VECTORS, "a.bias",
                                pair("a.bias", "b.bias", "b.weight")),
    "shares of another whole": (lambda: Layers(shares_of_others, a=linear(5, 4), b=linear(4, 3)), VECTORS, "b.weight",
                                lambda state: {"b.weight": state["b.weight"] + 1, "b.bias": state["b.bias"] - 1}),
    "a product of both": (lambda: Layers(lambda m, x: torch.tanh(m.up @ m.down @ x.mT + m.up.sum(1, keepdim=True)), up=(4, 2), down=(2, 5)), VECTORS,
                          "up", lambda state: {"up": state["up"] + 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_which_not(name: str) -> None:
    make, shape, tensor, move = NONE[name]
    model, x, graph = made(make, shape)
    # But for what its readers take to zero.
    moves = [factor for factor in graph.symmetry.moves if hasattr(factor, "tensor") and not isinstance(factor, VanishingFactor)]
    assert all(factor.tensor != tensor for factor in moves)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    before = torch.func.functional_call(model, state, x)
    assert deviation(torch.func.functional_call(model, state | move(state), x), before) > 1e-6


def test_a_gain_without_inverse() -> None:
    """Nothing is added where a gain of zero stands before what would make up for it."""
    model, x, graph = made(FOUND["behind a gain"][0], TOKENS)
    state = {n: t.detach() for n, t in model.state_dict().items()} | {"gain": torch.tensor([0.0, 1, 1, 1, 1], dtype=torch.float64)}
    (number,) = [n for n, factor in found_in(graph).items() if factor.tensor == "n.bias"]
    moved = graph.symmetry.move(0, [number]).act(state)
    assert all(torch.equal(moved[n], state[n]) for n in state)


def test_sums_that_are_taken_away_are_no_gain_of_another_axis() -> None:
    """A branch's bias may not be divided by a gain that is read along positions."""
    model, x, graph = made(lambda: Layers(lambda m, x: torch.tanh(m.n(m.a(x).mT * m.gain).mT), a=linear(5, 6), gain=(6,), n=norm(6)), TOKENS)
    for number in found_in(graph):
        state = {n: t.detach() for n, t in model.state_dict().items()}
        before = torch.func.functional_call(model, state, x)
        assert deviation(torch.func.functional_call(model, graph.symmetry.move(1, [number]).act(state), x), before) < 1e-11
