"""Exchanges of parallel branches: a program is rewritten with the branches of each join stacked, and typed in that form.

Whether stacked branches may be exchanged is for typing to say. `idle_joins` tells which joins gained nothing by it; the program is then
made anew without stacking those.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from paramgraph.compiler.branches import REDUCTIONS, Colours, Join, find_joins
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.compiler.stacking import Attempt, Refused, Reordered, Several, Stack, Stacked, Stacker
from paramgraph.symmetries.spaces import Axis, SpaceSystem

# An operand of a join: the number of the join's operation, and the operand's own; None for all of them.
Branch = tuple[int, int | None]


class Undone(Exception):
    """Some branches cannot be stacked after all."""

    def __init__(self, branches: Collection[Branch]) -> None:
        super().__init__("branches that cannot be stacked")
        self.branches = frozenset(branches)


def stack_branches(program: Program, kinds: Mapping[str, Any], without: Collection[Branch] = ()) -> list[Stack]:
    """Rewrite a program, in place, with parallel branches of one form stacked.

    Args:
        program: fresh from its front end.
        kinds: per parameter name, what tensors must have in common to be stacked (their dtype).
        without: branches to leave as they are.

    Returns:
        The stacked parameters that stand in the program now; empty where it was left as it is.

    Raises:
        Undone: these branches must be left as they are. The program is of no use any more.
    """
    joins = find_joins(program)
    if not joins:
        return []
    ranks = {value: number for number, value in enumerate(program.tensors.values())}
    stacker = Stacker(Colours(program), ranks, dict(kinds))
    rewriter = _Rewriter(program, stacker, joins, without)
    rewriter.run()
    if not stacker.stacks:
        return []
    return rewriter.settle()


class _Rewriter:
    def __init__(self, program: Program, stacker: Stacker, joins: Mapping[Op, Join], without: Collection[Branch]) -> None:
        self.program, self.stacker, self.joins, self.without = program, stacker, joins, without
        self.ops: list[Op] = []

    def run(self) -> None:
        """Stack what meets in every join, in order: what an inner join has become may be a branch of an outer one."""
        for number, op in enumerate(self.program.ops):
            join = self.joins.get(op)
            if join is None or (number, None) in self.without or not (self._laid if join.is_ordered else self._reduced)(join, number):
                self.ops.append(op)

    # -- joins ---------------------------------------------------------------------------------------------------------

    def _alike(
        self, values: Sequence[Value], entries: Sequence[Op], places: Sequence[int | None], number: int, reduction: str = ""
    ) -> list[tuple[list[int], Stacked]]:
        """Groups of operands that could be stacked, by their numbers, in the order in which they are.

        Args:
            values: the operands, with the operations that they enter by and their places among the join's own operands.
            number: of the join.
            reduction: what is done to them together, if they have no order.
        """
        colours = self.stacker.colours
        forms: dict[tuple[Any, ...], list[int]] = {}
        for i, value in enumerate(values):
            if (number, places[i]) in self.without:
                continue
            if value.op is not None and value.kind == "op":
                forms.setdefault((value.shape, value.op.kind, value.op.name), []).append(i)
            elif value.kind in ("parameter", "buffer"):
                forms.setdefault((value.shape, value.kind), []).append(i)
        classes: dict[tuple[Any, ...], list[int]] = {}
        sketches = {i: colours.sketch(values[i]) for own in forms.values() if len(own) > 1 for i in own}
        often = Counter((form, sketches[i]) for form, own in forms.items() if len(own) > 1 for i in own)
        for form, own in forms.items():
            for i in own if len(own) > 1 else ():
                if often[form, sketches[i]] < 2:
                    continue
                classes.setdefault((form, colours.entry(entries[i], values[i]), colours.of(values[i])), []).append(i)
        out = []
        for own in classes.values():
            for part, done, attempt in self._stacked(values, own, number):
                if done.is_linear and reduction and (reduction == "sum" or done.value.parametric):
                    continue  # exchanges of parameters that are merely added, or multiplied, belong to no group
                if not any(stack.members for stack in done.sources) and (not reduction or done.value.parametric):
                    continue  # slices side by side are what they are slices of
                self._keep(attempt)
                for stack in done.sources:
                    stack.levels[0].add(number)
                for stack in attempt.stacks:
                    stack.places = tuple(places[i] for i in part)
                out.append((part, done))
        return out

    def _stacked(self, values: Sequence[Value], numbers: list[int], join: int) -> Iterator[tuple[list[int], Stacked, Attempt]]:
        """Stack some values; where they are not all alike, those that are. Each attempt is kept, or not, before the next is made."""
        todo = [(numbers, False)]
        while todo:
            own, is_ordered = todo.pop()
            if len(own) < 2:
                continue
            try:
                done, attempt = self.stacker.attempt(tuple(values[i] for i in own), join)
            except Reordered as error:
                if not is_ordered:
                    todo.append(([own[i] for i in error.order], True))
            except Refused as error:
                parts: dict[Any, list[int]] = {}
                for i, part in zip(own, error.classes or (), strict=False):
                    parts.setdefault(part, []).append(i)
                todo.extend((part, False) for part in reversed(list(parts.values())) if len(part) < len(own))
            else:
                yield own, done, attempt

    def _keep(self, attempt: Attempt) -> None:
        self.stacker.keep(attempt)
        self.ops += self.stacker.collect()

    def _reduced(self, join: Join, number: int) -> bool:
        """A join without order: the branches are reduced, and what else meets is added to that."""
        root, name = join.root, REDUCTIONS[join.root.name]
        operands = [value for value, _ in join.operands]
        entries = [entry for _, entry in join.operands]
        places: list[int | None] = list(range(len(operands)))
        changed = False
        while groups := self._alike(operands, entries, places, number, name):
            changed = True
            made = [self.stacker.summed(root, done.value, name) for _, done in groups]
            gone = {i for own, _ in groups for i in own}
            self.ops += self.stacker.collect()
            operands = [*made, *(value for i, value in enumerate(operands) if i not in gone)]
            entries = [root] * len(made) + [entry for i, entry in enumerate(entries) if i not in gone]
            places = [*(None for _ in made), *(place for i, place in enumerate(places) if i not in gone)]
        if not changed:
            return False
        total, *others = operands
        for value, entry in zip(others, entries[1:], strict=True):
            total = self._applied(entry, total, value)
        if total.shape != root.output.shape:
            total = self.stacker.reshaped(root, total, [1] * (root.output.ndim - total.ndim) + list(total.shape))
            self.ops += self.stacker.collect()
            if total.shape != root.output.shape:
                out = Value(root.output.shape)
                self.ops.append(Op("expand", [total], out, where=root.where))
                total = out
        self._stand_for(total, root.output)
        return True

    def _applied(self, entry: Op, a: Value, b: Value) -> Value:
        rank = max(a.ndim, b.ndim)
        out_labels = tuple(range(rank))
        labels = [out_labels[rank - value.ndim :] for value in (a, b)]
        shape = [max(_size(a, d - rank), _size(b, d - rank)) for d in range(rank)]
        out = Value(shape)
        out.integer = a.integer and b.integer
        attrs = dict(entry.attrs) if len(entry.inputs) > 1 else {}
        self.ops.append(Op("elementwise", [a, b], out, labels, out_labels, entry.name, entry.where, attrs))
        self.ops[-1].exact = entry.exact
        return out

    def _laid(self, join: Join, number: int) -> bool:
        """A concatenation: the branches side by side, then everything in its place."""
        root, dim = join.root, join.root.attrs["dim"]
        operands = [value for value, _ in join.operands]
        groups = self._alike(operands, [entry for _, entry in join.operands], list(range(len(operands))), number)
        if not groups:
            return False
        held = {own[0] if own == sorted(own) else min(own): (own, done) for own, done in groups}
        inside = {i for own, _ in groups for i in own}
        pieces, order = [], []
        for i, value in enumerate(operands):
            if i in held:
                own, done = held[i]
                pieces.append(self.stacker.side_by_side(root, done.value, dim))
                order += own
            elif i not in inside:
                pieces.append(value)
                order.append(i)
        self.ops += self.stacker.collect()
        out = pieces[0]
        if len(pieces) > 1:
            out = Value(root.output.shape)
            self.ops.append(Op("concat", pieces, out, where=root.where, attrs={"dim": dim}))
        starts, at = {}, 0
        for i in order:
            starts[i] = at
            at += operands[i].shape[dim]
        index = [starts[i] + j for i in range(len(operands)) for j in range(operands[i].shape[dim])]
        out = self.stacker.taken(root, out, dim, index)
        self.ops += self.stacker.collect()
        self._stand_for(out, root.output)
        return True

    def _stand_for(self, value: Value, output: Value) -> None:
        """Let the result of the last operation be what others read already."""
        op = self.ops[-1]
        if op.output is not value:
            raise Undone({(number, None) for stack in self.stacker.stacks for level in stack.levels for number in level})
        op.output = output
        output.op = op
        output.parametric = value.parametric

    # -- what is left --------------------------------------------------------------------------------------------------

    def settle(self) -> list[Stack]:
        """Put the stacked parameters in the place of their members."""
        program, stacker = self.program, self.stacker
        self._outputs()
        program.ops = self.ops
        program.drop_dead()
        # A branch whose parameter is read elsewhere, too, is none like the others.
        alone = {value for op in program.ops for value in op.inputs} | {value for value, _ in program.outputs}
        odd = {branch for value in alone if value in stacker.stack_of for branch in self._branch(value)}
        if odd:
            raise Undone(odd)
        top = [stack for stack in stacker.stacks if stack.value not in stacker.stack_of]
        by_first = {_members(stack, stacker)[0]: stack for stack in top if stack.members}
        inside = {value.name for stack in top for value in _members(stack, stacker)}
        tensors: dict[str, Value] = {}
        for name, value in program.tensors.items():
            if value in by_first:
                stack = by_first[value]
                names = [member.name for member in _members(stack, stacker)]
                stack.value.name = _common_name(names, {*program.tensors, *tensors})
                tensors[stack.value.name] = stack.value
                program.stacks[stack.value.name] = tuple(names)
            elif name not in inside:
                tensors[name] = value
        program.tensors = tensors
        return top

    def _branch(self, value: Value) -> list[Branch]:
        """The branch that a stacked parameter belongs to; where it is none of a join's own, all branches of the joins concerned."""
        stack = self.stacker.stack_of[value]
        place = stack.places[stack.members.index(value)] if stack.places else None
        if place is None or len(stack.levels[0]) != 1:
            return [(number, None) for number in stack.levels[0]]
        return [(number, place) for number in stack.levels[0]]

    def _statistics(self) -> None:
        """Stack buffers that only their own new values are computed from, where what else those are computed from was stacked."""
        colours = self.stacker.colours
        values = [value for value, buffer in self.program.outputs if buffer is not None]
        classes: dict[tuple[Any, ...], list[int]] = {}
        for i, value in enumerate(values):
            classes.setdefault((value.shape, colours.of(value)), []).append(i)
        for own in classes.values():
            for part, done, attempt in self._stacked(values, own, -1):
                before = [stack for stack in done.sources if stack not in attempt.stacks and len(stack.members) == len(part)]
                if before:
                    known = min(before, key=lambda stack: stack.value.name)
                    self._keep(attempt)
                    for stack in attempt.stacks:
                        stack.levels[0], stack.places = set(known.levels[0]), known.places

    def _outputs(self) -> None:
        """New values of buffers that were stacked are stacked likewise."""
        program, stacker = self.program, self.stacker
        self._statistics()
        while True:
            new = {buffer: value for value, buffer in program.outputs if buffer is not None}
            stack = next((stacker.stack_of[buffer] for buffer in new if buffer in stacker.stack_of), None)
            if stack is None:
                return
            values: Several = tuple(new[member] for member in stack.members if member in new)
            try:
                if len(values) < len(stack.members):
                    raise Refused
                done, attempt = stacker.attempt(values, min(stack.levels[0]))
            except (Refused, Reordered):
                raise Undone({(number, None) for number in stack.levels[0]}) from None
            self._keep(attempt)
            pairs: list[tuple[Value, Value | None]] = [pair for pair in program.outputs if pair[1] not in stack.members]
            program.outputs = [*pairs, (done.value, stack.value)]


def branch_axes(stacks: Sequence[Stack]) -> list[Axis]:
    """The axes along which branches stand side by side, of a typed program."""
    return [axis for stack in stacks for axis in stack.value.axes[: len(stack.levels)]]


def idle_joins(system: SpaceSystem, stacks: Sequence[Stack]) -> frozenset[Branch]:
    """Joins none of whose branches can be exchanged, as far as is known of a program's spaces."""
    active: set[int] = set()
    idle: set[int] = set()
    for stack in stacks:
        for axis, joins in zip(stack.value.axes, stack.levels, strict=False):
            (active if _is_free(system, axis) else idle).update(joins)
    return frozenset((number, None) for number in idle - active)


def _is_free(system: SpaceSystem, axis: Axis) -> bool:
    for unit in system.units(axis):
        for part, _ in system.leaves(unit):
            if any(not space.pinned and space.size > 1 for space in part):
                return True
    return False


def _members(stack: Stack, stacker: Stacker) -> list[Value]:
    """The network's own parameters in a stack, row-major."""
    inner = {other.value: other for other in stacker.stacks}
    out: list[Value] = []
    for member in stack.members:
        out += _members(inner[member], stacker) if member in inner else [member]
    return out


def _size(value: Value, d: int) -> int:
    return value.shape[d] if -d <= value.ndim else 1


def _common_name(names: Sequence[str], taken: Collection[str]) -> str:
    """One name for several, with a star where they differ."""
    parts = [re.split(r"(\W)", name) for name in names]
    if len({len(own) for own in parts}) == 1:
        name = "".join(own[0] if len(set(own)) == 1 else "*" for own in zip(*parts, strict=True))
    else:
        name = "|".join(names)
    return name if name not in taken else "|".join(names)
