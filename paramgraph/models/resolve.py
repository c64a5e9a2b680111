"""From a network's name to the network and example inputs for it. Weights are random; nothing is downloaded."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paramgraph.errors import UnknownNameError

BATCH = 2
"""Batch size of example inputs: small, and never 1, which tracing would confuse with broadcasting."""

Shape = tuple[tuple[int, ...], torch.dtype]


@dataclass
class ResolvedModel:
    """A network with example inputs, ready for `paramgraph.compile(resolved.model, resolved.inputs)`.

    Attributes:
        name: the name it was resolved from.
        model: the network, or the path of a `.pt2` or `.onnx` file.
        inputs: positional example inputs; None where the file holds its own.
    """

    name: str
    model: nn.Module | Path
    inputs: tuple[Any, ...] | None


def resolve(
    name: str, *, shapes: Sequence[Shape] | None = None, meta: bool = False, train: bool = False, batch: int = BATCH, seed: int = 0
) -> ResolvedModel:
    """A network by its name.

    Args:
        name: `torchvision:NAME`, `timm:NAME`, `package.module:factory` (a function or class that takes no arguments and returns a
            network, or a pair of a network and its example inputs), or the path of a `.pt2` or `.onnx` file.
        shapes: shape and dtype of each input, instead of those of the model's own configuration.
        meta: build the network on the meta device, without values.
        train: leave the network in train mode.
        batch: batch size of the example inputs.
        seed: of the random weights.

    Raises:
        UnknownNameError: no such library, model, module or file, or the factory does not return a network.
        MissingDependencyError: the library is not installed.
    """
    if name.endswith((".pt2", ".onnx")) or (":" not in name and os.sep in name):
        return ResolvedModel(name, _file(name), _example(shapes, name) if shapes else None)
    library, colon, model_name = name.partition(":")
    if not colon or not library or not model_name:
        raise UnknownNameError(
            f"unknown model {name!r}: expected torchvision:NAME, timm:NAME, package.module:factory, or a .pt2 or .onnx file. "
            f"For example torchvision:{name if name.isidentifier() else 'resnet50'}."
        )
    build = {"torchvision": _torchvision, "timm": _timm}.get(library, _factory)
    own_inputs = batch if shapes is None else None
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            with torch.device("meta" if meta else "cpu"):
                model, inputs = build(name, library, model_name, own_inputs)
        except (NotImplementedError, RuntimeError):  # some networks compute their widths with tensors
            if not meta:
                raise
            model, inputs = build(name, library, model_name, own_inputs)
            model = model.to("meta")
    if shapes is not None:
        inputs = _example(shapes, name)
    if inputs is None:
        raise UnknownNameError(f"{name} gives no example inputs: pass --input-shape, or let the factory return (network, inputs).")
    if meta:
        inputs = torch.utils._pytree.tree_map(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, inputs)
    return ResolvedModel(name, model.train() if train else model.eval(), inputs)


def parse_shape(text: str) -> Shape:
    """Shape and dtype of an input from `"2,3,224,224"` or `"2,16:int64"`.

    Raises:
        UnknownNameError: the text is no such thing.
    """
    sizes, _, kind = text.partition(":")
    dtype = getattr(torch, kind or "float32", None)
    try:
        shape = tuple(int(size) for size in sizes.replace("x", ",").split(",") if size.strip())
    except ValueError:
        shape = (-1,)
    if min(shape, default=0) < 1 or not isinstance(dtype, torch.dtype):
        raise UnknownNameError(f"unknown input shape {text!r}: expected sizes and perhaps a dtype, such as 2,3,224,224 or 2,16:int64.")
    return shape, dtype


def unknown(name: str, what: str, known: Iterable[str], prefix: str = "") -> UnknownNameError:
    """An error that names the closest known names."""
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = f" Did you mean {' or '.join(prefix + n for n in near)}?" if near else ""
    return UnknownNameError(f"unknown {what} {name!r}.{hint}")


def _example(shapes: Sequence[Shape], name: str) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for shape, dtype in shapes:
        if dtype.is_floating_point or dtype.is_complex:
            inputs.append(torch.randn(shape, generator=generator).to(dtype))
        else:  # small numbers are valid indices of any vocabulary
            inputs.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
    return tuple(inputs)


def _torchvision(name: str, library: str, model_name: str, batch: int | None) -> tuple[nn.Module, tuple[Any, ...] | None]:
    from paramgraph.models import torchvision

    model = torchvision.build(model_name)
    return model, None if batch is None else torchvision.inputs(model_name, model, batch)


def _timm(name: str, library: str, model_name: str, batch: int | None) -> tuple[nn.Module, tuple[Any, ...] | None]:
    from paramgraph.models import timm

    model = timm.build(model_name)
    return model, None if batch is None else timm.inputs(model, batch)


def _factory(name: str, module_name: str, attribute: str, batch: int | None) -> tuple[nn.Module, tuple[Any, ...] | None]:
    here = os.getcwd()
    if here not in sys.path:  # as `python -m` does: a user's own module lies where they work
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UnknownNameError(
            f"unknown model {name!r}: there is no module {error.name!r}. Expected torchvision:NAME, timm:NAME, or package.module:factory "
            "with the module importable from here."
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise unknown(part, f"factory in {module_name}", [n for n in dir(found) if not n.startswith("_")], f"{module_name}:")
        found = getattr(found, part)
    made = found if isinstance(found, nn.Module) or not callable(found) else found()
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise UnknownNameError(f"{name}: expected an nn.Module, or a pair of one and its example inputs; got {type(model).__name__}.")
    return model, (inputs,) if isinstance(inputs, torch.Tensor) else inputs


def _file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise UnknownNameError(f"unknown model {name!r}: there is no such file.")
    if path.suffix not in (".pt2", ".onnx"):
        raise UnknownNameError(f"{name}: expected a .pt2 file written by torch.export.save, or an .onnx file, "
                               f"got a {path.suffix or 'suffixless'} file.")
    return path
