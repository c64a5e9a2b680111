"""What does not fit a metanet is refused before any computation, by graph and set."""

from dataclasses import replace

import pytest
import torch

from paramgraph.errors import MetanetError, UnknownNameError
from paramgraph.metanets import GMN, ScaleGMN, Vocabulary
from paramgraph.metanets.baselines import DMC, NGGNN

from .handmade import everything, make_graph, mlp, nodes


@pytest.fixture
def net():
    return GMN(8, 1, backend="torch", vocabulary=Vocabulary.from_graphs([mlp(), everything()]))


def changed(graph, name, value):
    return replace(graph, values={**graph.values, name: value})


@pytest.mark.parametrize("batch", [[], ()])
def test_empty_batch(net, batch):
    with pytest.raises(MetanetError, match="empty batch"):
        net(batch)


def test_what_is_no_list_of_graphs(net):
    with pytest.raises(MetanetError, match=r"call the metanet with `\[graph\]`"):
        net(mlp())
    with pytest.raises(MetanetError, match="item 1 of the batch is a dict"):
        net([mlp(), {}])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("options", [{}, {"keep_edges": 0, "pack_edges": 0}])
def test_values_that_are_not_finite(bad, options):
    net = GMN(8, 1, backend="torch", **options)
    value = torch.zeros(5, 3)
    value[2, 1] = bad
    with pytest.raises(MetanetError, match="graph 'second', edge set '1.weight'.*NaN or infinite"):
        net([mlp(), changed(mlp(name="second"), "1.weight", value)])


def test_huge_values_are_not_infinite(net):
    assert net([changed(mlp(), "1.weight", torch.full((5, 3), 3e38))]).shape == (1, 1)


def test_dtype(net):
    with pytest.raises(MetanetError, match="graph 'wide', edge set '1.weight': '1.weight' is torch.float64, the metanet torch.float32"):
        net([mlp(), mlp(dtype=torch.float64, name="wide")])
    with pytest.raises(MetanetError, match="complex64"):
        net([changed(mlp(), "1.bias", torch.zeros(5, dtype=torch.complex64))])


def test_device(net):
    with pytest.raises(MetanetError, match="graph 'mlp', edge set '2.bias'.*meta device.*with_values"):
        net([changed(mlp(), "2.bias", torch.zeros(2, device="meta"))])


def test_integers_are_converted(net):
    graph = everything()
    floats = changed(graph, "steps", graph.values["steps"].float())
    assert torch.equal(net([graph]), net([floats]))
    net([changed(mlp(), "1.bias", torch.ones(5, dtype=torch.bool))])


def test_unknown_types(net):
    graph = mlp(name="odd")
    for change, message in [
        (nodes("layer1", "orb", 5), "graph 'odd', node set 'layer1': node type 'orb'"),
        (nodes("layer1", "neuron", 5, activation="snake"), "graph 'odd', node set 'layer1': activation 'snake'"),
    ]:
        with pytest.raises(MetanetError, match=message):
            net([mlp(), replace(graph, node_sets={**graph.node_sets, "layer1": change})])
    edges = replace(graph.edge_sets["1.bias"], type="spring")
    with pytest.raises(MetanetError, match="graph 'odd', edge set '1.bias': edge type 'spring'.*Vocabulary.from_graphs"):
        net([mlp(), replace(graph, edge_sets={**graph.edge_sets, "1.bias": edges})])


@pytest.mark.parametrize(
    "option", [{"head": "tail"}, {"backend": "jax"}, {"aggregation": "max"}, {"updates": "never"}, {"direction": "up"}]
)
def test_unknown_options(option):
    with pytest.raises(UnknownNameError, match=f"unknown {next(iter(option))} '{next(iter(option.values()))}'; known are"):
        GMN(8, 1, **{"backend": "torch", **option})


@pytest.mark.parametrize("kind", [GMN, ScaleGMN, NGGNN])
@pytest.mark.parametrize("size", [{"hidden": 0}, {"layers": -1}])
def test_sizes_that_make_no_sense(kind, size):
    with pytest.raises(MetanetError, match="expected hidden ≥ 1 and layers ≥ 0"):
        kind(**{"backend": "torch", **size})


def test_networks_without_parameters():
    graph = make_graph("nothing", [nodes("x", "input", 2)], [], {})
    for kind in (GMN, NGGNN):
        assert torch.isfinite(kind(8, 1, backend="torch")([graph])).all()
    with pytest.raises(MetanetError, match="graph 'nothing' has no parameters"):
        DMC(1, 8)([graph])
