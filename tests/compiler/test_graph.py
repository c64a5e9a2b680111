"""The emitted graph: every element once, the group acts on it, and its automorphisms are exactly the group."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import paramgraph as pg
from paramgraph.graph import EdgeSet, NodeSet
from paramgraph.symmetries.group import GroupElement
from tests.support import algebra, attention, branches, derivatives, gathered, indexing, layers, layouts, merging, pairing, values  # noqa: F401  register the cases
from tests.support.automorphisms import log_action, log_automorphisms
from tests.support.cases import CASES, Case, compiled, lam

# igraph counts up to this many edges in about a second.
SMALL = [case for case in CASES.values()]
# Layouts whose results have nodes between two hubs, which may be exchanged without moving any parameter: the action on parameters is counted.
THROUGH = "relative positions by shifting"


def node_permutation(element: GroupElement, nodes: NodeSet) -> np.ndarray:
    """Where the nodes of a set go under a group element."""
    out = np.arange(nodes.size)
    for index, spaces in nodes.blocks:
        if not spaces:
            continue
        image = element.permutation_of(spaces)
        where = np.arange(len(image)) if index is None else index
        out[where] = where[image]
    return out


def keyed(edges: EdgeSet, source: np.ndarray, target: np.ndarray, sizes: tuple[int, int]) -> np.ndarray:
    position = np.broadcast_to(np.arange(edges.shape[3]), edges.shape).reshape(-1)
    return (source * sizes[1] + target) * edges.shape[3] + position


@pytest.fixture(params=SMALL, ids=lambda case: case.name)
def graph(request: pytest.FixtureRequest) -> pg.ParamGraph:
    return compiled(request.param.name)[2]


def test_every_element_is_on_exactly_one_edge(graph: pg.ParamGraph) -> None:
    seen = {name: np.zeros(value.numel(), dtype=int) for name, value in graph.values.items()}
    for edges in graph.parameter_edges():
        assert edges.parameter is not None
        numbers = edges.parameter.element_numbers(edges.shape).reshape(-1)
        np.add.at(seen[edges.parameter.name], numbers, 1)
        flat = graph.values[edges.parameter.name].reshape(-1)
        assert torch.equal(graph.edge_values(edges).reshape(-1), flat[torch.from_numpy(numbers.copy())])
    assert all((count == 1).all() for count in seen.values()), {k: v for k, v in seen.items() if (v != 1).any()}


def test_group_elements_are_automorphisms_that_carry_the_values(graph: pg.ParamGraph) -> None:
    element = graph.symmetry.sample(seed=3, kinds=["permutation"])
    moved = graph.with_values(element.act(graph.state_dict()))
    images = {name: node_permutation(element, nodes) for name, nodes in graph.node_sets.items()}
    for nodes in graph.node_sets.values():
        assert np.array_equal(nodes.order_array()[images[nodes.name]], nodes.order_array())
    # Branches that are exchanged have edge sets of their own, of one type, between the same nodes.
    alike: dict[object, list[EdgeSet]] = {}
    for edges in graph.edge_sets.values():
        alike.setdefault((edges.type, edges.source, edges.target, edges.shape[3], edges.parameter is None), []).append(edges)
    for own in alike.values():
        names = [edges.name for edges in own]
        sizes = (graph.node_sets[own[0].source].size, graph.node_sets[own[0].target].size)
        ends = [edges.edge_index() for edges in own]
        before = np.concatenate([keyed(edges, *end, sizes) for edges, end in zip(own, ends, strict=True)])
        after = np.concatenate([
            keyed(edges, images[edges.source][source], images[edges.target][target], sizes)
            for edges, (source, target) in zip(own, ends, strict=True)
        ])
        rank = np.argsort(before, kind="stable")
        place = rank[np.searchsorted(before[rank], after).clip(max=len(rank) - 1)]
        assert np.array_equal(before[place], after), f"{names} are not mapped to themselves"
        if own[0].parameter is not None and len(np.unique(before)) == len(before):
            old, new = (torch.cat([g.edge_values(edges).reshape(-1) for edges in own]) for g in (graph, moved))
            assert torch.equal(new[torch.from_numpy(place)], old), names


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_automorphisms_are_the_group(case: Case) -> None:
    _, _, graph = compiled(case.name)
    if graph.num_edges > 30_000:
        pytest.fail(f"{case.name} is too large to count: make it smaller")
    assert graph.symmetry.log_order == pytest.approx(case.log_order, abs=1e-6)
    count = log_action if case.name.startswith(THROUGH) else log_automorphisms
    assert count(graph) == pytest.approx(case.log_order, abs=1e-6)


def test_query_key_value_and_output_are_of_different_types() -> None:
    graph = pg.compile(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval(), torch.randn(3, 7, 8))
    types = {}
    for edges in graph.parameter_edges():
        assert edges.parameter is not None
        if edges.parameter.name.endswith("proj_weight") or edges.parameter.name.endswith("out_proj.weight"):
            types.setdefault(edges.type, []).append(edges.parameter.name)
    assert len(types) == 4


def test_gate_and_up_projections_are_of_different_types() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up, self.down = nn.Linear(4, 12, bias=False), nn.Linear(6, 2, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate, up = self.gate_up(x).chunk(2, -1)
            return self.down(torch.nn.functional.silu(gate) * up)

    graph = pg.compile(Gated(), torch.randn(5, 4))
    packed = [e for e in graph.parameter_edges() if e.parameter is not None and e.parameter.name == "gate_up.weight"]
    assert len(packed) == 2 and len({e.type for e in packed}) == 2


def test_deepsets_matrices_are_of_different_types() -> None:
    _, _, graph = compiled(next(name for name in CASES if "deep" in name.lower() and "set" in name.lower()))
    pairs: dict[tuple[str, str], list[str]] = {}
    for edges in graph.parameter_edges():
        pairs.setdefault((graph.node_sets[edges.source].type, edges.target), []).append(edges.type)
    assert all(len(set(types)) == len(types) for types in pairs.values())


def test_residual_streams_share_a_space_between_node_sets() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x)
            return self.c(h + torch.tanh(self.b(h)))

    graph = pg.compile(Residual(), torch.randn(4, 3))
    spaces = [nodes.blocks[0][1] for nodes in graph.node_sets.values() if nodes.size == 6]
    assert len(spaces) >= 3 and len(set(spaces)) == 1
    assert any(edges.connectivity == "diagonal" and edges.parameter is None for edges in graph.edge_sets.values())


def test_values_are_held_by_reference_and_come_back_bit_for_bit() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).eval()
    graph = pg.compile(model, torch.randn(3, 4))
    state = graph.state_dict()
    assert list(state) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor)
        assert state[name].untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    for edges in graph.parameter_edges():
        assert edges.parameter is not None
        base = graph.values[edges.parameter.name]
        assert graph.edge_values(edges).untyped_storage().data_ptr() == base.untyped_storage().data_ptr()


def test_a_shared_weight_is_one_parameter_with_two_uses() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.w, self.o = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.o(torch.relu(self.w(torch.relu(self.w(torch.relu(self.a(x)))))))

    graph = pg.compile(Twice(), torch.randn(4, 3))
    uses = [e.parameter.use for e in graph.edge_sets.values() if e.parameter is not None and e.parameter.name == "w.weight"]
    assert sorted(uses) == [0, 1]
    assert log_automorphisms(graph) == pytest.approx(graph.symmetry.log_order)


def test_a_computed_weight_read_both_ways_is_dense_both_times() -> None:
    """Its factors are aligned with the same two layers twice, once the other way round."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.o = nn.Linear(4, 3), nn.Linear(3, 2)
            self.a, self.b = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(3, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            w = self.a * self.b
            return self.o(torch.tanh(torch.tanh(torch.tanh(self.i(x)) @ w) @ w.T))

    graph = pg.compile(Both(), torch.randn(7, 4))
    for name in ("a", "b"):
        there, back = (e for e in graph.edge_sets.values() if e.parameter is not None and e.parameter.name == name)
        assert (there.connectivity, there.shape) == ("dense", (1, 5, 3, 1))
        assert (back.connectivity, back.shape) == ("dense", (1, 3, 5, 1)) and back.source == there.target
    assert log_action(graph) == pytest.approx(graph.symmetry.log_order) == pytest.approx(lam(3) + lam(5))


class Folded(nn.Module):
    """A layer whose weight is made of the parts of one parameter."""

    def __init__(self, fold: Callable[[torch.Tensor], torch.Tensor], *shape: int) -> None:
        super().__init__()
        self.fold, self.i, self.o, self.p = fold, nn.Linear(4, 3), nn.Linear(5, 2), nn.Parameter(torch.randn(*shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(torch.tanh(torch.tanh(self.i(x)) @ self.fold(self.p)))


@pytest.mark.parametrize(("fold", "shape", "log_order"), [
    (lambda p: p[0] * p[1], (2, 3, 5), lam(3) + lam(5)),
    (lambda p: torch.cat([p[:, 3:].sin(), p[:, :3]], 1), (3, 5), lam(3) + lam(3) + lam(2)),
], ids=["multiplied", "joined"])  # fmt: skip
def test_parts_of_a_parameter_that_meet_in_a_weight_all_move(
    fold: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...], log_order: float
) -> None:
    """No part is taken for one that nothing reads, which would stay where it is."""
    model, x = Folded(fold, *shape).double(), torch.randn(7, 4, dtype=torch.float64)
    graph = pg.compile(model, x)
    assert not any(edges.name.startswith("p.unused") for edges in graph.parameter_edges())
    assert log_action(graph) == pytest.approx(graph.symmetry.log_order) == pytest.approx(log_order)
    moved = graph.symmetry.sample(0, kinds=["permutation"]).act(graph.state_dict())
    assert not torch.equal(moved["p"], graph.values["p"])
    assert torch.allclose(functional_call(model, moved, (x,)), model(x), rtol=1e-12, atol=1e-12)


def test_depth_is_the_longest_path_from_an_input() -> None:
    graph = pg.compile(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(6, 3))
    flow = nx.DiGraph((e.source, e.target) for e in graph.edge_sets.values() if not e.type.endswith(("bias",)))
    depths = [graph.node_sets[name].depth for name in nx.topological_sort(flow)]
    assert depths == sorted(depths) and max(depths) == 3


def test_unused_parameters_are_in_the_graph_but_in_no_group() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.aux = nn.Linear(3, 4), nn.Linear(7, 9)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x)

    graph = pg.compile(Unused(), torch.randn(5, 3))
    assert sum(e.num_edges for e in graph.parameter_edges()) == graph.num_parameters
    assert {d.subject for d in graph.diagnostics if d.kind == "unused"} == {"aux.weight", "aux.bias"}
    assert not graph.symmetry.actions["aux.weight"].components


def test_no_edge_is_drawn_twice() -> None:
    """Products of a state that is a parameter and two blocks of a matrix: pairs of elements of one space are linked once with each of the two."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.o = nn.Linear(4, 18), nn.Linear(6, 3)
            self.r, self.h = nn.Parameter(torch.randn(6, 18)), nn.Parameter(torch.randn(2, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            keep, reset, new = self.w(x).chunk(3, 1)
            from_state = self.h @ self.r[:, :12]
            z, g = torch.sigmoid(keep + from_state[:, :6]), torch.sigmoid(reset + from_state[:, 6:])
            return self.o((1 - z) * torch.tanh(new + (g * self.h) @ self.r[:, 12:]) + z * self.h)

    graph = pg.compile(Gated(), torch.randn(2, 4))
    members = [edges for edges in graph.edge_sets.values() if edges.type.startswith("member.")]
    drawn = {(e.source, e.target, e.type, np.stack([i.reshape(-1) for i in e.edge_index()]).tobytes()) for e in members}
    assert len(members) == len(drawn) > 0
    assert log_action(graph) == pytest.approx(graph.symmetry.log_order)
