"""Sizes that data decide: as many elements as a mask keeps.

Such a size is given a number that occurs nowhere else, and what has it is typed as any other tensor: the new axis is in order, and what a
mask keeps of the other axes is as free as it was. The number itself is no constant. Where it says a shape, it is read; where anything
else is computed with it, it is a value computed from the mask, of which nothing else is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.leaves import ARGUMENTS
from paramgraph.compiler.program import Value

# One for each mask; they, and their products, are sizes of nothing else.
_PRIMES = (211, 223, 227, 229, 233, 239, 241, 251, 257, 263, 269, 271, 277, 281, 283, 293, 307, 311, 313, 317)
# Operators whose argument, a shape or a bound, may hold such a size.
_SHAPED = frozenset(["Reshape", "Expand", "Tile", "Slice", "Unsqueeze", "Squeeze", "ConstantOfShape"])
# Those of constants whose elements say nothing of how many there are, if those of their operands do not.
_COPYING = _SHAPED | frozenset(["Identity", "Cast", "CastLike", "Transpose", "Concat"])
NONZERO = "nonzero"


class Counts:
    """The sizes that data decide, of one model.

    Args:
        builder: of the program.
    """

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self._sizes: dict[Value, int] = {}
        # Constants that such sizes are in, with the masks that decide them.
        self._held: dict[Value, tuple[Value, ...]] = {}
        # Constants of which only the shape does, and with it how often their elements are repeated.
        self._repeated: dict[Value, tuple[Value, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._sizes)

    def size(self, mask: Value) -> int | None:
        """How many elements a mask keeps, as far as shapes are concerned; None where all numbers are taken."""
        base, times = _base(mask)
        if base not in self._sizes:
            if len(self._sizes) == len(_PRIMES):
                return None
            self._sizes[base] = _PRIMES[len(self._sizes)]
        return self._sizes[base] * times

    def result(self, node: Any, operands: Sequence[Any]) -> tuple[int, ...] | None:
        """The shape of what an operator picks by data; None of all other operators."""
        if node.domain not in ("", "ai.onnx") or not operands or not all(isinstance(x, Value) for x in operands):
            return None
        x = operands[0]
        if node.op_type == "NonZero":
            count = self.size(x)
            return None if count is None else (x.ndim, count)
        if node.op_type == "Compress" and operands[1].read is None:
            count = self.size(operands[1])
            axis = node.attributes["axis"].value if "axis" in node.attributes else None
            if count is None or operands[1].shape[0] != (math.prod(x.shape) if axis is None else x.shape[axis]):
                return None
            return (count,) if axis is None else tuple(count if d == axis % x.ndim else n for d, n in enumerate(x.shape))
        return None

    def counted(self, node: Any, operands: Sequence[Any]) -> int | None:
        """The sum of a mask, which is how many elements it keeps."""
        if node.op_type != "ReduceSum" or not operands or not isinstance(operands[0], Value) or not operands[0].boolean:
            return None
        base, times = _base(operands[0])
        return self._sizes[base] * times if base in self._sizes else None

    # -- constants that hold sizes -------------------------------------------------------------------------------------

    def masks_in(self, operands: Sequence[Any]) -> tuple[Value, ...]:
        """The masks that decide the values of constants among some operands."""
        if not self._held and not self._repeated:
            return ()
        return tuple(dict.fromkeys(
            mask for x in operands if isinstance(x, Value) for mask in (*self._held.get(x, ()), *self._repeated.get(x, ()))))

    def masks_of(self, shape: Sequence[int]) -> tuple[Value, ...]:
        """The masks that decide sizes of a shape."""
        return tuple(mask for mask, prime in self._sizes.items() if any(n and n % prime == 0 for n in shape))

    def hold(self, values: Sequence[Any], masks: tuple[Value, ...]) -> None:
        """Note that masks decide the values of constants."""
        if masks:
            self._held.update({value: masks for value in values if isinstance(value, Value) and value.kind == "constant"})

    def folded(self, node: Any, operands: Sequence[Any], values: Sequence[Any], masks: tuple[Value, ...]) -> None:
        """Note that masks decide constants, which a node computed from constants."""
        data = [x for place, x in enumerate(operands) if place not in self._shapes(node)]
        if masks and node.op_type in _COPYING and not any(x in self._held for x in data):
            self._repeated.update({value: masks for value in values})
        else:
            self.hold(values, masks)

    @staticmethod
    def _shapes(node: Any) -> tuple[int, ...]:
        return ARGUMENTS[node.op_type] if node.op_type in _SHAPED and node.domain in ("", "ai.onnx") else ()

    def holds(self, value: Any) -> bool:
        return value in self._held

    def replaced(self, node: Any, operands: Sequence[Any]) -> list[Any]:
        """A node's operands, with sizes that are no shapes as values computed from their masks."""
        return [self.computed(x) if isinstance(x, Value) and place not in self._shapes(node) else x for place, x in enumerate(operands)]

    def computed(self, x: Value) -> Value:
        """A size as a value of which nothing is known; any other value as it is."""
        if x in self._repeated:
            if uniform(x) is None:
                return self._unknown(x, self._repeated[x])
            return self._dependent(x, self._repeated[x])
        return self._unknown(x, self._held[x]) if x in self._held else x

    def _unknown(self, x: Value, masks: tuple[Value, ...]) -> Value:
        out = self.builder.opaque("count", masks, x.shape, "data decide how many elements there are")
        out.integer, out.boolean = x.integer, x.boolean
        return out

    def kept(self, node: Any, operands: Sequence[Any], x: Any) -> Any:
        """A result whose shape masks decide, by way of an argument, as a value that depends on them."""
        masks = self.masks_in(operands)
        if not masks or not isinstance(x, Value) or x.kind == "constant" or node.op_type in ("Reshape", "Unsqueeze", "Squeeze"):
            return x
        return self._dependent(x, masks)

    def _dependent(self, x: Value, masks: tuple[Value, ...]) -> Value:
        alive = self.builder.opaque("count", masks, (), "data decide how many elements there are")
        alive.integer = alive.boolean = True
        out = self.builder.elementwise("where", alive, x, x)
        out.integer, out.boolean = x.integer, x.boolean
        return out


def _base(mask: Value) -> tuple[Value, int]:
    """The mask that another is a view of, and how often that repeats each element."""
    *_, base = views(mask)
    return base, math.prod(mask.shape) // max(math.prod(base.shape), 1)


def views(x: Value) -> Iterator[Value]:
    """A value, and those that it is a reshape or an expansion of, one after the other."""
    yield x
    while x.op is not None and (x.op.kind in ("reshape", "expand") or _is_kept(x)):
        x = x.op.inputs[-1]
        yield x


def _is_kept(x: Value) -> bool:
    op = x.op
    return op is not None and op.name == "where" and len(op.inputs) == 3 and op.inputs[1] is op.inputs[2]


def uniform(x: Value) -> float | None:
    """The number that a constant is throughout; None if it is none."""
    if x.kind != "constant" or x.read is None:
        return None
    data = np.asarray(x.read()).reshape(-1)
    return float(data[0]) if len(data) and (data == data[0]).all() else None


def mask_of(index: Value) -> Value | None:
    """The mask whose places a `(count, depth)` index names, all of them, in order; None of any other index."""
    op = index.op
    if op is None or op.kind != "permute" or op.attrs["order"] != (1, 0):
        return None
    origin = op.inputs[0].op
    return origin.inputs[0] if origin is not None and origin.kind == "opaque" and origin.name == NONZERO and origin.inputs[0].boolean else None

