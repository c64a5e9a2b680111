"""Trained metanets under onnxruntime: the same predictions, for other networks of the architecture too."""

import warnings

import onnxruntime
import pytest
import torch

from paramgraph.errors import MetanetError
from paramgraph.metanets import GMN, ScaleGMN, Stack, export_onnx

from .handmade import everything, mlp


def stack_of(make, seeds):
    graphs = [make(seed) for seed in seeds]
    return Stack.of(graphs[0], [graph.values for graph in graphs])


def trained(net, stack):
    """A few steps, so that nothing is as it was made."""
    wanted = torch.randn(len(stack), 2)
    net(stack)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(3):
        found = net(stack)
        found = found if isinstance(found, torch.Tensor) else torch.stack([torch.cat([v.reshape(-1, 2) for v in f.values()]).mean(0) for f in found])
        optimiser.zero_grad()
        (found - wanted).square().mean().backward()
        optimiser.step()
    return net


def exported(net, example, path):
    """The exported model as a function of a stack."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = export_onnx(net, example, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(stack):
        found = session.run(None, {given: stack.values[name].numpy() for name, given in names.items()})
        return dict(zip((one.name for one in session.get_outputs()), map(torch.from_numpy, found), strict=True))

    return run


KINDS = {
    "GMN": lambda **o: GMN(8, 2, backend="torch", out=2, direction="both", **o),
    "GMN, residual, batch norm": lambda **o: GMN(8, 2, backend="torch", out=2, residual=True, norm="batch", readout_norm=True, **o),
    "GMN, attention, features": lambda **o: GMN(8, 2, backend="torch", out=2, attention=2, bias_layout="features", **o),
    "ScaleGMN": lambda **o: ScaleGMN(8, 2, backend="torch", out=2, direction="both", dropout=0.2, **o),
}


@pytest.mark.parametrize("kind", KINDS)  # every connectivity is exported below, with predictions per node and per parameter
def test_the_same_predictions(kind, tmp_path):
    torch.manual_seed(0)
    stack, others = (stack_of(mlp, seeds) for seeds in ((0, 1, 2), (3, 4, 5)))
    net = trained(KINDS[kind](), stack)
    run = exported(net, stack, tmp_path / "net.onnx")
    assert net.training
    with torch.no_grad():
        expected, other = net.eval()(stack), net(others)
    assert torch.allclose(run(stack)["prediction"], expected, atol=1e-5)
    assert torch.allclose(run(others)["prediction"], other, atol=1e-5)
    assert not torch.allclose(other, expected, atol=1e-4)


@pytest.mark.parametrize(("kind", "head"), [("GMN", "node"), ("ScaleGMN", "edge")])
def test_predictions_per_node_and_per_parameter(kind, head, tmp_path):
    torch.manual_seed(0)
    graph = everything()
    net = trained(KINDS[kind](head=head), Stack.of(graph, [graph.values]))
    found = exported(net, graph, tmp_path / "net.onnx")(Stack.of(graph, [graph.values]))
    with torch.no_grad():
        expected = net.eval()([graph])[0]
    assert set(found) == set(expected)
    assert all(torch.allclose(found[name][0], value, atol=1e-5) for name, value in expected.items())


def test_what_is_not_exported(tmp_path):
    with pytest.raises(MetanetError, match="seen no batch"):
        export_onnx(GMN(8, 1, backend="torch"), mlp(), tmp_path / "net.onnx")
    net = GMN(8, 1, backend="pyg")
    net([mlp()])
    with pytest.raises(MetanetError, match="on the 'torch' backend, got 'pyg'"):
        export_onnx(net, mlp(), tmp_path / "net.onnx")
