"""Finds the index spaces along which a program is linear: invertible matrices may act there, not diagonal ones alone.

A scale that is free for each element of a space says where a matrix would have to act: on whatever has its multiplier, and its inverse's
transpose on whatever has the multiplier's inverse. It may act if every operation is linear along the space: it passes the space on, or
contracts one such value with one of the opposite kind. Operations that treat elements of the space one by one (functions, gains,
normalisations) forbid it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from paramgraph.compiler.operations.functions import SUMS, kind_of
from paramgraph.compiler.operations.positional import RESAMPLED
from paramgraph.compiler.operations.scaling import arguments
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.scales import ScaleSolver
from paramgraph.symmetries.character import Key, Subset
from paramgraph.symmetries.matrices import MatrixFactor, MatrixPart
from paramgraph.symmetries.scale_spaces import Layout

# Spaces of a variable beyond which combinations of them are not tried.
MOST_SPACES = 3
MOVING = frozenset("reshape permute concat".split())


@dataclass(frozen=True)
class _Held:
    """A block of a value that holds the spaces: where they are, those that matrices differ along, and whether the dual acts."""

    along: tuple[tuple[int, int], ...]
    over: tuple[tuple[int, int], ...]
    dual: bool

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(d for d, _ in self.along)


Holding = dict[Key, _Held]


class MatrixFinder:
    """Matrix groups of a program whose scales are solved.

    Args:
        program: the program.
        solver: the characters of all its values, solved.
    """

    def __init__(self, program: Program, solver: ScaleSolver) -> None:
        self.program, self.solver = program, solver
        self.readers = program.readers()
        # Per free unknown, where it is: (value, block, spaces, exponent).
        self.terms: dict[int, list[tuple[Value, Key, Subset, Any]]] = {}
        # Per space, the layouts that have it; per layout, the values that have it along an axis.
        self.layouts: dict[int, list[Layout]] = {}
        self.values: dict[Layout, dict[Value, None]] = {}
        self._scan()

    def _scan(self) -> None:
        magnitudes = self.solver.system.magnitudes
        for value, character in self.solver.characters.items():
            for layout in character.layouts:
                if layout not in self.values:
                    for atom in dict.fromkeys(atom.id for block in layout.blocks for atom in block.atoms):
                        self.layouts.setdefault(atom, []).append(layout)
                self.values.setdefault(layout, {})[value] = None
            for key in character.blocks:
                for subset, (form, _) in character.terms(key).items():
                    if not subset:
                        continue
                    for unknown, exponent in magnitudes.reduce(form).items():
                        self.terms.setdefault(unknown, []).append((value, key, subset, exponent))

    def run(self) -> tuple[MatrixFactor, ...]:
        """The factors, in the order of the parameters."""
        unknowns = self.solver.system.unknowns
        solved = self.solver.system.magnitudes.solved
        free = [n for n in self.terms if n < len(unknowns) and n not in solved and unknowns[n].dimension]
        tops = [
            n for n in sorted(free)
            if not any(unknowns[m].name == unknowns[n].name and unknowns[m].key == unknowns[n].key
                       and set(unknowns[m].subset) > set(unknowns[n].subset) for m in free)
        ]  # fmt: skip
        out = []
        for unknown in tops:
            spaces = unknowns[unknown].spaces
            found: list[frozenset[int]] = []
            for count in range(len(spaces), 0, -1) if len(spaces) <= MOST_SPACES else ():
                for along in itertools.combinations(spaces, count):
                    if any(set(along) <= known for known in found):
                        continue
                    holding = self._holding(unknown, along, spaces)
                    if holding is not None and self._is_linear(holding):
                        found.append(frozenset(along))
                        out.append(self._factor(holding))
        return tuple(out)

    # -- where the spaces are ------------------------------------------------------------------------------------------

    def _holding(self, unknown: int, along: Sequence[int], spaces: Sequence[int]) -> dict[Value, Holding] | None:
        """The values that a matrix along some of an unknown's spaces acts on; None if it cannot be one on all that have them."""
        over = [space for space in spaces if space not in along]
        out: dict[Value, Holding] = {}
        for value, key, subset, exponent in self.terms[unknown]:
            layouts = self.solver.characters[value].layouts
            at = {(d, i): layouts[d].blocks[key[d]].atoms[i].id for d, number in enumerate(key)
                  for i in range(len(layouts[d].blocks[number].atoms))}  # fmt: skip
            places = {space: [place for place, atom in at.items() if atom == space] for space in spaces}
            if exponent not in (1, -1) or any(len(found) != 1 for found in places.values()):
                return None
            if {place for found in places.values() for place in found} != set(subset):
                return None
            held = _Held(tuple(places[s][0] for s in along), tuple(places[s][0] for s in over), exponent == -1)
            out.setdefault(value, {})[key] = held
        for value in {value for space in along for layout in self.layouts[space] for value in self.values[layout]}:
            if value not in out:
                return None
            character = self.solver.characters[value]
            for key in character.blocks:
                atoms = {atom.id for d, number in enumerate(key) for atom in character.layouts[d].blocks[number].atoms}
                if key not in out[value] and not atoms.isdisjoint(along):
                    return None
        return out

    # -- what operations do along them ---------------------------------------------------------------------------------

    def _is_linear(self, holding: dict[Value, Holding]) -> bool:
        for value in holding:
            if value.kind not in ("op", "parameter", "buffer", "state") and not self.solver.is_zero(value):
                return False
        if any(value in holding or buffer in holding for value, buffer in self.program.outputs):
            return False
        ops = dict.fromkeys(op for value in holding for op in ([value.op] if value.op is not None else []) + self.readers.get(value, []))
        return all(op.exact and self._passes(op, holding) for op in ops if op is not None)

    def _passes(self, op: Op, holding: dict[Value, Holding]) -> bool:
        """Whether an operation is linear along the spaces."""
        held = [slot for slot, value in enumerate(op.inputs) if value in holding]
        passes = op.output in holding
        if op.kind == "feedback":  # the state is what is fed back; zeros have any multiplier
            state, fed = op.inputs
            return state in holding and fed in holding and holding[state] == holding[fed]
        if op.kind == "take":  # what is taken of another block is another block
            return True
        if op.kind in MOVING:
            return passes
        if op.kind == "expand":
            (x,) = op.inputs
            return passes and bool(held) and all(x.shape[d] == op.output.shape[d] for h in holding[op.output].values() for d in h.dims)
        if op.kind == "gather":
            return passes and held == [0] and all(op.attrs["dim"] not in h.dims for h in holding[op.inputs[0]].values())
        if op.kind == "resample":
            linear = RESAMPLED.get(op.name, ("odd", 1) if op.name.endswith(" padding") else None) == ("odd", 1)
            return linear and passes and held == [0] and all(d not in op.attrs["dims"] for h in holding[op.inputs[0]].values() for d in h.dims)
        if op.kind == "convolve":
            return self._convolves(op, holding)
        if op.kind == "contract":
            return self._contracts(op, holding)
        if op.kind in ("elementwise", "reduce", "mix"):
            return passes and self._is_same_all_along(op, held, holding)
        return False

    def _labels(self, op: Op, slot: int, holding: dict[Value, Holding]) -> set[tuple[Any, ...]]:
        return {tuple(op.labels[slot][d] for d in h.dims) for h in holding[op.inputs[slot]].values()}

    def _contracts(self, op: Op, holding: dict[Value, Holding]) -> bool:
        """One operand passes the spaces on, or two of opposite kinds are contracted over them."""
        held = [slot for slot, value in enumerate(op.inputs) if value in holding]
        if any(len(set(labels)) < len(labels) for labels in op.labels):
            return False
        along = [self._labels(op, slot, holding) for slot in held]
        if not along or any(len(labels) != 1 or labels != along[0] for labels in along):
            return False
        (labels,) = along[0]
        if self._varies(op, held, labels):
            return False
        if all(label in op.out_labels for label in labels):
            return op.output in holding and len(held) == 1
        if any(label in op.out_labels for label in labels) or op.output in holding or len(held) != 2:
            return False
        return self._are_opposite(*(holding[op.inputs[slot]] for slot in held))

    @staticmethod
    def _varies(op: Op, held: Sequence[int], labels: Sequence[Any]) -> bool:
        """Whether another operand varies along the labels."""
        others = [slot for slot in range(len(op.inputs)) if slot not in held]
        return any(n > 1 and label in labels for s in others for label, n in zip(op.labels[s], op.inputs[s].shape, strict=True))

    @staticmethod
    def _are_opposite(a: Holding, b: Holding) -> bool:
        return len({h.dual for h in a.values()}) == 1 and {h.dual for h in a.values()} == {not h.dual for h in b.values()}

    def _convolves(self, op: Op, holding: dict[Value, Holding]) -> bool:
        """Channels without groups, contracted or produced."""
        x, weight = op.inputs
        inner, outer = (0, 1) if op.attrs["transposed"] else (1, 0)
        if op.attrs["groups"] != 1 or weight not in holding:
            return False
        dims = {d for h in holding[weight].values() for d in h.dims}
        if dims == {outer}:
            return x not in holding and op.output in holding and all(set(h.dims) == {1} for h in holding[op.output].values())
        if dims != {inner} or op.output in holding or x not in holding:
            return False
        return all(set(h.dims) == {1} for h in holding[x].values()) and self._are_opposite(holding[x], holding[weight])

    def _is_same_all_along(self, op: Op, held: Sequence[int], holding: dict[Value, Holding]) -> bool:
        """Sums, multiples by what does not vary along the spaces, and linear maps along other axes."""
        if op.kind == "reduce":
            return op.name in ("sum", "mean") and held == [0]
        if op.kind == "mix":
            mixed = set(op.attrs["mixed"])
            return bool(op.attrs.get("linear")) and held == [0] and all(mixed.isdisjoint(labels) for labels in self._labels(op, 0, holding))
        positional, keywords = arguments(op, len(op.inputs))
        if op.name in SUMS:
            return all(slot in held or self.solver.is_zero(value) for slot, value in enumerate(op.inputs))
        if any(self._varies(op, held, labels) for slot in held for labels in self._labels(op, slot, holding)):
            return False
        if op.name == "mul":
            return len(held) == 1
        if op.name in ("div", "true_divide"):
            return held == [0] and positional[:1] == ["x"] and keywords.get("rounding_mode") is None
        return len(op.inputs) == 1 and kind_of(op.name, positional, keywords) == (1, "odd")

    # -- what is found -------------------------------------------------------------------------------------------------

    def _factor(self, holding: dict[Value, Holding]) -> MatrixFactor:
        parts = [part for value in self.program.tensors.values() if value in holding for part in self._parts(value, holding[value])]
        first = parts[0]
        size, copies = 1, 1
        for p in first.along:
            size *= first.flat[p]
        for p in first.over:
            copies *= first.flat[p]
        return MatrixFactor(f"matrices along {first.tensor}", size, copies, tuple(parts))

    def _parts(self, value: Value, holding: Holding) -> Iterator[MatrixPart]:
        layouts = self.solver.characters[value].layouts
        for key, held in holding.items():
            own = [layout.blocks[number] for layout, number in zip(layouts, key, strict=True)]
            starts = [0, *itertools.accumulate(len(block.atoms) for block in own)]
            sizes = tuple(tuple(atom.size for atom in block.atoms) for block in own)
            along, over = (tuple(starts[d] + i for d, i in places) for places in (held.along, held.over))
            yield MatrixPart(value.name, tuple(block.positions for block in own), sizes, along, over, held.dual)
