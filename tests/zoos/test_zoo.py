"""What all readers share: the zoo as a population, growing stacks, tables, progress."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import paramgraph as pg
from paramgraph.errors import FileFormatError, MetanetError, StateDictError
from paramgraph.metanets import Stack, collate
from paramgraph.zoos.growing import Growing
from paramgraph.zoos.progress import tracked
from paramgraph.zoos.tables import columns, json_lines, read_csv

X = torch.rand(5, 4)


def zoo():
    graphs = [pg.compile(nn.Linear(4, width), X) for width in (2, 3, 3, 2, 3)]
    stacks = [Stack.of(graphs[number], [graphs[n].values for n in members]) for number, members in ((0, (0, 3)), (1, (1, 2, 4)))]
    return graphs, pg.zoos.Zoo(stacks, [(0, 0), (1, 0), (1, 1), (0, 1), (1, 2)], [5, 6, 7, 8, 9], {"name": np.array(list("abcde"))})


def test_networks_keep_their_order_over_architectures():
    graphs, found = zoo()
    for number, graph in enumerate(graphs):
        network, label = found[number]
        assert all(torch.equal(network.values[name], value) for name, value in graph.values.items()) and label == 5 + number
    seen = {}
    for networks, labels in DataLoader(found, batch_size=3, shuffle=True, collate_fn=collate):
        singles = [graph for stack in networks for graph in stack]
        seen.update(zip(labels.tolist(), singles, strict=True))
    assert all(torch.equal(seen[5 + n].values["weight"], graph.values["weight"]) for n, graph in enumerate(graphs))


def test_subsets_are_zoos_with_tables():
    graphs, found = zoo()
    part = found.subset(torch.tensor([4, 3, 1]))
    assert part.table["name"].tolist() == ["e", "d", "b"] and part.labels.tolist() == [9, 8, 6]
    assert torch.equal(part[0][0].values["weight"], graphs[4].values["weight"])
    assert torch.equal(part[1][0].values["weight"], graphs[3].values["weight"])
    masked = found.subset(found.table["name"] != "b")
    assert masked.table["name"].tolist() == list("acde") and masked.labels.tolist() == [5, 7, 8, 9]
    assert torch.equal(masked[1][0].values["weight"], graphs[2].values["weight"])
    with pytest.raises(MetanetError, match="mask of 5"):
        found.subset(np.array([True, False]))
    with pytest.raises(MetanetError):
        found.subset([])
    other = pickle.loads(pickle.dumps(part))
    assert other.table["name"].tolist() == ["e", "d", "b"] and "3 networks of 2 architectures; columns name" in repr(other)


def test_a_zoo_says_what_does_not_fit():
    _, found = zoo()
    with pytest.raises(MetanetError, match="labels: expected 5 entries"):
        pg.zoos.Zoo(found.stacks, found._places, [1, 2])
    with pytest.raises(MetanetError, match="name: expected 5 entries"):
        pg.zoos.Zoo(found.stacks, found._places, None, {"name": np.zeros(3)})
    with pytest.raises(MetanetError, match="a place for each of 5"):
        pg.zoos.Zoo(found.stacks, [(0, 0)], None)


def test_stacks_grow_in_place_and_keep_all_types():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 4, dtype=torch.bfloat16))
            self.register_buffer("n", torch.tensor(7))
            self.register_buffer("flag", torch.tensor([True, False]))

        def forward(self, x):
            return x @ self.w.float().T * self.n + self.flag.any()

    growing = Growing(pg.compile(Mixed(), X))
    states = []
    for number in range(100):
        state = Mixed().state_dict()
        state["n"] = torch.tensor(number)
        state["w"] = torch.randn(4, 3, dtype=torch.bfloat16).T  # strided
        states.append(state)
        growing.append(state)
    stack = growing.stack()
    for name, values in stack.values.items():
        assert torch.equal(values, torch.stack([state[name] for state in states])) and values.dtype == states[0][name].dtype
    with pytest.raises(StateDictError):
        Growing(stack.graph).append({"w": states[0]["w"]})


def test_columns_have_the_types_of_their_entries(tmp_path):
    table = columns([{"a": 1, "b": 2.5, "c": "x", "d": [1], "e": True}, {"a": 2, "c": "y", "e": False, "f": 3}])
    assert table["a"].dtype == np.int64 and table["e"].dtype == bool
    assert np.isnan(table["b"][1]) and np.isnan(table["f"][0]) and table["c"].tolist() == ["x", "y"] and table["d"].tolist() == [[1], None]
    (tmp_path / "t.csv").write_text('i,f,gap,id,text\n1,0.5,,007,"a, b"\n2,1e-3,2,008,c\n')
    found = read_csv(tmp_path / "t.csv")
    assert found["i"].tolist() == [1, 2] and found["f"].tolist() == [0.5, 0.001] and np.isnan(found["gap"][0])
    assert found["id"].tolist() == ["007", "008"] and found["text"].tolist() == ["a, b", "c"]


def test_columns_of_several_blocks_agree(tmp_path, monkeypatch):
    monkeypatch.setattr("paramgraph.zoos.tables._AT_ONCE", 2)
    (tmp_path / "t.csv").write_text("a,b\n1,1\n2,2\n3,x\n0.5,y\n,\n")
    found = read_csv(tmp_path / "t.csv")
    assert found["b"].tolist() == ["1", "2", "x", "y", ""] and found["a"][:4].tolist() == [1, 2, 3, 0.5] and np.isnan(found["a"][4])


def test_json_lines_may_end_in_the_middle(tmp_path):
    (tmp_path / "r.json").write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert json_lines(tmp_path / "r.json") == [{"a": 1}, {"a": 2}]
    (tmp_path / "r.json").write_text('{"a": 1}\n{"a"\n{"a": 2}')
    with pytest.raises(FileFormatError):
        json_lines(tmp_path / "r.json")
    (tmp_path / "r.json").write_text("[1, 2]")
    with pytest.raises(FileFormatError, match="one per line"):
        json_lines(tmp_path / "r.json")


def test_a_bar_is_shown_after_two_seconds_only(monkeypatch, capsys):
    assert list(tracked(range(3), "reading", True)) == [0, 1, 2] and capsys.readouterr().err == ""
    monkeypatch.setattr("paramgraph.zoos.progress.QUIET", -1.0)
    assert list(tracked(range(3), "reading", None)) == [0, 1, 2] and capsys.readouterr().err == ""  # no terminal
    assert list(tracked(range(3), "reading", True)) == [0, 1, 2] and "3/3" in capsys.readouterr().err
