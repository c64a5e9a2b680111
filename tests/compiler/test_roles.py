"""Which spaces are nodes: graphs grow with parameters, not with activations."""

from __future__ import annotations

import pytest
import torch

import paramgraph as pg
from tests.support import merging  # noqa: F401  registers the cases
from tests.support.cases import CASES, compiled

# Networks that lay positions into channels or channels out as positions, whose parameters do for images of any size.
ANY_SIZE = [
    "windows, shifts and merging",
    "windows of merged positions",
    "squares laid into channels",
    "unshuffled pixels, then a pointwise layer",
    "channels laid out as squares",
]


def size(graph: pg.ParamGraph) -> tuple[int, int]:
    return sum(nodes.size for nodes in graph.node_sets.values()), graph.num_edges


@pytest.mark.parametrize("name", ANY_SIZE)
def test_graphs_do_not_grow_with_the_image(name: str) -> None:
    model, inputs, graph = compiled(name)
    batch, channels, height, width = inputs[0].shape
    larger = pg.compile(model, torch.randn(batch, channels, 2 * height, 2 * width))
    assert size(larger) == size(graph)
    assert larger.symmetry.log_order == pytest.approx(CASES[name].log_order)


def test_positions_laid_into_channels_are_edge_positions() -> None:
    graph = compiled("windows, shifts and merging")[2]
    (reduction,) = [edges for edges in graph.parameter_edges() if edges.parameter is not None and edges.parameter.name == "reduce.weight"]
    assert reduction.shape == (1, 3, 4, 4)  # from 4 channels to 3, at each of the four places
    assert not any(nodes.type.startswith("through") for nodes in graph.node_sets.values())


def test_tokens_that_a_parameter_contracts_alone_are_nodes() -> None:
    graph = compiled("token mixing of merged positions")[2]
    (mixing,) = [edges for edges in graph.parameter_edges() if edges.parameter is not None and edges.parameter.name == "tokens.0.weight"]
    assert graph.node_sets[mixing.source].size == 16 and mixing.shape[3] == 1


def test_tokens_along_which_layers_are_shared_are_positions() -> None:
    nodes, edges = size(compiled("pairs of tokens")[2])
    model, _, graph = compiled("pairs of tokens")
    assert edges == graph.num_parameters  # nothing but parameters: pairs need no nodes, and no edges to those
    assert nodes == 3 + 4 + 5 + 6 + 2 + len(list(model.named_parameters())) // 2  # one more for each bias
