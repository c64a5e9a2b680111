"""Parts of packed parameters, found where they were packed: exporters cut a network's weights up and join them in another order.

The part of a join that lies in one of its pieces is (a part of) that piece. Taking it from there instead of from the join says which
parameter it is, and leaves the others out of it. A part of what is computed element by element (integers that are dequantised) is computed
of the parts: so no more than these is typed for it.
"""

from __future__ import annotations

import numpy as np

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value


def piece(b: Builder, x: Value, dim: int, start: int, stop: int, alone: bool = False) -> Value:
    """`x[start:stop]` along one axis, from as near to the parameters as it can be taken.

    Args:
        alone: the axis is made of pieces of this size, and the permutations of their elements, and of the other axes, are known to be the
            same for all of them.
    """
    op = x.op
    if op is None or not x.parametric or (start, stop) == (0, x.shape[dim]):
        return _cut(b, x, dim, start, stop, alone)
    if op.kind == "concat" and op.attrs["dim"] == dim:
        first = 0
        for value in op.inputs:
            last = first + value.shape[dim]
            if first <= start and stop <= last:
                return piece(b, value, dim, start - first, stop - first, alone)
            first = last
    if op.kind == "take" and op.attrs["dim"] == dim:
        chosen = np.asarray(op.attrs["index"])[start:stop]
        if np.array_equal(chosen, np.arange(chosen[0], chosen[0] + len(chosen))):  # beside others, of which nothing is known
            return piece(b, op.inputs[0], dim, int(chosen[0]), int(chosen[0]) + len(chosen))
        return b.take(op.inputs[0], dim, chosen)
    if op.kind == "reshape":
        inner = _same_axis(op.inputs[0].shape, x.shape, dim)
        if inner is not None:
            part = piece(b, op.inputs[0], inner, start, stop, alone)
            return b.reshape(part, [stop - start if d == dim else n for d, n in enumerate(x.shape)])
    if op.kind == "permute":
        return b.permute(piece(b, op.inputs[0], op.attrs["order"][dim], start, stop, alone), op.attrs["order"])
    if op.kind == "elementwise":
        parts = [_part(b, value, dim - x.ndim + value.ndim, x.shape[dim], start, stop, alone) for value in op.inputs]
        return b.repeat(op, parts, [stop - start if d == dim else n for d, n in enumerate(x.shape)])
    return _cut(b, x, dim, start, stop, alone)


def _cut(b: Builder, x: Value, dim: int, start: int, stop: int, alone: bool) -> Value:
    """`x[start:stop]` along one axis. What is the same for all pieces is typed as their product, not as one space for each."""
    size, whole = stop - start, x.shape[dim]
    if not alone or not size or start % size or whole % size or size == whole:
        return b.take(x, dim, range(start, stop))
    split = b.reshape(x, [*x.shape[:dim], whole // size, size, *x.shape[dim + 1 :]])
    return b.select(split, dim, start // size, alone=True)


def _part(b: Builder, operand: Value, dim: int, size: int, start: int, stop: int, alone: bool) -> Value:
    """The piece of an operand that belongs to a piece of the result; what is the same all along the axis belongs to all of them."""
    return piece(b, operand, dim, start, stop, alone) if dim >= 0 and operand.shape[dim] == size else operand


def row(b: Builder, x: Value, index: int) -> Value:
    """`x[index]`."""
    return b.reshape(piece(b, x, 0, index, index + 1), x.shape[1:])


def _same_axis(before: tuple[int, ...], after: tuple[int, ...], dim: int) -> int | None:
    """The axis that `dim` was before a reshape that only adds or removes axes of size one."""
    if [n for n in before if n != 1] != [n for n in after if n != 1] or after[dim] == 1:
        return None
    place = sum(n != 1 for n in after[:dim])
    return [d for d, n in enumerate(before) if n != 1][place]
