"""Joining: node sets for what several components hold together, and components of some of their places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.components import Component, Ref
from paramgraph.compiler.diagnose import module_path
from paramgraph.compiler.parameters import Place, name_places
from paramgraph.compiler.places import Places, is_plain
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.typing import Typing
from paramgraph.symmetries.solution import GroupBuilder
from paramgraph.symmetries.spaces import Axis


class Joining(Places):
    """Makes components: of several operands, of some places of one, or further ones beside them."""

    def __init__(self, program: Program, typing: Typing, group: GroupBuilder) -> None:
        super().__init__(program, typing, group)
        self._where: Any = None
        self._related: dict[tuple[Axis, Axis], bool] = {}

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
        if is_plain(labels):
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

    def is_open(self, value: Value, component: Component) -> bool:
        """Whether what is done next to a value can be written on its nodes: nobody else reads them, no function is applied yet."""
        record = self.nodes[component.ref.name]
        return (
            self.readers.get(value, 0) == 1
            and component.ref.index is None
            and record.activation is None
            and record.type not in ("input", "state", "factor")
        )
