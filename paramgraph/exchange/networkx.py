"""Graphs as networkx multigraphs, and back. For small graphs: networkx holds about a kilobyte per edge.

A node is the pair `(node set, number)`; an edge's key is the pair `(edge set, number)`, with the number in the layout of
`EdgeSet.edge_index`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from paramgraph.errors import FileFormatError
from paramgraph.exchange.files import written_whole
from paramgraph.exchange.values import check_size, has_values, with_edge_values
from paramgraph.graph import EdgeSet, ParamGraph

MAX_EDGES = 1_000_000


def to_networkx(graph: ParamGraph, *, values: bool = True, max_edges: int = MAX_EDGES) -> Any:
    """A `networkx.MultiDiGraph` with every edge materialised.

    Node attributes: `set`, `type`, `depth`, `order` (−1 where no order tells nodes apart), `activation` (empty where there is none),
    `magnitude` and `sign` (by what scales and signs multiply the nodes: `none`, `shared` or `each`).
    Edge attributes: `set`, `type`, `depth`, `position` (three coordinates), and where the edge carries a parameter `parameter`, `use` and
    `value`, a plain Python number of exactly the parameter's value.

    Args:
        graph: the graph.
        values: whether to write `value`. Graphs on the meta device have none.
        max_edges: refuse larger graphs.

    Raises:
        FileFormatError: the graph has more edges than `max_edges`.
    """
    import networkx

    check_size(graph, max_edges, "networkx takes about a kilobyte for each")
    out = networkx.MultiDiGraph(name=graph.name)
    for name, nodes in graph.node_sets.items():
        shared = {"set": name, "type": nodes.type, "depth": nodes.depth, "activation": nodes.activation or ""}
        domain = graph.domain(name)
        shared.update(magnitude=domain.magnitude, sign=domain.sign)
        out.add_nodes_from(((name, i), {**shared, "order": order}) for i, order in enumerate(nodes.order_array().tolist()))
    write_values = values and has_values(graph)
    for edges in graph.edge_sets.values():
        _add_edges(out, graph, edges, write_values)
    return out


def _add_edges(out: Any, graph: ParamGraph, edges: EdgeSet, write_values: bool) -> None:
    shared: dict[str, Any] = {"set": edges.name, "type": edges.type, "depth": edges.depth}
    if edges.parameter is not None:
        shared.update(parameter=edges.parameter.name, use=edges.parameter.use)
    numbers: list[Any] | None = None
    if edges.parameter is not None and write_values:
        numbers = graph.edge_values(edges).detach().reshape(-1).tolist()
    positions = [tuple(p) for p in edges.position_array().tolist()]
    source, target = (end.tolist() for end in edges.edge_index())
    for i, (j, k) in enumerate(zip(source, target, strict=True)):
        data = {**shared, "position": positions[i % len(positions)]}
        if numbers is not None:
            data["value"] = numbers[i]
        out.add_edge((edges.source, j), (edges.target, k), (edges.name, i), **data)


def from_networkx(nx_graph: Any, like: ParamGraph) -> ParamGraph:
    """The structure of `like` with the values of a multigraph that `to_networkx` made of it, edited or not.

    Raises:
        FileFormatError: the multigraph was made of another graph, or without values.
    """
    found: dict[str, dict[int, Any]] = {}
    for _, _, (name, number), value in nx_graph.edges(keys=True, data="value"):
        if value is not None:
            found.setdefault(name, {})[number] = value
    return from_numbers(found, like, "multigraph")


def from_numbers(found: dict[str, dict[int, Any]], like: ParamGraph, kind: str) -> ParamGraph:
    """The structure of `like` with values given per edge set and edge number."""

    def read(edges: EdgeSet) -> torch.Tensor:
        assert edges.parameter is not None
        numbers = found.get(edges.name, {})
        if set(numbers) != set(range(edges.num_edges)):
            raise FileFormatError(
                f"the {kind} has {len(numbers):,} values of edge set {edges.name!r}, expected {edges.num_edges:,}. "
                f"Export {like.name} again, with values."
            )
        dtype = like.values[edges.parameter.name].dtype
        return torch.tensor([numbers[i] for i in range(edges.num_edges)], dtype=dtype)

    return with_edge_values(like, read)


def save(graph: ParamGraph, path: str | Path, **options: Any) -> None:
    """Write `to_networkx(graph, **options)` as node-link JSON."""
    import networkx

    data = networkx.node_link_data(to_networkx(graph, **options), edges="edges")
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(data, file, default=_complex)


def load(path: str | Path, like: ParamGraph) -> ParamGraph:
    """The structure of `like` with the values of a file that `save` wrote.

    Raises:
        FileFormatError: the file cannot be read, or holds another graph.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        found: dict[str, dict[int, Any]] = {}
        for edge in data["edges"]:
            name, number = edge["key"]
            if "value" in edge:
                value = edge["value"]
                found.setdefault(name, {})[number] = complex(*value) if isinstance(value, list) else value
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}. Pass a file written by graph export to networkx.") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FileFormatError(f"{Path(path).name}: expected node-link JSON of a parameter graph, got another file ({error!r}).") from error
    return from_numbers(found, like, "file")


def _complex(value: Any) -> list[float]:
    if isinstance(value, complex):
        return [value.real, value.imag]
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")
