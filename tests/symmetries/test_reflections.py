"""Reflections: signs of units that change more than signs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call

import paramgraph as pg
from paramgraph import ParamGraph
from paramgraph.symmetries.reflections import ReflectionFactor

State = dict[str, torch.Tensor]


class Parts(nn.Module):
    """Two layers and a function of them; a third beside."""

    def __init__(self, function: Callable[[Parts, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def perceptron(*between: nn.Module, own: bool = True, reader: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3, bias=own), *between, nn.Linear(3, 2, bias=reader))


def convolutional(*between: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), *between, nn.Flatten(), nn.Linear(features, 2))


PLANE, IMAGE = (5, 4), (2, 2, 6, 6)
# A network, the shape of its input, and the number of units of each factor.
KNOWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[int]]] = {
    "sigmoid": (lambda: perceptron(nn.Sigmoid()), PLANE, [3]),
    "sigmoid, no bias of its own": (lambda: perceptron(nn.Sigmoid(), own=False), PLANE, [3]),
    "hard-sigmoid": (lambda: perceptron(nn.Hardsigmoid()), PLANE, [3]),
    "relu6": (lambda: perceptron(nn.ReLU6()), PLANE, [3]),
    "hardtanh(0, 1)": (lambda: perceptron(nn.Hardtanh(0.0, 1.0)), PLANE, [3]),
    "clamp(-1, 3)": (lambda: perceptron(nn.Hardtanh(-1.0, 3.0)), PLANE, [3]),
    "two sigmoids": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 2)), PLANE, [3, 5]),
    "batch norm and sigmoid": (lambda: perceptron(nn.BatchNorm1d(3), nn.Sigmoid()), PLANE, [3]),
    "batch norm and relu6": (lambda: perceptron(nn.BatchNorm1d(3), nn.ReLU6()), PLANE, [3]),
    "two readers": (lambda: Parts(lambda m, x: m.b(h := torch.sigmoid(m.a(x))) * m.c(h).tanh()), PLANE, [4]),
    "sigmoid beside tanh": (lambda: Parts(lambda m, x: m.b(torch.sigmoid(h := m.a(x))) + m.c(h.tanh())), PLANE, [4]),
    "sigmoid, flattened": (lambda: convolutional(nn.Sigmoid(), features=48), IMAGE, [3]),
    "prelu": (lambda: perceptron(nn.PReLU(3)), PLANE, [3]),
    "prelu of one slope": (lambda: perceptron(nn.PReLU()), PLANE, [1]),
    "prelu, convolutions": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(3), nn.Conv2d(3, 4, 3, padding=1), nn.PReLU(4), nn.Flatten(),
                                                  nn.Linear(64, 2)), IMAGE, [3, 4]),
    "prelu, average pooling": (lambda: convolutional(nn.PReLU(3), nn.AvgPool2d(2), features=12), IMAGE, [3]),
    "batch norm and prelu": (lambda: convolutional(nn.BatchNorm2d(3), nn.PReLU(3), features=48), IMAGE, [3]),
}  # fmt: skip
# Networks that have none.
NONE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "tanh": (lambda: perceptron(nn.Tanh()), PLANE),
    "hardtanh(-1, 1)": (lambda: perceptron(nn.Hardtanh()), PLANE),
    "softplus": (lambda: perceptron(nn.Softplus()), PLANE),
    "gelu": (lambda: perceptron(nn.GELU()), PLANE),
    "silu": (lambda: perceptron(nn.SiLU()), PLANE),
    "hard-swish": (lambda: perceptron(nn.Hardswish()), PLANE),
    "relu": (lambda: perceptron(nn.ReLU()), PLANE),
    "sigmoid, no offset after": (lambda: perceptron(nn.Sigmoid(), reader=False), PLANE),
    "relu6, no bias of its own": (lambda: perceptron(nn.ReLU6(), own=False), PLANE),
    "relu6, padded after": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU6(), nn.Conv2d(3, 2, 3, padding=1)), IMAGE),
    "sigmoid and an output": (lambda: Parts(lambda m, x: torch.cat([torch.sigmoid(m.a(x)), m.b(torch.sigmoid(m.a(x)))], -1)), PLANE),
    "sigmoid, added to a stream": (lambda: Parts(lambda m, x: m.b(x + torch.sigmoid(m.a(x)))), PLANE),
    "a gate": (lambda: Parts(lambda m, x: torch.sigmoid(m.b(x)) * m.c(x)), PLANE),
    "swish by hand": (lambda: Parts(lambda m, x: m.b((h := m.a(x)) * torch.sigmoid(h))), PLANE),
    "one layer twice": (lambda: Parts(lambda m, x: m.a(torch.sigmoid(m.a(x)))), PLANE),
    "a reader used twice": (lambda: Parts(lambda m, x: m.b(torch.sigmoid(m.a(x))) + m.b(x)), PLANE),
    "relu6 beside tanh": (lambda: Parts(lambda m, x: m.b(nn.functional.relu6(h := m.a(x))) + m.c(h.tanh())), PLANE),
    "prelu, max pooling": (lambda: convolutional(nn.PReLU(3), nn.MaxPool2d(2), features=12), IMAGE),
    "prelu and gelu": (lambda: perceptron(nn.PReLU(3), nn.GELU()), PLANE),
    "prelu and layer norm": (lambda: perceptron(nn.PReLU(3), nn.LayerNorm(3)), PLANE),
}


@cache
def compiled(name: str) -> tuple[nn.Module, torch.Tensor, ParamGraph]:
    """A network of float64 with random parameters, slopes of both signs among them, its input and its graph."""
    make, shape = (KNOWN[name][:2] if name in KNOWN else NONE[name])
    torch.manual_seed(0)
    model = make().double().eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor))
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.abs_().add_(0.3)
    x = 2 * torch.randn(shape, dtype=torch.float64)
    return model, x, pg.compile(model, x)


def reflections(graph: ParamGraph) -> dict[int, ReflectionFactor]:
    return {n: factor for n, factor in enumerate(graph.symmetry.moves) if isinstance(factor, ReflectionFactor)}


def change(model: nn.Module, x: torch.Tensor, state: State) -> float:
    """Largest change of the output, relative to the largest output."""
    with torch.no_grad():
        before = model(x)
        return float((functional_call(model, state, (x,)) - before).abs().max() / before.abs().max())


def distance(a: State, b: State) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a if a[name].is_floating_point())


@pytest.mark.parametrize("name", KNOWN)
def test_known_reflections(name: str) -> None:
    model, x, graph = compiled(name)
    found = reflections(graph)
    assert [factor.size for factor in found.values()] == KNOWN[name][2]
    state = graph.state_dict()
    for number, factor in found.items():
        for seed in range(4):
            element = graph.symmetry.move(seed, [number])
            moved = element.act(state)
            assert change(model, x, moved) < 1e-12
            assert distance(element.inverse().act(moved), state) < 1e-12
            other = graph.symmetry.move(seed + 9, [number])
            assert distance((other @ element).act(state), other.act(moved)) < 1e-12
        for left_out in factor.tensors:  # every tensor has to move
            assert distance({left_out: moved[left_out]}, {left_out: state[left_out]}) > 1e-3
            assert change(model, x, moved | {left_out: state[left_out]}) > 1e-6


@pytest.mark.parametrize("name", NONE)
def test_no_reflections(name: str) -> None:
    assert not reflections(compiled(name)[2])


@pytest.mark.parametrize("name", ["sigmoid", "prelu, convolutions", "relu6"])
def test_verified(name: str) -> None:
    model, x, graph = compiled(name)
    report = pg.verify(graph, model, (x,), elements=1, inputs=2, leave_one_out=0)
    assert report.passed, str(report)
    assert any("reflections" in label for label in report.matrices)
    assert "reflections of" in str(graph.symmetry)


def test_continuous_symmetries_are_counted_beside_them() -> None:
    model, x, graph = compiled("sigmoid")
    report = pg.verify(graph, model, (x,), elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert report.maximality is not None and report.maximality.complete


def test_a_slope_without_inverse_stays() -> None:
    model, x, graph = compiled("prelu")
    (number,) = reflections(graph)
    state = graph.state_dict()
    for slope, kept in ((0.0, True), (1e-320, True), (-1.0, False)):
        given = state | {"1.weight": torch.tensor([slope, 0.5, 2.0], dtype=torch.float64)}
        element = graph.symmetry.move(1, [number])
        element.steps[0][1][:] = True
        moved = element.act(given)
        assert all(bool(value.isfinite().all()) for value in moved.values())
        assert torch.equal(moved["0.weight"][0], given["0.weight"][0]) == kept
        with torch.no_grad():
            assert torch.allclose(functional_call(model, moved, (x,)), functional_call(model, given, (x,)), rtol=1e-12)


def test_saved_and_loaded(tmp_path: Path) -> None:
    graph = compiled("prelu, convolutions")[2]
    graph.save(tmp_path / "graph.pgraph")
    loaded = pg.load(tmp_path / "graph.pgraph")
    assert [str(f) for f in loaded.symmetry.moves] == [str(f) for f in graph.symmetry.moves]
    for number in reflections(graph):
        state = graph.state_dict()
        assert distance(graph.symmetry.move(2, [number]).act(state), loaded.symmetry.move(2, [number]).act(state)) == 0
