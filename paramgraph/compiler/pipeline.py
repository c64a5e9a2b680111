"""The stages after tracing: lower, type, build the group, emit the graph."""

from __future__ import annotations

import math
from dataclasses import replace

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
from paramgraph.compiler.typing import Typing, give_up, type_program
from paramgraph.compiler.unstacking import unstacked
from paramgraph.graph import ParamGraph
from paramgraph.symmetries.group import TensorAction
from paramgraph.symmetries.solution import GroupBuilder
from paramgraph.symmetries.spaces import Unsettled

# How often branches that turn out not to be exchangeable are left out before all are.
ROUNDS = 6
# Where families of spaces do not settle, nothing varies any more over spaces of more parts than this; in the end over none.
PARTS = (None, 4, 0)

Solved = tuple[Typing, GroupBuilder, dict[str, TensorAction]]


@no_collections()
def compile_trace(trace: Trace, name: str | None = None) -> ParamGraph:
    """Lower, type and emit a traced network.

    No compilation crashes, and no wrong symmetry gets through: where typing does not settle, is found wrong, or cannot be laid out as a
    graph, the group is trivial, the graph has the parameters alone, and the diagnostics say so.
    """
    without: frozenset[Branch] = frozenset()
    for _ in range(ROUNDS):
        made = _compiled(trace, name, without)
        if not isinstance(made, frozenset):
            return made
        without |= made
    made = _compiled(trace, name, None)
    assert isinstance(made, ParamGraph)
    return made


def _compiled(trace: Trace, name: str | None, without: frozenset[Branch] | None) -> ParamGraph | frozenset[Branch]:
    """The graph, with all branches stacked but some, or with none; or the branches for which that was of no use."""
    lowering = Lowering(trace.exported, name or trace.name, trace.state)
    program = lowering.run()
    storages = lowering.storages
    stacks: list[Stack] = []
    if without is not None:
        try:
            stacks = stack_branches(program, {key: (value.dtype, value.device) for key, value in storages.values.items()}, without)
        except Undone as error:
            return error.branches
    everything = frozenset((number, None) for stack in stacks for joins in stack.levels for number in joins)
    found = _typed(program, stacks)
    if isinstance(found, frozenset):
        return found
    typing, builder, actions = found
    sizes = {key: math.prod(program.tensors[key].shape) // len(members) for key, members in program.stacks.items()}
    try:
        emitter = Emitter(program, typing, builder)
        node_sets, edge_sets = emitter.run()
        edge_sets = unstacked(edge_sets, program.stacks, sizes)
    except Exception as error:  # whatever it is, it is a defect here, and none of the user's doing
        if stacks:
            return everything
        typing, builder, actions = _solved(program, give_up(program, f"the graph of the network could not be laid out: {error!r}"))
        emitter = Emitter(program, typing, builder)
        node_sets, edge_sets = emitter.run()
    for key, elements in emitter.uses.unread.items():
        actions[key] = replace(actions[key], unread=elements)
    said = tuple(diagnostics(program, typing))
    scaling = None if typing.failure else DeferredScales(program, typing.system, emitter.components)
    lowering.forget()
    return ParamGraph(
        name=program.name,
        node_sets=node_sets,
        edge_sets=edge_sets,
        symmetry=builder.group(actions, storages.aliases, program.stacks, scaling),
        values=storages.values,
        aliases=storages.aliases,
        names=tuple(trace.state),
        diagnostics=said,
    )


def _typed(program: Program, stacks: list[Stack]) -> Solved | frozenset[Branch]:
    """The typed program and its group; or the branches that are of no use.

    Where families of spaces do not settle, or are found wrong, less may vary in the next attempt: groups become smaller, and stay right.
    """
    causes: list[str] = []
    for most_parts in PARTS:
        try:
            solved = _solved(program, type_program(program, most_parts))
            idle = idle_joins(solved[0], stacks)
            if idle:
                return idle
            if solved[0].dependencies.delicate or stacks or causes:  # elsewhere types are plain products
                Certificate(program, solved[1], branch_axes(stacks)).check()
        except (Unsettled, RecursionError) as error:
            if stacks:
                return frozenset((number, None) for stack in stacks for joins in stack.levels for number in joins)
            causes.append(str(error))
            continue
        if causes:
            which = f"a space of more than {most_parts} parts" if most_parts else "the parts of another space"
            solved[0].coarser = f"nothing is taken to vary over {which}, and the group may be too small: {causes[-1]}"
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
