"""Values as sums of multiples of a few elements: how a linear map along some axes is followed, element by element.

Each element of a value is a sum of terms: an element of what is followed, times a number, under a symbol. A symbol stands for a linear map of all
that is not followed (batch, positions, what a row of weights multiplies), and is a hash of how it came about: equal symbols are equal maps,
whatever the values. Axes that are not followed are numbered in order, those of one element left out: the coordinates on which such maps act.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray

# Values of more elements along the axes that are followed are not followed.
MOST = 1 << 22
_ODD = np.uint64(0x9E3779B97F4A7C15)


class Tangled(Exception):
    """A value is no such sum, as far as is known."""


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of a value's elements.

    Attributes:
        dims: dimensions along which elements are followed, ascending.
        index: what each term is a multiple of, shape `(terms, *sizes of dims)`.
        number: by which it is multiplied, of that shape; 0 for no term.
        symbol: the map that is applied to it, of that shape, unsigned.
    """

    dims: tuple[int, ...]
    index: Array
    number: Array
    symbol: Array

    def each(self, change: Callable[[Array], Array]) -> Terms:
        """The same change of layout for index, number and symbol."""
        return replace(self, index=change(self.index), number=change(self.number), symbol=change(self.symbol))

    def under(self, *key: Any) -> Terms:
        """The terms after one more map."""
        return replace(self, symbol=mixed(self.symbol, hashed(*key)))

    def at(self, dims: Sequence[int]) -> Terms:
        """The same terms for a value whose dimensions are numbered otherwise.

        Args:
            dims: per own dimension, what it becomes.
        """
        order = np.argsort(dims)
        moved = self.each(lambda array: array.transpose(0, *(1 + order)))
        return replace(moved, dims=tuple(dims[i] for i in order))

    def coordinates(self, shape: Sequence[int]) -> list[int]:
        """The dimensions that are not followed, of more than one element each."""
        return [d for d, n in enumerate(shape) if n > 1 and d not in self.dims]


def hashed(*key: Any) -> np.uint64:
    """A number for anything that prints as what it is."""
    return np.uint64(int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little"))


def mixed(symbol: Array, key: Array | np.uint64) -> Array:
    """Symbols of maps that are followed by another; the order counts."""
    with np.errstate(over="ignore"):
        out = (symbol * _ODD + key + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
        return (out ^ (out >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)


def leaf(size: int, dim: int, first: int) -> Terms:
    """The elements of one axis, numbered from `first`."""
    shape = (1, size)
    return Terms((dim,), first + np.arange(size).reshape(shape), np.ones(shape), np.zeros(shape, dtype=np.uint64))


def spread(terms: Terms, dims: Sequence[int], shape: Sequence[int], piece: int = 0) -> Terms:
    """Terms that are followed along more dimensions: each position there is a map of its own.

    Args:
        dims: those to add.
        shape: of the value.
        piece: tells positions in one value from those in another.

    Raises:
        Tangled: there would be too many.
    """
    wanted = sorted({*terms.dims, *dims})
    if tuple(wanted) == terms.dims:
        return terms
    sizes = [shape[d] for d in wanted]
    if len(terms.index) * math.prod(sizes) > MOST:
        raise Tangled
    narrow = [n if d in terms.dims else 1 for d, n in zip(wanted, sizes, strict=True)]

    def change(array: Array) -> Array:
        return np.broadcast_to(array.reshape(len(array), *narrow), (len(array), *sizes))

    coordinates = terms.coordinates(shape)
    out = replace(terms.each(change), dims=tuple(wanted))
    for place, (d, n) in enumerate(zip(wanted, sizes, strict=True)):
        if d not in coordinates:
            continue
        keys = np.array([hashed("at", coordinates.index(d), piece, i) for i in range(n)], dtype=np.uint64)
        out = replace(out, symbol=mixed(out.symbol, keys.reshape([-1 if p == place else 1 for p in range(len(wanted))])))
    return out


def total(a: Terms, b: Terms) -> Terms:
    """The terms of a sum of two values that are followed along the same dimensions."""
    return Terms(a.dims, *(np.concatenate([getattr(part, name) for part in (a, b)]) for name in ("index", "number", "symbol")))


def permuted(terms: Terms, order: Sequence[int], shape: Sequence[int]) -> Terms:
    coordinates = terms.coordinates(shape)
    moved = [coordinates.index(d) for d in order if d in coordinates]
    place = {d: new for new, d in enumerate(order)}
    out = terms.at([place[d] for d in terms.dims])
    return out if moved == sorted(moved) else out.under("permute", moved)


def taken(terms: Terms, dim: int, index: Sequence[int] | Array, shape: Sequence[int]) -> Terms:
    if dim not in terms.dims:
        coordinates = terms.coordinates(shape)
        return terms.under("take", coordinates.index(dim) if dim in coordinates else -1, np.asarray(index).tobytes())
    return terms.each(lambda array: array.take(np.asarray(index), 1 + terms.dims.index(dim)))


def reshaped(terms: Terms, before: Sequence[int], after: Sequence[int]) -> Terms:
    """The terms of a reshaped value. Axes that are regrouped with some that are followed are followed, too.

    Raises:
        Tangled: there would be too many.
    """
    terms = _squeezed(terms)
    dims: list[int] = []
    others = []
    for olds, news in regrouped(before, after):
        if set(olds).isdisjoint(terms.dims):
            others.append(([before[d] for d in olds], [after[d] for d in news]))
        else:
            dims += news
            terms = spread(terms, olds, before)
    found = terms.each(lambda array: array.reshape(len(array), *(after[d] for d in dims)))
    out = replace(found, dims=tuple(dims))
    return out if all(olds == news for olds, news in others) else out.under("reshape", others)


def _squeezed(terms: Terms) -> Terms:
    kept = [place for place, n in enumerate(terms.index.shape[1:]) if n > 1]
    found = terms.each(lambda array: array.reshape(len(array), *(array.shape[1 + place] for place in kept)))
    return replace(found, dims=tuple(terms.dims[place] for place in kept))


def concatenated(parts: Sequence[Terms | None], shapes: Sequence[Sequence[int]], dim: int) -> Terms:
    """The terms of values that are laid end to end; None for one of zeros.

    Raises:
        Tangled: there would be too many.
    """
    known = [part for part in parts if part is not None]
    dims = sorted({dim, *(d for part in known for d in part.dims)})
    count = max(len(part.index) for part in known)
    laid = []
    for piece, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
        sizes = [shape[d] for d in dims]
        if count * math.prod(sizes) > MOST:
            raise Tangled
        arrays = [np.zeros((count, *sizes), dtype=kind) for kind in (np.int64, np.float64, np.uint64)]
        if part is not None:
            # Positions along other axes are those of all operands, along this one they are not.
            wide = spread(spread(part, [d for d in dims if d != dim], shape), dims, shape, piece)
            for array, own in zip(arrays, (wide.index, wide.number, wide.symbol), strict=True):
                array[: len(own)] = own
        laid.append(arrays)
    axis = 1 + dims.index(dim)
    return Terms(tuple(dims), *(np.concatenate([arrays[n] for arrays in laid], axis) for n in range(3)))


def regrouped(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The least sets of axes that are reshaped into each other; axes of one element are left out."""
    left, right = ([d for d, n in enumerate(shape) if n > 1] for shape in (before, after))
    i = j = 0
    while i < len(left) or j < len(right):
        olds, news, a, b = [left[i]], [right[j]], before[left[i]], after[right[j]]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a *= before[left[i]]
                olds.append(left[i])
                i += 1
            else:
                b *= after[right[j]]
                news.append(right[j])
                j += 1
        yield olds, news
