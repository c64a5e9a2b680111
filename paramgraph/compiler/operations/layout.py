"""Operations that move elements without computing: reshape, permute, slice, concatenate, expand."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.compiler.operations.base import Operation
from paramgraph.compiler.parameters import Place, name_places
from paramgraph.compiler.program import Op, Value
from paramgraph.compiler.virtual import Virtual
from paramgraph.symmetries.scale_spaces import blocks_holding
from paramgraph.symmetries.space import common_ends
from paramgraph.symmetries.spaces import Axis, SpaceSystem, as_array

if TYPE_CHECKING:
    from paramgraph.compiler.components import Component
    from paramgraph.compiler.emission import Emitter
    from paramgraph.compiler.scales import ScaleSolver
    from paramgraph.symmetries.character import Character


def record_common(system: SpaceSystem, before: Sequence[Axis], after: Sequence[Axis]) -> None:
    """Record a tensor that is divided into axes in two ways by what both have in common: what stands side by side in both."""
    parts = [[system.units(axis) for axis in axes] for axes in (before, after)]
    units, others = ([unit for part in own for unit in part if unit.size > 1] for own in parts)
    if units != others:
        system.record(before, read=False, paired=False)
        return
    ends = [set(itertools.accumulate(sum(unit.size > 1 for unit in part) for part in own)) for own in parts]
    if not (ends[0] <= ends[1] or ends[1] <= ends[0]):
        cuts = [0, *sorted(ends[0] | ends[1])]
        system.record([tuple(units[start:end]) for start, end in itertools.pairwise(cuts)], read=False)


class Reshape(Operation):
    kind = "reshape"
    keeps_indices = True

    def type(self, system: SpaceSystem, op: Op) -> None:
        (x,) = op.inputs
        # How elements of a parameter lie in it is kept, to the last reader.
        op.output.axes = tuple(system.reshape(x.axes, op.output.shape, renumber=not (x.parametric or x.virtual)))
        if x.parametric:
            record_common(system, x.axes, op.output.axes)
        moved = (factor.reshaped(x.shape, op.output.shape) for factor in x.virtual)
        op.output.virtual = tuple(factor for factor in moved if factor is not None)
        op.output.indexes = x.indexes

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        (x,) = op.inputs
        solver.set(op.output, solver.system.reshape(solver.of(x), solver.layouts_of(op.output.axes)))

    def emit(self, emitter: Emitter, op: Op) -> None:
        """The same nodes: the places in row-major order are the same spaces, on other dimensions."""
        (x,) = op.inputs
        if x.parametric:
            return
        if not emitter.of(x):
            emitter.pass_on(op, [])
            return
        before = [(d, i, unit) for d, axis in enumerate(x.axes) for i, unit in enumerate(axis)]
        after = [(d, i, unit) for d, axis in enumerate(op.output.axes) for i, unit in enumerate(axis)]
        first, last = common_ends([unit for _, _, unit in before], [unit for _, _, unit in after])
        ends = [(side[:first], side[first : len(side) - last], side[len(side) - last :]) for side in (before, after)]
        between = (*ends[0][1], *ends[1][1])
        if any(emitter.is_node(unit) or not unit.pinned for _, _, unit in between):
            emitter.reconnect(op)
            return
        # Positions under a new numbering: the nodes are what they were at each of them.
        renamed = {old: new for part in (0, 2) for old, new in zip(ends[0][part], ends[1][part], strict=True)}
        renamed.update(emitter.kept_factors(op, lambda factor: factor.reshaped(x.shape, op.output.shape)))
        emitter.pass_on(op, [(tuple(renamed[p] for p in c.places), c) for c in emitter.of(x)])


class Permute(Operation):
    kind = "permute"
    keeps_indices = True

    def type(self, system: SpaceSystem, op: Op) -> None:
        (x,) = op.inputs
        op.output.axes = tuple(x.axes[d] for d in op.attrs["order"])
        op.output.virtual = tuple(factor.named([op.attrs["order"].index(d) for d in range(x.ndim)]) for factor in x.virtual)
        op.output.indexes = x.indexes

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        (x,) = op.inputs
        order = op.attrs["order"]
        solver.set(op.output, solver.system.lift(solver.of(x), solver.layouts_of(op.output.axes), [order.index(d) for d in range(x.ndim)]))

    def emit(self, emitter: Emitter, op: Op) -> None:
        (x,) = op.inputs
        if x.parametric:
            return
        order = op.attrs["order"]
        to = {(source, i, unit): (d, i, unit) for d, source in enumerate(order) for i, unit in enumerate(x.axes[source])}
        to.update(emitter.kept_factors(op, lambda factor: factor.named([order.index(d) for d in range(x.ndim)])))
        emitter.pass_on(op, [(tuple(to[p] for p in c.places), c) for c in emitter.of(x)])


class Take(Operation):
    """Constant, distinct indices along one axis. Cuts the axis; what depends on it becomes a family."""

    kind = "take"
    keeps_indices = True

    def type(self, system: SpaceSystem, op: Op) -> None:
        (x,) = op.inputs
        op.output.axes = tuple(system.take(x.axes, op.attrs["dim"], op.attrs["index"], op.attrs["alone"]))
        op.output.virtual = tuple(factor for factor in x.virtual if all(d != op.attrs["dim"] for d, _, _ in factor.digits))
        op.output.indexes = x.indexes

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        (x,) = op.inputs
        dim = op.attrs["dim"]
        character = solver.of(x)
        layout = solver.layouts.of(op.output.axes[dim])
        held = solver.layouts.holding(layout, character.layouts[dim], op.attrs["index"])
        sources, exact = [[(character, number) for number in found] for found, _ in held], [whole for _, whole in held]
        solver.set(op.output, solver.system.with_axis(character, dim, layout, sources, exact))

    def emit(self, emitter: Emitter, op: Op) -> None:
        """The nodes whose index along the dimension is taken; where the cut dimension is no node index, the same nodes."""
        (x,) = op.inputs
        if x.parametric:
            return
        dim, index = op.attrs["dim"], as_array(op.attrs["index"])
        units = [unit for unit in emitter.system.units(x.axes[dim]) if unit.size > 1]
        node_like = [emitter.is_node(unit) for unit in units]
        if any(node_like) and not all(node_like):
            emitter.reconnect(op)
            return
        out = []
        cut = [p for p in emitter.places(x) if p[0] == dim]
        for component in emitter.whole(emitter.of(x), cut, op.name or "take"):
            new = self._taken(emitter, op, component, dim, index)
            if new is None:
                emitter.reconnect(op)
                return
            out.append(new)
        emitter.finish(op, out, range(op.output.ndim))

    @staticmethod
    def _taken(emitter: Emitter, op: Op, component: Component, dim: int, index: np.ndarray) -> Component | None:
        """A component after the cut; None where its places are not whole dimensions."""
        component = emitter.ordered(component)
        dims = list(dict.fromkeys(d for d, _, _ in component.places))
        sizes = [int(np.prod([p[2].size for p in component.places if p[0] == d])) for d in dims]
        new: list[Place] = []
        for d in dims:
            if isinstance(d, Virtual):  # the cut is along none of its places: it is kept
                new += [p for p in component.places if p[0] == d]
            else:
                new += [p for p in name_places(d, emitter.system.units(op.output.axes[d])) if emitter.is_node(p[2])]
        numbers = component.ref.index
        if dim in dims and sizes[dims.index(dim)] != op.inputs[0].shape[dim]:
            return None
        if dim in dims:
            numbers = component.ref.numbers(component.size).reshape(sizes).take(index, axis=dims.index(dim)).reshape(-1)
        expected = component.size if numbers is None else len(numbers)
        if int(np.prod([p[2].size for p in new])) != expected:
            return None
        return emitter.referring(tuple(new), component.ref.name, numbers)


class Concat(Operation):
    """Tensors laid end to end. The other axes are families over the parts."""

    kind = "concat"
    keeps_indices = True

    def type(self, system: SpaceSystem, op: Op) -> None:
        if op.attrs.get("padded"):
            beside = next(value for value in op.inputs if value.kind != "constant")
            for value in op.inputs:
                for d, axis in enumerate(value.axes if value.kind == "constant" else ()):
                    if d != op.attrs["dim"]:
                        system.unify(beside.axes[d], axis)
        op.output.axes = tuple(system.concat([value.axes for value in op.inputs], op.attrs["dim"]))
        named = [value.indexes for value in op.inputs if value.indexes is not None]
        for other in named[1:]:
            system.unify(named[0], other)
        op.output.indexes = named[0] if named else None

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        """Each block of the result is a block of one operand."""
        dim = op.attrs["dim"]
        layouts = solver.layouts_of(op.output.axes)
        operands = []
        for value in op.inputs:
            own = solver.of(value)
            wide = [own.layouts[d] if d == dim else layout for d, layout in enumerate(layouts)]
            operands.append(solver.system.lift(own, wide, range(len(wide))))
        ends = list(itertools.accumulate(value.shape[dim] for value in op.inputs))
        sources: list[list[tuple[Character, int]]] = []
        exact = []
        for block in layouts[dim].blocks:
            where = block.where(layouts[dim].size)
            entries: list[tuple[Character, int]] = []
            first, last = (bisect.bisect_right(ends, int(end)) for end in ((where.min(), where.max()) if len(where) else (0, 0)))
            whole = first == last
            for operand, end in zip(operands[first : last + 1], ends[first:], strict=False):
                size = operand.layouts[dim].size
                here = (where if whole else where[(where >= end - size) & (where < end)]) - (end - size)
                if len(here):
                    found, alike = blocks_holding(block, here, operand.layouts[dim])
                    entries.extend((operand, number) for number in found)
                    whole = whole and alike
            sources.append(entries)
            exact.append(whole)
        solver.set(op.output, solver.system.with_axis(operands[0], dim, layouts[dim], sources, exact))

    def emit(self, emitter: Emitter, op: Op) -> None:
        """A node set for the union along a node-like dimension; elsewhere nodes that all operands flow into."""
        if all(value.parametric for value in op.inputs):
            return
        dim = op.attrs["dim"]
        places = emitter.places(op.output)
        if any(p[0] == dim for p in places):
            out = self._laid_end_to_end(emitter, op, dim)
        else:
            acts = [value for value in op.inputs if not value.parametric]
            if any(p[0] == dim for value in acts for c in emitter.of(value) for p in c.places):
                emitter.reconnect(op)  # nodes along a dimension whose union is one of positions
                return
            out = emitter.join([self._renamed(emitter, op, value) for value in acts], ["concat"] * len(acts), "concat", "concat")
            for value in op.inputs:
                if value.parametric and value.kind != "constant":
                    emitter.parameter(value, range(value.ndim), "concat.value", self._as(emitter, op, out, value))
        emitter.finish(op, out, range(op.output.ndim))

    @staticmethod
    def _renamed(emitter: Emitter, op: Op, value: Value) -> list[Component]:
        """An operand's components under the result's places (the same spaces, where families were not told apart)."""
        out = []
        for c in map(emitter.ordered, emitter.of(value)):
            dims = list(dict.fromkeys(d for d, _, _ in c.places))
            new = tuple(p for d in dims for p in name_places(d, emitter.system.units(op.output.axes[d])) if emitter.is_node(p[2]))
            same = len(new) == len(c.places) and all(a[0] == b[0] and a[2].size == b[2].size for a, b in zip(new, c.places, strict=True))
            out.append(emitter.referring(new, c.ref.name, c.ref.index) if same else c)
        return out

    @staticmethod
    def _as(emitter: Emitter, op: Op, components: list[Component], value: Value) -> list[Component]:
        """The result's components under an operand's own places."""
        out = []
        for c in map(emitter.ordered, components):
            dims = list(dict.fromkeys(d for d, _, _ in c.places))
            new = tuple(p for d in dims for p in name_places(d, emitter.system.units(value.axes[d])) if emitter.is_node(p[2]))
            out.append(emitter.referring(new, c.ref.name, c.ref.index) if len(new) == len(c.places) else c)
        return out

    @staticmethod
    def _laid_end_to_end(emitter: Emitter, op: Op, dim: int) -> list[Component]:
        acts = [value for value in op.inputs if not value.parametric]
        linked = {dim} | {d for v in acts for c in emitter.of(v) if any(p[0] == dim for p in c.places) for d, _, _ in c.places}
        every = emitter.places(op.output)
        along = [p for p in every if p[0] in linked]
        # What is filled up with one constant may move apart for each element along other dimensions.
        linked |= {p[0] for p in every if isinstance(p[0], int) and p not in along and emitter.related([p], along)}
        dims = sorted(linked)
        places = [p for p in every if p[0] in linked]
        depth = max((emitter.depth(emitter.of(v)) for v in acts), default=0) + 1
        joined = emitter.new_component(places, "concat", depth)
        shape = [int(np.prod([p[2].size for p in places if p[0] == d])) for d in dims]
        numbers = np.arange(joined.size).reshape(shape)
        scale = shape[dims.index(dim)] / op.output.shape[dim]
        # What stands along other dimensions alone is beside every part.
        beside = [c for c in emitter.of(acts[0]) if not any(p[0] in linked for p in c.places)]
        start, out = 0.0, [joined, *(c for c in beside if all(p in every for p in c.places))]
        for value in op.inputs:
            size = value.shape[dim] * scale
            part = numbers.take(np.arange(int(start), int(start + size)), axis=dims.index(dim)).reshape(-1)
            start += size
            own = [p for p in emitter.places(value) if p[0] in linked]
            if math.prod(p[2].size for p in own) != len(part):  # positions of the operand that are nodes of the result
                own = [(d, i, unit) for d in dims for i, unit in enumerate(value.axes[d])]
            if math.prod(p[2].size for p in own) != len(part):
                continue
            target = emitter.referring(tuple(own), joined.ref.name, part)
            if value.parametric and value.kind != "constant":
                emitter.parameter(value, range(value.ndim), "concat.value", [target])
            elif not value.parametric:
                for c in emitter.of(value):
                    if any(p in own for p in c.places):
                        emitter.structural("concat", c, target)
        return out


class Expand(Operation):
    """Broadcast axes become free spaces of their own: every element along them is the same."""

    kind = "expand"
    keeps_indices = True

    def type(self, system: SpaceSystem, op: Op) -> None:
        (x,) = op.inputs
        pairs = zip(x.shape, op.output.shape, x.axes, strict=True)
        op.output.axes = tuple(axis if have == want else system.axis(want, "expand") for have, want, axis in pairs)
        op.output.virtual = x.virtual
        op.output.indexes = x.indexes

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        (x,) = op.inputs
        solver.set(op.output, solver.system.lift(solver.of(x), solver.layouts_of(op.output.axes), range(x.ndim)))

    def emit(self, emitter: Emitter, op: Op) -> None:
        """The same nodes for every copy."""
        (x,) = op.inputs
        if not x.parametric:
            emitter.pass_on(op, [(c.places, c) for c in emitter.of(x)])
