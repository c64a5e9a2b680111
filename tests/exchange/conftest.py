"""Graphs that the exchange tests share: real networks, and one with every dtype and layout that a state dict can hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.graph import Alias, EdgeSet, NodeSet, ParameterView, ParamGraph


class Tied(nn.Module):
    """Tied weights, a convolution, batch statistics with an integer counter, attention with heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.conv = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.encoder(self.embed(tokens))
        return self.head(self.norm(self.conv(x.transpose(1, 2))).transpose(1, 2))


@pytest.fixture(scope="session")
def network() -> nn.Module:
    torch.manual_seed(1)
    return Tied().eval()


@pytest.fixture(scope="session")
def graph(network: nn.Module) -> ParamGraph:
    return pg.compile(network, torch.zeros(2, 5, dtype=torch.int64), name="tied")


@pytest.fixture
def like(graph: ParamGraph) -> ParamGraph:
    """The same structure with other values, so that nothing can come from them."""
    return replace(graph, values={name: torch.zeros_like(value) for name, value in graph.values.items()})


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int16, torch.int8, torch.uint8, torch.bool)


def of_dtype(dtype: torch.dtype, shape: tuple[int, ...] = (2, 3)) -> torch.Tensor:
    """Values with as many different bits as a dtype has, infinities and negative zero among them."""
    generator = torch.Generator().manual_seed(5)
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64) * 50
    if dtype.is_floating_point and numbers.numel() >= 3:
        numbers.view(-1)[:3] = torch.tensor([float("inf"), -0.0, 1e-5])
    return numbers > 0 if dtype == torch.bool else numbers.to(dtype) if dtype != torch.uint8 else numbers.abs().to(dtype)


def by_hand(values: dict[str, torch.Tensor], aliases: dict[str, Alias] | None = None) -> ParamGraph:
    """A graph without a group: each tensor an edge set of its own between two node sets."""
    node_sets = {"in": NodeSet("in", "input", 1, order=range(1))}
    edge_sets = {}
    for name, value in values.items():
        shape = tuple(value.shape)
        node_sets[f"to {name}"] = NodeSet(f"to {name}", "output", value.numel(), depth=1)
        view = ParameterView(name, shape, tuple((0, size, 1) for size in shape), tuple(range(len(shape))))
        edge_sets[name] = EdgeSet(name, "weight", "in", f"to {name}", (1, value.numel(), 1, 1), parameter=view, depth=1)
    return ParamGraph("by hand", node_sets, edge_sets, None, values, aliases or {}, (*values, *(aliases or {})))  # type: ignore[arg-type]


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Equal names in equal order, dtypes, shapes and bytes: unlike `torch.equal`, this tells 0.0 from −0.0."""
    if list(a) != list(b):
        return False
    pairs = zip(a.values(), b.values(), strict=True)
    return all(x.dtype == y.dtype and x.shape == y.shape and torch.equal(_bytes(x), _bytes(y)) for x, y in pairs)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)
