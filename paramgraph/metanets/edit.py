"""Edited networks: predictions per edge, put back into a state dict. Differentiable, so that losses on the edited network train."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from paramgraph.errors import MetanetError
from paramgraph.graph import EdgeSet, ParamGraph
from paramgraph.metanets.stack import Stack, write_stacked


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
    shaped = {name: edit.reshape(_edge_set(graph, name, edit).shape)[None] for name, edit in edits.items()}
    edited = dict(graph.values)
    for name, change in changes(graph, shaped).items():
        edited[name] = graph.values[name] + scale * change[0]
    return edited


def changes(graph: ParamGraph, edits: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Edits of edge sets as edits of base tensors: the mean over a parameter's uses, zero where no edge set reads.

    Args:
        graph: the structure.
        edits: per edge set name `(networks, *edge_set.shape)`.

    Returns:
        Per base name that is edited, `(networks, *shape)`; integer tensors are left out.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, torch.Tensor] = {}
    for name, edit in edits.items():
        view = graph.edge_sets[name].parameter
        assert view is not None
        base = graph.values[view.name]
        if not base.is_floating_point():
            continue
        written = write_stacked(view, edit, base.shape)
        count = write_stacked(view, torch.ones_like(edit[:1]), base.shape)
        sums[view.name] = sums[view.name] + written if view.name in sums else written
        counts[view.name] = counts[view.name] + count if view.name in counts else count
    return {name: total / counts[name].clamp(min=1) for name, total in sums.items()}


def edited_stack(stack: Stack, edits: Mapping[str, torch.Tensor], scale: float | torch.Tensor = 1.0) -> Stack:
    """`edited_state_dict` of all networks of a stack at once.

    Args:
        stack: the networks.
        edits: per edge set name `(networks, *edge_set.shape)`.
        scale: factor of all edits.
    """
    values = dict(stack.values)
    for name, change in changes(stack.graph, edits).items():
        values[name] = values[name] + scale * change
    return Stack(stack.graph, values)


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
