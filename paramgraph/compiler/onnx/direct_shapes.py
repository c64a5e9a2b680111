"""Result types of the operators that files hold most of, worked out here: asking ONNX's inference means writing messages for every node.

Each function gives the result's shape, or None where anything is unusual: ONNX's own inference then says what comes out, or what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Shape = tuple[int, ...]
Values = dict[int, np.ndarray]


def _reshape(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    if 1 not in values or attributes.get("allowzero"):
        return None
    x, wanted = shapes[0], [int(n) for n in values[1].reshape(-1)]
    if any(n < -1 or (n == 0 and place >= len(x)) for place, n in enumerate(wanted)) or wanted.count(-1) > 1:
        return None
    sizes = [x[place] if n == 0 else n for place, n in enumerate(wanted)]
    total, known = math.prod(x), math.prod(n for n in sizes if n != -1)
    if -1 in sizes:
        if known == 0 or total % known:
            return None
        sizes[sizes.index(-1)] = total // known
    return tuple(sizes) if math.prod(sizes) == total else None


def _transpose(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    x = shapes[0]
    order = list(attributes.get("perm", range(len(x) - 1, -1, -1)))
    return tuple(x[d] for d in order) if sorted(order) == list(range(len(x))) else None


def _matmul(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    x, y = shapes
    if len(x) < 2 or len(y) < 2 or x[-1] != y[-2]:
        return None
    if len(y) == 2:
        return (*x[:-1], y[-1])
    return (*np.broadcast_shapes(x[:-2], y[:-2]), x[-2], y[-1])


def _gather(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    x, index = shapes
    axis = attributes.get("axis", 0)
    if not -len(x) <= axis < len(x):
        return None
    axis %= len(x)
    return (*x[:axis], *index, *x[axis + 1 :])


def _axes(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> list[int] | None:
    """Axes as an operand, or (to opset 12) an attribute."""
    if len(shapes) > 1:
        return [int(d) for d in values[1].reshape(-1)] if 1 in values else None
    return list(attributes["axes"]) if "axes" in attributes else None


def _unsqueeze(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    axes = _axes(shapes, values, attributes)
    if axes is None:
        return None
    rank = len(shapes[0]) + len(axes)
    places = {d % rank for d in axes if -rank <= d < rank}
    if len(places) != len(axes):
        return None
    left = iter(shapes[0])
    return tuple(1 if d in places else next(left) for d in range(rank))


def _squeeze(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    x, axes = shapes[0], _axes(shapes, values, attributes)
    if axes is None or not all(-len(x) <= d < len(x) and x[d] == 1 for d in axes):
        return None
    gone = {d % len(x) for d in axes}
    return tuple(n for d, n in enumerate(x) if d not in gone)


def _expand(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    return np.broadcast_shapes(shapes[0], tuple(int(n) for n in values[1].reshape(-1))) if 1 in values else None


def _gemm(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    x, y = shapes[:2]
    if len(x) != 2 or len(y) != 2:
        return None
    (rows, inner), (other, columns) = x[:: -1 if attributes.get("transA") else 1], y[:: -1 if attributes.get("transB") else 1]
    if inner != other or (len(shapes) > 2 and shapes[2] is not None and np.broadcast_shapes(shapes[2], (rows, columns)) != (rows, columns)):
        return None
    return rows, columns


def _batch_norm(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    x = shapes[0]
    channels = x[1] if len(x) > 1 else 1
    return x if all(shape == (channels,) for shape in shapes[1:]) else None


DIRECT: dict[str, Callable[[Sequence[Any], Values, dict[str, Any]], Shape | None]] = {
    "Reshape": _reshape, "Transpose": _transpose, "MatMul": _matmul, "Gather": _gather, "Unsqueeze": _unsqueeze, "Squeeze": _squeeze,
    "Expand": _expand, "Gemm": _gemm, "BatchNormalization": _batch_norm,
}  # fmt: skip


def direct_shape(name: str, shapes: Sequence[Shape | None], values: Values, attributes: dict[str, Any]) -> Shape | None:
    """The shape of the only result of an operator of ONNX's own; None where it is left to ONNX's inference.

    Args:
        name: the operator.
        shapes: of its operands; None for those that are left out.
        values: of operands that are constant, by place.
        attributes: the operator's.
    """
    try:
        found = DIRECT[name](shapes, values, attributes)
    except (ValueError, TypeError):  # shapes that do not broadcast, operands that are missing: the inference proper says what is wrong
        return None
    return None if found is None else tuple(int(n) for n in found)
