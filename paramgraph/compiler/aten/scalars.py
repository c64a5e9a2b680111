"""Numbers read off tensors (`x.item()`), and arithmetic with them: they stay values of the program, so that what they depend on is known."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule


@rule("aten.item", "aten._local_scalar_dense")
def item(b: Builder, x: Value) -> Value:
    return b.reshape(x, ())


@rule("aten.sym_size", "aten.sym_numel")
def size(b: Builder, x: Value, dim: int | None = None) -> int:
    """Sizes are known: a plain number."""
    return math.prod(x.shape) if dim is None else x.shape[dim]


@rule("aten._assert_scalar", "aten._assert_async", "aten.sym_constrain_range_for_size", "aten.sym_constrain_range")
def assertion(b: Builder, *args: Any, **kwargs: Any) -> None:
    """An assertion gives nothing."""


def _arithmetic(name: str, function: Callable[..., Any]) -> None:
    @rule(name)
    def arithmetic(b: Builder, *args: Any) -> Any:
        values = [a for a in args if isinstance(a, Value)]
        if not values:
            return function(*args)
        form = tuple("x" if isinstance(a, Value) else a for a in args)
        return b.elementwise(name.rpartition(".")[2], *values, args=tuple(a for a in args if not isinstance(a, Value)), form=form)


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "ge", "le", "eq", "ne", "lt", "gt", "and_", "or_", "not_"):
    _arithmetic(f"_operator.{_name}", getattr(operator, _name))
for _name in ("sym_float", "sym_int", "sym_max", "sym_min", "sym_not", "sym_ite"):
    _arithmetic(f"torch.{_name}", getattr(torch, _name))
