"""GMN: equivariance, agreement of engines, streaming, gradients."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from paramgraph.metanets import GMN, Vocabulary

from .handmade import everything, mlp, permuted_mlp, relabelled

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
VARIANTS = [
    {},
    {"updates": "edges-first", "aggregation": "sum"},
    {"direction": "both", "residual": True},
    {"use_global": False, "updates": "edges-first", "direction": "both", "residual": True},
    {"attention": 2, "bias_layout": "features"},
    {"attention": 4, "updates": "edges-first", "direction": "both", "bias_layout": "features", "norm": "layer"},
]
BACKENDS = ["torch", "dgl", "pyg"]


def gmn(dtype=torch.float64, backend="torch", head="graph", randomised=True, layers=2, **options):
    """A small GMN that knows the handmade graphs, with the same parameters each time, none of them zero."""
    torch.manual_seed(0)
    vocabulary = Vocabulary.from_graphs([mlp(), everything()])
    net = GMN(8, layers, backend=backend, head=head, out=2, vocabulary=vocabulary, **options).to(dtype)
    if randomised:
        for parameter in net.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return net


def deviation(found, expected):
    if isinstance(expected, torch.Tensor):
        assert found.shape == expected.shape
        return float((found - expected).detach().abs().max() / expected.detach().abs().max().clamp(min=1)) if expected.numel() else 0.0
    keys = expected if isinstance(expected, dict) else range(len(expected))
    assert len(found) == len(expected)
    return max((deviation(found[key], expected[key]) for key in keys), default=0.0)


def with_gradients(graph):
    """The graph over values that require gradients, and those values."""
    values = {n: v.clone().requires_grad_() if v.is_floating_point() else v for n, v in graph.values.items()}
    return replace(graph, values=values), [v for v in values.values() if v.requires_grad]


def tensors(prediction):
    if isinstance(prediction, torch.Tensor):
        return [prediction]
    return [tensor for found in prediction for tensor in found.values()]


def values_and_gradients(net, graphs):
    """Predictions, and gradients of a function of them for all values and parameters."""
    graphs, leaves = zip(*[with_gradients(graph) for graph in graphs], strict=True)
    prediction = net(list(graphs))
    loss = sum((tensor * torch.linspace(-1, 1, tensor.numel()).reshape(tensor.shape)).sum() for tensor in tensors(prediction))
    wanted = [leaf for some in leaves for leaf in some] + list(net.parameters())
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    return prediction, [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, gradients, strict=True)]


def test_shapes_and_the_order_of_mixed_batches():
    graphs = [mlp(0), everything(1), mlp(2), mlp(3, widths=(3, 4, 4, 2)), everything(4)]
    for head in ("graph", "node", "edge"):
        net = gmn(head=head).to(torch.float32)
        together = net(graphs)
        alone = [net([graph]) for graph in graphs]
        assert deviation(together, torch.cat(alone) if head == "graph" else [found[0] for found in alone]) < 1e-5
    assert {n: tuple(v.shape) for n, v in together[1].items()} == {
        e.name: (*e.shape, 2) for e in graphs[1].edge_sets.values() if e.parameter is not None
    }
    nodes = gmn(torch.float32, head="node")(graphs)
    assert {n: tuple(v.shape) for n, v in nodes[3].items()} == {s.name: (s.size, 2) for s in graphs[3].node_sets.values()}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_neurons_can_be_permuted(options, backend, dtype):
    graph = mlp(dtype=dtype)
    permutation = torch.tensor([3, 0, 4, 1, 2])
    other = permuted_mlp(graph, permutation)
    limit = TOLERANCE[dtype]
    assert deviation(*(gmn(dtype, backend, **options)([g]) for g in (other, graph))) < limit
    before, after = (gmn(dtype, backend, "node", **options)([g])[0] for g in (graph, other))
    assert deviation(after["layer1"], before["layer1"][permutation]) < limit
    assert deviation(after["layer2"], before["layer2"]) < limit
    before, after = (gmn(dtype, backend, "edge", **options)([g])[0] for g in (graph, other))
    assert deviation(after["1.weight"], before["1.weight"][:, permutation]) < limit
    assert deviation(after["2.weight"], before["2.weight"][:, :, permutation]) < limit
    assert deviation(after["1.bias"], before["1.bias"][permutation]) < limit


def test_pinned_nodes_cannot_be_permuted():
    graph = mlp(dtype=torch.float64)
    swapped = replace(graph, values={**graph.values, "1.weight": graph.values["1.weight"][:, [1, 0, 2]]})
    net = gmn()
    assert deviation(net([swapped]), net([graph])) > 1e-4
    shuffled = permuted_mlp(graph, torch.tensor([3, 0, 4, 1, 2]))
    wrong = replace(graph, values={**graph.values, "1.weight": shuffled.values["1.weight"]})
    assert deviation(net([wrong]), net([graph])) > 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_nodes_can_be_numbered_anew_in_every_connectivity(options, backend):
    graph = everything(dtype=torch.float64)
    other, former, sequence = relabelled(graph)
    assert deviation(gmn(backend=backend, **options)([other]), gmn(backend=backend, **options)([graph])) < 1e-10
    before, after = (gmn(backend=backend, head="node", **options)([g])[0] for g in (graph, other))
    for name, numbers in former.items():
        assert deviation(after[name], before[name][torch.as_tensor(numbers)]) < 1e-10
    before, after = (gmn(backend=backend, head="edge", **options)([g])[0] for g in (graph, other))
    for name, found in after.items():
        expected = before[name.split("@")[0]].reshape(-1, 2)[torch.as_tensor(sequence[name])]
        assert deviation(found.reshape(-1, 2), expected) < 1e-10


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("head", ["graph", "node", "edge"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_all_ways_to_compute_agree(options, head, dtype):
    """Engines, kept and streamed states, tiles of any size, packed and block edge sets: same values, same gradients."""
    graphs = [everything(0, dtype), mlp(1, dtype=dtype), everything(2, dtype)]
    # Gradients are sums over many edges: in float32 the truth is the computation in float64.
    expected, true_gradients = values_and_gradients(
        gmn(torch.float64, head=head, **options), [replace(g, values=_as(g.values, torch.float64)) for g in graphs]
    )
    ways = list(product(BACKENDS, ({"pack_edges": 0}, {"keep_edges": 0, "tile_edges": 60}, {"recompute": True})))
    small = ({"keep_edges": 0, "tile_edges": 25, "pack_edges": 0}, {"recompute": True, "tile_edges": 11, "pack_edges": 30})
    for backend, way in [*ways, *(("torch", way) for way in small)]:
        net = gmn(torch.float64, backend, head, **options, **way).to(dtype)
        found, gradients = values_and_gradients(net, graphs)
        assert deviation([t.double() for t in tensors(found)], tensors(expected)) < TOLERANCE[dtype], (backend, way)
        assert deviation([g.double() for g in gradients], true_gradients) < TOLERANCE[dtype], (backend, way)


def _as(values, dtype):
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in values.items()}


def test_an_edge_set_may_leave_the_last_nodes_out():
    graph = everything(dtype=torch.float64)
    longer = {**graph.node_sets, **{name: replace(graph.node_sets[name], size=8) for name in ("a", "b")}}
    graph = replace(graph, node_sets=longer)
    expected, gradients = values_and_gradients(gmn(), [graph])
    for backend, way in product(("torch", "dgl"), ({"pack_edges": 0}, {"pack_edges": 0, "keep_edges": 0, "tile_edges": 30})):
        found, others = values_and_gradients(gmn(backend=backend, **way), [graph])
        assert deviation([found, *others], [expected, *gradients]) < 1e-10


def test_streaming_without_gradients_agrees():
    graphs = [everything(0, torch.float64), mlp(1, dtype=torch.float64)]
    with torch.no_grad():
        expected = gmn()(graphs)
        for tile in (1, 5, 1000):
            assert deviation(gmn(keep_edges=0, tile_edges=tile, pack_edges=3)(graphs), expected) < 1e-10


def test_without_layers_all_ways_agree():
    """The gradient of what is summed over a graph is one row for all its edges, in no memory of its own."""
    graphs = [everything(0, torch.float64), mlp(1, dtype=torch.float64), everything(2, torch.float64)]
    expected, gradients = values_and_gradients(gmn(layers=0), graphs)
    for tile in (11, 60, 1000):
        for pack in (0, 30):
            found, others = values_and_gradients(gmn(layers=0, keep_edges=0, tile_edges=tile, pack_edges=pack), graphs)
            assert deviation([found, *others], [expected, *gradients]) < 1e-10


def test_gradients_reach_the_values_and_are_right():
    graph = mlp(widths=(2, 3, 1), dtype=torch.float64)
    net = gmn(keep_edges=0, tile_edges=4)
    names = list(graph.values)

    def predict(*values):
        return net([replace(graph, values=dict(zip(names, values, strict=True)))])

    values = [value.clone().requires_grad_() for value in graph.values.values()]
    assert torch.autograd.gradcheck(predict, values)


def test_a_second_use_reads_the_same_values():
    graph = everything(dtype=torch.float64)
    net = gmn(head="edge")
    changed = replace(graph, values={**graph.values, "tied": graph.values["tied"] + 1})
    before, after = net([graph])[0], net([changed])[0]
    assert deviation(after["tied"], before["tied"]) > 1e-3
    assert deviation(after["tied again"], before["tied again"]) > 1e-3


def test_structural_edges_and_types_count():
    graph = everything(dtype=torch.float64)
    net = gmn()
    kinds = {"skip": {"type": "residual"}, "gain": {"type": "bias"}, "stem": {"depth": 5}, "grouped": {"positions": None}}
    assert net([graph]).shape == (1, 2)
    for name, change in list(kinds.items())[1:]:
        edge_sets = {**graph.edge_sets, name: replace(graph.edge_sets[name], **change)}
        assert deviation(net([replace(graph, edge_sets=edge_sets)]), net([graph])) > 1e-6, name
    without = {n: e for n, e in graph.edge_sets.items() if n != "skip"}
    assert deviation(net([replace(graph, edge_sets=without)]), net([graph])) > 1e-6


def test_it_learns():
    torch.manual_seed(0)
    graphs = [mlp(seed) for seed in range(16)]
    labels = torch.stack([graph.values["1.weight"].mean() for graph in graphs])[:, None] * 4
    net = GMN(16, 2, backend="torch", vocabulary=Vocabulary.from_graphs(graphs))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(80):
        loss = (net(graphs) - labels).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_residual_layers_begin_as_the_identity():
    net = gmn(head="edge", residual=True, randomised=False)
    shallow = gmn(head="edge", residual=True, randomised=False)
    shallow.layers = torch.nn.ModuleList()
    shallow.head.load_state_dict(net.head.state_dict())
    shallow.edge_encoder.load_state_dict(net.edge_encoder.state_dict())
    shallow.embeddings.load_state_dict(net.embeddings.state_dict())
    graph = everything(dtype=torch.float64)
    assert deviation(net([graph]), shallow([graph])) < 1e-12
