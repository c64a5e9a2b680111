"""GMN and ScaleGMN agree with plain message passing in DGL and in PyG: benchmarks/plain.py, which knows nothing of our passes."""

import sys
from pathlib import Path

import pytest
import torch

import paramgraph as pg
from paramgraph.metanets import GMN, ScaleGMN, Stack
from paramgraph.metanets.fingerprints import Domain

from .test_scalegmn import Quotient, compiled

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from metanet_speed import networks  # noqa: E402
from plain_dgl import PlainDGL  # noqa: E402
from plain_pyg import PlainPyG  # noqa: E402
from split_dgl import SplitDGL  # noqa: E402

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
CASES = ["inrs", "small_cnns", "mixture"]
# Everything kept; edge states kept, tile by tile; nothing kept.
WAYS = [{}, {"recompute": True, "tile_edges": 300, "pack_edges": 40}, {"keep_edges": 0, "tile_edges": 500, "pack_edges": 0}]


def batch(case, dtype):
    """Networks over values of a dtype that require gradients, and those values."""
    if case == "mixture":
        # Residuals, attention, two kinds of norms, values that are read through invariants; one of the networks three times.
        graphs = [compiled(name)[2] for name in ("transformer layer", "small ResNet", "flattened CNN")]
        graphs.append(pg.compile(Quotient().double(), torch.randn(5, 3, dtype=torch.float64)))
        graphs = [Stack(graph, {name: value.detach()[None] for name, value in graph.values.items()}) for graph in graphs]
        graphs.append(graphs[0].take([0, 0]))
    else:
        graphs = networks(case, 3)
    made = [graph.to(dtype) for graph in graphs]
    leaves = [value.requires_grad_() for graph in made for value in graph.values.values() if value.is_floating_point()]
    return made, leaves


def net_of(make, graphs, dtype, backend="torch", **options):
    """A metanet that knows the graphs, with the same parameters each time, none of them zero."""
    torch.manual_seed(0)
    made = make(8, 2, backend=backend, out=2, **options).to(dtype)
    made(graphs)
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64).to(dtype))
    return made


def results(predict, net, leaves):
    """Predictions, and gradients for all parameters and values."""
    wanted = [*net.parameters(), *leaves]
    prediction = predict()
    weights = torch.linspace(-1, 2, prediction.numel(), dtype=prediction.dtype).view_as(prediction)
    gradients = torch.autograd.grad((prediction * weights).sum(), wanted, allow_unused=True)
    return [prediction, *(torch.zeros_like(tensor) if found is None else found for found, tensor in zip(gradients, wanted, strict=True))]


def deviation(found, expected):
    """The largest of all tensors' deviations, each relative to its tensor, or to a thousandth of the largest where a tensor is smaller."""
    least = 1e-3 * max(tensor.abs().max() for tensor in expected[1:])
    return max(float(((f - e).abs().max() / e.abs().max().clamp(min=least)).detach()) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("make", [GMN, ScaleGMN])
def test_plain_message_passing_computes_the_same(make, case, dtype):
    graphs, leaves = batch(case, dtype)
    found = []
    for options in WAYS:
        net = net_of(make, graphs, dtype, **options)
        found.append(results(lambda net=net: net(graphs), net, leaves))
    for plain in (PlainDGL, PlainPyG, SplitDGL):
        version = plain(net_of(make, graphs, dtype))
        prepared = version.prepare(graphs)
        expected = results(lambda version=version, prepared=prepared: version(prepared), version.net, leaves)
        assert expected[0].shape == (sum(map(len, graphs)), 2) and all(tensor.isfinite().all() for tensor in expected)
        for options, ours in zip(WAYS, found, strict=True):
            assert deviation(ours, expected) < TOLERANCE[dtype], (plain, options)


def test_most_kinds_of_edges_are_met():
    """All domains, and edges that transport and that do not. What is missing is too rare for small networks: test_written_pass has it."""
    kinds = set()
    for case in CASES:
        graphs, _ = batch(case, torch.float64)
        kinds |= set(PlainPyG(net_of(ScaleGMN, graphs, torch.float64)).prepare(graphs).kinds)
    domains = {Domain(magnitude, sign) for magnitude in (False, True) for sign in (False, True)}
    assert {kind.edge for kind in kinds} == {kind.target for kind in kinds} == domains
    assert {kind.edge.trivial for kind in kinds if kind.transport == "none"} == {False, True}


@pytest.mark.parametrize("options", [{"direction": "both"}, {"head": "edge"}, {"residual": True}])
def test_other_options_are_refused(options):
    graphs, _ = batch("inrs", torch.float32)
    with pytest.raises(ValueError, match=next(iter(options))):
        PlainDGL(net_of(GMN, graphs, torch.float32, **options))
