"""GMN and ScaleGMN written plainly, as the documentation of graph libraries writes message passing: what all such versions share.

A plain metanet takes the parameters of one of ours and computes the same predictions. Encoders, updates of nodes and graphs, and heads
are ours: they are functions of one edge, node or graph. What differs lies between. All edges are materialised once, as indices into one
graph of all networks; every layer gathers the states of both ends at every edge, concatenates them with the edge's, applies the
perceptron, and collects messages; and autograd differentiates. `plain_dgl` and `plain_pyg` do that with the means of their libraries;
`split_dgl` also computes at the nodes what depends on one end, which DGL's guide suggests on its page about efficiency.

Left out is what our passes do beside that: last layers after the sum or multiplied into what follows, blocks without indices, tiles,
gradients written out. ScaleGMN's equations have two linear functions outside perceptrons, of what a node sends and of what it has
collected; these are computed at the nodes in every version, as layers of both libraries do (`GraphConv`, `GCNConv`).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from plain_batch import Rows, Run
from torch import nn
from torch.nn import functional as F

from paramgraph.graph import ParamGraph
from paramgraph.metanets import GMN, ScaleGMN, Stack
from paramgraph.metanets.encoders import value_scale
from paramgraph.metanets.fingerprints import Domain
from paramgraph.metanets.layers import EdgeFunction
from paramgraph.metanets.rewiring import EdgeKind
from paramgraph.metanets.scale_encoders import ScaledEdgeEncoder
from paramgraph.metanets.scale_layers import InvariantMessage, ScaledEdgeUpdate, ScaledMessage, invariant, reversed_, reverses
from paramgraph.metanets.scale_nodes import at_rest
from paramgraph.metanets.scalegmn import Rewired

# Options that do not change what is computed.
FREE = set("hidden layers backend out readout_norm dropout vocabulary keep_edges tile_edges pack_edges recompute".split())


@dataclass(frozen=True)
class Batch:
    """Networks, ready for a plain metanet.

    Attributes:
        rows: their nodes and edges.
        graph: whatever the library passes messages over.
        values: of every edge, `(edges,)`, of a GMN.
        codes: of every edge, its row in the table of edge features, of a GMN.
        kinds: edge sets of each kind, of a ScaleGMN.
    """

    rows: Rows
    graph: Any
    values: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    kinds: dict[EdgeKind, list[Run]] | None = None


class Plain(nn.Module):
    """A plain version of a metanet, over one library.

    A library brings graphs, what a layer of each metanet does at the edges, and means over the nodes and edges of each network.

    Args:
        net: that has seen a batch, or was given a vocabulary; with default options, and any `hidden` and `layers`.
    """

    gmn_layer: ClassVar[type[nn.Module]]
    scalegmn_layer: ClassVar[type[nn.Module]]

    def __init__(self, net: GMN | ScaleGMN) -> None:
        super().__init__()
        defaults = {name: parameter.default for name, parameter in inspect.signature(type(net).__init__).parameters.items()}
        others = sorted(name for name, given in net._options.items() if name not in FREE and given != defaults[name])
        if others or net.vocabulary is None or not net.layers:
            raise ValueError(f"expected a metanet with layers, a vocabulary and default options; got other options: {others or 'none'}.")
        self.net = net
        make = self.gmn_layer if isinstance(net, GMN) else self.scalegmn_layer
        self.layers = nn.ModuleList(make(layer) for layer in net.layers)

    def prepare(self, networks: Sequence[ParamGraph | Stack]) -> Batch:
        """One graph of all networks. Nothing in it depends on the metanet's parameters."""
        vocabulary = self.net.vocabulary
        assert vocabulary is not None
        if isinstance(self.net, GMN):
            rows = Rows(networks, vocabulary, self.net.node_encoder.no_order)
            edges = rows.one_per_value()
            return Batch(rows, self.graph(rows, [(edges.source, edges.target)]), edges.values, edges.codes)
        rewired = Rewired()
        rows = Rows([rewired(network) for network in networks], vocabulary, self.net.node_encoder.no_order)
        # Messages along the edges do not depend on what multiplies the sources.
        kinds = rows.by_kind(lambda edges: replace(edges.kind, source=Domain()))
        return Batch(rows, self.graph(rows, [ends(runs) for runs in kinds.values()]), kinds=kinds)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Predictions, `(networks, out)`."""
        return self._gmn(self.net, batch) if isinstance(self.net, GMN) else self._scalegmn(self.net, batch)

    def _gmn(self, net: GMN, batch: Batch) -> torch.Tensor:
        rows, graph = batch.rows, batch.graph
        assert batch.values is not None and batch.codes is not None and net.initial_global is not None
        nodes = net.node_encoder(net.embeddings, rows.nodes)
        values = batch.values * value_scale(net.embeddings, rows.edges).index_select(0, batch.codes)
        codes = net.edge_encoder.codes(net.embeddings, rows.edges)
        edges = torch.sin(net.edge_encoder.value(values[:, None])) + codes.index_select(0, batch.codes)
        globals_ = net.initial_global.expand(rows.num_graphs, -1)
        for layer in self.layers:
            nodes, edges = layer(graph, nodes, edges, globals_)
            mean_node, mean_edge = self.mean_nodes(graph, nodes), self.mean_edges(graph, edges)
            globals_ = layer.layer.global_update(globals_, mean_node, mean_edge)
        predictions: torch.Tensor = net.head.mlp(net.head.norm(torch.cat([mean_edge, mean_node, globals_], dim=-1)))
        return predictions

    def _scalegmn(self, net: ScaleGMN, batch: Batch) -> torch.Tensor:
        rows, graph = batch.rows, batch.graph
        assert batch.kinds is not None
        magnitude, sign = rows.masks()
        encoder = net.edge_encoder
        table, scale, *_ = encoder.edge_tensors(encoder.codes(net.embeddings, rows.edges), net.embeddings, rows.edges)
        edges = {kind: torch.cat([encoded(encoder, run, kind, table, scale) for run in runs]) for kind, runs in batch.kinds.items()}
        inner = net.node_encoder(net.embeddings, rows.nodes)
        nodes = at_rest(inner, magnitude, sign)
        invariants = net.read_norm(net.read(nodes, magnitude, sign) + inner)
        degree = rows.in_degree.clamp(min=1).to(nodes.dtype)[:, None]
        for layer in self.layers:
            sent = nodes * torch.rsqrt(nodes.square().mean(-1, keepdim=True) + 1e-6)
            sent = sent if magnitude is None else torch.where(magnitude, nodes, sent)
            moved, read = layer.collect(graph, sent, invariants, edges)
            ours = layer.layer
            messages = ours.forward_message.mix(moved / degree.sqrt()), ours.forward_read.last(read / degree)
            if ours.edge_update is not None:
                edges = layer.update_edges(graph, invariants, edges)
            nodes, inner = ours.node_update(nodes, inner, invariants, messages[:1], messages[1:], magnitude, sign)
            invariants = net.read_norm(net.read(nodes, magnitude, sign) + inner)
        predictions: torch.Tensor = net.head.all(self.mean_nodes(graph, net.head.each(invariants)))
        return predictions

    def graph(self, rows: Rows, indices: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        """The library's graph, from sources and targets of each kind of edges."""
        raise NotImplementedError

    def mean_nodes(self, graph: Any, nodes: torch.Tensor) -> torch.Tensor:
        """Means over the nodes of each network, `(networks, width)`."""
        raise NotImplementedError

    def mean_edges(self, graph: Any, edges: torch.Tensor) -> torch.Tensor:
        """Means over the edges of each network, `(networks, width)`, of a GMN."""
        raise NotImplementedError


def ends(runs: Sequence[Run]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources and targets of the edges of several edge sets."""
    return torch.cat([run.source.reshape(-1) for run in runs]), torch.cat([run.target.reshape(-1) for run in runs])


def encoded(encoder: ScaledEdgeEncoder, run: Run, kind: EdgeKind, table: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Initial states of ScaleGMN's edges, `Σ_p f(v_p) ⊙ K(type, depth, position p) / √positions`."""
    values, coefficients = run.values * scale[run.codes], table[run.codes]
    if kind.ragged:
        values = torch.sign(values) if kind.edge.magnitude else values
        values = values.abs() if kind.edge.sign else values
    if kind.edge.magnitude and not kind.ragged:
        states = values @ coefficients
    else:
        phase = 0.0 if kind.edge.sign and not kind.ragged else encoder.phase
        states = (torch.sin(values[..., None] * encoder.frequency + phase) * coefficients).sum(-2)
    return states.flatten(0, 1) / values.shape[-1] ** 0.5


# The functions of edges. `x_i` are states of targets and `x_j` of sources at every edge, as PyG calls them.


def perceptron(function: EdgeFunction, x_i: torch.Tensor, x_j: torch.Tensor, edge: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """GMN's `MLP(v_i, v_j, e_ij, u)`."""
    result: torch.Tensor = function.last(F.relu(function.first(torch.cat([x_i, x_j, edge, u], dim=-1))))
    return result


def of_all(layers: Sequence[nn.Linear], states: Sequence[torch.Tensor]) -> torch.Tensor:
    """One linear function of concatenated states, whose weight ours has in several layers, of which one has a bias."""
    bias = next(layer.bias for layer in layers if layer.bias is not None)
    return F.linear(torch.cat(list(states), dim=-1), torch.cat([layer.weight for layer in layers], dim=1), bias)


def carried(message: ScaledMessage, kind: EdgeKind, sent_j: torch.Tensor, x_i: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
    """ScaleGMN's `r ⊙ φ(inv x_i, inv r)` with r = (Γ₁ x_j) ⊙ (Γ₂ e_ij), of edges that transport."""
    moved = sent_j * message.edge(reversed_(edge) if reverses(kind, forward=True) else edge)
    gates: torch.Tensor = message.gate(F.silu(of_all([message.receive, message.inner], [x_i, invariant(moved, kind.target)])))
    return moved * gates


def told(message: InvariantMessage, kind: EdgeKind, x_i: torch.Tensor, x_j: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
    """ScaleGMN's messages along other edges, from invariants."""
    seen = edge if kind.ragged else invariant(edge, kind.edge)
    return F.silu(of_all([message.at_target, message.at_source, message.edge], [x_i, x_j, seen]))


def updated(update: ScaledEdgeUpdate, kind: EdgeKind, x_i: torch.Tensor, x_j: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
    """ScaleGMN's `e + α (W e) ⊙ φ(inv x_i, inv x_j)`; of edges that nothing multiplies, `e + α φ(e, inv x_i, inv x_j)`."""
    if kind.edge.trivial or kind.ragged:
        hidden = F.silu(of_all([update.at_target, update.at_source, update.inner], [x_i, x_j, edge]))
        return edge + update.strength * update.last(hidden)
    gates = update.gate(F.silu(of_all([update.at_target, update.at_source], [x_i, x_j])))
    return edge + update.strength * (update.linear(edge) * gates)
