"""What is known of a program where additions are followed: values made of parameters, weights that sum to one, values of mean zero."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paramgraph.compiler.increments import Increment, Node, Nodes, Piece, Product, added, multiplied, renamed
from paramgraph.compiler.operations.scaling import CENTRED, arguments
from paramgraph.compiler.program import LAYOUT, Op, Program, Value
from paramgraph.compiler.scales import constant_of
from paramgraph.compiler.terms import Tangled, regrouped

# Not safe_softmax: its weights are all zero where everything is masked.
SOFTMAX = frozenset(("softmax",))
# By which numbers sums and differences multiply their operands.
SIGNS = {"add": (1.0, 1.0), "sub": (1.0, -1.0), "rsub": (-1.0, 1.0)}
# Constants of more elements are not written down.
MOST_ELEMENTS = 1 << 12


@dataclass(frozen=True)
class Centred:
    """A value whose elements along a dimension, divided by a gain, sum to the same whatever the input.

    Attributes:
        dim: the dimension.
        gain: along it; None where there is none.
        total: what they sum to, a number times a node without axes; None for zero.
        number: of the total.
    """

    dim: int
    gain: Node | None
    total: Node | None
    number: float = 1.0


class ReadersInOrder:
    """Operations that read some values, each once, in the program's order; values may be added while they are gone through.

    Args:
        known: facts of the program.
        values: the values to begin with.
    """

    def __init__(self, known: Known, values: Iterable[Value]) -> None:
        self._known = known
        self._waiting: list[int] = []
        for value in values:
            self.add(value)

    def add(self, value: Value) -> None:
        """Let the readers of one more value, which are still to come, be gone through."""
        for op in self._known.readers.get(value, ()):
            heapq.heappush(self._waiting, self._known.numbers[op])

    def __iter__(self) -> Iterator[Op]:
        last = -1
        while self._waiting:
            number = heapq.heappop(self._waiting)
            if number != last:
                last = number
                yield self._known.program.ops[number]


class Known:
    """Facts of a program.

    Args:
        program: the program.

    Attributes:
        nodes: all nodes.
        readers: operations that read each value.
        out: values that leave the program.
        whole: per value, the dimensions along which it sums to one.
        centred: values that normalisations have made.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes = Nodes()
        self.one = self.nodes.one
        self.readers = program.readers()
        self.out = program.results()
        self.numbers = {op: number for number, op in enumerate(program.ops)}
        self.whole = _sums_to_one(program)
        self._made: dict[Value, Increment | None] = {}
        self.centred: dict[Value, Centred] = {}
        for op in program.ops:
            self._centre(op)

    # -- values made of parameters -------------------------------------------------------------------------------------------------

    def piece(self, value: Value) -> tuple[Piece | None, float] | None:
        """What a value multiplies by: a piece times a number, or the number alone; None if it is not made of parameters alone."""
        made = self.made(value)
        if made is None:
            return None
        if not made:
            return None, 0.0
        if len(made) == 1:
            ((product, number),) = made.items()
            piece = self.nodes.one_of([each for each in product.pieces if each.node is not self.one] or [product.core])
            return (None if piece.node is self.one else piece), number
        solid = [(self.nodes.one_of(product.pieces), number) for product, number in made.items()]
        dims = tuple(sorted({d for piece, _ in solid for d in piece.dims}))
        form = tuple(tuple(dims.index(d) for d in piece.dims) for piece, _ in solid)
        node = self.nodes.make("sum", [value.shape[d] for d in dims], [piece.node for piece, _ in solid], (form, tuple(n for _, n in solid)))
        return Piece(node, dims), 1.0

    def made(self, value: Value) -> Increment | None:
        """A value made of parameters and numbers; None for others."""
        if not value.parametric:
            return None
        if value not in self._made:
            try:
                self._made[value] = self._make(value)
            except Tangled:
                self._made[value] = None
        return self._made[value]

    def _make(self, value: Value) -> Increment | None:
        wide = tuple(d for d, n in enumerate(value.shape) if n > 1)
        op = value.op
        if op is None and value.kind == "constant":
            data = constant_of(value)
            if data is None or np.asarray(data).dtype.kind not in "fiub":
                return None
            array = np.asarray(data, dtype=np.float64)
            if not array.size or not np.isfinite(array).all():
                return None
            if (array == array.flat[0]).all():
                return {Product(Piece(self.one, ())): float(array.flat[0])}
            if array.size > MOST_ELEMENTS:
                return None
            shape = tuple(value.shape[d] for d in wide)
            return {Product(Piece(self.nodes.make("constant", shape, attrs=(shape, tuple(array.reshape(-1).tolist()))), wide)): 1.0}
        if op is None:
            if self.program.tensors.get(value.name) is not value or value.integer or 0 in value.shape:
                return None
            return {Product(Piece(self.nodes.make("tensor", [value.shape[d] for d in wide], attrs=(value.name,)), wide)): 1.0}
        if not (op.exact or op.kind in LAYOUT):
            return None
        operands = [self.made(operand) for operand in op.inputs]
        if any(operand is None for operand in operands):
            return None
        held = [operand for operand in operands if operand is not None]
        if op.kind in LAYOUT - {"concat"}:
            return laid_out(self.nodes, op, held[0])
        if op.kind == "contract" and op.attrs.get("product") and all(len(set(labels)) == len(labels) for labels in (*op.labels, op.out_labels)):
            return self._multiply(op, [1] * len(op.inputs))
        if op.kind == "reduce" and op.name in ("sum", "mean"):
            out = self._multiply(op, [1])
            gone = math.prod(n for label, n in zip(op.labels[0], op.inputs[0].shape, strict=True) if label not in op.out_labels)
            return out if out is None or op.name == "sum" else multiplied(out, 1.0 / gone)
        return self._elementwise(op, held) if op.kind == "elementwise" else None

    def _multiply(self, op: Op, powers: Sequence[int]) -> Increment | None:
        """A product of values made of parameters, summed over the labels that the result lacks."""
        places = label_numbers(op.labels, op.out_labels)
        pieces, number = [], 1.0
        for value, labels, power in zip(op.inputs, op.labels, powers, strict=True):
            found = self.piece(value)
            if found is None or power < 0 and not found[1]:
                return None
            number *= found[1] ** power
            if found[0] is not None:
                moved = found[0].at({d: places[label] for d, label in enumerate(labels)})
                pieces.append(Piece(moved.node, moved.dims, moved.power * power))
        gone = gone_of(op.labels, op.out_labels, op.inputs, places)
        return multiplied(self.nodes.contracted(Product(Piece(self.one, ())), pieces, gone), number)

    def _elementwise(self, op: Op, held: Sequence[Increment]) -> Increment | None:
        positional, keywords = arguments(op, len(op.inputs))
        numbers = [n for n in positional if isinstance(n, (int, float)) and not isinstance(n, bool)]
        if keywords or len(numbers) + len(op.inputs) != len(positional) or tuple(op.attrs.get("scale", (1, 1))) != (1, 1):
            return None
        if op.name in SIGNS and len(positional) == 2:
            parts = [renamed(part, dict(enumerate(labels))) for part, labels in zip(held, op.labels, strict=True)]
            parts += [{Product(Piece(self.one, ())): float(n)} for n in numbers]
            if numbers and positional[0] != "x":
                parts.reverse()
            return added(*(multiplied(part, sign) for part, sign in zip(parts, SIGNS[op.name], strict=True)))
        if op.name in ("mul", "div", "true_divide") and len(positional) == 2:
            second = 1 if op.name == "mul" else -1
            if len(op.inputs) == 2:
                return self._multiply(op, [1, second])
            if positional[0] == "x" and numbers[0]:
                return multiplied(held[0], float(numbers[0]) ** second)
            return multiplied(held[0], float(numbers[0])) if second == 1 else None
        return multiplied(held[0], -1.0) if op.name == "neg" and positional == ["x"] else None

    # -- values of mean zero -------------------------------------------------------------------------------------------------------

    def _centre(self, op: Op) -> None:
        """Whether an operation gives such a value."""
        if op.kind == "normalize":
            if not op.exact or op.name not in CENTRED or len(op.attrs["mixed"]) != 1 or not set(op.attrs["roles"]) <= {"gain", "offset"}:
                return
            label = op.attrs["mixed"][0]
            # Gain and offset must lie along the axis of mean zero, not along another one of its size.
            if label in op.out_labels and all(list(labels) == [label] for labels in op.labels[1:]):
                found = self._normalised(list(op.out_labels).index(label), dict(zip(op.attrs["roles"], op.inputs[1:], strict=True)))
                if found is not None:
                    self.centred[op.output] = found
            return
        if op.kind == "elementwise" and op.exact and len(op.inputs) == 2:
            found = self._written_out(op)
            if found is not None:
                self.centred[op.output] = found
            return
        if op.kind not in ("permute", "take", "reshape", "reduce") or op.inputs[0] not in self.centred:
            return
        value, held = op.inputs[0], self.centred[op.inputs[0]]
        dim: int | None = None
        if op.kind == "permute":
            dim = list(op.attrs["order"]).index(held.dim)
        elif op.kind == "take":
            dim = held.dim if op.attrs["dim"] != held.dim else None
        elif op.kind == "reshape":
            for olds, news in regrouped(value.shape, op.output.shape) if 0 not in value.shape else ():
                dim = news[0] if olds == [held.dim] and len(news) == 1 else dim
        elif op.exact and op.name == "mean" and op.labels[0][held.dim] in op.out_labels:
            dim = list(op.out_labels).index(op.labels[0][held.dim])
        if dim is not None:
            self.centred[op.output] = Centred(dim, held.gain, held.total, held.number)

    def _written_out(self, op: Op) -> Centred | None:
        """A normalisation in several operations: the mean taken away, a division by what is the same along its axis, gain and offset."""
        positional, keywords = arguments(op, 2)
        if keywords or positional != ["x", "x"] or tuple(op.attrs.get("scale", (1, 1))) != (1, 1):
            return None
        if op.name == "sub":
            value, mean = op.inputs
            dim = reduced_along(value, mean, "mean")
            return None if dim is None or value.shape != op.output.shape else Centred(dim, None, None)
        for slot in (0, 1):
            held, other = self.centred.get(op.inputs[slot]), op.inputs[1 - slot]
            if held is None or op.inputs[slot].shape != op.output.shape or other is op.inputs[slot]:
                continue
            label, labels = op.labels[slot][held.dim], list(op.labels[1 - slot])
            same = all(n == 1 for own, n in zip(labels, other.shape, strict=True) if own == label)
            if same and held.total is None and (op.name == "mul" or slot == 0 and op.name in ("div", "true_divide")):
                return held
            if labels != [label]:
                continue
            if op.name == "mul" and held.gain is None and held.total is None:
                return self._normalised(held.dim, {"gain": other})
            if op.name == "add" and held.total is None:
                return self._with_offset(held.dim, held.gain, other)
        return None

    def _normalised(self, dim: int, roles: dict[str, Value]) -> Centred | None:
        gain = None
        if "gain" in roles:
            found = self.piece(roles["gain"])
            if found is None or not found[1]:
                return None
            gain = found[0].node if found[0] is not None else None
        return self._with_offset(dim, gain, roles["offset"]) if "offset" in roles else Centred(dim, gain, None)

    def _with_offset(self, dim: int, gain: Node | None, value: Value) -> Centred | None:
        found = self.piece(value)
        if found is None:
            return None
        offset, number = found
        if not number:
            return Centred(dim, gain, None)
        pieces = [(node, (0,), power) for node, power in ((gain, -1), (offset.node if offset is not None else None, 1)) if node is not None]
        if offset is None or any(len(node.shape) != 1 for node, _, _ in pieces):
            return None
        return Centred(dim, gain, self.nodes.multiplied_out(pieces, ()), number)


def reduced_along(value: Value, other: Value, name: str) -> int | None:
    """The one dimension of a value that another is the sum or mean along, with one element there; None if it is another value."""
    maker = other.op
    while maker is not None and maker.kind == "reshape":
        maker = maker.inputs[0].op
    if maker is None or maker.kind != "reduce" or maker.name != name or not maker.exact or maker.inputs[0] is not value:
        return None
    gone = [d for d, label in enumerate(maker.labels[0]) if label not in maker.out_labels]
    # Views that keep all axes in their order but for one of one element.
    return gone[0] if len(gone) == 1 and other.shape == (*value.shape[: gone[0]], 1, *value.shape[gone[0] + 1 :]) else None


def laid_out(nodes: Nodes, op: Op, increment: Increment) -> Increment:
    """What an operation of layout on one operand makes of an increment."""
    before, after = op.inputs[0].shape, op.output.shape
    if op.kind == "take":
        return nodes.taken(increment, op.attrs["dim"], op.attrs["index"])
    if op.kind == "permute":
        return renamed(increment, {old: new for new, old in enumerate(op.attrs["order"])})
    return increment if op.kind == "expand" else nodes.reshaped(increment, before, after)  # axes of one element are expanded


def label_numbers(labels: Sequence[Sequence[Any]], out: Sequence[Any]) -> dict[Any, int]:
    """Numbers for labels: dimensions of the result, and negative ones for labels that it lacks."""
    found: dict[Any, int] = {label: d for d, label in enumerate(out)}
    for own in labels:
        for label in own:
            found.setdefault(label, len(out) - 1 - len(found))
    return found


def gone_of(labels: Sequence[Sequence[Any]], out: Sequence[Any], values: Sequence[Value], places: dict[Any, int]) -> dict[int, int]:
    """Sizes of the labels that the result lacks, by their numbers."""
    sizes: dict[int, int] = {}
    for own, value in zip(labels, values, strict=True):
        for label, n in zip(own, value.shape, strict=True):
            if label not in out:
                sizes[places[label]] = max(n, sizes.get(places[label], 1))
    return sizes


def _sums_to_one(program: Program) -> dict[Value, set[int]]:
    """Per value that a softmax gives, seen otherwise, the dimensions along which it sums to one."""
    out: dict[Value, set[int]] = {}
    for op in program.ops:
        if op.kind == "mix" and op.exact and op.name in SOFTMAX and len(op.attrs["mixed"]) == 1:
            out[op.output] = {list(op.out_labels).index(op.attrs["mixed"][0])}
        elif op.kind == "elementwise" and op.exact and op.name in ("div", "true_divide") and arguments(op, len(op.inputs)) == (["x", "x"], {}):
            dim = reduced_along(op.inputs[0], op.inputs[1], "sum")  # a softmax in several operations, shares of a whole
            if dim is not None and op.inputs[0].shape == op.output.shape:
                out[op.output] = {dim}
        elif op.inputs and op.inputs[0] in out:
            dims = out[op.inputs[0]]
            if op.kind == "permute":
                out[op.output] = {list(op.attrs["order"]).index(d) for d in dims}
            elif op.kind == "reshape" and 0 not in op.output.shape:
                out[op.output] = {news[0] for olds, news in regrouped(op.inputs[0].shape, op.output.shape)
                                  if len(olds) == len(news) == 1 and olds[0] in dims}  # fmt: skip
    return out
