"""Axes of views as products of atoms: factors of the axes of the tensor that they are views of, and new ones along which it is the same."""

from __future__ import annotations

from collections.abc import Sequence

# The axis that it is a factor of (−1 for a new one), how many elements of that axis lie between two of its places, and its size.
Atom = tuple[int, int, int]
# The atoms of an axis, the outermost first.
Layout = tuple[Atom, ...]


def whole(axis: int, size: int) -> Layout:
    """An axis as it is."""
    return ((axis, 1, size),)


def cut(atoms: Sequence[Atom], sizes: Sequence[int]) -> list[Layout] | None:
    """Atoms that lie end to end, as axes of other sizes; None if a boundary would fall inside an atom that no such factor ends at."""
    waiting, out = list(atoms), list[Layout]()
    for size in reversed(sizes):
        held: list[Atom] = []
        left = size
        while left > 1:
            if not waiting:
                return None
            axis, step, n = waiting.pop()
            if left % n == 0:
                held.append((axis, step, n))
                left //= n
            elif n % left == 0:
                held.append((axis, step, left))
                waiting.append((axis, step * left if axis >= 0 else 1, n // left))
                left = 1
            else:
                return None
        out.append(_joined(held[::-1]))
    return out[::-1] if all(n == 1 for _, _, n in waiting) else None


def _joined(atoms: Sequence[Atom]) -> Layout:
    """Neighbours that are neighbours in one axis, or both new, as one."""
    out: list[Atom] = []
    for axis, step, n in atoms:
        if n == 1:
            continue
        if out and out[-1][0] == axis and (axis < 0 or out[-1][1] == step * n):
            n, step = out.pop()[2] * n, step
        out.append((axis, step, n))
    return tuple(out)
