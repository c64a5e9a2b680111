"""Pictures and DOT text: every set is there, repetitions are drawn once, and nothing depends on names or hashes."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.errors import MissingDependencyError
from paramgraph.exchange.diagram import Repeat, diagram
from paramgraph.exchange.dot import to_dot
from paramgraph.graph import EdgeSet, NodeSet, ParamGraph

from .conftest import by_hand


def chain(blocks: int) -> ParamGraph:
    """An input, equal residual blocks of two rows, an output."""
    node_sets = [NodeSet("in", "input", 3, order=range(3))]
    edge_sets, last, depth = [], "in", 0
    for i in range(blocks):
        node_sets += [NodeSet(f"h{i}", "hidden", 7, depth=depth + 1), NodeSet(f"s{i}", "sum", 3, depth=depth + 2)]
        edge_sets += [
            EdgeSet(f"up{i}", "up", last, f"h{i}", (1, 7, 3, 1)),
            EdgeSet(f"down{i}", "down", f"h{i}", f"s{i}", (1, 3, 7, 1)),
            EdgeSet(f"skip{i}", "skip", last, f"s{i}", (3, 1, 1, 1)),
        ]
        last, depth = f"s{i}", depth + 2
    node_sets.append(NodeSet("out", "output", 5, depth=depth + 1, order=range(5)))
    edge_sets.append(EdgeSet("head", "head", last, "out", (1, 5, 3, 1)))
    return ParamGraph("chain", {n.name: n for n in node_sets}, {e.name: e for e in edge_sets}, None, {})  # type: ignore[arg-type]


def test_repetitions_are_drawn_once() -> None:
    content = diagram(chain(6))
    assert content.repeats == [Repeat(1, 2, 6)]
    assert content.rows == [["in"], ["h0"], ["s0"], ["out"]]
    arrows = {(arrow.source, arrow.target) for arrow in content.arrows}
    assert arrows == {("in", "h0"), ("h0", "s0"), ("in", "s0"), ("s0", "out")}


def test_without_collapsing_every_set_is_drawn() -> None:
    content = diagram(chain(6), collapse=False)
    assert len(content.boxes) == 14 and not content.repeats
    assert len(content.arrows) == 19


def test_blocks_that_differ_are_not_merged() -> None:
    graph = chain(4)
    wide = replace(graph.node_sets["h2"], activation="relu")
    content = diagram(replace(graph, node_sets={**graph.node_sets, "h2": wide}))
    assert content.repeats == [Repeat(1, 2, 2)]
    assert {"h2", "h3"} <= set(content.boxes)


def test_parameters_of_one_node_are_folded(graph: ParamGraph) -> None:
    content = diagram(graph, collapse=False)
    assert all(box.nodes.size > 1 or box.nodes.order is not None for box in content.boxes.values())
    assert any(box.folded for box in content.boxes.values())
    drawn = {edges.name for arrow in content.arrows for edges in arrow.edges}
    assert "conv.weight" in drawn and not any(name.endswith("bias") for name in drawn)


def test_a_png_and_an_svg(graph: ParamGraph, tmp_path: Path) -> None:
    assert pg.export(graph, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    text = pg.export(graph, tmp_path / "a.svg").read_text()
    assert "<svg" in text
    pg.export(by_hand({}), tmp_path / "empty.png")
    with torch.device("meta"):
        meta = pg.compile(nn.Linear(3, 4), torch.zeros(2, 3))
    pg.export(meta, tmp_path / "meta.png")


def test_dot_text(graph: ParamGraph, tmp_path: Path) -> None:
    text = to_dot(graph, collapse=False)
    assert text.startswith('digraph "tied" {') and text.rstrip().endswith("}")
    assert text.count("{") == text.count("}")
    quoted = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    assert '"' not in quoted
    assert text.count("->") == sum(len(arrow.edges) for arrow in diagram(graph, collapse=False).arrows)


def test_dot_escapes_names() -> None:
    graph = replace(by_hand({'we"ird\\name\n': torch.zeros(2)}), name='a "b"')
    assert '\\"' in to_dot(graph) and '"b"\n' not in to_dot(graph)


def test_the_same_text_in_every_process() -> None:
    program = (
        "import torch, paramgraph as pg\n"
        "from paramgraph.exchange.dot import to_dot\n"
        "m = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()\n"
        "print(to_dot(pg.compile(m, torch.zeros(5, 3))))\n"
    )
    texts = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_missing_matplotlib_names_the_extra(graph: ParamGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"paramgraph\[pictures\]"):
        pg.export(graph, tmp_path / "a.png")
