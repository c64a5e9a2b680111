"""Permutations of sets of a tensor's dimensions, and how an operation of layout divides dimensions into such sets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from paramgraph.compiler.program import Op
from paramgraph.compiler.terms import regrouped

# Per set of dimensions that move together, where the new value of each flat place comes from.
Moves = dict[tuple[int, ...], np.ndarray]


def parts(op: Op, target: Moves, sources: Sequence[Moves]) -> list[tuple[list[int], list[int]]]:
    """The least sets of dimensions, of the operands and of the result, that an operation and the moves of both leave to themselves.

    Permutations of a product of such sets are equal if they are on each of them. Sets on which nothing moves are left out.
    """
    if op.kind == "reshape":
        groups = list(regrouped(op.inputs[0].shape, op.output.shape))
    else:
        groups = [([d], [d]) for d in range(op.output.ndim)]
    own, others = ({d: i for i, group in enumerate(groups) for d in group[side]} for side in (0, 1))
    moved = [{own[d] for d in dims if d in own} for moves in sources for dims in moves]
    moved += [{others[d] for d in dims if d in others} for dims in target]
    out: list[tuple[list[int], list[int]]] = []
    done: set[int] = set()
    for first in moved:
        if not first <= done:
            inside = connected(set(first), [tuple(together) for together in moved])
            done.update(inside)
            out.append(([d for i in inside for d in groups[i][0]], [d for i in inside for d in groups[i][1]]))
    return out


def run(op: Op, numbers: Sequence[np.ndarray], news: Sequence[int]) -> np.ndarray:
    """The operation, on some of its dimensions."""
    if op.kind == "reshape":
        return numbers[0]  # numbers stay in order
    dim = list(news).index(op.attrs["dim"])
    return numbers[0].take(np.asarray(op.attrs["index"]), axis=dim) if op.kind == "take" else np.concatenate(numbers, axis=dim)


def connected(dims: set[int], groups: Sequence[tuple[int, ...]]) -> list[int]:
    grown = True
    while grown:
        grown = False
        for group in groups:
            if not dims.isdisjoint(group) and not dims.issuperset(group):
                dims |= set(group)
                grown = True
    return sorted(dims)


def flat(moves: Moves, dims: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """The permutation over the row-major product of some dimensions, made of the sets of dimensions inside it."""
    whole = moves.get(tuple(dims))
    if whole is not None:
        return whole
    sizes = [shape[d] for d in dims]
    steps = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    still = set(range(len(dims)))
    out: np.ndarray = np.zeros([1] * len(dims), dtype=np.int64)
    for own, source in moves.items():
        at = [dims.index(d) for d in own if d in dims]
        if len(at) == len(own):
            still -= set(at)
            out = out + _spread(source, at, sizes, steps)
    for i in still:
        out = out + _spread(np.arange(sizes[i]), [i], sizes, steps)
    return np.broadcast_to(out, sizes).reshape(-1)


def _spread(source: np.ndarray, at: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> np.ndarray:
    """What the flat places along some dimensions add to those of the product of all, in the shape of that."""
    own = [sizes[i] for i in at]
    coordinates = np.unravel_index(source, own) if len(at) > 1 else (source,)
    added = sum(coordinate * steps[i] for coordinate, i in zip(coordinates, at, strict=True))
    inside = np.asarray(added).reshape(own).transpose(np.argsort(at))
    return inside.reshape([n if i in at else 1 for i, n in enumerate(sizes)])


def projection(inside: Sequence[int], held: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """Per flat place of the product of `inside`, the flat place of its projection on `held`."""
    out: np.ndarray = np.zeros([1] * len(inside), dtype=np.int64)
    for d in held:
        i = list(inside).index(d)
        out = out * sizes[d] + np.arange(sizes[d]).reshape([-1 if e == i else 1 for e in range(len(inside))])
    return np.broadcast_to(out, [sizes[d] for d in inside]).reshape(-1)


def same(a: Moves, b: Moves, shape: Sequence[int]) -> bool:
    dims = sorted({d for moves in (a, b) for group in moves for d in group})
    return is_alike(flat(a, dims, shape), flat(b, dims, shape))


def is_alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two permutations are equal; the same few arrays stand for most."""
    return a is b or bool(np.array_equal(a, b))


def is_identity(source: np.ndarray) -> bool:
    return bool((source == np.arange(len(source))).all())


def is_still(permutations: np.ndarray) -> bool:
    """Whether permutations, one a row, move nothing."""
    return bool((permutations == np.arange(permutations.shape[-1])).all())
