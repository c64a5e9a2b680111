"""A canonical representative of a network's orbit: magnitudes balanced, signs fixed, elements sorted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from paramgraph.errors import GroupError
from paramgraph.symmetries.action import Array
from paramgraph.symmetries.element import GroupElement
from paramgraph.symmetries.gauge import block_view, fitted
from paramgraph.symmetries.group import KINDS
from paramgraph.symmetries.matching import from_tops, is_top, summed
from paramgraph.symmetries.scales import ScaleBlock
from paramgraph.symmetries.slices import compared, prepared, slices_of

if TYPE_CHECKING:
    from paramgraph.graph import ParamGraph
    from paramgraph.symmetries.group import SymmetryGroup

State = Mapping[str, torch.Tensor]


def canonicalise(graph: ParamGraph, *, kinds: Iterable[str] | None = None) -> ParamGraph:
    """The same function with canonical parameters: the same for every point of an orbit, up to ties and rounding errors.

    Magnitudes are balanced (each neuron's ingoing and outgoing weights in their geometric means), then signs are fixed by sums of the elements
    that they multiply, then elements are sorted by moments of their weights. Zeros have no magnitude; infinities and NaN count as zeros.
    Ties are neurons that these sums do not tell apart, and signs of tensors that share all their signs with others; they are left as they come.

    Args:
        graph: the network. Half precision is rounded; float64 repeats to about 1e-12.
        kinds: kinds of symmetries to use up (`"permutation"`, `"scale"`, `"sign"`). None for all.

    Raises:
        GroupError: the values are on the meta device, or a kind is not known.
    """
    names = compared(graph)
    if any(graph.values[member].device.type == "meta" for name in names for member in graph.symmetry.members(name)):
        raise GroupError("a network on the meta device has no values to make canonical: load them first.")
    state = {name: value.nan_to_num(0, 0, 0) for name, value in prepared(graph, names, torch.float64).items()}
    element = canonical_element(graph.symmetry, state, chosen(graph.symmetry, kinds))
    return graph.with_values(element.act(graph.state_dict()))


def chosen(group: SymmetryGroup, kinds: Iterable[str] | None) -> frozenset[str]:
    """Kinds as a set; raises where one is not known."""
    group.select((), kinds)
    return frozenset(KINDS if kinds is None else [kinds] if isinstance(kinds, str) else kinds)


def canonical_element(group: SymmetryGroup, state: State, kinds: frozenset[str]) -> GroupElement:
    """The element that takes a state to its canonical representative. It is computed in the state's own precision."""
    total = group.identity()
    current = dict(state)
    for kind, find in (("scale", balance), ("sign", _signed), ("permutation", _sorted)):
        if kind in kinds:
            element = find(group, current)
            current, total = element.act_on(current), element @ total
    return total


def balance(group: SymmetryGroup, state: State) -> GroupElement:
    """The scales under which the logarithms of a state's elements are least, in squares."""
    return GroupElement.of_tables(group, fitted(group.scales, state))


def _signed(group: SymmetryGroup, state: State) -> GroupElement:
    """Signs that make sums positive: of a tensor's elements over all that have a sign in common, once its other signs are fixed."""
    scales = group.scales
    total = group.identity()
    current = dict(state)
    left = {number: frozenset(factor.variables) for number, factor in enumerate(group.factors) if factor.kind == "sign"}
    candidates = _candidates(group, left, current)
    while left:
        number, found = _next_signs(left, candidates)
        own = group.factors[number].variables
        sums = [np.zeros(scales.variables[v].shape) for v in own]
        for name, block in found:  # where one says nothing (a gain of zero, a dead neuron), the next does
            data = block_view(block, current[name])
            more = [np.zeros(total.shape) for total in sums]
            for place, v in enumerate(own):
                for term in block.terms:
                    if v in term.variables:
                        more[place] = more[place] + summed(data, term)
            sums = [np.where(total == 0, other, total) for total, other in zip(sums, more, strict=True)]
            if all(total.all() for total in sums):
                break
        element = from_tops(group, number, [values < 0 for values in sums])
        current.update(element.act_on({n: current[n] for n in group.acted_on_by(number) if n in current}))
        total = element @ total
        del left[number]
    return total


def _candidates(group: SymmetryGroup, signs: Mapping[int, frozenset[int]], state: State) -> dict[int, list[tuple[str, ScaleBlock, set[int]]]]:
    """Per factor of signs, the blocks that all its signs on the most spaces multiply, once each, with the factors whose signs do."""
    factor_of = {v: number for number, own in signs.items() for v in own}
    top = {number: {v for v in own if is_top(group.scales.variables[v], [group.scales.variables[u] for u in own])} for number, own in signs.items()}
    out: dict[int, list[tuple[str, ScaleBlock, set[int]]]] = {number: [] for number in signs}
    for name, blocks in group.scales.blocks.items():
        for block in blocks if name in state else ():
            found = {v for term in block.terms for v in term.variables if v in factor_of}
            numbers = {factor_of[v] for v in found}
            for number in numbers:
                if found >= top[number] and _occurs_once(block, signs[number]):
                    out[number].append((name, block, numbers))
    return out


def _occurs_once(block: ScaleBlock, own: frozenset[int]) -> bool:
    """Whether each element of a block is multiplied by one sign of a factor: sums over a recurrent weight, `s W s`, have no sign of their own."""
    held = [(v, frozenset(term.places)) for term in block.terms for v in term.variables if v in own]
    widest = max((places for _, places in held), key=len)
    return len({v for v, _ in held}) == len(held) and all(places <= widest for _, places in held)


def _next_signs(
    left: Mapping[int, frozenset[int]], candidates: Mapping[int, Sequence[tuple[str, ScaleBlock, set[int]]]]
) -> tuple[int, list[tuple[str, ScaleBlock]]]:
    """The factor to fix next, and the blocks to fix it by: those whose other signs are fixed, if there are any."""
    first: tuple[int, list[tuple[str, ScaleBlock]]] | None = None
    for number in left:
        known = [(name, block) for name, block, numbers in candidates[number] if not any(other in left for other in numbers if other != number)]
        if known:
            return number, known
        if first is None and candidates[number]:
            first = (number, [(name, block) for name, block, _ in candidates[number][:1]])
    return first or (next(iter(left)), [])


def _sorted(group: SymmetryGroup, state: State) -> GroupElement:
    """Elements by moments of their slices, which no other permutation changes."""
    parts: dict[int, Array] = {}
    for number, factor in enumerate(group.permuting):
        keys = np.zeros((factor.copies, factor.size))
        for place, slices in enumerate(slices_of(group, factor, state)):
            for power, moment in enumerate(slices.moments(state[slices.name]), start=1):
                values = moment.double().cpu().numpy()
                spread = float(np.abs(values).max())
                # Fixed weights without a pattern: one number stands for all moments.
                keys += np.sin(1.0 + 3 * place + power) * (values / spread if spread > 0 else values)
        parts[number] = keys.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return GroupElement(group, parts)
