"""Elementwise functions, by table, and operations that copy."""

from __future__ import annotations

from typing import Any

import torch

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import Rule
from paramgraph.compiler.rules import exact_rule as rule
from paramgraph.errors import TraceError

UNARY = """abs acos acosh asin asinh atan atanh ceil celu cos cosh deg2rad digamma elu erf erfc erfinv exp exp2 expm1 floor frac gelu
hardshrink hardsigmoid hardswish i0 isfinite isinf isnan leaky_relu lgamma log log10 log1p log2 log_sigmoid logical_not logit mish
nan_to_num neg positive rad2deg reciprocal relu round rsqrt selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink
softsign sqrt square tan tanh tanhshrink threshold trunc bitwise_not real imag angle conj special_polygamma
special_multigammaln""".split()

BINARY = """add sub rsub mul div true_divide floor_divide remainder fmod pow maximum minimum fmax fmin atan2 hypot copysign logaddexp
logaddexp2 xlogy lt le gt ge logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor lerp addcmul addcdiv
prelu_kernel _prelu_kernel masked_fill heaviside nextafter ldexp bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__ complex
polar __lshift__ __rshift__ special_gammainc special_gammaincc
greater greater_equal less less_equal not_equal multiply divide subtract""".split()

COPIES = """clone alias detach contiguous lift_fresh lift_fresh_copy dropout native_dropout feature_dropout alpha_dropout to _to_copy
type_as requires_grad_ lift _assert_tensor_metadata detach_copy alias_copy""".split()


def pointwise(name: str) -> Rule:
    """The rule of a function that is applied element by element, with broadcasting."""

    def function(b: Builder, *args: Any, **kwargs: Any) -> Value:
        values = [a for a in args if isinstance(a, Value)] + [a for a in kwargs.values() if isinstance(a, Value)]
        others = tuple(a for a in args if not isinstance(a, Value)) + tuple(kwargs.items())
        # Where the plain number stands matters: 1 - x is not x - 1.
        form = tuple("x" if isinstance(a, Value) else a for a in args)
        return b.elementwise(name.strip("_"), *values, args=others, form=form)

    return function


for _name in (*UNARY, *BINARY):
    rule(f"aten.{_name}")(pointwise(_name))


def tagged_rule(target: Any) -> Rule | None:
    """The rule of an operation without one of its own that torch, or who defined it, tags as pointwise."""
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.pointwise not in target.tags:
        return None
    schema = target._schema  # lists of tensors, several results or a plain one, and random numbers are more than a function of elements
    plain = [str(result.type) for result in schema.returns] == ["Tensor"] and not any("List[" in str(a.type) for a in schema.arguments)
    if not plain or torch.Tag.nondeterministic_seeded in target.tags:
        return None
    return pointwise(target._schema.name.rpartition("::")[2])


def is_whole(dtype: torch.dtype) -> bool:
    """Whether numbers of this type are integers or booleans."""
    return not (dtype.is_floating_point or dtype.is_complex)


def rounded(b: Builder, x: Value) -> Value:
    """`x` as integers: no copy, unless it held integers before."""
    return x if x.integer else b.elementwise("to_integer", x)


def _copy(name: str) -> None:
    @rule(f"aten.{name}")
    def copy(b: Builder, x: Value, *args: Any, **kwargs: Any) -> Value | tuple[Value, Value]:
        if len(b.shapes) == 2:  # native_dropout returns its mask too
            return x, b.fill(x.shape, 1.0)
        dtypes = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)]
        whole = any(map(is_whole, dtypes)) or any(isinstance(a, Value) and a.integer for a in args)
        return rounded(b, x) if whole else x


for _name in COPIES:
    _copy(_name)


@rule("aten.clamp", "aten.clip")
def clamp(b: Builder, x: Value, min: Value | float | None = None, max: Value | float | None = None) -> Value:
    """Bounds may be numbers, tensors, or left out. All functions that are clamps go by this name."""
    bounds = [min, max] if max is not None else [min]
    form = ("x", *("x" if isinstance(bound, Value) else bound for bound in bounds))
    return b.elementwise("clamp", x, *(bound for bound in bounds if isinstance(bound, Value)), args=form[1:], form=form)


@rule("aten.clamp_min")
def clamp_min(b: Builder, x: Value, min: Value | float) -> Value:
    return clamp(b, x, min)


@rule("aten.clamp_max")
def clamp_max(b: Builder, x: Value, max: Value | float) -> Value:
    return clamp(b, x, None, max)


@rule("aten.hardtanh")
def hardtanh(b: Builder, x: Value, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    return clamp(b, x, min_val, max_val)


@rule("aten.rrelu")
def rrelu(b: Builder, x: Value, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *args: Any) -> Value:
    """In training mode every element draws a slope of its own."""
    if training:
        return b.opaque("rrelu", [x], x.shape, "random numbers: every element draws its own")
    return b.elementwise("rrelu", x, args=(lower, upper), form=("x", lower, upper))


@rule("aten.relu6")
def relu6(b: Builder, x: Value) -> Value:
    return clamp(b, x, 0.0, 6.0)


@rule("aten.prelu")
def prelu(b: Builder, x: Value, slope: Value) -> Value:
    if slope.shape != (1,) and x.ndim >= 2:
        slope = b.reshape(slope, [*slope.shape, *[1] * (x.ndim - 2)])
    return b.elementwise("prelu", x, slope)


def _filled(name: str, number: float) -> None:
    @rule(f"aten.{name}")
    def filled(b: Builder, *args: Any, **kwargs: Any) -> Value:
        return b.fill(b.shapes[0], number)


for _name, _number in (("zeros_like", 0.0), ("new_zeros", 0.0), ("ones_like", 1.0), ("new_ones", 1.0), ("empty_like", 0.0),
                       ("new_empty", 0.0), ("zeros", 0.0), ("ones", 1.0)):
    _filled(_name, _number)


def _full(name: str, place: int) -> None:
    @rule(f"aten.{name}")
    def full(b: Builder, *args: Any, **kwargs: Any) -> Value:
        number = args[place] if place < len(args) else kwargs["fill_value"]
        return b.expand(number, b.shapes[0]) if isinstance(number, Value) else b.fill(b.shapes[0], float(number))


for _name, _place in (("full", 1), ("full_like", 1), ("new_full", 2), ("scalar_tensor", 0)):
    _full(_name, _place)


@rule("aten.fill")
def fill(b: Builder, x: Value, value: Any) -> Value:
    return b.expand(value, b.shapes[0]) if isinstance(value, Value) else b.fill(b.shapes[0], float(value))


@rule("aten.copy")
def copy_into(b: Builder, x: Value, source: Value, *args: Any) -> Value:
    """The source, as the kind of number that it is copied into."""
    return b.expand(rounded(b, source) if x.integer else source, b.shapes[0])


@rule("aten.glu")
def glu(b: Builder, x: Value, dim: int = -1) -> Value:
    half = x.shape[dim] // 2
    return b.elementwise("mul", b.take(x, dim, range(half)), b.elementwise("sigmoid", b.take(x, dim, range(half, 2 * half))))


@rule("aten.eq")
def equal(b: Builder, x: Value, y: Any) -> Value:
    """Index values compared with all indices in order are an indicator vector, with one of them its element; anything else is elementwise."""
    if isinstance(y, int) and not isinstance(y, bool) and 0 <= y < _named_by(x):
        return b.select(_indicators(b, x, _named_by(x)), -1, y)
    for index, other in ((x, y), (y, x)):
        if isinstance(index, Value) and isinstance(other, Value) and index.integer and other.read is not None and index.kind == "op":
            dim = _counts_along(other, len(b.shapes[0]))
            if dim is not None and (index.ndim < -dim or index.shape[dim] == 1):
                return _indicator(b, index, dim, b.shapes[0])
    return b.elementwise("eq", *(v for v in (x, y) if isinstance(v, Value)), args=() if isinstance(y, Value) else (y,))


@rule("aten.ne")
def unequal(b: Builder, x: Value, y: Any) -> Value:
    """Index values that are not one of those they may be: what is left of its indicator."""
    if isinstance(y, int) and not isinstance(y, bool) and 0 <= y < _named_by(x):
        return b.select(_indicators(b, x, _named_by(x), others=True), -1, y)
    return pointwise("ne")(b, x, y)


def _named_by(index: Value) -> int:
    """How many elements the values of an index may name, if they were chosen among those of an axis; else 0."""
    op = index.op
    while op is not None and op.kind in ("reshape", "permute", "take", "expand"):
        op = op.inputs[0].op
    return op.inputs[0].shape[op.attrs["dim"]] if op is not None and op.kind == "topk" and op.attrs["indices"] else 0


def _indicators(b: Builder, index: Value, classes: int, others: bool = False) -> Value:
    """Indicator vectors of an index, or of what it does not name: the same values for all numbers that it is compared with."""
    known = next((op.output for op in b.program.ops if op.kind == "one_hot" and op.inputs == (index,) and op.output.shape[-1] == classes), None)
    chosen = known or b.one_hot(index, classes)
    if not others:
        return chosen
    known = next((op.output for op in b.program.ops if op.name == "logical_not" and op.inputs == (chosen,)), None)
    return known or b.elementwise("logical_not", chosen)


def _counts_along(value: Value, rank: int) -> int | None:
    """The dimension, from the end, along which a constant holds 0, 1, 2, …; None if it is not such a constant."""
    long = [d - value.ndim for d, n in enumerate(value.shape) if n != 1]
    if len(long) != 1 or value.read is None:
        return None
    try:
        data = value.read().reshape(-1)
    except TraceError:  # on the meta device
        return None
    return long[0] if (data == range(len(data))).all() else None


def _indicator(b: Builder, index: Value, dim: int, shape: Any) -> Value:
    wide = b.reshape(index, [1] * (len(shape) - index.ndim) + list(index.shape))
    place = len(shape) + dim
    one_hot = b.one_hot(b.reshape(wide, [n for d, n in enumerate(wide.shape) if d != place]), shape[place])
    order = [*range(place), len(shape) - 1, *range(place, len(shape) - 1)]
    return b.expand(b.permute(one_hot, order), shape)
