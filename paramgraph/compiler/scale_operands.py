"""The operands of one operation as scale rules need them: broadcast over all of its labels.

Parameters that are met for the first time are mostly determined by what they meet: an offset has the character of what it is added to, a
weight divides what it contracts by what comes in. They are written in these terms rather than in unknowns of their own that a constraint then
solves for. Nothing else follows: the operation's constraints are the same, and hold by themselves where a parameter was written so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from paramgraph.compiler.program import Value
from paramgraph.symmetries.character import NOTHING, Character, Key, Subset, Terms, ratio, times
from paramgraph.symmetries.constraints import is_named

if TYPE_CHECKING:
    from paramgraph.compiler.scales import ScaleSolver
    from paramgraph.symmetries.scale_spaces import Layout


class Operands:
    """Operands of one operation.

    Args:
        solver: what knows their characters.
        values: the operands.
        labels: of their axes; equal ones are aligned.

    Attributes:
        order: all labels.
        layouts: of the axes with these labels.
    """

    def __init__(self, solver: ScaleSolver, values: Sequence[Value], labels: Sequence[Sequence[Any]]) -> None:
        self.solver, self.values, self.labels = solver, values, labels
        table: dict[Any, Layout] = {}
        for own, value in zip(labels, values, strict=True):
            for label, axis, n in zip(own, value.axes, value.shape, strict=True):
                if label not in table or (table[label].size == 1 and n > 1):
                    table[label] = solver.layouts.of(axis)
        self.order = list(table)
        self.layouts = tuple(table.values())
        self._place = {label: d for d, label in enumerate(self.order)}
        self._lifted: dict[int, Character] = {}

    def _dims(self, slot: int) -> list[int]:
        return [self._place[label] for label in self.labels[slot]]

    def of(self, slot: int) -> Character:
        """An operand over all labels.

        Raises:
            Incompatible: aligned axes are cut differently.
        """
        found = self._lifted.get(slot)
        if found is None:
            found = self._lifted[slot] = self.solver.system.lift(self.solver.of(self.values[slot]), self.layouts, self._dims(slot))
        return found

    def all(self) -> list[Character]:
        """All operands over all labels."""
        return [self.of(slot) for slot in range(len(self.values))]

    def equal(self, x: Character, slot: int) -> Character:
        """Let an operand have the character `x` over all labels; returns it.

        Raises:
            Incompatible: aligned axes are cut differently.
        """
        solver, value = self.solver, self.values[slot]
        if not solver.is_fresh(value):
            return solver.system.equal([x, self.of(slot)])
        held = {d: e for e, (d, n) in enumerate(zip(self._dims(slot), value.shape, strict=True)) if n > 1 or self.layouts[d].size == 1}
        short = solver.system.constant(x, [d for d in range(len(self.order)) if d not in held])
        found = solver.system.lift(short, solver.layouts_of(value.axes), [held[d] for d in sorted(held)])
        if any(len(subset) > 1 or not is_named(term) for key in found.blocks for subset, term in found.terms(key).items()):
            # A function of several indices is one on spaces of its own; a multiplier of zeros is no parameter's, and would be lost.
            return solver.system.equal([x, self.of(slot)])
        solver.set(value, found)
        return x

    def times(self, x: Character, slot: int) -> Character:
        """The product of `x`, over all labels, with an operand. What a parameter met for the first time makes of it is one unknown.

        Raises:
            Incompatible: aligned axes are cut differently.
        """
        solver, value = self.solver, self.values[slot]
        if solver.is_fresh(value):
            layouts, dims = solver.layouts_of(value.axes), self._dims(slot)
            matches = [solver.layouts.match(layout, self.layouts[d]) for layout, d in zip(layouts, dims, strict=True)]
            if len(set(dims)) == len(dims) and all(found is not None for found in matches):
                at = {d: e for e, d in enumerate(dims)}

                def less(key: Key) -> Terms:
                    wide = [0] * len(self.layouts)
                    for d, e in at.items():
                        wide[d] = matches[e][key[e]]  # type: ignore[index]
                    return {tuple([(at[d], i) for d, i in subset]): term for subset, term in x.terms(tuple(wide)).items()
                            if len(subset) < 2 and all([d in at for d, _ in subset])}  # fmt: skip

                solver.of(value, less=less)
        return solver.system.product(x, self.of(slot))

    def product(self, summed: Collection[Any] = ()) -> Character:
        """The character of the operands' product, before anything is summed.

        Args:
            summed: labels that will be summed over.

        Raises:
            Incompatible: aligned axes are cut differently.
        """
        fresh = [slot for slot, value in enumerate(self.values) if summed and self.solver.is_fresh(value)]
        if fresh and len(self.values) > 1:
            self._divide(fresh[-1], summed)
        first, *others = self.all()
        for other in others:
            first = self.solver.system.product(first, other)
        return first

    def _divide(self, slot: int, summed: Collection[Any]) -> None:
        """Write a parameter such that its product with the others has one multiplier all along what is summed over."""
        solver, value, own = self.solver, self.values[slot], self.labels[slot]
        others = [other for other in range(len(self.values)) if other != slot]
        along = [e for e, label in enumerate(own) if label in summed]
        met = {label for other in others for label in self.labels[other]}
        # What is summed over and what no other operand varies along: no function of both can cancel.
        apart = {(e, f) for e in along for f, label in enumerate(own) if label not in met}
        layouts = solver.layouts_of(value.axes)
        matches = [solver.layouts.match(layout, self.layouts[d]) for layout, d in zip(layouts, self._dims(slot), strict=True)]
        if not along or len(set(own)) < len(own) or any(found is None for found in matches) or value in map(self.values.__getitem__, others):
            solver.of(value, apart)
            return
        product = self.of(others[0])
        for other in others[1:]:
            product = solver.system.product(product, self.of(other))
        at = dict(zip(self._dims(slot), range(len(own)), strict=True))
        met_there: dict[Key, Terms] = {}

        def there(key: Key) -> Terms:
            """What the others have, of functions of at most one of the parameter's own axes."""
            found = met_there.get(key)
            if found is not None:
                return found
            wide = [0] * len(self.layouts)
            for d, e in at.items():
                wide[d] = matches[e][key[e]]  # type: ignore[index]
            out: Terms = {}
            for subset, term in product.terms(tuple(wide)).items():
                if not subset:
                    out[subset] = term
                elif len(subset) == 1 and subset[0][0] in at:
                    out[((at[subset[0][0]], subset[0][1]),)] = term
            met_there[key] = out
            return out

        def given(key: Key) -> Terms:
            first = tuple([0 if e in along else n for e, n in enumerate(key)])
            here = there(key)
            spots: list[Subset] = [((e, i),) for e, layout in enumerate(layouts) for i in layout.blocks[key[e]].free]
            out: Terms = {spot: ratio(NOTHING, here.get(spot, NOTHING)) for spot in spots if spot[0][0] in along}
            if key != first:
                own_first, there_first = character.terms(first), there(first)
                for spot in ((), *[spot for spot in spots if spot[0][0] not in along]):
                    summed_up = times(own_first.get(spot, NOTHING), there_first.get(spot, NOTHING))
                    out[spot] = ratio(summed_up, here.get(spot, NOTHING))
            # Zeros of constants have multipliers that are no parameter's: a constraint says what is left.
            return {spot: term for spot, term in out.items() if is_named(term)}

        def less(key: Key) -> Terms:
            """What comes in: the product, which all that follows is written in, is then one unknown."""
            return {spot: term for spot, term in there(key).items() if not spot or spot[0][0] not in along}

        character = solver.of(value, apart, given=given, less=less)
