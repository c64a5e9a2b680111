"""The `.pgraph` file: exact both ways, written whole or not at all, and refused where it is not one."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import paramgraph as pg
from paramgraph.errors import FileFormatError
from paramgraph.exchange import pgraph
from paramgraph.graph import Alias, ParamGraph

from .conftest import DTYPES, by_hand, of_dtype, same_bits


def test_a_network_comes_back_bit_for_bit(graph: ParamGraph, network: nn.Module, tmp_path: Path) -> None:
    graph.save(tmp_path / "a.pgraph")
    back = pg.load(tmp_path / "a.pgraph")
    assert same_bits(back.state_dict(), dict(network.state_dict()))
    assert back.symmetry.log_order == graph.symmetry.log_order
    assert back.symmetry.factors == graph.symmetry.factors
    assert (back.num_nodes, back.num_edges, back.num_parameters) == (graph.num_nodes, graph.num_edges, graph.num_parameters)
    assert (back.name, back.names, back.diagnostics) == (graph.name, graph.names, graph.diagnostics)
    assert back.aliases == graph.aliases


def test_structure_comes_back_equal(graph: ParamGraph, tmp_path: Path) -> None:
    graph.save(tmp_path / "a.pgraph")
    back = pg.load(tmp_path / "a.pgraph")
    assert list(back.node_sets) == list(graph.node_sets) and list(back.edge_sets) == list(graph.edge_sets)
    for name, edges in graph.edge_sets.items():
        other = back.edge_sets[name]
        assert (other.type, other.source, other.target, other.shape) == (edges.type, edges.source, edges.target, edges.shape)
        assert all((a == b).all() for a, b in zip(other.edge_index(), edges.edge_index(), strict=True))
        assert (other.position_array() == edges.position_array()).all()
    for name, nodes in graph.node_sets.items():
        other_nodes = back.node_sets[name]
        assert (other_nodes.type, other_nodes.size, other_nodes.depth) == (nodes.type, nodes.size, nodes.depth)
        assert other_nodes.activation == nodes.activation and (other_nodes.order_array() == nodes.order_array()).all()
        assert [spaces for _, spaces in other_nodes.blocks] == [spaces for _, spaces in nodes.blocks]


def test_the_group_acts_as_before(graph: ParamGraph, network: nn.Module, tmp_path: Path) -> None:
    graph.save(tmp_path / "a.pgraph")
    back = pg.load(tmp_path / "a.pgraph")
    state = dict(network.state_dict())
    assert same_bits(back.symmetry.sample(seed=3).act(state), graph.symmetry.sample(seed=3).act(state))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64, torch.complex128, torch.float8_e4m3fn], ids=str)
def test_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    plain = of_dtype(torch.float32) if dtype.is_complex or dtype == torch.float8_e4m3fn else of_dtype(dtype)
    graph = by_hand({"a": plain.to(dtype)})
    graph.save(tmp_path / "a.pgraph")
    assert same_bits(pg.load(tmp_path / "a.pgraph").state_dict(), graph.state_dict())


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1, 1, 1)], ids=str)
def test_every_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    graph = by_hand({"a": of_dtype(torch.float32, shape), "b": of_dtype(torch.int64, shape)})
    graph.save(tmp_path / "a.pgraph")
    assert same_bits(pg.load(tmp_path / "a.pgraph").state_dict(), graph.state_dict())


def test_nan_keeps_its_bits(tmp_path: Path) -> None:
    odd = torch.tensor([0x7FC00001, 0x7F800001 - 2**32 + 2**31, -1], dtype=torch.int32).view(torch.float32)
    graph = by_hand({"a": odd})
    graph.save(tmp_path / "a.pgraph")
    assert same_bits(pg.load(tmp_path / "a.pgraph").state_dict(), graph.state_dict())


def test_values_that_are_views_of_one_buffer(tmp_path: Path) -> None:
    buffer = torch.randn(4, 6)
    graph = by_hand({"a": buffer[:2], "b": buffer[2:].t(), "c": buffer, "d": torch.zeros(1).expand(3)})
    graph.save(tmp_path / "a.pgraph")
    back = pg.load(tmp_path / "a.pgraph").state_dict()
    assert all(torch.equal(back[name], value) for name, value in graph.values.items())


def test_tied_storage_is_written_once_and_stays_tied(tmp_path: Path) -> None:
    base = torch.randn(300, 200)
    graph = by_hand({"a": base}, {"a transposed": Alias("a", (200, 300), (1, 200), 0), "row": Alias("a", (200,), (1,), 200)})
    graph.save(tmp_path / "a.pgraph")
    assert (tmp_path / "a.pgraph").stat().st_size < 1.2 * base.numel() * 4
    back = pg.load(tmp_path / "a.pgraph").state_dict()
    assert torch.equal(back["a transposed"], base.t()) and torch.equal(back["row"], base[1])
    assert len({tensor.untyped_storage().data_ptr() for tensor in back.values()}) == 1


def test_values_with_gradients_and_parameters(tmp_path: Path) -> None:
    graph = by_hand({"a": nn.Parameter(torch.randn(3)), "b": torch.randn(2, requires_grad=True) * 2})
    graph.save(tmp_path / "a.pgraph")
    assert torch.equal(pg.load(tmp_path / "a.pgraph").values["b"], graph.values["b"].detach())


def test_meta_values_come_back_as_meta(tmp_path: Path) -> None:
    with torch.device("meta"):
        huge = nn.Linear(100_000, 100_000)
    graph = pg.compile(huge, torch.zeros(2, 100_000))
    graph.save(tmp_path / "a.pgraph")
    back = pg.load(tmp_path / "a.pgraph")
    assert (tmp_path / "a.pgraph").stat().st_size < 1e6
    assert back.values["weight"].device.type == "meta" and back.values["weight"].shape == (100_000, 100_000)
    assert back.symmetry.log_order == graph.symmetry.log_order


def test_saving_twice_gives_the_same_bytes(graph: ParamGraph, tmp_path: Path) -> None:
    graph.save(tmp_path / "a.pgraph")
    pg.load(tmp_path / "a.pgraph").save(tmp_path / "b.pgraph")
    assert (tmp_path / "a.pgraph").read_bytes() == (tmp_path / "b.pgraph").read_bytes()


def test_a_loaded_graph_outlives_its_file(graph: ParamGraph, tmp_path: Path) -> None:
    graph.save(tmp_path / "a.pgraph")
    back = pg.load(tmp_path / "a.pgraph")
    by_hand({"a": torch.zeros(3)}).save(tmp_path / "a.pgraph")
    (tmp_path / "a.pgraph").unlink()
    assert same_bits(back.state_dict(), graph.state_dict())


# Files that are no graphs.


def _foreign(kind: str, path: Path) -> None:
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif kind == "torch.save":
        torch.save({"a": torch.zeros(2)}, path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("node_sets: none of these\n" * 20)
    elif kind == "short":
        path.write_bytes(b"abc")
    elif kind == "png":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    elif kind == "zeros":
        path.write_bytes(bytes(1000))
    elif kind == "other safetensors":
        save_file({"a": torch.zeros(2)}, path)
    elif kind == "header of lists":
        path.write_bytes(struct.pack("<Q", 9) + b"[1, 2, 3]")
    elif kind == "deep header":
        path.write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000)


@pytest.mark.parametrize(
    "kind", ["pickle", "torch.save", "empty", "text", "short", "png", "zeros", "other safetensors", "header of lists", "deep header"]
)
def test_foreign_files_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pgraph"
    _foreign(kind, path)
    with pytest.raises(FileFormatError, match=r"a\.pgraph: expected a \.pgraph file, got .*Pass a file written by graph\.save"):
        pg.load(path)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_a_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pgraph").write_bytes(pickle.dumps(_Bomb()))
    torch.save(_Bomb(), tmp_path / "b.pgraph")
    for name in ("a.pgraph", "b.pgraph"):
        with pytest.raises(FileFormatError, match="pickle|torch.save"):
            pg.load(name)
    assert not (tmp_path / "exploded").exists()


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no file"):
        pg.load(tmp_path / "none.pgraph")
    with pytest.raises(FileFormatError, match="is a folder"):
        pg.load(tmp_path)


def test_every_truncation_is_refused(graph: ParamGraph, tmp_path: Path) -> None:
    graph.save(tmp_path / "a.pgraph")
    whole = (tmp_path / "a.pgraph").read_bytes()
    for length in [*range(0, 64, 7), *range(64, len(whole), len(whole) // 40), len(whole) - 1]:
        (tmp_path / "b.pgraph").write_bytes(whole[:length])
        with pytest.raises(FileFormatError):
            pg.load(tmp_path / "b.pgraph")
    (tmp_path / "b.pgraph").write_bytes(whole + b"more")
    with pytest.raises(FileFormatError, match="foreign bytes"):
        pg.load(tmp_path / "b.pgraph")


def _edited(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a file's structure; a text that `edit` returns takes its place."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    metadata = header["__metadata__"]
    structure = json.loads(metadata["paramgraph"])
    instead = edit(structure)
    metadata["paramgraph"] = instead if isinstance(instead, str) else json.dumps(structure)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def test_a_newer_version_is_refused_and_says_so(graph: ParamGraph, tmp_path: Path) -> None:
    graph.save(tmp_path / "a.pgraph")
    _edited(tmp_path / "a.pgraph", lambda structure: structure.update(version=999))
    with pytest.raises(FileFormatError, match=r"expected format version \d+ or older, got 999: .*Upgrade paramgraph"):
        pg.load(tmp_path / "a.pgraph")


def _set(where: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of the structure at a path such as `edge_sets/0/source`, where 0 stands for the first key."""

    def edit(structure: dict[str, Any]) -> None:
        *path, last = where.split("/")
        place: Any = structure
        for key in path:
            place = place[list(place)[int(key)] if isinstance(place, dict) and key.isdigit() else int(key) if key.isdigit() else key]
        place[int(last) if isinstance(place, list) else last] = value

    return edit


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("node_sets/0/size", 1),
        ("node_sets/0/size", -5),
        ("node_sets/0/size", "8"),
        ("node_sets/0/size", True),
        ("node_sets/0/name", "other"),
        ("node_sets/0/surprise", 1),
        ("node_sets", []),
        ("edge_sets/0/source", "nowhere"),
        ("edge_sets/0/shape", [1, 1, 1, 10**9]),
        ("edge_sets/0/shape", [1, 1]),
        ("edge_sets/0/parameter/name", "nothing"),
        ("edge_sets/0/parameter/order", [0, 0]),
        ("edge_sets/0/parameter/slices", [[0, 10**9, 1]]),
        ("edge_sets/0/source_index", {"array": 10**6}),
        ("edge_sets/0/source_index", {"array": "os.system"}),
        ("symmetry/spaces/0/factor", 10**6),
        ("symmetry/factors/0/size", 3),
        ("symmetry/factors/0/spaces", [10**6]),
        ("symmetry/actions/0/shape", [1]),
        ("aliases", {"ghost": {"base": "nothing", "size": [1], "stride": [1], "offset": 0}}),
        ("aliases/0/offset", 10**9),
        ("aliases/0/stride", [-1, 1]),
        ("names", ["a"]),
        ("name", 3),
        ("version", 0),
        ("version", "1"),
        ("surprise", []),
        ("values/0/dtype", "object"),
        ("values/0/dtype", "float16"),
        ("values/0/shape", [3]),
        ("diagnostics", [{"kind": 1}]),
    ],
)
def test_files_that_contradict_themselves_are_refused(where: str, value: Any, graph: ParamGraph, tmp_path: Path) -> None:
    graph.save(tmp_path / "a.pgraph")
    _edited(tmp_path / "a.pgraph", _set(where, value))
    with pytest.raises(FileFormatError, match=r"a\.pgraph"):
        pg.load(tmp_path / "a.pgraph")


def test_index_arrays_out_of_range_are_refused(tmp_path: Path) -> None:
    import numpy as np

    graph = by_hand({"a": torch.zeros(3)})
    edges = graph.edge_sets["a"]
    for index in (np.array([[-1]]), np.array([[1]]), np.array([[0.5]])):
        wrong = replace(graph, edge_sets={"a": replace(edges, source_index=index)})
        wrong.save(tmp_path / "a.pgraph")
        with pytest.raises(FileFormatError, match="edge set 'a'"):
            pg.load(tmp_path / "a.pgraph")


def test_a_structure_that_is_no_json(graph: ParamGraph, tmp_path: Path) -> None:
    graph.save(tmp_path / "a.pgraph")
    _edited(tmp_path / "a.pgraph", lambda _: "broken")
    with pytest.raises(FileFormatError, match="expected a structure in JSON"):
        pg.load(tmp_path / "a.pgraph")


# Writing whole or not at all.


def test_a_failing_save_keeps_the_old_file(graph: ParamGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pgraph"
    graph.save(path)
    before = path.read_bytes()

    def half(tensors: Any, filename: Path, metadata: Any) -> None:
        Path(filename).write_bytes(before[: len(before) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pgraph, "save_file", half)
    with pytest.raises(FileFormatError, match=r"No space left on device.*Check"):
        graph.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.pgraph"]


def test_an_interrupted_save_leaves_nothing(graph: ParamGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(tensors: Any, filename: Path, metadata: Any) -> None:
        Path(filename).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pgraph, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        graph.save(tmp_path / "a.pgraph")
    assert os.listdir(tmp_path) == []


def test_unwritable_paths(graph: ParamGraph, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="there is no folder"):
        graph.save(tmp_path / "none" / "a.pgraph")
    with pytest.raises(FileFormatError, match="is a folder"):
        graph.save(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileFormatError, match="cannot write"):
        graph.save(tmp_path / "file" / "a.pgraph")


def test_values_that_no_file_holds(tmp_path: Path) -> None:
    graph = replace(by_hand({"a": torch.zeros(2, 2)}), values={"a": torch.eye(2).to_sparse()})
    with pytest.raises(FileFormatError, match="a: expected a dense tensor"):
        graph.save(tmp_path / "a.pgraph")
    assert os.listdir(tmp_path) == []
