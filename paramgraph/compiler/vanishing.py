"""Finds additions to parameters that other parameters take to zero, as far as they do.

What is added to the whole of a parameter is followed until it meets what does not pass it on, or leaves the program. What it has become there must
be zero: where that is known, a sum of products of it with other parameters, it says which additions are no change at all. A vector that is
multiplied with another one and summed up may have anything more that is orthogonal to that one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from paramgraph.compiler.coefficients import Known, ReadersInOrder
from paramgraph.compiler.increments import Increment, Node, Piece, Product
from paramgraph.compiler.offsets import Written
from paramgraph.compiler.passing import Passing
from paramgraph.compiler.program import Program, Value
from paramgraph.compiler.shares import Shares
from paramgraph.compiler.terms import Tangled
from paramgraph.symmetries.group import Moving
from paramgraph.symmetries.offsets import OffsetFactor, Step
from paramgraph.symmetries.translations import TranslationFactor
from paramgraph.symmetries.vanishing import VanishingFactor, matrix_of

# Matrices of more elements, or of more rows and columns both, are not computed.
MOST_ELEMENTS, MOST_RANK = 1 << 20, 512
# Singular values below this, relative to the largest, are zero.
ZERO = 1e-9
# Constants that are whole numbers over this one are taken as exact.
DYADIC = 1 << 10
# Nodes that hold all elements of what they are made of.
HOLDING = frozenset(("regroup", "place"))


class NothingFree(Exception):
    """Nothing but zero may be added, as far as is known."""


def find_vanishing(program: Program, found: Sequence[Moving]) -> Iterator[VanishingFactor]:
    """The additions to single parameters that others take to zero.

    Args:
        program: the program.
        found: factors that are known: what may have anything added is not asked again.
    """
    free = {factor.tensor for factor in found if isinstance(factor, (TranslationFactor, OffsetFactor))
            and factor.dimension == math.prod(program.tensors[factor.tensor].shape)}  # fmt: skip
    known = Known(program)
    shares = Shares(known)
    for value in program.tensors.values():
        if value.kind != "parameter" or value.integer or 0 in value.shape or value.name in free or value.name in program.fixed:
            continue
        if value in known.out or value not in known.readers:
            continue
        try:
            factor = _factor(program, value, _Following(known, shares, value).maps())
        except NothingFree:
            continue
        if factor is not None:
            yield factor


class _Following:
    """An addition to the whole of a parameter, and what it becomes where it must be zero.

    Args:
        known: facts of the program.
        shares: its values as polynomials.
        value: the parameter.
    """

    def __init__(self, known: Known, shares: Shares, value: Value) -> None:
        self.known, self.value, self.passing = known, value, Passing(known, shares)
        wide = tuple(d for d, n in enumerate(value.shape) if n > 1)
        self.source = known.nodes.make("source", [value.shape[d] for d in wide], attrs=(value.name, "whole"))
        self.start: Increment = {Product(Piece(self.source, wide)): 1.0}
        self._depends: dict[Node, bool] = {}

    def maps(self) -> list[Node]:
        """The tensors, linear in what is added, that must be zero.

        Raises:
            NothingFree: what is added must be zero, or some of it is not read.
        """
        known, out = self.known, dict[Node, None]()
        held = {self.value: self.start}
        waiting = ReadersInOrder(known, held)
        for op in waiting:
            given = {slot: held[value] for slot, value in enumerate(op.inputs) if held.get(value)}
            if not given:
                continue
            if op.kind == "take" and any(self._is_bare(product.core.node) for product in given[0]):
                raise NothingFree  # elements that are not read would be free, and are no symmetry's
            try:
                found = self.passing.through(op, given)
            except Tangled:
                for slot, increment in given.items():
                    out.update(dict.fromkeys(self._vanishing(increment, op.inputs[slot])))
                continue
            if not found:
                continue
            if op.output in known.out:
                out.update(dict.fromkeys(self._vanishing(found, op.output)))
                continue
            held[op.output] = found
            waiting.add(op.output)
        return list(out)

    def _vanishing(self, increment: Increment, value: Value) -> Iterator[Node]:
        """What must be zero for an increment of a value to be."""
        if len(increment) > 1 and all(piece.node.known for product in increment for piece in product.pieces):
            nodes = self.known.nodes
            solid = [(nodes.one_of(product.pieces), number) for product, number in increment.items()]
            dims = sorted({d for piece, _ in solid for d in piece.dims})
            form = tuple(tuple(dims.index(d) for d in piece.dims) for piece, _ in solid)
            numbers = tuple(number for _, number in solid)
            yield nodes.make("sum", [value.shape[d] for d in dims], [piece.node for piece, _ in solid], (form, numbers))
            return
        for product in increment:  # each by itself: the factors of each are other parameters
            node = self._inner(product.core.node)
            if self._is_bare(node) or not self._has_source(node):
                raise NothingFree
            yield node

    def _inner(self, node: Node) -> Node:
        """The last known node that what is added has become, on the way to one that depends on the network's inputs.

        Raises:
            NothingFree: it came there in several ways.
        """
        while not node.known:
            inputs = [other for other in node.inputs if self._has_source(other)]
            if len(inputs) != 1:
                raise NothingFree
            (node,) = inputs
        return node

    def _has_source(self, node: Node) -> bool:
        if node not in self._depends:
            self._depends[node] = node is self.source or any(map(self._has_source, node.inputs))
        return self._depends[node]

    def _is_bare(self, node: Node) -> bool:
        """Whether a node holds all that is added."""
        while node.kind in HOLDING:
            (node,) = node.inputs
        return node is self.source


def _factor(program: Program, value: Value, maps: Sequence[Node]) -> VanishingFactor | None:
    """The symmetry; None if nothing is left, or what may be added would depend on what is moved."""
    size, rows = math.prod(value.shape), sum(math.prod(node.shape) for node in maps)
    if not maps or size * rows > MOST_ELEMENTS or min(size, rows) > MOST_RANK:
        return None
    written = Written()
    numbers = tuple(dict.fromkeys(written.number(node) for node in maps))
    steps = tuple(written.steps)
    if any(step.kind == "tensor" and step.name == value.name or step.kind == "constant" and not _is_exact(step) for step in steps):
        return None
    rank = _rank(program, steps, numbers, size)
    if rank == size:
        return None
    return VanishingFactor(f"additions to {value.name}, taken to zero", value.name, tuple(value.shape), rank, numbers, steps)


def _is_exact(step: Step) -> bool:
    """Whether a constant is what it is in any arithmetic: a table of sines is rounded, and what it takes to zero in one, it does not in another."""
    return all((DYADIC * number).is_integer() for number in step.numbers)


def _rank(program: Program, steps: Sequence[Step], maps: Sequence[int], size: int) -> int:
    """The rank of the maps where tensors are in general position: at random ones."""
    generator = torch.Generator().manual_seed(0)
    names = dict.fromkeys(step.name for step in steps if step.kind == "tensor")
    tensors = {name: torch.randn(program.tensors[name].shape, generator=generator, dtype=torch.float64) for name in names}
    values = torch.linalg.svdvals(matrix_of(steps, maps, size, tensors))
    return int((values > ZERO * values.max()).sum())
