"""NG-GNN: the graph network of Kofinas et al. 2024 (arXiv:2403.12143), "Graph neural networks for learning equivariant representations of
neural networks"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from paramgraph.backends.protocol import Backend, Block
from paramgraph.backends.registry import get_backend
from paramgraph.metanets.baselines.inputs import perceptron
from paramgraph.metanets.batch import Networks
from paramgraph.metanets.embeddings import TypeEmbeddings
from paramgraph.metanets.encoders import EdgeEncoder, NodeEncoder
from paramgraph.metanets.gmn_layer import collected_features, per_count
from paramgraph.metanets.job_pass import Ends
from paramgraph.metanets.layout import FEATURE, Job, feature_kind
from paramgraph.metanets.memory import Reader
from paramgraph.metanets.options import Remembers
from paramgraph.metanets.passes import EdgeStates, Encoding, Step
from paramgraph.metanets.stack import Stack
from paramgraph.metanets.terms import Terms
from paramgraph.metanets.vocabulary import Vocabulary


class NGGNN(Remembers, Reader):
    """Biases are features of nodes, weights of edges; messages are modulated by the edges, aggregated in several ways, and edges are updated:

        m_ij = scale(e_ij) ⊙ φ(v_i, v_j) + shift(e_ij)
        v_i  ← v_i + MLP(v_i, aggregates of m_ij)
        e_ij ← e_ij + MLP(v_i, e_ij, v_j)

    The aggregators are those of PNA: mean, minimum, maximum and standard deviation, with its scalers (identity, amplification, attenuation).
    Probe features are left out.

    Args:
        hidden: length of all states.
        layers: number of layers.
        out: length of each prediction.
        backend: name of an engine or an instance.
        dropout: of the last perceptron.
        vocabulary: the types to know; None takes those of the first batch.
        keep_edges: as for `GMN`.
    """

    many_results = True

    def __init__(
        self,
        hidden: int = 64,
        layers: int = 4,
        out: int = 1,
        backend: str | Backend = "torch",
        dropout: float = 0.0,
        vocabulary: Vocabulary | None = None,
        keep_edges: int | None = None,
    ) -> None:
        super().__init__(get_backend(backend), hidden, layers, keep_edges)
        self.embeddings = TypeEmbeddings(hidden, vocabulary)
        self.node_encoder, self.edge_encoder = NodeEncoder(hidden), EdgeEncoder(hidden)
        self.layers = nn.ModuleList(_Layer(hidden, last=number == layers - 1) for number in range(layers))
        self.mlp = perceptron([hidden, hidden, out], dropout)

    def forward(self, graphs: Networks | Stack) -> torch.Tensor:
        """`(networks, out)`, in the order given; errors as for `GMN`."""
        batch, plan = self._batch(graphs, self.node_encoder.no_order, feature_kind)
        layout = batch.layout
        codes = self.edge_encoder.codes(self.embeddings, layout.edges)
        encoding = Encoding(self.edge_encoder, self.edge_encoder.edge_tensors(codes, self.embeddings, layout.edges), codes.shape[-1])
        edges = EdgeStates(self.backend, batch, encoding, plan)
        nodes = self.node_encoder(self.embeddings, layout.nodes)
        nodes = nodes + collected_features(edges, nodes)
        for layer in self.layers:
            nodes = layer(nodes, edges)
        sums = nodes.new_zeros(layout.num_graphs, nodes.shape[-1]).index_add(0, layout.graph_of_row, nodes)
        prediction: torch.Tensor = self.mlp(per_count(sums, layout.nodes_per_graph))
        return prediction[batch.order]


class _Layer(nn.Module):
    def __init__(self, width: int, last: bool) -> None:
        super().__init__()
        self.message = _Message(width)
        self.edge_update = None if last else _EdgeUpdate(width)
        self.norm = nn.LayerNorm(width)
        self.first, self.last = nn.Linear(13 * width, width), nn.Linear(width, width)
        self.width = width

    def forward(self, nodes: torch.Tensor, edges: EdgeStates) -> torch.Tensor:
        layout, normed = edges.batch.layout, self.norm(nodes)
        step = Step(self.message, Terms(layout, *self.message.at_nodes(normed)), 2 * self.width, extremes=self.width)
        found = edges.reduce(forward=step, only=lambda job: job.kind != FEATURE, keeps=self.edge_update is not None)
        assert found.target is not None and found.extremes is not None
        degree = layout.in_degree.to(found.target.dtype)[:, None]
        extremes = torch.where(degree > 0, found.extremes, 0.0)
        mean, square = (found.target / degree.clamp(min=1)).split(self.width, dim=-1)
        deviation = torch.sqrt(F.relu(square - mean.square()) + 1e-5)
        scaler = torch.log1p(degree) / 3.0
        aggregates = torch.cat([mean, deviation, extremes], dim=-1)
        seen = [normed, aggregates, aggregates * scaler, aggregates / scaler.clamp(min=0.1)]
        if self.edge_update is not None:
            edges.advance(self.edge_update, Terms(layout, *self.edge_update.at_nodes(normed)))
        updated: torch.Tensor = nodes + self.last(F.relu(self.first(torch.cat(seen, dim=-1))))
        return updated


class _Message(nn.Module):
    """Messages and their squares."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.at_source, self.at_target = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.scale, self.shift = nn.Linear(width, width), nn.Linear(width, width)

    def at_nodes(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.at_source(nodes), self.at_target(nodes)

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        return self.scale.weight, self.scale.bias, self.shift.weight, self.shift.bias

    def hidden(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor, end: str
    ) -> torch.Tensor:
        scale, scale_bias, shift, shift_bias = tensors
        between = F.relu(backend.combine(block, *ends))
        messages = torch.addcmul(F.linear(edge, shift, shift_bias), F.linear(edge, scale, scale_bias), between)
        return torch.cat([messages, messages.square()], dim=-1)

    def updated(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor
    ) -> torch.Tensor:
        raise NotImplementedError


class _EdgeUpdate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.at_source, self.at_target = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.first, self.last = nn.Linear(width, width, bias=False), nn.Linear(width, width)

    def at_nodes(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.at_source(nodes), self.at_target(nodes)

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        return self.first.weight, self.last.weight, self.last.bias

    def updated(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor
    ) -> torch.Tensor:
        hidden = F.relu(backend.combine(block, *ends, F.linear(edge, tensors[0]), overwrite=True))
        return edge + F.linear(hidden, tensors[1], tensors[2])

    def hidden(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor, end: str
    ) -> torch.Tensor:
        raise NotImplementedError
