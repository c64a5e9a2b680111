"""Elements chosen by index tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from paramgraph.compiler.aten import indexing as aten
from paramgraph.compiler.aten import scatter
from paramgraph.compiler.aten.layout import _overwrite
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.arguments import floats, number
from paramgraph.compiler.onnx.counts import NONZERO, mask_of, uniform, views
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule

# Reductions of scattered elements, by the names that the torch front end has for them.
REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@rule("ai.onnx::Gather")
def gather(b: Builder, x: Value, index: Value, *, axis: int = 0) -> Value:
    return aten.index_select(b, x, axis, index)


@rule("ai.onnx::GatherElements")
def gather_elements(b: Builder, x: Value, index: Value, *, axis: int = 0) -> Value:
    return scatter.gather(b, x, axis, index)


@rule("ai.onnx::GatherND")
def gather_nd(b: Builder, x: Value, index: Value, *, batch_dims: int = 0) -> Value:
    """The last axis of the index names a place along the first axes of `x`."""
    depth = index.shape[-1]
    if batch_dims:
        raise ValueError("GatherND with batch dimensions")
    mask = mask_of(index)
    if mask is not None and mask.shape == x.shape[:depth]:
        return aten.index(b, x, [mask])
    if depth == 1:
        return aten.index_select(b, x, 0, _place(b, index, 0))
    return scatter.index_by_several(b, x, [(d, _place(b, index, d)) for d in range(depth)])


def _place(b: Builder, index: Value, d: int) -> Value:
    """One coordinate of an index; a constant one stays readable."""
    read = index.read
    if read is None:
        part = b.select(index, -1, d)
        part.integer = True
        return part
    return b.constant(index.shape[:-1], lambda: np.asarray(read())[..., d], "index", integer=True)


@rule("ai.onnx::ScatterElements", "ai.onnx::Scatter")
def scatter_elements(b: Builder, x: Value, index: Value, updates: Value, *, axis: int = 0, reduction: str = "none") -> Value:
    if reduction == "none":
        return scatter.scatter(b, x, axis, index, updates)
    if reduction == "add":
        return scatter.scatter_add(b, x, axis, index, updates)
    return scatter.scatter_reduce(b, x, axis, index, updates, REDUCTIONS[reduction])


@rule("ai.onnx::ScatterND")
def scatter_nd(b: Builder, x: Value, index: Value, updates: Value, *, reduction: str = "none") -> Value:
    """Updates sent to where the last axis of the index says; those that meet are reduced, or the last one counts."""
    where = aten.readable(index)
    if where is not None and where.shape[-1] == 1 and reduction == "none":
        places = where.reshape(-1) % x.shape[0]
        if len(np.unique(places)) == len(places):
            return _overwrite(b, x, b.reshape(updates, [len(places), *x.shape[1:]]), 0, places)
    mask = mask_of(index)
    if mask is not None and reduction == "none" and mask.shape == x.shape[: index.shape[-1]]:
        return _put(b, x, mask, updates)
    depth, batch = index.shape[-1], tuple(range(index.ndim - 1))
    chosen = [b.one_hot(_place(b, index, d), x.shape[d]) for d in range(depth)]
    terms = [(*batch, f"n{d}") for d in range(depth)]
    rest = tuple(f"x{d}" for d in range(depth, x.ndim))
    out = (*(f"n{d}" for d in range(depth)), *rest)
    if reduction == "none":
        updates = b.mix("scatter", updates, batch, ordered=True)
    name = {"none": "scatter", "add": "index_add"}.get(reduction) or f"scatter_{REDUCTIONS[reduction]}"
    written = b.contract(([(*batch, *rest), *terms], out), updates, *chosen, name=name, product=reduction == "add")
    if reduction == "add":
        return b.elementwise("add", x, written)
    if reduction != "none":
        return b.elementwise(name, x, written, own=True)
    reached = b.contract((terms, out[:depth]), *chosen, name="reached")
    return b.elementwise("where", b.reshape(reached, [*reached.shape, *[1] * len(rest)]), written, x)


def _put(b: Builder, x: Value, mask: Value, updates: Value) -> Value:
    """Updates where a mask is true: one number for all, or each its own, in their order."""
    wide = b.reshape(mask, [*mask.shape, *[1] * (x.ndim - mask.ndim)])
    *_, base = views(updates)
    number = uniform(base)
    if number is not None:
        return b.elementwise("where", wide, x, args=(number,))
    if math.prod(base.shape) == 1:
        return b.elementwise("where", wide, b.reshape(base, ()), x)
    key = _behind(mask)
    tail = x.shape[key.ndim :]
    if math.prod(updates.shape) % max(math.prod(tail), 1):
        return scatter.masked_scatter(b, x, wide, updates)
    rows = b.reshape(updates, [-1, *tail])
    own: tuple[object, ...] = tuple(range(x.ndim))
    labels = (("n", *own[: key.ndim]), ("n", *own[key.ndim :]))
    put = b.contract((labels, own), aten.selected(b, key, rows.shape[0]), rows, name="put", product=True)
    return b.elementwise("where", b.reshape(key, [*key.shape, *[1] * len(tail)]), put, x)


def _behind(mask: Value) -> Value:
    """The mask of whole rows that another was expanded from along its last axes; itself if it was not."""
    if mask.op is None or mask.op.kind != "expand":
        return mask
    (narrow,) = mask.op.inputs
    rank = mask.ndim
    while rank and narrow.shape[rank - 1] == 1 != mask.shape[rank - 1]:
        rank -= 1
    if narrow.shape[:rank] != mask.shape[:rank] or narrow.op is None or narrow.op.kind != "reshape" or narrow.op.inputs[0].shape != mask.shape[:rank]:
        return mask
    return narrow.op.inputs[0]


@rule("ai.onnx::NonZero")
def nonzero(b: Builder, x: Value) -> Value:
    """The places of what is not zero, in order: `(axes, count)`."""
    return b.opaque(NONZERO, [x], b.shapes[0], "the places of what is not zero, in their order")


@rule("ai.onnx::OneHot")
def one_hot(b: Builder, index: Value, depth: Value, values: Value, *, axis: int = -1) -> Value:
    """Indicator vectors over `depth` elements, with constant numbers for off and on."""
    off, on = floats(values)
    vectors = b.one_hot(index, number(depth))
    rank = index.ndim + 1
    place = axis % rank
    order = [*range(place), rank - 1, *range(place, rank - 1)]
    out = b.permute(vectors, order)
    return out if (off, on) == (0.0, 1.0) else b.elementwise("where", out, args=(off, on))


@rule("ai.onnx::Compress")
def compress(b: Builder, x: Value, condition: Value, *, axis: int | None = None) -> Value:
    """The elements that a mask keeps."""
    if axis is None:
        x, axis = b.reshape(x, [-1]), 0
    if condition.read is None:
        axis %= x.ndim
        own: tuple[object, ...] = tuple("n" if d == axis else d for d in range(x.ndim))
        return b.contract(([("k", "n"), own], tuple("k" if d == axis else d for d in range(x.ndim))),
                          aten.selected(b, condition, b.shapes[0][axis]), x, name="selected", product=True)
    return b.take(x, axis, np.flatnonzero(np.asarray(condition.read())))


@rule("ai.onnx::ReverseSequence")
def reverse_sequence(b: Builder, x: Value, lengths: Value, *, batch_axis: int = 1, time_axis: int = 0) -> Value:
    """Each sequence is turned around by its own length: time is ordered, and the lengths belong to the batch."""
    ordered = b.mix("reverse_sequence", x, [time_axis], ordered=True)
    shape = [n if d == batch_axis % x.ndim else 1 for d, n in enumerate(x.shape)]
    return b.elementwise("reversed", ordered, b.reshape(lengths, shape))


@rule("ai.onnx::TensorScatter")
def tensor_scatter(b: Builder, *operands: Value, **_: Any) -> Value:
    raise ValueError("a cache that is written where data say")
