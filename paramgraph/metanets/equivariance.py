"""How far a metanet is from commuting with a symmetry of a network: a check to run, and to build tests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from paramgraph.errors import MetanetError
from paramgraph.graph import ParamGraph
from paramgraph.metanets.edit import changes

if TYPE_CHECKING:
    from paramgraph.symmetries.element import GroupElement


@torch.no_grad()
def equivariance_error(metanet: nn.Module, graph: ParamGraph, element: GroupElement) -> float:
    """The relative deviation of a metanet from equivariance under one element of a graph's group.

    - `head="graph"`: the predictions of the network and of the transformed network differ by this, over the largest.
    - `head="edge"`: predictions are taken for changes of the parameters; those of the transformed network, transformed back, differ
      from the network's by this, over the largest of each tensor. They are compared there, not as they are transformed, because elements of a
      tensor that are multiplied by 10⁻⁶ would count for nothing beside those that are multiplied by 10⁶.

    A metanet that predicts zeros is as equivariant as can be: look at its predictions too.

    Args:
        metanet: one with a graph or edge head, in evaluation mode or without dropout.
        graph: the network.
        element: of `graph.symmetry`, e.g. `graph.symmetry.sample(sigma=6.0)`.

    Raises:
        MetanetError: the metanet predicts per node.
    """
    moved = graph.with_values(element.act(graph.values))
    before, after = metanet([graph]), metanet([moved])
    if isinstance(before, torch.Tensor):
        size = before.abs().max()
        return float((after - before).abs().max() / torch.where(size > 0, size, 1.0))
    if set(before[0]) == set(graph.node_sets):
        raise MetanetError("expected a metanet with head='graph' or head='edge'; predictions per node are no change of the network's parameters.")
    columns = next(iter(before[0].values())).shape[-1]
    return max(_deviation(graph, element, *(_as_parameters(graph, found[0], column) for found in (before, after))) for column in range(columns))


def _deviation(graph: ParamGraph, element: GroupElement, before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> float:
    back = element.inverse().act({**graph.values, **after})
    worst = 0.0
    for name, expected in before.items():
        if expected.numel():
            size = expected.abs().max()
            worst = max(worst, float((back[name] - expected).abs().max() / torch.where(size > 0, size, 1.0)))
    return worst


def _as_parameters(graph: ParamGraph, predictions: Mapping[str, torch.Tensor], column: int) -> dict[str, torch.Tensor]:
    edits = {name: values[..., column].reshape(1, *graph.edge_sets[name].shape) for name, values in predictions.items()}
    return {name: change[0] for name, change in changes(graph, edits).items()}
