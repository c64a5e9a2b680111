"""Bad files: a clear error of the package's own types, nothing read outside the model's folder, no weights read."""

from __future__ import annotations

import math
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


def test_a_place_that_is_given_twice(tmp_path: Path) -> None:
    """The last entry counts when data are read: a first one must not be what is copied when values go back."""
    (tmp_path / "secret.bin").write_bytes(b"0" * 4096)
    folder = tmp_path / "model"
    folder.mkdir()
    path = external(folder)
    message = onnx.load(str(path), load_external_data=False)
    entries = message.graph.initializer[0].external_data
    entries.insert(0, onnx.StringStringEntryProto(key="location", value="../secret.bin"))
    path.write_bytes(message.SerializeToString())
    with pytest.raises(FileFormatError, match="given twice"):
        pg.compile(path)


@pytest.mark.parametrize("location", ["", "..", ".", "a\0b"])
def test_external_data_in_no_file(tmp_path: Path, location: str) -> None:
    path = external(tmp_path)
    relocated(path, location=location)
    with pytest.raises(FileFormatError, match=r"outside the model's folder|missing"):
        pg.compile(path)
    message = onnx.load(str(path), load_external_data=False)
    del message.graph.initializer[0].external_data[:]
    path.write_bytes(message.SerializeToString())
    with pytest.raises(FileFormatError, match="outside the model's folder"):
        pg.compile(path)


def test_external_data_of_subgraphs_and_functions(tmp_path: Path) -> None:
    """Wherever a tensor stands, its data lie beside the model."""
    tensor = onnx.helper.make_tensor("w", 1, [6], np.zeros(6, np.float32).tobytes(), raw=True)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    held = onnx.helper.make_node("Constant", [], ["k"], value=tensor)
    function = onnx.helper.make_function("own", "Own", ["i"], ["o"], [held, node("Add", "i k", "o")], [onnx.helper.make_opsetid("", 21)])
    branch = onnx.helper.make_graph([held, node("Add", "h k", "t")], "branch", [], [onnx.helper.make_empty_tensor_value_info("t")])
    in_function = model([node("MatMul", "x a", "h"), node("Own", "h", "y", domain="own")], {"x": (5, 4)},
        weights(a=(4, 6)), domains=["own"])
    in_function.functions.append(function)
    in_branch = model([node("MatMul", "x a", "h"), node("If", "f", "y", then_branch=branch, else_branch=branch)], {"x": (5, 4)},
                      weights(a=(4, 6)) | {"f": np.array(True)})
    for message in (in_function, in_branch):
        path = tmp_path / "model.onnx"
        path.write_bytes(message.SerializeToString())
        with pytest.raises(FileFormatError, match="outside the model's folder"):
            pg.compile(path)


def test_a_model_that_changes_after_it_was_compiled(tmp_path: Path) -> None:
    """What is written back into is checked again: nothing outside the folder is copied."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"0" * 4096)
    path = external(folder)
    graph = pg.compile(path)
    relocated(path, location="../secret.bin")
    with pytest.raises(FileFormatError, match="outside the model's folder"):
        graph.to_onnx(folder / "edited.onnx")
    assert not list(folder.glob("edited*"))


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


def with_tensor(**fields: Any) -> Any:
    message = mlp()
    for name, value in fields.items():
        field = getattr(message.graph.initializer[0], name)
        if isinstance(field, (int, bytes)):
            setattr(message.graph.initializer[0], name, value)
        else:
            field[0] = value
    return message


def test_tensors_that_are_no_tensors() -> None:
    empty = mlp()
    empty.graph.initializer[0].ClearField("raw_data")
    few = mlp()
    few.graph.initializer[0].ClearField("raw_data")
    few.graph.initializer[0].float_data.extend([1.0, 2.0])
    for message in (empty, few, with_tensor(raw_data=b"1234"), with_tensor(dims=-4), with_tensor(dims=1 << 40), with_tensor(data_type=0),
                    with_tensor(data_type=99)):
        with pytest.raises(FileFormatError, match=r"do not fill its shape|has the shape \[-4|is no valid ONNX model"):
            pg.compile(message)


def test_names_that_are_given_twice() -> None:
    initialisers, inputs, result, same = mlp(), mlp(), mlp(), mlp()
    initialisers.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 6), np.float32), "a"))
    inputs.graph.input.append(inputs.graph.input[0])
    result.graph.node.append(node("Tanh", "h", "r"))
    same.graph.node.append(node("Tanh", "h", "a"))
    for message, said in ((initialisers, "initialisers are called 'a'"), (inputs, "inputs are called 'x'"), (result, "'r' is redeclared"),
                          (same, "'a' is redeclared")):
        with pytest.raises(FileFormatError, match=said):
            pg.compile(message)


def calling(*functions: tuple[str, list[str]]) -> Any:
    """A model that calls the first of some functions, each of which calls others, one after the other."""
    imports = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("own", 1)]
    message = model([node("MatMul", "x a", "h"), node(functions[0][0], "h", "r", domain="own"), node("MatMul", "r c", "y")], {"x": (5, 4)},
                    weights(a=(4, 6), c=(6, 3)), domains=["own"])
    for name, called in functions:
        steps = [node(inner, f"v{n}", f"v{n + 1}", domain="" if inner == "Relu" else "own") for n, inner in enumerate(called)]
        message.functions.append(onnx.helper.make_function("own", name, ["v0"], [f"v{len(called)}"], steps, imports))
    return message


def test_functions_that_call_themselves_or_too_many() -> None:
    assert pg.compile(calling(("A", ["B", "B"]), ("B", ["Relu"]))).symmetry.log_order > 0
    for message in (calling(("A", ["A"])), calling(("A", ["B"]), ("B", ["Relu", "A"]))):
        with pytest.raises(FileFormatError, match="calls itself"):
            pg.compile(message)
    doubling = [(f"F{n}", [f"F{n + 1}"] * 2) for n in range(40)]
    with pytest.raises(TraceError, match="once its functions are written out"):
        pg.compile(calling(*doubling, ("F40", ["Relu"])))
    chain = [(f"F{n}", [f"F{n + 1}"]) for n in range(4000)]
    with pytest.raises((TraceError, FileFormatError)):
        pg.compile(calling(*chain, ("F4000", ["Relu"])))


def test_subgraphs_that_are_not_there() -> None:
    branch = onnx.helper.make_graph([node("Relu", "h", "t")], "branch", [], [onnx.helper.make_empty_tensor_value_info("t")])
    for name, said in (("If", "no else_branch"), ("Loop", "no body"), ("Scan", "no body")):
        given = {"then_branch": branch} if name == "If" else {}
        nodes = [node("MatMul", "x a", "h"), node(name, "f" if name == "If" else "n f h", "r", **given), node("MatMul", "r c", "y")]
        with pytest.raises(TraceError, match=said):
            pg.compile(model(nodes, {"x": (5, 4)}, weights(a=(4, 6), c=(6, 3)) | {"f": np.array(True), "n": np.array(3)}))


def test_constants_that_are_too_large_to_compute() -> None:
    nodes = [node("MatMul", "x a", "h"), node("ConstantOfShape", "s", "e"), node("ReduceMax", "e", "q", keepdims=0),
        node("Add", "h q", "r"),
             node("Relu", "r", "t"), node("MatMul", "t c", "y")]
    graph = pg.compile(model(nodes, {"x": (5, 4)}, weights(a=(4, 6), c=(6, 3)) | {"s": np.array([1 << 40, 5, 6])}))
    assert graph.symmetry.log_order == pytest.approx(math.log(720))


def test_tensors_without_elements() -> None:
    graph = pg.compile(model([node("MatMul", "x a", "h"), node("Relu", "h", "r"), node("MatMul", "r c", "y")], {"x": (5, 4)},
        weights(a=(4, 0), c=(0, 3))))
    assert graph.symmetry.log_order == 0


def sparse(flat: bool) -> Any:
    """The first layer's matrix holds numbers for three of six units."""
    message = mlp()
    values = onnx.numpy_helper.from_array(np.array([1, 2, 3], np.float32), "a")
    places = np.array([0, 7, 15]) if flat else np.array([[0, 0], [1, 1], [2, 3]])
    del message.graph.initializer[0]
    message.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, onnx.numpy_helper.from_array(places, "places"), [4, 6]))
    return message


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initialisers_are_constants(flat: bool, tmp_path: Path) -> None:
    """The three units that read nothing are exchanged, and the file has its sparse tensor still."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    message = sparse(flat)
    graph = pg.compile(message)
    assert set(graph.values) == {"c"}
    assert graph.symmetry.log_order == pytest.approx(math.log(6))
    assert pg.verify(graph, message, elements=1, inputs=1).passed
    assert onnx.load(str(graph.to_onnx(tmp_path / "same.onnx"))) == message
    message.graph.sparse_initializer[0].dims[0] = 1 << 40
    with pytest.raises(FileFormatError, match="too large"):
        pg.compile(message)
    message.graph.sparse_initializer[0].dims[0] = 1
    with pytest.raises(FileFormatError, match="no valid one"):
        pg.compile(message)


def changed(change: Any, **options: Any) -> Any:
    message = mlp(**options)
    change(message.graph)
    return message


NONSENSE = {
    "a result too many": lambda g: g.node[1].output.append("z"),
    "no result": lambda g: g.node[1].ClearField("output"),
    "a constant without a value": lambda g: g.node.append(onnx.helper.make_node("Constant", [], ["z"])),
    "a cast to nothing": lambda g: g.node.append(onnx.helper.make_node("Cast", ["h"], ["z"])),
    "the shape of nothing": lambda g: g.node.append(onnx.helper.make_node("Shape", [], ["z"])),
    "a choice without alternatives": lambda g: g.node.append(onnx.helper.make_node("Where", ["h"], ["z"])),
    "parts that are not there": lambda g: g.node.append(onnx.helper.make_node("Split", ["h"], ["z"], axis=1, num_outputs=2)),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nodes_that_make_no_sense(name: str) -> None:
    """Neither an error of Python's own, nor the end of the process, which ONNX's inference is to some."""
    with pytest.raises(TraceError):
        pg.compile(changed(NONSENSE[name]))


def test_gains_that_do_not_fit_and_convolutions_in_no_groups() -> None:
    for norm in (node("GroupNormalization", "h g g", "n", num_groups=1), node("Conv", "h c", "n", group=0)):
        message = model([node("Conv", "x a", "h"), norm, node("ReduceMax", "n", "y")], {"x": (2, 3, 5, 5)}, weights(a=(6, 3, 1, 1), g=(3,),
        c=(6, 6, 1, 1)),
                        opset=18)
        try:
            assert pg.compile(message).symmetry.log_order == 0
        except TraceError:
            assert norm.op_type == "Conv"


def test_inputs_that_are_sequences() -> None:
    message = mlp()
    message.graph.input[0].type.CopyFrom(onnx.helper.make_sequence_type_proto(message.graph.input[0].type))
    with pytest.raises(TraceError, match="is a sequence"):
        pg.compile(message)
