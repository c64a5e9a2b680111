"""Vectors that are acted on together: what each by itself would give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph import ParamGraph
from paramgraph.errors import StateDictError
from paramgraph.symmetries import vectors
from paramgraph.symmetries.element import GroupElement


class Hidden(nn.Module):
    """A perceptron with a function of one more vector behind its first layer."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], size: int) -> None:
        super().__init__()
        self.function, self.more = function, nn.Parameter(torch.rand(size) + 0.5)
        self.layers = nn.ModuleList([nn.Linear(3, 4), *(nn.Linear(4, 4) for _ in range(5)), nn.Linear(4, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.function(torch.relu(self.layers[0](x)), self.more)
        for layer in self.layers[1:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


NETWORKS: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], int]] = {
    "a gain": (lambda h, p: h * p, 4),
    "a vector that is read in part": (lambda h, p: h + p[:4], 7),
    "a vector for two tensors": (lambda h, p: (h * p[:4]).relu() + p[4:], 8),
}


@cache
def compiled(name: str) -> ParamGraph:
    torch.manual_seed(0)
    return pg.compile(Hidden(*NETWORKS[name]), torch.randn(5, 3))


@pytest.mark.parametrize("name", NETWORKS)
def test_together_as_each_by_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements of the whole group, of its permutations, and of one scale, which multiplies few tensors and parts of them."""
    graph = compiled(name)
    scale = next(n for n, factor in enumerate(graph.symmetry.factors) if factor.kind == "scale")
    drawn = [graph.symmetry.sample(0), graph.symmetry.sample(0, kinds=["permutation"]), graph.symmetry.sample(0, factors=[scale])]
    seen: list[int] = []

    def counted(element: GroupElement, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = together(element, tensors)
        seen.append(len(found))
        return found

    together = vectors.act_on_vectors
    monkeypatch.setattr(vectors, "act_on_vectors", counted)
    found = [element.act(graph.state_dict()) for element in drawn]
    assert len(seen) == len(drawn) and min(seen) > 1
    monkeypatch.setattr(vectors, "act_on_vectors", lambda element, tensors: {})
    for state, element in zip(found, drawn, strict=True):
        alone = element.act(graph.state_dict())
        assert any(not torch.equal(alone[key], graph.values[key]) for key in alone)
        assert all(torch.allclose(state[key], alone[key], rtol=1e-6, atol=0) for key in alone)


def test_a_vector_that_leaves_its_range_is_an_error() -> None:
    graph = compiled("a gain")
    state = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    state["layers.1.bias"].fill_(3e38)
    with pytest.raises(StateDictError, match=r"layers\.1\.bias: .* out of the range of float32"):
        graph.symmetry.sample(0, kinds=["scale"], sigma=3.0).act(state)
