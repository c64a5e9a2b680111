"""Baselines: what they are invariant to, what they refuse, and that they learn."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.errors import MetanetError
from paramgraph.metanets import Stack
from paramgraph.metanets.baselines import DMC, DWS, NFN, NGGNN, DeepSets, FlatMLP, Inr2Vec, StatNN
from paramgraph.metanets.baselines.chain import EquivariantLinear, chain_of
from paramgraph.metanets.baselines.inputs import Parameters
from paramgraph.metanets.baselines.vectors import QUANTILES, statistics

from .handmade import everything, mlp
from .test_gmn import deviation

WIDTHS = (3, 5, 4, 2)


@cache
def chain(seed=0, dtype=torch.float64):
    """A compiled chain: `mlp` names its tensors by layer, weights first."""
    torch.manual_seed(seed)
    layers = [layer for a, b in zip(WIDTHS, WIDTHS[1:], strict=False) for layer in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers[:-1]).to(dtype)
    return pg.compile(model, torch.randn(2, 3, dtype=dtype))


ANY = {
    "DeepSets": lambda g: DeepSets(8, 2),
    "DMC": lambda g: DMC(2, 8, blocks=2),
    "NG-GNN": lambda g: NGGNN(8, 2, 2),
}
ONE = {
    "flat MLP": lambda g: FlatMLP(g, 2, 8),
    "StatNN": lambda g: StatNN(g, 2, 8),
    "NFN NP": lambda g: NFN(g, 2, 8, ends="NP"),
    "NFN HNP": lambda g: NFN(g, 2, 8, ends="HNP"),
    "DWS": lambda g: DWS(g, 2, 8, 2),
    "Inr2Vec": lambda g: Inr2Vec(g, 2, 8, places=3, values=2),
}
INVARIANT = {"DeepSets", "NG-GNN", "StatNN", "NFN NP", "NFN HNP", "DWS"}
ALL = {**ANY, **ONE}


def make(name, graph):
    torch.manual_seed(1)
    net = ALL[name](graph).double().eval()
    net([graph])
    return net


@pytest.mark.parametrize("name", ALL)
def test_permutations(name):
    graph = chain()
    element = graph.symmetry.sample(3, kinds=["permutation"])
    assert not element.is_identity()
    moved = graph.with_values(element.act(graph.values))
    net = make(name, graph)
    error = deviation(net([moved]), net([graph]))
    assert error < 1e-10 if name in INVARIANT else error > 1e-8


@pytest.mark.parametrize("name", ALL)
def test_values_count_and_batches_are_their_networks(name):
    graphs = [chain(s) for s in range(3)]
    net = make(name, graphs[0])
    alone = torch.cat([net([g]) for g in graphs])
    assert deviation(net(graphs), alone) < 1e-10
    assert deviation(net([graphs[2], Stack.of(graphs[0], [g.values for g in graphs[:2]])]), alone[[2, 0, 1]]) < 1e-10
    assert deviation(alone[0], alone[1]) > 1e-6


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_every_trained_parameter(name):
    graphs = [chain(s) for s in range(4)]
    net = make(name, graphs[0]).train()
    net(graphs).square().sum().backward()
    unread = {n for n, p in net.named_parameters() if p.requires_grad and p.grad is None}
    if name == "Inr2Vec":
        assert unread and all(n.split(".")[0] in ("encoder", "norms", "decoder") for n in unread)
        net.reconstruct(graphs, torch.rand(5, 3, dtype=torch.float64)).square().sum().backward()
        unread = {n for n, p in net.named_parameters() if p.requires_grad and p.grad is None}
    if name == "DeepSets":  # it reads no nodes and no structural edges
        unread -= {"embeddings.node_type", "embeddings.activation", "encoder.structural"}
    assert not unread


@pytest.mark.parametrize("name", ANY)
def test_mixed_architectures(name):
    torch.manual_seed(0)
    graphs = [mlp(0), everything(1), mlp(2)]
    net = ANY[name](None).eval()
    net(graphs)
    assert deviation(net(graphs), torch.cat([net([g]) for g in graphs])) < 1e-5


@pytest.mark.parametrize("name", ONE)
def test_other_layouts_are_refused(name):
    net = make(name, chain())
    with pytest.raises(MetanetError, match="graph 'mlp'.*one layout only"):
        net([mlp(dtype=torch.float64)])


def test_what_is_no_chain_is_refused():
    with pytest.raises(MetanetError, match="chain of linear or convolutional layers; 'grouped'"):
        NFN(everything(), 1)


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_equivariant_layers_move_with_the_neurons(ends, pooling):
    graph = chain()
    tensors = chain_of(graph, ends)
    torch.manual_seed(0)
    layer = EquivariantLinear(tensors, [t.channels for t in tensors], 3, pooling).double()
    orders = {space: torch.randperm(size) for space, size in enumerate(WIDTHS)}

    def moved(values):
        out = []
        for tensor, value in zip(tensors, values, strict=True):
            for number, space in enumerate(tensor.spaces):
                value = value.index_select(2 + number, orders[space])
            out.append(value)
        return out

    values = [t.read(graph.values[t.name][None]) for t in tensors]
    assert deviation(layer(moved(values)), moved(layer(values))) < 1e-10


def test_equivariant_layers_have_as_many_maps_as_there_are():
    """Two hidden spaces: maps between W1 and itself keep the pair, either axis, or none: bases by orbits of pairs of elements."""
    tensors = chain_of(chain(), permute_ends=False)
    layer = EquivariantLinear(tensors, [1] * len(tensors), 1, "mean")
    spaces = {t.name: set(t.spaces) for t in tensors}
    expected = sum(2 ** len(spaces[a.name] & spaces[b.name]) for a in tensors for b in tensors)
    assert len(layer.kept) + len(tensors) ** 2 == expected


def test_nan_is_refused():
    graph = chain()
    values = {n: torch.full_like(v, float("nan")) for n, v in graph.values.items()}
    for name in ONE:
        with pytest.raises(MetanetError, match="NaN"):
            make(name, graph)([graph.with_values(values)])


def test_what_is_not_finite_is_named():
    """The network, not the first of its structure; and the edge set that reads it."""
    graph = chain()
    values = {n: v.clone() for n, v in graph.values.items()}
    values["2.weight"][1, 1] = float("inf")
    bad = replace(graph.with_values(values), name="bad")
    for name in ONE:
        net = make(name, graph)
        with pytest.raises(MetanetError, match="graph 'bad', edge set '2.weight'"):
            net([graph, bad])
        with pytest.raises(MetanetError, match=r"\(number 1 of a stack\), edge set '2.weight'"):
            net(Stack.of(graph, [graph.values, bad.values]))


@pytest.mark.parametrize("name", ONE)
def test_nothing_is_computed_before_all_networks_are_looked_at(name):
    net = make(name, chain()).train()
    before = {n: v.clone() for n, v in net.state_dict().items()}
    with pytest.raises(MetanetError, match="one layout only"):
        net([chain(0), chain(1), mlp(dtype=torch.float64)])
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())
    integers = {n: v.long() for n, v in chain().values.items()}
    with pytest.raises(MetanetError, match="torch.int64, expected numbers of floating point"):
        net([chain().with_values(integers)])


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_a_stacks_tensors_does_not_matter(name):
    graph = chain()
    net = make(name, graph)
    stack = Stack.of(graph, [chain(s).values for s in range(2)])
    turned = Stack(graph, dict(reversed(stack.values.items())))
    assert torch.equal(net(turned), net(stack))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_quantiles(dtype):
    flat = torch.randn(2, 11).to(dtype)
    found = statistics(Parameters("networks", {"a": flat, "b": flat[:, :1], "c": flat[:, :0]}))
    assert found.shape == (2, 21)
    assert deviation(found[:, 2:7].double(), flat.double().quantile(torch.tensor(QUANTILES, dtype=torch.float64), dim=1).T) < 1e-3
    assert torch.equal(found[:, 9:14], flat[:, :1].expand(2, 5)) and not found[:, 14:].any()


def test_statistics_of_large_tensors():
    assert torch.isfinite(statistics(Parameters("networks", {"a": torch.randn(1, 2**24 + 1)}))).all()


@pytest.mark.parametrize("name", ALL)
def test_it_learns(name):
    graphs = [chain(s, torch.float32) for s in range(24)]
    labels = torch.stack([g.values["0.weight"].mean() for g in graphs])[:, None].repeat(1, 2) * 8
    torch.manual_seed(0)
    stack = Stack.of(graphs[0], [g.values for g in graphs])
    net = ALL[name](graphs[0])
    net(stack)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(120):
        loss = (net(stack) - labels).square().mean()
        losses.append(loss.item())
        if losses[-1] < 0.5 * losses[0]:
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pytest.fail(f"the loss went from {losses[0]:.3g} to {losses[-1]:.3g}")
