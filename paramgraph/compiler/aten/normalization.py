"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule

Operands = dict[str, tuple[Value, Sequence[int]]]


def _present(**operands: tuple[Value | None, Sequence[int]]) -> Operands:
    return {role: (value, dims) for role, (value, dims) in operands.items() if value is not None}


@rule("aten.layer_norm")
def layer_norm(b: Builder, x: Value, shape: Sequence[int], weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5,
               cudnn: bool = False) -> Value:
    over = range(x.ndim - len(shape), x.ndim)
    return b.normalize("layer_norm", x, over, _present(gain=(weight, over), offset=(bias, over)))


@rule("aten.rms_norm", "aten._fused_rms_norm")
def rms_norm(b: Builder, x: Value, shape: Sequence[int], weight: Value | None = None, eps: float | None = None) -> Value | tuple[Value, ...]:
    over = range(x.ndim - len(shape), x.ndim)
    out = b.normalize("rms_norm", x, over, _present(gain=(weight, over)))
    if len(b.shapes) == 1:
        return out
    return out, b.reduce(x, over, keepdim=True, name="rms")  # the fused one returns its statistics too


@rule("aten.group_norm")
def group_norm(b: Builder, x: Value, groups: int, weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5,
               cudnn: bool = True) -> Value:
    """Statistics over the channels of a group and all positions: the channel axis is a product of groups and in-group channels."""
    size = x.shape[1] // groups
    split = b.reshape(x, [x.shape[0], groups, size, *x.shape[2:]])
    gain, offset = (None if p is None else b.reshape(p, [groups, size]) for p in (weight, bias))
    over = range(2, split.ndim)
    out = b.normalize("group_norm", split, over, _present(gain=(gain, (1, 2)), offset=(offset, (1, 2))))
    return b.reshape(out, x.shape)


@rule("aten.native_layer_norm")
def layer_norm_with_statistics(b: Builder, x: Value, shape: Sequence[int], weight: Value | None, bias: Value | None,
                               eps: float) -> tuple[Value, Value, Value]:
    over = range(x.ndim - len(shape), x.ndim)
    mean, inverse = (b.reduce(x, over, keepdim=True, name=name) for name in ("mean", "rstd"))
    return layer_norm(b, x, shape, weight, bias, eps), mean, inverse


@rule("aten.native_group_norm")
def group_norm_with_statistics(b: Builder, x: Value, weight: Value | None, bias: Value | None, batch: int, channels: int, positions: int,
                               groups: int, eps: float) -> tuple[Value, Value, Value]:
    split = b.reshape(x, [batch, groups, -1])
    mean, inverse = (b.reduce(split, [2], name=name) for name in ("mean", "rstd"))
    return group_norm(b, x, groups, weight, bias, eps), mean, inverse


def _statistics(b: Builder, x: Value, buffer: Value, name: str) -> Value:
    """The new value of a running statistic: a mean of the old one and the batch's."""
    batch = b.reduce(x, [d for d in range(x.ndim) if d != 1], name=name)
    return b.elementwise("lerp", buffer, batch)


@rule("aten._native_batch_norm_legit_no_training")
def batch_norm_inference(b: Builder, x: Value, weight: Value | None, bias: Value | None, mean: Value, var: Value, momentum: float,
                         eps: float) -> tuple[Value, ...]:
    operands = _present(gain=(weight, [1]), offset=(bias, [1]), running_mean=(mean, [1]), running_var=(var, [1]))
    return b.normalize("batch_norm", x, (), operands, eps), *(b.fill(shape) for shape in b.shapes[1:])


@rule("aten._native_batch_norm_legit_functional", "aten._native_batch_norm_legit.no_stats", "aten._native_batch_norm_legit")
def batch_norm_training(b: Builder, x: Value, weight: Value | None, bias: Value | None, *rest: Any) -> tuple[Value, ...]:
    """Statistics of the batch, or running ones; in training mode the new running statistics are further results."""
    values = [value for value in rest if isinstance(value, Value)]
    training = next(value for value in rest if isinstance(value, bool))
    operands = _present(gain=(weight, [1]), offset=(bias, [1]))
    if not training:
        operands |= _present(running_mean=(values[0], [1]), running_var=(values[1], [1]))
        over: Sequence[int] = ()
    else:
        over = [d for d in range(x.ndim) if d != 1]
    out = b.normalize("batch_norm", x, over, operands)
    kept = b.shapes[1] != (0,)
    mean, inverse = (b.reduce(x, [d for d in range(x.ndim) if d != 1], name=name) if kept else b.fill([0]) for name in ("mean", "rstd"))
    new = tuple(_statistics(b, x, value, name) for value, name in zip(values, ("mean", "var"), strict=False))
    return (out, mean, inverse, *new)[: len(b.shapes)]


@rule("aten.batch_norm")
def batch_norm(b: Builder, x: Value, weight: Value | None, bias: Value | None, mean: Value | None, var: Value | None, training: bool,
               momentum: float, eps: float, cudnn: bool) -> Value:
    operands = _present(gain=(weight, [1]), offset=(bias, [1]))
    if not training:
        operands |= _present(running_mean=(mean, [1]), running_var=(var, [1]))
    return b.normalize("batch_norm", x, [d for d in range(x.ndim) if d != 1] if training else (), operands, None if training else eps)


@rule("aten.instance_norm")
def instance_norm(b: Builder, x: Value, weight: Value | None, bias: Value | None, mean: Value | None, var: Value | None,
                  use_input_stats: bool, momentum: float, eps: float, cudnn: bool) -> Value:
    operands = _present(gain=(weight, [1]), offset=(bias, [1]))
    if not use_input_stats:
        operands |= _present(running_mean=(mean, [1]), running_var=(var, [1]))
    return b.normalize("instance_norm", x, range(2, x.ndim) if use_input_stats else (), operands, None if use_input_stats else eps)
