"""Unknown characters of a program's parameters, and the linear constraints that its operations put on them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence

from paramgraph.symmetries.character import AUXILIARY, MOST_SPACES, NOTHING, Character, Key, Subset, Term, Terms, Unknown, ratio
from paramgraph.symmetries.elimination import EVEN, BinarySystem, Form, RationalSystem, plus
from paramgraph.symmetries.scale_spaces import Layout, Layouts


class Constraints:
    """Unknowns and constraints of one program.

    Attributes:
        layouts: of its axes.
        unknowns: of the parameters, by number.
        magnitudes: constraints on magnitudes.
        signs: constraints on signs.
        exact: magnitudes that must be trivial, where they are so only for a constant that is meant to be negligible (ε).
        free: unknowns of the free scales, then of the free signs, when solved.
        approximate: dimensions of magnitudes that nothing but such a constant forbids, and that no unknown stands for.
    """

    def __init__(self, layouts: Layouts) -> None:
        self.layouts = layouts
        self.unknowns: list[Unknown] = []
        self.magnitudes = RationalSystem()
        self.signs = BinarySystem()
        self.exact: list[Form] = []
        self.free: list[int] = []
        self.approximate = 0
        self._auxiliary: dict[int, tuple[int, ...]] = {}

    # -- making --------------------------------------------------------------------------------------------------------

    def trivial(self, layouts: Sequence[Layout]) -> Character:
        """Multipliers that are all 1."""
        return Character(layouts, lambda key: {})

    def unknown(
        self, layouts: Sequence[Layout], name: str | None = None, sign: bool = True, apart: Collection[tuple[int, int]] = (), square: bool = False,
        given: Callable[[Key], Terms] | None = None, less: Callable[[Key], Terms] | None = None,
    ) -> Character:  # fmt: skip
        """Any multipliers.

        Args:
            layouts: of the tensor's axes.
            name: of the parameter; None for tensors that are none.
            sign: whether multipliers may be negative.
            apart: pairs of axes on which no function of both can be: the constraints would say so, at a cost.
            square: count the unknowns in halves, for tensors of which roots are taken: coefficients stay whole.
            given: functions on some subsets of a block that are known already.
            less: of a block, functions that the tensor's are counted from: the unknown is the product of both, which is what has one name then.
                Functions of several indices are left out.
        """
        layouts = tuple(layouts)

        def make(key: Key) -> Terms:
            base = less(key) if less is not None and sign and not square else {}  # before any number is given: it is of earlier ones
            blocks = [layout.blocks[number] for layout, number in zip(layouts, key, strict=True)]
            places = [(d, i) for d, block in enumerate(blocks) for i in block.free]
            known = given(key) if given is not None else {}
            out: Terms = {}
            for subset in _subsets(places, apart):
                if subset in known:
                    if known[subset] != NOTHING:
                        out[subset] = known[subset]
                    continue
                atoms = [blocks[d].atoms[i] for d, i in subset]
                spaces = tuple(sorted([atom.id for atom in atoms]))
                if len(subset) > 1 and len(set(spaces)) < len(subset):
                    continue  # a function on two occurrences of one space: which index is which would have to be told apart
                if name is None:
                    number = AUXILIARY + len(self._auxiliary)
                    self._auxiliary[number] = spaces
                else:
                    number = len(self.unknowns)
                    self.unknowns.append(Unknown(name, key, subset, tuple([atom.size for atom in atoms]), spaces))
                    if not sign:
                        self.signs.solved[number] = EVEN
                own: Term = ({number: 2 if square else 1}, frozenset((number,)) if sign else EVEN)
                counted = base.get(subset) if len(subset) < 2 else None
                out[subset] = ratio(own, counted) if counted is not None and is_named(counted) else own
            return out

        return Character(layouts, make)

    def free_but_for_a_constant(self, layouts: Sequence[Layout]) -> Character:
        """The character of a tensor that only a constant that is meant to be negligible keeps from having any magnitudes."""
        for key in itertools.product(*(layout.blocks for layout in layouts)):
            self.approximate += math.prod([block.atoms[i].size for block in key for i in block.free])
        return self.trivial(layouts)

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

    def fix(self, free: Collection[int], magnitudes: int) -> None:
        """Let some free scales and signs be trivial.

        Args:
            free: their places among all that are free.
            magnitudes: how many of those are scales.
        """
        for place in free:
            if place < magnitudes:
                self.magnitudes.add({self.free[place]: 1})
            else:
                self.signs.add((self.free[place],))


def is_named(term: Term) -> bool:
    """Whether all unknowns of a function are of parameters: those of other tensors may come to be written in later ones."""
    return all([unknown < AUXILIARY for unknown in (*term[0], *term[1])])


def _subsets(places: Sequence[tuple[int, int]], apart: Collection[tuple[int, int]]) -> Iterator[Subset]:
    """The sets of spaces that functions of a block may be on, small ones first."""
    yield ()
    for place in places:
        yield (place,)
    for size in range(2, len(places) + 1 if len(places) <= MOST_SPACES else 0):
        for subset in itertools.combinations(places, size):
            if not (apart and any([(a, b) in apart for a, _ in subset for b, _ in subset])):
                yield subset
