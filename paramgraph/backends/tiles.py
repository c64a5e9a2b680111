"""Cutting an edge set into tiles of bounded size, each a `Block` between two windows of its node sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from paramgraph.backends.protocol import Block
from paramgraph.graph import EdgeSet

Window = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Tile:
    """A contiguous run of an edge set, in its layout `(groups, m, k, positions)`.

    Attributes:
        block: the edges, numbered within the windows.
        slices: where the tile lies, one slice per axis of the edge set's shape.
        sources: window `(start, stop)` of the source node set.
        targets: window `(start, stop)` of the target node set.
    """

    block: Block
    slices: tuple[slice, slice, slice, slice]
    sources: Window
    targets: Window

    @cached_property
    def folded(self) -> Block:
        """The block with one edge for all positions of a node pair."""
        shape = (*self.block.shape[:3], 1)
        return replace(self.block, shape=shape)


def tile_edge_set(edges: EdgeSet, num_sources: int, num_targets: int, limit: int, device: torch.device | str = "cpu") -> list[Tile]:
    """Tiles of at most `limit` edges that partition an edge set in the order of its layout.

    Whole groups stay together where they fit, then whole targets, then whole (target, source) pairs. So each tile is contiguous, and
    concatenating what is computed per tile gives the edge set's own order.

    Args:
        edges: the edge set.
        num_sources: size of its source node set.
        num_targets: size of its target node set.
        limit: edges per tile, at least 1.
        device: where index tensors live.

    Returns:
        The tiles; none for an edge set without edges. Tiles of an implied edge set share one block per shape.
    """
    source_index = _as_tensor(edges.source_index, device)
    target_index = _as_tensor(edges.target_index, device)
    _, m, k, _ = edges.shape
    blocks: dict[tuple[int, ...], Block] = {}
    tiles = []
    for slices in split(edges.shape, limit):
        groups, rows, columns, positions = slices
        shape = (_length(groups), _length(rows), _length(columns), _length(positions))
        sources = (0, num_sources) if source_index is not None else _window(groups, columns, k)
        targets = (0, num_targets) if target_index is not None else _window(groups, rows, m)
        sizes = (sources[1] - sources[0], targets[1] - targets[0])
        if source_index is None and target_index is None:
            block = blocks.setdefault(shape, Block(shape, *sizes))
        else:
            block = Block(
                shape,
                *sizes,
                None if source_index is None else source_index[groups, columns],
                None if target_index is None else target_index[groups, rows],
            )
        tiles.append(Tile(block, slices, sources, targets))
    return tiles


def split(shape: tuple[int, int, int, int], limit: int) -> Iterator[tuple[slice, slice, slice, slice]]:
    """Slices of contiguous runs of at most `limit` elements that partition an array of `shape`."""
    if 0 in shape:
        return
    # Outer axes are cut into single elements down to the first axis of which one element fits; that axis is cut in runs.
    below = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(4)]
    cut = next(axis for axis in range(4) if below[axis] <= max(limit, 1))
    steps = [1] * cut + [min(max(limit, 1) // below[cut], shape[cut])] + list(shape[cut + 1 :])
    for groups in _runs(shape[0], steps[0]):
        for rows in _runs(shape[1], steps[1]):
            for columns in _runs(shape[2], steps[2]):
                for positions in _runs(shape[3], steps[3]):
                    yield groups, rows, columns, positions


def _runs(size: int, step: int) -> Iterator[slice]:
    for start, stop in pairwise([*range(0, size, step), size]):
        yield slice(start, stop)


def _window(groups: slice, inner: slice, size: int) -> Window:
    """Implied node numbers of a tile: one run, for only single groups are cut along `inner`."""
    if _length(groups) == 1:
        return groups.start * size + inner.start, groups.start * size + inner.stop
    return groups.start * size, groups.stop * size


def _length(run: slice) -> int:
    return int(run.stop - run.start)


def _as_tensor(index: np.ndarray | None, device: torch.device | str) -> torch.Tensor | None:
    return None if index is None else torch.as_tensor(np.ascontiguousarray(index), dtype=torch.int64, device=device)
