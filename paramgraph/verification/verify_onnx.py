"""`verify` for ONNX models: the same checks, with onnxruntime running the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from paramgraph.compiler.onnx.lowering import OnnxLowering, lowered
from paramgraph.compiler.onnx.source import open_model, source_of
from paramgraph.errors import TraceError
from paramgraph.graph import ParamGraph, check_state_dict
from paramgraph.verification.checks import Checks
from paramgraph.verification.onnx_execution import OnnxExecution, example_inputs
from paramgraph.verification.randomise import Randomiser
from paramgraph.verification.report import Report

# In float32: relative deviation that counts as unchanged, and how much of it rounding errors alone may amount to.
TOLERANCE_32 = 1e-4
NOISE_32 = 10


def prepared(graph: ParamGraph, model: Any, given: Any, dimensions: Mapping[str, Any] | None, tolerance: float, generator: torch.Generator,
             bundles: int, progress: Callable[[int, int, str], None] | None, elements: int, inputs: int) -> Checks:
    """The checks of an ONNX model, ready to run.

    Args:
        graph: the compiled model.
        model: a path or a `ModelProto`.
        given: example inputs, or None.
        dimensions: as for `paramgraph.compile`.
        tolerance: in float64; in float32 it is that of float32, if larger.

    Raises:
        StateDictError: the graph is not this model's.
        TraceError: onnxruntime does not load or run the model.
    """
    source = source_of(model)
    opened = open_model(source)
    lowering, program = lowered(opened, graph.name, given, dimensions)
    check_state_dict(graph, lowering.state)
    execution = OnnxExecution(source, list(lowering.state), lowering.inputs)
    dtypes = {value.name: int(value.dtype) for value in opened.graph.inputs}
    examples = [torch.as_tensor(np.asarray(v)) for v in _given(given, lowering)] or example_inputs(lowering.inputs, dtypes)
    if execution.precision == "float64" and not _is_confirmed(execution, source, lowering, examples):
        execution = OnnxExecution(source, list(lowering.state), lowering.inputs, ["float32"])
        execution.why = "its kernels in float64 give other results"
    if given is None:
        examples = _defined(execution, lowering, examples)
    narrow = execution.precision == "float32"
    report = Report(graph.name, max(tolerance, TOLERANCE_32) if narrow else tolerance, elements=elements, inputs=inputs)
    report.notes.append(f"onnxruntime ran the model in {execution.precision}{f': {execution.why}' if execution.why else ''}")
    checks = Checks(graph, report, execution, Randomiser(program, lowering.state), examples, generator, bundles, progress)  # type: ignore[arg-type]
    if narrow:
        checks.precision, checks.noise, checks.least_change = torch.float32, NOISE_32, TOLERANCE_32
    return checks


def _defined(execution: OnnxExecution, lowering: OnnxLowering, examples: list[Any]) -> list[Any]:
    """Examples for which the outputs are numbers: of masks, some say what to keep, others what to leave out, and all must not be; no length is 0."""
    if not _has_nan(execution, lowering, examples):
        return examples
    unmasked, long = ([made(x) for x in examples] for made in (_unmasked, _positive))
    for other in (unmasked, long, [_positive(x) for x in unmasked]):
        with suppress(TraceError):  # not every integer is one that the model takes
            if not _has_nan(execution, lowering, other):
                return other
    return examples


def _unmasked(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(x) if x.dtype == torch.bool else x


def _positive(x: torch.Tensor) -> torch.Tensor:
    """Integers from 1 to 2 instead of 0 and 1."""
    return x if x.dtype == torch.bool or x.is_floating_point() else x + 1


def _has_nan(execution: OnnxExecution, lowering: OnnxLowering, examples: list[Any]) -> bool:
    values = execution.run(lowering.state, examples).values
    return any(value is not None and value.is_floating_point() and bool(value.isnan().any()) for value in values)


def _is_confirmed(execution: OnnxExecution, source: Any, lowering: OnnxLowering, examples: list[Any]) -> bool:
    """Whether the model gives the same results in float32, which runtimes are tested in, as far as it runs there."""
    try:
        narrow = OnnxExecution(source, list(lowering.state), lowering.inputs, ["float32"])
        return execution.agrees(narrow, lowering.state, examples)
    except TraceError:
        return True


def _given(given: Any, lowering: OnnxLowering) -> list[Any]:
    if given is None:
        return []
    if isinstance(given, Mapping):
        return [given[name] for name in lowering.inputs]
    return list(given) if isinstance(given, (list, tuple)) else [given]
