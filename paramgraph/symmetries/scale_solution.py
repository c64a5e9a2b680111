"""From solved characters to scales: free unknowns become variables, and every parameter's character is written in them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paramgraph.graph import EXTENTS, Diagnostic, ScaleDomain
from paramgraph.symmetries.action import Factor
from paramgraph.symmetries.character import AUXILIARY, Character, Key, Subset, Terms
from paramgraph.symmetries.characters import CharacterSystem
from paramgraph.symmetries.elimination import EVEN, Form, Parity
from paramgraph.symmetries.scale_spaces import AxisBlock, Layout
from paramgraph.symmetries.scales import ScaleBlock, Scales, ScaleTerm, ScaleVariable

# Per dimension of a tensor, the digits of it that nodes are numbered by: each from its step up to the next digit's step.
Spans = Mapping[int, Sequence[tuple[int, int]]]
_NONE, _SHARED, _EACH = EXTENTS
# Variables, and the numerator and denominator of each one's coefficient.
Magnitudes = tuple[tuple[int, ...], tuple[tuple[int, int], ...]]
_ONE = (1, 1)
_TRIVIAL: Magnitudes = ((), ())


def annotate(
    system: CharacterSystem,
    characters: Mapping[str, Character],
    nodes: Mapping[str, tuple[Character, Spans]] | None = None,
    diagnostics: Iterable[Diagnostic] = (),
) -> tuple[Scales, tuple[Factor, ...]]:
    """The scales of a solved system, and the factors that they are: those of one block of a tensor together.

    Args:
        system: all constraints of the program.
        characters: of the parameters and buffers, by state-dict name.
        nodes: per node set, the character of what its nodes hold, and where in the tensor the nodes are.
        diagnostics: what was taken as unscalable, and why.
    """
    sizes = [unknown.dimension if unknown.shape else 1 for unknown in system.unknowns]
    before = set(system.magnitudes.solved)
    for form in system.exact:
        system.magnitudes.add(form)
    approximate = system.approximate + sum(sizes[number] for number in system.magnitudes.solved.keys() - before if number < len(sizes))
    system.magnitudes.settle(AUXILIARY)
    system.signs.settle(AUXILIARY)
    scales = {number: 0 for number, size in enumerate(sizes) if size and number not in system.magnitudes.solved}
    signs = {number: 0 for number, size in enumerate(sizes) if size and number not in system.signs.solved}
    system.free = [*scales, *signs]
    for place, number in enumerate(scales):
        scales[number] = place
    for place, number in enumerate(signs):
        signs[number] = len(scales) + place
    solved = _Solved(system, scales, signs)
    blocks: dict[str, tuple[ScaleBlock, ...]] = {}
    at: dict[tuple[str, Key], int] = {}
    for name, character in characters.items():
        found: list[ScaleBlock] = []
        for key, terms in character.made.items():
            scaled = _block(solved, character.layouts, key, terms)
            if scaled is not None:
                at[name, key] = len(found)
                found.append(scaled)
        if found:
            blocks[name] = tuple(found)
    variables = []
    places: tuple[int, ...]
    for kind, number in [*(("scale", n) for n in scales), *(("sign", n) for n in signs)]:
        unknown = system.unknowns[number]
        block, places, shape = at[unknown.name, unknown.key], (), unknown.shape
        if unknown.subset:
            own = [layout.blocks[n] for layout, n in zip(characters[unknown.name].layouts, unknown.key, strict=True)]
            places = _places(own, unknown.subset)
        if len(places) > 1:  # in the order of the spaces' identities
            shape = tuple([blocks[unknown.name][block].flat[place] for place in places])
        variables.append(ScaleVariable(kind, shape, unknown.name, block, places))
    domains = {name: _domain(solved, character, spans) for name, (character, spans) in (nodes or {}).items()}
    return Scales(tuple(variables), blocks, approximate, domains, tuple(diagnostics)), tuple(_factors(variables))


class _Solved:
    """Forms in unknowns as forms in variables: numbers of these, sorted, with numerators and denominators for magnitudes."""

    def __init__(self, system: CharacterSystem, scales: Mapping[int, int], signs: Mapping[int, int]) -> None:
        self.system, self.scales, self.signs = system, scales, signs
        # Many tensors have one form. What is looked up by identity is kept, so that no other object takes its place.
        self._forms: dict[int, tuple[Form, Magnitudes]] = {}
        self._signs: dict[Parity, tuple[int, ...]] = {EVEN: ()}

    def magnitudes(self, form: Form) -> Magnitudes:
        if not form:
            return _TRIVIAL
        known = self._forms.get(id(form))
        if known is None:
            known = self._forms[id(form)] = form, self._reduced(form)
        return known[1]

    def _reduced(self, form: Form) -> Magnitudes:
        scales = self.scales
        reduced = self.system.magnitudes.reduce(form)
        if len(reduced) == 1:  # by far the most
            ((unknown, c),) = reduced.items()
            return ((scales[unknown],), (_ONE if c == 1 else (c.numerator, c.denominator),)) if unknown in scales else _TRIVIAL
        found = sorted([(scales[u], c) for u, c in reduced.items() if u in scales])
        return tuple([v for v, _ in found]), tuple([_ONE if c == 1 else (c.numerator, c.denominator) for _, c in found])

    def negative(self, parity: Parity) -> tuple[int, ...]:
        found = self._signs.get(parity)
        if found is None:
            reduced = [self.signs[u] for u in self.system.signs.reduce(parity) if u in self.signs]
            found = self._signs[parity] = tuple(sorted(reduced) if len(reduced) > 1 else reduced)
        return found


def _domain(solved: _Solved, character: Character, spans: Spans) -> ScaleDomain:
    """How the nodes that lie at `spans` of a tensor are scaled: not at all, by one multiplier for all of them, or by one for each."""
    found = [_NONE, _NONE]
    inside: list[set[tuple[Any, ...]]] = [set(), set()]
    for key in character.blocks:
        terms = character.terms(key)
        if not terms:
            for each in inside:
                each.add(())
            continue
        if found == [_EACH, _EACH]:
            break
        own = [layout.blocks[number] for layout, number in zip(character.layouts, key, strict=True)]
        whole: list[list[Any]] = [[], []]
        for subset, (form_of, signs_of) in terms.items():
            magnitude, negative = solved.magnitudes(form_of), solved.negative(signs_of)
            if not magnitude[0] and not negative:
                continue
            along = any([_meets(own[d], i, spans[d]) for d, i in subset if d in spans])
            for which, form in enumerate((magnitude if magnitude[0] else (), negative)):
                if form and along:
                    found[which] = _EACH
                elif form:
                    whole[which].append((subset, form))
        for which in range(2):
            inside[which].add(tuple(whole[which]))
    for which in range(2):
        if found[which] == _NONE and inside[which] != {()}:
            found[which] = _SHARED if len(inside[which]) == 1 else _EACH
    return ScaleDomain(*found)


def _meets(block: AxisBlock, i: int, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether one atom of an axis is (a part of) one of some digits of it, each from its step up to the next digit's."""
    inner = math.prod(block.sizes[i + 1 :])
    return any([inner < high and low < inner * block.sizes[i] for low, high in spans])


def _places(own: Sequence[AxisBlock], subset: Subset) -> tuple[int, ...]:
    """The spaces of a subset, numbered through all axes, in the order of their identities: the same in every tensor that holds them."""
    if not subset:
        return ()
    if len(subset) == 1:
        ((d, i),) = subset
        for block in own[:d]:
            i += len(block.atoms)
        return (i,)
    starts = [0, *itertools.accumulate([len(block.atoms) for block in own])]
    return tuple([starts[d] + i for d, i in sorted(subset, key=lambda place: own[place[0]].atoms[place[1]].id)])


def _block(solved: _Solved, layouts: tuple[Layout, ...], key: Key, terms: Terms) -> ScaleBlock | None:
    """A block's character in variables; None where it is trivial."""
    own: list[AxisBlock] | None = None
    found = []
    for subset, (form_of, signs_of) in terms.items():
        variables, exponents = solved.magnitudes(form_of)
        if signs_of and (negative := solved.negative(signs_of)):
            variables, exponents = variables + negative, exponents + (_ONE,) * len(negative)
        if variables:
            own = own or [layout.blocks[number] for layout, number in zip(layouts, key, strict=True)]
            found.append(ScaleTerm(_places(own, subset) if subset else (), variables, exponents))
    if own is None:
        return None
    return ScaleBlock(tuple([block.positions for block in own]), tuple([block.sizes for block in own]), tuple(found))


def _factors(variables: list[ScaleVariable]) -> list[Factor]:
    groups: dict[tuple[str, str, int], list[int]] = {}
    for number, variable in enumerate(variables):
        groups.setdefault((variable.kind, variable.tensor, variable.block), []).append(number)
    out = []
    for (kind, tensor, block), members in groups.items():
        name = f"{kind} of {tensor}" + (f" ({block + 1})" if block else "")
        dimension = sum([variables[number].dimension for number in members])
        out.append(Factor(name, (), (), dimension, 1, kind, tuple(members)))
    return out
