"""Bad files: a clear error of the package's own types, nothing read outside the model's folder, no weights read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import paramgraph as pg
from paramgraph.errors import FileFormatError, MissingDependencyError, TraceError
from tests.compiler.onnx.handmade import model, node, weights

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")


def mlp(**options: Any) -> Any:
    nodes = [node("MatMul", "x a", "h"), node("Relu", "h", "r"), node("MatMul", "r c", "y")]
    return model(nodes, {"x": (5, 4)}, weights(a=(4, 6), c=(6, 3)), **options)


def external(folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    onnx.save(mlp(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def relocated(path: Path, **entries: str) -> None:
    message = onnx.load(str(path), load_external_data=False)
    for entry in message.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(message.SerializeToString())


@pytest.mark.parametrize("data", [b"", b"no protobuf at all", b"\x08\x07\x12"], ids=["empty", "text", "cut off"])
def test_corrupt_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"bad\.onnx"):
        pg.compile(path)


def test_a_truncated_model(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(mlp().SerializeToString()[:-40])
    with pytest.raises(FileFormatError):
        pg.compile(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no file"):
        pg.compile(tmp_path / "none.onnx")


def test_external_data_compile_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"\xff" * (tmp_path / "weights.bin").stat().st_size)  # NaN: values are not looked at
    graph = pg.compile(path)
    assert graph.symmetry.log_order > 0
    assert all(bool(value.isnan().all()) for value in graph.values.values())


def test_missing_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(FileFormatError, match="missing"):
        pg.compile(path)


def test_short_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(FileFormatError, match="byte"):
        pg.compile(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin", ""])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"0" * 4096)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = external(folder)
    relocated(path, location=location)
    with pytest.raises(FileFormatError, match="outside the model's folder"):
        pg.compile(path)


def test_unknown_operator_sets() -> None:
    with pytest.raises(TraceError, match="version 99"):
        pg.compile(mlp(opset=99))
    message = mlp()
    message.graph.node[1].domain = "nobody.knows"
    with pytest.raises(TraceError, match=r"nobody\.knows"):
        pg.compile(message)


def test_cyclic_and_dangling_graphs() -> None:
    nodes = [node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]
    with pytest.raises(TraceError, match="cycle"):
        pg.compile(model(nodes, {"x": (5, 4)}, {}))
    with pytest.raises(TraceError, match="nothing defines"):
        pg.compile(model([node("Add", "x ghost", "y")], {"x": (5, 4)}, {}))


def test_nodes_out_of_order_are_put_in_order() -> None:
    message = mlp()
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(message.graph.node)]
    del message.graph.node[:]
    message.graph.node.extend(nodes)
    assert pg.compile(message).symmetry.log_order == pytest.approx(pg.compile(mlp()).symmetry.log_order)


def test_inputs_without_types_or_sizes() -> None:
    message = mlp()
    message.graph.input[0].ClearField("type")
    with pytest.raises(TraceError, match="element type"):
        pg.compile(message)
    open_ = mlp()
    open_.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(TraceError, match="has no shape"):
        pg.compile(open_)
    assert pg.compile(open_, np.zeros((5, 4), np.float32)).symmetry.log_order > 0


def test_open_dimensions_by_name() -> None:
    message = mlp()
    message.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    assert pg.compile(message).symmetry.log_order > 0
    assert pg.compile(message, dimensions={"batch": 2}).symmetry.log_order > 0
    with pytest.raises(TraceError, match="no dimension or input 'rows'"):
        pg.compile(message, dimensions={"rows": 2})
    with pytest.raises(TraceError, match="does not fit"):
        pg.compile(message, np.zeros((5, 7), np.float32))


def test_operands_that_do_not_fit() -> None:
    with pytest.raises(TraceError, match="MatMul"):
        pg.compile(model([node("MatMul", "x a", "y")], {"x": (5, 4)}, weights(a=(5, 6))))


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    message = mlp()
    monkeypatch.setitem(__import__("sys").modules, "onnx_ir", None)
    with pytest.raises(MissingDependencyError, match=r"paramgraph\[onnx\]"):
        pg.compile(message)


def damaged(seed: int) -> bytes:
    """A model with some bytes changed, lost or repeated."""
    rng = np.random.default_rng(seed)
    data = bytearray(mlp().SerializeToString())
    for _ in range(rng.integers(1, 4)):
        place, width = int(rng.integers(len(data))), int(rng.integers(1, 12))
        kind = rng.integers(3)
        if kind == 0:
            data[place] = int(rng.integers(256))
        elif kind == 1:
            del data[place : place + width]
        else:
            data[place:place] = data[place : place + width]
    return bytes(data)


def test_damaged_files_give_errors_of_the_package(tmp_path: Path) -> None:
    """Whatever is damaged: the model compiles, or the error is one that says what is wrong with the file."""
    path = tmp_path / "damaged.onnx"
    refused = 0
    for seed in range(400):
        path.write_bytes(damaged(seed))
        try:
            pg.compile(path)
        except (FileFormatError, TraceError):
            refused += 1
    assert 100 < refused < 400


@pytest.mark.parametrize(("offset", "said"), [("-8", "start at byte -8"), ("x", "no number")])
def test_places_of_external_data(tmp_path: Path, offset: str, said: str) -> None:
    path = external(tmp_path)
    relocated(path, offset=offset)
    with pytest.raises(FileFormatError, match=said):
        pg.compile(path)


def test_external_data_that_are_cut_off(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(FileFormatError, match="end at byte"):
        pg.compile(path)


def test_data_that_do_not_fill_their_shape() -> None:
    message = mlp()
    message.graph.initializer[0].dims[0] = 40
    with pytest.raises(FileFormatError, match="do not fill its shape"):
        pg.compile(message)


def test_inputs_that_are_sequences() -> None:
    message = mlp()
    message.graph.input[0].type.CopyFrom(onnx.helper.make_sequence_type_proto(message.graph.input[0].type))
    with pytest.raises(TraceError, match="is a sequence"):
        pg.compile(message)
