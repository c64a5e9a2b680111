"""Invariants of vectors and their derivatives, written into memory at hand: what `scale_layers` computes by autograd.

A vector over its largest element has a length between 1 and the root of its width, whatever it was, so that no square leaves the range of the
dtype. Rows that are too short to invert are zero, and so are their derivatives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from paramgraph.metanets.fingerprints import Domain


class Lengths(NamedTuple):
    """What rows are divided by, `(rows, 1)` each; zero for rows that are too short.

    Attributes:
        inverse: one over the largest element.
        squared: the squared length of the row after that; one where the row is too short.
    """

    inverse: torch.Tensor
    squared: torch.Tensor


def over_largest(x: torch.Tensor, out: torch.Tensor) -> Lengths:
    """Write rows over their largest elements to `out`, `(rows, width)`, and return what those are."""
    largest = torch.abs(x, out=out).amax(-1, keepdim=True)
    short = largest <= 4 * torch.finfo(x.dtype).tiny
    inverse = largest.reciprocal_().masked_fill_(short, 0.0)
    torch.mul(x, inverse, out=out)
    squared = torch.linalg.vector_norm(out, dim=-1, keepdim=True).square_()
    return Lengths(inverse, squared.masked_fill_(short, 1.0))


def reverse_into(x: torch.Tensor, out: torch.Tensor) -> Lengths:
    """Write `scale_layers.reversed_` of rows to `out`."""
    lengths = over_largest(x, out)
    out.mul_(x.shape[-1] * lengths.inverse / lengths.squared)
    return lengths


def reverse_gradient(x: torch.Tensor, lengths: Lengths, given: torch.Tensor, scratch: torch.Tensor, other: torch.Tensor) -> None:
    """Turn the gradient of reversed rows into that of the rows, in place."""
    unit = torch.mul(x, lengths.inverse, out=scratch)
    given.addcmul_(unit, dots(unit, given, other) * (-2 / lengths.squared))
    # One factor after the other, as both together may leave the range of the dtype.
    given.mul_(x.shape[-1] * lengths.inverse / lengths.squared).mul_(lengths.inverse)


def dots(left: torch.Tensor, right: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """Inner products of rows, `(rows, 1)`."""
    return torch.mul(left, right, out=scratch) @ left.new_ones(left.shape[-1], 1)


def read_into(x: torch.Tensor, domain: Domain, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`scale_layers.invariant` of rows, written to `out` or, where it is `x`, handed through; and what multiplies the rows under magnitudes."""
    if domain.trivial:
        return x, None
    if not domain.magnitude:
        return torch.abs(x, out=out), None
    lengths = over_largest(x, out)
    factor = lengths.squared.rsqrt().mul_(x.shape[-1] ** 0.5)
    if domain.sign:
        out.abs_()
    # Finite, so that it leaves zeros of a gradient as they are.
    return out.mul_(factor), factor.mul_(lengths.inverse).clamp_(max=torch.finfo(x.dtype).max)


def read_gradient(
    x: torch.Tensor, domain: Domain, read: torch.Tensor, factor: torch.Tensor | None, given: torch.Tensor, scratch: torch.Tensor
) -> None:
    """Turn the gradient of `read_into` into that of the rows, in place."""
    if factor is not None:
        given.addcmul_(read, dots(read, given, scratch).mul_(-1 / x.shape[-1])).mul_(factor)
    if domain.sign:
        given.mul_(torch.sgn(x, out=scratch))
