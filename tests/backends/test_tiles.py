"""Tiles partition an edge set, in order, and are the same edges."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgraph.backends.tiles import split, tile_edge_set
from paramgraph.graph import EdgeSet

shapes = st.tuples(*[st.integers(0, 4)] * 4)


@given(shape=shapes, limit=st.integers(1, 60))
@settings(deadline=None)
def test_runs_are_contiguous_and_bounded(shape, limit):
    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    runs = [numbers[slices].reshape(-1) for slices in split(shape, limit)]
    assert all(0 < len(run) <= limit for run in runs)
    assert np.array_equal(np.concatenate([np.zeros(0, int), *runs]), numbers.reshape(-1))


@given(shape=shapes, limit=st.integers(1, 60), indexed=st.tuples(st.booleans(), st.booleans()), seed=st.integers(0, 9))
@settings(deadline=None)
def test_tiles_join_the_same_nodes(shape, limit, indexed, seed):
    groups, m, k, _ = shape
    rng = np.random.default_rng(seed)
    sizes = [max(groups * side, 1) for side in (k, m)]
    source, target = (rng.integers(0, n, (groups, side)) if i else None for i, n, side in zip(indexed, sizes, (k, m), strict=True))
    edges = EdgeSet("e", "t", "s", "t", shape, source, target)
    found = [[np.zeros(0, int)], [np.zeros(0, int)]]
    for tile in tile_edge_set(edges, *sizes, limit):
        index = [None if i is None else i.numpy() for i in (tile.block.source_index, tile.block.target_index)]
        local = EdgeSet("tile", "t", "s", "t", tile.block.shape, *index).edge_index()
        for rows, numbers, window in zip(found, local, (tile.sources, tile.targets), strict=True):
            assert numbers.max() < window[1] - window[0]
            rows.append(numbers + window[0])
    for rows, expected in zip(found, edges.edge_index(), strict=True):
        assert np.array_equal(np.concatenate(rows), expected)


def test_implied_tiles_of_one_shape_share_a_block():
    tiles = tile_edge_set(EdgeSet("e", "t", "s", "t", (1, 10, 7, 1)), 7, 10, 14)
    assert len(tiles) == 5 and len({id(tile.block) for tile in tiles}) == 1
    assert [tile.targets for tile in tiles] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    assert all(isinstance(tile.block.source_index, torch.Tensor | None) for tile in tiles)
