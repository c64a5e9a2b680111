"""Follows units through a program whose elements are to be permuted: each in itself, and differently from the others.

A mark says which elements along some axes of a value belong to which unit. Marks spread to whatever must be permuted alike: forwards to what is
computed, backwards to what else it is computed from. They end where a whole unit is summed over, and at parameters: there stands what is demanded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paramgraph.compiler.elements import Elements
from paramgraph.compiler.passing import SOFTMAX
from paramgraph.compiler.program import LAYOUT, Labels, Op, Program, Value
from paramgraph.compiler.terms import regrouped

Array = np.ndarray


class Unfit(Exception):
    """Something does not pass the permutations."""


@dataclass(frozen=True, eq=False)
class Mark:
    """Units along some axes.

    Attributes:
        axes: dimensions of a value, ascending, or labels of an operation.
        codes: the units' elements there, each once: `unit * size + element`.
    """

    axes: tuple[Any, ...]
    codes: Array

    def on(self, axes: Sequence[Any]) -> Mark:
        """The same along axes in another order, or under other names, given in this order."""
        order = sorted(range(len(axes)), key=lambda i: axes[i])
        return Mark(tuple(axes[i] for i in order), self.codes.transpose(order))

    def partition(self, size: int) -> bytes:
        """What is one unit, whatever numbers the units and their elements have.

        Args:
            size: number of elements of each unit.
        """
        units = self.codes.reshape(-1) // size
        return b"units" + np.unique(units, return_index=True)[1][units].tobytes()

    def is_as(self, other: Mark) -> bool:
        return self.axes == other.axes and np.array_equal(self.codes, other.codes)


class Spread:
    """Marks on a program's values.

    Args:
        program: the program.
        elements: of its parameters.
        size: number of elements of each unit.

    Attributes:
        marks: of values that are no parameters.
        demands: per operation and operand that is laid out from parameters, how that must be permuted.
    """

    def __init__(self, program: Program, elements: Elements, size: int) -> None:
        self.elements, self.size = elements, size
        self.readers, self.out = program.readers(), program.results()
        self.marks: dict[Value, Mark] = {}
        self.demands: dict[tuple[Op, int], list[Mark]] = {}
        self._todo: list[Op] = []

    def run(self, value: Value, mark: Mark) -> None:
        """Mark a value, and all that follows from that.

        Raises:
            Unfit: something does not pass it.
        """
        self._mark(value, mark)
        while self._todo:
            self._pass(self._todo.pop())

    def _mark(self, value: Value, mark: Mark) -> None:
        if value in self.marks:
            if not mark.is_as(self.marks[value]):
                raise Unfit
            return
        if value.op is None or value in self.out:
            raise Unfit
        self.marks[value] = mark
        self._todo += [value.op, *self.readers.get(value, ())]

    def _pass(self, op: Op) -> None:
        if op.kind in LAYOUT:
            _LAYOUTS[op.kind](self, op)
        elif op.kind == "convolve" and op.exact:
            self._convolve(op)
        elif op.kind in ("elementwise", "normalize", "reduce", "contract", "mix") and op.exact:
            if op.kind == "contract" and not op.attrs.get("product"):
                raise Unfit
            self._aligned(op, op.labels, op.out_labels)
        elif op.kind == "resample":
            if any(value in self.marks and not set(op.attrs["dims"]).isdisjoint(self.marks[value].axes) for value in (*op.inputs, op.output)):
                raise Unfit
            self._both_ways(op, range(op.output.ndim))
        else:
            raise Unfit

    # -- operations on aligned axes ------------------------------------------------------------------------------------

    def _aligned(self, op: Op, labels: Sequence[Labels], out: Labels) -> None:
        """Operands and results that have labels in common are permuted alike along them."""
        order = {label: n for n, label in enumerate(dict.fromkeys(label for own in (out, *labels) for label in own))}
        sides = [(value, tuple(order[label] for label in own)) for value, own in zip((op.output, *op.inputs), (out, *labels), strict=True)]
        if any(len(set(own)) < len(own) for _, own in sides):
            raise Unfit
        found: list[Mark] = []
        for value, own in sides:
            if value in self.marks:
                mark = self.marks[value]
                moved = mark.on([own[d] for d in mark.axes])
                known = [other for other in found if not set(other.axes).isdisjoint(moved.axes)]
                if not all(other.is_as(moved) for other in known):
                    raise Unfit
                found += [] if known else [moved]
        kept = set(sides[0][1])
        over = {order[label] for label in op.attrs.get("mixed", ())} if op.kind in ("mix", "normalize") else set()
        in_order = op.attrs.get("ordered") or op.kind == "mix" and op.name not in SOFTMAX
        if in_order and any(not over.isdisjoint(mark.axes) for mark in found):
            raise Unfit
        for mark in found:
            gone = {axis for axis in mark.axes if axis not in kept or axis in over}
            if gone and not self._is_constant(mark, [axis for axis in mark.axes if axis not in gone]):
                raise Unfit  # a part of a unit, or the same part of all units
            if kept.issuperset(mark.axes):
                self._demand(op, -1, op.output, sides[0][1], mark)
            for slot, (value, own) in enumerate(sides[1:]):
                self._demand(op, slot, value, own, mark)

    def _demand(self, op: Op, slot: int, value: Value, own: Sequence[int], mark: Mark) -> None:
        """Mark an operand, or note what is demanded of it, if the units' elements are told apart along it."""
        held = [axis for axis in mark.axes if axis in own and value.shape[own.index(axis)] > 1]
        wide = [axis for axis, n in zip(mark.axes, mark.codes.shape, strict=True) if n > 1]
        if set(held) != set(wide):
            if not self._is_constant(mark, held) or value in self.marks and any(own[d] in mark.axes for d in self.marks[value].axes):
                raise Unfit
            return
        here = Mark(tuple(wide), mark.codes.reshape([n for n in mark.codes.shape if n > 1])).on([list(own).index(axis) for axis in wide])
        if slot >= 0 and self.elements.sources(value):
            known = self.demands.setdefault((op, slot), [])
            if not any(here.is_as(other) for other in known):
                known.append(here)
        else:
            self._mark(value, here)

    def _is_constant(self, mark: Mark, axes: Sequence[Any]) -> bool:
        """Whether all elements of each unit are at one place along some of its axes."""
        sizes = [n if axis in axes else 1 for axis, n in zip(mark.axes, mark.codes.shape, strict=True)]
        places = np.broadcast_to(np.arange(math.prod(sizes)).reshape(sizes), mark.codes.shape)
        by_unit = places.reshape(-1)[mark.codes.reshape(-1).argsort()].reshape(-1, self.size)
        return bool((by_unit == by_unit[:, :1]).all())

    def _convolve(self, op: Op) -> None:
        """Channels are contracted, and taps belong to the kernel; a depthwise one is a product channel by channel."""
        x, weight = op.inputs
        groups, taps = op.attrs["groups"], weight.ndim - 2
        depthwise = groups > 1 and groups == x.shape[1] == op.output.shape[1]
        if groups > 1 and not depthwise:
            raise Unfit
        first, second = ("i", "o") if op.attrs["transposed"] and not depthwise else ("c", "one") if depthwise else ("o", "i")
        channels = ("c", "c") if depthwise else ("i", "o")
        names = {label: n for n, label in enumerate(("n", "i", "o", "c", "one"))}
        inside, outside, within = (tuple(range(5 + k * taps, 5 + (k + 1) * taps)) for k in range(3))
        labels = ((names["n"], names[channels[0]], *inside), (names[first], names[second], *within))
        if any(value in self.marks and self.marks[value].axes != (1,) for value in (x, op.output)):
            raise Unfit
        self._aligned(op, labels, (names["n"], names[channels[1]], *outside))

    # -- layout ----------------------------------------------------------------------------------------------------------

    def _both_ways(self, op: Op, axes: Sequence[int]) -> None:
        """An operation whose result's dimension d is its operand's dimension `axes[d]`, as far as marks are concerned."""
        x, y = op.inputs[0], op.output
        if x in self.marks:
            self._mark(y, self.marks[x].on([list(axes).index(d) for d in self.marks[x].axes]))
        elif y in self.marks:
            self._mark(x, self.marks[y].on([axes[d] for d in self.marks[y].axes]))

    def _permute(self, op: Op) -> None:
        self._both_ways(op, op.attrs["order"])

    def _take(self, op: Op) -> None:
        dim = op.attrs["dim"]
        if any(value in self.marks and dim in self.marks[value].axes for value in (op.inputs[0], op.output)):
            raise Unfit
        self._both_ways(op, range(op.output.ndim))

    def _concat(self, op: Op) -> None:
        marks = [self.marks[value] for value in (*op.inputs, op.output) if value in self.marks]
        if any(op.attrs["dim"] in mark.axes for mark in marks):
            raise Unfit
        self._aligned(op, [tuple(range(op.output.ndim))] * len(op.inputs), tuple(range(op.output.ndim)))

    def _expand(self, op: Op) -> None:
        labels = tuple(range(op.output.ndim))
        if op.inputs[0] in self.marks and any(op.inputs[0].shape[d] != op.output.shape[d] for d in self.marks[op.inputs[0]].axes):
            raise Unfit
        self._aligned(op, (labels,), labels)

    def _reshape(self, op: Op) -> None:
        x, y = op.inputs[0], op.output
        source, target = (x, y) if x in self.marks else (y, x)
        mark = self.marks[source]
        axes: list[int] = []
        for olds, news in regrouped(source.shape, target.shape):
            if not set(olds).isdisjoint(mark.axes):
                if not set(olds) <= set(mark.axes):
                    raise Unfit
                axes += news
        self._mark(target, Mark(tuple(axes), mark.codes.reshape([target.shape[d] for d in axes])))


_LAYOUTS = {
    "permute": Spread._permute, "take": Spread._take, "concat": Spread._concat, "expand": Spread._expand, "reshape": Spread._reshape,
}  # fmt: skip
