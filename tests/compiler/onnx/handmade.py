"""ONNX models written by hand, node by node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import paramgraph as pg
from tests.support.automorphisms import log_automorphisms


def weights(**shapes: Sequence[int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def model(nodes: list[Any], inputs: dict[str, Sequence[Any]], tensors: dict[str, np.ndarray], outputs: Sequence[str] = ("y",),
          opset: int = 21, domains: Sequence[str] = ()) -> Any:
    """A checked model."""
    import onnx

    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "handmade",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape)) for name, shape in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [onnx.numpy_helper.from_array(data, name) for name, data in tensors.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def node(name: str, inputs: str, output: str, domain: str = "", **attributes: Any) -> Any:
    """A node; operands and results are names separated by spaces, `-` for one that is left out."""
    from onnx import helper

    return helper.make_node(name, ["" if i == "-" else i for i in inputs.split()], output.split(), domain=domain, **attributes)


def check(message: Any, log_order: float, count: Callable[[pg.ParamGraph], float] = log_automorphisms, inputs: int = 1) -> None:
    """The group is as derived by hand, the graph has as many automorphisms, and onnxruntime finds the function unchanged.

    Args:
        message: the model.
        log_order: ln of the order, by hand.
        count: counts the graph's automorphisms.
        inputs: how many inputs are tried.
    """
    graph = pg.compile(message)
    assert [str(d) for d in graph.diagnostics if d.kind == "unknown-operation"] == []
    assert graph.symmetry.log_order == pytest.approx(log_order)
    assert count(graph) == pytest.approx(log_order)
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    report = pg.verify(graph, message, elements=2, inputs=inputs)
    assert report.passed, str(report)
    assert report.outside_changed
