"""Recurrence and the unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paramgraph.compiler.operations.base import Operation
from paramgraph.compiler.parameters import name_places
from paramgraph.compiler.program import Op
from paramgraph.symmetries.spaces import SpaceSystem

if TYPE_CHECKING:
    from paramgraph.compiler.emission import Emitter
    from paramgraph.compiler.scales import ScaleSolver


class Feedback(Operation):
    """The next value of a state is the state one step later: their axes are the same."""

    kind = "feedback"

    def type(self, system: SpaceSystem, op: Op) -> None:
        state, value = op.inputs
        for a, b in zip(state.axes, value.axes, strict=True):
            system.unify(a, b)
        op.output.axes = value.axes

    def scale(self, solver: ScaleSolver, op: Op) -> None:
        state, value = (solver.of(operand) for operand in op.inputs)
        solver.system.equal([state, solver.system.lift(value, state.layouts, range(len(state.layouts)))])
        solver.set(op.output, solver.of(op.inputs[1]))

    def emit(self, emitter: Emitter, op: Op) -> None:
        """Edges from the next value's nodes to the state's: the graph has a cycle, as the network has."""
        state, value = op.inputs
        if value.parametric:
            return
        system = emitter.system
        renamed = {p[:2]: p for d, axis in enumerate(state.axes) for p in name_places(d, system.units(axis))}
        for source in emitter.of(value):
            moved = emitter.referring(tuple(renamed[p[:2]] for p in source.places), source.ref.name, source.ref.index)
            for target in emitter.of(state):
                if set(moved.places) & set(target.places):
                    emitter.structural("feedback", moved, target)


class Opaque(Operation):
    """An operation without a rule: every space that it touches is pinned."""

    kind = "opaque"

    def type(self, system: SpaceSystem, op: Op) -> None:
        cause = op.attrs["cause"]
        for value in op.inputs:
            for axis in value.axes:
                system.pin(axis, cause)
        op.output.axes = tuple(system.axis(n, op.name, cause) for n in op.output.shape)

    def emit(self, emitter: Emitter, op: Op) -> None:
        emitter.reconnect(op)
