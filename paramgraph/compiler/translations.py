"""Finds what may be added to parameters: the addition is followed through the program until something takes it away.

Of what is added to a value it is known along which axes it is the same everywhere. Linear operations pass it on. A softmax, or the mean that a
normalisation subtracts, takes away what is the same all along its axes. Any other function, or an output, forbids the addition.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paramgraph.compiler.operations.functions import SUMS, kind_of
from paramgraph.compiler.operations.positional import RESAMPLED
from paramgraph.compiler.operations.scaling import CENTRED, arguments
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.scales import ScaleSolver
from paramgraph.compiler.terms import regrouped
from paramgraph.symmetries.translations import TranslationFactor

Array = np.ndarray
SOFTMAX = frozenset("softmax log_softmax safe_softmax".split())


@dataclass(frozen=True)
class _Added:
    """What is added to a value.

    Attributes:
        same: per dimension, whether it is the same all along it.
        where: per dimension, outside which positions it is certainly zero; None if that is not known of any.
    """

    same: tuple[bool, ...]
    where: tuple[Array | None, ...]


class _Forbidden(Exception):
    """Something depends on what was added."""


def find_translations(program: Program, solver: ScaleSolver) -> tuple[TranslationFactor, ...]:
    """The translations of single parameters.

    Args:
        program: the program.
        solver: its solved scales: parameters are cut where their characters are.
    """
    out = []
    readers = _readers(program)
    for value in program.tensors.values():
        if value.kind != "parameter" or value not in solver.characters or 0 in value.shape:
            continue
        choices = list(_choices(value.ndim))
        for box in _boxes(value, solver):
            follows = {same: _Following(program, readers, value, box, same) for same in choices}
            found = [same for same, following in follows.items() if following.is_taken_away]
            # Where nothing was cut on the way to what forbids it, it forbids additions to parts, too.
            choices = [same for same, following in follows.items() if following.is_taken_away or following.is_cut]
            found = [same for same in found if not any(set(other) < set(same) for other in found)]
            for same in found:
                sizes = [n if index is None else len(index) for index, n in zip(box, value.shape, strict=True)]
                shape = tuple(1 if d in same else n for d, n in enumerate(sizes))
                part = "" if all(index is None for index in box) else " (a part)"
                out.append(TranslationFactor(f"additions to {value.name}{part}", value.name, box, shape))
            if found and all(index is None for index in box):
                break  # parts of it add nothing new
    return tuple(out)


def _choices(rank: int) -> Iterator[tuple[int, ...]]:
    """Axes along which what is added may be the same."""
    yield ()
    for d in range(rank if rank > 1 else 0):
        yield (d,)
    if rank == 1:
        yield (0,)


def _boxes(value: Value, solver: ScaleSolver) -> Iterator[tuple[Array | None, ...]]:
    """The whole tensor, then its parts along each axis that the program cuts."""
    yield (None,) * value.ndim
    for d, layout in enumerate(solver.characters[value].layouts):
        if len(layout.blocks) > 1:
            for block in layout.blocks:
                yield tuple(block.positions if e == d else None for e in range(value.ndim))


def _readers(program: Program) -> dict[Value, list[int]]:
    """Numbers of the operations that read each value, in order."""
    out: dict[Value, list[int]] = {}
    for number, op in enumerate(program.ops):
        for value in dict.fromkeys(op.inputs):
            out.setdefault(value, []).append(number)
    return out


class _Following:
    """What becomes of an addition.

    Args:
        program: the program.
        readers: numbers of the operations that read each value.
        value: a parameter.
        box: the part of it that is added to.
        same: axes along which the same is added.

    Attributes:
        is_taken_away: whether all of it is.
        is_cut: whether some of it was cut off, or would be where less is added to.
    """

    def __init__(
        self, program: Program, readers: Mapping[Value, Sequence[int]], value: Value, box: Sequence[Array | None], same: Sequence[int]
    ) -> None:
        self.is_taken_away, self.is_cut = False, False
        if any(box[d] is not None for d in same):
            self.is_cut = True
            return
        where = tuple(None if index is None else np.isin(np.arange(n), index) for index, n in zip(box, value.shape, strict=True))
        added = {value: _Added(tuple(d in same or n == 1 for d, n in enumerate(value.shape)), where)}
        gone = False
        waiting = list(readers.get(value, ()))  # numbers of operations, in a heap: in the order of the program
        last = -1
        try:
            while waiting:
                number = heapq.heappop(waiting)
                if number == last:
                    continue
                last, op = number, program.ops[number]
                self.is_cut = self.is_cut or op.kind == "take"
                found = _passed(op, [slot for slot, operand in enumerate(op.inputs) if operand in added], added)
                gone = gone or found is None
                if found is not None and not any(part is not None and not part.any() for part in found.where):
                    added[op.output] = found
                    for reader in readers.get(op.output, ()):
                        heapq.heappush(waiting, reader)
        except _Forbidden:
            return
        self.is_taken_away = gone and not any(out in added or buffer in added for out, buffer in program.outputs)
        self.is_cut = True  # nothing forbids it on the way: parts of it are asked for again


def _passed(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added | None:
    """What an operation adds to its result; None if it takes it all away.

    Raises:
        _Forbidden: its result depends on what was added in another way.
    """
    rule = _RULES.get(op.kind)
    if rule is None or not (op.exact or op.kind in ("reshape", "permute", "take", "concat", "expand")):
        raise _Forbidden
    return rule(op, held, added)


def _by_label(op: Op, held: Sequence[int], added: dict[Value, _Added], spread: bool) -> _Added:
    """What is added, along the labels of the result.

    Args:
        spread: other operands multiply it: it varies along their labels, too.
    """
    same: list[bool] = []
    where: list[Array | None] = []
    for label in op.out_labels:
        alike = True
        masks: list[Array | None] = []
        for slot, (labels, value) in enumerate(zip(op.labels, op.inputs, strict=True)):
            if label not in labels or value.shape[labels.index(label)] == 1:
                if slot in held:
                    masks.append(None)
                continue
            d = labels.index(label)
            if slot in held:
                alike = alike and added[value].same[d]
                masks.append(added[value].where[d])
            elif spread:
                alike = False
        same.append(alike)
        known = [mask for mask in masks if mask is not None]
        where.append(np.logical_or.reduce(np.stack(known)) if len(known) == len(masks) else None)
    return _Added(tuple(same), tuple(where))


def _contract(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added:
    if len(held) != 1 or not op.attrs.get("product") or any(len(set(labels)) < len(labels) for labels in op.labels):
        raise _Forbidden
    return _by_label(op, held, added, True)


def _elementwise(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added:
    positional, keywords = arguments(op, len(op.inputs))
    if op.name in SUMS:
        return _by_label(op, held, added, False)
    if op.name == "mul" and len(held) == 1:
        return _by_label(op, held, added, True)
    if op.name in ("div", "true_divide") and held == [0] and positional[:1] == ["x"] and keywords.get("rounding_mode") is None:
        return _by_label(op, held, added, True)
    if op.name == "masked_fill" and held == [0] and len(positional) == 3 and positional[:2] == ["x", "x"] and positional[2] in (math.inf, -math.inf):
        return _by_label(op, held, added, False)  # an infinity is itself plus anything
    if len(op.inputs) == 1 and kind_of(op.name, positional, keywords) == (1, "odd"):
        return _by_label(op, held, added, False)
    raise _Forbidden


def _reduce(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added:
    if op.name not in ("sum", "mean"):
        raise _Forbidden
    return _by_label(op, held, added, False)


def _mix(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added | None:
    found = _by_label(op, held, added, False)
    dims = [op.out_labels.index(label) for label in op.attrs["mixed"]]
    if op.name in SOFTMAX and all(found.same[d] for d in dims):
        return None
    if not op.attrs.get("linear"):
        raise _Forbidden
    return _loosened(found, dims)


def _normalize(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added | None:
    """A mean over the axes is subtracted, of the operand itself; with running statistics, the map is affine."""
    if held != [0] or op.name not in CENTRED:
        raise _Forbidden
    mixed, roles = op.attrs["mixed"], op.attrs["roles"]
    if not mixed and "running_mean" in roles:
        return _by_label(op, held, added, True)
    value = op.inputs[0]
    if mixed and "running_mean" not in roles and all(added[value].same[op.labels[0].index(label)] for label in mixed):
        return None
    raise _Forbidden


def _convolve(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added:
    """Sums over channels and taps, which borders cut short."""
    if len(held) != 1:
        raise _Forbidden
    (slot,) = held
    same = [False] * op.output.ndim
    if slot == 0:
        same[0] = added[op.inputs[0]].same[0]
    elif op.attrs["groups"] == 1:
        same[1] = added[op.inputs[1]].same[1 if op.attrs["transposed"] else 0]
    return _Added(tuple(same), (None,) * op.output.ndim)


def _resample(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added:
    if RESAMPLED.get(op.name, ("odd", 1) if op.name.endswith(" padding") else None) != ("odd", 1):
        raise _Forbidden
    return _loosened(added[op.inputs[0]], op.attrs["dims"])


def _gather(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added:
    if held != [0]:
        raise _Forbidden
    x, index = op.inputs
    found, dim = added[x], op.attrs["dim"]
    inner = (found.same[dim],) * index.ndim
    return _Added((*found.same[:dim], *inner, *found.same[dim + 1 :]), (*found.where[:dim], *(None,) * index.ndim, *found.where[dim + 1 :]))


def _permute(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added:
    found, order = added[op.inputs[0]], op.attrs["order"]
    return _Added(tuple(found.same[d] for d in order), tuple(found.where[d] for d in order))


def _take(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added:
    found, dim, index = added[op.inputs[0]], op.attrs["dim"], np.asarray(op.attrs["index"])
    return _Added(found.same, tuple(mask[index] if d == dim and mask is not None else mask for d, mask in enumerate(found.where)))


def _expand(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added:
    return added[op.inputs[0]]  # axes of one element: it is the same along them


def _concat(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added:
    dim, parts = op.attrs["dim"], [added[op.inputs[slot]] for slot in held]
    masks = []
    for slot, value in enumerate(op.inputs):
        mask = added[value].where[dim] if slot in held else np.zeros(value.shape[dim], dtype=bool)
        masks.append(np.ones(value.shape[dim], dtype=bool) if mask is None else mask)
    same = tuple(d != dim and all(part.same[d] for part in parts) for d in range(op.output.ndim))
    return _Added(same, tuple(np.concatenate(masks) if d == dim else None for d in range(op.output.ndim)))


def _reshape(op: Op, held: Sequence[int], added: dict[Value, _Added]) -> _Added:
    """Axes that are regrouped together: the same all along them if it was along all that they are made of."""
    found, before, after = added[op.inputs[0]], op.inputs[0].shape, op.output.shape
    same: list[bool] = [True] * len(after)
    where: list[Array | None] = [None] * len(after)
    for olds, news in regrouped(before, after):
        alike = all(found.same[d] for d in olds)
        for d in news:
            same[d] = alike
        if all(found.where[d] is None for d in olds) or not news:
            continue
        flat = np.ones(1, dtype=bool)
        for d in olds:
            mask = found.where[d]
            flat = np.outer(flat, np.ones(before[d], dtype=bool) if mask is None else mask).reshape(-1)
        wide = flat.reshape([after[d] for d in news])
        for place, d in enumerate(news):
            where[d] = np.asarray(wide.any(axis=tuple(p for p in range(len(news)) if p != place)))
    return _Added(tuple(same), tuple(where))


def _loosened(found: _Added, dims: Sequence[int]) -> _Added:
    return _Added(
        tuple(alike and d not in dims for d, alike in enumerate(found.same)),
        tuple(None if d in dims else mask for d, mask in enumerate(found.where)),
    )


_RULES: dict[str, Callable[[Op, Sequence[int], dict[Value, _Added]], Any]] = {
    "contract": _contract, "elementwise": _elementwise, "reduce": _reduce, "mix": _mix, "normalize": _normalize, "convolve": _convolve,
    "resample": _resample, "gather": _gather, "permute": _permute, "take": _take, "expand": _expand, "concat": _concat, "reshape": _reshape,
}  # fmt: skip
