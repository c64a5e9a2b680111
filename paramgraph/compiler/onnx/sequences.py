"""Sequences of tensors: lists while lowering, which no operation of the program sees."""

from __future__ import annotations

from typing import Any

from paramgraph.compiler.aten.layout import _run, stack
from paramgraph.compiler.builder import Builder
from paramgraph.compiler.onnx.arguments import number, numbers
from paramgraph.compiler.program import Value
from paramgraph.compiler.rules import rule


@rule("ai.onnx::SequenceConstruct")
def construct(b: Builder, *values: Value) -> list[Value]:
    return list(values)


@rule("ai.onnx::SequenceEmpty")
def empty(b: Builder, **_: Any) -> list[Value]:
    return []


@rule("ai.onnx::SequenceAt")
def at(b: Builder, sequence: list[Value], position: Value) -> Value:
    return sequence[number(position)]


@rule("ai.onnx::SequenceInsert")
def insert(b: Builder, sequence: list[Value], value: Value, position: Value | None = None) -> list[Value]:
    out = list(sequence)
    out.insert(len(out) if position is None else number(position), value)
    return out


@rule("ai.onnx::SequenceErase")
def erase(b: Builder, sequence: list[Value], position: Value | None = None) -> list[Value]:
    out = list(sequence)
    out.pop(-1 if position is None else number(position))
    return out


@rule("ai.onnx::SplitToSequence")
def split(b: Builder, x: Value, sizes: Value | None = None, *, axis: int = 0, keepdims: int = 1) -> list[Value]:
    """In pieces of one, of one size, or of given sizes."""
    axis %= x.ndim
    total = x.shape[axis]
    if sizes is None:
        parts = [b.take(x, axis, range(i, i + 1)) for i in range(total)]
        return parts if keepdims else [b.reshape(p, [*x.shape[:axis], *x.shape[axis + 1 :]]) for p in parts]
    given = numbers(sizes)
    if sizes.ndim == 0:
        given = [min(given[0], total - start) for start in range(0, total, given[0])]
    ends = [sum(given[: i + 1]) for i in range(len(given))]
    return [_run(b, x, axis, range(end - n, end)) for n, end in zip(given, ends, strict=True)]


@rule("ai.onnx::ConcatFromSequence")
def concat(b: Builder, sequence: list[Value], *, axis: int, new_axis: int = 0) -> Value:
    return stack(b, sequence, axis) if new_axis else b.concat(sequence, axis)
