"""Calls kept whole: modules whose class has a rule are traced as one operation, so that nothing inside them need be traceable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._pytree import tree_flatten, tree_unflatten

from paramgraph.compiler.rules import module_rules

CALL = "paramgraph.call.default"


@dataclass
class Call:
    """One module whose calls are kept whole.

    Attributes:
        module: the module.
        forward: its own forward.
        names: names of its parameters and buffers, in operand order.
        inputs: structure of the arguments, by number of call signature.
        outputs: structure of the results.
    """

    module: nn.Module
    forward: Any
    names: list[str]
    inputs: dict[int, Any] = field(default_factory=dict)
    outputs: dict[int, Any] = field(default_factory=dict)


# Modules by the key that stands in traced graphs. Traced programs refer to them for as long as they live.
_calls: dict[int, Call] = {}


@torch.library.custom_op("paramgraph::call", mutates_args=())
def call_module(tensors: list[torch.Tensor], parameters: list[torch.Tensor], key: int, form: int) -> list[torch.Tensor]:
    return _run(tensors, parameters, key, form)


@call_module.register_fake
def _(tensors: list[torch.Tensor], parameters: list[torch.Tensor], key: int, form: int) -> list[torch.Tensor]:
    """Shapes of the results, learnt by running the module on ones: its forward cannot be run on fake tensors."""
    shapes = [(tuple(t.shape), t.dtype) for t in tensors], [(tuple(p.shape), p.dtype) for p in parameters]
    with unset_fake_temporarily(), torch.no_grad():
        real, own = ([torch.ones(shape, dtype=dtype) for shape, dtype in group] for group in shapes)
        results = [(tuple(r.shape), r.dtype) for r in _run(real, own, key, form)]
    device = (tensors + parameters)[0].device
    return [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in results]


def _run(tensors: list[torch.Tensor], parameters: list[torch.Tensor], key: int, form: int) -> list[torch.Tensor]:
    call = _calls[key]
    args, kwargs = tree_unflatten(list(tensors), call.inputs[form])
    own = dict(zip(call.names, parameters, strict=True))
    traced = call.module.forward
    call.module.forward = call.forward
    try:
        result = torch.func.functional_call(call.module, own, args, kwargs)
    finally:
        call.module.forward = traced
    flat, call.outputs[form] = tree_flatten(result)
    return [t.clone() for t in flat]


@contextmanager
def calls_kept_whole(model: nn.Module) -> Iterator[None]:
    """While the body runs, modules of `model` whose class has a rule trace as single calls."""
    classes = tuple(module_rules())
    replaced: list[nn.Module] = []
    try:
        for module in model.modules():
            if classes and type(module) in classes:
                _replace(module)
                replaced.append(module)
        yield
    finally:
        for module in replaced:
            module.__dict__.pop("forward", None)


def _replace(module: nn.Module) -> None:
    names = [*dict(module.named_parameters()), *dict(module.named_buffers())]
    call = Call(module, module.forward, names)
    key = id(module)
    _calls[key] = call

    def forward(*args: Any, **kwargs: Any) -> Any:
        flat, form = tree_flatten((args, kwargs))
        if not all(isinstance(a, torch.Tensor) for a in flat):
            raise TypeError(f"{type(module).__name__} has a rule: its arguments must be tensors, got {[type(a).__name__ for a in flat]}")
        number = next((n for n, known in call.inputs.items() if known == form), len(call.inputs))
        call.inputs[number] = form
        own = [*dict(module.named_parameters()).values(), *dict(module.named_buffers()).values()]
        results = torch.ops.paramgraph.call(flat, own, key, number)
        return tree_unflatten(results, call.outputs[number])

    module.forward = forward


def find_call(key: int) -> Call:
    """The call that a key in a traced graph stands for."""
    return _calls[key]
