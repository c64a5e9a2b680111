"""Phase shifts of sines and cosines."""

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
from paramgraph.symmetries.phases import PhaseFactor
from tests.symmetries.test_reflections import Parts, change, distance


def siren(frequency: float) -> nn.Module:
    def forward(parts: Parts, x: torch.Tensor) -> torch.Tensor:
        return parts.b(torch.sin(frequency * parts.a(torch.sin(frequency * parts.first(x)))))

    parts = Parts(forward)
    parts.first = nn.Linear(4, 4)
    return parts


# A network and what its factors' biases are.
KNOWN: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "siren": (lambda: siren(30.0), ["first.bias", "a.bias"]),
    "cosine": (lambda: Parts(lambda m, x: m.b(m.a(x).cos())), ["a.bias"]),
    "divided": (lambda: Parts(lambda m, x: m.b((m.a(x) / 3).sin())), ["a.bias"]),
    "an odd function after": (lambda: Parts(lambda m, x: m.b(m.a(x).sin().tanh())), ["a.bias"]),
    "a square after": (lambda: Parts(lambda m, x: m.b(m.a(x).sin() ** 2)), ["a.bias"]),
}
NONE: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: Parts(lambda m, x: m.b(m.a(x).tanh())),
    "no bias": lambda: Parts(lambda m, x: m.b((x @ m.a.weight.T).sin())),
    "added to a stream": lambda: Parts(lambda m, x: m.b(x + m.a(x).sin())),
    "an output": lambda: Parts(lambda m, x: m.a(x).sin()),
    "gelu after": lambda: Parts(lambda m, x: m.b(nn.functional.gelu(m.a(x).sin()))),
    "snake": lambda: Parts(lambda m, x: m.b((h := m.a(x)) + h.sin() ** 2)),
    "sine and cosine of one value": lambda: Parts(lambda m, x: m.b((h := m.a(x)).sin()) + m.c(h.cos())),
    "one layer twice": lambda: Parts(lambda m, x: m.a(m.a(x).sin())),
    "a bias used twice": lambda: Parts(lambda m, x: m.b(m.a(x).sin()) * m.a.bias.sum()),
    "a learned frequency": lambda: Parts(lambda m, x: m.b((m.a(x) * m.c.bias[0]).sin())),
}


@cache
def compiled(name: str) -> tuple[nn.Module, torch.Tensor, ParamGraph]:
    torch.manual_seed(0)
    model = (KNOWN[name][0] if name in KNOWN else NONE[name])().double()
    x = torch.randn(5, 4, dtype=torch.float64)
    return model, x, pg.compile(model, x)


def phases(graph: ParamGraph) -> dict[int, PhaseFactor]:
    return {n: factor for n, factor in enumerate(graph.symmetry.moves) if isinstance(factor, PhaseFactor)}


@pytest.mark.parametrize("name", KNOWN)
def test_known_phase_shifts(name: str) -> None:
    model, x, graph = compiled(name)
    found = phases(graph)
    assert [factor.offset for factor in found.values()] == KNOWN[name][1]
    state = graph.state_dict()
    for number, factor in found.items():
        for seed in range(4):
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
def test_no_phase_shifts(name: str) -> None:
    assert not phases(compiled(name)[2])


def test_half_of_it_changes_the_output() -> None:
    model, x, graph = compiled("cosine")
    (factor,) = phases(graph).values()
    state = graph.state_dict()
    half = state | {"a.bias": state["a.bias"] + torch.pi / 2}
    with torch.no_grad():
        assert not torch.allclose(functional_call(model, half, (x,)), model(x), atol=1e-3)
    assert factor.dimension == 0


def test_verified_and_saved(tmp_path: Path) -> None:
    model, x, graph = compiled("siren")
    report = pg.verify(graph, model, (x,), elements=1, inputs=2, leave_one_out=0)
    assert report.passed, str(report)
    assert any("phase shifts" in label for label in report.matrices)
    assert "phase shifts of 8 units" in str(graph.symmetry)
    graph.save(tmp_path / "graph.pgraph")
    loaded = pg.load(tmp_path / "graph.pgraph")
    state = graph.state_dict()
    for number in phases(graph):
        assert distance(graph.symmetry.move(2, [number]).act(state), loaded.symmetry.move(2, [number]).act(state)) == 0
