"""Recurrence and the unknown."""

from __future__ import annotations

from paramgraph.compiler.operations.base import Operation
from paramgraph.compiler.program import Op
from paramgraph.symmetries.spaces import SpaceSystem


class Feedback(Operation):
    """The next value of a state is the state one step later: their axes are the same."""

    kind = "feedback"

    def type(self, system: SpaceSystem, op: Op) -> None:
        state, value = op.inputs
        for a, b in zip(state.axes, value.axes, strict=True):
            system.unify(a, b)
        op.output.axes = value.axes


class Opaque(Operation):
    """An operation without a rule: every space that it touches is pinned."""

    kind = "opaque"

    def type(self, system: SpaceSystem, op: Op) -> None:
        cause = op.attrs["cause"]
        for value in op.inputs:
            for axis in value.axes:
                system.pin(axis, cause)
        op.output.axes = tuple(system.axis(n, op.name, cause) for n in op.output.shape)
