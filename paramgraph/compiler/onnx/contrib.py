"""Operators of `com.microsoft` that optimised files use: fused normalisations, activations and products."""

from __future__ import annotations

from typing import Any

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.arguments import is_weight
from paramgraph.compiler.onnx.normalization import over_last
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import rule


@rule("com.microsoft::Gelu", "com.microsoft::FastGelu", "com.microsoft::BiasGelu")
def gelu(b: Builder, x: Value, bias: Value | None = None) -> Value:
    return b.elementwise("gelu", x if bias is None else b.elementwise("add", x, bias, role="bias"))


@rule("com.microsoft::QuickGelu")
def quick_gelu(b: Builder, x: Value, *, alpha: float = 1.702) -> Value:
    return b.elementwise("quick_gelu", x, args=(alpha,))


@rule("com.microsoft::FusedMatMul")
def fused_matmul(b: Builder, x: Value, y: Value, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0,
                 transBatchB: int = 0) -> Value:
    """A product of matrices, either transposed, times a number."""
    if transBatchA or transBatchB:
        raise ValueError("transposed batches")
    rank = max(x.ndim, y.ndim) - 2
    batch = tuple(range(rank))
    left = (*batch[rank - x.ndim + 2 :], *(("k", "i") if transA else ("i", "k")))
    right = (*batch[rank - y.ndim + 2 :], *(("j", "k") if transB else ("k", "j")))
    name = "linear" if is_weight(y) and not x.parametric else "matmul"
    return b.contract(([left, right], (*batch, "i", "j")), x, y, name=name)


def _skip(operator: str, name: str) -> None:
    @rule(f"com.microsoft::{operator}")
    def skip(b: Builder, x: Value, y: Value, gain: Value, *rest: Value | None, **_: Any) -> Any:
        """The normalisation of a sum; the sum itself is the fourth result."""
        offset, bias = (rest[0] if rest else None, rest[1] if len(rest) > 1 else None) if name == "layer_norm" else (None, rest[0] if rest else None)
        total = b.elementwise("add", x, y)
        if bias is not None:
            total = b.elementwise("add", total, bias, role="bias")
        shapes, b.shapes = b.shapes, b.shapes[:1]
        out = over_last(b, name, total, -1, gain, offset)
        b.shapes = shapes
        if len(shapes) == 1:
            return out
        mean, variance = (b.reduce(total, [-1], keepdim=True, name=n) for n in ("mean", "inverse_deviation"))
        return (out, mean, variance, total)[: len(shapes)]


for _operator, _name in (("SkipLayerNormalization", "layer_norm"), ("SkipSimplifiedLayerNormalization", "rms_norm")):
    _skip(_operator, _name)
