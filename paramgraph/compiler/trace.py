"""Tracing: a network in any of its torch forms becomes one functional, undecomposed exported program."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paramgraph.compiler.calls import calls_kept_whole
from paramgraph.compiler.traceable import traceable
from paramgraph.compiler.untraceable import depends_on_data, explain, graphs_not_printed
from paramgraph.errors import ParamGraphError, TraceError, first_line

Inputs = torch.Tensor | Sequence[Any] | Mapping[str, Any] | None


@dataclass
class Trace:
    """A traced network.

    Attributes:
        name: the network's name.
        exported: the functional exported program.
        state: its state dict, sharing storage with the network.
        arguments: example arguments, `(args, kwargs)`, on the network's device.
    """

    name: str
    exported: torch.export.ExportedProgram
    state: dict[str, torch.Tensor]
    arguments: tuple[tuple[Any, ...], dict[str, Any]]


def trace(model: Any, example_inputs: Inputs = None, kwargs: Mapping[str, Any] | None = None) -> Trace:
    """Export a network, keeping operations whole and rewriting in-place ones.

    Args:
        model: an `nn.Module` (an `fx.GraphModule` is one), a `torch.export.ExportedProgram`, or a path to a `.pt2` file.
        example_inputs: one tensor, a sequence of positional arguments, or a mapping of keyword arguments.
        kwargs: keyword arguments beside positional ones.

    Raises:
        TraceError: the model cannot be traced, the inputs do not fit it, or the file cannot be read.
    """
    if isinstance(model, (str, Path)):
        model = _load(Path(model))
    if isinstance(model, torch.export.ExportedProgram):
        args, kw = model.example_inputs or ((), {})
        name = type(model.module()).__name__ if not model.graph_module else "exported"
        return Trace(name, _functional(model), dict(model.state_dict), (tuple(args), dict(kw)))
    if not isinstance(model, nn.Module):
        raise TraceError(
            f"expected an nn.Module, an ExportedProgram, an fx.GraphModule or a path to a .pt2 file, got {type(model).__name__}."
        )
    args, kw = _arguments(model, example_inputs, kwargs)
    state = {name: tensor.detach() for name, tensor in model.state_dict(keep_vars=True).items() if isinstance(tensor, torch.Tensor)}
    return Trace(type(model).__name__, export(model, args, kw), state, (args, kw))


def export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    """`torch.export` of a module, made functional."""
    try:
        with warnings.catch_warnings(), calls_kept_whole(model), graphs_not_printed(), traceable(model):
            warnings.simplefilter("ignore")
            return _functional(torch.export.export(model, args, kwargs, strict=False))
    except ParamGraphError:
        raise
    except Exception as error:
        differentiated = None if depends_on_data(error) else _with_derivatives(model, args, kwargs)
        if differentiated is None:
            raise TraceError(explain(model, args, kwargs, error)) from error
        return differentiated


def _with_derivatives(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram | None:
    """Trace a network that takes derivatives inside its forward: below torch's automatic differentiation, whose operations are then in the graph.

    None if that cannot be traced either. Composite operations do not stay whole below it, so it is not the first choice.
    """
    from torch.export import _trace

    try:
        with warnings.catch_warnings(), calls_kept_whole(model), graphs_not_printed(), traceable(model), _gradients_in(model):
            warnings.simplefilter("ignore")
            return _functional(_trace._export(model, args, kwargs, strict=False, pre_dispatch=False))
    except Exception:  # what the first way raised says more
        return None


@contextmanager
def _gradients_in(model: nn.Module) -> Iterator[None]:
    """While the body runs, the network's forward may take gradients, and its outputs carry none."""

    def begin(*_: Any) -> None:
        torch.set_grad_enabled(True)

    def end(module: nn.Module, args: Any, out: Any) -> Any:
        torch.set_grad_enabled(False)
        return torch.utils._pytree.tree_map(lambda a: a.detach() if isinstance(a, torch.Tensor) else a, out)

    hooks = model.register_forward_pre_hook(begin), model.register_forward_hook(end)
    enabled = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(enabled)
        for hook in hooks:
            hook.remove()


def _functional(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return exported.run_decompositions({})


def _arguments(model: nn.Module, inputs: Inputs, kwargs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if inputs is None and not kwargs:
        raise TraceError(f"{type(model).__name__} needs example inputs: pass a tensor, a tuple of arguments, or a dict of keyword arguments.")
    extra = dict(kwargs or {})
    if isinstance(inputs, Mapping):
        args, extra = (), {**inputs, **extra}
    else:
        args = () if inputs is None else (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    first = next(iter([*model.parameters(), *model.buffers()]), None)
    if first is not None:
        move = torch.utils._pytree.tree_map(lambda a: a.to(first.device) if isinstance(a, torch.Tensor) else a, (args, extra))
        args, extra = move
    return tuple(args), dict(extra)


def _load(path: Path) -> torch.export.ExportedProgram:
    if not path.exists():
        raise TraceError(f"no file {path}. Pass a path to a .pt2 file written by torch.export.save.")
    if path.suffix != ".pt2":
        raise TraceError(f"{path.name}: expected a .pt2 file written by torch.export.save, got {path.suffix or 'no suffix'!r}.")
    try:
        return torch.export.load(path)
    except Exception as error:
        raise TraceError(f"{path.name} is not a readable .pt2 file ({first_line(error)}). Write it again with torch.export.save.") from error
