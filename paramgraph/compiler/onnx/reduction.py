"""Reductions, arguments of extrema, cumulative sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.arguments import number, numbers
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule

REDUCTIONS = {
    "ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "amax", "ReduceMin": "amin", "ReduceProd": "prod", "ReduceL1": "norm",
    "ReduceL2": "norm", "ReduceLogSum": "logsum", "ReduceLogSumExp": "logsumexp", "ReduceSumSquare": "sum_square",
}  # fmt: skip

# Which norms.
ORDERS = {"ReduceL1": 1, "ReduceL2": 2}


def _reduction(operator: str, name: str) -> None:
    @rule(f"ai.onnx::{operator}")
    def reduction(b: Builder, x: Value, axes: Value | Sequence[int] | None = None, *, keepdims: int = 1,
                  noop_with_empty_axes: int = 0) -> Value:
        """Over axes that are an operand, or (before opset 13 or 18) an attribute; over all where there are none."""
        dims = numbers(axes) if isinstance(axes, Value) else list(axes or ())
        if not dims and noop_with_empty_axes:
            return x
        order = ORDERS.get(operator)
        reduced = b.reduce(x, dims or range(x.ndim), name=name) if order is None else b.reduce(x, dims or range(x.ndim), name=name, order=order)
        return b.reshape(reduced, b.shapes[0])


for _operator, _name in REDUCTIONS.items():
    _reduction(_operator, _name)


def _arguments(operator: str, name: str) -> None:
    @rule(f"ai.onnx::{operator}")
    def argument(b: Builder, x: Value, *, axis: int = 0, **_: Any) -> Value:
        return b.reshape(b.topk(x, axis, 1, indices=True, name=name), b.shapes[0])


for _operator, _name in (("ArgMax", "argmax"), ("ArgMin", "argmin")):
    _arguments(_operator, _name)


@rule("ai.onnx::TopK")
def topk(b: Builder, x: Value, k: Value | None = None, *, axis: int = -1, **attributes: Any) -> tuple[Value, Value]:
    count = attributes["k"] if k is None else number(k)
    return b.topk(x, axis, count, indices=False), b.topk(x, axis, count, indices=True)


def _cumulative(operator: str, name: str) -> None:
    @rule(f"ai.onnx::{operator}")
    def cumulative(b: Builder, x: Value, axis: Value, **_: int) -> Value:
        return b.mix(name, x, [number(axis)], ordered=True, linear=name == "cumsum")


for _operator, _name in (("CumSum", "cumsum"), ("CumProd", "cumprod")):
    _cumulative(_operator, _name)


@rule("ai.onnx::DFT")
def fourier(b: Builder, x: Value, length: Value | None = None, axis: Value | int | None = None, **_: Any) -> Value:
    """Mixes along an axis whose order it knows, and along real and imaginary parts, the last axis."""
    if isinstance(axis, Value):
        dim = number(axis)
    else:
        dim = axis if axis is not None else -2 if b.version >= 20 else 1
    return b.resample(x, [dim, -1], b.shapes[0], "fft")
