"""The stages after tracing: lower, type, build the group, emit the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from paramgraph.compiler.certificate import Certificate
from paramgraph.compiler.deferred import DeferredScales
from paramgraph.compiler.diagnose import diagnostics
from paramgraph.compiler.emission import Emitter
from paramgraph.compiler.garbage import no_collections
from paramgraph.compiler.parallel import Branch, Undone, branch_axes, idle_joins, stack_branches
from paramgraph.compiler.program import Program
from paramgraph.compiler.stacking import Stack
from paramgraph.compiler.torch_export import Lowering
from paramgraph.compiler.trace import Trace
from paramgraph.compiler.typing import Typing, give_up, solve, type_operations
from paramgraph.compiler.unstacking import unstacked
from paramgraph.graph import Alias, ParamGraph
from paramgraph.symmetries.group import TensorAction
from paramgraph.symmetries.solution import GroupBuilder
from paramgraph.symmetries.spaces import Unsettled

# How often branches that turn out not to be exchangeable are left out before all are.
ROUNDS = 6
# Where families of spaces do not settle, nothing varies any more over spaces of more parts than this; in the end over none.
PARTS = (None, 4, 0)

Solved = tuple[Typing, GroupBuilder, dict[str, TensorAction]]


class Unpaired(Exception):
    """What depends on spaces that tensors hold several times was found wrong, or cannot be laid out: it is typed without."""


@dataclass
class Lowered:
    """What a front end makes of a network.

    Attributes:
        program: its operations.
        values: parameters and buffers by name, each storage once.
        aliases: names of what are views of those.
        names: all names of the state dict, in order.
        forget: drops what can be computed again.
        source: what edited values can be written back into, if anything.
    """

    program: Program
    values: Mapping[str, torch.Tensor]
    aliases: Mapping[str, Alias]
    names: tuple[str, ...]
    forget: Callable[[], None]
    source: Any = None


@no_collections()
def compile_trace(trace: Trace, name: str | None = None) -> ParamGraph:
    """Lower, type and emit a traced network."""

    def lower() -> Lowered:
        lowering = Lowering(trace.exported, name or trace.name, trace.state)
        program = lowering.run()
        return Lowered(program, lowering.storages.values, lowering.storages.aliases, tuple(trace.state), lowering.forget)

    return _compiled(lower)


@no_collections()
def compile_onnx(model: Any, example_inputs: Any = None, dimensions: Mapping[str, Any] | None = None, name: str | None = None) -> ParamGraph:
    """Read, lower, type and emit an ONNX model: a path, or a `ModelProto`."""
    from paramgraph.compiler.onnx.lowering import lowered
    from paramgraph.compiler.onnx.source import open_model, source_of

    source = source_of(model)
    opened = open_model(source)

    def lower() -> Lowered:
        lowering, program = lowered(opened, name or opened.graph.name or "model", example_inputs, dimensions)
        return Lowered(program, lowering.state, {}, tuple(lowering.state), lowering.forget, source)

    return _compiled(lower)


def _compiled(lower: Callable[[], Lowered]) -> ParamGraph:
    """Type and emit a program, which is lowered anew for each attempt.

    No compilation crashes, and no wrong symmetry gets through: where typing does not settle, is found wrong, or cannot be laid out as a
    graph, the group is trivial, the graph has the parameters alone, and the diagnostics say so.
    """
    try:
        return _without_idle(lower, pairing=True)
    except Unpaired:
        return _without_idle(lower, pairing=False)


def _without_idle(lower: Callable[[], Lowered], pairing: bool) -> ParamGraph:
    """Type and emit a program with those of its branches stacked that can be exchanged."""
    without: frozenset[Branch] = frozenset()
    for _ in range(ROUNDS):
        made = _attempt(lower(), without, pairing)
        if not isinstance(made, frozenset):
            return made
        without |= made
    made = _attempt(lower(), None, pairing)
    assert isinstance(made, ParamGraph)
    return made


def _attempt(lowered: Lowered, without: frozenset[Branch] | None, pairing: bool) -> ParamGraph | frozenset[Branch]:
    """The graph, with all branches stacked but some, or with none; or the branches for which that was of no use.

    Raises:
        Unpaired: see there; only where `pairing` is asked for.
    """
    program = lowered.program
    stacks: list[Stack] = []
    if without is not None:
        try:
            stacks = stack_branches(program, {key: (value.dtype, value.device) for key, value in lowered.values.items()}, without)
        except Undone as error:
            return error.branches
    everything = frozenset((number, None) for stack in stacks for joins in stack.levels for number in joins)
    found = _typed(program, stacks, pairing)
    if isinstance(found, frozenset):
        return found
    typing, builder, actions = found
    sizes = {key: math.prod(program.tensors[key].shape) // len(members) for key, members in program.stacks.items()}
    try:
        emitter = Emitter(program, typing, builder)
        node_sets, edge_sets = emitter.run()
        edge_sets = unstacked(edge_sets, program.stacks, sizes)
    except Exception as error:  # whatever it is, it is a defect here, and none of the user's doing
        if typing.dependencies.partners:
            raise Unpaired from error
        if stacks:
            return everything
        typing, builder, actions = _solved(program, give_up(program, f"the graph of the network could not be laid out: {error!r}"))
        emitter = Emitter(program, typing, builder)
        node_sets, edge_sets = emitter.run()
    for key, elements in emitter.uses.unread.items():
        actions[key] = replace(actions[key], unread=elements)
    said = tuple(diagnostics(program, typing))
    scaling = None if typing.failure else DeferredScales(program, typing.system, emitter.components)
    lowered.forget()
    return ParamGraph(
        name=program.name,
        node_sets=node_sets,
        edge_sets=edge_sets,
        symmetry=builder.group(actions, lowered.aliases, program.stacks, scaling),
        values=lowered.values,
        aliases=lowered.aliases,
        names=lowered.names,
        diagnostics=said,
        source=lowered.source,
    )


def _typed(program: Program, stacks: list[Stack], pairing: bool) -> Solved | frozenset[Branch]:
    """The typed program and its group; or the branches that are of no use.

    Where families of spaces do not settle, or are found wrong, less may vary in the next attempt: groups become smaller, and stay right.

    Raises:
        Unpaired: see there; only where `pairing` is asked for.
    """
    causes: list[str] = []
    for most_parts in PARTS:
        typing: Typing | None = None
        try:
            unsolved = type_operations(program, most_parts)
            idle = idle_joins(unsolved.system, stacks)
            if idle:  # known before the dependencies are solved, which costs most
                return idle
            typing = solve(program, unsolved, pairing)
            solved = _solved(program, typing)
            idle = idle_joins(solved[0].system, stacks)
            if idle:
                return idle
            if solved[0].dependencies.delicate or stacks or causes:  # elsewhere types are plain products
                Certificate(program, solved[1], branch_axes(stacks)).check()
        except (Unsettled, RecursionError) as error:
            if typing is not None and typing.dependencies.partners:
                raise Unpaired from error
            if stacks:
                return frozenset((number, None) for stack in stacks for joins in stack.levels for number in joins)
            causes.append(str(error))
            continue
        if causes:
            which = f"a space of more than {most_parts} parts" if most_parts else "the parts of another space"
            solved[0].coarser = f"nothing is taken to vary over {which}, and the group may be too small: {causes[-1]}"
        elif not pairing:
            solved[0].coarser = "nothing is taken to vary over a space that another axis of its tensor holds, too, and the group may be too small"
        return solved
    return _solved(program, give_up(program, f"the typing of the network did not settle: {causes[0]}"))


def _solved(program: Program, typing: Typing) -> Solved:
    """The group's spaces and factors, and how each tensor is permuted."""
    builder = GroupBuilder(typing.dependencies)
    # Nothing of a tensor without elements moves; its empty axes are lost where it is concatenated.
    actions = {key: builder.action(value.axes) if 0 not in value.shape else TensorAction(tuple(value.shape), ())
               for key, value in program.tensors.items()}
    builder.close()
    return typing, builder, actions
