"""Finds reflections: signs of units that pass a sigmoid-like function, or a parametric ReLU, if something beside signs changes too.

Scale typing is run once more with these functions taken as odd, and with the slope as what a parametric ReLU's result is divided by. A sign that
is free then, for each unit, says what is negated. What the function adds (`f(e - x) = c - f(x)`) must be made up for by offsets: that of the units,
and that which is added to every reader's result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from paramgraph.compiler.operations.scaling import arguments, reflection
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.scales import ScaleSolver, solve_scales
from paramgraph.symmetries.character import NOTHING, Character, Key, Terms
from paramgraph.symmetries.elimination import EVEN, ZERO, BinarySystem, RationalSystem, plus
from paramgraph.symmetries.reflections import ReflectedPart, ReflectionFactor, ReflectionShift
from paramgraph.symmetries.spaces import SpaceSystem


class Unfit(Exception):
    """Something does not pass the reflection."""


def find_reflections(program: Program, system: SpaceSystem) -> tuple[ReflectionFactor, ...]:
    """The reflections of single operations.

    Args:
        program: the program.
        system: the spaces of its values' axes.
    """
    ops = [op for op in program.ops if op.exact and reflection(op) is not None]
    return ReflectionFinder(program, solve_scales(program, system, ops), ops).run() if ops else ()


class ReflectionFinder:
    """Reflections of a program.

    Args:
        program: the program.
        solver: its scales, solved with the functions taken as odd.
        ops: these functions.
    """

    def __init__(self, program: Program, solver: ScaleSolver, ops: list[Op]) -> None:
        self.program, self.solver, self.ops = program, solver, ops
        for form in solver.system.exact:
            solver.system.magnitudes.add(form)
        self.signs, self.magnitudes = BinarySystem(), RationalSystem()
        self.readers: dict[Value, list[Op]] = {}
        self.maker = {op.output: op for op in program.ops}
        for op in program.ops:
            for value in op.inputs:
                self.readers.setdefault(value, []).append(op)
        self.out = program.results()

    def run(self) -> tuple[ReflectionFactor, ...]:
        out: list[ReflectionFactor] = []
        for op in self.ops:
            try:
                out.extend(self._of(op))
            except Unfit:
                continue
        return tuple(out)

    def _of(self, op: Op) -> Iterator[ReflectionFactor]:
        self.renew()
        x = op.inputs[0]
        terms = self._terms(x)
        slope = self._viewed(op.inputs[1]) if len(op.inputs) > 1 else None
        spots = [subset for subset, (_, parity) in terms.items() if subset and self.signs.reduce(parity)]
        if len(spots) > 1 or any(len(spot) > 1 for spot in spots):
            raise Unfit
        signs = self._sign(terms, spots[0] if spots else ())
        if not signs:
            raise Unfit
        size = 1
        atom = -1
        if spots:
            (d, i), = spots[0]
            space = self.solver.characters[x].layouts[d].blocks[0].atoms[i]
            size, atom = space.size, space.id
        slopes = self._slope(slope, size) if slope is not None else ()
        name = slope.name if slope is not None else ""
        self.localise(op, slope, signs, slopes)
        reflected = [self.signs.reduce(terms.get(spot, NOTHING)[1]) for spot in ((), *spots)]
        if not all(sign in held for sign, held in zip(signs, reflected, strict=True)) or slope is not None and self._slope(slope, size) != slopes:
            raise Unfit
        parts = tuple(part for value in self.program.tensors.values() if value is not slope for part in self.parts(value, signs, slopes))
        shifts: tuple[ReflectionShift, ...] = ()
        if slope is None:
            before, total = reflection(op) or (0.0, 0.0)
            if not spots:
                raise Unfit
            own = (self._own(x, atom, before),) if before else ()
            shifts = (*own, *self._absorbed(op.output, atom, total))
        if not parts:
            raise Unfit
        yield ReflectionFactor(f"reflections of {op.name} ({parts[0].tensor})", size, parts, shifts, name)

    def renew(self) -> None:
        """Forget what was settled for another operation."""
        self.signs.solved = dict(self.solver.system.signs.solved)
        self.magnitudes.solved = dict(self.solver.system.magnitudes.solved)

    # -- signs ---------------------------------------------------------------------------------------------------------

    def _terms(self, value: Value) -> Terms:
        """The terms of a value that is in one block."""
        character = self.solver.characters[value]
        if len(character.blocks) != 1:
            raise Unfit
        return character.terms(character.blocks[0])

    def _sign(self, terms: Terms, spot: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
        """The unknowns of a free sign for each unit: that of the first one, and that of the others against it."""
        unknowns = self.solver.system.unknowns
        along = sorted(u for u in self.signs.reduce(terms.get(spot, NOTHING)[1]) if u < len(unknowns))
        if not along:
            return ()
        if not spot:
            return (along[-1],)
        for other in reversed(along):
            whole = [u for u in self.signs.reduce(terms.get((), NOTHING)[1]) if u < len(unknowns)
                     and (unknowns[u].name, unknowns[u].key) == (unknowns[other].name, unknowns[other].key)]  # fmt: skip
            if len(whole) == 1:
                return whole[0], other
        return ()

    def localise(
        self, op: Op, slope: Value | None, signs: tuple[int, ...], slopes: tuple[int, ...], and_itself: bool = False
    ) -> None:
        """Let the other functions keep their signs and slopes, and let other free scales make up for what has no more to do with the units."""
        kept = {*signs, *slopes}
        for other in self.ops:
            if other is op and not and_itself:
                continue
            for value in other.inputs:
                character = self.solver.characters[value]
                for key in character.blocks:
                    for form, parity in character.terms(key).values():
                        row = self.signs.reduce(parity)
                        if row and max(row) in kept:
                            raise Unfit
                        self.signs.add(row)
                        if value is not other.inputs[0]:
                            self.magnitudes.add(form)
        for value in self.program.tensors.values():
            own = self.solver.characters.get(value)
            for key in own.blocks if own is not None and value is not slope else ():
                self._settle(own.terms(key), signs, slopes, kept)  # type: ignore[union-attr]

    def _settle(self, terms: Terms, signs: tuple[int, ...], slopes: tuple[int, ...], kept: set[int]) -> None:
        """Let the multiplier that a whole block has be that of the first unit along each of its spaces of units."""
        along = [(self.magnitudes.reduce(form), self.signs.reduce(parity)) for subset, (form, parity) in terms.items() if subset]
        form, parity = terms.get((), NOTHING)
        times = sum(signs[-1] in held for _, held in along) if len(signs) > 1 else signs[0] in self.signs.reduce(parity)
        power = self.magnitudes.reduce(form).get(slopes[0], 0) if len(slopes) == 1 else sum(held.get(slopes[-1], 0) for held, _ in along if slopes)
        odd = self.signs.reduce(parity) ^ (frozenset((signs[0],)) if times % 2 else EVEN)
        odd ^= frozenset((slopes[0],)) if slopes and power % 2 else EVEN
        if odd and not kept.isdisjoint(odd) and max(odd) not in kept:
            self.signs.add(odd)
        row = plus(self.magnitudes.reduce(form), {slopes[0]: 1}, -power) if slopes else ZERO
        if not kept.isdisjoint(row) and max(row) not in kept:
            self.magnitudes.add(row)

    def _viewed(self, value: Value) -> Value:
        """The parameter that a value is, in another shape."""
        while value.kind == "op" and self.maker[value].kind in ("reshape", "permute") and len(self.readers[value]) == 1:
            value = self.maker[value].inputs[0]
        return value

    def _slope(self, slope: Value, size: int) -> tuple[int, ...]:
        """The unknowns of free slopes, as of signs."""
        if slope.kind != "parameter" or len(self.readers[slope]) != 1 or slope in self.out:
            raise Unfit
        terms = self._terms(slope)
        found = []
        for subset in sorted(terms, key=len):
            form, parity = self.magnitudes.reduce(terms[subset][0]), self.signs.reduce(terms[subset][1])
            if len(form) != 1 or set(form.values()) != {1} or set(form) != parity:
                raise Unfit
            found.append(next(iter(form)))
            if found[-1] >= len(self.solver.system.unknowns) or self.solver.system.unknowns[found[-1]].name != slope.name:
                raise Unfit  # what reads the result leaves the slope no freedom
        if len(found) != (1 if size == 1 else 2) or any(n != 1 and n != size for n in slope.shape):
            raise Unfit
        return tuple(found)

    def parts(self, value: Value, signs: tuple[int, ...], slopes: tuple[int, ...]) -> Iterator[ReflectedPart]:
        """The parts of a parameter or buffer that have the sign, or the slope."""
        character = self.solver.characters.get(value)
        for key in character.blocks if character is not None else ():
            yield from self._parts_of(value, character, key, signs, slopes)  # type: ignore[arg-type]

    def _parts_of(
        self, value: Value, character: Character, key: Key, signs: tuple[int, ...], slopes: tuple[int, ...]
    ) -> Iterator[ReflectedPart]:
        own = [layout.blocks[number] for layout, number in zip(character.layouts, key, strict=True)]
        index, sizes = tuple(block.positions for block in own), tuple(block.sizes for block in own)
        starts = [sum(len(block.sizes) for block in own[:d]) for d in range(len(own))]
        total = [0, 0]  # exponents of the sign and of the slope, of the whole block
        along = [0, 0]
        for subset, (form_of, parity_of) in character.terms(key).items():
            parity, form = self.signs.reduce(parity_of), self.magnitudes.reduce(form_of)
            which = 0 if not subset else -1
            power = form.get(slopes[which], 0) if slopes else 0
            negated = signs[which] in parity
            if power != int(power) or slopes and (power % 2 == 1) != (slopes[which] in parity):
                raise Unfit
            other = {*signs, *slopes} - {signs[which], *slopes[which:][:1]} if len(signs) > 1 else set()
            if other and not other.isdisjoint({*form, *parity}):
                raise Unfit
            if not power and not negated:
                continue
            if not subset:
                total = [int(negated), int(power)]
                continue
            if len(subset) != 1 or len(signs) == 1:
                raise Unfit
            along = [along[0] + negated, along[1] + int(power)]
            (d, i), = subset
            yield ReflectedPart(value.name, index, sizes, starts[d] + i, negated, int(power))
        if len(signs) == 1:
            if total != [0, 0]:
                yield ReflectedPart(value.name, index, sizes, -1, bool(total[0]), total[1])
        elif along[0] % 2 != total[0] or along[1] != total[1]:
            raise Unfit

    # -- what is added ---------------------------------------------------------------------------------------------------

    def _own(self, x: Value, atom: int, before: float) -> ReflectionShift:
        """The offset of the units."""
        op = self.maker.get(x)
        if len(self.readers[x]) != 1 or x in self.out:
            raise Unfit  # what else reads it would be moved, too
        offset = offset_of(op) if op is not None else None
        if offset is None or not self.is_offset(offset) or [a.id for a in self.atoms(offset)] != [atom]:
            raise Unfit
        return ReflectionShift(offset.name, before)

    def is_offset(self, value: Value) -> bool:
        return value.kind == "parameter" and value.ndim == 1 and len(self.readers[value]) == 1 and value not in self.out

    def atoms(self, value: Value) -> list[Any]:
        """The spaces of a value that is in one block, through all axes."""
        layouts = self.solver.characters[value].layouts
        if any(len(layout.blocks) != 1 for layout in layouts):
            raise Unfit
        return [atom for layout in layouts for atom in layout.blocks[0].atoms]

    def _absorbed(self, value: Value, atom: int, total: float) -> Iterator[ReflectionShift]:
        """The offsets that make up for what is added to every unit that is reflected, at all places alike."""
        if value in self.out or [a.id for a in self.atoms(value)].count(atom) != 1:
            raise Unfit
        for op in self.readers.get(value, ()):
            if op.kind in ("reshape", "permute"):
                yield from self._absorbed(op.output, atom, total)
            else:
                yield self._into_offset(op, value, atom, total)

    def _into_offset(self, op: Op, value: Value, atom: int, total: float) -> ReflectionShift:
        if not op.exact or len(op.inputs) != 2 or op.inputs.count(value) != 1 or op.output in self.out:
            raise Unfit
        slot = op.inputs.index(value)
        reader, own = op.inputs[1 - slot], op.inputs[slot]
        if op.kind != "contract" or not op.attrs.get("product") or reader.kind != "parameter" or len(self.readers[reader]) != 1:
            raise Unfit
        labels, met = op.labels[1 - slot], op.labels[slot]
        kept = [d for d, label in enumerate(labels) if label in op.out_labels]
        summed = {label for label in met if label not in op.out_labels}
        atoms = [a.id for a in self.atoms(reader)]
        if len(kept) != 1 or labels[kept[0]] in met or not summed <= set(labels) or atoms.count(atom) != 1 or len(set(labels)) < len(labels):
            raise Unfit
        if len(set(met)) < len(met) or any(n != m for label, n in zip(met, own.shape, strict=True) if label in labels
                                          for m in [reader.shape[labels.index(label)]]):  # fmt: skip
            raise Unfit
        readers = self.readers.get(op.output, ())
        if len(readers) != 1:
            raise Unfit
        offset = offset_of(readers[0])
        if offset is None or readers[0].kind != "elementwise" or not self.is_offset(offset):
            raise Unfit
        place = readers[0].inputs.index(offset)
        label = readers[0].labels[1 - place][op.out_labels.index(labels[kept[0]])]
        if readers[0].labels[place] != (label,) and list(readers[0].labels[place]) != [label] or offset.shape[0] != reader.shape[kept[0]]:
            raise Unfit
        sizes = tuple(layout.blocks[0].sizes for layout in self.solver.characters[reader].layouts)
        return ReflectionShift(offset.name, total, reader.name, sizes, atoms.index(atom), kept[0])


def offset_of(op: Op) -> Value | None:
    """The parameter that an operation adds to its operand as it is."""
    if not op.exact:
        return None
    if op.kind == "elementwise" and op.name == "add" and len(op.inputs) == 2:
        positional, keywords = arguments(op, 2)
        plain = positional == ["x", "x"] and not keywords and tuple(op.attrs.get("scale", (1, 1))) == (1, 1)
        held = [value for value in op.inputs if value.kind == "parameter"]
        return held[0] if plain and len(held) == 1 else None
    if op.kind == "normalize" and "offset" in op.attrs["roles"]:
        return op.inputs[1 + list(op.attrs["roles"]).index("offset")]
    return None
