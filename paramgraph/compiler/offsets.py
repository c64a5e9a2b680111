"""Finds additions to biases that other biases make up for.

What is added to a bias is followed: to values it adds something that is the same along all axes but those followed. A linear reader of these makes
something of it that its own bias can take away, if it is the next that is added there. Anything else that reads the value forbids the addition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from paramgraph.compiler.operations.scaling import arguments
from paramgraph.compiler.parts import is_read_once, part_of
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.terms import MOST, Tangled, Terms, concatenated, leaf, permuted, regrouped, reshaped, taken, total
from paramgraph.symmetries.offsets import Compensation, OffsetFactor

Array = np.ndarray
# Not safe_softmax: its weights are all zero where everything is masked.
SOFTMAX = frozenset(("softmax",))
LAYOUT = frozenset("reshape permute take concat expand".split())


def find_offsets(program: Program) -> tuple[OffsetFactor, ...]:
    """The additions to single biases, or parts of them, that others make up for."""
    return tuple(_Finder(program).run())


class _Finder:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.readers = program.readers()
        self.out = program.results()
        self.whole = _sums_to_one(program)

    def run(self) -> Iterator[OffsetFactor]:
        seen: set[frozenset[str]] = set()
        for value in self.program.tensors.values():
            wide = [d for d, n in enumerate(value.shape) if n > 1]
            if value.kind != "parameter" or len(wide) != 1:
                continue
            found = self._of(value, wide[0], None)
            readers = self.readers.get(value, [])
            if found is None and len(readers) > 1 and all(op.kind == "take" and op.attrs["dim"] == wide[0] for op in readers):
                for op in readers:
                    part = self._of(value, wide[0], np.asarray(op.attrs["index"]))
                    if part is not None:
                        yield part
            elif found is not None:
                # Of two that are merely added, either makes up for the other: one says it all.
                plain = frozenset(found.tensors) if not found.read and len(found.compensations) == 1 else None
                if plain is None or plain not in seen:
                    yield found
                seen |= {plain} if plain is not None else set()

    def _of(self, value: Value, axis: int, index: Array | None) -> OffsetFactor | None:
        size = value.shape[axis] if index is None else len(index)
        start = leaf(value.shape[axis], axis, 0)
        if index is not None:
            places, numbers = np.zeros((1, value.shape[axis]), dtype=np.int64), np.zeros((1, value.shape[axis]))
            places[0, index], numbers[0, index] = np.arange(size), 1.0
            start = Terms((axis,), places, numbers, np.zeros_like(places, dtype=np.uint64))
        try:
            compensations = tuple(self._follow({value: start}, value))
        except Tangled:
            return None
        if not compensations:
            return None
        where = tuple(index if d == axis else None for d in range(value.ndim))
        part = "" if index is None else " (a part)"
        return OffsetFactor(f"additions to {value.name}{part}, made up for", value.name, where, size, compensations)

    def _follow(self, shifted: dict[Value, Terms], source: Value) -> Iterator[Compensation]:
        """What makes up for additions, each followed through all that reads it.

        Raises:
            Tangled: something does not.
        """
        for op in self.program.ops:
            if not any(value in shifted and shifted[value].number.any() for value in op.inputs):
                continue
            found = self._absorbed(op, shifted)
            if found is not None:
                if found.tensor == source.name:
                    raise Tangled
                yield found
                continue
            rule = _RULES.get(op.kind)
            if rule is None or not (op.exact or op.kind in LAYOUT) or len(set(op.inputs)) < len(op.inputs):
                raise Tangled
            shifted[op.output] = rule(self, op, shifted)
        if any(value in shifted and shifted[value].number.any() for value in self.out):
            raise Tangled

    # -- what makes up for it ------------------------------------------------------------------------------------------------

    def _absorbed(self, op: Op, shifted: dict[Value, Terms]) -> Compensation | None:
        """The bias that takes away what an operation would pass on; None if there is none there."""
        held = [slot for slot, value in enumerate(op.inputs) if value in shifted and shifted[value].number.any()]
        if len(held) != 1 or not op.exact:
            return None
        slot = held[0]
        value, terms = op.inputs[slot], shifted[op.inputs[slot]]
        if op.kind == "contract" or op.kind == "convolve" and slot == 0:
            return self._read(op, slot, terms)
        if op.kind == "normalize" and slot == 0 and not op.attrs["mixed"] and "running_mean" in op.attrs["roles"]:
            place = 1 + list(op.attrs["roles"]).index("running_mean")
            return self._taken_away(op, value, terms, place, 0, -1.0)
        if slot_of_sum(op) is not None and all(other not in shifted for other in op.inputs if other is not value):
            return self._taken_away(op, value, terms, 1 - slot, slot, 1.0)
        return None

    def _taken_away(self, op: Op, value: Value, terms: Terms, place: int, slot: int, sign: float) -> Compensation | None:
        """A parameter that has what is added along its own axes, or a buffer that is subtracted."""
        other = op.inputs[place]
        part = part_of(other)
        if part is None or part.value.kind != "parameter" or not is_read_once(other, self.readers):
            return None
        if part.value in self.out or other in self.out:
            return None
        along = [op.labels[slot][d] for d, n in zip(terms.dims, terms.index.shape[1:], strict=True) if n > 1]
        own = [op.labels[place][d] for d in part.dims]
        if not set(along) <= set(own):
            return None
        sizes = [other.shape[d] for d in part.dims]
        places, numbers = (_spread(array, along, own, sizes) for array in (terms.index, terms.number))
        return Compensation(part.value.name, part.index, places, numbers * sign)

    def _read(self, op: Op, slot: int, terms: Terms) -> Compensation | None:
        """The bias that is added to what a reader gives."""
        every, out_labels = _labels(op)
        reader = part_of(op.inputs[1 - slot]) if len(every) == 2 else None
        if reader is None or reader.value.kind != "parameter":
            return None
        labels, met = every[1 - slot], every[slot]
        own = [labels[d] for d in reader.dims]
        kept = [label for label in own if label in out_labels]
        summed = [label for label in own if label not in out_labels]
        shape = op.inputs[1 - slot].shape
        along = [met[d] for d, n in zip(terms.dims, terms.index.shape[1:], strict=True) if n > 1]
        alone = {label for label, n in zip(met, op.inputs[slot].shape, strict=True) if n > 1 and label not in out_labels}
        if len(set(met)) < len(met) or len(set(labels)) < len(labels) or len(kept) != 1 or kept[0] in met:
            return None
        if not set(along) <= set(summed) or alone != set(summed):
            return None
        readers = self.readers.get(op.output, ())
        if len(readers) != 1 or op.output in self.out:
            return None
        after = readers[0]
        if slot_of_sum(after) is None or after.inputs.count(op.output) != 1:
            return None
        place = 1 - after.inputs.index(op.output)
        bias = part_of(after.inputs[place])
        if bias is None or bias.value.kind != "parameter" or len(bias.dims) != 1 or not is_read_once(after.inputs[place], self.readers):
            return None
        if bias.value in self.out or after.inputs[place] in self.out:
            return None
        here = after.labels[1 - place][list(out_labels).index(kept[0])]
        (dim,) = bias.dims
        if after.labels[place][dim] != here or after.inputs[place].shape[dim] != shape[labels.index(kept[0])]:
            return None
        sizes = [shape[labels.index(label)] for label in summed]
        places, numbers = (_spread(array, along, summed, sizes) for array in (terms.index, terms.number))
        axis = reader.wide[own.index(kept[0])]
        return Compensation(bias.value.name, bias.index, places, numbers, reader.value.name, reader.index, axis)

    # -- what passes it on -----------------------------------------------------------------------------------------------------

    def _elementwise(self, op: Op, shifted: dict[Value, Terms]) -> Terms:
        positional, keywords = arguments(op, len(op.inputs))
        numbers = [n for n in positional if isinstance(n, (int, float)) and not isinstance(n, bool)]
        if keywords or len(numbers) + len(op.inputs) != len(positional) or tuple(op.attrs.get("scale", (1, 1))) != (1, 1):
            raise Tangled
        held = {slot: _aligned(op, slot, shifted[value]) for slot, value in enumerate(op.inputs) if value in shifted}
        if op.name in ("add", "sub") and len(positional) == 2 and (positional[0] == "x" or op.name == "add"):
            parts = [replace(t, number=-t.number) if slot == 1 and op.name == "sub" else t for slot, t in held.items()]
            return parts[0] if len(parts) == 1 else _total(parts[0], parts[1], op.output.shape)
        if len(op.inputs) == 1 and len(numbers) == 1 and op.name in ("mul", "div") and (positional[0] == "x" or op.name == "mul") and numbers[0]:
            return replace(held[0], number=held[0].number * float(numbers[0]) ** (1 if op.name == "mul" else -1))
        raise Tangled

    def _contract(self, op: Op, shifted: dict[Value, Terms]) -> Terms:
        """A weighted mean along axes that it is the same along."""
        if not op.attrs.get("product") or len(op.inputs) != 2 or sum(value in shifted for value in op.inputs) != 1:
            raise Tangled
        slot = next(slot for slot, value in enumerate(op.inputs) if value in shifted)
        weights, labels, met = op.inputs[1 - slot], op.labels[1 - slot], op.labels[slot]
        summed = {label for label in (*met, *labels) if label not in op.out_labels}
        terms = shifted[op.inputs[slot]]
        if len(summed) != 1 or not summed <= set(labels) & set(met) or len(set(labels)) < len(labels) or len(set(met)) < len(met):
            raise Tangled
        (label,) = summed
        if labels.index(label) not in self.whole.get(weights, set()) or met.index(label) in terms.dims:
            raise Tangled
        return _aligned(op, slot, terms)

    def _reduce(self, op: Op, shifted: dict[Value, Terms]) -> Terms:
        if op.name != "mean":
            raise Tangled
        return _aligned(op, 0, shifted[op.inputs[0]])

    def _normalize(self, op: Op, shifted: dict[Value, Terms]) -> Terms:
        slots = [slot for slot, value in enumerate(op.inputs) if value in shifted]
        if len(slots) != 1 or not slots[0] or op.attrs["roles"][slots[0] - 1] != "offset":
            raise Tangled
        return _aligned(op, slots[0], shifted[op.inputs[slots[0]]])

    def _gather(self, op: Op, shifted: dict[Value, Terms]) -> Terms:
        terms, dim, more = shifted.get(op.inputs[0]), op.attrs["dim"], op.inputs[1].ndim - 1
        if terms is None or op.inputs[1] in shifted or dim in terms.dims:
            raise Tangled
        return terms.at([d + more if d > dim else d for d in terms.dims])

    def _take(self, op: Op, shifted: dict[Value, Terms]) -> Terms:
        return taken(shifted[op.inputs[0]], op.attrs["dim"], op.attrs["index"], op.inputs[0].shape)

    def _permute(self, op: Op, shifted: dict[Value, Terms]) -> Terms:
        return permuted(shifted[op.inputs[0]], op.attrs["order"], op.inputs[0].shape)

    def _reshape(self, op: Op, shifted: dict[Value, Terms]) -> Terms:
        return reshaped(shifted[op.inputs[0]], op.inputs[0].shape, op.output.shape)

    def _expand(self, op: Op, shifted: dict[Value, Terms]) -> Terms:
        before = op.inputs[0].shape
        return reshaped(shifted[op.inputs[0]], before, before)

    def _concat(self, op: Op, shifted: dict[Value, Terms]) -> Terms:
        return concatenated([shifted.get(value) for value in op.inputs], [value.shape for value in op.inputs], op.attrs["dim"])


def slot_of_sum(op: Op) -> int | None:
    """0 for a sum of two values as they are; None for other operations."""
    if op.kind != "elementwise" or op.name != "add" or len(op.inputs) != 2 or not op.exact:
        return None
    positional, keywords = arguments(op, 2)
    return 0 if positional == ["x", "x"] and not keywords and tuple(op.attrs.get("scale", (1, 1))) == (1, 1) else None


def _labels(op: Op) -> tuple[Sequence[Sequence[Any]], Sequence[Any]]:
    """Labels of a sum of products, as those of convolutions of one tap are; none for other operations."""
    if op.kind == "contract":
        return (op.labels, op.out_labels) if op.attrs.get("product") else ((), ())
    if not op.attrs["pointwise"] or op.attrs["groups"] != 1 or op.attrs["transposed"]:
        return (), ()
    rest = [f"y{i}" for i in range(op.output.ndim - 2)]
    return (["b", "i", *rest], ["o", "i", *(f"tap{i}" for i in range(len(rest)))]), ["b", "o", *rest]


def _aligned(op: Op, slot: int, terms: Terms) -> Terms:
    """Terms along the dimensions of the result; all of them must be there."""
    value, labels, out = op.inputs[slot], op.labels[slot], list(op.out_labels)
    terms = reshaped(terms, value.shape, value.shape)
    if any(labels[d] not in out for d in terms.dims):
        raise Tangled
    return terms.at([out.index(labels[d]) for d in terms.dims])


def _spread(array: Array, along: Sequence[Any], labels: Sequence[Any], sizes: Sequence[int]) -> Array:
    """An array of terms along some labels, over all labels and flat: the same along the others.

    Raises:
        Tangled: it would be too large.
    """
    if len(array) * np.prod(sizes, dtype=float) > MOST:
        raise Tangled
    order = np.argsort([labels.index(label) for label in along])
    narrow = [n if label in along else 1 for label, n in zip(labels, sizes, strict=True)]
    held = array.reshape(len(array), *(n for n in array.shape[1:] if n > 1)).transpose(0, *(1 + order))
    return np.broadcast_to(held.reshape(len(array), *narrow), (len(array), *sizes)).reshape(len(array), -1).copy()


def _total(a: Terms, b: Terms, shape: Sequence[int]) -> Terms:
    """What two operands add together: each is the same along what only the other is followed along."""
    dims = sorted({*a.dims, *b.dims})

    def wide(terms: Terms) -> Terms:
        sizes, narrow = [shape[d] for d in dims], [shape[d] if d in terms.dims else 1 for d in dims]
        if len(terms.index) * np.prod(sizes, dtype=float) > MOST:
            raise Tangled
        spread = terms.each(lambda array: np.broadcast_to(array.reshape(len(array), *narrow), (len(array), *sizes)))
        return replace(spread, dims=tuple(dims))

    return total(wide(a), wide(b))


def _sums_to_one(program: Program) -> dict[Value, set[int]]:
    """Per value that a softmax gives, seen otherwise, the dimensions along which it sums to one."""
    out: dict[Value, set[int]] = {}
    for op in program.ops:
        if op.kind == "mix" and op.exact and op.name in SOFTMAX and len(op.attrs["mixed"]) == 1:
            out[op.output] = {list(op.out_labels).index(op.attrs["mixed"][0])}
        elif op.inputs and op.inputs[0] in out:
            dims = out[op.inputs[0]]
            if op.kind == "permute":
                out[op.output] = {list(op.attrs["order"]).index(d) for d in dims}
            elif op.kind == "reshape":
                out[op.output] = {news[0] for olds, news in regrouped(op.inputs[0].shape, op.output.shape)
                                  if len(olds) == len(news) == 1 and olds[0] in dims}  # fmt: skip
    return out


_RULES: dict[str, Callable[[_Finder, Op, dict[Value, Terms]], Any]] = {
    "elementwise": _Finder._elementwise, "contract": _Finder._contract, "reduce": _Finder._reduce, "normalize": _Finder._normalize,
    "gather": _Finder._gather, "take": _Finder._take, "permute": _Finder._permute, "reshape": _Finder._reshape, "expand": _Finder._expand,
    "concat": _Finder._concat,
}  # fmt: skip
