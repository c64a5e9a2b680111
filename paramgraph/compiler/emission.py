"""Emission: from a typed program to node sets and edge sets.

Every activation has components: groups of its node-like index spaces, each held by one node set. Layout operations pass references on;
operations that compute make node sets and edges. Positions (pixels, tokens, kernel taps, batch) are not nodes: they are positions on
edges. What each operation kind adds stands beside its typing, in `paramgraph.compiler.operations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from paramgraph.compiler.closure import Closure
from paramgraph.compiler.diagnose import module_path
from paramgraph.compiler.operations.base import operation
from paramgraph.compiler.parameters import Leaf, Matched, Place, Split, leaves_of, name_places
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.roles import node_like_spaces
from paramgraph.compiler.typing import Typing
from paramgraph.compiler.uses import ParameterUses
from paramgraph.compiler.virtual import Virtual
from paramgraph.graph import EdgeSet, NodeSet, ParameterView
from paramgraph.symmetries.dependencies import Block
from paramgraph.symmetries.solution import GroupBuilder
from paramgraph.symmetries.spaces import Axis, Space

NodeBlocks = tuple[tuple[np.ndarray | None, tuple[int, ...]], ...]


@dataclass
class Ref:
    """Nodes of a node set: all in order, or those with the given numbers."""

    name: str
    index: np.ndarray | None = None

    def numbers(self, size: int) -> np.ndarray:
        return np.arange(size) if self.index is None else self.index


@dataclass
class Component:
    """Node-like places of a tensor, row-major, and the nodes that hold them."""

    places: tuple[Place, ...]
    ref: Ref

    @property
    def size(self) -> int:
        return math.prod(space.size for _, _, space in self.places)


@dataclass
class NodeRecord:
    """A node set under construction."""

    name: str
    type: str
    units: Axis
    depth: int
    activation: str | None = None
    normalized: str | None = None
    rank: int = 0

    @property
    def size(self) -> int:
        return math.prod(unit.size for unit in self.units)


@dataclass
class Link:
    """Along which spaces an edge set ties its two node sets element to element."""

    source: str
    target: str
    shared: Axis


class Emitter:
    """Builds the node and edge sets of one typed program."""

    def __init__(self, program: Program, typing: Typing, group: GroupBuilder) -> None:
        self.program = program
        self.typing = typing
        self.system = typing.system
        self.group = group
        self.nodes: dict[str, NodeRecord] = {}
        self.edges: dict[str, EdgeSet] = {}
        self.links: list[Link] = []
        self.components: dict[Value, list[Component]] = {}
        self.uses = ParameterUses(program)
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
        self._where: Any = None
        self._layouts: dict[Axis, tuple[NodeBlocks, np.ndarray | range | None]] = {}
        self._related: dict[tuple[Axis, Axis], bool] = {}
        self._atoms: dict[Space, frozenset[int]] = {}
        # Nodes that hold one value for all nodes of a set, with that set.
        self._held_for: dict[str, str] = {}
        # Nodes inside expressions of parameters that are linked with the nodes that they depend on.
        self._tied: set[str] = set()
        # Nodes that hold what is contracted with a parameter, with those that hold the sums.
        self._sums: set[tuple[str, str]] = set()

    def run(self) -> tuple[dict[str, NodeSet], dict[str, EdgeSet]]:
        for value in self.program.inputs:
            self.components[value] = self.fresh_components(value, "input", value.name or "input", 0)
        for op in self.program.ops:
            self._where = op.where
            if self._loses_factor(op):
                self.reconnect(op)
            else:
                operation(op.kind).emit(self, op)
        for value, buffer in self.program.outputs:
            for component in self.components.get(value, ()) if buffer is None else ():
                record = self.nodes[component.ref.name]
                if not record.type.endswith("output") and component.ref.index is None:
                    record.type = f"{record.type}.output"
        self.uses.emit_rest(self)
        Closure(self).run()
        self._name_by_readers()
        self._tell_parallels_apart()
        return {name: self._freeze(record) for name, record in self.nodes.items()}, self.edges

    def _name_by_readers(self) -> None:
        """Say in the types what a node set is to the operations that read it: query, key and value differ in nothing else."""
        reads: dict[str, set[str]] = {}
        for edges in self.edges.values():
            if edges.parameter is None and edges.type not in ("member", "factor"):
                reads.setdefault(edges.source, set()).add(edges.type)
        roles = {name: "+".join(sorted(types)) for name, types in reads.items()}
        for name, edges in self.edges.items():
            target = self.nodes[edges.target]
            role = ">".join(part for part in (target.activation, roles.get(edges.target)) if part)
            if edges.parameter is not None and role and self.nodes[edges.source].type != f"{edges.type}.node":
                self.edges[name] = replace(edges, type=f"{edges.type}>{role}")
        for name, role in roles.items():
            self.nodes[name].type += f">{role}"

    def _tell_parallels_apart(self) -> None:
        """Parameters that are merely added (two biases of one layer) get distinct types: exchanging them is left out of the group."""
        seen: dict[tuple[str, str, str], int] = {}
        for name, edges in self.edges.items():
            if edges.parameter is None:
                continue
            source = "" if self.nodes[edges.source].type == f"{edges.type}.node" else edges.source
            key = (edges.type, source, self._held_for.get(edges.target, edges.target))
            times = seen[key] = seen.get(key, 0) + 1
            if times > 1:
                self.edges[name] = replace(edges, type=f"{edges.type}~{times}")
                if not source:
                    self.nodes[edges.source].type = f"{edges.type}~{times}.node"

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
        if labels is not None and not _is_plain(labels):
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
        if _is_plain(labels) and not value.virtual:
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
            _arranged(source, [shared, own_source], (groups, k)),
            _arranged(target, [shared, own_target], (groups, m)),
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

    # -- making components ---------------------------------------------------------------------------------------------

    def gather(self, components: Sequence[Component], wanted: Sequence[Place], name: str, backwards: bool = False) -> Component:
        """One component with exactly the wanted places, in order: one of the given, or new nodes linked with them.

        Args:
            backwards: link from the new nodes to the given ones (a parameter flows into them), instead of towards them.
        """
        touching = [c for c in components if any(place in c.places for place in wanted)]
        if len(touching) == 1 and len(touching[0].places) == len(wanted):
            own = touching[0]
            if own.places == tuple(wanted):
                return own
            sizes = [space.size for _, _, space in own.places]
            order = [own.places.index(place) for place in wanted]
            index = own.ref.numbers(own.size).reshape(sizes).transpose(order).reshape(-1)
            return Component(tuple(wanted), Ref(own.ref.name, index))
        depth = self.depth(touching) + (0 if backwards else 1)
        made = Component(tuple(wanted), Ref(self.add_nodes(name, "factor", tuple(space for _, _, space in wanted), depth)))
        for component in touching:
            if backwards:
                self.structural("factor", made, component)
            else:
                self.structural("factor", component, made)
        return made

    def ordered(self, component: Component) -> Component:
        """The same nodes with the places of each dimension side by side and in order: axes that were permuted and merged hold them otherwise."""
        dims = list(dict.fromkeys(place[0] for place in component.places))
        wanted = sorted(component.places, key=lambda place: (dims.index(place[0]), place[1]))
        return component if tuple(wanted) == component.places else self.gather([component], wanted, "")

    def whole(self, components: Sequence[Component], places: Sequence[Place], name: str) -> list[Component]:
        """The components, with those that hold only some of the given places brought together into one that holds all."""
        touching = [c for c in components if any(place in places for place in c.places)]
        if len(touching) < 2:
            return list(components)
        wanted = [place for c in touching for place in c.places]
        return [*(c for c in components if c not in touching), self.gather(touching, sorted(wanted, key=lambda p: p[:2]), name)]

    def keep(self, components: Sequence[Component], kept: Sequence[Place], name: str) -> list[Component]:
        """The components restricted to the kept places; partly kept ones become new nodes of their factor."""
        out = []
        for component in components:
            places = [place for place in component.places if place in kept]
            if len(places) == len(component.places):
                out.append(component)
            elif places:
                out.append(self.gather([component], places, name))
        return out

    def join(self, operands: Sequence[list[Component]], types: Sequence[str], name: str, type_: str) -> list[Component]:
        """New node sets for the places that several operands share, with an edge set from each operand's nodes."""
        types = self.told_apart(operands, types)
        counted: dict[tuple[Any, ...], int] = {}
        first: dict[tuple[Any, ...], tuple[Component, str]] = {}
        for components, t in zip(operands, types, strict=True):
            for c in components:
                key = (c.places, c.ref.name, None if c.ref.index is None else c.ref.index.tobytes(), t)
                counted[key] = counted.get(key, 0) + 1
                first.setdefault(key, (c, t))
        groups: list[tuple[list[Place], list[tuple[Component, str]]]] = []
        # One operand used twice is one edge set of its own type: two parallel edges could be exchanged.
        typed = [(c, t if counted[key] == 1 else f"{t}^{counted[key]}") for key, (c, t) in first.items()]
        # What has no node index (a mean over all units) goes to all nodes of the result.
        scalars = [(c, t) for c, t in typed if not c.places]
        for component, t in typed:
            if not component.places:
                continue
            meeting = [g for g in groups if self.related(g[0], component.places)]
            places = list(dict.fromkeys([p for g in meeting for p in g[0]] + list(component.places)))
            members = [m for g in meeting for m in g[1]] + [(component, t)]
            groups = [g for g in groups if g not in meeting] + [(places, members)]
        out = []
        for places, own in groups or [([], [])]:
            members = [*own, *scalars]
            depth = self.depth([c for c, _ in members]) + 1
            made = self.new_component(places, name, depth, type_)
            for component, t in members:
                self.structural(t, component, made)
            out.append(made)
        return out

    def told_apart(self, operands: Sequence[Sequence[Component]], types: Sequence[str]) -> list[str]:
        """Types of what meets, distinct for operands whose nodes look alike: branches that could be exchanged are one operand by now."""
        seen: dict[tuple[Any, ...], tuple[set[str], int]] = {}
        out: list[str] = []
        for components, t in zip(operands, types, strict=True):
            records = [self.nodes[c.ref.name] for c in components]
            look = (t, *((r.type, r.activation, r.normalized, r.depth, r.size) for r in records))
            # One node set in two roles, broadcast and not, makes parallel edges.
            held = {c.ref.name for c in components}, sum(len(c.places) for c in components)
            known = seen.setdefault(look, held)
            times = sum(1 for other in out if other == t or other.startswith(f"{t}~"))
            out.append(f"{t}~{times + 1}" if known != held else t)
        return out

    def related(self, a: Iterable[Place], b: Iterable[Place], beside: Iterable[Place] = ()) -> bool:
        """Whether two sets of places belong into one node set: they share a place, or spaces of one depend on spaces of the other.

        Args:
            a: places of one tensor.
            b: others of the same.
            beside: further places of that tensor: a space depends on what stands in the same dimension first.
        """
        a, b = list(a), list(b)
        if any(place in b for place in a):
            return True
        partners = self.typing.dependencies.partners
        if partners and all(place[2].parts is None for place in (*a, *b)) and any(place[2] in partners for place in (*a, *b)):
            places = [*a, *b, *beside]
            return self._reaches(a, b, places) or self._reaches(b, a, places)
        axes = [tuple(dict.fromkeys(place[2] for place in places)) for places in (a, b)]
        key = (axes[0], axes[1])
        found = self._related.get(key)
        if found is None:
            found = self._related[key] = len(self.typing.dependencies.coupled(axes)) == 1
        return found

    def _reaches(self, a: Sequence[Place], b: Sequence[Place], places: Sequence[Place]) -> bool:
        """Whether a place in `a` depends on one in `b`: on that of its own dimension, where there is one among `places`."""
        for label, _, unit in a:
            for other in self.typing.dependencies.on.get(unit, ()):
                held = [place for place in places if place[2] is other]
                own = [place for place in held if place[0] == label] or held
                if any(place in b for place in own):
                    return True
        return False

    def extended(self, components: list[Component], places: list[Place], name: str) -> list[Component]:
        """The components with further places of the same value: in nodes together with the places that they depend on, or alone."""
        near = [c for c in components if self.related(c.places, places)]
        made = self.new_component([*(p for c in near for p in c.places), *places], name, self.depth(near) + 1)
        for component in near:
            self.structural(name, component, made)
        return [*(c for c in components if c not in near), made]

    def new_component(self, places: Sequence[Place], name: str, depth: int, type_: str | None = None) -> Component:
        """A new node set for the given places."""
        path = module_path(self._where)
        full = f"{path}.{name}" if path else name
        return Component(tuple(places), Ref(self.add_nodes(full, type_ or name, tuple(place[2] for place in places), depth)))

    def referring(self, places: tuple[Place, ...], name: str, index: np.ndarray | None) -> Component:
        """Some nodes of a node set, as a component with places of its own."""
        return Component(places, Ref(name, index))

    def pass_on(self, op: Op, components: Sequence[tuple[tuple[Place, ...], Component]]) -> None:
        """The result has the operand's nodes, under other places."""
        self.components[op.output] = [Component(places, component.ref) for places, component in components]
        self._copied(op)

    def _copied(self, op: Op) -> None:
        """A layout operation adds no reader of its own: who reads its result reads the operand."""
        (x,) = [value for value in op.inputs if not value.parametric]
        if self.readers.get(x, 0) > 1:
            self.readers[op.output] = max(self.readers.get(op.output, 0), 2)

    def finish(self, op: Op, components: Sequence[Component], labels: Sequence[Any]) -> None:
        """Give the result its components, with labels turned back into dimensions."""
        axes = op.output.axes
        if tuple(labels) == tuple(range(len(axes))) and not op.output.virtual and all(
            isinstance(d, int) and d < len(axes) and i < len(axes[d]) and axes[d][i] is unit for c in components for d, i, unit in c.places
        ):
            self.components[op.output] = list(components)
            if op.kind == "take":
                self._copied(op)
            return
        if _is_plain(labels):
            back = {(label, i): (dim, i, unit) for dim, (label, units) in enumerate(zip(labels, axes, strict=True)) for i, unit in enumerate(units)}
        else:
            back = {
                place[:2]: (dim, i, unit)
                for dim, (label, units) in enumerate(zip(labels, axes, strict=True))
                for i, (place, unit) in enumerate(zip(name_places(label, units), units, strict=True))
            }
        for factor, i, unit in self.factor_places(op.output) if op.output.virtual else ():
            back[factor.named(labels), i] = (factor, i, unit)
        out = []
        for c in components:
            if all(place[:2] in back and back[place[:2]][2].size == place[2].size for place in c.places):
                out.append(Component(tuple(back[place[:2]] for place in c.places), c.ref))
        self.components[op.output] = out
        if op.kind == "take":
            self._copied(op)

    def reconnect(self, op: Op) -> None:
        """New nodes for a result whose relation to its operands' nodes is not element to element: all flow through one node."""
        acts = [value for value in op.inputs if not value.parametric]
        params = [value for value in op.inputs if value.parametric and value.kind != "constant"]
        name = op.name or op.kind
        depth = max((self.depth(self.of(value)) for value in acts), default=0)
        if not any(value.kind in ("parameter", "buffer") for value in params) and not any(map(self.of, acts)):
            self.components[op.output] = self.fresh_components(op.output, name, name, depth + 2)
            return  # nothing flows
        hub = Component((), Ref(self.add_nodes(f"{name}.through", "through", (), depth + 1)))
        for slot, value in enumerate(op.inputs):
            for c in self.of(value) if value in acts else ():
                self.structural(f"{name}.{slot}", c, hub)
        for value in params:
            if value.kind in ("parameter", "buffer"):
                self.parameter(value, [None] * value.ndim, f"{name}.operand", [hub])
        out = self.fresh_components(op.output, name, name, depth + 2)
        for c in out:
            self.structural(name, hub, c)
        self.components[op.output] = out

    # -- parameters ----------------------------------------------------------------------------------------------------

    def parameter(
        self,
        value: Value,
        labels: Sequence[Any],
        role: str,
        targets: Sequence[Component],
        sources: Sequence[Component] = (),
    ) -> None:
        """Edges for every parameter that a parametric value is computed from.

        Args:
            value: the parametric operand.
            labels: labels of its dimensions, as in the places of the components.
            role: the edge type, e.g. `"linear.weight"`.
            targets: components of the result.
            sources: components of what the operand multiplies; without them the edges come from a single node of the parameter's own.
        """
        named = {factor.key: factor.named(labels) for factor in value.virtual}
        for leaf in leaves_of(value, labels, self.system, named):
            self._leaf(leaf, role if not leaf.path else f"{role}/{leaf.path}", list(targets), list(sources))

    def _leaf(self, leaf: Leaf, role: str, targets: list[Component], sources: list[Component]) -> None:
        tags = leaf.places(self.system)
        known_t = {place for c in targets for place in c.places}
        known_s = {place for c in sources for place in c.places}
        to = [place for place in tags if place in known_t]
        loose = [p for p in tags if p not in known_t and p not in known_s]
        hidden = [p for p in loose if self.is_node(p[2]) and not p[2].pinned]
        if hidden:  # with the fixed ones that these depend on
            hidden = [p for p in loose if p in hidden or (self.is_node(p[2]) and self.related([p], hidden, tags))]
        both = [p for p in to if p in known_s] if sources else []
        from_ = [p for p in tags if p in known_s and p not in to]
        base = leaf.value.name
        if hidden:
            # Where they depend on elements that nodes hold already, each of those has its own.
            beside = [p for p in tags if p not in loose and self.related([p], hidden, tags)]
            hidden = [p for p in tags if p in hidden or p in beside]
            made = self.uses.hidden(self, hidden, base, [*targets, *sources])
            self._tie(made, beside, [*sources, *targets])
            if to and not from_ or beside and not any(p in to and p not in known_s for p in beside):
                sources, from_ = _replacing(made, sources, from_), [*(p for p in from_ if p not in beside), *(p for p in hidden if p not in to)]
                both = [*both, *(p for p in beside if p in to and p not in both)]  # each of them has its own
            else:
                targets, to = _replacing(made, targets, to), [*(p for p in to if p not in beside), *hidden]
                from_ = [p for p in from_ if p not in to]
        if not to and not from_:
            if targets:  # the same for every node: an edge to all of them
                target = targets[0]
            else:
                target = Component((), Ref(self.add_nodes(f"{base}.value", "parameter", (), 0)))
        elif to:
            ordered = _in_order(to, targets)
            target = self.gather(targets, ordered, f"{base}.target", backwards=True)
        else:  # it only meets what is contracted: it belongs to the source's nodes
            target, from_ = self.gather(sources, _in_order(from_, sources), f"{base}.target"), []
            for component in targets:
                self._summed_into(target, component)
        if from_:
            wanted = _in_order([*both, *from_], sources)
            source = self.gather(sources, wanted, f"{base}.source")
            own = [place for place in source.places if place not in both]
        else:
            source = Component((), Ref(self.add_nodes(base, f"{role}.node", (), 0)))
            both, own = [], []
        self.parameter_edges(leaf, tags, role, source, target, both, own)

    def _tie(self, made: Component, places: Sequence[Place], components: Sequence[Component]) -> None:
        """Link nodes with those that hold some of their places, once."""
        if not places or made.ref.name in self._tied:
            return
        self._tied.add(made.ref.name)
        for component in components:
            if any(place in places for place in component.places):
                self.structural("factor", component, made)

    def _summed_into(self, source: Component, target: Component) -> None:
        """Link nodes that a parameter contracts with those that hold the sums, once."""
        if source.ref.name != target.ref.name and (source.ref.name, target.ref.name) not in self._sums:
            self._sums.add((source.ref.name, target.ref.name))
            self.structural("sum", source, target)

    def parameter_edges(
        self, leaf: Leaf, tags: list[Place], role: str, source: Component, target: Component, both: list[Place], own: list[Place]
    ) -> None:
        """The edge set(s) of one leaf between two components; `both` are the places that the two share, `own` the source's others."""
        rows = [place for place in target.places if place in tags and place not in both]
        missing = [place for place in target.places if place not in tags]
        order = [tags.index(place) for place in (*both, *rows, *own)]
        rest = [i for i in range(len(tags)) if i not in order]
        sizes = [unit.size for _, _, unit in tags]
        groups, m, k, p = [math.prod([sizes[i] for i in part]) for part in _cut(order, len(both), len(rows), rest)]
        if missing and not (rows or both):
            m = target.size
            k_target = _arranged(target, [list(target.places)], (1, m))
        else:
            k_target = _arranged(target, [both, rows], (groups, m))
        coordinates = _coordinates(tuple([sizes[i] for i in rest]))
        source_index = _arranged(source, [both, own], (groups, k)) if source.places else None
        broadcast = m if (missing and not (rows or both)) else 0
        for view, shape_index in self.uses.views(leaf, [*order, *rest], (groups, m if not broadcast else 1, k, p), role, sizes):
            self._emit_view(view, shape_index, role, source, target, (groups, m, k, p), source_index, k_target, coordinates, both, broadcast)

    def _emit_view(
        self,
        view: ParameterView,
        elements: np.ndarray | None,
        role: str,
        source: Component,
        target: Component,
        shape: tuple[int, int, int, int],
        source_index: np.ndarray | None,
        target_index: np.ndarray | None,
        positions: np.ndarray | None,
        both: list[Place],
        broadcast: int,
    ) -> None:
        name = view.name if view.use == 0 else f"{view.name} (use {view.use + 1})"
        shared = tuple(space for _, _, space in both)
        groups, m, k, p = shape
        if broadcast:  # one value for all nodes: it is held by a node of its own, linked to every node
            made = Component((), Ref(self.add_nodes(f"{view.name}.shared", "factor", (), self.nodes[target.ref.name].depth)))
            self.structural("factor", made, target)
            self._held_for[made.ref.name] = target.ref.name
            self.add_edges(role, source.ref.name, made.ref.name, (1, 1, k, p), source_index, None, view, positions, (), name)
            return
        if elements is None:
            self.add_edges(role, source.ref.name, target.ref.name, shape, source_index, target_index, view, positions, shared, name)
            return
        g, i, j, q = np.unravel_index(elements, shape)
        s = np.arange(groups * k).reshape(groups, k) if source_index is None else source_index
        t = np.arange(groups * m).reshape(groups, m) if target_index is None else target_index
        edge_set_name = self.unique(name, edges=True)
        self.edges[edge_set_name] = EdgeSet(
            edge_set_name, f"{role}.part", source.ref.name, target.ref.name, (len(elements), 1, 1, 1),
            s[g, j][:, None], t[g, i][:, None], view, None, self.nodes[target.ref.name].depth, explicit=True,
        )  # fmt: skip

    # -- functions of nodes --------------------------------------------------------------------------------------------

    def is_open(self, value: Value, component: Component) -> bool:
        """Whether what is done next to a value can be written on its nodes: nobody else reads them, no function is applied yet."""
        record = self.nodes[component.ref.name]
        return (
            self.readers.get(value, 0) == 1
            and component.ref.index is None
            and record.activation is None
            and record.type not in ("input", "state", "factor")
        )

    # -- freezing ------------------------------------------------------------------------------------------------------

    def blocks(self, units: Axis) -> list[Block]:
        """The row-major product of some units as blocks of atomic spaces."""
        return self.typing.dependencies.blocks([units]) if units else []

    def _freeze(self, record: NodeRecord) -> NodeSet:
        found = self._layouts.get(record.units)
        if found is None:
            found = self._layouts[record.units] = self._layout(record.units)
        blocks, order = found
        if record.rank:  # what may move keeps one order
            implied = order is None or isinstance(order, range)
            order = range(record.rank, record.rank + record.size) if implied else record.rank + np.asarray(order)
        return NodeSet(record.name, _type_of(record), record.size, blocks, record.depth, record.activation, order)

    def _layout(self, units: Axis) -> tuple[NodeBlocks, np.ndarray | range | None]:
        """How the group moves the nodes of a product, and their order where some are told apart."""
        actions = [self.group.block(block) for block in self.blocks(units)]
        if self.typing.dependencies.partners:
            for action in actions:
                self.group.check(action)
        out = tuple((action.index[0], action.spaces[0]) for action in actions)
        size = math.prod(unit.size for unit in units)
        spaces = self.group.spaces
        if len(out) == 1 and all(spaces[s].pinned for s in out[0][1]):
            return out, range(size) if size > 1 else None
        if len(out) <= 1 and not any(spaces[s].pinned for _, own in out for s in own):
            return out, None
        # Nodes of different blocks are never exchanged, so each block has codes of its own.
        order = np.empty(size, dtype=np.int64)
        start = 0
        for index, own in out:
            code = np.zeros((), dtype=np.int64)
            sizes = [spaces[s].size for s in own]
            for i, s in enumerate(own):
                if spaces[s].pinned:
                    axis = np.arange(sizes[i]).reshape([-1 if e == i else 1 for e in range(len(sizes))])
                    code = code * sizes[i] + axis
            flat = np.broadcast_to(code, sizes).reshape(-1) + start
            order[np.arange(len(flat)) if index is None else index] = flat
            start = int(flat.max(initial=start - 1)) + 1
        return out, order

    def atoms(self, unit: Space) -> frozenset[int]:
        """Numbers of the atomic spaces that a unit is made of."""
        found = self._atoms.get(unit)
        if found is None:
            blocks = self.blocks((unit,))
            found = frozenset(n for block in blocks for n in self.group.numbers(block.axes[0]))
            self._atoms[unit] = found
        return found


def _is_plain(labels: Sequence[Any]) -> bool:
    """Whether every dimension has one label for all of its spaces."""
    return not any([isinstance(label, (Split, Matched)) for label in labels])


def _large(units: Axis) -> Axis:
    return tuple([unit for unit in units if unit.size > 1])


def _type_of(record: NodeRecord) -> str:
    return record.type if record.normalized is None else f"{record.type}.{record.normalized}"


def _replacing(made: Component, components: Sequence[Component], wanted: Sequence[Place]) -> list[Component]:
    """New nodes, and those of the components that hold a wanted place beside theirs."""
    return [*(c for c in components if any(place in c.places and place not in made.places for place in wanted)), made]


def _in_order(places: Sequence[Place], components: Sequence[Component]) -> list[Place]:
    """Places in the order in which the components hold them."""
    ranked = [place for c in components for place in c.places]
    return sorted(dict.fromkeys(places), key=ranked.index)


def _cut(order: list[int], both: int, rows: int, rest: list[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    return order[:both], order[both : both + rows], order[both + rows :], rest


def _arranged(component: Component, parts: Sequence[Sequence[Place]], shape: tuple[int, int]) -> np.ndarray | None:
    """Node numbers of a component with its places in the order of `parts`, reshaped; None where they are the implied ones."""
    wanted = [place for part in parts for place in part]
    if list(component.places) == wanted and component.ref.index is None:
        return None
    sizes = [space.size for _, _, space in component.places]
    numbers = component.ref.numbers(component.size).reshape(sizes)
    order = [component.places.index(place) for place in wanted]
    return np.ascontiguousarray(numbers.transpose(order).reshape(shape))


@lru_cache(maxsize=64)
def _coordinates(sizes: tuple[int, ...]) -> np.ndarray | None:
    """Coordinates in [-1, 1] of the row-major product of position axes, shape `(positions, axes)`; None for one position."""
    sizes = tuple([n for n in sizes if n > 1])
    if not sizes:
        return None
    if len(sizes) > 3:
        sizes = (math.prod(sizes[:-2]), *sizes[-2:])
    axes = [np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in sizes]
    out = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(sizes))
    out.flags.writeable = False  # edge sets share it
    return out


def only_activations(op: Op) -> list[tuple[int, Value]]:
    """Operands that depend on an input or a state, with their slots."""
    return [(slot, value) for slot, value in enumerate(op.inputs) if not value.parametric]
