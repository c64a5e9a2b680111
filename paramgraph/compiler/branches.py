"""Parallel branches of identical structure: where they meet, and which of what meets is alike.

Branches meet in a *join*: a tree of sums (or of another associative and commutative function), whose operands have no order, or a
concatenation, whose operands have one that its readers may or may not care for. Operands are candidates for an exchange where the
operations behind them have one form, down to values that they share; parameters are told apart by their shapes alone.
`paramgraph.compiler.stacking` then writes each set of candidates as one branch over stacked parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paramgraph.compiler.lineage import Lineage
from paramgraph.compiler.operations.aligned import COMMUTATIVE
from paramgraph.compiler.program import LAYOUT, Op, Program, Value
from paramgraph.errors import TraceError

# Associative and commutative functions, with the reduction that they are over many operands.
REDUCTIONS = {"add": "sum", "mul": "prod", "maximum": "amax", "minimum": "amin"}
# How many operations a lowering may have gone back behind an operand of its call.
DEEPEST = 4
# How many operations behind values are compared before their colours are found, which goes back to the network's inputs.
SKETCHED = 6


@dataclass(frozen=True)
class Join:
    """Where branches may meet.

    Attributes:
        root: the operation whose result is the join's.
        operands: what meets, in order, each with the operation that it enters by.
        inner: operations between the operands and the root, the root among them.
    """

    root: Op
    operands: tuple[tuple[Value, Op], ...]
    inner: tuple[Op, ...]

    @property
    def is_ordered(self) -> bool:
        return self.root.kind == "concat"


def is_plain(op: Op) -> bool:
    """Whether an elementwise function is applied to values alone: no number takes part, no operand is scaled."""
    return not op.attrs.get("args") and all(scale == 1 for scale in op.attrs.get("scale", ()))


def find_joins(program: Program) -> dict[Op, Join]:
    """The joins of a program by root, where two operands at least come from operations of one kind. Costs one pass."""
    readers: dict[Value, int] = {}
    for op in program.ops:
        for value in op.inputs:
            readers[value] = readers.get(value, 0) + 1
    for value, _ in program.outputs:
        readers[value] = readers.get(value, 0) + 1
    inside: set[Op] = set()
    out: dict[Op, Join] = {}
    for op in reversed(program.ops):
        if op in inside or not (op.kind == "concat" or op.kind == "elementwise" and op.name in REDUCTIONS and _can_open(op)):
            continue
        join = _join(op, readers, program.lineage)
        inside.update(join.inner)
        kinds: set[tuple[Any, ...]] = set()
        for value in dict.fromkeys(value for value, _ in join.operands):  # a value that meets itself, as in a square, is no two branches
            producer = value.op
            read = () if producer is None else tuple(sorted((operand.kind, operand.shape) for operand in producer.inputs))
            kind = (value.kind, value.shape) if producer is None else (producer.kind, producer.name, value.shape, read)
            if kind in kinds:
                out[op] = join
                break
            kinds.add(kind)
    return out


def _join(root: Op, readers: dict[Value, int], lineage: Lineage) -> Join:
    """The operands of a tree of one function; parts of it that are read elsewhere too, or cast, are operands themselves."""
    operands: list[tuple[Value, Op]] = []
    inner: list[Op] = []
    stack: list[tuple[Value, Op]] = [(root.output, root)]
    while stack:
        value, entered = stack.pop()
        op = value.op
        if op is root or (op is not None and readers.get(value) == 1 and _continues(root, op) and not any(entry_of(lineage, entered, value))):
            inner.append(op)
            stack.extend((operand, op) for operand in reversed(op.inputs))
        else:
            operands.append((value, entered))
    return Join(root, tuple(operands), tuple(inner))


def _continues(root: Op, op: Op) -> bool:
    if op.kind != root.kind:
        return False
    if op.kind == "concat":
        return bool(op.attrs["dim"] == root.attrs["dim"])
    return op.name == root.name and _can_open(op)


def _can_open(op: Op) -> bool:
    return op.exact and (is_plain(op) or _adds_nothing(op))


def _adds_nothing(op: Op) -> bool:
    """`x + 0`: what Python's `sum` begins with."""
    return op.name == "add" and len(op.inputs) == 1 and op.attrs.get("args") in ((0,), (0.0,))


class Colours:
    """Colours of values: equal for values that operations of one form compute from the same values and any parameters.

    They only sort out what to compare in full; `paramgraph.compiler.stacking` does that.
    """

    def __init__(self, program: Program) -> None:
        self.lineage = program.lineage
        self._known: dict[Value, int] = {}
        self._signatures: dict[Op, tuple[Any, ...]] = {}
        self._written: dict[Op, str] = {}
        self._sketches: dict[tuple[Value, int], int] = {}
        self._entries: dict[tuple[Any, Value], tuple[str, ...]] = {}
        # Per call, the keys of its operands by what they were lowered to.
        self._keys: dict[Any, dict[int, list[Any]]] = {}
        # Colours are numbered as they are met, so that they are the same in every run.
        self._numbers: dict[Any, int] = {}
        self._shapes: dict[Any, int] = {}
        # Per operation, which one of those that its call was lowered to it is; per call, all operands of those.
        self._place: dict[Op, int] = {}
        self._operands: dict[Any, set[Value]] = {}
        self._unread: dict[Any, list[Value]] = {}
        count: dict[Any, int] = {}
        for op in program.lowered:
            self._place[op] = count[op.where] = count.get(op.where, -1) + 1
        for op in (*program.lowered, *program.ops):
            self._operands.setdefault(op.where, set()).update(op.inputs)

    def of(self, value: Value) -> int:
        todo = [value]
        while todo:
            top = todo[-1]
            if top in self._known:
                todo.pop()
                continue
            missing = [v for v in (top.op.inputs if top.kind == "op" and top.op is not None else ()) if v not in self._known]
            if missing:
                todo += missing
                continue
            self._known[top] = self._colour(top)
            todo.pop()
        return self._known[value]

    def _colour(self, value: Value) -> int:
        if value.kind in ("parameter", "buffer", "constant"):
            return self._number((value.kind, value.shape, value.integer))
        if value.op is None or value.kind != "op":
            return self._number((value.kind, id(value)))
        op = value.op
        behind = [self._known[v] for v in op.inputs]
        return self._number((self.written(op), tuple(sorted(behind) if commutes(op) else behind)))

    def sketch(self, value: Value, depth: int = SKETCHED) -> int:
        """A number for the last few operations behind a value and their shapes: equal for values of one colour, and cheap."""
        found = self._sketches.get((value, depth))
        if found is None:
            key: tuple[Any, ...] = value.kind, value.shape
            if value.kind == "op" and value.op is not None:
                behind = sorted([self.sketch(operand, depth - 1) for operand in value.op.inputs]) if depth else ()
                key = (value.op.kind, value.op.name, value.shape, *behind)
            found = self._sketches[value, depth] = self._shapes.setdefault(key, len(self._shapes))
        return found

    def _number(self, key: Any) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def slots(self, op: Op) -> list[int]:
        """The operands' slots, in an order that does not depend on how a commutative function was written."""
        slots = list(range(len(op.inputs)))
        return sorted(slots, key=lambda slot: self.of(op.inputs[slot])) if commutes(op) else slots

    def signature(self, op: Op) -> tuple[Any, ...]:
        """What an operation is, apart from its operands: equal signatures on equal operands give equal results.

        Attributes say how an operation uses axes, not what it computes: strides, dilations and the like are those of the call that it
        was lowered from.
        """
        if op not in self._signatures:
            self._signatures[op] = self._signature(op)
        return self._signatures[op]

    def written(self, op: Op) -> str:
        """The signature as text: attributes need not be hashable."""
        if op not in self._written:
            self._written[op] = repr(self.signature(op))
        return self._written[op]

    def _signature(self, op: Op) -> tuple[Any, ...]:
        shapes = (op.output.shape, tuple(value.shape for value in op.inputs)) if not commutes(op) else (op.output.shape,)
        attrs = {name: item for name, item in op.attrs.items() if not (op.kind == "take" and name == "index")}
        if op.kind == "take":
            attrs["length"] = len(op.attrs["index"])
        own = (op.kind, op.name, shapes, repr(sorted(attrs.items())))
        if op.kind in LAYOUT:  # wholly described, whatever call it comes from
            return (*own, *self._copied(op))
        return (*own, *self._copied(op), *self._looked_through(op), self._place.get(op, -1), self.lineage.form(op.where))

    def _looked_through(self, op: Op) -> list[str]:
        """What the call's operands are to what the operation reads, where the lowering has gone back behind them."""
        return [repr(found) for value in self._not_read(op) if (found := self._derived(op, value)) is not None]

    def _copied(self, op: Op) -> list[tuple[str, ...]]:
        entries = [self.entry(op, value) for value in (*op.inputs, *self.unseen(op))]
        return sorted(entries) if commutes(op) else entries

    def entry(self, op: Op, value: Value) -> tuple[str, ...]:
        """What left no operation behind between a value and an operation that reads it: casts round, and that is for no two branches alike."""
        found = self._entries.get((op.where, value))
        if found is None:
            if op.where not in self._keys:
                self._keys[op.where] = {}
                for key in self.lineage.operands(op.where):
                    self._keys[op.where].setdefault(id(self.lineage.result(key)), []).append(key)
            calls = [left_nothing(self.lineage, key) for key in self._keys[op.where].get(id(value), ())]
            found = self._entries[op.where, value] = tuple(" ".join(str(self.lineage.form(call)) for call in own) for own in calls)
        return found

    def unseen(self, op: Op) -> Iterator[Value]:
        """Operands of the call that no operation lowered from it has, nor computes from what it has: the lowering may have looked at them."""
        if op.kind in LAYOUT:
            return  # all that a layout operation does stands in its attributes
        for value in self._not_read(op):
            if self._derived(op, value) is None:
                yield value

    def _not_read(self, op: Op) -> list[Value]:
        """Operands of an operation's call that no operation lowered from it reads."""
        found = self._unread.get(op.where)
        if found is None:
            seen = self._operands[op.where]
            every = [value for key in self.lineage.operands(op.where) for value in _values(self.lineage.result(key))]
            found = self._unread[op.where] = [value for value in every if value not in seen]
        return found

    def _derived(self, op: Op, value: Value) -> Any:
        """How a value is computed from what an operation reads, or reads through others of its call; None if it is not."""
        reached: dict[Value, tuple[int, ...]] = {}
        todo: list[tuple[Op, tuple[int, ...]]] = [(op, ())]
        while todo:
            top, path = todo.pop()
            for place, slot in enumerate(self.slots(top)):
                operand = top.inputs[slot]
                reached.setdefault(operand, (*path, place))
                if operand.op is not None and operand.kind == "op" and operand.op.where is op.where:
                    todo.append((operand.op, (*path, place)))
        return self._expression(value, reached, DEEPEST)

    def _expression(self, value: Value, reached: Mapping[Value, tuple[int, ...]], depth: int) -> Any:
        if value in reached:
            return reached[value]
        if value.op is None or value.kind != "op" or not depth:
            return None
        parts = [self._expression(operand, reached, depth - 1) for operand in value.op.inputs]
        return None if None in parts else (self.written(value.op), tuple(parts))


def left_nothing(lineage: Lineage, key: Any) -> list[Any]:
    """The calls that end in a result and left no operation behind: it is their operand."""
    out = []
    while (call := lineage.maker(key)) is not None:
        operands = lineage.operands(call)
        if not operands or lineage.result(operands[0]) is not lineage.result(key):
            break
        out.append(call)
        key = operands[0]
    return out


def entry_of(lineage: Lineage, op: Op, value: Value) -> list[list[Any]]:
    """Such calls between a value and an operation that reads it, for each operand of its call that is the value."""
    return [left_nothing(lineage, key) for key in lineage.operands(op.where) if lineage.result(key) is value]


def commutes(op: Op) -> bool:
    """Whether an operation is a commutative function of its operands: what its name says, if its rule says that it computes that."""
    return op.exact and op.kind == "elementwise" and op.name in COMMUTATIVE and len(op.inputs) > 1 and is_plain(op)


def is_product(op: Op) -> bool:
    """Whether an operation is a sum of products, and no other function of what it sums over (a distance is one)."""
    return op.kind == "contract" and op.exact and bool(op.attrs.get("product"))


def is_multiple(op: Op) -> bool:
    """Whether an operation multiplies one value by a plain number, or divides it by one."""
    if op.kind != "elementwise" or len(op.inputs) != 1 or not op.exact:
        return False
    scaled = op.name == "mul" or (op.name == "div" and op.attrs.get("form", ())[:1] == ("x",))
    return scaled and all(isinstance(number, (int, float)) for number in op.attrs.get("args", ()))


def same_data(a: Value, b: Value) -> bool:
    """Whether two constants are equal; constants that cannot be read are not."""
    if a is b:
        return True
    if a.shape != b.shape or a.integer != b.integer or a.read is None or b.read is None:
        return False
    try:
        return bool(np.array_equal(np.asarray(a.read()), np.asarray(b.read())))
    except TraceError:
        return False


def _values(result: Any) -> Iterator[Value]:
    if isinstance(result, Value):
        yield result
    elif isinstance(result, Sequence) and not isinstance(result, str):
        for item in result:
            yield from _values(item)
