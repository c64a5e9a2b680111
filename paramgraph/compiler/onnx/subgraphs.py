"""Operators with subgraphs: `If`, `Loop` and `Scan`.

- A branch that is known to be taken stands in the operator's place. Where data decide, both branches are lowered and one result is chosen,
  as by `Where`.
- A loop of few steps is written out, step by step, where its number of steps is constant. So is a scan along a parameter: each step
  has its own slice of it.
- Other loops are lowered once, as recurrent layers are: a step's results are fed back into it. What decides how many steps there are is
  asked of every result.

What does not fit (steps whose shapes change, sequences that grow as long as data say) is left to the caller, with the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paramgraph.compiler.aten.layout import stack
from paramgraph.compiler.onnx.elementwise import where
from paramgraph.compiler.onnx.keys import subgraphs
from paramgraph.compiler.onnx.leaves import BOOL, FLOATING
from paramgraph.compiler.onnx.operands import flattened
from paramgraph.compiler.program import Value
from paramgraph.errors import TraceError, first_line

if TYPE_CHECKING:
    from paramgraph.compiler.onnx.lowering import OnnxLowering
    from paramgraph.compiler.onnx.shapes import Type

# Loops are written out up to this many steps, and up to this many nodes in all.
MOST_STEPS, MOST_NODES = 64, 2000
_INT64 = 7
# A value (or a sequence of values) with its type.
Typed = tuple[Any, "Type | None"]


class Unexpressed(Exception):
    """An operator that is not expressed by operations of the program, and why."""


class Subgraphs:
    """Lowers operators with subgraphs.

    Args:
        lowering: of the model.

    Attributes:
        failures: why nodes were left to the caller.
        misfits: nodes in whose subgraphs an operator does not fit its operands.
    """

    def __init__(self, lowering: OnnxLowering) -> None:
        self.lowering = lowering
        self.failures: dict[Any, str] = {}
        self.misfits: set[Any] = set()

    def lower(self, node: Any) -> bool:
        """Lower a node and give its results their values. False if that cannot be: nothing is left of the attempt, and `failures` says why."""
        ways = {"If": [self._if], "Loop": [self._unrolled_loop, self._fed_back_loop], "Scan": [self._unrolled_scan, self._fed_back_scan]}
        lowering, unknown = self.lowering, self.lowering.program.unknown
        mark = len(unknown)
        for way in ways.get(node.op_type, ()):
            self.misfits.discard(node)
            try:
                with lowering.builder.transaction():
                    results = way(node)
                    if len(results) != len(node.outputs):
                        raise Unexpressed(f"it has {len(node.outputs)} results, and its subgraphs give {len(results)}")
            except Exception as error:  # bodies may hold anything; whatever fails in them, the operator as a whole is opaque
                self.failures[node] = f"{node.op_type}: {first_line(error)}"
                if isinstance(error, TraceError):
                    self.misfits.add(node)
                del unknown[mark:]
                self._forget(node)
                continue
            self.failures.pop(node, None)
            for output, (value, type_) in zip(node.outputs, results, strict=True):
                lowering.set(output, value, type_)
            return True
        return False

    def _forget(self, node: Any) -> None:
        """Drop what the values of a node's subgraphs were lowered to, but for parameters."""
        for _, graph in subgraphs(node):
            self._forget_all(graph)

    def _forget_all(self, graph: Any) -> None:
        made = [*graph.inputs, *(value for inner in graph for value in inner.outputs)]
        for value in made:
            if value not in self.lowering.parameters:
                self.lowering.values.pop(value, None)
                self.lowering.types.pop(value, None)
        for inner in graph:
            self._forget(inner)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _body(self, node: Any, graph: Any, given: Sequence[Typed]) -> list[Typed]:
        """The results of a subgraph with these operands."""
        lowering = self.lowering
        for value, (own, type_) in zip(graph.inputs, given, strict=True):
            lowering.set(value, own, type_)
        lowering.initialisers(graph)
        lowering.nodes(graph)
        lowering.builder.where = lowering.lineage.at(node)
        return [(lowering.values[value], lowering.types.get(value)) for value in graph.outputs]

    def _operand(self, value: Any) -> Typed:
        return self.lowering.values[value], self.lowering.types.get(value)

    def _constant(self, data: Any, name: str) -> Typed:
        array = np.asarray(data)
        value = self.lowering.builder.constant(array.shape, lambda: array, name, integer=True)
        return value, (BOOL if array.dtype == bool else _INT64, array.shape)

    def _known(self, typed: Typed) -> bool:
        """Whether a value is a tensor whose shape is known."""
        return isinstance(typed[0], Value) and typed[0] not in self.lowering.shapeless

    def _chosen(self, condition: Value, one: Typed, other: Typed, what: str) -> Typed:
        """One of two values, as data say."""
        if not (self._known(one) and self._known(other)) or one[0].shape != other[0].shape:
            raise Unexpressed(f"{what} differ in shape, and data decide between them")
        if one[0] is other[0]:
            return one
        out = where(self.lowering.builder, self.lowering.builder.reshape(condition, ()), one[0], other[0])
        return self._like(out, one), one[1]

    def _truth(self, value: Any) -> bool | None:
        """A constant condition; None if data decide."""
        return None if self._read(value) is None else bool(self._read(value))

    def _read(self, value: Any) -> Any:
        """A constant number; None if data decide."""
        if not isinstance(value, Value) or value.kind != "constant" or value.read is None or self.lowering.counts.holds(value):
            return None
        return np.asarray(value.read()).reshape(()).item()

    @staticmethod
    def _like(out: Value, typed: Typed) -> Value:
        if out.kind != "constant":
            dtype = 1 if typed[1] is None else typed[1][0]
            out.integer, out.boolean = dtype not in FLOATING, dtype == BOOL
        return out

    # -- If ------------------------------------------------------------------------------------------------------------

    def _if(self, node: Any) -> list[Typed]:
        condition = self.lowering.values[node.inputs[0]]
        if not isinstance(condition, Value) or condition in self.lowering.shapeless:
            raise Unexpressed("its condition is of unknown shape")
        if self.lowering.counts.holds(condition):
            condition = self.lowering.counts.computed(condition)
        graphs = [node.attributes[name].value for name in ("then_branch", "else_branch")]
        known = self._truth(condition)
        if known is not None:
            return self._body(node, graphs[0 if known else 1], ())
        first, second = self._branches(node, graphs)
        if len(first) != len(second):
            raise Unexpressed("its branches have different numbers of results")
        return [self._either(node, condition, a, b) for a, b in zip(first, second, strict=True)]

    def _either(self, node: Any, condition: Value, one: Typed, other: Typed) -> Typed:
        """A result of one of two branches; where they differ in shape, who reads it knows nothing of it, but both branches are what they are."""
        if self._known(one) and self._known(other) and one[0].shape == other[0].shape:
            return self._chosen(condition, one, other, "the results of its branches")
        self.misfits.add(node)
        cause = "the results of its branches differ in shape, and data decide between them"
        self.lowering.program.unknown.append(("ai.onnx::If", self.lowering.lineage.at(node), cause))
        read = [condition, *flattened([one[0], other[0]])]
        out = self._like(self.lowering.builder.opaque("If", read, (), f"ai.onnx::If: {cause}"), one)
        self.lowering.shapeless.add(out)
        return out, None if one[1] is None else (one[1][0], None)

    def _branches(self, node: Any, graphs: Sequence[Any]) -> list[list[Typed]]:
        """The results of both branches; of one that does not run with these sizes nothing is known, but what it reads."""
        lowering, out, failed = self.lowering, [], {}
        for place, graph in enumerate(graphs):
            mark = len(lowering.program.unknown)
            try:
                with lowering.builder.transaction():
                    out.append(self._body(node, graph, ()))
            except TraceError as error:
                del lowering.program.unknown[mark:]
                self._forget_all(graph)
                failed[place] = error
                out.append([])
        if len(failed) == len(graphs):
            raise failed[0]
        for place, why in failed.items():
            self.misfits.add(node)
            cause = f"its {('then', 'else')[place]} branch does not run with these sizes ({first_line(why)})"
            lowering.program.unknown.append(("ai.onnx::If", lowering.lineage.at(node), cause))
            read = list(dict.fromkeys(lowering.read_in(graphs[place])))
            for value, type_ in out[1 - place]:
                shape = value.shape if isinstance(value, Value) else ()
                out[place].append((self._like(lowering.builder.opaque("If", read, shape, f"ai.onnx::If: {cause}"), (value, type_)), type_))
        return out

    # -- Loop ----------------------------------------------------------------------------------------------------------

    def _loop(self, node: Any) -> tuple[int | None, Typed | None, Typed | None, list[Typed], Any]:
        """How many steps at most, if that is constant, else the value that says it; the first condition; the values carried; the body."""
        count, condition = (None if value is None else self._operand(value) for value in node.inputs[:2])
        steps = None if count is None else self._read(count[0])
        return steps, count, condition, [self._operand(value) for value in node.inputs[2:]], node.attributes["body"].value

    def _unrolled_loop(self, node: Any) -> list[Typed]:
        steps, count, condition, carried, body = self._loop(node)
        if steps is None and count is not None:
            raise Unexpressed("data decide how many steps it has")
        gathered: list[list[Typed]] = [[] for _ in list(body.outputs)[1 + len(carried) :]]
        going = self._constant(True, "condition") if condition is None else condition
        for step in itertools.count() if steps is None else range(max(steps, 0)):  # without a count, the condition ends it
            known = self._truth(going[0])
            if known is None:
                raise Unexpressed("data decide when it ends")
            if not known:
                break
            _check_length(step + 1, body)
            results = self._body(node, body.clone(allow_outer_scope_values=True), [self._constant(step, "step"), going, *carried])
            going, carried = results[0], results[1 : 1 + len(carried)]
            for own, result in zip(gathered, results[1 + len(carried) :], strict=True):
                own.append(result)
        return [*carried, *(self._stacked(own, 0) for own in gathered)]

    def _stacked(self, steps: Sequence[Typed], dim: int) -> Typed:
        """The results of all steps, side by side along a new axis."""
        if not steps or not all(map(self._known, steps)) or len({value.shape for value, _ in steps}) > 1:
            raise Unexpressed("what its steps give has no common shape")
        out = stack(self.lowering.builder, [value for value, _ in steps], dim)
        dtype = 1 if steps[0][1] is None else steps[0][1][0]
        return self._like(out, steps[0]), (dtype, out.shape)

    def _fed_back_loop(self, node: Any) -> list[Typed]:
        steps, count, condition, carried, body = self._loop(node)
        if steps is not None and steps < 1:
            raise Unexpressed("it has no steps")
        builder = self.lowering.builder
        number = builder.opaque("step", [], (), "the number of a step")
        number.integer = True
        going: Typed = self._constant(True, "condition")
        states = self._states(carried, list(body.inputs)[2:], list(body.outputs)[1:], node.op_type)
        results = self._body(node, body, [(number, (_INT64, ())), going, *states])
        conditions = [typed[0] for typed in (condition, results[0]) if typed is not None and self._truth(typed[0]) is None]
        if any(self._truth(typed[0]) is False for typed in (condition, results[0]) if typed is not None):
            raise Unexpressed("its condition is false, and it has no step after the first")
        if steps is None and count is not None:
            conditions.append(builder.elementwise("lt", number, builder.reshape(count[0], ())))
        finals = self._closed(carried, states, results[1 : 1 + len(carried)], conditions)
        return [*finals, *(self._gathered(typed, None if conditions else steps, 0) for typed in results[1 + len(carried) :])]

    # -- what is fed back ----------------------------------------------------------------------------------------------

    def _states(self, carried: Sequence[Typed], inputs: Sequence[Any], outputs: Sequence[Any], what: str) -> list[Typed]:
        """A state for every value carried; a value that every step gives on as it is is itself."""
        out: list[Typed] = []
        for typed, inner, result in zip(carried, inputs, outputs, strict=False):
            if result is inner:
                out.append(typed)
                continue
            if not self._known(typed):
                raise Unexpressed("what it carries is no tensor of known shape")
            state = self.lowering.builder.state(typed[0].shape, f"{what.lower()} state", tied=True)
            out.append((self._like(state, typed), typed[1]))
        return out

    def _closed(self, carried: Sequence[Typed], states: Sequence[Typed], results: Sequence[Typed], conditions: Sequence[Value]) -> list[Typed]:
        """Feed each step's results back; the last step's are the operator's, if the conditions say that there is one."""
        builder, out = self.lowering.builder, []
        for start, state, result in zip(carried, states, results, strict=True):
            if state is start:
                out.append(start)
                continue
            if not self._known(result) or result[0].shape != start[0].shape:
                raise Unexpressed("what it carries changes its shape from step to step")
            for condition in conditions:
                result = self._chosen(condition, result, state, "the values that it carries")
            builder.feedback(state[0], start[0])
            builder.feedback(state[0], result[0])
            out.append(result)
        return out

    def _gathered(self, typed: Typed, steps: int | None, dim: int) -> Typed:
        """What every step gives, side by side along a new axis, in order."""
        if not self._known(typed):
            raise Unexpressed("what its steps give is no tensor of known shape")
        builder, (value, type_) = self.lowering.builder, typed
        dtype = 1 if type_ is None else type_[0]
        if steps is None:
            out = builder.opaque("Loop", [value], (), "as many steps as data say are laid side by side")
            self.lowering.shapeless.add(out)
            return self._like(out, typed), (dtype, None)
        dim %= value.ndim + 1
        one = builder.reshape(value, [*value.shape[:dim], 1, *value.shape[dim:]])
        many = builder.expand(one, [*value.shape[:dim], steps, *value.shape[dim:]])
        out = builder.mix("steps", many, [dim], ordered=True, linear=True)
        return self._like(out, typed), (dtype, out.shape)

    # -- Scan ----------------------------------------------------------------------------------------------------------

    def _scan(self, node: Any) -> tuple[list[Typed], list[tuple[Value, int, bool, Any]], int, Any]:
        """The values carried; what is scanned, each with its axis, whether backwards, and its type; how many steps; the body."""
        if self.lowering.opsets.get("", 1) < 9:
            raise Unexpressed("scans with a batch axis of their own, from before operator set 9")
        operands = [self._operand(value) for value in node.inputs]
        given = {key: attribute.value for key, attribute in node.attributes.items()}
        scanned, count = [], given["num_scan_inputs"]
        axes, backwards = (list(given.get(key, [0] * count)) for key in ("scan_input_axes", "scan_input_directions"))
        for typed, axis, back in zip(operands[len(operands) - count :], axes, backwards, strict=True):
            if not self._known(typed):
                raise Unexpressed("what it scans is of unknown shape")
            scanned.append((typed[0], axis % typed[0].ndim, bool(back), typed[1]))
        lengths = {value.shape[axis] for value, axis, _, _ in scanned}
        if len(lengths) != 1:
            raise Unexpressed("what it scans differs in length")
        return operands[: len(operands) - count], scanned, lengths.pop(), given["body"]

    @staticmethod
    def _output_axes(node: Any, count: int) -> list[tuple[int, bool]]:
        given = {key: list(attribute.value) for key, attribute in node.attributes.items() if key.startswith("scan_output")}
        axes, backwards = (given.get(key, [0] * count) for key in ("scan_output_axes", "scan_output_directions"))
        return [(axis, bool(back)) for axis, back in zip(axes, backwards, strict=True)]

    def _slice(self, value: Value, axis: int, step: int, type_: Any) -> Typed:
        part = self.lowering.builder.select(value, axis, step)
        return self._like(part, (part, type_)), (type_[0], part.shape)

    def _unrolled_scan(self, node: Any) -> list[Typed]:
        carried, scanned, steps, body = self._scan(node)
        if not any(value.parametric for value, *_ in scanned):
            raise Unexpressed("it scans no parameter")
        gathered: list[list[Typed]] = [[] for _ in list(body.outputs)[len(carried) :]]
        for step in range(steps):
            _check_length(step + 1, body)
            slices = [self._slice(value, axis, steps - 1 - step if back else step, type_) for value, axis, back, type_ in scanned]
            results = self._body(node, body.clone(allow_outer_scope_values=True), [*carried, *slices])
            carried = results[: len(carried)]
            for own, result in zip(gathered, results[len(carried) :], strict=True):
                own.append(result)
        places = self._output_axes(node, len(gathered))
        return [*carried, *(self._stacked(own[::-1] if back else own, axis) for own, (axis, back) in zip(gathered, places, strict=True))]

    def _fed_back_scan(self, node: Any) -> list[Typed]:
        carried, scanned, steps, body = self._scan(node)
        slices = []
        for value, axis, _, type_ in scanned:  # steps are in order: their axis is pinned, and nothing depends on it
            ordered = self.lowering.builder.mix("steps", value, [axis], ordered=True, linear=True)
            slices.append(self._slice(ordered, axis, 0, type_))
        states = self._states(carried, list(body.inputs), list(body.outputs), node.op_type)
        results = self._body(node, body, [*states, *slices])
        finals = self._closed(carried, states, results[: len(carried)], ())
        places = self._output_axes(node, len(results) - len(carried))
        return [*finals, *(self._gathered(typed, steps, axis) for typed, (axis, _) in zip(results[len(carried) :], places, strict=True))]


def _check_length(steps: int, body: Any) -> None:
    if steps > MOST_STEPS or steps * len(body) > MOST_NODES:
        raise Unexpressed(f"it has more than {MOST_STEPS} steps, or more than {MOST_NODES} nodes in all of them")
