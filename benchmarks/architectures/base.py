"""An architecture of the sweep: a name and how to build a small instance of it with example inputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

BATCH = 2
# Networks above this many parameters are compiled on the meta device, and not verified (a network and its verification take up to 20 bytes for each).
LARGE = 700_000_000


@dataclass
class Network:
    """A network in evaluation mode, with example inputs.

    Attributes:
        model: the network.
        inputs: positional example inputs.
        kwargs: keyword example inputs.
        meta: it is on the meta device, too large to be run.
    """

    model: nn.Module
    inputs: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    meta: bool = False


@dataclass(frozen=True)
class Architecture:
    """One row of the sweep.

    Attributes:
        name: `family:name`.
        build: makes the network.
        refused: it cannot be traced, and must be refused with a clear message.
    """

    name: str
    build: Callable[[], Network]
    refused: bool = False

    @property
    def family(self) -> str:
        return self.name.partition(":")[0]


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def image_network(
    make: Callable[[], nn.Module], sizes: tuple[int, ...], shape: Callable[[int], tuple[torch.Tensor, ...]], large: int = LARGE
) -> Network:
    """A vision network with the smallest of some input sizes that it takes; on the meta device if it has more parameters than `large`.

    Sizes are tried on the meta device, where running costs nothing.
    """
    try:
        with torch.device("meta"):
            sketch = make().eval()
    except (NotImplementedError, RuntimeError):  # some networks compute their widths with tensors
        sketch = make().eval().to("meta")
    error: Exception | None = None
    for size in sizes:
        inputs = shape(size)
        try:
            with torch.no_grad():
                sketch(*(x.to("meta") for x in inputs))
        except (NotImplementedError, RuntimeError, AssertionError, ValueError, IndexError, TypeError) as reason:
            error = reason
            continue
        if parameters(sketch) > large:
            return Network(sketch, tuple(x.to("meta") for x in inputs), meta=True)
        return Network(make().eval(), inputs)
    # What does not run on the meta device may still run on the CPU at its own size.
    if error is not None and parameters(sketch) > max(large, LARGE):
        raise error
    return Network(make().eval(), shape(sizes[-1]))
