"""Emission: from a typed program to node sets and edge sets.

Every activation has components: groups of its node-like index spaces, each held by one node set. Layout operations pass references on;
operations that compute make node sets and edges. Positions (pixels, tokens, kernel taps, batch) are not nodes: they are positions on
edges. What each operation kind adds stands beside its typing, in `paramgraph.compiler.operations`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from paramgraph.compiler.closure import Closure
from paramgraph.compiler.components import Component, NodeRecord, Ref
from paramgraph.compiler.operations.base import operation
from paramgraph.compiler.parameter_edges import ParameterEdges
from paramgraph.compiler.program import Op, Program
from paramgraph.compiler.typing import Typing
from paramgraph.graph import EdgeSet, NodeSet
from paramgraph.symmetries.dependencies import Block
from paramgraph.symmetries.solution import GroupBuilder
from paramgraph.symmetries.spaces import Axis, Space

NodeBlocks = tuple[tuple[np.ndarray | None, tuple[int, ...]], ...]


class Emitter(ParameterEdges):
    """Builds the node and edge sets of one typed program."""

    def __init__(self, program: Program, typing: Typing, group: GroupBuilder) -> None:
        super().__init__(program, typing, group)
        self._layouts: dict[Axis, tuple[NodeBlocks, np.ndarray | range | None]] = {}
        self._atoms: dict[Space, frozenset[int]] = {}

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


def _type_of(record: NodeRecord) -> str:
    return record.type if record.normalized is None else f"{record.type}.{record.normalized}"
