"""Codes of orders, sizes of values, what survives layers, and recognition of structures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from paramgraph.metanets import GMN, ScaleGMN, Vocabulary
from paramgraph.metanets.baselines import NGGNN
from paramgraph.metanets.encoders import NodeEncoder, fourier
from paramgraph.metanets.structure import StructureCache

from .handmade import everything, mlp


def test_codes_of_distinct_orders_are_distinct():
    orders = torch.cat([torch.arange(40_000), torch.tensor([100_000, 100_001, 2_000_000, 2_000_001])])
    codes = fourier(orders, torch.float32).double().numpy()
    # The code of n differs from that of n + d by an amount that depends on d alone, so differences to one order cover all pairs.
    distances = np.linalg.norm(codes[1:] - codes[0], axis=1)
    assert distances.min() > 0.1
    assert len(np.unique(np.round(codes, 4), axis=0)) == len(codes)


def test_no_order_is_not_order_zero():
    encoder = NodeEncoder(8)
    assert not torch.allclose(encoder.no_order, encoder.order(fourier(torch.zeros(1), torch.float32))[0])


def test_structures_are_recognised():
    cache = StructureCache(size=3)
    first = mlp(0)
    structure = cache(first)
    assert cache(replace(first, values=mlp(1).values)) is structure  # shares its sets
    assert cache(mlp(2)) is structure  # equal sets, made apart
    assert cache(mlp(widths=(3, 6, 2))) is not structure
    retyped = {**first.node_sets, "layer1": replace(first.node_sets["layer1"], activation="tanh")}
    assert cache(replace(first, node_sets=retyped)) is not structure
    reordered = {**first.node_sets, "input": replace(first.node_sets["input"], order=np.array([1, 0, 2]))}
    assert cache(replace(first, node_sets=reordered)) is not structure


def test_degrees_count_every_edge():
    structure = StructureCache()(everything())
    for degrees, end in ((structure.in_degrees, 1), (structure.out_degrees, 0)):
        expected = [np.zeros(nodes.size, int) for nodes in structure.nodes]
        for edges in structure.edges:
            np.add.at(expected[structure.number[(edges.source, edges.target)[end]]], edges.edge_index()[end], 1)
        for found, true in zip(degrees, expected, strict=True):
            assert np.array_equal(found, true)


@pytest.mark.parametrize("kind", [GMN, ScaleGMN, NGGNN])
def test_the_size_of_a_types_values_is_that_of_its_first_batch(kind):
    torch.manual_seed(0)
    graphs = [mlp(seed) for seed in range(4)]
    tiny = [graph.with_values({n: v * (0.01 if "weight" in n else 0) for n, v in graph.values.items()}) for graph in graphs]
    net = kind(8, 2, backend="torch", vocabulary=Vocabulary.from_graphs([*graphs, everything()]))
    assert not net.embeddings.value_size.any()
    net.eval()(tiny)
    assert not net.embeddings.value_size.any()  # nothing is learned in evaluation
    net.train()(tiny)
    weights = torch.cat([g.values[n].flatten() for g in tiny for n in ("1.weight", "2.weight")])
    sizes = dict(zip(net.vocabulary.edge_types, net.embeddings.value_size.tolist(), strict=True))
    assert sizes["weight"] == pytest.approx(float(weights.square().mean().sqrt()))
    assert sizes["bias"] == 0 and sizes["gain"] == 0  # zeros have no size, and there are no gains yet
    net([*graphs, everything()])
    later = dict(zip(net.vocabulary.edge_types, net.embeddings.value_size.tolist(), strict=True))
    assert later["weight"] == sizes["weight"] and later["bias"] > 0 and later["gain"] > 0


def test_values_are_seen_at_any_size():
    """Networks that differ in their weights alone, by numbers of any size: predictions differ as much."""
    spreads = []
    for scale in (1.0, 1e-3):
        torch.manual_seed(0)
        net = GMN(32, 3, backend="torch")
        graphs = [graph.with_values({n: v * scale for n, v in graph.values.items()}) for graph in map(mlp, range(8))]
        spreads.append(float(net(graphs).std(0)))
    assert spreads[1] == pytest.approx(spreads[0], rel=1e-3)


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_differences_between_networks_survive_depth(direction):
    """Node states of one architecture share most of themselves; what tells networks apart must not vanish beside it."""
    graphs = [mlp(seed, widths=(3, 16, 16, 2), dtype=torch.float64) for seed in range(8)]
    shares = []
    for layers in (1, 10):
        torch.manual_seed(0)
        with torch.no_grad():
            nodes = GMN(32, layers, backend="torch", head="node", direction=direction).double().states(graphs).nodes
        inner = nodes[8 * 3 :].split([8, 8 * 16, 8, 8 * 16, 8, 8 * 2])[3].reshape(8, 16, -1).mean(1)
        shares.append(float(inner.std(0).square().mean().sqrt() / inner.square().mean().sqrt()))
    assert 0.1 < shares[1] / shares[0] < 10 and shares[1] > 0.01
