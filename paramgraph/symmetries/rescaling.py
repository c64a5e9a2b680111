"""The magnitudes that bring one network's parameters closest to another's: Newton's steps on their logarithms, factor by factor.

Closest logarithms (`paramgraph.symmetries.gauge`) are not closest numbers, unless the two networks are points of one orbit.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.symmetries.action import Array
from paramgraph.symmetries.element import GroupElement
from paramgraph.symmetries.gauge import block_view
from paramgraph.symmetries.matching import State, from_tops, squared_distance, summed

if TYPE_CHECKING:
    import torch

    from paramgraph.symmetries.group import SymmetryGroup

# Steps of each factor at most; how far a logarithm may go in one, and how often a step that does not come closer is halved.
SWEEPS, FARTHEST, HALVINGS = 20, 1.0, 4
# A factor whose step gains less than this share of the squared distance is left alone until others move what it multiplies.
LEAST = 1e-5


def rescaled(group: SymmetryGroup, goal: State, state: State) -> GroupElement:
    """The scales that bring a state closer to a goal, by coordinate descent over the scale factors: the squared distance never grows.

    Args:
        group: of both.
        goal: tensors by the names of their actions.
        state: tensors of the same names.
    """
    total, state = group.identity(), dict(state)
    scales = group.scales
    own = {number: {n for v in factor.variables for n in scales.tensors.get(v, ()) if n in state}
           for number, factor in enumerate(group.factors) if factor.kind == "scale"}  # fmt: skip
    enough = LEAST * squared_distance(goal, state)
    pending = {number for number, names in own.items() if names}
    for _ in range(SWEEPS):
        for number in sorted(pending):
            pending.discard(number)
            element, moved, gained = _stepped(group, number, goal, {name: state[name] for name in own[number]})
            if gained <= 0:
                continue
            total, state = element @ total, state | moved
            if gained > enough:
                pending |= {other for other, names in own.items() if not names.isdisjoint(moved)}
        if not pending:
            break
    return total


def _stepped(group: SymmetryGroup, number: int, goal: State, state: dict[str, torch.Tensor]) -> tuple[GroupElement, dict[str, torch.Tensor], float]:
    """One step of one factor: the element, the state under it, and by how much it comes closer; 0 if it does not."""
    variables = group.factors[number].variables
    steps = _newton(group, variables, goal, state)
    before = squared_distance(goal, state)
    for _ in range(HALVINGS):
        element = from_tops(group, number, steps)
        moved = element.act_on(state)
        gained = before - squared_distance(goal, moved)
        if gained > 0:
            return element, moved, gained
        steps = [step / 2 for step in steps]
    return group.identity(), state, 0.0


def _newton(group: SymmetryGroup, variables: Sequence[int], goal: State, state: State) -> list[Array]:
    """Per variable, Newton's step of each of its entries, all others fixed, within bounds."""
    slopes = {v: np.zeros(group.scales.variables[v].shape) for v in variables}
    curvatures = {v: np.zeros(group.scales.variables[v].shape) for v in variables}
    for name in state:
        for block in group.scales.blocks[name]:
            terms = [term for term in block.terms if not slopes.keys().isdisjoint(term.variables)]
            if not terms:
                continue
            here, there = block_view(block, state[name]), block_view(block, goal[name])
            for term in terms:
                square, product = summed(here * here, term), summed(here * there, term)
                for v, exponent in zip(term.variables, term.exponents, strict=True):
                    if v in slopes:
                        power = float(Fraction(*exponent))
                        slopes[v] = slopes[v] + power * (square - product)
                        # The second derivative, kept positive where the two are nearly opposite in size.
                        curvatures[v] = curvatures[v] + power**2 * np.maximum(2 * square - product, square)
    return [np.clip(-slopes[v] / np.where(curvatures[v] > 0, curvatures[v], 1.0), -FARTHEST, FARTHEST) for v in variables]
