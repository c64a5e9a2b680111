"""The types that a metanet knows: open strings, given or collected from the first batch, then frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from paramgraph.errors import MetanetError
from paramgraph.graph import ParamGraph


@dataclass(frozen=True)
class Vocabulary:
    """Node types, activations and edge types, each with its row in an embedding table.

    Attributes:
        node_types: types of node sets.
        activations: names of activation functions. That a set has none needs no entry.
        edge_types: types of edge sets.
    """

    node_types: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    edge_types: tuple[str, ...] = ()

    @classmethod
    def from_graphs(cls, graphs: Iterable[ParamGraph]) -> Vocabulary:
        """All types that occur in `graphs`, sorted, so that the order of the graphs does not matter."""
        node_types: set[str] = set()
        activations: set[str] = set()
        edge_types: set[str] = set()
        for graph in graphs:
            node_types.update(nodes.type for nodes in graph.node_sets.values())
            activations.update(nodes.activation for nodes in graph.node_sets.values() if nodes.activation is not None)
            edge_types.update(edges.type for edges in graph.edge_sets.values())
        return cls(tuple(sorted(node_types)), tuple(sorted(activations)), tuple(sorted(edge_types)))

    def merged(self, other: Vocabulary) -> Vocabulary:
        """Both vocabularies' types; rows of `self` keep their numbers."""
        return Vocabulary(
            tuple(dict.fromkeys(self.node_types + other.node_types)),
            tuple(dict.fromkeys(self.activations + other.activations)),
            tuple(dict.fromkeys(self.edge_types + other.edge_types)),
        )

    def check(self, graph: ParamGraph) -> None:
        """Raise `MetanetError` naming graph and set if a type of `graph` is not known."""
        for nodes in graph.node_sets.values():
            if nodes.type not in self.node_type_rows:
                raise MetanetError(_unknown(graph, f"node set {nodes.name!r}", "node type", nodes.type, self.node_types))
            if nodes.activation is not None and nodes.activation not in self.activation_rows:
                raise MetanetError(_unknown(graph, f"node set {nodes.name!r}", "activation", nodes.activation, self.activations))
        for edges in graph.edge_sets.values():
            if edges.type not in self.edge_type_rows:
                raise MetanetError(_unknown(graph, f"edge set {edges.name!r}", "edge type", edges.type, self.edge_types))

    @cached_property
    def node_type_rows(self) -> Mapping[str, int]:
        """Row per node type."""
        return {name: row for row, name in enumerate(self.node_types)}

    @cached_property
    def activation_rows(self) -> Mapping[str | None, int]:
        """Row per activation; 0 is "none"."""
        return {None: 0, **{name: row for row, name in enumerate(self.activations, start=1)}}

    @cached_property
    def edge_type_rows(self) -> Mapping[str, int]:
        """Row per edge type."""
        return {name: row for row, name in enumerate(self.edge_types)}


def _unknown(graph: ParamGraph, where: str, kind: str, name: str, known: Sequence[str]) -> str:
    listed = ", ".join(map(repr, known[:12])) + (", …" if len(known) > 12 else "")
    return (
        f"graph {graph.name!r}, {where}: {kind} {name!r} is not in this metanet's vocabulary ({listed or 'empty'}), which froze at its "
        "first batch or was given. Pass `vocabulary=Vocabulary.from_graphs(all_graphs)` when making the metanet."
    )
