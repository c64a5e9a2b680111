"""Passes over functions with derivatives written out: values and gradients are those of autograd, for every kind of edges."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from paramgraph.backends.protocol import Block
from paramgraph.backends.tiles import Tile
from paramgraph.backends.torch import TorchBackend
from paramgraph.metanets import ScaleGMN, Stack
from paramgraph.metanets.fingerprints import Domain
from paramgraph.metanets.fused_pass import Buffers
from paramgraph.metanets.job_pass import JobPass, Streamed
from paramgraph.metanets.rewiring import EdgeKind
from paramgraph.metanets.scale_encoders import ScaledEdgeEncoder
from paramgraph.metanets.scale_layers import InvariantMessage, ScaledEdgeUpdate, ScaledMessage
from paramgraph.metanets.written_pass import WrittenPass

from .test_fused_pass import Elsewhere
from .test_gmn import deviation
from .test_scalegmn import Quotient, compiled, net, pg

WIDTH, NETWORKS = 6, 3
DOMAINS = [Domain(magnitude, sign) for magnitude, sign in itertools.product([False, True], repeat=2)]
KINDS = [EdgeKind(t, d, d, d) for t in ("direct", "inverse", "none") for d in DOMAINS]
KINDS += [EdgeKind("none", d, d, d, ragged=True) for d in DOMAINS[1:]] + [EdgeKind("direct", DOMAINS[3], DOMAINS[1], DOMAINS[2])]


def job_of(kind, packed=False, positions=2):
    """A job of blocks of 2 × 3 edges in four tiles, of which two networks at once; or of 12 edges with indices, in two."""
    if packed:
        ends = torch.arange(12)[:, None] % 5, torch.arange(12)[:, None] % 4
        codes = torch.arange(12 * positions).view(12, positions) % 7
        runs, shape, batch, networks = [slice(0, 8), slice(8, 12)], (1, 1, positions), 1, 1
        tiles = [
            Tile(Block((run.stop - run.start, *shape), 5, 4, ends[0][run], ends[1][run]), (run, *(slice(0, n) for n in shape)), (0, 5), (0, 4))
            for run in runs
        ]
    else:
        codes, batch, networks = torch.arange(positions) + 1, NETWORKS, 2
        rest = slice(0, 3), slice(0, positions)
        tiles = [
            Tile(Block((1, 1, 3, positions), 3, 1), (slice(g, g + 1), slice(i, i + 1), *rest), (3 * g, 3 * g + 3), (n, n + 1))
            for n, (g, i) in enumerate(itertools.product(range(2), repeat=2))
        ]
    # Sizes of the tables of values, sources and targets.
    sizes = ((12 * positions,), (1, 5), (1, 4)) if packed else ((NETWORKS, 2, 2, 3, positions), (NETWORKS, 6), (NETWORKS, 4))
    return SimpleNamespace(kind=kind, packed=packed, batch=batch, networks=networks, codes=codes, tiles=tiles), sizes


def both(job, sizes, engine, scale=0.0, zeros=False, at_hand=False, keeps=False):
    """The outputs of a pass and the gradients of its inputs, written out and by autograd."""
    torch.manual_seed(0)
    encoder, *steps = ScaledEdgeEncoder(WIDTH), ScaledEdgeUpdate(WIDTH, 0.7), ScaledEdgeUpdate(WIDTH, 0.5)
    messages = [(InvariantMessage if job.kind.transport == "none" else ScaledMessage)(WIDTH) for _ in range(2)]
    functions = [*steps, *messages]
    values, *ends = (torch.randn(*size, *([WIDTH] if n else []), dtype=torch.float64) for n, size in enumerate(sizes))
    ends[0] *= torch.randn(*sizes[1], 1, dtype=torch.float64).mul(scale).exp()
    values *= torch.randn(sizes[0], dtype=torch.float64).mul(scale).exp()
    if zeros:
        ends[0][:, ::2], ends[1][:, 1::2] = 0, 0
        values.view(-1)[::3] = 0
    table = torch.randn(8, WIDTH, dtype=torch.float64)
    scales = torch.rand(8, dtype=torch.float64) + 0.5
    inputs = [("values", values), *(("whole", t) for t in (table, scales, encoder.frequency.double(), encoder.phase.double()))]
    counts = [4]
    if at_hand:
        rows = NETWORKS * 12 if not job.packed else 12
        inputs, counts = [("state", torch.randn(rows, WIDTH, dtype=torch.float64) * (torch.arange(rows) % 3 > 0)[:, None])], []
    for function in functions:
        tensors = [t.detach() for t in function.double().edge_tensors()]
        inputs += [("sources", ends[0] + 0), ("targets", ends[1] + 0), *(("whole", t) for t in tensors)]
        counts.append(len(tensors))
    shared = dict(backend=engine, job=job, encoder=encoder, steps=tuple(steps), forward=messages[0], backward=messages[1], extremes=0, total=False)
    shared |= dict(emit=None, fold=True, keeps=keeps, kinds=tuple(kind for kind, _ in inputs), counts=tuple(counts))
    shared |= dict(shapes=((*sizes[2], WIDTH), (*sizes[1], WIDTH)))
    passes = [WrittenPass(**shared, width=WIDTH, buffers=Buffers(values, WIDTH)), JobPass(**shared)]
    found = []
    for one in passes:
        leaves = [tensor.detach().clone().requires_grad_(tensor is not scales) for _, tensor in inputs]
        outputs = Streamed.apply(one, *leaves)
        weights = [torch.linspace(1, 2, out.numel(), dtype=out.dtype).view(out.shape) for out in outputs]
        loss = sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True))
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        given = torch.autograd.grad(loss, wanted, allow_unused=True)
        found.append([*outputs, *(torch.zeros_like(w) if g is None else g for w, g in zip(wanted, given, strict=True))])
    return found


def assert_alike(found):
    for number, (written, expected) in enumerate(zip(*found, strict=True)):
        assert torch.isfinite(written).all(), number
        assert deviation(written, expected) < 1e-12, number


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_values_and_gradients_are_those_of_autograd(kind, packed):
    for positions in (1, 2):
        job, sizes = job_of(kind, packed, positions)
        assert_alike(both(job, sizes, TorchBackend(), keeps=positions == 2))
        assert_alike(both(job, sizes, Elsewhere(), zeros=True))
        assert_alike(both(job, sizes, TorchBackend(), at_hand=True))


@pytest.mark.parametrize("scale", [1.0, 6.0])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.edge.magnitude and not kind.ragged], ids=str)
def test_vectors_of_any_length(kind, scale):
    """Row by row, for the longest would hide the others."""
    job, sizes = job_of(kind)
    found = both(job, sizes, TorchBackend(), scale)
    for written, expected in zip(*found, strict=True):
        size = expected.abs().amax(-1, keepdim=True)
        assert ((written - expected).abs() <= 1e-10 * size + 1e-12 * size.amin()).all()


def test_the_metanet_takes_them(monkeypatch):
    """Under mixed precision, and where predictions per edge are returned, autograd computes the pass."""
    graphs = [compiled(name)[2] for name in ("SIREN", "LSTM")] + [pg.compile(Quotient().double(), torch.randn(5, 3, dtype=torch.float64))]
    runs = []

    def counted(self, inputs, run=JobPass.streamed):
        runs.append(type(self))
        return run(self, inputs)

    monkeypatch.setattr(JobPass, "streamed", counted)
    monkeypatch.setattr(WrittenPass, "streamed", lambda self, inputs, run=WrittenPass.streamed: runs.append(type(self)) or run(self, inputs))
    net(graphs=graphs, recompute=True)(graphs)
    assert set(runs) == {WrittenPass}
    net("edge", graphs=graphs, recompute=True)(graphs)
    assert set(runs) == {WrittenPass, JobPass}
    runs.clear()
    made = ScaleGMN(8, 2, backend="torch", recompute=True)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(made([g.with_values({n: v.float() for n, v in g.values.items()}) for g in graphs])).all()
    assert set(runs) == {JobPass}


@pytest.mark.parametrize("backend", ["torch", "dgl", "pyg"])
def test_gradients_of_values_and_parameters_agree_on_all_engines(backend):
    graphs = [compiled(name)[2] for name in ("SIREN", "small CNN", "LSTM")]
    found = []
    for way in ({"recompute": False}, {"keep_edges": 0, "tile_edges": 20, "pack_edges": 30}):
        made = net(graphs=graphs, backend=backend, direction="both", **way)
        values = [{n: v.clone().requires_grad_() for n, v in graph.values.items()} for graph in graphs]
        made([graph.with_values(v) for graph, v in zip(graphs, values, strict=True)]).square().sum().backward()
        leaves = [*made.parameters(), *(v for each in values for v in each.values())]
        found.append([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves])
    assert all(deviation(one, other) < 1e-10 for one, other in zip(*found, strict=True))


def test_frozen_parameters_get_no_gradient():
    graph = compiled("SIREN")[2]
    stack = Stack.of(graph, [graph.values, graph.values])
    found = []
    for way in ({"recompute": False}, {"recompute": True}):
        made = net(graphs=[graph], **way)
        for name, parameter in made.named_parameters():
            parameter.requires_grad_("gate" in name)
        made(stack).sum().backward()
        found.append([p.grad for p in made.parameters()])
    assert all((a is None) == (b is None) and (a is None or deviation(a, b) < 1e-12) for a, b in zip(*found, strict=True))


def test_parts_fit_their_buffers():
    """The memory of a larger part serves a smaller one."""
    buffers = Buffers(torch.zeros(1), WIDTH)
    large, small = buffers.rows("a", 8), buffers.rows("a", 3)
    assert small.data_ptr() == large.data_ptr() and small.shape == (3, WIDTH)
