"""Offsets of layer normalisations whose readers have no bias: which, that the function stays, and what forbids them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import paramgraph as pg
from paramgraph.symmetries.offsets import OffsetFactor
from paramgraph.symmetries.readers import ReadOffsetFactor
from tests.symmetries.test_additions import EPS, TOKENS, Layers, linear, norm
from tests.symmetries.test_matrices import deviation
from tests.symmetries.test_offsets import made


def both(m: Layers, x: Tensor) -> Tensor:
    y = m.n(x)
    return torch.tanh(m.a(y)) * torch.sigmoid(m.b(y.mean(1, keepdim=True)))


def packed(m: Layers, x: Tensor) -> Tensor:
    """One parameter, whose slices are read apart."""
    a, b = m.a(m.n(x)).chunk(2, -1)
    return torch.tanh(a) * torch.sigmoid(b)


FOUND: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "two readers": (lambda: Layers(both, n=norm(5), a=linear(5, 4, False), b=linear(5, 4, False)), {"n.bias", "a.weight", "b.weight"}),
    "one of them with a bias": (lambda: Layers(both, n=norm(5), a=linear(5, 4, False), b=linear(5, 4)), {"n.bias", "a.weight", "b.weight"}),
    "a packed reader": (lambda: Layers(packed, n=norm(5), a=linear(5, 8, False)), {"n.bias", "a.weight"}),
}
NONE: dict[str, Callable[[], nn.Module]] = {
    "biases that make up for it": lambda: Layers(both, n=norm(5), a=linear(5, 4), b=linear(5, 4)),
    "root mean square": lambda: Layers(lambda m, x: torch.tanh(m.a(m.n(x) + m.offset)), n=nn.RMSNorm(5, EPS), offset=(5,), a=linear(5, 4, False)),
    "a function beside": lambda: Layers(lambda m, x: torch.tanh(m.a(m.n(x))) + m.n(x).sin().sum(-1, True), n=norm(5), a=linear(5, 4, False)),
    "a sum beside": lambda: Layers(lambda m, x: torch.tanh(m.a(m.n(x)) + m.a(x)), n=norm(5), a=linear(5, 4, False)),
    "an offset that is read elsewhere": lambda: Layers(lambda m, x: torch.tanh(m.a(m.n(x))) + m.n.bias.sin().sum(), n=norm(5), a=linear(5, 4, False)),
    "along another axis": lambda: Layers(lambda m, x: torch.tanh(m.n(x).mT @ m.w), n=norm(5), w=(6, 4)),
}


def found_in(graph: pg.ParamGraph) -> dict[int, ReadOffsetFactor]:
    return {n: factor for n, factor in enumerate(graph.symmetry.moves) if isinstance(factor, ReadOffsetFactor)}


@pytest.mark.parametrize("name", FOUND)
def test_which(name: str) -> None:
    model, x, graph = made(FOUND[name][0], TOKENS)
    ((number, factor),) = found_in(graph).items()
    assert set(factor.tensors) == FOUND[name][1] and factor.dimension == 5
    state = {n: t.detach() for n, t in model.state_dict().items()}
    before = torch.func.functional_call(model, state, x)
    g, h = (graph.symmetry.move(seed, [number], sigma=0.1) for seed in (1, 2))
    moved = g.act(state)
    assert deviation(torch.func.functional_call(model, moved, x), before) < 1e-11
    for member in factor.tensors:
        assert deviation(torch.func.functional_call(model, moved | {member: state[member]}, x), before) > 1e-6
    once, twice, back = (g @ h).act(state), g.act(h.act(state)), g.inverse().act(moved)
    assert all(torch.allclose(once[n], twice[n]) and torch.allclose(back[n], state[n]) for n in state)
    direction = torch.randn(5, dtype=torch.float64)
    small = factor.act(1e-6 * direction, state)
    assert all(torch.allclose((small[n] - state[n]) / 1e-6, change, atol=1e-3) for n, change in factor.tangent(direction, state).items())


@pytest.mark.parametrize("name", NONE)
def test_which_not(name: str) -> None:
    _, _, graph = made(NONE[name], TOKENS)
    assert not found_in(graph)
    if name == "biases that make up for it":
        assert any(isinstance(factor, OffsetFactor) and factor.tensor == "n.bias" for factor in graph.symmetry.moves)


def test_an_offset_that_sums_to_zero() -> None:
    """Over the gain: nothing is added, as there is nothing to divide by."""
    model, _, graph = made(FOUND["two readers"][0], TOKENS)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    ((_, factor),) = found_in(graph).items()
    acted = factor.act(-state["n.bias"], state)
    assert all(torch.equal(acted[n], state[n]) for n in acted)


def test_files(tmp_path: Path) -> None:
    _, _, graph = made(FOUND["a packed reader"][0], TOKENS)
    graph.save(tmp_path / "a.pgraph")
    state = graph.state_dict()
    wanted, found = graph.symmetry.move(0).act(state), pg.load(tmp_path / "a.pgraph").symmetry.move(0).act(state)
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)
