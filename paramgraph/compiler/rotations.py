"""Finds streams that may be turned: axes of parameters that are added to each other, normalised, and read, by orthogonal matrices alike.

Every axis of every parameter is followed through the program, with the gains that it has passed. Sums relate axes, contractions relate those that
are summed over together, normalisations and other means and lengths ask for orthogonal matrices. Anything else that is done along an axis loses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from paramgraph.compiler.conjugations import Conjugations, Powers, plus
from paramgraph.compiler.operations.functions import number_kind
from paramgraph.compiler.operations.positional import RESAMPLED
from paramgraph.compiler.operations.scaling import CENTRED, UNCENTRED, arguments
from paramgraph.compiler.program import LAYOUT, Op, Program, Value
from paramgraph.compiler.scales import constant_of
from paramgraph.compiler.terms import regrouped
from paramgraph.symmetries.rotations import RotatedPart, RotationFactor

# An axis of a parameter, and the gains that have multiplied it since.
Held = tuple[int, Powers]
Axes = dict[int, Held]


def find_rotations(program: Program) -> tuple[RotationFactor, ...]:
    """The orthogonal groups of streams."""
    return tuple(_Finder(program).run())


class _Lost(Exception):
    """Something is done along axes that orthogonal matrices do not pass."""


class _Finder:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.system = Conjugations()
        self.held: dict[Value, Axes] = {}
        self.squares: dict[Value, Axes] = {}
        self.roots: list[tuple[Value, int]] = []
        for value in program.tensors.values():
            if value.kind == "parameter":
                self.held[value] = {}
                for d, n in enumerate(value.shape):
                    if n > 1:
                        self.held[value][d] = (self.system.add(), {})
                        self.roots.append((value, d))

    def run(self) -> Iterator[RotationFactor]:
        for op in self.program.ops:
            self._follow(op)
        for value in self.program.results():
            self._lose(self.held.get(value, {}))
            self._lose(self.squares.get(value, {}))
        members: dict[int, list[int]] = {}
        for axis in range(len(self.roots)):
            members.setdefault(self.system.find(axis)[0], []).append(axis)
        for first, axes in members.items():
            found = self.system.classes[first]
            if found.lost or not found.rigid or found.powers is None:
                continue
            powers = [self.system.powers(axis) for axis in axes]
            if any(power != int(power) for own in powers for power in own.values()):
                continue
            parts = tuple(
                RotatedPart(value.name, d, tuple(sorted((name, added, int(power)) for (name, added), power in own.items())))
                for (value, d), own in zip((self.roots[axis] for axis in axes), powers, strict=True)
            )
            value, d = self.roots[axes[0]]
            factor = RotationFactor(f"turns of the stream of {value.name}", value.shape[d], found.centred, parts)
            if factor.dimension:
                yield factor

    def _follow(self, op: Op) -> None:
        held = {slot: self.held.get(value, {}) for slot, value in enumerate(op.inputs)}
        rule = _RULES.get(op.kind)
        for value in op.inputs:
            if op.kind != "reduce":
                self._lose(self.squares.get(value, {}))
        if not any(held.values()) and not (op.kind == "reduce" and op.inputs[0] in self.squares):
            return
        try:
            if rule is None or not (op.exact or op.kind in LAYOUT):
                raise _Lost
            self.held[op.output] = {d: axis for d, axis in rule(self, op, held).items() if op.output.shape[d] > 1}
        except _Lost:
            for axes in (*held.values(), self.squares.get(op.inputs[0], {})):
                self._lose(axes)

    def _lose(self, axes: Axes) -> None:
        for axis, _ in axes.values():
            self.system.lose(axis)

    # -- layout ----------------------------------------------------------------------------------------------------------

    def _permute(self, op: Op, held: dict[int, Axes]) -> Axes:
        return {list(op.attrs["order"]).index(d): axis for d, axis in held[0].items()}

    def _reshape(self, op: Op, held: dict[int, Axes]) -> Axes:
        out: Axes = {}
        for olds, news in regrouped(op.inputs[0].shape, op.output.shape):
            if len(olds) == len(news) == 1 and olds[0] in held[0]:
                out[news[0]] = held[0][olds[0]]
            else:
                self._lose({d: held[0][d] for d in olds if d in held[0]})
        return out

    def _take(self, op: Op, held: dict[int, Axes]) -> Axes:
        return self._but(held[0], [op.attrs["dim"]])

    def _but(self, axes: Axes, dims: Sequence[int]) -> Axes:
        """The axes along other dimensions; those along these are lost."""
        self._lose({d: axis for d, axis in axes.items() if d in dims})
        return {d: axis for d, axis in axes.items() if d not in dims}

    def _expand(self, op: Op, held: dict[int, Axes]) -> Axes:
        return held[0]

    def _concat(self, op: Op, held: dict[int, Axes]) -> Axes:
        dim, out = op.attrs["dim"], {}
        known = [slot for slot, value in enumerate(op.inputs)
                 if held[slot] or not (value.kind == "constant" and number_kind(constant_of(value)) == "zero")]  # fmt: skip
        for d in {d for axes in held.values() for d in axes}:
            own = [held[slot][d] for slot in known if d in held[slot]]
            if d == dim or len(own) < len(known):
                self._lose(dict(enumerate(own)))
                continue
            for other in own[1:]:
                self.system.relate(*own[0], *other, 1)
            out[d] = own[0]
        return out

    def _gather(self, op: Op, held: dict[int, Axes]) -> Axes:
        if held.get(1):
            raise _Lost
        dim, more = op.attrs["dim"], op.inputs[1].ndim - 1
        return {d + more if d > dim else d: axis for d, axis in self._but(held[0], [dim]).items()}

    def _resample(self, op: Op, held: dict[int, Axes]) -> Axes:
        if RESAMPLED.get(op.name, ("odd", 1) if op.name.endswith(" padding") else None) != ("odd", 1):
            raise _Lost
        return self._but(held[0], op.attrs["dims"])

    # -- element by element ------------------------------------------------------------------------------------------------

    def _elementwise(self, op: Op, held: dict[int, Axes]) -> Axes:
        positional, keywords = arguments(op, len(op.inputs))
        numbers = [n for n in positional if isinstance(n, (int, float)) and not isinstance(n, bool)]
        if keywords or len(numbers) + len(op.inputs) != len(positional):
            raise _Lost
        if op.name in ("neg", "positive") and not numbers:
            return held[0]
        if op.name == "square" and not numbers or op.name == "pow" and len(op.inputs) == 1 and positional == ["x", 2]:
            self.squares[op.output] = held[0]
            return {}
        if len(positional) != 2:
            raise _Lost
        if op.name in ("add", "sub", "rsub"):
            return self._sum(op, held, numbers)
        if op.name == "mul" and len(op.inputs) == 2 and op.inputs[0] is op.inputs[1]:
            self.squares[op.output] = held[0]
            return {}
        if op.name == "mul" or op.name in ("div", "true_divide") and positional[0] == "x":
            return self._product(op, held, -1 if op.name != "mul" else 1)
        raise _Lost

    def _along(self, op: Op, held: dict[int, Axes]) -> dict[int, dict[int, Held | None]]:
        """Per dimension of the result that an axis is along, the operands that vary there: the axis, or None for another one."""
        out: dict[int, dict[int, Held | None]] = {}
        for slot, (value, labels) in enumerate(zip(op.inputs, op.labels, strict=True)):
            for d, (label, n) in enumerate(zip(labels, value.shape, strict=True)):
                if n > 1:
                    out.setdefault(list(op.out_labels).index(label), {})[slot] = held[slot].get(d)
        return {d: own for d, own in out.items() if any(axis is not None for axis in own.values())}

    def _sum(self, op: Op, held: dict[int, Axes], numbers: Sequence[float]) -> Axes:
        out: Axes = {}
        for d, own in self._along(op, held).items():
            axes = [axis for axis in own.values() if axis is not None]
            if len(axes) < len(own):
                self._lose(dict(enumerate(axes)))
                continue
            for other in axes[1:]:
                self.system.relate(*axes[0], *other, 1)
            if len(own) < len(op.inputs) or any(numbers):  # the same is added all along: a multiple of the vector of ones
                self.system.measure(*axes[0], centred=True)
            out[d] = axes[0]
        return out

    def _product(self, op: Op, held: dict[int, Axes], power: int) -> Axes:
        out: Axes = {}
        for d, own in self._along(op, held).items():
            axes = {slot: axis for slot, axis in own.items() if axis is not None}
            gains = {slot: gain for slot in own for gain in [_gain(op.inputs[slot])] if gain is not None}
            if len(own) == 1 and (power == 1 or 0 in own):
                out[d] = next(iter(axes.values()))
                continue
            slots = [slot for slot in axes if slot not in gains and (power == 1 or slot == 0)]
            if len(own) == 2 and len(slots) == 1 and len(gains) == 1:
                ((slot, gain),) = gains.items()
                axis, behind = axes[slots[0]]
                out[d] = (axis, plus(behind, {gain: power}))
                axes = {slot: axes[slot]} if slot in axes else {}
            self._lose(axes)
        return out

    # -- sums and norms ------------------------------------------------------------------------------------------------------

    def _reduce(self, op: Op, held: dict[int, Axes]) -> Axes:
        gone = {d for d, label in enumerate(op.labels[0]) if label not in op.out_labels}
        for d, axis in self.squares.get(op.inputs[0], {}).items():
            if d in gone and op.name in ("sum", "mean"):
                self.system.measure(*axis)
            else:
                self._lose({d: axis})
        out: Axes = {}
        for d, axis in held[0].items():
            if d not in gone and op.name in ("sum", "mean"):
                out[list(op.out_labels).index(op.labels[0][d])] = axis
            elif d in gone and op.name in ("sum", "mean", "var", "std"):
                self.system.measure(*axis, centred=True)
            elif d in gone and op.name == "norm" and op.attrs.get("order") == 2:
                self.system.measure(*axis)
            else:
                self._lose({d: axis})
        return out

    def _mix(self, op: Op, held: dict[int, Axes]) -> Axes:
        if not op.attrs.get("linear"):
            raise _Lost
        return self._but(held[0], [d for d, label in enumerate(op.labels[0]) if label in op.attrs["mixed"]])

    def _normalize(self, op: Op, held: dict[int, Axes]) -> Axes:
        """Along the axes over which statistics are taken, gains multiply and offsets are added."""
        roles = dict(zip(op.attrs["roles"], range(1, len(op.inputs)), strict=True))
        out: Axes = {}
        for d, axis in held[0].items():
            label = op.labels[0][d]
            fits = label in op.attrs["mixed"] and op.name in CENTRED | UNCENTRED and set(roles) <= {"gain", "offset"}
            if not fits or any(list(op.labels[slot]) != [label] for slot in roles.values()):
                self._lose({d: axis})
                continue
            self.system.measure(*axis, centred=op.name in CENTRED)
            behind = axis[1]
            if "gain" in roles:
                gain = _gain(op.inputs[roles["gain"]])
                if gain is None:
                    self._lose({d: axis})
                    continue
                behind = plus(behind, {gain: 1})
            if "offset" in roles:
                if 0 not in held[roles["offset"]]:
                    self._lose({d: axis})
                    continue
                self.system.relate(axis[0], behind, *held[roles["offset"]][0], 1)
            out[d] = (axis[0], behind)
        for role, slot in roles.items():
            if role != "offset" or not out:
                self._lose(held[slot])
        return out

    # -- products --------------------------------------------------------------------------------------------------------------

    def _contract(self, op: Op, held: dict[int, Axes]) -> Axes:
        if not op.attrs.get("product") or len(op.inputs) != 2 or any(len(set(labels)) < len(labels) for labels in op.labels):
            raise _Lost
        varying = [{label: d for d, (label, n) in enumerate(zip(op.labels[slot], op.inputs[slot].shape, strict=True)) if n > 1} for slot in (0, 1)]
        out: Axes = {}
        for slot, axes in held.items():
            for d, axis in axes.items():
                label, other = op.labels[slot][d], varying[1 - slot]
                if label in op.out_labels and label not in other:
                    out[list(op.out_labels).index(label)] = axis
                elif label not in op.out_labels and label in other and other[label] in held[1 - slot]:
                    self.system.relate(*axis, *held[1 - slot][other[label]], -1)
                else:
                    self._lose({d: axis})
        return out

    def _convolve(self, op: Op, held: dict[int, Axes]) -> Axes:
        """Channels without groups, contracted or produced."""
        inner, outer = (0, 1) if op.attrs["transposed"] else (1, 0)
        if op.attrs["groups"] != 1:
            raise _Lost
        x, weight = dict(held[0]), dict(held[1])
        read, own = x.pop(1, None), weight.pop(inner, None)
        out = {1: weight.pop(outer)} if outer in weight else {}
        if read is not None and own is not None:
            self.system.relate(*read, *own, -1)
        else:
            self._lose({d: axis for d, axis in enumerate((read, own)) if axis is not None})
        if 0 in x:
            out[0] = x.pop(0)
        self._lose(x)
        self._lose(weight)
        return out


def _gain(value: Value) -> tuple[str, float] | None:
    """The parameter of one axis that a value is, seen otherwise, and a number that is added to it; None if it is something else."""
    added = 0.0
    while value.op is not None:
        op = value.op
        if op.kind == "elementwise" and op.exact and op.name == "add" and len(op.inputs) == 1:
            positional, keywords = arguments(op, 1)
            numbers = [n for n in positional if isinstance(n, (int, float)) and not isinstance(n, bool)]
            if keywords or len(positional) != 2 or len(numbers) != 1:
                return None
            added += float(numbers[0])
        elif op.kind not in ("reshape", "permute"):
            return None
        value = op.inputs[0]
    return (value.name, added) if value.kind == "parameter" and sum(n > 1 for n in value.shape) == 1 else None


_RULES: dict[str, Callable[[_Finder, Op, dict[int, Axes]], Any]] = {
    "permute": _Finder._permute, "reshape": _Finder._reshape, "take": _Finder._take, "expand": _Finder._expand, "concat": _Finder._concat,
    "gather": _Finder._gather, "resample": _Finder._resample, "elementwise": _Finder._elementwise, "reduce": _Finder._reduce,
    "mix": _Finder._mix, "normalize": _Finder._normalize, "contract": _Finder._contract, "convolve": _Finder._convolve,
}  # fmt: skip
