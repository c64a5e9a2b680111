"""Scales of what is made of parameters wherever they are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import paramgraph as pg
from paramgraph.symmetries.affine_scales import AffineScaleFactor

Tensor = torch.Tensor
State = dict[str, Tensor]
Function = Callable[["Net", Tensor], Tensor | tuple[Tensor, ...]]
EPS = 0.3


class Net(nn.Module):
    """A function of two layers, a bare normalisation, and vectors."""

    def __init__(self, function: Function, second: int = 3) -> None:
        super().__init__()
        self.a, self.n, self.m, self.b = nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4, EPS, affine=False), nn.BatchNorm1d(4, EPS, affine=False), \
            nn.Linear(4, second)  # fmt: skip
        self.g, self.h = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))
        self.function = function

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.function(self, x)


def norm(m: Net, x: Tensor, eps: float = EPS, var: Tensor | None = None, gain: Tensor | None = None) -> Tensor:
    """The normalisation by the statistics of `m.n`, but for what is given."""
    return F.batch_norm(x, m.n.running_mean, m.n.running_var if var is None else var, gain, None, False, 0.0, eps)


def made(function: Function, second: int = 3) -> tuple[Net, Tensor, pg.ParamGraph, dict[int, AffineScaleFactor]]:
    torch.manual_seed(0)
    model, x = Net(function, second).double().eval(), torch.randn(6, 3, dtype=torch.float64)
    for n in (model.n, model.m):
        n.running_mean.normal_()
        n.running_var.copy_(torch.rand(4) + 0.5)
    graph = pg.compile(model, x)
    return model, x, graph, {n: f for n, f in enumerate(graph.symmetry.moves) if isinstance(f, AffineScaleFactor)}


@torch.no_grad()
def change(model: nn.Module, x: Tensor, state: State) -> float:
    """By how much the outputs change."""
    before, after = model(x), torch.func.functional_call(model, state, (x,))
    pairs = zip(before, after, strict=True) if isinstance(before, tuple) else [(before, after)]
    return max(float((p - q).abs().max()) for p, q in pairs)


# Per network, what may be multiplied with its constant, and all that is multiplied.
KNOWN: dict[str, tuple[Function, dict[str, float], set[str]]] = {
    "a variance": (lambda m, x: m.b(m.n(m.a(x)).tanh()), {"n.running_var": EPS}, {"a.weight", "n.running_mean"}),
    "behind the variance": (lambda m, x: m.b(m.n(m.a(x).tanh())), {"n.running_var": EPS}, {"b.weight"}),
    "one normalisation twice": (lambda m, x: m.b(m.n(m.a(x)).tanh() * m.n(m.a(2 * x)).sigmoid()), {"n.running_var": EPS},
                                {"a.weight", "n.running_mean"}),
    "one variance, two means": (lambda m, x: m.b(m.n(m.a(x)).tanh() * F.batch_norm(m.a(x), m.m.running_mean, m.n.running_var, eps=EPS).sigmoid()),
                                {"n.running_var": EPS}, {"a.weight", "n.running_mean", "m.running_mean"}),
    "one gain, two variances": (lambda m, x: m.b(norm(m, m.a(x), gain=m.g).tanh() * norm(m, m.a(x), var=m.m.running_var, gain=m.g).sigmoid()),
                                {"n.running_var": EPS, "m.running_var": EPS}, {"g"}),
    "written out": (lambda m, x: m.b(((m.a(x) - m.g) / (m.n.running_var + EPS).sqrt()).tanh()), {"n.running_var": EPS}, {"a.weight", "g"}),
    "a gain and one": (lambda m, x: m.b(m.a(x).sigmoid() * (1 + m.g)), {"g": 1.0}, {"b.weight"}),
    "a gain less two": (lambda m, x: m.b(m.a(x).sigmoid() * (m.g - 2)), {"g": -2.0}, {"b.weight"}),
    "three less a gain": (lambda m, x: m.b(m.a(x).sigmoid() * (3 - m.g)), {"g": -3.0}, {"b.weight"}),
    "a view of a gain": (lambda m, x: m.b(m.a(x).sigmoid() * (m.g.view(2, 2) + 0.5).view(1, 4)), {"g": 0.5}, {"b.weight"}),
    "a temperature's logarithm": (lambda m, x: m.b(m.a(x).sigmoid() * (-2 * m.g).exp()), {"g": -2.0}, {"b.weight"}),
    "of base two": (lambda m, x: m.b(m.a(x).sigmoid() / m.g.exp2()), {"g": math.log(2)}, {"b.weight"}),
    "a softplus": (lambda m, x: m.b(m.a(x).sigmoid() / F.softplus(m.g)), {"g": 1.0}, {"b.weight"}),
    "a bias in an exponent": (lambda m, x: m.b((0.5 * (m.a(x) + m.g)).exp()), {"g": 0.5}, {"b.weight"}),
    "what is taken away in an exponent": (lambda m, x: m.b((m.a(x).tanh() - m.g).exp().view(-1, 2, 2).flatten(1)), {"g": -1.0}, {"b.weight"}),
    "two biases in an exponent": (lambda m, x: m.b((m.a(x) + m.g + m.h).exp()), {"h": 1.0}, {"b.weight"}),
    "one bias in two exponents": (lambda m, x: m.b((m.a(x) + m.g).exp() + (m.a(-x).tanh() + m.g).exp()), {"g": 1.0}, {"b.weight"}),
    "two gains, exchangeable": (lambda m, x: m.b(m.a(x).sigmoid() * (1 + m.g) * (1 + m.h)), {"g": 1.0, "h": 1.0}, {"b.weight"}),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_found_holds(name: str) -> None:
    function, constants, others = KNOWN[name]
    model, x, graph, found = made(function)
    members = graph.symmetry.members
    assert {member: c for f in found.values() for action, c in f.constants.items() for member in members(action)} == constants
    assert {member for f in found.values() for action in f.tensors for member in members(action)} - constants.keys() <= others
    assert sum(f.dimension for f in found.values()) == (4 if name == "one gain, two variances" else 4 * len(constants))
    state = model.state_dict()
    for number in found:
        g, h = graph.symmetry.move(1, [number]), graph.symmetry.move(2, [number])
        moved = g.act(state)
        assert any(not torch.equal(moved[n], state[n]) for n in constants) and change(model, x, moved) < 1e-12
        once, twice, back = (g @ h).act(state), g.act(h.act(state)), g.inverse().act(moved)
        assert all(torch.allclose(once[n], twice[n]) and torch.allclose(back[n], state[n]) for n in state)
        for left in (n for n in state if not torch.equal(moved[n], state[n])):
            assert change(model, x, {**moved, left: state[left]}) > 1e-6
    report = pg.verify(graph, model, x, elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert report.passed and report.maximality is not None, str(report)
    # A running mean that only the bias of a later layer makes up for is not declared.
    assert report.maximality.nullity - report.maximality.declared == (4 if name == "behind the variance" else 0)


def test_the_tangent_is_the_derivative() -> None:
    model, _, _, found = made(KNOWN["a variance"][0])
    (factor,), state = found.values(), model.state_dict()
    direction = torch.randn(factor.shape, dtype=torch.float64)
    tangent = factor.tangent(direction, state)
    plus, minus = factor.act(1e-6 * direction, state), factor.act(-1e-6 * direction, state)
    assert set(tangent) == set(plus)
    assert all(torch.allclose((plus[n] - minus[n]) / 2e-6, tangent[n], atol=1e-8) for n in tangent)


def test_a_variance_may_come_out_negative() -> None:
    model, x, graph, found = made(KNOWN["a variance"][0])
    ((number, factor),) = found.items()
    moved = {**model.state_dict(), **factor.act(torch.full(factor.shape, -1.0, dtype=torch.float64), model.state_dict())}
    assert moved["n.running_var"].min() < 0 and change(model, x, moved) < 1e-12
    assert str(factor) == "ℝ₊^4: scales of n.running_var with what is added to them"
    assert "scales of what is made of parameters, of 4 dimensions, in 1 factors" in str(graph.symmetry)


def test_each_element_is_drawn_alike() -> None:
    _, _, _, found = made(KNOWN["a variance"][0])
    (factor,) = found.values()
    generator, ones = torch.Generator().manual_seed(0), {n: torch.ones(4, 3) if n == "a.weight" else torch.ones(4) for n in factor.tensors}
    drawn = torch.stack([factor.act(factor.draw(generator, 0.5), ones)["n.running_mean"].log() for _ in range(2000)])
    assert torch.allclose(drawn.std(0), torch.full((4,), 0.5), atol=0.05)


def scaled(eps: float = EPS) -> Callable[[State], State]:
    """A variance multiplied with its ε, and what comes in by the root."""
    return lambda s: {"n.running_var": 4 * (s["n.running_var"] + eps) - eps, "a.weight": 2 * s["a.weight"], "n.running_mean": 2 * s["n.running_mean"]}


def gain(s: State) -> State:
    return {"g": 2 * (s["g"] + 1) - 1, "b.weight": s["b.weight"] / 2}


def exponent(s: State) -> State:
    return {"g": s["g"] + 1, "b.weight": s["b.weight"] / math.e}


# Networks of which nothing is found, and what would be done were they others.
NONE: dict[str, tuple[Function, Callable[[State], State]]] = {
    "a variance that is read elsewhere": (lambda m, x: (m.b(m.n(m.a(x)).tanh()), m.n.running_var.sin() + x.sum()), scaled()),
    "a variance that comes out": (lambda m, x: (m.b(m.n(m.a(x)).tanh()), m.n.running_var.view(2, 2)), scaled()),
    "one variance, two of ε": (lambda m, x: m.b(norm(m, m.a(x)).tanh() * norm(m, m.a(x), eps=0.7).sigmoid()), scaled()),
    "one variance, one of two layers scaled": (lambda m, x: m.b(m.n(m.a(x)).tanh() * m.n(x[:, :1].expand(-1, 4)).sigmoid()), scaled()),
    "a mean that is the variance": (lambda m, x: m.b(F.batch_norm(m.a(x), m.n.running_var, m.n.running_var, eps=EPS).tanh()), scaled()),
    "nothing that can be scaled before": (lambda m, x: m.b(norm(m, m.a(x).tanh()).tanh()), scaled()),
    "two constants": (lambda m, x: m.b(m.a(x).sigmoid() * (1 + m.g)) + m.b(m.a(x).tanh() * (2 + m.g)), gain),
    "with a constant and without": (lambda m, x: m.b(m.a(x).sigmoid() * (1 + m.g)) + m.b(m.a(x).tanh() * m.g), gain),
    "a function of the sum": (lambda m, x: m.b(m.a(x).sigmoid() * (1 + m.g).sin()), gain),
    "an exponential and the parameter": (lambda m, x: m.b(m.a(x).sigmoid() * m.g.exp()) + m.b(m.a(x).tanh() * m.g), exponent),
    "two exponentials": (lambda m, x: m.b(m.a(x).sigmoid() * m.g.exp()) + m.b(m.a(x).tanh() * (2 * m.g).exp()), exponent),
    "an exponent that is read elsewhere": (lambda m, x: (lambda y: m.b(y.exp()) + m.b(y.tanh()))(m.a(x) + m.g), exponent),
    "a function of the exponential": (lambda m, x: m.b(m.a(x).sigmoid() * m.g.exp().sin()), exponent),
    "a multiple of it": (lambda m, x: m.b(m.a(x).sigmoid() * torch.add(1 + m.h * 0, m.g, alpha=2)), gain),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_what_is_not_found_does_not_hold(name: str) -> None:
    function, move = NONE[name]
    model, x, _, found = made(function)
    assert not found
    state = model.state_dict()
    assert change(model, x, {**state, **move(state)}) > 1e-6


@pytest.mark.parametrize(("size", "function"), [(30.0, F.softplus), (-60.0, F.softplus), (-700.0, torch.exp)])
def test_far_from_zero(size: float, function: Callable[[Tensor], Tensor]) -> None:
    """Torch's softplus is the identity above 20, and next to nothing far below zero."""
    model, _, graph, found = made(lambda m, x: m.b(m.a(x).sigmoid() * function(m.g)))
    state = {**model.state_dict(), "g": torch.linspace(size - 12, size + 12, 4, dtype=torch.float64)}
    moved = graph.symmetry.move(1, list(found), sigma=3.0).act(state)
    before, after = (function(s["g"]) * s["b.weight"] for s in (state, moved))
    assert bool(moved["g"].isfinite().all()) and torch.allclose(before, after, rtol=1e-12, atol=0)


def test_training_has_none() -> None:
    graph = pg.compile(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Tanh()).train(), torch.randn(5, 3))
    assert not any(isinstance(factor, AffineScaleFactor) for factor in graph.symmetry.moves)


@pytest.mark.parametrize("name", ["a variance", "a bias in an exponent", "a softplus"])
def test_files_hold_them(tmp_path: Path, name: str) -> None:
    model, x, graph, found = made(KNOWN[name][0])
    graph.save(tmp_path / "n.pgraph")
    loaded = pg.load(tmp_path / "n.pgraph")
    assert [str(f) for f in loaded.symmetry.moves] == [str(f) for f in graph.symmetry.moves]
    once, twice = (g.symmetry.move(0, list(found)).act(model.state_dict()) for g in (graph, loaded))
    assert all(torch.equal(once[n], twice[n]) for n in once) and change(model, x, twice) < 1e-12
