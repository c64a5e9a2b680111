"""Acting on state dicts by hand, apart from the package's own group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves


def random_state(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random float64 state of a network without normalisation statistics."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.5 for name, tensor in model.state_dict().items()}


def permuted(state: dict[str, torch.Tensor], places: Iterable[tuple[str, int]], permutation: Sequence[int]) -> dict[str, torch.Tensor]:
    """The state with one permutation applied along the given `(name, dimension)` places."""
    index = torch.tensor(permutation)
    out = dict(state)
    for name, dim in places:
        out[name] = out[name].index_select(dim, index)
    return out


def change(model: nn.Module, inputs: tuple[Any, ...], before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    """Largest relative difference of a network's outputs under two float64 states."""
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    with torch.no_grad():
        a, b = (tree_leaves(torch.func.functional_call(model.double(), state, inputs)) for state in (before, after))
    return max(float((x - y).abs().max() / x.abs().max()) for x, y in zip(a, b, strict=True))
