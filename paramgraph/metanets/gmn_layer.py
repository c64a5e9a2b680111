"""One layer of a GMN: what is updated, in which order, with how many passes over the edges."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from paramgraph.backends.protocol import Backend, Block
from paramgraph.metanets.job_pass import Ends, Tensors
from paramgraph.metanets.layers import EdgeFunction, MessageFunction, StateUpdate, begin_as_identity
from paramgraph.metanets.layout import FEATURE, Job, Layout
from paramgraph.metanets.passes import EdgeStates, Reduced, Step
from paramgraph.metanets.terms import Terms


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


@dataclass(frozen=True)
class LayerOptions:
    """What all layers of a GMN share; see `GMN`."""

    width: int
    mean: bool
    nodes_first: bool
    both: bool
    use_global: bool
    residual: bool
    norm: str
    heads: int


class GMNLayer(nn.Module):
    """Updates of nodes, edges and the global state.

    Args:
        options: of the metanet.
        head: the head that follows if this is the last layer, else None. What that head does not read is not computed.
    """

    def __init__(self, options: LayerOptions, head: str | None) -> None:
        super().__init__()
        width, use_global, residual, norm = options.width, options.use_global, options.residual, options.norm
        self.mean = options.mean
        self.nodes_first = options.nodes_first
        # Nothing passes over the edges after the sums that a graph head reads.
        self.more_follows = head != "graph"
        updates_nodes = head != "edge" or options.nodes_first
        updates_edges = head != "node" or not options.nodes_first
        updates_global = use_global and head in (None, "graph")
        self.needs_edge_sums = updates_global or head == "graph"
        layered = norm == "layer"
        self.message = MessageFunction(width, use_global, layered, options.heads) if updates_nodes else None
        self.reverse = MessageFunction(width, use_global, layered, options.heads) if updates_nodes and options.both else None
        inputs = 2 + options.both + use_global
        self.node_update = StateUpdate(width, inputs, residual, norm) if updates_nodes else None
        self.edge_update = EdgeFunction(width, use_global, residual, layered) if updates_edges else None
        self.global_update = StateUpdate(width, 3, residual, norm) if updates_global else None
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
                state = replace(state, edge_sums=state.edges.reduce(total=True, keeps=self.more_follows).total)
        else:
            before = state
            state = self._advance_edges(state)
            if self.message is not None or self.needs_edge_sums:
                collected = self._collect(before, self.needs_edge_sums)
                state = replace(self._update_nodes(state, collected), edge_sums=collected.total)
        return self._update_global(state)

    def _terms(self, function: EdgeFunction, state: State) -> Terms:
        return Terms(state.layout, *function.at_nodes(state.nodes, state.globals_, state.layout.graph_of_row))

    def _step(self, function: MessageFunction | None, state: State) -> Step | None:
        return None if function is None else Step(function, self._terms(function, state), function.message_width)

    def _collect(self, state: State, edge_sums: bool) -> Reduced:
        forward, backward = self._step(self.message, state), self._step(self.reverse, state)
        keeps = self.nodes_first or self.more_follows
        if not any(job.kind == FEATURE for job in state.layout.jobs):
            return state.edges.reduce(forward, backward, edge_sums, keeps=keeps)
        collected = state.edges.reduce(forward, backward, edge_sums, only=lambda job: job.kind != FEATURE, keeps=keeps)
        if edge_sums and collected.total is not None:
            features = state.edges.reduce(total=True, only=lambda job: job.kind == FEATURE, keeps=keeps).total
            assert features is not None
            collected.total = collected.total + features
        return collected

    def _update_nodes(self, state: State, collected: Reduced) -> State:
        if self.node_update is None or self.message is None or collected.target is None:
            return state
        inputs = [self.message.finish(collected.target, state.layout.in_degree, self.mean)]
        if self.reverse is not None and collected.source is not None:
            inputs.append(self.reverse.finish(collected.source, state.layout.out_degree, self.mean))
        if state.globals_ is not None:
            inputs.append(state.globals_.index_select(0, state.layout.graph_of_row))
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


class _AsTheyAre:
    """Edge states as messages."""

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        return ()

    def updated(self, job: Job, tensors: Tensors, backend: Backend, block: Block, ends: Ends, edge: torch.Tensor) -> torch.Tensor:
        return edge

    def hidden(self, job: Job, tensors: Tensors, backend: Backend, block: Block, ends: Ends, edge: torch.Tensor, end: str) -> torch.Tensor:
        return edge


def collected_features(edges: EdgeStates, nodes: torch.Tensor) -> torch.Tensor:
    """Sums of the edge states of features at their nodes, `(rows, width)`."""
    none = nodes.new_zeros(nodes.shape[0], 0)
    step = Step(_AsTheyAre(), Terms(edges.batch.layout, none, none), nodes.shape[-1])
    found = edges.reduce(forward=step, only=lambda job: job.kind == FEATURE).target
    assert found is not None
    return found


def node_sums(state: State) -> torch.Tensor:
    """Sums of node states per graph, `(graphs, width)`."""
    sums = state.nodes.new_zeros(state.layout.num_graphs, state.nodes.shape[-1])
    return sums.index_add(0, state.layout.graph_of_row, state.nodes)


def per_count(sums: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Means from sums `(graphs, width)` and counts `(graphs,)`; zero where there is nothing."""
    return sums / count.clamp(min=1).to(sums.dtype)[:, None]
