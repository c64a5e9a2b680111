"""What operations make of characters: powers, products, sums, and other layouts of the same elements."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

from paramgraph.symmetries.character import NOTHING, Character, Incompatible, Key, Term, Terms
from paramgraph.symmetries.constraints import Constraints
from paramgraph.symmetries.elimination import EVEN, ZERO, plus, scaled
from paramgraph.symmetries.scale_spaces import Layout
from paramgraph.symmetries.space import Space, common_ends

# Characters of tensors in more parts than this are left as they come out of a sum.
FEW = 16


class CharacterSystem(Constraints):
    """Characters of the values of one program, with their constraints. Every method gives the character of an operation's result."""

    # -- functions of characters ---------------------------------------------------------------------------------------

    def power(self, x: Character, degree: int | Fraction | None, parity: str) -> Character:
        """The character of `f(x)` where `f(qx) = q^degree f(x)`.

        Args:
            degree: for positive q; None where only q = 1 will do.
            parity: `"odd"`, `"even"` or `"none"`: whether `f(-x)` is `-f(x)`, `f(x)` or neither.
        """
        if degree == 1 and parity == "odd":
            return x
        out: dict[Key, Terms] = {}
        known: dict[int, Terms] = {}
        for key in x.blocks:
            own = x.terms(key)
            if id(own) in known:
                out[key] = known[id(own)]
                continue
            terms: Terms = {}
            for subset, term in own.items():
                if degree is None or parity == "none":
                    self.vanish(subset, term, degree is None, parity == "none")
                form = scaled(term[0], degree) if degree is not None else ZERO
                sign = term[1] if parity == "odd" else EVEN
                if form or sign:
                    terms[subset] = (form, sign)
            out[key] = known[id(own)] = terms
        return Character(x.layouts, out.__getitem__)

    def product(self, a: Character, b: Character, degree: int = 1) -> Character:
        """The character of `a · b^degree` for `degree` ±1, element by element."""
        out: dict[Key, Terms] = {}
        made: dict[tuple[int, int], Terms] = {}
        for key in a.blocks:
            own, other = a.terms(key), b.terms(key)
            which = id(own), id(other)
            if which in made:
                out[key] = made[which]
                continue
            terms = dict(own)
            for subset, term in other.items():
                known = terms.get(subset)
                if known is not None:
                    terms[subset] = (plus(known[0], term[0], degree), known[1] ^ term[1])
                else:
                    terms[subset] = term if degree == 1 else (plus(ZERO, term[0], degree), term[1])
            out[key] = made[which] = terms
        return Character(a.layouts, out.__getitem__)

    def product_along(self, x: Character, dims: Iterable[int]) -> Character:
        """The character of a product of all elements along `dims`; multipliers may differ from block to block along them."""
        gone = set(dims)
        kept = [d for d in range(len(x.layouts)) if d not in gone]
        place = {d: e for e, d in enumerate(kept)}
        out: dict[Key, Terms] = {}
        for key in x.blocks:
            count = math.prod(atom.size for d in gone for atom in x.layouts[d].blocks[key[d]].atoms)
            terms = out.setdefault(tuple(key[d] for d in kept), {})
            for subset, term in x.terms(key).items():
                if any(d in gone for d, _ in subset):
                    self.vanish(subset, term)
                    continue
                short = tuple((place[d], i) for d, i in subset)
                form, parity = terms.get(short, NOTHING)
                terms[short] = (plus(form, term[0], count), parity ^ term[1] if count % 2 else parity)
        return Character([x.layouts[d] for d in kept], out.__getitem__)

    def equal(self, operands: Sequence[Character]) -> Character:
        """Operands of a sum have one character, element by element."""
        first = operands[0]
        met: set[tuple[int, int]] = set()
        for other in operands[1:]:
            for key in first.blocks:
                one, two = first.terms(key), other.terms(key)
                if (id(one), id(two)) not in met:
                    met.add((id(one), id(two)))
                    self.same(one, two)
        return self._joined(first) if 1 < len(first.blocks) <= FEW else first

    def _joined(self, x: Character) -> Character:
        """A character written in free unknowns: parts of it that have come to be alike are the same object, and are gone through once."""
        found: list[Terms] = []
        out: dict[Key, Terms] = {}
        made: dict[int, Terms] = {}
        for key in x.blocks:
            own = x.terms(key)
            if id(own) not in made:
                terms = {subset: term for subset, (form, parity) in own.items()
                         if any(term := (self.magnitudes.reduce(form), self.signs.reduce(parity)))}  # fmt: skip
                made[id(own)] = next((known for known in found if known == terms), terms)
                if made[id(own)] is terms:
                    found.append(terms)
            out[key] = made[id(own)]
        return Character(x.layouts, out.__getitem__)

    def constant(self, x: Character, dims: Iterable[int]) -> Character:
        """The character along the other axes of a tensor that must have one multiplier all along `dims`."""
        gone = set(dims)
        if not gone:
            return x
        if len(x.blocks) == 1:
            return self._constant(x, gone)
        kept = [d for d in range(len(x.layouts)) if d not in gone]
        place = {d: e for e, d in enumerate(kept)}
        out: dict[Key, Terms] = {}
        made: dict[int, Terms] = {}
        for key in x.blocks:
            own = x.terms(key)
            terms = made.get(id(own))
            if terms is None:
                terms = made[id(own)] = {}
                for subset, term in own.items():
                    if not subset:
                        terms[subset] = term
                    elif any([d in gone for d, _ in subset]):
                        self.vanish(subset, term)
                    else:
                        terms[tuple([(place[d], i) for d, i in subset])] = term
            short = tuple([key[d] for d in kept])
            if short not in out:
                out[short] = terms
            elif out[short] is not terms:
                self.same(out[short], terms)
        return Character([x.layouts[d] for d in kept], out.__getitem__)

    def _constant(self, x: Character, gone: set[int]) -> Character:
        """As `constant`, of a tensor in one block."""
        kept = [d for d in range(len(x.layouts)) if d not in gone]
        terms: Terms = {}
        for subset, term in x.terms(x.blocks[0]).items():
            if not subset:
                terms[subset] = term
            elif any([d in gone for d, _ in subset]):
                self.vanish(subset, term)
            else:
                terms[tuple([(kept.index(d), i) for d, i in subset])] = term
        return Character([x.layouts[d] for d in kept], lambda key: terms)

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
            renamed = renamed or layouts[to] is not x.layouts[d] and any(
                [block.atoms != x.layouts[d].blocks[number].atoms for block, number in zip(layouts[to].blocks, found, strict=True)]
            )
        target = dict(used)
        in_order = [to for _, to in used] == sorted(to for _, to in used)

        same_places = all([d == to for d, to in used])
        rank, found_at = len(x.layouts), [(d, to, maps[d]) for d, to in used if len(x.layouts[d].blocks) > 1]
        made: dict[int, Terms] = {}

        def make(key: Key) -> Terms:
            own = [0] * rank
            for d, to, numbers in found_at:
                own[d] = numbers[key[to]]
            terms = x.terms(tuple(own))
            if same_places and not renamed or not any(terms):
                return terms
            if id(terms) in made:
                return made[id(terms)]
            out: Terms = {}
            for subset, term in terms.items():
                if renamed and len(subset) > 1:
                    self.vanish(subset, term)
                    continue
                moved = tuple([(target[d], i) for d, i in subset])
                out[moved if in_order else tuple(sorted(moved))] = term
            made[id(terms)] = out
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
            if (ends := _renumbered(before, after)) is not None:
                return self._renumber(x, layouts, *ends)
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

        digits, numbers = [layout.digits for layout in layouts], [layout.numbers for layout in x.layouts]
        spans = list(itertools.accumulate([0, *[len(layout.counts) for layout in x.layouts]]))
        renamed: dict[tuple[Key, Key], dict[tuple[int, int], tuple[int, int]]] = {}  # by how many spaces blocks have along each axis: mostly as many
        made: dict[int, list[Terms]] = {}

        def make(key: Key) -> Terms:
            flat = sum([digits[d][number] for d, number in enumerate(key)], ())
            own = tuple([known[flat[spans[d] : spans[d + 1]]] for d, known in enumerate(numbers)])
            terms = x.terms(own)
            if not any(terms):  # it varies along nothing
                return terms
            counts = tuple([len(x.layouts[d].blocks[n].atoms) for d, n in enumerate(own)])
            others = tuple([len(layouts[d].blocks[n].atoms) for d, n in enumerate(key)])
            to = renamed.get((counts, others))
            if to is None:
                old, new = ([(d, i) for d, count in enumerate(each) for i in range(count)] for each in (counts, others))
                to = renamed[counts, others] = dict(zip(old, new, strict=True))
            return _known(made, id(terms), {tuple([to[place] for place in subset]): term for subset, term in terms.items()})

        return Character(layouts, make)

    def _renumber(self, x: Character, layouts: tuple[Layout, ...], first: int, last: int) -> Character:
        """The same spaces, regrouped; all but the first and last few are fixed ones that have become others. Nothing varies along those."""
        own_counts = [n for layout in x.layouts for n in layout.counts]
        between = [0] * (len(own_counts) - first - last)
        made: dict[int, list[Terms]] = {}

        def make(key: Key) -> Terms:
            flat = sum([layouts[d].digits[number] for d, number in enumerate(key)], ())
            flat = (*flat[:first], *between, *flat[len(flat) - last :])
            own, start = [], 0
            for layout in x.layouts:
                own.append(layout.numbers[flat[start : start + len(layout.counts)]])
                start += len(layout.counts)
            old = [(d, i, atom) for d, n in enumerate(own) for i, atom in enumerate(x.layouts[d].blocks[n].atoms)]
            new = [(d, i, atom) for d, n in enumerate(key) for i, atom in enumerate(layouts[d].blocks[n].atoms)]
            lead = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a[2] is not b[2])
            tail = len(old) - lead - len(between)
            pairs = [*zip(old[:lead], new[:lead], strict=True), *zip(old[len(old) - tail :], new[len(new) - tail :], strict=True)]
            terms, to = x.terms(tuple(own)), {a[:2]: b[:2] for a, b in pairs}
            return _known(made, id(terms), {tuple([to[place] for place in subset]): term for subset, term in terms.items()})

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
                if not exact[key[dim]] and any(terms):
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


def _known(made: dict[int, list[Terms]], source: int, terms: Terms) -> Terms:
    """What was made of the same terms before, if it is alike: parts that share an object are gone through once from there on."""
    known = made.setdefault(source, [])
    for other in known:
        if other == terms:
            return other
    known.append(terms)
    return terms


def _each(x: Character, change: Callable[[Term], Term]) -> Character:
    made: dict[int, Terms] = {}

    def make(key: Key) -> Terms:
        own = x.terms(key)
        if id(own) not in made:
            out = {subset: change(term) for subset, term in own.items()}
            made[id(own)] = {subset: term for subset, term in out.items() if term[0] or term[1]}
        return made[id(own)]

    return Character(x.layouts, make)


def _renumbered(before: Sequence[Space], after: Sequence[Space]) -> tuple[int, int] | None:
    """How many spaces are the same at either end, if those between are fixed on both sides; else None."""
    first, last = common_ends(before, after)
    between = [before[first : len(before) - last], after[first : len(after) - last]]
    return (first, last) if all(own and all(unit.pinned and unit.parts is None for unit in own) for own in between) else None
