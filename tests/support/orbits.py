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
_MOST_MARKED = 2000


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
    refinement = _Refinement(graph, start, total)
    stable = refinement.refined(refinement.initial)
    colours, read, at = refinement.elements(stable)
    declared = _declared(graph, start, total, generators)
    of_orbit = np.flatnonzero(np.isin(np.arange(total), declared[read], kind="table"))  # the least element of each
    if not np.array_equal(colours[declared[read]], colours[read]):
        raise AssertionError("the annotated group moves what the graph tells apart")
    classes, sizes = np.unique(colours[of_orbit], return_counts=True)
    found, several = len(classes), classes[sizes > 1]
    for colour in several if len(several) <= _MOST_MARKED else ():
        own = np.flatnonzero(read & (colours == colour))
        own = own[at[own] == at[own[0]]]
        found += refinement.told_apart(stable, at[own[0]], own, len(np.unique(declared[own]))) - 1
    return found, len(of_orbit)


class _Refinement:
    """Colour refinement of a graph's nodes, and the colours of parameter elements that follow.

    Args:
        graph: the graph.
        start: where each tensor's elements start among all.
        total: how many elements there are.
    """

    def __init__(self, graph: ParamGraph, start: dict[str, int], total: int) -> None:
        self.start, self.total = start, total
        first: dict[str, int] = {}
        colours: list[np.ndarray] = []
        for nodes in graph.node_sets.values():
            if is_unused(nodes.type):
                continue
            first[nodes.name] = sum(map(len, colours))
            colours.append(_mixed(nodes.order_array().astype(np.uint64) + _number(("node", nodes.type, nodes.activation, nodes.depth))))
        self.initial = np.concatenate(colours)
        self.edges = []
        for kind in graph.edge_sets.values():
            if kind.source in first:
                label = _mixed(np.arange(kind.shape[3], dtype=np.uint64) + _number(("edge", kind.type, kind.depth)))
                self.edges.append((kind, first[kind.source] + kind.sources(), first[kind.target] + kind.targets(), label))

    def refined(self, colour: np.ndarray) -> np.ndarray:
        """Colours of nodes when nothing new is told apart."""
        count = 0
        for _ in range(_ROUNDS):
            colour = self._next(colour)
            before, count = count, len(np.unique(colour))
            if count == before:
                break
        return colour

    def told_apart(self, stable: np.ndarray, node: int, own: np.ndarray, enough: int) -> int:
        """How many colours elements at a node get that has a colour of its own.

        Args:
            stable: refined colours of nodes.
            node: the node that is marked.
            own: numbers of the elements.
            enough: where to stop: further rounds could not tell more apart.
        """
        names, firsts = list(self.start), np.array(list(self.start.values()))
        read = {names[i] for i in np.searchsorted(firsts, own, side="right") - 1}
        colour, count, found = stable.copy(), 0, 1
        colour[node] = _number("marked")
        for _ in range(_ROUNDS):
            colour = self._next(colour)
            before, count = count, len(np.unique(colour))
            found = len(np.unique(self.elements(colour, read)[0][own]))
            if found >= enough or count == before:
                break
        return found

    def _next(self, colour: np.ndarray) -> np.ndarray:
        into, out = np.zeros_like(colour), np.zeros_like(colour)
        for _, sources, targets, label in self.edges:  # every target of a block gets the same from all its sources
            sent, returned = _mixed(colour[sources][..., None] + label), _mixed(colour[targets][..., None] ^ label)
            np.add.at(into, targets, sent.sum((1, 2))[:, None])
            np.add.at(out, sources, returned.sum((1, 2))[:, None])
        return _mixed(colour + _mixed(into) * np.uint64(3) + _mixed(out) * np.uint64(5))

    def elements(self, colour: np.ndarray, only: set[str] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The colour of each parameter element, which elements are read, and the node that an edge of each comes from.

        Args:
            colour: colours of nodes.
            only: the parameters whose elements are asked for; the others are as if not read.
        """
        of_elements, read = np.zeros(self.total, dtype=np.uint64), np.zeros(self.total, dtype=bool)
        at = np.zeros(self.total, dtype=np.int32)
        for kind, sources, targets, label in self.edges:
            if kind.parameter is None or (only is not None and kind.parameter.name not in only):
                continue
            elements = self.start[kind.parameter.name] + kind.parameter.element_numbers(kind.shape)
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
