"""Characters: by which multipliers the elements of a tensor are scaled when parameters are, as linear forms in unknowns.

The logarithm of a multiplier is a function of the tensor's indices. It is written as a sum of functions on subsets of its index spaces,
each zero where an index is the first of its space (`f(i, j) = f + f_i(i) + f_j(j) + f_ij(i, j)`). Constraints between tensors are the same
for every element, so each of these functions is one unknown of a linear system, over the rationals for magnitudes and over GF(2) for
signs. An unknown function on spaces of sizes n, m, … has (n − 1)(m − 1)… dimensions. A tensor that is cut into parts has functions of
its own on each part.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from paramgraph.symmetries.elimination import EVEN, ZERO, BinarySystem, Form, Parity, RationalSystem, plus, scaled
from paramgraph.symmetries.scale_spaces import Layout, Layouts

# Number of one block along each axis.
Key = tuple[int, ...]
# Index spaces within a block: (axis, atom of the axis' block), sorted.
Subset = tuple[tuple[int, int], ...]
# Magnitude and sign.
Term = tuple[Form, Parity]
Terms = dict[Subset, Term]
# Unknowns of tensors that are no parameters are solved for first.
AUXILIARY = 1 << 40
# Parameters with more spaces than this have multipliers on single spaces only.
MOST_SPACES = 6
NOTHING: Term = (ZERO, EVEN)


class Incompatible(Exception):
    """Two tensors that an operation aligns are cut differently; the caller takes the operation as one without a rule."""


@dataclass(frozen=True)
class Unknown:
    """An unknown function of a parameter: on which spaces of which of its blocks.

    Attributes:
        name: of the parameter.
        key: the block.
        subset: the spaces.
        shape: their sizes.
        spaces: their identities, sorted.
    """

    name: str
    key: Key
    subset: Subset
    shape: tuple[int, ...]
    spaces: tuple[int, ...]

    @property
    def dimension(self) -> int:
        return math.prod(n - 1 for n in self.shape)


class Character:
    """The character of one tensor; the terms of a block are made when they are asked for."""

    __slots__ = ("_blocks", "_make", "_terms", "layouts")

    def __init__(self, layouts: Sequence[Layout], make: Callable[[Key], Terms]) -> None:
        self.layouts = tuple(layouts)
        self._make = make
        self._terms: dict[Key, Terms] = {}
        self._blocks: list[Key] | None = None

    def terms(self, key: Key) -> Terms:
        found = self._terms.get(key)
        if found is None:
            found = self._terms[key] = self._make(key)
        return found

    @property
    def blocks(self) -> list[Key]:
        """All blocks."""
        if self._blocks is None:
            self._blocks = list(itertools.product(*[range(len(layout.blocks)) for layout in self.layouts]))
        return self._blocks

    @property
    def made(self) -> dict[Key, Terms]:
        """Blocks that were asked for."""
        return self._terms


class CharacterSystem:
    """Unknowns and constraints of one program.

    Attributes:
        layouts: of its axes.
        unknowns: of the parameters, by number.
        magnitudes: constraints on magnitudes.
        signs: constraints on signs.
        exact: magnitudes that must be trivial, where they are so only for a constant that is meant to be negligible (ε).
    """

    def __init__(self, layouts: Layouts) -> None:
        self.layouts = layouts
        self.unknowns: list[Unknown] = []
        self.magnitudes = RationalSystem()
        self.signs = BinarySystem()
        self.exact: list[Form] = []
        self._auxiliary: dict[int, tuple[int, ...]] = {}

    # -- making --------------------------------------------------------------------------------------------------------

    def trivial(self, layouts: Sequence[Layout]) -> Character:
        """Multipliers that are all 1."""
        return Character(layouts, lambda key: {})

    def unknown(
        self, layouts: Sequence[Layout], name: str | None = None, sign: bool = True, apart: Collection[tuple[int, int]] = (), square: bool = False
    ) -> Character:
        """Any multipliers.

        Args:
            layouts: of the tensor's axes.
            name: of the parameter; None for tensors that are none.
            sign: whether multipliers may be negative.
            apart: pairs of axes on which no function of both can be: the constraints would say so, at a cost.
            square: count the unknowns in halves, for tensors of which roots are taken: coefficients stay whole.
        """
        layouts = tuple(layouts)

        def make(key: Key) -> Terms:
            places = [(d, i) for d, number in enumerate(key) for i in layouts[d].blocks[number].free]
            atoms = {(d, i): layouts[d].blocks[key[d]].atoms[i] for d, i in places}
            most = len(places) if len(places) <= MOST_SPACES else 1
            out: Terms = {}
            for size in range(most + 1):
                for subset in itertools.combinations(places, size):
                    if size > 1 and any((a, b) in apart for a, _ in subset for b, _ in subset):
                        continue
                    spaces = tuple(sorted(atoms[place].id for place in subset))
                    if len(set(spaces)) < len(spaces):
                        continue  # a function on two occurrences of one space: which index is which would have to be told apart
                    if name is None:
                        number = AUXILIARY + len(self._auxiliary)
                        self._auxiliary[number] = spaces
                    else:
                        number = len(self.unknowns)
                        shape = tuple(atoms[place].size for place in subset)
                        self.unknowns.append(Unknown(name, key, subset, shape, spaces))
                    out[subset] = ({number: 2 if square else 1}, frozenset((number,)) if sign else EVEN)
            return out

        return Character(layouts, make)

    # -- constraints ---------------------------------------------------------------------------------------------------

    def _spaces(self, unknown: int) -> tuple[int, ...]:
        return self.unknowns[unknown].spaces if unknown < AUXILIARY else self._auxiliary[unknown]

    def vanish(self, subset: Subset, term: Term, magnitude: bool = True, sign: bool = True) -> None:
        """Let the function on a subset be zero."""
        form, parity = term
        if len(subset) > 1 and len({self._spaces(u) for u in (*form, *parity)}) > 1:
            # Functions of several indices whose spaces are named differently: their indices may be aligned in another order.
            for unknown in {*form, *parity}:
                self.magnitudes.add({unknown: 1})
                self.signs.add((unknown,))
            return
        if magnitude and form:
            self.magnitudes.add(form)
        if sign and parity:
            self.signs.add(parity)

    def same(self, a: Terms, b: Terms) -> None:
        """Let two blocks have one character."""
        for subset in {**a, **b}:
            (form, parity), (other, other_parity) = a.get(subset, NOTHING), b.get(subset, NOTHING)
            if form != other or parity != other_parity:
                self.vanish(subset, (plus(form, other, -1), parity ^ other_parity))

    def be_trivial(self, x: Character) -> None:
        """Let all multipliers be 1."""
        for key in x.blocks:
            for subset, term in x.terms(key).items():
                self.vanish(subset, term)

    def negligible(self, x: Character) -> None:
        """Let all magnitudes be 1 exactly; approximately they may be anything."""
        for key in x.blocks:
            self.exact.extend(form for form, _ in x.terms(key).values() if form)

    # -- functions of characters ---------------------------------------------------------------------------------------

    def power(self, x: Character, degree: int | Fraction | None, parity: str) -> Character:
        """The character of `f(x)` where `f(qx) = q^degree f(x)`.

        Args:
            degree: for positive q; None where only q = 1 will do.
            parity: `"odd"`, `"even"` or `"none"`: whether `f(-x)` is `-f(x)`, `f(x)` or neither.
        """
        if degree == 1 and parity == "odd":
            return x
        out = {}
        for key in x.blocks:
            terms: Terms = {}
            for subset, term in x.terms(key).items():
                if degree is None or parity == "none":
                    self.vanish(subset, term, degree is None, parity == "none")
                form = scaled(term[0], degree) if degree is not None else ZERO
                sign = term[1] if parity == "odd" else EVEN
                if form or sign:
                    terms[subset] = (form, sign)
            out[key] = terms
        return Character(x.layouts, out.__getitem__)

    def product(self, a: Character, b: Character, degree: int = 1) -> Character:
        """The character of `a · b^degree` for `degree` ±1, element by element."""
        out = {}
        for key in a.blocks:
            terms = dict(a.terms(key))
            for subset, term in b.terms(key).items():
                known = terms.get(subset)
                if known is not None:
                    terms[subset] = (plus(known[0], term[0], degree), known[1] ^ term[1])
                else:
                    terms[subset] = term if degree == 1 else (plus(ZERO, term[0], degree), term[1])
            out[key] = terms
        return Character(a.layouts, out.__getitem__)

    def equal(self, operands: Sequence[Character]) -> Character:
        """Operands of a sum have one character, element by element."""
        first = operands[0]
        for other in operands[1:]:
            for key in first.blocks:
                self.same(first.terms(key), other.terms(key))
        return first

    def constant(self, x: Character, dims: Iterable[int]) -> Character:
        """The character along the other axes of a tensor that must have one multiplier all along `dims`."""
        gone = set(dims)
        if not gone:
            return x
        kept = [d for d in range(len(x.layouts)) if d not in gone]
        place = {d: e for e, d in enumerate(kept)}
        out: dict[Key, Terms] = {}
        for key in x.blocks:
            terms: Terms = {}
            for subset, term in x.terms(key).items():
                if not subset:
                    terms[subset] = term
                elif any([d in gone for d, _ in subset]):
                    self.vanish(subset, term)
                else:
                    terms[tuple((place[d], i) for d, i in subset)] = term
            short = tuple(key[d] for d in kept)
            if short in out:
                self.same(out[short], terms)
            else:
                out[short] = terms
        return Character([x.layouts[d] for d in kept], out.__getitem__)

    def signs_of(self, x: Character) -> Character:
        """The character without its magnitudes."""
        return _each(x, lambda term: (ZERO, term[1]))

    def magnitudes_of(self, x: Character) -> Character:
        """The character without its signs."""
        return _each(x, lambda term: (term[0], EVEN))

    # -- layout --------------------------------------------------------------------------------------------------------

    def lift(self, x: Character, layouts: Sequence[Layout], dims: Sequence[int]) -> Character:
        """A tensor broadcast into a larger one.

        Args:
            layouts: of the larger tensor's axes.
            dims: per axis of `x`, the axis of the larger tensor that it is aligned with. Axes of one element are aligned with any.

        Raises:
            Incompatible: aligned axes are cut differently.
        """
        layouts = tuple(layouts)
        used = [(d, to) for d, to in enumerate(dims) if x.layouts[d].size > 1]
        if tuple(dims) == tuple(range(len(layouts))) and all(a is b for a, b in zip(x.layouts, layouts, strict=True)):
            return x
        if all([x.layouts[d] is layouts[to] for d, to in used]) and all([len(layout.blocks) == 1 for layout in layouts]):
            own_key = (0,) * len(x.layouts)
            if all([d == to for d, to in used]):
                return Character(layouts, lambda key: x.terms(own_key))
            to_axis = dict(used)
            return Character(
                layouts,
                lambda key: {tuple(sorted([(to_axis[d], i) for d, i in subset])): term for subset, term in x.terms(own_key).items()},
            )
        maps = {}
        renamed = False
        for d, to in used:
            found = self.layouts.match(layouts[to], x.layouts[d])
            if found is None:
                raise Incompatible("aligned axes are cut differently")
            maps[d] = found
            renamed = renamed or any(
                block.atoms != x.layouts[d].blocks[number].atoms for block, number in zip(layouts[to].blocks, found, strict=True)
            )
        target = dict(used)
        in_order = [to for _, to in used] == sorted(to for _, to in used)

        def make(key: Key) -> Terms:
            own = [0] * len(x.layouts)
            for d, to in used:
                own[d] = maps[d][key[to]]
            out: Terms = {}
            for subset, term in x.terms(tuple(own)).items():
                if renamed and len(subset) > 1:
                    self.vanish(subset, term)
                    continue
                moved = tuple((target[d], i) for d, i in subset)
                out[moved if in_order else tuple(sorted(moved))] = term
            return out

        return Character(layouts, make)

    def reshape(self, x: Character, layouts: Sequence[Layout]) -> Character:
        """The same spaces, regrouped into other axes.

        Raises:
            Incompatible: they are not the same spaces in row-major order.
        """
        layouts = tuple(layouts)
        before = [unit for layout in x.layouts for unit in layout.units]
        after = [unit for layout in layouts for unit in layout.units]
        if before != after:
            if len(x.layouts) == len(layouts):
                return self.lift(x, layouts, range(len(layouts)))
            raise Incompatible("a reshaped tensor is made of other spaces")

        if all([len(layout.blocks) == 1 for layout in layouts]):
            own_key = (0,) * len(x.layouts)
            old = [(d, i) for d, layout in enumerate(x.layouts) for i in range(len(layout.blocks[0].atoms))]
            new = [(d, i) for d, layout in enumerate(layouts) for i in range(len(layout.blocks[0].atoms))]
            if old == new:
                return Character(layouts, lambda key: x.terms(own_key))
            place = dict(zip(old, new, strict=True))
            return Character(layouts, lambda key: {tuple([place[p] for p in subset]): term for subset, term in x.terms(own_key).items()})

        def make(key: Key) -> Terms:
            flat = [n for d, number in enumerate(key) for n in _unravel(number, layouts[d].counts)]
            own, start = [], 0
            for layout in x.layouts:
                own.append(_ravel(flat[start : start + len(layout.counts)], layout.counts))
                start += len(layout.counts)
            old = [(d, i) for d, n in enumerate(own) for i in range(len(x.layouts[d].blocks[n].atoms))]
            new = [(d, i) for d, n in enumerate(key) for i in range(len(layouts[d].blocks[n].atoms))]
            to = dict(zip(old, new, strict=True))
            return {tuple(to[place] for place in subset): term for subset, term in x.terms(tuple(own)).items()}

        return Character(layouts, make)

    def with_axis(
        self, x: Character, dim: int, layout: Layout, sources: Sequence[Sequence[tuple[Character, int]]], exact: Sequence[bool]
    ) -> Character:
        """A tensor whose axis `dim` is put together of blocks of others.

        Args:
            x: a tensor with the other axes of the result.
            dim: the axis.
            layout: of the axis.
            sources: per block of the axis, the `(tensor, block)` that its elements are in.
            exact: per block, whether it is one whole block, in order; else its multipliers must be the same all along.
        """
        layouts = tuple(layout if d == dim else other for d, other in enumerate(x.layouts))

        def make(key: Key) -> Terms:
            out: Terms | None = None
            for tensor, number in sources[key[dim]]:
                terms = tensor.terms((*key[:dim], number, *key[dim + 1 :]))
                if not exact[key[dim]]:
                    for subset, term in terms.items():
                        if any(d == dim for d, _ in subset):
                            self.vanish(subset, term)
                    terms = {subset: term for subset, term in terms.items() if all(d != dim for d, _ in subset)}
                if out is None:
                    out = terms
                else:
                    self.same(out, terms)
            return out or {}

        return Character(layouts, make)


def _each(x: Character, change: Callable[[Term], Term]) -> Character:
    def make(key: Key) -> Terms:
        out = {subset: change(term) for subset, term in x.terms(key).items()}
        return {subset: term for subset, term in out.items() if term[0] or term[1]}

    return Character(x.layouts, make)


def _unravel(number: int, counts: Sequence[int]) -> list[int]:
    out = []
    for count in reversed(counts):
        out.append(number % count)
        number //= count
    return out[::-1]


def _ravel(numbers: Sequence[int], counts: Sequence[int]) -> int:
    out = 0
    for number, count in zip(numbers, counts, strict=True):
        out = out * count + number
    return out
