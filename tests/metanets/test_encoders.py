"""Codes of orders, and recognition of structures."""

from dataclasses import replace

import numpy as np
import torch

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
