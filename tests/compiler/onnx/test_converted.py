"""Models as converters from channels-last frameworks and older exporters write them, node by node; orders are derived beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import paramgraph as pg
from tests.compiler.onnx.handmade import check, model, node, weights
from tests.support.automorphisms import log_action
from tests.support.cases import lam

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
helper = onnx.helper


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


NUMBERS = {"zero": ints(0), "one": ints(1), "two": ints(2), "three": ints(3), "both": ints(0, 1), "rest": ints(-1),
        "i32": np.array([2, 5], np.int32)}
ABSENT = np.array(-2.37e38, np.float32)


def flat(x: str) -> list[Any]:
    """`{x}f`: (batch, heads, m, n) as (batch · heads, m, n), by the shape that it has; `{x}b` are the sizes that go, `{x}m` and `{x}n` the others."""
    return [node("Shape", x, f"{x}s"), node("Gather", f"{x}s both", f"{x}b"), node("ReduceProd", f"{x}b", f"{x}p", axes=[0], keepdims=1),
            node("Gather", f"{x}s two", f"{x}m"), node("Gather", f"{x}s three", f"{x}n"),
            node("Concat", f"{x}p rest {x}n", f"{x}t", axis=0),
            node("Reshape", f"{x} {x}t", f"{x}f")]


def product(x: str, y: str, out: str, transposed: bool) -> list[Any]:
    """A product of two stacks of matrices, each as one stack."""
    turned = [node("Transpose", f"{y}f", f"{y}u", perm=[0, 2, 1])] if transposed else [node("Identity", f"{y}f", f"{y}u")]
    return [*flat(x), *flat(y), *turned, node("MatMul", f"{x}f {y}u", f"{out}f"), node("Max", f"{x}b {y}b", f"{out}b"),
            node("Concat", f"{out}b {x}m {y}{'m' if transposed else 'n'}", f"{out}t", axis=0), node("Reshape", f"{out}f {out}t", out)]


def heads(name: str, count: int, repeats: int) -> list[Any]:
    """Heads of a projection, with their own biases, each repeated, as (batch, heads, tokens, dimensions)."""
    again = [node("Unsqueeze", f"{name}a three", f"{name}x"), node("Tile", f"{name}x many", f"{name}y"),
        node("Reshape", f"{name}y four", f"{name}z")]
    return [node("MatMul", f"x {name}", f"{name}0"), node("Reshape", f"{name}0 {'two3' if count == 2 else 'four'}", f"{name}1"),
            node("Add", f"{name}1 {name}bias", f"{name}a"), *(again if repeats > 1 else [node("Identity", f"{name}a", f"{name}z")]),
            node("Transpose", f"{name}z", f"{name}h", perm=[0, 2, 1, 3])]


ATTENTION = [*heads("q", 4, 1), *heads("k", 2, 2), *heads("v", 2, 2), *product("qh", "kh", "qk", True), node("Mul", "qk scale", "s"),
             node("Shape", "s", "ss"), node("Cast", "ss", "st", to=7), node("Expand", "true st", "ones"),
             node("And", "ones causal", "keep"),
             node("Cast", "keep", "kept", to=1), node("Not", "keep", "drop"), node("Cast", "drop", "dropped", to=1),
             node("Mul", "kept s", "s1"),
             node("Mul", "absent dropped", "s2"), node("Add", "s1 s2", "s3"),
             node("Softmax", "s3", "p", axis=-1), *product("p", "vh", "h", False),
             node("Transpose", "h", "l", perm=[0, 2, 1, 3]), node("Reshape", "l joined", "j"), node("MatMul", "j o", "y")]


def counted(steps: int, nodes: list[Any]) -> list[Any]:
    """A loop that counts, takes the step's row of `xt`, and ends by comparison; its state is `h`, its new state `n`."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Gather", "xt i", "t", axis=0), *nodes, node("Identity", "n", "row"), node("Add", "i uno", "j"),
        node("Less", "j steps", "c")], "body",
        [info("i", 7, []), info("go", 9, []), info("h", 1, [2, 6])], [info("c", 9, []), info("n", 1, [2, 6]), info("row", 1, [2, 6])])
    return [node("Transpose", "x", "xt", perm=[1, 0, 2]), node("Less", "nil steps", "start"),
        node("Loop", "steps start h0", "last rows", body=body)]


LOOPED = {"steps": np.array(5), "nil": np.array(0), "uno": np.array(1)}
STARTS = [helper.make_node("Constant", [], ["z"], value=onnx.numpy_helper.from_array(np.zeros((4, 2, 6), np.float32))),
          *(node("Slice", f"z {a} {b} zero", f"z{a}") for a, b in (("zero", "two"), ("two", "four")))]

MODELS: dict[str, tuple[Any, float]] = {
    # Channels last, folded normalisations, padding on one side; the residual's five channels, and eight and ten of inverted bottlenecks.
    "inverted bottlenecks": (model([node("Transpose", "x", "i", perm=[0, 3, 1, 2]),
            node("Conv", "i s sb", "h0", strides=[2, 2], pads=[0, 0, 1, 1]),
                                    node("Conv", "h0 a ab", "h1"), node("Clip", "h1 nil six", "h2"), node("Pad", "h2 side", "h3"),
                                    node("Conv", "h3 d db", "h4", group=8, strides=[2, 2]), node("Clip", "h4 nil six", "h5"),
                                    node("Conv", "h5 p pb", "r"),
                                    node("Conv", "r a2", "g1"), node("Conv", "g1 d2", "g2", group=10, pads=[1, 1, 1, 1]),
                                    node("Clip", "g2 nil six", "g3"),
                                    node("Conv", "g3 p2", "g4"), node("Add", "r g4", "w"),
                                    node("ReduceMean", "w", "m", axes=[2, 3], keepdims=0),
                                    node("Gemm", "m f fb", "y")], {"x": (2, 9, 9, 3)},
                                   weights(s=(4, 3, 3, 3), sb=(4,), a=(8, 4, 1, 1), ab=(8,), d=(8, 1, 3, 3), db=(8,), p=(5, 8, 1, 1),
                                   pb=(5,), a2=(10, 5, 1, 1),
                                           d2=(10, 1, 3, 3), p2=(5, 10, 1, 1), f=(5, 3), fb=(3,))
                                   | {"nil": np.array(0, np.float32), "six": np.array(6, np.float32),
                                   "side": ints(0, 0, 0, 0, 0, 0, 1, 1)}, opset=13),
                             lam(4) + lam(8) + lam(5) + lam(10)),
    # A kernel of one more axis, its bias added behind, and a dense layer over (positions, channels).
    "one axis as two": (model([node("Pad", "x left", "p"), node("Unsqueeze", "p one", "u"), node("Transpose", "u", "t", perm=[0, 3, 1, 2]),
                               node("Conv", "t a", "h"), node("Squeeze", "h two", "s"), node("Add", "s ab", "b"), node("Relu", "b", "r"),
                               node("Transpose", "r", "l", perm=[0, 2, 1]), node("Shape", "l", "n"), node("Cast", "n", "n32", to=6),
                               node("Slice", "n32 zero one", "batch"), node("Concat", "batch rest32", "m", axis=0),
                               node("Cast", "m", "m64", to=7),
                               node("Reshape", "l m64", "f"), node("Gemm", "f c", "y")], {"x": (2, 7, 3)},
                              weights(a=(5, 3, 1, 3), ab=(1, 5, 1), c=(35, 3)) | NUMBERS
                              | {"left": ints(0, 2, 0, 0, 0, 0), "rest32": np.array([-1], np.int32)}), lam(5)),
    # Two units of three, one layer: only the reader of six knows how they are written.
    "dense over two axes": (model([node("MatMul", "x a", "h"), node("Reshape", "h split", "s"), node("Add", "s b", "t"),
            node("Relu", "t", "r"),
                                   node("Reshape", "r join", "j"), node("MatMul", "j c", "y")], {"x": (2, 5, 4)},
                                  weights(a=(4, 6), b=(2, 3), c=(6, 3)) | {"split": ints(-1, 5, 2, 3), "join": ints(-1, 5, 6)}), lam(6)),
    # Groups of two channels, each with its own gain, in a normalisation written out: S_2 wr S_3.
    "normalised by groups": (model([node("Transpose", "x", "i", perm=[0, 3, 1, 2]), node("Conv", "i a", "h"),
            node("Transpose", "h", "l", perm=[0, 2, 3, 1]),
                                    node("Reshape", "l split", "s"), node("ReduceMean", "s", "m", axes=[1, 2, 4]), node("Sub", "s m", "d"),
                                    node("Mul", "d d", "dd"),
                                    node("ReduceMean", "dd", "v", axes=[1, 2, 4]), node("Add", "v tiny", "ve"), node("Sqrt", "ve", "vs"),
                                    node("Reciprocal", "vs", "vr"), node("Mul", "vr g", "k"), node("Neg", "m", "mn"),
                                    node("Mul", "mn k", "mk"),
                                    node("Add", "mk o", "mo"), node("Mul", "s k", "sk"), node("Add", "sk mo", "n"),
                                    node("Reshape", "n join", "j"),
                                    node("Relu", "j", "r"), node("ReduceMean", "r", "q", axes=[1, 2], keepdims=0),
                                    node("Gemm", "q c", "y")], {"x": (2, 5, 5, 3)},
                                   weights(a=(6, 3, 1, 1), g=(1, 1, 1, 3, 2), o=(1, 1, 1, 3, 2), c=(6, 3)) | {
                                       "split": ints(2, 5, 5, 3, 2), "join": ints(2, 5, 5, 6), "tiny": np.array(1e-3, np.float32)},
                                       opset=13),
                             3 * lam(2) + lam(3)),
    # Grouped queries in tiles, einsums as products of stacks whose sizes are computed: two heads of keys, two of queries for each,
    # dimensions of three.
    "tiled heads": (model(ATTENTION, {"x": (2, 5, 4)}, weights(q=(4, 12), k=(4, 6), v=(4, 6), o=(12, 3), qbias=(4, 3), kbias=(2, 3),
            vbias=(2, 3)) | NUMBERS | {
        "four": ints(-1, 5, 4, 3), "two3": ints(-1, 5, 2, 3), "many": ints(1, 1, 1, 2, 1), "joined": ints(-1, 5, 12),
            "scale": np.array(0.5, np.float32),
        "true": np.array(True), "causal": np.tril(np.ones((1, 1, 5, 5), bool)), "absent": ABSENT}, opset=15), 3 * lam(2) + 4 * lam(3)),
    # Gated units whose reset goes before the product: three gates in one matrix of the input, and in one of the state.
    "gates in a loop": (model([*counted(5, [node("Gemm", "t w b", "u"), node("Split", "u", "uz ur un", axis=1),
            node("Slice", "r nil1 cut ax", "rzr"),
                                            node("MatMul", "h rzr", "v"), node("Slice", "v nil1 six1 ax", "vz"),
                                            node("Slice", "v six1 cut ax", "vr"),
                                            node("Add", "uz vz", "az"), node("Sigmoid", "az", "z"), node("Add", "ur vr", "ar"),
                                            node("Sigmoid", "ar", "g"),
                                            node("Slice", "r cut end ax", "rn"), node("Mul", "g h", "gh"), node("MatMul", "gh rn", "vn"),
                                            node("Add", "un vn", "an"), node("Tanh", "an", "c0"), node("Sub", "unit z", "rest0"),
                                            node("Mul", "rest0 c0", "p0"),
                                            node("Mul", "z h", "p1"), node("Add", "p0 p1", "n")]), node("MatMul", "last c1", "y")],
                                            {"x": (2, 5, 4)},
                              weights(w=(4, 18), r=(6, 18), b=(18,), c1=(6, 3), h0=(2, 6)) | LOOPED | {
                                  "nil1": ints(0), "ax": ints(1), "six1": ints(6), "cut": ints(12), "end": ints(18),
                                  "unit": np.array(1, np.float32)}, opset=15), lam(6)),
    # Two layers of two directions that start from slices of the same zeros.
    "layers from the same zeros": (model([*STARTS, node("LSTM", "x w r b - zzero zzero", "a", hidden_size=6, direction="bidirectional"),
                                          node("Transpose", "a", "t", perm=[0, 2, 1, 3]), node("Reshape", "t flat", "s"),
                                          node("LSTM", "s w2 r2 b2 - ztwo ztwo", "a2", hidden_size=6, direction="bidirectional"),
                                          node("Transpose", "a2", "t2", perm=[0, 2, 1, 3]), node("Reshape", "t2 flat", "s2"),
                                          node("MatMul", "s2 c", "y")],
                                         {"x": (5, 2, 4)}, weights(w=(2, 24, 4), r=(2, 24, 6), b=(2, 48), w2=(2, 24, 12), r2=(2, 24, 6),
                                         b2=(2, 48), c=(12, 3))
                                         | {"zero": ints(0), "two": ints(2), "four": ints(4), "flat": ints(0, 0, -1)}), 4 * lam(6)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_order_by_hand_automorphisms_and_onnxruntime(name: str) -> None:
    check(*MODELS[name], count=log_action)


def test_inputs_whose_batch_has_a_name_for_each() -> None:
    """Sizes of their own do not fit; with one for all, they do."""
    message = model([node("MatMul", "x a", "h"), node("MatMul", "z b", "g"), node("Mul", "h g", "m"), node("Relu", "m", "r"),
        node("MatMul", "r c", "y")],
                    {"x": ("batch_1", 4), "z": ("batch_2", 3)}, weights(a=(4, 6), b=(3, 6), c=(6, 3)))
    graph = pg.compile(message)
    assert graph.symmetry.log_order == pytest.approx(lam(6))
    with pytest.raises(pg.errors.TraceError, match="does not fit"):
        pg.compile(message, dimensions={"batch_1": 5, "batch_2": 3})
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    assert pg.verify(graph, message, elements=1, inputs=1).passed


def test_a_mask_of_what_is_left_out() -> None:
    """Where all is true, nothing is attended to and the outputs are no numbers: verification takes another mask."""
    nodes = [*(node("MatMul", f"x {n}", f"h{n}") for n in "qkv"), node("Transpose", "hk", "kt", perm=[0, 2, 1]),
        node("MatMul", "hq kt", "s"),
             node("Where", "padded never s", "m"), node("Softmax", "m", "p", axis=-1), node("MatMul", "p hv", "h"),
             node("MatMul", "h o", "y")]
    message = model(nodes, {"x": (2, 5, 4), "padded": (2, 1, 5)}, weights(q=(4, 6), k=(4, 6), v=(4, 7), o=(7, 3))
        | {"never": np.array(-np.inf, np.float32)})
    message.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.BOOL
    graph = pg.compile(message)
    assert graph.symmetry.log_order == pytest.approx(lam(6) + lam(7))
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    report = pg.verify(graph, message, elements=1, inputs=1)
    assert report.passed, str(report)
    assert report.outside_changed
