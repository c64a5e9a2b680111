"""Phases are wrapped: the same functions, the same representative for every point of an orbit."""

import math

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.metanets import Stack, run, wrap_phases


class Waves(nn.Module):
    """Two sinusoidal layers of different frequency."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(2, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(torch.cos(7 * self.second(torch.sin(30 * self.first(x)))))


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    model, x = Waves().double(), torch.randn(4, 2, dtype=torch.float64)
    return model, x, pg.compile(model, x)


def test_functions_stay_and_phases_are_short(made):
    model, x, graph = made
    wrapped = wrap_phases(graph)
    assert torch.allclose(run(model, wrapped, x), model(x), atol=1e-12)
    for name, frequency in (("first.bias", 30), ("second.bias", 7)):
        assert wrapped.values[name].abs().max() <= math.pi / 2 / frequency + 1e-12
        assert graph.values[name].abs().max() > math.pi / 2 / frequency
    assert torch.equal(wrapped.values["first.weight"], graph.values["first.weight"])


def test_shifted_networks_have_one_representative(made):
    _, _, graph = made
    wrapped = wrap_phases(graph)
    for seed in range(3):
        moved = graph.with_values(graph.symmetry.move(seed).act(graph.state_dict()))
        assert any(not torch.allclose(moved.values[name], graph.values[name]) for name in graph.values)
        for name, value in wrap_phases(moved).values.items():
            assert torch.allclose(value, wrapped.values[name], atol=1e-12), name


def test_stacks_are_wrapped_as_their_networks_are(made):
    model, x, graph = made
    torch.manual_seed(1)
    stack = Stack.of(graph, [Waves().double().state_dict() for _ in range(4)])
    wrapped = wrap_phases(stack)
    assert torch.allclose(run(model, wrapped, x), run(model, stack, x), atol=1e-12)
    for one, other in zip(wrapped, stack, strict=True):
        for name, value in wrap_phases(other).values.items():
            assert torch.equal(one.values[name], value)


def test_networks_without_phases_are_left_alone():
    graph = pg.compile(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3))
    assert wrap_phases(graph) is graph
