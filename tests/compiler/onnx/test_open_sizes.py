"""Open dimensions get sizes that the model runs with, also where its windows are long, its inputs share a batch, or one of its branches fits none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import paramgraph as pg
from paramgraph.errors import TraceError
from tests.compiler.onnx.handmade import check, model, node, weights
from tests.support.cases import lam

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
helper = onnx.helper


def waves(taps: int, pads: int = 0, mode: str = "reflect") -> Any:
    """Windows of a signal of open length, and a layer over what they give."""
    nodes = [node("Pad", "x pads", "p", mode=mode), node("Conv", "p a", "h", strides=[taps // 2]), node("Abs", "h", "r"),
             node("GlobalAveragePool", "r", "m"), node("Conv", "m c", "y")]
    tensors = weights(a=(6, 1, taps), c=(4, 6, 1)) | {"pads": np.array([0, 0, 0, 0, 0, pads])}
    return model(nodes, {"x": ("batch", 1, "time")}, tensors)


@pytest.mark.parametrize("message", [waves(200), waves(512), waves(9000), waves(8, 100)], ids=["200 taps", "512 taps", "9000 taps", "reflected"])
def test_windows_of_signals_of_open_length(message: Any) -> None:
    """Too short a signal would have no window, or a negative number of them: the layers behind it would be over nothing."""
    check(message, lam(6))


def test_a_window_that_never_fits_is_an_error() -> None:
    with pytest.raises(TraceError, match=r"does not fit its operands .* of shape \[3, 6, -\d+\]"):
        pg.compile(waves(50000))
    with pytest.raises(TraceError, match="reflects more elements than there are"):
        pg.compile(waves(4, 100), dimensions={"time": 50})


def test_images_of_lines_have_the_height_that_the_model_wants() -> None:
    """Behind the convolution, one row must be left."""
    nodes = [node("Conv", "x a", "h", strides=[48, 4]), node("Relu", "h", "r"), node("Squeeze", "r two", "s"),
             node("Transpose", "s", "t", perm=[0, 2, 1]), node("MatMul", "t c", "y")]
    check(model(nodes, {"x": ("n", 3, "height", "width")}, weights(a=(6, 3, 48, 4), c=(6, 4)) | {"two": np.array([2])}), lam(6))


def test_states_and_steps_share_a_batch_without_a_name() -> None:
    nodes = [node("LSTM", "x w r b - h0 c0", "all last", hidden_size=6), node("Squeeze", "all one", "s"), node("MatMul", "s o", "m"),
             node("ReduceSum", "c0", "c", keepdims=0), node("ReduceSum", "last", "l", keepdims=0), node("Add", "m c", "z"), node("Add", "z l", "y")]
    tensors = weights(w=(1, 24, 4), r=(1, 24, 6), b=(1, 48), o=(6, 3), h=(6,)) | {"one": np.array([1])}
    nodes[:0] = [node("Mul", "g h", "h0"), node("Mul", "g h", "c0")]
    check(model(nodes, {"x": (5, None, 4), "g": (1, None, 1)}, tensors), lam(6))


def branches(other: list[Any], result: str, **shapes: Any) -> Any:
    """A hidden layer of each branch's own; which is taken is an input."""
    def body(nodes: list[Any], name: str, **own: Any) -> Any:
        tensors = [onnx.numpy_helper.from_array(data, key) for key, data in weights(**own).items()]
        return helper.make_graph(nodes, "body", [], [helper.make_empty_tensor_value_info(name)], tensors)

    one = [node("MatMul", "x u", "p"), node("Relu", "p", "q"), node("MatMul", "q v", "then")]
    choice = node("If", "flag", "y", then_branch=body(one, "then", u=(4, 6), v=(6, 3)), else_branch=body(other, result, **shapes))
    return model([node("ReduceSum", "x", "sum", keepdims=0), node("Greater", "sum zero", "flag"), choice], {"x": (5, 4)},
                 {"zero": np.array(0, np.float32)})


def test_branches_whose_results_differ_in_shape_are_typed_by_themselves() -> None:
    """Hidden units of both move, and the three results of one branch, which it adds up."""
    message = branches([node("MatMul", "x w", "e"), node("Tanh", "e", "f"), node("MatMul", "f z", "g"), node("ReduceSum", "g", "else")], "else",
                       w=(4, 5), z=(5, 3))
    graph = pg.compile(message)
    assert graph.symmetry.log_order == pytest.approx(lam(6) + lam(5) + lam(3))
    (said,) = [d for d in graph.diagnostics if d.kind == "unknown-operation"]
    assert "differ in shape" in said.cause
    assert pg.verify(graph, message).passed


def test_a_branch_that_does_not_run_pins_what_it_reads_and_no_more() -> None:
    message = branches([node("MatMul", "x w", "e"), node("MatMul", "e z", "else")], "else", w=(4, 5), z=(7, 3))
    graph = pg.compile(message)
    assert graph.symmetry.log_order == pytest.approx(lam(6))
    (said,) = [d for d in graph.diagnostics if d.kind == "unknown-operation"]
    assert "else branch does not run with these sizes" in said.cause


def test_axes_of_absurd_lengths_are_refused() -> None:
    with pytest.raises(TraceError, match="axes of at most"):
        pg.compile(model([node("MatMul", "x a", "y")], {"x": (1 << 40, 4)}, weights(a=(4, 6))))
    with pytest.raises(TraceError, match="of shape"):
        pg.compile(model([node("Expand", "x wide", "y")], {"x": (5, 1)}, {"wide": np.array([5, 1 << 30])}))


def test_lengths_that_are_inputs_are_not_zero() -> None:
    """Means over no steps are no numbers: nothing could be compared."""
    nodes = [node("MatMul", "x a", "h"), node("Tanh", "h", "t"), node("Cast", "lengths", "n", to=1), node("Mul", "t n", "s"), node("Div", "s n", "m"),
             node("MatMul", "m c", "y")]
    message = model(nodes, {"x": (5, 4), "lengths": (5, 1)}, weights(a=(4, 6), c=(6, 3)))
    message.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    check(message, lam(6), inputs=2)


def test_parameters_near_the_own_where_random_ones_clip_everything() -> None:
    """Ranges that are constants, as those of quantised activations: far from them, the outputs say nothing of the group."""
    nodes = [node("Gemm", "x a b", "h"), node("Tanh", "h", "r"), node("Gemm", "r c d", "z"), node("Clip", "z low high", "y")]
    fixed = {"d": np.full(3, 55, np.float32), "low": np.array(40, np.float32), "high": np.array(70, np.float32)}
    message = model(nodes, {"x": (5, 4)}, weights(a=(4, 6), b=(6,), c=(6, 3)) | fixed)
    report = pg.verify(pg.compile(message), message)
    assert report.passed, str(report)
    assert report.outside_changed
    assert any("near the network's own" in note for note in report.notes)
