"""From values on edges, in whatever tool held them, back to a graph with those values, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from paramgraph.errors import FileFormatError
from paramgraph.graph import EdgeSet, ParamGraph


def with_edge_values(like: ParamGraph, read: Callable[[EdgeSet], torch.Tensor]) -> ParamGraph:
    """The structure of `like` with values read from edges.

    Args:
        like: the graph that was exported: structure, group and names come from it.
        read: the values of an edge set, flat, in the layout of `EdgeSet.edge_index` and of the parameter's dtype.

    Raises:
        FileFormatError: some elements of the state dict are on no edge, or there are more or fewer values than edges.
    """
    values = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in like.values.items()}
    left = {name: value.numel() for name, value in values.items()}
    for edges in like.parameter_edges():
        view = edges.parameter
        assert view is not None
        target = values[view.name]
        flat = read(edges)
        if flat.shape != (edges.num_edges,) or flat.dtype != target.dtype:
            raise FileFormatError(
                f"edge set {edges.name!r}: expected {edges.num_edges:,} values of {target.dtype}, got shape {tuple(flat.shape)} of "
                f"{flat.dtype}. Pass the graph that was exported as `like`."
            )
        if view.index is None:
            part = target.view(view.split)[tuple(slice(*s) for s in view.slices)].permute(view.order)
            part.copy_(flat.reshape(part.shape))
        else:
            target.view(-1)[torch.as_tensor(view.index.reshape(-1))] = flat
        left[view.name] -= edges.num_edges
    missing = [name for name, count in left.items() if count]
    if missing:
        raise FileFormatError(f"{missing[:5]} are not wholly on the edges of {like.name}: compile the network again, then export it.")
    return replace(like, values=values)


def type_numbers(graph: ParamGraph) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers of the node types and of the edge types, in order of their names: what an export writes as `type`."""
    node_types = sorted({nodes.type for nodes in graph.node_sets.values()})
    edge_types = sorted({edges.type for edges in graph.edge_sets.values()})
    return {name: i for i, name in enumerate(node_types)}, {name: i for i, name in enumerate(edge_types)}


def has_values(graph: ParamGraph) -> bool:
    """Whether the values can be read: none of them is on the meta device."""
    return all(value.device.type != "meta" for value in graph.values.values())


def check_size(graph: ParamGraph, limit: int, what: str) -> None:
    """Raise `FileFormatError` if the graph has more edges than `limit`."""
    if graph.num_edges > limit:
        raise FileFormatError(
            f"{graph.name} has {graph.num_edges:,} edges; expected at most {limit:,}, since {what}. Raise the limit "
            "(max_edges=…, on the command line --max-edges …) if you have the memory, or export to dgl or pgraph."
        )
