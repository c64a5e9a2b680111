"""Quantised tensors: elementwise maps with a scale and a zero point, per tensor or along one axis."""

from __future__ import annotations

from typing import Any

from paramgraph.compiler.aten import linear as aten_linear
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.arguments import along, is_weight
from paramgraph.compiler.onnx.convolution import convolve
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import rule


def scaled(b: Builder, name: str, x: Value, scale: Value, zero: Value | None, axis: int) -> Value:
    """A scale and a zero point for every element of `axis`, or for all elements."""
    operands = [along(b, value, axis, x.ndim) for value in (scale, zero) if value is not None]
    return b.elementwise(name, x, *operands)


def _affine(operator: str, name: str) -> None:
    @rule(f"ai.onnx::{operator}", f"com.microsoft::{operator}")
    def affine(b: Builder, x: Value, scale: Value, zero: Value | None = None, *, axis: int = 1, block_size: int = 0, **_: Any) -> Value:
        return _blocked(b, name, x, scale, zero, axis % x.ndim, block_size) if block_size else scaled(b, name, x, scale, zero, axis)


def _blocked(b: Builder, name: str, x: Value, scale: Value, zero: Value | None, axis: int, size: int) -> Value:
    """A scale and a zero point for every block of `size` elements of `axis`, and every element of the other axes."""
    if x.shape[axis] % size:
        raise ValueError("blocks that do not fill their axis")
    split = b.reshape(x, [*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1 :]])
    operands = [b.reshape(v, [*v.shape[: axis + 1], 1, *v.shape[axis + 1 :]]) for v in (scale, zero) if v is not None]
    return b.reshape(b.elementwise(name, split, *operands), x.shape)


for _operator, _name in (("QuantizeLinear", "quantize"), ("DequantizeLinear", "dequantize")):
    _affine(_operator, _name)


@rule("ai.onnx::DynamicQuantizeLinear")
def dynamic(b: Builder, x: Value) -> tuple[Value, Value, Value]:
    """One scale and zero point for the whole tensor, from its extrema."""
    scale = b.reduce(x, range(x.ndim), name="quantization_scale")
    zero = b.reduce(x, range(x.ndim), name="quantization_zero")
    return b.elementwise("quantize", x, scale, zero), scale, zero


@rule("ai.onnx::MatMulInteger")
def matmul_integer(b: Builder, x: Value, y: Value, x_zero: Value | None = None, y_zero: Value | None = None) -> Value:
    if x_zero is not None:
        if x_zero.shape not in ((), (1,)):
            raise ValueError("a zero point for every row")
        x = b.elementwise("sub", x, x_zero)
    if y_zero is not None:
        y = b.elementwise("sub", y, along(b, y_zero, y.ndim - 1, y.ndim))
    return _product(b, x, y)


@rule("ai.onnx::QLinearMatMul")
def quantized_matmul(b: Builder, x: Value, x_scale: Value, x_zero: Value, y: Value, y_scale: Value, y_zero: Value, scale: Value,
                     zero: Value) -> Value:
    if any(value.shape not in ((), (1,)) for value in (x_scale, x_zero)):
        raise ValueError("a scale for every row")
    out = _product(b, scaled(b, "dequantize", x, x_scale, x_zero, 0), scaled(b, "dequantize", y, y_scale, y_zero, y.ndim - 1))
    return scaled(b, "quantize", out, scale, zero, out.ndim - 1)


def _product(b: Builder, x: Value, y: Value) -> Value:
    if is_weight(y) and y.ndim == 2 and not x.parametric:
        batch = tuple(range(x.ndim - 1))
        return b.contract(([(*batch, "i"), ("i", "o")], (*batch, "o")), x, y, name="linear")
    return aten_linear.matmul(b, x, y)


@rule("ai.onnx::ConvInteger")
def conv_integer(b: Builder, x: Value, weight: Value, x_zero: Value | None = None, w_zero: Value | None = None, **attributes: Any) -> Value:
    if x_zero is not None:
        x = b.elementwise("sub", x, along(b, x_zero, 0, x.ndim))
    if w_zero is not None:
        weight = b.elementwise("sub", weight, along(b, w_zero, 0, weight.ndim))
    return convolve(b, x, weight, None, False, **attributes)


@rule("ai.onnx::QLinearConv")
def quantized_conv(b: Builder, x: Value, x_scale: Value, x_zero: Value, weight: Value, w_scale: Value, w_zero: Value, scale: Value,
                   zero: Value, bias: Value | None = None, **attributes: Any) -> Value:
    if any(value.shape not in ((), (1,)) for value in (x_scale, x_zero, scale, zero)):
        raise ValueError("activations scaled by more than one number")
    plain = scaled(b, "dequantize", weight, w_scale, w_zero, 0)
    out = convolve(b, scaled(b, "dequantize", x, x_scale, x_zero, 1), plain, bias, False, **attributes)
    return scaled(b, "quantize", out, scale, zero, 1)
