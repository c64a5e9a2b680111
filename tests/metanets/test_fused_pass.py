"""Passes over perceptrons: the written-out derivatives, what they leave out, and the parts that they work on."""

from dataclasses import replace

import pytest
import torch

from paramgraph.backends.torch import TorchBackend
from paramgraph.metanets import GMN, Vocabulary, fused_pass
from paramgraph.metanets.cuts import cuts, num_states
from paramgraph.metanets.fused_pass import FusedPass
from paramgraph.metanets.layout import Layout, Limits
from paramgraph.metanets.structure import Structure

from .handmade import everything, mlp
from .test_gmn import deviation, tensors, with_gradients

WAYS = [
    {"recompute": True},
    {"recompute": True, "tile_edges": 7, "pack_edges": 0},
    {"keep_edges": 0, "tile_edges": 50, "pack_edges": 12},
]


class Elsewhere(TorchBackend):
    """An engine that never writes to what it is given."""

    def combine(self, block, source=None, target=None, edge=None, op="add", overwrite=False):
        return super().combine(block, source, target, edge, op)


def made(backend="torch", **options):
    torch.manual_seed(0)
    net = GMN(8, 3, backend=backend, out=2, vocabulary=Vocabulary.from_graphs([mlp(), everything()]), **options).double()
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return net


def gradients(net, of_values=True, of_parameters=True, frozen=()):
    """The prediction's loss and its gradients, per name."""
    graphs, leaves = zip(*[with_gradients(g) for g in (everything(0, torch.float64), mlp(1, dtype=torch.float64))], strict=True)
    named = {name: p for name, p in net.named_parameters() if of_parameters and not name.startswith(frozen)}
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in named)
    values = [value.requires_grad_(of_values) for graph in leaves for value in graph]
    named |= {f"value {n}": value for n, value in enumerate(values) if of_values}
    loss = sum((t.sin() * torch.linspace(1, 2, t.numel(), dtype=t.dtype).view(t.shape)).sum() for t in tensors(net(list(graphs))))
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {"loss": loss.detach()} | {name: torch.zeros_like(t) if g is None else g for (name, t), g in zip(named.items(), found, strict=True)}


def assert_same(found, expected):
    for name, tensor in found.items():
        assert deviation(tensor, expected[name]) < 1e-10, name


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("options", [{"direction": "both"}, {"head": "edge", "updates": "edges-first"}, {"bias_layout": "features"}], ids=str)
def test_gradients_are_those_of_autograd(options, way, monkeypatch):
    expected = gradients(made(recompute=False, **options))
    runs = []
    monkeypatch.setattr(FusedPass, "streamed", lambda self, inputs, run=FusedPass.streamed: runs.append(self) or run(self, inputs))
    assert_same(gradients(made(**options, **way)), expected)
    assert (2 if options.get("direction") == "both" else 1) in {len(run.messages) for run in runs}
    assert_same(gradients(made(Elsewhere(), **options, **way)), expected)


def test_gradients_of_states_at_hand_are_written(monkeypatch):
    """They begin as memory of any content: zeros where nothing is read, and what a total alone gives, which is an expanded view."""
    monkeypatch.setattr(fused_pass, "_begun", lambda kind, like: torch.full_like(like, torch.nan if kind == "state" else 0))
    jobs = []

    def checked(self, inputs, needed, given, run=FusedPass.streamed_gradients):
        if self.encoder is None and self.steps == 0 and needed[0]:
            jobs.append(self.job)
            (nothing, *_) = run(self, inputs, needed, [None] * len(given))
            assert not nothing.any()
            total = replace(self, messages=(), total=True, emit=False, keeps=False, kinds=self.kinds[:1])
            shape = self.shapes[0] if self.job.packed else (self.job.batch, self.width)
            (of_total,) = run(total, inputs[:1], [True], [inputs[0].new_ones(shape)])
            assert of_total.eq(1).all()
        return run(self, inputs, needed, given)

    monkeypatch.setattr(FusedPass, "streamed_gradients", checked)
    gradients(made(recompute=True, direction="both"))
    gradients(made(recompute=True, direction="both", pack_edges=0))
    assert {job.packed for job in jobs} == {False, True}


@pytest.mark.parametrize("part", [{"of_values": False}, {"of_parameters": False}, {"frozen": ("edge_encoder", "layers.0", "embeddings")}], ids=str)
def test_what_needs_no_gradient_is_left_out(part):
    expected = gradients(made(recompute=False), **part)
    for way in WAYS:
        assert_same(gradients(made(**way), **part), expected)


@pytest.mark.parametrize("options", [{"residual": True}, {"norm": "layer"}, {"attention": 2}], ids=str)
def test_what_is_more_than_a_perceptron_is_not_fused(options, monkeypatch):
    monkeypatch.setattr(FusedPass, "streamed", lambda self, inputs: pytest.fail("fused"))
    with torch.no_grad():
        net = made(recompute=True, **options)
        net([mlp(dtype=torch.float64)])


def test_mixed_precision_is_not_fused(monkeypatch):
    monkeypatch.setattr(FusedPass, "streamed", lambda self, inputs: pytest.fail("fused"))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        made(recompute=True).float()([mlp()])


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("tile", [1, 5, 17, 60, 10_000])
def test_parts_partition_a_job(tile, fold):
    graph = everything()
    vocabulary = Vocabulary.from_graphs([graph])
    layout = Layout([(Structure(graph.node_sets, graph.edge_sets), 5)], vocabulary, Limits(tile, 10, fold=fold), torch.device("cpu"))
    for job in layout.jobs:
        rows = torch.zeros(num_states(job, fold), dtype=torch.int64)
        edges = torch.zeros(job.batch, sum(tile.block.num_edges for tile in job.tiles), dtype=torch.int64)
        for cut in cuts(job, fold):
            rows[cut.rows] += 1
            edges[cut.networks, cut.edges] += 1
            assert cut.rows.stop - cut.rows.start == cut.count * cut.block.num_edges
            assert fold or cut.count == 1 or cut.count * cut.block.num_edges <= tile
        assert rows.eq(1).all() and edges.eq(1).all()
