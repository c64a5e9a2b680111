"""Scale typing of a program: give every tensor its character, by every operation's scale rule, and solve for the multipliers.

Runs after permutation typing, on spaces of its own (`paramgraph.symmetries.scale_spaces`): which elements may be scaled has nothing to do
with which may be permuted. The first pass runs the operations' typing rules on them; the second runs their scale rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.operations.base import operation
from paramgraph.compiler.operations.functions import number_kind
from paramgraph.compiler.program import LAYOUT, Op, Program, Value
from paramgraph.compiler.scale_operands import Operands
from paramgraph.compiler.shifting import find_shifts
from paramgraph.compiler.zeros import block_kind, cut_at_zeros, readers_of_zeros
from paramgraph.errors import TraceError
from paramgraph.symmetries.character import Character, Incompatible, Key, Terms
from paramgraph.symmetries.characters import CharacterSystem
from paramgraph.symmetries.scale_spaces import Layout, Layouts, ScaleSpaces
from paramgraph.symmetries.spaces import Axis, Misaligned, Space, SpaceSystem

# Operations that are what they are whatever a rule calls them.
MOVING = frozenset((*LAYOUT, "feedback"))
# Constants with more elements are taken as having no zero, unread.
MOST_READ = 1 << 22
# Tables that are shifted row by row are not cut into more cells: all of one have one multiplier, though elements that nothing reads are lost so.
MOST_CELLS = 64


class ScaleSolver:
    """What scale rules write in: characters of values, and the constraints on them.

    Attributes:
        spaces: the index spaces.
        layouts: axes as blocks of atomic spaces.
        system: unknowns and constraints.
        characters: of the values met so far.
        reflecting: functions that are taken as odd, though something has to be added, and those that add a constant, which is taken as not added.
        phases: signs that periodic functions among these are given.
        unsupported: operations whose operands were taken as unscalable, with the cause.
        uses: how often each value is read or comes out.
        cut: constants whose zeros have multipliers of their own.
    """

    def __init__(
        self, spaces: ScaleSpaces, reflecting: Collection[Op] = (), uses: Mapping[Value, int] | None = None, cut: Collection[Value] = (),
    ) -> None:  # fmt: skip
        self.spaces = spaces
        self.cut = frozenset(cut)
        self.reflecting = frozenset(reflecting)
        self.layouts = Layouts(spaces)
        self.system = CharacterSystem(self.layouts)
        self.characters: dict[Value, Character] = {}
        self.phases: dict[Op, Character] = {}
        self.unsupported: list[tuple[Op, str]] = []
        self.uses: Mapping[Value, int] = uses or {}

    def layouts_of(self, axes: Sequence[Axis]) -> list[Layout]:
        return [self.layouts.of(axis) for axis in axes]

    def of(
        self, value: Value, apart: Collection[tuple[int, int]] = (), square: bool = False, given: Callable[[Key], Terms] | None = None,
        less: Callable[[Key], Terms] | None = None,
    ) -> Character:  # fmt: skip
        """The character of a value.

        Args:
            apart: for parameters met for the first time, pairs of axes on which no function of both can be.
            square: for parameters met for the first time, whether their root will be taken.
            given: for parameters met for the first time, functions on some subsets of a block that are known.
            less: for parameters met for the first time, functions that theirs are counted from.
        """
        found = self.characters.get(value)
        if found is None:
            found = self.characters[value] = self._leaf(value, apart, square, given, less)
        return found

    def is_fresh(self, value: Value) -> bool:
        """Whether a value is a parameter that nothing has been said of yet."""
        return value.kind in ("parameter", "buffer") and value not in self.characters

    @staticmethod
    def is_zero(value: Value) -> bool:
        """Whether a value is a constant of zeros, which any factor leaves as they are."""
        return value.kind == "constant" and number_kind(constant_of(value)) == "zero"

    def set(self, value: Value, character: Character) -> None:
        self.characters[value] = character

    def _leaf(
        self, value: Value, apart: Collection[tuple[int, int]], square: bool, given: Callable[[Key], Terms] | None,
        less: Callable[[Key], Terms] | None,
    ) -> Character:  # fmt: skip
        layouts = self.layouts_of(value.axes)
        if value.kind in ("parameter", "buffer"):
            return self.system.unknown(layouts, value.name, sign=not square, apart=apart, square=square, given=given, less=less)
        if value.kind == "state":
            return self.system.unknown(layouts)
        if value.kind == "constant":
            data = constant_of(value)
            kind = number_kind(data)
            if kind != "number":
                return self.system.unknown(layouts, sign=kind == "zero")
            if value in self.cut and data is not None:
                return self._zeros(layouts, value, data)
        return self.system.trivial(layouts)

    def _zeros(self, layouts: Sequence[Layout], value: Value, data: np.ndarray) -> Character:
        """Any multipliers where a block of a constant is zero."""
        free = self.system.unknown(layouts)

        def make(key: Key) -> Terms:
            blocks = [layout.blocks[number] for layout, number in zip(layouts, key, strict=True)]
            positions = {d: block.positions for d, block in enumerate(blocks) if block.positions is not None}
            return free.terms(key) if block_kind(data, value.shape, positions) == "zero" else {}

        return Character(layouts, make)

    def unscalable(self, op: Op) -> None:
        """Operands and result can have multipliers 1 only: what is right for any function."""
        for value in op.inputs:
            self.system.be_trivial(self.of(value))
        self.set(op.output, self.system.trivial(self.layouts_of(op.output.axes)))

    def aligned(self, op: Op) -> tuple[list[Any], list[Character]]:
        """The labels of an operation, and its operands broadcast over all of them.

        Raises:
            Incompatible: aligned axes are cut differently.
        """
        operands = Operands(self, op.inputs, op.labels)
        return operands.order, operands.all()

    def finish(self, op: Op, order: Sequence[Any], character: Character) -> None:
        """Set the result's character from that over all labels: it must not vary along those that the result lacks."""
        gone = [d for d, label in enumerate(order) if label not in op.out_labels]
        kept = [label for label in order if label in op.out_labels]
        short = self.system.constant(character, gone)
        layouts = self.layouts_of(op.output.axes)
        self.set(op.output, self.system.lift(short, layouts, [op.out_labels.index(label) for label in kept]))


def constant_of(value: Value) -> np.ndarray | None:
    """The values of a constant; None where they cannot be read."""
    if value.read is None or np.prod(value.shape, dtype=np.int64) > MOST_READ and value.name != "fill":
        return None
    try:
        return value.read()
    except TraceError:  # a constant on the meta device
        return None


def solve_scales(program: Program, system: SpaceSystem, reflecting: Collection[Op] = ()) -> ScaleSolver:
    """Type the scales of a program that permutation typing has typed. The values' axes are left as they are.

    Args:
        program: the program.
        system: the spaces that its values' axes are made of.
        reflecting: functions to take as odd (`paramgraph.compiler.reflections`), or as adding no constant (`paramgraph.compiler.affine_scales`).
    """
    values = dict.fromkeys([*program.inputs, *program.tensors.values()])
    values.update(dict.fromkeys(value for op in program.ops for value in (*op.inputs, op.output)))
    before = [(value, value.axes, value.indexes, value.virtual) for value in values]
    try:
        zeros = readers_of_zeros(program)
        solver = _solved(program, system, reflecting, before, zeros)
        # What is cut finer may not fit together any more: then zeros are as any other number.
        return _solved(program, system, reflecting, before, {}) if solver.cut and solver.unsupported else solver
    finally:
        for value, axes, indexes, virtual in before:
            value.axes, value.indexes, value.virtual = axes, indexes, virtual


def _solved(
    program: Program, system: SpaceSystem, reflecting: Collection[Op], before: Sequence[tuple[Value, Any, Any, Any]],
    zeros: Mapping[Value, Collection[int]],
) -> ScaleSolver:  # fmt: skip
    """Types of all values, and their characters."""
    spaces = ScaleSpaces()
    failed, cut = _type(program, system, spaces, before, zeros)
    solver = ScaleSolver(spaces, reflecting, _uses(program), cut)
    for op in program.ops:
        _apply(solver, op, failed.get(op))
    for value, buffer in program.outputs:
        character = solver.of(value)
        if buffer is None:
            solver.system.be_trivial(character)
        else:
            own = solver.of(buffer)
            solver.system.equal([own, solver.system.lift(character, own.layouts, range(len(own.layouts)))])
    return solver


def _uses(program: Program) -> Counter[Value]:
    out = Counter([value for op in program.ops for value in op.inputs])
    out.update([value for pair in program.outputs for value in pair if value is not None])
    return out


def _type(
    program: Program, system: SpaceSystem, spaces: ScaleSpaces, before: Sequence[tuple[Value, Any, Any, Any]],
    zeros: Mapping[Value, Collection[int]],
) -> tuple[dict[Op, str], list[Value]]:  # fmt: skip
    """Run all typing rules on spaces for scales. Returns the operations whose rule failed, with the cause, and what was cut at zeros.

    Args:
        zeros: constants to cut where they are zero, with the axes that may be.
    """
    varying = _met_by_parameters(program, system)
    shifts = {step: shift for shift in find_shifts(program) if shift.cells > MOST_CELLS and shift.offsets(system) for step in shift.steps}
    inputs = set(program.inputs)
    for value, axes, _, _ in before:
        value.indexes, value.virtual = None, ()
        if value.kind == "op":
            continue
        fixed = [value in inputs and varying.isdisjoint(_deep(system, axis)) for axis in axes]
        value.axes = tuple(
            spaces.axis(n, value.name, "no parameter meets it" if still else None) for n, still in zip(value.shape, fixed, strict=True)
        )
    old = {value: axes for value, axes, _, _ in before}
    cut = []
    for value, dims in zeros.items():
        # Where no parameter varies there is nothing to scale, and no need to tell parts apart.
        met = [d for d in dims if not varying.isdisjoint(_deep(system, old[value][d]))]
        if met and (data := constant_of(value)) is not None and cut_at_zeros(spaces, value, data, met):
            cut.append(value)
    failed: dict[Op, str] = {}
    for op in program.ops:
        if op in shifts:
            shifts[op].pin(spaces, op)
            if op.kind == "concat":
                _lay_end_to_end(spaces, op)
                continue
        try:
            operation(op.kind).type_scales(spaces, op)
        except Misaligned as error:  # what it aligned so far only makes spaces finer
            failed[op] = str(error)
            op.output.axes = tuple(spaces.axis(n, op.name, "the typing rule failed") for n in op.output.shape)
    for value, buffer in program.outputs:
        if buffer is not None:
            for axis, other in zip(value.axes, buffer.axes, strict=True):
                spaces.unify(axis, other)
    return failed, cut


def _lay_end_to_end(spaces: ScaleSpaces, op: Op) -> None:
    """Type a concatenation along whose axis nothing varies, without keeping what lies where."""
    dim, (moved, *others) = op.attrs["dim"], sorted(op.inputs, key=lambda value: value.kind == "constant")
    for value in others:
        for d, (axis, other) in enumerate(zip(moved.axes, value.axes, strict=True)):
            if d != dim:
                spaces.unify(axis, other)
    joined = spaces.axis(op.output.shape[dim], "position", "it is shifted")
    op.output.axes = tuple(joined if d == dim else axis for d, axis in enumerate(moved.axes))


def _met_by_parameters(program: Program, system: SpaceSystem) -> set[Space]:
    """Spaces along which some parameter varies: on others, nothing could be scaled."""
    out: set[Space] = set()
    for value in program.tensors.values():
        for axis in value.axes:
            _add(system, axis, out)
    size = -1
    while size != len(out):  # fixed spaces that were cut without keeping how
        size = len(out)
        for whole, parts in system.plain_cuts:
            if any(not out.isdisjoint(_deep(system, part)) for part in parts):
                _add(system, whole, out)
    return out


def _add(system: SpaceSystem, axis: Axis, out: set[Space]) -> None:
    """All spaces of an axis, and those of their parts; of those that are in already, the parts are too."""
    for unit in system.units(axis):
        if unit not in out:
            out.add(unit)
            for part in unit.parts or ():
                _add(system, part, out)


def _deep(system: SpaceSystem, axis: Axis) -> Iterator[Space]:
    for unit in system.units(axis):
        yield unit
        for part in unit.parts or ():
            yield from _deep(system, part)


def _apply(solver: ScaleSolver, op: Op, failure: str | None) -> None:
    """Run one operation's scale rule; where its axes cannot be aligned, or what it computes is not known, it is as one without a rule."""
    if not op.exact and op.kind not in MOVING:
        failure = "its rule says how it uses its tensors, not what it computes (register it with exact=True if it does)"
    if failure is None:
        try:
            operation(op.kind).scale(solver, op)
            return
        except Incompatible as error:
            failure = str(error)
    solver.unsupported.append((op, failure))
    solver.unscalable(op)
