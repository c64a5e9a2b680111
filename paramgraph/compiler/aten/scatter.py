"""Elements chosen by index tensors of the result's own shape: gather and scatter, index_add, assignments, several index tensors.

All are products with indicator vectors of the indices, which say everything that typing needs: `gather` sums `x` against them, `scatter_add`
sums the source. Where an element may be written twice and the last one counts, the order of the source is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paramgraph.compiler.aten.elementwise import _counts_along
from paramgraph.compiler.aten.indexing import readable, selected
from paramgraph.compiler.aten.layout import _overwrite
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Labels, Value
from paramgraph.compiler.rules import exact_rule as rule

SYMMETRIC = ("sum", "prod", "mean", "amax", "amin", "add", "multiply")


def _indicators(b: Builder, index: Value, x: Value, dim: int) -> tuple[Value, Labels, Labels]:
    """Indicator vectors of `index` over the elements of one axis of `x`, their labels, and the labels of `x`."""
    own = tuple("n" if d == dim else d for d in range(x.ndim))
    return b.one_hot(index, x.shape[dim]), (*range(index.ndim), "n"), own


@rule("aten.gather")
def gather(b: Builder, x: Value, dim: int, index: Value, **kwargs: bool) -> Value:
    """`out[i, j] = x[index[i, j], j]`."""
    if not x.ndim:
        return x
    dim %= x.ndim
    for d, n in enumerate(index.shape):
        if d != dim and n != x.shape[d]:
            x = b.take(x, d, range(n))
    chosen, labels, own = _indicators(b, index, x, dim)
    return b.contract(([own, labels], tuple(range(index.ndim))), x, chosen, name="gather", product=True)


def _scattered(b: Builder, x: Value, dim: int, index: Value, source: Value, name: str) -> Value:
    """`source` summed (or reduced otherwise) over its elements that `index` sends to one element of `x`."""
    if index.shape != source.shape or any(n != x.shape[d] for d, n in enumerate(index.shape) if d != dim):
        raise ValueError("the index is smaller than what it is used on")
    chosen, labels, own = _indicators(b, index, x, dim)
    return b.contract(([tuple(range(source.ndim)), labels], own), source, chosen, name=name, product=name == "scatter_add")


@rule("aten.scatter_add")
def scatter_add(b: Builder, x: Value, dim: int, index: Value, source: Value) -> Value:
    return b.elementwise("add", x, _scattered(b, x, dim % x.ndim, index, source, "scatter_add"))


@rule("aten.scatter_reduce.two", "aten.scatter.reduce")
def scatter_reduce(b: Builder, x: Value, dim: int, index: Value, source: Value, reduce: str, *, include_self: bool = True) -> Value:
    if reduce not in SYMMETRIC:
        raise ValueError(f"scatter_reduce by {reduce!r}")
    return b.elementwise(f"scatter_{reduce}", x, _scattered(b, x, dim % x.ndim, index, source, f"scatter_{reduce}"), own=include_self)


@rule("aten.scatter.src")
def scatter(b: Builder, x: Value, dim: int, index: Value, source: Value) -> Value:
    """Assignment: of two elements that go to one place the last counts, so their order is fixed."""
    dim %= x.ndim
    ordered = b.mix("scatter", source, [dim], ordered=True)
    written = _scattered(b, x, dim, index, ordered, "scatter")
    return b.elementwise("where", _reached(b, x, dim, index), written, x)


@rule("aten.scatter.value")
def scatter_value(b: Builder, x: Value, dim: int, index: Value, value: Value | float) -> Value:
    operands: list[Value] = [value] if isinstance(value, Value) else []
    return b.elementwise("where", _reached(b, x, dim % x.ndim, index), *operands, x, args=() if operands else (value,))


def _reached(b: Builder, x: Value, dim: int, index: Value) -> Value:
    """Which elements of `x` the index names at all."""
    if any(n != x.shape[d] for d, n in enumerate(index.shape) if d != dim):
        raise ValueError("the index is smaller than what it is used on")
    chosen, labels, own = _indicators(b, index, x, dim)
    return b.contract(([labels], own), chosen, name="reached")


@rule("aten.index_add")
def index_add(b: Builder, x: Value, dim: int, index: Value, source: Value, *, alpha: Value | float = 1) -> Value:
    """`x[:, index[i]] += source[:, i]` along one axis."""
    dim %= max(x.ndim, 1)
    if index.ndim != 1 or isinstance(alpha, Value) or source.shape != (*x.shape[:dim], index.shape[0], *x.shape[dim + 1 :]):
        raise ValueError("index_add of another form")
    own = tuple("n" if d == dim else d for d in range(x.ndim))
    summed = b.contract(([tuple(range(source.ndim)), (dim, "n")], own), source, b.one_hot(index, x.shape[dim]), name="index_add", product=True)
    return b.elementwise("add", x, summed, args=(alpha,))


@rule("aten.index_reduce")
def index_reduce(b: Builder, x: Value, dim: int, index: Value, source: Value, reduce: str, *, include_self: bool = True) -> Value:
    dim %= x.ndim
    own = tuple("n" if d == dim else d for d in range(x.ndim))
    name = f"scatter_{reduce}"
    found = b.contract(([tuple(range(source.ndim)), (dim, "n")], own), source, b.one_hot(index, x.shape[dim]), name=name)
    return b.elementwise(name, x, found, own=include_self)


@rule("aten.index_fill")
def index_fill(b: Builder, x: Value, dim: int, index: Value, value: Value | float) -> Value:
    """One number at all elements that the index names along an axis."""
    dim %= x.ndim
    where = readable(index)
    if where is not None:
        chosen = np.unique(where % x.shape[dim])
        shape = [len(chosen) if d == dim else n for d, n in enumerate(x.shape)]
        return _overwrite(b, x, b.expand(value, shape) if isinstance(value, Value) else b.fill(shape, float(value)), dim, chosen)
    reached = b.reduce(b.one_hot(index, x.shape[dim]), range(index.ndim), name="amax")
    wide = b.reshape(reached, [n if d == dim else 1 for d, n in enumerate(x.shape)])
    return b.elementwise("where", wide, *([value] if isinstance(value, Value) else []), x, args=() if isinstance(value, Value) else (value,))


@rule("aten.put")
def put(b: Builder, x: Value, index: Value, values: Value, accumulate: bool = False) -> Value:
    """Assignment at constant, distinct places of all elements in a row."""
    flat, places, written = (b.reshape(value, [_numel(value)]) for value in (x, index, values))
    return b.reshape(index_put(b, flat, [places], written, accumulate), x.shape)


@rule("aten.bincount")
def bincount(b: Builder, index: Value, weights: Value | None = None, minlength: int = 0) -> Value:
    """How often each element is named, or the sum of the weights at the places that name it."""
    chosen = b.one_hot(index, b.shapes[0][0])
    if weights is None:
        return b.reduce(chosen, [0], name="count")
    return b.contract("i,in->n", weights, chosen, name="bincount", product=True)


@rule("aten.masked_scatter")
def masked_scatter(b: Builder, x: Value, mask: Value, source: Value) -> Value:
    """Elements under a mask replaced by those of the source, in their order.

    Where the mask is the same all along the last axes of `x`, whole rows of them are replaced.
    """
    mask = b.expand(mask, x.shape)
    rows = _uniform_behind(mask, x.ndim)
    width = int(np.prod(x.shape[x.ndim - rows :], dtype=np.int64))
    if _numel(source) % width or rows == x.ndim:
        rows, width = 0, 1
    lead, tail = x.shape[: x.ndim - rows], x.shape[x.ndim - rows :]
    keys = mask
    for _ in range(rows):
        keys = b.select(keys, -1, 0)
    pieces = b.reshape(source, [_numel(source) // width, *tail])
    own: tuple[object, ...] = tuple(range(x.ndim))
    labels = (("n", *own[: len(lead)]), ("n", *own[len(lead) :]))
    put = b.contract((labels, own), selected(b, keys, pieces.shape[0]), pieces, name="put", product=True)
    return b.elementwise("where", b.reshape(keys, [*lead, *[1] * rows]), put, x)


def _numel(value: Value) -> int:
    return int(np.prod(value.shape, dtype=np.int64))


def _uniform_behind(mask: Value, rank: int) -> int:
    """How many of a mask's last axes it was expanded along."""
    op, count = mask.op, 0
    while op is not None and op.kind == "elementwise" and len(op.inputs) == 1:  # a copy, or its negation
        op = op.inputs[0].op
    if op is None or op.kind != "expand":
        return 0
    while count < rank and op.inputs[0].shape[rank - 1 - count] == 1 != op.output.shape[rank - 1 - count]:
        count += 1
    return count


@rule("aten.index_put")
def index_put(b: Builder, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False) -> Value:
    """Assignment at constant, distinct indices along one axis, or under a mask; anything else is left to the caller, who pins."""
    places = [(d, value) for d, value in enumerate(indices) if value is not None]
    ((dim, index),) = places
    if index.boolean and index.read is None:
        return _put_under_mask(b, x, dim, index, values, accumulate)
    where = None if index.read is None else readable(index)
    shape = (*x.shape[:dim], *index.shape, *x.shape[dim + 1 :])
    if where is None or where.ndim != 1 or np.asarray(index.read and index.read()).dtype == bool or accumulate:
        raise ValueError("indices that are no constants")
    chosen = where % x.shape[dim]
    if len(np.unique(chosen)) != len(chosen):
        raise ValueError("an element is assigned twice")
    return _overwrite(b, x, b.expand(values, shape), dim, chosen)


def _put_under_mask(b: Builder, x: Value, dim: int, mask: Value, values: Value, accumulate: bool) -> Value:
    behind = x.ndim - dim - mask.ndim
    wide = b.reshape(mask, [*mask.shape, *[1] * behind])
    if values.ndim > behind and values.shape[-1 - behind] != 1:
        if values.ndim != behind + 1 or dim:
            raise ValueError("values of another shape than the mask's elements")
        own: tuple[object, ...] = tuple(range(x.ndim))
        labels = (("n", *own[: mask.ndim]), ("n", *own[mask.ndim :]))
        values = b.expand(values, (values.shape[0], *x.shape[mask.ndim :]))
        values = b.contract((labels, own), selected(b, mask, values.shape[0]), values, name="put", product=True)
    elif values.ndim > behind:
        values = b.reshape(values, values.shape[:-1 - behind] + values.shape[values.ndim - behind :])
    put = b.elementwise("add", x, values) if accumulate else values
    return b.elementwise("where", wide, put, x)


def index_by_several(b: Builder, x: Value, places: Sequence[tuple[int, Value]]) -> Value:
    """`x[i, :, j]` with index tensors that broadcast to one shape, whose axes stand where the indexed axes stood, if those are neighbours.

    A constant that counts 0, 1, 2, … along an axis of the shape, as long as the axis it indexes, says that the two are one.
    """
    dims = [d for d, _ in places]
    shape = np.broadcast_shapes(*(value.shape for _, value in places))
    rank = len(shape)
    labels: list[object] = [f"x{d}" for d in range(x.ndim)]
    operands, terms = [x], []
    for d, value in places:
        along = _counts_along(value, rank) if value.read is not None else None
        if along is not None and x.shape[d] == shape[along] and f"i{along % rank}" not in labels:
            labels[d] = f"i{along % rank}"
            continue
        operands.append(b.one_hot(value, x.shape[d]))
        terms.append((*(f"i{rank - value.ndim + k}" for k in range(value.ndim)), labels[d]))
    kept = [f"x{d}" for d in range(x.ndim) if d not in dims]
    neighbours = dims == list(range(dims[0], dims[0] + len(dims)))
    before = dims[0] if neighbours else 0
    out = (*kept[:before], *(f"i{k}" for k in range(rank)), *kept[before:])
    held = {label for term in (labels, *terms) for label in term}
    if any(label not in held and shape[int(label[1:])] > 1 for label in out):
        raise ValueError("an axis of the indices that no operand holds")
    result = b.contract(([tuple(labels), *terms], tuple(label for label in out if label in held)), *operands, name="index", product=True)
    if len(result.shape) < len(out):  # axes of size one that only consumed indices held
        result = b.reshape(result, b.shapes[0])
    if result.shape != b.shapes[0]:
        raise ValueError("indexed by a mask")
    return result
