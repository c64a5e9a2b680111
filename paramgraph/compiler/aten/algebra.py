"""Linear algebra: inverses, solutions, determinants, exponentials, diagonals, decompositions.

Most are equivariant in the rows and the columns of a matrix, one by one: `(P A Q)⁻¹ = Qᵀ A⁻¹ Pᵀ`. Those that read one triangle of it, or
eliminate row by row, know their order; so does whatever chooses the sign of a vector by one of its elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Labels, Value
from paramgraph.compiler.rules import exact_rule as rule


def _mixed(b: Builder, name: str, a: Value, ordered: bool = False) -> Value:
    """A matrix function whose elements depend on all of the matrix: rows move alike in all columns, and columns in all rows."""
    return b.mix(name, b.mix(name, a, [-2], ordered=ordered), [-1], ordered=ordered)


def _batch(*values: Value, held: int = 2) -> list[Labels]:
    """Labels of the axes before the last ones, aligned from behind."""
    rank = max(value.ndim for value in values) - held
    return [tuple(range(rank - (value.ndim - held), rank)) for value in values]


# -- diagonals ---------------------------------------------------------------------------------------------------------


def diagonal(b: Builder, x: Value, first: int, second: int, offset: int = 0) -> Value:
    """The elements of `x` whose indices along two axes are the same (or apart by `offset`), along a new last axis."""
    first, second = first % x.ndim, second % x.ndim
    x = b.permute(x, [*(d for d in range(x.ndim) if d not in (first, second)), first, second])
    rows, columns = x.shape[-2:]
    size = min(rows + min(offset, 0), columns - max(offset, 0))
    x = b.take(x, -2, range(max(-offset, 0), max(-offset, 0) + size))
    x = b.take(x, -1, range(max(offset, 0), max(offset, 0) + size))
    batch = tuple(range(x.ndim - 2))
    return b.contract(([(*batch, "i", "j"), ("i", "j")], (*batch, "i")), x, _identity(b, size), name="diagonal", product=True)


def _identity(b: Builder, size: int) -> Value:
    return b.constant([size, size], lambda: np.eye(size), "identity")


@rule("aten.diagonal", "aten.linalg_diagonal", "aten.diagonal_copy")
def diagonal_of(b: Builder, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    return diagonal(b, x, dim1, dim2, offset)


@rule("aten.trace")
def trace(b: Builder, x: Value) -> Value:
    return b.reduce(diagonal(b, x, 0, 1), [0])


@rule("aten.diag_embed")
def diag_embed(b: Builder, x: Value, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Value:
    """A matrix with `x` on its diagonal, and zeros elsewhere."""
    rank, n = x.ndim + 1, x.shape[-1]
    dim1, dim2 = dim1 % rank, dim2 % rank
    batch = tuple(range(x.ndim - 1))
    out = b.contract(([(*batch, "i"), ("i", "j")], (*batch, "i", "j")), x, _identity(b, n), name="diagonal", product=True)
    out = _beside(b, out, -2, max(-offset, 0), max(offset, 0))
    out = _beside(b, out, -1, max(offset, 0), max(-offset, 0))
    order = [0] * rank
    rest = iter(range(rank - 2))
    for d in range(rank):
        order[d] = rank - 2 if d == dim1 else rank - 1 if d == dim2 else next(rest)
    return b.permute(out, order)


def _beside(b: Builder, x: Value, dim: int, before: int, after: int) -> Value:
    """Zeros before and behind the elements of an axis."""
    dim %= x.ndim
    zeros = [b.fill([n if d == dim else size for d, size in enumerate(x.shape)], 0.0) if n else None for n in (before, after)]
    return b.concat([part for part in (zeros[0], x, zeros[1]) if part is not None], dim)


# -- inverses and solutions --------------------------------------------------------------------------------------------


@rule("aten.linalg_inv", "aten.inverse")
def inverse(b: Builder, a: Value) -> Value:
    return b.transpose(_mixed(b, "inverse", a), -1, -2)


@rule("aten.linalg_pinv")
def pseudo_inverse(b: Builder, a: Value, *args: Any, hermitian: bool = False, **kwargs: Any) -> Value:
    """Of a matrix said to be symmetric, one triangle is read: rows and columns are in order."""
    if any(isinstance(value, Value) for value in (*args, *kwargs.values())):
        raise ValueError("a tolerance that is computed")
    return b.transpose(_mixed(b, "inverse", a, ordered=hermitian or True in args), -1, -2)


@rule("aten.linalg_inv_ex")
def inverse_and_state(b: Builder, a: Value, **kwargs: Any) -> tuple[Value, Value]:
    return inverse(b, a), b.fill(b.shapes[1])


@rule("aten.linalg_solve")
def solve(b: Builder, a: Value, right: Value, *, left: bool = True) -> Value:
    """`X` of `A X = B` (or `X A = B`): a product with the inverse."""
    vector = right.ndim == 1 or (right.ndim == a.ndim - 1 and right.shape == a.shape[:-1])
    own = inverse(b, a)
    first, second = _batch(own, right if not vector else b.reshape(right, [*right.shape, 1]))
    batch = first if len(first) > len(second) else second
    if vector:
        return b.contract(([(*first, "j", "i"), (*second, "i")], (*batch, "j")), own, right, name="solve")
    if left:
        return b.contract(([(*first, "j", "i"), (*second, "i", "k")], (*batch, "j", "k")), own, right, name="solve")
    return b.contract(([(*first, "j", "i"), (*second, "k", "j")], (*batch, "k", "i")), own, right, name="solve")


@rule("aten.linalg_solve_triangular")
def solve_triangular(b: Builder, a: Value, right: Value, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Value:
    """One triangle is read: rows and columns are in order."""
    return solve(b, _mixed(b, "triangle", a, ordered=True), right, left=left)


# -- functions of one matrix -------------------------------------------------------------------------------------------


@rule("aten.matrix_exp")
def matrix_exp(b: Builder, a: Value) -> Value:
    """A series of powers: rows and columns are one index, as they are in a product of the matrix with itself."""
    (batch,) = _batch(a)
    return b.contract(([(*batch, "i", "j"), (*batch, "j", "k")], (*batch, "i", "k")), a, a, name="matrix_exp")


def _over_both(b: Builder, a: Value, name: str) -> Value:
    return b.reduce(b.reduce(a, [-1], name=name), [-1], name=name)


def _signed(b: Builder, a: Value) -> Value:
    """A determinant's sign changes with the order of rows, and with that of columns; not if both are the same."""
    return _over_both(b, matrix_exp(b, a), "determinant")


@rule("aten.linalg_det", "aten.det")
def determinant(b: Builder, a: Value) -> Value:
    return _signed(b, a)


@rule("aten.linalg_slogdet", "aten.slogdet")
def log_determinant(b: Builder, a: Value) -> tuple[Value, Value]:
    return _signed(b, a), _over_both(b, _mixed(b, "determinant", a), "determinant")


@rule("aten.linalg_svdvals")
def singular_values(b: Builder, a: Value, **kwargs: Any) -> Value:
    """Symmetric in rows and columns; the values are in order."""
    (batch,) = _batch(a)
    ranks = b.mix("ranks", b.fill([min(a.shape[-2:])]), [0], ordered=True)
    return b.contract(([(*batch, "i", "j"), ("k",)], (*batch, "k")), _mixed(b, "singular values", a), ranks, name="singular values")


# -- decompositions that know an order ---------------------------------------------------------------------------------


def _decomposition(name: str) -> None:
    @rule(f"aten.{name}")
    def decomposition(b: Builder, *args: Any, **kwargs: Any) -> Value | tuple[Value, ...]:
        """The order of rows and columns tells, by the triangle that is read or by signs that one element chooses; a batch stays free."""
        matrices = [value for value in args if isinstance(value, Value)]
        fixed = [_mixed(b, name, a, ordered=True) if a.ndim > 1 else b.mix(name, a, [-1], ordered=True) for a in matrices]
        rank = fixed[0].ndim - 2
        if any(a.shape[:rank] != fixed[0].shape[:rank] for a in fixed) or any(shape[:rank] != fixed[0].shape[:rank] for shape in b.shapes):
            raise ValueError(f"{name} with a batch of another form")
        batch = tuple(range(rank))
        labels = [(*batch, *(f"{slot}{d}" for d in range(a.ndim - rank))) for slot, a in enumerate(fixed)]
        results = []
        for shape in b.shapes:
            new = tuple(f"out{d}" for d in range(len(shape) - rank))
            places = b.mix(name, b.fill(shape[rank:]), range(len(new)), ordered=True) if new else b.fill(())
            results.append(b.contract(([*labels, new], (*batch, *new)), *fixed, places, name=name))
        return results[0] if len(results) == 1 else tuple(results)


for _name in ("linalg_cholesky", "linalg_cholesky_ex", "cholesky", "cholesky_inverse", "linalg_qr", "linalg_svd", "_linalg_svd", "svd",
              "linalg_eigh", "_linalg_eigh", "linalg_eigvalsh", "linalg_eig", "linalg_eigvals", "linalg_lu", "linalg_lu_factor",
              "linalg_lu_factor_ex", "linalg_householder_product", "linalg_ldl_factor", "geqrf", "cholesky_solve"):
    _decomposition(_name)
