"""Follows rows of parameters through a program, as far as what becomes of them is a fixed linear map: to where two of them meet in a product.

Tables (of sines and cosines of positions, say) are symbols: elements that they multiply by one column have one symbol, whatever is in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paramgraph.compiler.operations.functions import SUMS, number_kind
from paramgraph.compiler.operations.scaling import arguments
from paramgraph.compiler.program import LAYOUT, Op, Program, Value
from paramgraph.compiler.scales import constant_of
from paramgraph.compiler.terms import Tangled, Terms, concatenated, hashed, leaf, mixed, permuted, regrouped, reshaped, taken, total

Array = np.ndarray


@dataclass(frozen=True)
class Root:
    """An axis of a parameter whose elements are followed.

    Attributes:
        value: the parameter.
        axis: the axis.
        first: number of its first element, among those of all roots.
    """

    value: Value
    axis: int
    first: int

    @property
    def size(self) -> int:
        return self.value.shape[self.axis]


@dataclass(frozen=True, eq=False)
class Product:
    """Two values that are multiplied and summed over.

    Attributes:
        terms: of either, along the labels.
        labels: per dimension of either's terms, its label.
        summed: labels that are summed over.
    """

    terms: tuple[Terms, Terms]
    labels: tuple[tuple[Any, ...], tuple[Any, ...]]
    summed: tuple[Any, ...]


class Follower:
    """What becomes of the rows of parameters that are multiplied with each other.

    Args:
        program: the program.

    Attributes:
        roots: the rows that are followed.
        products: where two of them meet.
        links: pairs of elements, of different parameters, that are added: they must be moved alike.
        lost: per element, whether something else is done with it.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.names: dict[Value, int] = {}
        self.roots: list[Root] = []
        found = self._roots()
        for value, axis in found:
            self.roots.append(Root(value, axis, sum(root.size for root in self.roots)))
        self.owner = np.repeat(np.arange(len(self.roots)), [root.size for root in self.roots])
        self.lost = np.zeros(len(self.owner), dtype=bool)
        self.products: list[Product] = []
        self.links: list[tuple[Array, Array]] = []
        self.held: dict[Value, Terms] = {root.value: leaf(root.size, root.axis, root.first) for root in self.roots}
        if self.roots:
            self._follow()

    # -- what is followed ------------------------------------------------------------------------------------------------

    def _roots(self) -> list[tuple[Value, int]]:
        """The rows of parameters that products of activations are of, if they are moved along one axis of each only."""
        found: dict[Value, set[int]] = {}
        seen: set[Value] = set()
        stack = [value for op in self.program.ops if _is_product(op) for value in op.inputs]
        while stack:
            value = stack.pop()
            op = value.op
            if value in seen or op is None:
                continue
            seen.add(value)
            if op.kind == "contract" and any(other.parametric for other in op.inputs):
                for slot, other in enumerate(op.inputs):
                    if other.parametric:
                        kept = {d for d, label in enumerate(op.labels[slot]) if label in op.out_labels}
                        _record(found, other, kept)
            elif op.kind in LAYOUT or op.kind in ("gather", "mix", "reduce") or op.kind == "elementwise" and op.name in (*SUMS, "mul", "neg", "div"):
                for other in op.inputs:
                    if other.parametric and op.kind == "elementwise":
                        _record(found, other, set(range(other.ndim)))
                    else:
                        stack.append(other)
        return [(value, next(iter(axes))) for value, axes in found.items() if len(axes) == 1]

    # -- what becomes of it ----------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        for op in self.program.ops:
            held = [slot for slot, value in enumerate(op.inputs) if value in self.held]
            if not held:
                continue
            try:
                if not (op.exact or op.kind in LAYOUT) or op.kind not in _RULES or len(set(op.inputs)) < len(op.inputs):
                    raise Tangled
                terms = _RULES[op.kind](self, op, held)
                if terms is not None:
                    self.held[op.output] = terms
            except Tangled:
                for slot in held:
                    self._lose(self.held[op.inputs[slot]])
        for value in self.program.results() & self.held.keys():
            self._lose(self.held[value])

    def _lose(self, terms: Terms) -> None:
        self.lost[terms.index[terms.number != 0]] = True

    def _elementwise(self, op: Op, held: Sequence[int]) -> Terms:
        positional, keywords = arguments(op, len(op.inputs))
        if keywords or tuple(op.attrs.get("scale", (1, 1))) != (1, 1):
            raise Tangled
        numbers = [n for n in positional if n != "x"]
        if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and np.isfinite(n) and n for n in numbers):
            raise Tangled
        parts = {slot: self._aligned(op, slot) for slot in held}
        if op.name in ("neg", "positive") and len(op.inputs) == 1 and not numbers:
            return _times(parts[0], -1.0 if op.name == "neg" else 1.0)
        if op.name in ("add", "sub") and positional == ["x", "x"] and len(held) == 2:
            return self._sum(op, parts[0], _times(parts[1], -1.0 if op.name == "sub" else 1.0))
        if op.name == "mul" and len(held) == 1 and len(op.inputs) + len(numbers) == 2:
            return self._multiplied(op, parts[held[0]], held[0], numbers, 1)
        if op.name in ("div", "true_divide") and held == [0] and positional[:1] == ["x"] and len(op.inputs) + len(numbers) == 2:
            return self._multiplied(op, parts[0], 0, numbers, -1)
        raise Tangled

    def _aligned(self, op: Op, slot: int, *key: Any) -> Terms:
        """The terms of an operand along the dimensions of the result, where it may be broadcast."""
        value, labels, out = op.inputs[slot], op.labels[slot], list(op.out_labels)
        terms = self.held[value]
        if any(labels[d] not in out for d in terms.dims):
            raise Tangled
        terms = reshaped(terms, value.shape, value.shape)  # axes of one element, which may be broadcast, are followed no more
        found = terms.at([out.index(labels[d]) for d in terms.dims])
        own = [out.index(labels[d]) if labels[d] in out else -1 for d in terms.coordinates(value.shape)]
        wide = found.coordinates(op.output.shape)
        if own != wide and not key:
            found = found.under("broadcast", [wide.index(d) for d in own])
        return found.under(*key) if key else found

    def _sum(self, op: Op, a: Terms, b: Terms) -> Terms:
        """Rows of different parameters that are added as they are, are moved alike: those of the first stand for both."""
        if a.dims != b.dims:
            raise Tangled
        alike = len(a.index) == len(b.index) == 1 and all((x == x.flat[0]).all() and x.flat[0] for x in (a.number, b.number))
        alike = alike and all((x.symbol == x.symbol.flat[0]).all() for x in (a, b))
        if alike and not np.isin(self.owner[b.index], self.owner[a.index]).any():
            self.links.append((a.index.reshape(-1), b.index.reshape(-1)))
            joined = a.under("sum", int(b.symbol.flat[0]), float(a.number.flat[0]), float(b.number.flat[0]))
            return Terms(a.dims, a.index, np.ones_like(a.number), joined.symbol)
        return total(a, b)

    def _multiplied(self, op: Op, terms: Terms, slot: int, numbers: Sequence[float], power: int) -> Terms:
        if numbers:
            return _times(terms, float(numbers[0]) ** power)
        table, labels, out = op.inputs[1 - slot], op.labels[1 - slot], list(op.out_labels)
        coordinates = terms.coordinates(op.output.shape)
        places = [out.index(label) for label in labels]
        varying = [d for d, n in enumerate(table.shape) if n > 1 and places[d] in terms.dims]
        others = [coordinates.index(places[d]) for d, n in enumerate(table.shape) if n > 1 and d not in varying]
        if not varying and (others or table.kind != "constant"):
            return terms.under("mul", power, self._name(table), others)
        data = constant_of(table) if table.kind == "constant" else None
        if data is None or not np.isfinite(data).all():
            raise Tangled
        number, symbol, same = _columns(np.asarray(data, dtype=np.float64).reshape(table.shape), varying)
        if power == -1 and not number.all():
            raise Tangled
        axes = [places[d] for d in varying]
        wide = [table.shape[varying[axes.index(d)]] if d in axes else 1 for d in terms.dims]
        order = np.argsort(axes)
        number, symbol, same = (array.transpose(order).reshape(wide) for array in (number, symbol, same))
        marked = mixed(mixed(terms.symbol, symbol), hashed("table", power, others))
        return Terms(terms.dims, terms.index, terms.number * number**power, np.where(same, terms.symbol, marked))

    def _name(self, value: Value) -> int:
        return self.names.setdefault(value, len(self.names))

    def _contract(self, op: Op, held: Sequence[int]) -> Terms | None:
        if not op.attrs.get("product") or len(op.inputs) != 2 or any(len(set(labels)) < len(labels) for labels in op.labels):
            raise Tangled
        if len(held) == 1:
            (slot,) = held
            other = op.inputs[1 - slot]
            along = {op.labels[slot][d] for d in self.held[op.inputs[slot]].dims}
            if any(label in along and n > 1 for label, n in zip(op.labels[1 - slot], other.shape, strict=True)):
                raise Tangled
            forms = [[label for label in labels if label not in along] for labels in (op.labels[slot], op.labels[1 - slot], op.out_labels)]
            return self._aligned(op, slot, "contract", self._name(other), forms)
        labels = [tuple(op.labels[slot][d] for d in self.held[op.inputs[slot]].dims) for slot in (0, 1)]
        summed = [{label for label in own if label not in op.out_labels} for own in labels]
        if not summed[0] or summed[0] != summed[1]:
            raise Tangled
        terms = (self.held[op.inputs[0]], self.held[op.inputs[1]])
        self.products.append(Product(terms, (labels[0], labels[1]), tuple(sorted(summed[0], key=str))))
        return None

    def _reduce(self, op: Op, held: Sequence[int]) -> Terms:
        terms, gone = self.held[op.inputs[0]], [d for d, label in enumerate(op.labels[0]) if label not in op.out_labels]
        coordinates = terms.coordinates(op.inputs[0].shape)
        if op.name not in ("sum", "mean"):
            raise Tangled
        return self._aligned(op, 0, op.name, [coordinates.index(d) for d in gone if d in coordinates])

    def _mix(self, op: Op, held: Sequence[int]) -> Terms:
        mixed_dims = [op.out_labels.index(label) for label in op.attrs["mixed"]]
        if not op.attrs.get("linear") or held != [0] or not set(mixed_dims).isdisjoint(self.held[op.inputs[0]].dims):
            raise Tangled
        return self._aligned(op, 0, "mix", self._name(op.output))

    def _gather(self, op: Op, held: Sequence[int]) -> Terms:
        terms, dim, more = self.held[op.inputs[0]], op.attrs["dim"], op.inputs[1].ndim - 1
        if held != [0] or dim in terms.dims:
            raise Tangled
        return terms.at([d + more if d > dim else d for d in terms.dims]).under("gather", dim, self._name(op.inputs[1]))

    def _take(self, op: Op, held: Sequence[int]) -> Terms:
        return taken(self.held[op.inputs[0]], op.attrs["dim"], op.attrs["index"], op.inputs[0].shape)

    def _permute(self, op: Op, held: Sequence[int]) -> Terms:
        return permuted(self.held[op.inputs[0]], op.attrs["order"], op.inputs[0].shape)

    def _reshape(self, op: Op, held: Sequence[int]) -> Terms:
        return reshaped(self.held[op.inputs[0]], op.inputs[0].shape, op.output.shape)

    def _expand(self, op: Op, held: Sequence[int]) -> Terms:
        before, after = op.inputs[0].shape, op.output.shape
        terms = reshaped(self.held[op.inputs[0]], before, before)  # axes of one element are followed no more
        sizes = [[n for d, n in enumerate(shape) if d not in terms.dims] for shape in (before, after)]
        return terms.under("expand", sizes)

    def _concat(self, op: Op, held: Sequence[int]) -> Terms:
        parts = [self.held.get(value) for value in op.inputs]
        for part, value in zip(parts, op.inputs, strict=True):
            if part is None and not (value.kind == "constant" and number_kind(constant_of(value)) == "zero"):
                raise Tangled
        return concatenated(parts, [value.shape for value in op.inputs], op.attrs["dim"])


def _times(terms: Terms, number: float) -> Terms:
    return Terms(terms.dims, terms.index, terms.number * number, terms.symbol)


def _columns(data: Array, varying: Sequence[int]) -> tuple[Array, Array, Array]:
    """Per column of a table a number, a symbol, and whether the number is all: columns are equal up to these numbers if symbols are."""
    sizes = [data.shape[d] for d in varying]
    order = [*varying, *(d for d in range(data.ndim) if d not in varying)]
    flat = data.transpose(order).reshape(math.prod(sizes), -1)
    same = (flat == flat[:, :1]).all(1)
    first = flat[np.arange(len(flat)), (flat != 0).argmax(1)]
    sign = np.where(first < 0, -1.0, 1.0)
    keys = [hashed(column.tobytes()) for column in flat * sign[:, None] + 0.0]  # no zero is negative
    number = np.where(same, flat[:, 0], sign)
    return number.reshape(sizes), np.array(keys, dtype=np.uint64).reshape(sizes), same.reshape(sizes)


def _is_product(op: Op) -> bool:
    """Whether an operation multiplies two activations and sums over something that both have."""
    if op.kind != "contract" or not op.exact or not op.attrs.get("product") or len(op.inputs) != 2:
        return False
    if any(value.parametric for value in op.inputs):
        return False
    return any(label in op.labels[1] and label not in op.out_labels for label in op.labels[0])


def _record(found: dict[Value, set[int]], value: Value, dims: set[int]) -> None:
    """Record the axis of a parameter that some dimensions of a view of it lie on."""
    dims = {d for d in dims if value.shape[d] > 1}
    while value.op is not None:
        op = value.op
        if op.kind not in ("take", "permute", "reshape"):
            return
        (source,) = op.inputs
        if op.kind == "permute":
            dims = {op.attrs["order"][d] for d in dims}
        elif op.kind == "reshape":
            dims = {d for olds, news in regrouped(source.shape, value.shape) if not dims.isdisjoint(news) for d in olds}
        value = source
    if value.kind == "parameter" and dims:
        found.setdefault(value, set()).update(dims)


_RULES: dict[str, Callable[[Follower, Op, Sequence[int]], Terms | None]] = {
    "elementwise": Follower._elementwise, "contract": Follower._contract, "reduce": Follower._reduce, "mix": Follower._mix,
    "gather": Follower._gather, "take": Follower._take, "permute": Follower._permute, "reshape": Follower._reshape,
    "expand": Follower._expand, "concat": Follower._concat,
}  # fmt: skip
