"""Parameters behind a parametric value: which ones, as which strided views, aligned with what.

A weight may be a parameter, a view of one (a slice of a packed projection), or computed from several (weight norm, low-rank adapters,
filters expanded in a basis). Walking back from the value to its parameters keeps track of what each of their axes is aligned with.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from paramgraph.compiler.program import Value
from paramgraph.compiler.strides import Strided
from paramgraph.symmetries.spaces import Axis, Space, SpaceSystem

# One occurrence of a space in a tensor: (label of the dimension, number within the axis, space).
Place = tuple[Any, int, Space]


@dataclass(frozen=True)
class Split:
    """Label of a dimension whose first `outer_size` elements' worth of spaces has one label, and the rest another."""

    outer_size: int
    outer: Any
    inner: Any


@dataclass(frozen=True)
class Matched:
    """Label of a dimension whose units have places of their own."""

    places: tuple[Place, ...]


def name_places(label: Any, units: Axis) -> list[Place]:
    """The places of one dimension; spaces of size 1 have none."""
    if len(units) <= 1 and (type(label) is int or type(label) is str):  # by far the most
        return [(label, 0, unit) for unit in units if unit.size > 1]
    if isinstance(label, Matched):
        return list(label.places)
    units = tuple([unit for unit in units if unit.size > 1])
    if not isinstance(label, Split):
        return [(label, i, unit) for i, unit in enumerate(units)]
    out: list[Place] = []
    size, inner = 1, 0
    for i, unit in enumerate(units):
        if size < label.outer_size:
            out.append((label.outer, i, unit))
            size *= unit.size
        else:
            out.append((label.inner, inner, unit))
            inner += 1
    return out


@dataclass(slots=True)
class Leaf:
    """One parameter that a parametric value is computed from.

    Attributes:
        value: the parameter.
        axes: the axes of the view of it that is used.
        labels: label of each axis, None where it is aligned with nothing.
        view: which elements of the parameter are used, with the dimensions that `axes` type.
        path: the operations between the value and the parameter, empty for plain views.
    """

    value: Value
    axes: tuple[Axis, ...]
    labels: tuple[Any, ...]
    view: Strided
    path: str = ""

    def places(self, system: SpaceSystem) -> list[Place]:
        """Per unit of the view: what it is aligned with."""
        out: list[Place] = []
        for label, axis in zip(self.labels, self.axes, strict=True):
            units = system.units(axis)
            if isinstance(label, Matched) and [p[2].size for p in label.places] != [u.size for u in units if u.size > 1]:
                # Only rows of the parameter are read, in another order, and its spaces are others than theirs.
                raise NotImplementedError(f"{self.value.name} is read in part, under other spaces than its own")
            if label is None:
                out.extend(("hidden", id(self.value) + len(out) + n, unit) for n, unit in enumerate([u for u in units if u.size > 1]))
            else:
                out.extend(name_places(label, units))
        return out


def leaves_of(value: Value, labels: Sequence[Any], system: SpaceSystem, factors: Mapping[Any, Any]) -> list[Leaf]:
    """The parameters behind a parametric value, each once.

    Args:
        factors: labels of the value's virtual factors, by key.
    """
    if value.kind in ("parameter", "buffer"):  # by far the most
        return [Leaf(value, value.axes, tuple(labels), Strided.whole(value.shape))]
    leaves = _walk(value, tuple(labels), system, "", factors, frozenset())
    times = Counter(leaf.value for leaf in leaves)
    if any(count > 1 for count in times.values()):
        # Parts of one parameter that meet again behind the value (filters turned and stacked): the parameter is one leaf.
        leaves = _walk(value, tuple(labels), system, "", factors, frozenset(base for base, count in times.items() if count > 1))
    found: dict[Value, Leaf] = {}
    for leaf in leaves:
        known = found.get(leaf.value)
        if known is None or (leaf.path and sum(label is not None for label in leaf.labels) > sum(label is not None for label in known.labels)):
            found[leaf.value] = leaf
    return list(found.values())


def _walk(value: Value, labels: tuple[Any, ...], system: SpaceSystem, path: str, factors: Mapping[Any, Any],
          whole: frozenset[Value]) -> list[Leaf]:
    """The leaves behind a value; of the parameters in `whole`, no parts where other parameters stand between."""
    if value.kind in ("parameter", "buffer"):
        return [Leaf(value, value.axes, labels, Strided.whole(value.shape), path)]
    op = value.op
    if op is None:  # a constant
        return []
    if op.kind in ("reshape", "permute", "take", "expand"):
        plain = _plain_view(value)
        if plain is not None:
            base, view = plain
            if not path or base not in whole or view.size == math.prod(base.shape):
                return [_drop_repeats(Leaf(base, value.axes, labels, view, path))]
    if op.kind == "gather" and not op.inputs[1].parametric:
        x, index = op.inputs
        dim = op.attrs["dim"]
        label = next((factors.get(factor.key) for factor in op.output.virtual if factor.axis == x.axes[dim]), None)
        back = (*labels[:dim], label, *labels[dim + index.ndim :])
        return _walk(x, back, system, _extend(path, op, 0), factors, whole)
    out = []
    for slot, operand in enumerate(op.inputs):
        if operand.kind != "constant":
            out.extend(_walk(operand, _labels_back(op, slot, labels, system), system, _extend(path, op, slot), factors, whole))
    return out


def _extend(path: str, op: Any, slot: int) -> str:
    if op.kind in ("reshape", "permute", "expand"):
        return path
    step = f"{op.name or op.kind}.{slot}"
    return f"{path}/{step}" if path else step


def _drop_repeats(leaf: Leaf) -> Leaf:
    """Expanded dimensions repeat elements: they are no axes of the parameter."""
    view = leaf.view
    kept = [d for d, (n, step) in enumerate(zip(view.shape, view.strides, strict=True)) if step != 0 or n == 1]
    if len(kept) == len(view.shape):
        return leaf
    axes, labels = (tuple(items[d] for d in kept) for items in (leaf.axes, leaf.labels))
    return replace(leaf, view=view.keep(kept), axes=axes, labels=labels)


def _plain_view(value: Value) -> tuple[Value, Strided] | None:
    """The parameter that a chain of layout operations starts from, and the strided view of it that the chain makes; None if a copy is needed."""
    chain = []
    while value.kind == "op" and value.op is not None and value.op.kind in ("reshape", "permute", "take", "expand"):
        chain.append(value.op)
        value = value.op.inputs[0]
    if value.kind not in ("parameter", "buffer"):
        return None
    view = torch.empty(value.shape, device="meta")
    storage = view.untyped_storage()._cdata
    for op in reversed(chain):
        if op.kind == "reshape":
            view = view.reshape(op.output.shape)
        elif op.kind == "permute":
            view = view.permute(op.attrs["order"])
        elif op.kind == "expand":
            view = view.expand(op.output.shape)
        else:
            index = op.attrs["index"]
            if not isinstance(index, range) or index.step < 1:
                return None
            view = view[(slice(None),) * op.attrs["dim"] + (slice(index.start, index.stop, index.step),)]
        if view.untyped_storage()._cdata != storage:
            return None
    return value, Strided.of(view)


def _labels_back(op: Any, slot: int, labels: tuple[Any, ...], system: SpaceSystem) -> tuple[Any, ...]:
    """Labels of an operand's dimensions, from those of the result; None where it is aligned with no dimension of it."""
    operand = op.inputs[slot]
    if op.kind == "permute":
        back: list[Any] = [None] * operand.ndim
        for d, source in enumerate(op.attrs["order"]):
            back[source] = labels[d]
        return tuple(back)
    if op.labels:
        named = dict(zip(op.out_labels, labels, strict=True))
        return tuple(named.get(label) if n > 1 else None for label, n in zip(op.labels[slot], operand.shape, strict=True))
    if op.kind == "gather" and slot == 0:
        dim = op.attrs["dim"]
        return (*labels[:dim], None, *labels[dim + op.inputs[1].ndim :])
    if op.kind in ("take", "concat", "expand", "resample", "gather"):
        dims = {op.attrs["dim"]} if "dim" in op.attrs else set(op.attrs.get("dims", ()))
        if operand.ndim != len(labels):
            return (None,) * operand.ndim
        return tuple(None if d in dims or operand.shape[d] != op.output.shape[d] else labels[d] for d in range(operand.ndim))
    if op.kind == "reshape":
        return _labels_through_reshape(operand, op.output, labels, system)
    return (None,) * operand.ndim


def _labels_through_reshape(operand: Value, output: Value, labels: tuple[Any, ...], system: SpaceSystem) -> tuple[Any, ...]:
    """Each dimension of the operand gets the label of its first unit that is also in the result, in order.

    A dimension that the reshape split or merged keeps the places of its units by matching them one by one.
    """
    after = [place for label, axis in zip(labels, output.axes, strict=True) for place in name_places(label, system.units(axis))]
    before = [(d, unit) for d, axis in enumerate(operand.axes) for unit in system.units(axis) if unit.size > 1]
    units = [unit for axis in output.axes for unit in system.units(axis) if unit.size > 1]
    if [unit for _, unit in before] != units or len(after) != len(units):
        return (None,) * operand.ndim
    out: list[Any] = []
    at = 0
    for d in range(operand.ndim):
        count = sum(1 for e, _ in before if e == d)
        out.append(Matched(tuple(after[at : at + count])) if count else None)
        at += count
    return tuple(out)
