"""Phases within half a period: one representative of what sines and cosines do not tell apart.

`sin(ω(Wx + b))` is the same for b and b + 2π/ω, and the negative of itself for b + π/ω. Biases of sinusoidal networks begin, and stay, several
periods from zero, so that two alike neurons seldom have alike biases; a metanet that reads a bias as a number sees noise. The symmetry annotation
says which biases these are, and what is negated by an odd number of half periods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import overload

import torch

from paramgraph.graph import ParamGraph
from paramgraph.metanets.stack import Stack
from paramgraph.symmetries.group import SymmetryGroup
from paramgraph.symmetries.motion import Motion
from paramgraph.symmetries.phases import PhaseFactor

# Networks of a stack that are moved at once, in float64.
AT_ONCE = 1024


@overload
def wrap_phases(network: Stack) -> Stack: ...


@overload
def wrap_phases(network: ParamGraph) -> ParamGraph: ...


def wrap_phases(network: ParamGraph | Stack) -> ParamGraph | Stack:
    """The same functions, with every phase between minus and plus a quarter of a period, by the annotated phase shifts.

    Other symmetries are left as they are: what a neuron multiplies keeps its magnitude, and signs change only with phases. A network without phase
    shifts is returned as it is. Phases of exactly a quarter of a period have two representatives; rounding decides between them.

    Args:
        network: a network, or many of one structure.

    Raises:
        StateDictError: a tensor that is moved holds no floating-point numbers.
    """
    group = (network.graph if isinstance(network, Stack) else network).symmetry
    if not any(isinstance(factor, PhaseFactor) for factor in group.moves):
        return network
    if isinstance(network, ParamGraph):
        return network.with_values(_wrapped(group, network.values))
    wrapped = torch.func.vmap(lambda values: _wrapped(group, values), chunk_size=AT_ONCE)(dict(network.values))
    return replace(network, values=wrapped)


def _wrapped(group: SymmetryGroup, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Base tensors by name, moved as far as phase shifts act on them."""
    steps = []
    for number, factor in enumerate(group.moves):
        if isinstance(factor, PhaseFactor):
            # Factors negate what reads their units, never a bias: all can be read before any acts.
            biases = torch.stack([values[member] for member in group.members(factor.offset)]).reshape(factor.size)
            steps.append((number, -torch.round(biases.detach().double() * (factor.frequency / math.pi))))
    return {**values, **Motion(group, tuple(steps)).moved(values)}
