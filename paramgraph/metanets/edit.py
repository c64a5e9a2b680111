"""Edited networks: predictions per edge, put back into a state dict. Differentiable, so that losses on the edited network train."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from paramgraph.errors import MetanetError
from paramgraph.graph import EdgeSet, ParameterView, ParamGraph


def edited_state_dict(graph: ParamGraph, edits: Mapping[str, torch.Tensor], scale: float | torch.Tensor = 1.0) -> dict[str, torch.Tensor]:
    """The state dict `θ + scale·edit`, as in section 5 of Lim et al. 2023 (arXiv:2312.04501).

    A parameter that is used several times gets the mean edit over its uses. Integer buffers, and parameters for which there is no
    edit, stay as they are. Pass the result to `torch.func.functional_call` or to `graph.with_values(...)`.

    Args:
        graph: the network.
        edits: per edge set name `(*edge_set.shape, 1)` or `edge_set.shape`: one graph's predictions by `head="edge"`.
        scale: factor of all edits, e.g. a learned scalar that starts small.

    Returns:
        A tensor per base name of `graph.values`.

    Raises:
        MetanetError: an edit's name or shape does not fit the graph.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, torch.Tensor] = {}
    for name, edit in edits.items():
        edges = _edge_set(graph, name, edit)
        view, base = edges.parameter, graph.values[edges.parameter.name]  # type: ignore[union-attr]
        assert view is not None
        if not base.is_floating_point():
            continue
        if view.name not in sums:
            sums[view.name] = torch.zeros_like(base, dtype=edit.dtype, device=edit.device)
            counts[view.name] = torch.zeros_like(base, dtype=edit.dtype, device=edit.device)
        sums[view.name] = sums[view.name] + _written(view, edit.reshape(edges.shape), base.shape)
        counts[view.name] += _written(view, torch.ones_like(edit).reshape(edges.shape), base.shape)
    edited = dict(graph.values)
    for name, total in sums.items():
        edited[name] = graph.values[name] + scale * total / counts[name].clamp(min=1)
    return edited


def _edge_set(graph: ParamGraph, name: str, edit: torch.Tensor) -> EdgeSet:
    edges = graph.edge_sets.get(name)
    if edges is None or edges.parameter is None:
        raise MetanetError(f"graph {graph.name!r} has no edge set {name!r} with a parameter; pass this graph's own predictions.")
    if tuple(edit.shape) not in (edges.shape, (*edges.shape, 1)):
        raise MetanetError(
            f"graph {graph.name!r}, edge set {name!r}: expected an edit of shape {edges.shape} or {(*edges.shape, 1)}, "
            f"got {tuple(edit.shape)}; use a metanet with `head='edge', out=1`."
        )
    return edges


def _written(view: ParameterView, values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A tensor of the base's `shape` with `values` where the view reads, zero elsewhere: the transpose of `ParameterView.read`."""
    if view.index is not None:
        index = torch.as_tensor(np.ascontiguousarray(view.index).reshape(-1), device=values.device)
        return values.new_zeros(shape).reshape(-1).index_add(0, index, values.reshape(-1)).reshape(shape)
    empty = values.new_zeros(view.split)
    slices = tuple(slice(*bounds) for bounds in view.slices)
    permuted = [empty[slices].shape[axis] for axis in view.order]
    empty[slices] = values.reshape(permuted).permute(*np.argsort(view.order).tolist())
    return empty.reshape(shape)
