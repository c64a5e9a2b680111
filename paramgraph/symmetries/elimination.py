"""Incremental sparse elimination of homogeneous linear systems over the rationals and over GF(2).

Unknowns are numbers. The highest number of a row is solved for, so an unknown that came late is written in those that came early; what is
never solved for is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

# A linear form: coefficients by unknown, none of them zero. Whole coefficients are integers.
Form = Mapping[int, int | Fraction]
# A linear form over GF(2): the unknowns whose coefficient is 1.
Parity = frozenset[int]

ZERO: Form = {}
EVEN: Parity = frozenset()


def plus(a: Form, b: Form, times: int | Fraction = 1) -> Form:
    """`a + times · b`."""
    if not b or not times:
        return a
    if not a and times == 1:
        return b
    out = dict(a)
    for unknown, coefficient in b.items():
        total = out.get(unknown, 0) + times * coefficient
        if total:
            out[unknown] = total
        else:
            del out[unknown]
    return out


def scaled(a: Form, times: int | Fraction) -> Form:
    """`times · a`."""
    if times == 1:
        return a
    if not times:
        return ZERO
    if type(times) is not int and times.numerator in (1, -1) and all([coefficient % times.denominator == 0 for coefficient in a.values()]):
        return {unknown: times.numerator * (coefficient // times.denominator) for unknown, coefficient in a.items()}
    return {unknown: _whole(times * coefficient) for unknown, coefficient in a.items()}


def _whole(number: int | Fraction) -> int | Fraction:
    return number if type(number) is int or number.denominator != 1 else number.numerator


class RationalSystem:
    """Rows that are zero, over the rationals."""

    def __init__(self) -> None:
        self.solved: dict[int, Form] = {}

    def reduce(self, form: Form) -> Form:
        """The form written in free unknowns."""
        solved = self.solved
        while len(form) == 1:  # by far the most
            ((unknown, coefficient),) = form.items()
            inner = solved.get(unknown)
            if inner is None or not inner:
                return form if inner is None else inner
            if coefficient != 1:
                break
            form = inner
        if solved.keys().isdisjoint(form):
            return form
        pending = [unknown for unknown in form if unknown in solved]
        out = dict(form)
        while pending:
            unknown = pending.pop()
            coefficient = out.pop(unknown, 0)
            if not coefficient:
                continue
            for other, factor in solved[unknown].items():
                total = out.get(other, 0) + coefficient * factor
                if not total:
                    del out[other]
                    continue
                if other not in out and other in solved:
                    pending.append(other)
                out[other] = _whole(total)
        return out

    def add(self, form: Form) -> bool:
        """Let a form be zero. Returns whether that said anything new."""
        row = self.reduce(form)
        if not row:
            return False
        top = max(row)
        factor = row[top]
        if factor in (1, -1):
            self.solved[top] = {unknown: -factor * coefficient for unknown, coefficient in row.items() if unknown != top}
        else:
            self.solved[top] = {unknown: _whole(Fraction(-coefficient) / factor) for unknown, coefficient in row.items() if unknown != top}
        return True

    def settle(self, below: int) -> None:
        """Write every solved unknown below a number in free ones."""
        solved = self.solved
        for unknown in sorted([unknown for unknown in solved if unknown < below]):
            form = solved[unknown]
            if form:
                solved[unknown] = self.reduce(form)


class BinarySystem:
    """Rows that are zero, over GF(2)."""

    def __init__(self) -> None:
        self.solved: dict[int, Parity] = {}

    def reduce(self, form: Iterable[int]) -> Parity:
        """The form written in free unknowns."""
        solved = self.solved
        out = frozenset(form)
        if solved.keys().isdisjoint(out):
            return out
        while pending := [unknown for unknown in out if unknown in solved]:
            for unknown in pending:
                if unknown in out:
                    out = (out - {unknown}) ^ solved[unknown]
        return out

    def add(self, form: Iterable[int]) -> bool:
        """Let a form be zero. Returns whether that said anything new."""
        row = self.reduce(form)
        if not row:
            return False
        top = max(row)
        self.solved[top] = row - {top}
        return True

    def settle(self, below: int) -> None:
        """Write every solved unknown below a number in free ones."""
        solved = self.solved
        for unknown in sorted([unknown for unknown in solved if unknown < below]):
            form = solved[unknown]
            if form:
                solved[unknown] = self.reduce(form)
