"""Largest messages at nodes: what sums cannot give. Blocks are laid out alike for all engines, so that none needs a primitive for it."""

from __future__ import annotations

import math

import torch

from paramgraph.backends.protocol import Block


def largest_at_targets(block: Block, edge: torch.Tensor) -> torch.Tensor:
    """The largest of the edge states at each target, number by number; gradients are shared evenly among equal ones.

    Args:
        block: the edges.
        edge: `(batch, groups, m, k, positions, width)`.

    Returns:
        `(batch, num_targets, width)`; −∞ at nodes without edges.
    """
    batch, width = edge.shape[0], edge.shape[-1]
    if block.num_edges == 0:
        return edge.new_full((batch, block.num_targets, width), -math.inf)
    groups, m = block.shape[:2]
    rows = edge.amax((3, 4)).reshape(batch, groups * m, width)
    if block.target_index is None:
        return rows
    index = block.target_index.reshape(1, -1, 1).expand(batch, -1, width)
    return rows.new_full((batch, block.num_targets, width), -math.inf).scatter_reduce(1, index, rows, "amax")


def with_negatives(edge: torch.Tensor, width: int) -> torch.Tensor:
    """The first `width` numbers of edge states and what they are negated: the largest of these are the largest, and minus the smallest."""
    first = edge[..., :width]
    return torch.cat([first, -first], dim=-1)
