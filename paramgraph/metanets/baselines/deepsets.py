"""DeepSets over parameters: each encoded with its type, depth and position, their mean, and a perceptron (Lim et al. 2023)."""

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
from paramgraph.metanets.encoders import EdgeEncoder
from paramgraph.metanets.gmn_layer import per_count
from paramgraph.metanets.job_pass import Ends
from paramgraph.metanets.layout import Job
from paramgraph.metanets.memory import Reader
from paramgraph.metanets.options import Remembers
from paramgraph.metanets.passes import EdgeStates, Encoding
from paramgraph.metanets.stack import Stack
from paramgraph.metanets.terms import Terms
from paramgraph.metanets.vocabulary import Vocabulary


class DeepSets(Remembers, Reader):
    """A perceptron of the mean of `φ(parameter, type, depth, position)`. It sees no edges: only which parameters there are.

    Args:
        hidden: width.
        out: length of each prediction.
        backend: name of an engine or an instance; it sums.
        dropout: of the last perceptron.
        vocabulary: the types to know; None takes those of the first batch.
        keep_edges: as for `GMN`.
    """

    def __init__(
        self,
        hidden: int = 128,
        out: int = 1,
        backend: str | Backend = "torch",
        dropout: float = 0.0,
        vocabulary: Vocabulary | None = None,
        keep_edges: int | None = None,
    ) -> None:
        super().__init__(get_backend(backend), hidden, 1, keep_edges, pack_edges=0)
        self.embeddings = TypeEmbeddings(hidden, vocabulary)
        self.encoder = EdgeEncoder(hidden)
        self.each = Pointwise(hidden)
        self.mlp = perceptron([hidden, hidden, out], dropout)

    def forward(self, graphs: Networks | Stack) -> torch.Tensor:
        """`(networks, out)`, in the order given; errors as for `GMN`."""
        batch, plan = self._batch(graphs, self.encoder.structural, None)
        layout = batch.layout
        codes = self.encoder.codes(self.embeddings, layout.edges)
        encoding = Encoding(self.encoder, self.encoder.edge_tensors(codes, self.embeddings, layout.edges), codes.shape[-1])
        edges = EdgeStates(self.backend, batch, encoding, plan)
        none = codes.new_zeros(layout.num_rows, 0)
        edges.advance(self.each, Terms(layout, none, none))
        sums = edges.reduce(total=True, only=lambda job: not job.structural, keeps=False).total
        assert sums is not None
        counts = [sum(e.num_edges for e in group.graph.edge_sets.values() if e.parameter is not None) for group in batch.groups]
        per_graph = torch.tensor([c for c, group in zip(counts, batch.groups, strict=True) for _ in range(group.count)], device=sums.device)
        prediction: torch.Tensor = self.mlp(per_count(sums, per_graph))
        return prediction[batch.order]


class Pointwise(nn.Module):
    """A perceptron of two layers on each edge state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        """See `job_pass.EdgeWise`."""
        return self.first.weight, self.first.bias, self.last.weight, self.last.bias

    def updated(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor
    ) -> torch.Tensor:
        """See `job_pass.EdgeWise`."""
        return F.linear(F.relu(F.linear(edge, tensors[0], tensors[1])), tensors[2], tensors[3])

    def hidden(
        self, job: Job, tensors: Sequence[torch.Tensor], backend: Backend, block: Block, ends: Ends, edge: torch.Tensor, end: str
    ) -> torch.Tensor:
        """It sends no messages."""
        raise NotImplementedError
