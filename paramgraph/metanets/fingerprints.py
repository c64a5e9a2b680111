"""How scales and signs act on every element of a network's parameters, as numbers that can be compared.

A random element of the scale group multiplies each element of a parameter by a monomial in independent random numbers. Two monomials are
equal if they are so at a random point, up to events without probability. So the logarithm of a magnitude at one random element, and the
signs at some dozens of them as the bits of one integer, stand for the characters themselves; and nothing but the group's own action is used
to find them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from paramgraph.graph import EdgeSet, ParamGraph

Array = np.ndarray
# Logarithms closer than this are equal; they are of order one and exact to about 1e-14.
CLOSE = 1e-8
# Two different signs agree by chance in all draws with probability 2^-40.
DRAWS = 40


@dataclass(frozen=True)
class Character:
    """Multipliers of the elements of an array: logarithms of magnitudes (float64), and signs at some draws (bits of int64)."""

    log: Array
    bits: Array

    def __add__(self, other: Character) -> Character:
        """The product of multipliers."""
        return Character(self.log + other.log, self.bits ^ other.bits)

    def __neg__(self) -> Character:
        """The inverse of multipliers."""
        return Character(-self.log, self.bits)

    def __getitem__(self, index: Any) -> Character:
        return Character(self.log[index], self.bits[index])

    def equals(self, other: Character) -> bool:
        """Whether all multipliers agree; shapes are broadcast."""
        return bool((np.abs(self.log - other.log) < CLOSE).all()) and bool((self.bits == other.bits).all())

    @property
    def flat(self) -> Character:
        """The same of a flat array."""
        return Character(self.log.reshape(-1), self.bits.reshape(-1))

    @property
    def domain(self) -> Domain:
        """What acts on any of the elements."""
        return Domain(bool((np.abs(self.log) >= CLOSE).any()), bool((self.bits != 0).any()))


@dataclass(frozen=True)
class Domain:
    """Which multipliers act: positive ones, signs, both (any real number but zero) or none."""

    magnitude: bool = False
    sign: bool = False

    @property
    def trivial(self) -> bool:
        return not (self.magnitude or self.sign)

    def __str__(self) -> str:
        return {(False, False): "trivial", (True, False): "positive", (False, True): "sign", (True, True): "real"}[self.magnitude, self.sign]


def trivial(*shape: int) -> Character:
    """The character of what nothing multiplies."""
    return Character(np.zeros(shape), np.zeros(shape, dtype=np.int64))


class Fingerprints:
    """Characters of a graph's parameters, and of its edge sets' values.

    Args:
        graph: the graph; its values are not looked at.
    """

    def __init__(self, graph: ParamGraph) -> None:
        self._graph = graph
        self._tensors: Mapping[str, Character] = _characters(graph)

    def of(self, edges: EdgeSet) -> Character:
        """Of the values of an edge set, `edges.shape`; trivial for structural ones."""
        if edges.parameter is None or edges.parameter.name not in self._tensors:
            return trivial(*edges.shape)
        found = self._tensors[edges.parameter.name]
        numbers = edges.parameter.element_numbers(edges.shape)
        return Character(found.log.reshape(-1)[numbers], found.bits.reshape(-1)[numbers])


def _characters(graph: ParamGraph) -> dict[str, Character]:
    group = graph.symmetry
    kinds = {factor.kind for factor in group.factors} if group is not None else set()
    floats = {name: tuple(value.shape) for name, value in graph.values.items() if value.is_floating_point()}
    rest = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in graph.values.items() if name not in floats}

    def drawn(kind: str, seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        ones = {name: torch.ones(shape, dtype=dtype) for name, shape in floats.items()}
        moved = group.sample(seed, kinds=[kind]).act({**ones, **rest})
        return {name: moved[name] for name in floats}

    logs = {name: np.zeros(shape) for name, shape in floats.items()}
    bits = {name: np.zeros(shape, dtype=np.int64) for name, shape in floats.items()}
    if "scale" in kinds:
        logs = {name: value.log().numpy() for name, value in drawn("scale", 0, torch.float64).items()}
    for draw in range(DRAWS if "sign" in kinds else 0):
        for name, value in drawn("sign", 1 + draw, torch.float32).items():
            bits[name] |= (value < 0).numpy().astype(np.int64) << draw
    return {name: Character(logs[name], bits[name]) for name in floats}
