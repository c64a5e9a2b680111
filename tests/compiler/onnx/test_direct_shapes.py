"""What is worked out without asking agrees with ONNX's own inference, and stays silent where that refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramgraph.compiler.onnx.direct_shapes import DIRECT, direct_shape

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
    types = {n: helper.make_tensor_type_proto(7 if place in integers else 1, operands[place]) for place, n in enumerate(names)}
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
])  # fmt: skip
def test_what_is_told_without_asking(name: str, operands: Any, values: Any, attributes: Any, expected: Any) -> None:
    assert direct_shape(name, operands, values, attributes) == expected
