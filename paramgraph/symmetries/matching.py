"""Weight matching: the permutations and signs that bring one network's parameters closest to another's.

Coordinate descent over the factors of the group (Ainsworth, Hayase & Srinivasa 2023, arXiv:2209.04836, section 3.2), with a linear assignment
for each copy of a factor: spaces that depend on others are matched within each element of those, and joint spaces as products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING

import numpy as np
import torch

from paramgraph.symmetries.action import Array
from paramgraph.symmetries.assignment import assigned
from paramgraph.symmetries.element import GroupElement
from paramgraph.symmetries.gauge import block_view
from paramgraph.symmetries.scales import Scales, ScaleTerm, ScaleVariable, drawn
from paramgraph.symmetries.slices import Slices, slices_of

if TYPE_CHECKING:
    from paramgraph.symmetries.group import SymmetryGroup

State = Mapping[str, torch.Tensor]

# Elements that are multiplied and summed at a time.
PIECE = 1 << 14
# Slices of no more elements are multiplied together.
NARROW = 16
# Of the inner product of two states that are one: above this share, descent goes on to the end.
NEAR = 0.9
# Elsewhere it ends with the round that gains less than this share of what all before it did: unrelated networks gain ever less, for long.
LITTLE = 5e-3
# Below this share networks are unrelated, and a few rounds do.
FAR = 0.5
FEW = 4


def _add(gains: dict[frozenset[int], torch.Tensor], key: frozenset[int], a: torch.Tensor, x: torch.Tensor) -> None:
    """Add the inner products of slices of two tensors, shape `(copies, elements, rest)` each, to those of others of one key."""
    if key in gains:
        gains[key].baddbmm_(x, a.transpose(1, 2))
    else:
        gains[key] = x @ a.transpose(1, 2)


def product(a: State, x: State) -> float:
    """Inner product of two states."""
    return sum(_product(a[name], x[name]) for name in a)


def squared_distance(a: State, x: State) -> float:
    """Of the tensors of `x`, from those of the same names."""
    return sum(float((a[name] - value).double().square().sum()) for name, value in x.items())


def _product(a: torch.Tensor, x: torch.Tensor) -> float:
    """Inner product of two tensors: by pieces, whose products stay in the caches, and whose sums are added in float64."""
    if a.numel() <= PIECE or not (a.is_contiguous() and x.is_contiguous()):
        return float((a * x).sum())
    return math.fsum(float(p.dot(q)) for p, q in zip(a.view(-1).split(PIECE), x.view(-1).split(PIECE), strict=True))


class Matcher:
    """Brings a state toward another by permutations and signs.

    Args:
        group: the group of both.
        a: tensors to come close to.
        kinds: `"permutation"`, `"sign"`, or both.
    """

    def __init__(self, group: SymmetryGroup, a: State, kinds: frozenset[str]) -> None:
        self.group, self.a, self.kinds = group, a, kinds
        self.scales = group.scales if "sign" in kinds else Scales()
        self.moving: dict[int, list[Slices]] = {}
        self._moved: dict[int, set[str]] = {}
        if "permutation" in kinds:
            found = {n: slices_of(group, f, a) for n, f in enumerate(group.permuting) if f.size > 1}
            self.moving = {number: slices for number, slices in found.items() if slices}

    def match(self, starts: Sequence[State], rounds: int) -> tuple[int, GroupElement, dict[str, torch.Tensor]]:
        """Coordinate descent from several states: a round from each, and on from the best of them.

        It ends where nothing moves, where a round gains nothing, and, far from the goal, where a round gains next to nothing of what all did.

        Args:
            starts: states to bring close.
            rounds: largest number of rounds.

        Returns:
            Number of the best start, the element, and that start under it.
        """
        best: tuple[int, _Descent] | None = None
        for number, x in enumerate(starts):
            descent = _Descent(self, x)
            descent.round()
            if best is None or descent.reached > best[1].reached + 1e-9 * abs(descent.reached):
                best = number, descent
        assert best is not None
        for _ in range(rounds - 1):
            if best[1].is_over:
                break
            best[1].round()
        return best[0], best[1].total, best[1].state

    def touching(self, names: Set[str], but: int | None) -> set[int]:
        """Factors whose best permutation may change with some tensors: all that move them, but one that has just been assigned."""
        out = set()
        for number, held in self.moving.items():
            within = [slices.name for slices in held if slices.name in names]
            # Assigned again, a factor stays where it is, unless it occurs twice in a tensor.
            if within and (number != but or len(set(within)) < len(within)):
                out.add(number)
        return out

    def assigned(self, number: int, state: State) -> GroupElement | None:
        """The best permutation of one factor, all others fixed; None if it is the identity."""
        factor = self.group.permuting[number]
        plain = np.arange(factor.size)
        parts = []
        for copy in self._worth(number, state):
            part = assigned(copy)
            won, still = (float(copy[plain, to].double().sum()) for to in (part, plain))
            # Of equally good ones, the one that moves nothing.
            parts.append(part if won > still + 1e-12 * abs(still) else plain)
        part = np.stack(parts)
        return None if bool((part == plain).all()) else GroupElement(self.group, {number: part})

    def _worth(self, number: int, state: State) -> torch.Tensor:
        """By how much each element of a factor, put where each other is, adds to the inner product: shape `(copies, elements, places)`."""
        gains: dict[frozenset[int], torch.Tensor] = {}
        narrow: dict[frozenset[int], list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for slices in self.moving[number]:
            a, x = slices.of(self.a[slices.name]), slices.of(state[slices.name])
            key = self._signs_along(number, slices)
            if a.shape[2] <= NARROW:
                narrow.setdefault(key, []).append((a, x))
            else:
                _add(gains, key, a, x)
        # Many vectors are one matrix: each product by itself would cost as much as writing its result.
        for key, pairs in narrow.items():
            _add(gains, key, *(torch.cat(side, 2) for side in zip(*pairs, strict=True)))
        # Tensors that take one sign are matched up to that sign.
        total, *others = (gain.abs_() if key else gain for key, gain in gains.items())
        for gain in others:
            total += gain
        return total

    def _signs_along(self, number: int, slices: Slices) -> frozenset[int]:
        """Sign variables by which the elements of a part may differ, all of whose tensors the factor moves."""
        moved = self.moved_by(number)
        return frozenset(
            v
            for block in self.scales.blocks.get(slices.name, ())
            for term in block.terms
            if {block.axis_of[p] for p in term.places} & slices.axes
            for v in term.variables
            if self.scales.variables[v].kind == "sign" and moved.issuperset(self.scales.tensors[v])
        )

    def moved_by(self, number: int) -> set[str]:
        if number not in self._moved:
            self._moved[number] = set(self.group.acted_on_by(number))
        return self._moved[number]

    # -- signs ---------------------------------------------------------------------------------------------------------

    def resigned(
        self, state: dict[str, torch.Tensor], changed: set[str] | None
    ) -> tuple[GroupElement, dict[str, torch.Tensor], set[str]]:
        """The signs that bring a state closest, by coordinate descent over the sign factors.

        Args:
            state: to multiply.
            changed: names of tensors that are not as they were when this was last done; None for all.

        Returns:
            The element, the state under it, and the names of the tensors that it multiplies.
        """
        total, touched_all = self.group.identity(), set[str]()
        changed = set(state) if changed is None else set(changed)
        if "sign" not in self.kinds:
            return total, state, touched_all
        names = {v: [n for n in self.scales.tensors.get(v, ()) if n in state] for v in range(len(self.scales.variables))}
        for number, factor in enumerate(self.group.factors):
            if factor.kind != "sign" or changed.isdisjoint(n for v in factor.variables for n in names[v]):
                continue
            gains = self._gains(factor.variables, state)
            element = from_tops(self.group, number, [gain < 0 for gain in gains])
            if element.is_identity():
                continue
            touched = {n: state[n] for v in factor.variables for n in names[v]}
            acted = element.act_on(touched)
            own = {n: self.a[n] for n in touched}
            if product(own, acted) > product(own, touched):
                total, state = element @ total, state | acted
                touched_all |= touched.keys()
                changed |= touched.keys()
        return total, state, touched_all

    def _gains(self, numbers: Sequence[int], state: State) -> list[Array]:
        """Per element of some sign variables, the inner product of all that it multiplies."""
        out = {number: np.zeros(self.scales.variables[number].shape) for number in numbers}
        for name in dict.fromkeys(n for number in numbers for n in self.scales.tensors.get(number, ()) if n in state):
            for block in self.scales.blocks[name]:
                terms = [term for term in block.terms if not out.keys().isdisjoint(term.variables)]
                if not terms:
                    continue
                both = block_view(block, self.a[name]) * block_view(block, state[name])
                for term in terms:
                    total = summed(both, term)
                    for number in out.keys() & set(term.variables):
                        out[number] = out[number] + total
        return [out[number] for number in numbers]


class _Descent:
    """Rounds of coordinate descent from one state.

    Attributes:
        total: the element that led to the best state so far.
        state: that state.
        reached: its inner product with the goal.
        is_over: whether another round is not worth while.
    """

    def __init__(self, matcher: Matcher, x: State) -> None:
        self.matcher = matcher
        start = product(matcher.a, x)
        self._now, self._at, _ = matcher.resigned(dict(x), None)
        self.total, self.state, self.is_over = self._now, self._at, False
        self.reached = product(matcher.a, self.state)
        self._start = min(start, self.reached)
        self._most, self._rounds = math.sqrt(product(matcher.a, matcher.a) * product(x, x)), 0
        self._least = 1e-9 if all(value.dtype == torch.float64 for value in x.values()) else 1e-6
        # Factors to assign, and tensors changed since their signs were looked at.
        self._pending, self._unsigned = set(matcher.moving), set[str]()

    def round(self) -> None:
        """Every permutation whose tensors have changed since it was last looked at, then the signs of those that have."""
        matcher = self.matcher
        moved = matcher.group.identity()
        for number in [number for number in matcher.moving if number in self._pending]:
            self._pending.discard(number)
            found = matcher.assigned(number, self._at)
            if found is not None:
                names = matcher.moved_by(number)
                self._at = self._at | found.act_on({name: self._at[name] for name in names if name in self._at})
                moved = found @ moved
                self._unsigned |= names
                self._pending |= matcher.touching(names, number)
        element, self._at, changed = matcher.resigned(self._at, self._unsigned)
        self._now, self._unsigned = element @ (moved @ self._now), set()
        self._pending |= matcher.touching(changed, None)
        reached, before = product(matcher.a, self._at), self.reached
        if reached > before:
            self.reached, self.total, self.state = reached, self._now, self._at
        gained = reached - before
        # Where a space occurs twice in one tensor the assignment is an approximation: a round may lose.
        self._rounds += 1
        if reached > NEAR * self._most:
            self.is_over = not moved.parts or gained <= self._least * abs(before)
        else:
            few = reached < FAR * self._most and self._rounds >= FEW
            self.is_over = few or not moved.parts or gained <= max(self._least * abs(before), LITTLE * (before - self._start))


def summed(values: torch.Tensor, term: ScaleTerm) -> Array:
    """Sums over all places of a block but a term's, in the order of its tables."""
    kept = sorted(term.places)
    gone = tuple(p for p in range(values.ndim) if p not in term.places)
    out = (values.sum(gone) if gone else values).double().cpu().numpy()
    return np.asarray(out.transpose([kept.index(p) for p in term.places]) if kept else out)


def from_tops(group: SymmetryGroup, number: int, tables: Sequence[Array]) -> GroupElement:
    """The scales, or signs, of one factor whose functions on the most spaces are given.

    Args:
        number: of the factor.
        tables: per variable of the factor, an array of its shape: logarithms, or whether it is negative; those on fewer spaces follow from the
            others.
    """
    variables = [group.scales.variables[v] for v in group.factors[number].variables]
    tops = iter([values for values, v in zip(tables, variables, strict=True) if is_top(v, variables)])
    return GroupElement(group, {number: tuple(drawn(variables, lambda shape: next(tops)))})


def is_top(variable: ScaleVariable, others: Sequence[ScaleVariable]) -> bool:
    """Whether a variable is on spaces that none of the others has and more."""
    return not any(set(variable.places) < set(other.places) for other in others)
