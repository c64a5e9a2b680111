"""Plain metanets with DGL whose first layers are split, as chapter 2.2 of its user guide suggests for functions of both ends of an edge.

A linear function of concatenated states is a sum of linear functions of each. Those of nodes are computed at the nodes, and DGL's own
`u_add_v` adds them at the edges, so that no states of nodes are copied there. All else is as in `plain_dgl`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from plain_dgl import DGLGMNLayer, DGLScaleGMNLayer, PlainDGL, States, dgl
from torch.nn import functional as F

from paramgraph.metanets.layers import EdgeFunction
from paramgraph.metanets.rewiring import EdgeKind
from paramgraph.metanets.scale_layers import invariant, reversed_, reverses


class SplitGMNLayer(DGLGMNLayer):
    """A layer of GMN, without the update of the global state."""

    def forward(self, graph: Any, nodes: torch.Tensor, edges: torch.Tensor, globals_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """New states of nodes and edges."""
        with graph.local_scope():
            graph.edata["m"] = self.perceptron(graph, self.layer.message, nodes, edges, globals_)
            graph.update_all(dgl.function.copy_e("m", "m"), dgl.function.mean("m", "collected"))
            nodes = self.layer.node_update(nodes, graph.ndata["collected"], dgl.broadcast_nodes(graph, globals_))
            return nodes, self.perceptron(graph, self.layer.edge_update, nodes, edges, globals_)

    def perceptron(
        self, graph: Any, function: EdgeFunction, nodes: torch.Tensor, edges: torch.Tensor, globals_: torch.Tensor
    ) -> torch.Tensor:
        """`MLP(v_i, v_j, e_ij, u)` at every edge."""
        of_target, of_source, of_edge, of_global = function.first.weight.split(function.width, dim=1)
        graph.ndata["source"] = F.linear(nodes, of_source)
        graph.ndata["target"] = F.linear(nodes, of_target, function.first.bias) + dgl.broadcast_nodes(graph, F.linear(globals_, of_global))
        graph.apply_edges(dgl.function.u_add_v("source", "target", "ends"))
        result: torch.Tensor = function.last(F.relu(graph.edata.pop("ends") + F.linear(edges, of_edge)))
        return result


class SplitScaleGMNLayer(DGLScaleGMNLayer):
    """What a layer of ScaleGMN does at the edges."""

    def carry(self, kind: EdgeKind, edges: Any) -> dict[str, torch.Tensor]:
        message, edge = self.layer.forward_message, edges.data["e"]
        moved = edges.src["sent"] * message.edge(reversed_(edge) if reverses(kind, forward=True) else edge)
        return {"m": moved * message.gate(F.silu(edges.dst["received"] + message.inner(invariant(moved, kind.target))))}

    def tell(self, kind: EdgeKind, edges: Any) -> dict[str, torch.Tensor]:
        edge = edges.data["e"] if kind.ragged else invariant(edges.data["e"], kind.edge)
        return {"m": F.silu(edges.data["ends"] + self.layer.forward_read.edge(edge))}

    def edge_update(self, kind: EdgeKind, edges: Any) -> dict[str, torch.Tensor]:
        update, edge, ends = self.layer.edge_update, edges.data["e"], edges.data["ends"]
        if kind.edge.trivial or kind.ragged:
            return {"e": edge + update.strength * update.last(F.silu(ends + update.inner(edge)))}
        return {"e": edge + update.strength * (update.linear(edge) * update.gate(F.silu(ends)))}

    def collect(self, graph: Any, sent: torch.Tensor, invariants: torch.Tensor, edges: States) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of messages along edges that transport, and along others, `(rows, width)` each."""
        message, read = self.layer.forward_message, self.layer.forward_read
        with graph.local_scope():
            graph.ndata["received"] = message.receive(invariants)
            graph.ndata["source"], graph.ndata["target"] = read.at_source(invariants), read.at_target(invariants)
            for number, kind in enumerate(edges):
                if kind.transport == "none":
                    graph.apply_edges(dgl.function.u_add_v("source", "target", "ends"), etype=str(number))
            return super().collect(graph, sent, invariants, edges)

    def update_edges(self, graph: Any, invariants: torch.Tensor, edges: States) -> States:
        """New edge states."""
        update = self.layer.edge_update
        with graph.local_scope():
            graph.ndata["source"], graph.ndata["target"] = update.at_source(invariants), update.at_target(invariants)
            for number, (kind, states) in enumerate(edges.items()):
                graph.edges[str(number)].data["e"] = states
                graph.apply_edges(dgl.function.u_add_v("source", "target", "ends"), etype=str(number))
                graph.apply_edges(partial(self.edge_update, kind), etype=str(number))
            return {kind: graph.edges[str(number)].data["e"] for number, kind in enumerate(edges)}


class SplitDGL(PlainDGL):
    """See `plain.Plain`."""

    gmn_layer, scalegmn_layer = SplitGMNLayer, SplitScaleGMNLayer
