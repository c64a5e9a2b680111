"""Graphs as heterogeneous DGL graphs, and back.

Each node set becomes a node type and each edge set an edge type of the DGL graph, under its own name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from paramgraph.errors import FileFormatError, MissingDependencyError
from paramgraph.exchange.files import written_whole
from paramgraph.exchange.values import has_values, type_numbers, with_edge_values
from paramgraph.graph import EXTENTS, EdgeSet, ParamGraph


def to_dgl(graph: ParamGraph, *, values: bool = True, idtype: torch.dtype = torch.int32) -> Any:
    """A `dgl.DGLGraph` with every edge materialised, in the layout of `EdgeSet.edge_index`.

    Node features: `type`, `depth`, `order` (−1 where no order tells nodes apart), `magnitude` and `sign` (by what
    scales and signs multiply the nodes: 0 nothing, 1 one multiplier for all, 2 one for each). Edge features: `type`, `depth`, `position`
    `(edges, 3)`, and `value` of the parameter's own dtype where the edge set carries a parameter. Types are numbered by
    `paramgraph.exchange.values.type_numbers`. Features that are the same all over a set take no memory.

    Args:
        graph: the graph.
        values: whether to write `value`. Graphs on the meta device have none.
        idtype: integer type of the node numbers.

    Raises:
        MissingDependencyError: DGL is not installed.
        FileFormatError: the graph has no edges.
    """
    dgl = _dgl()
    if not graph.edge_sets:
        raise FileFormatError(f"{graph.name} has no edge sets: expected at least one, since DGL cannot hold a graph without edge types.")
    node_types, edge_types = type_numbers(graph)
    ends = {_key(edges): _ends(edges, idtype) for edges in graph.edge_sets.values()}
    out = dgl.heterograph(ends, num_nodes_dict={name: nodes.size for name, nodes in graph.node_sets.items()}, idtype=idtype)
    for name, nodes in graph.node_sets.items():
        out.nodes[name].data["type"] = torch.tensor(node_types[nodes.type]).expand(nodes.size)
        out.nodes[name].data["depth"] = torch.tensor(nodes.depth).expand(nodes.size)
        out.nodes[name].data["order"] = torch.as_tensor(nodes.order_array())
        domain = graph.domain(name)
        for feature, extent in (("magnitude", domain.magnitude), ("sign", domain.sign)):
            out.nodes[name].data[feature] = torch.tensor(EXTENTS.index(extent)).expand(nodes.size)
    write_values = values and has_values(graph)
    for edges in graph.edge_sets.values():
        data = out.edges[_key(edges)].data
        data["type"] = torch.tensor(edge_types[edges.type]).expand(edges.num_edges)
        data["depth"] = torch.tensor(edges.depth).expand(edges.num_edges)
        data["position"] = _positions(edges)
        if edges.parameter is not None and write_values and edges.num_edges:  # DGL cannot read back empty bfloat16
            data["value"] = graph.edge_values(edges).detach().reshape(-1).cpu()
    return out


def from_dgl(dgl_graph: Any, like: ParamGraph) -> ParamGraph:
    """The structure of `like` with the values of a DGL graph that `to_dgl` made of it, edited or not.

    Raises:
        FileFormatError: the DGL graph was made of another graph, or without values.
    """

    def read(edges: EdgeSet) -> torch.Tensor:
        assert edges.parameter is not None
        dtype = like.values[edges.parameter.name].dtype
        if not edges.num_edges:
            return torch.empty(0, dtype=dtype)
        key = _key(edges)
        if key not in dgl_graph.canonical_etypes or "value" not in dgl_graph.edges[key].data:
            raise FileFormatError(f"the DGL graph has no values of edge set {edges.name!r}. Export {like.name} again, with values.")
        value: torch.Tensor = dgl_graph.edges[key].data["value"].detach().cpu()
        # DGL's files know no booleans.
        return value.bool() if dtype == torch.bool and value.dtype == torch.uint8 else value

    return with_edge_values(like, read)


def save(graph: ParamGraph, path: str | Path, **options: Any) -> None:
    """Write `to_dgl(graph, **options)` in DGL's own format, for `dgl.load_graphs`."""
    converted = to_dgl(graph, **options)
    for edges in graph.edge_sets.values():
        data = converted.edges[_key(edges)].data
        for name in data:
            data[name] = data[name].contiguous()  # DGL writes the memory behind a tensor, not what its strides show
    for name in graph.node_sets:
        data = converted.nodes[name].data
        for feature in data:
            data[feature] = data[feature].contiguous()
    with written_whole(path) as temporary:
        _dgl().save_graphs(str(temporary), [converted])


def load(path: str | Path, like: ParamGraph) -> ParamGraph:
    """The structure of `like` with the values of a file that `save` wrote.

    Raises:
        FileFormatError: the file cannot be read, or holds another graph.
    """
    if not Path(path).is_file():
        raise FileFormatError(f"no file {path}. Pass a file written by graph export to dgl.")
    try:
        graphs, _ = _dgl().load_graphs(str(path))
    except Exception as error:
        raise FileFormatError(f"{Path(path).name}: expected a file of DGL graphs, got one that DGL cannot read ({error}).") from error
    if len(graphs) != 1:
        raise FileFormatError(f"{Path(path).name}: expected one DGL graph, got {len(graphs)}.")
    return from_dgl(graphs[0], like)


def _key(edges: EdgeSet) -> tuple[str, str, str]:
    return edges.source, edges.name, edges.target


def _ends(edges: EdgeSet, idtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    kind = np.int32 if idtype == torch.int32 else np.int64
    return tuple(torch.from_numpy(end.astype(kind)) for end in edges.edge_index())


def _positions(edges: EdgeSet) -> torch.Tensor:
    taps = torch.from_numpy(edges.position_array())
    groups, m, k, count = edges.shape
    if count == 1:
        return taps.expand(edges.num_edges, 3)
    return taps.expand(groups * m * k, count, 3).reshape(-1, 3)


def _dgl() -> Any:
    try:
        import dgl
    except Exception as error:  # a broken installation fails with other errors than ImportError
        advice = "Install it: pip install 'paramgraph[dgl]'."
        raise MissingDependencyError(f"DGL is not installed, or does not load ({error}). {advice}") from error
    return dgl
