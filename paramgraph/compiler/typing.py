"""Permutation typing of a program: run every operation's typing rule, then read constants, then solve the dependencies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from paramgraph.compiler.late import late_fixed
from paramgraph.compiler.operations.base import operation
from paramgraph.compiler.program import LAYOUT, Op, Program, Value
from paramgraph.compiler.shifting import Shift, find_shifts
from paramgraph.errors import TraceError
from paramgraph.symmetries.dependencies import Dependencies
from paramgraph.symmetries.spaces import Axis, Misaligned, Space, SpaceSystem

# Larger constants are read in the end, if typing needs their values.
LARGEST = 1 << 18


@dataclass
class Typing:
    """A typed program.

    Attributes:
        system: the spaces.
        dependencies: the solved dependencies.
        pins: `(operation, cause)` of operations whose operands were pinned because their rule failed.
        used: names of the parameters and buffers that some operation reads.
        failure: why the whole network was pinned; empty where it was typed.
        coarser: what was left out of the typing, and why; empty if nothing was.
        shifts: chains of layout operations that shift rows against each other.
    """

    system: SpaceSystem
    dependencies: Dependencies
    pins: list[tuple[Op, str]] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    failure: str = ""
    coarser: str = ""
    shifts: tuple[Shift, ...] = ()


@dataclass(frozen=True)
class Unsolved:
    """A program whose operations are typed, and whose dependencies are not solved yet: more may be found fixed."""

    system: SpaceSystem
    pins: list[tuple[Op, str]]
    used: set[str]
    shifts: tuple[Shift, ...]


def type_program(program: Program, most_parts: int | None = None) -> Typing:
    """Type every value of `program`; sets `Value.axes`. See `type_operations` and `solve`."""
    return solve(program, type_operations(program, most_parts))


def type_operations(program: Program, most_parts: int | None = None) -> Unsolved:
    """Run every operation's typing rule.

    A space that was cut before an operation saw it as a product is typed again as a product from the start: cutting a product loses
    nothing, while the parts of a space need not be made of whole blocks. So the order of operations does not tell. What is found fixed
    after it was cut is fixed from the start in another pass, where that saves families that would come to nothing.

    Args:
        most_parts: nothing depends on a space that is cut into more parts than this; None for no such limit.
    """
    products: dict[tuple[str, int], tuple[int, int]] = {}
    fixed: dict[tuple[Value, int], str] = {}
    shifts = find_shifts(program)
    still = _still_shifts(program, shifts, most_parts)
    for _ in range(5):
        system, pins, used = _type_operations(program, products, fixed, most_parts, still)
        late = _late_products(program, system, products)
        found = {} if late or fixed else late_fixed(program, system)
        if not late and not found:
            break
        products |= late
        fixed |= found
    return Unsolved(system, pins, used, tuple(shifts))


def solve(program: Program, unsolved: Unsolved, pairing: bool = True) -> Typing:
    """Find what depends on what, and let the axes of every value be made of what their spaces have become.

    Args:
        program: whose operations are typed.
        unsolved: their types.
        pairing: whether a space may depend on one beside it in its axis where other axes hold that one as well.

    Raises:
        Unsettled: families of spaces cannot be resolved.
    """
    system = unsolved.system
    dependencies = Dependencies(system, pairing)
    system.twins.extend(_aligned_but_fixed(program, system))
    _resolve(program, system, dependencies.names)
    return Typing(system, dependencies, unsolved.pins, unsolved.used, shifts=unsolved.shifts)


def _still_shifts(program: Program, shifts: Sequence[Shift], most_parts: int | None) -> dict[Op, Shift]:
    """Chains that shift into fixed positions, by each of their operations."""
    if not shifts:
        return {}
    skipped = {step: shift for shift in shifts for step in shift.steps}
    system, _, _ = _type_operations(program, {}, {}, most_parts, {}, skipped)
    return {step: shift for step, shift in skipped.items() if shift.is_fixed(system)}


def _type_operations(
    program: Program,
    products: Mapping[tuple[str, int], tuple[int, int]],
    fixed: Mapping[tuple[Value, int], str],
    most_parts: int | None,
    still: Mapping[Op, Shift],
    skipped: Mapping[Op, Shift] = MappingProxyType({}),
) -> tuple[SpaceSystem, list[tuple[Op, str]], set[str]]:
    """Run every operation's typing rule.

    Args:
        products: axes of parameters that are products from the start, with the sizes of their factors.
        fixed: axes of values that are fixed from the start, with the cause.
        most_parts: nothing depends on a space that is cut into more parts than this; None for no such limit.
        still: chains that are known to shift into fixed positions, by each operation of theirs.
        skipped: chains that are left out.
    """
    for value in (*program.inputs, *program.tensors.values(), *(value for op in program.ops for value in (*op.inputs, op.output))):
        value.axes, value.virtual, value.indexes = (), (), None
    system = SpaceSystem(most_parts)
    pins: list[tuple[Op, str]] = []
    for value in program.inputs:
        value.axes = tuple(system.axis(n, value.name, f"input {value.name!r} of the network") for n in value.shape)
        system.record(value.axes)
    for name, value in program.tensors.items():
        value.axes = tuple(system.axis(n, program.axis_name(name, d), fixed.get((value, d))) for d, n in enumerate(value.shape))
        for d, axis in enumerate(value.axes):
            if (name, d) in products:
                system.split(axis[0], *products[name, d])
    constants: dict[int, Value] = {}
    used: set[str] = set()
    for op in from_outputs(program):
        if op in skipped:
            if op is skipped[op].steps[-1]:
                skipped[op].skip(system)
            continue
        for value in op.inputs:
            if value.kind == "constant" and id(value) not in constants:
                constants[id(value)] = value
                value.axes = tuple(system.axis(n, value.name, fixed.get((value, d))) for d, n in enumerate(value.shape))
                system.record(value.axes, read=False, stored=True)
                if op.kind in ("contract", "gather"):  # its axes go on in the result, and may be cut there
                    fix_ordered(system, value)
            elif value.kind == "state" and not value.axes:
                value.axes = tuple(system.axis(n, value.name) for n in value.shape)
            elif value.kind in ("parameter", "buffer") and value.name not in used:
                used.add(value.name)
                system.record(value.axes, read=False, stored=True)
        if op.kind not in LAYOUT:
            for value in op.inputs:
                if value.kind != "op" or value.op is not None and value.op.kind in LAYOUT:
                    system.record(value.context, paired=value.parametric)
        if op in still:
            still[op].pin(system, op)
        cause = _type_op(system, op)
        if cause:
            pins.append((op, cause))
        system.record(op.output.context, read=op.kind not in LAYOUT, paired=op.output.parametric)
    for value, buffer in program.outputs:
        system.record(value.context)
        if buffer is None:
            for axis in (*value.axes, *((value.indexes,) if value.indexes else ())):
                system.pin(axis, "output of the network")
        else:
            for axis, other in zip(value.axes, buffer.axes, strict=True):
                system.unify(axis, other)
    for value in constants.values():
        read_constant(system, value)
    for name, value in program.tensors.items():
        if name not in used:
            for axis in value.axes:
                system.pin(axis, "no operation reads it")
    return system, pins, used


def from_outputs(program: Program) -> list[Op]:
    """The operations in the order in which a walk from the outputs needs them, operand by operand.

    It follows from what is computed from what alone: two networks that only compute in another order are typed alike, also where families
    would settle differently.
    """
    done: dict[Op, None] = {}
    for root in (*(value.op for value, _ in program.outputs), *program.ops):
        stack = [root]
        while stack:
            op = stack[-1]
            needed = [] if op is None or op in done else [value.op for value in reversed(op.inputs) if value.op is not None and value.op not in done]
            if needed:
                stack += needed
            else:
                stack.pop()
                if op is not None:
                    done.setdefault(op)
    return list(done)


def _late_products(program: Program, system: SpaceSystem, known: Mapping[tuple[str, int], tuple[int, int]]) -> dict[tuple[str, int], tuple[int, int]]:
    """Axes of parameters that were cut before they were seen as products, each with the sizes of its factors."""
    if not system.late:
        return {}
    split = {system.find(space): sizes for space, sizes in system.late}
    return {
        (name, d): split[root]
        for name, value in program.tensors.items()
        for d, axis in enumerate(value.axes)
        if axis and (name, d) not in known and (root := system.find(axis[0])) in split
    }


def _aligned_but_fixed(program: Program, system: SpaceSystem) -> Iterator[tuple[Space, Space]]:
    """Fixed spaces that an operation aligned without making them one: a space with a rearrangement of itself."""
    for op in program.ops:
        if len(op.inputs) < 2 and (not op.labels or len(set(op.labels[0])) == len(op.labels[0])):
            continue  # nothing is aligned
        first: dict[Any, Axis] = {}
        for labels, value in zip(op.labels, op.inputs, strict=False):
            for label, axis in zip(labels, value.axes, strict=True):
                if not axis or (known := first.setdefault(label, axis)) == axis:
                    continue
                if len(axis) == len(known) == 1 and system.find(axis[0]) is system.find(known[0]):
                    continue
                for a, b in zip(system.units(known), system.units(axis), strict=False):
                    if a is not b and a.size == b.size and system.is_fixed(a) and system.is_fixed(b):
                        yield a, b


def _resolve(program: Program, system: SpaceSystem, names: Mapping[Space, Space]) -> None:
    """Let the axes of every value be made of what their spaces have become."""
    known: dict[Axis, Axis] = {}
    values = dict.fromkeys([*program.inputs, *program.tensors.values()])
    values.update(dict.fromkeys(value for op in program.ops for value in (*op.inputs, op.output)))

    def resolved(axis: Axis) -> Axis:
        found = known.get(axis)
        if found is None:
            found = known[axis] = tuple(names.get(unit, unit) for unit in system.units(axis) if unit.size > 1)
        return found

    for value in values:
        value.axes = tuple(map(resolved, value.axes))
        if value.virtual:
            value.virtual = tuple(replace(factor, axis=resolved(factor.axis)) for factor in value.virtual)


def give_up(program: Program, cause: str) -> Typing:
    """The trivial typing: every axis of every parameter pinned, for the cause given, and no operation read."""
    system = SpaceSystem()
    for name, value in program.tensors.items():
        value.axes = tuple(system.axis(n, f"{name}[{d}]", cause) for d, n in enumerate(value.shape))
        system.record(value.axes)
    program.ops, program.inputs, program.outputs = [], [], []
    return Typing(system, Dependencies(system), [], set(program.tensors), failure=cause)


def _type_op(system: SpaceSystem, op: Op) -> str | None:
    """Type one operation; if its rule fails, undo it and pin what it touches. Returns the cause of a failure."""
    rule = operation(op.kind)
    if not rule.keeps_indices:
        for value in op.inputs:
            if value.indexes is not None:
                system.pin(value.indexes, f"its indices go through {op.name or op.kind}")
    try:
        with system.transaction():
            rule.type(system, op)
        return None
    except Misaligned as error:
        cause = f"{op.name or op.kind}: {error}"
    for value in op.inputs:
        for axis in value.axes:
            system.pin(axis, cause)
        if value.indexes is not None:
            system.pin(value.indexes, cause)
    op.output.axes = tuple(system.axis(n, op.name, cause) for n in op.output.shape)
    op.output.virtual = ()
    return cause


def read_constant(system: SpaceSystem, value: Value) -> None:
    """Let a constant cut or pin the free spaces of its axes: elements with different slices are told apart.

    Two axes on which the constant is a multiple of the identity plus a multiple of ones are unified instead.
    """
    axes = [system.units(axis) for axis in value.axes]
    free = [unit for axis in axes for unit in axis if not unit.pinned]
    if not free or value.read is None:
        return
    try:
        data = np.asarray(value.read())
    except TraceError:  # a constant on the meta device: its values could tell any elements apart
        for unit in free:
            system.pin((unit,), f"constant {value.name!r} has no values on the meta device")
        return
    if data.size == 0 or (data == data.reshape(-1)[0]).all():
        return
    units = [unit for axis in axes for unit in axis]
    data = data.reshape([unit.size for unit in units])
    label = f"constant {value.name!r} varies along it"
    open_places = [i for i, unit in enumerate(units) if not unit.pinned]
    varying = []
    for i in open_places:
        classes = _classes(np.moveaxis(data, i, 0))
        if classes.max() > 0:
            varying.append((i, classes))
    done: set[int] = set()
    for place, (i, _) in enumerate(varying):
        for j, _ in varying[place + 1 :]:
            if units[i].size == units[j].size and not {i, j} & done and _is_diagonal(data, i, j):
                system.unify((units[i],), (units[j],))
                done |= {i, j}
    if done and not (len({system.units(axis) for axis in value.axes}) == 1 and _is_square(data.reshape(value.shape))):
        system.record(value.axes, read=False, paired=False)  # two spaces are permuted alike, whatever stands beside each
    for i, classes in varying:
        if i not in done:
            cut_classes(system, units[i], classes, label)


def fix_ordered(system: SpaceSystem, value: Value) -> None:
    """Pin axes of a constant along which all its slices differ, before anything is typed with it; the rest of it is read in the end."""
    if value.read is None or 0 in value.shape or math.prod(value.shape) > LARGEST:
        return
    try:
        data = np.asarray(value.read()).reshape(value.shape)
    except TraceError:
        return
    for d, (n, axis) in enumerate(zip(value.shape, value.axes, strict=True)):
        if n > 1 and value.shape.count(n) == 1 and _all_differ(np.moveaxis(data, d, 0)):
            system.pin(axis, f"constant {value.name!r} varies along it")


def _all_differ(rows: np.ndarray) -> bool:
    """Whether no two rows are equal. Among the first few there are equal ones, if there are any, more often than not."""
    return all(_classes(rows[:count]).max() == count - 1 for count in dict.fromkeys((min(1000, len(rows)), len(rows))))


def _classes(rows: np.ndarray) -> np.ndarray:
    """A number for each row, the same for equal rows."""
    rows = np.ascontiguousarray(rows if rows.dtype == bool else rows + 0)  # -0 and 0 are equal, and differ in their bits
    if rows.size == len(rows) and rows.dtype.itemsize <= 8:  # single numbers, by their bits
        return np.unique(rows.reshape(-1).view(f"u{rows.dtype.itemsize}"), return_inverse=True)[1].reshape(-1)
    known: dict[bytes, int] = {}
    return np.asarray([known.setdefault(row.tobytes(), len(known)) for row in rows])


def _is_diagonal(data: np.ndarray, i: int, j: int) -> bool:
    """Whether the data is invariant when one permutation acts on both axes: equal on the diagonal, and equal off it."""
    square = np.moveaxis(data, (i, j), (0, 1))
    n = square.shape[0]
    flat = square.reshape(n * n, -1)
    on = np.arange(n) * (n + 1)
    off = np.setdiff1d(np.arange(n * n), on)
    return bool((flat[on] == flat[on[:1]]).all() and (flat[off] == flat[off[:1]]).all())


def _is_square(data: np.ndarray) -> bool:
    """Whether data of two axes is invariant when one permutation acts on the whole of both."""
    return data.ndim == 2 and data.shape[0] == data.shape[1] and _is_diagonal(data, 0, 1)


def cut_classes(system: SpaceSystem, unit: Space, classes: np.ndarray, cause: str) -> None:
    """Keep the elements of each class together; classes of one element are fixed."""
    system.told_apart.append((unit,))
    for axis, positions in system.leaves(unit):
        _, own, sizes = np.unique(classes[positions], return_inverse=True, return_counts=True)
        own = own.reshape(-1)
        if len(sizes) == 1:
            continue
        if (sizes == 1).all():
            system.pin(axis, cause)
            continue
        alone = np.flatnonzero(sizes[own] == 1)
        if len(alone):
            system.pin(system.assemble(system.pieces(axis, alone), len(alone)), cause)
        for number in np.flatnonzero(sizes > 1):
            system.pieces(axis, np.flatnonzero(own == number))
