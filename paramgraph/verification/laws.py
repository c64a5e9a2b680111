"""Composition, inverse and identity are those of a group, on tensors whose elements are all different.

Of a large tensor some rows are looked at: what two actions make of them is computed from the rows that they are made of, not from all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch

from paramgraph.symmetries.group import GroupElement, SymmetryGroup

# Elements of a tensor that are looked at; all of smaller tensors.
MOST = 1 << 17

# Gives rows of a tensor by their numbers.
Rows = Callable[[torch.Tensor], torch.Tensor]


def laws(group: SymmetryGroup, names: Iterable[str], generator: torch.Generator) -> dict[str, bool]:
    """Which of the laws hold for two random elements; scales are exact up to rounding.

    Args:
        group: the group.
        names: of the actions that they are checked on.
        generator: of the elements, and of the rows that are looked at.
    """
    found = {"(gh)θ = g(hθ)": True, "g⁻¹(gθ) = θ": True, "eθ = θ": True}
    g, h = group.sample(generator), group.sample(generator)
    both, inverse, identity = g @ h, g.inverse(), group.identity()
    elements = (g, h, both, inverse, identity)
    for name in names:
        shape = group.actions[name].shape
        size = math.prod(shape)
        if size > MOST and all(element.act_on_rows(name, torch.zeros(1, dtype=torch.int64), _numbers(shape)) is not None for element in elements):
            rows = torch.randperm(shape[0], generator=generator)[: max(1, MOST * shape[0] // size)]
            theta, act = _numbers(shape), _act_on_rows
        else:
            rows = torch.zeros(0, dtype=torch.int64)
            theta, act = partial(_whole, torch.arange(1, size + 1, dtype=torch.float64).reshape(shape)), _act_on_all
        found["(gh)θ = g(hθ)"] &= _equal(act(both, name, theta)(rows), act(g, name, act(h, name, theta))(rows))
        found["g⁻¹(gθ) = θ"] &= _equal(act(inverse, name, act(g, name, theta))(rows), theta(rows))
        found["eθ = θ"] &= torch.equal(act(identity, name, theta)(rows), theta(rows))
    return found


def _numbers(shape: Sequence[int]) -> Rows:
    """The rows of a tensor of the numbers from 1."""
    width = math.prod(shape[1:])
    row = torch.arange(1, width + 1, dtype=torch.float64)
    return lambda rows: (rows[:, None] * width + row).reshape(-1, *shape[1:])


def _whole(tensor: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return tensor


def _act_on_rows(element: GroupElement, name: str, read: Rows) -> Rows:
    def rows_of(rows: torch.Tensor) -> torch.Tensor:
        out = element.act_on_rows(name, rows, read)
        assert out is not None
        return out

    return rows_of


def _act_on_all(element: GroupElement, name: str, read: Rows) -> Rows:
    return lambda rows: element.act_on({name: read(rows)})[name]


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for rounding errors, element by element: numbers of neighbouring elements differ by more."""
    pairs = zip(a.reshape(-1).split(MOST), b.reshape(-1).split(MOST), strict=True)
    return all(torch.equal(x, y) or bool(((x - y).abs() <= 1e-10 * y.abs()).all()) for x, y in pairs)
