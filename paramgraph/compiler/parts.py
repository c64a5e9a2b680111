"""Parts of parameters that operations read: a packed projection is one parameter, and slices of it are read apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paramgraph.compiler.program import Op, Value

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class PartOf:
    """A part of a parameter or buffer, its axes in order; axes of one element may be left out or added.

    Attributes:
        value: the parameter or buffer.
        index: per axis, the positions of the part's elements; None for all, in order.
        dims: per axis of more than one element, the dimension of the value that is read.
    """

    value: Value
    index: tuple[Array | None, ...]
    dims: tuple[int, ...]

    @property
    def wide(self) -> list[int]:
        """The axes with more than one element, in order."""
        sizes = [n if index is None else len(index) for index, n in zip(self.index, self.value.shape, strict=True)]
        return [d for d, n in enumerate(sizes) if n > 1]


def part_of(value: Value) -> PartOf | None:
    """The part of a parameter or buffer that a value is; None if it is something else."""
    chain = [value]
    while (op := chain[-1].op) is not None:
        if op.kind not in ("take", "reshape"):
            return None
        chain.append(op.inputs[0])
    source = chain[-1]
    if source.kind not in ("parameter", "buffer"):
        return None
    index: list[Array | None] = [None] * source.ndim
    place = list(range(source.ndim))  # per dimension of the value so far, the axis of the source; -1 for a new one of one element
    for before, after in zip(chain[::-1], chain[-2::-1], strict=False):
        if (op := after.op) is None:
            break
        if op.kind == "take":
            axis, own = place[op.attrs["dim"]], np.asarray(op.attrs["index"])
            if axis < 0:
                return None
            known = index[axis]
            index[axis] = own if known is None else known[own]
            continue
        olds, news = ([d for d, n in enumerate(shape) if n > 1] for shape in (before.shape, after.shape))
        if [before.shape[d] for d in olds] != [after.shape[d] for d in news]:
            return None
        moved = dict(zip(news, (place[d] for d in olds), strict=True))
        place = [moved.get(d, -1) for d in range(after.ndim)]
    found = PartOf(source, tuple(index), ())
    where = {axis: d for d, axis in enumerate(place) if axis >= 0}
    return PartOf(source, found.index, tuple(where.get(axis, -1) for axis in found.wide)) if all(axis in where for axis in found.wide) else None


def is_read_once(value: Value, readers: Mapping[Value, Sequence[Op]]) -> bool:
    """Whether a value that is a part of a parameter is read once, and none of its elements is read otherwise."""
    if sum(op.inputs.count(value) for op in readers.get(value, ())) != 1:
        return False
    op = value.op
    if op is None:
        return True
    (source,) = op.inputs
    if op.kind == "reshape":
        return is_read_once(source, readers)
    own = np.asarray(op.attrs["index"])
    for other in readers.get(source, ()):
        if other is op:
            continue
        if other.kind != "take" or other.attrs["dim"] != op.attrs["dim"] or np.isin(np.asarray(other.attrs["index"]), own).any():
            return False
    return source.op is None or _is_read_by_slices(source, readers)


def _is_read_by_slices(value: Value, readers: Mapping[Value, Sequence[Op]]) -> bool:
    """Whether what a sliced value is made of is read in that way alone."""
    while value.op is not None:
        (value,) = value.op.inputs
        if len(readers.get(value, ())) != 1:
            return False
    return True
