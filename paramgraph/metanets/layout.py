"""How a batch lies in memory: one table of node rows, and edge jobs for the backend.

Graphs of one structure form a group. Each node set of a group takes one run of rows, `(graphs of the group, nodes)`, so every edge set
of the group is one block with a leading batch axis. Small edge sets of all groups together become one packed job with explicit
indices over the whole table: what they cost is calls, not arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from paramgraph.backends.protocol import Block
from paramgraph.backends.tiles import Tile, Window, split, tile_edge_set
from paramgraph.graph import EdgeSet
from paramgraph.metanets.structure import EdgeTable, NodeTable, Structure
from paramgraph.metanets.vocabulary import Vocabulary

# The kind of edge sets that are node features; see `feature_kind`.
FEATURE = "feature"


def feature_kind(structure: Structure, edges: EdgeSet) -> str | None:
    """`Limits.kind` of metanets that take biases and gains as features of nodes: they send no messages along them."""
    return FEATURE if edges.name in structure.features else None


@dataclass(frozen=True)
class Limits:
    """Sizes in edges, counted over all graphs of a group.

    Attributes:
        tile: edges that are processed at once; of folded ones in block jobs, pairs of nodes.
        pack: edge sets up to this size are packed.
        fold: the positions of a node pair are one edge: tiles do not cut them.
        kind: what a metanet tells edge sets apart by; only edge sets of one kind are packed together. None: nothing.
    """

    tile: int
    pack: int
    fold: bool = False
    kind: Callable[[Structure, EdgeSet], Hashable] | None = None


@dataclass(frozen=True)
class Part:
    """One edge set of one graph within a job. `start` and `stop` count edges of the packed job; they are 0 in a block job."""

    graph: int
    edges: EdgeSet
    start: int = 0
    stop: int = 0


@dataclass(frozen=True, eq=False)
class Job:
    """Edges that are processed together: an edge set of a group of graphs, or all small edge sets of the batch.

    Attributes:
        parts: the edge sets, one per graph and, in a packed job, per small edge set.
        batch: leading axis of its tensors; 1 in a packed job.
        source: number of the source node set's run of rows; None in a packed job: the whole table.
        target: likewise for targets.
        codes: row of the edge code table per position `(positions,)`; in a packed job per edge `(edges,)`, or `(edges, positions)` if folded.
        tiles: what to process at once, in the order of the layout.
        networks: number of networks to process at once.
        packed: whether indices are explicit over the whole table.
        kind: by `Limits.kind`.
    """

    parts: tuple[Part, ...]
    batch: int
    source: int | None
    target: int | None
    codes: torch.Tensor
    tiles: list[Tile]
    networks: int = 1
    packed: bool = False
    kind: Hashable = None

    @property
    def structural(self) -> bool:
        """Whether its edges carry no parameter. Structural edges of a packed job have the value 0 among the others."""
        return not self.packed and self.parts[0].edges.parameter is None


class Layout:
    """The layout of a batch, from structures alone: no value is looked at, so it can be kept for the next batch.

    Args:
        groups: structures, each with its number of graphs. Graphs are numbered in this order.
        vocabulary: rows of the type tables.
        limits: sizes of tiles and packed edge sets.
        device: where index tensors go.

    Attributes:
        runs: `(batch, nodes)` of each run of rows: one per group and node set.
        graph_of_row: `(rows,)` graph number per row.
        in_degree: `(rows,)` edges that end at each node; without features, if the kind of edge sets tells those apart.
        out_degree: `(rows,)` edges that begin at each node, likewise.
        nodes_per_graph: `(graphs,)`.
        edges_per_graph: `(graphs,)`.
        nodes: node features.
        edges: edge features.
        jobs: the edges.
    """

    def __init__(self, groups: Sequence[tuple[Structure, int]], vocabulary: Vocabulary, limits: Limits, device: torch.device) -> None:
        self.groups = tuple(groups)
        self.device = device
        self.runs = [(batch, nodes.size) for structure, batch in groups for nodes in structure.nodes]
        self.run_rows = [batch * size for batch, size in self.runs]
        self.starts = np.concatenate([[0], np.cumsum(self.run_rows, dtype=np.int64)])
        self.num_rows = int(self.starts[-1])
        self.num_graphs = sum(batch for _, batch in groups)
        self._place_graphs(limits.kind is feature_kind)
        self.nodes = self._node_table(vocabulary)
        self.edges = self._edge_table(vocabulary)
        self.jobs = self._make_jobs(limits)
        self._edges_of: dict[tuple[int, ...], torch.Tensor] = {}

    def edges_of(self, jobs: tuple[int, ...]) -> torch.Tensor:
        """Edges per graph of some of the jobs, by number: `(graphs,)`."""
        if jobs not in self._edges_of:
            counts = np.zeros(self.num_graphs, np.int64)
            for number in jobs:
                for part in self.jobs[number].parts:
                    counts[part.graph] += part.edges.num_edges
            self._edges_of[jobs] = self._tensor(counts)
        return self._edges_of[jobs]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, device=self.device)

    def _place_graphs(self, features_apart: bool) -> None:
        graph_of_row, in_degree, out_degree, nodes, edges = [], [], [], [], []
        first = 0
        for structure, batch in self.groups:
            into, out_of = structure.in_degrees, structure.out_degrees
            if features_apart:
                into, out_of = structure.in_degrees_but_features, structure.out_degrees_but_features
            for number, node_set in enumerate(structure.nodes):
                graph_of_row.append(np.repeat(np.arange(first, first + batch), node_set.size))
                in_degree.append(np.tile(into[number], batch))
                out_degree.append(np.tile(out_of[number], batch))
            nodes += [structure.num_nodes] * batch
            edges += [structure.num_edges] * batch
            first += batch
        empty = [np.zeros(0, np.int64)]
        self.graph_of_row = self._tensor(np.concatenate(graph_of_row or empty))
        self.in_degree = self._tensor(np.concatenate(in_degree or empty))
        self.out_degree = self._tensor(np.concatenate(out_degree or empty))
        self.nodes_per_graph = self._tensor(np.asarray(nodes, np.int64))
        self.edges_per_graph = self._tensor(np.asarray(edges, np.int64))

    def _node_table(self, vocabulary: Vocabulary) -> NodeTable:
        sets = [nodes for structure, _ in self.groups for nodes in structure.nodes]
        orders = []
        for structure, batch in self.groups:
            cuts = np.cumsum([nodes.size for nodes in structure.nodes])[:-1]
            orders += [np.tile(part, batch) for part in np.split(structure.orders, cuts)] if structure.nodes else []
        order, row = np.unique(np.concatenate([[-1], *orders]), return_inverse=True)
        return NodeTable(
            type=self._tensor(np.asarray([vocabulary.node_type_rows[nodes.type] for nodes in sets], np.int64)),
            activation=self._tensor(np.asarray([vocabulary.activation_rows[nodes.activation] for nodes in sets], np.int64)),
            depth=self._tensor(np.asarray([nodes.depth for nodes in sets], np.float64)),
            set_of_row=self._tensor(np.repeat(np.arange(len(sets)), np.asarray(self.run_rows, np.int64))),
            order=self._tensor(order[1:].astype(np.int64)),
            order_row=self._tensor(row.reshape(-1)[1:].astype(np.int64)),
        )

    def _edge_table(self, vocabulary: Vocabulary) -> EdgeTable:
        sets = [edges for structure, _ in self.groups for edges in structure.edges]
        counts = [edges.shape[3] for edges in sets]
        positions = [edges.position_array() for edges in sets]
        return EdgeTable(
            type=self._tensor(np.repeat(np.asarray([vocabulary.edge_type_rows[e.type] for e in sets], np.int64), counts)),
            depth=self._tensor(np.repeat(np.asarray([e.depth for e in sets], np.float64), counts)),
            position=self._tensor(np.concatenate([np.zeros((0, 3), np.float32), *positions])),
            structural=self._tensor(np.repeat(np.asarray([e.parameter is None for e in sets], bool), counts)),
        )

    def _make_jobs(self, limits: Limits) -> list[Job]:
        jobs: list[Job] = []
        small: dict[Hashable, _Pack] = {}
        graph, run, code = 0, 0, 0
        for structure, batch in self.groups:
            for edges in structure.edges:
                positions = np.arange(code, code + edges.shape[3])
                code += edges.shape[3]
                source, target = run + structure.number[edges.source], run + structure.number[edges.target]
                kind = None if limits.kind is None else limits.kind(structure, edges)
                if batch * edges.num_edges <= limits.pack:
                    pack = small.setdefault((kind, edges.shape[3] if limits.fold else 1), _Pack(kind, limits.fold))
                    pack.add(structure, edges, graph, batch, int(self.starts[source]), int(self.starts[target]), positions)
                    continue
                parts = tuple(Part(number, edges) for number in range(graph, graph + batch))
                # Folded edges count once for all their positions: what tiles bound is states.
                tile = limits.tile * (max(edges.shape[3], 1) if limits.fold else 1)
                tiles = _tiles(structure, edges, tile, self.device)
                networks = min(batch, max(1, tile // max(edges.num_edges, 1)))
                jobs.append(Job(parts, batch, source, target, self._tensor(positions), tiles, networks, kind=kind))
            graph += batch
            run += len(structure.nodes)
        return [*jobs, *(self._packed_job(pack, limits) for pack in small.values())]

    def _packed_job(self, small: _Pack, limits: Limits) -> Job:
        source, target = self._tensor(np.concatenate(small.source)), self._tensor(np.concatenate(small.target))
        codes = self._tensor(np.concatenate(small.codes))
        positions = codes.shape[1] if limits.fold else 1
        tiles = []
        runs = list(split((source.shape[0], 1, 1, positions), max(limits.tile, positions)))
        for slices in runs:
            run = slices[0]
            # Edges of a set and its copies follow each other, so that a tile of many sees few rows of the table.
            (first, sources), (second, targets) = (
                (end[run, None], (0, self.num_rows)) if len(runs) == 1 else _within(end[run, None]) for end in (source, target)
            )
            block = Block((run.stop - run.start, 1, 1, positions), sources[1] - sources[0], targets[1] - targets[0], first, second)
            tiles.append(Tile(block, slices, sources, targets))
        return Job(tuple(small.parts), 1, None, None, codes, tiles, packed=True, kind=small.kind)


class _Pack:
    """Small edge sets gathered into one list of edges over the rows of the table.

    Args:
        kind: of the edge sets.
        fold: count the positions of a node pair as one edge.
    """

    def __init__(self, kind: Hashable, fold: bool) -> None:
        self.kind = kind
        self.fold = fold
        self.parts: list[Part] = []
        self.source: list[np.ndarray] = []
        self.target: list[np.ndarray] = []
        self.codes: list[np.ndarray] = []
        self.count = 0

    def add(
        self, structure: Structure, edges: EdgeSet, graph: int, batch: int, source_start: int, target_start: int, codes: np.ndarray
    ) -> None:
        """Add one edge set of `batch` graphs from number `graph` on, whose node sets' rows begin at the given starts."""
        key = ("edge index", edges.name, self.fold)
        if key not in structure.cache:
            source, target = edges.edge_index()
            step = max(edges.shape[3], 1) if self.fold else 1
            structure.cache[key] = source[::step], target[::step]
        source, target = structure.cache[key]
        sizes = [structure.nodes[structure.number[end]].size for end in (edges.source, edges.target)]
        copies = np.arange(batch)[:, None]
        self.source.append((source_start + copies * sizes[0] + source).reshape(-1))
        self.target.append((target_start + copies * sizes[1] + target).reshape(-1))
        repeats = batch * edges.num_edges // max(len(codes), 1)
        self.codes.append(np.tile(codes, (repeats, 1)) if self.fold else np.tile(codes, repeats))
        for copy in range(batch):
            self.parts.append(Part(graph + copy, edges, self.count, self.count + edges.num_edges))
            self.count += edges.num_edges


def _within(index: torch.Tensor) -> tuple[torch.Tensor, Window]:
    """Row numbers counted from the first of them, and the window that they span."""
    start, stop = int(index.min()), int(index.max()) + 1
    return index - start, (start, stop)


def _tiles(structure: Structure, edges: EdgeSet, limit: int, device: torch.device) -> list[Tile]:
    key = ("tiles", edges.name, limit, str(device))
    if key not in structure.cache:
        num_sources, num_targets = (structure.nodes[structure.number[end]].size for end in (edges.source, edges.target))
        structure.cache[key] = tile_edge_set(edges, num_sources, num_targets, limit, device)
    tiles: list[Tile] = structure.cache[key]
    return tiles
