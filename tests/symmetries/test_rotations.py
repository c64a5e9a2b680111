"""Turns of residual streams: of which, that any of them leaves the function unchanged, and what forbids them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import paramgraph as pg
from paramgraph.compiler.conjugations import Conjugations
from paramgraph.symmetries.rotations import RotationFactor
from paramgraph.symmetries.translations import TranslationFactor
from tests.symmetries.test_matrices import deviation

EPS = 0.3


class WrittenOut(nn.Module):
    """A root mean square norm in plain operations; `more` is added to the gain."""

    def __init__(self, more: float = 0.0, centred: bool = False) -> None:
        super().__init__()
        self.weight, self.more, self.centred = nn.Parameter(torch.ones(4)), more, centred

    def forward(self, x: Tensor) -> Tensor:
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)
        return x * (self.weight + self.more) if self.more else self.weight * x


class Groups(nn.GroupNorm):
    """Statistics of either half of the stream."""

    def __init__(self) -> None:
        super().__init__(2, 4, EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT


class Stream(nn.Module):
    """Tokens of 5 numbers in a stream of 4, two blocks, and a reader.

    Args:
        norm: makes the normalisations before blocks and reader.
        between: what is done with the stream between the blocks.
        scaled: whether the first block's result has gains of its own.
    """

    def __init__(self, norm: Callable[[], nn.Module], between: Callable[[nn.Module, Tensor], Tensor] | None = None, scaled: bool = False,
                 post: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.i, self.n1, self.n2, self.n3, self.post = nn.Linear(5, 4), norm(), norm(), norm(), post
        self.a, self.b, self.c, self.d = nn.Linear(4, 7), nn.Linear(7, 4), nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False)
        self.o = nn.Linear(4, 3)
        self.between, self.scale = between, nn.Parameter(torch.ones(4)) if scaled else None
        self.table, self.token = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        if self.post:
            h = self.n1(h + self.b(F.gelu(self.a(h))))
            return self.o(self.n2(h + self.d(torch.tanh(self.c(h)))))
        y = self.b(F.gelu(self.a(self.n1(h))))
        h = h + (y if self.scale is None else self.scale * y)
        h = self.between(self, h) if self.between is not None else h
        h = h + self.d(torch.tanh(self.c(self.n2(h))))
        return self.o(self.n3(h))


class Tokens(nn.Module):
    """A table of tokens that may be the head, too."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(7, 4), nn.RMSNorm(4, eps=EPS), nn.Linear(4, 7, bias=False)
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 4)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        return self.head(self.norm(h + self.b(F.gelu(self.a(self.norm(h))))))


class Patches(nn.Module):
    """A small vision transformer: a convolution, a token and positions write into the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.token, self.positions = nn.Conv2d(2, 4, 2, 2), nn.Parameter(torch.ones(1, 1, 4)), nn.Parameter(torch.ones(1, 5, 4))
        self.norm, self.a, self.b, self.o = nn.LayerNorm(4, EPS), nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 3)
        self.last, self.down, self.up = nn.LayerNorm(4, EPS), nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(h.shape[0], -1, -1), h], 1) + self.positions
        y = self.norm(h)
        h = h + self.b(F.gelu(self.a(y))) + self.up(self.down(y))
        return self.o(self.last(h.mean(1)))


def rms() -> nn.Module:
    return nn.RMSNorm(4, eps=EPS)


def layer() -> nn.Module:
    return nn.LayerNorm(4, EPS)


TOKENS, IMAGES, VECTORS = torch.arange(12).reshape(3, 4) % 7, (2, 2, 4, 4), (2, 3, 5)
# Per network, its inputs, the dimension that is turned, and the number of axes that are.
FOUND: dict[str, tuple[Callable[[], nn.Module], object, int, int]] = {
    "root mean squares": (lambda: Stream(rms), VECTORS, 4, 8),
    "layer norms": (lambda: Stream(layer), VECTORS, 3, 11),  # three offsets are turned, too
    "written out": (lambda: Stream(WrittenOut), VECTORS, 4, 8),
    "one more than the gain": (lambda: Stream(lambda: WrittenOut(1.0)), VECTORS, 4, 8),
    "written out, less the mean": (lambda: Stream(lambda: WrittenOut(centred=True)), VECTORS, 3, 8),
    "without gains": (lambda: Stream(lambda: nn.LayerNorm(4, EPS, elementwise_affine=False)), VECTORS, 3, 8),
    "both kinds": (lambda: Stream(iter([rms(), layer(), rms()]).__next__), VECTORS, 3, 9),
    "gains of a block": (lambda: Stream(rms, scaled=True), VECTORS, 4, 8),
    "positions": (lambda: Stream(rms, lambda m, h: h + m.table), VECTORS, 4, 9),
    "a token more": (lambda: Stream(layer, lambda m, h: torch.cat([m.token.expand(2, -1, -1), h], 1)), VECTORS, 3, 12),
    "tokens mixed": (lambda: Stream(rms, lambda m, h: h.cumsum(1) + h.mean(1, keepdim=True) - 2 * h.flip(1)), VECTORS, 4, 8),
    "weighted by lengths": (lambda: Stream(rms, lambda m, h: h * h.square().sum(-1, keepdim=True)), VECTORS, 4, 8),
    "weighted by inner products": (lambda: Stream(rms, lambda m, h: h + torch.softmax(h @ h.mT, -1) @ h), VECTORS, 4, 8),
    "a number added": (lambda: Stream(rms, lambda m, h: h + 1.5), VECTORS, 3, 8),
    "a mean added": (lambda: Stream(rms, lambda m, h: h + h.mean(-1, keepdim=True)), VECTORS, 3, 8),
    "a table of tokens": (lambda: Tokens(False), TOKENS, 4, 5),
    "patches": (Patches, IMAGES, 3, 12),
}
NONE: dict[str, tuple[Callable[[], nn.Module], object]] = {
    "tied": (lambda: Tokens(True), TOKENS),
    "norms behind sums": (lambda: Stream(rms, post=True), VECTORS),
    "groups": (lambda: Stream(Groups), VECTORS),
    "a function of the stream": (lambda: Stream(rms, lambda m, h: torch.tanh(h)), VECTORS),
    "gains in the stream": (lambda: Stream(rms, lambda m, h: h * m.token), VECTORS),
    "products in the stream": (lambda: Stream(rms, lambda m, h: h * h.flip(1)), VECTORS),
    "a fixed table": (lambda: Stream(rms, lambda m, h: h + torch.arange(12.0).reshape(3, 4).to(h)), VECTORS),
    "a part of the stream": (lambda: Stream(rms, lambda m, h: h + F.pad(h[..., :2], (0, 2))), VECTORS),
    "a reversed stream": (lambda: Stream(rms, lambda m, h: h + h.flip(-1)), VECTORS),
    "heads": (lambda: Stream(rms, lambda m, h: h + F.rms_norm(h.view(2, 3, 2, 2), [2]).flatten(2)), VECTORS),
    "a largest element": (lambda: Stream(rms, lambda m, h: h * h.amax(-1, keepdim=True)), VECTORS),
    "cubes": (lambda: Stream(rms, lambda m, h: h * h.pow(3).sum(-1, keepdim=True)), VECTORS),
    "squares": (lambda: Stream(rms, lambda m, h: h + h.square()), VECTORS),
    "half of the squares": (lambda: Stream(rms, lambda m, h: h * h.square()[..., :2].sum(-1, keepdim=True)), VECTORS),
    "sums of magnitudes": (lambda: Stream(rms, lambda m, h: h * h.norm(p=1, dim=-1, keepdim=True)), VECTORS),
}


def made(make: Callable[[], nn.Module], given: object) -> tuple[nn.Module, Tensor, pg.ParamGraph]:
    torch.manual_seed(0)
    model = make().double().eval()
    for p in model.parameters():
        nn.init.normal_(p)
    x = given if isinstance(given, Tensor) else torch.randn(given, dtype=torch.float64)  # type: ignore[call-overload]
    return model, x, pg.compile(model, x)


def turns_of(graph: pg.ParamGraph) -> list[RotationFactor]:
    return [f for f in graph.symmetry.moves if isinstance(f, RotationFactor)]


def out(model: nn.Module, state: dict[str, Tensor], x: Tensor) -> Tensor:
    return torch.func.functional_call(model, state, x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", FOUND)
def test_which_streams(name: str) -> None:
    make, given, free, axes = FOUND[name]
    model, x, graph = made(make, given)
    (factor,) = turns_of(graph)
    assert (factor.free, len(factor.parts)) == (free, axes)
    number = graph.symmetry.moves.index(factor)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    before = out(model, state, x)
    for seed in range(3):
        motion = graph.symmetry.move(seed, [number])
        moved = motion.act(state)
        assert deviation(out(model, moved, x), before) < 1e-11
        back = motion.inverse().act(moved)
        assert all(torch.allclose(back[n], state[n]) for n in state)
    free_ones = {f.tensor for f in graph.symmetry.moves if isinstance(f, TranslationFactor) and f.dimension == state[f.tensor].numel()}
    for member in set(factor.tensors) - free_ones:
        assert not torch.allclose(moved[member], state[member])
        assert deviation(out(model, moved | {member: state[member]}, x), before) > 1e-6
    g, h = graph.symmetry.move(1, [number]), graph.symmetry.move(2, [number])
    once, twice = (g @ h).act(state), g.act(h.act(state))
    assert all(torch.allclose(once[n], twice[n]) for n in state)


@pytest.mark.parametrize("name", NONE)
def test_which_not(name: str) -> None:
    """None is declared, and one put there by hand changes the function."""
    make, given = NONE[name]
    model, x, graph = made(make, given)
    assert turns_of(graph) == []
    _, _, plain = made(*((lambda: Tokens(False), TOKENS) if isinstance(x, Tensor) and not x.is_floating_point() else (lambda: Stream(rms), VECTORS)))
    (factor,) = turns_of(plain)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    state = {n: t for n, t in state.items() if n not in graph.symmetry.aliases}
    factor = replace(factor, parts=tuple(part for part in factor.parts if part.tensor in state))
    moved = state | factor.act(factor.draw(torch.Generator().manual_seed(0), 0.5), state)
    assert deviation(out(model, moved, x), out(model, state, x)) > 1e-6


def test_more_than_the_group_fails() -> None:
    """Matrices that are not orthogonal; those that move the vector of ones, under layer norms; and readers that are not turned behind their gains."""
    model, x, graph = made(lambda: Stream(layer), VECTORS)
    (factor,) = turns_of(graph)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    bare = replace(factor, parts=tuple(replace(part, gains=()) for part in factor.parts))
    within = factor.draw(generator, 0.5)
    for wrong, matrix in ((factor, torch.eye(4, dtype=torch.float64) + 0.3), (replace(factor, centred=False), None), (bare, within)):
        moved = state | wrong.act(wrong.draw(generator, 0.5) if matrix is None else matrix, state)
        assert deviation(out(model, moved, x), out(model, state, x)) > 1e-6
    assert deviation(out(model, state | factor.act(within, state), x), out(model, state, x)) < 1e-11


@pytest.mark.parametrize("name", ["root mean squares", "written out", "gains of a block", "tokens mixed", "weighted by lengths",
                                  "weighted by inner products", "a mean added"])  # fmt: skip
def test_all_are_declared(name: str) -> None:
    make, given, *_ = FOUND[name]
    model, x, graph = made(make, given)
    report = pg.verify(graph, model, x, elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert report.passed, str(report)
    assert report.maximality is not None and report.maximality.gap > 1e4
    assert report.maximality.complete, str(report.maximality)


def test_tangents() -> None:
    model, _, graph = made(lambda: Stream(layer, scaled=True), VECTORS)
    (factor,) = turns_of(graph)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    direction = torch.randn(factor.shape, dtype=torch.float64)
    tangent = factor.tangent(direction, state)
    skew = torch.zeros(3, 3, dtype=torch.float64)
    rows, columns = torch.triu_indices(3, 3, 1)
    skew[rows, columns], skew[columns, rows] = direction, -direction
    moved = factor.act(factor._embedded(torch.linalg.matrix_exp(1e-6 * skew), 1.0), state)
    for name, change in tangent.items():
        assert torch.allclose((moved[name] - state[name]) / 1e-6, change, atol=1e-3)


def test_gains_without_inverse() -> None:
    model, _, graph = made(lambda: Stream(rms), VECTORS)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    state["n2.weight"][1] = 0.0
    (factor,) = turns_of(graph)
    moved = graph.symmetry.move(0, [graph.symmetry.moves.index(factor)]).act(state)
    assert all(torch.equal(moved[n], state[n]) for n in state)


def test_files_copies_and_printing(tmp_path: Path) -> None:
    _, _, graph = made(lambda: Stream(layer), VECTORS)
    assert graph.symmetry.moves
    assert "turns of streams, of 3 dimensions: O(3)" in str(graph.symmetry)
    graph.save(tmp_path / "a.pgraph")
    state = graph.state_dict()
    wanted = graph.symmetry.move(0).act(state)
    for group in (pg.load(tmp_path / "a.pgraph").symmetry, pickle.loads(pickle.dumps(graph.symmetry))):
        found = group.move(0).act(state)
        assert all(torch.equal(found[n], wanted[n]) for n in wanted)


def test_conjugations() -> None:
    """Powers of gains along chains of relations, and contradictions."""
    system = Conjugations()
    a, b, c, d = (system.add() for _ in range(4))
    g, h = ("g", 0.0), ("h", 0.0)
    system.relate(a, {g: 1}, b, {}, 1)  # b = a + g
    system.relate(b, {}, c, {h: 1}, -1)  # b = -(c + h)
    assert not system.of(a).rigid
    system.measure(a, {})
    assert system.of(c).rigid and not system.of(c).lost
    assert system.powers(b) == {g: 1}
    assert system.powers(c) == {g: -1, h: -1}
    system.relate(d, {}, d, {h: 1}, -1)  # d = -(d + h)
    assert system.powers(d) == {h: -0.5}
    system.relate(a, {}, c, {g: 1, h: 1}, 1)
    assert not system.of(a).lost
    system.relate(a, {}, d, {}, 1)
    assert system.of(a).lost
