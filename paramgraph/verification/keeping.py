"""Which values of a run are kept, so that later runs start where what they change is first read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

# Cuts through a graph whose values are kept, where not all of its values fit: as many of these as do.
CUTS = (256, 128, 64, 32, 16, 8, 4, 2)


def kept_nodes(graph: torch.fx.Graph, last: Mapping[torch.fx.Node, Sequence[torch.fx.Node]], room: int) -> set[torch.fx.Node]:
    """All nodes that compute something, if their values fit; else those whose values pass one of some cuts, evenly spaced.

    A run that starts at a cut needs the values that were computed before it and are read after it, and no others.

    Args:
        graph: an exported graph, with example values in its nodes' `meta`.
        last: per node, the operands that it is the last to read.
        room: bytes for all values, in float64.
    """
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    sizes = {node: _bytes(node.meta.get("val")) for node in nodes}
    if sum(sizes.values()) <= room:
        return set(nodes)
    end = {operand: node for node, operands in last.items() for operand in operands}
    place = {node: number for number, node in enumerate(graph.nodes)}
    for count in CUTS:
        step = max(1, len(place) // (count + 1))
        # The last cut before a value is read last: it passes it if it was computed by then.
        chosen = {node for node in nodes if node in end and (place[end[node]] - 1) // step * step >= place[node]}
        if sum(sizes[node] for node in chosen) <= room:
            return chosen
    return set()


def _bytes(value: Any) -> int:
    """What a node's value takes in double precision; nothing where the example is no tensor."""
    leaves = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
    return sum(leaf.numel() * (16 if leaf.is_complex() else 8 if leaf.is_floating_point() else leaf.element_size()) for leaf in leaves)
