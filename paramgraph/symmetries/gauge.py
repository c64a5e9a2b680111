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

# Of the conjugate gradients: relative size of the residual at the end, for numbers in double precision and for others, and largest number
# of steps.
TOLERANCE = 1e-12
COARSE = 1e-6
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

    @property
    def is_plain(self) -> bool:
        return isinstance(self.weight, float) and all(len(term.places) < 2 for term in self.terms)


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
    exact = all(value.dtype == torch.float64 for value in values.values())
    return system.solve(TOLERANCE if exact else COARSE)


def block_view(block: ScaleBlock, tensor: torch.Tensor) -> torch.Tensor:
    """A block's elements over its spaces; a view where the block is all of the tensor."""
    whole = tensor.detach()
    for d, index in enumerate(block.index):
        if index is not None:
            whole = whole.index_select(d, torch.from_numpy(index).to(whole.device))
    return whole.reshape(block.flat)


def _rows(block: ScaleBlock, scales: Scales, value: torch.Tensor, target: torch.Tensor | None) -> _Rows:
    found: dict[tuple[int, ...], list[tuple[int, float]]] = {}
    for term in block.terms:
        own = [(v, float(Fraction(*e))) for v, e in zip(term.variables, term.exponents, strict=True) if scales.variables[v].kind == "scale"]
        if own:
            found.setdefault(term.places, []).extend(own)
    along = sorted({p for places in found for p in places})
    if not found:
        return _Rows((), (), 0.0, np.zeros(()))
    rest = tuple(i for i in range(len(block.flat)) if i not in along)
    logs = block_view(block, value).abs().log().neg_()
    if target is not None:
        logs += block_view(block, target).abs().log()
    weight: Array | float = float(math.prod(block.flat[i] for i in rest))
    missing = _summed(logs, rest)
    if not bool(missing.isfinite().all()):  # zeros, infinities: they do not count
        known = logs.isfinite()
        weight = _summed(known.double(), rest).cpu().numpy()
        missing = _summed(torch.where(known, logs, 0.0), rest)
    at = {p: i for i, p in enumerate(along)}
    renamed = tuple(_Term(tuple(at[p] for p in places), tuple(own)) for places, own in found.items())
    return _Rows(tuple(block.flat[p] for p in along), renamed, weight, missing.double().cpu().numpy())


def _summed(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    return values.sum(dims) if dims else values


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
        self.plain = _Plain([r for r in rows if r.is_plain], self.spans, self.size)
        self.others = [r for r in rows if not r.is_plain]

    def solve(self, tolerance: float) -> Tables:
        """By conjugate gradients, preconditioned with the diagonal."""
        right = self._gathered([[(term, _reduced(r.missing, term, len(r.sizes))) for term in r.terms] for r in self.rows])
        x = np.zeros(self.size)
        diagonal = self._diagonal()
        residual = right
        step = residual / diagonal
        fit = float(residual @ step)
        least = tolerance**2 * fit
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
        out = self._gathered([self._block_times(r, x) for r in self.others])
        return out + np.where(self.free, self.plain.times(x), 0.0)

    def _block_times(self, r: _Rows, x: Array) -> list[tuple[_Term, Array]]:
        rank = len(r.sizes)
        logs = np.zeros(r.sizes)
        for term in r.terms:
            table: Array | float = 0.0
            for v, coefficient in term.variables:
                table = table + coefficient * x[self.spans[v]].reshape(self.shapes[v])
            logs += _placed(np.asarray(table), term, rank)
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


class _Plain:
    """Blocks without zeros whose terms are functions of one index each, all at once: by far the most.

    A term's values are a sparse matrix times the variables. What the other terms of its block add to its sums is one number: the sum of their
    means.
    """

    def __init__(self, rows: Sequence[_Rows], spans: Mapping[int, slice], size: int) -> None:
        from scipy.sparse import csr_array

        lengths = [r.sizes[term.places[0]] if term.places else 1 for r in rows for term in r.terms]
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.block = np.repeat(np.arange(len(rows)), [len(r.terms) for r in rows])
        counts = np.asarray([math.prod(r.sizes) * float(r.weight) for r in rows])
        self.weights = np.repeat(counts[self.block] / self.lengths, self.lengths) if rows else np.zeros(0)
        ends = np.cumsum([0, *lengths])
        self.starts, total = ends[:-1], int(ends[-1])
        entries = []
        for start, length, term in zip(self.starts.tolist(), lengths, (term for r in rows for term in r.terms), strict=True):
            for v, coefficient in term.variables:
                entries.append((start + np.arange(length), spans[v].start + np.arange(length), np.full(length, coefficient)))
        places, columns, data = (np.concatenate([entry[i] for entry in entries]) if entries else np.zeros(0, dtype=np.int64) for i in range(3))
        self.matrix = csr_array((data.astype(np.float64), (places, columns)), shape=(total, size))
        self.transposed = self.matrix.T.tocsr()

    def times(self, x: Array) -> Array:
        if not len(self.lengths):
            return np.zeros_like(x)
        values = self.matrix @ x
        means = np.add.reduceat(values, self.starts) / self.lengths
        others = np.bincount(self.block, weights=means)[self.block] - means
        return np.asarray(self.transposed @ ((values + np.repeat(others, self.lengths)) * self.weights))


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
