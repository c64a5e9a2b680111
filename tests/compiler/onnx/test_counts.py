"""Sizes that data decide: what a mask keeps is typed; the number of elements that it keeps is no constant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import paramgraph as pg
from tests.compiler.onnx.handmade import model, node, weights
from tests.support.automorphisms import log_automorphisms
from tests.support.cases import lam

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
helper = onnx.helper
INT64 = 7

# A hidden layer of six units for each of 5 × 7 tokens, and a mask over tokens.
HIDDEN = [node("MatMul", "x a", "l"), node("Tanh", "l", "h"), node("Gather", "x zero", "first", axis=2), node("Greater", "first half", "mask")]
NUMBERS = {"zero": np.array(0), "half": np.array(0.0, np.float32), "one": np.array([1]), "minus": np.array([-1]),
           "two": np.array(2.0, np.float32), "rows": np.array([5, 7, 6]), "start": np.array([0])}


def places(mask: str, name: str) -> list[Any]:
    """Where a mask is true, as exporters write it."""
    return [node("NonZero", mask, f"{name}_nz"), node("Transpose", f"{name}_nz", name, perm=[1, 0])]


def masked(*nodes: Any, **shapes: Any) -> Any:
    return model([*HIDDEN, *nodes], {"x": (5, 7, 4)}, weights(a=(4, 6), **(shapes or {"c": (6, 3)})) | NUMBERS)


KEPT = [*places("mask", "at"), node("GatherND", "h at", "kept")]
WIDE = [node("Unsqueeze", "mask minus", "m1"), node("Expand", "m1 rows", "wide"), *places("wide", "everywhere")]
READ = node("MatMul", "kept c", "y")
COUNT = [node("Shape", "kept", "shape"), node("Gather", "shape zero", "count")]
MODELS = {
    "rows that a mask keeps": masked(*KEPT, READ),
    "their mean": masked(*KEPT, node("ReduceMean", "kept start", "mean", keepdims=0), node("MatMul", "mean c", "y")),
    # The size as a number: a mean as exporters write it out.
    "their mean by their number": masked(*KEPT, *COUNT, node("Cast", "count", "n", to=1), node("ReduceSum", "kept start", "sum", keepdims=0),
                                         node("Div", "sum n", "mean"), node("MatMul", "mean c", "y")),
    "compressed": masked(node("Gather", "mask zero", "row", axis=0), node("Compress", "h row", "kept", axis=1), READ),
    "places taken apart": masked(*places("mask", "at"), node("Gather", "at zero", "i", axis=1), node("Gather", "h i", "kept"), READ),
    "one number written": masked(*WIDE, node("Shape", "everywhere", "shape"), node("Slice", "shape start one", "count"),
                                 node("Expand", "half count", "zeros"), node("ScatterND", "h everywhere zeros", "kept"), READ),
    "rows written": masked(*KEPT, node("Mul", "kept two", "more"), node("Reshape", "more minus", "flat"), *WIDE,
                           node("ScatterND", "h everywhere flat", "w"), node("MatMul", "w c", "y")),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_mask_over_tokens_leaves_units_free(name: str) -> None:
    message = MODELS[name]
    graph = pg.compile(message)
    assert [str(d) for d in graph.diagnostics if d.kind == "unknown-operation"] == []
    assert graph.symmetry.log_order == pytest.approx(lam(6))
    assert graph.symmetry.num_signs == 6
    assert log_automorphisms(graph) == pytest.approx(lam(6))
    report = pg.verify(graph, message, elements=2, inputs=2)
    assert report.passed, str(report)
    assert report.outside_changed


def test_a_mask_over_units_pins_them() -> None:
    """The kept elements are the output, in the units' order."""
    nodes = [node("MatMul", "x a", "h"), node("Greater", "h half", "mask"), *places("mask", "at"), node("GatherND", "h at", "y")]
    message = model(nodes, {"x": (5, 4)}, weights(a=(4, 6)) | NUMBERS)
    graph = pg.compile(message)
    assert graph.symmetry.log_order == 0
    assert pg.verify(graph, message, elements=2, inputs=2).passed


def branch(output: str, *nodes: Any) -> Any:
    return helper.make_graph(list(nodes), output, [], [helper.make_empty_tensor_value_info(output)])


def test_a_number_of_elements_is_no_constant() -> None:
    """Whichever branch the number that stands for it would take, both count: one of them multiplies the units by a parameter."""

    def choosing(more_than: int) -> Any:
        count = [*COUNT, node("Greater", "count limit", "flag")]
        choice = node("If", "flag", "r", then_branch=branch("t", node("Mul", "h table", "t")), else_branch=branch("e", node("Sin", "h", "e")))
        tensors = weights(a=(4, 6), c=(6, 3), table=(6,)) | NUMBERS | {"limit": np.array(more_than)}
        return model([*HIDDEN, *KEPT, *count, choice, node("MatMul", "r c", "y")], {"x": (5, 7, 4)}, tensors)

    for limit in (3, 100000):
        message = choosing(limit)
        graph = pg.compile(message)
        moved = {name for number in range(len(graph.symmetry.factors)) for name in graph.symmetry.moved_by(number)}
        assert pg.verify(graph, message, elements=2, inputs=2).passed
        assert "table" in moved
        assert graph.symmetry.num_signs == 6


def test_a_mask_that_decides_a_number_alone_is_asked() -> None:
    """The output is how often the hidden layer is above one: nothing of it may be scaled, and nothing else tells so."""
    nodes = [node("MatMul", "x a", "l"), node("Relu", "l", "h"), node("Greater", "h two", "mask"), node("NonZero", "mask", "nz"),
             node("Shape", "nz", "shape"), node("Slice", "shape one two_", "count"), node("Expand", "unit count", "ones"),
             node("ReduceSum", "ones", "y", keepdims=0)]
    extra = {"two_": np.array([2]), "unit": np.array(1, np.float32)}
    message = model(nodes, {"x": (5, 4)}, weights(a=(4, 6)) | NUMBERS | extra)
    graph = pg.compile(message)
    assert graph.symmetry.dimension == 0
    assert graph.symmetry.num_signs == 0
    assert pg.verify(graph, message, elements=2, inputs=2).passed


def test_sizes_that_do_not_fit_as_numbers_pin() -> None:
    """Whether a number of rows is even, data say."""
    message = masked(*KEPT, node("Reshape", "kept pairs", "p"), node("MatMul", "p c", "y"), c=(12, 3))
    message.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 12]), "pairs"))
    graph = pg.compile(message)
    assert graph.symmetry.log_order == 0
    assert [d.subject for d in graph.diagnostics if d.kind == "unknown-operation"] == ["ai.onnx::Reshape", "ai.onnx::MatMul"]
