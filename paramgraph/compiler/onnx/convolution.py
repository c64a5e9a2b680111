"""Convolutions, pooling, padding, resampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.aten import convolution as aten
from paramgraph.compiler.aten import layout as aten_layout
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.arguments import floats, is_weight, numbers, unless
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule


def convolve(b: Builder, x: Value, weight: Value, bias: Value | None, transposed: bool, auto_pad: str = "NOTSET", group: int = 1,
             pads: Sequence[int] = (), strides: Sequence[int] = (1,), **_: Any) -> Value:
    """A convolution; padding matters only in that there is none."""
    if group < 1:
        raise ValueError("a convolution in no groups")
    padding = list(pads) or int(auto_pad.startswith("SAME"))
    return aten._convolve(b, x, weight, unless(bias, 0.0), list(strides), padding, group, transposed)


@rule("ai.onnx::Conv")
def conv(b: Builder, x: Value, weight: Value, bias: Value | None = None, **attributes: Any) -> Value:
    return convolve(b, x, weight, bias, False, **attributes)


@rule("ai.onnx::ConvTranspose")
def conv_transpose(b: Builder, x: Value, weight: Value, bias: Value | None = None, **attributes: Any) -> Value:
    return convolve(b, x, weight, bias, True, **attributes)


def _pool(b: Builder, x: Value, name: str, window: Sequence[int] | None, pads: Sequence[int], auto_pad: str = "NOTSET", **_: Any) -> Any:
    rank = x.ndim - 2
    out = aten._pool(b, x, rank, name, window, list(pads) or int(auto_pad.startswith("SAME")))
    return out if len(b.shapes) == 1 else (out, aten._pool(b, x, rank, f"{name}_indices"))


@rule("ai.onnx::MaxPool")
def max_pool(b: Builder, x: Value, *, kernel_shape: Sequence[int], pads: Sequence[int] = (), **attributes: Any) -> Any:
    return _pool(b, x, "max_pool", kernel_shape, pads, **attributes)


@rule("ai.onnx::AveragePool")
def average_pool(b: Builder, x: Value, *, kernel_shape: Sequence[int], pads: Sequence[int] = (), **attributes: Any) -> Any:
    return _pool(b, x, "avg_pool", kernel_shape, pads, **attributes)


@rule("ai.onnx::LpPool")
def lp_pool(b: Builder, x: Value, *, kernel_shape: Sequence[int], pads: Sequence[int] = (), **attributes: Any) -> Any:
    return _pool(b, x, "lp_pool", kernel_shape, pads, **attributes)


def _global(operator: str, name: str) -> None:
    @rule(f"ai.onnx::{operator}")
    def pool(b: Builder, x: Value, **_: Any) -> Value:
        return b.reduce(x, range(2, x.ndim), keepdim=True, name=name)


for _operator, _name in (("GlobalAveragePool", "mean"), ("GlobalMaxPool", "max"), ("GlobalLpPool", "norm")):
    _global(_operator, _name)


@rule("ai.onnx::Pad")
def pad(b: Builder, x: Value, pads: Value | Sequence[int] | None = None, value: Any = None, axes: Value | None = None, *,
        mode: str = "constant") -> Value:
    """`pads` are the sizes before every axis, then those after: an operand, or (to opset 10) an attribute, and so is what is put there."""
    sizes = numbers(pads) if isinstance(pads, Value) else list(pads or ())
    if isinstance(value, Value) and value.read is None:
        raise ValueError("padding with a computed number")
    beside = float(np.asarray(value.read()).reshape(())) if isinstance(value, Value) and value.read else float(value or 0.0)
    dims = [d % x.ndim for d in numbers(axes)] if axes is not None else list(range(x.ndim))
    around = [(0, 0)] * x.ndim
    for place, dim in enumerate(dims):
        around[dim] = (sizes[place], sizes[place + len(dims)])
    return aten.pad(b, x, [n for pair in reversed(around) for n in pair], mode, beside)


@rule("ai.onnx::Resize", "ai.onnx::Upsample")
def resize(b: Builder, x: Value, *operands: Value | None, coordinate_transformation_mode: str = "half_pixel", axes: Sequence[int] = (),
           scales: Sequence[float] = (), **_: Any) -> Value:
    """Interpolation along the axes whose size or scale changes."""
    if coordinate_transformation_mode == "tf_crop_and_resize":
        raise ValueError("resizing of a region that is computed from data")
    given = list(scales) or (floats(operands[-1]) if len(operands) == 1 else floats(operands[1]) if len(operands) > 1 else [])
    named = [d % x.ndim for d in axes] or list(range(x.ndim))
    moved = {d for d, scale in zip(named, given, strict=True) if scale != 1.0} if given else set()
    dims = sorted(moved | {d for d in range(x.ndim) if b.shapes[0][d] != x.shape[d]})
    if not dims:
        return x
    return b.resample(x, range(2, x.ndim) if min(dims) >= 2 else dims, b.shapes[0], "upsample")


@rule("ai.onnx::GridSample")
def grid_sample(b: Builder, x: Value, grid: Value, **_: Any) -> Value:
    return aten.grid_sample(b, x, grid)


@rule("ai.onnx::LRN")
def local_response(b: Builder, x: Value, **_: Any) -> Value:
    """Each channel is divided by a norm of its neighbours: the order of channels counts."""
    return b.mix("local_response_norm", x, [1], ordered=True)


@rule("ai.onnx::DepthToSpace")
def depth_to_space(b: Builder, x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    if mode == "CRD":
        return aten_layout.pixel_shuffle(b, x, blocksize)
    n, channels, height, width = x.shape
    split = b.reshape(x, [n, blocksize, blocksize, channels // blocksize**2, height, width])
    return b.reshape(b.permute(split, [0, 3, 4, 1, 5, 2]), b.shapes[0])


@rule("ai.onnx::SpaceToDepth")
def space_to_depth(b: Builder, x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    n, channels, height, width = x.shape
    split = b.reshape(x, [n, channels, height // blocksize, blocksize, width // blocksize, blocksize])
    return b.reshape(b.permute(split, [0, 1, 3, 5, 2, 4] if mode == "CRD" else [0, 3, 5, 1, 2, 4]), b.shapes[0])


@rule("ai.onnx::Col2Im")
def col2im(b: Builder, x: Value, shape: Value, block: Value, **_: Any) -> Value:
    if len(b.shapes[0]) != 4:
        raise ValueError("Col2Im of another rank than an image's")
    return aten_layout.col2im(b, x)


@rule("com.microsoft::FusedConv")
def fused_conv(b: Builder, x: Value, weight: Value, bias: Value | None = None, added: Value | None = None, *, activation: str = "",
               activation_params: Sequence[float] = (), **attributes: Any) -> Value:
    """A convolution, something added to it, and an activation."""
    out = convolve(b, x, weight, bias, False, **attributes)
    if added is not None:
        out = b.elementwise("add", out, added, **({"role": "bias"} if is_weight(added) else {}))
    return b.elementwise(activation.lower(), out, args=tuple(activation_params)) if activation else out
