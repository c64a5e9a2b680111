"""Functions that parameters are read through: `p + c`, `exp(k p)`, `softplus(p)`.

A parameter that all its readers take the same invertible function of is as good as one that holds the result. So is a bias inside an exponential,
since `exp(y + k b) = exp(y) · exp(k b)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from paramgraph.compiler.operations.functions import SUMS
from paramgraph.compiler.operations.scaling import arguments
from paramgraph.compiler.phases import multiplier
from paramgraph.compiler.program import Op, Program, Value

# Operations that pass the elements of a parameter on as they are, or leave some of them out.
VIEWS = frozenset("permute reshape take expand".split())
# Exponentials, with the logarithms of their bases.
EXPONENTIALS = {"exp": 1.0, "exp2": math.log(2.0)}


@dataclass(frozen=True)
class Form:
    """A function of a parameter.

    Attributes:
        function: `"add"`, `"exp"` or `"softplus"`.
        number: what is added, or what multiplies the parameter in the exponent.
    """

    function: str
    number: float


@dataclass(frozen=True)
class _Seen:
    """A parameter on the way to its function.

    Attributes:
        value: where it is.
        factor: what it has been multiplied by.
        is_added: whether it has been added to something else.
    """

    value: Value
    factor: float = 1.0
    is_added: bool = False


def read_through(program: Program) -> Iterator[tuple[Value, Form, list[Op]]]:
    """Parameters that every reader takes one such function of, with the function, and the operations that it is made of."""
    readers, out = program.readers(), program.results()
    taken: set[Op] = set()
    for value in program.tensors.values():
        if value.integer or 0 in value.shape or value.name in program.fixed:
            continue
        ops: list[Op] = []
        forms: set[Form | None] = set()
        todo = [_Seen(value)]
        while todo and None not in forms:
            seen = todo.pop()
            forms |= {None} if seen.value in out else set()
            for op in readers.get(seen.value, ()):
                if op.kind in VIEWS:
                    todo.append(_Seen(op.output, seen.factor, seen.is_added))
                    continue
                form = _form(op, seen)
                further = _further(op, seen) if form is None else None
                if form is not None or further is not None and further.is_added and not seen.is_added:
                    ops.append(op)
                if further is not None:
                    todo.append(further)
                else:
                    forms.add(form)
        # What is made up for by one bias in an exponent is not by another.
        if len(forms) == 1 and (found := forms.pop()) and taken.isdisjoint(ops):
            taken.update(ops if any(len(op.inputs) > 1 for op in ops) else ())
            yield value, found, ops


def _form(op: Op, seen: _Seen) -> Form | None:
    """The function that an operation ends at."""
    if not op.exact or op.inputs.count(seen.value) != 1:
        return None
    if op.kind == "elementwise" and op.name in EXPONENTIALS and len(op.inputs) == 1 and seen.factor:
        return Form("exp", seen.factor * EXPONENTIALS[op.name])
    if seen.factor != 1 or seen.is_added:
        return None
    if op.kind == "elementwise" and op.name == "softplus" and arguments(op, len(op.inputs)) == (["x"], {}):
        return Form("softplus", 1.0)
    constant = _added(op, seen.value)
    return None if constant is None else Form("add", constant)


def _further(op: Op, seen: _Seen) -> _Seen | None:
    """A parameter behind an operation that an exponential may follow; None if it is another."""
    if op.kind != "elementwise" or not op.exact or op.inputs.count(seen.value) != 1:
        return None
    if len(op.inputs) == 1:
        number = -1.0 if op.name == "neg" else multiplier(op)
        return None if not number or not math.isfinite(number) else _Seen(op.output, seen.factor * number, seen.is_added)
    if seen.is_added or op.name not in ("add", "sub") or not seen.value.parametric or all(value.parametric for value in op.inputs):
        return None
    if len(op.inputs) != 2 or tuple(op.attrs.get("scale", (1, 1))) != (1, 1) or arguments(op, 2) != (["x", "x"], {}):
        return None
    return _Seen(op.output, -seen.factor if op.name == "sub" and op.inputs[1] is seen.value else seen.factor, True)


def _added(op: Op, value: Value) -> float | None:
    """What an operation adds to a value before it does anything else with it; None if it adds nothing. It may take its negative then."""
    if op.kind == "normalize":
        roles, slot = list(op.attrs["roles"]), op.inputs.index(value)
        read = slot > 0 and roles[slot - 1] == "running_var" and not op.attrs["mixed"]
        return _finite(op.attrs.get("epsilon")) if read else None
    if op.kind != "elementwise" or op.name not in SUMS or len(op.inputs) != 1 or tuple(op.attrs.get("scale", (1, 1))) != (1, 1):
        return None
    positional, keywords = arguments(op, 1)
    numbers = [number for number in positional if not isinstance(number, str)]
    if keywords or len(positional) != 2 or len(numbers) != 1:
        return None
    number = _finite(numbers[0])
    return number if op.name == "add" or number is None else -number


def _finite(number: object) -> float | None:
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number) or not number:
        return None
    return float(number)
