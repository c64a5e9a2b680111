"""How a group element acts on one tensor: elements are permuted, then multiplied.

Large tensors are worked on some rows at a time: what is made on the way stays in the processor's caches, so that an action costs little more
than a copy.
"""

from __future__ import annotations

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

# Elements worked on at a time.
CHUNK = 1 << 18
# Types that products are computed in; others are computed in float32 and rounded.
_OWN = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def acted(name: str, tensor: torch.Tensor, sources: Sequence[Source], multipliers: Sequence[Multipliers]) -> torch.Tensor:
    """A new tensor: permuted, then multiplied.

    Zeros stay zero and infinities infinite, of the sign of their multiplier; NaNs stay. Half precision is computed in float32 and rounded.

    Args:
        name: of the tensor, for messages.
        tensor: any dense tensor.
        sources: the permutation.
        multipliers: of the permuted tensor's parts.

    Raises:
        StateDictError: the tensor is sparse or quantized, it holds no floating-point numbers but would be multiplied, or an element leaves its
            type's range.
    """
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise StateDictError(f"{name}: expected a dense tensor, got a {'quantized' if tensor.is_quantized else tensor.layout} one. Convert it first.")
    if multipliers and not (tensor.is_floating_point() or tensor.is_complex()):
        raise StateDictError(
            f"{name}: expected floating-point numbers to scale, got {_short(tensor.dtype)}. "
            'Convert the tensor, or sample with kinds=["permutation"].'
        )
    scaling = [(_places(index, tensor.shape), _arrays(name, arrays, tensor)) for index, arrays in multipliers]
    whole = [arrays for places, arrays in scaling if places is None]
    parts = [(places, arrays) for places, arrays in scaling if places is not None]
    own = not multipliers or tensor.dtype in _OWN
    if tensor.ndim == 0 or tensor.requires_grad or not own or any(0 in dims and len(dims) > 1 for dims, _ in sources):
        out = _permuted(tensor if own else tensor.float(), sources)
        out = out.clone() if out is tensor else out.contiguous()
        for arrays in whole:
            for array in arrays:
                out = out * array
    else:
        out = _by_rows(tensor, sources, [array for arrays in whole for array in arrays])
    for places, arrays in parts:
        assert places is not None
        part = out[tuple(where.to(out.device) if isinstance(where, torch.Tensor) else where for where in places)]
        for array in arrays:
            part *= array
        if not all(isinstance(where, slice) for where in places):  # a copy was taken
            out[places] = part
    out = out.to(tensor.dtype)
    if multipliers and tensor.device.type != "meta" and not bool(out.sum().isfinite()):  # a sum is cheap; it may overflow by itself
        _check(name, tensor, out)
    return out


def _check(name: str, before: torch.Tensor, after: torch.Tensor) -> None:
    if int(after.isfinite().sum()) != int(before.isfinite().sum()):
        raise StateDictError(
            f"{name}: scaling takes an element out of the range of {_short(before.dtype)}. "
            "Sample with a smaller sigma, or convert the state dict to float32."
        )


def _by_rows(tensor: torch.Tensor, sources: Sequence[Source], arrays: Sequence[torch.Tensor]) -> torch.Tensor:
    out = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    rows = next((torch.from_numpy(source).to(tensor.device) for dims, source in sources if dims == (0,)), None)
    inner = [(dims, source) for dims, source in sources if dims != (0,)]
    step = max(1, CHUNK // max(1, math.prod(tensor.shape[1:])))
    prepared = [(dims, torch.from_numpy(source).to(tensor.device)) for dims, source in inner]
    for start in range(0, tensor.shape[0], step):
        stop = min(start + step, tensor.shape[0])
        target = out[start:stop]
        chunk = tensor[start:stop]
        if rows is not None and not inner:
            torch.index_select(tensor, 0, rows[start:stop], out=target)
            chunk = target
        elif rows is not None:
            chunk = tensor.index_select(0, rows[start:stop])
        for dims, source in prepared:
            chunk = _selected(chunk, dims, source)
        for number, array in enumerate(arrays):
            part = array if array.shape[0] == 1 else array[start:stop]
            chunk = torch.mul(chunk, part, out=target) if number == 0 else target.mul_(part)
        if chunk is not target:
            target.copy_(chunk)
    return out


def _permuted(tensor: torch.Tensor, sources: Sequence[Source]) -> torch.Tensor:
    for dims, source in sources:
        tensor = _selected(tensor, dims, torch.from_numpy(source).to(tensor.device))
    return tensor


def _selected(tensor: torch.Tensor, dims: tuple[int, ...], index: torch.Tensor) -> torch.Tensor:
    """Elements along some dimensions, by their flat places."""
    if len(dims) == 1:
        return tensor.index_select(dims[0], index)
    order = [*dims, *(d for d in range(tensor.ndim) if d not in dims)]
    front = tensor.permute(order)
    flat = front.reshape(len(index), -1).index_select(0, index).reshape(front.shape)
    return flat.permute(np.argsort(order).tolist())


def _places(index: Sequence[Array | None], shape: Sequence[int]) -> tuple[slice | torch.Tensor, ...] | None:
    """What to subscript a tensor with; None for all of it. Runs are slices, which take no copies."""
    if all(where is None for where in index):
        return None
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
    dtype = {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(tensor.dtype, tensor.dtype)
    dtype = dtype if dtype in _OWN else torch.float32
    out = []
    for array in arrays:
        made = torch.as_tensor(array, dtype=dtype)
        if not bool(made.isfinite().all()) or not bool(made.all()):
            raise StateDictError(f"{name}: a multiplier leaves the range of {_short(dtype)}. Sample with a smaller sigma.")
        out.append(made.to(tensor.device))
    return out


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
