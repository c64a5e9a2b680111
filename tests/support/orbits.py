"""Orbits of a typed graph's nodes, by colour refinement: what no automorphism can join, against what the annotated group joins.

Colour refinement (Weisfeiler and Leman 1968) tells nodes apart by the colours of their neighbours until nothing new is told apart. Its
classes are unions of orbits. Where they are as many as the annotated group's orbits, the automorphism group has these very orbits.
"""

from __future__ import annotations

import numpy as np

from paramgraph import ParamGraph

_ROUNDS = 60


def orbits(graph: ParamGraph) -> tuple[int, int]:
    """How many classes of nodes colour refinement finds, and how many orbits the annotated group has.

    Nodes of tensors that no operation reads are left out: they belong to no group.
    """
    start: dict[str, int] = {}
    declared = 0
    colours: list[np.ndarray] = []
    for number, nodes in enumerate(n for n in graph.node_sets.values() if not is_unused(n.type)):
        start[nodes.name] = sum(map(len, colours))
        seed = _number(("node", nodes.type, nodes.activation, nodes.depth))
        colours.append(_mixed(nodes.order_array().astype(np.uint64) + seed))
        declared += len(np.unique(_declared(graph, nodes, number)))
    colour = np.concatenate(colours)
    edges = []
    for kind in graph.edge_sets.values():
        if kind.source not in start:
            continue
        source, target = kind.edge_index()
        position = np.broadcast_to(np.arange(kind.shape[3]), kind.shape).reshape(-1).astype(np.uint64)
        label = _mixed(position + _number(("edge", kind.type, kind.depth)))
        edges.append((start[kind.source] + source, start[kind.target] + target, label))
    found = len(np.unique(colour))
    for _ in range(_ROUNDS):
        into, out = np.zeros_like(colour), np.zeros_like(colour)
        for source, target, label in edges:
            np.add.at(into, target, _mixed(colour[source] + label))
            np.add.at(out, source, _mixed(colour[target] ^ label))
        colour = _mixed(colour + _mixed(into) * np.uint64(3) + _mixed(out) * np.uint64(5))
        before, found = found, len(np.unique(colour))
        if found == before:
            break
    return found, declared


def is_unused(node_type: str) -> bool:
    return node_type.partition(".")[0] == "unused"


def _declared(graph: ParamGraph, nodes: object, number: int) -> np.ndarray:
    """The orbit of each node of a set: its coordinates along pinned spaces."""
    spaces = graph.symmetry.spaces
    out = np.arange(nodes.size, dtype=np.int64)  # type: ignore[attr-defined]
    first = 0
    for block, (index, factors) in enumerate(nodes.blocks):  # type: ignore[attr-defined]
        sizes = [spaces[s].size for s in factors]
        count = int(np.prod(sizes, dtype=np.int64))
        grid = np.zeros(sizes, dtype=np.int64)
        for axis, s in enumerate(factors):
            if spaces[s].factor < 0:
                shape = [1] * len(sizes)
                shape[axis] = sizes[axis]
                grid = grid * sizes[axis] + np.arange(sizes[axis]).reshape(shape)
        where = np.arange(first, first + count) if index is None else np.asarray(index)
        out[where] = (grid.reshape(-1) + 1) * -1 - block * 10**9
        first += count if index is None else 0
    return out


def _number(key: object) -> np.uint64:
    import hashlib

    return np.uint64(int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little"))


def _mixed(values: np.ndarray) -> np.ndarray:
    """A hash of 64-bit numbers (splitmix64), element by element."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
