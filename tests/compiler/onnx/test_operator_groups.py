"""Soundness of every operator's rule, with every attribute: ONNX's own examples, where all that is not the operator leaves its axes free.

The operator's operands are parameters times a number that is given, and its results times parameters are added up: whatever the rule lets move,
moves. Of each operator, one example of each set of attributes is taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import paramgraph as pg
from paramgraph.errors import FileFormatError, TraceError

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
FLOAT, DOUBLE = 1, 11
# What is drawn anew in every run; running statistics, which onnxruntime keeps from run to run; halves, which are rounded.
LEFT_OUT = ("bernoulli", "random", "dropout", "training_mode", "momentum", "adagrad", "adam", "fp16", "bfloat16", "float16", "image_decoder")


def examples() -> list[Any]:
    """One example of each operator, attributes and operands."""
    found: dict[Any, Any] = {}
    for case in onnx.backend.test.case.node.collect_testcases(None):
        if len(case.model.graph.node) == 1 and case.data_sets and not any(word in case.name for word in LEFT_OUT):
            (node,) = case.model.graph.node
            attributes = tuple(sorted((a.name, a.s) for a in node.attribute))  # which, and the words among their values
            found.setdefault((node.op_type, attributes, len(node.input)), case)
    return list(found.values())


def surrounded(case: Any) -> tuple[Any, dict[str, np.ndarray]] | None:
    """A network of the operator alone, and what it is fed; None where it is not of tensors of numbers."""
    helper, from_array = onnx.helper, onnx.numpy_helper.from_array
    inner, rng = case.model.graph, np.random.default_rng(0)
    given, results = case.data_sets[0]
    nodes, tensors, feeds, outputs = [], [], {}, []
    for value, data in zip(inner.input, given, strict=False):
        kind = value.type.tensor_type.elem_type
        if not isinstance(data, np.ndarray) or data.dtype.kind not in "fiub" or not value.type.HasField("tensor_type"):
            return None
        if kind in (FLOAT, DOUBLE) and data.size > 1:  # no two numbers are equal
            data = (data * (1 + 0.01 * rng.standard_normal(data.shape))).astype(data.dtype)
            feeds[f"z{kind}"] = np.asarray([1.17], data.dtype)
            nodes.append(helper.make_node("Mul", [f"z{kind}", f"w_{value.name}"], [value.name]))
            tensors.append(from_array(data, f"w_{value.name}"))
        elif from_array(data).data_type == kind:
            tensors.append(from_array(data, value.name))
        else:
            return None
    nodes += [*inner.node]
    for number, (value, data) in enumerate(zip(inner.output, results, strict=True)):
        if isinstance(data, np.ndarray) and data.dtype.kind in "fiub" and data.size:
            tensors.append(from_array(rng.standard_normal(data.shape or (1,)).astype(np.float32), f"r{number}"))
            nodes += [helper.make_node("Cast", [value.name], [f"c{number}"], to=FLOAT),
                      helper.make_node("Mul", [f"c{number}", f"r{number}"], [f"m{number}"]),
                      helper.make_node("ReduceSum", [f"m{number}"], [f"y{number}"], keepdims=0)]
            outputs.append(helper.make_tensor_value_info(f"y{number}", FLOAT, []))
    if not outputs or not feeds:
        return None
    inputs = [helper.make_tensor_value_info(name, int(name[1:]), [1]) for name in feeds]
    graph = helper.make_graph(nodes, case.name, inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=case.model.opset_import, functions=case.model.functions, ir_version=case.model.ir_version), feeds


def ran(model: Any, feeds: dict[str, np.ndarray]) -> list[Any]:
    """By onnxruntime, or by ONNX's reference where it has no such operator."""
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        results = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)
    except Exception:
        from onnx.reference import ReferenceEvaluator

        results = ReferenceEvaluator(model).run(None, feeds)
    return [np.asarray(result, np.float64) for result in results]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_group_of_every_operator_leaves_its_function_unchanged(tmp_path: Path) -> None:
    pytest.importorskip("onnx.backend.test.case.node")
    wrong, tried = [], 0
    for case in examples():
        made = surrounded(case)
        if made is None:
            continue
        model, feeds = made
        try:
            graph = pg.compile(model)
        except (FileFormatError, TraceError):
            continue
        if not graph.symmetry.factors:
            continue
        try:
            before = ran(model, feeds)
        except Exception:  # the operator as the example has it runs in neither
            continue
        tried += 1
        moved = graph.symmetry.move(0).act(graph.symmetry.sample(0).act(graph.state_dict()))
        after = ran(onnx.load(graph.with_values(moved).to_onnx(tmp_path / "moved.onnx")), feeds)
        off = max(float(np.abs(a - b) / (1 + np.abs(a))) for a, b in zip(before, after, strict=True) if np.isfinite(a))
        if not off < 2e-3:
            wrong.append((case.name, off, [factor.name for factor in graph.symmetry.factors]))
    assert wrong == []
    assert tried > 150
