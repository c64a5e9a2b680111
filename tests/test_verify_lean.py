"""Verification holds no second copy of the parameters, and takes from earlier runs what did not change: with the same results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.compiler.trace import trace
from paramgraph.symmetries.group import GroupElement
from paramgraph.verification.execute import Execution
from paramgraph.verification.laws import laws
from paramgraph.verification.states import Acted, Changed, moved_tensors
from tests.support import attention, branches, layers  # noqa: F401  registers the cases
from tests.support.cases import CASES

# Bytes for each parameter beside the network itself: 8 for the values, and what the largest tensor takes while it is acted on.
MOST = 20


def wide_network() -> nn.Module:
    return nn.Sequential(nn.Linear(300, 600), nn.ReLU(), nn.Linear(600, 500), nn.ReLU(), nn.Linear(500, 4)).eval()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from /proc")
def test_memory_stays_within_bytes_for_each_parameter() -> None:
    code = """
import torch
from torch import nn
import paramgraph as pg
torch.set_num_threads(1)
held = lambda key: next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
model = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(1500, 1500), nn.ReLU()))).eval()
x = torch.randn(2, 1500)
graph = pg.compile(model, x)
pg.verify(pg.compile(small := nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), y := torch.randn(2, 3)), small, y)  # imports
before = held("VmRSS")
report = pg.verify(graph, model, x, elements=1, inputs=2, bundles=3, leave_one_out=2)
print(report.passed, (held("VmHWM") - before) / sum(p.numel() for p in model.parameters()))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found[0] == "True"
    assert float(found[1]) < MOST, found


@pytest.mark.parametrize("name", ["two-head attention", "wide"])
def test_rows_are_those_of_the_whole(name: str) -> None:
    model, inputs = CASES[name].build() if name in CASES else (wide_network(), torch.randn(2, 300))
    group = pg.compile(model, inputs).symmetry
    elements = [group.sample(1), *(group.sample(2, factors=[number]) for number in range(min(6, len(group.factors))))]
    compared = 0
    for action in group.actions:
        tensor = torch.randn(group.actions[action].shape, dtype=torch.float64)
        for element in elements:
            rows = torch.randperm(len(tensor))[: 1 + len(tensor) // 2]
            found = element.act_on_rows(action, rows, lambda chosen, tensor=tensor: tensor[chosen])
            if found is not None:
                assert torch.equal(found, element.act_on({action: tensor})[action][rows])
                compared += 1
    assert compared


def test_laws_on_rows_of_large_tensors_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wide_network()
    group = pg.compile(model, torch.randn(2, 300)).symmetry
    names, generator = ["2.weight"], torch.Generator().manual_seed(0)
    assert group.sample(0).act_on_rows("2.weight", torch.tensor([3]), lambda rows: torch.ones(len(rows), 600)) is not None
    assert all(laws(group, names, generator).values())
    identity, inverse = type(group).identity, GroupElement.inverse
    monkeypatch.setattr(type(group), "identity", lambda self: self.sample(1))
    monkeypatch.setattr(GroupElement, "inverse", lambda self: self)
    monkeypatch.setattr(GroupElement, "__matmul__", lambda self, other: inverse(inverse(self)))
    assert not any(laws(group, names, generator).values())
    assert identity(group).is_identity()


def test_tensors_that_move_are_found_by_rows_or_by_the_whole() -> None:
    model = wide_network()
    group = pg.compile(model, torch.randn(2, 300)).symmetry
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for number in range(len(group.factors)):
        element = group.sample(number, factors=[number])
        whole = element.act(state)
        moved = [name for name in state if not torch.equal(whole[name], state[name])]
        assert list(moved_tensors(element, state, list(state))) == moved != []
    assert list(moved_tensors(group.identity(), state, list(state))) == []
    last = GroupElement(group, {0: torch.cat([torch.arange(598), torch.tensor([599, 598])])[None].numpy()})  # two rows in 600
    assert {"0.weight", "0.bias"} <= set(moved_tensors(last, state, ["0.weight", "0.bias"]))


def test_states_computed_when_read_are_those_of_the_action() -> None:
    for name in ("tied embedding", "experts in a list, first"):
        model, inputs = CASES[name].build()
        graph = pg.compile(model, inputs)
        state = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in model.state_dict().items()}
        element = graph.symmetry.sample(0)
        made = Acted(element, state)
        acted = Changed(state, graph.aliases, made.names, made)
        whole = element.act(state)
        assert all(torch.equal(acted[key], whole[key]) for key in state)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x
        for layer in self.layers:
            x = x + torch.tanh(layer(x)).sort(-1)[0]
        return x * first + first.sum()


@pytest.mark.parametrize("room", [0, 10_000, 20_000, 1 << 30])
def test_runs_from_the_middle_give_what_whole_runs_give(room: int) -> None:
    model, x = Residual().eval(), torch.randn(4, 16, dtype=torch.float64)
    traced = trace(model, x.float())
    execution = Execution(traced.exported, room)
    state = {name: torch.randn(tensor.shape, dtype=torch.float64) for name, tensor in traced.state.items()}
    base = execution.run(state, [x], keep=True)
    assert sum(v.numel() * 8 for v in base.nodes.values() if isinstance(v, torch.Tensor)) <= room
    assert bool(base.nodes) == (room > 0)
    for name in state:
        other = {**state, name: torch.randn(state[name].shape, dtype=torch.float64)}
        (whole,), (part,) = execution.run(other, [x]).values, execution.run(other, [x], base, {name}).values
        assert torch.equal(part, whole)
        assert not torch.equal(part, base.values[0])


def test_tensors_are_read_once_in_a_run_and_only_where_something_changed() -> None:
    model, x = Residual().eval(), torch.randn(4, 16, dtype=torch.float64)
    traced = trace(model, x.float())
    execution, state = Execution(traced.exported), {name: tensor.double() for name, tensor in traced.state.items()}
    read: list[str] = []

    def value(name: str) -> torch.Tensor:
        read.append(name)
        return state[name]

    counted = Changed({}, {}, state.keys(), value)
    base = execution.run(counted, [x], keep=True)
    assert sorted(read) == sorted(state)
    read.clear()
    execution.run(counted, [x], base, {"layers.10.weight"})
    assert set(read) == {"layers.10.weight", "layers.10.bias", "layers.11.weight", "layers.11.bias"}
