"""What additions to parameters make of other values, written down as sums of products of tensors: with letters, not with numbers.

An increment of a value is a sum of products. Each has a core, which what is added enters once, and factors made of other parameters, each of them
along some dimensions of the value and constant along the others. Tensors are nodes, and the same tensor is one node: what cancels is gone. A node
that depends on the network's inputs is not known; of it, all that counts is along which dimensions it varies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paramgraph.compiler.layouts import Layout, cut, whole
from paramgraph.compiler.terms import Tangled, regrouped

Array = np.ndarray
# Sizes of the factors of an axis, and whether a node varies along each of them.
Split = tuple[tuple[int, ...], tuple[bool, ...]]
# Numbers of terms below this, relative to the largest, are rounding errors of ones that cancel.
NOTHING = 1e-12


@dataclass(frozen=True, eq=False)
class Node:
    """A tensor that the tensors of a state dict, what is added and perhaps the network's inputs determine.

    Attributes:
        number: in the order in which they are made.
        kind: `"source"`, `"tensor"`, `"constant"`, `"take"`, `"place"`, `"regroup"`, `"product"`, `"sum"`, or `"through"` for what is not known.
        shape: its shape, without axes of one element.
        inputs: nodes that it is made of.
        attrs: how.
        known: whether the network's inputs have nothing to do with it.
        where: per axis, outside which positions it is certainly zero; None if that is not known of any.
        split: per axis, the sizes that it is a product of, and whether the node varies along each of them; None for an axis that is no product.
    """

    number: int
    kind: str
    shape: tuple[int, ...]
    inputs: tuple[Node, ...]
    attrs: tuple[Any, ...]
    known: bool
    where: tuple[Array | None, ...]
    split: tuple[Split | None, ...]


@dataclass(frozen=True)
class Piece:
    """A node along some dimensions of a value, to the power of 1 or −1."""

    node: Node
    dims: tuple[int, ...]
    power: int = 1

    def at(self, places: Mapping[int, int]) -> Piece:
        """The same along dimensions that are numbered otherwise."""
        return Piece(self.node, tuple(places[d] for d in self.dims), self.power)


@dataclass(frozen=True)
class Product:
    """A core times factors, sorted by their nodes."""

    core: Piece
    factors: tuple[Piece, ...] = ()

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return (self.core, *self.factors)

    @property
    def dims(self) -> list[int]:
        """The dimensions that it varies along."""
        return sorted({d for piece in self.pieces for d in piece.dims})

    @property
    def where(self) -> dict[int, Array]:
        """Per dimension, outside which positions it is certainly zero, if that is known of any."""
        out: dict[int, Array] = {}
        for piece in self.pieces:
            for d, mask in zip(piece.dims, piece.node.where, strict=True):
                if mask is not None:
                    out[d] = out[d] & mask if d in out else mask
        return out

    def times(self, *more: Piece) -> Product:
        powers: dict[tuple[Node, tuple[int, ...]], int] = {}
        for piece in (*self.factors, *more):
            powers[piece.node, piece.dims] = powers.get((piece.node, piece.dims), 0) + piece.power
        held = [Piece(node, dims, power) for (node, dims), power in powers.items() if power and node.number]  # the first node is 1
        return Product(self.core, tuple(sorted(held, key=lambda piece: (piece.node.number, piece.dims))))

    def at(self, places: Mapping[int, int]) -> Product:
        return Product(self.core.at(places)).times(*(piece.at(places) for piece in self.factors))


# Sizes of dimensions, by their numbers.
Sizes = Sequence[int] | Mapping[int, int]
# Products, each with a number that it is multiplied by.
Increment = dict[Product, float]


def added(*increments: Increment) -> Increment:
    out: Increment = {}
    for increment in increments:
        for product, number in increment.items():
            out[product] = out.get(product, 0.0) + number
    most = max((abs(number) for increment in increments for number in increment.values()), default=0.0)
    return {product: number for product, number in out.items() if abs(number) > NOTHING * most}


def multiplied(increment: Increment, number: float) -> Increment:
    return {product: own * number for product, own in increment.items()}


def varying(increment: Increment) -> set[int]:
    """The dimensions that an increment varies along."""
    return {d for product in increment for d in product.dims}


def renamed(increment: Increment, places: Mapping[int, int]) -> Increment:
    """The same increment of a value whose dimensions are numbered otherwise.

    Raises:
        Tangled: it varies along one that is not there.
    """
    if not varying(increment) <= set(places):
        raise Tangled
    return {product.at(places): number for product, number in increment.items()}


class Nodes:
    """All nodes, each once, and what is done with increments made of them."""

    def __init__(self) -> None:
        self.table: dict[Any, Node] = {}
        # Nodes that are views of others, and the atoms of these along each of their axes.
        self.views: dict[Node, tuple[Node, tuple[Layout, ...]]] = {}
        self.one = self.make("constant", (), attrs=((), (1.0,)))

    def make(
        self, kind: str, shape: Iterable[int], inputs: Sequence[Node] = (), attrs: tuple[Any, ...] = (), known: bool = True,
        where: Sequence[Array | None] | None = None, split: Mapping[int, Split] | None = None,
    ) -> Node:  # fmt: skip
        shape = tuple(shape)
        key = (kind, shape, tuple(node.number for node in inputs), attrs)
        if key not in self.table:
            masks = (None,) * len(shape) if where is None else tuple(where)
            known = known and all(node.known for node in inputs)
            parts = tuple((split or {}).get(axis) for axis in range(len(shape)))
            self.table[key] = Node(len(self.table), kind, shape, tuple(inputs), attrs, known, masks, parts)
        return self.table[key]

    # -- single pieces -----------------------------------------------------------------------------------------------------------

    def _taken(self, piece: Piece, dim: int, index: tuple[int, ...]) -> Piece | None:
        """A piece at some positions of a dimension; None if it is zero there."""
        if dim not in piece.dims:
            return piece
        axis, node = piece.dims.index(dim), piece.node
        mask = node.where[axis]
        if mask is not None and not mask[list(index)].any():
            return None
        if node.kind == "place" and node.attrs[0] == axis:
            held, own = node.inputs[0], {i: place for place, i in enumerate(node.attrs[1])}
            found = [place for place, i in enumerate(index) if i in own]
            inner: Piece | None = Piece(held, _without(piece.dims, axis) if len(held.shape) < len(node.shape) else piece.dims, piece.power)
            if inner is not None and dim in inner.dims:
                inner = self._taken(inner, dim, tuple(own[index[place]] for place in found))
            return inner if inner is None or len(found) == len(index) else self.placed(inner, dim, tuple(found), len(index))
        if node.kind == "take" and node.attrs[0] == axis and len(node.inputs[0].shape) == len(node.shape):  # there and back is no change
            return self._taken(Piece(node.inputs[0], piece.dims, piece.power), dim, tuple(node.attrs[1][i] for i in index))
        if index == tuple(range(node.shape[axis])):
            return piece
        narrow = len(index) == 1
        shape, where = list(node.shape), list(node.where)
        shape[axis], where[axis] = len(index), None if mask is None else mask[list(index)]
        if narrow:
            del shape[axis], where[axis]
        return Piece(self.make("take", shape, [node], (axis, index), where=where), _without(piece.dims, axis) if narrow else piece.dims, piece.power)

    def placed(self, piece: Piece, dim: int, index: tuple[int, ...], size: int) -> Piece:
        """A piece at some positions of a dimension, and zero at the others."""
        if dim in piece.dims and piece.node.kind == "place" and piece.node.attrs[0] == piece.dims.index(dim):  # it is placed there already
            axis, held = piece.dims.index(dim), piece.node.inputs[0]
            dims = _without(piece.dims, axis) if len(held.shape) < len(piece.node.shape) else piece.dims
            return self.placed(Piece(held, dims, piece.power), dim, tuple(index[i] for i in piece.node.attrs[1]), size)
        if dim in piece.dims:
            axis, dims = piece.dims.index(dim), piece.dims
            shape, where = list(piece.node.shape), list(piece.node.where)
            shape[axis] = size
        else:
            axis, dims = len(piece.dims), (*piece.dims, dim)
            shape, where = [*piece.node.shape, size], [*piece.node.where, None]
        where[axis] = np.isin(np.arange(size), index)
        return Piece(self.make("place", shape, [piece.node], (axis, index), where=where), dims, piece.power)

    def _regrouped(self, piece: Piece, olds: Sequence[int], news: Sequence[int], before: Sizes, after: Sizes) -> Piece:
        """A piece along dimensions that are reshaped into others together."""
        if set(olds).isdisjoint(piece.dims):
            return piece
        if len(olds) == len(news) == 1:
            return Piece(piece.node, tuple(news[0] if d == olds[0] else d for d in piece.dims), piece.power)
        parted = self._regrouped_part(piece, olds, news, before, after) or self._regrouped_split(piece, olds, news, after)
        if parted is not None:
            return parted
        viewed = self._viewed(piece, olds, news, before, after)
        if viewed is not None:
            return viewed
        rest = [place for place, d in enumerate(piece.dims) if d not in olds]
        axes = [*rest, *(piece.dims.index(d) if d in piece.dims else -1 for d in olds)]
        sizes = [*(piece.node.shape[place] for place in rest), *(before[d] for d in olds)]
        shape = [*sizes[: len(rest)], *(after[d] for d in news)]
        node, masks = piece.node, [piece.node.where[axis] if axis >= 0 else None for axis in axes]
        dims = (*(piece.dims[place] for place in rest), *news)
        where = [*masks[: len(rest)], *_regrouped_masks(masks[len(rest) :], [before[d] for d in olds], [after[d] for d in news])]
        split: dict[int, Split] = {}
        if len(news) == 1:
            split[len(rest)] = (tuple(before[d] for d in olds), tuple(d in piece.dims for d in olds))
        return Piece(self.make("regroup", shape, [node], (tuple(axes), tuple(sizes)), where=where, split=split), dims, piece.power)

    def _viewed(self, piece: Piece, olds: Sequence[int], news: Sequence[int], before: Sizes, after: Sizes) -> Piece | None:
        """A piece along reshaped dimensions as a view of the tensor that views are of; None if their sizes do not fit into each other.

        What is the same along factors of an axis is so in all views: heads that were merged with samples come apart again.
        """
        base, layouts = self.views.get(piece.node, (piece.node, tuple(whole(axis, n) for axis, n in enumerate(piece.node.shape))))
        held = dict(zip(piece.dims, layouts, strict=True))
        parts = cut([atom for d in olds for atom in held.get(d, ((-1, 1, before[d]),))], [after[d] for d in news])
        if parts is None:
            return None
        found = [(d, layout) for d, layout in held.items() if d not in olds] + list(zip(news, parts, strict=True))
        found = [(d, layout) for d, layout in found if any(axis >= 0 for axis, _, _ in layout)]
        dims = {layout: d for d, layout in found}
        plain = [whole(axis, n) for axis, n in enumerate(base.shape)]
        if set(dims) == set(plain):
            return Piece(base, tuple(dims[layout] for layout in plain), piece.power)
        ordered = sorted(dims)
        atoms = sorted({atom for layout in ordered for atom in layout if atom[0] >= 0}, key=lambda atom: (atom[0], -atom[1]))
        apart = base
        if [n for _, _, n in atoms] != list(base.shape):
            groups = [[n for axis, _, n in atoms if axis == place] for place in range(len(base.shape))]
            masks = [mask for own, n, sizes in zip(base.where, base.shape, groups, strict=True) for mask in _regrouped_masks([own], [n], sizes)]
            sizes = [n for own in groups for n in own]
            apart = self.make("regroup", sizes, [base], (tuple(range(len(base.shape))), base.shape), where=masks)
        places = [[atoms.index(atom) if atom[0] >= 0 else -1 for atom in layout] for layout in ordered]
        inner = [[n for _, _, n in layout] for layout in ordered]
        shape = [math.prod(own) for own in inner]
        where = [_regrouped_masks([apart.where[place] if place >= 0 else None for place in own], sizes, [n])[0]
                 for own, sizes, n in zip(places, inner, shape, strict=True)]  # fmt: skip
        order, spread = tuple(place for own in places for place in own), tuple(n for own in inner for n in own)
        node = apart
        if order != tuple(range(len(apart.shape))) or tuple(shape) != apart.shape:
            split = {place: (tuple(sizes), tuple(axis >= 0 for axis in own)) for place, (own, sizes) in enumerate(zip(places, inner, strict=True))}
            node = self.make("regroup", shape, [apart], (order, spread), where=where, split=split)
        self.views[node] = (base, tuple(ordered))
        return Piece(node, tuple(dims[layout] for layout in ordered), piece.power)

    def _regrouped_split(self, piece: Piece, olds: Sequence[int], news: Sequence[int], after: Sizes) -> Piece | None:
        """A piece that is not known, but that is the same along some factors of a dimension, if the new ones are these; None if not."""
        node = piece.node
        if node.known or len(olds) != 1 or olds[0] not in piece.dims:
            return None
        axis = piece.dims.index(olds[0])
        split = node.split[axis]
        if split is None or split[0] != tuple(after[d] for d in news):
            return None
        kept = [(d, n) for d, n, varies in zip(news, *split, strict=True) if varies]
        shape = [*node.shape[:axis], *(n for _, n in kept), *node.shape[axis + 1 :]]
        dims = (*piece.dims[:axis], *(d for d, _ in kept), *piece.dims[axis + 1 :])
        return Piece(self.make("through", shape, [node], ("split", axis, tuple(n for _, n in kept)), False), dims, piece.power)

    def _regrouped_part(self, piece: Piece, olds: Sequence[int], news: Sequence[int], before: Sizes, after: Sizes) -> Piece | None:
        """A piece that is the same within a part of a dimension, if that is a box of the new ones; None if not."""
        node, own = piece.node, [d for d in piece.dims if d in olds]
        if node.kind != "place" or len(own) != 1 or node.attrs[0] != piece.dims.index(own[0]) or len(node.inputs[0].shape) == len(node.shape):
            return None
        flat = np.ones(1, dtype=bool)
        for d in olds:
            flat = np.outer(flat, np.isin(np.arange(before[d]), node.attrs[1]) if d == own[0] else np.ones(before[d], dtype=bool)).reshape(-1)
        wide = flat.reshape([after[d] for d in news])
        masks = [wide.any(axis=tuple(p for p in range(len(news)) if p != place)) for place in range(len(news))]
        if wide.sum() != np.prod([mask.sum() for mask in masks]):
            return None
        out = Piece(node.inputs[0], _without(piece.dims, node.attrs[0]), piece.power)
        for d, mask in zip(news, masks, strict=True):
            out = out if mask.all() else self.placed(out, d, tuple(np.flatnonzero(mask).tolist()), after[d])
        return out

    def multiplied_out(self, pieces: Sequence[tuple[Node, Sequence[Any], int]], out: Sequence[Any]) -> Node:
        """The node of a product of nodes with labels, summed over the labels that the result lacks."""
        if len(pieces) == 1 and pieces[0][2] == 1 and list(pieces[0][1]) == list(out):
            return pieces[0][0]
        numbers: dict[Any, int] = {}
        sizes: dict[Any, int] = {}
        masks: dict[Any, list[Array]] = {}
        for node, labels, _ in pieces:
            for label, n, mask in zip(labels, node.shape, node.where, strict=True):
                sizes[label] = n
                numbers.setdefault(label, len(numbers))
                if mask is not None:
                    masks.setdefault(label, []).append(mask)
        form = (*(tuple(numbers[label] for label in labels) for _, labels, _ in pieces), tuple(numbers[label] for label in out))
        where = [np.logical_and.reduce(masks[label]) if label in masks else None for label in out]
        nodes, powers = [node for node, _, _ in pieces], tuple(power for _, _, power in pieces)
        return self.make("product", [sizes[label] for label in out], nodes, (form, powers), where=where)

    # -- increments --------------------------------------------------------------------------------------------------------------

    def taken(self, increment: Increment, dim: int, index: Sequence[int]) -> Increment:
        out: list[Increment] = []
        for product, number in increment.items():
            pieces = [self._taken(piece, dim, tuple(map(int, index))) for piece in product.pieces]
            held = [piece for piece in pieces if piece is not None]
            if len(held) == len(pieces):
                out.append({Product(held[0]).times(*held[1:]): number})
        return added(*out)

    def laid(self, increment: Increment, dim: int, index: Sequence[int], size: int) -> Increment:
        """An increment of some positions of a dimension, as one of them all."""
        if size == 1:
            return increment
        places = tuple(map(int, index))
        out: list[Increment] = []
        for product, number in increment.items():
            along = [piece for piece in product.pieces if dim in piece.dims]
            if product.core not in along and (not along or len(along) == 1 and along[0].power == 1):
                part = self.placed(along[0] if along else Piece(self.one, ()), dim, places, size)
                rest = [piece for piece in product.factors if piece not in along]
                out.append({Product(product.core).times(*rest, part): number})
                continue
            core = self.placed(self.one_of([product.core, *(piece for piece in along if piece is not product.core)]), dim, places, size)
            out.append({Product(core).times(*(piece for piece in product.factors if piece not in along)): number})
        return added(*out)

    def reshaped(self, increment: Increment, before: Sequence[int], after: Sequence[int]) -> Increment:
        if 0 in before:
            raise Tangled
        groups = list(regrouped(before, after))
        out: list[Increment] = []
        for product, number in increment.items():
            pieces = [self._reshaped(piece, groups, before, after) for piece in product.pieces]
            out.append({Product(pieces[0]).times(*pieces[1:]): number})
        return added(*out)

    def _reshaped(self, piece: Piece, groups: Sequence[tuple[list[int], list[int]]], before: Sequence[int], after: Sequence[int]) -> Piece:
        """One piece after all regroupings; dimensions of the new value are told from those of the old one by their sign."""
        for olds, news in groups:
            piece = self._regrouped(piece, olds, [-1 - d for d in news], before, {-1 - d: n for d, n in enumerate(after)})
        return Piece(piece.node, tuple(-1 - d for d in piece.dims), piece.power)

    def one_of(self, pieces: Sequence[Piece]) -> Piece:
        """One piece in place of several that are multiplied."""
        if len(pieces) == 1 and pieces[0].power == 1:
            return pieces[0]
        dims = tuple(dict.fromkeys(d for piece in pieces for d in piece.dims))
        return Piece(self.multiplied_out([(piece.node, piece.dims, piece.power) for piece in pieces], dims), dims)

    def contracted(self, product: Product, more: Sequence[Piece], gone: Mapping[int, int]) -> Increment:
        """A product times more pieces, summed over some dimensions.

        Args:
            gone: sizes of the dimensions that are summed over.
        """
        pieces, number = list((*product.pieces, *more)), 1.0
        core, factors = product.core, []
        waiting = set(gone)
        while waiting:
            dims, group = {waiting.pop()}, []
            while found := [piece for piece in pieces if not dims.isdisjoint(piece.dims) and piece not in group]:
                group += found
                dims |= {d for piece in group for d in piece.dims if d in gone}
            waiting -= dims
            if not group:
                number *= gone[next(iter(dims))]
                continue
            group = [piece for piece in pieces if piece in group]  # in one order, whatever was found first
            out = tuple(dict.fromkeys(d for piece in group for d in piece.dims if d not in gone))
            made = Piece(self.multiplied_out([(piece.node, piece.dims, piece.power) for piece in group], out), out)
            if product.core in group:
                core = made
            else:
                factors.append(made)
            pieces = [piece for piece in pieces if piece not in group]
        factors += [piece for piece in pieces if piece is not product.core]
        return {Product(core).times(*factors): number}


def _without(dims: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*dims[:axis], *dims[axis + 1 :])


def _regrouped_masks(masks: Sequence[Array | None], before: Sequence[int], after: Sequence[int]) -> list[Array | None]:
    """Outside which positions of regrouped axes something is zero."""
    if all(mask is None for mask in masks):
        return [None] * len(after)
    flat = np.ones(1, dtype=bool)
    for mask, n in zip(masks, before, strict=True):
        flat = np.outer(flat, np.ones(n, dtype=bool) if mask is None else mask).reshape(-1)
    wide = flat.reshape(after)
    return [np.asarray(wide.any(axis=tuple(p for p in range(len(after)) if p != place))) for place in range(len(after))]
