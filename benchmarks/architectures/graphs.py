"""Layers of graph neural networks (PyTorch Geometric), on one small random graph."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from architectures.base import Architecture, Network, installed

NODES, EDGES = 13, 29

# Layer → options beside input and output widths.
LAYERS: dict[str, dict[str, Any]] = {
    "GCNConv": {"add_self_loops": False}, "SAGEConv": {}, "GATConv": {"heads": 3, "add_self_loops": False},
    "GATv2Conv": {"heads": 3, "add_self_loops": False},
    "TransformerConv": {"heads": 3}, "GraphConv": {}, "TAGConv": {"K": 2}, "ChebConv": {"K": 3},
    "SGConv": {"K": 2, "add_self_loops": False}, "LEConv": {},
    "ResGatedGraphConv": {}, "ClusterGCNConv": {"add_self_loops": False}, "GENConv": {},
    "MFConv": {}, "ARMAConv": {},
}  # fmt: skip


# Layers that drop or sort edges by what they are: they must be refused with a clear message.
REFUSED = ("ChebConv", "MFConv")


class Layered(nn.Module):
    """Two layers of a kind with a nonlinearity in between."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x, edges)), edges)


def architectures() -> Iterator[Architecture]:
    if not installed("torch_geometric"):
        return
    for name, options in LAYERS.items():
        yield Architecture(f"graphs:{name}", partial(_layer, name, options), refused=name in REFUSED)
    for special in ("GINConv", "GINEConv", "PNAConv", "GPSConv", "GatedGraphConv", "EdgeConv", "NNConv", "AntiSymmetricConv"):
        yield Architecture(f"graphs:{special}", partial(_special, special))


def _graph() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(NODES, 5, generator=generator), torch.randint(0, NODES, (2, EDGES), generator=generator)


def _layer(name: str, options: dict[str, Any]) -> Network:
    from torch_geometric import nn as layers

    kind = getattr(layers, name)
    x, edges = _graph()
    if name == "ClusterGCNConv":  # it adds a number for every node to the weights of the loops: there must be one loop at each
        edges = torch.cat([edges[:, edges[0] != edges[1]], torch.arange(NODES).expand(2, -1)], 1)
    heads = options.get("heads", 1)
    return Network(Layered(kind(5, 8, **options), kind(8 * heads, 3, **options)).eval(), (x, edges))


def _mlp(i: int, o: int) -> nn.Module:
    return nn.Sequential(nn.Linear(i, 11), nn.ReLU(), nn.Linear(11, o))


def _special(name: str) -> Network:
    from torch_geometric import nn as layers

    x, edges = _graph()
    if name == "GINConv":
        return Network(Layered(layers.GINConv(_mlp(5, 8), train_eps=True), layers.GINConv(_mlp(8, 3))).eval(), (x, edges))
    if name == "EdgeConv":
        return Network(Layered(layers.EdgeConv(_mlp(10, 8)), layers.EdgeConv(_mlp(16, 3))).eval(), (x, edges))
    if name == "PNAConv":
        options = {"aggregators": ["mean", "min", "max", "std"], "scalers": ["identity", "amplification"], "deg": torch.tensor([1, 4, 5, 3])}
        return Network(Layered(layers.PNAConv(5, 8, **options), layers.PNAConv(8, 3, **options)).eval(), (x, edges))
    if name == "GPSConv":
        inner = [layers.GPSConv(12, layers.GINConv(_mlp(12, 12)), heads=3, norm="layer_norm") for _ in range(2)]
        return Network(_Stack(nn.Linear(5, 12), inner, nn.Linear(12, 3)).eval(), (x, edges))
    if name == "GatedGraphConv":
        return Network(_Stack(nn.Linear(5, 8), [layers.GatedGraphConv(8, 2)], nn.Linear(8, 3)).eval(), (x, edges))
    if name == "AntiSymmetricConv":
        inner = [layers.AntiSymmetricConv(8, phi=layers.GCNConv(8, 8, add_self_loops=False, bias=False))]
        return Network(_Stack(nn.Linear(5, 8), inner, nn.Linear(8, 3)).eval(), (x, edges))
    features = torch.randn(EDGES, 4)
    kind = {
        "GINEConv": lambda i, o: layers.GINEConv(_mlp(i, o), edge_dim=4),
        "NNConv": lambda i, o: layers.NNConv(i, o, _mlp(4, i * o)),
    }[name]
    return Network(_WithEdges(kind(5, 8), kind(8, 3)).eval(), (x, edges, features))


class _WithEdges(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor, edges: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x, edges, features)), edges, features)


class _Stack(nn.Module):
    def __init__(self, before: nn.Module, inner: list[nn.Module], after: nn.Module) -> None:
        super().__init__()
        self.before, self.inner, self.after = before, nn.ModuleList(inner), after

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        for layer in self.inner:
            x = layer(x, edges)
        return self.after(x)
