"""ScaleGMN: the scale equivariant graph metanetwork of Kalogeropoulos et al. 2024 (arXiv:2406.10685), on any backend and any graph."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal

import torch
from torch import nn

from paramgraph.backends.protocol import Backend
from paramgraph.backends.registry import get_backend
from paramgraph.graph import EdgeSet, ParamGraph
from paramgraph.metanets.batch import Networks
from paramgraph.metanets.embeddings import TypeEmbeddings
from paramgraph.metanets.encoders import NodeEncoder
from paramgraph.metanets.gmn import one_of
from paramgraph.metanets.heads import Prediction
from paramgraph.metanets.layout import Job
from paramgraph.metanets.memory import Reader
from paramgraph.metanets.options import Remembers
from paramgraph.metanets.passes import EdgeStates, Encoding, Step
from paramgraph.metanets.rewiring import COPY, EdgeKind, ScaledEdgeSet, rewired
from paramgraph.metanets.scale_encoders import ScaledEdgeEncoder
from paramgraph.metanets.scale_heads import SCALED_HEADS, ScaledGraphHead, ScaledState
from paramgraph.metanets.scale_layers import InvariantMessage, ScaledEdgeUpdate, ScaledMessage
from paramgraph.metanets.scale_nodes import Invariant, Mask, ScaledNodeUpdate, at_rest, domains_of_rows
from paramgraph.metanets.stack import Stack
from paramgraph.metanets.structure import Structure
from paramgraph.metanets.terms import Terms
from paramgraph.metanets.vocabulary import Vocabulary


class ScaleGMN(Remembers, Reader):
    """A metanet that is equivariant under the permutations, scales and signs of the annotation, and invariant by its graph head.

    Each node set has the domain that the annotation gives it, so that positive, sign, real and trivial domains meet in one network. States of
    nodes and edges are vectors that are multiplied as their nodes' values and their parameters are:

        m_i  = Σ_j r_ij ⊙ φ(inv x_i, inv r_ij)     r_ij = (Γ₁ x_j) ⊙ (Γ₂ e_ij)
        x_i  ← x_i + (W [x_i, m_i]) ⊙ φ(inv x_i, inv m_i)
        e_ij ← e_ij + (W e_ij) ⊙ φ(inv x_i, inv x_j)

    with inv(x) = x/‖x‖ under magnitudes and ρ(x) + ρ(−x) or |x| under signs. A kernel's positions share one vector. Edges whose value is
    multiplied by something else than their ends are read through invariants (see `rewiring`).

    It differs from the paper in that updates are added, so that signals neither vanish nor grow with depth; in reversed edges, which are
    e/‖e‖²; in that biases are edges from a node of their own; and in that the functions of edges are computed at the nodes as far as they
    depend on one node only.

    Args:
        hidden: length of all states.
        layers: number of layers.
        backend: name of an engine or an instance.
        head: `"graph"`, `"node"` or `"edge"`, returning what `GMN` does.
        out: length of each prediction.
        direction: `"forward"` sends messages along the edges, `"both"` also against them (bidirectional ScaleGMN).
        dropout: of the node updates and the graph head.
        readout_norm: batch-normalise what the graph head reads; populations of one architecture train faster.
        vocabulary: the types to know, None takes those of the first batch. Types that only rewiring brings are known always.
        keep_edges: as for `GMN`, with all positions of a node pair counted.
        tile_edges: as for `GMN`, with all positions of a node pair counted once.
        pack_edges: as for `GMN`.
        recompute: as for `GMN`, but None does for large batches on all engines: functions of edges have many intermediate results.

    Raises:
        UnknownNameError: backend, head or direction is not known.
        MissingDependencyError: the backend's engine is not installed.
    """

    many_results = True

    def __init__(
        self,
        hidden: int = 64,
        layers: int = 4,
        backend: str | Backend = "dgl",
        head: Literal["graph", "node", "edge"] = "graph",
        out: int = 1,
        *,
        direction: Literal["forward", "both"] = "forward",
        dropout: float = 0.0,
        readout_norm: bool = False,
        vocabulary: Vocabulary | None = None,
        keep_edges: int | None = None,
        tile_edges: int | None = None,
        pack_edges: int | None = None,
        recompute: bool | None = None,
    ) -> None:
        super().__init__(get_backend(backend), hidden, layers, keep_edges, tile_edges, pack_edges, recompute)
        one_of("head", head, tuple(SCALED_HEADS))
        one_of("direction", direction, ("forward", "both"))
        self.embeddings = TypeEmbeddings(hidden, None if vocabulary is None else with_copies(vocabulary))
        self.node_encoder = NodeEncoder(hidden)
        self.edge_encoder = ScaledEdgeEncoder(hidden)
        self.read = Invariant(hidden)
        self.read_norm = nn.LayerNorm(hidden)
        both = direction == "both"
        self.layers = nn.ModuleList(ScaleGMNLayer(hidden, both, layers, dropout, head if n == layers - 1 else None) for n in range(layers))
        self.head = ScaledGraphHead(hidden, out, dropout, readout_norm) if head == "graph" else SCALED_HEADS[head](hidden, out, dropout)
        self._rewired = Rewired()

    def forward(self, graphs: Networks | Stack) -> Prediction:
        """Predictions for a batch of graphs and stacks, one per network, in the order given; see the class.

        Raises:
            MetanetError: as for `GMN`.
            MissingDependencyError: the backend cannot run on the metanet's device.
        """
        prediction: Prediction = self.head(self.states(graphs))
        return prediction

    def states(self, graphs: Networks | Stack) -> ScaledState:
        """The states after the last layer, for heads of your own."""
        batch, plan = self._batch(graphs, self.node_encoder.no_order, edge_kind, fold=True)
        layout = batch.layout
        codes = self.edge_encoder.codes(self.embeddings, layout.edges)
        encoding = Encoding(self.edge_encoder, self.edge_encoder.edge_tensors(codes, self.embeddings, layout.edges), codes.shape[-1], fold=True)
        edges = EdgeStates(self.backend, batch, encoding, plan)
        magnitude, sign = domains_of_rows(layout)
        inner = self.node_encoder(self.embeddings, layout.nodes)
        # Nodes that something multiplies begin at zero: what they are told by is in their inner states.
        states = at_rest(inner, magnitude, sign)
        for layer in self.layers:
            states, inner = layer(states, inner, self._invariants(states, inner, magnitude, sign), edges, magnitude, sign)
        return ScaledState(states, self._invariants(states, inner, magnitude, sign), edges, codes)

    def _invariants(self, states: torch.Tensor, inner: torch.Tensor, magnitude: Mask, sign: Mask) -> torch.Tensor:
        read: torch.Tensor = self.read_norm(self.read(states, magnitude, sign) + inner)
        return read

    def _prepared(self, network: ParamGraph | Stack) -> ParamGraph | Stack:
        return self._rewired(network)

    def _types(self, graphs: list[ParamGraph]) -> Vocabulary:
        return with_copies(super()._types(graphs))


class ScaleGMNLayer(nn.Module):
    """Messages, an update of the nodes, and one of the edges.

    Args:
        width: length of all states.
        both: messages also run against the edges.
        layers: of the metanet: every update is weighed by the root of one over their number.
        dropout: of the node update.
        head: the head that follows if this is the last layer, else None. What that head does not read is not computed.
    """

    def __init__(self, width: int, both: bool, layers: int, dropout: float, head: str | None) -> None:
        super().__init__()
        strength = max(layers, 1) ** -0.5
        self.width = width
        updates_nodes = head != "edge"
        self.forward_message = ScaledMessage(width) if updates_nodes else None
        self.backward_message = ScaledMessage(width) if updates_nodes and both else None
        self.forward_read = InvariantMessage(width) if updates_nodes else None
        self.backward_read = InvariantMessage(width) if updates_nodes and both else None
        self.node_update = ScaledNodeUpdate(width, 1 + both, strength, dropout, last=head == "node") if updates_nodes else None
        self.edge_update = ScaledEdgeUpdate(width, strength) if head in (None, "edge") else None

    def forward(
        self,
        states: torch.Tensor,
        inner: torch.Tensor,
        invariants: torch.Tensor,
        edges: EdgeStates,
        magnitude: Mask,
        sign: Mask,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New states and inner states of the nodes; `edges` are advanced."""
        states, inner = self._update_nodes(states, inner, invariants, edges, magnitude, sign)
        if self.edge_update is not None:
            edges.advance(self.edge_update, Terms(edges.batch.layout, *self.edge_update.at_nodes(invariants)))
        return states, inner

    def _update_nodes(
        self,
        states: torch.Tensor,
        inner: torch.Tensor,
        invariants: torch.Tensor,
        edges: EdgeStates,
        magnitude: Mask,
        sign: Mask,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        forward, backward = self.forward_message, self.backward_message
        read_forward, read_backward = self.forward_read, self.backward_read
        if self.node_update is None or forward is None or read_forward is None:
            return states, inner
        layout = edges.batch.layout
        # Only magnitudes forbid to normalise what is sent.
        sent = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + 1e-6)
        sent = sent if magnitude is None else torch.where(magnitude, states, sent)
        keeps = self.edge_update is not None
        moved = edges.reduce(
            Step(forward, Terms(layout, *forward.at_nodes(sent, invariants, False)), self.width),
            None if backward is None else Step(backward, Terms(layout, *backward.at_nodes(sent, invariants, True)), self.width),
            only=transports,
            keeps=keeps,
        )
        read = edges.reduce(
            Step(read_forward, Terms(layout, *read_forward.at_nodes(invariants)), self.width),
            None if read_backward is None else Step(read_backward, Terms(layout, *read_backward.at_nodes(invariants)), self.width),
            only=lambda job: not transports(job),
            keeps=keeps,
        )
        assert moved.target is not None and read.target is not None
        messages, invariant_messages = [forward.finish(moved.target, layout.in_degree)], [read_forward.finish(read.target, layout.in_degree)]
        if backward is not None and read_backward is not None:
            assert moved.source is not None and read.source is not None
            messages.append(backward.finish(moved.source, layout.out_degree))
            invariant_messages.append(read_backward.finish(read.source, layout.out_degree))
        updated: tuple[torch.Tensor, torch.Tensor] = self.node_update(states, inner, invariants, messages, invariant_messages, magnitude, sign)
        return updated


class Rewired:
    """Networks rewired for ScaleGMN; each annotation is looked at once.

    Args:
        size: annotations to keep.
    """

    def __init__(self, size: int = 512) -> None:
        self._size = size
        self._known: OrderedDict[tuple[int, int, int], tuple[ParamGraph, ParamGraph]] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._size,)  # copies and pickles start empty

    def __call__(self, network: ParamGraph | Stack) -> ParamGraph | Stack:
        """The network with nodes and edges as ScaleGMN needs them, over the same values."""
        graph = network.graph if isinstance(network, Stack) else network
        key = (id(graph.node_sets), id(graph.edge_sets), id(graph.symmetry))
        if key not in self._known:
            # The graph is held so that the ids stay its own.
            self._known[key] = graph, rewired(graph)
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        made = self._known[key][1]
        if isinstance(network, Stack):
            return Stack(made, network.values)
        return ParamGraph(
            graph.name, made.node_sets, made.edge_sets, graph.symmetry, graph.values, graph.aliases, graph.names, graph.diagnostics
        )


def edge_kind(structure: Structure, edges: EdgeSet) -> EdgeKind:
    """`Limits.kind` of ScaleGMN."""
    assert isinstance(edges, ScaledEdgeSet)
    return edges.kind


def transports(job: Job) -> bool:
    """Whether a job's edges carry states from potential to potential."""
    return isinstance(job.kind, EdgeKind) and job.kind.transport != "none"


def with_copies(vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary with the types that rewiring brings."""
    return vocabulary.merged(Vocabulary(edge_types=(COPY,)))
