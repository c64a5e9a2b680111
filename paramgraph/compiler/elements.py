"""Which elements of parameters the elements of a value are, if it is made of them by layout alone."""

from __future__ import annotations

import math

import numpy as np

from paramgraph.compiler.program import LAYOUT, Program, Value

Array = np.ndarray
# Values of more elements are not laid out.
MOST = 1 << 24


class Elements:
    """Numbers the elements of parameters, all those that are asked for in one row.

    Args:
        program: the program.

    Attributes:
        starts: per parameter that was met, the number of its first element.
        total: of numbers.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.starts: dict[Value, int] = {}
        self.total = 0
        self._sources: dict[Value, frozenset[Value]] = {value: frozenset((value,)) for value in program.tensors.values()}
        self._made: dict[Value, Array] = {}

    def sources(self, value: Value) -> frozenset[Value]:
        """The parameters that a value is laid out from; none if it is anything else, or too large."""
        if value not in self._sources:
            op, found = value.op, frozenset[Value]()
            if op is not None and op.kind in LAYOUT and op.inputs and math.prod(value.shape) <= MOST:
                parts = [self.sources(other) for other in op.inputs]
                found = frozenset().union(*parts) if all(parts) else found
            self._sources[value] = found
        return self._sources[value]

    def of(self, value: Value) -> Array:
        """Numbers of a value's elements, in its shape. It must have sources."""
        if value not in self._made:
            self._made[value] = self._make(value)
        return self._made[value]

    def _make(self, value: Value) -> Array:
        op = value.op
        if op is None:
            size = math.prod(value.shape)
            self.starts[value] = self.total
            self.total += size
            return np.arange(self.total - size, self.total).reshape(value.shape)
        parts = [self.of(other) for other in op.inputs]
        if op.kind == "concat":
            return np.concatenate(parts, op.attrs["dim"])
        if op.kind == "permute":
            return parts[0].transpose(op.attrs["order"])
        if op.kind == "take":
            return parts[0].take(np.asarray(op.attrs["index"]), op.attrs["dim"])
        if op.kind == "expand":
            return np.broadcast_to(parts[0], value.shape)
        return parts[0].reshape(value.shape)
