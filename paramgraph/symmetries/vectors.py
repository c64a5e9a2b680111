"""How a group element acts on many vectors at once.

Half of a network's tensors, and more, are vectors: biases, gains, offsets, statistics. What is done for each of them by itself costs many times
what is done to its elements, so that they are laid end to end, permuted and multiplied as one, and copied apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from paramgraph.symmetries.acting import Source
    from paramgraph.symmetries.element import GroupElement

# Of a vector that is laid beside others: longer ones cost as much as their elements do.
LONGEST = 1 << 14
TYPES = (torch.float32, torch.float64)


def vectors_of(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that can be acted on together: short vectors of the type that most have, on the CPU."""
    by_type: dict[torch.dtype, list[str]] = {dtype: [] for dtype in TYPES}
    for name, tensor in tensors.items():
        if tensor.ndim == 1 and tensor.dtype in by_type and 0 < len(tensor) <= LONGEST and _is_plain(tensor):
            by_type[tensor.dtype].append(name)
    return max(by_type.values(), key=len)


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.requires_grad


def act_on_vectors(element: GroupElement, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """New tensors for those that can be acted on together; the others are left out, and all of them if a result is not finite.

    Args:
        element: what acts.
        tensors: by the names of their actions, none of them a stack.
    """
    names, sources, factors = [], [], []
    for name in vectors_of(tensors):
        own, parts = element.multiplying(name, tensors[name].dtype)
        action = element.group.actions[name]
        if parts or action.unread is not None:
            continue
        names.append(name)
        sources.append(_source(element.sources(action), len(tensors[name])))
        factors.append(own)
    if not names:
        return {}
    lengths = [len(source) for source in sources]
    starts = np.cumsum([0, *lengths[:-1]])
    moved = torch.cat([tensors[name] for name in names])[torch.from_numpy(np.concatenate(sources) + np.repeat(starts, lengths))]
    if any(factors):
        moved *= torch.cat([_product(own, length, moved.dtype) for own, length in zip(factors, lengths, strict=True)])
        if not math.isfinite(float(moved.sum())):  # each by itself says what is wrong, if anything is
            return {}
    copies: Sequence[torch.Tensor] = torch.split_with_sizes_copy(moved, lengths)  # type: ignore[func-returns-value, assignment]
    return dict(zip(names, copies, strict=True))


def _source(sources: Sequence[Source], length: int) -> np.ndarray:
    return sources[0][1] if sources else np.arange(length)


def _product(factors: Sequence[torch.Tensor], length: int, dtype: torch.dtype) -> torch.Tensor:
    if not factors:
        return torch.ones(length, dtype=dtype)
    return (factors[0] if len(factors) == 1 else math.prod(factors[1:], start=factors[0])).expand(length)
