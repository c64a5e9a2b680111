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


def test_a_file_is_the_same_byte_for_byte_where_nothing_changed(tmp_path: Path) -> None:
    path = saved(tmp_path, False)
    assert pg.compile(path).to_onnx(tmp_path / "same.onnx").read_bytes() == path.read_bytes()


def test_bytes_that_two_tensors_share_are_changed_for_one(tmp_path: Path) -> None:
    """Equal weights may lie in one place of the data; an edit of one leaves the other, and one of both alike needs no place of its own."""
    nodes = [node("MatMul", "x a", "h"), node("Relu", "h", "r"), node("MatMul", "r b", "s"), node("Relu", "s", "t"), node("MatMul", "t c", "y")]
    message = model(nodes, {"x": (5, 4)}, weights(a=(4, 4), b=(4, 4), c=(4, 3)))
    path = tmp_path / "model.onnx"
    onnx.save(message, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    stored = onnx.load(str(path), load_external_data=False)
    a, b = stored.graph.initializer[:2]
    for mine, other in zip(b.external_data, a.external_data, strict=True):
        mine.value = other.value
    path.write_bytes(stored.SerializeToString())
    graph = pg.compile(path)
    before = graph.state_dict()
    assert torch.equal(before["a"], before["b"])
    out = graph.with_values({**before, "a": before["a"] * 2}).to_onnx(tmp_path / "edited.onnx")
    after = pg.compile(out).state_dict()
    assert torch.equal(after["a"], before["a"] * 2)
    assert torch.equal(after["b"], before["b"]) and torch.equal(after["c"], before["c"])
    assert run(out).shape == (5, 3)


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"])
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("inputs", [True, False])
def test_every_form_that_a_tensor_has_in_a_file(tmp_path: Path, kind: str, raw: bool, inputs: bool) -> None:
    """Bytes or numbers, of every kind; of old files, whose initialisers are inputs as well. What is not edited keeps its form."""
    number = getattr(onnx.TensorProto, kind)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(number)
    tensors = {name: data.astype(dtype) for name, data in weights(a=(4, 6), c=(6, 3)).items()}
    message = model([node("MatMul", "x a", "h"), node("Relu", "h", "r"), node("MatMul", "r c", "y")], {"x": (5, 4)}, {}, opset=13)
    message.ir_version = 3 if inputs else 10
    message.graph.input[0].type.tensor_type.elem_type = number
    for name, data in tensors.items():
        message.graph.initializer.append(onnx.helper.make_tensor(name, number, data.shape, data.tobytes() if raw else data.reshape(-1), raw=raw))
        if inputs:
            message.graph.input.append(onnx.helper.make_tensor_value_info(name, number, data.shape))
    path = tmp_path / "model.onnx"
    path.write_bytes(message.SerializeToString())
    graph = pg.compile(path)
    assert set(graph.values) == {"a", "c"}
    assert graph.to_onnx(tmp_path / "same.onnx").read_bytes() == path.read_bytes()
    out = onnx.load(str(graph.with_values({**graph.values, "a": graph.values["a"] * 2}).to_onnx(tmp_path / "edited.onnx")))
    assert out.graph.initializer[1] == message.graph.initializer[1]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(out.graph.initializer[0]).astype(float), 2 * tensors["a"].astype(float))
    assert pg.verify(graph, path, elements=1, inputs=1).passed


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
