"""Branches of one form as one branch over stacked values: each operation once, with the branches along a new first axis.

Stacking is a change of notation: element b of a stacked value is branch b's value, whatever the branches are. That parameters of branches
are exchanged is then an ordinary symmetry of an ordinary space, the stack's first axis, and typing finds it or pins it by the same rules
as the experts of one packed tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paramgraph.compiler.branches import Colours, is_multiple, is_product, same_data
from paramgraph.compiler.program import LAYOUT, Op, Value

Several = tuple[Value, ...]
# Operations that are linear in each operand.
LINEAR = (*LAYOUT, "gather", "contract", "convolve")


class Refused(Exception):
    """Values that are not alike. `classes` says which of them are: one number per value, or None where that is no help."""

    def __init__(self, classes: Sequence[Any] | None = None) -> None:
        super().__init__("values of different form")
        self.classes = classes


class Reordered(Exception):
    """Branches that should be taken in another order, given as their numbers."""

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__("branches in another order")
        self.order = tuple(order)


@dataclass(frozen=True)
class Stacked:
    """What several values are together: `value` with them along its first axis, or, where they are all the same, that value itself.

    Attributes:
        sources: the stacked parameters, and slices side by side, that it is computed from.
        is_linear: whether it is one stacked parameter times what the branches share: added up, those parameters are merely added.
    """

    value: Value
    is_stacked: bool
    sources: frozenset[Stack] = frozenset()
    is_linear: bool = False


@dataclass(eq=False)
class Stack:
    """A parameter that stands for several, or several slices of one value, side by side.

    Attributes:
        value: the stacked parameter, or the slices.
        members: what it stands for: parameters, or stacked parameters themselves; none for slices.
        levels: per leading axis, the joins that made it.
        places: the members' branches, by their places in the join that made the first axis; None where they are joins themselves.
    """

    value: Value
    members: Several
    levels: list[set[int]]
    places: tuple[int | None, ...] = ()


@dataclass
class Attempt:
    """What one attempt at stacking makes, kept only if it succeeds."""

    found: dict[Several, Stacked] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    stacks: list[Stack] = field(default_factory=list)


class Stacker:
    """Stacks values of one program.

    Args:
        colours: the program's.
        ranks: per parameter value, its number in the program's order.
        kinds: per parameter name, what tensors must have in common to be stacked beside their shape.
    """

    def __init__(self, colours: Colours, ranks: dict[Value, int], kinds: dict[str, Any]) -> None:
        self.colours, self.ranks, self.kinds = colours, ranks, kinds
        self.found: dict[Several, Stacked] = {}
        self.stack_of: dict[Value, Stack] = {}
        self.stacks: list[Stack] = []
        self.join = 0
        self._labels = 0
        # The stacked results of convolutions, with what they are convolutions of.
        self._convolutions: dict[Value, tuple[Op, Stacked, Stacked]] = {}
        self._now = Attempt()

    def attempt(self, values: Several, join: int) -> tuple[Stacked, Attempt]:
        """Stack values and all that they are computed from.

        Raises:
            Refused: they are not alike, or neither parameters nor slices tell them apart.
            Reordered: the parameters behind them are stacked in another order.
        """
        self._now = Attempt()
        self.join = join
        todo: list[Several] = [values]
        while todo:
            top = todo[-1]
            if top in self.found or top in self._now.found:
                todo.pop()
                continue
            missing = [t for t in self._behind(top) if t not in self.found and t not in self._now.found]
            if missing:
                todo += missing
                continue
            self._now.found[top] = self._stacked(top)
            todo.pop()
        done = self._get(values)
        if not done.sources:
            raise Refused
        return done, self._now

    def keep(self, attempt: Attempt) -> None:
        """Commit to what an attempt made."""
        self.found.update(attempt.found)
        for stack in attempt.stacks:
            self.stacks.append(stack)
            self.stack_of.update(dict.fromkeys(stack.members, stack))
            if stack.members:
                self.ranks[stack.value] = self.ranks[stack.members[0]]

    def _get(self, values: Several) -> Stacked:
        return self._now.found[values] if values in self._now.found else self.found[values]

    # -- what stands behind several values -----------------------------------------------------------------------------

    def _behind(self, values: Several) -> list[Several]:
        """The operands of several values, slot by slot."""
        if all(value is values[0] for value in values):
            return []
        ops = [value.op if value.kind == "op" else None for value in values]
        if any(op is None for op in ops):
            return []
        signatures = [self.colours.written(op) for op in ops if op is not None]
        if len(set(signatures)) > 1:
            raise Refused(signatures)
        slots = [self.colours.slots(op) for op in ops if op is not None]
        operands = [tuple(op.inputs[own[i]] for op, own in zip(ops, slots, strict=True) if op is not None) for i in range(len(slots[0]))]
        unseen = [tuple(self.colours.unseen(op)) for op in ops if op is not None]
        for several in zip(*unseen, strict=True):
            if any(value is not several[0] for value in several[1:]) and not self._are_equal(several):
                raise Refused([id(value) for value in several])
        return operands

    @staticmethod
    def _are_equal(values: Several) -> bool:
        return all(value.kind == "constant" and same_data(values[0], value) for value in values)

    def _stacked(self, values: Several) -> Stacked:
        first = values[0]
        if all(value is first for value in values):
            return Stacked(first, False)
        kinds = {value.kind for value in values}
        if kinds <= {"parameter", "buffer"}:
            return self._parameter(values)
        if kinds == {"constant"} and self._are_equal(values):
            return Stacked(first, False)
        if kinds != {"op"}:
            raise Refused([id(value) for value in values])
        return self._operation(values)

    def _parameter(self, values: Several) -> Stacked:
        """Parameters side by side: each in one stack only, in the network's order."""
        if len(set(values)) < len(values):
            raise Refused([id(value) for value in values])
        looks = [(value.kind, value.shape, self.kinds.get(value.name)) for value in values]
        if len(set(looks)) > 1:
            raise Refused(looks)
        owners = {id(stack) for stack in map(self.stack_of.get, values) if stack is not None}
        wanted: Sequence[Value] = sorted(values, key=lambda value: self.ranks[value])
        if owners:
            owner = self.stack_of.get(values[0])
            if len(owners) > 1 or owner is None or set(owner.members) != set(values):
                raise Refused([id(self.stack_of.get(value)) for value in values])
            wanted = owner.members
        if any(set(stack.members) & set(values) for stack in self._now.stacks):
            raise Refused  # a parameter at two places of the branches
        if tuple(wanted) != values:
            raise Reordered([values.index(value) for value in wanted])
        value = Value((len(values), *values[0].shape), values[0].kind, "|".join(v.name for v in values))
        value.integer = values[0].integer
        own = [stack for stack in (self._made(v) for v in values) if stack is not None]
        inner = [set().union(*sets) for sets in zip(*(stack.levels for stack in own), strict=True)] if own else []
        stack = Stack(value, values, [{self.join}, *inner])
        self.kinds[value.name] = self.kinds.get(values[0].name)
        self._now.stacks.append(stack)
        return Stacked(value, True, frozenset({stack}), is_linear=True)

    def _made(self, value: Value) -> Stack | None:
        """The stack that a value is."""
        return next((stack for stack in self.stacks if stack.value is value), None)

    # -- operations ----------------------------------------------------------------------------------------------------

    def _operation(self, values: Several) -> Stacked:
        ops = [value.op for value in values if value.op is not None]
        slots = [self.colours.slots(op) for op in ops]
        labels = [tuple(op.labels[slot] for slot in own) for op, own in zip(ops, slots, strict=True)] if ops[0].labels else []
        if len({_pattern((*own, op.out_labels)) for own, op in zip(labels, ops, strict=False)}) > 1:
            raise Refused
        operands = [self._get(several) for several in self._behind(values)]
        op, count = ops[0], len(values)
        if op.kind == "take" and not _same_index(ops):
            return self._taken(ops, operands[0])
        if not any(operand.is_stacked for operand in operands):
            return Stacked(values[0], False)
        if op.labels:
            self._labels += 1
            along = ("branches", self._labels)
            own = [(along, *part) if operand.is_stacked else part for part, operand in zip(labels[0], operands, strict=True)]
            inputs = [operand.value for operand in operands]
            out = self._op(op, op.kind, inputs, (count, *values[0].shape), own, (along, *op.out_labels), op.attrs)
        else:
            make = getattr(self, f"_{op.kind}", None)
            if make is None:
                raise Refused
            out = make(op, operands, count)
        out.integer = values[0].integer
        sources: frozenset[Stack] = frozenset().union(*(operand.sources for operand in operands))
        linear = op.kind in LINEAR or (op.kind, op.name) in (("elementwise", "mul"), ("reduce", "sum"), ("reduce", "mean"))
        varying = [operand for operand in operands if operand.is_stacked]
        return Stacked(out, True, sources, linear and len(varying) == 1 and varying[0].is_linear)

    def _op(self, like: Op, kind: str, inputs: Sequence[Value], shape: Sequence[int], labels: Any = (), out_labels: Any = (),
            attrs: dict[str, Any] | None = None, name: str | None = None) -> Value:
        out = Value(shape)
        self._now.ops.append(Op(kind, inputs, out, labels, out_labels, like.name if name is None else name, like.where, dict(attrs or {})))
        self._now.ops[-1].exact = like.exact
        out.integer = inputs[0].integer
        return out

    def reshaped(self, like: Op, x: Value, shape: Sequence[int]) -> Value:
        return x if tuple(shape) == x.shape else self._op(like, "reshape", [x], shape)

    def permuted(self, like: Op, x: Value, order: Sequence[int]) -> Value:
        if list(order) == list(range(x.ndim)):
            return x
        return self._op(like, "permute", [x], [x.shape[d] for d in order], attrs={"order": tuple(order)})

    def taken(self, like: Op, x: Value, dim: int, index: Sequence[int], alone: bool = False) -> Value:
        if list(index) == list(range(x.shape[dim])):
            return x
        whole: Any = np.asarray(index)
        if np.array_equal(whole, np.arange(index[0], index[0] + len(index))):
            whole = range(index[0], index[0] + len(index))
        shape = [len(index) if d == dim else n for d, n in enumerate(x.shape)]
        return self._op(like, "take", [x], shape, attrs={"dim": dim, "index": whole, "alone": alone})

    def repeated(self, like: Op, x: Stacked, count: int) -> Value:
        """The value with the branches along its first axis, also where it is the same for all."""
        if x.is_stacked:
            return x.value
        return self._op(like, "expand", [self.reshaped(like, x.value, [1, *x.value.shape])], [count, *x.value.shape])

    def _taken(self, ops: Sequence[Op], x: Stacked) -> Stacked:
        """Different slices of one value: the slices side by side, in one slice of it."""
        op, dim = ops[0], ops[0].attrs["dim"]
        index = [int(i) for own in ops for i in own.attrs["index"]]
        if x.is_stacked or len(set(index)) < len(index):
            raise Refused
        share = len(op.attrs["index"])
        shape = x.value.shape
        part = self.taken(op, x.value, dim, index, alone=all(own.attrs["alone"] for own in ops))
        split = self.reshaped(op, part, [*shape[:dim], len(ops), share, *shape[dim + 1 :]])
        rest = [d for d in range(split.ndim) if d != dim]
        out = self.permuted(op, split, [dim, *rest])
        stack = Stack(out, (), [{self.join}])
        self._now.stacks.append(stack)
        return Stacked(out, True, frozenset({stack}))

    def _reshape(self, op: Op, operands: Sequence[Stacked], count: int) -> Value:
        return self._op(op, "reshape", [operands[0].value], (count, *op.output.shape))

    def _permute(self, op: Op, operands: Sequence[Stacked], count: int) -> Value:
        return self.permuted(op, operands[0].value, [0, *(d + 1 for d in op.attrs["order"])])

    def _take(self, op: Op, operands: Sequence[Stacked], count: int) -> Value:
        return self._op(op, "take", [operands[0].value], (count, *op.output.shape), attrs={**op.attrs, "dim": op.attrs["dim"] + 1})

    def _concat(self, op: Op, operands: Sequence[Stacked], count: int) -> Value:
        values = [self.repeated(op, operand, count) for operand in operands]
        return self._op(op, "concat", values, (count, *op.output.shape), attrs={"dim": op.attrs["dim"] + 1})

    def _expand(self, op: Op, operands: Sequence[Stacked], count: int) -> Value:
        return self._op(op, "expand", [operands[0].value], (count, *op.output.shape))

    def _resample(self, op: Op, operands: Sequence[Stacked], count: int) -> Value:
        dims = tuple(d + 1 for d in op.attrs["dims"])
        return self._op(op, "resample", [operands[0].value], (count, *op.output.shape), attrs={**op.attrs, "dims": dims})

    def _gather(self, op: Op, operands: Sequence[Stacked], count: int) -> Value:
        x, index = operands
        if index.is_stacked:
            raise Refused
        return self._op(op, "gather", [x.value, index.value], (count, *op.output.shape), attrs={"dim": op.attrs["dim"] + 1})

    def _convolve(self, op: Op, operands: Sequence[Stacked], count: int) -> Value:
        """One convolution with the branches among the channels, as groups where each branch has channels of its own."""
        x, weight = operands
        made = self._convolved(op, x, weight, count)
        if op.exact:
            self._convolutions[made] = (op, x, weight)
        return made

    def _convolved(self, op: Op, x: Stacked, weight: Stacked, count: int) -> Value:
        (batch, channels, *positions), (_, filters, *moved) = op.inputs[0].shape, op.output.shape
        groups, transposed = op.attrs["groups"], op.attrs["transposed"]
        if not weight.is_stacked:  # the same filters: branches are as good as a batch
            wide = self.reshaped(op, x.value, [count * batch, channels, *positions])
            out = self._op(op, "convolve", [wide, weight.value], [count * batch, filters, *moved], attrs=op.attrs)
            return self.reshaped(op, out, [count, batch, filters, *moved])
        first, second, *taps = op.inputs[1].shape
        own = weight.value
        if not x.is_stacked and groups == 1:
            if transposed:
                own = self.permuted(op, own, [1, 0, *range(2, own.ndim)])
                own = self.reshaped(op, own, [first, count * second, *taps])
            else:
                own = self.reshaped(op, own, [count * first, second, *taps])
            wide, attrs = x.value, op.attrs
        else:
            apart = self.repeated(op, x, count)
            wide = self.reshaped(op, self.permuted(op, apart, [1, 0, *range(2, apart.ndim)]), [batch, count * channels, *positions])
            own, attrs = self.reshaped(op, own, [count * first, second, *taps]), {**op.attrs, "groups": count * groups}
        out = self._op(op, "convolve", [wide, own], [batch, count * filters, *moved], attrs=attrs)
        split = self.reshaped(op, out, [batch, count, filters, *moved])
        return self.permuted(op, split, [1, 0, *range(2, split.ndim)])

    # -- joining -------------------------------------------------------------------------------------------------------

    def summed(self, like: Op, x: Value, name: str) -> Value:
        """The branches of a stacked value taken together: by a contraction or convolution over them as well, where it ends in one.

        What a contraction sums over beside the branches can then be permuted together with them: two layers of n units whose outputs are
        added are one layer of 2n.
        """
        if name == "sum" and x.op is not None and is_multiple(x.op):
            (single,) = x.op.inputs
            if (single.op is not None and is_product(single.op)) or single in self._convolutions:  # the multiple of their sum
                total = self.summed(like, single, name)
                axes = tuple(range(total.ndim))
                return self._op(x.op, "elementwise", [total], total.shape, [axes], axes, x.op.attrs)
        if name == "sum" and x.op is not None and is_product(x.op):
            op = x.op
            return self._op(op, "contract", op.inputs, x.shape[1:], op.labels, op.out_labels[1:], op.attrs)
        if name == "sum" and x in self._convolutions:
            op, inner, weight = self._convolutions[x]
            if op.attrs["groups"] == 1 and inner.is_stacked and weight.is_stacked:
                return self._convolved_together(op, inner.value, weight.value)
        axes = tuple(range(x.ndim))
        return self._op(like, "reduce", [x], x.shape[1:], [axes], axes[1:], {}, name)

    def _convolved_together(self, op: Op, x: Value, weight: Value) -> Value:
        count, batch, channels, *positions = x.shape
        wide = self.reshaped(op, self.permuted(op, x, [1, 0, *range(2, x.ndim)]), [batch, count * channels, *positions])
        _, first, second, *taps = weight.shape
        if op.attrs["transposed"]:
            own = self.reshaped(op, weight, [count * first, second, *taps])
        else:
            own = self.reshaped(op, self.permuted(op, weight, [1, 0, *range(2, weight.ndim)]), [first, count * second, *taps])
        return self._op(op, "convolve", [wide, own], op.output.shape, attrs=op.attrs)

    def side_by_side(self, like: Op, x: Value, dim: int) -> Value:
        """The branches of a stacked value laid end to end along one of their own dimensions."""
        moved = self.permuted(like, x, [*range(1, dim + 1), 0, *range(dim + 1, x.ndim)])
        count, *shape = x.shape
        return self.reshaped(like, moved, [count * n if d == dim else n for d, n in enumerate(shape)])

    def collect(self) -> list[Op]:
        """The operations made since the last attempt began, for the caller to place."""
        ops, self._now.ops = self._now.ops, []
        return ops


def _pattern(terms: Sequence[Sequence[Any]]) -> tuple[tuple[int, ...], ...]:
    """Labels by number, in order of first occurrence: the same for operations whose labels differ by their names alone."""
    numbers: dict[Any, int] = {}
    return tuple(tuple(numbers.setdefault(label, len(numbers)) for label in term) for term in terms)


def _same_index(ops: Sequence[Op]) -> bool:
    first = ops[0].attrs["index"]
    return all(np.array_equal(np.asarray(first), np.asarray(op.attrs["index"])) for op in ops[1:])
