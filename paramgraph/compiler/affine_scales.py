"""Finds scales of what is made of parameters wherever they are read: a running variance with its ε, a gain `1 + γ`, a temperature `exp(t)`.

Scale typing is run once more with these functions' results in place of the parameters. What is free then, and was not while the functions were no
parts of them, is a symmetry if such a result is multiplied: `p` becomes `s (p + c) − c`, or `p + ln s`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.read_through import Form, read_through
from paramgraph.compiler.scales import ScaleSolver, solve_scales
from paramgraph.symmetries.action import Factor
from paramgraph.symmetries.affine_scales import AffineScaleFactor
from paramgraph.symmetries.elimination import RationalSystem
from paramgraph.symmetries.group import Moving
from paramgraph.symmetries.scale_solution import annotate
from paramgraph.symmetries.scales import ScaleBlock, Scales, ScaleTerm
from paramgraph.symmetries.spaces import SpaceSystem
from paramgraph.symmetries.statistics import SpreadFactor

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
    shifted: dict[Value, Form] = {}
    ops: dict[Op, None] = {}
    for value, form, ends in read_through(program):
        if value.name not in known:
            shifted[value] = form
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
        forms = {value.name: form for value, form in shifted.items() if value.name in own.blocks}
        constants = {name: form.number for name, form in forms.items()}
        if constants and integers.isdisjoint(own.blocks):  # what is an integer cannot be moved a little
            names = list(constants)
            others = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            functions = {name: form.function for name, form in forms.items() if form.function != "add"}
            done = "within functions" if functions else "with what is added to them"
            yield AffineScaleFactor(f"scales of {', '.join(names[:NAMED])}{others} {done}", own, constants, functions)


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
