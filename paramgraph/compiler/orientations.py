"""Finds orientations: copies of a filter, turned, that are laid side by side, so that each unit may start from another of them.

Whatever the turns are: copies of a filter hold the same elements in other orders. To take the first copy to another permutes the filter's elements,
and if that takes all copies to each other, it permutes what the copies give. How these permutations spread through the network says what other
parameters read or write them; there, too, they must come to the same as permuting elements.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from paramgraph.compiler.elements import Elements
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.spreading import Mark, Spread, Unfit
from paramgraph.symmetries.orientations import OrientationFactor, OrientedPart

Array = np.ndarray
Site = tuple[Op, int]
# Copies of one filter: of more, a group would be large.
MOST_COPIES = 64


def find_orientations(program: Program) -> tuple[OrientationFactor, ...]:
    """The orientations of filters that are expanded to copies of themselves.

    Args:
        program: the program.
    """
    elements = Elements(program)
    out: list[OrientationFactor] = []
    seen: set[tuple[Value, bytes]] = set()
    for op in program.ops:
        for slot, value in enumerate(op.inputs):
            if op.kind in ("contract", "convolve") and _is_larger(value, elements.sources(value)):
                try:
                    found = _Finder(program, elements, op, slot).run(seen)
                except Unfit:
                    continue
                out += [found] if found is not None else []
    return tuple(out)


def _is_larger(value: Value, sources: frozenset[Value]) -> bool:
    """Whether a value has more elements than the parameters that it is laid out from: it has some several times."""
    return bool(sources) and math.prod(value.shape) > sum(math.prod(source.shape) for source in sources)


@dataclass(frozen=True)
class _Demand:
    """A value that is to be permuted along marked axes.

    Attributes:
        source: which elements of parameters its elements are, in its shape.
        mark: the units along its axes.
    """

    source: Array
    mark: Mark

    def taken(self, shift: Array) -> Array:
        """The elements that those are taken to, if every unit is permuted by `shift`."""
        size = len(shift)
        codes = self.mark.codes.reshape(-1)
        place = np.empty_like(codes)
        place[codes] = np.arange(len(codes))
        moved = place[codes // size * size + shift[codes % size]]
        front = np.moveaxis(self.source, self.mark.axes, range(len(self.mark.axes)))
        flat = front.reshape(len(codes), -1)
        return np.moveaxis(flat[moved].reshape(front.shape), range(len(self.mark.axes)), self.mark.axes)

    def units(self, size: int) -> Array:
        """The unit that each element is read for."""
        shape = [n if d in self.mark.axes else 1 for d, n in enumerate(self.source.shape)]
        return np.broadcast_to((self.mark.codes // size).reshape(shape), self.source.shape)


class _Finder:
    """The orientations of the copies that one operation reads.

    Args:
        program: the program.
        elements: of its parameters.
        op: the operation.
        slot: which operand is laid out of copies.
    """

    def __init__(self, program: Program, elements: Elements, op: Op, slot: int) -> None:
        self.program, self.elements, self.op, self.slot = program, elements, op, slot

    def run(self, seen: set[tuple[Value, bytes]]) -> OrientationFactor | None:
        mark, shifts = self._copies()
        output = self.op.output
        size = shifts.shape[1]
        if not {(output, mark.codes.tobytes()), (output, mark.partition(size))}.isdisjoint(seen):
            return None
        spread = Spread(self.program, self.elements, size)
        spread.run(output, mark)
        seen |= {(value, own.codes.tobytes()) for value, own in spread.marks.items()}
        layers = list(self._layers(spread))
        valid, images = [], []
        for shift in shifts:
            try:
                images.append([self._images(layer, shift) for layer in layers])
                valid.append(shift)
            except Unfit:
                continue
        if len(valid) < 2:
            return None
        kept = np.array(valid)
        parts = _moving([part for n, layer in enumerate(layers) for part in self._parts(layer, np.array([own[n] for own in images]), size)])
        if not parts or not self._is_group(kept):
            return None
        seen |= {(value, own.partition(size)) for value, own in spread.marks.items()}
        units = mark.codes.size // size
        return OrientationFactor(f"orientations of {self._name(parts)}", units, kept, tuple(parts))

    def _name(self, parts: Sequence[OrientedPart]) -> str:
        own = [value.name for value in self.elements.sources(self.op.inputs[self.slot])]
        return next((name for name in own if any(part.tensor == name for part in parts)), parts[0].tensor)

    # -- copies ----------------------------------------------------------------------------------------------------------

    def _copies(self) -> tuple[Mark, Array]:
        """The results of copies of one filter as a unit each, and the permutations of copies that permuting the filter's elements comes to."""
        value = self.op.inputs[self.slot]
        filters, axes = self._kept(value)
        numbers = np.moveaxis(self.elements.of(value), filters, range(len(filters)))
        sizes = numbers.shape[: len(filters)]
        rows = numbers.reshape(math.prod(sizes), -1)
        ordered = np.sort(rows, axis=1)
        if not rows.size or (ordered[:, 1:] == ordered[:, :-1]).any():
            raise Unfit  # an element twice in one copy
        units: dict[bytes, list[int]] = {}
        for number, row in enumerate(ordered):
            units.setdefault(row.tobytes(), []).append(number)
        size = len(next(iter(units.values())))
        if not 1 < size <= MOST_COPIES or any(len(copies) != size for copies in units.values()):
            raise Unfit
        codes = np.empty(len(rows), dtype=np.int64)
        codes[[number for copies in units.values() for number in copies]] = np.arange(len(rows))
        shifts = _shifts(rows[next(iter(units.values()))])
        wide = [i for i, n in enumerate(sizes) if n > 1]
        mark = Mark(tuple(range(len(wide))), codes.reshape([sizes[i] for i in wide]))
        return mark.on([axes[i] for i in wide]), shifts

    def _kept(self, value: Value) -> tuple[list[int], list[int]]:
        """Dimensions of the filters that are dimensions of the result, and no other operand's; and which these are there."""
        op = self.op
        if op.kind == "convolve":
            if self.slot != 1 or op.attrs["groups"] != 1:
                raise Unfit
            return ([1] if op.attrs["transposed"] else [0]), [1]
        others = {label for slot, labels in enumerate(op.labels) if slot != self.slot for label in labels}
        kept = [d for d, label in enumerate(op.labels[self.slot]) if label in op.out_labels and label not in others]
        if not kept:
            raise Unfit
        return kept, [op.out_labels.index(op.labels[self.slot][d]) for d in kept]

    # -- elements --------------------------------------------------------------------------------------------------------

    def _layers(self, spread: Spread) -> Iterator[list[_Demand | Array]]:
        """What is moved at once: all demands, but where two are made of one operand, along different axes, one after the other.

        Each comes with what must stay: the elements that other operations read.
        """
        twice = {site for site, marks in spread.demands.items() if len(marks) > 1}
        doubly = {value for op, slot in twice for value in self.elements.sources(op.inputs[slot])}
        touched = {value for op, slot in spread.demands for value in self.elements.sources(op.inputs[slot])}
        for op, slot in spread.demands:
            if (op, slot) not in twice and not doubly.isdisjoint(self.elements.sources(op.inputs[slot])):
                raise Unfit
        sites = [(op, slot) for op in self.program.ops for slot, value in enumerate(op.inputs)
                 if not touched.isdisjoint(self.elements.sources(value)) and not self.elements.sources(op.output)]  # fmt: skip
        if any(not touched.isdisjoint(self.elements.sources(value)) for value in spread.out) or len(twice) > 1:
            raise Unfit
        for layer in range(max(len(marks) for marks in spread.demands.values())):
            out: list[_Demand | Array] = []
            for op, slot in sites:
                source, marks = self.elements.of(op.inputs[slot]), spread.demands.get((op, slot), [])
                if len(marks) > layer:
                    out.append(_Demand(source, marks[layer]))
                elif layer == 0 or not doubly.isdisjoint(self.elements.sources(op.inputs[slot])):
                    out.append(source)
            yield out

    def _images(self, layer: Sequence[_Demand | Array], shift: Array) -> Array:
        """Where every element of the parameters goes; -1 for those that are not read.

        Raises:
            Unfit: not to one place each, or to where another goes.
        """
        image = np.full(self.elements.total, -1, dtype=np.int64)
        pairs = [(each.source, each.taken(shift)) if isinstance(each, _Demand) else (each, each) for each in layer]
        for source, target in pairs:
            image[source] = target
        if any((image[source] != target).any() for source, target in pairs):
            raise Unfit
        read = np.flatnonzero(image >= 0)
        starts = np.array(sorted(self.elements.starts.values()))
        before, after = (np.searchsorted(starts, numbers, "right") for numbers in (read, image[read]))  # of which parameter
        if not np.array_equal(np.sort(image[read]), read) or not np.array_equal(before, after):
            raise Unfit
        return image

    def _parts(self, layer: Sequence[_Demand | Array], images: Array, size: int) -> Iterator[OrientedPart]:
        """What is moved of each parameter.

        Raises:
            Unfit: an element is moved for several units.
        """
        moved = (images != np.arange(images.shape[1])).any(0) & (images[0] >= 0)
        owner = np.full(images.shape[1], -1, dtype=np.int64)
        found = [(each.source, each.units(size)) for each in layer if isinstance(each, _Demand)]
        for source, units in found:
            owner[source] = units
        if any((owner[source] != units)[moved[source]].any() for source, units in found):
            raise Unfit
        for value, start in self.elements.starts.items():
            stop = start + math.prod(value.shape)
            places = start + np.flatnonzero(moved[start:stop])
            if len(places):
                yield OrientedPart(value.name, places - start, owner[places], images[:, places] - start)

    @staticmethod
    def _is_group(shifts: Array) -> bool:
        known = {shift.tobytes() for shift in shifts}
        return all(a[b].tobytes() in known for a in shifts for b in shifts) and len(set(shifts[:, 0].tolist())) == len(shifts)


def _moving(parts: Sequence[OrientedPart]) -> list[OrientedPart]:
    """All but those of tensors that are moved twice, there and back: a circulant matrix from one unit to the same."""
    by_tensor: dict[str, list[OrientedPart]] = {}
    for part in parts:
        by_tensor.setdefault(part.tensor, []).append(part)
    return [part for part in parts if len(by_tensor[part.tensor]) != 2 or not _is_back(*by_tensor[part.tensor])]


def _is_back(first: OrientedPart, second: OrientedPart) -> bool:
    """Whether the second part always takes elements back to where the first took them from."""
    if not np.array_equal(first.places, second.places) or not np.array_equal(first.units, second.units):
        return False
    there = np.searchsorted(first.places, first.images)
    return bool((np.take_along_axis(second.images, there, 1) == first.places).all())


def _shifts(rows: Array) -> Array:
    """Permutations of rows that are given by permutations of their elements, shape `(permutations, rows)`; the first is the identity.

    Args:
        rows: the same numbers in each, in different orders, shape `(rows, elements)`.
    """
    number = {row.tobytes(): n for n, row in enumerate(rows)}
    if len(number) < len(rows):
        raise Unfit  # copies that are the same could be permuted anyhow
    order = rows[0].argsort()
    out = []
    for to in rows:
        # The permutation that takes the first row to this one, applied to all rows.
        moved = to[order[np.searchsorted(rows[0], rows, sorter=order)]]
        shift = [number.get(row.tobytes(), -1) for row in moved]
        if -1 not in shift:
            out.append(shift)
    return np.array(out)
