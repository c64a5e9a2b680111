"""Finds phase shifts: units whose sine or cosine is negated by half a period more in their biases.

Scale typing is run once more with each of these functions' results multiplied by a sign of its own. A sign that is free then, for each unit, says
what reads the unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from paramgraph.compiler.operations.functions import PERIODIC
from paramgraph.compiler.operations.scaling import arguments
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.reflections import ReflectionFinder, Unfit, offset_of
from paramgraph.compiler.scales import solve_scales
from paramgraph.symmetries.phases import PhaseFactor
from paramgraph.symmetries.spaces import SpaceSystem


def find_phases(program: Program, system: SpaceSystem) -> tuple[PhaseFactor, ...]:
    """The phase shifts of single operations.

    Args:
        program: the program.
        system: the spaces of its values' axes.
    """
    ops = [op for op in program.ops if op.exact and op.kind == "elementwise" and op.name in PERIODIC and len(op.inputs) == 1]
    shifted = [op for op in ops if any(not value.parametric for value in op.inputs)]
    return tuple(_Finder(program, solve_scales(program, system, shifted), shifted).found()) if shifted else ()


class _Finder(ReflectionFinder):
    def found(self) -> Iterator[PhaseFactor]:
        for op in self.ops:
            try:
                yield self._phase(op)
            except Unfit:
                continue

    def _phase(self, op: Op) -> PhaseFactor:
        self.renew()
        offset, frequency = self._offset(op)
        spaces = self.atoms(offset)
        fresh = self.solver.phases[op]
        terms = fresh.terms(fresh.blocks[0])
        layouts = fresh.layouts
        spots = [subset for subset in terms if [layouts[d].blocks[0].atoms[i] for d, i in subset] == spaces]
        if len(fresh.blocks) != 1 or len(spaces) != 1 or len(spots) != 1 or not math.isfinite(1 / frequency):
            raise Unfit
        numbers = [next(iter(terms[subset][1])) for subset in ((), spots[0])]
        if any(number in self.signs.solved for number in numbers):
            raise Unfit  # something that reads the units tells their sign
        signs = (numbers[0], numbers[1])
        self.localise(op, None, signs, (), and_itself=True)
        parts = tuple(part for value in self.program.tensors.values() for part in self.parts(value, signs, ()))
        return PhaseFactor(f"phase shifts of {op.name} ({offset.name})", spaces[0].size, offset.name, frequency, parts)

    def _offset(self, op: Op) -> tuple[Value, float]:
        """The biases of the units, and what multiplies them before the function."""
        value, frequency = op.inputs[0], 1.0
        while True:
            maker = self.maker.get(value)
            if maker is None or len(self.readers[value]) != 1 or value in self.out or not maker.exact:
                raise Unfit
            number = multiplier(maker)
            if number is None:
                break
            value, frequency = maker.inputs[0], frequency * number
        offset = offset_of(maker)
        if offset is None or not self.is_offset(offset) or frequency == 0:
            raise Unfit
        return offset, frequency


def multiplier(op: Op) -> float | None:
    """The plain number that an operation multiplies its operand by; None if it does something else."""
    if op.kind != "elementwise" or op.name not in ("mul", "div", "true_divide") or len(op.inputs) != 1:
        return None
    positional, keywords = arguments(op, 1)
    numbers = [n for n in positional if isinstance(n, (int, float)) and not isinstance(n, bool)]
    if len(positional) != 2 or len(numbers) != 1 or keywords or op.name != "mul" and (positional[0] != "x" or not numbers[0]):
        return None
    return float(numbers[0]) if op.name == "mul" else 1 / float(numbers[0])
