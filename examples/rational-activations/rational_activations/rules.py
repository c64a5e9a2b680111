"""The layer's rule for paramgraph; imported by paramgraph, through the entry point in pyproject.toml."""

from __future__ import annotations

import paramgraph as pg
from rational_activations.layer import Rational


@pg.rule(Rational)
def rational(b, module, params, x):
    """Channels are aligned with the coefficients' first axis; the degrees of the powers are told apart by their exponents."""
    above, below = (_polynomial(b, x, params[name], first) for name, first in (("numerator", 0), ("denominator", 1)))
    return b.elementwise("rational", above, below)


def _polynomial(b, x, coefficients, first):
    degrees = coefficients.shape[1]
    column = b.reshape(x, (*x.shape, 1))
    exponents = b.constant((degrees,), lambda: _count(first, degrees), "exponents")
    powers = b.elementwise("pow", column, exponents)
    return b.reduce(b.elementwise("mul", powers, coefficients), [-1])


def _count(first, number):
    import numpy as np

    return np.arange(first, first + number)
