"""Edges of parameters: every parameter that a parametric operand is computed from, between what it contracts and what it produces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from paramgraph.compiler.components import Component, Ref, arranged
from paramgraph.compiler.joining import Joining
from paramgraph.compiler.parameters import Leaf, Leaves, Place
from paramgraph.compiler.program import Program, Value
from paramgraph.compiler.typing import Typing
from paramgraph.compiler.uses import ParameterUses
from paramgraph.graph import EdgeSet, ParameterView
from paramgraph.symmetries.solution import GroupBuilder


class ParameterEdges(Joining):
    """Makes the edge sets that hold parameters, and the nodes that these have of their own."""

    def __init__(self, program: Program, typing: Typing, group: GroupBuilder) -> None:
        super().__init__(program, typing, group)
        self.uses = ParameterUses(program)
        self._leaves = Leaves(typing.system)
        # Nodes that hold one value for all nodes of a set, with that set.
        self._held_for: dict[str, str] = {}
        # Nodes inside expressions of parameters that are linked with the nodes that they depend on.
        self._tied: set[str] = set()
        # Nodes that hold what is contracted with a parameter, with those that hold the sums.
        self._sums: set[tuple[str, str]] = set()

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
        for leaf in self._leaves.of(value, labels, named):
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
        if from_ or (both and not hidden):  # what only scales its operand, element by element (depthwise), stands between the two as well
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
            k_target = arranged(target, [list(target.places)], (1, m))
        else:
            k_target = arranged(target, [both, rows], (groups, m))
        coordinates = _coordinates(tuple([sizes[i] for i in rest]))
        source_index = arranged(source, [both, own], (groups, k)) if source.places else None
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


def _replacing(made: Component, components: Sequence[Component], wanted: Sequence[Place]) -> list[Component]:
    """New nodes, and those of the components that hold a wanted place beside theirs."""
    return [*(c for c in components if any(place in c.places and place not in made.places for place in wanted)), made]


def _in_order(places: Sequence[Place], components: Sequence[Component]) -> list[Place]:
    """Places in the order in which the components hold them."""
    ranked = [place for c in components for place in c.places]
    return sorted(dict.fromkeys(places), key=ranked.index)


def _cut(order: list[int], both: int, rows: int, rest: list[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    return order[:both], order[both : both + rows], order[both + rows :], rest


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
