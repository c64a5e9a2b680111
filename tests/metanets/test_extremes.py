"""Largest and smallest messages: those of a loop over the edges, in tiles and at once, on every engine, with their gradients."""

import math

import pytest
import torch

from paramgraph.backends.conformance import CASES
from paramgraph.backends.protocol import Block
from paramgraph.metanets.baselines import NGGNN
from paramgraph.metanets.extremes import largest_at_targets, with_negatives

from .handmade import everything, mlp
from .test_gmn import deviation


@pytest.mark.parametrize("case", CASES, ids=str)
def test_largest_are_those_of_a_loop(case):
    torch.manual_seed(0)
    index = [None if i is None else torch.as_tensor(i, dtype=torch.int64) for i in (case.edges.source_index, case.edges.target_index)]
    block = Block(case.edges.shape, case.num_sources, case.num_targets, *index)
    edge = torch.randn(case.batch, *case.edges.shape, 3, dtype=torch.float64).round(decimals=1).requires_grad_()
    found = largest_at_targets(block, edge)
    rows, targets = edge.reshape(case.batch, -1, 3), torch.as_tensor(case.edges.edge_index()[1].copy())
    for node in range(case.num_targets):
        into = rows[:, targets == node]
        expected = into.amax(1) if into.shape[1] else torch.full_like(found[:, node], -math.inf)
        assert torch.equal(found[:, node], expected)
    kept = torch.where(found.isfinite(), found, 0.0)
    if kept.requires_grad and kept.numel():
        of_edge = torch.autograd.grad(kept.sum(), edge)[0].reshape(rows.shape)
        for node in range(case.num_targets):
            assert torch.allclose(of_edge[:, targets == node].sum(1), found[:, node].isfinite().double())
        assert bool((of_edge >= 0).all())


def test_negatives_give_the_smallest():
    assert torch.equal(with_negatives(torch.tensor([[1.0, -2.0, 9.0]]), 2), torch.tensor([[1.0, -2.0, -1.0, 2.0]]))


def values_of(graph):
    return {n: v.clone().requires_grad_() if v.is_floating_point() else v for n, v in graph.values.items()}


def run(backend, **limits):
    torch.manual_seed(0)
    net = NGGNN(6, 3, backend=backend).double()
    for name, value in limits.items():
        setattr(net, name, value)
    graphs = [everything(0, torch.float64), mlp(1, dtype=torch.float64), everything(2, torch.float64)]
    values = [values_of(graph) for graph in graphs]
    out = net([graph.with_values(value) for graph, value in zip(graphs, values, strict=True)])
    (out * torch.tensor([[1.0], [2.0], [-1.0]])).sum().backward()
    leaves = [v for value in values for v in value.values() if v.is_floating_point()]
    return [out.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad for p in (*net.parameters(), *leaves))]


def test_all_ways_to_compute_agree():
    expected = run("torch", recompute=False, pack_edges=0)
    streamed = {"keep_edges": 0, "tile_edges": 5}
    ways = [("dgl", {}), ("pyg", {}), ("torch", {"recompute": True}), ("torch", streamed), ("torch", {**streamed, "pack_edges": 0})]
    for backend, limits in [*ways, ("torch", {"recompute": True, "tile_edges": 7, "pack_edges": 0}), ("dgl", streamed)]:
        assert deviation(run(backend, **limits), expected) < 1e-10, (backend, limits)


def test_extremes_alone_are_seen():
    """A layer that reads nothing but extremes tells networks apart; one that reads no messages does not."""
    graph = mlp(dtype=torch.float64, widths=(3, 1, 2))
    torch.manual_seed(0)
    net = NGGNN(6, 1).double()
    net([graph])
    layer = net.layers[0]
    with torch.no_grad():
        layer.first.weight.view(-1, 13, 6)[:, [0, 1, 2, 5, 6, 9, 10]] = 0  # nothing but extremes is read
    assert deviation(net([graph]), net([graph.with_values({**graph.values, "1.weight": 0.9 * graph.values["1.weight"]})])) > 1e-8
    with torch.no_grad():
        layer.first.weight.zero_()
    assert deviation(net([graph]), net([graph.with_values({**graph.values, "1.weight": 0.9 * graph.values["1.weight"]})])) < 1e-12
