"""Which uses of each parameter own its elements in the graph, and which refer to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from paramgraph.compiler.parameters import Leaf, Place
from paramgraph.compiler.program import Program, Value
from paramgraph.compiler.strides import Strided
from paramgraph.graph import ParameterView
from paramgraph.symmetries.spaces import Axis

if TYPE_CHECKING:
    from paramgraph.compiler.components import Component
    from paramgraph.compiler.emission import Emitter
    from paramgraph.compiler.places import Places


class ParameterUses:
    """Which elements of each parameter the graph holds already: the first use owns the values, further ones refer to them."""

    def __init__(self, program: Program) -> None:
        self.program = program
        # Per parameter: the elements of each use that owns values.
        self.owned: dict[str, list[Strided]] = {}
        self.count: dict[tuple[Any, ...], int] = {}
        # Elements that no operation reads, of parameters that are read in part.
        self.unread: dict[str, np.ndarray] = {}
        self._ranked = 0
        self._hidden: dict[tuple[Any, ...], tuple[str, Axis]] = {}

    def views(
        self, leaf: Leaf, order: Sequence[int], shape: tuple[int, int, int, int], role: str, sizes: Sequence[int]
    ) -> list[tuple[ParameterView, np.ndarray | None]]:
        """The view of a leaf with its units in the given order, as one view, or as an owned and a referring part.

        Returns:
            Pairs `(view, elements)`; `elements` are flat places within `shape` where the view is only a part of it.
        """
        strided = leaf.view.split(sizes, order)
        name = leaf.value.name
        whole = strided.parameter_view(name, math.prod(leaf.value.shape), role.rpartition(".")[2].partition("/")[0])
        key = (name, tuple(sorted(zip(strided.strides, strided.shape, strict=True))), strided.offset)
        used = self.count.get(key, 0)
        self.count[key] = used + 1
        if used:
            return [(replace(whole, use=used), None)]
        owned = self.owned.setdefault(name, [])
        size = math.prod(leaf.value.shape)
        near = [other for other in owned if not strided.is_apart(other, size)]
        if not near:
            owned.append(strided)
            return [(whole, None)]
        taken = np.zeros(size, dtype=bool)
        for other in near:
            taken[other.elements()] = True
        elements = strided.elements()
        again = taken[elements]
        owned.append(strided)
        if not again.any():
            return [(whole, None)]
        if again.all():
            return [(replace(whole, use=1), None)]
        parts = [(np.flatnonzero(~again), 0), (np.flatnonzero(again), 1)]
        return [(replace(whole, index=elements[places], use=use), places) for places, use in parts]

    def hidden(self, emitter: Places, places: Sequence[Place], base: str, near: Sequence[Component]) -> Component:
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
            held = sum(view.size for view in self.owned.get(name, ()))
            if name in self.owned and held >= size:
                continue
            if name in self.owned:
                taken = np.zeros(size, dtype=bool)
                for view in self.owned[name]:
                    taken[view.elements()] = True
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
        self._rank(emitter, target)
        source = emitter.add_nodes(name, "unused.node", (), 0)
        view = ParameterView(name, (), (), (), "unused", 0, rest)
        emitter.add_edges("unused", source, target, (1, len(rest), 1, 1), parameter=view, name=f"{name}.unused")

    def _rank(self, emitter: Emitter, name: str) -> None:
        """Nothing tells the tensors apart that stand alone, and none of them is exchanged with another: their nodes are numbered through."""
        emitter.nodes[name].rank = self._ranked = self._ranked + 1
        self._ranked += emitter.nodes[name].size

    def _emit_alone(self, emitter: Emitter, name: str, value: Value) -> None:
        """A tensor that only other parameters meet, or nothing at all: its first axis against its other node-like axes."""
        kind = "parameter" if name in emitter.typing.used else "unused"
        first, *others = [emitter.system.units(axis) for axis in value.axes] or [()]
        rows = tuple(unit for unit in first if unit.size > 1)
        columns = [unit for axis in others for unit in axis if unit.size > 1 and (kind == "unused" or emitter.is_node(unit))]
        if kind == "unused":
            columns = columns[:1]
        labels = list(range(value.ndim))
        leaf = Leaf(value, value.axes, tuple(labels), Strided.whole(value.shape))
        tags = leaf.places(emitter.system)
        row_tags = tags[: len(rows)]
        column_tags = [tag for tag in tags[len(rows) :] if tag[2] in columns][: len(columns)]
        while near := [tag for tag in column_tags if row_tags and kind == "parameter" and emitter.related([tag], row_tags, tags)]:
            row_tags += near  # what moves for each row apart is a node for each row
            column_tags = [tag for tag in column_tags if tag not in near]
        own = emitter.add_nodes(f"{name}.{kind}", kind, tuple(tag[2] for tag in row_tags), 0)
        if all(emitter.system.is_fixed(unit) for unit in rows):
            self._rank(emitter, own)
        target = emitter.component(tuple(row_tags), own)
        source_name = emitter.add_nodes(name, f"{kind}.node", tuple(tag[2] for tag in column_tags), 0)
        source = emitter.component(tuple(column_tags), source_name)
        emitter.parameter_edges(leaf, tags, f"{kind}.value", source, target, [], list(column_tags))
