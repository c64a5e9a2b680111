"""One layer of a GMN: what is updated, in which order, with how many passes over the edges."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from paramgraph.metanets.layers import EdgeFunction, MessageFunction, StateUpdate, begin_as_identity
from paramgraph.metanets.layout import Layout
from paramgraph.metanets.passes import EdgeStates, Reduced, Terms


@dataclass(frozen=True)
class State:
    """States of a batch between layers.

    Attributes:
        nodes: `(rows, width)`.
        edges: the edge states, kept or recomputed.
        globals_: `(graphs, width)`, or None without global states.
        edge_sums: sums of the current edge states per graph, `(graphs, width)`, where a pass has collected them.
    """

    nodes: torch.Tensor
    edges: EdgeStates
    globals_: torch.Tensor | None
    edge_sums: torch.Tensor | None = None

    @property
    def layout(self) -> Layout:
        return self.edges.batch.layout


class GMNLayer(nn.Module):
    """Updates of nodes, edges and the global state.

    Args:
        width: length of all states.
        head: the head that follows if this is the last layer, else None. What that head does not read is not computed.
        mean: means instead of sums.
        nodes_first: nodes are updated before edges, else after.
        both: messages also run against the edges.
        use_global: whether there is a global state.
        residual: the residual variant.
    """

    def __init__(self, width: int, head: str | None, mean: bool, nodes_first: bool, both: bool, use_global: bool, residual: bool) -> None:
        super().__init__()
        self.mean = mean
        self.nodes_first = nodes_first
        updates_nodes = head != "edge" or nodes_first
        updates_edges = head != "node" or not nodes_first
        updates_global = use_global and head in (None, "graph")
        self.needs_edge_sums = updates_global or head == "graph"
        self.message = MessageFunction(width, use_global, residual) if updates_nodes else None
        self.reverse = MessageFunction(width, use_global, residual) if updates_nodes and both else None
        inputs = 2 + both + use_global
        self.node_update = StateUpdate(width, inputs, residual) if updates_nodes else None
        self.edge_update = EdgeFunction(width, use_global, residual) if updates_edges else None
        self.global_update = StateUpdate(width, 3, residual) if updates_global else None
        if residual:
            for update in (self.node_update, self.edge_update, self.global_update):
                if update is not None:
                    begin_as_identity(update)

    def forward(self, state: State) -> State:
        """The states after this layer. Two passes over the edges if nodes come first, else one."""
        if self.nodes_first:
            state = self._update_nodes(state, self._collect(state, edge_sums=False))
            state = self._advance_edges(state)
            if self.needs_edge_sums:
                state = replace(state, edge_sums=state.edges.reduce(total=True).total)
        else:
            before = state
            state = self._advance_edges(state)
            if self.message is not None or self.needs_edge_sums:
                collected = self._collect(before, self.needs_edge_sums)
                state = replace(self._update_nodes(state, collected), edge_sums=collected.total)
        return self._update_global(state)

    def _terms(self, function: EdgeFunction, state: State) -> Terms:
        return Terms(state.layout, *function.at_nodes(state.nodes, state.globals_, state.layout.graph_of_row))

    def _collect(self, state: State, edge_sums: bool) -> Reduced:
        forward = None if self.message is None else (self.message, self._terms(self.message, state))
        backward = None if self.reverse is None else (self.reverse, self._terms(self.reverse, state))
        return state.edges.reduce(forward, backward, edge_sums)

    def _update_nodes(self, state: State, collected: Reduced) -> State:
        if self.node_update is None or self.message is None or collected.target is None:
            return state
        inputs = [self.message.finish(collected.target, state.layout.in_degree, self.mean)]
        if self.reverse is not None and collected.source is not None:
            inputs.append(self.reverse.finish(collected.source, state.layout.out_degree, self.mean))
        if state.globals_ is not None:
            inputs.append(state.globals_[state.layout.graph_of_row])
        return replace(state, nodes=self.node_update(state.nodes, *inputs))

    def _advance_edges(self, state: State) -> State:
        if self.edge_update is not None:
            state.edges.advance(self.edge_update, self._terms(self.edge_update, state))
        return replace(state, edge_sums=None)

    def _update_global(self, state: State) -> State:
        if self.global_update is None or state.globals_ is None or state.edge_sums is None:
            return state
        nodes, edges = node_sums(state), state.edge_sums
        if self.mean:
            nodes, edges = per_count(nodes, state.layout.nodes_per_graph), per_count(edges, state.layout.edges_per_graph)
        return replace(state, globals_=self.global_update(state.globals_, nodes, edges))


def node_sums(state: State) -> torch.Tensor:
    """Sums of node states per graph, `(graphs, width)`."""
    sums = state.nodes.new_zeros(state.layout.num_graphs, state.nodes.shape[-1])
    return sums.index_add(0, state.layout.graph_of_row, state.nodes)


def per_count(sums: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Means from sums `(graphs, width)` and counts `(graphs,)`; zero where there is nothing."""
    return sums / count.clamp(min=1).to(sums.dtype)[:, None]
