"""Constants that layout operations move, or lay beside other values.

A slice of a constant is a constant: what the whole tells apart matters where it is read alone. And padding is no tensor of its own: beside
a value, what is the same all along that value's other axes says nothing about them. Typed as a tensor with axes of its own, it would make
a family of each of those axes, over the value's part and the padding's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from paramgraph.compiler.program import Op, Program, Value
from paramgraph.errors import TraceError

# Operations that give a constant of constants, element by element.
MOVES = ("reshape", "permute", "take", "concat")
# Larger constants are not read to see whether they are the same everywhere.
LARGEST = 1 << 22


def fold_layouts(program: Program) -> None:
    """Let results of layout operations on constants be constants themselves, in place."""
    kept = []
    outputs = {value for value, _ in program.outputs}
    for op in program.ops:
        if op.kind in MOVES and op.output not in outputs and all(value.kind == "constant" and value.read for value in op.inputs):
            out = op.output
            out.kind, out.name, out.read, out.op = "constant", op.inputs[0].name, _computed(op), None
            out.integer, out.boolean = (all(getattr(value, kind) for value in op.inputs) for kind in ("integer", "boolean"))
        else:
            kept.append(op)
    program.ops = kept


def _computed(op: Op) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        operands = [np.asarray(value.read()).reshape(value.shape) for value in op.inputs if value.read is not None]
        if op.kind == "reshape":
            return operands[0].reshape(op.output.shape)
        if op.kind == "permute":
            return operands[0].transpose(op.attrs["order"])
        if op.kind == "take":
            return operands[0].take(np.asarray(op.attrs["index"]), axis=op.attrs["dim"])
        return np.concatenate(operands, axis=op.attrs["dim"])

    return read


def mark_padding(program: Program) -> None:
    """Mark concatenations of values with constants that do not vary along the other axes, in place; each gets constants of its own."""
    known: dict[Value, dict[int, bool]] = {}
    for op in program.ops:
        if op.kind != "concat" or all(value.parametric for value in op.inputs):
            continue
        constants = [value for value in op.inputs if value.kind == "constant"]
        dim = op.attrs["dim"]
        if not constants or not all(_is_padding(value, dim, known.setdefault(value, {})) for value in constants):
            continue
        op.inputs = tuple(_copy(value) if value.kind == "constant" else value for value in op.inputs)
        op.attrs["padded"] = True


def _is_padding(value: Value, dim: int, known: dict[int, bool]) -> bool:
    """Whether a constant varies along one dimension at most."""
    if dim not in known:
        known[dim] = False
        if value.read is not None and math.prod(value.shape) <= LARGEST and 0 not in value.shape:
            try:
                rows = np.moveaxis(np.asarray(value.read()).reshape(value.shape), dim, 0).reshape(value.shape[dim], -1)
            except TraceError:  # on the meta device
                return False
            known[dim] = bool((rows == rows[:, :1]).all())
    return known[dim]


def _copy(value: Value) -> Value:
    out = Value(value.shape, "constant", value.name, value.read)
    out.integer, out.boolean = value.integer, value.boolean
    return out
