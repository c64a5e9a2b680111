"""Sums of what a layer normalisation has made, added to its readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph import ParamGraph
from paramgraph.symmetries.offsets import OffsetFactor
from paramgraph.symmetries.translations import TranslationFactor
from tests.symmetries.test_reflections import change, distance


class Normalised(nn.Module):
    """Two layers that read one normalisation."""

    def __init__(self, function: Callable[[Normalised, torch.Tensor], torch.Tensor], norm: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.i, self.n = nn.Linear(4, 6), norm
        self.a, self.b = nn.Linear(6, 5, bias=bias), nn.Linear(6, 5, bias=bias)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, self.n(self.i(x)))


def layer_norm(**options: bool) -> nn.Module:
    return nn.LayerNorm(6, eps=0.3, **options)


# A network, and the dimension of each factor.
KNOWN: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "two readers": (lambda: Normalised(lambda m, h: m.a(h).tanh() * m.b(h), layer_norm()), [5, 5]),
    "no offset": (lambda: Normalised(lambda m, h: m.a(h).tanh() * m.b(h), layer_norm(bias=False), bias=False), [5, 5]),
    "no gain": (lambda: Normalised(lambda m, h: m.a(h).tanh(), layer_norm(elementwise_affine=False), bias=False), [5]),
    "a token taken": (lambda: Normalised(lambda m, h: m.a(h[:, 0]).tanh(), layer_norm()), [5]),
    "a mean of tokens": (lambda: Normalised(lambda m, h: m.a(h.mean(1)).tanh(), layer_norm()), [5]),
    "in another order": (lambda: Normalised(lambda m, h: m.a(h.transpose(0, 1).flatten(0, 1)).tanh(), layer_norm()), [5]),
}
NONE: dict[str, Callable[[], nn.Module]] = {
    "an offset and no bias": lambda: Normalised(lambda m, h: m.a(h).tanh(), layer_norm(), bias=False),
    "root mean square": lambda: Normalised(lambda m, h: m.a(h).tanh(), nn.RMSNorm(6)),
    "a function between": lambda: Normalised(lambda m, h: m.a(h.tanh()), layer_norm()),
    "a stream beside": lambda: Normalised(lambda m, h: m.a(h + h.sin()), layer_norm()),
    "one reader of two values": lambda: Normalised(lambda m, h: m.a(h) + m.a(h.tanh()), layer_norm()),
    "a part of it": lambda: Normalised(lambda m, h: h[..., :5] @ m.a.weight[:, :5].T, layer_norm(elementwise_affine=False)),
}


def compiled(make: Callable[[], nn.Module]) -> tuple[nn.Module, torch.Tensor, ParamGraph]:
    torch.manual_seed(0)
    model = make().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    return model, x, pg.compile(model, x)


def centred(graph: ParamGraph) -> dict[int, OffsetFactor | TranslationFactor]:
    """The factors that add to a reader."""
    moves = enumerate(graph.symmetry.moves)
    return {n: f for n, f in moves if isinstance(f, (OffsetFactor, TranslationFactor)) and f.tensor in ("a.weight", "b.weight")}


@pytest.mark.parametrize("name", KNOWN)
def test_known_additions(name: str) -> None:
    model, x, graph = compiled(KNOWN[name][0])
    found = centred(graph)
    assert [factor.dimension for factor in found.values()] == KNOWN[name][1]
    state = graph.state_dict()
    for number, factor in found.items():
        for seed in range(3):
            element, other = graph.symmetry.move(seed, [number]), graph.symmetry.move(seed + 9, [number])
            moved = element.act(state)
            assert change(model, x, moved) < 1e-12
            assert distance(element.inverse().act(moved), state) < 1e-12
            assert distance((other @ element).act(state), other.act(moved)) < 1e-12
        for left_out in factor.tensors:
            assert distance({left_out: moved[left_out]}, {left_out: state[left_out]}) > 1e-3
            if len(factor.tensors) > 1:
                assert change(model, x, moved | {left_out: state[left_out]}) > 1e-6


@pytest.mark.parametrize("name", NONE)
def test_no_additions(name: str) -> None:
    assert not centred(compiled(NONE[name])[2])


def test_a_gain_along_another_axis_of_the_same_size() -> None:
    """An instance normalisation's gain and offset are its channels', not its positions'."""
    model, x = Normalised(lambda m, h: m.a(h).tanh(), nn.InstanceNorm1d(6, affine=True)).double(), torch.randn(3, 6, 4, dtype=torch.float64)
    graph = pg.compile(model, x)
    assert not centred(graph)
    assert pg.verify(graph, model, (x,)).passed


def test_they_are_declared_dimensions(tmp_path: Path) -> None:
    model, x, graph = compiled(KNOWN["two readers"][0])
    report = pg.verify(graph, model, (x,), elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert report.passed, str(report)
    # 6 gains into readers, 4 + 1 additions to the writer, 10 to the readers; O(5) that fixes the vector of ones is not declared.
    assert report.maximality is not None and report.maximality.declared >= 6 + 5 + 10
    graph.save(tmp_path / "graph.pgraph")
    loaded = pg.load(tmp_path / "graph.pgraph")
    (number, *_), state = centred(graph), graph.state_dict()
    assert distance(graph.symmetry.move(2, [number]).act(state), loaded.symmetry.move(2, [number]).act(state)) == 0


def test_a_gain_without_inverse() -> None:
    model, x, graph = compiled(KNOWN["two readers"][0])
    state = graph.state_dict() | {"n.weight": torch.tensor([0.0, 1, 2, 3, 4, 5], dtype=torch.float64)}
    for number in centred(graph):
        assert distance(graph.symmetry.move(0, [number]).act(state), state) == 0
