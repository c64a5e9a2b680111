"""The builder that makes a program, one operation at a time: what front ends and rules write in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.program import Labels, Op, Program, Value
from paramgraph.symmetries.spaces import Transaction

# Names of contractions that are sums of products.
PRODUCTS = frozenset("contract linear matmul einsum bilinear scores attend".split())


class Builder:
    """Makes a program, one operation at a time. This is what rules write in."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.where: Any = None
        # Whether the rule that writes says what its operations compute.
        self.exact = True
        # Shapes of the results of the operation that is being lowered.
        self.shapes: list[tuple[int, ...]] = []
        # Version of the operator set that an ONNX operator is from.
        self.version = 0

    def transaction(self) -> Transaction:
        """Drop the operations that the body added if it raises."""
        mark, ops = len(self.program.ops), self.program.ops

        def end(failed: bool) -> None:
            if failed:
                del ops[mark:]

        return Transaction(end)

    def writing(self, exact: bool) -> Transaction:
        """Let a rule write; if it raises, nothing of it stays.

        Args:
            exact: whether the rule says what its operations compute.
        """
        before, self.exact = self.exact, exact
        mark, ops = len(self.program.ops), self.program.ops

        def end(failed: bool) -> None:
            self.exact = before
            if failed:
                del ops[mark:]

        return Transaction(end)

    def _op(self, kind: str, inputs: Sequence[Value], shape: Sequence[int], *args: Any, **attrs: Any) -> Value:
        labels, out_labels, name = args if args else ((), (), "")
        output = Value(shape)
        op = Op(kind, inputs, output, labels, out_labels, name, self.where, attrs)
        op.exact = self.exact
        self.program.ops.append(op)
        return output

    # -- leaves --------------------------------------------------------------------------------------------------------

    def constant(self, shape: Sequence[int], read: Callable[[], np.ndarray], name: str = "constant", integer: bool = False) -> Value:
        """A constant; its value is read only where it could matter."""
        value = Value(shape, "constant", name, read)
        value.integer = integer
        return value

    def fixed(self, buffer: Value, read: Callable[[], np.ndarray], name: str = "table") -> Value:
        """A constant that a layer keeps in a buffer, such as the basis of its filters: no symmetry moves it, and verification leaves it.

        Args:
            buffer: the buffer's value, as a rule for a module class gets it.
            read: a function that returns its values.
            name: what it is to the reader of the graph.
        """
        stack = [buffer]
        while stack:
            value = stack.pop()
            if value.kind in ("parameter", "buffer"):
                self.program.fixed.add(value.name)
            elif value.op is not None:
                stack.extend(value.op.inputs)
        return self.constant(buffer.shape, read, name)

    def fill(self, shape: Sequence[int], number: float = 1.0) -> Value:
        """A constant with one value everywhere: it pins nothing.

        Args:
            number: the value: zeros and infinities scale, other numbers do not. Leave it out where it is not known.
        """
        return self.constant(shape, lambda: np.broadcast_to(np.float64(number), tuple(shape)), "fill")

    def state(self, shape: Sequence[int], name: str = "state", tied: bool = False) -> Value:
        """A value that a recurrence feeds back; give its next value to `feedback`.

        Args:
            tied: nothing is known of what is fed back: its elements may be equal, as those behind a ReLU are.
        """
        value = Value(shape, "state", name)
        value.tied = tied
        return value

    # -- aligned operations --------------------------------------------------------------------------------------------

    def contract(self, spec: str | tuple[Sequence[Labels], Labels], *operands: Value, name: str = "contract", product: bool | None = None) -> Value:
        """Products of operands, summed over the labels that the result lacks.

        Args:
            spec: an einsum equation such as `"bti,oi->bto"`, or `(labels per operand, labels of the result)`.
            operands: the operands. Sizes must agree wherever labels do.
            name: what the operation is to the reader of the graph, e.g. `"linear"`.
            product: whether it is a sum of products indeed, and not another function of the same form (a distance, say), through which no
                scale passes. None: if its name is one of `PRODUCTS`.
        """
        labels, out = parse_einsum(spec) if isinstance(spec, str) else spec
        sizes = _sizes(labels, operands)
        known = name in PRODUCTS if product is None else product
        return self._op("contract", operands, [sizes[label] for label in out], labels, out, name, product=known)

    def elementwise(self, name: str, *operands: Value, **attrs: Any) -> Value:
        """A function applied element by element, with broadcasting; `name` is the function's (`"relu"`, `"add"`, …)."""
        shapes = {value.shape for value in operands}
        shape = shapes.pop() if len(shapes) == 1 else np.broadcast_shapes(*shapes)
        rank = len(shape)
        out = tuple(range(rank))
        labels = [out[rank - value.ndim :] for value in operands]
        return self._op("elementwise", operands, shape, labels, out, name, **attrs)

    def reduce(self, x: Value, dims: Iterable[int], keepdim: bool = False, name: str = "sum", **attrs: Any) -> Value:
        """A symmetric reduction (sum, mean, max, norm, …) over dimensions; a norm's attribute `order` is which norm."""
        axes = tuple(range(x.ndim))
        gone = {d % x.ndim for d in dims} if x.ndim else set()
        kept = tuple(d for d in axes if d not in gone)
        out = self._op("reduce", [x], [x.shape[d] for d in kept], [axes], kept, name, **attrs)
        return self.reshape(out, [1 if d in gone else x.shape[d] for d in axes]) if keepdim else out

    def mix(self, name: str, x: Value, dims: Iterable[int], ordered: bool = False, linear: bool = False) -> Value:
        """An operation that mixes elements along dimensions and returns the same axes: softmax, cumulative sums, sorting.

        Args:
            ordered: the result depends on the order of the elements along `dims`; they are pinned.
            linear: the result is linear in `x`: it passes a factor that is common along `dims`.
        """
        axes = tuple(range(x.ndim))
        mixed = tuple(d % x.ndim for d in dims)
        return self._op("mix", [x], x.shape, [axes], axes, name, mixed=mixed, ordered=ordered, linear=linear)

    def normalize(
        self, name: str, x: Value, over: Iterable[int], operands: dict[str, tuple[Value, Sequence[int]]], epsilon: float | None = None
    ) -> Value:
        """A normalisation of `x` over dimensions, with parameters aligned to some of its dimensions.

        Args:
            name: `"batch_norm"`, `"layer_norm"`, `"group_norm"`, `"rms_norm"`, …
            x: what is normalised.
            over: dimensions over which statistics are taken (none for batch norm in inference).
            operands: role → `(value, dimensions of x that its axes are aligned to)`; roles are `"gain"`, `"offset"`,
                `"running_mean"`, `"running_var"`.
            epsilon: what is added to a running variance, if it is known.
        """
        axes = tuple(range(x.ndim))
        labels = [axes, *(tuple(dims) for _, dims in operands.values())]
        values = [x, *(value for value, _ in operands.values())]
        for role, (value, dims) in operands.items():
            if any(n not in (1, x.shape[d]) for n, d in zip(value.shape, dims, strict=True)):
                raise ValueError(f"the {role} of {name} has shape {value.shape}, and does not fit {x.shape}")
        known = {} if epsilon is None else {"epsilon": epsilon}
        return self._op("normalize", values, x.shape, labels, axes, name, mixed=tuple(over), ordered=False, roles=tuple(operands), **known)

    # -- layout --------------------------------------------------------------------------------------------------------

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        if tuple(shape) == x.shape:
            return x
        if -1 in shape:
            known = math.prod(n for n in shape if n != -1)
            shape = [x_n if x_n != -1 else math.prod(x.shape) // max(known, 1) for x_n in shape]
        if math.prod(shape) != math.prod(x.shape):
            raise ValueError(f"{x!r} has not as many elements as the shape {tuple(shape)}")
        if x.op is not None and x.op.kind == "reshape":  # how it was seen in between tells nothing
            return self.reshape(x.op.inputs[0], shape)
        return self._op("reshape", [x], shape)

    def permute(self, x: Value, order: Sequence[int]) -> Value:
        order = [d % x.ndim for d in order]
        if order == list(range(x.ndim)):
            return x
        return self._op("permute", [x], [x.shape[d] for d in order], order=tuple(order))

    def transpose(self, x: Value, a: int, b: int) -> Value:
        order = list(range(x.ndim))
        order[a], order[b] = order[b], order[a]
        return self.permute(x, order)

    def take(self, x: Value, dim: int, index: Sequence[int] | range | np.ndarray, alone: bool = False) -> Value:
        """`x.index_select(dim, index)` for constant, distinct indices: slices, flips, rolls, constant permutations.

        Args:
            alone: the permutations of the other axes are known to be the same for every slice.
        """
        dim %= x.ndim
        if not isinstance(index, range) and len(index) and np.array_equal(index, np.arange(int(index[0]), int(index[0]) + len(index))):
            index = range(int(index[0]), int(index[0]) + len(index))
        if isinstance(index, range) and index == range(x.shape[dim]):
            return x
        if isinstance(index, range) and index.step == 1 and index and x.op is not None and x.op.kind == "concat" and x.op.attrs["dim"] == dim:
            start = 0  # a slice of one of the values that were just laid end to end
            for value in x.op.inputs:
                if start <= index.start and index.stop <= start + value.shape[dim]:
                    return self.take(value, dim, range(index.start - start, index.stop - start), alone)
                start += value.shape[dim]
        shape = [len(index) if d == dim else n for d, n in enumerate(x.shape)]
        return self._op("take", [x], shape, dim=dim, index=index, alone=alone)

    def select(self, x: Value, dim: int, index: int, alone: bool = False) -> Value:
        """`x.select(dim, index)`; `alone` as for `take`."""
        dim %= x.ndim
        index %= x.shape[dim]
        part = self.take(x, dim, range(index, index + 1), alone)
        return self.reshape(part, [n for d, n in enumerate(x.shape) if d != dim])

    def concat(self, values: Sequence[Value], dim: int) -> Value:
        values = [value for value in values if value.shape != (0,)]
        if len(values) == 1:
            return values[0]
        dim %= values[0].ndim
        dealt = self._dealt(values, dim)
        if dealt is not None:
            return dealt
        size = sum(value.shape[dim] for value in values)
        return self._op("concat", values, [size if d == dim else n for d, n in enumerate(values[0].shape)], dim=dim)

    def _dealt(self, values: Sequence[Value], dim: int) -> Value | None:
        """All slices of one value along an axis, laid end to end along another: the axis of slices goes before that one."""
        first = values[0].op
        if first is None or first.kind != "take":
            return None
        (x,), along, width = first.inputs, first.attrs["dim"], len(first.attrs["index"])
        for i, value in enumerate(values):
            op = value.op
            if op is None or op.kind != "take" or op.inputs[0] is not x or op.attrs["dim"] != along:
                return None
            if not isinstance(op.attrs["index"], range) or op.attrs["index"] != range(i * width, (i + 1) * width):
                return None
        if len(values) * width != x.shape[along]:
            return None
        if along == dim:
            return x
        split = self.reshape(x, [*x.shape[:along], len(values), width, *x.shape[along + 1 :]])
        order = [d for d in range(split.ndim) if d != along]
        order.insert(order.index(dim if dim < along else dim + 1), along)
        return self.reshape(self.permute(split, order), [n * len(values) if d == dim else n for d, n in enumerate(values[0].shape)])

    def expand(self, x: Value, shape: Sequence[int]) -> Value:
        """Broadcast to `shape`: new axes are free spaces of their own."""
        padded = self.reshape(x, [1] * (len(shape) - x.ndim) + list(x.shape))
        target = [have if want == -1 else want for have, want in zip(padded.shape, shape, strict=True)]
        return padded if tuple(target) == padded.shape else self._op("expand", [padded], target)

    # -- operations with positions -------------------------------------------------------------------------------------

    def convolve(self, x: Value, weight: Value, shape: Sequence[int], groups: int = 1, transposed: bool = False, pointwise: bool = False,
                 name: str = "conv", inside: bool = False) -> Value:
        """A convolution of `x` (batch, channels, *positions) with `weight` (out, in/groups, *taps), or (in, out/groups, *taps) transposed.

        Args:
            shape: shape of the result.
            pointwise: one tap, stride 1, no padding: positions pass through untouched.
            inside: nothing is padded: every tap meets an element at every position.
        """
        return self._op("convolve", [x, weight], shape, (), (), name, groups=groups, transposed=transposed, pointwise=pointwise,
                        inside=inside)

    def resample(self, x: Value, dims: Sequence[int], shape: Sequence[int], name: str = "pool") -> Value:
        """An operation along ordered positions that gives new ones: pooling, padding, interpolation. The dimensions are pinned."""
        return self._op("resample", [x], shape, (), (), name, dims=tuple(d % x.ndim for d in dims))

    def gather(self, x: Value, dim: int, index: Value, name: str = "gather") -> Value:
        """`x.index_select` by values: the axis `dim` is replaced by the axes of `index`, whose elements name elements of `dim`."""
        dim %= x.ndim
        return self._op("gather", [x, index], [*x.shape[:dim], *index.shape, *x.shape[dim + 1 :]], (), (), name, dim=dim)

    def topk(self, x: Value, dim: int, k: int, indices: bool, name: str = "topk") -> Value:
        """The `k` largest elements along `dim`, in order, or (`indices`) which elements they are."""
        dim %= x.ndim
        shape = [k if d == dim else n for d, n in enumerate(x.shape)]
        out = self._op("topk", [x], shape, (), (), f"{name}.indices" if indices else name, dim=dim, indices=indices)
        out.integer = indices
        return out

    def one_hot(self, index: Value, classes: int) -> Value:
        """Index values as indicator vectors over the axis that they name."""
        return self._op("one_hot", [index], [*index.shape, classes])

    def feedback(self, state: Value, value: Value) -> None:
        """Say that `value` is the next value of `state`."""
        self._op("feedback", [state, value], value.shape)

    def opaque(self, name: str, operands: Sequence[Value], shape: Sequence[int], cause: str) -> Value:
        """An unknown operation: everything that it touches is pinned, for the cause given."""
        return self._op("opaque", operands, shape, (), (), name, cause=cause)

    def repeat(self, op: Op, inputs: Sequence[Value], shape: Sequence[int]) -> Value:
        """The same operation on other operands."""
        output = Value(shape)
        self.program.ops.append(Op(op.kind, inputs, output, op.labels, op.out_labels, op.name, op.where, dict(op.attrs)))
        self.program.ops[-1].exact = op.exact
        return output

    def rename(self, value: Value, as_: Value) -> None:
        """Let the last operation's result be `as_`: who reads that reads this."""
        op = value.op
        if op is None or value.shape != as_.shape:
            raise ValueError(f"cannot stand for {as_!r}: {value!r}")
        if self.program.ops[-1] is not op:  # nothing was added: an identity is
            self.program.ops.append(Op("reshape", [value], as_))
            return
        op.output = as_
        as_.op = op

    def linear(self, x: Value, weight: Value, bias: Value | None = None, name: str = "linear") -> Value:
        """`x @ weight.T + bias`."""
        batch = tuple(range(x.ndim - 1))
        out = self.contract(([(*batch, "i"), ("o", "i")], (*batch, "o")), x, weight, name=name, product=True)
        return out if bias is None else self.elementwise("add", out, bias, role="bias")


def parse_einsum(equation: str) -> tuple[list[Labels], Labels]:
    """Labels of an einsum equation; an implicit result holds the labels that occur once, sorted, as in torch."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    labels = [tuple(term) for term in left.split(",")]
    if not arrow:
        letters = [letter for term in labels for letter in term]
        right = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    return labels, tuple(right)


def _sizes(labels: Sequence[Labels], operands: Sequence[Value]) -> dict[Any, int]:
    sizes: dict[Any, int] = {}
    for term, value in zip(labels, operands, strict=True):
        for label, n in zip(term, value.shape, strict=True):
            if sizes.setdefault(label, n) != n:
                if 1 not in (sizes[label], n):
                    raise ValueError(f"label {label!r} has sizes {sizes[label]} and {n}")
                sizes[label] = max(sizes[label], n)
    return sizes
