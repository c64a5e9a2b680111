"""Normalisation layers and softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paramgraph.compiler.aten import normalization as aten
from paramgraph.compiler.aten.normalization import Operands
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.arguments import unless
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule


@rule("ai.onnx::BatchNormalization")
def batch_norm(b: Builder, x: Value, scale: Value, offset: Value, mean: Value, variance: Value, *, training_mode: int = 0,
               epsilon: float = 1e-5, **_: Any) -> Value | tuple[Value, ...]:
    """In inference an affine map per channel; in training mode the statistics are the batch's, and new running ones are results."""
    operands: Operands = {"gain": (scale, [1]), "offset": (offset, [1])}
    if not training_mode:
        return b.normalize("batch_norm", x, (), operands | {"running_mean": (mean, [1]), "running_var": (variance, [1])}, epsilon)
    out = b.normalize("batch_norm", x, [d for d in range(x.ndim) if d != 1], operands)
    new = (aten._statistics(b, x, value, name) for value, name in ((mean, "mean"), (variance, "var")))
    return (out, *new)[: len(b.shapes)] if len(b.shapes) > 1 else out


def over_last(b: Builder, name: str, x: Value, axis: int, scale: Value | None, offset: Value | None = None) -> Value | tuple[Value, ...]:
    """A normalisation over the axes from `axis` on; gain and offset broadcast to them."""
    over = range(axis % x.ndim, x.ndim)
    operands: Operands = {}
    for role, value in (("gain", unless(scale, 1.0)), ("offset", unless(offset, 0.0))):
        if value is not None:
            if value.ndim > len(over):
                raise ValueError("a gain that varies along axes that are not normalised")
            operands[role] = (value, over[len(over) - value.ndim :])
    out = b.normalize(name, x, over, operands)
    if len(b.shapes) == 1:
        return out
    return out, *(b.reduce(x, over, keepdim=True, name=statistic) for statistic in ("mean", "inverse_deviation")[: len(b.shapes) - 1])


@rule("ai.onnx::LayerNormalization")
def layer_norm(b: Builder, x: Value, scale: Value, offset: Value | None = None, *, axis: int = -1, **_: Any) -> Any:
    return over_last(b, "layer_norm", x, axis, scale, offset)


@rule("ai.onnx::RMSNormalization", "com.microsoft::SimplifiedLayerNormalization", "ai.onnx::SimplifiedLayerNormalization")
def rms_norm(b: Builder, x: Value, scale: Value, *, axis: int = -1, **_: Any) -> Any:
    return over_last(b, "rms_norm", x, axis, scale)


@rule("ai.onnx::GroupNormalization")
def group_norm(b: Builder, x: Value, scale: Value, offset: Value, *, num_groups: int, **_: Any) -> Value:
    """Gain and offset per channel (from opset 21 on), or per group."""
    if scale.shape == (x.shape[1],):
        return aten.group_norm(b, x, num_groups, unless(scale, 1.0), unless(offset, 0.0))
    split = b.reshape(x, [x.shape[0], num_groups, x.shape[1] // num_groups, *x.shape[2:]])
    out = b.normalize("group_norm", split, range(2, split.ndim), {"gain": (scale, [1]), "offset": (offset, [1])})
    return b.reshape(out, x.shape)


@rule("ai.onnx::InstanceNormalization")
def instance_norm(b: Builder, x: Value, scale: Value, offset: Value, **_: Any) -> Value:
    return b.normalize("instance_norm", x, range(2, x.ndim), {"gain": (scale, [1]), "offset": (offset, [1])})


@rule("ai.onnx::LpNormalization")
def lp_norm(b: Builder, x: Value, *, axis: int = -1, **_: Any) -> Value:
    return b.mix("lp_norm", x, [axis])


@rule("ai.onnx::MeanVarianceNormalization")
def mean_variance(b: Builder, x: Value, *, axes: Sequence[int] = (0, 2, 3)) -> Value:
    return b.mix("mean_variance_norm", x, axes)


def _softmax(operator: str, name: str) -> None:
    @rule(f"ai.onnx::{operator}")
    def softmax(b: Builder, x: Value, *, axis: int | None = None) -> Value:
        """Along one axis; before opset 13 along all axes from it on, taken as one."""
        if b.version >= 13:
            return b.mix(name, x, [-1 if axis is None else axis])
        return b.mix(name, x, range((1 if axis is None else axis) % x.ndim, x.ndim))


for _operator, _name in (("Softmax", "softmax"), ("LogSoftmax", "log_softmax"), ("Hardmax", "hardmax")):
    _softmax(_operator, _name)
