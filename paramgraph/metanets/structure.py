"""What a metanet needs of a graph's structure, apart from its values: computed once per structure and kept."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from paramgraph.graph import EdgeSet, NodeSet, ParameterView, ParamGraph


@dataclass(frozen=True)
class NodeTable:
    """Features of all nodes of a batch. `sets` counts node sets, each with the nodes of all graphs of its structure.

    Attributes:
        type: `(sets,)` rows of the node type table.
        activation: `(sets,)` rows of the activation table.
        depth: `(sets,)`.
        set_of_row: `(rows,)` number of each node's set.
        order: `(orders,)` the distinct orders that occur.
        order_row: `(rows,)` number of each node's order in `order`, plus one; 0 for nodes without.
    """

    type: torch.Tensor
    activation: torch.Tensor
    depth: torch.Tensor
    set_of_row: torch.Tensor
    order: torch.Tensor
    order_row: torch.Tensor


@dataclass(frozen=True)
class EdgeTable:
    """Features that the edges of one edge set and position share; `codes` counts (edge set, position) pairs of a batch.

    Attributes:
        type: `(codes,)` rows of the edge type table.
        depth: `(codes,)`.
        position: `(codes, 3)` coordinates.
        structural: `(codes,)` bool: the edges carry no parameter.
    """

    type: torch.Tensor
    depth: torch.Tensor
    position: torch.Tensor
    structural: torch.Tensor


class Structure:
    """Node sets and edge sets of one architecture, with what follows from them alone.

    Attributes:
        nodes: the node sets, in order.
        edges: the edge sets, in order.
        cache: for the users of a structure, e.g. tiles; keys begin with the user's name.
    """

    def __init__(self, node_sets: Mapping[str, NodeSet], edge_sets: Mapping[str, EdgeSet]) -> None:
        self.nodes = tuple(node_sets.values())
        self.edges = tuple(edge_sets.values())
        self.number = {name: number for number, name in enumerate(node_sets)}
        self.cache: dict[tuple[Any, ...], Any] = {}

    @cached_property
    def num_nodes(self) -> int:
        return sum(nodes.size for nodes in self.nodes)

    @cached_property
    def num_edges(self) -> int:
        return sum(edges.num_edges for edges in self.edges)

    @cached_property
    def orders(self) -> np.ndarray:
        """Order of each node, -1 for none, `(num_nodes,)`."""
        return np.concatenate([nodes.order_array() for nodes in self.nodes]) if self.nodes else np.zeros(0, np.int64)

    @cached_property
    def features(self) -> frozenset[str]:
        """Edge sets that only write their values on the nodes at their targets: from a set of one node that nothing reaches, one edge per
        target and position. Biases, gains, offsets and running statistics are such."""
        reached = {edges.target for edges in self.edges}
        return frozenset(
            edges.name
            for edges in self.edges
            if edges.parameter is not None
            and edges.source not in reached
            and self.nodes[self.number[edges.source]].size == 1
            and edges.num_edges == edges.shape[3] * len(np.unique(edges.targets()))
        )

    @cached_property
    def in_degrees(self) -> tuple[np.ndarray, ...]:
        """Edges that end at each node, one array `(size,)` per node set."""
        return self._degrees("target")

    @cached_property
    def out_degrees(self) -> tuple[np.ndarray, ...]:
        """Edges that begin at each node, one array `(size,)` per node set."""
        return self._degrees("source")

    @cached_property
    def in_degrees_but_features(self) -> tuple[np.ndarray, ...]:
        """`in_degrees` without those of `features`."""
        return self._degrees("target", self.features)

    @cached_property
    def out_degrees_but_features(self) -> tuple[np.ndarray, ...]:
        """`out_degrees` without those of `features`."""
        return self._degrees("source", self.features)

    def _degrees(self, end: str, leave_out: frozenset[str] = frozenset()) -> tuple[np.ndarray, ...]:
        degrees = tuple(np.zeros(nodes.size, np.int64) for nodes in self.nodes)
        for edges in self.edges:
            if edges.name in leave_out:
                continue
            groups, m, k, positions = edges.shape
            degree = degrees[self.number[getattr(edges, end)]]
            index = edges.source_index if end == "source" else edges.target_index
            each = (m if end == "source" else k) * positions
            if index is None:
                degree[: groups * (k if end == "source" else m)] += each
            else:
                degree += np.bincount(np.asarray(index).reshape(-1), minlength=degree.size) * each
        return degrees


class StructureCache:
    """Structures by the identity of a graph's sets, and else by their content. Keeps the last `size` of them.

    Graphs made by `with_values` share their sets, and are recognised at once; separately compiled networks of one architecture are
    recognised by content, so that they are stacked too.
    """

    def __init__(self, size: int = 512) -> None:
        self._size = size
        self._by_identity: OrderedDict[tuple[int, int], tuple[Any, Any, Structure]] = OrderedDict()
        self._by_content: OrderedDict[tuple[Any, ...], Structure] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._size,)  # copies and pickles start empty

    def __call__(self, graph: ParamGraph) -> Structure:
        """The structure of a graph; the same object for graphs of one architecture."""
        identity = (id(graph.node_sets), id(graph.edge_sets))
        if identity in self._by_identity:
            self._by_identity.move_to_end(identity)
            return self._by_identity[identity][2]
        content = structure_key(graph)
        structure = self._by_content.setdefault(content, Structure(graph.node_sets, graph.edge_sets))
        self._by_content.move_to_end(content)
        # The sets are held so that their ids stay theirs.
        self._by_identity[identity] = (graph.node_sets, graph.edge_sets, structure)
        if len(self._by_content) > self._size:
            self._by_content.popitem(last=False)
        if len(self._by_identity) > 4 * self._size:
            self._by_identity.popitem(last=False)
        return structure


def structure_key(graph: ParamGraph) -> tuple[Any, ...]:
    """Equal for graphs that agree in all that a metanet sees, values apart: also in how values are read off, so that one view does for all."""
    nodes = tuple((n.name, n.type, n.size, n.depth, n.activation, _digest(n.order), getattr(n, "domain", None)) for n in graph.node_sets.values())
    edges = tuple(
        (
            *(e.name, e.type, e.source, e.target, e.shape, e.depth, _view_key(e.parameter)),
            *(_digest(e.source_index), _digest(e.target_index), _digest(e.positions), getattr(e, "kind", None)),
        )
        for e in graph.edge_sets.values()
    )
    return nodes, edges, tuple((name, tuple(value.shape)) for name, value in graph.values.items())


def _view_key(view: ParameterView | None) -> Any:
    return None if view is None else (view.name, view.split, view.slices, view.order, view.role, view.use, _digest(view.index))


def _digest(array: np.ndarray | range | None) -> Any:
    if array is None or isinstance(array, range):
        return array
    array = np.ascontiguousarray(array)
    return array.shape, array.dtype.str, hashlib.blake2b(array.tobytes(), digest_size=16).digest()
