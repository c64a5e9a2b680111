"""`verify`: random elements of each factor and of the whole group leave the function unchanged, and whatever is outside changes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from paramgraph.compiler.onnx.source import is_onnx
from paramgraph.compiler.torch_export import Lowering
from paramgraph.compiler.trace import Trace, trace
from paramgraph.errors import GroupError
from paramgraph.graph import ParamGraph, check_state_dict
from paramgraph.verification.checks import Checks
from paramgraph.verification.execute import Execution
from paramgraph.verification.randomise import Randomiser
from paramgraph.verification.report import Report

# Relative deviation that counts as unchanged; rounding errors alone usually amount to 1e-15.
TOLERANCE = 1e-10
# How many tensors `leave_one_out="sample"` leaves out, one at a time.
SAMPLE = 16
# Factors are tested alone up to this many; more are tested in this many bundles.
BUNDLES = 24

Progress = Callable[[int, int, str], None]


def verify(
    graph: ParamGraph,
    model: Any,
    example_inputs: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    elements: int = 3,
    inputs: int = 3,
    seed: int = 0,
    leave_one_out: Literal["sample", "all"] | int = "sample",
    bundles: int = BUNDLES,
    tolerance: float = TOLERANCE,
    maximality: bool = False,
    progress: Progress | None = None,
    dimensions: Mapping[str, Any] | None = None,
    traced: Trace | None = None,
) -> Report:
    """Check a graph's symmetry group against its network, numerically.

    The network's exported graph is run in float64, with casts to lower precisions rewritten, under random parameters, buffers and inputs.
    Checked: every factor alone (where there are more than `bundles`, in that many bundles of neighbours; `report.factors` says how many
    were moved together) and the whole group leave every output unchanged; every element moves all tensors that it claims to move;
    composition, inverse and identity are those of a group, and tied parameters stay tied; leaving a single tensor out of a permutation
    changes the outputs, and so do permutations outside the group. In training mode, dropout is taken as the identity, and new values of
    buffers are outputs that must be permuted as the buffers are.

    Args:
        graph: the compiled network.
        model: the network: whatever `paramgraph.compile` takes. Networks on the meta device are run with random values on the CPU.
        example_inputs: as for `paramgraph.compile`. Random inputs have their shapes, ranges and kinds.
        kwargs: keyword arguments beside positional ones.
        elements: random elements per factor and input.
        inputs: random inputs; parameters are drawn anew for each.
        seed: of all random numbers.
        leave_one_out: how many tensors to leave out of the action, one at a time: `"sample"` for 16, `"all"`, or a number.
        bundles: largest number of tests per element and input: a bundle that fails is taken apart.
        tolerance: largest relative deviation that counts as unchanged.
        maximality: also count the continuous symmetries at a random point, and how many of them the group declares: `report.maximality`.
            For networks of up to a few thousand parameters whose functions are analytic; piecewise linear ones may have more than any group.
        progress: called as `progress(done, total, what)`.
        dimensions: sizes of an ONNX model's open dimensions, as for `paramgraph.compile`.
        traced: the network's trace on these inputs, if there is one: it is not traced again.

    Beside the network it takes 8 bytes for each parameter, and as much again for those that matrices and turns move together; then what the
    largest tensors take in an operation, and up to 1 GiB for values that later runs start from.
    ONNX models are run by onnxruntime: in float64 where it has kernels, else in float32, where at most 1e-4 and at most ten times what
    rounding errors amount to counts as unchanged; the report's notes say which.

    Raises:
        TraceError: the network cannot be traced, or needs values that are on the meta device.
        StateDictError: the graph is not this network's.
        GroupError: there is nothing to draw, or the network is too large for counting its continuous symmetries.
    """
    if min(elements, inputs, bundles) < 1:
        raise GroupError(f"expected at least one element, input and bundle, got elements={elements}, inputs={inputs}, bundles={bundles}.")
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    if is_onnx(model):
        from paramgraph.verification.verify_onnx import prepared

        onnx_checks = prepared(graph, model, example_inputs, dimensions, tolerance, generator, bundles, progress, elements, inputs)
        onnx_checks.run(None, _count(leave_one_out))
        onnx_checks.report.seconds = time.perf_counter() - start
        return onnx_checks.report
    traced = traced or trace(model, example_inputs, kwargs)
    check_state_dict(graph, traced.state)
    program = Lowering(traced.exported, traced.name, traced.state).run()
    report = Report(graph.name, tolerance, elements=elements, inputs=inputs)
    checks = Checks(graph, report, Execution(traced.exported), Randomiser(program, traced.state), _leaves(traced, example_inputs, kwargs),
                    generator, bundles, progress)
    del program  # it holds constants
    checks.run(model if isinstance(model, nn.Module) else None, _count(leave_one_out))
    if maximality:
        checks.count()
    report.seconds = time.perf_counter() - start
    return report


def _count(leave_one_out: str | int) -> int | None:
    if leave_one_out == "all":
        return None
    if leave_one_out == "sample":
        return SAMPLE
    if isinstance(leave_one_out, int):
        return leave_one_out
    raise GroupError(f"leave_one_out: expected 'sample', 'all' or a number, got {leave_one_out!r}.")


def _leaves(traced: Trace, example_inputs: Any, kwargs: Mapping[str, Any] | None) -> list[Any]:
    """The example's flat leaves in the order of the exported graph, with values where the caller's have them."""
    args, keywords = traced.arguments
    if isinstance(example_inputs, Mapping):
        args, keywords = (), {**example_inputs, **(kwargs or {})}
    elif example_inputs is not None:
        args = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
        keywords = dict(kwargs or {})
    elif kwargs:
        keywords = dict(kwargs)
    order = _keyword_order(traced)
    keywords = {name: keywords[name] for name in (*(n for n in order if n in keywords), *(n for n in keywords if n not in order))}
    return tree_flatten((tuple(args), keywords))[0]


def _keyword_order(traced: Trace) -> list[str]:
    """Keyword arguments as the exported graph orders them."""
    example = traced.exported.example_inputs
    return list(example[1]) if example else []
