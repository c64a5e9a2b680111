"""Reductions and mixing along axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paramgraph.compiler.program import Builder, Value
from paramgraph.compiler.rules import rule

REDUCTIONS = "sum mean amax amin prod std var logsumexp all any nansum nanmean count_nonzero".split()


def _dims(x: Value, dim: Any) -> list[int]:
    if dim is None or (isinstance(dim, Sequence) and not dim):
        return list(range(x.ndim))
    return [dim] if isinstance(dim, int) else list(dim)


def _reduction(name: str) -> None:
    @rule(f"aten.{name}")
    def reduction(b: Builder, x: Value, dim: Any = None, *args: Any, **kwargs: Any) -> Value:
        dims = list(range(x.ndim)) if isinstance(dim, bool) else _dims(x, dim)
        return b.reshape(b.reduce(x, dims, name=name), b.shapes[0])


for _name in REDUCTIONS:
    _reduction(_name)


def _two_reductions(name: str, names: tuple[str, str]) -> None:
    @rule(name)
    def two_reductions(b: Builder, x: Value, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[Value, Value]:
        dims = _dims(x, kwargs.get("dim", dim))
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
    def mixing(b: Builder, x: Value, dim: int, *args: Any, **kwargs: Any) -> Value:
        return b.mix(name, x, [dim], ordered=ordered, linear=linear)


for _name in ("softmax", "log_softmax", "safe_softmax"):
    _mixing(_name, ordered=False)
for _name in ("cumsum", "cumprod", "logcumsumexp"):
    _mixing(_name, ordered=True, linear=_name == "cumsum")
