"""The stages after tracing: lower, type, build the group, emit the graph."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from paramgraph.compiler.certificate import Certificate
from paramgraph.compiler.diagnose import diagnostics
from paramgraph.compiler.emission import Emitter
from paramgraph.compiler.program import Program
from paramgraph.compiler.torch_export import Lowering
from paramgraph.compiler.trace import Trace
from paramgraph.compiler.typing import Typing, give_up, type_program
from paramgraph.graph import Alias, ParamGraph
from paramgraph.symmetries.group import TensorAction
from paramgraph.symmetries.solution import GroupBuilder
from paramgraph.symmetries.spaces import Unsettled


@contextmanager
def _no_collections() -> Iterator[None]:
    """Cyclic garbage collection waits: each pass would walk the tracer's many objects, and compiling leaves few cycles behind."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_no_collections()
def compile_trace(trace: Trace, name: str | None = None) -> ParamGraph:
    """Lower, type and emit a traced network."""
    lowering = Lowering(trace.exported, name or trace.name, trace.state)
    program = lowering.run()
    return _compiled(program, lowering.storages.values, lowering.storages.aliases, tuple(trace.state))


@_no_collections()
def compile_onnx(model: Any, example_inputs: Any = None, dimensions: Mapping[str, Any] | None = None, name: str | None = None) -> ParamGraph:
    """Read, lower, type and emit an ONNX model: a path, or a `ModelProto`."""
    from paramgraph.compiler.onnx.lowering import OnnxLowering
    from paramgraph.compiler.onnx.source import open_model, source_of

    source = source_of(model)
    opened = open_model(source)
    lowering = OnnxLowering(opened, name or opened.graph.name or "model", example_inputs, dimensions)
    program = lowering.run()
    return _compiled(program, lowering.state, {}, tuple(lowering.state), source)


def _compiled(program: Program, values: Mapping[str, torch.Tensor], aliases: Mapping[str, Alias], names: tuple[str, ...],
              source: Any = None) -> ParamGraph:
    """Type and emit a program.

    No compilation crashes, and no wrong symmetry gets through: where typing does not settle, is found wrong, or cannot be laid out as a
    graph, the group is trivial, the graph has the parameters alone, and the diagnostics say so.
    """
    try:
        typing, builder, actions = _solved(program, type_program(program))
        if typing.dependencies.delicate:  # elsewhere types are plain products
            Certificate(program, builder).check()
    except (Unsettled, RecursionError) as error:
        typing, builder, actions = _solved(program, give_up(program, f"the typing of the network did not settle: {error}"))
    try:
        emitter = Emitter(program, typing, builder)
        node_sets, edge_sets = emitter.run()
    except Exception as error:  # whatever it is, it is a defect here, and none of the user's doing
        typing, builder, actions = _solved(program, give_up(program, f"the graph of the network could not be laid out: {error!r}"))
        emitter = Emitter(program, typing, builder)
        node_sets, edge_sets = emitter.run()
    for key, elements in emitter.uses.unread.items():
        actions[key] = replace(actions[key], unread=elements)
    return ParamGraph(
        name=program.name,
        node_sets=node_sets,
        edge_sets=edge_sets,
        symmetry=builder.group(actions, aliases),
        values=values,
        aliases=aliases,
        names=names,
        diagnostics=tuple(diagnostics(program, typing)),
        source=source,
    )


def _solved(program: Program, typing: Typing) -> tuple[Typing, GroupBuilder, dict[str, TensorAction]]:
    """The group's spaces and factors, and how each tensor is permuted."""
    builder = GroupBuilder(typing.dependencies)
    actions = {key: builder.action(value.axes) for key, value in program.tensors.items()}
    builder.close()
    return typing, builder, actions
