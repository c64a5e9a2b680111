"""ScaleGMN: exact under the whole annotated group, on every backend, at any scale; stable at depth; finite with zeros."""

import copy
import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.metanets import GMN, Editor, ScaleGMN, Stack, equivariance_error, run
from paramgraph.metanets.fingerprints import Domain
from paramgraph.metanets.rewiring import EdgeKind, rewired
from paramgraph.metanets.scale_layers import InvariantMessage, ScaledMessage, length
from paramgraph.metanets.scale_nodes import at_rest, bounded
from paramgraph.models.torchvision import import_torchvision

from .test_gmn import deviation, tensors

BACKENDS = ["torch", "dgl", "pyg"]


class Siren(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, x):
        return self.c(torch.sin(30 * self.b(torch.sin(30 * self.a(x))))) + 0.5


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def convolutions(activation, flatten=False):
    head = [nn.Flatten(), nn.Linear(5 * 16, 3)] if flatten else [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)]
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), activation(), nn.Conv2d(4, 5, 3, padding=1), activation(), *head)


def perceptron(*activations):
    return nn.Sequential(*(layer for made in activations for layer in (nn.Linear(3, 3), made())), nn.Linear(3, 2))


class Block(nn.Module):
    """A residual block with norms."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.norms[0](self.stem(x)))
        x = torch.relu(x + self.norms[2](self.second(torch.relu(self.norms[1](self.first(x))))))
        return self.head(x.mean((2, 3)))


class Residual(nn.Module):
    """Two stages of basic blocks with norms, the second with half the size, as in ResNet-18."""

    def __init__(self):
        super().__init__()
        block = import_torchvision().models.resnet.BasicBlock
        shortcut = nn.Sequential(nn.Conv2d(4, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6))
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.stages = nn.Sequential(block(4, 4), block(4, 6, stride=2, downsample=shortcut), block(6, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


def vision_transformer():
    return import_torchvision().models.VisionTransformer(8, 4, 2, 2, 8, 12, num_classes=3)


NETWORKS = {
    "SIREN": (Siren, (4, 2)),
    "ReLU, tanh, GELU": (lambda: perceptron(nn.ReLU, nn.Tanh, nn.GELU), (2, 3)),
    "small CNN": (lambda: convolutions(nn.ReLU), (2, 1, 4, 4)),
    "small CNN, tanh": (lambda: convolutions(nn.Tanh), (2, 1, 4, 4)),
    "flattened CNN": (lambda: convolutions(nn.ReLU, flatten=True), (2, 1, 4, 4)),
    "residual block": (Block, (2, 1, 4, 4)),
    "transformer layer": (lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), (2, 5, 8)),
    "LSTM": (Recurrent, (2, 5, 3)),
    "small ResNet": (Residual, (2, 3, 8, 8)),
    "small ViT": (vision_transformer, (2, 3, 8, 8)),
}


def compiled(name, seed=0):
    torch.manual_seed(seed)
    make, shape = NETWORKS[name]
    model, x = make().double().eval(), torch.randn(*shape, dtype=torch.float64)
    for tensor_name, tensor in model.state_dict().items():
        if "running_var" in tensor_name:
            tensor.uniform_(0.5, 2)
        elif "running_mean" in tensor_name or "bias" in tensor_name or (tensor.is_floating_point() and not tensor.any()):
            tensor.normal_(std=0.2)
    return model, x, pg.compile(model, x, name=name)


@pytest.fixture(scope="module")
def networks():
    return {name: compiled(name) for name in NETWORKS}


def net(head="graph", backend="torch", layers=3, randomised=True, graphs=(), **options):
    torch.manual_seed(0)
    made = ScaleGMN(8, layers, backend=backend, head=head, out=2, **options).double()
    made(list(graphs))
    if randomised:
        for name, parameter in made.named_parameters():
            if "embeddings" not in name:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("sigma", [1.0, 6.0])
@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("name", NETWORKS)
def test_invariant_and_equivariant(networks, name, direction, sigma):
    graph = networks[name][2]
    element = graph.symmetry.sample(1, kinds=sorted({f.kind for f in graph.symmetry.factors} & {"permutation", "scale", "sign"}), sigma=sigma)
    assert not element.is_identity() and element.tables
    moved = graph.with_values(element.act(graph.values))
    made = net(graphs=[graph], direction=direction)
    assert deviation(made([moved]), made([graph])) < 1e-10
    other = graph.with_values({n: v * (1 + 0.3 * torch.rand_like(v)) if v.is_floating_point() else v for n, v in graph.values.items()})
    assert deviation(made([other]), made([graph])) > 1e-6
    editing = net("edge", graphs=[graph], direction=direction)
    assert equivariance_error(editing, graph, element) < 1e-10
    assert all(found.detach().abs().max() > 0 for found in editing([moved])[0].values())
    # Permutations alone, as of a GMN, are not enough where anything is multiplied.
    plain = GMN(8, 1, backend="torch", head="edge").double()
    assert equivariance_error(plain, graph, element) > 1e-6


class Rows:
    """An engine of edges that have a source and a target each, in the same row."""

    def combine(self, block, source=None, target=None, edge=None, op="add", overwrite=False):
        seen = [term for term in (source, target, edge) if term is not None]
        return math.prod(seen) if op == "mul" else sum(seen)


@pytest.mark.parametrize("end", ["source", "target"])
@pytest.mark.parametrize("transport", ["direct", "inverse"])
def test_messages_are_multiplied_as_their_receivers_are(transport, end):
    """Along edges and against them; edges that transport by the inverse are too rare for a network here to have one."""
    message, both = ScaledMessage(8).double(), Domain(magnitude=True, sign=True)
    job = SimpleNamespace(kind=EdgeKind(transport, both, both, both))
    states, invariants, edge, source, target = torch.randn(5, 30, 8, dtype=torch.float64)
    source, target = ((6 * q[:, :1]).exp() * q[:, 1:2].sign() for q in (source, target))

    def sent(states, edge):
        ends = message.at_nodes(states, invariants, backward=end == "source")
        return message.hidden(job, message.edge_tensors(), Rows(), None, ends, edge, end)

    sender, receiver = (source, target) if end == "target" else (target, source)
    ratio = target / source if transport == "direct" else source / target
    found, expected = sent(sender * states, ratio * edge), receiver * sent(states, edge)
    assert torch.allclose(found / receiver, expected / receiver, rtol=1e-9, atol=1e-12)


def test_messages_are_bounded():
    """Those against the edges by a node's state and what came along them, where magnitudes multiply it; all of them, where none do."""
    states, forward, backward = torch.randn(3, 6, 8, dtype=torch.float64) * torch.tensor([1.0, 1.0, 1e6]).view(3, 1, 1)
    magnitude = torch.tensor([True, False]).repeat(3)[:, None]
    along, against = bounded(states, [forward, backward], magnitude)
    assert torch.equal(along[::2], forward[::2])
    assert torch.allclose(length(against[::2]), (length(states) + length(forward))[::2])
    assert all(bool((length(message[1::2]) <= 8**0.5).all()) for message in (along, against))
    scales = torch.where(magnitude, torch.randn(6, 1, dtype=torch.float64).exp(), 1.0)
    scaled = bounded(scales * states, [scales * forward, scales * backward], magnitude)
    assert all(torch.allclose(found, scales * message) for found, message in zip(scaled, (along, against), strict=True))


def test_sums_of_messages_do_not_grow_with_their_number():
    """Of those that carry states a root is divided out, as they point anywhere; of those that are read through invariants the mean is taken."""
    torch.manual_seed(0)
    sums, degrees = torch.randn(2, 8), torch.tensor([4, 9])
    for message, grown in ((ScaledMessage(8), degrees.sqrt()), (InvariantMessage(8), degrees)):
        assert torch.allclose(message.finish(sums * grown[:, None], degrees), message.finish(sums, torch.tensor([1, 0])), atol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("head", ["graph", "node", "edge"])
def test_all_ways_to_compute_agree(networks, head, direction):
    graphs = [networks[name][2] for name in ("SIREN", "flattened CNN", "LSTM", "residual block")]
    expected = net(head, graphs=graphs, direction=direction, recompute=False)(graphs)
    ways = [{"recompute": True}, {"pack_edges": 0}, {"pack_edges": 0, "keep_edges": 0, "tile_edges": 37}, {"keep_edges": 0, "tile_edges": 50}]
    ways += [{"recompute": True, "tile_edges": 37, "pack_edges": 60}, {"recompute": None}]
    for backend in BACKENDS:
        for way in ways if backend == "torch" else ways[:1]:
            found = net(head, backend, graphs=graphs, direction=direction, **way)(graphs)
            assert deviation(tensors(found), tensors(expected)) < 1e-10, (backend, way)


def test_gradients_agree_streamed_and_kept(networks):
    graphs = [networks[name][2] for name in ("SIREN", "small CNN")]
    found = []
    small = {"tile_edges": 50, "pack_edges": 30}
    for way in ({"recompute": False}, {"recompute": True}, {"keep_edges": 0, **small}, {"recompute": True, **small}):
        made = net(graphs=graphs, direction="both", **way)
        made(graphs).square().sum().backward()
        found.append([p.grad if p.grad is not None else torch.zeros_like(p) for p in made.parameters()])
    assert all(deviation(other, found[0]) < 1e-10 for other in found[1:])


@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("head", ["graph", "node", "edge"])
def test_nothing_is_computed_that_the_head_does_not_read(networks, head, direction):
    """As distributed training asks: every parameter has a gradient."""
    graphs = [networks[name][2] for name in ("SIREN", "residual block", "transformer layer")]
    made = net(head, graphs=graphs, direction=direction)
    sum((found**2).sum() for found in tensors(made(graphs))).backward()
    assert [name for name, p in made.named_parameters() if p.grad is None] == []


def test_domains_are_the_annotations(networks):
    for name in NETWORKS:
        graph = networks[name][2]
        nodes = rewired(graph).node_sets
        for node_set in graph.node_sets:
            known = graph.domain(node_set)
            wanted = Domain(known.magnitude != "none", known.sign != "none")
            copies = [n.domain for key, n in nodes.items() if key == node_set or key.startswith(node_set + "@")]
            if not wanted.trivial:
                assert wanted in copies, (name, node_set, copies)


def test_every_parameter_but_few_transports(networks):
    """What is read through invariants alone: variances, and values that no scale acts on."""
    for name in NETWORKS:
        for edges in rewired(networks[name][2]).edge_sets.values():
            if edges.parameter is not None and edges.kind.transport == "none":
                assert edges.kind.edge.trivial, (name, edges.name)


class Quotient(nn.Module):
    """Hidden units are divided by a parameter: it, and what reads the quotients, is multiplied by something else than its ends."""

    def __init__(self):
        super().__init__()
        self.a, self.c, self.p = nn.Linear(3, 4), nn.Linear(4, 2), nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x):
        return self.c(torch.relu(self.a(x)) / self.p)


def test_what_does_not_transport_is_read_through_invariants():
    graph = pg.compile(Quotient().double(), torch.randn(5, 3, dtype=torch.float64))
    kinds = [edges.kind for edges in rewired(graph).edge_sets.values() if edges.kind.transport == "none"]
    assert any(kind.edge == Domain(magnitude=True, sign=True) for kind in kinds)
    element = graph.symmetry.sample(1, sigma=6.0)
    moved = graph.with_values(element.act(graph.values))
    made = net(graphs=[graph], direction="both")
    assert deviation(made([moved]), made([graph])) < 1e-10
    assert equivariance_error(net("edge", graphs=[graph], direction="both"), graph, element) < 1e-10


def test_rewiring_keeps_every_parameter_once(networks):
    for name in NETWORKS:
        graph = networks[name][2]
        made = rewired(graph)
        for edges in graph.edge_sets.values():
            if edges.parameter is not None:
                assert torch.equal(made.edge_values(made.edge_sets[edges.name]).reshape(-1), graph.edge_values(edges).reshape(-1))
        assert sum(e.parameter is not None for e in made.edge_sets.values()) == sum(e.parameter is not None for e in graph.edge_sets.values())


def test_graphs_that_look_alike_with_other_groups_are_told_apart():
    """hardtanh(−1, 1) is odd, hardtanh(−1, 2) is not; both are called alike in the graph."""
    torch.manual_seed(0)
    graphs = []
    for top in (1.0, 2.0):
        model = nn.Sequential(nn.Linear(2, 4), nn.Hardtanh(-1, top), nn.Linear(4, 2)).double()
        graphs.append(pg.compile(model, torch.randn(3, 2, dtype=torch.float64)))
    made = net(graphs=graphs)
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    for graph, invariant in zip(graphs, (True, False), strict=True):
        values = {"0.weight": graph.values["0.weight"] * signs[:, None], "0.bias": graph.values["0.bias"] * signs}
        flipped = graph.with_values({**graph.values, **values, "2.weight": graph.values["2.weight"] * signs})
        assert (deviation(made([flipped]), made([graph])) < 1e-10) == invariant


@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("name", ["SIREN", "small CNN"])
def test_signals_neither_vanish_nor_grow(networks, name, direction):
    """Root mean squares of the states of nodes that something multiplies, after each of ten layers as they are made."""
    graph = networks[name][2]
    torch.manual_seed(0)
    made = ScaleGMN(64, 10, backend="torch", direction=direction, recompute=False).double()
    sizes = []

    def record(layer, inputs, output):
        (states, _), (*_, magnitude, sign) = output, inputs
        multiplied = at_rest(torch.ones_like(states), magnitude, sign) == 0
        sizes.append(float(states[multiplied].square().mean().sqrt()))

    for layer in made.layers:
        layer.register_forward_hook(record)
    with torch.no_grad():
        made([graph])
    assert len(sizes) == 10 and 0 < max(sizes) < 10 * min(sizes)


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_zeros_are_finite(networks, direction):
    graph = networks["small CNN"][2]
    values = {n: v.clone().float() for n, v in graph.values.items()}
    values["2.weight"][0], values["0.weight"][1] = 0, 0
    values["0.bias"][:], values["2.weight"][1] = 0, 1e-42
    zeros = {n: torch.zeros_like(v) for n, v in values.items()}
    torch.manual_seed(0)
    made = ScaleGMN(8, 3, backend="torch", direction=direction)
    batch = [graph.with_values(values), graph.with_values(zeros)]
    made(batch)
    optimiser = torch.optim.Adam(made.parameters(), 1e-2)
    losses = []
    for _ in range(10):
        score = made(batch)
        loss = (score - torch.tensor([[1.0], [-1.0]])).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert torch.isfinite(score).all()
        assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("head", ["graph", "edge"])
@pytest.mark.parametrize("size", [1e-28, 1e-35])
def test_neurons_that_decayed_are_finite(networks, size, head):
    """Weight decay takes what a dead neuron reads and what reads it close to zero, not to zero; both ways, one over them is seen."""
    _, _, graph = networks["flattened CNN"]
    values = {n: v.float().clone() for n, v in graph.values.items()}
    first, second = values["0.weight"], values["2.weight"]
    first[1] *= size
    values["0.bias"][1] *= size
    second[:, 1] *= size
    for value in values.values():
        value.requires_grad_()
    torch.manual_seed(0)
    made = ScaleGMN(8, 3, backend="torch", direction="both", head=head)
    found = made([graph.with_values(values)])
    found = found if head == "graph" else torch.cat([v.reshape(-1) for v in found[0].values()])
    found.square().sum().backward()
    assert torch.isfinite(found).all()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)
    assert all(torch.isfinite(v.grad).all() for v in values.values())


@pytest.mark.parametrize("mode", ["residual", "mask", "both"])
def test_editing_commutes_with_the_group(networks, mode):
    model, x, graph = networks["flattened CNN"]
    torch.manual_seed(0)
    made = Editor(ScaleGMN(8, 2, backend="torch", head="edge", out=2 if mode == "both" else 1, direction="both").double(), mode, scale=0.1)
    assert all(torch.equal(v, graph.values[n]) for n, v in made.double()([graph])[0].values.items())
    for parameter in made.metanet.head.parameters():
        nn.init.normal_(parameter)
    element = graph.symmetry.sample(1, sigma=0.5)
    edited = made([graph])[0]
    expected = element.act({n: v.detach() for n, v in edited.values.items()})
    found = made([graph.with_values(element.act(graph.values))])[0]
    assert deviation(dict(found.values), expected) < 1e-10
    assert deviation(run(model, found, x), run(model, edited, x)) < 1e-8
    assert deviation(run(model, edited, x), run(model, graph, x)) > 1e-4


def test_stacks_mixtures_and_copies(networks):
    graphs = [compiled("SIREN", seed)[2] for seed in range(3)]
    other = networks["LSTM"][2]
    made = net(graphs=[*graphs, other])
    alone = torch.cat([made([g]) for g in (other, *graphs)])
    assert deviation(made([other, Stack.of(graphs[0], [g.values for g in graphs])]), alone) < 1e-10
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(twin([other, *graphs]), made([other, *graphs]))


def test_permutations_alone_do_not_make_it_so(networks):
    """GMN is not invariant under signs: the check can fail."""
    graph = networks["SIREN"][2]
    moved = graph.with_values(graph.symmetry.sample(1).act(graph.values))
    torch.manual_seed(0)
    gmn = GMN(8, 2, backend="torch").double()
    assert deviation(gmn([moved]), gmn([graph])) > 1e-6


def test_it_learns():
    graphs = [compiled("SIREN", seed)[2] for seed in range(16)]
    labels = torch.stack([g.values["b.weight"].abs().mean() for g in graphs])[:, None] * 20
    labels = (labels - labels.mean()) / labels.std()
    torch.manual_seed(0)
    made = ScaleGMN(16, 2, backend="torch", direction="both").double()
    stack = Stack.of(graphs[0], [g.values for g in graphs])
    made(stack)
    optimiser = torch.optim.Adam(made.parameters(), 5e-3)
    losses = []
    for _ in range(80):
        loss = (made(stack) - labels).square().mean()
        losses.append(loss.item())
        if losses[-1] < 0.2 * losses[0]:
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pytest.fail(f"the loss went from {losses[0]:.3g} to {losses[-1]:.3g}")
