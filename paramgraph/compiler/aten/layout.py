"""Layout: views, permutations, slices, concatenation, expansion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule


@rule("aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten", "aten.unflatten", "aten.squeeze", "aten.unsqueeze",
      "aten._reshape_alias", "aten.squeeze_copy", "aten.unsqueeze_copy", "aten.view_copy", "aten.ravel")
def reshape(b: Builder, x: Value, *args: Any, **kwargs: Any) -> Value:
    return b.reshape(x, b.shapes[0])


@rule("aten.view.dtype")
def bits(b: Builder, x: Value, dtype: torch.dtype) -> Value:
    """The same bits read as numbers of another kind, which no multiplier survives."""
    if b.shapes[0] != x.shape:
        raise ValueError("bits read as numbers of another width")
    return b.elementwise("bits", x)


@rule("aten.permute")
def permute(b: Builder, x: Value, order: Sequence[int]) -> Value:
    return b.permute(x, order)


@rule("aten.transpose", "aten.swapaxes", "aten.swapdims")
def transpose(b: Builder, x: Value, first: int, second: int) -> Value:
    return b.transpose(x, first, second) if x.ndim else x


@rule("aten.t", "aten.numpy_T", "aten.mT", "aten.adjoint")
def flip_axes(b: Builder, x: Value) -> Value:
    return b.transpose(x, -1, -2) if x.ndim >= 2 else x


@rule("aten.movedim")
def movedim(b: Builder, x: Value, source: Any, target: Any) -> Value:
    sources = [source] if isinstance(source, int) else source
    targets = [target] if isinstance(target, int) else target
    order: list[int | None] = [None] * x.ndim
    for s, t in zip(sources, targets, strict=True):
        order[t % x.ndim] = s % x.ndim
    rest = iter(d for d in range(x.ndim) if d not in order)
    return b.permute(x, [next(rest) if d is None else d for d in order])


def _run(b: Builder, x: Value, dim: int, index: range) -> Value:
    """The elements `index` of one axis; a run of none is empty, and pins nothing."""
    if not len(index):
        return b.fill([0 if d == dim % x.ndim else n for d, n in enumerate(x.shape)])
    return b.take(x, dim, index)


@rule("aten.slice")
def slice_(b: Builder, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
    return _run(b, x, dim, range(*slice(start, end, step).indices(x.shape[dim])))


@rule("aten.narrow")
def narrow(b: Builder, x: Value, dim: int, start: int, size: int) -> Value:
    start = start + x.shape[dim] if start < 0 else start
    return _run(b, x, dim, range(start, start + size))


@rule("aten.select")
def select(b: Builder, x: Value, dim: int, index: int) -> Value:
    return b.select(x, dim, index)


@rule("aten.unbind")
def unbind(b: Builder, x: Value, dim: int = 0) -> tuple[Value, ...]:
    return tuple(b.select(x, dim, i) for i in range(x.shape[dim]))


@rule("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.split_copy", "aten.split_with_sizes_copy", "aten.tensor_split")
def split(b: Builder, x: Value, sizes: Any = None, dim: int = 0, **kwargs: Any) -> tuple[Value, ...]:
    ends = np.cumsum([shape[dim] for shape in b.shapes]).tolist()
    return tuple(_run(b, x, dim, range(end - shape[dim], end)) for shape, end in zip(b.shapes, ends, strict=True))


@rule("aten.cat", "aten.concat")
def cat(b: Builder, values: Sequence[Value], dim: int = 0) -> Value:
    full = [value for value in values if 0 not in value.shape]
    return b.concat(full, dim) if full else b.fill(b.shapes[0])


@rule("aten.stack")
def stack(b: Builder, values: Sequence[Value], dim: int = 0) -> Value:
    dim %= values[0].ndim + 1
    return b.concat([b.reshape(v, [*v.shape[:dim], 1, *v.shape[dim:]]) for v in values], dim)


@rule("aten.expand", "aten.broadcast_to", "aten.expand_copy")
def expand(b: Builder, x: Value, shape: Sequence[int], **kwargs: Any) -> Value:
    return b.expand(x, b.shapes[0])


@rule("aten.expand_as")
def expand_as(b: Builder, x: Value, other: Value) -> Value:
    return b.expand(x, other.shape)


@rule("aten.repeat", "aten.tile")
def repeat(b: Builder, x: Value, times: Sequence[int]) -> Value:
    """Each axis becomes (copies, elements)."""
    times = [1] * (len(b.shapes[0]) - len(times)) + list(times)
    shape = [1] * (len(times) - x.ndim) + list(x.shape)
    paired = b.reshape(x, [n for have in shape for n in (1, have)])
    wide = b.expand(paired, [n for pair in zip(times, shape, strict=True) for n in pair])
    return b.reshape(wide, b.shapes[0])


@rule("aten.repeat_interleave.self_int")
def repeat_interleave(b: Builder, x: Value, times: int, dim: int | None = None, **kwargs: Any) -> Value:
    """Each axis becomes (elements, copies)."""
    if dim is None:
        x, dim = b.reshape(x, [-1]), 0
    dim %= x.ndim
    paired = b.reshape(x, [*x.shape[: dim + 1], 1, *x.shape[dim + 1 :]])
    wide = b.expand(paired, [*x.shape[: dim + 1], times, *x.shape[dim + 1 :]])
    return b.reshape(wide, b.shapes[0])


@rule("aten.meshgrid")
def meshgrid(b: Builder, values: Sequence[Value], *, indexing: str = "ij") -> tuple[Value, ...]:
    """Each operand along an axis of its own, and the same along those of the others."""
    places = list(range(len(values)))
    if indexing == "xy" and len(values) > 1:
        places[:2] = 1, 0
    shape = b.shapes[0]
    return tuple(b.expand(b.reshape(v, [shape[d] if d == place else 1 for d in range(len(shape))]), shape)
                 for v, place in zip(values, places, strict=True))  # fmt: skip


@rule("aten.flip")
def flip(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    for dim in dims:
        x = b.take(x, dim, range(x.shape[dim])[::-1])
    return x


@rule("aten.roll")
def roll(b: Builder, x: Value, shifts: Any, dims: Any = ()) -> Value:
    shifts, dims = ([v] if isinstance(v, int) else list(v) for v in (shifts, dims))
    if not dims:
        return b.reshape(roll(b, b.reshape(x, [-1]), shifts, [0]), x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        x = b.take(x, dim, np.roll(np.arange(x.shape[dim]), shift))
    return x


@rule("aten.rot90")
def rot90(b: Builder, x: Value, times: int = 1, dims: Sequence[int] = (0, 1)) -> Value:
    first, second = dims
    for _ in range(times % 4):
        x = flip(b, b.transpose(x, first, second), [first])
    return x


@rule("aten.unfold")
def unfold(b: Builder, x: Value, dim: int, size: int, step: int) -> Value:
    """Windows along one axis, as a new last axis. Windows that do not overlap are a view; others are positions."""
    dim %= x.ndim
    windows = b.shapes[0][dim]
    last = [*range(dim + 1), *range(dim + 2, x.ndim + 1), dim + 1]
    if size == step:
        whole = b.take(x, dim, range(windows * size))
        return b.permute(b.reshape(whole, [*x.shape[:dim], windows, size, *x.shape[dim + 1 :]]), last)
    return b.resample(b.reshape(x, [*x.shape, 1]), [dim, x.ndim], b.shapes[0], "unfold")


@rule("aten.im2col")
def im2col(b: Builder, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Patches of an image: channels stay what they are; places within a patch, and patches, are positions."""
    batched = x if x.ndim == 4 else b.reshape(x, [1, *x.shape])
    channels, windows = batched.shape[1], b.shapes[0][-1]
    taps = b.shapes[0][-2] // channels
    return b.reshape(b.resample(batched, [2, 3], [batched.shape[0], channels, taps, windows], "im2col"), b.shapes[0])


@rule("aten.col2im")
def col2im(b: Builder, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Patches summed to an image."""
    batch, height, width = (x.shape[0] if x.ndim == 3 else 1), *b.shapes[0][-2:]
    channels = b.shapes[0][-3]
    split = b.reshape(x, [batch, channels, x.shape[-2] // channels, x.shape[-1]])
    return b.reshape(b.resample(split, [2, 3], [batch, channels, height, width], "col2im"), b.shapes[0])


@rule("aten.pixel_shuffle")
def pixel_shuffle(b: Builder, x: Value, factor: int) -> Value:
    *batch, channels, height, width = x.shape
    x = b.reshape(x, [*batch, channels // factor**2, factor, factor, height, width])
    n = len(batch)
    x = b.permute(x, [*range(n), n, n + 3, n + 1, n + 4, n + 2])
    return b.reshape(x, b.shapes[0])


@rule("aten.pixel_unshuffle")
def pixel_unshuffle(b: Builder, x: Value, factor: int) -> Value:
    *batch, channels, height, width = x.shape
    x = b.reshape(x, [*batch, channels, height // factor, factor, width // factor, factor])
    n = len(batch)
    x = b.permute(x, [*range(n), n, n + 2, n + 4, n + 1, n + 3])
    return b.reshape(x, b.shapes[0])


@rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(b: Builder, x: Value, groups: int) -> Value:
    split = b.reshape(x, [x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]])
    return b.reshape(b.transpose(split, 1, 2), x.shape)


@rule("aten.slice_scatter")
def slice_scatter(b: Builder, x: Value, source: Value, dim: int = 0, start: int | None = None, end: int | None = None,
                  step: int = 1) -> Value:
    chosen = np.arange(x.shape[dim])[slice(start, end, step)]
    return _overwrite(b, x, source, dim, chosen)


@rule("aten.select_scatter")
def select_scatter(b: Builder, x: Value, source: Value, dim: int, index: int) -> Value:
    dim %= x.ndim
    return _overwrite(b, x, b.reshape(source, [*source.shape[:dim], 1, *source.shape[dim:]]), dim, np.asarray([index % x.shape[dim]]))


def _overwrite(b: Builder, x: Value, source: Value, dim: int, chosen: np.ndarray) -> Value:
    """`x` with the elements `chosen` of one axis replaced: the pieces that are left and the source laid side by side, then put in order.

    The pieces are remembered: a tensor that is written step by step is joined once from what was written, not from what it was before.
    """
    dim %= x.ndim
    known = x.op.attrs.get("pieces") if x.op is not None else None
    pieces: list[tuple[np.ndarray, Value]] = known[1] if known is not None and known[0] == dim else [(np.arange(x.shape[dim]), x)]
    left = []
    for places, value in pieces:
        kept = np.flatnonzero(~np.isin(places, chosen))
        if len(kept):
            left.append((places[kept], value if len(kept) == len(places) else b.take(value, dim, kept)))
    left.append((chosen, source))
    left.sort(key=lambda piece: int(piece[0][0]))
    places = np.concatenate([piece[0] for piece in left])
    out = b.concat([value for _, value in left], dim)
    if (places != np.arange(len(places))).any():
        order = np.empty(len(places), dtype=np.int64)
        order[places] = np.arange(len(places))
        out = b.take(out, dim, order)
    if out.op is not None and out is not source:
        out.op.attrs["pieces"] = (dim, left)
    return out


@rule("aten.view_as_real")
def view_as_real(b: Builder, x: Value) -> Value:
    """Real and imaginary parts, on a new last axis."""
    parts = [b.reshape(b.elementwise(name, x), [*x.shape, 1]) for name in ("real", "imag")]
    return b.concat(parts, -1)


@rule("aten.view_as_complex")
def view_as_complex(b: Builder, x: Value) -> Value:
    return b.elementwise("complex", b.select(x, -1, 0), b.select(x, -1, 1))
