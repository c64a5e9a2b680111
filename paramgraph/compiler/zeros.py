"""Zeros of constants: an element that is zero has any multiplier, whatever stands beside it.

A mask multiplied with, a table padded with zeros, a fixed matrix of blocks: axes of such a constant are cut into classes of slices that are
zero in the same places. Each block of the constant is then all zero, or is not, and those that are have multipliers of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from paramgraph.compiler.operations.functions import number_kind
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.symmetries.scale_spaces import ScaleSpaces

# Axes with more classes of slices than this, and constants of more blocks, are left whole.
MOST_CLASSES = 16
MOST_BLOCKS = 64
# What a zero is to: functions of which nothing but products and sums are made.
FUNCTIONS = frozenset("mul add sub rsub".split())


def readers_of_zeros(program: Program) -> dict[Value, Collection[int]]:
    """Constants that are only multiplied with, contracted or added, each with the axes that may be cut: not the taps of a kernel."""
    out: dict[Value, Collection[int]] = {}
    other: set[Value] = {value for value, _ in program.outputs}
    for op in program.ops:
        for value in op.inputs:
            if value.kind != "constant" or value.integer or value.boolean:
                continue
            if _is_plain(op):
                before = out.get(value, range(value.ndim))
                out[value] = [d for d in before if op.kind != "convolve" or d < 2]
            else:
                other.add(value)
    return {value: dims for value, dims in out.items() if value not in other}


def _is_plain(op: Op) -> bool:
    if op.kind == "elementwise":
        return op.exact and op.name in FUNCTIONS and len(op.inputs) == 2
    return op.exact and (op.kind == "contract" and bool(op.attrs.get("product")) or op.kind == "convolve" and op.attrs["groups"] == 1)


def cut_at_zeros(spaces: ScaleSpaces, value: Value, data: np.ndarray, dims: Collection[int]) -> bool:
    """Cut axes of a constant into classes of slices that are zero in the same places. Returns whether any was cut.

    Args:
        data: its elements.
        dims: axes that may be cut.
    """
    zero = np.asarray(data).reshape(value.shape) == 0
    zero = zero.all(axis=tuple(d for d in range(value.ndim) if d not in dims), keepdims=True)
    if not zero.any() or zero.all():
        return False
    classes = {d: _classes(np.moveaxis(zero, d, 0)) for d in dims if value.shape[d] > 1}
    counts = {d: int(own.max()) + 1 for d, own in classes.items()}
    if any(n > MOST_CLASSES for n in counts.values()) or np.prod(list(counts.values()), dtype=float) > MOST_BLOCKS:
        return False
    for d, own in classes.items():
        for number in range(counts[d] if counts[d] > 1 else 0):
            spaces.take(value.axes, d, np.flatnonzero(own == number))
    return True


def _classes(rows: np.ndarray) -> np.ndarray:
    """A number for each row, the same for equal rows."""
    known: dict[bytes, int] = {}
    return np.asarray([known.setdefault(row.tobytes(), len(known)) for row in np.packbits(rows.reshape(len(rows), -1), axis=1)])


def block_kind(data: np.ndarray, shape: Sequence[int], positions: Mapping[int, np.ndarray]) -> str:
    """What the numbers of one block of a constant are (`number_kind`).

    Args:
        positions: of the block, along the axes that are cut.
    """
    block = np.asarray(data).reshape(shape)
    for d, where in positions.items():
        block = block.take(where, axis=d)
    return number_kind(block)
