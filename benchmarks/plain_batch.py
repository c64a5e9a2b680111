"""Networks as rows of nodes and lists of edges, every edge with the numbers of its ends: what plain message passing runs over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from paramgraph.graph import EdgeSet, ParamGraph
from paramgraph.metanets import Stack, Vocabulary
from paramgraph.metanets.rewiring import EdgeKind
from paramgraph.metanets.structure import EdgeTable, NodeTable


@dataclass(frozen=True)
class Run:
    """One edge set in all networks of a stack.

    Attributes:
        edges: the edge set.
        values: `(networks, pairs, positions)`, zero where it carries no parameter.
        source: rows of the pairs' sources, `(networks, pairs)`.
        target: rows of their targets, likewise.
        codes: which rows of the table of edge features belong to its positions.
    """

    edges: EdgeSet
    values: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor
    codes: slice


@dataclass(frozen=True)
class Edges:
    """Edges one by one, `(edges,)` each: rows of their ends, values, rows of the table of edge features."""

    source: torch.Tensor
    target: torch.Tensor
    values: torch.Tensor
    codes: torch.Tensor


class Rows:
    """A row for every node, network after network, and runs of edges between them.

    Args:
        networks: the batch; networks of one architecture are best given as a stack.
        vocabulary: rows of the type tables.
        like: a tensor of the metanet's dtype.

    Attributes:
        nodes: node features.
        edges: edge features, one row per edge set and position.
        runs: per network or stack as given.
        graph_of_row: number of each row's network, `(rows,)`.
        nodes_per_graph: `(networks,)`.
        in_degree: edges that end at each row, with all positions counted, `(rows,)`.
    """

    def __init__(self, networks: Sequence[ParamGraph | Stack], vocabulary: Vocabulary, like: torch.Tensor) -> None:
        self._like = like
        self.runs: list[list[Run]] = []
        self._sets: list[Any] = []
        set_of_row, orders, sizes, kept = [], [], [], []
        row, code = 0, 0
        for network in networks:
            graph, count = (network.graph, len(network)) if isinstance(network, Stack) else (network, 1)
            numbers = np.arange(len(self._sets), len(self._sets) + len(graph.node_sets))
            set_of_row.append(np.tile(np.repeat(numbers, [nodes.size for nodes in graph.node_sets.values()]), count))
            orders.append(np.tile(np.concatenate([nodes.order_array() for nodes in graph.node_sets.values()]), count))
            self._sets += graph.node_sets.values()
            starts = dict(zip(graph.node_sets, np.cumsum([0, *(nodes.size for nodes in graph.node_sets.values())]), strict=False))
            first = row + graph.num_nodes * np.arange(count)[:, None]
            runs = []
            for edges in graph.edge_sets.values():
                if not edges.num_edges:
                    continue
                positions = edges.shape[3]
                ends = zip((edges.source, edges.target), edges.edge_index(), strict=True)
                source, target = (torch.from_numpy(first + starts[name] + index[::positions]) for name, index in ends)
                shape = (*source.shape, positions)
                values = like.new_zeros(shape) if edges.parameter is None else network.edge_values(edges).to(like.dtype).reshape(shape)
                runs.append(Run(edges, values, source, target, slice(code, code + positions)))
                kept.append(edges)
                code += positions
            self.runs.append(runs)
            sizes += [graph.num_nodes] * count
            row += graph.num_nodes * count
        self.num_graphs, self.num_rows = len(sizes), row
        self.nodes_per_graph = torch.tensor(sizes)
        self.graph_of_row = torch.repeat_interleave(self.nodes_per_graph)
        self.in_degree = torch.zeros(row, dtype=torch.int64)
        for run in (run for runs in self.runs for run in runs):
            self.in_degree += run.values.shape[2] * torch.bincount(run.target.reshape(-1), minlength=row)
        self._set_of_row = torch.from_numpy(np.concatenate(set_of_row))
        self.nodes = self._node_table(vocabulary, np.concatenate(orders))
        self.edges = self._edge_table(vocabulary, kept)

    def _node_table(self, vocabulary: Vocabulary, orders: np.ndarray) -> NodeTable:
        distinct, number = np.unique(np.concatenate([[-1], orders]), return_inverse=True)
        return NodeTable(
            type=torch.tensor([vocabulary.node_type_rows[nodes.type] for nodes in self._sets]),
            activation=torch.tensor([vocabulary.activation_rows[nodes.activation] for nodes in self._sets]),
            depth=torch.tensor([float(nodes.depth) for nodes in self._sets]),
            set_of_row=self._set_of_row,
            order=torch.from_numpy(distinct[1:]),
            order_row=torch.from_numpy(number.reshape(-1)[1:]),
        )

    def _edge_table(self, vocabulary: Vocabulary, sets: Sequence[EdgeSet]) -> EdgeTable:
        counts = torch.tensor([edges.shape[3] for edges in sets])
        return EdgeTable(
            type=torch.tensor([vocabulary.edge_type_rows[edges.type] for edges in sets]).repeat_interleave(counts),
            depth=torch.tensor([float(edges.depth) for edges in sets]).repeat_interleave(counts),
            position=torch.from_numpy(np.concatenate([edges.position_array() for edges in sets])),
            structural=torch.tensor([edges.parameter is None for edges in sets]).repeat_interleave(counts),
        )

    def one_per_value(self) -> Edges:
        """Parallel edges for the positions of a pair, network after network."""
        found: list[list[torch.Tensor]] = []
        for runs in self.runs:
            each = [
                (
                    run.source[..., None].expand_as(run.values),
                    run.target[..., None].expand_as(run.values),
                    run.values,
                    torch.arange(run.codes.start, run.codes.stop).expand_as(run.values),
                )
                for run in runs
            ]
            found.append([torch.cat([part.flatten(1) for part in parts], dim=1).reshape(-1) for parts in zip(*each, strict=True)])
        return Edges(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def by_kind(self, kind: Callable[[Any], EdgeKind]) -> dict[EdgeKind, list[Run]]:
        """Runs with one edge per pair, those of one kind together."""
        kinds: dict[EdgeKind, list[Run]] = {}
        for run in (run for runs in self.runs for run in runs):
            kinds.setdefault(kind(run.edges), []).append(run)
        return kinds

    def masks(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Whether magnitudes and whether signs multiply each row of ScaleGMN, `(rows, 1)`; None where they multiply none."""
        flags = torch.tensor([(nodes.domain.magnitude, nodes.domain.sign) for nodes in self._sets])[self._set_of_row]
        magnitude, sign = (column[:, None] if bool(column.any()) else None for column in flags.unbind(1))
        return magnitude, sign
