"""Additions to parameters that other parameters take to zero."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.symmetries.vanishing import VanishingFactor

Tensor = torch.Tensor
SPECTRAL = nn.utils.parametrizations.spectral_norm


class Net(nn.Module):
    """A function of layers and vectors."""

    def __init__(self, function: Callable[[Net, Tensor], Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(5, 3, bias=False), nn.Linear(3, 7, bias=False)
        self.u, self.v, self.w, self.p = (nn.Parameter(torch.randn(shape)) for shape in (5, 4, (5, 4), (2, 5)))
        self.function = function

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.function(self, x)


def found_in(graph: pg.ParamGraph) -> dict[int, VanishingFactor]:
    return {n: f for n, f in enumerate(graph.symmetry.moves) if isinstance(f, VanishingFactor)}


def made(make: Callable[[], nn.Module], x: Tensor) -> tuple[nn.Module, Tensor, pg.ParamGraph, dict[int, VanishingFactor]]:
    torch.manual_seed(0)
    model, x = make().double().eval(), x.double()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.normal_()
    graph = pg.compile(model, x)
    return model, x, graph, found_in(graph)


@torch.no_grad()
def change(model: nn.Module, x: Tensor, state: dict[str, Tensor]) -> float:
    before, after = model(x), torch.func.functional_call(model, state, (x,))
    pairs = zip(before, after, strict=True) if isinstance(before, tuple) else [(before, after)]
    return max(float((p - q).abs().max() / p.abs().max().clamp(min=1)) for p, q in pairs)


VECTORS, IMAGES = torch.randn(6, 3), torch.randn(4, 3, 3, 3)


def of(function: Callable[[Net, Tensor], Tensor | tuple[Tensor, ...]]) -> Callable[[], nn.Module]:
    return lambda: Net(function)


# Per network, its inputs, and how many dimensions are found for each parameter.
NAME = "0.parametrizations.weight."
KNOWN: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, int]]] = {
    "spectral norm": (lambda: nn.Sequential(SPECTRAL(nn.Linear(3, 5)), nn.Tanh()), VECTORS, {f"{NAME}0._u": 4, f"{NAME}0._v": 2}),
    "… of a convolution": (lambda: nn.Sequential(SPECTRAL(nn.Conv2d(3, 4, 2)), nn.Tanh()), IMAGES, {f"{NAME}0._u": 3, f"{NAME}0._v": 11}),
    "… as it was before": (lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 5)), nn.Tanh()), VECTORS, {"0.weight_u": 4, "0.weight_v": 2}),
    "a form of two vectors": (of(lambda m, x: x * torch.tanh(m.u @ m.w @ m.v)), VECTORS, {"u": 4, "v": 3, "w": 19}),
    "two readers": (of(lambda m, x: x * (torch.tanh(m.u @ m.w @ m.v) + m.u.sum().sin())), VECTORS, {"u": 3, "v": 3, "w": 19}),
    "an output beside": (of(lambda m, x: (x * torch.tanh(m.u @ m.w @ m.v), m.b(m.u))), VECTORS, {"u": 1, "v": 3, "w": 19, "b.weight": 12}),
    "a narrow reader": (of(lambda m, x: torch.tanh(m.b(m.a(x)))), VECTORS, {"a.bias": 2}),
    "a narrow reader of an offset": (lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6, 0.3), nn.Linear(6, 3, bias=False), nn.Tanh()),
                                     torch.randn(9, 5), {"1.bias": 3}),
    "a narrow reader before another": (of(lambda m, x: torch.tanh(m.c(m.b(m.a(x))))), VECTORS, {"a.bias": 2}),
    "a matrix": (of(lambda m, x: x.sum(1, True) * torch.tanh(m.p @ m.w).flatten()), VECTORS, {"p": 2, "w": 12}),
    "sums": (of(lambda m, x: x * torch.tanh((m.u * m.a.bias).sum() + m.u.mean())), VECTORS, {"u": 4, "a.bias": 4}),
}  # fmt: skip
# Of which there are symmetries of other kinds, which are not declared: a vector may be scaled if what a third one makes of it is kept.
INCOMPLETE = {"two readers", "an output beside", "sums"}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_found_holds(name: str) -> None:
    make, x, wanted = KNOWN[name]
    model, x, graph, found = made(make, x)
    assert {f.tensor: f.dimension for f in found.values()} == wanted
    state = model.state_dict()
    for number, factor in found.items():
        g, h = graph.symmetry.move(1, [number]), graph.symmetry.move(2, [number])
        moved = g.act(state)
        assert {n for n in state if not torch.equal(moved[n], state[n])} == {factor.tensor} and change(model, x, moved) < 1e-12
        once, twice, back = (g @ h).act(state), g.act(h.act(state)), g.inverse().act(moved)
        assert all(torch.allclose(once[n], twice[n]) and torch.allclose(back[n], state[n]) for n in state)
        span = torch.stack([factor.tangent(unit.reshape(factor.shape), state)[factor.tensor].reshape(-1)
                            for unit in torch.eye(state[factor.tensor].numel(), dtype=torch.float64)])  # fmt: skip
        assert torch.linalg.matrix_rank(span) == factor.dimension
        anything = torch.randn(factor.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        assert change(model, x, {**state, factor.tensor: state[factor.tensor] + anything}) > 1e-6
    report = pg.verify(graph, model, x, elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert report.passed and report.maximality is not None and (report.maximality.complete or name in INCOMPLETE), str(report)


@pytest.mark.parametrize("function", [
    lambda m, x: x * torch.tanh(m.u @ torch.arange(5.0).sin().to(x.dtype)),  # a table that is rounded: another one in other arithmetic
    lambda m, x: x * (torch.tanh(m.u @ m.w @ m.v) + m.u.sin().sum()),  # a function of its elements
    lambda m, x: (x * torch.tanh(m.u @ m.w @ m.v), m.u),  # it comes out itself
    lambda m, x: x * torch.tanh(m.u @ m.u),  # what it is multiplied with is what is moved
    lambda m, x: torch.tanh(m.a(x) @ m.u),  # with what depends on the input
    lambda m, x: x * torch.tanh(m.u[:4] @ m.v),  # a part of it is not read
    lambda m, x: torch.tanh(m.b(m.a(x))) * m.b(m.u.sin() * m.u),
    lambda m, x: x * torch.tanh((m.u * 2).sum() * m.u.amax()),
], ids=["rounded", "a function of it", "an output", "with itself", "with inputs", "a part", "a product with itself", "a maximum"])  # fmt: skip
def test_what_is_not_known_is_left_alone(function: Callable[[Net, Tensor], Tensor | tuple[Tensor, ...]]) -> None:
    model, x, graph, found = made(of(function), VECTORS)
    assert all(factor.tensor != "u" for factor in found.values())
    report = pg.verify(graph, model, x, elements=1, inputs=1, leave_one_out=0)
    assert report.passed, str(report)


def test_where_there_is_nothing_to_be_orthogonal_to_anything_may_be_added() -> None:
    model, x, graph, found = made(*KNOWN["a form of two vectors"][:2])
    state = {**model.state_dict(), "v": torch.zeros(4, dtype=torch.float64)}
    (factor,) = (f for f in found.values() if f.tensor == "u")
    added = torch.randn(5, dtype=torch.float64)
    moved = factor.act(added, state)["u"]
    assert torch.equal(moved, state["u"] + added)
    before, after = (torch.func.functional_call(model, s, (x,)) for s in (state, {**state, "u": moved}))
    assert torch.equal(before, after)


def test_what_is_not_finite_is_left_alone() -> None:
    model, _, _, found = made(*KNOWN["a form of two vectors"][:2])
    (factor,) = (f for f in found.values() if f.tensor == "u")
    state = {**model.state_dict(), "v": torch.full((4,), torch.inf, dtype=torch.float64)}
    assert torch.equal(factor.act(torch.ones(5, dtype=torch.float64), state)["u"], state["u"])


def test_small_and_large_rows_count_alike() -> None:
    """A map of small numbers beside one of large ones takes as much away."""
    model, x, _, found = made(*KNOWN["two readers"][:2])
    (factor,) = (f for f in found.values() if f.tensor == "u")
    state = {**model.state_dict(), "v": 1e-18 * torch.ones(4, dtype=torch.float64)}
    added = factor.tangent(torch.randn(5, dtype=torch.float64), state)["u"]
    assert abs(float(added @ state["w"].sum(1))) < 1e-12 and abs(float(added.sum())) < 1e-12


def test_no_mode_of_the_caller_matters() -> None:
    model, x, graph, found = made(*KNOWN["spectral norm"][:2])
    state = model.state_dict()
    wanted = graph.symmetry.move(0, list(found)).act(state)
    with torch.no_grad():
        assert all(torch.equal(tensor, wanted[n]) for n, tensor in graph.symmetry.move(0, list(found)).act(state).items())
    with torch.inference_mode():
        held = {n: tensor.clone() for n, tensor in state.items()}
        assert all(torch.equal(tensor, wanted[n]) for n, tensor in graph.symmetry.move(0, list(found)).act(held).items())


def test_files_hold_them(tmp_path: Path) -> None:
    model, x, graph, found = made(*KNOWN["spectral norm"][:2])
    graph.save(tmp_path / "n.pgraph")
    loaded = pg.load(tmp_path / "n.pgraph")
    assert [str(f) for f in loaded.symmetry.moves] == [str(f) for f in graph.symmetry.moves]
    assert "ℝ^4: additions to 0.parametrizations.weight.0._u, taken to zero" in map(str, loaded.symmetry.moves)
    moved = loaded.symmetry.move(0, list(found)).act(model.state_dict())
    assert change(model, x, moved) < 1e-12
