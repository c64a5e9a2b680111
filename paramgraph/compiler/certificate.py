"""A certificate for a typing: random elements of the group, followed through every operation.

Typing infers which spaces are the same and what depends on what; this checks the result without using how it was found. Every value's
elements are permuted as its axes say, and each operation must turn permuted operands into the permuted result. An operation that does
not shows a wrong typing, and the whole network then gets the trivial group: no wrong symmetry leaves the compiler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from paramgraph.compiler.dimensions import Moves, connected, flat, is_alike, is_still, parts, projection, run, same
from paramgraph.compiler.grids import is_carried
from paramgraph.compiler.labelling import axes_of_labels, labelled_axes
from paramgraph.compiler.moved_tensors import MovedTensors
from paramgraph.compiler.program import Op, Program, Value
from paramgraph.errors import TraceError
from paramgraph.symmetries.group import ActionBlock, SymmetryGroup, TensorAction
from paramgraph.symmetries.solution import GroupBuilder
from paramgraph.symmetries.spaces import Axis, Space, Unsettled

# Where branches are exchanged, operations on more elements than this that move together are taken on trust: the check would cost more
# memory than the network's own structure.
LARGEST = 1 << 20


class Certificate(MovedTensors):
    """Follows group elements through a program.

    Args:
        program: a typed program.
        builder: the group's spaces and factors, closed.
        branches: axes of parallel branches: what they are in is followed, too.
    """

    def __init__(self, program: Program, builder: GroupBuilder, branches: Sequence[Axis] = ()) -> None:
        super().__init__(builder)
        self.program = program
        self.system = builder.dependencies.system
        # Per operation that is to be followed, its operands' axes by labels, and the factors that move anything of it.
        self._plans: dict[Op, tuple[list[tuple[tuple[Any, ...], tuple[Axis, ...]]], dict[Any, Axis]]] = {}
        self._reached: dict[Op, set[int]] = {}
        self._followed: dict[Op, set[frozenset[tuple[int, bytes]]]] = {}
        self._moved: dict[int, bytes] = {}
        self._uniform: dict[Value, bool] = {}
        self._plain: set[Op] = set()
        self._inside: dict[int, set[int]] = {}
        self._touched: dict[Axis, bool] = {}
        self._held: dict[Axis, set[Space]] = {}
        self._branches = {space for axis in branches for space in self._spaces(axis)}
        self.ops = [op for op in program.ops if self._is_followed(op)]
        self._prepare()
        self.group = SymmetryGroup(tuple(builder.spaces), tuple(builder.factors), {}, {})

    def _spaces(self, axis: Axis) -> set[Space]:
        """The spaces of an axis, those inside its parts among them."""
        found = self._held.get(axis)
        if found is None:
            found = self._held[axis] = set()
            for unit in self.system.units(axis):
                found.add(unit)
                found.update(space for part in self.system.finest(unit) for space in part)
        return found

    def _is_followed(self, op: Op) -> bool:
        values = (*op.inputs, op.output)
        if any(self._is_touched(value) for value in values):
            return True
        if not self._branches or all(self._branches.isdisjoint(self._spaces(axis)) for value in values for axis in value.context):
            return False
        actions = [self.action(value.context) for value in values]
        return all(math.prod(action.shape[d] for d in dims) <= LARGEST for action in actions for dims, _ in action.components)

    def _is_touched(self, value: Value) -> bool:
        """Whether a family, or what one varies over, is among a value's spaces. Elsewhere types are plain products: nothing to get wrong."""
        for axis in value.context:
            if axis not in self._touched:
                self._touched[axis] = self.builder.dependencies.is_delicate(axis)
            if self._touched[axis]:
                return True
        return False

    def _prepare(self) -> None:
        """Number all spaces first: the element needs the whole list of them."""
        for value, buffer in self.program.outputs:
            self.action(value.axes)
            if buffer is not None:
                self.action(buffer.axes)
        actions: dict[Op, list[TensorAction]] = {}
        for op in self.ops:
            labelled = labelled_axes(op)
            table = axes_of_labels(labelled)
            values = (*op.inputs, op.output)
            joint = self.action(tuple(table.values()))
            # Each axis moves by itself, and is the same wherever its label occurs: nothing can differ between operands.
            if _is_aligned(op) and all(len(dims) == 1 for dims, _ in joint.components) and all(
                len(set(labels)) == len(labels) and all(not axis or axis == table[label] for label, axis in zip(labels, axes, strict=True))
                for labels, axes in labelled
            ):
                if not any(value.kind == "constant" for value in op.inputs):
                    continue  # all axes of all operands have labels: nothing is left to follow
                self._plain.add(op)
            self._plans[op] = labelled, table
            mixed = set(op.attrs.get("mixed", ()))
            tensors = [*(value.context for value in values), *(axes for _, axes in labelled), tuple(table.values())]
            actions[op] = [self.action(axes) for axes in (*tensors, tuple(axis for label, axis in table.items() if label not in mixed))]
        for op, own in actions.items():
            self._reached[op] = {number for action in own for _, blocks in action.components for number in self._factors_in(blocks)}

    def _factors_in(self, blocks: Sequence[ActionBlock]) -> set[int]:
        found = self._inside.get(id(blocks))
        if found is None:
            found = self._inside[id(blocks)] = set().union(*map(self.factors_of, blocks))
        return found

    def check(self) -> None:
        """Follow random elements through every operation.

        Raises:
            Unsettled: an operation does not commute with one of them.
        """
        # A random permutation of few elements is often the identity, and two of them are often alike: small factors need several.
        sizes = [factor.size for factor in self.group.factors]
        for seed, largest in enumerate((math.inf, 6, 3, 3)):
            chosen = [number for number, size in enumerate(sizes) if size <= largest]
            if not chosen:
                break
            self.start(self.group.sample(seed, factors=chosen))
            # Of each factor that the element permutes, how; those that it leaves as they are move nothing.
            self._moved = {number: own.tobytes() for number, own in self.element.permutations.items() if not is_still(own)}
            self._follow()

    def _follow(self) -> None:
        for op, reached in self._reached.items():
            moved = frozenset((number, self._moved[number]) for number in reached if number in self._moved)
            # What moves an operation as an element before did, tells nothing new: of two elements there is one exchange.
            if not moved or moved in (seen := self._followed.setdefault(op, set())):
                continue
            seen.add(moved)
            if not self._commutes(op):
                raise Unsettled(f"the typing of {op.name or op.kind} does not commute with its own group")
        for value, buffer in self.program.outputs:
            wanted = {} if buffer is None else self.moves(buffer.axes)
            if not same(self.moves(value.axes), wanted, value.shape):
                raise Unsettled("an output does not stay as it is")

    # -- operations ----------------------------------------------------------------------------------------------------

    def _commutes(self, op: Op) -> bool:
        for value in op.inputs:
            if value.kind == "constant" and not self._keeps_constant(value):
                return False
        if _is_aligned(op):
            return self._aligned(op)
        if op.kind in ("reshape", "take", "concat") and not any(value.virtual for value in op.inputs):
            return self._layout(op)
        if op.kind == "permute":
            (x,) = op.inputs
            units = [self.system.units(axis) for axis in x.axes]
            return [units[source] for source in op.attrs["order"]] == [self.system.units(axis) for axis in op.output.axes]
        if op.kind == "feedback":
            state, value = op.inputs
            return same(self.moves(state.axes), self.moves(value.axes), value.shape)
        return True

    def _aligned(self, op: Op) -> bool:
        """One permutation of the hidden tensor of all labels must give those of the operands and of the result."""
        if op in self._plain:
            return True
        labelled, table = self._plans[op]
        names = list(table)
        joint = self.moves(tuple(table.values()))
        sizes = [math.prod(space.size for space in axis) for axis in table.values()]
        for labels, axes in labelled:
            own = self.moves(axes)
            shape = [math.prod(space.size for space in axis) for axis in axes]
            place = {label: d for d, label in enumerate(labels) if shape[d] > 1}
            groups = [tuple(names.index(labels[d]) for d in dims if labels[d] in table) for dims in own]
            for dims in {*joint, *groups}:
                # Everything that moves together with these dimensions, on either side.
                inside = connected(set(dims), [*joint, *groups])
                held = [d for d in inside if names[d] in place]
                if not held:
                    continue
                if len(held) == len(inside) == len(dims) and self._is_alike(dims, joint, own, [place[names[d]] for d in dims]):
                    continue
                whole = flat(joint, inside, sizes)
                mine = flat(own, [place[names[d]] for d in held], shape)
                project = projection(inside, held, sizes)
                if not np.array_equal(project[whole], mine[project]):
                    return False
        return True

    @staticmethod
    def _is_alike(dims: tuple[int, ...], joint: Moves, own: Moves, there: Sequence[int]) -> bool:
        """Whether some dimensions of the hidden tensor, and the same of an operand, are moved by one and the same permutation."""
        source = joint.get(dims)
        return source is not None and own.get(tuple(there)) is source

    def _layout(self, op: Op) -> bool:
        """Element numbers go through the operation itself, before and after."""
        if op.kind == "reshape":
            (x,) = op.inputs
            before = [unit for axis in x.axes for unit in self.system.units(axis)]
            if len(set(before)) == len(before) and before == [unit for axis in op.output.axes for unit in self.system.units(axis)]:
                return True
        elif (carried := self._carried(op)) is not None:
            return carried
        target = self.moves(op.output.axes)
        sources = [self.moves(value.axes) for value in op.inputs]
        if not target and not any(sources):
            return True
        return all(self._part(op, olds, news, target, sources) for olds, news in parts(op, target, sources))

    def _carried(self, op: Op) -> bool | None:
        """Slices and joins of tensors of which several dimensions move together, by positions; None where that is not said."""
        values = (*op.inputs, op.output)
        if all(len(dims) == 1 for value in values for dims, _ in self.action(value.axes).components):
            return None
        found = [self.grids(value.axes) for value in values]
        *own, result = found
        if result is None or None in own:
            return None
        if op.kind == "take":
            return is_carried(result, own[0] or (), op.attrs["dim"], np.asarray(op.attrs["index"]))
        dim, start, said = op.attrs["dim"], 0, []
        for value, grids in zip(op.inputs, own, strict=True):
            said.append(is_carried(grids or (), result, dim, np.arange(start, start + value.shape[dim])))
            start += value.shape[dim]
        return None if None in said else all(said)

    def _part(self, op: Op, olds: Sequence[int], news: Sequence[int], target: Moves, sources: Sequence[Moves]) -> bool:
        """Some dimensions of the operands, and those of the result that they go to: nothing else moves with them."""
        shapes = [[value.shape[d] for d in olds] for value in op.inputs]
        if op.kind != "reshape" and op.attrs["dim"] not in news:  # they stay as they are
            if all(set(own) == set(target) and all(own[dims] is target[dims] for dims in own if dims[0] in olds) for own in sources):
                return True
            wanted = flat(target, news, op.output.shape)
            return all(is_alike(flat(own, olds, value.shape), wanted) for own, value in zip(sources, op.inputs, strict=True))
        numbers, start = [], 0
        for shape in shapes:
            numbers.append(np.arange(start, start + math.prod(shape)).reshape(shape))
            start += math.prod(shape)
        origin = run(op, numbers, news).reshape(-1)
        moved = np.concatenate([
            n.reshape(-1)[flat(own, olds, value.shape)] for n, own, value in zip(numbers, sources, op.inputs, strict=True)
        ])
        return bool(np.array_equal(moved[origin], origin[flat(target, news, op.output.shape)]))

    def _keeps_constant(self, value: Value) -> bool:
        moves = self.moves(value.axes)
        if not moves or value.read is None:
            return True
        try:
            data = np.asarray(value.read())
        except TraceError:
            return False
        if value not in self._uniform:
            self._uniform[value] = bool((data == data.reshape(-1)[:1]).all())
        if self._uniform[value]:
            return True
        return bool(np.array_equal(data.reshape(-1)[flat(moves, list(range(value.ndim)), value.shape)], data.reshape(-1), equal_nan=True))


def _is_aligned(op: Op) -> bool:
    """Whether labels say which axes of an operation's operands and result are the same."""
    return bool(op.labels) or op.kind == "convolve"
