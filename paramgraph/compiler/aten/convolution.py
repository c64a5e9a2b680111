"""Convolutions, pooling, padding, resampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule


def _all(value: Any, number: int) -> bool:
    return all(v == number for v in (value if isinstance(value, Sequence) else [value]))


def _convolve(b: Builder, x: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, groups: int, transposed: bool) -> Value:
    rank = weight.ndim - 2
    batched = x.ndim == rank + 2
    if not batched:
        x = b.reshape(x, [1, *x.shape])
    shape = list(b.shapes[0]) if batched else [1, *b.shapes[0]]
    taps = weight.shape[2:]
    # Before the convolution, so that whoever takes slices of its result finds the bias.
    bias = None if bias is None else b.reshape(bias, [*bias.shape, *[1] * rank])
    pointwise = _all(taps, 1) and _all(stride, 1) and (padding in ("same", "valid") or _all(padding, 0)) and tuple(shape[2:]) == x.shape[2:]
    inside = not transposed and (padding == "valid" or not isinstance(padding, str) and _all(padding, 0))
    name = f"conv{rank}d" if not transposed else f"conv_transpose{rank}d"
    out = b.convolve(x, weight, shape, groups, transposed, pointwise, name, inside)
    if bias is not None:
        out = b.elementwise("add", out, bias, role="bias")
    return out if batched else b.reshape(out, shape[1:])


@rule("aten.conv1d", "aten.conv2d", "aten.conv3d")
def conv(b: Builder, x: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
         groups: int = 1) -> Value:
    return _convolve(b, x, weight, bias, stride, padding, groups, False)


@rule("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def conv_transpose(b: Builder, x: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0,
                   output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Value:
    return _convolve(b, x, weight, bias, stride, padding, groups, True)


@rule("aten.convolution")
def convolution(b: Builder, x: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, transposed: bool,
                output_padding: Any, groups: int) -> Value:
    return _convolve(b, x, weight, bias, stride, padding, groups, transposed)


@rule("aten.convolution_backward")
def convolution_backward(b: Builder, gradient: Value, x: Value, weight: Value, bias_sizes: Any, stride: Any, padding: Any, dilation: Any,
                         transposed: bool, output_padding: Any, groups: int, mask: Sequence[bool]) -> tuple[Value | None, ...]:
    """Derivatives by the input: a convolution back with the same weight; by the bias: sums. By the weight, nothing is known."""
    rank = weight.ndim - 2
    by_x = b.convolve(gradient, weight, x.shape, groups, not transposed, False, name=f"conv{rank}d") if mask[0] else None
    by_weight = b.opaque("weight gradient", [gradient, x], weight.shape, "derivatives by a convolution's weight have no rule") if mask[1] else None
    by_bias = b.reduce(gradient, [d for d in range(gradient.ndim) if d != 1]) if mask[2] else None
    return by_x, by_weight, by_bias


def _pool(b: Builder, x: Value, rank: int, name: str, window: Any = None, padding: Any = 0) -> Value:
    """Pooling over the last axes. A mean over all positions does not know their order; a smaller window does."""
    shape = b.shapes[0]
    dims = [d - rank + x.ndim for d in range(rank)]
    sizes = [x.shape[d] for d in dims]
    whole = name == "adaptive_avg_pool" or (name == "avg_pool" and _all(padding, 0) and _sizes(window, rank) == sizes)
    if whole and all(shape[d] == 1 for d in dims):
        return b.reduce(x, dims, keepdim=True, name="mean")
    return b.resample(x, dims, shape, name.removeprefix("adaptive_"))  # exported, it is an average over windows of one size


def _sizes(window: Any, rank: int) -> list[int]:
    sizes = [window] if isinstance(window, int) else list(window or [])
    return sizes * rank if len(sizes) == 1 else sizes


def _pool_rule(name: str, rank: int) -> None:
    @rule(f"aten.{name}{rank}d", f"aten._{name}{rank}d")
    def pool(b: Builder, x: Value, window: Any = None, stride: Any = None, padding: Any = 0, *args: Any, **kwargs: Any) -> Value:
        return _pool(b, x, rank, name, window, padding)


for _name in ("max_pool", "avg_pool", "adaptive_avg_pool"):
    for _rank in (1, 2, 3):
        _pool_rule(_name, _rank)


@rule("aten.adaptive_max_pool1d", "aten.adaptive_max_pool2d", "aten.adaptive_max_pool3d",
      "aten.max_pool1d_with_indices", "aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices")
def max_pool_with_indices(b: Builder, x: Value, size: Sequence[int], *args: Any, **kwargs: Any) -> tuple[Value, Value]:
    rank = len(size)
    return _pool(b, x, rank, "max_pool"), _pool(b, x, rank, "max_pool_indices")


@rule("aten.fractional_max_pool2d", "aten.fractional_max_pool3d")
def fractional_max_pool(b: Builder, x: Value, window: Sequence[int], size: Sequence[int], samples: Value) -> tuple[Value, Value]:
    """Windows begin at samples that every channel has of its own: they are operands, and as constants they tell channels apart."""
    rank = len(window)
    batched = x if x.ndim == rank + 2 else b.reshape(x, [1, *x.shape])
    shape = (*batched.shape[:2], *b.shapes[0][-rank:])
    axes = tuple(range(rank + 2))
    drawn = b.mix("samples", samples, [2], ordered=True)
    labels = [axes, (0, 1, "k")] if samples.shape[0] == batched.shape[0] else [axes, ("one", 1, "k")]

    def pooled(name: str, place: int) -> Value:
        out = b.resample(batched, range(2, rank + 2), shape, name)
        return b.reshape(b.contract((labels, axes), out, drawn, name=name), b.shapes[place])

    return pooled("max_pool", 0), pooled("max_pool_indices", 1)


@rule("aten.max_unpool2d", "aten.max_unpool3d")
def max_unpool(b: Builder, x: Value, indices: Value, size: Sequence[int], *args: Any) -> Value:
    """Values sent back to the positions that their indices name, channel by channel."""
    rank = len(size)
    dims = range(x.ndim - rank, x.ndim)
    places = b.mix("positions", indices, dims, ordered=True)
    return b.resample(b.elementwise("unpool", b.mix("positions", x, dims, ordered=True), places), dims, b.shapes[0], "max_unpool")


@rule("aten.pad", "aten.constant_pad_nd")
def pad(b: Builder, x: Value, padding: Sequence[int], mode: Any = "constant", value: Value | float | None = None) -> Value:
    """Constant padding lays constants beside the tensor; other modes repeat positions."""
    if isinstance(mode, Value) or isinstance(value, Value):
        raise ValueError("padding with a computed number")
    for place in range(len(padding) // 2):
        dim, before, after = x.ndim - 1 - place, padding[2 * place], padding[2 * place + 1]
        if isinstance(mode, str) and mode != "constant" and (before or after):
            shape = [n + (before + after if d == dim else 0) for d, n in enumerate(x.shape)]
            x = b.resample(x, [dim], shape, f"{mode} padding")
            continue
        if before < 0 or after < 0:
            x = b.take(x, dim, range(max(-before, 0), x.shape[dim] - max(-after, 0)))
        before, after = max(before, 0), max(after, 0)
        if before + after:  # one constant for both sides, so that nothing tells its elements apart
            size = x.shape[dim]
            number = value if isinstance(mode, str) else mode  # constant_pad_nd has no mode
            joined = b.concat([x, b.fill([before + after if d == dim else n for d, n in enumerate(x.shape)], float(number or 0.0))], dim)
            order = [*range(size, size + before), *range(size), *range(size + before, size + before + after)]
            x = b.take(joined, dim, np.asarray(order)) if before else joined
    return x


def _padding(name: str, rank: int) -> None:
    @rule(f"aten.{name}_pad{rank}d")
    def padded(b: Builder, x: Value, padding: Sequence[int]) -> Value:
        return b.resample(x, range(x.ndim - rank, x.ndim), b.shapes[0], f"{name} padding")


for _name in ("reflection", "replication"):
    for _rank in (1, 2, 3):
        _padding(_name, _rank)


@rule("aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.upsample_nearest3d", "aten.upsample_bilinear2d",
      "aten.upsample_bicubic2d", "aten.upsample_linear1d", "aten.upsample_trilinear3d", "aten._upsample_bilinear2d_aa",
      "aten._upsample_bicubic2d_aa", "aten._upsample_nearest_exact1d", "aten._upsample_nearest_exact2d", "aten._upsample_nearest_exact3d",
      "aten._upsample_lanczos2d_aa")
def upsample(b: Builder, x: Value, *args: Any, **kwargs: Any) -> Value:
    return b.resample(x, range(2, x.ndim), b.shapes[0], "upsample")


@rule("aten.affine_grid_generator")
def affine_grid(b: Builder, theta: Value, size: Sequence[int], align_corners: bool = False) -> Value:
    """Coordinates of every position of an image under affine maps: positions and coordinates are in order."""
    maps = b.mix("coordinates", b.mix("coordinates", theta, [1], ordered=True), [2], ordered=True)
    places = tuple(f"p{d}" for d in range(len(size) - 2))
    grid = b.mix("grid positions", b.fill(size[2:]), range(len(places)), ordered=True)
    return b.contract(([("b", "k", "j"), places], ("b", *places, "k")), maps, grid, name="affine_grid")


@rule("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d")
def grid_sample(b: Builder, x: Value, grid: Value, *args: Any) -> Value:
    """Every place of the grid reads a few positions of the image: all of them, as far as typing goes. Both are ordered.

    In the image it is linear, so that it is typed as a product, with something that nothing scales.
    """
    rank = x.ndim - 2
    places = tuple(f"p{i}" for i in range(rank))
    to = tuple(f"q{i}" for i in range(rank))
    image = b.mix("grid positions", x, range(2, x.ndim), ordered=True, linear=True)
    coordinates = b.mix("grid coordinates", grid, [-1], ordered=True)
    return b.contract(([("b", "c", *places), ("b", *to, "k")], ("b", "c", *to)), image, coordinates, name="grid_sample", product=True)
