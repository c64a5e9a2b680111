"""Plain metanets with PyTorch Geometric: `MessagePassing` layers with `message`, `edge_update` and `aggr`, as it documents them.

One graph of all networks, as its loader's batches are. ScaleGMN's kinds of edges, whose equations differ, have an `edge_index` each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from plain import Plain, carried, perceptron, told, updated
from plain_batch import Rows
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing, global_mean_pool

from paramgraph.metanets.gmn_layer import GMNLayer
from paramgraph.metanets.rewiring import EdgeKind
from paramgraph.metanets.scale_layers import ScaledEdgeUpdate
from paramgraph.metanets.scalegmn import ScaleGMNLayer

States = dict[EdgeKind, Tensor]


@dataclass(frozen=True)
class Graph:
    """Indices of a batch.

    Attributes:
        edge_index: of each kind of edges, `(2, edges)`.
        batch: number of each node's network.
        batch_of_edges: number of each edge's network, of the first kind.
        count: number of networks.
    """

    edge_index: list[Tensor]
    batch: Tensor
    batch_of_edges: Tensor
    count: int


class PyGGMNLayer(MessagePassing):
    """A layer of GMN, without the update of the global state."""

    def __init__(self, layer: GMNLayer) -> None:
        super().__init__(aggr="mean")
        self.layer = layer

    def forward(self, graph: Graph, nodes: Tensor, edges: Tensor, globals_: Tensor) -> tuple[Tensor, Tensor]:
        """New states of nodes and edges."""
        (edge_index,), u = graph.edge_index, globals_.index_select(0, graph.batch_of_edges)
        collected = self.propagate(edge_index, x=nodes, edge_attr=edges, u=u)
        nodes = self.layer.node_update(nodes, collected, globals_.index_select(0, graph.batch))
        return nodes, self.edge_updater(edge_index, x=nodes, edge_attr=edges, u=u)

    def message(self, x_i: Tensor, x_j: Tensor, edge_attr: Tensor, u: Tensor) -> Tensor:
        return perceptron(self.layer.message, x_i, x_j, edge_attr, u)

    def edge_update(self, x_i: Tensor, x_j: Tensor, edge_attr: Tensor, u: Tensor) -> Tensor:
        return perceptron(self.layer.edge_update, x_i, x_j, edge_attr, u)


class Carry(MessagePassing):
    """Messages of ScaleGMN along edges that transport."""

    def __init__(self, layer: ScaleGMNLayer) -> None:
        super().__init__(aggr="sum")
        self.function = layer.forward_message

    def forward(self, edge_index: Tensor, sent: Tensor, x: Tensor, edge_attr: Tensor, kind: Any) -> Tensor:
        return self.propagate(edge_index, sent=sent, x=x, edge_attr=edge_attr, kind=kind)

    def message(self, sent_j: Tensor, x_i: Tensor, edge_attr: Tensor, kind: Any) -> Tensor:
        return carried(self.function, kind, sent_j, x_i, edge_attr)


class Tell(MessagePassing):
    """Messages of ScaleGMN along other edges."""

    def __init__(self, layer: ScaleGMNLayer) -> None:
        super().__init__(aggr="sum")
        self.function = layer.forward_read

    def forward(self, edge_index: Tensor, x: Tensor, edge_attr: Tensor, kind: Any) -> Tensor:
        return self.propagate(edge_index, x=x, edge_attr=edge_attr, kind=kind)

    def message(self, x_i: Tensor, x_j: Tensor, edge_attr: Tensor, kind: Any) -> Tensor:
        return told(self.function, kind, x_i, x_j, edge_attr)


class UpdateEdges(MessagePassing):
    """ScaleGMN's update of edges."""

    def __init__(self, function: ScaledEdgeUpdate) -> None:
        super().__init__()
        self.function = function

    def forward(self, edge_index: Tensor, x: Tensor, edge_attr: Tensor, kind: Any) -> Tensor:
        return self.edge_updater(edge_index, x=x, edge_attr=edge_attr, kind=kind)

    def edge_update(self, x_i: Tensor, x_j: Tensor, edge_attr: Tensor, kind: Any) -> Tensor:
        return updated(self.function, kind, x_i, x_j, edge_attr)


class PyGScaleGMNLayer(nn.Module):
    """What a layer of ScaleGMN does at the edges."""

    def __init__(self, layer: ScaleGMNLayer) -> None:
        super().__init__()
        self.layer = layer
        self.carry, self.tell = Carry(layer), Tell(layer)
        self.update = None if layer.edge_update is None else UpdateEdges(layer.edge_update)

    def collect(self, graph: Graph, sent: Tensor, invariants: Tensor, edges: States) -> tuple[Tensor, Tensor]:
        """Sums of messages along edges that transport, and along others, `(rows, width)` each."""
        sent = self.layer.forward_message.send(sent)
        moved = read = torch.zeros_like(invariants)
        for index, (kind, states) in zip(graph.edge_index, edges.items(), strict=True):
            if kind.transport == "none":
                read = read + self.tell(index, invariants, states, kind)
            else:
                moved = moved + self.carry(index, sent, invariants, states, kind)
        return moved, read

    def update_edges(self, graph: Graph, invariants: Tensor, edges: States) -> States:
        """New edge states."""
        pairs = zip(graph.edge_index, edges.items(), strict=True)
        return {kind: self.update(index, invariants, states, kind) for index, (kind, states) in pairs}


class PlainPyG(Plain):
    """See `Plain`."""

    gmn_layer, scalegmn_layer = PyGGMNLayer, PyGScaleGMNLayer

    def graph(self, rows: Rows, indices: Sequence[tuple[Tensor, Tensor]]) -> Graph:
        """One `edge_index` for each kind."""
        return Graph([torch.stack(pair) for pair in indices], rows.graph_of_row, rows.graph_of_row[indices[0][0]], rows.num_graphs)

    def mean_nodes(self, graph: Graph, nodes: Tensor) -> Tensor:
        """See `Plain.mean_nodes`."""
        return global_mean_pool(nodes, graph.batch, graph.count)

    def mean_edges(self, graph: Graph, edges: Tensor) -> Tensor:
        """See `Plain.mean_edges`."""
        return global_mean_pool(edges, graph.batch_of_edges, graph.count)
