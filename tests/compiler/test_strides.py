"""Strided views as arithmetic, against the element numbers that torch's own views hold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paramgraph.compiler.strides import Strided


@st.composite
def views(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Two views of one tensor: it is split, sliced along each part, and permuted, each time anew."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    whole = torch.arange(math.prod(shape))
    out = []
    for _ in range(2):
        split = shape if draw(st.booleans()) else draw(st.permutations(shape))
        view = whole.view(*split)
        for d, n in enumerate(split):
            first = draw(st.integers(0, n - 1))
            view = view.narrow(d, first, draw(st.integers(1, n - first)))
        out.append(view.permute(draw(st.permutations(range(view.ndim)))))
    return out[0], out[1]


@given(views())
def test_views_that_are_said_to_be_apart_share_no_element(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = pair
    size = a.untyped_storage().nbytes() // a.element_size()
    assert torch.equal(torch.from_numpy(Strided.of(a).elements()), a.reshape(-1))
    if Strided.of(a).is_apart(Strided.of(b), size):
        assert set(a.reshape(-1).tolist()).isdisjoint(b.reshape(-1).tolist())


@pytest.mark.parametrize("part", range(3))
def test_interleaved_parts_of_a_packed_weight_are_apart(part: int) -> None:
    """Queries, keys and values of each head side by side: their ranges of element numbers overlap, the elements do not."""
    packed = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    own = Strided.of(packed[:, part])
    for other in range(3):
        assert own.is_apart(Strided.of(packed[:, other]), packed.numel()) == (other != part)
