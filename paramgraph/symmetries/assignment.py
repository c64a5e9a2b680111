"""Linear assignment: the permutation that collects most of a matrix of gains.

scipy's solver begins with dual variables of zero, and searches the whole matrix for the last rows. What is subtracted from a whole row or column
changes no best permutation: the sums of an entropic assignment (Sinkhorn's), which are products with one matrix, come close to the dual solution,
and what is left of the search is short. For gains with a pattern (those of norms, beside those of weights) that is four times as fast.
"""

from __future__ import annotations

import numpy as np
import torch

from paramgraph.symmetries.action import Array

# From this size on it is worth while.
LARGE = 512
# Sinkhorn's: its steps, and its temperature as a share of the spread that no sums of rows and columns explain.
STEPS = 20
WARMTH = 0.2


def assigned(gains: torch.Tensor) -> Array:
    """For each row the column that it is given.

    Args:
        gains: a square matrix of finite numbers.
    """
    from scipy.optimize import linear_sum_assignment

    gains = gains.cpu()
    costs = gains.double()
    duals = _duals(gains) if len(gains) >= LARGE else None
    if duals is not None:
        rows, columns = duals
        costs = costs - rows.double()[:, None] - columns.double()
    return np.asarray(linear_sum_assignment(costs.numpy(), maximize=True)[1])


def _duals(gains: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Approximate dual variables of rows and columns; None where rows and columns explain everything, or numbers are too far apart."""
    means = gains.mean(1, keepdim=True)
    spread = float((gains - means - gains.mean(0) + means.mean()).std())
    if not spread > 1e-6 * float(gains.abs().max()):
        return None
    warmth, top = WARMTH * spread, gains.amax(1)
    kernel = ((gains - top[:, None]) / warmth).exp_()
    least = torch.finfo(kernel.dtype).tiny
    by_column = torch.ones(len(gains), dtype=kernel.dtype)
    for _ in range(STEPS):
        by_row = (kernel @ by_column).clamp_(min=least).reciprocal_()
        by_column = (by_row @ kernel).clamp_(min=least).reciprocal_()
    rows, columns = top - warmth * by_row.log(), -warmth * by_column.log()
    return (rows, columns) if bool(rows.isfinite().all() & columns.isfinite().all()) else None
