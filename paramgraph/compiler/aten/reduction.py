"""Reductions and mixing along axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from paramgraph.compiler.aten.elementwise import is_whole, rounded
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule

REDUCTIONS = "sum mean amax amin prod std var logsumexp all any nansum nanmean count_nonzero".split()


def _dims(x: Value, dim: Any) -> list[int]:
    if dim is None or (isinstance(dim, Sequence) and not dim):
        return list(range(x.ndim))
    return [dim] if isinstance(dim, int) else list(dim)


def _reduction(name: str) -> None:
    @rule(f"aten.{name}")
    def reduction(b: Builder, x: Value, dim: Any = None, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Value:
        x = x if dtype is None or not is_whole(dtype) else rounded(b, x)
        dims = list(range(x.ndim)) if isinstance(dim, bool) else _dims(x, dim)
        return b.reshape(b.reduce(x, dims, name=name), b.shapes[0])


for _name in REDUCTIONS:
    _reduction(_name)


def _two_reductions(name: str, names: tuple[str, str]) -> None:
    @rule(name)
    def two_reductions(b: Builder, x: Value, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[Value, Value]:
        dims = list(range(x.ndim)) if isinstance(dim, bool) else _dims(x, dim)
        return tuple(b.reshape(b.reduce(x, dims, name=name), b.shapes[0]) for name in names)  # type: ignore[return-value]


for _name, _names in (("var_mean", ("var", "mean")), ("std_mean", ("std", "mean")), ("aminmax", ("amin", "amax"))):
    _two_reductions(f"aten.{_name}", _names)


@rule("aten.linalg_vector_norm", "aten.norm")
def norm(b: Builder, x: Value, order: Any = 2, dim: Any = None, *args: Any, **kwargs: Any) -> Value:
    return b.reshape(b.reduce(x, _dims(x, dim), name="norm", order=order), b.shapes[0])


@rule("aten.max", "aten.min")
def extremum(b: Builder, x: Value, other: Any = None, keepdim: bool = False) -> Value | tuple[Value, Value]:
    if isinstance(other, Value):
        return b.elementwise("maximum", x, other)
    if other is None:
        return b.reduce(x, range(x.ndim), name="max")
    value = b.reshape(b.reduce(x, [other], name="max"), b.shapes[0])
    return value, b.reshape(b.topk(x, other, 1, indices=True, name="argmax"), b.shapes[1])


@rule("aten.argmax", "aten.argmin")
def argmax(b: Builder, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    if dim is None:
        x, dim = b.reshape(x, [-1]), 0
    return b.reshape(b.topk(x, dim, 1, indices=True, name="argmax"), b.shapes[0])


@rule("aten.topk")
def topk(b: Builder, x: Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Value, Value]:
    return b.topk(x, dim, k, indices=False), b.topk(x, dim, k, indices=True)


@rule("aten.sort")
def sort(b: Builder, x: Value, dim: int = -1, descending: bool = False, **kwargs: Any) -> tuple[Value, Value]:
    n = x.shape[dim]
    return b.topk(x, dim, n, indices=False, name="sort"), b.topk(x, dim, n, indices=True, name="argsort")


def _mixing(name: str, ordered: bool, linear: bool = False) -> None:
    @rule(f"aten.{name}", f"aten._{name}")
    def mixing(b: Builder, x: Value, dim: int, *args: Any, dtype: torch.dtype | None = None) -> Value:
        x = x if dtype is None or not is_whole(dtype) else rounded(b, x)
        return b.mix(name, x, [dim], ordered=ordered, linear=linear)


for _name in ("softmax", "log_softmax", "safe_softmax"):
    _mixing(_name, ordered=False)
for _name in ("cumsum", "cumprod", "logcumsumexp"):
    _mixing(_name, ordered=True, linear=_name == "cumsum")


@rule("aten.cummax", "aten.cummin")
def cumulative_extremum(b: Builder, x: Value, dim: int) -> tuple[Value, Value]:
    return b.mix("cummax", x, [dim], ordered=True), b.mix("cummax.indices", x, [dim], ordered=True)


@rule("aten.argsort")
def argsort(b: Builder, x: Value, *args: Any, **kwargs: Any) -> Value:
    dim = kwargs.get("dim", args[0] if args else -1)
    return b.topk(x, dim, x.shape[dim], indices=True, name="argsort")


def _ranked(b: Builder, x: Value, dim: int) -> tuple[Value, Value]:
    """The element of one rank along an axis, and which it is."""
    value = b.reduce(x, [dim], name="rank")
    return b.reshape(value, b.shapes[0]), b.reshape(b.topk(x, dim, 1, indices=True, name="rank"), b.shapes[1])


@rule("aten.median.dim", "aten.nanmedian.dim", "aten.mode")
def median_along(b: Builder, x: Value, dim: int = -1, keepdim: bool = False) -> tuple[Value, Value]:
    return _ranked(b, x, dim)


@rule("aten.kthvalue")
def kth_value(b: Builder, x: Value, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Value, Value]:
    return _ranked(b, x, dim)


@rule("aten._is_all_true", "aten._is_any_true")
def truth(b: Builder, x: Value) -> Value:
    return b.reduce(x, range(x.ndim), name="all")


@rule("aten.median.default", "aten.nanmedian.default")
def median(b: Builder, x: Value) -> Value:
    return b.reduce(x, range(x.ndim), name="median")


@rule("aten.quantile", "aten.nanquantile")
def quantile(b: Builder, x: Value, q: Value | float, dim: int | None = None, keepdim: bool = False, **kwargs: Any) -> Value:
    """Of several quantiles, each is an element of a new first axis."""
    dims = [d % x.ndim for d in _dims(x, dim)]
    if not isinstance(q, Value) or q.ndim == 0:
        return b.reshape(b.reduce(x, dims, name="rank"), b.shapes[0])
    axes = tuple(range(x.ndim))
    return b.reshape(b.contract(([axes, ("q",)], ("q", *(d for d in axes if d not in dims))), x, q, name="quantile"), b.shapes[0])


def triangle(b: Builder, x: Value, diagonal: int, upper: bool) -> Value:
    """A triangle of the last two axes: a product with a constant mask. What is above a diagonal is what is not on or below the one before it."""
    rows, columns = x.shape[-2:]

    def mask() -> np.ndarray:
        return 1 - np.tri(rows, columns, diagonal - 1) if upper else np.tri(rows, columns, diagonal)

    return b.elementwise("mul", x, b.constant([rows, columns], mask, "triangle"))


@rule("aten.tril")
def lower_triangle(b: Builder, x: Value, diagonal: int = 0) -> Value:
    return triangle(b, x, diagonal, upper=False)


@rule("aten.triu")
def upper_triangle(b: Builder, x: Value, diagonal: int = 0) -> Value:
    return triangle(b, x, diagonal, upper=True)


def _transform(name: str, several: bool | None) -> None:
    """A Fourier transform: it mixes along its axes, whose order it knows."""

    @rule(f"aten.{name}")
    def transform(b: Builder, x: Value, size: Any = None, dim: Any = None, *args: Any, **kwargs: Any) -> Value:
        if several is None:  # the internal ones have no sizes
            dim = size
        elif dim is None:
            sizes = len(size) if isinstance(size, Sequence) else x.ndim
            dim = range(x.ndim - sizes, x.ndim) if several and not name.endswith("2") else [-2, -1] if several else -1
        dims = [dim] if isinstance(dim, int) else list(dim)
        if b.shapes[0] == x.shape:
            return b.mix(name, x, dims, ordered=True)
        return b.resample(x, dims, b.shapes[0], name)


for _kind in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"):
    _transform(f"fft_{_kind}", False)
    _transform(f"fft_{_kind}2", True)
    _transform(f"fft_{_kind}n", True)
for _name in ("_fft_c2c", "_fft_r2c", "_fft_c2r"):
    _transform(_name, None)


@rule("aten.fft_fftshift", "aten.fft_ifftshift")
def shifted(b: Builder, x: Value, dim: Any = None) -> Value:
    dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    return b.mix("fftshift", x, dims, ordered=True)


@rule("aten.searchsorted.Tensor")
def searchsorted(b: Builder, boundaries: Value, x: Value, *, sorter: Value | None = None, **kwargs: Any) -> Value:
    """As `bucketize`; with boundaries of their own for every batch element, and sorted by an index, if one is given."""
    ordered = [b.mix("boundaries", value, [-1], ordered=True) for value in (boundaries, sorter) if value is not None]
    axes = tuple(range(x.ndim))
    own = (*axes[:-1], "k") if boundaries.ndim > 1 else ("k",)
    return b.contract(([axes, *(own for _ in ordered)], axes), x, *ordered, name="bucketize")


@rule("aten.searchsorted.Scalar")
def searchsorted_number(b: Builder, boundaries: Value, x: float, **kwargs: Any) -> Value:
    return b.reduce(b.mix("boundaries", boundaries, [-1], ordered=True), [-1], name="bucketize")


@rule("aten.histc")
def histogram(b: Builder, x: Value, bins: int = 100, *args: Any, **kwargs: Any) -> Value:
    """How many of all elements fall between two fixed numbers, for each of some bins in order."""
    places = b.mix("bins", b.fill([bins]), [0], ordered=True)
    return b.contract(([tuple(range(x.ndim)), ("bin",)], ("bin",)), x, places, name="histogram")


@rule("aten.stft")
def short_time_fourier(b: Builder, x: Value, size: int, hop: int | None = None, length: int | None = None, window: Value | None = None,
                       *args: Any, **kwargs: Any) -> Value:
    """Windows of the last axis, transformed: frequencies and frames are positions. A window is a product with its own elements."""
    batch = x.shape[:-1]
    frames = b.resample(b.reshape(x, [*batch, 1, x.shape[-1]]), [-2, -1], b.shapes[0][: len(batch) + 2], "stft")
    if window is not None:
        axes = tuple(range(frames.ndim))
        frames = b.contract(([axes, ("k",)], axes), frames, b.mix("window", window, [0], ordered=True), name="stft")
    return b.expand(b.reshape(frames, [*frames.shape, 1]), b.shapes[0]) if len(b.shapes[0]) > frames.ndim else frames


@rule("aten.bucketize.Tensor")
def bucketize(b: Builder, x: Value, boundaries: Value, **kwargs: Any) -> Value:
    """Which of some ordered boundaries an element lies between: a number, whose order counts."""
    ordered = b.mix("boundaries", boundaries, [0], ordered=True)
    axes = tuple(range(x.ndim))
    return b.contract(([axes, ("k",)], axes), x, ordered, name="bucketize")
