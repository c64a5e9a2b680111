"""Rewriting a program before typing: a packed projection that is only read in slices becomes one projection per slice.

Query, key and value (or gate and up) of one packed weight are different things to the function. Taking the slice of the weight instead
of the result gives each its own nodes and edges, of its own type; values stay where they are, as views of the packed parameter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from paramgraph.compiler.builder import Builder
from paramgraph.compiler.program import Op, Program, Value

# A piece of a dimension on its way through reshapes: (step within the packed dimension, or 0 if it is from another, size).
Piece = tuple[int, int]


@dataclass
class Packed:
    """A projection whose result is only read in slices.

    Attributes:
        chain: operations from the projection to the value that is sliced.
        takes: the slicing operations.
        split: the packed dimension as (outer, sliced, inner) sizes.
        sliced: for each operation of the chain, the dimensions of its result as pieces, of which the sliced one is marked.
    """

    chain: list[Op]
    takes: list[Op]
    split: tuple[int, int, int]
    sliced: list[list[list[Piece]]]


def split_packed(program: Program) -> None:
    """Rewrite every packed projection of a program, in place."""
    readers: dict[Value, list[Op]] = {}
    for op in program.ops:
        for value in op.inputs:
            readers.setdefault(value, []).append(op)
    kept = {value for value, _ in program.outputs}
    found = {}
    for op in program.ops:
        packed = _find(op, readers, kept)
        if packed is not None:
            found[op] = packed
    if not found:
        return
    gone = {op for packed in found.values() for op in (*packed.chain, *packed.takes)}
    ops, program.ops = program.ops, []
    builder = Builder(program)
    for op in ops:
        if op in found:
            for take in found[op].takes:
                _rebuild(builder, found[op], take)
        elif op not in gone:
            program.ops.append(op)


def _find(op: Op, readers: dict[Value, list[Op]], kept: set[Value]) -> Packed | None:
    """Follow a projection's result through a bias, reshapes and permutations to slices, if that is all it is read by."""
    dim = _packed_dim(op)
    if dim is None:
        return None
    dims: list[list[Piece]] = [[(int(d == dim), n)] for d, n in enumerate(op.output.shape)]
    chain, value, total = [op], op.output, op.output.shape[dim]
    while True:
        users = readers.get(value, [])
        if value in kept or not users:
            return None
        if len(users) > 1 or users[0].kind == "take":
            break
        after = _follow(users[0], value, dims, dim)
        if after is None:
            return None
        dims, dim = after
        chain.append(users[0])
        value = users[0].output
    if not all(user.kind == "take" and user.inputs == (value,) for user in users) or len({u.attrs["dim"] for u in users}) != 1:
        return None
    at = users[0].attrs["dim"]
    if len(users) < 2 or len(dims[at]) != 1 or not dims[at][0][0]:
        return None
    indices = [user.attrs["index"] for user in users]
    if not all(isinstance(index, range) for index in indices) or not _are_disjoint(indices):
        return None
    step, size = dims[at][0]
    pieces = [piece for own in dims for piece in own if piece[0]]
    if not _is_row_major(pieces, total):
        return None
    split = (total // (step * size), size, step)
    sliced = _sliced(chain, split)
    return None if sliced is None else Packed(chain, users, split, sliced)


def _are_disjoint(indices: list[range]) -> bool:
    """Whether no element is in two slices."""
    if all(index.step == 1 for index in indices):
        ordered = sorted(indices, key=lambda index: index.start)
        return all(before.stop <= after.start for before, after in pairwise(ordered))
    taken = np.concatenate([np.asarray(index) for index in indices])
    return len(np.unique(taken)) == len(taken)


def _is_row_major(pieces: list[Piece], total: int) -> bool:
    """Whether the pieces make up the whole packed dimension."""
    for step, size in sorted(pieces, reverse=True):
        if total != step * size:
            return False
        total = step
    return total == 1


def _packed_dim(op: Op) -> int | None:
    """The dimension of a projection's result that its weight's first axis gives."""
    if op.kind == "contract" and len(op.inputs) == 2 and not op.inputs[0].parametric and op.inputs[1].parametric:
        label = op.labels[1][0] if op.labels[1] else None
        if label in op.out_labels and label not in op.labels[0]:
            return op.out_labels.index(label)
    if op.kind == "convolve" and op.inputs[1].parametric and op.attrs["groups"] == 1 and not op.attrs["transposed"]:
        return 1
    return None


def _follow(user: Op, value: Value, dims: list[list[Piece]], dim: int) -> tuple[list[list[Piece]], int] | None:
    if user.kind == "permute":
        return [dims[d] for d in user.attrs["order"]], dim
    if user.kind == "elementwise" and user.attrs.get("role") == "bias" and user.inputs[0] is value and user.inputs[1].parametric:
        whole = all(len(own) == 1 for own in dims)
        bias = user.inputs[1]
        lone = [n for n in bias.shape if n != 1]
        return (dims, dim) if whole and lone == [value.shape[dim]] and bias.shape[dim - value.ndim + bias.ndim] == lone[0] else None
    if user.kind == "reshape":
        regrouped = _regroup([piece for own in dims for piece in own], user.output.shape)
        return None if regrouped is None else (regrouped, dim)
    return None


def _regroup(pieces: list[Piece], shape: tuple[int, ...]) -> list[list[Piece]] | None:
    stack = [piece for piece in reversed(pieces) if piece[1] > 1]
    out: list[list[Piece]] = []
    for size in shape:
        own: list[Piece] = []
        left = size
        while left > 1:
            if not stack:
                return None
            step, n = stack.pop()
            if left % n == 0:
                own.append((step, n))
                left //= n
            elif n % left == 0:
                own.append((step * (n // left), left))
                stack.append((step, n // left))
                left = 1
            else:
                return None
        out.append(own)
    return out


def _rebuild(b: Builder, packed: Packed, take: Op) -> None:
    """The chain again for one slice, from the slice of the weight (and bias) on; its end is the slicing operation's own value."""
    first, *rest = packed.chain
    outer, middle, inner = packed.split
    index = take.attrs["index"]
    share = len(index)
    b.where = first.where

    def sliced(value: Value, dim: int) -> Value:
        shape = value.shape
        if outer == 1 and index.step == 1:
            # One operand meets every slice, so what the weight contracts cannot differ between slices.
            return b.take(value, dim, range(index.start * inner, index.stop * inner), alone=True)
        parts = b.reshape(value, [*shape[:dim], outer, middle, inner, *shape[dim + 1 :]])
        return b.reshape(b.take(parts, dim + 1, index), [*shape[:dim], outer * share * inner, *shape[dim + 1 :]])

    total = outer * middle * inner
    dim = _packed_dim(first) or 0
    shape = [outer * share * inner if d == dim else n for d, n in enumerate(first.output.shape)]
    value = b.repeat(first, [first.inputs[0], sliced(first.inputs[1], 0)], shape)
    at = take.attrs["dim"]
    for op, pieces in zip(rest, packed.sliced[1:], strict=True):
        if op.kind == "permute":
            value = b.permute(value, op.attrs["order"])
        elif op.kind == "elementwise":
            bias = op.inputs[1]
            value = b.repeat(op, [value, sliced(bias, bias.shape.index(total))], value.shape)
        else:
            value = b.reshape(value, _share(op.output.shape, pieces, share))
    end = take.output
    final = [share if d == at else n for d, n in enumerate(take.inputs[0].shape)]
    b.rename(b.reshape(value, final), end)


def _sliced(chain: list[Op], split: tuple[int, int, int]) -> list[list[list[Piece]]] | None:
    """The dimensions of each result along a chain as pieces, of which the sliced one is marked; None where a reshape cuts one."""
    outer, middle, inner = split
    dim = _packed_dim(chain[0])
    pieces: list[list[Piece]] = [
        [(0, outer), (1, middle), (0, inner)] if d == dim else [(0, n)] for d, n in enumerate(chain[0].output.shape)
    ]
    out = [pieces]
    for step in chain[1:]:
        if step.kind == "permute":
            pieces = [pieces[d] for d in step.attrs["order"]]
        elif step.kind == "reshape":
            regrouped = _regroup([piece for own in pieces for piece in own], step.output.shape)
            if regrouped is None:
                return None
            pieces = regrouped
        out.append(pieces)
    return out


def _share(shape: tuple[int, ...], pieces: list[list[Piece]], share: int) -> list[int]:
    """The shape of a reshape's result where the sliced piece has only `share` elements left."""
    return [math.prod([share if sliced else n for sliced, n in own]) if any([s for s, _ in own]) else full
            for own, full in zip(pieces, shape, strict=True)]  # fmt: skip
