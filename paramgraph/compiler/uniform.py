"""Constants that are the same all along an axis: what reads them element by element needs one of their slices alone.

A gain of ones tells nothing apart, and neither does an offset of zeros that stands where a layer has no bias. As a tensor with axes it
would still be one more tensor in which those axes occur, and what must not occur there would lose its dependencies.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from paramgraph.compiler.operations.functions import number_kind
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.errors import TraceError

# Operations that treat each operand's elements where they stand.
ELEMENT_BY_ELEMENT = ("elementwise", "normalize")
# Larger constants are read only if typing needs their values.
LARGEST = 1 << 16


def thin_constants(program: Program) -> None:
    """Drop the axes along which constant operands are the same, and which other operands have, in place."""
    same: dict[Value, frozenset[int]] = {}
    thinned: dict[tuple[Value, frozenset[int]], Value] = {}
    for op in program.ops:
        if op.kind not in ELEMENT_BY_ELEMENT:
            continue
        for slot, value in enumerate(op.inputs):
            if value.kind != "constant" or not value.ndim:
                continue
            if value not in same:
                same[value] = _same_along(value)
            held = _held(op)
            named = {label for place, labels in enumerate(op.labels) if place != slot for label in labels}
            own_labels = op.labels[slot]
            gone = frozenset(d for d in same[value] if own_labels[d] in (named if value.shape[d] == 1 else held))
            if not gone:
                continue
            if (value, gone) not in thinned:
                thinned[value, gone] = _without(value, gone)
            own = tuple(label for d, label in enumerate(own_labels) if d not in gone)
            op.inputs = (*op.inputs[:slot], thinned[value, gone], *op.inputs[slot + 1 :])
            op.labels = (*op.labels[:slot], own, *op.labels[slot + 1 :])


def _held(op: Op) -> set[Any]:
    """Labels of axes that operands other than constants have."""
    return {
        label
        for value, labels in zip(op.inputs, op.labels, strict=True)
        for n, label in zip(value.shape, labels, strict=True)
        if value.kind != "constant" and n > 1
    }


def _same_along(value: Value) -> frozenset[int]:
    """The dimensions along which a constant does not vary, as far as its values can be read."""
    if value.read is None or math.prod(value.shape) > LARGEST or 0 in value.shape:
        return frozenset()
    try:
        data = np.asarray(value.read()).reshape(value.shape)
    except TraceError:  # on the meta device
        return frozenset()
    if number_kind(data) != "number":  # zeros and infinities scale as what they meet does, each apart
        return frozenset()
    return frozenset(d for d in range(value.ndim) if (data == data.take([0], d)).all())


def _without(value: Value, gone: Collection[int]) -> Value:
    read = value.read
    assert read is not None

    def thin() -> np.ndarray:
        return np.asarray(read()).reshape(value.shape)[tuple(0 if d in gone else slice(None) for d in range(value.ndim))]

    out = Value([n for d, n in enumerate(value.shape) if d not in gone], "constant", value.name, thin)
    out.integer = value.integer
    return out
