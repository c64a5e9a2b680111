"""Classes of axes that one orthogonal matrix acts on, each behind gains of its own.

An axis is acted on by `diag(g) Q diag(g)⁻¹`, with a product g of powers of gains. What operations ask for relates the powers of two axes: they
are equal up to what lies between them, or each other's inverses where the axes are summed over together; or they are none, where a length is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

# Powers of gains, `(name, number added)`.
Gain = tuple[str, float]
Powers = Mapping[Gain, Fraction | int]


def plus(a: Powers, b: Powers, times: int | Fraction = 1) -> Powers:
    """Powers of a product with another product to some power."""
    out: Counter[Gain] = Counter(a)
    for gain, power in b.items():
        out[gain] += power * times  # type: ignore[assignment]
    return {gain: power for gain, power in out.items() if power}


@dataclass
class _Class:
    """Axes that are related.

    Attributes:
        powers: of the first axis; None while nothing asks for any.
        rigid: whether lengths are taken, or an axis is summed over with itself: matrices must be orthogonal.
        centred: whether means are taken.
        lost: whether something else is done with an axis.
    """

    powers: Powers | None = None
    rigid: bool = False
    centred: bool = False
    lost: bool = False


@dataclass
class Conjugations:
    """Axes by number, with what relates them.

    An axis' powers are `sign · (powers of the first axis of its class) + offset`.
    """

    parents: list[tuple[int, int, Powers]] = field(default_factory=list)
    classes: dict[int, _Class] = field(default_factory=dict)

    def add(self) -> int:
        number = len(self.parents)
        self.parents.append((number, 1, {}))
        self.classes[number] = _Class()
        return number

    def find(self, axis: int) -> tuple[int, int, Powers]:
        """The first axis of its class, the sign and the offset."""
        parent, sign, offset = self.parents[axis]
        if parent == axis:
            return axis, 1, {}
        first, outer, above = self.find(parent)
        found = first, sign * outer, plus(offset, above, sign)
        self.parents[axis] = found
        return found

    def of(self, axis: int) -> _Class:
        return self.classes[self.find(axis)[0]]

    def powers(self, axis: int) -> Powers:
        """An axis' powers, if something asked for any in its class."""
        first, sign, offset = self.find(axis)
        return plus(offset, self.classes[first].powers or {}, sign)

    def lose(self, axis: int) -> None:
        self.of(axis).lost = True

    def relate(self, a: int, behind_a: Powers, b: int, behind_b: Powers, sign: int) -> None:
        """Let values that are axes behind further gains have equal powers (`sign` 1), or opposite ones (−1)."""
        first_a, sign_a, offset_a = self.find(a)
        first_b, sign_b, offset_b = self.find(b)
        # sign_a · A + left = sign · (sign_b · B + right)
        left, right = plus(offset_a, behind_a), plus(offset_b, behind_b)
        rest = plus(plus({}, right, sign), left, -1)
        if first_a == first_b:
            if sign_a == sign * sign_b:
                self.classes[first_a].lost |= bool(rest)
            else:
                self._settle(first_a, plus({}, rest, Fraction(sign_a, 2)))
            return
        self.parents[first_a] = (first_b, sign_a * sign * sign_b, plus({}, rest, sign_a))
        old, new = self.classes.pop(first_a), self.classes[first_b]
        new.rigid, new.centred, new.lost = new.rigid or old.rigid, new.centred or old.centred, new.lost or old.lost
        if old.powers is not None:
            _, turned, offset = self.parents[first_a]
            self._settle(first_b, plus(plus({}, old.powers, turned), offset, -turned))

    def measure(self, axis: int, behind: Powers, centred: bool = False) -> None:
        """Let a value have no powers, since a length, or a mean, of it is taken."""
        first, sign, offset = self.find(axis)
        self._settle(first, plus({}, plus(offset, behind), -sign))
        self.classes[first].centred |= centred

    def _settle(self, first: int, powers: Powers) -> None:
        found = self.classes[first]
        found.rigid = True
        if found.powers is None:
            found.powers = powers
        found.lost |= dict(found.powers) != dict(powers)
