"""Operations on aligned axes: contraction, elementwise functions, reduction, mixing, normalisation."""

from __future__ import annotations

from typing import Any

from paramgraph.compiler.operations.base import Operation
from paramgraph.compiler.program import Op
from paramgraph.symmetries.spaces import Axis, SpaceSystem


def align(system: SpaceSystem, op: Op) -> dict[Any, Axis]:
    """Unify all axes that carry the same label, register the hidden tensor of all labels, and type the result."""
    table: dict[Any, Axis] = {}
    for labels, value in zip(op.labels, op.inputs, strict=True):
        for label, axis, n in zip(labels, value.axes, value.shape, strict=True):
            if n == 1:
                table.setdefault(label, ())
            elif table.get(label):
                system.unify(table[label], axis)
            else:
                table[label] = axis
    joint = tuple(table.values())
    op.output.axes = tuple(table[label] for label in op.out_labels)
    if len(joint) != len(op.out_labels):
        system.record(joint)
    return table


class Contract(Operation):
    """Products of operands summed over labels: linear, matmul, einsum, bilinear."""

    kind = "contract"

    def type(self, system: SpaceSystem, op: Op) -> None:
        align(system, op)


class Elementwise(Operation):
    """A function of aligned elements."""

    kind = "elementwise"

    def type(self, system: SpaceSystem, op: Op) -> None:
        align(system, op)


class Reduce(Operation):
    """A symmetric reduction over some axes."""

    kind = "reduce"

    def type(self, system: SpaceSystem, op: Op) -> None:
        align(system, op)


class Mix(Operation):
    """An operation that mixes elements along axes and returns the same axes: typed through its hidden contraction."""

    kind = "mix"

    def type(self, system: SpaceSystem, op: Op) -> None:
        table = align(system, op)
        mixed = set(op.attrs["mixed"])
        if mixed:
            system.record(tuple(axis for label, axis in table.items() if label not in mixed))
        if op.attrs["ordered"]:
            for label in mixed:
                system.pin(table[label], f"{op.name} depends on the order along it")


class Normalize(Mix):
    """A normalisation with its gain, offset and statistics."""

    kind = "normalize"
