"""Models in the styles of hand-written and older files; orders are derived beside them, and onnxruntime runs them before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compiler.onnx.handmade import check, model, node, weights
from tests.support.cases import lam

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
helper = onnx.helper


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int64)


def body(nodes: list[Any], inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]]) -> Any:
    infos = [[helper.make_tensor_value_info(name, 1, list(shape)) for name, shape in each.items()] for each in (inputs, outputs)]
    return helper.make_graph(nodes, "body", *infos)


QKV = [node("MatMul", "x q", "hq"), node("MatMul", "x k", "hk"), node("MatMul", "x v", "hv")]
QUANTISED = {"q": np.random.default_rng(1).integers(-99, 99, (6, 3), np.int8)}

MODELS: dict[str, tuple[Any, float]] = {
    # Attention in einsums: of both heads, query and key dimensions together, and the value's.
    "einsum heads": (model([node("Einsum", "x q", "hq", equation="...ti,hid->...htd"),
            node("Einsum", "x k", "hk", equation="bti,hid->bthd"),
                            node("Einsum", "x v", "hv", equation="bti,hid->bthd"), node("Einsum", "hq hk", "s", equation="bhqd,bkhd->bhqk"),
                            node("Softmax", "s", "p", axis=-1), node("Einsum", "p hv", "h", equation="bhqk,bkhd->bqhd"),
                            node("Einsum", "h o", "y", equation="...hd,hdo->...o")], {"x": (2, 5, 4)},
                           weights(q=(2, 4, 3), k=(2, 4, 3), v=(2, 4, 3), o=(2, 3, 4))), 4 * lam(3) + lam(2)),
    # A column and a row for a bias: the column is one of rows, which are the input's own.
    "gemm with columns and rows": (model([node("Gemm", "x a u", "h", transA=1, alpha=0.5, beta=2.0), node("Relu", "h", "r"),
                                          node("Gemm", "r c d", "s", transB=1, beta=0.25), node("Gemm", "s e f", "y", transA=1)],
                                          {"x": (4, 5)},
                                         weights(a=(4, 6), u=(5, 1), c=(7, 6), d=(1, 7), e=(5, 3), f=(7, 1))), lam(6)),
    # Two groups, of three channels before and four behind.
    "conv transpose in groups": (model([node("Conv", "x a", "h"), node("Relu", "h", "r"),
                                        node("ConvTranspose", "r b", "t", group=2, strides=[2, 2], output_padding=[1, 1]),
                                        node("Relu", "t", "s"), node("Conv", "s c", "y")], {"x": (2, 3, 5, 5)},
                                       weights(a=(6, 3, 1, 1), b=(6, 4, 2, 2), c=(3, 8, 1, 1))), lam(2) + 2 * lam(3) + 2 * lam(4)),
    "resize to sizes": (model([node("Conv", "x a", "h"), node("Relu", "h", "i"),
            node("Resize", "i - - sizes", "u", mode="linear", antialias=1,
                                    coordinate_transformation_mode="half_pixel"), node("Conv", "u c", "y")], {"x": (2, 3, 5, 5)},
                              weights(a=(6, 3, 1, 1), c=(4, 6, 1, 1)) | {"sizes": ints(2, 6, 3, 8)}), lam(6)),
    # In this set gains and offsets are per group: S_2 wr S_3.
    "group norm of set 18": (model([node("Conv", "x a", "h"), node("GroupNormalization", "h g o", "n", num_groups=3),
            node("Relu", "n", "r"),
                                    node("Conv", "r c", "y")], {"x": (2, 3, 5, 5)},
                                   weights(a=(6, 3, 1, 1), g=(3,), o=(3,), c=(4, 6, 1, 1)), opset=18), 3 * lam(2) + lam(3)),
    "layer norm over two axes": (model([node("MatMul", "x a", "h"), node("LayerNormalization", "h g o", "n", axis=-2),
            node("MatMul", "n c", "y")],
                                       {"x": (2, 5, 4)}, weights(a=(4, 6), g=(5, 6), o=(6,), c=(6, 3))), lam(6)),
    "rms norm over two axes": (model([node("MatMul", "x a", "h"), node("RMSNormalization", "h g", "n", axis=1), node("MatMul", "n c", "y")],
                                     {"x": (2, 5, 4)}, weights(a=(4, 6), g=(5, 6), c=(6, 3)), opset=23), lam(6)),
    # Two heads of keys and values, two of queries for each; the gains are those of all heads, and so is the order of query and key
    # dimensions.
    "grouped queries, normalised": (model([*QKV, node("Reshape", "hq four", "q4"), node("Reshape", "hk two", "k4"),
                                           node("RMSNormalization", "q4 gq", "nq"), node("RMSNormalization", "k4 gk", "nk"),
                                           node("Reshape", "nq twelve", "q3"), node("Reshape", "nk six", "k3"),
                                           node("Attention", "q3 k3 hv", "h", q_num_heads=4, kv_num_heads=2, is_causal=1),
                                           node("MatMul", "h o", "y")],
                                          {"x": (2, 5, 4)}, weights(q=(4, 12), k=(4, 6), v=(4, 6), o=(12, 3), gq=(3,), gk=(3,))
                                          | {"four": ints(0, 0, 4, 3), "two": ints(0, 0, 2, 3), "twelve": ints(0, 0, 12),
                                          "six": ints(0, 0, 6)}, opset=23),
                                    3 * lam(2) + 3 * lam(3)),
    # Two heads of two rotary planes, the same planes in both; values of four dimensions in each.
    "rotary": (model([*QKV, *(node("RotaryEmbedding", f"h{n} cos sin at", f"r{n}", num_heads=2) for n in "qk"),
                      node("Attention", "rq rk hv", "h", q_num_heads=2, kv_num_heads=2), node("MatMul", "h o", "y")], {"x": (2, 5, 4)},
                     weights(q=(4, 8), k=(4, 8), v=(4, 8), o=(8, 3), cos=(5, 2), sin=(5, 2)) | {"at": np.tile(np.arange(5), (2, 1))},
                     opset=23),
               2 * lam(2) + 2 * lam(4)),
    # Scales of blocks of two hidden units: S_2 wr S_3.
    "dequantised in blocks": (model([node("MatMul", "x a", "h"), node("Relu", "h", "r"),
            node("DequantizeLinear", "q s", "c", axis=0, block_size=2),
                                     node("MatMul", "r c", "y")], {"x": (5, 4)}, weights(a=(4, 6), s=(3, 3))
                                     | QUANTISED), 3 * lam(2) + lam(3)),
    "quantised and back": (model([node("MatMul", "x a", "h"), node("QuantizeLinear", "h s z", "i", axis=1),
            node("DequantizeLinear", "i s z", "r", axis=1),
                                  node("MatMul", "r c", "y")], {"x": (5, 4)}, weights(a=(4, 6), c=(6, 3))
                                 | {"s": np.linspace(0.01, 0.02, 6, dtype=np.float32), "z": np.arange(6, dtype=np.int8)}), lam(6)),
    "quantised as it runs": (model([node("MatMul", "x a", "h"), node("Relu", "h", "r"), node("DynamicQuantizeLinear", "r", "i s z"),
                                    node("MatMulInteger", "i q z w", "j"), node("Cast", "j", "f", to=1), node("Mul", "s t", "st"),
                                    node("Mul", "f st", "y")],
                                   {"x": (5, 4)}, weights(a=(4, 6), t=(3,)) | QUANTISED | {"w": np.array([1, -2, 0], np.int8)}), lam(6)),
    # Rows are taken, and put back, where an input says, alike for all units.
    "elements of rows": (model([node("MatMul", "x a", "h"), node("Tanh", "h", "s"), node("Cast", "i", "k", to=7),
            node("Expand", "k wide", "w"),
                                node("GatherElements", "s w", "g", axis=1), node("Sigmoid", "g", "t"),
                                node("ScatterElements", "s w t", "u", axis=1), node("Relu", "u", "r"), node("MatMul", "r c", "y")],
                               {"x": (2, 5, 4), "i": (2, 1, 1)}, weights(a=(4, 6), c=(6, 3)) | {"wide": ints(2, 1, 6)}), lam(6)),
    # Three experts of six units each, two of them for each row: S_6 wr S_3.
    "experts": (model([node("MatMul", "x router", "logits"), node("TopK", "logits two", "best which", axis=-1),
            node("Softmax", "best", "share", axis=-1),
                       node("Gather", "up which", "ups"), node("Gather", "down which", "downs"),
                       node("Einsum", "x ups", "h", equation="bi,bkio->bko"),
                       node("Relu", "h", "r"), node("Einsum", "r downs", "e", equation="bko,bkop->bkp"),
                       node("Einsum", "share e", "y", equation="bk,bkp->bp")],
                      {"x": (5, 4)}, weights(router=(4, 3), up=(3, 4, 6), down=(3, 6, 2)) | {"two": ints(2)}), 3 * lam(6) + lam(3)),
    "scan over time": (model([node("Scan", "start x", "last all", num_scan_inputs=1, body=body(
                                   [node("MatMul", "t a", "u"), node("MatMul", "s r", "w"), node("Add", "u w", "z"), node("Tanh", "z", "n"),
                                    node("Identity", "n", "m")], {"s": (2, 6), "t": (2, 4)}, {"n": (2, 6), "m": (2, 6)})),
                              node("MatMul", "all c", "y")], {"x": (5, 2, 4)}, weights(start=(2, 6), a=(4, 6), r=(6, 6),
                              c=(6, 3))), lam(6)),
    "peepholes and states": (model([node("LSTM", "x w r b - h0 c0 p", "all last", hidden_size=6), node("Squeeze", "last zero", "s"),
                                    node("MatMul", "s o", "y")], {"x": (5, 2, 4)},
                                   weights(w=(1, 24, 4), r=(1, 24, 6), b=(1, 48), p=(1, 18), h0=(1, 2, 6), c0=(1, 2, 6), o=(6, 3))
                                   | {"zero": ints(0)}), lam(6)),
    # Directions read the sequence in other orders: each has its own units.
    "both directions, reset behind": (model([node("GRU", "x w r b", "all", hidden_size=6, direction="bidirectional", linear_before_reset=1),
                                             node("Transpose", "all", "t", perm=[0, 2, 1, 3]), node("Reshape", "t flat", "s"),
                                             node("MatMul", "s o", "y")],
                                            {"x": (5, 2, 4)}, weights(w=(2, 18, 4), r=(2, 18, 6), b=(2, 36), o=(12, 3))
                                            | {"flat": ints(0, 0, -1)}),
                                      2 * lam(6)),
    # Sections with functions of their own.
    "sections": (model([node("MatMul", "x a", "h"), node("Split", "h sizes", "p q r", axis=-1), node("Relu", "p", "i"),
            node("Tanh", "q", "j"),
                        node("Sigmoid", "r", "k"), node("Concat", "i j k", "l", axis=-1), node("MatMul", "l c", "y")], {"x": (5, 4)},
                       weights(a=(4, 9), c=(9, 3)) | {"sizes": ints(2, 3, 4)}), lam(2) + lam(3) + lam(4)),
    "gated halves": (model([node("MatMul", "x a", "h"), node("Split", "h", "p q", axis=-1, num_outputs=2), node("Sigmoid", "q", "g"),
            node("Mul", "p g", "l"),
                            node("MatMul", "l c", "y")], {"x": (5, 4)}, weights(a=(4, 12), c=(6, 3))), lam(6)),
    "reflected borders": (model([node("Conv", "x a", "h"), node("Relu", "h", "r"), node("Pad", "r pads - axes", "p", mode="reflect"),
            node("Conv", "p c", "y")],
                                {"x": (2, 3, 5, 5)}, weights(a=(6, 3, 1, 1), c=(4, 6, 3, 3)) | {"pads": ints(1, 2, 1, 0),
                                "axes": ints(2, 3)}), lam(6)),
    # Two channels of four positions each.
    "depth to space, columns first": (model([node("Conv", "x a", "h"), node("DepthToSpace", "h", "d", blocksize=2, mode="CRD"),
            node("Relu", "d", "r"),
                                             node("Conv", "r c", "y")], {"x": (2, 3, 3, 3)}, weights(a=(8, 3, 1, 1),
                                             c=(4, 2, 1, 1))), lam(2)),
    "depth to space, depth first": (model([node("Conv", "x a", "h"), node("DepthToSpace", "h", "d", blocksize=2), node("Relu", "d", "r"),
                                           node("Conv", "r c", "y")], {"x": (2, 3, 3, 3)}, weights(a=(12, 3, 1, 1),
                                           c=(4, 3, 1, 1))), lam(3)),
    "space to depth": (model([node("Conv", "x a", "h"), node("SpaceToDepth", "h", "d", blocksize=2), node("Relu", "d", "r"),
            node("Conv", "r c", "y")],
                             {"x": (2, 3, 4, 4)}, weights(a=(5, 3, 1, 1), c=(4, 20, 1, 1))), lam(5)),
    # A causal mask made of a shape; queries and keys, and values.
    "triangle": (model([*QKV, node("Shape", "x", "s", start=1, end=2), node("Concat", "s s", "t", axis=0), node("Expand", "one t", "ones"),
                        node("Trilu", "ones", "low", upper=0), node("Cast", "low", "m", to=9),
                        node("Transpose", "hk", "kt", perm=[0, 2, 1]),
                        node("MatMul", "hq kt", "qk"), node("Where", "m qk never", "z"), node("Softmax", "z", "p", axis=-1),
                        node("MatMul", "p hv", "h"),
                        node("MatMul", "h o", "y")], {"x": (2, 5, 4)}, weights(q=(4, 6), k=(4, 6), v=(4, 7), o=(7, 3))
                       | {"one": np.array(1, np.float32), "never": np.array(-1e9, np.float32)}), lam(6) + lam(7)),
    "sums so far": (model([node("MatMul", "x a", "h"), node("CumSum", "h axis", "s", exclusive=1, reverse=1), node("Tanh", "s", "r"),
            node("MatMul", "r c", "y")],
                          {"x": (2, 5, 4)}, weights(a=(4, 6), c=(6, 3)) | {"axis": np.array(1)}), lam(6)),
    "sums over units so far": (model([node("MatMul", "x a", "h"), node("CumSum", "h axis", "s"), node("Tanh", "s", "r"),
            node("MatMul", "r c", "y")],
                                     {"x": (2, 5, 4)}, weights(a=(4, 6), c=(6, 3)) | {"axis": np.array(-1)}), 0.0),
    # Every second unit has another function.
    "every second unit": (model([node("MatMul", "x a", "h"), node("Range", "zero six one", "i"), node("Mod", "i two", "m"),
            node("Equal", "m zero", "e"),
                                 node("Tanh", "h", "t"), node("Where", "e t h", "r"), node("MatMul", "r c", "y")], {"x": (5, 4)},
                                weights(a=(4, 6), c=(6, 3))
                                | {n: np.array(v) for n, v in (("zero", 0), ("six", 6), ("one", 1), ("two", 2))}), 2 * lam(3)),
    # Two channels from each of four: S_2 wr S_4.
    "depthwise with a multiplier": (model([node("Conv", "x a", "h", auto_pad="SAME_UPPER", strides=[2, 2]), node("Relu", "h", "r"),
                                           node("Conv", "r b", "d", group=4, auto_pad="SAME_LOWER"), node("Clip", "d - six", "s"),
                                           node("Conv", "s c", "y")],
                                          {"x": (2, 3, 6, 6)}, weights(a=(4, 3, 3, 3), b=(8, 1, 2, 2), c=(3, 8, 1, 1))
                                          | {"six": np.array(6, np.float32)}),
                                    lam(4) + 4 * lam(2)),
    "slopes and grids": (model([node("Conv", "x a", "h"), node("PRelu", "h slope", "p"), node("Tanh", "grid", "g"),
            node("GridSample", "p g", "s"),
                                node("Conv", "s c", "y")], {"x": (2, 3, 5, 5), "grid": (2, 4, 4, 2)},
                               weights(a=(6, 3, 1, 1), slope=(6, 1, 1), c=(4, 6, 1, 1))), lam(6)),
    # Arguments are attributes; softmax is over all axes from one on.
    "set 7": (model([node("Conv", "x a b", "h"), node("BatchNormalization", "h g o m v", "n"), node("Clip", "n", "r", min=0.0, max=6.0),
                     node("Pad", "r", "p", pads=[0, 0, 1, 1, 0, 0, 1, 1]), node("Upsample", "p", "u", scales=[1.0, 1.0, 2.0, 2.0]),
                     node("Slice", "u", "s", axes=[2, 3], starts=[1, 1], ends=[9, 1000]),
                     node("AveragePool", "s", "q", kernel_shape=[2, 2], strides=[2, 2]),
                     node("ReduceMean", "q", "k", axes=[2, 3], keepdims=1), node("Squeeze", "k", "w", axes=[2, 3]),
                     node("Dropout", "w", "z"),
                     node("Gemm", "z c d", "l", transB=1), node("Unsqueeze", "l", "y", axes=[1])], {"x": (2, 3, 5, 5)},
                    weights(a=(6, 3, 3, 3), b=(6,), g=(6,), o=(6,), m=(6,), c=(4, 6), d=(4,)) | {"v": np.full(6, 2, np.float32)},
                    opset=7), lam(6)),
    "set 11": (model([node("MatMul", "x a", "h"), node("Softmax", "h", "n", axis=1), node("Split", "n", "p q", axis=2, split=[4, 2]),
            node("ReduceSum", "p", "s", axes=[1]),
                      node("ReduceMax", "q", "t", axes=[1]), node("Concat", "s t", "l", axis=2), node("MatMul", "l c", "y")],
                      {"x": (2, 5, 4)},
                     weights(a=(4, 6), c=(6, 3)), opset=11), lam(4) + lam(2)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_order_by_hand_automorphisms_and_onnxruntime(name: str) -> None:
    check(*MODELS[name])
