"""Axes that turn out fixed after they were cut.

Cutting a free space makes families of what may depend on it. Where the space is found fixed only later (by a constant's values, which are
read last, or by an operation further on), those families come to nothing, but each of their members has to be resolved.
"""

from __future__ import annotations

from paramgraph.compiler.program import Program, Value
from paramgraph.symmetries.spaces import Axis, Space, SpaceSystem

# Fewer members are resolved in less time than another typing takes, however few the operations.
FEW_MEMBERS = 100


def late_fixed(program: Program, system: SpaceSystem) -> dict[tuple[Value, int], str]:
    """Axes of parameters and constants that are fixed now, by value and dimension, with the cause, if families vary over any of them.

    Nothing where that saves no time: a member takes about as long to be resolved as an operation to be typed.
    """
    free = [base for base, _ in system.members if not all(map(system.is_fixed, system.units((system.spaces[base],))))]
    if len(free) < max(FEW_MEMBERS, len(program.ops)):
        return {}
    varied: set[Space] = set()
    for over in {over for _, assign in system.members for over, _ in assign}:
        varied |= _inside(system, (system.spaces[over],))
    constants = dict.fromkeys(value for op in program.ops for value in op.inputs if value.kind == "constant")
    out: dict[tuple[Value, int], str] = {}
    worth = False
    for value in (*program.tensors.values(), *constants):
        for d, axis in enumerate(value.axes):
            if axis and all(map(system.is_fixed, system.units(axis))):
                out[value, d] = system.cause(axis)
                worth = worth or not varied.isdisjoint(_inside(system, axis))
    return out if worth else {}


def _inside(system: SpaceSystem, axis: Axis) -> set[Space]:
    """The spaces that an axis is made of, at every depth."""
    out: set[Space] = set()
    todo = list(system.units(axis))
    while todo:
        unit = todo.pop()
        if unit not in out:
            out.add(unit)
            todo += [inner for part in unit.parts or () for inner in system.units(part)]
    return out
