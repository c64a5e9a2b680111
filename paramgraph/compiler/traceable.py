"""What modules do that hinders a trace though it means nothing to their function: done away with while they are traced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """While the body runs, idle conversions do nothing, masks are not asked what they hold, and modules are told apart by identity."""
    with ExitStack() as stack:
        stack.enter_context(_idle_conversions())
        stack.enter_context(_masks_as_they_are())
        stack.enter_context(_hashed_by_identity(model))
        yield


@contextmanager
def _idle_conversions() -> Iterator[None]:
    """Converting a module to the precision and device that it has already does nothing.

    Some routers convert themselves whenever they are called; swapping parameters for themselves cannot be traced.
    """
    apply = nn.Module._apply

    def converted(self: nn.Module, function: Any, recurse: bool = True) -> nn.Module:
        tensors = [*self.parameters(recurse), *self.buffers(recurse)]
        with torch.no_grad():
            same = all((new.dtype, new.device) == (old.dtype, old.device) for old, new in ((t, function(t)) for t in tensors))
        return self if same else apply(self, function, recurse)

    nn.Module._apply = converted  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]


@contextmanager
def _masks_as_they_are() -> Iterator[None]:
    """torch's transformers compare a mask with the causal one, to choose a faster kernel for it: the function is the same without."""
    from torch.nn.modules import transformer

    detect = getattr(transformer, "_detect_is_causal_mask", None)
    if detect is None:
        yield
        return
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: bool(is_causal)
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = detect


@contextmanager
def _hashed_by_identity(model: nn.Module) -> Iterator[None]:
    """Modules of classes that hash by the values of tensors hash by identity: a trace has no values."""
    classes = {type(module) for module in _modules(model)}
    own = {cls: cls.__dict__.get("__hash__") for cls in classes if cls.__hash__ is not nn.Module.__hash__}
    for cls in own:
        cls.__hash__ = object.__hash__  # type: ignore[method-assign]
    try:
        yield
    finally:
        for cls, method in own.items():
            if method is None:
                del cls.__hash__
            else:
                cls.__hash__ = method  # type: ignore[method-assign]


def _modules(model: nn.Module) -> Iterator[nn.Module]:
    """All modules, found without hashing any."""
    stack, seen = [model], set()
    while stack:
        module = stack.pop()
        if id(module) not in seen:
            seen.add(id(module))
            yield module
            stack += [child for child in module._modules.values() if child is not None]
