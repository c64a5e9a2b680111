"""Running a network itself, in float64, to compare its exported graph with it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_unflatten

from paramgraph.verification.execute import default_float64, wide


def run_original(model: nn.Module, state: Mapping[str, torch.Tensor], inputs: Sequence[Any],
                 exported: Any) -> tuple[list[torch.Tensor] | None, str]:
    """The output tensors of a network under a float64 state, or None and why there are none.

    The network's own tensors are left as they are: training mode updates copies of its buffers.
    """
    own = [*model.parameters(), *model.buffers()]
    if any(tensor.device.type != "cpu" for tensor in own):
        return None, f"it is on the {own[0].device.type} device"
    args, kwargs = tree_unflatten(list(inputs), exported.call_spec.in_spec)
    try:
        with warnings.catch_warnings(), torch.no_grad(), default_float64():
            warnings.simplefilter("ignore")
            result = torch.func.functional_call(model, _tensors(model, state), tuple(args), dict(kwargs))
    except Exception as error:  # a network may insist on its own precision in any way
        return None, f"it does not run in float64 ({type(error).__name__})"
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)], ""


def _tensors(model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One tensor for every parameter and buffer, each shared one under one name."""
    out, seen = {}, set()
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        out[name] = state[name].clone() if name in state else wide(tensor.detach().clone())
    return out
