"""Chains of layout operations that shift the rows of a table against each other.

Relative positions are often brought into place by padding a table, viewing it with rows of another length, and slicing (Dai et al.,
arXiv:1901.02860, appendix B; Bello et al., arXiv:1904.09925, appendix A). Typed step by step, every row is cut at another place, and what may
depend on the table becomes a family over hundreds of pieces; to find in the end that what comes out lies at fixed positions, and so what went
in is fixed. Whether it comes out at fixed positions is found beforehand, by typing everything else: what is fixed with fewer operations is
fixed with all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paramgraph.compiler.program import Op, Program, Value
from paramgraph.symmetries.spaces import Axis, SpaceSystem

KINDS = ("reshape", "permute", "take", "concat")


@dataclass(frozen=True, eq=False)
class Shift:
    """A chain in which rows come to lie beside parts of others.

    Attributes:
        source: what it starts from.
        steps: its operations, each the only reader of what the one before it made.
        dims: axes of the source of which it makes axes that are no products of theirs.
        outcome: axes of the result that these have become.
    """

    source: Value
    steps: tuple[Op, ...]
    dims: tuple[int, ...]
    outcome: tuple[int, ...]

    @property
    def cells(self) -> int:
        """How many pieces there are at most, were every row cut at another place."""
        return math.prod(self.source.shape[d] for d in self.dims)

    def skip(self, system: SpaceSystem) -> None:
        """Type the result as if nothing was known about it."""
        output = self.steps[-1].output
        output.axes = tuple(system.axis(n, "shifted") for n in output.shape)

    def is_fixed(self, system: SpaceSystem) -> bool:
        """Whether what comes out lies at fixed positions."""
        return _are_fixed(system, [self.steps[-1].output.axes[d] for d in self.outcome])

    def pin(self, system: SpaceSystem, step: Op) -> None:
        """Fix what goes into a step, for a chain whose result is fixed."""
        cause = "it is shifted into fixed positions"
        if step is self.steps[0]:
            for d in self.dims:
                system.pin(self.source.axes[d], cause)
        if step.kind == "concat":
            for value in step.inputs:
                if value.kind == "constant":
                    system.pin(value.axes[step.attrs["dim"]], cause)

    def offsets(self, system: SpaceSystem) -> list[Axis]:
        """The axes that it mixes, if all are fixed: positions, and distances between them."""
        axes = [self.source.axes[d] for d in self.dims]
        return axes if _are_fixed(system, axes) else []


def _are_fixed(system: SpaceSystem, axes: Sequence[Axis]) -> bool:
    return all(system.is_fixed(unit) for axis in axes for unit in system.units(axis))


def find_shifts(program: Program) -> list[Shift]:
    """The chains of a program that shift rows. Costs one pass where there are none."""
    readers: dict[Value, int] = {}
    for op in program.ops:
        for value in op.inputs:
            readers[value] = readers.get(value, 0) + 1
    for value, _ in program.outputs:
        readers[value] = readers.get(value, 0) + 1
    after = {moved: op for op in program.ops if (moved := _moved(op)) is not None and readers[moved] == 1}
    out = []
    for source, op in after.items():
        if source.op is not None and _moved(source.op) in after:
            continue  # inside a chain
        chain = [op]
        while (following := after.get(chain[-1].output)) is not None:
            chain.append(following)
        if sum(step.kind == "reshape" for step in chain) > 1 and any(step.kind in ("take", "concat") for step in chain[1:-1]):
            dims, outcome = _mixed(source.shape, chain)
            if dims:
                out.append(Shift(source, tuple(chain), dims, outcome))
    return out


def _moved(op: Op) -> Value | None:
    """What a layout operation moves, if that is one computed value; a concatenation may put constants beside it."""
    if op.kind not in KINDS:
        return None
    moved = [value for value in op.inputs if value.kind != "constant"]
    return moved[0] if len(moved) == 1 and moved[0].kind == "op" and not moved[0].parametric else None


@dataclass(frozen=True, slots=True)
class _Atom:
    """A factor of an axis, and the axes of the source that are in it."""

    size: int
    dims: frozenset[int]


def _mixed(shape: Sequence[int], chain: Sequence[Op]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes of what a chain starts from of which it makes axes that are no products of factors of them, and axes of its result that these become."""
    axes = [[_Atom(n, frozenset({d}))] if n > 1 else [] for d, n in enumerate(shape)]
    mixed: set[int] = set()
    for op in chain:
        if op.kind == "permute":
            axes = [axes[d] for d in op.attrs["order"]]
        elif op.kind == "reshape":
            axes = _regrouped([atom for axis in axes for atom in axis], op.output.shape, mixed)
        else:  # what is left of a product of several factors, or put beside it, is no product
            d = op.attrs["dim"]
            axes[d] = [_Atom(op.output.shape[d], frozenset().union(*(atom.dims for atom in axes[d])))]
    return tuple(sorted(mixed)), tuple(d for d, axis in enumerate(axes) if any(not atom.dims.isdisjoint(mixed) for atom in axis))


def _regrouped(atoms: list[_Atom], shape: Sequence[int], mixed: set[int]) -> list[list[_Atom]]:
    """Atoms as axes of other sizes. Where a boundary falls inside one that stands for several axes, or would be crossed, these are mixed."""
    stack, out = atoms[::-1], []
    for n in shape:
        axis: list[_Atom] = []
        left = n
        while left > 1:
            atom = stack.pop()
            if left % atom.size == 0:
                axis.append(atom)
                left //= atom.size
                continue
            if math.gcd(atom.size, left) == 1:  # everything from here to where boundaries meet again is one
                size, dims = atom.size, atom.dims.union(*(own.dims for own in axis))
                while size % left:
                    other = stack.pop()
                    size, dims = size * other.size, dims | other.dims
                atom = _Atom(size, dims)
            common = math.gcd(atom.size, left)
            if len(atom.dims) > 1:
                mixed |= atom.dims
            stack += [_Atom(atom.size // common, atom.dims), _Atom(common, atom.dims)]
        out.append(axis)
    return out
