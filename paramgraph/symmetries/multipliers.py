"""The multipliers of all tensors at once: arrays along few axes each, read from the tables of an element by one sparse product.

A character is written block by block. What the multipliers of a tensor vary along is mostly less: those of a convolution over concatenated
channels are a product of one function of the row and one of the column, whatever the columns were cut into. Each term is therefore written as
a sum of functions on as few axes as there are (inclusion and exclusion over the parts of the axes that a block is cut along), and those on
the same axes become one array.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from paramgraph.symmetries.scales import ScaleBlock, Scales, Tables, View

if TYPE_CHECKING:
    import torch

Array = np.ndarray
Axes = tuple[int, ...]
# Numbers of the parts that some axes of a tensor are cut into.
Cell = tuple[int, ...]
# Coefficients of the variables of a term, by number.
Form = dict[int, int | Fraction]
# What a term's tables are laid out like: all but the coefficients.
Layout = tuple[Axes, Axes, tuple[int, ...], tuple[int, ...], tuple[int, ...]]

# Arrays with more elements than this are not written out: their multipliers are computed block by block.
WIDEST = 1 << 16
# Tensors with more cells to a block than this are written block by block too.
CELLS = 4


@dataclass(frozen=True)
class _Piece:
    """A function that is added to an array: tables of variables with coefficients, at some places along the array's axes."""

    layout: Layout
    form: Form
    places: Mapping[int, Array | None]


@dataclass(frozen=True)
class Multiplied:
    """What tensors are multiplied by.

    Attributes:
        arrays: per tensor that anything multiplies, arrays whose product multiplies it: of its rank, of size 1 along axes that they do not
            vary along.
        beyond: names of tensors with a multiplier that is not in the range of the arrays' type.
    """

    arrays: Mapping[str, Sequence[torch.Tensor]]
    beyond: frozenset[str]


class Multipliers:
    """The characters of a group's tensors as sparse matrices from tables to arrays.

    Args:
        scales: of the group.
        shapes: of the tensors, by the names of their actions; others are left out.

    Attributes:
        wide: names of the tensors that are left out, as an array would be too large.
    """

    def __init__(self, scales: Scales, shapes: Mapping[str, Sequence[int]]) -> None:
        self.scales = scales
        self.wide: set[str] = set()
        self._arrays: dict[str, list[tuple[int, int, tuple[int, ...]]]] = {}
        ends = np.cumsum([0, *(math.prod(variable.shape) for variable in scales.variables)]).tolist()
        self._starts, self._size, self._count = ends[:-1], ends[-1], 0
        self._entries: list[tuple[Array, Array, Array]] = []
        self._constants: list[tuple[int, int, int]] = []  # of an array, its rows and that of a constant to add
        for name, blocks in scales.blocks.items():
            if name not in shapes:
                continue
            pieces: dict[Axes, list[_Piece]] = {}
            for axes, piece in _pieces(blocks, scales, shapes[name]):
                pieces.setdefault(axes, []).append(piece)
            if any(math.prod(shapes[name][d] for d in axes) > WIDEST for axes in pieces):
                self.wide.add(name)
                continue
            spans = {axes: self._add(shapes[name], axes, held) for axes, held in pieces.items()}
            if len(spans) > 1 and () in spans:  # one array less to multiply by
                first, constant = min(axes for axes in spans if axes), spans.pop(())
                self._constants.append((*spans[first], constant[0]))
            self._arrays[name] = [(*span, tuple(n if d in axes else 1 for d, n in enumerate(shapes[name]))) for axes, span in spans.items()]

    def _add(self, shape: Sequence[int], axes: Axes, pieces: Sequence[_Piece]) -> tuple[int, int]:
        """Write an array. Returns the first of its rows, and that after its last."""
        wide = tuple(n if d in axes else 1 for d, n in enumerate(shape))
        size = math.prod(wide)
        numbers = np.arange(self._count, self._count + size).reshape(wide)
        for piece in pieces:
            where = [np.zeros(1, dtype=np.int64) if d not in axes else np.arange(n) if (own := piece.places.get(d)) is None else own
                     for d, n in enumerate(shape)]  # fmt: skip
            rows = numbers[np.ix_(*where)] if where else numbers
            view = View(*piece.layout, ())
            for variable, coefficient in piece.form.items():
                table = np.arange(math.prod(self.scales.variables[variable].shape)).reshape(self.scales.variables[variable].shape)
                columns = np.broadcast_to(view.of(table) + self._starts[variable], rows.shape).reshape(-1)
                self._entries.append((rows.reshape(-1), columns, np.full(columns.shape, float(coefficient))))
        self._count += size
        return self._count - size, self._count

    @cached_property
    def _matrices(self) -> tuple[Any, Any, Array]:
        """From tables to logarithms; from negative signs to how many there are; per row, another to add to it: the last, of nothing, for most."""
        from scipy.sparse import csr_array

        rows, columns, data = (np.concatenate([entry[i] for entry in self._entries]) for i in range(3))
        self._entries.clear()
        signs = np.zeros(self._size, dtype=bool)
        for variable, start in zip(self.scales.variables, self._starts, strict=True):
            signs[start : start + math.prod(variable.shape)] = variable.kind == "sign"
        negative = signs[columns]
        added = np.full(self._count + 1, self._count)
        for start, stop, row in self._constants:
            added[start:stop] = row
        shape = (self._count + 1, self._size)
        logs = csr_array((data[~negative], (rows[~negative], columns[~negative])), shape=shape)
        flips = csr_array((np.ones(int(negative.sum()), dtype=np.int32), (rows[negative], columns[negative])), shape=shape)
        return logs, flips, added

    def of(self, tables: Tables, dtype: torch.dtype) -> Multiplied:
        """What these tables multiply tensors by. Tensors that are `wide` are left out.

        Args:
            tables: logarithms of magnitudes, and negative signs, by variable.
            dtype: of the arrays.
        """
        import torch

        if not self._count:
            return Multiplied({}, frozenset())
        logs, flips, added = self._matrices
        values = np.zeros(self._size)
        for variable, table in tables.items():
            values[self._starts[variable] : self._starts[variable] + table.size] = table.reshape(-1)
        moved = np.zeros(self._count + 1, dtype=bool)
        multipliers = np.ones(self._count + 1)
        if any(table.dtype != bool for table in tables.values()):
            found = logs @ values
            found += found[added]
            moved = found != 0
            with np.errstate(over="ignore", under="ignore"):  # what leaves a type's range is said below
                np.exp(found, out=multipliers)
        if any(table.dtype == bool for table in tables.values()):
            signs = flips @ values.astype(np.int32)
            odd = ((signs + signs[added]) & 1).astype(bool)
            multipliers *= 1 - 2 * odd.astype(np.int8)
            moved |= odd
        made = torch.from_numpy(multipliers).to(dtype).numpy()
        sizes = np.abs(made)
        beyond = None if sizes.min() > 0 and sizes.max() < np.inf else ~np.isfinite(made) | (made == 0)
        active, outside = self._any(moved), itertools.repeat(False) if beyond is None else self._any(beyond)
        arrays: dict[str, list[torch.Tensor]] = {}
        names = set()
        for name, spans in self._arrays.items():
            for (start, stop, shape), moves, fails in zip(spans, active, outside, strict=False):
                if moves:
                    arrays.setdefault(name, []).append(torch.from_numpy(made[start:stop].reshape(shape)))
                if fails:
                    names.add(name)
        return Multiplied(arrays, frozenset(names))

    def _any(self, values: Array) -> Iterator[bool]:
        """Whether a value is true within each array, in order; what lies between two arrays does not count."""
        ends = np.fromiter((end for spans in self._arrays.values() for span in spans for end in span[:2]), dtype=np.int64)
        return iter(np.logical_or.reduceat(values, ends)[::2].tolist())


def _pieces(blocks: Sequence[ScaleBlock], scales: Scales, shape: Sequence[int]) -> Iterator[tuple[Axes, _Piece]]:
    """The terms of a tensor's blocks as functions on few axes, each with the axes that it varies along."""
    grid = _Grid(blocks, shape)
    by_layout: dict[Layout, dict[Cell, Form]] = {}
    for block, cell in zip(blocks, grid.cells, strict=True):
        for term, view in zip(block.terms, block.views, strict=True):
            own = [i for i, d in enumerate(block.axis_of) if d in view.axes]
            layout = (view.axes, view.order, tuple(view.placed[i] for i in own), tuple(view.wide[i] for i in own), view.target)
            form = by_layout.setdefault(layout, {}).setdefault(cell, {})
            for variable, (top, bottom) in zip(term.variables, term.exponents, strict=True):
                form[variable] = form.get(variable, 0) + (top if bottom == 1 else Fraction(top, bottom))
    for layout, forms in by_layout.items():
        for varying, cell, form in grid.decomposed(forms, layout[0]):
            kept = {v: c for v, c in form.items() if scales.variables[v].kind != "sign" or c % 2}
            if kept:
                places = {d: grid.positions[d, part] for d, part in zip(varying, cell, strict=True)}
                yield tuple(sorted({*layout[0], *varying})), _Piece(layout, kept, places)


class _Grid:
    """The parts that the axes of a tensor are cut into, and its blocks as cells: a part along each of the axes that are cut.

    Attributes:
        cut: these axes.
        cells: of the blocks.
        positions: where a part of an axis is; None for all of the axis.
        origin: along each cut axis a part that others are compared with; -1 (where everything is 0) if its parts are no partition, or if
            there are many more cells than blocks.
    """

    def __init__(self, blocks: Sequence[ScaleBlock], shape: Sequence[int]) -> None:
        self.cut = tuple(d for d in range(len(shape)) if any(block.index[d] is not None for block in blocks))
        known: dict[tuple[int, bytes], int] = {}
        self.positions: dict[tuple[int, int], Array | None] = {}
        self.cells: list[Cell] = []
        for block in blocks:
            cell = []
            for d in self.cut:
                index = block.index[d]
                cell.append(known.setdefault((d, b"" if index is None else index.tobytes()), len(known)))
                self.positions[d, cell[-1]] = index
            self.cells.append(tuple(cell))
        self.parts = {d: [part for axis, part in self.positions if axis == d] for d in self.cut}
        full = math.prod(map(len, self.parts.values())) <= CELLS * len(blocks)
        self.origin = {d: parts[0] if full and self._is_partition(d, shape[d]) else -1 for d, parts in self.parts.items()}

    def _is_partition(self, d: int, size: int) -> bool:
        held = [self.positions[d, part] for part in self.parts[d]]
        found = [index for index in held if index is not None]
        return len(found) == len(held) and sum(map(len, found)) == size == len(np.unique(np.concatenate(found)))

    def decomposed(self, forms: Mapping[Cell, Form], own: Axes) -> Iterator[tuple[Axes, Cell, Form]]:
        """Forms on cells as sums of forms on cells along fewer axes.

        Args:
            forms: by cell; 0 on those that are left out.
            own: axes that each form is about itself: the parts along these are kept.

        Yields:
            Cut axes, a cell along these, and a form on it: that of a cell is the sum over all sets of axes of those on its part along them.
        """
        along = [i for i, d in enumerate(self.cut) if d in own]
        free = [i for i, d in enumerate(self.cut) if d not in own]
        origin = tuple(self.origin[self.cut[i]] for i in free)
        others = [[part for part in self.parts[self.cut[i]] if part != start] for i, start in zip(free, origin, strict=True)]
        groups: dict[Cell, dict[Cell, Form]] = {}
        for cell, form in forms.items():
            groups.setdefault(tuple(cell[i] for i in along), {})[tuple(cell[i] for i in free)] = form
        for kept, held in groups.items():
            if all(start < 0 for start in origin):  # nothing is compared
                yield from ((*self._at((*along, *free), (*kept, *cell)), form) for cell, form in held.items())
                continue
            for count in range(len(free) + 1):
                for chosen in itertools.combinations(range(len(free)), count):
                    if any(start < 0 for i, start in enumerate(origin) if i not in chosen):
                        continue
                    for cell in itertools.product(*(others[i] for i in chosen)):
                        form = _difference(held, origin, chosen, cell)
                        if form:
                            yield *self._at((*along, *(free[i] for i in chosen)), (*kept, *cell)), form

    def _at(self, numbers: Sequence[int], cell: Cell) -> tuple[Axes, Cell]:
        """Cut axes in order, by their numbers, with the parts along them."""
        at = sorted(zip(numbers, cell, strict=True))
        return tuple(self.cut[i] for i, _ in at), tuple(part for _, part in at)


def _difference(held: Mapping[Cell, Form], origin: Cell, chosen: Axes, cell: Cell) -> Form:
    """The mixed difference of forms between an origin and a cell, along the chosen axes."""
    out: Form = {}
    for taken in itertools.product((0, 1), repeat=len(chosen)):
        place = list(origin)
        for i, part, take in zip(chosen, cell, taken, strict=True):
            place[i] = part if take else origin[i]
        sign = -1 if (len(chosen) - sum(taken)) % 2 else 1
        for variable, coefficient in held.get(tuple(place), {}).items():
            total = out.get(variable, 0) + sign * coefficient
            if total:
                out[variable] = total
            else:
                out.pop(variable, None)
    return out
