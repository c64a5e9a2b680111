"""Alignment: one network moved along its orbit toward another of the same structure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from paramgraph.errors import GroupError
from paramgraph.symmetries.canonical import balance, canonical_element, chosen
from paramgraph.symmetries.element import GroupElement
from paramgraph.symmetries.gauge import fitted
from paramgraph.symmetries.matching import Matcher, State, product, squared_distance
from paramgraph.symmetries.rescaling import rescaled
from paramgraph.symmetries.slices import compared, prepared

if TYPE_CHECKING:
    from paramgraph.graph import ParamGraph
    from paramgraph.symmetries.group import SymmetryGroup

# Rounds of coordinate descent; it stops by itself long before.
ROUNDS = 50
# Relative distance below which networks are points near one orbit, and the closest element has been found.
NEAR = 0.02


@dataclass(frozen=True)
class Alignment:
    """One network moved toward another.

    Attributes:
        graph: the network moved: the same function.
        element: what moved it.
        before: distance of the two networks' parameters (a Euclidean norm over floating-point tensors without running statistics).
        after: distance after moving.
    """

    graph: ParamGraph
    element: GroupElement
    before: float
    after: float

    def __str__(self) -> str:
        return f"{self.graph.name}: distance {self.before:.4g}, after alignment {self.after:.4g}"


def align(a: ParamGraph, b: ParamGraph, *, kinds: Iterable[str] | None = None, rounds: int = ROUNDS) -> Alignment:
    """Move `b` along its orbit toward `a`: the same function, with parameters as close to those of `a` as coordinate descent finds them.

    Permutations and signs by weight matching: a linear assignment for each factor, within each element of what it depends on, the others
    fixed, until little improves. Scales in closed form: the least-squares solution in the logarithms of the elements. With scales among
    the kinds, both networks are balanced first, so that matching compares what scaling cannot change. Networks that stay apart are matched
    with the magnitudes that they have, too, and the scales of what is closer are improved by Newton's steps: more kinds bring them closer.
    The descent starts from `b` as it is and from canonical forms, and the start that is better after a round goes on: of two points of one
    orbit, the second finds the element between them, if no two neurons are alike. Near the goal it goes on until nothing moves; unrelated
    networks get a few rounds.

    Args:
        a: the network to come close to.
        b: the network to move, of the same structure.
        kinds: kinds of symmetries to use (`"permutation"`, `"scale"`, `"sign"`). None for all.
        rounds: largest number of rounds over all factors.

    Raises:
        GroupError: the two networks have different structures or dtypes, values on the meta device or that are not finite, or a kind is not
            known.
    """
    group, wanted = b.symmetry, chosen(b.symmetry, kinds)
    names = _checked(a, b)
    wide = None
    target, start = prepared(a, names), prepared(b, names)
    if not all(math.isfinite(product(state, state)) for state in (target, start)):  # squares leave the range of float32
        wide = torch.float64
        target, start = prepared(a, names, wide), prepared(b, names, wide)
    for graph, state in ((a, target), (b, start)):
        if infinite := [name for name, value in state.items() if not bool(value.isfinite().all())]:
            raise GroupError(f"{', '.join(infinite[:3])} of {graph.name}: expected finite numbers to measure distances by, got infinities or NaN.")
        if not math.isfinite(product(state, state)):
            raise GroupError(f"{graph.name} has numbers whose squares leave the range of float64: there is no distance to measure.")
    exact = wanted - {"scale"}
    candidates = [group.identity()]
    if "scale" in wanted:  # balanced networks stay so under permutations and signs
        balanced = balance(group, start)
        total = _matched(group, balance(group, target).act_on(target), balanced.act_on(start), exact, rounds) @ balanced
        total = GroupElement.of_tables(group, fitted(group.scales, total.act_on(start), target)) @ total
        candidates.append(total)
    unrelated = _distance(target, candidates[-1].act_on(start)) > NEAR * math.sqrt(product(target, target))
    if unrelated or "scale" not in wanted:
        candidates.append(_matched(group, target, start, exact, rounds))
    total = min(candidates, key=lambda element: _distance(target, element.act_on(start)))
    if unrelated and "scale" in wanted:
        total = rescaled(group, target, total.act_on(start)) @ total
    graph = b.with_values(total.act(b.state_dict()))
    return Alignment(graph, total, _distance(target, start), _distance(target, prepared(graph, names, wide)))


def _matched(group: SymmetryGroup, goal: State, start: State, kinds: frozenset[str], rounds: int) -> GroupElement:
    """The permutations and signs that bring a state closest to a goal, from where it is and from the canonical forms of both."""
    sorted_out = canonical_element(group, goal, kinds).inverse() @ canonical_element(group, start, kinds)
    begins = [group.identity(), sorted_out]
    number, element, _ = Matcher(group, goal, kinds).match([begin.act_on(start) for begin in begins], rounds)
    return element @ begins[number]


def _checked(a: ParamGraph, b: ParamGraph) -> list[str]:
    """Names of the tensors to compare."""
    same = (a.symmetry.spaces, a.symmetry.permuting) == (b.symmetry.spaces, b.symmetry.permuting)
    shapes = [{name: (tuple(value.shape), value.dtype) for name, value in graph.values.items()} for graph in (a, b)]
    if not same or shapes[0] != shapes[1]:
        raise GroupError(f"{a.name} and {b.name} differ in structure or dtypes: expected two networks that compile to the same graph.")
    names = compared(b)
    if any(graph.values[member].device.type == "meta" for graph in (a, b) for name in names for member in graph.symmetry.members(name)):
        raise GroupError("networks on the meta device have no values to align: load them first.")
    return names


def _distance(a: State, b: State) -> float:
    return math.sqrt(squared_distance(a, b))
