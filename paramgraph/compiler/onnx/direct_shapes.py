"""Result types of the operators that files hold most of, worked out here: asking ONNX's inference means writing messages for every node.

Each function gives the result's shape, or None where anything is unusual: ONNX's own inference then says what comes out, or what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.onnx.reduction import REDUCTIONS

Shape = tuple[int, ...]
Values = dict[int, np.ndarray]


def _reshape(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    if 1 not in values:
        return None
    x, wanted = shapes[0], [int(n) for n in values[1].reshape(-1)]
    if attributes.get("allowzero") and 0 in wanted:
        return None
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


def _concat(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    first, axis = shapes[0], attributes["axis"]
    if not -len(first) <= axis < len(first):
        return None
    axis %= len(first)
    beside = (*first[:axis], *first[axis + 1 :])
    if any(len(x) != len(first) or (*x[:axis], *x[axis + 1 :]) != beside for x in shapes):
        return None
    return (*first[:axis], sum(x[axis] for x in shapes), *first[axis + 1 :])


def _slice(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    """With bounds as operands, and steps forward."""
    if len(shapes) < 3 or any(shape is not None and place not in values for place, shape in enumerate(shapes) if place):
        return None
    sizes = list(shapes[0])
    first, last = values[1].reshape(-1).tolist(), values[2].reshape(-1).tolist()
    axes, steps = (values[place].reshape(-1).tolist() if place in values else None for place in (3, 4))
    axes, steps = list(range(len(first))) if axes is None else axes, [1] * len(first) if steps is None else steps
    if not len(first) == len(last) == len(axes) == len(steps) == len({d % max(len(sizes), 1) for d in axes}):
        return None
    for d, start, end, step in zip(axes, first, last, steps, strict=True):
        if step < 1 or not -len(sizes) <= d < len(sizes):
            return None
        sizes[d] = len(range(*slice(start, end, step).indices(sizes[d])))
    return tuple(sizes)


def _where(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    return np.broadcast_shapes(*shapes) if len(shapes) == 3 else None


def _flatten(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    x, axis = shapes[0], attributes.get("axis", 1)
    if not -len(x) <= axis <= len(x):
        return None
    axis += len(x) if axis < 0 else 0
    return math.prod(x[:axis]), math.prod(x[axis:])


def _reduce(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    x, axes = shapes[0], _axes(shapes, values, attributes)
    if not axes or not all(-len(x) <= d < len(x) for d in axes) or len({d % len(x) for d in axes}) < len(axes):
        return None
    gone = {d % len(x) for d in axes}
    if attributes.get("keepdims", 1):
        return tuple(1 if d in gone else n for d, n in enumerate(x))
    return tuple(n for d, n in enumerate(x) if d not in gone)


def _windows(sizes: Sequence[int], window: Sequence[int], attributes: dict[str, Any]) -> Shape | None:
    """Positions of a window that is moved over padded positions; none, or fewer, where it is larger than they are."""
    rank = len(sizes)
    pads = list(attributes.get("pads") or [0] * 2 * rank)
    strides, dilations = (list(attributes.get(key) or [1] * rank) for key in ("strides", "dilations"))
    if attributes.get("auto_pad", "NOTSET") != "NOTSET" or attributes.get("ceil_mode") or min(strides, default=0) < 1 or min(dilations) < 1:
        return None
    if not rank == len(window) == len(strides) == len(dilations) == len(pads) // 2 or min(pads) < 0:
        return None
    spans = [n + pads[d] + pads[d + rank] - dilations[d] * (window[d] - 1) - 1 for d, n in enumerate(sizes)]
    return tuple(span // step + 1 for span, step in zip(spans, strides, strict=True))


def _conv(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    x, weight, groups = shapes[0], shapes[1], attributes.get("group", 1)
    if len(x) < 3 or len(weight) != len(x) or x[1] != weight[1] * groups or weight[0] % max(groups, 1):
        return None
    if tuple(attributes.get("kernel_shape", weight[2:])) != weight[2:] or (len(shapes) > 2 and shapes[2] not in (None, weight[:1])):
        return None
    positions = _windows(x[2:], weight[2:], attributes)
    return None if positions is None else (x[0], weight[0], *positions)


def _pool(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    x = shapes[0]
    positions = _windows(x[2:], attributes["kernel_shape"], attributes) if len(x) > 2 else None
    return None if positions is None else (*x[:2], *positions)


def _global_pool(shapes: Sequence[Any], values: Values, attributes: dict[str, Any]) -> Shape | None:
    x = shapes[0]
    return (*x[:2], *[1] * (len(x) - 2)) if len(x) > 2 else None


DIRECT: dict[str, Callable[[Sequence[Any], Values, dict[str, Any]], Shape | None]] = {
    "Reshape": _reshape, "Transpose": _transpose, "MatMul": _matmul, "Gather": _gather, "Unsqueeze": _unsqueeze, "Squeeze": _squeeze,
    "Expand": _expand, "Gemm": _gemm, "BatchNormalization": _batch_norm, "Concat": _concat, "Slice": _slice, "Where": _where,
    "Flatten": _flatten, "Conv": _conv, "MaxPool": _pool, "AveragePool": _pool, "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool, **dict.fromkeys(REDUCTIONS, _reduce),
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
    except (ValueError, TypeError, KeyError, IndexError):  # shapes that do not broadcast, operands that are missing: inference says what is wrong
        return None
    return None if found is None else tuple(int(n) for n in found)
