"""Orbits of a typed graph's parameter elements, by colour refinement, against those of the annotated group.

Colour refinement (Weisfeiler and Leman 1968) tells nodes apart by the colours of their neighbours until nothing new is told apart; elements
of parameters are told apart by the nodes that their edges join. Its classes are unions of orbits. Where they are as many as the annotated
group's orbits, the automorphism group has these very orbits on parameters.

Where rows and columns of a matrix move together, its diagonal is an orbit that refinement alone does not see. Classes that are several
annotated orbits are refined once more with a node of their own marked: elements at that node which get other colours are in other orbits.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from paramgraph import ParamGraph

_ROUNDS = 60
# Random elements that generate the group, but for a chance that is next to nothing; it would show as too many orbits.
_GENERATORS = 12
# Classes that are looked at once more.
_MOST_MARKED = 16


def orbits(graph: ParamGraph, generators: int = _GENERATORS) -> tuple[int, int]:
    """How many classes of parameter elements colour refinement finds, and how many orbits the annotated group has on them.

    Elements that no operation reads are left out: they belong to no group.
    """
    start, total = {}, 0
    for name, tensor in graph.values.items():
        start[name] = total
        total += tensor.numel()
    colours, read, at = _refined(graph, start, total)
    declared = _declared(graph, start, total, generators)
    classes, of_class = np.unique(colours[read], return_inverse=True)
    found = len(classes)
    pairs = np.unique(np.stack([of_class, declared[read]]), axis=1)
    several = np.flatnonzero(np.bincount(pairs[0]) > 1)
    for number in several if len(several) <= _MOST_MARKED else ():
        own = np.flatnonzero(read)[of_class == number]
        node = at[own[0]]
        finer, _, _ = _refined(graph, start, total, marked=node)
        found += len(np.unique(finer[own[at[own] == node]])) - 1
    return found, len(np.unique(declared[read]))


def _refined(graph: ParamGraph, start: dict[str, int], total: int, marked: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The colour of each parameter element, which elements are read, and the node that an edge of each comes from.

    Args:
        marked: a node with a colour of its own.
    """
    first, colours = {}, []
    for nodes in graph.node_sets.values():
        if is_unused(nodes.type):
            continue
        first[nodes.name] = sum(map(len, colours))
        colours.append(_mixed(nodes.order_array().astype(np.uint64) + _number(("node", nodes.type, nodes.activation, nodes.depth))))
    colour = np.concatenate(colours)
    if marked is not None:
        colour[marked] = _number("marked")
    edges = []
    for kind in graph.edge_sets.values():
        if kind.source not in first:
            continue
        source, target = kind.edge_index()
        position = np.broadcast_to(np.arange(kind.shape[3]), kind.shape).reshape(-1).astype(np.uint64)
        label = _mixed(position + _number(("edge", kind.type, kind.depth)))
        edges.append((first[kind.source] + source, first[kind.target] + target, label, kind.parameter, kind.shape))
    count = 0
    for _ in range(_ROUNDS):
        into, out = np.zeros_like(colour), np.zeros_like(colour)
        for source, target, label, *_ in edges:
            np.add.at(into, target, _mixed(colour[source] + label))
            np.add.at(out, source, _mixed(colour[target] ^ label))
        colour = _mixed(colour + _mixed(into) * np.uint64(3) + _mixed(out) * np.uint64(5))
        before, count = count, len(np.unique(colour))
        if count == before:
            break
    of_elements, read, at = np.zeros(total, dtype=np.uint64), np.zeros(total, dtype=bool), np.zeros(total, dtype=np.int64)
    for source, target, label, parameter, shape in edges:
        if parameter is not None:
            elements = start[parameter.name] + parameter.element_numbers(shape).reshape(-1)
            np.add.at(of_elements, elements, _mixed(_mixed(colour[source] + label) * np.uint64(3) + _mixed(colour[target] ^ label)))
            read[elements], at[elements] = True, source
    return of_elements, read, at


def _declared(graph: ParamGraph, start: dict[str, int], total: int, generators: int) -> np.ndarray:
    """The orbit of each parameter element under the group that random elements generate."""
    numbers = {name: torch.arange(start[name], start[name] + t.numel()).reshape(t.shape) for name, t in graph.values.items()}
    plain = np.arange(total)
    moved = [plain]
    generator = torch.Generator().manual_seed(0)
    for _ in range(generators if graph.symmetry.factors else 0):
        acted = graph.symmetry.sample(generator, kinds="permutation").act(numbers)
        moved.append(np.concatenate([acted[name].reshape(-1).numpy() for name in numbers]))
    rows, columns = np.tile(plain, len(moved)), np.concatenate(moved)
    links = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(total, total))
    return connected_components(links, directed=False)[1]


def is_unused(node_type: str) -> bool:
    return node_type.partition(".")[0] == "unused"


def _number(key: object) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little"))


def _mixed(values: np.ndarray) -> np.ndarray:
    """A hash of 64-bit numbers (splitmix64), element by element."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
