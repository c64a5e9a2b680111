"""Strided views of a contiguous tensor, as arithmetic on shapes: what a parameter's use reads, without its values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from paramgraph.graph import ParameterView


@dataclass(frozen=True)
class Strided:
    """A view: element `i` is element `offset + Σ i_d · strides_d` of the tensor."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Strided:
        return _whole(tuple(shape))

    @classmethod
    def of(cls, view: torch.Tensor) -> Strided:
        return cls(tuple(view.shape), view.stride(), int(view.storage_offset()))

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def last(self) -> int:
        """The highest element number."""
        return self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))

    def keep(self, dims: Sequence[int]) -> Strided:
        """The first slice along all other dimensions."""
        return Strided(tuple(self.shape[d] for d in dims), tuple(self.strides[d] for d in dims), self.offset)

    def split(self, sizes: Sequence[int], order: Sequence[int]) -> Strided:
        """Every dimension as a row-major product of some of `sizes`, in order, then permuted; dimensions of size 1 vanish."""
        if self.shape == tuple(sizes) and list(order) == list(range(len(sizes))):
            return self
        steps: list[int] = []
        at = 0
        for n, step in zip(self.shape, self.strides, strict=True):
            while n > 1:
                n //= sizes[at]
                steps.append(step * n)
                at += 1
        return Strided(tuple(sizes[i] for i in order), tuple(steps[i] for i in order), self.offset)

    def elements(self) -> np.ndarray:
        """Flat element numbers, row-major."""
        rank = len(self.shape)
        out = np.full((1,) * rank, self.offset, dtype=np.int64)
        for d, (n, step) in enumerate(zip(self.shape, self.strides, strict=True)):
            out = out + (np.arange(n) * step).reshape([-1 if e == d else 1 for e in range(rank)])
        return out.reshape(-1)

    def is_apart(self, other: Strided, size: int) -> bool:
        """Whether two views of a contiguous tensor of `size` elements are known to have no element in common; False may mean either."""
        if self.last < other.offset or self.offset > other.last:
            return True
        a, b = _sliced(self, size), _sliced(other, size)
        if a is None or b is None or a[0] != b[0]:
            return False
        return any(x[1] <= y[0] or y[1] <= x[0] for x, y in zip(a[1], b[1], strict=True))

    def parameter_view(self, name: str, size: int, role: str) -> ParameterView:
        """The view of a contiguous tensor of `size` elements as reshape, slices and permutation; by element numbers where that cannot say it."""
        found = _sliced(self, size)
        return ParameterView(name, *found, role) if found is not None else ParameterView(name, (), (), (), role, 0, self.elements())


@lru_cache(maxsize=4096)
def _whole(shape: tuple[int, ...]) -> Strided:
    """All of a contiguous tensor; tensors of one shape share it."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return Strided(shape, tuple(reversed(strides)))


@lru_cache(maxsize=4096)
def _sliced(view: Strided, size: int) -> tuple[tuple[int, ...], tuple[tuple[int, int, int], ...], tuple[int, ...]] | None:
    """A view of a contiguous tensor of `size` elements: its shape, slices along it, and the order of what is left; None where there is none."""
    dims = [d for d, n in enumerate(view.shape) if n > 1]
    nested = sorted(dims, key=view.strides.__getitem__, reverse=True)
    split, slices, before, offset = [], [], size, view.offset
    for d in nested:
        step, n = view.strides[d], view.shape[d]
        start = offset // step if step else 0
        if step == 0 or before % step or start + n > before // step:
            return None
        split.append(before // step)
        slices.append((start, start + n, 1))
        before, offset = step, offset - start * step
    if before > 1:  # what is left inside the smallest stride: one element of it is taken
        split.append(before)
        slices.append((offset, offset + 1, 1))
    order = [nested.index(d) for d in dims]
    order += range(len(dims), len(split))
    return tuple(split), tuple(slices), tuple(order)
