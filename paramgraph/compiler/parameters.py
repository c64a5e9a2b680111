"""Parameters behind a parametric value: which ones, as which strided views, aligned with what.

A weight may be a parameter, a view of one (a slice of a packed projection), or computed from several (weight norm, low-rank adapters,
filters expanded in a basis). Walking back from the value to its parameters keeps track of what each of their axes is aligned with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from paramgraph.compiler.program import Op, Value
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


class Leaves:
    """The parameters behind parametric values of one typed program."""

    def __init__(self, system: SpaceSystem) -> None:
        self.system = system
        # Walks without virtual factors, by the parameters that they take whole: many values are computed from the same few.
        self._walks: dict[frozenset[Value], _Walk] = {}

    def of(self, value: Value, labels: Sequence[Any], factors: Mapping[Any, Any]) -> list[Leaf]:
        """The parameters behind a parametric value, each once.

        Args:
            factors: labels of the value's virtual factors, by key.
        """
        if value.kind in ("parameter", "buffer"):  # by far the most
            return [Leaf(value, value.axes, tuple(labels), Strided.whole(value.shape))]
        found = self._walk(factors, frozenset()).behind(value, tuple(labels))
        if any(times > 1 for _, times in found.values()):
            # Parts of one parameter that meet again behind the value (filters turned and stacked): the parameter is one leaf.
            whole = frozenset(base for base, (_, times) in found.items() if times > 1)
            found = self._walk(factors, whole).behind(value, tuple(labels))
        return [leaf for leaf, _ in found.values()]

    def _walk(self, factors: Mapping[Any, Any], whole: frozenset[Value]) -> _Walk:
        return _Walk(self.system, factors, whole) if factors else self._walks.setdefault(whole, _Walk(self.system, factors, whole))


# Per parameter the leaf that is aligned with most, and how many ways lead there.
_Found = dict[Value, tuple[Leaf, int]]


class _Walk:
    """Walks back to the parameters; what several ways lead to is looked at once.

    Args:
        factors: labels of virtual factors, by key.
        whole: parameters of which no parts are leaves where other parameters stand between.
    """

    def __init__(self, system: SpaceSystem, factors: Mapping[Any, Any], whole: frozenset[Value]) -> None:
        self.system, self.factors, self.whole = system, factors, whole
        self._known: dict[tuple[Value, tuple[Any, ...], bool], _Found] = {}

    def behind(self, value: Value, labels: tuple[Any, ...], first: bool = True) -> _Found:
        """The parameters behind a value, with paths from there.

        Args:
            first: only layout operations were passed before it.
        """
        found = self._known.get((value, labels, first))
        if found is None:
            found = self._known[value, labels, first] = self._look(value, labels, first)
        return found

    def _look(self, value: Value, labels: tuple[Any, ...], first: bool) -> _Found:
        if value.kind in ("parameter", "buffer"):
            return {value: (Leaf(value, value.axes, labels, Strided.whole(value.shape)), 1)}
        op = value.op
        if op is None:  # a constant
            return {}
        if op.kind in ("reshape", "permute", "take", "expand"):
            plain = _plain_view(value)
            if plain is not None:
                base, view = plain
                if first or base not in self.whole or view.size == math.prod(base.shape):
                    return {base: (_drop_repeats(Leaf(base, value.axes, labels, view)), 1)}
        if op.kind == "gather" and not op.inputs[1].parametric:
            x, index = op.inputs
            dim = op.attrs["dim"]
            label = next((self.factors.get(factor.key) for factor in op.output.virtual if factor.axis == x.axes[dim]), None)
            return self._through(op, 0, (*labels[:dim], label, *labels[dim + index.ndim :]), first)
        out: _Found = {}
        for slot, operand in enumerate(op.inputs):
            if operand.kind == "constant":
                continue
            for base, (leaf, times) in self._through(op, slot, _labels_back(op, slot, labels, self.system), first).items():
                known, before = out.get(base, (leaf, 0))
                aligned, most = (sum(label is not None for label in each.labels) for each in (leaf, known))
                out[base] = (leaf if leaf.path and aligned > most else known, before + times)
        return out

    def _through(self, op: Op, slot: int, labels: tuple[Any, ...], first: bool) -> _Found:
        """What is behind an operand, with paths that start with the operation."""
        if op.kind in ("reshape", "permute", "expand"):
            return self.behind(op.inputs[slot], labels, first)
        step = f"{op.name or op.kind}.{slot}"
        found = self.behind(op.inputs[slot], labels, first=False)
        return {base: (replace(leaf, path=f"{step}/{leaf.path}" if leaf.path else step), times) for base, (leaf, times) in found.items()}


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


def _labels_back(op: Op, slot: int, labels: tuple[Any, ...], system: SpaceSystem) -> tuple[Any, ...]:
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
