"""Graphs as GraphML files, for Gephi, yEd, Cytoscape and others, and back. For small graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from paramgraph.errors import FileFormatError
from paramgraph.exchange.files import written_whole
from paramgraph.exchange.networkx import from_numbers, to_networkx
from paramgraph.exchange.values import check_size
from paramgraph.graph import ParamGraph

MAX_EDGES = 200_000


def save(graph: ParamGraph, path: str | Path, *, values: bool = True, max_edges: int = MAX_EDGES) -> None:
    """Write a graph as GraphML, every edge materialised.

    Attributes are those of `to_networkx`; a position becomes `x`, `y`, `z`, and an edge's place in its set `number`. Values are written
    with the shortest text that reads back as the same number.

    Args:
        graph: the graph.
        path: the file to write.
        values: whether to write values, which make up most of the file.
        max_edges: refuse larger graphs.

    Raises:
        FileFormatError: the graph has more edges than `max_edges`, or the path cannot be written.
    """
    import networkx

    check_size(graph, max_edges, "GraphML takes half a kilobyte of file and several of memory for each")
    source = to_networkx(graph, values=values, max_edges=max_edges)
    out = networkx.MultiDiGraph(name=graph.name)
    out.add_nodes_from((_node(node), data) for node, data in source.nodes(data=True))
    for tail, head, (_, number), data in source.edges(keys=True, data=True):
        flat = {key: value for key, value in data.items() if key not in ("position", "value")}
        flat.update(zip("xyz", data["position"], strict=True))
        if "value" in data:
            # As text: one attribute has one type in GraphML, and a graph holds floats, integers and booleans.
            flat["value"] = repr(data["value"])
        out.add_edge(_node(tail), _node(head), **flat, number=number)
    with written_whole(path) as temporary:
        networkx.write_graphml_xml(out, temporary)


def load(path: str | Path, like: ParamGraph) -> ParamGraph:
    """The structure of `like` with the values of a file that `save` wrote.

    Raises:
        FileFormatError: the file cannot be read, or holds another graph or no values.
    """
    import networkx

    try:
        read = networkx.read_graphml(path, force_multigraph=True)
        found: dict[str, dict[int, Any]] = {}
        for _, _, data in read.edges(data=True):
            if "value" in data:
                found.setdefault(data["set"], {})[int(data["number"])] = _number(data["value"])
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}. Pass a file written by graph export to graphml.") from error
    except (networkx.NetworkXError, ElementTree.ParseError, ValueError, KeyError) as error:
        raise FileFormatError(f"{Path(path).name}: expected GraphML of a parameter graph, got another file ({error}).") from error
    return from_numbers(found, like, "file")


def _node(node: tuple[str, int]) -> str:
    return f"{node[0]}#{node[1]}"


def _number(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float, complex):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ValueError(f"{text!r} is no number")
