"""Spaces of scale typing: an element is the same element wherever its axis is put in another order, cut and laid out."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgraph.symmetries.scale_spaces import Layouts, ScaleSpaces


def labels(layouts: Layouts, axis: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Per element of an axis, what its multiplier may depend on: the free atomic spaces, and its place along each."""
    layout = layouts.of(axis)
    out: list[tuple[Any, ...]] = [()] * layout.size
    for block in layout.blocks:
        for position, place in zip(block.where(layout.size), itertools.product(*map(range, block.sizes)), strict=True):
            out[position] = tuple((block.atoms[i].id, place[i]) for i in block.free)
    return out


def reordered(sizes: tuple[int, ...], order: np.ndarray, shape: tuple[int, ...]) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Labels of a product of spaces in another order, and of that order reshaped."""
    system = ScaleSpaces()
    axis = tuple(space for number, size in enumerate(sizes) for space in system.axis(size, f"a{number}"))
    (moved,) = system.take([axis], 0, order)
    split = system.reshape([moved], shape)
    for part in split:
        assert math.prod(unit.size for unit in system.units(part)) in shape
    layouts = Layouts(system)
    before = labels(layouts, axis)
    return [before[i] for i in order], labels(layouts, tuple(space for part in split for space in part))


@pytest.mark.parametrize("shape", [(2, 7), (7, 2)])
def test_rolled_windows_are_windows_again(shape: tuple[int, ...]) -> None:
    """Shifted windows: positions as windows by places, rolled by less than a window, and cut into windows once more."""
    expected, found = reordered((2, 7), np.roll(np.arange(14), 3), shape)
    assert found == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_elements_keep_their_names_in_any_order(sizes: list[int], random: Any) -> None:
    size = math.prod(sizes)
    order = np.array(random.sample(range(size), size))
    outer = random.choice([d for d in range(1, size + 1) if size % d == 0])
    expected, found = reordered(tuple(sizes), order, (outer, size // outer))
    assert found == expected
