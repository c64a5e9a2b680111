"""Weight matching: the permutations and signs that bring one network's parameters closest to another's.

Coordinate descent over the factors of the group (Ainsworth, Hayase & Srinivasa 2023, arXiv:2209.04836, section 3.2), with a linear assignment
for each copy of a factor: spaces that depend on others are matched within each element of those, and joint spaces as products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from paramgraph.symmetries.action import Array
from paramgraph.symmetries.element import GroupElement
from paramgraph.symmetries.gauge import block_view
from paramgraph.symmetries.scales import Scales, ScaleTerm, ScaleVariable, drawn
from paramgraph.symmetries.slices import Slices, slices_of

if TYPE_CHECKING:
    from paramgraph.symmetries.group import SymmetryGroup

State = Mapping[str, torch.Tensor]


def product(a: State, x: State) -> float:
    """Inner product of two states."""
    return sum(float((a[name] * x[name]).sum()) for name in a)


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

    def match(self, x: State, rounds: int) -> tuple[GroupElement, dict[str, torch.Tensor]]:
        """Coordinate descent from `x`.

        Returns:
            The element, and `x` under it.
        """
        total, state = self.group.identity(), dict(x)
        element, state = self._resigned(state)
        total = element @ total
        best, best_total, best_state = product(self.a, state), total, state
        for _ in range(rounds):
            moved = False
            for number in self.moving:
                found = self._assigned(number, state)
                if found is not None:
                    moved = True
                    state = state | found.act_on({name: state[name] for name in self._moved_by(number) if name in state})
                    total = found @ total
            element, state = self._resigned(state)
            total = element @ total
            reached = product(self.a, state)
            # Where a space occurs twice in one tensor the assignment is an approximation: a round may lose.
            if reached > best:
                gained = reached - best > 1e-9 * abs(best)
                best, best_total, best_state = reached, total, state
                if not gained:
                    break
            elif moved:
                break
            if not moved:
                break
        return best_total, best_state

    def _assigned(self, number: int, state: State) -> GroupElement | None:
        """The best permutation of one factor, all others fixed; None if it is the identity."""
        from scipy.optimize import linear_sum_assignment

        factor = self.group.permuting[number]
        gains: dict[frozenset[int], torch.Tensor] = {}
        for slices in self.moving[number]:
            a, x = slices.of(self.a[slices.name]), slices.of(state[slices.name])
            gain = (x @ a.transpose(1, 2)).double()  # (copies, element of x, element of a)
            key = self._signs_along(number, slices)
            gains[key] = gains[key] + gain if key in gains else gain
        # Tensors that take one sign are matched up to that sign.
        total = sum(gain.abs() if key else gain for key, gain in gains.items())
        assert isinstance(total, torch.Tensor)
        plain = np.arange(factor.size)
        part = np.stack([linear_sum_assignment(copy, maximize=True)[1] for copy in total.cpu().numpy()])
        still = total.diagonal(dim1=1, dim2=2).sum(1).cpu().numpy()
        won = np.asarray([float(copy[plain, to].sum()) for copy, to in zip(total.cpu().numpy(), part, strict=True)])
        part[won <= still + 1e-12 * np.abs(still)] = plain  # of equally good ones, the one that moves nothing
        return None if bool((part == plain).all()) else GroupElement(self.group, {number: part})

    def _signs_along(self, number: int, slices: Slices) -> frozenset[int]:
        """Sign variables by which the elements of a part may differ, all of whose tensors the factor moves."""
        moved = self._moved_by(number)
        return frozenset(
            v
            for block in self.scales.blocks.get(slices.name, ())
            for term in block.terms
            if {block.axis_of[p] for p in term.places} & slices.axes
            for v in term.variables
            if self.scales.variables[v].kind == "sign" and moved.issuperset(self.scales.tensors[v])
        )

    def _moved_by(self, number: int) -> set[str]:
        if number not in self._moved:
            self._moved[number] = set(self.group.acted_on_by(number))
        return self._moved[number]

    # -- signs ---------------------------------------------------------------------------------------------------------

    def _resigned(self, state: dict[str, torch.Tensor]) -> tuple[GroupElement, dict[str, torch.Tensor]]:
        """The signs that bring a state closest, by coordinate descent over the sign factors."""
        total = self.group.identity()
        if "sign" not in self.kinds:
            return total, state
        names = {v: [n for n in self.scales.tensors.get(v, ()) if n in state] for v in range(len(self.scales.variables))}
        for number, factor in enumerate(self.group.factors):
            if factor.kind != "sign":
                continue
            gains = [self._gain(v, state) for v in factor.variables]
            element = flipped(self.group, number, [gain < 0 for gain in gains])
            touched = {n: state[n] for v in factor.variables for n in names[v]}
            acted = element.act_on(touched)
            own = {n: self.a[n] for n in touched}
            if product(own, acted) > product(own, touched):
                total, state = element @ total, state | acted
        return total, state

    def _gain(self, number: int, state: State) -> Array:
        """Per element of a sign variable, the inner product of all that it multiplies."""
        variable = self.scales.variables[number]
        out = np.zeros(variable.shape)
        for name in self.scales.tensors.get(number, ()):
            if name not in state:
                continue
            for block in self.scales.blocks[name]:
                for term in block.terms:
                    if number in term.variables:
                        both = block_view(block, self.a[name]) * block_view(block, state[name])
                        out = out + summed(both, term)
        return out


def summed(values: torch.Tensor, term: ScaleTerm) -> Array:
    """Sums over all places of a block but a term's, in the order of its tables."""
    kept = sorted(term.places)
    gone = tuple(p for p in range(values.ndim) if p not in term.places)
    out = (values.sum(gone) if gone else values).double().cpu().numpy()
    return np.asarray(out.transpose([kept.index(p) for p in term.places]) if kept else out)


def flipped(group: SymmetryGroup, number: int, negative: Sequence[Array]) -> GroupElement:
    """The signs of one factor that are negative where its functions on the most spaces say so.

    Args:
        number: of the factor.
        negative: per variable of the factor, an array of its shape; those on fewer spaces follow from the others.
    """
    variables = [group.scales.variables[v] for v in group.factors[number].variables]
    tops = iter([values for values, v in zip(negative, variables, strict=True) if is_top(v, variables)])
    return GroupElement(group, {number: tuple(drawn(variables, lambda shape: next(tops)))})


def is_top(variable: ScaleVariable, others: Sequence[ScaleVariable]) -> bool:
    """Whether a variable is on spaces that none of the others has and more."""
    return not any(set(variable.places) < set(other.places) for other in others)
