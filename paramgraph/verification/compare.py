"""Comparing the results of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from paramgraph.symmetries.group import GroupElement, SymmetryGroup


def deviation(reference: Sequence[Any], other: Sequence[Any]) -> float:
    """Largest difference of two lists of leaves, relative to the largest element of each; infinite where they cannot be compared."""
    worst = 0.0
    for a, b in zip(reference, other, strict=True):
        if isinstance(a, torch.Tensor):
            worst = max(worst, _difference(a, b))
        elif a != b:
            return float("inf")
    return worst


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    if not isinstance(b, torch.Tensor) or a.shape != b.shape:
        return float("inf")
    if not (a.is_floating_point() or a.is_complex()):
        return 0.0 if torch.equal(a, b) else 1.0
    finite = a.isfinite()
    if not bool(finite.all()):
        same = torch.equal(finite, b.isfinite()) and torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num())
        if not same:
            return float("inf")
        a, b = a[finite], b[finite]
    if a.numel() == 0:
        return 0.0
    scale = float(a.abs().max())
    difference = float((a - b).abs().max())
    if difference != difference:
        return float("inf")
    return difference / scale if scale > 0 else difference


def without_nan(values: Sequence[Any]) -> bool:
    """Whether no floating-point leaf holds a NaN."""
    return not any(isinstance(v, torch.Tensor) and v.is_floating_point() and bool(v.isnan().any()) for v in values)


def act_on(element: GroupElement, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The action on some of the tensors alone."""
    group = element.group
    part = restricted(group, tensors)
    acted = GroupElement(part, element.parts).act({name: tensors[name] for action in part.actions for name in part.members(action)})
    return {name: acted.get(name, tensor) for name, tensor in tensors.items()}


def restricted(group: SymmetryGroup, names: Mapping[str, Any]) -> SymmetryGroup:
    """The group with its action on the named tensors only."""
    if group.stacks:
        actions = {name: action for name, action in group.actions.items() if all(member in names for member in group.members(name))}
    else:
        actions = {name: group.actions[name] for name in names if name in group.actions}
    return replace(group, actions=actions, aliases={})
