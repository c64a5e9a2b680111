"""Operations whose operands or results name elements of a space: gather, top-k, one-hot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paramgraph.compiler.operations.base import Operation
from paramgraph.compiler.parameters import name_places
from paramgraph.compiler.program import Op, Value
from paramgraph.compiler.ties import Distinct
from paramgraph.compiler.virtual import useful, virtual
from paramgraph.symmetries.spaces import SpaceSystem, length

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
        origin = _origin(index)
        if index.indexes is None:
            system.pin(x.axes[dim], "input or computed values index it")
            # Tables that are read by the same values are read at the same elements.
            if origin.indexes is None:
                origin.indexes = x.axes[dim]
            elif length(origin.indexes) == x.shape[dim]:
                system.unify(x.axes[dim], origin.indexes)
        else:
            system.unify(x.axes[dim], index.indexes)
        op.output.axes = (*x.axes[:dim], *index.axes, *x.axes[dim + 1 :])
        op.output.indexes = x.indexes
        kept = [factor.named([*range(dim), None, *range(dim + index.ndim, op.output.ndim)]) for factor in x.virtual]
        found = [factor for factor in kept if all(d is not None for d, _, _ in factor.digits)]
        found.append(virtual(_key(index), index.shape, dim, x.axes[dim]))
        op.output.virtual = tuple(factor for factor in found if useful(system, op.output.axes, factor))

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        """Any element may be named, so all have one multiplier."""
        x, index = op.inputs
        dim = op.attrs["dim"]
        solver.system.be_trivial(solver.of(index))
        short = solver.system.constant(solver.of(x), [dim])
        dims = [d if d < dim else d + index.ndim for d in range(x.ndim - 1)]
        solver.set(op.output, solver.system.lift(short, solver.layouts_of(op.output.axes), dims))

    def emit(self, emitter: Emitter, op: Op) -> None:
        """A table read by values: its rows are nodes, and every entry is an edge to what the row holds.

        Weights chosen by values are weights still: they become the edges of what they are applied to.
        """
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


def _origin(index: Value) -> Value:
    while index.op is not None and index.op.kind == "reshape":
        (index,) = index.op.inputs
    return index


def _chosen(index: Value) -> Op | None:
    """The operation that chose an index among the elements of an axis, if it is one."""
    op = _origin(index).op
    return op if op is not None and op.kind == "topk" else None


def _key(index: Value) -> Any:
    """What makes two index values the same: one operation's indices (or the values found there), under any shape."""
    op = _chosen(index)
    return _origin(index) if op is None or op.where is None else (op.where, op.inputs[0], op.attrs["dim"], op.output.shape)


class TopK(Operation):
    """The largest elements along an axis, in order: their values, or which they are."""

    kind = "topk"

    def type(self, system: SpaceSystem, op: Op) -> None:
        (x,) = op.inputs
        dim = op.attrs["dim"]
        new = system.axis(op.output.shape[dim], op.name, "ranks of a sorted axis")
        op.output.axes = tuple(new if d == dim else axis for d, axis in enumerate(x.axes))
        # Elements along the axis are mixed: no other space keeps a dependency on it.
        system.record(op.output.axes, paired=x.parametric)
        if op.attrs["indices"]:
            if not Distinct().along(x, dim):
                system.pin(x.axes[dim], "of equal elements, the first is chosen")
            op.output.indexes = x.axes[dim]
        else:  # each value belongs to the element that the index names at its place
            op.output.virtual = (virtual(_key(op.output), op.output.shape, 0, x.axes[dim]),)

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        """Elements are compared: one positive multiplier for all. Which they are has none."""
        (x,) = op.inputs
        dim = op.attrs["dim"]
        short = solver.system.constant(solver.of(x), [dim])
        short = solver.system.power(short, 0 if op.attrs["indices"] else 1, "none")
        dims = [d for d in range(x.ndim) if d != dim]
        solver.set(op.output, solver.system.lift(short, solver.layouts_of(op.output.axes), dims))

    def emit(self, emitter: Emitter, op: Op) -> None:
        """The values keep a node for each element that may be among them; which they are is no node."""
        (x,) = op.inputs
        if op.attrs["indices"] and not emitter.places(op.output):
            emitter.components[op.output] = []
            return
        shown = [factor for factor in op.output.virtual if emitter.is_shown(op.output, factor)]
        if x.parametric or not shown:
            emitter.reconnect(op)
            return
        out = []
        for c in emitter.whole(emitter.of(x), [p for p in emitter.places(x) if p[0] == op.attrs["dim"]], op.name):
            places = tuple((shown[0] if d == op.attrs["dim"] else d, i, unit) for d, i, unit in c.places)
            made = emitter.new_component(places, op.name, emitter.depth([c]) + 1)
            emitter.structural(op.name, emitter.referring(places, c.ref.name, c.ref.index), made)
            out.append(made)
        emitter.components[op.output] = out


class OneHot(Operation):
    """Index values as indicator vectors along the axis that they name."""

    kind = "one_hot"
    keeps_indices = True

    def type(self, system: SpaceSystem, op: Op) -> None:
        (index,) = op.inputs
        size = op.output.shape[-1]
        named = index.indexes
        if named is not None and length(named) != size:
            system.pin(named, "its indices are read as those of another size")
            named = None
        if named is None:
            named = system.axis(size, "one_hot", "input or computed values index it")
        op.output.axes = (*index.axes, named)

    def emit(self, emitter: Emitter, op: Op) -> None:
        """A node for each element that may be named, from the nodes of what the index was chosen by."""
        chosen = _chosen(op.inputs[0])
        last = op.output.ndim - 1
        named = [p for p in emitter.places(op.output) if p[0] == last]
        if chosen is None or not named or len(named) < len(emitter.places(op.output)):
            emitter.reconnect(op)
            return
        made = emitter.new_component(named, "one_hot", 0)
        x = chosen.inputs[0]
        for c in emitter.of(x):
            places = tuple((last, i, unit) if d == chosen.attrs["dim"] else ("row", d, unit) for d, i, unit in c.places)
            emitter.structural("one_hot", emitter.referring(places, c.ref.name, c.ref.index), made)
        emitter.components[op.output] = [made]
