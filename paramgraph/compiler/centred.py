"""Finds readers of layer normalisations, to which the sum of what is normalised may be added."""

from __future__ import annotations

import math
from collections.abc import Iterator

from paramgraph.compiler.offsets import slot_of_sum
from paramgraph.compiler.operations.scaling import CENTRED
from paramgraph.compiler.parts import PartOf, is_read_once, part_of
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.symmetries.centred import CentredFactor


def find_centred(program: Program) -> tuple[CentredFactor, ...]:
    """The additions to single readers."""
    return tuple(_Finder(program).run())


class _Finder:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.readers = program.readers()
        self.out = program.results()

    def run(self) -> Iterator[CentredFactor]:
        for op in self.program.ops:
            if op.kind != "normalize" or not op.exact or op.name not in CENTRED or len(op.attrs["mixed"]) != 1:
                continue
            roles = dict(zip(op.attrs["roles"], op.inputs[1:], strict=True))
            label = op.attrs["mixed"][0]
            if not set(roles) <= {"gain", "offset"} or label not in op.out_labels:
                continue
            axis = list(op.out_labels).index(label)
            # Gain and offset must lie along the axis of mean zero, not along another one of its size.
            if all(value.kind == "parameter" and list(labels) == [label] for value, labels in zip(op.inputs[1:], op.labels[1:], strict=True)):
                yield from self._read(op.output, axis, roles)

    def _read(self, value: Value, axis: int, roles: dict[str, Value]) -> Iterator[CentredFactor]:
        """The readers of a value of mean zero along an axis, but for gain and offset."""
        last = value.ndim - 1
        for op in self.readers.get(value, ()):
            out = op.output
            if op.kind == "contract":
                yield from self._reader(op, value, axis, roles)
            elif op.kind == "permute":
                yield from self._read(out, list(op.attrs["order"]).index(axis), roles)
            elif op.kind == "take" and op.attrs["dim"] != axis:
                yield from self._read(out, axis, roles)
            elif op.kind == "reshape" and axis == last and out.ndim and out.shape[-1] == value.shape[-1] > 1:
                yield from self._read(out, out.ndim - 1, roles)
            elif op.kind == "reduce" and op.exact and op.name == "mean" and op.labels[0][axis] in op.out_labels:
                yield from self._read(out, list(op.out_labels).index(op.labels[0][axis]), roles)

    def _reader(self, op: Op, value: Value, axis: int, roles: dict[str, Value]) -> Iterator[CentredFactor]:
        if not op.exact or not op.attrs.get("product") or len(op.inputs) != 2 or op.inputs.count(value) != 1:
            return
        slot = op.inputs.index(value)
        met, own = op.labels[slot], op.labels[1 - slot]
        part = part_of(op.inputs[1 - slot])
        if part is None or part.value.kind != "parameter" or part.value in self.out or not is_read_once(op.inputs[1 - slot], self.readers):
            return
        reader, label = part.value, met[axis]
        labels = [own[d] for d in part.dims]
        summed = {other for other in (*met, *own) if other not in op.out_labels}
        if summed != {label} or label not in labels or len(set(met)) < len(met) or len(set(own)) < len(own):
            return
        if not set(met).isdisjoint(set(own) - {label}):
            return
        along = part.wide[labels.index(label)]
        if part.index[along] is not None or reader.shape[along] != value.shape[axis]:
            return
        sizes = [n if index is None else len(index) for index, n in zip(part.index, reader.shape, strict=True)]
        shape = tuple(1 if d == along else n for d, n in enumerate(sizes))
        bias: PartOf | None = None
        if "offset" in roles:
            bias = self._bias(op, [other for other in labels if other != label], math.prod(shape))
            if bias is None:
                return
        gain, offset = (roles[role].name if role in roles else "" for role in ("gain", "offset"))
        named = "" if all(index is None for index in part.index) else " (a part)"
        yield CentredFactor(
            f"sums of what is normalised, added to {reader.name}{named}", reader.name, along, shape, gain, offset,
            bias.value.name if bias is not None else "", part.index if named else (), bias.index[0] if bias is not None else None,
        )  # fmt: skip

    def _bias(self, op: Op, kept: list[object], size: int) -> PartOf | None:
        """The bias that is added to what a reader of one other axis gives."""
        readers = self.readers.get(op.output, ())
        if len(readers) != 1 or op.output in self.out or len(kept) != 1 or slot_of_sum(readers[0]) is None:
            return None
        if readers[0].inputs.count(op.output) != 1:
            return None
        place = 1 - readers[0].inputs.index(op.output)
        other = readers[0].inputs[place]
        found = part_of(other)
        if found is None or found.value.kind != "parameter" or found.value.ndim != 1 or len(found.dims) != 1 or other in self.out:
            return None
        if found.value in self.out or not is_read_once(other, self.readers):
            return None
        label = readers[0].labels[1 - place][list(op.out_labels).index(kept[0])]
        (dim,) = found.dims
        return found if readers[0].labels[place][dim] == label and other.shape[dim] == size else None
