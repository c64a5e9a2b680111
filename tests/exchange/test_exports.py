"""DGL, networkx and GraphML: what is written, and state dicts that come back bit for bit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.errors import FileFormatError, MissingDependencyError, UnknownNameError
from paramgraph.exchange import FORMATS, dgl, graphml, networkx
from paramgraph.exchange.values import type_numbers
from paramgraph.graph import ParamGraph

from .conftest import DTYPES, by_hand, of_dtype, same_bits

EXACT = pytest.mark.parametrize("format", [dgl, networkx, graphml], ids=["dgl", "networkx", "graphml"])


@EXACT
def test_a_network_comes_back_bit_for_bit(
    format: ModuleType, graph: ParamGraph, network: nn.Module, like: ParamGraph, tmp_path: Path
) -> None:
    format.save(graph, tmp_path / "a")
    back = format.load(tmp_path / "a", like)
    assert same_bits(back.state_dict(), dict(network.state_dict()))
    assert back.symmetry.log_order == graph.symmetry.log_order
    assert os.listdir(tmp_path) == ["a"]


@EXACT
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(format: ModuleType, dtype: torch.dtype, tmp_path: Path) -> None:
    graph = by_hand({"a": of_dtype(dtype), "scalar": of_dtype(dtype, ()), "empty": of_dtype(dtype, (0, 2))})
    format.save(graph, tmp_path / "a")
    blank = replace(graph, values={name: torch.zeros_like(value) for name, value in graph.values.items()})
    assert same_bits(format.load(tmp_path / "a", blank).state_dict(), graph.state_dict())


def test_in_memory(graph: ParamGraph, like: ParamGraph) -> None:
    assert same_bits(dgl.from_dgl(graph.to_dgl(), like).state_dict(), graph.state_dict())
    assert same_bits(networkx.from_networkx(graph.to_networkx(), like).state_dict(), graph.state_dict())


def test_dgl_carries_structure_and_features(graph: ParamGraph) -> None:
    out = graph.to_dgl()
    node_types, edge_types = type_numbers(graph)
    assert out.num_nodes() == graph.num_nodes and out.num_edges() == graph.num_edges
    assert set(out.ntypes) == set(graph.node_sets)
    for name, nodes in graph.node_sets.items():
        data = out.nodes[name].data
        assert (data["order"].numpy() == nodes.order_array()).all()
        assert (data["depth"] == nodes.depth).all() and (data["type"] == node_types[nodes.type]).all()
    for edges in graph.edge_sets.values():
        key = (edges.source, edges.name, edges.target)
        source, target = out.edges(etype=key)
        assert all((a.numpy() == b).all() for a, b in zip((source, target), edges.edge_index(), strict=True))
        data = out.edges[key].data
        assert (data["depth"] == edges.depth).all() and (data["type"] == edge_types[edges.type]).all()
        assert data["position"].shape == (edges.num_edges, 3)
        assert torch.equal(data["position"].reshape(-1, edges.shape[3], 3)[-1], torch.from_numpy(edges.position_array()))
        assert ("value" in data) == (edges.parameter is not None)
        if edges.parameter is not None:
            assert torch.equal(data["value"], graph.edge_values(edges).reshape(-1))


def test_dgl_passes_messages(graph: ParamGraph) -> None:
    import dgl as library

    out = graph.to_dgl(idtype=torch.int64)
    edges = graph.edge_sets["conv.weight"]
    part = out[edges.source, edges.name, edges.target]
    part.nodes[edges.source].data["h"] = torch.ones(graph.node_sets[edges.source].size, 1)
    part.edata["w"] = part.edata["value"].unsqueeze(-1)
    part.update_all(library.function.u_mul_e("h", "w", "m"), library.function.sum("m", "h"))
    assert torch.allclose(part.nodes[edges.target].data["h"][:, 0], graph.values["conv.weight"].sum((1, 2)))


def test_networkx_attributes(graph: ParamGraph) -> None:
    out = graph.to_networkx()
    assert out.number_of_nodes() == graph.num_nodes and out.number_of_edges() == graph.num_edges
    nodes = next(nodes for nodes in graph.node_sets.values() if nodes.activation)
    assert out.nodes[nodes.name, 0] == {
        **{"set": nodes.name, "type": nodes.type, "depth": nodes.depth, "activation": nodes.activation, "order": -1},
        **{"magnitude": graph.domain(nodes.name).magnitude, "sign": graph.domain(nodes.name).sign},
    }
    data = next(data for _, _, data in out.edges(data=True) if data["set"] == "conv.weight")
    assert data["parameter"] == "conv.weight" and len(data["position"]) == 3 and isinstance(data["value"], float)


@EXACT
def test_without_values(format: ModuleType, graph: ParamGraph, like: ParamGraph, tmp_path: Path) -> None:
    format.save(graph, tmp_path / "a", values=False)
    with pytest.raises(FileFormatError, match="Export tied again, with values"):
        format.load(tmp_path / "a", like)


@EXACT
def test_graphs_on_meta_are_exported_without_values(format: ModuleType, graph: ParamGraph, tmp_path: Path) -> None:
    meta = replace(graph, values={name: value.to("meta") for name, value in graph.values.items()})
    format.save(meta, tmp_path / "a")
    with pytest.raises(FileFormatError, match="values"):
        format.load(tmp_path / "a", graph)


@EXACT
def test_files_of_another_graph(format: ModuleType, graph: ParamGraph, like: ParamGraph, tmp_path: Path) -> None:
    format.save(by_hand({"a": torch.zeros(3)}), tmp_path / "a")
    with pytest.raises(FileFormatError, match="values of edge set"):
        format.load(tmp_path / "a", like)


@EXACT
def test_foreign_files(format: ModuleType, like: ParamGraph, tmp_path: Path) -> None:
    for content in (b"", b"nonsense", b"[1]", b"<a/>", bytes(200)):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(FileFormatError):
            format.load(tmp_path / "a", like)
    with pytest.raises(FileFormatError):
        format.load(tmp_path / "none", like)


@pytest.mark.parametrize("format", [networkx, graphml], ids=["networkx", "graphml"])
def test_large_graphs_are_refused_with_their_size(format: ModuleType, graph: ParamGraph, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=rf"tied has {graph.num_edges:,} edges; expected at most 10.*max_edges"):
        format.save(graph, tmp_path / "a", max_edges=10)
    assert os.listdir(tmp_path) == []


def test_values_must_cover_the_state_dict(graph: ParamGraph) -> None:
    partial = replace(graph, edge_sets={name: edges for name, edges in graph.edge_sets.items() if name != "conv.weight"})
    with pytest.raises(FileFormatError, match=r"\['conv.weight'\] are not wholly on the edges"):
        dgl.from_dgl(partial.to_dgl(), partial)


def test_dgl_needs_edges() -> None:
    with pytest.raises(FileFormatError, match="no edge sets"):
        by_hand({}).to_dgl()


def test_missing_dgl_names_the_extra(graph: ParamGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dgl", None)
    with pytest.raises(MissingDependencyError, match=r"paramgraph\[dgl\]"):
        graph.to_dgl()


def test_export_by_name_and_by_suffix(graph: ParamGraph, tmp_path: Path) -> None:
    for name in FORMATS:
        assert pg.export(graph, tmp_path / f"a.{name}").stat().st_size > 0
    pg.export(graph, tmp_path / "b", to="graphml", values=False)
    assert "<graphml" in (tmp_path / "b").read_text()


def test_unknown_formats_suggest_a_known_one(graph: ParamGraph, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown export format 'graphlm'.*Did you mean 'graphml'"):
        pg.export(graph, tmp_path / "a", to="graphlm")
    with pytest.raises(UnknownNameError, match="unknown export format 'xyz'"):
        pg.export(graph, tmp_path / "a.xyz")
    with pytest.raises(UnknownNameError):
        pg.export(graph, tmp_path / "a")


def test_a_failing_export_keeps_the_old_file(graph: ParamGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import networkx as library

    def half(_: object, path: Path) -> None:
        Path(path).write_text("<graphml")
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(library, "write_graphml_xml", half)
    with pytest.raises(FileFormatError, match="No space left"):
        graphml.save(graph, tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]
