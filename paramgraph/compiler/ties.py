"""Whether elements that are compared may be equal, not by chance alone: then which of them is chosen depends on their order.

Choosing the largest elements (argmax, top-k, sorting) commutes with permutations where no two elements are equal. Functions with flat
pieces (ReLU, clamps, rounding, comparisons) make equal elements out of different ones, for whole regions of parameters and inputs, and
of those the first is chosen. What is known here errs on one side: elements that are said to be distinct are so but for a set of measure zero.

One assumption: masks that come of another choice (group-limited routing) leave as many elements as are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from paramgraph.compiler.program import Op, Value
from paramgraph.errors import TraceError

# Functions of one operand, and of plain numbers, that are constant on no interval.
STRICT = frozenset("""abs acos acosh asin asinh atan atanh celu cos cosh deg2rad digamma elu erf erfc erfinv exp exp2 expm1 frac gelu i0
leaky_relu lgamma log log10 log1p log2 log_sigmoid logit mish nan_to_num neg positive quick_gelu rad2deg reciprocal rrelu rsqrt selu sigmoid
silu sin sinc sinh softplus softsign sqrt square tan tanh tanhshrink real imag conj prelu prelu_kernel add sub rsub mul div true_divide
multiply divide subtract pow remainder fmod logaddexp logaddexp2 atan2 hypot""".split())
SUMS = frozenset("add sub rsub subtract logaddexp logaddexp2 atan2 hypot lerp".split())
PRODUCTS = frozenset("mul div true_divide multiply divide pow prelu prelu_kernel".split())
EXTREMA = frozenset("maximum minimum fmax fmin".split())
# Reductions that say more than how many elements there are.
SMOOTH = frozenset("sum mean nansum nanmean amax amin max min prod norm var std logsumexp".split())
# Those that give one element on: of a table of pairs, two rows may give the same.
PICKING = frozenset("amax amin max min".split())
# Functions that are constant where a plain number among their arguments is zero.
SCALED = frozenset("mul multiply pow leaky_relu celu elu".split())
STAIRS = frozenset("cummax cummin".split())
# Operations through which a choice can be followed back, to the elements that were chosen.
CARRYING = frozenset("elementwise reshape permute expand take concat contract reduce".split())


class Distinct:
    """Tells whether the elements of a value along one of its dimensions are distinct."""

    def __init__(self) -> None:
        self._known: dict[tuple[Value, int], bool] = {}

    def along(self, value: Value, dim: int) -> bool:
        """Whether elements that differ in their index along `dim` alone are almost surely distinct."""
        if value.shape[dim] == 1:
            return True
        key = value, dim
        if key not in self._known:
            self._known[key] = False  # of a value that is its own operand, nothing is known
            self._known[key] = self._found(value, dim)
        return self._known[key]

    def _found(self, value: Value, dim: int) -> bool:
        if value.kind == "constant" or value.tied or value.integer and value.op is None:
            return False
        if value.op is None:
            return True
        rule = RULES.get(value.op.kind)
        return rule is not None and rule(self, value.op, dim)

    # -- aligned operations --------------------------------------------------------------------------------------------

    def _elementwise(self, op: Op, dim: int) -> bool:
        rank = op.output.ndim
        placed = [(value, dim - rank + value.ndim) for value in op.inputs]
        varying = [(value, d) for value, d in placed if d >= 0 and value.shape[d] > 1]
        others = [value for value, d in placed if d < 0 or value.shape[d] == 1]
        if op.name in ("where", "masked_fill"):
            return self._selected(op, varying)
        if op.name in EXTREMA:
            return not others and all(self.along(*item) for item in varying)
        if len(op.inputs) == 1:
            vanishes = op.name in SCALED and any(isinstance(n, (int, float)) and n == 0 for n in op.attrs.get("args", ()))
            return op.name in STRICT and not vanishes and all(self.along(*item) for item in varying)
        if op.name in SUMS:
            clear = [value for value, d in varying if self.along(value, d)]
            flat = {root for value, d in varying if not self.along(value, d) for root in _roots(value)}
            return any(flat.isdisjoint(_roots(value)) for value in clear)
        if op.name in PRODUCTS:
            moving = [(value, d) for value, d in varying if value.kind != "constant"]
            still = [*others, *(value for value, _ in varying if value.kind == "constant")]
            return bool(moving) and all(self.along(*item) for item in moving) and not any(map(_may_vanish, still))
        return False

    def _selected(self, op: Op, varying: list[tuple[Value, int]]) -> bool:
        mask = op.inputs[0 if op.name == "where" else 1]
        choices = [item for item in varying if item[0] is not mask]
        clear = [self.along(*item) for item in choices]
        if _is_choice(mask) and any(value is mask and _varies(mask, d) for value, d in varying):
            return any(clear)  # some elements are left; a choice of whole rows leaves none in others
        return op.name == "where" and len(choices) == 2 and all(clear)

    def _contract(self, op: Op, dim: int) -> bool:
        """Some operand tells the results apart, and no other is zero all along: behind ReLUs that are, every result is zero."""
        label = op.out_labels[dim]
        found = False
        for value, labels in zip(op.inputs, op.labels, strict=True):
            own = [d for d, n in zip(labels, value.shape, strict=True) if n > 1]
            if label in own:
                found = found or self.along(value, list(labels).index(label))
            summed = [d for d in own if d not in op.out_labels]
            if not any(self.along(value, list(labels).index(d)) for d in summed) if summed else _may_vanish(value):
                return False
        return found

    def _reduce(self, op: Op, dim: int) -> bool:
        if op.name not in SMOOTH or op.name == "norm" and op.attrs.get("order", 2) == 0 or op.name in PICKING and _holds_pairs(op.inputs[0]):
            return False
        return self.along(op.inputs[0], list(op.labels[0]).index(op.out_labels[dim]))

    def _mix(self, op: Op, dim: int) -> bool:
        return op.name not in STAIRS and self.along(op.inputs[0], dim)

    def _normalize(self, op: Op, dim: int) -> bool:
        if self.along(op.inputs[0], dim):
            return True
        offsets = [(value, labels) for role, value, labels in zip(op.attrs["roles"], op.inputs[1:], op.labels[1:], strict=True) if role == "offset"]
        return any(dim in labels and self.along(value, list(labels).index(dim)) for value, labels in offsets)

    def _convolve(self, op: Op, dim: int) -> bool:
        return dim == 1 or self.along(op.inputs[0], dim)

    def _same(self, op: Op, dim: int) -> bool:
        return self.along(op.inputs[0], dim)

    # -- layout --------------------------------------------------------------------------------------------------------

    def _reshape(self, op: Op, dim: int) -> bool:
        return all(self.along(op.inputs[0], d) for d in _within(op, dim))

    def _permute(self, op: Op, dim: int) -> bool:
        return self.along(op.inputs[0], op.attrs["order"][dim])

    def _concat(self, op: Op, dim: int) -> bool:
        if dim == op.attrs["dim"] and len(set(op.inputs)) < len(op.inputs):
            return False
        return all(value.kind != "constant" and self.along(value, dim) for value in op.inputs)

    def _expand(self, op: Op, dim: int) -> bool:
        return op.inputs[0].shape[dim] == op.output.shape[dim] and self.along(op.inputs[0], dim)

    # -- indexing ------------------------------------------------------------------------------------------------------

    def _gather(self, op: Op, dim: int) -> bool:
        x = op.inputs[0]
        return all(self.along(x, d) for d in range(x.ndim))

    def _topk(self, op: Op, dim: int) -> bool:
        """Which elements are the largest are as many different numbers; how large they are, as they are."""
        return dim == op.attrs["dim"] if op.attrs["indices"] else self.along(op.inputs[0], dim)


RULES: dict[str, Callable[[Distinct, Op, int], bool]] = {
    "elementwise": Distinct._elementwise, "contract": Distinct._contract, "reduce": Distinct._reduce, "mix": Distinct._mix,
    "normalize": Distinct._normalize, "convolve": Distinct._convolve, "resample": Distinct._same, "take": Distinct._same,
    "reshape": Distinct._reshape, "permute": Distinct._permute, "concat": Distinct._concat, "expand": Distinct._expand,
    "gather": Distinct._gather, "topk": Distinct._topk,
}  # fmt: skip


def _roots(value: Value) -> Iterator[Value]:
    """What a value is computed from element by element: `h - relu(h)` is flat where `h` is positive."""
    stack, seen = [value], {value}
    while stack:
        top = stack.pop()
        if top.op is None or top.op.kind not in ("elementwise", "mix", "normalize", "reshape", "permute", "expand", "take", "concat"):
            yield top
            continue
        for operand in top.op.inputs:
            if operand not in seen:
                seen.add(operand)
                stack.append(operand)


def _holds_pairs(value: Value) -> bool:
    """Whether a table may be one of pairs: a function of two values along different dimensions, symmetric perhaps."""
    stack, seen = [value], {value}
    while stack:
        op = stack.pop().op
        if op is None or op.kind not in CARRYING and op.kind not in ("mix", "normalize"):
            continue
        if op.kind == "contract" and not any(operand.parametric for operand in op.inputs):
            return True
        if op.kind == "elementwise" and sum(1 < math.prod(operand.shape) < math.prod(op.output.shape) for operand in op.inputs) > 1:
            return True
        if op.kind != "contract":
            new = [operand for operand in op.inputs if operand not in seen]
            seen.update(new)
            stack += new
    return False


def _varies(value: Value, dim: int) -> bool:
    """Whether a value may differ along a dimension, and is not merely broadcast along it."""
    op = value.op
    if value.shape[dim] == 1 or op is None:
        return value.shape[dim] > 1
    if op.kind == "expand":
        return _varies(op.inputs[0], dim)
    if op.kind == "permute":
        return _varies(op.inputs[0], op.attrs["order"][dim])
    if op.kind == "elementwise":
        rank = op.output.ndim
        return any(_varies(x, dim - rank + x.ndim) for x in op.inputs if dim - rank + x.ndim >= 0)
    if op.kind == "reshape":
        return any(_varies(op.inputs[0], d) for d in _within(op, dim))
    return True


def _within(op: Op, dim: int) -> Iterator[int]:
    """The operand's dimensions of which a dimension of a reshape's result has elements."""
    (x,) = op.inputs
    inner, size = math.prod(op.output.shape[dim + 1 :]), op.output.shape[dim]
    below = 1
    for d in reversed(range(x.ndim)):
        if below < inner * size and below * x.shape[d] > inner:
            yield d
        below *= x.shape[d]


def _may_vanish(value: Value) -> bool:
    """Whether a factor may be zero, not by chance alone."""
    while value.op is not None and value.op.kind in ("reshape", "permute", "expand", "take", "mix", "reduce"):
        value = value.op.inputs[0]
    if value.kind == "constant":
        try:
            return value.read is None or not bool(np.all(value.read()))
        except TraceError:
            return True
    if value.op is not None and value.op.kind == "one_hot":
        return True
    return value.integer or value.op is not None and value.op.kind == "elementwise" and (
        value.op.name not in STRICT or any(map(_may_vanish, value.op.inputs)) and value.op.name in PRODUCTS)  # fmt: skip


def _is_choice(mask: Value) -> bool:
    """Whether a mask is made of a choice among elements."""
    stack, seen = [mask], {mask}
    while stack:
        op = stack.pop().op
        if op is None:
            continue
        if op.kind == "one_hot":
            return True
        if op.kind in CARRYING:
            new = [value for value in op.inputs if value not in seen]
            seen.update(new)
            stack += new
    return False
