"""Finds layer normalisations with an offset that only linear maps read: these can make up for what is added to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from paramgraph.compiler.operations.scaling import CENTRED
from paramgraph.compiler.parts import is_read_once, part_of
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.terms import Tangled, regrouped
from paramgraph.symmetries.group import Moving
from paramgraph.symmetries.offsets import OffsetFactor
from paramgraph.symmetries.readers import Reader, ReadOffsetFactor


def find_read_offsets(program: Program, found: Sequence[Moving]) -> Iterator[ReadOffsetFactor]:
    """The offsets that no bias makes up for.

    Args:
        program: the program.
        found: factors that are known.
    """
    readers, out = program.readers(), program.results()
    known = {factor.tensor for factor in found if isinstance(factor, OffsetFactor) and factor.dimension == max(program.tensors[factor.tensor].shape)}
    for op in program.ops:
        if op.kind != "normalize" or not op.exact or op.name not in CENTRED or len(op.attrs["mixed"]) != 1:
            continue
        roles = dict(zip(op.attrs["roles"], op.inputs[1:], strict=True))
        label = op.attrs["mixed"][0]
        if "offset" not in roles or not set(roles) <= {"gain", "offset"} or label not in op.out_labels or roles["offset"].name in known:
            continue
        # Gain and offset must lie along the axis of mean zero, not along another one of its size.
        plain = all(value.kind == "parameter" and list(labels) == [label] for value, labels in zip(op.inputs[1:], op.labels[1:], strict=True))
        if not plain or len(set(op.inputs[1:])) < len(roles) or roles["offset"] in out or not is_read_once(roles["offset"], readers):
            continue
        try:
            read = tuple(_read(op.output, list(op.out_labels).index(label), readers, out))
        except Tangled:
            continue
        if read and not {each.tensor for each in read} & {value.name for value in roles.values()}:
            offset, gain = roles["offset"], roles["gain"].name if "gain" in roles else ""
            name = f"additions to {offset.name}, made up for by what reads it"
            yield ReadOffsetFactor(name, offset.name, gain, offset.shape[0], read)


def _read(value: Value, axis: int, readers: dict[Value, list[Op]], out: set[Value]) -> Iterator[Reader]:
    """All that reads a value of mean zero along an axis, but for gain and offset.

    Raises:
        Tangled: something is no linear map along the axis.
    """
    if value in out:
        raise Tangled
    for op in readers.get(value, ()):
        if op.kind == "permute":
            yield from _read(op.output, list(op.attrs["order"]).index(axis), readers, out)
        elif op.kind == "take" and op.attrs["dim"] != axis:
            yield from _read(op.output, axis, readers, out)
        elif op.kind == "reshape" and 0 not in value.shape:
            moved = [news[0] for olds, news in regrouped(value.shape, op.output.shape) if olds == [axis] and len(news) == 1]
            if not moved:
                raise Tangled
            yield from _read(op.output, moved[0], readers, out)
        elif op.kind == "reduce" and op.exact and op.name == "mean" and op.labels[0][axis] in op.out_labels:
            yield from _read(op.output, list(op.out_labels).index(op.labels[0][axis]), readers, out)
        elif op.kind == "contract":
            yield _reader(op, value, axis, readers, out)
        else:
            raise Tangled


def _reader(op: Op, value: Value, axis: int, readers: dict[Value, list[Op]], out: set[Value]) -> Reader:
    if not op.exact or not op.attrs.get("product") or len(op.inputs) != 2 or op.inputs.count(value) != 1:
        raise Tangled
    slot = op.inputs.index(value)
    met, own, other = op.labels[slot], op.labels[1 - slot], op.inputs[1 - slot]
    part = part_of(other)
    if part is None or part.value.kind != "parameter" or part.value in out or other in out or not is_read_once(other, readers):
        raise Tangled
    labels = [own[d] for d in part.dims]
    if met[axis] in op.out_labels or met[axis] not in labels or len(set(met)) < len(met) or len(set(own)) < len(own):
        raise Tangled
    along = part.wide[labels.index(met[axis])]
    if part.index[along] is not None or part.value.shape[along] != value.shape[axis]:
        raise Tangled
    return Reader(part.value.name, part.index, along)
