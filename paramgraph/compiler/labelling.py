"""Labels of an operation's axes: which axes of its operands and its result are one axis of the hidden tensor of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paramgraph.compiler.program import Op
from paramgraph.symmetries.spaces import Axis, Unsettled


def labelled_axes(op: Op) -> list[tuple[tuple[Any, ...], tuple[Axis, ...]]]:
    """Labels and axes of the operands and the result, virtual factors among them."""
    if op.kind == "convolve":
        return _convolution(op)
    if not op.labels:
        return []
    out = []
    for labels, value in (*zip(op.labels, op.inputs, strict=True), (op.out_labels, op.output)):
        out.append(((*labels, *(factor.named(labels) for factor in value.virtual)), value.context))
    return out


def _convolution(op: Op) -> list[tuple[tuple[Any, ...], tuple[Axis, ...]]]:
    x, weight = op.inputs
    groups = op.attrs["groups"]
    rank = op.output.ndim - 2
    into, out_of = ("i", "o") if not op.attrs["transposed"] else ("o", "i")
    spatial = tuple(f"x{i}" for i in range(rank))
    moved = spatial if op.attrs["pointwise"] else tuple(f"y{i}" for i in range(rank))
    taps = tuple(f"k{i}" for i in range(rank))
    first, second = _halves(x.axes[1], groups), _halves(weight.axes[0], groups)
    third = _halves(op.output.axes[1], groups)
    return [
        (("b", "g", "i", *spatial), (x.axes[0], *first, *x.axes[2:])),
        (("g", out_of, into, *taps), (*second, weight.axes[1], *weight.axes[2:])),
        (("b", "g", "o", *moved), (op.output.axes[0], *third, *op.output.axes[2:])),
    ]


def _halves(axis: Axis, outer: int) -> tuple[Axis, Axis]:
    """An axis as groups and what is in a group."""
    size, at = 1, 0
    while size < outer and at < len(axis):
        size *= axis[at].size
        at += 1
    if size != outer:
        raise Unsettled(f"an axis of a grouped convolution has no {outer} groups")
    return axis[:at], axis[at:]


def axes_of_labels(labelled: Sequence[tuple[tuple[Any, ...], tuple[Axis, ...]]]) -> dict[Any, Axis]:
    table: dict[Any, Axis] = {}
    for labels, axes in labelled:
        for label, axis in zip(labels, axes, strict=True):
            if not table.get(label):
                table[label] = axis
    return table
