"""Operators by hand: each small model's order is derived beside it, and onnxruntime says that the group leaves its function unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import paramgraph as pg
from paramgraph.errors import FileFormatError, TraceError
from tests.compiler.onnx.handmade import check, model, node, weights
from tests.support.cases import lam

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
helper = onnx.helper


LSTM = weights(w=(1, 24, 4), r=(1, 24, 6), b=(1, 48), p=(1, 18), o=(3, 6))
GRU = weights(w=(2, 18, 4), r=(2, 18, 6), b=(2, 36), o=(3, 12))
INT = {"scale": np.full((6,), 0.1, np.float32), "zero": np.zeros(6, np.int8), "q": np.random.default_rng(1).integers(-99, 99, (6, 4), np.int8)}

MODELS: dict[str, tuple[Any, float]] = {
    # One hidden layer, whichever way its matrices lie.
    "gemm": (model([node("Gemm", "x a", "h", alpha=0.5), node("Relu", "h", "r"), node("Gemm", "r c d", "y", transB=1, beta=2.0)], {"x": (5, 4)},
                   weights(a=(4, 6), c=(3, 6), d=(3,))), lam(6)),
    "gemm of transposes": (model([node("Gemm", "x a b", "h", transA=1, transB=1), node("Tanh", "h", "r"), node("MatMul", "r c", "y")], {"x": (4, 5)},
                                 weights(a=(6, 4), b=(6,), c=(6, 3))), lam(6)),
    "transposed initialiser": (model([node("Transpose", "a", "t", perm=[1, 0]), node("Identity", "t", "u"), node("MatMul", "x u", "h"),
                                      node("Add", "b h", "s"), node("Relu", "s", "r"), node("MatMul", "r c", "y")], {"x": (5, 4)},
                                     weights(a=(6, 4), b=(6,), c=(6, 3))), lam(6)),
    # Channels of a transposed convolution, and their normalisation.
    "conv transpose": (model([node("ConvTranspose", "x a b", "h", strides=[2, 2]), node("BatchNormalization", "h g o m v", "n"),
                              node("Relu", "n", "r"), node("Conv", "r c", "y")], {"x": (2, 3, 5, 5)},
                             weights(a=(3, 6, 2, 2), b=(6,), g=(6,), o=(6,), m=(6,), c=(4, 6, 3, 3)) | {"v": np.full(6, 2, np.float32)}), lam(6)),
    # Three groups of two, which share no gain: S_2 wr S_3.
    "group norm": (model([node("Conv", "x a", "h"), node("GroupNormalization", "h g o", "n", num_groups=3), node("Conv", "n c", "y")],
                         {"x": (2, 3, 5, 5)}, weights(a=(6, 3, 1, 1), g=(6,), o=(6,), c=(4, 6, 1, 1))), 3 * lam(2) + lam(3)),
    "instance norm": (model([node("Conv", "x a", "h"), node("InstanceNormalization", "h g o", "n"), node("Relu", "n", "r"), node("Conv", "r c", "y")],
                            {"x": (2, 3, 5, 5)}, weights(a=(6, 3, 1, 1), g=(6,), o=(6,), c=(4, 6, 1, 1))), lam(6)),
    "layer norm": (model([node("MatMul", "x a", "h"), node("LayerNormalization", "h g o", "n"), node("MatMul", "n c", "y")], {"x": (5, 4)},
                         weights(a=(4, 6), g=(6,), o=(6,), c=(6, 3))), lam(6)),
    "rms norm": (model([node("MatMul", "x a", "h"), node("RMSNormalization", "h g", "n"), node("MatMul", "n c", "y")], {"x": (5, 4)},
                       weights(a=(4, 6), g=(6,), c=(6, 3)), opset=23), lam(6)),
    "einsum": (model([node("Einsum", "x a", "h", equation="bi,io->bo"), node("Gelu", "h", "r"), node("Einsum", "r c", "y", equation="...o,po->...p")],
                     {"x": (5, 4)}, weights(a=(4, 6), c=(3, 6))), lam(6)),
    # Two heads of three dimensions: query and key dimensions of each head move together, and so do the value's.
    "attention": (model([node("MatMul", "x q", "hq"), node("MatMul", "x k", "hk"), node("MatMul", "x v", "hv"),
                         node("Attention", "hq hk hv", "h", q_num_heads=2, kv_num_heads=2), node("MatMul", "h o", "y")], {"x": (2, 5, 4)},
                        weights(q=(4, 6), k=(4, 6), v=(4, 6), o=(6, 3)), opset=23), 4 * lam(3) + lam(2)),
    "attention with capped scores": (model([node("MatMul", "x q", "hq"), node("MatMul", "x k", "hk"), node("MatMul", "x v", "hv"),
                                            node("Attention", "hq hk hv", "h", q_num_heads=2, kv_num_heads=2, softcap=2.0, is_causal=1),
                                            node("MatMul", "h o", "y")], {"x": (2, 5, 4)},
                                           weights(q=(4, 6), k=(4, 6), v=(4, 6), o=(6, 3)), opset=23), 4 * lam(3) + lam(2)),
    # Fused: the packed weight's thirds are projections, heads of three, two or four dimensions.
    "fused attention": (model([node("Attention", "x w b m", "h", domain="com.microsoft", num_heads=2), node("MatMul", "h o", "y")],
                              {"x": (2, 5, 4)}, weights(w=(4, 18), b=(18,), o=(6, 3)) | {"m": np.array([[1] * 5, [1, 1, 1, 0, 0]], np.int32)},
                              domains=["com.microsoft"]), 4 * lam(3) + lam(2)),
    "fused attention of several sizes": (model([node("Attention", "x w b", "h", domain="com.microsoft", num_heads=2, qkv_hidden_sizes=[6, 6, 8],
                                                     unidirectional=1), node("MatMul", "h o", "y")],
                                               {"x": (2, 5, 4)}, weights(w=(4, 20), b=(20,), o=(8, 3)), domains=["com.microsoft"]),
                                         2 * lam(3) + 2 * lam(4) + lam(2)),
    "fused heads": (model([node("MatMul", "x q", "hq"), node("MatMul", "x k", "hk"), node("MatMul", "x v", "hv"),
                           node("MultiHeadAttention", "hq hk hv b", "h", domain="com.microsoft", num_heads=2), node("MatMul", "h o", "y")],
                          {"x": (2, 5, 4)}, weights(q=(4, 6), k=(4, 6), v=(4, 6), o=(6, 3), b=(18,)), domains=["com.microsoft"]),
                    4 * lam(3) + lam(2)),
    # All units are normalised together.
    "softmax of older operators": (model([node("MatMul", "x a", "h"), node("Softmax", "h", "s", axis=1), node("MatMul", "s c", "y")],
                                         {"x": (5, 4)}, weights(a=(4, 6), c=(6, 3)), opset=11), lam(6)),
    "lstm with peepholes": (model([node("LSTM", "x w r b - - - p", "h", hidden_size=6), node("ReduceMean", "h axes", "m", keepdims=0),
                                   node("Gemm", "m o", "y", transB=1)], {"x": (5, 2, 4)}, LSTM | {"axes": np.array([0, 1])}), lam(6)),
    # Both directions have hidden units of their own.
    "bidirectional gru": (model([node("GRU", "x w r b", "h", hidden_size=6, direction="bidirectional"), node("ReduceMean", "h axes", "m", keepdims=0),
                                 node("Transpose", "m", "t", perm=[1, 0, 2]), node("Reshape", "t shape", "f"), node("Gemm", "f o", "y", transB=1)],
                                {"x": (5, 2, 4)}, GRU | {"axes": np.array([0]), "shape": np.array([2, 12])}), 2 * lam(6)),
    # Quantised weights: integers, scales and zero points of a channel move together.
    "quantised": (model([node("DequantizeLinear", "q scale zero", "a", axis=0), node("Gemm", "x a", "h", transB=1), node("Relu", "h", "r"),
                         node("MatMul", "r c", "y")], {"x": (5, 4)}, INT | weights(c=(6, 3))), lam(6)),
    # Nearest neighbours leave channels alone.
    "resize": (model([node("Conv", "x a", "h"), node("Resize", "h - scales", "u", mode="nearest"), node("Conv", "u c", "y")],
                     {"x": (2, 3, 5, 5)}, weights(a=(6, 3, 1, 1), c=(4, 6, 1, 1)) | {"scales": np.array([1, 1, 2, 2], np.float32)}), lam(6)),
    # Channels last, as converters write it: transposes around every convolution.
    "channels last": (model([node("Transpose", "x", "i", perm=[0, 3, 1, 2]), node("Conv", "i a b", "h"),
                             node("Transpose", "h", "l", perm=[0, 2, 3, 1]), node("Relu", "l", "r"), node("MatMul", "r c", "y")],
                            {"x": (2, 5, 5, 3)}, weights(a=(6, 3, 3, 3), b=(6,), c=(6, 4))), lam(6)),
    # Rows are added up where an input says.
    "scattered": (model([node("MatMul", "x a", "h"), node("Sin", "h", "s"), node("Cast", "i", "k", to=7),
                         node("ScatterND", "h k s", "t", reduction="add"), node("Tanh", "t", "r"), node("MatMul", "r c", "y")],
                        {"x": (9, 4), "i": (9, 1)}, weights(a=(4, 6), c=(6, 3))), lam(6)),
    # Units in another order, written as two slices side by side, and padded with a number.
    "rolled": (model([node("MatMul", "x a", "h"), node("Slice", "h two six one", "p"), node("Slice", "h zero two one", "q"),
                      node("Concat", "p q", "l", axis=1), node("Relu", "l", "r"), node("Pad", "r pads half", "w"), node("MatMul", "w c", "y")],
                     {"x": (5, 4)}, weights(a=(4, 6), c=(7, 3)) | {"pads": np.array([0, 0, 0, 1]), "half": np.array(0.5, np.float32)}
                     | {name: np.array([n]) for name, n in (("zero", 0), ("one", 1), ("two", 2), ("six", 6))}), lam(6)),
    # Below a negative limit, a number is added: the function is not odd.
    "shrunk": (model([node("Gemm", "x a b", "h"), node("Shrink", "h", "r", bias=0.5, lambd=-0.7), node("MatMul", "r c", "y")], {"x": (5, 4)},
                     weights(a=(4, 6), b=(6,), c=(6, 3))), lam(6)),
    # An operator that ONNX defines by others: a rule of its own is not needed.
    "defined by others": (model([node("MatMul", "x a", "h"), node("Celu", "h", "r", alpha=2.0), node("HardSwish", "r", "s"),
                                 node("MatMul", "s c", "y")], {"x": (5, 4)}, weights(a=(4, 6), c=(6, 3))), lam(6)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_order_by_hand_automorphisms_and_onnxruntime(name: str) -> None:
    check(*MODELS[name])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_space_to_depth_in_either_order(mode: str) -> None:
    """onnxruntime does not have this version of it yet; ONNX's own evaluation stands for it where every operator is tried."""
    nodes = [node("Conv", "x a", "h"), node("SpaceToDepth", "h", "d", blocksize=2, mode=mode), node("Relu", "d", "r"), node("Conv", "r c", "y")]
    graph = pg.compile(model(nodes, {"x": (2, 3, 4, 4)}, weights(a=(3, 3, 1, 1), c=(3, 12, 1, 1)), opset=28))
    assert graph.symmetry.log_order == pytest.approx(lam(3))


def test_windows_of_attention_know_the_order_of_positions() -> None:
    """Without one, the positions of both batches and heads move; within a head its dimensions do, and heads."""
    def order(**window: int) -> float:
        nodes = [node("Mul", "z p", "x"), node("Attention", "x x x", "h", q_num_heads=2, kv_num_heads=2, **window), node("Mul", "h r", "t"),
                 node("ReduceSum", "t", "y", keepdims=0)]
        graph = pg.compile(model(nodes, {"z": (1,)}, weights(p=(2, 5, 6), r=(2, 5, 6)), opset=25))
        assert [str(d) for d in graph.diagnostics if d.kind == "unknown-operation"] == []
        return graph.symmetry.log_order

    free = order()
    for window in ({"left_window_size": 1}, {"right_window_size": 0}, {"left_window_size": 1, "right_window_size": 2}, {"is_causal": 1}):
        assert order(**window) == pytest.approx(free - 4 * lam(5))


def test_functions_of_recurrent_layers_scale_as_they_do_elsewhere() -> None:
    """A leaky ReLU scales, and a scaled hyperbolic tangent has signs."""
    found = []
    for function in ("LeakyRelu", "ScaledTanh", "Affine"):
        layer = node("RNN", "x w r b", "h", hidden_size=6, activations=[function])
        message = model([layer, node("Squeeze", "h one", "s"), node("MatMul", "s o", "y")], {"x": (5, 2, 4)},
                        weights(w=(1, 6, 4), r=(1, 6, 6), b=(1, 12), o=(6, 3)) | {"one": np.array([1])})
        graph = pg.compile(message)
        assert pg.verify(graph, message, elements=1, inputs=1).passed
        found.append({factor.kind for factor in graph.symmetry.factors})
    assert found == [{"permutation", "scale"}, {"permutation", "sign"}, {"permutation"}]


def test_unknown_operators_pin_and_are_reported() -> None:
    nodes = [node("MatMul", "x a", "h"), node("Mystery", "h", "m", domain="my.domain"), node("Relu", "m", "r"), node("MatMul", "r c", "y")]
    message = model(nodes, {"x": (5, 4)}, weights(a=(4, 6), c=(6, 3)), domains=["my.domain"])
    graph = pg.compile(message)
    assert graph.symmetry.log_order == 0
    assert [d.subject for d in graph.diagnostics if d.kind == "unknown-operation"][0] == "my.domain::Mystery"


def test_a_rule_for_an_operator_can_be_registered() -> None:
    @pg.rule("my.domain::Mystery")
    def mystery(b: Any, x: Any) -> Any:
        return b.elementwise("mystery", x)

    message = model([node("MatMul", "x a", "h"), node("Mystery", "h", "m", domain="my.domain"), node("MatMul", "m c", "y")], {"x": (5, 4)},
                    weights(a=(4, 6), c=(6, 3)), domains=["my.domain"])
    try:
        assert pg.compile(message).symmetry.log_order == pytest.approx(lam(6))
    finally:
        pg.unregister("my.domain::Mystery")


@pytest.mark.slow
def test_every_operator_compiles() -> None:
    """ONNX's own examples of every operator, in every version and attribute: nothing but the package's errors, and those are few."""
    cases = pytest.importorskip("onnx.backend.test.case.node").collect_testcases(None)
    refused = []
    for case in cases:
        try:
            pg.compile(case.model)
        except (FileFormatError, TraceError) as error:
            refused.append((case.name, str(error)))
    assert len(cases) > 1000
    assert len(refused) < 60, refused


def test_elements_of_long_constants_are_gathered() -> None:
    """As BERT's exported files pick the types of tokens: ONNX's reference implementation fails above 32 elements."""
    zeros, places = np.zeros((1, 512), np.int64), np.arange(6)[None]
    nodes = [node("GatherElements", "zeros places", "i", axis=1), node("Gather", "table i", "t"), node("MatMul", "x a", "h"), node("Add", "h t", "s"),
             node("Relu", "s", "r"), node("MatMul", "r c", "y")]
    check(model(nodes, {"x": (2, 6, 4)}, weights(table=(2, 5), a=(4, 5), c=(5, 3)) | {"zeros": zeros, "places": places}), lam(5))


def test_layers_that_read_one_constant_are_not_linked_by_it() -> None:
    """As relative positions in DeBERTa's optimised file: one table of places, as wide as both layers' units, says what is gathered for each."""
    places = np.broadcast_to(np.array([[2], [0], [1], [1], [0]]), (5, 6)).copy()
    nodes = [node("MatMul", "x a", "h"), node("GatherElements", "h places", "g", axis=0), node("Tanh", "g", "r"), node("MatMul", "r b", "k"),
             node("GatherElements", "k places", "l", axis=0), node("Relu", "l", "s"), node("MatMul", "s c", "y")]
    check(model(nodes, {"x": (5, 4)}, weights(a=(4, 6), b=(6, 6), c=(6, 3)) | {"places": places}), 2 * lam(6))
