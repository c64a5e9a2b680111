"""Edited values go back into the ONNX model: onnxruntime runs it, and nothing else of it has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import paramgraph as pg
from paramgraph.errors import FileFormatError, StateDictError
from tests.compiler.onnx.handmade import model, node, weights

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

X = np.random.default_rng(3).standard_normal((5, 4)).astype(np.float32)


def mlp() -> Any:
    constant = onnx.helper.make_node("Constant", [], ["b"], value=onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32), "inside"))
    nodes = [constant, node("MatMul", "x a", "h"), node("Add", "h b", "s"), node("Relu", "s", "r"), node("MatMul", "r c", "y")]
    return model(nodes, {"x": (5, 4)}, weights(a=(4, 6), c=(6, 3), unread=(7,)))


def saved(folder: Path, external: bool) -> Path:
    path = folder / "model.onnx"
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0} if external else {}
    onnx.save(mlp(), str(path), **options)
    return path


def run(path: Path) -> np.ndarray:
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


@pytest.mark.parametrize("external", [False, True])
def test_a_group_element_leaves_the_written_model_unchanged(tmp_path: Path, external: bool) -> None:
    path = saved(tmp_path, external)
    graph = pg.compile(path)
    element = graph.symmetry.sample(seed=1)
    edited = graph.with_values(element.act(graph.state_dict()))
    out = edited.to_onnx(tmp_path / "edited.onnx")
    np.testing.assert_allclose(run(out), run(path), rtol=1e-5, atol=1e-6)
    back = pg.compile(out)
    assert all(torch.equal(back.values[name], edited.values[name]) for name in edited.values)
    assert not torch.equal(back.values["a"], graph.values["a"])


@pytest.mark.parametrize("external", [False, True])
def test_values_are_written_and_nothing_else(tmp_path: Path, external: bool) -> None:
    path = saved(tmp_path, external)
    graph = pg.compile(path)
    state = graph.state_dict()
    out = graph.with_values({**state, "c": state["c"] * 2}).to_onnx(tmp_path / "edited.onnx")
    np.testing.assert_allclose(run(out), 2 * run(path), rtol=1e-5)
    before, after = onnx.load(str(path)), onnx.load(str(out))
    for message in (before, after):
        (changed,) = [t for t in message.graph.initializer if t.name == "c"]
        changed.ClearField("raw_data")
        for tensor in message.graph.initializer:
            tensor.ClearField("external_data")
    assert before == after
    if external:
        old, new = (tmp_path / "weights.bin").read_bytes(), (tmp_path / "edited.onnx.data").read_bytes()
        assert len(old) == len(new) and sum(a != b for a, b in zip(old, new, strict=True)) <= 4 * 18


def test_unchanged_values_give_the_same_file(tmp_path: Path) -> None:
    path = saved(tmp_path, False)
    out = pg.compile(path).to_onnx(tmp_path / "same.onnx")
    assert onnx.load(str(out)) == onnx.load(str(path))


def test_a_model_given_as_a_message_is_written_and_left_alone(tmp_path: Path) -> None:
    message = mlp()
    graph = pg.compile(message)
    copy = message.SerializeToString()
    out = graph.with_values({name: value + 1 for name, value in graph.values.items()}).to_onnx(tmp_path / "edited.onnx")
    assert message.SerializeToString() == copy
    assert torch.equal(pg.compile(out).values["b"], torch.arange(6) + 1.0)


def test_errors(tmp_path: Path) -> None:
    graph = pg.compile(saved(tmp_path, False))
    with pytest.raises(StateDictError, match="float32"):
        graph.with_values({name: value.double() for name, value in graph.values.items()}).to_onnx(tmp_path / "edited.onnx")
    assert not (tmp_path / "edited.onnx").exists()
    other = pg.compile(torch.nn.Linear(3, 2), torch.randn(5, 3))
    with pytest.raises(FileFormatError, match="not compiled from an ONNX model"):
        other.to_onnx(tmp_path / "edited.onnx")
    with pytest.raises(FileFormatError, match="no folder"):
        graph.to_onnx(tmp_path / "none" / "edited.onnx")
