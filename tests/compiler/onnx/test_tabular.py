"""Networks as converters of scikit-learn write them: labels and maps behind the classes, numbers in attributes of `ai.onnx.ml`."""

from __future__ import annotations

from math import lgamma
from typing import Any

import numpy as np
import pytest

import paramgraph as pg
from paramgraph.compiler.onnx.operands import plain
from paramgraph.verification.onnx_execution import _tensor
from tests.compiler.onnx.handmade import check, model, node, weights

pytest.importorskip("onnx_ir", reason="the extra `onnx` is not installed")
ML = "ai.onnx.ml"


def classifier(labels: np.ndarray) -> Any:
    """A hidden layer of five units; of the classes, the label of the most probable one, and a map to all probabilities."""
    import onnx

    kind = {"classlabels_strings" if labels.dtype.kind == "U" else "classlabels_int64s": labels.tolist()}
    nodes = [
        node("Scaler", "x", "scaled", ML, offset=[0.5, 0.1, 0.2, 0.3], scale=[1.0, 2.0, 3.0, 0.5]),
        node("MatMul", "scaled W", "xW"), node("Add", "xW b", "pre"), node("Relu", "pre", "h"),
        node("MatMul", "h V", "hV"), node("Add", "hV c", "logits"), node("Softmax", "logits", "p", axis=-1),
        node("ArgMax", "p", "best", axis=1), node("ArrayFeatureExtractor", "labels best", "picked", ML), node("Reshape", "picked flat", "label"),
        node("ZipMap", "p", "map", ML, **kind),
    ]  # fmt: skip
    tensors = {**weights(W=(4, 5), b=(1, 5), V=(5, 3), c=(1, 3)), "labels": labels.astype(object) if labels.dtype.kind == "U" else labels,
               "flat": np.array([-1])}
    made = model(nodes, {"x": (6, 4)}, tensors, ["label", "map"], domains=[ML])
    kinds = onnx.TensorProto.STRING if labels.dtype.kind == "U" else onnx.TensorProto.INT64
    made.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("label", kinds, [6]))
    key = made.graph.output[1].type.sequence_type.elem_type.map_type
    key.key_type = kinds
    key.value_type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return made


@pytest.mark.parametrize("labels", [np.array([7, 5, 9]), np.array(["a", "b", "c"])], ids=["numbers", "strings"])
def test_a_classifier_leaves_its_hidden_units_free(labels: np.ndarray) -> None:
    check(classifier(labels), lgamma(6))


def test_probabilities_in_maps_are_compared() -> None:
    """The label alone says too little: it stays the same where only the probabilities change."""
    rows = [{"a": 0.25, "b": 0.75}, {"a": 1.0, "b": 0.0}]
    found = _tensor(rows)
    assert found is not None and found.tolist() == [[0.25, 0.75], [1.0, 0.0]]
    assert _tensor([*rows, {"a": 1.0}]) is None
    assert _tensor([{"a": "x"}]) is None and _tensor([np.ones(2)]) is None and _tensor([]) is None


def test_numbers_in_attributes_are_no_parameters() -> None:
    """A linear model behind a hidden layer: what it reads is pinned, and the diagnostics say why."""
    nodes = [node("MatMul", "x W", "h"), node("LinearRegressor", "h", "y", ML, coefficients=[1.0, 2.0, 3.0], intercepts=[0.5], targets=1)]
    graph = pg.compile(model(nodes, {"x": (2, 4)}, weights(W=(4, 3)), domains=[ML]))
    assert graph.symmetry.log_order == 0
    (said,) = [d for d in graph.diagnostics if d.kind == "unknown-operation"]
    assert said.subject == "ai.onnx.ml::LinearRegressor" and "attributes" in said.cause


def test_strings_of_two_tables_are_the_same_only_if_they_read_the_same() -> None:
    ours, theirs = plain(np.asarray(["cat", "dog"])), plain(np.asarray([b"dog", b"ant", b"cat"], dtype=object))  # the ant is before the others
    assert ours.tolist() == [theirs[2], theirs[0]]
    assert len({*ours.tolist(), *theirs.tolist()}) == 3
