"""From solved characters to scales: free unknowns become variables, and every parameter's character is written in them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from paramgraph.symmetries.characters import AUXILIARY, Character, CharacterSystem, Key, Subset, Terms
from paramgraph.symmetries.group import Factor
from paramgraph.symmetries.scale_spaces import Layout
from paramgraph.symmetries.scales import ScaleBlock, Scales, ScaleTerm, ScaleVariable


def annotate(system: CharacterSystem, characters: Mapping[str, Character]) -> tuple[Scales, list[Factor]]:
    """The scales of a solved system, and the factors that they are: those of one block of a tensor together.

    Args:
        system: all constraints of the program.
        characters: of the parameters and buffers, by state-dict name.
    """
    sizes = [unknown.dimension for unknown in system.unknowns]
    before = set(system.magnitudes.solved)
    for form in system.exact:
        system.magnitudes.add(form)
    approximate = sum(sizes[number] for number in system.magnitudes.solved.keys() - before if number < len(sizes))
    system.magnitudes.settle(AUXILIARY)
    system.signs.settle(AUXILIARY)
    scales = {number: 0 for number, size in enumerate(sizes) if size and number not in system.magnitudes.solved}
    signs = {number: 0 for number, size in enumerate(sizes) if size and number not in system.signs.solved}
    for place, number in enumerate(scales):
        scales[number] = place
    for place, number in enumerate(signs):
        signs[number] = len(scales) + place
    blocks: dict[str, tuple[ScaleBlock, ...]] = {}
    at: dict[tuple[str, Key], int] = {}
    for name, character in characters.items():
        found: list[ScaleBlock] = []
        for key, terms in character.made.items():
            scaled = _block(system, scales, signs, character.layouts, key, terms)
            if scaled.terms:
                at[name, key] = len(found)
                found.append(scaled)
        if found:
            blocks[name] = tuple(found)
    variables = []
    for kind, number in [*(("scale", n) for n in scales), *(("sign", n) for n in signs)]:
        unknown = system.unknowns[number]
        places = _places(characters[unknown.name].layouts, unknown.key, unknown.subset)
        block = at[unknown.name, unknown.key]
        shape = tuple(blocks[unknown.name][block].flat[place] for place in places)
        variables.append(ScaleVariable(kind, shape, unknown.name, block, places))
    return Scales(tuple(variables), blocks, approximate), _factors(variables)


def _places(layouts: tuple[Layout, ...], key: Key, subset: Subset) -> tuple[int, ...]:
    """The spaces of a subset, numbered through all axes, in the order of their identities: the same in every tensor that holds them."""
    own = [layout.blocks[number].atoms for layout, number in zip(layouts, key, strict=True)]
    if len(subset) == 1:
        ((d, i),) = subset
        return (sum(map(len, own[:d])) + i,)
    starts = [0, *itertools.accumulate(map(len, own))]
    return tuple(starts[d] + i for d, i in sorted(subset, key=lambda place: own[place[0]][place[1]].id))


def _block(
    system: CharacterSystem, scales: Mapping[int, int], signs: Mapping[int, int], layouts: tuple[Layout, ...], key: Key, terms: Terms
) -> ScaleBlock:
    """A block's character in variables; `scales` and `signs` number the free unknowns."""
    own = [layout.blocks[number] for layout, number in zip(layouts, key, strict=True)]
    found = []
    for subset, (form_of, signs_of) in terms.items():
        form = {scales[u]: c for u, c in system.magnitudes.reduce(form_of).items() if u in scales}
        negative = sorted([signs[u] for u in system.signs.reduce(signs_of) if u in signs])
        if form or negative:
            own_scales = sorted(form)
            exponents = [(form[v].numerator, form[v].denominator) for v in own_scales] + [(1, 1)] * len(negative)
            found.append(ScaleTerm(_places(layouts, key, subset), (*own_scales, *negative), tuple(exponents)))
    sizes = tuple(tuple(atom.size for atom in block.atoms) for block in own)
    return ScaleBlock(tuple(block.positions for block in own), sizes, tuple(found))


def _factors(variables: list[ScaleVariable]) -> list[Factor]:
    groups: dict[tuple[str, str, int], list[int]] = {}
    for number, variable in enumerate(variables):
        groups.setdefault((variable.kind, variable.tensor, variable.block), []).append(number)
    out = []
    for (kind, tensor, block), members in groups.items():
        name = f"{kind} of {tensor}" + (f" ({block + 1})" if block else "")
        dimension = sum(variables[number].dimension for number in members)
        out.append(Factor(name, (), (), dimension, 1, kind, tuple(members)))
    return out
