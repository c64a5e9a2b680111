"""Finds scales of parameters that a constant is added to wherever they are read: a running variance beside its ε, a gain `1 + γ`.

Scale typing is run once more with these sums in place of the parameters. What is free then, and was not while the constants were no parts of
them, is a symmetry if the sum is multiplied: `p` becomes `s (p + c) − c`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from paramgraph.compiler.operations.functions import SUMS
from paramgraph.compiler.operations.scaling import arguments
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.scales import ScaleSolver, solve_scales
from paramgraph.symmetries.action import Factor
from paramgraph.symmetries.affine_scales import AffineScaleFactor
from paramgraph.symmetries.elimination import RationalSystem
from paramgraph.symmetries.group import Moving
from paramgraph.symmetries.scale_solution import annotate
from paramgraph.symmetries.scales import ScaleBlock, Scales, ScaleTerm
from paramgraph.symmetries.spaces import SpaceSystem
from paramgraph.symmetries.statistics import SpreadFactor

# Operations that pass the elements of a parameter on as they are, or leave some of them out.
VIEWS = frozenset("permute reshape take expand".split())
# More tensors than this are not named one by one.
NAMED = 3


def find_affine_scales(program: Program, system: SpaceSystem, found: Sequence[Moving]) -> Iterator[AffineScaleFactor]:
    """The scales of such parameters.

    Args:
        program: the program.
        system: the spaces of its values' axes.
        found: factors that are known: variances that gains make up for are not asked again.
    """
    known = {factor.variance for factor in found if isinstance(factor, SpreadFactor)}
    shifted: dict[Value, float] = {}
    ops: dict[Op, None] = {}
    for value, constant, ends in _shifted(program):
        if value.name not in known:
            shifted[value] = constant
            ops.update(dict.fromkeys(ends))
    if not shifted:
        return
    solver = solve_scales(program, system, ops)
    _keep(solver, shifted)
    characters = {name: solver.characters[value] for name, value in program.tensors.items() if value in solver.characters}
    scales, factors = annotate(solver.system, characters)
    integers = {name for name, value in program.tensors.items() if value.integer}
    for factor in factors:
        own = _restricted(scales, factor)
        constants = {value.name: constant for value, constant in shifted.items() if value.name in own.blocks}
        if constants and integers.isdisjoint(own.blocks):  # what is an integer cannot be moved a little
            names = list(constants)
            others = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            yield AffineScaleFactor(f"scales of {', '.join(names[:NAMED])}{others} with what is added to them", own, constants)


# -- which parameters ------------------------------------------------------------------------------------------------------------------


def _shifted(program: Program) -> Iterator[tuple[Value, float, list[Op]]]:
    """Parameters that every reader adds one constant to, with the constant and these readers."""
    readers, out = program.readers(), program.results()
    for value in program.tensors.values():
        if value.integer or 0 in value.shape or value.name in program.fixed:
            continue
        ends: list[Op] = []
        constants: set[float | None] = set()
        todo = [value]
        while todo:
            seen = todo.pop()
            constants |= {None} if seen in out else set()
            for op in readers.get(seen, ()):
                if op.kind in VIEWS:
                    todo.append(op.output)
                else:
                    ends.append(op)
                    constants.add(_added(op, seen))
        if len(constants) == 1 and (constant := constants.pop()):
            yield value, constant, ends


def _added(op: Op, value: Value) -> float | None:
    """What an operation adds to a value before it does anything else with it; None if it adds nothing. It may take its negative then."""
    if not op.exact or op.inputs.count(value) != 1:
        return None
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


# -- which scales ----------------------------------------------------------------------------------------------------------------------


def _keep(solver: ScaleSolver, shifted: Collection[Value]) -> None:
    """Let all magnitudes be 1 but for one set of unknowns that says what the sums may be multiplied by: the rest is in the group already."""
    system = solver.system
    for form in system.exact:
        system.magnitudes.add(form)
    system.exact.clear()
    rows = [form for value in shifted if value in solver.characters for key in solver.characters[value].blocks
            for form, _ in solver.characters[value].terms(key).values()]  # fmt: skip
    for form in rows:
        for unknown in system.magnitudes.reduce(form):
            if unknown >= len(system.unknowns):  # of a tensor that is no parameter
                system.magnitudes.add({unknown: 1})
    kept = RationalSystem()
    for form in rows:
        kept.add(system.magnitudes.reduce(form))
    for number in range(len(system.unknowns)):
        if number not in system.magnitudes.solved and number not in kept.solved:
            system.magnitudes.add({number: 1})
        if number not in system.signs.solved:
            system.signs.add((number,))


def _restricted(scales: Scales, factor: Factor) -> Scales:
    """The variables of one factor, numbered anew, and what they scale."""
    numbers = {old: new for new, old in enumerate(factor.variables)}
    blocks: dict[str, tuple[ScaleBlock, ...]] = {}
    places: dict[tuple[str, int], int] = {}
    for name, held in scales.blocks.items():
        own: list[ScaleBlock] = []
        for place, block in enumerate(held):
            terms = [_term(term, numbers) for term in block.terms]
            if any(term.variables for term in terms):
                places[name, place] = len(own)
                own.append(ScaleBlock(block.index, block.sizes, tuple(term for term in terms if term.variables)))
        if own:
            blocks[name] = tuple(own)
    variables = [scales.variables[number] for number in factor.variables]
    return Scales(tuple(replace(variable, block=places[variable.tensor, variable.block]) for variable in variables), blocks)


def _term(term: ScaleTerm, numbers: dict[int, int]) -> ScaleTerm:
    held = [(numbers[old], exponent) for old, exponent in zip(term.variables, term.exponents, strict=True) if old in numbers]
    return ScaleTerm(term.places, tuple(number for number, _ in held), tuple(exponent for _, exponent in held))
