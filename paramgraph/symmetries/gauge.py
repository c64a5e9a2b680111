"""Magnitudes in closed form: the scales that bring the logarithms of a network's elements closest to given ones.

A character is linear in the logarithms of its variables, so this is one linear least-squares problem over all elements that are not zero. Its
solution moves with the network along its orbit, which makes it a normal form: with zeros as the target, each neuron's ingoing and outgoing
weights come out balanced in their geometric means. The normal equations are solved by conjugate gradients; where no element is zero, they
cost as much as the variables have entries, however large the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from paramgraph.symmetries.scales import ScaleBlock, Scales, anchored

Array = np.ndarray
Tables = dict[int, Array]

# Of the conjugate gradients: relative size of the residual at the end, and largest number of steps.
TOLERANCE = 1e-12
STEPS = 1000


@dataclass(frozen=True)
class _Term:
    """Scale variables on some places of a block: `(number, coefficient)` each."""

    places: tuple[int, ...]
    variables: tuple[tuple[int, float], ...]


@dataclass
class _Rows:
    """The equations of one block.

    Attributes:
        sizes: of the spaces that any term varies along.
        terms: the character; places count among these spaces.
        weight: how many elements each entry stands for, an array over the spaces, or a number where all stand for as many.
        missing: sums of the logarithms that the character should make up for, an array over the spaces.
    """

    sizes: tuple[int, ...]
    terms: tuple[_Term, ...]
    weight: Array | float
    missing: Array


def fitted(scales: Scales, values: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor] | None = None) -> Tables:
    """Tables of the scale variables that bring `values` closest to `target` in the logarithms of their elements.

    Args:
        scales: of the group.
        values: tensors by name. Those that are left out do not count.
        target: tensors of the same names; None for ones everywhere.
    """
    rows = [_rows(block, scales, values[name], None if target is None else target[name])
            for name, blocks in scales.blocks.items() if name in values for block in blocks]  # fmt: skip
    system = _System(scales, [r for r in rows if r.terms])
    return system.solve()


def block_view(block: ScaleBlock, tensor: torch.Tensor) -> Array:
    """A block's elements over its spaces, in float64."""
    whole = tensor.detach().to("cpu", torch.float64).numpy()
    if any(index is not None for index in block.index):
        full = [np.arange(math.prod(s)) if index is None else index for index, s in zip(block.index, block.sizes, strict=True)]
        whole = whole[np.ix_(*full)]
    return whole.reshape(block.flat)


def _rows(block: ScaleBlock, scales: Scales, value: torch.Tensor, target: torch.Tensor | None) -> _Rows:
    terms = []
    for term in block.terms:
        own = [(v, float(Fraction(*e))) for v, e in zip(term.variables, term.exponents, strict=True) if scales.variables[v].kind == "scale"]
        if own:
            terms.append((term.places, tuple(own)))
    along = sorted({p for places, _ in terms for p in places})
    if not terms:
        return _Rows((), (), 0.0, np.zeros(()))
    rest = tuple(i for i in range(len(block.flat)) if i not in along)
    data = np.abs(block_view(block, value))
    wanted = np.ones(()) if target is None else np.abs(block_view(block, target))
    known = (data > 0) & (wanted > 0) & np.isfinite(data) & np.isfinite(wanted)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(known, np.log(wanted) - np.log(data), 0.0)
    weight: Array | float = float(math.prod(block.flat[i] for i in rest))
    if not known.all():
        weight = np.broadcast_to(known, block.flat).sum(axis=rest, dtype=np.float64)
    at = {p: i for i, p in enumerate(along)}
    renamed = tuple(_Term(tuple(at[p] for p in places), own) for places, own in terms)
    return _Rows(tuple(block.flat[p] for p in along), renamed, weight, logs.sum(axis=rest))


class _System:
    """The normal equations of all blocks."""

    def __init__(self, scales: Scales, rows: Sequence[_Rows]) -> None:
        self.rows = rows
        self.numbers = sorted({v for r in rows for term in r.terms for v, _ in term.variables})
        self.shapes = {v: scales.variables[v].shape for v in self.numbers}
        ends = np.cumsum([0, *(math.prod(self.shapes[v]) for v in self.numbers)])
        self.spans = {v: slice(int(a), int(b)) for v, a, b in zip(self.numbers, ends[:-1], ends[1:], strict=True)}
        self.size = int(ends[-1])
        # Entries where an index is the first of its space are zero by definition.
        self.free = np.ones(self.size, dtype=bool)
        for v, shape in self.shapes.items():
            if shape:
                inner = np.zeros(shape, dtype=bool)
                inner[tuple(slice(1, None) for _ in shape)] = True
                self.free[self.spans[v]] = inner.reshape(-1)

    def solve(self) -> Tables:
        """By conjugate gradients, preconditioned with the diagonal."""
        right = self._gathered([[(term, _reduced(r.missing, term, len(r.sizes))) for term in r.terms] for r in self.rows])
        x = np.zeros(self.size)
        diagonal = self._diagonal()
        residual = right
        step = residual / diagonal
        fit = float(residual @ step)
        least = TOLERANCE**2 * fit
        for _ in range(STEPS):
            if fit <= least or fit == 0:
                break
            image = self._times(step)
            curvature = float(step @ image)
            if curvature <= 0:
                break
            x = x + step * (fit / curvature)
            residual = residual - image * (fit / curvature)
            scaled = residual / diagonal
            fit, before = float(residual @ scaled), fit
            step = scaled + step * (fit / before)
        return {v: anchored(x[self.spans[v]].reshape(self.shapes[v])) for v in self.numbers}

    def _gathered(self, found: Sequence[Sequence[tuple[_Term, Array]]]) -> Array:
        out = np.zeros(self.size)
        for each in found:
            for term, values in each:
                for v, coefficient in term.variables:
                    out[self.spans[v]] += coefficient * values.reshape(-1)
        return np.where(self.free, out, 0.0)

    def _times(self, x: Array) -> Array:
        return self._gathered([self._block_times(r, x) for r in self.rows])

    def _block_times(self, r: _Rows, x: Array) -> list[tuple[_Term, Array]]:
        rank = len(r.sizes)
        values = []
        for term in r.terms:
            table: Array | float = 0.0
            for v, coefficient in term.variables:
                own = x[self.spans[v]].reshape(self.shapes[v])
                table = table + (own if coefficient == 1 else coefficient * own)
            values.append(np.asarray(table))
        if isinstance(r.weight, float) and all(len(term.places) < 2 for term in r.terms):
            # By far the most: functions of one index each. What the others add to a term's sums is one number.
            sums = [float(value.sum()) for value in values]
            spans = [r.sizes[term.places[0]] if term.places else 1 for term in r.terms]
            count = math.prod(r.sizes) * r.weight
            out = []
            for i, term in enumerate(r.terms):
                others = sum(sums[j] / spans[j] for j in range(len(sums)) if j != i and r.terms[j].places != term.places)
                alike = sum(values[j] for j in range(len(sums)) if r.terms[j].places == term.places)
                out.append((term, np.asarray((alike + others) * (count / spans[i]))))
            return out
        logs = np.zeros(r.sizes)
        for term, value in zip(r.terms, values, strict=True):
            logs += _placed(value, term, rank)
        logs *= r.weight
        return [(term, _reduced(logs, term, rank)) for term in r.terms]

    def _diagonal(self) -> Array:
        out = np.zeros(self.size)
        for r in self.rows:
            weight = np.broadcast_to(r.weight, r.sizes)
            for term in r.terms:
                each = _reduced(weight, term, len(r.sizes)).reshape(-1)
                for v, coefficient in term.variables:
                    out[self.spans[v]] += coefficient**2 * each
        return np.where(out > 0, out, 1.0)


def _placed(table: Array, term: _Term, rank: int) -> Array:
    """A table over some places as an array over all, of size 1 along the others."""
    order = np.argsort(term.places)
    shape = [1] * rank
    for i in order:
        shape[term.places[i]] = table.shape[i]
    return table.transpose(order).reshape(shape)


def _reduced(values: Array, term: _Term, rank: int) -> Array:
    """Sums over all places but a term's, which are put in the order of its tables."""
    kept = sorted(term.places)
    summed = values.sum(axis=tuple(p for p in range(rank) if p not in term.places))
    return summed.transpose([kept.index(p) for p in term.places]) if kept else np.asarray(summed)
