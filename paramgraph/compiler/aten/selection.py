"""Selections by conditions: `where`, and chains of it that put together what the elements of an index choose."""

from __future__ import annotations

from typing import Any

import numpy as np

from paramgraph.compiler.aten.elementwise import pointwise
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule
from paramgraph.errors import TraceError

# An indicator vector, what is done to one of its elements, and the number of that element.
Cell = tuple[Value, tuple[Any, ...], int]


@rule("aten.where")
def where(b: Builder, condition: Value, *args: Any, **kwargs: Any) -> Any:
    """Elementwise. `where(i == 1, a, where(i == 0, c, 0))` is a sum of selections: their conditions exclude each other."""
    if len(args) == 2 and not kwargs and all(isinstance(arg, Value) for arg in args):
        cell, others = _cell(condition), _cells(args[1])
        if cell is not None and others is not None and cell not in others and {other[:2] for other in others} <= {cell[:2]}:
            chosen = b.elementwise("where", condition, args[0], args=(0.0,), form=("x", "x", 0.0))
            return b.elementwise("add", args[1], chosen, form=("x", "x"))
    return pointwise("where")(b, condition, *args, **kwargs)


def _cell(condition: Value) -> Cell | None:
    """Which element of an indicator vector a condition is, and how it is broadcast; None for other conditions."""
    path: list[Any] = []
    op = condition.op
    while op is not None and op.kind in ("reshape", "permute", "expand"):
        path.append((op.kind, op.output.shape, repr(sorted(op.attrs.items()))))
        op = op.inputs[0].op
    if op is None or op.kind != "take" or len(op.attrs["index"]) != 1 or op.attrs["dim"] != op.inputs[0].ndim - 1:
        return None
    made = op.inputs[0].op
    return None if made is None or made.kind != "one_hot" else (op.inputs[0], tuple(path), int(op.attrs["index"][0]))


def _cells(value: Value) -> set[Cell] | None:
    """The conditions outside of which a value is zero; None if nothing is known of it."""
    op = value.op
    if value.kind == "constant":
        return set() if _is_zero(value) else None
    if op is None or op.kind != "elementwise" or not op.exact:
        return None
    if op.name == "where":
        cell = _cell(op.inputs[0])
        return {cell} if cell is not None and len(op.inputs) == 2 and op.attrs.get("form", ())[2:] == (0.0,) else None
    if op.name == "add" and len(op.inputs) == 2 and op.attrs.get("form") == ("x", "x"):
        parts = [_cells(operand) for operand in op.inputs]
        return None if None in parts else set().union(*(part for part in parts if part is not None))
    return None


def _is_zero(value: Value) -> bool:
    if value.read is None:
        return False
    try:
        return not np.any(value.read())
    except TraceError:  # on the meta device
        return False
