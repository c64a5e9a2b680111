"""Scales and signs as a part of a group: variables, the characters of tensors in them, and tables of their values.

A variable is a free function on some index spaces, zero where an index is the first of its space. Its table holds the logarithms of
magnitudes (float64), or which signs are negative (bool). A tensor's multiplier is, element by element, the exponential of a sum of tables
with rational coefficients, and the product of signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.symmetries.scale_places import Places

if TYPE_CHECKING:
    from paramgraph.graph import Diagnostic, ScaleDomain

Array = np.ndarray
Tables = Mapping[int, Array]
# Where the elements of a tensor come from under a permutation: coordinates per axis, to coordinates per axis.
Sources = Callable[[str, Sequence[Array]], Sequence[Array]]


@dataclass(slots=True)  # not frozen, which would make one cost several times as much: networks have many thousands
class ScaleVariable:
    """A free function on some spaces of one block of a tensor. It does not change.

    Attributes:
        kind: `"scale"` or `"sign"`.
        shape: sizes of the spaces.
        tensor: state-dict name of the tensor that it was first met in.
        block: number of the block within that tensor's action.
        places: which of the block's spaces, numbered through all axes, in the order of the table's axes.
    """

    kind: str
    shape: tuple[int, ...]
    tensor: str
    block: int
    places: tuple[int, ...]

    @property
    def dimension(self) -> int:
        return math.prod(n - 1 for n in self.shape)


@dataclass(slots=True)  # not frozen: see above
class ScaleTerm:
    """A function on some spaces of a block, as a combination of variables. It does not change.

    Attributes:
        places: which of the block's spaces, numbered through all axes, in the order of the tables' axes.
        variables: numbers of the variables.
        exponents: numerator and denominator of each variable's coefficient; 1 for signs.
    """

    places: tuple[int, ...]
    variables: tuple[int, ...]
    exponents: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class View:
    """How tables on some spaces of a block vary along its axes: transposed, spread over the spaces of the same axes, and reshaped."""

    axes: tuple[int, ...]
    order: tuple[int, ...]
    placed: tuple[int, ...]
    wide: tuple[int, ...]
    target: tuple[int, ...]
    exponents: tuple[float, ...]

    def of(self, table: Array) -> Array:
        if self.placed == self.wide:
            return (table.transpose(self.order) if len(self.order) > 1 else table).reshape(self.target)
        return np.broadcast_to(table.transpose(self.order).reshape(self.placed), self.wide).reshape(self.target)


@dataclass(eq=False)  # not frozen: see above
class ScaleBlock:
    """A part of a tensor, on which every axis is a product of index spaces, with its character. It does not change.

    Attributes:
        index: per axis, the positions of its elements; None for all, in order.
        sizes: per axis, sizes of its spaces, row-major.
        terms: the character.
    """

    index: tuple[Array | None, ...]
    sizes: tuple[tuple[int, ...], ...]
    terms: tuple[ScaleTerm, ...]

    @cached_property
    def flat(self) -> tuple[int, ...]:
        return tuple(n for sizes in self.sizes for n in sizes)

    @cached_property
    def axis_of(self) -> tuple[int, ...]:
        """Axis of each space."""
        return tuple(d for d, sizes in enumerate(self.sizes) for _ in sizes)

    @cached_property
    def views(self) -> tuple[View, ...]:
        """How the tables of each term are laid out along the block's axes."""
        return tuple(self._view(term) for term in self.terms)

    def _view(self, term: ScaleTerm) -> View:
        axes = tuple(sorted({self.axis_of[p] for p in term.places}))
        order = tuple(sorted(range(len(term.places)), key=term.places.__getitem__))
        placed = tuple(n if i in term.places else 1 for i, n in enumerate(self.flat))
        wide = tuple(n if self.axis_of[i] in axes else 1 for i, n in enumerate(self.flat))
        target = tuple(math.prod(sizes) if d in axes else 1 for d, sizes in enumerate(self.sizes))
        return View(axes, order, placed, wide, target, tuple(top / bottom for top, bottom in term.exponents))


@dataclass(frozen=True)
class Scales:
    """All scales and signs of a network.

    Attributes:
        variables: the free ones; scales before signs.
        blocks: per tensor, its blocks that anything scales.
        approximate: further dimensions of magnitudes that hold but for a constant that is meant to be negligible (a normalisation's ε).
            They are not in the group.
        domains: per node set that holds a tensor of the network, by what its nodes are multiplied.
        diagnostics: operations through which nothing is scaled as their operands could not be aligned, or why nothing is at all.
    """

    variables: tuple[ScaleVariable, ...] = ()
    blocks: Mapping[str, tuple[ScaleBlock, ...]] = field(default_factory=dict)
    approximate: int = 0
    domains: Mapping[str, ScaleDomain] = field(default_factory=dict)
    diagnostics: tuple[Diagnostic, ...] = ()

    @cached_property
    def tensors(self) -> dict[int, list[str]]:
        """Names of the tensors that each variable scales."""
        out: dict[int, list[str]] = {}
        for name, blocks in self.blocks.items():
            for number in {v for block in blocks for term in block.terms for v in term.variables}:
                out.setdefault(number, []).append(name)
        return out

    def character(self, name: str) -> str:
        """By what a tensor is multiplied, for people: per part, variables on its axes with rational exponents.

        `v0[0] v2[1]^-1` is a matrix with a multiplier for each row and the inverse of another for each column; `s1[0]` is a sign.
        """
        parts = []
        for block in self.blocks.get(name, ()):
            words = []
            for term in block.terms:
                axes = ",".join(str(block.axis_of[place]) for place in term.places)
                for variable, (top, bottom) in zip(term.variables, term.exponents, strict=True):
                    power = "" if (top, bottom) == (1, 1) else f"^{top}" if bottom == 1 else f"^({top}/{bottom})"
                    words.append(f"{'v' if self.variables[variable].kind == 'scale' else 's'}{variable}[{axes}]{power}")
            parts.append(" ".join(words))
        return " | ".join(parts) or "1"

    def multipliers(self, name: str, tables: Tables) -> list[tuple[tuple[Array | None, ...], list[Array]]]:
        """Per block of a tensor that anything multiplies, its positions along the axes, and arrays whose product are its multipliers."""
        if not tables:
            return []
        blocks, using = self.blocks.get(name, ()), self._using(name)
        if len(tables) < len(using):
            chosen = sorted({number for v in tables for number in using.get(v, ())})
        else:
            chosen = sorted({number for v, numbers in using.items() if v in tables for number in numbers})
        return [(blocks[number].index, self._multipliers(blocks[number], tables)) for number in chosen]

    def _using(self, name: str) -> dict[int, list[int]]:
        """Per variable, the numbers of a tensor's blocks that it multiplies."""
        if name not in self._used:
            found: dict[int, list[int]] = {}
            for number, block in enumerate(self.blocks.get(name, ())):
                for v in {v for term in block.terms for v in term.variables}:
                    found.setdefault(v, []).append(number)
            self._used[name] = found
        return self._used[name]

    @cached_property
    def _used(self) -> dict[str, dict[int, list[int]]]:
        return {}

    def _multipliers(self, block: ScaleBlock, tables: Tables) -> list[Array]:
        """Arrays whose product are the multipliers of a block; each varies along the axes that its terms do, and has size 1 along others."""
        logs: dict[tuple[int, ...], Array] = {}
        flips: dict[tuple[int, ...], Array] = {}
        for term, view in zip(block.terms, block.views, strict=True):
            log: Array | None = None
            flip: Array | None = None
            for variable, exponent in zip(term.variables, view.exponents, strict=True):
                table = tables.get(variable)
                if table is None:
                    continue
                if table.dtype == bool:
                    flip = table if flip is None else flip ^ table
                else:
                    table = table if exponent == 1 else table * exponent
                    log = table if log is None else log + table
            axes = view.axes
            if log is not None:
                logs[axes] = logs[axes] + view.of(log) if axes in logs else view.of(log)
            if flip is not None:
                flips[axes] = flips[axes] ^ view.of(flip) if axes in flips else view.of(flip)
        signed = {axes: np.exp(log) for axes, log in logs.items()}
        for axes, flip in flips.items():
            signed[axes] = signed.get(axes, 1.0) * (1.0 - 2.0 * flip)
        return list(signed.values())

    def at(self, name: str, coordinates: Sequence[Array], tables: Tables) -> tuple[Array, Array]:
        """Logarithms of magnitudes and negative signs of single elements of a tensor.

        Args:
            coordinates: per axis, an array of one shape.
        """
        shape = coordinates[0].shape if coordinates else ()
        flat = [where.reshape(-1) for where in coordinates]
        logs, flips = np.zeros(math.prod(shape)), np.zeros(math.prod(shape), dtype=bool)
        if name in self.blocks:
            if name not in self._places:
                self._places[name] = Places(self.blocks[name])
            for block, inside, atoms in self._places[name].find(flat):
                for term, view in zip(block.terms, block.views, strict=True):
                    for variable, exponent in zip(term.variables, view.exponents, strict=True):
                        if variable not in tables:
                            continue
                        value = tables[variable][tuple([atoms[p] for p in term.places])]
                        if self.variables[variable].kind == "sign":
                            flips[inside] ^= value
                        else:
                            logs[inside] += value * exponent
        return logs.reshape(shape), flips.reshape(shape)

    @cached_property
    def _places(self) -> dict[str, Places]:
        return {}

    def moved(self, tables: Tables, sources: Sources) -> dict[int, Array]:
        """The tables after a permutation: each element's multiplier goes where the element goes.

        Args:
            sources: for elements of a named tensor, the elements that the permutation puts there.
        """
        out: dict[int, Array] = {}
        touched = {name for v in tables for name in self.tensors.get(v, ())}
        for number, variable in enumerate(self.variables):
            own, others = self._homes[number]
            held = [(other, exponent) for other, exponent in others if other in out]
            if variable.tensor not in touched and not held:
                continue
            table = self._moved(variable, tables, sources) if variable.tensor in touched else np.zeros(variable.shape)
            if variable.kind == "sign":
                table = table.astype(bool)
                for other, _ in held:
                    table = table ^ out[other]
            else:
                for other, exponent in held:
                    table = table - exponent * out[other]
                table = table if own == 1 else table / own
            if table.any():
                out[number] = table
        return out

    def _moved(self, variable: ScaleVariable, tables: Tables, sources: Sources) -> Array:
        """What multiplies a variable's tensor after a permutation, as a function on the variable's spaces."""
        block = self.blocks[variable.tensor][variable.block]
        local = np.indices(variable.shape)
        atoms = [np.zeros(variable.shape, dtype=np.int64) for _ in block.flat]
        for place, coordinate in zip(variable.places, local, strict=True):
            atoms[place] = coordinate
        coordinates, start = [], 0
        for index, sizes in zip(block.index, block.sizes, strict=True):
            here = np.zeros(variable.shape, dtype=np.int64)
            for n in sizes:
                here = here * n + atoms[start]
                start += 1
            coordinates.append(here if index is None else index[here])
        logs, flips = self.at(variable.tensor, sources(variable.tensor, coordinates), tables)
        return anchored(flips if variable.kind == "sign" else logs)

    @cached_property
    def _homes(self) -> list[tuple[float, list[tuple[int, float]]]]:
        """Per variable, in the term that it is known by: its coefficient, and the others there with theirs. Those come before it."""
        out = []
        for number, variable in enumerate(self.variables):
            block = self.blocks[variable.tensor][variable.block]
            found = [(v, exponent) for term, view in zip(block.terms, block.views, strict=True) if term.places == variable.places
                     for v, exponent in zip(term.variables, view.exponents, strict=True) if self.variables[v].kind == variable.kind]  # fmt: skip
            out.append((dict(found).get(number, 1.0), [(v, exponent) for v, exponent in found if v != number]))
        return out


def anchored(values: Array) -> Array:
    """The part of a function that is on all of its spaces: zero where an index is the first."""
    for axis in range(values.ndim):
        first = values.take([0], axis=axis)
        values = values ^ first if values.dtype == bool else values - first
    return values


def drawn(variables: Sequence[ScaleVariable], draw: Callable[[tuple[int, ...]], Array]) -> list[Array]:
    """Tables of variables of one block, from one independent draw per element.

    Args:
        draw: independent values of a shape.
    """
    tables = [np.zeros(v.shape, dtype=bool if v.kind == "sign" else np.float64) for v in variables]
    for top in variables:
        if any(set(top.places) < set(other.places) for other in variables):
            continue
        values = draw(top.shape)
        for number, variable in enumerate(variables):
            if not set(variable.places) <= set(top.places):
                continue
            part = values[tuple(slice(None) if place in variable.places else 0 for place in top.places)]
            tables[number] = tables[number] ^ anchored(part) if variable.kind == "sign" else tables[number] + anchored(part)
    return tables
