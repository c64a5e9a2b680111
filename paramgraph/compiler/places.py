"""Places: which axes of a value are nodes, under which labels, and the node and edge sets made so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.components import Component, Link, NodeRecord, Ref, arranged
from paramgraph.compiler.parameters import Matched, Place, Split, name_places
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.roles import node_like_spaces
from paramgraph.compiler.typing import Typing
from paramgraph.compiler.virtual import Virtual
from paramgraph.graph import EdgeSet, ParameterView
from paramgraph.symmetries.solution import GroupBuilder
from paramgraph.symmetries.spaces import Axis, Space


class Places:
    """The node-like places of a typed program's values, and the sets under construction.

    Args:
        program: the lowered program.
        typing: its spaces.
        group: the group of these.
    """

    def __init__(self, program: Program, typing: Typing, group: GroupBuilder) -> None:
        self.program = program
        self.typing = typing
        self.system = typing.system
        self.group = group
        self.nodes: dict[str, NodeRecord] = {}
        self.edges: dict[str, EdgeSet] = {}
        self.links: list[Link] = []
        self.components: dict[Value, list[Component]] = {}
        self.readers: dict[Value, int] = {}
        for op in program.ops:
            for value in op.inputs:
                self.readers[value] = self.readers.get(value, 0) + 1
        for value, _ in program.outputs:
            self.readers[value] = self.readers.get(value, 0) + 1
        self._choose_weights()
        self._node_like = node_like_spaces(program, typing, group)
        self._own_places: dict[Value, list[Place]] = {}
        self._names: dict[tuple[bool, str], int] = {}

    # -- virtual factors -----------------------------------------------------------------------------------------------

    def _choose_weights(self) -> None:
        """Weights gathered by an index are weights where the index is a factor of what they are applied to."""
        chosen = False
        for op in self.program.ops:
            if op.kind == "gather":
                chosen = True
                op.output.parametric = op.inputs[0].parametric and (
                    op.inputs[1].parametric or any(self.is_shown(op.output, factor) for factor in op.output.virtual)
                )
            elif chosen:
                op.output.parametric = bool(op.inputs) and all(value.parametric for value in op.inputs)

    def is_shown(self, value: Value, factor: Virtual) -> bool:
        """Whether a virtual factor is one of a value's node indices: it moves, or something in the value depends on it."""
        named = {unit for unit in self.system.units(factor.axis) if unit.size > 1}
        if any(not self.system.is_fixed(unit) for unit in named):
            return True
        on = self.typing.dependencies.on
        return any(not named.isdisjoint(on.get(unit, ())) for axis in value.axes for unit in self.system.units(axis))

    def factor_places(self, value: Value) -> list[Place]:
        """The places of a value's virtual factors."""
        out = []
        for factor in value.virtual:
            if self.is_shown(value, factor):
                out += [(factor, i, unit) for i, unit in enumerate(_large(self.system.units(factor.axis))) if self.is_node(unit)]
        return out

    def kept_factors(self, op: Op, image: Callable[[Virtual], Virtual | None]) -> dict[Place, Place]:
        """Where a layout operation takes the places of its operand's virtual factors."""
        return {(factor, i, unit): (image(factor), i, unit) for factor, i, unit in self.factor_places(op.inputs[0])}

    def _loses_factor(self, op: Op) -> bool:
        """Whether an operation that sums over nothing has an operand with a virtual factor that its result has not."""
        if not any(value.virtual for value in op.inputs) or op.kind in ("contract", "reduce") or op.output.parametric:
            return False
        held = {p[0].key for value in op.inputs if not value.parametric for c in self.of(value) for p in c.places if isinstance(p[0], Virtual)}
        return not held <= {p[0].key for p in self.factor_places(op.output)}

    # -- places --------------------------------------------------------------------------------------------------------

    def is_node(self, space: Space) -> bool:
        return space in self._node_like

    def places(self, value: Value, labels: Sequence[Any] | None = None) -> list[Place]:
        """The node-like places of a value, by its dimensions or by labels for them."""
        if labels is not None and not is_plain(labels):
            named = [place for label, axis in zip(labels, value.axes, strict=True) for place in name_places(label, self.system.units(axis))]
            factors = [(factor.named(labels), i, unit) for factor, i, unit in self.factor_places(value)]
            return [*(place for place in named if self.is_node(place[2])), *factors]
        found = self._own_places.get(value)
        if found is None:
            found = self._own_places[value] = [
                (d, i, unit) for d, axis in enumerate(value.axes) for i, unit in enumerate(axis) if unit in self._node_like
            ]
            if value.virtual:
                found += self.factor_places(value)
        if labels is None:
            return list(found)
        return [(d.named(labels) if isinstance(d, Virtual) else labels[d], i, unit) for d, i, unit in found]

    def labelled(self, value: Value, labels: Sequence[Any]) -> list[Component]:
        """The components of a value with its dimensions renamed to labels."""
        if is_plain(labels) and not value.virtual:
            if tuple(labels) == tuple(range(value.ndim)):
                return list(self.of(value))
            return [Component(tuple([(labels[d], i, unit) for d, i, unit in c.places]), c.ref) for c in self.of(value)]
        renamed: dict[Any, Place] = {
            (dim, i): place
            for dim, label in enumerate(labels)
            for i, place in enumerate(name_places(label, self.system.units(value.axes[dim])))
        }
        renamed.update({(factor, i): (factor.named(labels), i, unit) for factor, i, unit in self.factor_places(value)})
        return [Component(tuple(renamed[dim, i] for dim, i, _ in c.places), c.ref) for c in self.of(value)]

    def of(self, value: Value) -> list[Component]:
        """The components of an activation; a state gets its nodes when first read."""
        found = self.components.get(value)
        if found is None:
            found = self.components[value] = self.fresh_components(value, value.kind, value.name or value.kind, 0)
        return found

    def fresh_components(self, value: Value, type_: str, name: str, depth: int) -> list[Component]:
        """One new node set for all node-like places of a value."""
        places = tuple(self.places(value))
        if not places:
            return []
        return [Component(places, Ref(self.add_nodes(name, type_, tuple(unit for _, _, unit in places), depth)))]

    def component(self, places: tuple[Place, ...], name: str) -> Component:
        """All nodes of a node set, as a component."""
        return Component(places, Ref(name))

    # -- nodes and edges -----------------------------------------------------------------------------------------------

    def unique(self, name: str, edges: bool = False) -> str:
        times = self._names.get((edges, name), 0)
        self._names[edges, name] = times + 1
        return name if not times else f"{name}:{times}"

    def add_nodes(self, name: str, type_: str, units: Axis, depth: int) -> str:
        name = self.unique(name)
        self.nodes[name] = NodeRecord(name, type_, units, depth)
        return name

    def structural(self, type_: str, source: Component, target: Component) -> None:
        """Parameter-free edges between two components: aligned along the places that both have, all pairs along the others."""
        shared = [place for place in target.places if place in source.places]
        own_source = [place for place in source.places if place not in shared]
        own_target = [place for place in target.places if place not in shared]
        groups, m, k = (math.prod(s.size for _, _, s in places) for places in (shared, own_target, own_source))
        self.add_edges(
            type_,
            source.ref.name,
            target.ref.name,
            (groups, m, k, 1),
            arranged(source, [shared, own_source], (groups, k)),
            arranged(target, [shared, own_target], (groups, m)),
            shared=tuple(space for _, _, space in shared),
        )

    def add_edges(
        self,
        type_: str,
        source: str,
        target: str,
        shape: tuple[int, int, int, int],
        source_index: np.ndarray | None = None,
        target_index: np.ndarray | None = None,
        parameter: ParameterView | None = None,
        positions: np.ndarray | None = None,
        shared: Axis = (),
        name: str | None = None,
    ) -> None:
        depth = self.nodes[target].depth
        name = self.unique(name or f"{source} → {target}", edges=True)
        self.edges[name] = EdgeSet(
            name, type_, source, target, shape, source_index, target_index, parameter, positions, depth, explicit=False
        )
        if shared:
            self.links.append(Link(source, target, shared))

    def depth(self, components: Iterable[Component]) -> int:
        return max((self.nodes[c.ref.name].depth for c in components), default=0)


def is_plain(labels: Sequence[Any]) -> bool:
    """Whether every dimension has one label for all of its spaces."""
    return not any([isinstance(label, (Split, Matched)) for label in labels])


def _large(units: Axis) -> Axis:
    return tuple([unit for unit in units if unit.size > 1])
