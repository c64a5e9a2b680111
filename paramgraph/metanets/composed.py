"""Edge functions that are perceptrons, with what comes before them multiplied in."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch.nn import functional as F

from paramgraph.metanets.terms import Terms


class Perceptron(NamedTuple):
    """`last relu(first e + source + target) + bias`, of an edge state e and terms of the nodes."""

    first: torch.Tensor
    last: torch.Tensor
    bias: torch.Tensor


@runtime_checkable
class HasPerceptron(Protocol):
    """An edge function that may be a perceptron."""

    def perceptron(self) -> Perceptron | None:
        """Its parts, or None if it is something else."""
        ...


@runtime_checkable
class EmitsLinear(Protocol):
    """A function that is returned per edge and position (`job_pass.Emits`), and is linear."""

    def linear_of_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias."""
        ...


class Composed(NamedTuple):
    """`relu(weight h + source + target)`, where h is the hidden layer of the update before, or an initial state.

    Attributes:
        weight: `(width, width)`.
        terms: of the nodes.
        after: the function itself, whose last layer is still to come.
    """

    weight: torch.Tensor
    terms: Terms
    after: Perceptron


def composed(function: object, terms: Terms, before: Composed | None) -> Composed | None:
    """An edge function over the hidden layer of the update before; None if it is no perceptron.

    Args:
        function: an update or message.
        terms: its terms of the nodes.
        before: the update before; None if there is none.
    """
    own = function.perceptron() if isinstance(function, HasPerceptron) else None
    if own is None or before is None:
        return None if own is None else Composed(own.first, terms, own)
    weight, bias = linear_after(own.first, None, before)
    return Composed(weight, Terms(terms.layout, terms.source, terms.target + bias), own)


def linear_after(weight: torch.Tensor, bias: torch.Tensor | None, before: Composed) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a linear function of edge states as one of the hidden layer before them."""
    return weight @ before.after.last, F.linear(before.after.bias, weight, bias)
