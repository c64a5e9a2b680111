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

from paramgraph import ParamGraph

_ROUNDS = 300
# Random elements that generate the group, but for a chance that is next to nothing; it would show as too many orbits.
_GENERATORS = 12
# Classes that are looked at once more.
_MOST_MARKED = 16


def orbits(graph: ParamGraph, generators: int = _GENERATORS) -> tuple[int, int]:
    """How many classes of parameter elements colour refinement finds, and how many orbits the annotated group has on them.

    Elements that no operation reads are left out: they belong to no group.

    Raises:
        AssertionError: the group takes elements to others that refinement tells apart.
    """
    start, total = {}, 0
    for name, tensor in graph.values.items():
        start[name] = total
        total += tensor.numel()
    colours, read, at = _refined(graph, start, total)
    declared = _declared(graph, start, total, generators)
    of_orbit = np.flatnonzero(np.isin(np.arange(total), declared[read], kind="table"))  # the least element of each
    if not np.array_equal(colours[declared[read]], colours[read]):
        raise AssertionError("the annotated group moves what the graph tells apart")
    classes, sizes = np.unique(colours[of_orbit], return_counts=True)
    found, several = len(classes), classes[sizes > 1]
    for colour in several if len(several) <= _MOST_MARKED else ():
        own = np.flatnonzero(read & (colours == colour))
        node = at[own[0]]
        finer, _, _ = _refined(graph, start, total, marked=node)
        found += len(np.unique(finer[own[at[own] == node]])) - 1
    return found, len(of_orbit)


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
        if kind.source in first:
            label = _mixed(np.arange(kind.shape[3], dtype=np.uint64) + _number(("edge", kind.type, kind.depth)))
            edges.append((kind, first[kind.source] + kind.sources(), first[kind.target] + kind.targets(), label))
    count = 0
    for _ in range(_ROUNDS):
        into, out = np.zeros_like(colour), np.zeros_like(colour)
        for _, sources, targets, label in edges:  # every target of a block gets the same from all its sources
            sent, returned = _mixed(colour[sources][..., None] + label), _mixed(colour[targets][..., None] ^ label)
            np.add.at(into, targets, sent.sum((1, 2))[:, None])
            np.add.at(out, sources, returned.sum((1, 2))[:, None])
        colour = _mixed(colour + _mixed(into) * np.uint64(3) + _mixed(out) * np.uint64(5))
        before, count = count, len(np.unique(colour))
        if count == before:
            break
    of_elements, read, at = np.zeros(total, dtype=np.uint64), np.zeros(total, dtype=bool), np.zeros(total, dtype=np.int32)
    for kind, sources, targets, label in edges:
        if kind.parameter is None:
            continue
        elements = start[kind.parameter.name] + kind.parameter.element_numbers(kind.shape)
        sent, returned = _mixed(colour[sources][:, None, :, None] + label) * np.uint64(3), _mixed(colour[targets][:, :, None, None] ^ label)
        _add(of_elements, elements, _mixed(sent + returned))
        read[elements] = True
        at[elements] = sources[:, None, :, None]
    return of_elements, read, at


def _add(sums: np.ndarray, at: np.ndarray, values: np.ndarray) -> None:
    """Add values in place; places that occur twice get both."""
    low = int(at.min(initial=0))
    met = np.zeros(int(at.max(initial=0)) - low + 1, dtype=bool)
    met[at - low] = True
    if np.count_nonzero(met) == at.size:
        sums[at] += values
    else:
        np.add.at(sums, at, values)


def _declared(graph: ParamGraph, start: dict[str, int], total: int, generators: int) -> np.ndarray:
    """The orbit of each parameter element under the group that random elements generate."""
    numbers = {name: torch.arange(start[name], start[name] + t.numel(), dtype=torch.int32).reshape(t.shape) for name, t in graph.values.items()}
    generator = torch.Generator().manual_seed(0)
    moved = []
    for _ in range(generators if graph.symmetry.factors else 0):
        acted = graph.symmetry.sample(generator, kinds="permutation").act(numbers)
        moved.append(np.concatenate([acted[name].reshape(-1).numpy() for name in numbers]))
    least = np.arange(total, dtype=np.int32)
    while True:  # every element takes the least number that one step from it leads to; the steps of a permutation lead back in the end
        before = least.copy()
        for element in moved:
            np.minimum(least, least[element], out=least)
        if np.array_equal(before, least):
            return least


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
