"""Small networks whose permutation group is known by hand: the registry that tests are parametrised over."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import paramgraph as pg
from paramgraph.compiler.pipeline import compile_trace
from paramgraph.compiler.trace import Trace, trace


@dataclass(frozen=True)
class Case:
    """A network, example inputs, and the natural logarithm of the order of its permutation group."""

    name: str
    make: Callable[[], nn.Module]
    shapes: tuple[Any, ...]
    log_order: float

    def build(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        """The network in eval mode, and its example inputs."""
        torch.manual_seed(0)
        return self.make().eval(), tuple(example(shape) for shape in self.shapes)


CASES: dict[str, Case] = {}


@functools.cache
def traced(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...], Trace]:
    """A case's network, inputs and trace, made once for all tests of a process: tracing takes most of a small network's time."""
    model, inputs = CASES[name].build()
    return model, inputs, trace(model, inputs)


@functools.cache
def compiled(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...], pg.ParamGraph]:
    """A case's network, inputs and graph, made once for all tests of a process: they are to be read only."""
    model, inputs, found = traced(name)
    return model, inputs, compile_trace(found)


def case(name: str, log_order: float, *shapes: Any) -> Callable[[Any], Any]:
    """Register a class or factory without arguments.

    Args:
        name: of the case.
        log_order: ln order of the permutation group, derived by hand beside the registration.
        shapes: shapes of float inputs; `(high, shape)` for integers below `high`.
    """

    def register(make: Any) -> Any:
        assert name not in CASES, name
        CASES[name] = Case(name, make, shapes, log_order)
        return make

    return register


def example(shape: Any) -> torch.Tensor:
    """A random input of a shape; `(high, shape)` for integers."""
    if len(shape) == 2 and isinstance(shape[1], tuple):
        return torch.randint(0, shape[0], shape[1])
    return torch.randn(*shape)


def lam(n: int) -> float:
    """Λ(n) = ln n!, the ln order of the permutations of n elements."""
    return math.lgamma(n + 1)
