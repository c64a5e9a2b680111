"""Finds additions to parameters that are taken away, or that others make up for.

What is added to a parameter is followed. Where it arrives in a sum, a parameter that is added there too, as it is or behind gains and views, can take
it away again: what that one does is followed as well, from the beginning. If nothing is left in the end, it is a symmetry.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.coefficients import Known, ReadersInOrder
from paramgraph.compiler.increments import Increment, Node, Piece, Product, added, multiplied, renamed, varying
from paramgraph.compiler.operations.scaling import arguments
from paramgraph.compiler.passing import Passing
from paramgraph.compiler.program import LAYOUT, Op, Program, Value
from paramgraph.compiler.scales import ScaleSolver
from paramgraph.compiler.shares import Shares
from paramgraph.compiler.terms import Tangled
from paramgraph.symmetries.offsets import Change, OffsetFactor, Step
from paramgraph.symmetries.translations import TranslationFactor

Array = np.ndarray
# A space of an axis, by the number of the axis and its place there.
Atom = tuple[int, int]
Atoms = frozenset[Atom]
# Of how many spaces every set is tried.
MOST_ATOMS = 4
# How many parameters, or parts of them, may make up for one.
MOST = 400
# Parts of parameters with more elements than this are not laid together to see what they are a whole of.
MOST_MASKED = 1 << 20
# Through how many operations what makes up for an addition is looked for.
DEEPEST = 12


def find_offsets(program: Program, solver: ScaleSolver) -> tuple[TranslationFactor | OffsetFactor, ...]:
    """The additions to single parameters, or parts of them, that are taken away, or that others make up for.

    Args:
        program: the program.
        solver: its solved scales: parameters are cut where their characters are.
    """
    known = Known(program)
    shares = Shares(known)
    pairs: set[frozenset[Any]] = set()
    return tuple(factor for value in program.tensors.values() for factor in _of(known, shares, solver, value, pairs))


def _of(known: Known, shares: Shares, solver: ScaleSolver, value: Value, pairs: set[frozenset[Any]]) -> Iterator[TranslationFactor | OffsetFactor]:
    """The additions to one parameter: to the whole of it, then to parts."""
    if value.kind != "parameter" or value.integer or value not in solver.characters or 0 in value.shape or value in known.out:
        return
    atoms = _atoms(value)
    wide = [atom for atom, n in atoms.items() if n > 1]
    choices = _choices(wide)
    whole: list[Atoms] = []  # what is found for all of it is not asked of parts
    for box in boxes(value, solver):
        found, cut = list(whole), []
        for same in choices:
            split = any(index is not None and len({(d, i) in same for e, i in wide if e == d}) > 1 for d, index in enumerate(box))
            if split or any(other <= same for other in found):
                continue
            following, is_cut = _found(known, shares, value, box, same)
            if is_cut:
                cut.append(same)
            factor = following.factor() if following is not None else None
            if following is None or factor is None:
                continue
            found.append(same)
            # Of two that are merely added, either makes up for the other: one says it all.
            ends = following.ends()
            if len(ends) == 2 and ends in pairs:
                continue
            pairs.add(ends)
            yield factor
        if all(index is None for index in box):
            # Where nothing was cut on the way to what forbids it, it forbids additions to parts, too.
            choices, whole = [same for same in cut if same not in found], found


def _choices(atoms: Sequence[Atom]) -> list[Atoms]:
    """Sets of spaces along which the same may be added, smaller ones first: all, or of many spaces, each one, and all of some axes."""
    found = [frozenset(same) for count in range((len(atoms) if len(atoms) <= MOST_ATOMS else 1) + 1) for same in itertools.combinations(atoms, count)]
    axes = list(dict.fromkeys(d for d, _ in atoms))
    for count in range(1, len(axes) + 1 if len(atoms) > MOST_ATOMS and len(axes) <= MOST_ATOMS else 0):
        found += [frozenset(atom for atom in atoms if atom[0] in own) for own in itertools.combinations(axes, count)]
    return sorted(dict.fromkeys(found), key=len)


def _atoms(value: Value) -> dict[Atom, int]:
    """The spaces of a value's axes, with their sizes; one for an axis that is no product."""
    out: dict[Atom, int] = {}
    for d, n in enumerate(value.shape):
        sizes = [space.size for space in value.axes[d] if space.size > 1] if d < len(value.axes) else []
        for i, size in enumerate(sizes if math.prod(sizes) == n else [n]):
            out[d, i] = size
    return out


def _found(known: Known, shares: Shares, value: Value, box: Sequence[Array | None], same: Atoms) -> tuple[Following | None, bool]:
    """What makes up for an addition, if that can be: nothing, other parameters, or both for what is divided by a gain; whether it was cut."""
    gains: dict[Node, None] = {}
    is_cut = False
    for absorbing in (False, True):
        following = Following(known, shares, value, box, same, None)
        if following.goes(absorbing):
            return following, True
        gains.update(following.passing.gains)
        is_cut |= following.is_cut
    axes = {d for d, _ in same}
    alone = next(iter(axes)) if len(axes) == 1 and all(atom in same for atom, n in _atoms(value).items() if atom[0] in axes and n > 1) else -1
    for gain in gains if alone >= 0 and box[alone] is None else ():
        for absorbing in (False, True) if gain.shape == (value.shape[alone],) else ():
            following = Following(known, shares, value, box, same, gain)
            if following.goes(absorbing):
                return following, True
            is_cut |= following.is_cut
    return None, is_cut


def boxes(value: Value, solver: ScaleSolver) -> Iterator[tuple[Array | None, ...]]:
    """The whole tensor, then its parts along each axis that the program cuts."""
    yield (None,) * value.ndim
    for d, layout in enumerate(solver.characters[value].layouts):
        if len(layout.blocks) > 1:
            for block in layout.blocks:
                yield tuple(block.positions if e == d else None for e in range(value.ndim))


class Following:
    """One addition, and what makes up for it.

    Args:
        known: facts of the program.
        shares: its values as polynomials.
        value: a parameter.
        box: the part of it that is added to.
        same: spaces of the axes along which the same is added.
        gain: along the one axis of `same`, what is added is divided by it; None for nothing.

    Attributes:
        moved: what is added to each parameter.
        is_made_up: whether something else makes up for it: another parameter, or another part of the same.
        is_cut: whether some of it may have been cut off on the way: less may be taken away where all is not.
        is_gone: whether something took some of it away: what is read nowhere is no symmetry's.
    """

    def __init__(
        self, known: Known, shares: Shares, value: Value, box: Sequence[Array | None], same: Atoms, gain: Node | None
    ) -> None:  # fmt: skip
        self.known, self.value, self.box, self.gain = known, value, box, gain
        self.passing, self.is_cut, self.is_gone = Passing(known, shares), False, False
        self.is_made_up = False
        atoms: dict[Atom, int] = {}
        for (d, i), n in _atoms(value).items():
            index = box[d]
            if index is None:
                atoms[d, i] = n
            elif i == 0:
                atoms[d, 0] = len(index)
        held = {atom: 1 if atom in same else n for atom, n in atoms.items()}
        self.is_whole = all(len({held[atom] == n for atom, n in atoms.items() if atom[0] == d and n > 1}) <= 1 for d in range(value.ndim))
        self.shape = tuple(held.values())
        if self.is_whole:
            self.shape = tuple(math.prod(n for atom, n in held.items() if atom[0] == d) for d in range(value.ndim))
        dims = tuple(place for place, n in enumerate(held.values()) if n > 1)
        attrs = (value.name, tuple(sorted(same)), *map(_key, box))
        source = Product(Piece(known.nodes.make("source", [n for n in held.values() if n > 1], attrs=attrs), dims))
        inner = [math.prod(n for atom, n in atoms.items() if atom[0] == d) for d in range(value.ndim)]
        increment = known.nodes.reshaped({source: 1.0}, tuple(atoms.values()), inner)
        for d, index in enumerate(box):
            if index is not None:
                increment = known.nodes.laid(increment, d, index.tolist(), value.shape[d])
        divided = () if gain is None else (Piece(gain, tuple({d for d, _ in same}), -1),)
        self.moved: dict[Value, Increment] = {value: {product.times(*divided): number for product, number in increment.items()}}

    def goes(self, absorbing: bool) -> bool:
        """Whether all that is added is gone in the end.

        Args:
            absorbing: whether other parameters may make up for it.
        """
        try:
            for _ in range(MOST):
                if not self._follow(absorbing):
                    return self.is_gone
        except Tangled:
            pass
        return False

    def _follow(self, absorbing: bool) -> bool:
        """Follow what is added to its end; whether one more parameter was found on the way, so that all must be followed again.

        Raises:
            Tangled: something depends on what was added.
        """
        known, held = self.known, dict(self.moved)
        waiting = ReadersInOrder(known, held)
        for op in waiting:
            self.is_cut = self.is_cut or op.kind == "take"
            given = {slot: held[value] for slot, value in enumerate(op.inputs) if held.get(value)}
            if absorbing and self._absorbed(op, given):
                return True
            found = self.passing.through(op, given) if given else {}
            if not found:
                self.is_gone = self.is_gone or bool(given) and op.kind != "take"
                continue
            held[op.output] = found
            waiting.add(op.output)
        if any(held.get(value) for value in known.out):
            raise Tangled
        return False

    # -- what makes up for it ------------------------------------------------------------------------------------------------------------

    def _absorbed(self, op: Op, given: dict[int, Increment]) -> bool:
        """Whether a parameter can take away what arrives in a sum; it is moved then.

        Raises:
            Tangled: the sum cannot be followed.
        """
        if not given or not op.exact:
            return False
        if op.kind == "normalize" and "running_mean" in op.attrs["roles"] and not op.attrs["mixed"]:
            arriving = self.passing.centre(op, given)
            slots = {1 + list(op.attrs["roles"]).index("running_mean"): -1.0, 0: 1.0}
        elif op.kind == "elementwise" and op.name in ("add", "sub", "rsub"):
            arriving = self.passing.through(op, given)
            slots = _signs(op)
        else:
            return False
        if not arriving or any(not piece.node.known for product in arriving for piece in product.pieces):
            return False
        for slot in sorted(slots, key=lambda slot: not op.inputs[slot].parametric):
            found = self._absorber(op, slot, multiplied(arriving, -slots[slot]), 0)
            if found is not None:
                value, increment = found
                self.moved[value] = added(self.moved.get(value, {}), increment)
                self.is_made_up = True
                return True
        return False

    def _absorber(self, op: Op, slot: int, need: Increment, depth: int) -> tuple[Value, Increment] | None:
        """The parameter that adds something, along the labels of an operation's result, to one of its operands."""
        value, out = op.inputs[slot], list(op.out_labels)
        places = {out.index(label): d for d, (label, n) in enumerate(zip(op.labels[slot], value.shape, strict=True)) if label in out and n > 1}
        return self._into(value, renamed(need, places), depth) if varying(need) <= set(places) else None

    def _into(self, value: Value, need: Increment, depth: int) -> tuple[Value, Increment] | None:
        """The parameter that adds something to a value, and what is to be added to it."""
        known = self.known
        if value in known.out or depth > DEEPEST:
            return None
        op = value.op
        if op is None:
            return (value, need) if self._is_free(value, need) else None
        readers = known.readers.get(value, ())
        if not value.parametric and (len(readers) != 1 or readers[0].inputs.count(value) != 1) or not (op.exact or op.kind in LAYOUT):
            return None
        if op.kind in ("permute", "reshape", "take", "expand"):
            return self._into(op.inputs[0], self._before(op, need), depth + 1)
        if op.kind == "gather":
            dim, inner = op.attrs["dim"], op.inputs[1].ndim
            places = {d if d < dim else d + inner - 1: d for d in range(op.inputs[0].ndim) if d != dim}
            return self._into(op.inputs[0], renamed(need, places), depth + 1) if varying(need) <= set(places) else None
        if op.kind == "normalize" and "offset" in op.attrs["roles"]:
            return self._absorber(op, 1 + list(op.attrs["roles"]).index("offset"), need, depth + 1)
        if op.kind != "elementwise":
            return None
        if op.name in ("add", "sub", "rsub"):
            signs = _signs(op)
            slots = sorted(signs, key=lambda slot: not op.inputs[slot].parametric)
            tried = (self._absorber(op, slot, multiplied(need, signs[slot]), depth + 1) for slot in slots)
            return next((found for found in tried if found is not None), None)
        positional, keywords = arguments(op, len(op.inputs))
        if op.name == "mul" and len(op.inputs) == 2 and len(positional) == 2 and not keywords:
            for slot in (0, 1):
                gain = known.piece(op.inputs[1 - slot])
                if gain is None or gain[0] is None or not _has_inverse(gain[0].node):
                    continue
                dims = tuple(op.out_labels.index(op.labels[1 - slot][d]) for d in gain[0].dims)
                over = {product.times(Piece(gain[0].node, dims, -1)): number / gain[1] for product, number in need.items()}
                found = self._absorber(op, slot, over, depth + 1)
                if found is not None:
                    return found
        return None

    def _before(self, op: Op, need: Increment) -> Increment:
        """What has to be added to the operand of an operation of layout."""
        nodes, (source,) = self.known.nodes, op.inputs
        if op.kind == "permute":
            return renamed(need, dict(enumerate(op.attrs["order"])))
        if op.kind == "reshape":
            return nodes.reshaped(need, op.output.shape, source.shape)
        if op.kind == "take":
            return nodes.laid(need, op.attrs["dim"], op.attrs["index"], source.shape[op.attrs["dim"]])
        if not varying(need) <= {d for d, n in enumerate(source.shape) if n > 1}:
            raise Tangled
        return need

    def _is_free(self, value: Value, need: Increment) -> bool:
        """Whether a parameter may be added to there: nothing is yet, and it is another than the first."""
        program = self.known.program
        if value.kind != "parameter" or value.integer or program.tensors.get(value.name) is not value or value.name in program.fixed:
            return False
        return all(_are_apart(a, b) for a in self.moved.get(value, {}) for b in need)

    # -- the factor ----------------------------------------------------------------------------------------------------------------------

    def ends(self) -> frozenset[tuple[str, Any]]:
        """The parameters that are moved, with the positions that are; parts of one parameter, where no other is moved."""
        out: set[tuple[str, Any]] = set()
        for value, increment in self.moved.items():
            parts = frozenset(tuple((d, where.tobytes()) for d, where in sorted(product.where.items())) for product in increment)
            if len(self.moved) == 1:
                out.update((value.name, part) for part in parts)
                continue
            if len(parts) == 1 or math.prod(value.shape) > MOST_MASKED:
                out.add((value.name, parts))
                continue
            mask = np.zeros(value.shape, dtype=bool)  # parts that are a whole together are that whole
            for product in increment:
                own = np.ones((1,) * value.ndim, dtype=bool)
                for d, where in product.where.items():
                    own = own & where.reshape([-1 if e == d else 1 for e in range(value.ndim)])
                mask |= own
            out.add((value.name, frozenset([()]) if mask.all() else mask.tobytes()))
        return frozenset(out)

    def factor(self) -> TranslationFactor | OffsetFactor | None:
        """The symmetry; None if what is added would depend on what is moved."""
        part = "" if all(index is None for index in self.box) else " (a part)"
        if not self.is_made_up and self.gain is None and self.is_whole:
            return TranslationFactor(f"additions to {self.value.name}{part}", self.value.name, tuple(self.box), self.shape)
        written = Written()
        changes = []
        for value, increment in self.moved.items():
            pieces = [(self.known.nodes.one_of(product.pieces), number) for product, number in increment.items()]
            changes.append(Change(value.name, tuple(number for _, number in pieces), tuple(written.number(piece.node) for piece, _ in pieces),
                                  tuple(piece.dims for piece, _ in pieces)))  # fmt: skip
        moved = {value.name for value in self.moved}
        if any(step.kind == "tensor" and step.name in moved for step in written.steps):
            return None
        over = " divided by a gain" if self.gain is not None else "" if self.is_whole else " the same within parts of axes"
        others = ", made up for" if self.is_made_up else ""
        return OffsetFactor(f"additions{over} to {self.value.name}{part}{others}", self.value.name, self.shape, tuple(changes), tuple(written.steps))


class Written:
    """Nodes as steps of a computation, each once, in order."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.places: dict[Node, int] = {}

    def number(self, node: Node) -> int:
        if node not in self.places:
            inputs = tuple(self.number(other) for other in node.inputs)
            self.steps.append(_step(node, inputs))
            self.places[node] = len(self.steps) - 1
        return self.places[node]


def _step(node: Node, inputs: tuple[int, ...]) -> Step:
    kind, shape, attrs = node.kind, node.shape, node.attrs
    if kind == "source":
        return Step(kind, shape)
    if kind == "tensor":
        return Step(kind, shape, name=attrs[0])
    if kind == "constant":
        return Step(kind, shape, numbers=attrs[1])
    if kind in ("take", "place"):
        return Step(kind, shape, inputs, axis=attrs[0], index=np.asarray(attrs[1], dtype=np.int64))
    if kind == "regroup":
        return Step(kind, shape, inputs, labels=attrs)
    if kind == "product":
        return Step(kind, shape, inputs, labels=attrs[0], numbers=tuple(map(float, attrs[1])))
    if kind == "sum":
        return Step(kind, shape, inputs, labels=attrs[0], numbers=attrs[1])
    raise Tangled


def _signs(op: Op) -> dict[int, float]:
    """By which numbers a sum or difference multiplies its operands; none for other operations."""
    positional, keywords = arguments(op, len(op.inputs))
    if keywords or len(positional) != 2:
        return {}
    try:
        return dict(enumerate(Passing.signs(op, positional)))
    except Tangled:
        return {}


def _has_inverse(node: Node) -> bool:
    """Whether the elements of a gain are other than zero, for all that is known before parameters have values."""
    return node.kind == "tensor" or node.kind in ("take", "regroup") and _has_inverse(node.inputs[0])


def _are_apart(a: Product, b: Product) -> bool:
    """Whether two additions to a parameter are certainly to different elements."""
    others = b.where
    return any(d in others and not (where & others[d]).any() for d, where in a.where.items())


def _key(index: Array | None) -> bytes | None:
    return None if index is None else np.asarray(index).tobytes()
