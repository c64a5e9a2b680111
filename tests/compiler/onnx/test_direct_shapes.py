"""What is worked out without asking agrees with ONNX's own inference, and stays silent where that refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgraph.compiler.onnx.direct_shapes import DIRECT, direct_shape
from paramgraph.compiler.onnx.reduction import REDUCTIONS

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

sizes = st.integers(1, 4)
shapes = st.lists(sizes, min_size=0, max_size=4).map(tuple)
places = st.lists(st.integers(-4, 4), max_size=4)


@st.composite
def nodes(draw: Any) -> tuple[str, list[tuple[int, ...]], dict[int, np.ndarray], dict[str, Any]]:
    """An operator on operands that may or may not fit it."""
    name = draw(st.sampled_from(sorted(DIRECT)))
    x = draw(shapes)
    operands, values, attributes = [x], {}, {}
    if name in ("Reshape", "Unsqueeze", "Squeeze", "Expand"):
        values = {1: np.array(draw(places), np.int64)}
        operands.append(values[1].shape)
        attributes = {"allowzero": 1} if name == "Reshape" and draw(st.booleans()) else {}
    elif name == "Concat":
        operands += draw(st.lists(st.one_of(shapes, st.just(x), st.just((*x[:-1], 7) if x else x)), max_size=2))
        attributes = {"axis": draw(st.integers(-4, 4))}
    elif name == "Slice":
        count = draw(st.integers(0, 3))
        given = [st.lists(st.integers(low, 6), min_size=count, max_size=count) for low in (-6, -6, -4, -1)][: draw(st.integers(2, 4))]
        values = {place: np.array(draw(each), np.int64) for place, each in enumerate(given, 1)}
        operands += [values[place].shape for place in values]
    elif name == "Where":
        operands += [draw(st.one_of(shapes, st.just(x[-1:]))), draw(st.one_of(shapes, st.just((1, *x))))]
    elif name == "Flatten":
        attributes = {"axis": draw(st.integers(-4, 4))} if draw(st.booleans()) else {}
    elif name in REDUCTIONS:
        if draw(st.booleans()):
            values = {1: np.array(draw(places), np.int64)}
            operands.append(values[1].shape)
        attributes = {"keepdims": draw(st.integers(0, 1))}
    elif name in ("Conv", "MaxPool", "AveragePool"):
        rank, window = len(x) - 2, draw(st.lists(sizes, min_size=max(len(x) - 2, 1), max_size=max(len(x) - 2, 1)))
        if name == "Conv":
            groups = draw(st.integers(1, 2))
            operands.append((draw(sizes), (x[1] // groups if len(x) > 1 else 1), *window))
            attributes = {"group": groups}
        else:
            attributes = {"kernel_shape": window}
        for key, count in (("strides", rank), ("dilations", rank), ("pads", 2 * rank)):
            if rank > 0 and draw(st.booleans()):
                attributes[key] = draw(st.lists(st.integers(1 if key != "pads" else 0, 2), min_size=count, max_size=count))
    elif name.startswith("Global"):
        pass
    elif name == "Transpose":
        attributes = {"perm": draw(st.permutations(range(len(x))))} if x and draw(st.booleans()) else {}
    elif name == "Gather":
        operands.append(draw(shapes))
        attributes = {"axis": draw(st.integers(-4, 4))}
    elif name == "MatMul":
        operands.append(draw(st.one_of(shapes, st.just((*x[:-2], x[-1], 3) if len(x) > 1 else (3,)))))
    elif name == "Gemm":
        operands += [draw(shapes), draw(shapes)]
        attributes = {"transA": draw(st.integers(0, 1)), "transB": draw(st.integers(0, 1))}
    else:
        channels = (x[1],) if len(x) > 1 else (draw(sizes),)
        operands += [channels] * 4
    return name, operands, values, attributes


def asked(name: str, operands: list[tuple[int, ...]], values: dict[int, np.ndarray], attributes: dict[str, Any]) -> tuple[int, ...] | None:
    """The shape by ONNX's inference; None where it refuses."""
    helper = onnx.helper
    names = [f"v{place}" for place in range(len(operands))]
    node = helper.make_node(name, names, ["y"], **attributes)
    integers = {1} if name == "Gather" else set(values)
    kinds = [7 if place in integers else 9 if name == "Where" and not place else 1 for place in range(len(operands))]
    types = {n: helper.make_tensor_type_proto(kind, shape) for n, kind, shape in zip(names, kinds, operands, strict=True)}
    data = {names[place]: onnx.numpy_helper.from_array(array, names[place]) for place, array in values.items()}
    try:
        schema = onnx.defs.get_schema(name, 21, "")
        found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, None, [helper.make_opsetid("", 21)], 10)
    except Exception:
        return None
    return tuple(dim.dim_value for dim in found["y"].tensor_type.shape.dim) if "y" in found else None


@settings(max_examples=600, deadline=None)
@given(nodes())
def test_agrees_with_onnx(node: Any) -> None:
    found = direct_shape(*node)
    assert found is None or found == asked(*node)


@pytest.mark.parametrize(("name", "operands", "values", "attributes", "expected"), [
    ("Reshape", [(2, 3, 4), (2,)], {1: np.array([0, -1])}, {}, (2, 12)),
    ("Transpose", [(2, 3, 4)], {}, {}, (4, 3, 2)),
    ("MatMul", [(5, 1, 2, 3), (4, 3, 6)], {}, {}, (5, 4, 2, 6)),
    ("Gather", [(2, 3, 4), (5, 6)], {}, {"axis": -2}, (2, 5, 6, 4)),
    ("Unsqueeze", [(2, 3), (2,)], {1: np.array([-1, 0])}, {}, (1, 2, 3, 1)),
    ("Squeeze", [(1, 3, 1)], {}, {"axes": [0]}, (3, 1)),
    ("Expand", [(3, 1), (3,)], {1: np.array([2, 1, 4])}, {}, (2, 3, 4)),
    ("Gemm", [(3, 2), (5, 3), (5,)], {}, {"transA": 1, "transB": 1}, (2, 5)),
    ("BatchNormalization", [(2, 3, 4), (3,), (3,), (3,), (3,)], {}, {}, (2, 3, 4)),
    ("Concat", [(2, 3), (2, 1)], {}, {"axis": -1}, (2, 4)),
    ("Slice", [(2, 9), (1,), (1,), (1,), (1,)], {1: np.array([1]), 2: np.array([-1]), 3: np.array([-1]), 4: np.array([2])}, {}, (2, 4)),
    ("Where", [(3, 1), (4,), ()], {}, {}, (3, 4)),
    ("Flatten", [(2, 3, 4)], {}, {"axis": -1}, (6, 4)),
    ("ReduceSum", [(2, 3, 4), (2,)], {1: np.array([0, -1])}, {}, (1, 3, 1)),
    ("ReduceMax", [(2, 3, 4)], {}, {"axes": [1], "keepdims": 0}, (2, 4)),
    ("Conv", [(2, 4, 9, 9), (6, 2, 3, 2), (6,)], {}, {"group": 2, "pads": [1, 0, 1, 0], "strides": [2, 1], "dilations": [1, 2]}, (2, 6, 5, 7)),
    ("MaxPool", [(2, 4, 9)], {}, {"kernel_shape": [2], "strides": [2]}, (2, 4, 4)),
    ("GlobalAveragePool", [(2, 4, 9, 9)], {}, {}, (2, 4, 1, 1)),
])  # fmt: skip
def test_what_is_told_without_asking(name: str, operands: Any, values: Any, attributes: Any, expected: Any) -> None:
    assert direct_shape(name, operands, values, attributes) == expected
