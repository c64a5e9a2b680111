"""Operations whose operands or results name elements of a space: gather, top-k, one-hot."""

from __future__ import annotations

from paramgraph.compiler.operations.base import Operation
from paramgraph.compiler.program import Op
from paramgraph.symmetries.spaces import SpaceSystem


class Gather(Operation):
    """Elements along an axis named by index values. Indices of unknown meaning pin the axis."""

    kind = "gather"
    keeps_indices = True

    def type(self, system: SpaceSystem, op: Op) -> None:
        x, index = op.inputs
        dim = op.attrs["dim"]
        if index.indexes is None:
            system.pin(x.axes[dim], "input or computed values index it")
        else:
            system.unify(x.axes[dim], index.indexes)
        op.output.axes = (*x.axes[:dim], *index.axes, *x.axes[dim + 1 :])
        op.output.indexes = x.indexes


class TopK(Operation):
    """The largest elements along an axis, in order: their values, or which they are."""

    kind = "topk"

    def type(self, system: SpaceSystem, op: Op) -> None:
        (x,) = op.inputs
        dim = op.attrs["dim"]
        new = system.axis(op.output.shape[dim], op.name, "ranks of a sorted axis")
        op.output.axes = tuple(new if d == dim else axis for d, axis in enumerate(x.axes))
        if op.attrs["indices"]:
            op.output.indexes = x.axes[dim]


class OneHot(Operation):
    """Index values as indicator vectors along the axis that they name."""

    kind = "one_hot"
    keeps_indices = True

    def type(self, system: SpaceSystem, op: Op) -> None:
        (index,) = op.inputs
        size = op.output.shape[-1]
        named = index.indexes
        if named is None:
            named = system.axis(size, "one_hot", "input or computed values index it")
        op.output.axes = (*index.axes, named)
