"""Layout: reshaping, transposing, slicing, joining, broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.aten import layout as aten
from paramgraph.compiler.aten.reduction import triangle
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.arguments import number, numbers
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule


@rule("ai.onnx::Reshape", "ai.onnx::Flatten", "ai.onnx::Squeeze", "ai.onnx::Unsqueeze")
def reshape(b: Builder, x: Value, *_: Value | None, **attributes: Any) -> Value:
    return b.reshape(x, b.shapes[0])


@rule("ai.onnx::Transpose")
def transpose(b: Builder, x: Value, *, perm: Sequence[int] = ()) -> Value:
    order = list(perm) or list(range(x.ndim))[::-1]
    while x.op is not None and x.op.kind == "permute":  # layers that lay their result out in one way, turned back by what reads it
        order = [x.op.attrs["order"][d] for d in order]
        x = x.op.inputs[0]
    return b.permute(x, order)


@rule("ai.onnx::Concat")
def concat(b: Builder, *values: Value, axis: int) -> Value:
    """Values side by side. Different slices of one value are that value in another order: exporters write rolls in this way."""
    dim = axis % values[0].ndim
    slices = [value.op for value in values if value.op is not None and value.op.kind == "take" and value.op.attrs["dim"] == dim]
    if len(slices) == len(values) and len({op.inputs[0] for op in slices}) == 1:
        order = np.concatenate([np.asarray(op.attrs["index"]) for op in slices])
        if len(np.unique(order)) == len(order):
            return b.take(slices[0].inputs[0], dim, order)
    return aten.cat(b, values, axis)


@rule("ai.onnx::Split")
def split(b: Builder, x: Value, *_: Value | None, axis: int = 0, **attributes: Any) -> Any:
    return aten.split(b, x, dim=axis)


@rule("ai.onnx::Slice")
def slice_(b: Builder, x: Value, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Value:
    """Bounds are operands, or (to opset 9) attributes; they are clamped to the axis as Python's are, and steps may be negative."""
    first, last = (numbers(v) if isinstance(v, Value) else list(v) for v in (starts, ends))
    dims = list(range(len(first))) if axes is None else numbers(axes) if isinstance(axes, Value) else list(axes)
    strides = [1] * len(first) if steps is None else numbers(steps)
    for dim, start, end, step in zip(dims, first, last, strides, strict=True):
        x = aten._run(b, x, dim, _bounds(start, end, step, x.shape[dim]))
    return x


def _bounds(start: int, end: int, step: int, size: int) -> range:
    """The operator's own clamping: with a negative step, an end below the first element includes it."""
    start += size if start < 0 else 0
    end += size if end < 0 else 0
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)


@rule("ai.onnx::Expand")
def expand(b: Builder, x: Value, shape: Value) -> Value:
    return b.expand(x, b.shapes[0])


@rule("ai.onnx::Tile")
def tile(b: Builder, x: Value, repeats: Value) -> Value:
    return aten.repeat(b, x, numbers(repeats))


@rule("ai.onnx::Trilu")
def trilu(b: Builder, x: Value, k: Value | None = None, *, upper: int = 1) -> Value:
    return triangle(b, x, 0 if k is None else number(k), bool(upper))


@rule("ai.onnx::EyeLike")
def eye(b: Builder, x: Value, *, k: int = 0, **_: Any) -> Value:
    rows, columns = x.shape
    return b.constant(x.shape, lambda: np.eye(rows, columns, k), "eye")


@rule("ai.onnx::CenterCropPad")
def center_crop_pad(b: Builder, x: Value, shape: Value, *, axes: Sequence[int] | None = None) -> Value:
    """Each axis is cropped or padded around its middle."""
    dims = range(x.ndim) if axes is None else axes
    for dim, size in zip(dims, numbers(shape), strict=True):
        have = x.shape[dim]
        if size < have:
            start = (have - size) // 2
            x = aten._run(b, x, dim, range(start, start + size))
        elif size > have:
            raise ValueError("padding around the middle")
    return x
