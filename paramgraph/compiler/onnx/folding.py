"""Values of operators on constants: what shapes are computed with, in numpy; anything else by ONNX's reference implementation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.onnx.source import require

Array = np.ndarray
_NUMPY: dict[str, Callable[..., Any]] = {
    "Identity": lambda x: x, "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Neg": np.negative, "Sqrt": np.sqrt, "Equal": np.equal,
    "Less": np.less, "Greater": np.greater, "Not": np.logical_not, "And": np.logical_and, "Or": np.logical_or, "Where": np.where,
    "Min": lambda *xs: np.minimum.reduce(np.broadcast_arrays(*xs)), "Max": lambda *xs: np.maximum.reduce(np.broadcast_arrays(*xs)),
}  # fmt: skip
# Element types by ONNX's number, of those that numpy has and casts integers to as ONNX does.
_PLAIN = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}


def evaluate(node: Any, operands: Sequence[Array | None], attributes: dict[str, Any], opsets: dict[str, int]) -> list[Array]:
    """The results of a node.

    Args:
        node: an `onnx_ir` node.
        operands: its operands' values.
        attributes: its attributes.
        opsets: version of each operator set by domain.
    """
    simple = _simple(node.op_type, operands, attributes) if node.domain == "" else None
    if simple is not None:
        return [np.asarray(simple)]
    return _reference(node, operands, opsets)


def _simple(name: str, operands: Sequence[Array | None], attributes: dict[str, Any]) -> Any:
    x: Any = operands[0] if operands else None
    if name in _NUMPY and not attributes and all(v is not None for v in operands):
        out = _NUMPY[name](*operands)
        return out.astype(x.dtype) if name in ("Add", "Sub", "Mul", "Min", "Max", "Sqrt", "Neg") else out
    if name == "Expand":
        return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(n) for n in np.asarray(operands[1]))))
    if name == "Slice" and len(operands) > 2:
        return _slice(x, *operands[1:])
    if name == "Div":
        return _quotient(x, np.asarray(operands[1]))
    if name == "Cast" and x.dtype.kind in "biu" and attributes["to"] in _PLAIN:
        return x.astype(_PLAIN[attributes["to"]])
    if name == "Concat":
        return np.concatenate([v for v in operands if v is not None], attributes["axis"])
    if name == "Gather":
        return np.take(x, operands[1], attributes.get("axis", 0))  # type: ignore[arg-type]
    if name == "GatherElements":  # the reference takes some larger tensors for others
        axis = attributes.get("axis", 0) % x.ndim
        indices = np.asarray(operands[1])
        near = x[tuple(slice(None) if d == axis else slice(n) for d, n in enumerate(indices.shape))]
        return np.take_along_axis(near, indices, axis)
    if name in ("Unsqueeze", "Squeeze"):
        axes = operands[1] if len(operands) > 1 else attributes.get("axes")
        if axes is None:
            return np.squeeze(x)
        places = tuple(int(a) for a in np.asarray(axes).reshape(-1))
        return np.expand_dims(x, places) if name == "Unsqueeze" else np.squeeze(x, places)
    if name == "Reshape" and len(operands) == 2 and not attributes.get("allowzero"):
        return x.reshape([x.shape[d] if n == 0 else int(n) for d, n in enumerate(np.asarray(operands[1]))])
    return None


def _quotient(x: Array, y: Array) -> Array | None:
    """Of integers, rounded towards zero."""
    if x.dtype.kind == "f":
        return np.divide(x, y).astype(x.dtype)
    return None if (y == 0).any() else (np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))).astype(x.dtype)


def _slice(x: Array, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Array | None:
    """Numpy's slices, whose bounds are clamped as the operator's are; but for negative steps."""
    first, last = starts.reshape(-1).tolist(), ends.reshape(-1).tolist()
    strides = [1] * len(first) if steps is None else steps.reshape(-1).tolist()
    if min(strides, default=1) < 1:
        return None
    where = [slice(None)] * x.ndim
    for dim, start, end, step in zip(range(len(first)) if axes is None else axes.reshape(-1).tolist(), first, last, strides, strict=True):
        where[dim] = slice(start, end, step)
    return x[tuple(where)]


def _reference(node: Any, operands: Sequence[Array | None], opsets: dict[str, int]) -> list[Array]:
    onnx, ir = require()
    from onnx.reference import ReferenceEvaluator

    helper = onnx.helper
    feeds = {value.name: array for value, array in zip(node.inputs, operands, strict=True) if value is not None and array is not None}
    inputs = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for name, array in feeds.items()]
    outputs = [helper.make_empty_tensor_value_info(value.name) for value in node.outputs if value.name]
    graph = helper.make_graph([ir.serde.serialize_node(node)], "constants", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()])
    return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, feeds)]
