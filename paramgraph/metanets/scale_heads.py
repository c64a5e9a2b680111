"""What ScaleGMN returns: invariant predictions per graph, equivariant ones per node and per edge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from paramgraph.backends.tiles import Tile
from paramgraph.metanets.gmn_layer import per_count
from paramgraph.metanets.heads import ReadoutNorm, Stacked, per_edge, per_node, separate
from paramgraph.metanets.job_pass import Tensors
from paramgraph.metanets.layout import Job, Layout
from paramgraph.metanets.passes import EdgeStates
from paramgraph.metanets.rewiring import EdgeKind
from paramgraph.metanets.scale_encoders import at_codes
from paramgraph.metanets.scale_layers import invariant


@dataclass(frozen=True)
class ScaledState:
    """States of a batch after the last layer.

    Attributes:
        nodes: `(rows, width)`, multiplied as their nodes are.
        invariants: `(rows, width)`, of nodes.
        edges: edge states.
        codes: what the edges of one edge set and position share, `(codes, width)`.
    """

    nodes: torch.Tensor
    invariants: torch.Tensor
    edges: EdgeStates
    codes: torch.Tensor

    @property
    def layout(self) -> Layout:
        return self.edges.batch.layout


class ScaledGraphHead(nn.Module):
    """Invariant: DeepSets over the invariants of all nodes; pinned nodes are told apart by their order in those."""

    def __init__(self, width: int, out: int, dropout: float = 0.0, batch_norm: bool = False) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        norm = ReadoutNorm(width) if batch_norm else nn.LayerNorm(width)
        self.all = nn.Sequential(norm, nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, out))

    def forward(self, state: ScaledState) -> torch.Tensor:
        """`(graphs, out)`, in the order of the graphs as given."""
        layout, rows = state.layout, self.each(state.invariants)
        sums = rows.new_zeros(layout.num_graphs, rows.shape[-1]).index_add(0, layout.graph_of_row, rows)
        predictions: torch.Tensor = self.all(per_count(sums, layout.nodes_per_graph))
        return predictions[state.edges.batch.order]


class ScaledNodeHead(nn.Module):
    """Equivariant: a linear function, without bias, of the last node states. The columns are multiplied as the nodes are."""

    def __init__(self, width: int, out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out, bias=False)

    def forward(self, state: ScaledState) -> list[dict[str, torch.Tensor]]:
        """Per graph, from node set names to `(size, out)`. A set with several potentials has several entries, `name` and `name@1`, ….."""
        return per_node(state.layout, self.linear(state.nodes), state.edges.batch.order)


class ScaledEdgeHead(nn.Module):
    """Equivariant: per parameter element a number that is multiplied as the element is; in columns of masks, one that is not multiplied."""

    def __init__(self, width: int, out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.out = out
        self.masks: tuple[int, ...] = ()
        self.linear = nn.Linear(width, width * out)

    def begin_at_zero(self) -> None:
        """Predict nothing until trained: editors begin as the identity."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def stacked(self, state: ScaledState) -> Stacked:
        """Per group of the batch, from names of edge sets with a parameter to `(networks, *edge_set.shape, out)`."""
        found = per_edge(state.edges, _Emitter(self.out, self.masks, self.linear(state.codes)))
        for predictions, group in zip(found, state.edges.batch.groups, strict=True):
            for name, values in predictions.items():
                edges = group.graph.edge_sets[name]
                kind = getattr(edges, "kind", None)
                if isinstance(kind, EdgeKind) and kind.ragged:
                    # Values of one state have different multipliers: only their products with themselves are equivariant.
                    read = group.read(edges)
                    raw = read[0] if group.stack is not None else torch.stack(read)
                    equivariant = [values[..., n] if n in self.masks else values[..., n] * raw.to(values.dtype) for n in range(self.out)]
                    predictions[name] = torch.stack(equivariant, dim=-1)
        return found

    def forward(self, state: ScaledState) -> list[dict[str, torch.Tensor]]:
        """Per graph, from names of edge sets with a parameter to `(*edge_set.shape, out)`."""
        return separate(self.stacked(state), state.edges.batch)


class _Emitter:
    """The edge head of one batch, with its table of functions per code."""

    def __init__(self, out: int, masks: tuple[int, ...], table: torch.Tensor) -> None:
        self.out = out
        self.masks = masks
        self.table = table

    def edge_tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.table,)

    def emitted(self, job: Job, tile: Tile, tensors: Tensors, state: torch.Tensor) -> torch.Tensor:
        kind = job.kind
        assert isinstance(kind, EdgeKind)
        width = state.shape[-1]
        table = at_codes(tensors[0], job, tile).unflatten(-1, (self.out, width))
        columns = []
        for number in range(self.out):
            read, coefficients = self._read(state, kind, number), table[..., number, :]
            # A table that all edges share is a matrix: no vector per position is made.
            column = (read * coefficients).sum(-1) if job.packed else read.squeeze(-2) @ coefficients.t()
            columns.append(column / width**0.5)
        return torch.stack(columns, dim=-1).reshape(state.shape[0], tile.block.num_edges, self.out)

    def _read(self, state: torch.Tensor, kind: EdgeKind, column: int) -> torch.Tensor:
        return invariant(state, kind.edge) if column in self.masks and not kind.ragged else state


SCALED_HEADS = {"graph": ScaledGraphHead, "node": ScaledNodeHead, "edge": ScaledEdgeHead}
