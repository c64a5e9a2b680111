"""Running a network itself, in float64 or in its own precision, to compare its exported graph with it."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_unflatten

from paramgraph.compiler.torch_export import UPDATES
from paramgraph.verification.compare import deviation
from paramgraph.verification.execute import default_float64, wide

# The exported graph and the network itself may differ by casts inside the network.
SAME_FUNCTION = 1e-5


def compare_original(model: nn.Module, state: Mapping[str, torch.Tensor], inputs: Sequence[Any], exported: Any, examples: Sequence[Any],
                     returned: Sequence[torch.Tensor], rounding: float) -> tuple[float | None, float, str]:
    """How far a network is from what its exported graph returned, how far it may be, and a note.

    They are compared in float64; in the network's own precision where it is another function in float64 (one that masks with the least
    number there is), or does not run.

    Args:
        model: the network.
        state: float64 tensors by name.
        inputs: flat input leaves.
        exported: the exported program.
        examples: leaves in the network's own precision.
        returned: tensors that the exported graph returned in float64.
        rounding: what rounding errors of float64 amount to.
    """
    values, why = run_original(model, state, inputs, exported)
    found = None if values is None else _differs(returned, values)
    if found is not None and found <= SAME_FUNCTION:
        return found, SAME_FUNCTION, ""
    values, _ = run_original(model, state, inputs, exported, examples)
    own = None if values is None else _differs(returned, values)
    # Rounding errors, grown from those of float64 to those of the network's own precision.
    allowed = max(SAME_FUNCTION, 10 * rounding * precision(model) / torch.finfo(torch.float64).eps)
    if own is not None and (found is None or own <= allowed):
        reason = why or "in float64 it is another function"
        return own, allowed, f"the exported graph was compared with the network itself in the network's own precision: {reason}"
    return found, SAME_FUNCTION, "" if found is not None else f"the exported graph was not compared with the network itself: {why}"


def _differs(returned: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> float:
    return deviation(returned, values) if len(returned) == len(values) else float("inf")


def run_original(model: nn.Module, state: Mapping[str, torch.Tensor], inputs: Sequence[Any], exported: Any,
                 examples: Sequence[Any] | None = None) -> tuple[list[torch.Tensor] | None, str]:
    """The output tensors of a network under a float64 state, or None and why there are none.

    The network's own tensors are left as they are: training mode updates copies of its buffers. So is the state: what the exported graph gives
    new values to is copied, as all buffers are.

    Args:
        model: the network.
        state: float64 tensors by name.
        inputs: flat input leaves.
        exported: its exported program.
        examples: leaves whose precision the inputs take, to run the network in its own precision; None for float64.
    """
    own_precision = examples is not None
    own = [*model.parameters(), *model.buffers()]
    if any(tensor.device.type != "cpu" for tensor in own):
        return None, f"it is on the {own[0].device.type} device"
    leaves = [_like(leaf, example) for leaf, example in zip(inputs, examples, strict=True)] if examples is not None else list(inputs)
    args, kwargs = tree_unflatten(leaves, exported.call_spec.in_spec)
    updated = {spec.target for spec in exported.graph_signature.output_specs if spec.kind in UPDATES}
    why = ""
    for gradients in (False, True):  # a network may take derivatives in its forward
        try:
            with warnings.catch_warnings(), torch.set_grad_enabled(gradients), nullcontext() if own_precision else default_float64():
                warnings.simplefilter("ignore")
                result = torch.func.functional_call(model, _tensors(model, state, own_precision, updated), tuple(args), dict(kwargs))
        except Exception as error:  # it may insist on its own precision in any way
            why = why or f"it does not run in {'its own precision' if own_precision else 'float64'} ({type(error).__name__})"
        else:
            return [leaf.detach() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)], ""
    return None, why


def precision(model: nn.Module) -> float:
    """The relative rounding error of a network's coarsest tensors."""
    kinds = {tensor.dtype for tensor in [*model.parameters(), *model.buffers()] if tensor.is_floating_point() or tensor.is_complex()}
    return max((torch.finfo(kind).eps for kind in kinds), default=torch.finfo(torch.float32).eps)


def _like(leaf: Any, example: Any) -> Any:
    return leaf.to(example.dtype) if isinstance(leaf, torch.Tensor) and isinstance(example, torch.Tensor) else leaf


def _tensors(model: nn.Module, state: Mapping[str, torch.Tensor], own_precision: bool, updated: Collection[str]) -> dict[str, torch.Tensor]:
    """One tensor for every parameter and buffer, each shared one under one name; copies of those that may be written to.

    The others share their data, but are no tensors of the state: a network that converts itself would give those another type.
    """
    out, seen = {}, set()
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    written = {id(tensor) for name, tensor in named if name in updated or not isinstance(tensor, nn.Parameter)}
    for name, tensor in named:
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        value = wide(tensor.detach().clone()) if name not in state else state[name].clone() if id(tensor) in written else state[name].detach()
        out[name] = value.to(tensor.dtype) if own_precision else value
    return out
