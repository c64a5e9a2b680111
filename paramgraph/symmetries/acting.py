"""How a group element acts on one tensor: elements are permuted, then multiplied.

Large tensors are worked on some rows at a time: what is made on the way stays in the processor's caches, so that an action costs little more
than a copy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

from paramgraph.errors import StateDictError

Array = np.ndarray
# Where the elements along some dimensions come from: `(dimensions, flat places)`.
Source = tuple[tuple[int, ...], Array]
# Arrays whose product multiplies a part of a tensor: per axis the part's positions (None for all), and the arrays.
Multipliers = tuple[tuple[Array | None, ...], Sequence[Array]]

# Elements worked on at a time: few enough for the second cache.
CHUNK = 1 << 16
# Types that products are computed in; others are computed in float32 and rounded.
_OWN = (torch.float32, torch.float64, torch.complex64, torch.complex128)
_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


def acted(
    name: str, tensor: torch.Tensor, sources: Sequence[Source], arrays: Sequence[torch.Tensor] = (), parts: Sequence[Multipliers] = ()
) -> torch.Tensor:
    """A new tensor: permuted, then multiplied.

    Zeros stay zero and infinities infinite, of the sign of their multiplier; NaNs stay. Half precision is computed in float32 and rounded.

    Args:
        name: of the tensor, for messages.
        tensor: any dense tensor.
        sources: the permutation.
        arrays: of the permuted tensor's rank, of size 1 along axes that they do not vary along; their product multiplies it. Of the type
            that it is computed in.
        parts: multipliers of parts of it.

    Raises:
        StateDictError: the tensor is sparse or quantized, it holds no floating-point numbers but would be multiplied, or an element leaves its
            type's range.
    """
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise StateDictError(f"{name}: expected a dense tensor, got a {'quantized' if tensor.is_quantized else tensor.layout} one. Convert it first.")
    if not arrays and not parts:
        return _by_rows(tensor, sources, ())[0] if _has_rows(tensor, sources) else _copied(_permuted(tensor, sources), tensor)
    if not (tensor.is_floating_point() or tensor.is_complex()):
        raise StateDictError(
            f"{name}: expected floating-point numbers to scale, got {_short(tensor.dtype)}. "
            'Convert the tensor, or sample with kinds=["permutation"].'
        )
    whole = arrays if tensor.device.type == "cpu" else [array.to(tensor.device) for array in arrays]
    if tensor.dtype in _OWN and _has_rows(tensor, sources):
        out, total = _by_rows(tensor, sources, whole)
    else:
        out, total = _copied(_permuted(tensor if tensor.dtype in _OWN else tensor.float(), sources), tensor), None
        for array in whole:
            out = out * array
    for index, held in parts:
        places, total = _places(index, tensor.shape), None
        part = out[tuple(where.to(out.device) if isinstance(where, torch.Tensor) else where for where in places)]
        for array in _arrays(name, held, tensor):
            part *= array
        if not all(isinstance(where, slice) for where in places):  # a copy was taken
            out[places] = part
    out = out.to(tensor.dtype)
    if tensor.device.type != "meta" and not math.isfinite(float(out.detach().sum().abs() if total is None else total)):  # it may overflow by itself
        _check(name, tensor, out)
    return out


def multipliers_of_rows(
    arrays: Sequence[torch.Tensor], parts: Sequence[Multipliers], rows: torch.Tensor, count: int
) -> tuple[list[torch.Tensor], list[Multipliers]]:
    """What multiplies some rows of a tensor, of what multiplies all.

    Args:
        arrays: as of `acted`.
        parts: as of `acted`.
        rows: their numbers.
        count: of all rows.
    """
    own = rows.numpy()
    held: list[Multipliers] = []
    for (first, *others), multipliers in parts:
        place = np.arange(count)
        if first is not None:
            place = np.full(count, -1)
            place[first] = np.arange(len(first))
        there = place[own]
        hit = np.flatnonzero(there >= 0)
        if len(hit):
            index = (None if first is None else hit, *others)
            held.append((index, [array if len(array) == 1 else array[there[hit]] for array in multipliers]))
    return [array if len(array) == 1 else array[rows] for array in arrays], held


def _check(name: str, before: torch.Tensor, after: torch.Tensor) -> None:
    if int(after.isfinite().sum()) != int(before.isfinite().sum()):
        raise StateDictError(
            f"{name}: scaling takes an element out of the range of {_short(before.dtype)}. "
            "Sample with a smaller sigma, or convert the state dict to float32."
        )


def _has_rows(tensor: torch.Tensor, sources: Sequence[Source]) -> bool:
    """Whether a tensor can be worked on some rows at a time, into memory of its own."""
    return tensor.ndim > 0 and not tensor.requires_grad and not any(0 in dims and len(dims) > 1 for dims, _ in sources)


def _copied(made: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    return made.clone() if made is tensor else made.contiguous()


def _by_rows(tensor: torch.Tensor, sources: Sequence[Source], arrays: Sequence[torch.Tensor]) -> tuple[torch.Tensor, float | None]:
    """A tensor permuted and multiplied, and the sum of its elements if it was multiplied: what is not finite shows there."""
    if not sources and not arrays:
        return tensor.clone(), None
    if tensor.numel() <= CHUNK:
        return _at_once(tensor, sources, arrays)
    out = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    count, width = tensor.shape[0], math.prod(tensor.shape[1:])
    rows = next((torch.from_numpy(source).to(tensor.device) for dims, source in sources if dims == (0,)), None)
    inner = [(dims, torch.from_numpy(source).to(tensor.device)) for dims, source in sources if dims != (0,)]
    by_row, by_place, mixed = _sorted_out(arrays, tensor.shape)
    step = max(1, CHUNK // max(1, width))
    starts = range(0, count, step)
    # Split at once: what is done for each chunk costs as much as some ten thousand elements.
    targets, flats = _split(out, step), _split(out.view(count, width), step)
    chunks = _split(tensor if rows is None else rows, step)
    factors = itertools.repeat(None) if by_row is None else _split(by_row, step)
    # Memory of its own for what is made on the way would be new for each chunk, and out of the caches.
    kept = torch.empty((step, *tensor.shape[1:]), dtype=tensor.dtype, device=tensor.device) if rows is not None and inner else out
    total = 0.0
    for start, target, flat, chunk, factor in zip(starts, targets, flats, chunks, factors, strict=False):
        if rows is not None:
            chunk = torch.index_select(tensor, 0, chunk, out=kept[: len(chunk)] if inner else target)
        for number, (dims, source) in enumerate(inner):
            last = number == len(inner) - 1 and len(dims) == 1
            chunk = torch.index_select(chunk, dims[0], source, out=target) if last else _selected(chunk, dims, source)
        for array in mixed:
            chunk = torch.mul(chunk, array[start : start + step], out=target)
        for array in by_place if factor is None else (*by_place, factor):
            torch.mul(flat if chunk is target else chunk.reshape(flat.shape), array, out=flat)
            chunk = target
        if chunk is not target:
            target.copy_(chunk)
        if arrays and tensor.device.type != "meta":
            total += abs(flat.sum().item())
    return out, total if arrays else None


def _at_once(tensor: torch.Tensor, sources: Sequence[Source], arrays: Sequence[torch.Tensor]) -> tuple[torch.Tensor, float | None]:
    """As `_by_rows`, of a tensor that stays in the caches as a whole: what is done for each counts, not what is done to its elements."""
    out = _permuted(tensor, sources).contiguous()
    if not arrays:
        return (out if out is not tensor else tensor.clone()), None
    out = out * arrays[0] if out is tensor else out.mul_(arrays[0])
    for array in arrays[1:]:
        out.mul_(array)
    return out, None if tensor.device.type == "meta" else abs(out.sum().item())


def _split(tensor: torch.Tensor, step: int) -> Sequence[torch.Tensor]:
    return (tensor,) if len(tensor) <= step else tensor.split(step)


def _sorted_out(arrays: Sequence[torch.Tensor], shape: Sequence[int]) -> tuple[torch.Tensor | None, list[torch.Tensor], list[torch.Tensor]]:
    """Arrays by what they vary along: rows, shape `(rows, 1)`; places within a row, shape `(1, places)`; both, of full rank."""
    by_row: torch.Tensor | None = None
    by_place: torch.Tensor | None = None
    mixed = []
    for array in arrays:
        if array.shape[0] == array.numel():
            array = array.reshape(-1, 1)
            by_row = array if by_row is None else by_row * array
        elif array.shape[0] == 1:
            by_place = array if by_place is None else by_place * array
        else:
            mixed.append(array)
    by_row = None if by_row is None else by_row.expand(shape[0], 1)
    if by_place is None:
        return by_row, [], mixed
    # Written out, a row is one loop for the processor; else its last axis would be, of few elements.
    return by_row, [by_place.expand(1, *shape[1:]).reshape(1, -1)], mixed


def _permuted(tensor: torch.Tensor, sources: Sequence[Source]) -> torch.Tensor:
    for dims, source in sources:
        index = torch.from_numpy(source)
        tensor = _selected(tensor, dims, index if tensor.device.type == "cpu" else index.to(tensor.device))
    return tensor


def _selected(tensor: torch.Tensor, dims: tuple[int, ...], index: torch.Tensor) -> torch.Tensor:
    """Elements along some dimensions, by their flat places."""
    if len(dims) == 1:
        return tensor.index_select(dims[0], index)
    if dims == tuple(range(dims[0], dims[0] + len(dims))):
        return tensor.flatten(dims[0], dims[-1]).index_select(dims[0], index).reshape(tensor.shape)
    order = [*dims, *(d for d in range(tensor.ndim) if d not in dims)]
    front = tensor.permute(order)
    flat = front.reshape(len(index), -1).index_select(0, index).reshape(front.shape)
    return flat.permute(np.argsort(order).tolist())


def _places(index: Sequence[Array | None], shape: Sequence[int]) -> tuple[slice | torch.Tensor, ...]:
    """What to subscript a tensor with. Runs are slices, which take no copies."""
    slices = [_as_slice(where) for where in index]
    if all(where is not None for where in slices):
        return tuple(where for where in slices if where is not None)
    full = [np.arange(n) if where is None else where for where, n in zip(index, shape, strict=True)]
    return tuple(torch.from_numpy(where) for where in np.ix_(*full))


def _as_slice(where: Array | None) -> slice | None:
    if where is None:
        return slice(None)
    first, count = int(where[0]), len(where)
    return slice(first, first + count) if int(where[-1]) == first + count - 1 and bool((np.diff(where) == 1).all()) else None


def _arrays(name: str, arrays: Sequence[Array], tensor: torch.Tensor) -> list[torch.Tensor]:
    out = [torch.as_tensor(array, dtype=computed_in(tensor.dtype)) for array in arrays]
    if any(not bool(made.isfinite().all()) or not bool(made.all()) for made in out):
        raise out_of_range(name, tensor.dtype)
    return [made.to(tensor.device) for made in out]


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """The type of the multipliers of tensors of a type."""
    return _REAL.get(dtype, dtype if dtype in _OWN else torch.float32)


def out_of_range(name: str, dtype: torch.dtype) -> StateDictError:
    return StateDictError(
        f"{name}: a multiplier leaves the range of {_short(computed_in(dtype))}. Convert the state dict to float64, or sample with a smaller sigma."
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
