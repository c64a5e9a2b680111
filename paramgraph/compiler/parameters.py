"""Parameters behind a parametric value: which ones, as which strided views, aligned with what.

A weight may be a parameter, a view of one (a slice of a packed projection), or computed from several (weight norm, low-rank adapters,
filters expanded in a basis). Walking back from the value to its parameters keeps track of what each of their axes is aligned with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from paramgraph.compiler.program import Program, Value
from paramgraph.graph import ParameterView
from paramgraph.symmetries.spaces import Axis, Space, SpaceSystem

if TYPE_CHECKING:
    from paramgraph.compiler.emission import Component, Emitter

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
    units = tuple(unit for unit in units if unit.size > 1)
    if isinstance(label, Matched):
        return list(label.places)
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


@dataclass(frozen=True)
class Leaf:
    """One parameter that a parametric value is computed from.

    Attributes:
        value: the parameter.
        axes: the axes of the view of it that is used.
        labels: label of each axis, None where it is aligned with nothing.
        view: a meta tensor whose strides and offset describe the view; None if the whole parameter is used in some computation.
        path: the operations between the value and the parameter, empty for plain views.
    """

    value: Value
    axes: tuple[Axis, ...]
    labels: tuple[Any, ...]
    view: torch.Tensor
    path: str = ""

    def places(self, system: SpaceSystem) -> list[Place | None]:
        """Per unit of the view: what it is aligned with."""
        out: list[Place | None] = []
        for label, axis in zip(self.labels, self.axes, strict=True):
            units = system.units(axis)
            if label is None:
                out.extend(("hidden", id(self.value) + n, unit) for n, unit in enumerate(u for u in units if u.size > 1))
            else:
                out.extend(name_places(label, units))
        return out

    def sizes(self, system: SpaceSystem) -> list[int]:
        return [unit.size for axis in self.axes for unit in system.units(axis) if unit.size > 1]


def leaves_of(value: Value, labels: Sequence[Any], system: SpaceSystem) -> list[Leaf]:
    """The parameters behind a parametric value, each once."""
    found: dict[Value, Leaf] = {}
    for leaf in _walk(value, tuple(labels), system, ""):
        known = found.get(leaf.value)
        if known is None or (leaf.path and sum(label is not None for label in leaf.labels) > sum(label is not None for label in known.labels)):
            found[leaf.value] = leaf
    return list(found.values())


def _walk(value: Value, labels: tuple[Any, ...], system: SpaceSystem, path: str) -> list[Leaf]:
    if value.kind in ("parameter", "buffer"):
        view = torch.empty(value.shape, device="meta")
        return [Leaf(value, value.axes, labels, view, path)]
    op = value.op
    if op is None:  # a constant
        return []
    if op.kind in ("reshape", "permute", "take", "expand"):
        plain = _plain_view(value)
        if plain is not None:
            base, view = plain
            if not path or view.numel() == math.prod(base.shape):
                return [_drop_repeats(Leaf(base, value.axes, labels, view, path))]
    out = []
    for slot, operand in enumerate(op.inputs):
        if operand.kind != "constant":
            out.extend(_walk(operand, _labels_back(op, slot, labels, system), system, _extend(path, op, slot)))
    return out


def _extend(path: str, op: Any, slot: int) -> str:
    if op.kind in ("reshape", "permute", "expand"):
        return path
    step = f"{op.name or op.kind}.{slot}"
    return f"{path}/{step}" if path else step


def _drop_repeats(leaf: Leaf) -> Leaf:
    """Expanded dimensions repeat elements: they are no axes of the parameter."""
    kept = [d for d in range(leaf.view.ndim) if leaf.view.stride(d) != 0 or leaf.view.shape[d] == 1]
    if len(kept) == leaf.view.ndim:
        return leaf
    view = leaf.view
    for d in reversed([d for d in range(view.ndim) if d not in kept]):
        view = view.select(d, 0)
    return replace(leaf, view=view, axes=tuple(leaf.axes[d] for d in kept), labels=tuple(leaf.labels[d] for d in kept))


def _plain_view(value: Value) -> tuple[Value, torch.Tensor] | None:
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
    return value, view


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


class ParameterUses:
    """Which elements of each parameter the graph holds already: the first use owns the values, further ones refer to them."""

    def __init__(self, program: Program) -> None:
        self.program = program
        # Per parameter: (lowest element, highest element, strided view) of each use that owns values.
        self.owned: dict[str, list[tuple[int, int, torch.Tensor]]] = {}
        self.count: dict[tuple[Any, ...], int] = {}
        # Elements that no operation reads, of parameters that are read in part.
        self.unread: dict[str, np.ndarray] = {}
        self._hidden: dict[tuple[Any, ...], tuple[str, Axis]] = {}

    def views(
        self, leaf: Leaf, order: Sequence[int], shape: tuple[int, int, int, int], role: str, sizes: Sequence[int]
    ) -> list[tuple[ParameterView, np.ndarray | None]]:
        """The view of a leaf with its units in the given order, as one view, or as an owned and a referring part.

        Returns:
            Pairs `(view, elements)`; `elements` are flat places within `shape` where the view is only a part of it.
        """
        strided = leaf.view.reshape(list(sizes)).permute(list(order))
        name = leaf.value.name
        whole = strided_view(name, leaf.value.shape, strided, role.rpartition(".")[2].partition("/")[0])
        key = (name, tuple(sorted(zip(strided.stride(), strided.shape, strict=True))), strided.storage_offset())
        used = self.count.get(key, 0)
        self.count[key] = used + 1
        if used:
            return [(replace(whole, use=used), None)]
        low = int(strided.storage_offset())
        high = int(low + sum((n - 1) * s for n, s in zip(strided.shape, strided.stride(), strict=True)))
        owned = self.owned.setdefault(name, [])
        if all(high < other_low or low > other_high for other_low, other_high, _ in owned):
            owned.append((low, high, strided))
            return [(whole, None)]
        taken = np.zeros(math.prod(leaf.value.shape), dtype=bool)
        for _, _, other in owned:
            taken[_elements(other)] = True
        elements = _elements(strided)
        again = taken[elements]
        owned.append((low, high, strided))
        if not again.any():
            return [(whole, None)]
        if again.all():
            return [(replace(whole, use=1), None)]
        parts = [(np.flatnonzero(~again), 0), (np.flatnonzero(again), 1)]
        return [(replace(whole, index=elements[places], use=use), places) for places, use in parts]

    def hidden(self, emitter: Emitter, places: Sequence[Place], base: str, near: Sequence[Component]) -> Component:
        """Nodes of spaces inside an expression of parameters (the rank of an adapter), shared by the parameters that meet there."""
        units = tuple(place[2] for place in places)
        key = (near[0].ref.name if near else "", tuple(sorted(unit.id for unit in units)))
        if key not in self._hidden:
            depth = emitter.depth(near)
            self._hidden[key] = emitter.add_nodes(f"{base}.inner", "hidden", units, depth), units
        name, own = self._hidden[key]
        ordered = sorted(places, key=lambda place: own.index(place[2]))
        return emitter.component(tuple(ordered), name)

    def emit_rest(self, emitter: Emitter) -> None:
        """Nodes and edges for elements that no operation on activations reads."""
        for name, value in self.program.tensors.items():
            size = math.prod(value.shape)
            held = sum(math.prod(view.shape) for _, _, view in self.owned.get(name, ()))
            if name in self.owned and held >= size:
                continue
            if name in self.owned:
                taken = np.zeros(size, dtype=bool)
                for _, _, view in self.owned[name]:
                    taken[_elements(view)] = True
                rest = np.flatnonzero(~taken)
                if len(rest):
                    self.unread[name] = rest
                    self._emit_part(emitter, name, rest)
            elif size:
                self._emit_alone(emitter, name, value)

    def _emit_part(self, emitter: Emitter, name: str, rest: np.ndarray) -> None:
        unit = emitter.system.fresh(len(rest), name, "no operation reads it")
        emitter.typing.dependencies.on[unit] = set()
        target = emitter.add_nodes(f"{name}.unused", "unused", (unit,), 0)
        source = emitter.add_nodes(name, "unused.node", (), 0)
        view = ParameterView(name, (), (), (), "unused", 0, rest)
        emitter.add_edges("unused", source, target, (1, len(rest), 1, 1), parameter=view, name=f"{name}.unused")

    def _emit_alone(self, emitter: Emitter, name: str, value: Value) -> None:
        """A tensor that only other parameters meet, or nothing at all: its first axis against its other node-like axes."""
        kind = "parameter" if name in emitter.typing.used else "unused"
        first, *others = [emitter.system.units(axis) for axis in value.axes] or [()]
        rows = tuple(unit for unit in first if unit.size > 1)
        columns = [unit for axis in others for unit in axis if unit.size > 1 and (kind == "unused" or emitter.is_node(unit))]
        if kind == "unused":
            columns = columns[:1]
        labels = list(range(value.ndim))
        leaf = Leaf(value, value.axes, tuple(labels), torch.empty(value.shape, device="meta"))
        tags = leaf.places(emitter.system)
        row_tags = tags[: len(rows)]
        column_tags = [tag for tag in tags[len(rows) :] if tag is not None and tag[2] in columns][: len(columns)]
        target = emitter.component(tuple(tag for tag in row_tags if tag is not None), emitter.add_nodes(f"{name}.{kind}", kind, rows, 0))
        source_name = emitter.add_nodes(name, f"{kind}.node", tuple(tag[2] for tag in column_tags), 0)
        source = emitter.component(tuple(column_tags), source_name)
        emitter.parameter_edges(leaf, tags, f"{kind}.value", source, target, [], list(column_tags))


def _elements(view: torch.Tensor) -> np.ndarray:
    """Flat element numbers of a strided view, row-major."""
    out = np.full((1,) * view.ndim, view.storage_offset(), dtype=np.int64)
    for d, (n, stride) in enumerate(zip(view.shape, view.stride(), strict=True)):
        out = out + (np.arange(n) * stride).reshape([-1 if e == d else 1 for e in range(view.ndim)])
    return out.reshape(-1)


def strided_view(name: str, shape: Sequence[int], view: torch.Tensor, role: str) -> ParameterView:
    """A strided view of a contiguous tensor as reshape, slices and permutation; as element numbers where that cannot say it."""
    size = math.prod(shape)
    dims = [d for d in range(view.ndim) if view.shape[d] > 1]
    nested = sorted(dims, key=view.stride, reverse=True)
    split, slices, before, offset = [], [], size, view.storage_offset()
    for d in nested:
        stride, n = view.stride(d), view.shape[d]
        if stride == 0 or before % stride:
            return ParameterView(name, (), (), (), role, 0, _elements(view))
        full = before // stride
        start = offset // stride
        if start + n > full:
            return ParameterView(name, (), (), (), role, 0, _elements(view))
        split.append(full)
        slices.append((start, start + n, 1))
        before, offset = stride, offset - start * stride
    if before > 1:  # what is left inside the smallest stride: one element of it is taken
        split.append(before)
        slices.append((offset, offset + 1, 1))
    order = [nested.index(d) for d in dims]
    order += range(len(dims), len(split))
    return ParameterView(name, tuple(split), tuple(slices), tuple(order), role)
