"""What rules read from their operands: numbers that say where things go, as opposed to tensors that are computed with."""

from __future__ import annotations

import numpy as np

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Value
from paramgraph.errors import TraceError


def numbers(value: Value | None) -> list[int]:
    """The elements of a constant integer operand.

    Raises:
        ValueError: it is computed from data.
    """
    if value is None or value.read is None:
        raise ValueError("an operand that must be constant is computed from data")
    try:
        return [int(n) for n in np.asarray(value.read()).reshape(-1)]
    except TraceError as error:
        raise ValueError("an operand that must be constant has no values") from error


def number(value: Value | None) -> int:
    """The one element of a constant integer operand."""
    (only,) = numbers(value)
    return only


def floats(value: Value | None) -> list[float]:
    """The elements of a constant operand; none where it is absent or empty."""
    if value is None or 0 in value.shape:
        return []
    if value.read is None:
        raise ValueError("an operand that must be constant is computed from data")
    return [float(n) for n in np.asarray(value.read()).reshape(-1)]


def unless(value: Value | None, number: float) -> Value | None:
    """An operand; None if it is a constant that is one number everywhere, and so does nothing: exporters write zeros where there is no bias."""
    if value is None or value.kind != "constant" or value.read is None or 0 in value.shape:
        return value
    return None if (np.asarray(value.read()) == number).all() else value


def is_weight(value: Value) -> bool:
    """Whether a value is a parameter, or computed from parameters and not from constants alone."""
    return value.parametric and value.kind != "constant"


def along(b: Builder, value: Value, axis: int, rank: int) -> Value:
    """A vector (or a scalar) laid along one axis of tensors of a rank, so that it broadcasts there."""
    if value.ndim == 0 or value.shape == (1,):
        return value
    if value.ndim != 1:
        raise ValueError(f"expected a scalar or a vector, got shape {value.shape}")
    return b.reshape(value, [*value.shape, *[1] * (rank - 1 - axis % rank)])
