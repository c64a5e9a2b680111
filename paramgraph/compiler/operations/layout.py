"""Operations that move elements without computing: reshape, permute, slice, concatenate, expand."""

from __future__ import annotations

from paramgraph.compiler.operations.base import Operation
from paramgraph.compiler.program import Op
from paramgraph.symmetries.spaces import SpaceSystem


class Reshape(Operation):
    kind = "reshape"
    keeps_indices = True

    def type(self, system: SpaceSystem, op: Op) -> None:
        (x,) = op.inputs
        op.output.axes = tuple(system.reshape(x.axes, op.output.shape))
        op.output.indexes = x.indexes


class Permute(Operation):
    kind = "permute"
    keeps_indices = True

    def type(self, system: SpaceSystem, op: Op) -> None:
        (x,) = op.inputs
        op.output.axes = tuple(x.axes[d] for d in op.attrs["order"])
        op.output.indexes = x.indexes


class Take(Operation):
    """Constant, distinct indices along one axis. Cuts the axis; what depends on it becomes a family."""

    kind = "take"
    keeps_indices = True

    def type(self, system: SpaceSystem, op: Op) -> None:
        (x,) = op.inputs
        op.output.axes = tuple(system.take(x.axes, op.attrs["dim"], op.attrs["index"]))
        op.output.indexes = x.indexes


class Concat(Operation):
    """Tensors laid end to end. The other axes are families over the parts."""

    kind = "concat"
    keeps_indices = True

    def type(self, system: SpaceSystem, op: Op) -> None:
        op.output.axes = tuple(system.concat([value.axes for value in op.inputs], op.attrs["dim"]))
        named = [value.indexes for value in op.inputs if value.indexes is not None]
        for other in named[1:]:
            system.unify(named[0], other)
        op.output.indexes = named[0] if named else None


class Expand(Operation):
    """Broadcast axes become free spaces of their own: every element along them is the same."""

    kind = "expand"
    keeps_indices = True

    def type(self, system: SpaceSystem, op: Op) -> None:
        (x,) = op.inputs
        pairs = zip(x.shape, op.output.shape, x.axes, strict=True)
        op.output.axes = tuple(axis if have == want else system.axis(want, "expand") for have, want, axis in pairs)
        op.output.indexes = x.indexes
