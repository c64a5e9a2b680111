"""What elementwise functions do to multipliers: a table of their degree and parity.

The degree p says `f(qx) = q^p f(x)` for every q > 0; None: for q = 1 only. The parity says whether `f(-x)` is `-f(x)` (odd), `f(x)` (even)
or neither (none). Functions that are not listed have neither, which is right for every function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

# Degree and parity.
Kind = tuple["int | Fraction | None", str]

UNKNOWN: Kind = (None, "none")

FUNCTIONS: dict[str, Kind] = {
    **dict.fromkeys("neg positive rad2deg deg2rad conj".split(), (1, "odd")),
    **dict.fromkeys("relu leaky_relu rrelu".split(), (1, "none")),
    "abs": (1, "even"),
    "square": (2, "even"),
    "sqrt": (Fraction(1, 2), "none"),
    "rsqrt": (Fraction(-1, 2), "none"),
    "reciprocal": (-1, "odd"),
    **dict.fromkeys("sign sgn".split(), (0, "odd")),
    **dict.fromkeys("tanh scaledtanh sin tan asin atan asinh atanh sinh erf erfinv softsign".split(), (None, "odd")),
    **dict.fromkeys("tanhshrink hardshrink softshrink trunc round frac".split(), (None, "odd")),
    **dict.fromkeys("cos cosh sinc i0".split(), (None, "even")),
}

# Functions that half a period, π, negates.
PERIODIC = frozenset("sin cos".split())
# Functions of an operand and a slope.
PARAMETRIC = frozenset("prelu prelu_kernel".split())
# Functions of operands that must have one character; the result has it too.
SUMS = frozenset("add sub rsub".split())
# The same, for positive multipliers only.
EXTREMA = frozenset("maximum minimum fmax fmin".split())
# Comparisons of operands with one character: the result has none. Those in EQUALITIES do not see a common sign.
COMPARISONS = frozenset("lt le gt ge eq ne".split())
EQUALITIES = frozenset(("eq", "ne"))


def _power(x: Any, exponent: Any) -> Kind:
    if not isinstance(exponent, (int, float)) or isinstance(exponent, bool) or exponent != exponent or abs(exponent) == float("inf"):
        return UNKNOWN
    if float(exponent).is_integer():
        return int(exponent), "even" if int(exponent) % 2 == 0 else "odd"
    return Fraction(exponent).limit_denominator(10**9), "none"


def _clamp(x: Any, least: Any = None, most: Any = None) -> Kind:
    low = -float("inf") if least is None else least
    high = float("inf") if most is None else most
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return UNKNOWN
    homogeneous = low in (0, -float("inf")) and high in (0, float("inf"))
    return (1 if homogeneous else None), ("odd" if low == -high else "none")


def _hardtanh(x: Any, least: Any = -1.0, most: Any = 1.0) -> Kind:
    return _clamp(x, least, most)


def _clamp_max(x: Any, most: Any = None) -> Kind:
    return _clamp(x, None, most)


def _threshold(x: Any, limit: Any, value: Any) -> Kind:
    return (1, "none") if limit == 0 and value == 0 else UNKNOWN


# Functions whose kind depends on plain arguments, called with the operation's own arguments.
DEPENDING: dict[str, Callable[..., Kind]] = {
    "pow": _power, "clamp": _clamp, "clip": _clamp, "clamp_min": _clamp, "clamp_max": _clamp_max, "hardtanh": _hardtanh,
    "threshold": _threshold,
}  # fmt: skip


def kind_of(name: str, form: Sequence[Any], keywords: Mapping[str, Any]) -> Kind:
    """Degree and parity of a function of one tensor.

    Args:
        name: of the function.
        form: its positional arguments, `"x"` for the tensor.
        keywords: its other plain arguments.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    if name not in DEPENDING or not form or form[0] != "x":
        return UNKNOWN
    names = {"min": "least", "max": "most", "min_val": "least", "max_val": "most"}
    try:
        return DEPENDING[name](*form, **{names.get(key, key): value for key, value in keywords.items()})
    except TypeError:  # arguments that the function above does not know
        return UNKNOWN


def reflection_of(name: str, form: Sequence[Any], keywords: Mapping[str, Any]) -> tuple[float, float] | None:
    """`(e, c)` if `f(e - x) = c - f(x)`; None if there are no such numbers, or if both are zero: odd functions are in the table.

    Args:
        name: of the function.
        form: as of `kind_of`.
        keywords: as of `kind_of`.
    """
    if name in ("sigmoid", "hardsigmoid") and list(form) == ["x"] and not keywords:
        return 0.0, 1.0
    if name not in ("clamp", "clip", "hardtanh", "relu6") or not form or form[0] != "x":
        return None
    ends = {"clamp": (None, None), "clip": (None, None), "hardtanh": (-1.0, 1.0), "relu6": (0.0, 6.0)}[name]
    given = [*form[1:], *ends[len(form) - 1 :]]
    low, high = keywords.get("min", keywords.get("min_val", given[0])), keywords.get("max", keywords.get("max_val", given[1]))
    known = set(keywords) <= {"min", "max", "min_val", "max_val"} and len(given) == 2
    plain = all(isinstance(end, (int, float)) and not isinstance(end, bool) and abs(end) < float("inf") for end in (low, high))
    return (float(low + high), float(low + high)) if known and plain and low < high and low + high else None


def number_kind(data: Any) -> str:
    """`"zero"` for numbers that are all 0, which any factor leaves as they are; `"infinite"` if some are ±∞; else `"number"`."""
    if data is None or isinstance(data, str):
        return "number"
    array = np.asarray(data)
    if not array.any():
        return "zero"
    if array.dtype.kind == "f" and bool(((array == 0) | np.isinf(array)).all()):
        return "infinite"
    return "number"
