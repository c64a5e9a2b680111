"""Operations whose operands or results name elements of a space: gather, top-k, one-hot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paramgraph.compiler.operations.base import Operation
from paramgraph.compiler.parameters import name_places
from paramgraph.compiler.program import Op
from paramgraph.symmetries.spaces import SpaceSystem

if TYPE_CHECKING:
    from paramgraph.compiler.emission import Emitter
    from paramgraph.compiler.scales import ScaleSolver


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

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        """Any element may be named, so all have one multiplier."""
        x, index = op.inputs
        dim = op.attrs["dim"]
        solver.system.be_trivial(solver.of(index))
        short = solver.system.constant(solver.of(x), [dim])
        dims = [d if d < dim else d + index.ndim for d in range(x.ndim - 1)]
        solver.set(op.output, solver.system.lift(short, solver.layouts_of(op.output.axes), dims))

    def emit(self, emitter: Emitter, op: Op) -> None:
        """A table read by values: its rows are nodes, and every entry is an edge to what the row holds."""
        x, index = op.inputs
        if op.output.parametric:
            return
        if not x.parametric:
            emitter.reconnect(op)
            return
        dim = op.attrs["dim"]
        labels = ["row" if d == dim else d if d < dim else d - 1 + index.ndim for d in range(x.ndim)]
        rows = [p for p in name_places("row", emitter.system.units(x.axes[dim])) if emitter.is_node(p[2])]
        wanted = [p for p in emitter.places(x, labels) if p[0] != "row"]
        source = emitter.new_component(rows, f"{x.name or op.name}.rows", 0, "token")
        target = emitter.new_component(wanted, op.name, 1, "embedding")
        emitter.parameter(x, labels, "embedding.weight", [target], [source])
        emitter.finish(op, [target], range(op.output.ndim))


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

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        """Elements are compared: one positive multiplier for all. Which they are has none."""
        (x,) = op.inputs
        dim = op.attrs["dim"]
        short = solver.system.constant(solver.of(x), [dim])
        short = solver.system.power(short, 0 if op.attrs["indices"] else 1, "none")
        dims = [d for d in range(x.ndim) if d != dim]
        solver.set(op.output, solver.system.lift(short, solver.layouts_of(op.output.axes), dims))

    def emit(self, emitter: Emitter, op: Op) -> None:
        emitter.reconnect(op)


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

    def emit(self, emitter: Emitter, op: Op) -> None:
        emitter.reconnect(op)
