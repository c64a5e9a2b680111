"""Finds matrices between queries and keys, or whatever is multiplied so, that commute with what is done to either in between.

Rows x and y of two parameters are multiplied as `Σ xᵀ M y`, with fixed matrices M, each times a function of its own (a product of a query's and
a key's column of rotary tables, say). Acting on y by B, and on x by the inverse's transpose, changes nothing if B commutes with every M, where x
is ordered such that one of them is a multiple of the identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from paramgraph.compiler.following import Follower, Product
from paramgraph.compiler.program import Program
from paramgraph.compiler.terms import MOST, hashed, mixed
from paramgraph.symmetries.commuting import CommutingFactor, CommutingPart
from paramgraph.symmetries.matrices import MatrixFactor

Array = np.ndarray
# Blocks that are mixed by fixed matrices of more rows are left alone.
LARGEST = 8
# Matrices of one element of size 1: negative, positive.
_UNITS = (np.full((1, 1), -1.0).tobytes(), np.ones((1, 1)).tobytes())


@dataclass(frozen=True, eq=False)
class _Entries:
    """Elements of the fixed matrices: those of one result and symbol are one matrix.

    Attributes:
        result: numbers of the results' elements that they are in.
        symbol: which matrix.
        x: their rows.
        y: their columns.
        number: their values.
    """

    result: Array
    symbol: Array
    x: Array
    y: Array
    number: Array

    def chosen(self, where: Array) -> _Entries:
        return _Entries(self.result[where], self.symbol[where], self.x[where], self.y[where], self.number[where])


@dataclass(frozen=True)
class _Block:
    """Elements that fixed matrices mix with each other.

    Attributes:
        base: the elements on which matrices act, shape `(m,)`.
        duals: those on which the inverses' transposes act, in the same order, shape `(uses, m)`.
        signature: the fixed matrices, by results and symbols.
    """

    base: tuple[int, ...]
    duals: tuple[tuple[int, ...], ...]
    signature: tuple[tuple[int, int, str, bytes], ...]


def find_commuting(program: Program, known: Sequence[object] = ()) -> tuple[CommutingFactor, ...]:
    """The matrices that commute with fixed ones, where these are not multiples of the identity.

    Args:
        program: the program.
        known: factors that are found already.
    """
    follower = Follower(program)
    if not follower.products:
        return ()
    return _Finder(follower, [factor for factor in known if isinstance(factor, MatrixFactor)]).run()


class _Kind(NamedTuple):
    """What blocks have in common whose matrices make one factor: the algebra, its rows, blocks mixed alike, uses, and the rows of parameters."""

    basis: bytes
    rows: int
    multiplicity: int
    uses: int
    base: tuple[int, ...]
    duals: tuple[int, ...]


class _Finder:
    def __init__(self, follower: Follower, known: Sequence[MatrixFactor]) -> None:
        self.follower, self.known = follower, known
        self.same = self._merged()

    def _merged(self) -> Array:
        """Per element, the first of those that are moved alike; all of them are lost if one is, or if two are of one parameter."""
        lost, owner = self.follower.lost, self.follower.owner
        pairs = [np.concatenate(arrays) for arrays in zip(*self.follower.links, strict=True)] or [np.zeros(0, dtype=int)] * 2
        _, same = _connected(pairs[0], pairs[1], len(owner))
        found = np.unique(np.stack([same, owner]), axis=1, return_counts=True)
        bad = np.zeros(int(same.max(initial=-1)) + 1, dtype=bool)
        bad[found[0][0][found[1] > 1]] = True
        bad[same[lost]] = True
        first = np.full(len(bad), len(owner))
        np.minimum.at(first, same, np.arange(len(owner)))
        self.lost = bad[same]
        return first[same]

    def run(self) -> tuple[CommutingFactor, ...]:
        entries = self._entries()
        count = len(self.same)
        _, group = _connected(entries.x, entries.y, count)
        lost = np.zeros(count, dtype=bool)
        lost[group[self.lost | self.lost[self.same]]] = True
        lost[group[np.intersect1d(entries.x, entries.y)]] = True  # one value multiplied with itself
        entries = entries.chosen(~lost[group[entries.x]])
        if not len(entries.x):
            return ()
        self.use = _together(entries.x, entries.result, count), _together(entries.y, entries.result, count)
        blocks = [block for part in _parted(entries, group[entries.x]) for block in [self._block(part)] if block is not None]
        merged: dict[tuple[tuple[int, int, str, bytes], ...], list[_Block]] = {}
        for block in blocks:
            merged.setdefault(block.signature, []).append(block)
        return tuple(self._factors(list(merged.values())))

    # -- the fixed matrices ----------------------------------------------------------------------------------------------

    def _entries(self) -> _Entries:
        """The elements of all fixed matrices; those of products that are too large are lost."""
        found: list[_Entries] = []
        results = 0
        for product in self.follower.products:
            made = _multiplied(product)
            if made is None:
                for terms in product.terms:
                    self.lost[terms.index[terms.number != 0]] = True
                continue
            result, symbol, x, y, number = made
            found.append(_Entries(result + results, symbol, self.same[x], self.same[y], number))
            results += int(result.max(initial=-1)) + 1
        every = _Entries(*(np.concatenate([getattr(e, name) for e in found] or [np.zeros(0, dtype=int)]) for name in _Entries.__annotations__))
        keys = np.stack([every.result, every.symbol.astype(np.uint64).view(np.int64), every.x, every.y])
        unique, first, place = np.unique(keys, axis=1, return_index=True, return_inverse=True)
        number, sizes = (np.bincount(place.reshape(-1), weights=own, minlength=unique.shape[1]) for own in (every.number, np.abs(every.number)))
        every = every.chosen(first)
        return _Entries(every.result, every.symbol, every.x, every.y, number).chosen(np.abs(number) > 1e-12 * sizes)

    def _block(self, entries: _Entries) -> _Block | None:
        """The elements of one set of fixed matrices, ordered such that these commute with what may act."""
        if (entries.x == entries.x[0]).all() and (entries.y == entries.y[0]).all():
            return _numbers(entries)
        xs, ys = (_split(np.unique(elements), use) for elements, use in zip((entries.x, entries.y), self.use, strict=True))
        if len(xs) > 1 < len(ys):
            return None
        if len(ys) > 1:
            entries = _Entries(entries.result, entries.symbol, entries.y, entries.x, entries.number)
            xs, ys = ys, xs
        base, m = ys[0], len(ys[0])
        if m > LARGEST or any(len(use) != m for use in xs):
            return None
        duals, signature = [], []
        order = np.lexsort((entries.symbol, entries.result))
        keys = np.stack([entries.result[order], entries.symbol[order].view(np.int64)])
        starts = np.flatnonzero(np.r_[True, (keys[:, 1:] != keys[:, :-1]).any(0)])
        parts = [entries.chosen(part) for part in np.split(order, starts[1:])]
        for use in xs:
            matrices = []
            for part in parts:
                if part.x[0] in use:
                    matrix = np.zeros((m, m))
                    matrix[np.searchsorted(use, part.x), np.searchsorted(base, part.y)] = part.number
                    matrices.append((int(part.result[0]), int(part.symbol[0]), matrix))
            rows = next((found for _, _, matrix in matrices if (found := _frame(matrix)) is not None), None)
            if rows is None:
                return None
            duals.append(tuple(use[rows].tolist()))
            # With their numbers: blocks are mixed alike only if one matrix is the same multiple of the identity in all of them.
            for result, symbol, matrix in matrices:
                largest = float(np.abs(matrix).max())
                signature.append((result, symbol, f"{largest:.11e}", np.round(matrix[rows] / largest, 11).tobytes()))
        return _Block(tuple(base.tolist()), tuple(duals), tuple(sorted(signature)))

    # -- what is found -----------------------------------------------------------------------------------------------------

    def _factors(self, merged: Sequence[Sequence[_Block]]) -> Iterator[CommutingFactor]:
        """One factor for all that commute with matrices of one algebra and are of the same parameters."""
        known: dict[frozenset[bytes], Array] = {}
        like: dict[_Kind, list[tuple[Array, Array]]] = {}
        for blocks in merged:
            m = len(blocks[0].base)
            fixed = frozenset(matrix for *_, matrix in blocks[0].signature)
            if fixed not in known:
                known[fixed] = commutant([np.frombuffer(matrix).reshape(m, m) for matrix in sorted(fixed)])
            basis = known[fixed]
            if len(basis) == len(blocks) == 1:
                continue  # multiples of the identity: a scale
            base = np.array([block.base for block in blocks]).reshape(1, -1)
            duals = np.array([block.duals for block in blocks]).transpose(1, 0, 2).reshape(len(blocks[0].duals), -1)
            kind = _Kind(basis.tobytes(), m, len(blocks), len(duals), self._owners(base), self._owners(duals))
            if kind.base and kind.duals:
                like.setdefault(kind, []).append((base, duals))
        for kind, found in like.items():
            parts = []
            for numbers, dual in ((kind.base, False), (kind.duals, True)):
                elements = np.stack([pair[dual] for pair in found])
                for number in numbers:
                    root = self.follower.roots[number]
                    parts.append(CommutingPart(root.value.name, root.axis, self._places(number, elements), dual))
            parts.sort(key=lambda part: part.tensor)
            name = f"matrices along {parts[0].tensor} that commute with fixed ones"
            basis = np.frombuffer(kind.basis).reshape(-1, kind.rows, kind.rows).copy()
            factor = CommutingFactor(name, basis, kind.multiplicity, len(found), tuple(parts))
            if not self._is_known(factor):
                yield factor

    def _owners(self, elements: Array) -> tuple[int, ...]:
        """The roots that have all of some elements, or those that are moved with them."""
        return tuple(sorted(set.intersection(*(self.members[element] for element in elements.reshape(-1).tolist()))))

    @cached_property
    def members(self) -> dict[int, set[int]]:
        """Per element that stands for itself and others, the roots of all these."""
        out: dict[int, set[int]] = {}
        for element, number in zip(self.same.tolist(), self.follower.owner.tolist(), strict=True):
            out.setdefault(element, set()).add(number)
        return out

    def _places(self, number: int, elements: Array) -> Array:
        """Where some elements, or those that are moved with them, are along a root."""
        root = self.follower.roots[number]
        here = np.full(len(self.same), -1)
        here[self.same[root.first : root.first + root.size]] = np.arange(root.size)
        return here[elements]

    def _is_known(self, factor: CommutingFactor) -> bool:
        """Whether these are matrices that were found along an index space."""
        if len(factor.basis) > 1 or factor.basis.shape[1] > 1:
            return False
        return any(other.size == factor.size and other.copies >= factor.copies and set(other.tensors) >= set(factor.tensors) for other in self.known)


def _connected(a: Array, b: Array, count: int) -> tuple[int, Array]:
    return connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(count, count)), directed=False)


def _parted(entries: _Entries, group: Array) -> Iterator[_Entries]:
    order = np.argsort(group, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        yield entries.chosen(part)


def _together(elements: Array, results: Array, count: int) -> Array:
    """Per element a number: that of those that are in one result together."""
    return _connected(elements, count + results, count + int(results.max()) + 1)[1][:count]


def _numbers(entries: _Entries) -> _Block:
    """The block of two elements, which fixed numbers stand between: by far the most are of this kind."""
    held = zip(entries.result.tolist(), entries.symbol.tolist(), entries.number.tolist(), strict=True)
    signature = sorted([(result, symbol, f"{abs(number):.11e}", _UNITS[number > 0]) for result, symbol, number in held])
    return _Block((int(entries.y[0]),), ((int(entries.x[0]),),), tuple(signature))


def _split(elements: Array, group: Array) -> list[Array]:
    own = group[elements]
    return [elements[own == n] for n in dict.fromkeys(own.tolist())]


def _frame(matrix: Array) -> Array | None:
    """The order of rows that makes a matrix a multiple of the identity; None if there is none."""
    scale = float(matrix[np.nonzero(matrix)][0])
    ones = matrix / scale
    if not (np.isin(ones, (0.0, 1.0)).all() and (ones.sum(0) == 1).all() and (ones.sum(1) == 1).all()):
        return None
    return ones.argmax(0)


def commutant(matrices: Sequence[Array]) -> Array:
    """A basis of the matrices that commute with some of shape `(m, m)`, shape `(k, m, m)`: reduced, so that it is the same for the same matrices."""
    m = len(matrices[0])
    eye = np.eye(m)
    system = np.concatenate([np.kron(matrix, eye) - np.kron(eye, matrix.T) for matrix in matrices])
    _, values, right = np.linalg.svd(system, full_matrices=True)
    basis = right[int((values > 1e-9).sum()) :]
    row = 0
    for column in range(m * m):  # reduced row echelon form
        if row == len(basis):
            break
        pivot = row + int(np.abs(basis[row:, column]).argmax())
        if abs(basis[pivot, column]) < 1e-9:
            continue
        basis[[row, pivot]] = basis[[pivot, row]]
        basis[row] /= basis[row, column]
        for other in range(len(basis)):
            if other != row:
                basis[other] -= basis[other, column] * basis[row]
        row += 1
    return np.round(basis, 12).reshape(-1, m, m) + 0.0


def _multiplied(product: Product) -> tuple[Array, Array, Array, Array, Array] | None:
    """The terms of a product: results' numbers, symbols, elements of either operand, and numbers; None if there are too many."""
    (a, b), (la, lb) = product.terms, product.labels
    both = [label for label in la if label in lb and label not in product.summed]
    own = [[label for label in labels if label not in both and label not in product.summed] for labels in (la, lb)]
    sides = []
    for terms, labels, mine in ((a, la, own[0]), (b, lb, own[1])):
        order = [1 + labels.index(label) for label in (*mine, *both, *product.summed)]
        arrays = [array.transpose(0, *order) for array in (terms.index, terms.number, terms.symbol)]
        shape = arrays[0].shape[1:]
        alone = int(np.prod(shape[: len(mine)], dtype=int))
        flat = [array.reshape(len(array), alone, int(np.prod(shape[len(mine) : len(mine) + len(both)], dtype=int)), -1) for array in arrays]
        marks = np.stack([flat[0].view(np.int64), flat[1].view(np.int64), flat[2].view(np.int64)]).transpose(2, 0, 1, 3, 4).reshape(alone, -1)
        kept = np.sort(np.unique(marks, axis=0, return_index=True)[1])  # positions at which everything is the same say the same
        sides.append([array[:, kept] for array in flat])
    (xi, xn, xs), (yi, yn, ys) = sides
    shape = (len(xi), len(yi), xi.shape[1], yi.shape[1], xi.shape[2], xi.shape[3])
    if xi.shape[2:] != yi.shape[2:] or np.prod(shape, dtype=float) > MOST:
        return None

    def wide(array: Array, first: bool) -> Array:
        return np.broadcast_to(array[:, None, :, None] if first else array[None, :, None, :], shape).reshape(-1)

    result = np.broadcast_to(np.arange(int(np.prod(shape[2:5]))).reshape(shape[2:5])[None, None, ..., None], shape).reshape(-1)
    number = wide(xn, True) * wide(yn, False)
    symbol = mixed(mixed(wide(xs, True), wide(ys, False)), hashed("product"))
    kept = number != 0
    return result[kept], symbol[kept], wide(xi, True)[kept], wide(yi, False)[kept], number[kept]


