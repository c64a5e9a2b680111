"""An independent count of a typed graph's automorphisms, by igraph's BLISS."""

from __future__ import annotations

import math
from typing import Any

import igraph
import numpy as np

from paramgraph import ParamGraph
from tests.support.orbits import is_unused


def log_action(graph: ParamGraph) -> float:
    """ln of the order of the automorphism group's action on parameters that are read.

    Automorphisms that move no parameter (exchanges of two uses of one table, of index tensors read alike) are no symmetries of parameters.
    """
    return log_automorphisms(graph, unused=False) - log_automorphisms(graph, unused=False, still=True)


def log_automorphisms(graph: ParamGraph, unused: bool = True, still: bool = False) -> float:
    """ln of the number of automorphisms of the exported graph: types, depths, orders and positions are colours, values are not.

    Every edge becomes two vertices, source half and target half, so that type and direction are colours of vertices.

    Args:
        graph: the graph.
        unused: whether nodes of tensors that no operation reads take part.
        still: whether to count only those that leave every element of every parameter where it is.
    """
    colours: dict[Any, int] = {}
    vertex_colours: list[int] = []
    start: dict[str, int] = {}

    def colour(key: Any) -> int:
        return colours.setdefault(key, len(colours))

    for nodes in graph.node_sets.values():
        if is_unused(nodes.type) and not unused:
            continue
        start[nodes.name] = len(vertex_colours)
        vertex_colours += [colour(("node", nodes.type, nodes.activation, nodes.depth, int(o))) for o in nodes.order_array()]
    pairs: list[np.ndarray] = []
    for edges in graph.edge_sets.values():
        if edges.source not in start:
            continue
        source, target = edges.edge_index()
        position = np.broadcast_to(np.arange(edges.shape[3]), edges.shape).reshape(-1)
        first = len(vertex_colours)
        labels: list[Any] = position.tolist()
        if still and edges.parameter is not None:
            elements = edges.parameter.element_numbers(edges.shape).reshape(-1).tolist()
            labels = [(p, edges.parameter.name, e) for p, e in zip(labels, elements, strict=True)]
        for label in labels:
            vertex_colours.append(colour(("out", edges.type, edges.depth, label)))
            vertex_colours.append(colour(("in", edges.type, edges.depth, label)))
        out_half = first + 2 * np.arange(edges.num_edges)
        pairs.append(np.stack([start[edges.source] + source, out_half], axis=1))
        pairs.append(np.stack([out_half, out_half + 1], axis=1))
        pairs.append(np.stack([out_half + 1, start[edges.target] + target], axis=1))
    g = igraph.Graph(n=len(vertex_colours), edges=np.concatenate(pairs).tolist() if pairs else [], directed=False)
    return float(math.log(g.count_automorphisms(color=vertex_colours)))
