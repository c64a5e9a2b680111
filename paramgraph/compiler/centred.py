"""Finds readers of layer normalisations, to which the sum of what is normalised may be added."""

from __future__ import annotations

from collections.abc import Iterator

from paramgraph.compiler.operations.scaling import CENTRED
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.reflections import offset_of
from paramgraph.symmetries.centred import CentredFactor


def find_centred(program: Program) -> tuple[CentredFactor, ...]:
    """The additions to single readers."""
    return tuple(_Finder(program).run())


class _Finder:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.readers: dict[Value, list[Op]] = {}
        for op in program.ops:
            for value in op.inputs:
                self.readers.setdefault(value, []).append(op)
        self.out = {value for pair in program.outputs for value in pair if value is not None}

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
        reader, met, own = op.inputs[1 - slot], op.labels[slot], op.labels[1 - slot]
        label = met[axis]
        summed = {other for other in (*met, *own) if other not in op.out_labels}
        if reader.kind != "parameter" or len(self.readers[reader]) != 1 or reader in self.out or summed != {label} or label not in own:
            return
        if len(set(met)) < len(met) or len(set(own)) < len(own) or not set(met).isdisjoint(set(own) - {label}):
            return
        along = list(own).index(label)
        if reader.shape[along] != value.shape[axis]:
            return
        shape = tuple(1 if d == along else n for d, n in enumerate(reader.shape))
        bias = ""
        if "offset" in roles:
            found = self._bias(op, own, along, reader)
            if found is None:
                return
            bias = found.name
        gain, offset = (roles[role].name if role in roles else "" for role in ("gain", "offset"))
        yield CentredFactor(f"sums of what is normalised, added to {reader.name}", reader.name, along, shape, gain, offset, bias)

    def _bias(self, op: Op, own: tuple[object, ...], along: int, reader: Value) -> Value | None:
        """The bias that is added to what a reader of one other axis gives."""
        readers = self.readers.get(op.output, ())
        if len(readers) != 1 or op.output in self.out or reader.ndim != 2 or readers[0].kind != "elementwise":
            return None
        found = offset_of(readers[0])
        if found is None or found.kind != "parameter" or found.ndim != 1 or len(self.readers[found]) != 1 or found in self.out:
            return None
        place = readers[0].inputs.index(found)
        label = readers[0].labels[1 - place][list(op.out_labels).index(own[1 - along])]
        fits = list(readers[0].labels[place]) == [label] and found.shape[0] == reader.shape[1 - along]
        return found if fits else None
