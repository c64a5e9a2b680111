"""Plain metanets with DGL: functions of edges given to `apply_edges` and `update_all`, as chapter 2 of its user guide writes them.

One graph of all networks, as `dgl.batch` makes it. ScaleGMN's kinds of edges, whose equations differ, are edge types of a heterograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from plain import Plain, carried, perceptron, told, updated
from plain_batch import Rows
from torch import nn

from paramgraph.backends.dgl import import_dgl
from paramgraph.metanets.gmn_layer import GMNLayer
from paramgraph.metanets.rewiring import EdgeKind
from paramgraph.metanets.scalegmn import ScaleGMNLayer

dgl = import_dgl()
States = dict[EdgeKind, torch.Tensor]


class DGLGMNLayer(nn.Module):
    """A layer of GMN, without the update of the global state."""

    def __init__(self, layer: GMNLayer) -> None:
        super().__init__()
        self.layer = layer

    def message(self, edges: Any) -> dict[str, torch.Tensor]:
        return {"m": perceptron(self.layer.message, edges.dst["x"], edges.src["x"], edges.data["e"], edges.data["u"])}

    def edge_update(self, edges: Any) -> dict[str, torch.Tensor]:
        return {"e": perceptron(self.layer.edge_update, edges.dst["x"], edges.src["x"], edges.data["e"], edges.data["u"])}

    def forward(self, graph: Any, nodes: torch.Tensor, edges: torch.Tensor, globals_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """New states of nodes and edges."""
        with graph.local_scope():
            graph.ndata["x"], graph.edata["e"], graph.edata["u"] = nodes, edges, dgl.broadcast_edges(graph, globals_)
            graph.update_all(self.message, dgl.function.mean("m", "collected"))
            graph.ndata["x"] = self.layer.node_update(nodes, graph.ndata["collected"], dgl.broadcast_nodes(graph, globals_))
            graph.apply_edges(self.edge_update)
            return graph.ndata["x"], graph.edata["e"]


class DGLScaleGMNLayer(nn.Module):
    """What a layer of ScaleGMN does at the edges."""

    def __init__(self, layer: ScaleGMNLayer) -> None:
        super().__init__()
        self.layer = layer

    def carry(self, kind: EdgeKind, edges: Any) -> dict[str, torch.Tensor]:
        return {"m": carried(self.layer.forward_message, kind, edges.src["sent"], edges.dst["x"], edges.data["e"])}

    def tell(self, kind: EdgeKind, edges: Any) -> dict[str, torch.Tensor]:
        return {"m": told(self.layer.forward_read, kind, edges.dst["x"], edges.src["x"], edges.data["e"])}

    def edge_update(self, kind: EdgeKind, edges: Any) -> dict[str, torch.Tensor]:
        return {"e": updated(self.layer.edge_update, kind, edges.dst["x"], edges.src["x"], edges.data["e"])}

    def collect(self, graph: Any, sent: torch.Tensor, invariants: torch.Tensor, edges: States) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of messages along edges that transport, and along others, `(rows, width)` each."""
        with graph.local_scope():
            graph.ndata["sent"], graph.ndata["x"] = self.layer.forward_message.send(sent), invariants
            graph.ndata["moved"] = graph.ndata["read"] = torch.zeros_like(invariants)
            moving, reading = {}, {}
            for number, (kind, states) in enumerate(edges.items()):
                graph.edges[str(number)].data["e"] = states
                if kind.transport == "none":
                    reading[str(number)] = partial(self.tell, kind), dgl.function.sum("m", "read")
                else:
                    moving[str(number)] = partial(self.carry, kind), dgl.function.sum("m", "moved")
            for calls in (moving, reading):
                if calls:
                    graph.multi_update_all(calls, "sum")
            return graph.ndata["moved"], graph.ndata["read"]

    def update_edges(self, graph: Any, invariants: torch.Tensor, edges: States) -> States:
        """New edge states."""
        with graph.local_scope():
            graph.ndata["x"] = invariants
            for number, (kind, states) in enumerate(edges.items()):
                graph.edges[str(number)].data["e"] = states
                graph.apply_edges(partial(self.edge_update, kind), etype=str(number))
            return {kind: graph.edges[str(number)].data["e"] for number, kind in enumerate(edges)}


class PlainDGL(Plain):
    """See `Plain`."""

    gmn_layer, scalegmn_layer = DGLGMNLayer, DGLScaleGMNLayer

    def graph(self, rows: Rows, indices: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        """A heterograph with an edge type for each kind, with all its sparse formats."""
        ends = {("node", str(number), "node"): pair for number, pair in enumerate(indices)}
        graph = dgl.heterograph(ends, num_nodes_dict={"node": rows.num_rows})
        graph.set_batch_num_nodes(rows.nodes_per_graph)
        per_graph = [torch.bincount(rows.graph_of_row[target], minlength=rows.num_graphs) for _, target in indices]
        graph.set_batch_num_edges(dict(zip(ends, per_graph, strict=True)))
        graph.create_formats_()
        return graph

    def mean_nodes(self, graph: Any, nodes: torch.Tensor) -> torch.Tensor:
        """See `Plain.mean_nodes`."""
        with graph.local_scope():
            graph.ndata["x"] = nodes
            return dgl.mean_nodes(graph, "x")

    def mean_edges(self, graph: Any, edges: torch.Tensor) -> torch.Tensor:
        """See `Plain.mean_edges`."""
        with graph.local_scope():
            graph.edata["e"] = edges
            return dgl.mean_edges(graph, "e")
