"""Indexing by values: embeddings, gather, advanced indexing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule
from paramgraph.errors import TraceError


@rule("aten.embedding")
def embedding(b: Builder, weight: Value, index: Value, *args: Any) -> Value:
    return index_select(b, weight, 0, index)


@rule("aten.embedding_bag", "aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(b: Builder, weight: Value, index: Value, offsets: Value, scale: bool = False, mode: int = 0, sparse: bool = False,
                  factors: Value | None = None, last: bool = False, padding: int | None = None) -> tuple[Value, ...]:
    """Rows of a table summed (or averaged, or their maximum) over the bag that each of them is in: the bags are in order.

    A row that is said to be padding counts in no bag: that tells it from the others.
    """
    rows = b.gather(weight, 0, index)
    if padding is not None and padding >= 0:
        table = b.constant([weight.shape[0]], lambda: np.arange(weight.shape[0]) != padding, "padding")
        rows = b.elementwise("mul", rows, b.reshape(b.gather(table, 0, index), [*index.shape, 1]))
    if factors is not None:
        rows = b.elementwise("mul", rows, b.reshape(factors, [*factors.shape, 1]))
    bags = b.contract("i,o->oi", b.mix("bags", b.fill([index.shape[0]]), [0], ordered=True), b.mix("bags", offsets, [0], ordered=True),
                      name="bags")  # fmt: skip
    if bags.shape[0] != b.shapes[0][0]:
        bags = b.take(bags, 0, range(b.shapes[0][0]))  # the last offset is the end
    out = b.contract("oi,id->od", bags, rows, name=f"bag_{('sum', 'mean', 'max')[mode]}", product=mode < 2)
    return out, *(b.fill(shape) for shape in b.shapes[1:])


@rule("aten.index_select")
def index_select(b: Builder, x: Value, dim: int, index: Value) -> Value:
    """Distinct constant indices cut the axis; others, and values, go through gather."""
    dim %= x.ndim
    where = readable(index)
    if where is not None:
        flat = where.reshape(-1) % x.shape[dim]
        if len(np.unique(flat)) == len(flat):
            part = b.take(x, dim, flat)
            return b.reshape(part, [*x.shape[:dim], *where.shape, *x.shape[dim + 1 :]])
    return b.gather(x, dim, index)


def readable(index: Value) -> np.ndarray | None:
    """The values of a constant index; None where it is no constant, or is on the meta device."""
    if index.read is None:
        return None
    try:
        return np.asarray(index.read()).astype(np.int64)
    except TraceError:
        return None


@rule("aten.index")
def index(b: Builder, x: Value, indices: Sequence[Value | None]) -> Value:
    """Advanced indexing with one index tensor or several."""
    places = [(d, value) for d, value in enumerate(indices) if value is not None]
    kept = _mask(places[0][1]) if len(places) == 1 else None
    if kept is not None:
        dim, mask = places[0]
        flat = b.reshape(x, [*x.shape[:dim], -1, *x.shape[dim + mask.ndim :]]) if x.shape[dim : dim + mask.ndim] == mask.shape else x
        return b.take(flat, dim, kept)
    if len(places) == 1 and places[0][1].boolean:
        dim, mask = places[0]
        kept_labels, moved, own = _selection(x, dim, mask)
        return b.contract(([moved, own], kept_labels), selected(b, mask, b.shapes[0][dim]), x, name="selected", product=True)
    if len(places) == 1 and places[0][1].shape != x.shape and b.shapes[0] == _indexed(x, *places[0]):
        return index_select(b, x, places[0][0], places[0][1])
    from paramgraph.compiler.aten.scatter import index_by_several

    return index_by_several(b, x, places)


def selected(b: Builder, mask: Value, count: int) -> Value:
    """Which elements a computed mask keeps, in order: a `(count, *mask.shape)` indicator. Its places are fixed, since their order tells."""
    shape = (count, *mask.shape)
    for op in b.program.ops:
        if op.kind == "opaque" and op.name == "where true" and op.inputs == (mask,) and op.output.shape == shape:
            return op.output  # read twice, it is one indicator still
    return b.opaque("where true", [mask], shape, "a computed mask keeps some of its elements, in their order")


def _selection(x: Value, dim: int, mask: Value) -> tuple[tuple[object, ...], tuple[object, ...], tuple[object, ...]]:
    """Labels of `x[mask]`, of the indicator, and of `x`."""
    own: tuple[object, ...] = tuple(range(x.ndim))
    masked = own[dim : dim + mask.ndim]
    return (*own[:dim], "n", *own[dim + mask.ndim :]), ("n", *masked), own


def _mask(value: Value) -> np.ndarray | None:
    """The places that a constant mask keeps, in row-major order; None if it is no such mask."""
    if value.read is None or not value.ndim:
        return None
    try:
        data = np.asarray(value.read())
    except TraceError:  # on the meta device
        return None
    return np.flatnonzero(data) if data.dtype == bool and data.any() else None


def _indexed(x: Value, dim: int, value: Value) -> tuple[int, ...]:
    return (*x.shape[:dim], *value.shape, *x.shape[dim + 1 :])


@rule("aten.one_hot")
def one_hot(b: Builder, x: Value, classes: int = -1) -> Value:
    return b.one_hot(x, b.shapes[0][-1])
