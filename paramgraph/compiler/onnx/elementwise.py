"""Elementwise functions, by table, and operators that copy. Names are those that the rest of the compiler knows them by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.aten import elementwise as aten
from paramgraph.compiler.aten import selection
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.arguments import is_weight
from paramgraph.compiler.onnx.leaves import FLOATING
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import exact_rule as rule

# Operators whose result has the type of their first operand, element by element.
UNARY = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh", "Atan": "atan", "Atanh": "atanh", "Ceil": "ceil",
    "Celu": "celu", "Cos": "cos", "Cosh": "cosh", "Elu": "elu", "Erf": "erf", "Exp": "exp", "Floor": "floor", "Gelu": "gelu",
    "HardSigmoid": "hardsigmoid", "HardSwish": "hardswish", "LeakyRelu": "leaky_relu", "Log": "log", "Mish": "mish", "Neg": "neg",
    "Not": "logical_not", "Reciprocal": "reciprocal", "Relu": "relu", "Round": "round", "Selu": "selu",
    "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin", "Sinh": "sinh", "Softplus": "softplus", "Softsign": "softsign", "Sqrt": "sqrt",
    "Swish": "silu", "Tan": "tan", "Tanh": "tanh", "ThresholdedRelu": "threshold", "BitwiseNot": "bitwise_not",
}  # fmt: skip
TESTS = {"IsNaN": "isnan", "IsInf": "isinf"}
# Of two operands, or of any number.
BINARY = {
    "Sub": "sub", "Div": "div", "Pow": "pow", "Max": "maximum", "Min": "minimum", "Mod": "remainder",
    "BitShift": "bitwise_left_shift", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor",
}  # fmt: skip
COMPARISONS = {
    "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le", "And": "logical_and", "Or": "logical_or",
    "Xor": "logical_xor",
}  # fmt: skip


def apart(operands: Sequence[Value]) -> tuple[list[Value], tuple[Any, ...]]:
    """The operands that are tensors; and the form of all, in which constants without axes are the numbers that they are."""
    values: list[Value] = []
    form: list[Any] = []
    for value in operands:
        if value.kind == "constant" and value.read is not None and not value.ndim and any(v.kind != "constant" for v in operands):
            form.append(np.asarray(value.read()).reshape(()).item())
        else:
            values.append(value)
            form.append("x")
    return values, tuple(form)


def _function(operator: str, name: str) -> None:
    @rule(f"ai.onnx::{operator}")
    def function(b: Builder, *operands: Value, **attributes: Any) -> Value:
        """What the attributes say is part of the function, and so are constant numbers among the operands."""
        values, form = apart(operands)
        fixed = tuple(sorted((key, str(value)) for key, value in attributes.items()))
        return b.elementwise(name, *values, args=(*(part for part in form if part != "x"), *fixed), form=form)


for _operator, _name in (UNARY | TESTS | BINARY | COMPARISONS).items():
    _function(_operator, _name)


@rule("ai.onnx::Shrink")
def shrink(b: Builder, x: Value, *, bias: float = 0.0, lambd: float = 0.5) -> Value:
    """What lies within a limit is zero, and a number is taken off the rest; with a negative limit it is no odd function."""
    return b.elementwise("softshrink" if lambd >= 0 else "shrink", x, args=(("bias", str(bias)), ("lambd", str(lambd))))


@rule("ai.onnx::Add", "ai.onnx::Sum")
def add(b: Builder, *operands: Value) -> Value:
    """A parameter added to an activation is its bias, whichever stands first."""
    if len(operands) == 1:
        return operands[0]
    x, y, *rest = operands
    if not rest:
        if is_weight(x) and not y.parametric:
            x, y = y, x
        if is_weight(y) and not x.parametric:
            return b.elementwise("add", x, y, role="bias")
    if len(operands) > 2:
        return b.elementwise("add", *operands)
    values, form = apart(operands)
    return b.elementwise("add", *values, args=tuple(part for part in form if part != "x"), form=form)


@rule("ai.onnx::Mul")
def multiply(b: Builder, x: Value, y: Value) -> Value:
    """A product; of a value and its own sigmoid, it is one function of the value, which exporters write as two."""
    for value, gate in ((x, y), (y, x)):
        op = gate.op
        if op is not None and op.kind == "elementwise" and op.name == "sigmoid" and op.inputs == (value,):
            return b.elementwise("silu", value)
    values, form = apart((x, y))
    return b.elementwise("mul", *values, args=tuple(part for part in form if part != "x"), form=form)


@rule("ai.onnx::Mean")
def mean(b: Builder, *operands: Value) -> Value:
    return operands[0] if len(operands) == 1 else b.elementwise("add", *operands, args=("mean",))


@rule("ai.onnx::Equal")
def equal(b: Builder, x: Value, y: Value) -> Value:
    return aten.equal(b, x, y)


@rule("ai.onnx::Clip")
def clip(b: Builder, x: Value, low: Value | None = None, high: Value | None = None, **bounds: float) -> Value:
    """Constant bounds are part of the function; computed ones are operands."""
    return aten.clamp(b, x, _bound(low, bounds.get("min")), _bound(high, bounds.get("max")))


def _bound(operand: Value | None, attribute: float | None) -> Value | float | None:
    if operand is None or operand.read is None or operand.shape not in ((), (1,)):
        return attribute if operand is None else operand
    return float(np.asarray(operand.read()).reshape(()))


@rule("ai.onnx::Where")
def where(b: Builder, condition: Value, x: Value, y: Value) -> Value:
    return selection.where(b, condition, x, y)


@rule("ai.onnx::PRelu")
def prelu(b: Builder, x: Value, slope: Value) -> Value:
    return b.elementwise("prelu", x, slope)


@rule("ai.onnx::Identity")
def identity(b: Builder, x: Any) -> Any:
    return x


@rule("ai.onnx::Cast")
def cast(b: Builder, x: Value, *, to: int, **_: Any) -> Value:
    """Other floating-point formats are copies; integers, and formats too narrow to be one, are not."""
    return x if x.integer or to in FLOATING else b.elementwise("to_integer", x)


@rule("ai.onnx::CastLike")
def cast_like(b: Builder, x: Value, like: Value, **_: Any) -> Value:
    return b.elementwise("to_integer", x) if like.integer and not x.integer else x


@rule("ai.onnx::Dropout")
def dropout(b: Builder, x: Value, *_: Value, **attributes: Any) -> Any:
    """The identity, in training mode too: its noise is not part of the function that is annotated."""
    return x if len(b.shapes) == 1 else (x, b.fill(x.shape, 1.0))
